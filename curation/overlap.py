"""What texts share: runs of words (n-grams) as 64-bit hashes, looked up in a sorted index, never pair by pair.

Words are runs of letters and digits after NFKC and case folding; each character of a script without spaces is a word.
A text shorter than n words has one n-gram: all its words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from curation.errors import InputError
from curation.hashing import mix

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MEASURES = ("containment", "jaccard")
COMMONEST = 10_000  # an n-gram in more texts of an index than this says nothing about any of them
_CELLS = 1 << 22  # of the table of shared n-grams that is counted at once
_ENTRIES = 1 << 23  # n-grams found that are counted at once

# Scripts that put no spaces between words: kana, Han, Thai, Lao, Khmer, Burmese. Hangul has spaces.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}_])\w)+")


def words(text: str) -> list[str]:
    """The text's words, in order, as they are compared."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """Texts that agree in it are exact copies: letter case, spaces and punctuation are nothing (if there are words)."""
    return " ".join(words(text)) or " ".join(text.split())


@dataclass(frozen=True)
class Words:
    """The words of many texts as hashes, one text after another: text i has hashes[offsets[i]:offsets[i + 1]]."""

    hashes: Hashes
    offsets: Indices

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        found = [words(text) for text in texts]
        offsets = np.concatenate([[0], np.cumsum([len(f) for f in found], dtype=np.int64)]).astype(np.int64)
        flat = np.array([word for f in found for word in f], dtype=object)
        codes, distinct = pd.factorize(flat)
        hashed = pd.util.hash_array(np.asarray(distinct, dtype=object), categorize=False)
        return cls(hashed.astype(np.uint64)[codes] if len(flat) else np.empty(0, np.uint64), offsets)

    @property
    def lengths(self) -> Indices:
        return np.diff(self.offsets)

    def ngrams(self, n: int, *, whole_if_shorter: bool = True) -> tuple[Hashes, Indices]:
        """Each n-gram's hash and its text's number, in the order of the texts; n is part of the hash."""
        count = len(self.hashes)
        text_of = np.repeat(np.arange(len(self.lengths)), self.lengths)
        hashed = np.zeros(max(0, count - n + 1), np.uint64)
        for place in range(n):
            hashed = mix(hashed ^ self.hashes[place : place + len(hashed)])
        inside = text_of[: len(hashed)] == text_of[n - 1 :] if count >= n else np.empty(0, bool)
        hashes, texts = mix(hashed[inside] ^ np.uint64(n)), text_of[: len(hashed)][inside]
        if not whole_if_shorter:
            return hashes, texts
        short = np.flatnonzero((self.lengths > 0) & (self.lengths < n))
        for length in np.unique(self.lengths[short]).tolist():
            of_length = short[self.lengths[short] == length]
            whole = np.zeros(len(of_length), np.uint64)
            for place in range(length):
                whole = mix(whole ^ self.hashes[self.offsets[of_length] + place])
            hashes, texts = np.concatenate([hashes, mix(whole ^ np.uint64(length))]), np.concatenate([texts, of_length])
        order = np.argsort(texts, kind="stable")
        return hashes[order], texts[order]


