"""Training the two-label classifier: the same documents, epochs and rate, held against official fastText's AUC."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sklearn.metrics import roc_auc_score

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.classifier import TrainingConfig, train_classifier
from demo.documents import CAPTIONS, ENCYCLOPEDIA

AUC = 0.005
FLIPPED = 0.1
HELD_OUT = 0.1


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    table = documents.repeated(corpus, megabytes=setup.pick(1, 8))
    labels = _labels(corpus).take(pa.array(np.arange(table.num_rows) % corpus.num_rows)).to_pylist()
    held = np.array([_fraction("held", id_.split("#")[0]) < HELD_OUT for id_ in table["doc_id"].to_pylist()])
    training = table.filter(pa.array(~held)).append_column("label", pa.array(np.array(labels)[~held], pa.int8()))
    test, truth = table.filter(pa.array(held))["text"].to_pylist(), np.array(labels)[held]
    config = TrainingConfig(
        dim=setup.pick(16, 128), epochs=5, learning_rate=0.1, buckets=setup.pick(20_000, 2_000_000)
    )
    lines = official.write_training(training, training["label"].to_pylist(), setup.scratch / "train.txt")
    models: dict[str, object] = {}

    def ours() -> None:
        with one_core():
            models["ours"] = train_classifier(training.select(["text", "label"]), config)[0]

    def peer() -> None:
        with one_core():
            models["peer"] = fasttext.train_supervised(
                str(lines), dim=config.dim, epoch=config.epochs, lr=config.learning_rate, minCount=config.min_count,
                wordNgrams=config.word_ngrams, bucket=config.buckets, thread=official.TRAINING_THREADS, verbose=0,
            )  # fmt: skip

    def aucs() -> tuple[float, float]:
        ours_: object = models["ours"]
        mine = roc_auc_score(truth, ours_.score(pa.array(test)))  # type: ignore[attr-defined]
        return float(mine), float(roc_auc_score(truth, official.probabilities(models["peer"], test)))

    def check() -> str:
        ours()
        peer()
        mine, theirs = aucs()
        require(mine >= theirs - AUC, f"AUC {mine:.4f} against {theirs:.4f} of official fastText")
        return f"AUC on {len(test):,} held-out documents: {mine:.4f}, official {theirs:.4f}"

    def targets(measured: Measured) -> list[Target]:
        return [Target("training, AUC within 0.005", measured.x_peer("ours"), "x official", at_least=5)]

    size = documents.megabytes(training) * config.epochs
    return Question(
        "How long does the classifier train?",
        f"{training.num_rows:,} of the demo's documents, {size / config.epochs:.1f} MB, {config.epochs} epochs, dim "
        f"{config.dim}, {config.buckets:,} buckets, one core each",
        [Case("ours", "ours", ours, "MB", size), Case("official fastText", "peer", peer, "MB", size)],
        check,
        targets,
        note=f"The label is whether a document is one of some domains; a tenth of the labels ({FLIPPED:g}) is turned "
        "round, so that the AUC isn't near 1. Official fastText gets its ten threads, without which it leaves most of "
        "its start to chance, on one core.",
        packages=("fasttext-numpy2", "numba", "scikit-learn"),
        repeats=7,
        warm_up=0,
    )


@contextmanager
def one_core() -> Iterator[None]:
    """This process and the threads that it starts on one core, where the system can be asked for it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _labels(corpus: pa.Table) -> pa.Array:
    """Machine learning and scientific computing against the rest; at the small scale encyclopedia."""
    domains = set(pc.unique(corpus["domain"]).to_pylist())
    positive = {"machine learning", "scientific computing"} & domains or {ENCYCLOPEDIA}
    assert positive < domains, f"no other domain than {positive}, {CAPTIONS}"
    flipped = [_fraction("label", id_) < FLIPPED for id_ in corpus["doc_id"].to_pylist()]
    return pa.array(
        [(d in positive) != turned for d, turned in zip(corpus["domain"].to_pylist(), flipped, strict=True)]
    ).cast(pa.int8())


def _fraction(*parts: str) -> float:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:4], "big") / 2**32
