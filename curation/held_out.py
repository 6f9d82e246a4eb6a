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
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.errors import InputError
from curation.hashing import GOLDEN, mix
from curation.kernels import I64, U8, bytes_of, jit, text_buffers
from curation.overlap import UNSPACED, folded, words

U64 = npt.NDArray[np.uint64]

SHORTEST, LONGEST = 8, 13  # BETR's, as GPT-3's longest
_BASE = np.uint64(0x9E6C63D0876A9A47)  # odd: of the polynomial that a run of words is hashed by
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(GOLDEN), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_LEAST_BITS, _MOST_BITS = 16, 27  # of the filter: 8 KiB to 16 MiB
_NO_WORD, _WORD, _CHARACTER = 0, 1, 2


@dataclass(frozen=True)
class Hits:
    """Runs of words that texts share with a test set, by text, then by place, the shortest first.

    text: the text's number; word: the run's first word; length: in words; gram: the n-gram's number in the index;
    start, end: in characters of the text, of which a run's last word is a part.
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
    grams: U64
    owners: I64
    slots: U64
    places: I64
    bits: U8

    @classmethod
    def of(cls, texts: Sequence[str], *, shortest: int = SHORTEST, longest: int = LONGEST) -> TestIndex:
        if not 1 <= shortest <= longest:
            raise InputError(f"test overlap: n-grams need 1 <= shortest <= longest; got {shortest} and {longest}")
        hashes, counts = _hashed_words(texts)
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        keys, owners, beginnings, lengths = [], [], [], []
        for n in range(shortest, longest + 1):
            chosen = np.flatnonzero(counts >= n if n == longest else counts == n)
            if not len(chosen):
                continue
            many = counts[chosen] - n + 1
            at = np.repeat(starts[chosen], many) + _count_up(many)
            keys.append(_keys(_polynomial(hashes, at, n), n))
            owners.append(np.repeat(chosen, many))
            beginnings.append(_polynomial(hashes, at, shortest))
            lengths.append(n)
        if not keys:
            nothing = np.empty(0, np.uint64)
            return cls(shortest, *_arrays(_no_numbers(), nothing, _no_numbers(), *_table(nothing), _filter(nothing)))
        # Of texts that hold the same n-gram the first: the keys are in the order of lengths, not of texts.
        every, owned = np.concatenate(keys), np.concatenate(owners)
        order = np.lexsort((owned, every))
        every, owned = every[order], owned[order]
        first = np.ones(len(every), bool)
        first[1:] = every[1:] != every[:-1]
        grams = every[first]
        made = (np.array(lengths, np.int64), grams, owned[first], *_table(grams), _filter(np.concatenate(beginnings)))
        return cls(shortest, *_arrays(*made))

    def find(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> Hits:
        """Every run of words that the texts share with the test set; a null text has none."""
        column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts, pa.large_string())
        if column.null_count:
            column = column.cast(pa.large_string()).fill_null("")
        data, offsets = text_buffers(column)
        plain = _is_ascii(data, offsets)
        # Beyond ASCII what a word is takes Unicode's tables: those texts are folded one by one, by Python's C.
        others = np.flatnonzero(~plain)
        read = {int(number): column[int(number)].as_py() for number in others}
        encoded = [folded(text).encode() for text in read.values()]
        ends = np.concatenate([[0], np.cumsum([len(e) for e in encoded], dtype=np.int64)]).astype(np.int64)
        ascii_ = self._hits(data, offsets, np.flatnonzero(plain))
        beyond = self._hits(bytes_of(pa.py_buffer(b"".join(encoded))), ends, np.arange(len(encoded), dtype=np.int64))
        beyond[0] = others[beyond[0]]
        spans: dict[int, list[tuple[int, int]]] = {}
        for row, (number, word, length) in enumerate(beyond[:3].T.tolist()):
            if number not in spans:
                spans[number] = word_spans(read[number])
            beyond[4:, row] = spans[number][word][0], spans[number][word + length - 1][1]
        found = np.concatenate([ascii_, beyond], axis=1)
        return Hits(*found[:, np.lexsort((found[2], found[1], found[0]))])

    def _hits(self, data: U8, offsets: I64, texts: I64) -> npt.NDArray[np.int64]:
        """Hits of some texts, shape (6, hits), with places in bytes."""
        capacity = 1024
        while True:
            found = np.empty((6, capacity), np.int64)
            count = _find(
                data, offsets, texts, _classes(), self.shortest, self.lengths, self.slots, self.places, self.bits, found
            )
            if count <= capacity:
                return found[:, :count]
            capacity = count

    def shared_run(self, texts: Sequence[str]) -> list[str | None]:
        """The first of the shortest runs of words that each text shares with the test set, None for none."""
        hits = self.find(texts)
        runs: list[str | None] = [None] * len(texts)
        order = np.lexsort((hits.word, hits.length, hits.text))
        for row in order[np.unique(hits.text[order], return_index=True)[1]].tolist():
            text, word = int(hits.text[row]), int(hits.word[row])
            runs[text] = " ".join(words(texts[text])[word : word + int(hits.length[row])])
        return runs


# -- places of words in a text beyond ASCII ---------------------------------------------------------------------------

_SEGMENT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words(text)` comes from, (start, end) in characters: the run without spaces that holds it.

    Words are made of the text as it is after NFKC, so that a character may give two words, or two characters one.
    """
    spans = [(m.start(), m.end()) for m in _SEGMENT.finditer(text) for _ in words(m[0])]
    found = words(text)
    if found == [word for m in _SEGMENT.finditer(text) for word in words(m[0])]:
        return spans
    # Characters that combine across what looks like a border: count how many words the text's beginnings hold.
    places = range(len(text) + 1)
    starts = [bisect_right(places, k, key=lambda end: len(words(text[:end]))) - 1 for k in range(len(found))]
    return list(zip(starts, [*starts[1:], len(text)], strict=True))


