"""Which implementation of the features runs: C where it was built, numba otherwise; both give the same bits.

BETR_KERNEL says otherwise: `auto` (as above), `native` (C, or an error), `numba`.
"""

import os
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from betr import features as ft
from betr.features import F32, F64, FeatureSpec, Vocabulary
from curation.errors import InputError

try:
    from betr import _kernel
except ImportError:  # installed where no compiler was
    _native: ModuleType | None = None
else:
    _native = _kernel

VARIABLE = "BETR_KERNEL"


class FeatureWeights(NamedTuple):
    """What the kernels read: the vocabulary's table and, side by side, what each head makes of a feature.

    `words` is float32 [words, width], `buckets` float32 [buckets, width]; `width` is `row_width(heads)`, the places
    beyond the heads hold nothing. With one head every word of the vocabulary is the head's; with several, -0.0 says
    that a head doesn't know a word.
    """

    features: FeatureSpec
    vocabulary: Vocabulary
    words: F32
    buckets: F32
    heads: int


def row_width(heads: int) -> int:
    """The length of a row of weights for so many heads: 1, 4, 8 or a multiple of 16, so that few cross cache lines."""
    return next((width for width in (1, 4, 8) if heads <= width), -(-heads // 16) * 16)


@lru_cache(maxsize=1)
def _chosen(asked: str) -> str:
    if asked not in ("auto", "native", "numba"):
        raise InputError(f"{VARIABLE} must be auto, native or numba; got {asked!r}")
    if asked == "native" and _native is None:
        raise InputError(
            f"{VARIABLE} asks for the native kernel, which was not built: install betr-bare again where a C compiler "
            f"is, or unset {VARIABLE}"
        )
    return "numba" if _native is None or asked == "numba" else str(_native.instruction_sets()[0])


def available_kernels() -> tuple[str, ...]:
    """All that can run on this machine, the fastest first: "avx2", "scalar" (both C), "numba"."""
    return (*(_native.instruction_sets() if _native is not None else ()), "numba")


def kernel_in_use() -> str:
    """Which implementation scores texts: "native (avx2)", "native (scalar)" or "numba"; InputError if BETR_KERNEL asks
    for what isn't there.
    """
    name = _chosen(os.environ.get(VARIABLE) or "auto")
    return name if name == "numba" else f"native ({name})"


def text_margins(weights: FeatureWeights, texts: pa.Array | pa.ChunkedArray, *, kernel: str | None = None) -> F64:
    """Log-odds of every text by every head; float64 [n, heads]. A null counts as an empty text.

    `kernel` is one of `available_kernels()`, the one in use if not given; they agree bit by bit.
    """
    name = kernel or _chosen(os.environ.get(VARIABLE) or "auto")
    margins = np.empty((len(texts), weights.heads))
    for piece in ft.text_pieces(texts):
        if isinstance(piece.rows, slice):
            _run(name, weights, piece, margins[piece.rows])
        else:
            part = np.empty((len(piece.starts), weights.heads))
            _run(name, weights, piece, part)
            margins[piece.rows] = part
    return margins


def _run(name: str, weights: FeatureWeights, piece: ft.TextPiece, margins: F64) -> None:
    spec, vocabulary = weights.features, weights.vocabulary
    prefix = ft.as_bytes(spec.label_prefix)
    if name == "numba":
        ft.score_kernel(
            piece.data,
            piece.starts,
            piece.stops,
            vocabulary,
            weights.words,
            weights.buckets,
            spec.word_ngrams,
            spec.lengths,
            spec.classes,
            prefix,
            ft.as_bytes(ft.EOS),
            margins,
        )
        return
    assert _native is not None
    words, (buckets, width) = len(weights.words), weights.buckets.shape
    texts = (piece.data, piece.starts, piece.stops)
    sizes = (words, buckets, width, spec.word_ngrams, spec.minn, spec.maxn)
    classes = spec.classes if spec.classes is not None else ft.as_bytes(b"")
    _native.score(name, *texts, *vocabulary, weights.words, weights.buckets, *sizes, classes, prefix, margins)