@dataclass(frozen=True)
class Grams:
    """The distinct n-grams of many texts: values[k] belongs to text owners[k], ascending by text, then by value."""

    values: Hashes
    owners: Indices
    texts: int

    @classmethod
    def of(cls, texts: Sequence[str] | Words, n: int) -> Grams:
        """By hash: two different n-grams are taken for one with probability 2**-64."""
        if n < 1:
            raise InputError(f"an n-gram has at least 1 word; got n = {n}")
        read = texts if isinstance(texts, Words) else Words.of(texts)
        hashes, owners = read.ngrams(n)
        order = np.lexsort((hashes, owners))
        hashes, owners = hashes[order], owners[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
        return cls(hashes[new], owners[new], len(read.lengths))

    @cached_property
    def sizes(self) -> Indices:
        return np.bincount(self.owners, minlength=self.texts).astype(np.int64)

    @cached_property
    def offsets(self) -> Indices:
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def take(self, rows: Indices) -> Grams:
        """The texts of these numbers, in this order."""
        counts = self.sizes[rows]
        places = _ranges(self.offsets[rows], counts)
        return Grams(self.values[places], np.repeat(np.arange(len(rows)), counts), len(rows))


@dataclass(frozen=True)
class Best:
    """For each row the number of the text that it shares most with (-1: none) and how much, in [0, 1]."""

    other: Indices
    share: Floats


def share_of(shared: Indices, one: Indices, other: Indices, measure: str) -> Floats:
    """Shared n-grams as a share: containment is of the smaller text, Jaccard of both together.

    Containment sees a text that is copied into a longer one, whichever of them came first; Jaccard does not.
    """
    if measure not in MEASURES:
        raise InputError(f"overlap: measure must be one of {', '.join(MEASURES)}; got {measure!r}")
    whole = np.minimum(one, other) if measure == "containment" else one + other - shared
    return np.divide(shared, whole, out=np.zeros(np.broadcast(shared, whole).shape), where=whole > 0)


class GramIndex:
    """Texts by their n-grams: grows by more texts, answers how many n-grams rows share with each."""

    def __init__(self) -> None:
        self.values: Hashes = np.empty(0, np.uint64)
        self.owners: Indices = np.empty(0, np.int64)
        self.sizes: Indices = np.empty(0, np.int64)

    def add(self, grams: Grams) -> None:
        """More texts, numbered on from those there are."""
        values = np.concatenate([self.values, grams.values])
        owners = np.concatenate([self.owners, grams.owners + len(self.sizes)])
        order = np.lexsort((owners, values))
        self.values, self.owners = values[order], owners[order]
        self.sizes = np.concatenate([self.sizes, grams.sizes])

    def shared(self, rows: Grams) -> npt.NDArray[np.int64]:
        """Shared distinct n-grams, shape (rows, texts of the index); meant for a block of rows at a time."""
        texts = len(self.sizes)
        left, right = (np.searchsorted(self.values, rows.values, side) for side in ("left", "right"))
        counts = np.where(right - left > COMMONEST, 0, right - left)
        table = np.zeros(rows.texts * texts, np.int64)
        ends = np.cumsum(counts)
        start = 0
        while start < len(counts):
            before = ends[start - 1] if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + _ENTRIES, "right")))
            part = slice(start, end)
            cells = np.repeat(rows.owners[part], counts[part]) * texts
            cells += self.owners[_ranges(left[part], counts[part])]
            table += np.bincount(cells, minlength=len(table))
            start = end
        return table.reshape(rows.texts, texts)

    def best(self, rows: Grams, *, measure: str = "containment") -> Best:
        """The text that each row shares most with; of equals the one added first."""
        other, share = np.full(rows.texts, -1, np.int64), np.zeros(rows.texts)
        if not len(self.sizes):
            return Best(other, share)
        block = max(1, _CELLS // len(self.sizes))
        for start in range(0, rows.texts, block):
            some = rows.take(np.arange(start, min(rows.texts, start + block)))
            shares = share_of(self.shared(some), some.sizes[:, None], self.sizes[None, :], measure)
            at = np.argmax(shares, axis=1)
            most = shares[np.arange(len(at)), at]
            part = slice(start, start + len(at))
            share[part], other[part] = most, np.where(most > 0, at, -1)
        return Best(other, share)


def nearest(rows: npt.ArrayLike, others: npt.ArrayLike) -> Best:
    """For each row of unit vectors the other with the highest cosine, of equals the first; blocks of matrix products.

    In float64 and rounded to nine digits, so that the size of the blocks decides nothing.
    """
    x, y = np.asarray(rows, np.float64), np.asarray(others, np.float64)
    best, cosine = np.full(len(x), -1, np.int64), np.zeros(len(x))
    if not len(y):
        return Best(best, cosine)
    block = max(1, _CELLS // len(y))
    for start in range(0, len(x), block):
        cosines = np.round(x[start : start + block] @ y.T, 9)
        at = np.argmax(cosines, axis=1)
        best[start : start + len(at)], cosine[start : start + len(at)] = at, cosines[np.arange(len(at)), at]
    return Best(best, cosine)


def _ranges(starts: Indices, counts: Indices) -> Indices:
    """The numbers starts[k], starts[k] + 1, ... counts[k] of them, one range after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts - starts, counts)
