"""The scoring kernel alone, on one core: text in memory -> scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.classifier import import_fasttext
from betr.features import text_buffers


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    path = official.model_file(setup, corpus)
    ours, peer = import_fasttext(path, official.POSITIVE), official.load(str(path))
    table = documents.repeated(corpus, megabytes=setup.pick(1, 40))
    texts, size = table["text"].combine_chunks(), documents.megabytes(table)
    strings = texts.to_pylist()
    words = _whole_words(texts)

    def check() -> str:
        n = min(len(strings), 10_000)
        off = np.abs(ours.score(texts.slice(0, n)) - np.array(official.probabilities(peer, strings[:n])))
        require(float(off.max()) < 1e-6, f"the fold and official fastText differ by {off.max():.2g}")
        return f"probabilities of {n:,} documents, at most {off.max():.1g} apart"

    def targets(measured: Measured) -> list[Target]:
        return [
            Target("kernel alone, a core, portable", measured.x_peer("folded"), "x official", at_least=8),
        ]

    return Question(
        "How fast is the scoring kernel on one core?",
        documents.told(table),
        [
            Case("folded", "ours", lambda: ours.score(texts), "MB", size),
            Case("official predict", "peer", lambda: official.predict(peer, strings), "MB", size),
            Case("memory read", "limit", lambda: int(words.sum()), "MB", size),
        ],
        check,
        targets,
        note="The peer is official fastText, dim 100, a call a document. The limit reads the text's bytes once, eight "
        "at a time.",
        packages=("fasttext-numpy2", "numba", "numpy", "pyarrow"),
    )


def _whole_words(texts: pa.Array) -> np.ndarray:
    data, _ = text_buffers(texts)
    return data[: data.size // 8 * 8].view(np.uint64)
