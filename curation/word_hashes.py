"""The words of texts as hashes, straight from Arrow's buffers: bit by bit what `overlap.Words.of` gives, compiled.

What a word is says `overlap.words`: NFKC, then case folding, then runs of letters and digits. Code point by code point
that is a table, as long as none of them changes its neighbours. A text that holds one that may (combining marks, single
jamo) or one beyond the table goes through `overlap.words`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from curation.compiled import jit, load8, store8, trailing_zeros
from curation.overlap import UNSPACED, Hashes, Indices, Words, words

U8 = npt.NDArray[np.uint8]

_POINTS = 0x20000  # code points in the table: the two planes that hold all but rare ideographs
_SLACK = 16  # bytes behind a folded text: whole blocks of eight are written, and read with its last word
_BLANK = np.uint8(32)


class _Folding(NamedTuple):
    """What code point p becomes: pool[starts[p]:starts[p + 1]], words apart by blanks.

    bound[p]: what it becomes hangs on its neighbours, or theirs on it.
    """

    starts: npt.NDArray[np.int32]
    pool: U8
    bound: npt.NDArray[np.bool_]


@lru_cache(maxsize=1)
def _folding() -> _Folding:
    points = [" " if chr(p) == "\n" or 0xD800 <= p < 0xE000 else chr(p) for p in range(_POINTS)]
    # All at once, a line each: a newline neither changes what stands beside it nor is changed by it.
    normal = unicodedata.normalize("NFKC", "\n".join(points))
    apart = re.sub(rf"([{UNSPACED}])|[^\w\n]|_", r" \1 ", normal.casefold())
    folded = [line.encode() for line in apart.split("\n")]
    seconds = {chr(p) for p in (*range(0x1160, 0x1200), *range(0xD7B0, 0xD800))}  # vowels and finals of Hangul
    for point in points:
        parts = unicodedata.decomposition(point).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            seconds.add(chr(int(parts[1], 16)))
    lines = normal.split("\n")
    shown = (point + line for point, line in zip(points, lines, strict=True))
    bound = [any(unicodedata.combining(c) or c in seconds for c in each) for each in shown]
    starts = np.concatenate([[0], np.cumsum([len(each) for each in folded])]).astype(np.int32)
    return _Folding(starts, np.frombuffer(b"".join(folded), np.uint8), np.array(bound))


def hashed_words(texts: pa.Array | pa.ChunkedArray) -> Words:
    """The words of a column of texts; a null has none."""
    column = pa.chunked_array([texts]) if isinstance(texts, pa.Array) else texts
    column = column.cast(pa.large_string()).combine_chunks().fill_null("")
    data, offsets = _buffers(column)
    hashes, counts = _read(data, offsets, *_folding())
    rest = np.flatnonzero(counts < 0)
    if len(rest):
        folded = [" ".join(words(text)) for text in column.take(pa.array(rest)).to_pylist()]
        joined = pa.array(folded, pa.large_string())
        others, counts[rest] = _read_folded(*_buffers(joined))
        hashes = _in_turn(hashes, others, counts, rest)
    return Words(hashes, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _buffers(texts: pa.LargeStringArray) -> tuple[U8, Indices]:
    """Bytes and the n + 1 positions of the texts in them, none copied."""
    _, offsets, data = texts.buffers()
    if len(texts) == 0 or offsets is None:
        return _read_only(np.zeros(0, np.uint8)), _read_only(np.zeros(1, np.int64))
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return _read_only(bytes_), _read_only(np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8))


def _read_only(array: Any) -> Any:
    """One compiled variant, whether Arrow says that the buffer may be written or not."""
    array = array.view()
    array.flags.writeable = False
    return array


# -- compiled ----------------------------------------------------------------------------------------------------------

_ASCII = np.frombuffer(bytes(ord(chr(b).lower()) if chr(b).isalnum() else 32 for b in range(128)), np.uint8)
# pandas' key, "0123456789123456", already mixed into SipHash's four constants.
_ONES, _HIGHS, _BLANKS = (np.uint64(0x0101010101010101 * byte) for byte in (1, 128, 32))
_KEYS = tuple(
    np.uint64(int.from_bytes(key, "little") ^ constant)
    for key, constant in (
        (b"01234567", 0x736F6D6570736575),
        (b"89123456", 0x646F72616E646F6D),
        (b"01234567", 0x6C7967656E657261),
        (b"89123456", 0x7465646279746573),
    )
)


@jit(inline="always")
def _turned(x: int, left: int) -> Any:
    return (x << np.uint64(left)) | (x >> np.uint64(64 - left))


@jit(inline="always")
def _sip_round(a: int, b: int, c: int, d: int) -> Any:
    a += b
    b = _turned(b, 13) ^ a
    a = _turned(a, 32)
    c += d
    d = _turned(d, 16) ^ c
    a += d
    d = _turned(d, 21) ^ a
    c += b
    b = _turned(b, 17) ^ c
    c = _turned(c, 32)
    return a, b, c, d


@jit(inline="always")
def _sip_block(a: int, b: int, c: int, d: int, block: int) -> Any:
    d ^= block
    a, b, c, d = _sip_round(a, b, c, d)
    a, b, c, d = _sip_round(a, b, c, d)
    a ^= block
    return a, b, c, d


@jit(inline="always")
def _first_blank(block: int) -> Any:
    """The highest bit of the first byte of eight that is a blank; 0 where none is."""
    other = block ^ _BLANKS
    found = (other - _ONES) & ~other & _HIGHS  # beyond the first one it may be wrong: a borrow
    return found & (~found + np.uint64(1))


@jit()
def _hash_word(folded: U8, start: int) -> Any:
    """(hash, end) of the word that begins at `start`, which a blank ends: pandas' SipHash-2-4, then its finaliser."""
    a, b, c, d = _KEYS
    at = start
    block = load8(folded, at)
    blank = _first_blank(block)
    while blank == 0:
        a, b, c, d = _sip_block(a, b, c, d, block)
        at += 8
        block = load8(folded, at)
        blank = _first_blank(block)
    stop = at + (trailing_zeros(blank) >> 3)
    length = np.uint64(stop - start) << np.uint64(56)
    a, b, c, d = _sip_block(a, b, c, d, block & ((blank >> np.uint64(7)) - np.uint64(1)) | length)
    c ^= np.uint64(0xFF)
    for _ in range(4):
        a, b, c, d = _sip_round(a, b, c, d)
    value = a ^ b ^ c ^ d
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31)), stop


