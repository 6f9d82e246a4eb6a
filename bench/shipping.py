"""What an executor needs before it scores: the classifier's bytes, and the seconds until the first score."""

from __future__ import annotations

import fasttext
import numpy as np
import pyarrow as pa

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.classifier import FoldedClassifier, import_fasttext


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    path = official.model_file(setup, corpus, dim=128)
    payload = import_fasttext(path, official.POSITIVE).to_bytes()
    one = corpus["text"][0].as_py()

    def load_ours() -> float:
        return float(FoldedClassifier.from_bytes(payload).score(pa.array([one]))[0])

    def load_official() -> float:
        return official.probabilities(fasttext.load_model(str(path)), [one])[0]

    def check() -> str:
        a, b = load_ours(), load_official()
        require(bool(np.isclose(a, b, atol=1e-6)), f"the first score is {a} and {b}")
        return "the first document's score"

    def targets(measured: Measured) -> list[Target]:
        return [
            Target("classifier shipped to executors", len(payload) / 1e6, "MB", at_most=25),
            Target("classifier loaded, first score", measured.median("folded"), "s", at_most=0.1),
        ]

    return Question(
        "What does an executor wait for before its first score?",
        f"a model of dim 128 with {setup.pick(20_000, 2_000_000):,} buckets",
        [
            Case("folded", "ours", load_ours, "loads", 1, extra=lambda: {"bytes": len(payload)}),
            Case(
                "official .bin", "peer", load_official, "loads", 1,
                extra=lambda: {"bytes": path.stat().st_size},
            ),
        ],
        check,
        targets,
        note="Loading ends with one score. The official model lies in the cache of the file system.",
        packages=("fasttext-numpy2", "numba", "safetensors"),
        warm_up=0,
    )  # fmt: skip
