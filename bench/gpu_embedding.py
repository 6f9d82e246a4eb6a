"""Embedding on a GPU, without Spark: texts -> vectors, beside sentence-transformers and the bare model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from bench import gpu, models
from bench.harness import Case, Measured, Question, Setup, Target, require
from curation import embedding

MAX_TOKENS = 256
# MiniLM-L6's sizes: what the demo embeds with; and those of the paper's encoder.
SIZES = {
    "MiniLM-L6": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "arctic-embed-l": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    },
    "tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
}  # fmt: skip


def build(setup: Setup) -> Question:
    where = gpu.device(setup)
    models.quiet()
    texts = gpu.texts(setup.pick(64, 20_000))
    cases: list[Case] = []
    checks = []
    for size in setup.pick(("tiny",), ("MiniLM-L6", "arctic-embed-l")):
        sizes = {**SIZES[size], "max_position_embeddings": 512}
        folder = models.encoder(setup.scratch / size, texts[:2000], **sizes)
        few = texts if size != "arctic-embed-l" else texts[: len(texts) // 4]
        made, check = _cases(size, str(folder), few, where)
        cases += made
        checks.append(check)

    def targets(measured: Measured) -> list[Target]:
        found = []
        for case in measured.cases.values():
            if case.role == "ours":
                name = f"embedding on GPU, {case.name}"
                found.append(Target(name, measured.x_peer(case.name), "x official", at_least=2))
                found.append(Target(name, measured.of_limit(case.name), "of the bare model", at_least=0.9))
        return found

    return Question(
        "How fast does a GPU embed?",
        f"{len(texts):,} docstrings, at most {MAX_TOKENS} tokens; models with random weights of these sizes; {where}",
        cases,
        lambda: "; ".join(check() for check in checks),
        targets,
        note="The peer is SentenceTransformer.encode as it comes: float32, batches of 32. The limit is the model alone "
        "in our precision on batches of tokens that lie on the device.",
        packages=("torch", "transformers", "sentence-transformers"),
        repeats=5,
    )  # fmt: skip


def _cases(size: str, folder: str, texts: list[str], where: str) -> tuple[list[Case], Any]:
    encoder = embedding.resolve_encoder(embedding.EncoderConfig(folder, max_tokens=MAX_TOKENS))
    # The cache of loaded models holds one: each is asked for once.
    ours: Any = embedding._load.__wrapped__(encoder, where)
    official = SentenceTransformer(folder, device=where, local_files_only=True)
    official.max_seq_length = MAX_TOKENS
    batches = _batches(ours, texts, where)

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                ours._model(dict(batch))["sentence_embedding"]

    def peer() -> Any:
        return official.encode(texts, normalize_embeddings=True, show_progress_bar=False)

    def check() -> str:
        few = texts[:500]
        theirs = official.encode(few, normalize_embeddings=True, show_progress_bar=False)
        least = float((ours.encode(few, "document") * np.asarray(theirs)).sum(axis=1).min())
        require(least >= 0.999, f"{size}: the least cosine to sentence-transformers is {least:.5f}")
        return f"{size}: cosine at least {least:.5f}"

    count = len(texts)
    names = (f"{size}", f"{size}, official", f"{size}, model alone")
    encode = gpu.finished(where, lambda: ours.encode(texts, "document"))
    return [
        Case(names[0], "ours", encode, "documents", count, peer=names[1], limit=names[2]),
        Case(names[1], "peer", gpu.finished(where, peer), "documents", count, peer=names[1], limit=names[2]),
        Case(names[2], "limit", gpu.finished(where, bare), "documents", count, peer=names[1], limit=names[2]),
    ], check


def _batches(ours: Any, texts: list[str], where: str) -> list[dict[str, Any]]:
    """The texts' tokens in full batches, sorted by length, padded to the longest, on the device."""
    rows = sorted(ours._tokens(texts), key=lambda row: len(row["input_ids"]), reverse=True)
    batches, start = [], 0
    while start < len(rows):
        longest = len(rows[start]["input_ids"])
        size = ours._batch_size(longest)
        batch = ours._padded(rows[start : start + size], longest)
        batches.append({name: torch.from_numpy(matrix).to(where) for name, matrix in batch.items()})
        start += size
    return batches