@jit()
def _grown(array: Any, size: int) -> Any:
    """The array, with room for `size` elements at least."""
    if size <= array.size:
        return array
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    larger[: array.size] = array
    return larger


@jit(inline="always")
def _fold8(block: int) -> Any:
    """Eight ASCII characters: letters as small ones, digits, and a blank for each of the others."""
    small = block | _BLANKS  # each sum below stays within its byte: none is above 127
    letter = (small + _ONES * np.uint64(128 - 97)) & ~(small + _ONES * np.uint64(128 - 123))
    digit = (block + _ONES * np.uint64(128 - 48)) & ~(block + _ONES * np.uint64(128 - 58))
    word = (((letter | digit) & _HIGHS) >> np.uint64(7)) * np.uint64(255)
    return (small & word) | (_BLANKS & ~word)


@jit()
def _fold(data: U8, start: int, stop: int, starts: Any, pool: U8, bound: Any, folded: U8) -> Any:
    """(folded, its length) of the text data[start:stop]; the length is -1 where a code point is bound."""
    folded = _grown(folded, stop - start + _SLACK)
    at, i = 0, start
    while i < stop:
        while i + 8 <= stop:
            block = load8(data, i)
            if block & _HIGHS:
                break
            store8(folded, at, _fold8(block))
            at += 8
            i += 8
        if i == stop:
            break
        byte = data[i]
        if byte < 128:
            folded[at] = _ASCII[byte]
            at += 1
            i += 1
            continue
        size = 2 + (byte >= 0xE0) + (byte >= 0xF0)
        if i + size > stop:
            return folded, -1
        point = np.int64(byte & (0x7F >> size))
        for k in range(1, size):
            point = point << 6 | np.int64(data[i + k] & 0x3F)
        if point >= _POINTS or bound[point]:
            return folded, -1
        i += size
        first, last = starts[point], starts[point + 1]
        folded = _grown(folded, at + (last - first) + (stop - i) + _SLACK)
        for k in range(first, last):
            folded[at] = pool[k]
            at += 1
    return folded, at


@jit()
def _hash_folded(folded: U8, stop: int, hashes: Hashes, found: int) -> Any:
    """(hashes, how many there are now) with those of the words of folded[:stop], which blanks separate, behind.

    There are _SLACK bytes more; a blank is put at `stop`.
    """
    folded[stop] = _BLANK
    i = 0
    while i < stop:
        if folded[i] == _BLANK:
            i += 1
            continue
        if found == hashes.size:
            hashes = _grown(hashes, found + 1)
        hashes[found], i = _hash_word(folded, i)
        found += 1
    return hashes, found


@jit()
def _read(data: U8, offsets: Indices, starts: Any, pool: U8, bound: Any) -> Any:
    """Hashes of the words, text after text, and how many each text has; -1 and none where `_fold` can't read it."""
    texts = offsets.size - 1
    counts = np.empty(texts, np.int64)
    hashes = np.empty(max(16, (offsets[texts] - offsets[0]) // 5), np.uint64)
    folded = np.empty(1024, np.uint8)
    found = 0
    for text in range(texts):
        folded, length = _fold(data, offsets[text], offsets[text + 1], starts, pool, bound, folded)
        before = found
        hashes, found = _hash_folded(folded, max(length, 0), hashes, found)
        counts[text] = found - before if length >= 0 else -1
    return hashes[:found], counts


@jit()
def _read_folded(data: U8, offsets: Indices) -> Any:
    """The same for texts whose words are folded and joined by blanks."""
    texts = offsets.size - 1
    counts = np.empty(texts, np.int64)
    hashes = np.empty(16, np.uint64)
    folded = np.empty(1024, np.uint8)
    found = 0
    for text in range(texts):
        size = offsets[text + 1] - offsets[text]
        folded = _grown(folded, size + _SLACK)
        folded[:size] = data[offsets[text] : offsets[text + 1]]
        before = found
        hashes, found = _hash_folded(folded, size, hashes, found)
        counts[text] = found - before
    return hashes[:found], counts


@jit()
def _in_turn(hashes: Hashes, others: Hashes, counts: Indices, rest: Indices) -> Any:
    """The hashes of all texts in their order, where `others` holds those of the texts `rest`."""
    together = np.empty(hashes.size + others.size, np.uint64)
    at, one, other, k = 0, 0, 0, 0
    for text in range(counts.size):
        count = counts[text]
        if k < rest.size and rest[k] == text:
            together[at : at + count] = others[other : other + count]
            other, k = other + count, k + 1
        else:
            together[at : at + count] = hashes[one : one + count]
            one += count
        at += count
    return together
