"""The n-grams of held-out test sets, and where texts share them: compiled, one look a word, whatever the sets' size.

A test text of `longest` words or more is known by its n-grams of that length, a shorter one, from `shortest` words on,
by all its words: less can't be told from chance. Words are those of `overlap.words`, n-grams go by 64-bit hashes: two
different ones are taken for one with probability 2**-64.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.compiled import jit, mixed
from curation.errors import InputError
from curation.hashing import GOLDEN, mix
from curation.overlap import UNSPACED, WORD, Hashes, words
from curation.word_hashes import hashed_words

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

SHORTEST, LONGEST = 8, 13  # BETR's, as GPT-3's longest
_BASE = np.uint64(0x9E6C63D0876A9A47)  # odd: of the polynomial that a run of words is hashed by
_GOLDEN = np.uint64(GOLDEN)
_LEAST_BITS, _MOST_BITS = 16, 27  # of the filter: 8 KiB to 16 MiB


@dataclass(frozen=True)
class Hits:
    """Runs of words that texts share with a test set, by text, then by place, the shortest first.

    text: the text's number; word: the run's first word; length: in words; gram: the n-gram's number in the index;
    start, end: in characters of the text.
    """

    text: I64
    word: I64
    length: I64
    gram: I64
    start: I64
    end: I64


@dataclass(frozen=True)
class TestIndex:
    """The n-grams of a test set.

    lengths: those that occur, ascending; grams: their hashes, ascending; owners: the number of the first test text that
    holds each; slots, places: a hash table from a gram's hash to its number; bits: a filter of all beginnings of
    `shortest` words.
    """

    __test__ = False  # no test case, whatever pytest thinks of the name

    shortest: int
    lengths: I64
    grams: Hashes
    owners: I64
    slots: Hashes
    places: I64
    bits: U8

    @classmethod
    def of(cls, texts: Sequence[str], *, shortest: int = SHORTEST, longest: int = LONGEST) -> TestIndex:
        if not 1 <= shortest <= longest:
            raise InputError(f"test overlap: n-grams need 1 <= shortest <= longest; got {shortest} and {longest}")
        read = hashed_words(pa.array(texts, pa.large_string()))
        keys, owners, beginnings, lengths = [_nothing(np.uint64)], [_nothing(np.int64)], [_nothing(np.uint64)], []
        for n in range(shortest, longest + 1):
            chosen = np.flatnonzero(read.lengths >= n if n == longest else read.lengths == n)
            if not len(chosen):
                continue
            many = read.lengths[chosen] - n + 1
            at = np.repeat(read.offsets[chosen], many) + _count_up(many)
            keys.append(_keys(_polynomial(read.hashes, at, n), n))
            owners.append(np.repeat(chosen, many))
            beginnings.append(_polynomial(read.hashes, at, shortest))
            lengths.append(n)
        every, owned = np.concatenate(keys), np.concatenate(owners)
        order = np.lexsort((owned, every))  # of texts that hold the same n-gram the first
        every, owned = every[order], owned[order]
        first = np.ones(len(every), bool)
        first[1:] = every[1:] != every[:-1]
        grams = every[first]
        arrays = (np.array(lengths, np.int64), grams, owned[first], *_table(grams), _filter(np.concatenate(beginnings)))
        return cls(shortest, *_read_only(*arrays))

    def find(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> Hits:
        """Every run of words that the texts share with the test set; a null text has none."""
        column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string())
        read = hashed_words(column)
        hashes, offsets = _read_only(read.hashes, read.offsets)
        capacity = 1024
        while True:
            found = np.empty((4, capacity), np.int64)
            count = _find(
                hashes, offsets, self.shortest, self.lengths, self.slots, self.places, self.bits, found
            )  # fmt: skip
            if count <= capacity:
                break
            capacity = count
        text, word, length, gram = found[:, :count]
        # What a word's characters are takes Unicode's tables: of the few texts with a hit only.
        spans = {number: word_spans(column[number].as_py()) for number in np.unique(text).tolist()}
        ends = [
            (spans[number][first][0], spans[number][first + n - 1][1])
            for number, first, n in zip(text.tolist(), word.tolist(), length.tolist(), strict=True)
        ]
        start, end = np.array(ends, np.int64).reshape(count, 2).T
        return Hits(text, word, length, gram, start, end)

    def shared_run(self, texts: Sequence[str]) -> list[str | None]:
        """The first of the shortest runs of words that each text shares with the test set, None for none."""
        hits = self.find(texts)
        runs: list[str | None] = [None] * len(texts)
        order = np.lexsort((hits.word, hits.length, hits.text))
        for row in order[np.unique(hits.text[order], return_index=True)[1]].tolist():
            text, word = int(hits.text[row]), int(hits.word[row])
            runs[text] = " ".join(words(texts[text])[word : word + int(hits.length[row])])
        return runs


# -- places of words --------------------------------------------------------------------------------------------------

_SEGMENT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words(text)` stands, (start, end) in characters; beyond ASCII as the run without spaces around it.

    Words are made of the text as it is after NFKC, so that a character may give two words, or two characters one.
    """
    if text.isascii():
        return [(match.start(), match.end()) for match in WORD.finditer(text)]
    spans, found = [], []
    for segment in _SEGMENT.finditer(text):
        for word in words(segment[0]):
            spans.append((segment.start(), segment.end()))
            found.append(word)
    if found == words(text):
        return spans
    # Characters that combine across what looks like a border: count how many words the text's beginnings hold.
    places, every = range(len(text) + 1), len(words(text))
    starts = [bisect_right(places, k, key=lambda end: len(words(text[:end]))) - 1 for k in range(every)]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


