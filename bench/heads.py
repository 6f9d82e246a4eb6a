"""A classifier a benchmark, all in one pass over the text: what ten heads cost beside one, on one core."""

from __future__ import annotations

import dataclasses

import numpy as np

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.classifier import FoldedClassifier, FoldedHeads, import_fasttext

HEADS = 10


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    one = import_fasttext(official.model_file(setup, corpus), official.POSITIVE)
    heads = [_another(one, seed) for seed in range(HEADS)]
    together = FoldedHeads(tuple(heads))
    table = documents.repeated(corpus, megabytes=setup.pick(1, 20))
    texts, size = table["text"].combine_chunks(), documents.megabytes(table)

    def apart() -> None:
        for head in heads:
            head.score(texts)

    def check() -> str:
        found = together.score(texts)
        for column, head in enumerate(heads):
            require(np.array_equal(found[:, column], head.score(texts)), f"head {column} scores otherwise than alone")
        return f"{found.size:,} scores of {HEADS} heads, each bit by bit what its classifier gives alone"

    def targets(measured: Measured) -> list[Target]:
        cost = measured.median("ten heads, one pass") / measured.median("one head")
        return [Target("ten heads in one pass", cost, "x one head", at_most=1.5)]

    return Question(
        "What do ten classifiers cost in one pass?",
        documents.told(table),
        [
            Case("ten heads, one pass", "ours", lambda: together.score(texts), "MB", size),
            Case("ten heads, ten passes", "peer", apart, "MB", size),
            Case("one head", "limit", lambda: one.score(texts), "MB", size),
        ],
        check,
        targets,
        note="Ten classifiers over 2,000,000 buckets each, with different vocabularies and weights.",
        packages=("numba", "numpy", "pyarrow"),
    )


def _another(classifier: FoldedClassifier, seed: int) -> FoldedClassifier:
    """The classifier with other weights, and a tenth of its words forgotten: no two benchmarks know the same ones."""
    draw = np.random.default_rng(seed)
    raw, ends = classifier.word_bytes.tobytes(), classifier.word_offsets
    kept = np.flatnonzero(draw.random(len(ends) - 1) < 0.9)
    words = [raw[ends[i] : ends[i + 1]] for i in kept]
    return dataclasses.replace(
        classifier,
        word_bytes=np.frombuffer(b"".join(words), np.uint8),
        word_offsets=np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64),
        word_weights=draw.normal(size=len(kept)).astype(np.float32),
        bucket_weights=draw.normal(size=len(classifier.bucket_weights)).astype(np.float32),
    )