# -- hashing ----------------------------------------------------------------------------------------------------------


def _hashed_words(texts: Sequence[str]) -> tuple[U64, I64]:
    """The hashes of the words of many texts, one text after another, and how many each has."""
    encoded = [folded(text).encode() for text in texts]
    ends = np.concatenate([[0], np.cumsum([len(e) for e in encoded], dtype=np.int64)]).astype(np.int64)
    data = bytes_of(pa.py_buffer(b"".join(encoded)))
    hashes, places, counts = np.empty(len(data), np.uint64), np.empty((2, len(data)), np.int64), []
    used = 0
    for k in range(len(encoded)):
        count = _read_words(data, ends[k], ends[k + 1], _classes(), hashes[used:], places[0], places[1])
        counts.append(count)
        used += count
    return hashes[:used], np.array(counts, np.int64)


def _polynomial(hashes: U64, at: I64, n: int) -> U64:
    """Of each run of n words that begins at these places: the sum of hash x base ** (n - 1 - k), modulo 2**64."""
    value = np.zeros(len(at), np.uint64)
    for k in range(n):
        value = value * _BASE + hashes[at + k]
    return value


def _keys(values: U64, n: int) -> U64:
    """A run's hash with its length in it; never 0, which marks an empty slot."""
    keys = mix(values ^ np.uint64(n * GOLDEN % 2**64))
    return np.where(keys == 0, np.uint64(1), keys)


def _count_up(counts: I64) -> I64:
    """0, 1, ... counts[k] - 1, one range after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) - np.repeat(ends - counts, counts)


def _no_numbers() -> I64:
    return np.empty(0, np.int64)


def _table(grams: U64) -> tuple[U64, I64]:
    """An open hash table, at most half full: a gram's hash (0: empty) and its number."""
    size = 1 << max(4, int(2 * len(grams)).bit_length())
    slots, places = np.zeros(size, np.uint64), np.zeros(size, np.int64)
    _fill(grams, slots, places)
    return slots, places


def _filter(beginnings: U64) -> U8:
    """A bit for the hash of each beginning, about one in sixteen set."""
    bits = min(_MOST_BITS, max(_LEAST_BITS, int(16 * len(beginnings)).bit_length()))
    flags = np.zeros(1 << bits, bool)
    flags[(beginnings * _GOLDEN) >> np.uint64(64 - bits)] = True
    return np.packbits(flags, bitorder="little")


def _arrays(*arrays: npt.NDArray[Any]) -> list[Any]:
    """Read-only, as they are after their way to an executor: the kernel is compiled for one kind."""
    for array in arrays:
        array.flags.writeable = False
    return list(arrays)


@lru_cache(maxsize=1)
def _classes() -> U8:
    """What each code point is to a word: none of it, a part, or a word of its own."""
    points = "".join(map(chr, range(0x110000)))
    classes = np.fromiter((_WORD if c.isalnum() else _NO_WORD for c in points), np.uint8, len(points))
    classes[[match.start() for match in re.finditer(f"[{UNSPACED}]", points)]] = _CHARACTER
    classes.flags.writeable = False
    return classes


# -- kernels ----------------------------------------------------------------------------------------------------------


@jit()
def _mixed(value: np.uint64) -> np.uint64:
    z = value + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@jit()
