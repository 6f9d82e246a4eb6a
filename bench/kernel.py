"""The scoring kernel alone, on one core: text in memory -> scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.classifier import import_fasttext
from betr.features import text_pieces
from betr.kernel import available_kernels, text_margins

CALLED = {"avx2": "C, AVX2", "scalar": "C, portable", "numba": "numba"}


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    path = official.model_file(setup, corpus)
    ours, peer = import_fasttext(path, official.POSITIVE), official.load(str(path))
    table = documents.repeated(corpus, megabytes=setup.pick(1, 40))
    texts, size = table["text"].combine_chunks(), documents.megabytes(table)
    strings = texts.to_pylist()
    words = _whole_words(texts)

    kernels = available_kernels()

    def check() -> str:
        n = min(len(strings), 10_000)
        off = np.abs(ours.score(texts.slice(0, n)) - np.array(official.probabilities(peer, strings[:n])))
        require(float(off.max()) < 1e-6, f"the fold and official fastText differ by {off.max():.2g}")
        first = text_margins(ours._weights, texts, kernel=kernels[0])
        for other in kernels[1:]:
            same = np.array_equal(first, text_margins(ours._weights, texts, kernel=other))
            require(same, f"{CALLED[other]} and {CALLED[kernels[0]]} give other bits")
        return f"probabilities of {n:,} documents, at most {off.max():.1g} apart; our kernels agree bit by bit"

    def targets(measured: Measured) -> list[Target]:
        portable = "scalar" if "scalar" in kernels else "numba"
        wide = measured.x_peer(CALLED[kernels[0]]) if kernels[0] not in ("scalar", "numba") else None
        return [
            Target("kernel alone, a core, portable", measured.x_peer(CALLED[portable]), "x official", at_least=8),
            Target("kernel alone, a core, SIMD", wide, "x official", at_least=13),
        ]

    def scored_by(kernel: str) -> Case:
        return Case(CALLED[kernel], "ours", lambda: text_margins(ours._weights, texts, kernel=kernel), "MB", size)

    return Question(
        "How fast is the scoring kernel on one core?",
        documents.told(table),
        [
            *map(scored_by, kernels),
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
    (piece,) = text_pieces(texts)
    return piece.data[: piece.data.size // 8 * 8].view(np.uint64)
