"""The ground that both methods stand on: session, tables, documents, sampling, embedding, progress."""