def _read_words(data: U8, start: int, end: int, classes: U8, hashes: U64, starts: I64, ends: I64) -> int:
    """The words of data[start:end], UTF-8: hash, first byte and the byte behind the last, of each; their number.

    Letters of ASCII are made small here; all else is folded already.
    """
    count, inside, value, at = 0, False, _FNV_OFFSET, start
    while at < end:
        byte = data[at]
        if byte < 128:
            size, point = 1, np.int64(byte)
        elif byte < 0xE0:
            size, point = 2, (np.int64(byte & 0x1F) << 6) | (data[at + 1] & 0x3F)
        elif byte < 0xF0:
            size, point = 3, (np.int64(byte & 0x0F) << 12) | (np.int64(data[at + 1] & 0x3F) << 6)
            point |= data[at + 2] & 0x3F
        else:
            size = 4
            point = (np.int64(byte & 0x07) << 18) | (np.int64(data[at + 1] & 0x3F) << 12)
            point |= (np.int64(data[at + 2] & 0x3F) << 6) | (data[at + 3] & 0x3F)
        kind = classes[point]
        if inside and kind != _WORD:
            hashes[count] = _mixed(value)
            ends[count] = at
            count += 1
            inside = False
        if kind != _NO_WORD:
            if not inside:
                value = _FNV_OFFSET
                starts[count] = at
            if 65 <= byte <= 90:
                value = (value ^ np.uint64(byte + 32)) * _FNV_PRIME
            else:
                for k in range(size):
                    value = (value ^ np.uint64(data[at + k])) * _FNV_PRIME
            if kind == _WORD:
                inside = True
            else:
                hashes[count] = _mixed(value)
                ends[count] = at + size
                count += 1
        at += size
    if inside:
        hashes[count] = _mixed(value)
        ends[count] = end
        count += 1
    return count


@jit()
def _is_ascii(data: U8, offsets: I64) -> npt.NDArray[np.bool_]:
    plain = np.ones(len(offsets) - 1, np.bool_)
    for text in range(len(plain)):
        every = np.uint8(0)
        for at in range(offsets[text], offsets[text + 1]):
            every |= data[at]
        plain[text] = every < 128
    return plain


@jit()
def _fill(grams: U64, slots: U64, places: I64) -> None:
    last = np.uint64(len(slots) - 1)
    for number in range(len(grams)):
        slot = grams[number] & last
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & last
        slots[slot] = grams[number]
        places[slot] = number


@jit()
def _place(key: np.uint64, slots: U64, places: I64) -> int:
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
    data: U8, offsets: I64, texts: I64, classes: U8, shortest: int, lengths: I64, slots: U64, places: I64, bits: U8,
    found: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Hits of these texts into `found` (6, capacity), as far as there is room; how many there are."""
    most = 1
    for text in texts:
        most = max(most, offsets[text + 1] - offsets[text])
    hashes, starts, ends = np.empty(most, np.uint64), np.empty(most, np.int64), np.empty(most, np.int64)
    shift = np.uint64(64)
    size = len(bits)
    while size > 0:  # 8 x len(bits) is a power of two
        shift -= np.uint64(1)
        size >>= 1
    shift -= np.uint64(2)
    out_of = np.uint64(1)
    for _ in range(shortest - 1):
        out_of *= _BASE
    count = 0
    for text in texts:
        total = _read_words(data, offsets[text], offsets[text + 1], classes, hashes, starts, ends)
        if total < shortest:
            continue
        rolling = np.uint64(0)
        for k in range(shortest - 1):
            rolling = rolling * _BASE + hashes[k]
        for word in range(total - shortest + 1):
            rolling = rolling * _BASE + hashes[word + shortest - 1]
            bit = (rolling * _GOLDEN) >> shift
            if bits[bit >> np.uint64(3)] & (np.uint8(1) << np.uint8(bit & np.uint64(7))):
                value, n = rolling, shortest
                for length in lengths:
                    if word + length > total:
                        break
                    while n < length:
                        value = value * _BASE + hashes[word + n]
                        n += 1
                    key = _mixed(value ^ (np.uint64(length) * _GOLDEN))
                    number = _place(key if key != 0 else np.uint64(1), slots, places)
                    if number >= 0:
                        if count < found.shape[1]:
                            found[0, count], found[1, count], found[2, count] = text, word, length
                            found[3, count] = number
                            found[4, count] = starts[word] - offsets[text]
                            found[5, count] = ends[word + length - 1] - offsets[text]
                        count += 1
            rolling -= hashes[word] * out_of
    return count