# -- hashing ----------------------------------------------------------------------------------------------------------


def _polynomial(hashes: Hashes, at: I64, n: int) -> Hashes:
    """Of each run of n words that begins at these places: the sum of hash x base ** (n - 1 - k), modulo 2**64."""
    value = np.zeros(len(at), np.uint64)
    for k in range(n):
        value = value * _BASE + hashes[at + k]
    return value


def _keys(values: Hashes, n: int) -> Hashes:
    """A run's hash with its length in it; never 0, which marks an empty slot."""
    keys = mix(values ^ np.uint64(n * GOLDEN % 2**64))
    return np.where(keys == 0, np.uint64(1), keys)


def _count_up(counts: I64) -> I64:
    """0, 1, ... counts[k] - 1, one range after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


def _nothing(kind: type) -> npt.NDArray[Any]:
    return np.empty(0, kind)


def _table(grams: Hashes) -> tuple[Hashes, I64]:
    """An open hash table, at most half full: a gram's hash (0: empty) and its number."""
    size = 1 << max(4, int(2 * len(grams)).bit_length())
    slots, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    _fill(grams, slots, places)
    return slots, places


def _filter(beginnings: Hashes) -> U8:
    """A bit for the hash of each beginning, about one in sixteen set."""
    bits = min(_MOST_BITS, max(_LEAST_BITS, int(16 * len(beginnings)).bit_length()))
    flags = np.zeros(1 << bits, bool)
    flags[(beginnings * _GOLDEN) >> np.uint64(64 - bits)] = True
    return np.packbits(flags, bitorder="little")


def _read_only(*arrays: npt.NDArray[Any]) -> list[Any]:
    """As they are after their way to an executor: the kernel is compiled for one kind."""
    views = [array.view() for array in arrays]
    for view in views:
        view.flags.writeable = False
    return views


# -- kernels ----------------------------------------------------------------------------------------------------------


@jit()
def _fill(grams: Hashes, slots: Hashes, places: I64) -> None:
    last = np.uint64(len(slots) - 1)
    for number in range(len(grams)):
        slot = grams[number] & last
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = grams[number]
        places[slot] = number


@jit()
def _place(key: Any, slots: Hashes, places: I64) -> int:
    """A gram's number, -1 where the table doesn't hold it."""
    last = np.uint64(len(slots) - 1)
    slot = key & last
    while slots[slot] != 0:
        if slots[slot] == key:
            return int(places[slot])
        slot = (slot + np.uint64(1)) & last
    return -1


@jit()
def _find(
    hashes: Hashes, offsets: I64, shortest: int, lengths: I64, slots: Hashes, places: I64, bits: U8,
    found: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Hits of all texts into `found` (text, word, length, gram), as far as there is room; how many there are."""
    shift = np.uint64(62)
    size = len(bits)
    while size > 0:  # 8 x len(bits) is a power of two
        shift -= np.uint64(1)
        size >>= 1
    out_of = np.uint64(1)
    for _ in range(shortest - 1):
        out_of *= _BASE
    count = 0
    for text in range(len(offsets) - 1):
        first, behind = offsets[text], offsets[text + 1]
        if behind - first < shortest:
            continue
        rolling = np.uint64(0)
        for k in range(first, first + shortest - 1):
            rolling = rolling * _BASE + hashes[k]
        for at in range(first, behind - shortest + 1):
            rolling = rolling * _BASE + hashes[at + shortest - 1]
            bit = (rolling * _GOLDEN) >> shift
            if bits[bit >> np.uint64(3)] & (np.uint8(1) << np.uint8(bit & np.uint64(7))):
                value, n = rolling, shortest
                for length in lengths:
                    if at + length > behind:
                        break
                    while n < length:
                        value = value * _BASE + hashes[at + n]
                        n += 1
                    key = mixed(value ^ (np.uint64(length) * _GOLDEN))
                    number = _place(key if key != 0 else np.uint64(1), slots, places)
                    if number >= 0:
                        if count < found.shape[1]:
                            found[0, count], found[1, count] = text, at - first
                            found[2, count], found[3, count] = length, number
                        count += 1
            rolling -= hashes[at] * out_of
    return count
