"""What each stage costs beside its peer and its limit: one file a question, `python -m bench NAME`, `make bench`."""
