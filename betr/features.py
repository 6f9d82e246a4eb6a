"""Text -> hashed words and word n-grams, exactly as fastText 0.9 reads a line, compiled, over Arrow buffers.

What a line is (fastText `Dictionary::getLine`): tokens are cut at space, \\n, \\r, \\t, \\v, \\f and NUL; the end of
the text adds the token `</s>`, which counts as a word and in the n-grams; a literal `</s>` ends the text where it
stands; tokens that begin with the label prefix are skipped; words outside the vocabulary add no feature of their own,
only their n-grams. A newline is white space here and a document is one line: the score is fastText's for
`text.replace("\\n", " ")`. Hashes are FNV-1a over *sign-extended* bytes; the n-gram of hashes a, b, ... is ((a *
116049371 + b) * 116049371 + ...) on int32 hashes sign-extended to 64 bits, modulo the number of buckets.

Subwords, where maxn > 0 (`Dictionary::computeSubwords`): the runs of minn..maxn characters of `<token>`, known word or
not, without `<` and `>` alone; their buckets are FNV-1a modulo the number of buckets, the range that n-grams of words
share. A character is a byte and all continuation bytes (10xxxxxx) after it. `</s>` has none.

With the segmenter `unicode14` segments.py says what a token is; all else is the same.

`score_kernel` is the definition that always runs, by numba; `_kernel.c` gives the same bits faster (betr/kernel.py).
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from llvmlite import ir
from numba.core import types
from numba.np.arrayobj import make_array

from betr.segments import next_segment, point_classes
from curation.compiled import instruction, jit, load8
from curation.errors import InputError

EOS = b"</s>"
MAX_WORD_NGRAMS = 5
MAX_SUBWORD = 32
SEGMENTERS = ("space", "unicode14")
FASTTEXT_LOG_OFFSET = 1e-5  # fastText reports exp(log(p + 1e-5)), that is p + 1e-5

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FeatureSpec:
    """How text becomes features: words, word n-grams up to `word_ngrams` and subwords, both hashed into `buckets`.

    minn, maxn: the shortest and the longest subword, in characters; 0: none. segmenter: what cuts a text into words,
    white space or Unicode's classes of characters (segments.py).
    """

    word_ngrams: int = 2
    buckets: int = 2_000_000
    label_prefix: str = "__label__"
    minn: int = 0
    maxn: int = 0
    segmenter: str = "space"

    def __post_init__(self) -> None:
        if not 1 <= self.word_ngrams <= MAX_WORD_NGRAMS:
            raise InputError(f"word_ngrams must be in 1..{MAX_WORD_NGRAMS}; got {self.word_ngrams!r}")
        if not (0 <= self.maxn <= MAX_SUBWORD and min(1, self.maxn) <= self.minn <= self.maxn):
            raise InputError(
                f"minn and maxn must be 0, or 1 <= minn <= maxn <= {MAX_SUBWORD}; got {self.minn!r} and {self.maxn!r}"
            )
        if self.segmenter not in SEGMENTERS:
            raise InputError(f"segmenter must be one of {', '.join(SEGMENTERS)}; got {self.segmenter!r}")
        if not (1 if self.has_buckets else 0) <= self.buckets < 2**31:
            raise InputError(f"buckets must be in 1..2^31-1 when word_ngrams > 1 or maxn > 0; got {self.buckets!r}")
        if not self.label_prefix:
            raise InputError(
                "label_prefix must not be empty: it would make every token a label; fastText's is __label__"
            )

    @property
    def has_buckets(self) -> bool:
        """Whether there are features that are hashed."""
        return self.word_ngrams > 1 or self.maxn > 0

    @property
    def lengths(self) -> tuple[int, int] | None:
        """minn and maxn, as the kernels in numba take them: with None they are compiled without subwords."""
        return (self.minn, self.maxn) if self.maxn > 0 else None

    @property
    def classes(self) -> U8 | None:
        """The table of the segmenter, likewise; None where white space cuts."""
        return None if self.segmenter == "space" else point_classes()

    def recorded(self) -> dict[str, Any]:
        """The fields as a classifier's file holds them: those that came later only where they say something."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name in _RECORDED or value != _DEFAULTS[name]}


_RECORDED = ("word_ngrams", "buckets", "label_prefix")  # in every file; one without the others means words
_DEFAULTS = {field.name: field.default for field in fields(FeatureSpec)}


class Vocabulary(NamedTuple):
    """Words as bytes, and an open-addressing table over them (rows: first 8 bytes, last 8 bytes, length and id, hash).

    Lookup compares bytes, not fingerprints: no unknown word is ever taken for a known one.
    """

    slots: npt.NDArray[np.uint64]
    pool: U8
    offsets: I64


@instruction
def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of element `index` (of the first axis) ahead of its use."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = make_array(signature.args[0])(context, builder, args[0])
        stride = builder.extract_value(made.strides, 0)
        base = builder.bitcast(made.data, ir.IntType(8).as_pointer())
        pointer = builder.gep(base, [builder.mul(args[1], stride)])
        flag = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer.type], ir.FunctionType(ir.VoidType(), [pointer.type, flag, flag, flag])
        )
        builder.call(function, [pointer, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@instruction
def _high_product(typingctx: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the 128-bit product of two uint64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), codegen


_SPACE = np.zeros(256, np.bool_)
_SPACE[[*b" \n\r\t\v\f\0"]] = True
_FNV_SEED = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)
_NGRAM_PRIME = np.uint64(116049371)


@jit()
def _hash(data: U8, start: int, stop: int) -> Any:
    value = _FNV_SEED
    for i in range(start, stop):
        value = np.uint32(np.uint32(value ^ np.uint32(np.int8(data[i]))) * _FNV_PRIME)
    return value


@jit()
def _next_token(data: U8, i: int, end: int) -> Any:
    """(start, stop, hash) of the first token at or after i; start == end where there is none."""
    while i < end and _SPACE[data[i]]:
        i += 1
    start = i
    value = _FNV_SEED
    while i < end:
        byte = data[i]
        if byte <= 32 and _SPACE[byte]:
            break
        value = np.uint32(np.uint32(value ^ np.uint32(np.int8(byte))) * _FNV_PRIME)
        i += 1
    return start, i, value


@jit()
def _head(data: U8, start: int, length: int) -> Any:
    """The first min(length, 8) bytes, zero-padded: since no token holds a NUL, short words are told apart by it."""
    if start + 8 <= data.size:
        word = load8(data, start)
        if length < 8:
            word &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
        return word
    word = np.uint64(0)
    for k in range(min(length, 8)):
        word |= np.uint64(data[start + k]) << np.uint64(8 * k)
    return word


@jit()
def _find(vocabulary: Vocabulary, data: U8, start: int, stop: int, value: int) -> Any:
    """The slot of the word data[start:stop], or the empty slot where it belongs."""
    slots, pool, offsets = vocabulary
    length = stop - start
    head = _head(data, start, length)
    tail = load8(data, stop - 8) if length > 8 else head
    mask = np.int64(slots.shape[0] - 1)
    i = np.int64(value) & mask
    while True:
        info = slots[i, 2]
        if info == 0:
            return i
        if slots[i, 0] == head and slots[i, 1] == tail and np.int64(info >> np.uint64(32)) == length:
            if length <= 16:
                return i
            known, k = offsets[np.int64(info & np.uint64(0xFFFFFFFF)) - 1], 8
            while k < length - 8 and pool[known + k] == data[start + k]:
                k += 1
            if k >= length - 8:
                return i
        i = (i + 1) & mask


@jit()
def _insert(vocabulary: Vocabulary, slot: int, data: U8, start: int, stop: int, value: int, word: int) -> None:
    slots = vocabulary.slots
    slots[slot, 0] = _head(data, start, stop - start)
    slots[slot, 1] = load8(data, stop - 8) if stop - start > 8 else slots[slot, 0]
    slots[slot, 2] = (np.uint64(stop - start) << np.uint64(32)) | np.uint64(word + 1)
    slots[slot, 3] = value


@jit()
def _fill(vocabulary: Vocabulary, words: int) -> int:
    """Enter the first `words` words of the pool into the empty table; returns the first word that is there twice, or
    -1.
    """
    slots, pool, offsets = vocabulary
    for word in range(words):
        value = _hash(pool, offsets[word], offsets[word + 1])
        slot = _find(vocabulary, pool, offsets[word], offsets[word + 1], value)
        if slots[slot, 2] != 0:
            return word
        _insert(vocabulary, slot, pool, offsets[word], offsets[word + 1], value, word)
    return -1


def aligned_zeros(shape: tuple[int, int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A table whose rows of 32 or 64 bytes each lie in one cache line; numpy's own arrays begin 16 bytes into one."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)  # np.zeros would forgo the huge pages that numpy asks for here
    first = -raw.ctypes.data % 64
    table = raw[first : first + size].view(dtype).reshape(shape)
    table.fill(0)
    return table


def build_vocabulary(pool: U8, offsets: I64, *, room: int = 0) -> Vocabulary:
    """The lookup table over the words pool[offsets[i]:offsets[i+1]], with slots for `room` words more."""
    words = len(offsets) - 1
    slots = 1 << max(4, math.ceil(math.log2(2 * (words + room) + 1)))
    vocabulary = Vocabulary(aligned_zeros((slots, 4), np.uint64), pool, offsets)
    if (twice := _fill(vocabulary, words)) >= 0:
        word = pool[offsets[twice] : offsets[twice + 1]].tobytes()
        raise InputError(f"the vocabulary holds the word {word!r} twice; train or export the model again")
    return vocabulary


@jit()
def _starts_with(data: U8, start: int, stop: int, prefix: U8) -> bool:
    if stop - start < prefix.size:
        return False
    k = 0
    while k < prefix.size and data[start + k] == prefix[k]:
        k += 1
    return k == prefix.size


@jit()
def _next_word(data: U8, i: int, end: int, classes: U8 | None) -> Any:
    """`_next_token`, by the segmenter's table where there is one."""
    if classes is None:
        return _next_token(data, i, end)
    start, stop = next_segment(data, i, end, classes)
    return start, stop, _hash(data, start, stop)


@jit()
def _hash_character(data: U8, i: int, end: int, value: Any) -> Any:
    """(the hash, gone on with the character at i; where the character ends)."""
    value = np.uint32(np.uint32(value ^ np.uint32(np.int8(data[i]))) * _FNV_PRIME)
    i += 1
    while i < end and data[i] & 0xC0 == 0x80:
        value = np.uint32(np.uint32(value ^ np.uint32(np.int8(data[i]))) * _FNV_PRIME)
        i += 1
    return value, i


@jit()
def _subwords(
    data: U8, first: int, start: int, stop: int, lengths: tuple[int, int], hashes: npt.NDArray[np.uint32]
) -> int:
    """Hashes of the subwords of the token data[start:stop] that begin at `first`, shorter ones first; returns how many.

    first = start - 1 stands for the "<" before the token; inside a character nothing begins.
    """
    minn, maxn = lengths
    found = 0
    if first < start:
        value, i = np.uint32(np.uint32(_FNV_SEED ^ np.uint32(60)) * _FNV_PRIME), start
        while i < stop and data[i] & 0xC0 == 0x80:  # bytes that begin no character belong to the one before them
            value = np.uint32(np.uint32(value ^ np.uint32(np.int8(data[i]))) * _FNV_PRIME)
            i += 1
    elif data[first] & 0xC0 == 0x80:
        return 0
    else:
        value, i = _hash_character(data, first, stop, _FNV_SEED)
        if minn == 1:
            hashes[0] = value
            found = 1
    for n in range(2, maxn + 1):
        if i < stop:
            value, i = _hash_character(data, i, stop, value)
        elif i == stop:
            value, i = np.uint32(np.uint32(value ^ np.uint32(62)) * _FNV_PRIME), stop + 1  # ">"
        else:
            break
        if n >= minn:
            hashes[found] = value
            found += 1
    return found


@jit()
def _add(weights: F32, rows: I64, count: int, sums: F64) -> None:
    """Add the rows to the sums of all heads, in order, each head for itself."""
    heads = sums.size
    if heads == 1:
        total = sums[0]
        for k in range(count):
            total += weights[rows[k], 0]
        sums[0] = total
    else:
        for k in range(count):
            for h in range(heads):
                sums[h] += weights[rows[k], h]


_BLOCK = 256  # tokens whose lookups are under way at once: that hides the latency of tables larger than the cache
_PENDING = 1024  # subwords, likewise
_ABSENT = np.uint32(0x80000000)  # -0.0, as bits


@jit()
def score_kernel(
    data: U8,
    starts: I64,
    stops: I64,
    vocabulary: Vocabulary,
    word_weights: F32,
    bucket_weights: F32,
    word_ngrams: int,
    lengths: tuple[int, int] | None,
    classes: U8 | None,
    label_prefix: U8,
    eos: U8,
    margins: F64,
) -> None:
    """For each text data[starts[i]:stops[i]] and head: the mean weight of its features; margins float64 [n, heads].

    Weights are [words, width] and [buckets, width], width >= heads: what the heads make of a feature lies side by side.
    Words of the vocabulary beyond `word_weights` are labels: skipped. Where width > 1, a word's weight of -0.0 says
    that the head doesn't know it. A text without any feature has margin 0.

    Weights are added in the order of the text, in double precision, words, n-grams and subwords each for themselves;
    then come the additions of these sums, in this order (subwords only where they have lengths), and one division. So a
    margin depends on its text alone, and `_kernel.c`, which does the same, gives the same bits. (No fastmath here: it
    regroups sums.)
    """
    slots = vocabulary.slots
    mask = np.int64(slots.shape[0] - 1)
    buckets = np.uint64(max(bucket_weights.shape[0], 1))
    inverse = np.uint64(0xFFFFFFFFFFFFFFFF) // buckets
    partial = np.zeros(word_ngrams, np.uint64)  # running hashes of the n-grams that the next token continues
    eos_hash = _hash(eos, 0, eos.size)
    eos_word = np.int64(slots[_find(vocabulary, eos, 0, eos.size, eos_hash), 2] & np.uint64(0xFFFFFFFF)) - 1
    eos_counts = eos_word < word_weights.shape[0] and (
        eos_word >= 0 or not _starts_with(eos, 0, eos.size, label_prefix)
    )
    block_starts, block_stops = np.empty(_BLOCK, np.int64), np.empty(_BLOCK, np.int64)
    hashes = np.empty(_BLOCK, np.uint32)
    words = np.empty(_BLOCK + 1, np.int64)
    chosen = np.empty((_BLOCK + 1) * word_ngrams, np.int64)
    heads, width = margins.shape[1], word_weights.shape[1]
    bits = word_weights.view(np.uint32)
    word_sums, ngram_sums, known = np.empty(heads), np.empty(heads), np.empty(heads, np.int64)
    subword_sums, subword_hashes = np.empty(heads), np.empty(MAX_SUBWORD, np.uint32)
    pending = np.empty(_PENDING, np.int64)
    for document in range(starts.size):
        i, end = starts[document], stops[document]
        open_ngrams, ended, ngrams = 0, False, 0
        word_sums[:] = 0.0
        ngram_sums[:] = 0.0
        subword_sums[:] = 0.0
        subwords = 0
        known[:] = 0
        while not ended:
            tokens = 0
            while tokens < _BLOCK:
                if classes is None:  # straight to it: by way of _next_word, words alone were a tenth slower
                    start, i, value = _next_token(data, i, end)
                else:
                    start, i, value = _next_word(data, i, end, classes)
                if start == i:
                    break
                block_starts[tokens], block_stops[tokens], hashes[tokens] = start, i, value
                prefetch(slots, np.int64(value) & mask)
                tokens += 1
            at_end = tokens < _BLOCK
            found, known_words, waiting = 0, 0, 0
            for t in range(tokens + at_end):
                if t < tokens:
                    value, start, stop = hashes[t], block_starts[t], block_stops[t]
                    slot = _find(vocabulary, data, start, stop, value)
                    ended = value == eos_hash and stop - start == eos.size and _starts_with(data, start, stop, eos)
                    word = np.int64(slots[slot, 2] & np.uint64(0xFFFFFFFF)) - 1
                    counts = word < word_weights.shape[0] and (
                        word >= 0 or not _starts_with(data, start, stop, label_prefix)
                    )
                else:
                    value, word, counts, ended = eos_hash, eos_word, eos_counts, True
                if counts:
                    if word >= 0:
                        words[known_words] = word
                        prefetch(word_weights, word)
                        known_words += 1
                    if lengths is not None:
                        for first in range(start - 1, stop if not ended else start - 1):
                            if waiting > _PENDING - MAX_SUBWORD:
                                _add(bucket_weights, pending, waiting, subword_sums)
                                waiting = 0
                            count = _subwords(data, first, start, stop, lengths, subword_hashes)
                            for k in range(count):
                                bucket = np.int64(subword_hashes[k] % np.uint32(buckets))
                                prefetch(bucket_weights, bucket)
                                pending[waiting + k] = bucket
                            waiting += count
                            subwords += count
                    token = np.uint64(np.int64(np.int32(value)))
                    for k in range(open_ngrams):
                        partial[k] = partial[k] * _NGRAM_PRIME + token
                        # partial[k] % buckets; the estimated quotient is right or one too small, as often as not: a
                        # mask instead of a branch that nothing could foretell
                        rest = partial[k] - _high_product(partial[k], inverse) * buckets
                        bucket = np.int64(rest - (buckets & (np.uint64(0) - np.uint64(rest >= buckets))))
                        prefetch(bucket_weights, bucket)
                        chosen[found] = bucket
                        found += 1
                    if open_ngrams < word_ngrams - 1:
                        open_ngrams += 1
                    else:
                        for k in range(open_ngrams - 1):
                            partial[k] = partial[k + 1]
                    if open_ngrams > 0:
                        partial[open_ngrams - 1] = token
                if ended:
                    break
            if width == 1:
                _add(word_weights, words, known_words, word_sums)
                known[0] += known_words
            else:
                for k in range(known_words):
                    row = words[k]
                    for h in range(heads):
                        word_sums[h] += word_weights[row, h]
                        known[h] += bits[row, h] != _ABSENT
            _add(bucket_weights, chosen, found, ngram_sums)
            ngrams += found
            if lengths is not None:
                _add(bucket_weights, pending, waiting, subword_sums)
        for h in range(heads):
            features = known[h] + ngrams + subwords
            total = word_sums[h] + ngram_sums[h]
            if lengths is not None:
                total += subword_sums[h]
            margins[document, h] = total / features if features > 0 else 0.0


@jit()
def most_features(size: int, word_ngrams: int, lengths: tuple[int, int] | None, classes: U8 | None) -> Any:
    """(different words, features) that a text of so many bytes has at the most, `</s>` among them."""
    words = size // 2 + 2
    tokens = words
    if classes is not None:  # there a token may be one byte, of which there are 128
        words, tokens = words + 128, size + 1
    most = tokens * word_ngrams
    if lengths is not None:
        most += (size + tokens) * (lengths[1] - lengths[0] + 1)
    return words, most


@jit()
def collect_kernel(
    data: U8,
    offsets: I64,
    first: int,
    vocabulary: Vocabulary,
    counts: I64,
    used: I64,
    word_ngrams: int,
    lengths: tuple[int, int] | None,
    classes: U8 | None,
    buckets: int,
    label_prefix: U8,
    eos: U8,
    seen: npt.NDArray[np.bool_],
    features: npt.NDArray[np.int32],
    ends: I64,
    tokens: I64,
) -> int:
    """Write the features of the texts from `first` on; returns the first text for which some array is too small.

    A word is its id, in order of first appearance; a bucket b is -1 - b. `used` holds [words, bytes of the pool].
    `ends` and `tokens` get, for each text, where its features end and how many tokens fastText counts in it.
    """
    slots, pool, pool_offsets = vocabulary
    partial = np.zeros(word_ngrams, np.uint64)
    eos_hash = _hash(eos, 0, eos.size)
    hashes = np.empty(MAX_SUBWORD, np.uint32)
    written = 0
    for document in range(first, offsets.size - 1):
        i, end = offsets[document], offsets[document + 1]
        most_words, most = most_features(end - i, word_ngrams, lengths, classes)
        if (
            written + most > features.size
            or used[0] + most_words > counts.size
            or 2 * (used[0] + most_words) > slots.shape[0]
            or used[1] + (end - i) + eos.size > pool.size
        ):
            return document
        open_ngrams, ended, seen_tokens = 0, False, 0
        while not ended:
            start, stop, value = _next_word(data, i, end, classes)
            i = stop
            source = data
            if start == stop:
                source, start, stop, value, ended = eos, 0, eos.size, eos_hash, True
            else:
                ended = value == eos_hash and stop - start == eos.size and _starts_with(data, start, stop, eos)
            seen_tokens += 1
            if _starts_with(source, start, stop, label_prefix):
                continue
            slot = _find(vocabulary, source, start, stop, value)
            word = np.int64(slots[slot, 2] & np.uint64(0xFFFFFFFF)) - 1
            if word < 0:
                word = used[0]
                _insert(vocabulary, slot, source, start, stop, value, word)
                for k in range(stop - start):
                    pool[used[1] + k] = source[start + k]
                used[0] += 1
                used[1] += stop - start
                pool_offsets[used[0]] = used[1]
            counts[word] += 1
            features[written] = word
            written += 1
            if lengths is not None:
                for first in range(start - 1, stop if not ended else start - 1):
                    for k in range(_subwords(data, first, start, stop, lengths, hashes)):
                        bucket = np.int64(hashes[k] % np.uint32(buckets))
                        seen[bucket] = True
                        features[written] = -1 - bucket
                        written += 1
            token = np.uint64(np.int64(np.int32(value)))
            for k in range(open_ngrams):
                partial[k] = partial[k] * _NGRAM_PRIME + token
                bucket = np.int64(partial[k] % np.uint64(buckets))
                seen[bucket] = True
                features[written] = -1 - bucket
                written += 1
            if open_ngrams < word_ngrams - 1:
                open_ngrams += 1
            else:
                for k in range(open_ngrams - 1):
                    partial[k] = partial[k + 1]
            if open_ngrams > 0:
                partial[open_ngrams - 1] = token
        ends[document] = written
        tokens[document] = seen_tokens
    return offsets.size - 1


class TextPiece(NamedTuple):
    """Some texts of a column, within one buffer: text i is data[starts[i]:stops[i]], in row rows[i] of the column."""

    data: U8
    starts: I64
    stops: I64
    rows: slice | I64


def text_pieces(texts: pa.Array | pa.ChunkedArray) -> Iterator[TextPiece]:
    """The UTF-8 bytes of a column of texts where Arrow holds them: none is copied, each row comes once, nulls as empty.

    string, large_string, string_view and the binary types, slices and chunks; other types are cast to large_string.
    """
    first = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if _is_view(chunk.type):
            pieces = _view_pieces(chunk, first)
        else:
            data, offsets = text_buffers(chunk)
            pieces = iter([TextPiece(data, offsets[:-1], offsets[1:], slice(first, first + len(chunk)))])
        nulls = chunk.is_null().to_numpy(zero_copy_only=False) if chunk.null_count else None
        for piece in pieces:
            if nulls is None:
                yield piece
            else:  # what a null's slot holds is up to its writer
                rows = piece.rows
                null = nulls if isinstance(rows, slice) else nulls[rows - first]
                starts = np.where(null, 0, piece.starts)
                yield TextPiece(piece.data, starts, np.where(null, 0, piece.stops), rows)
        first += len(chunk)


def _is_view(kind: pa.DataType) -> bool:
    return str(kind) in ("string_view", "binary_view")  # pyarrow 15 has no such types to ask for


def _view_pieces(chunk: pa.Array, first: int) -> Iterator[TextPiece]:
    """A view is 16 bytes: the length; then up to 12 bytes of text, or 4 of them, the number of a buffer, a place."""
    _, views, *buffers = chunk.buffers()
    if len(chunk) == 0 or views is None:
        return
    view = np.frombuffer(views, np.int32, 4 * len(chunk), 16 * chunk.offset).reshape(-1, 4)
    valid = ~chunk.is_null().to_numpy(zero_copy_only=False) if chunk.null_count else np.ones(len(chunk), np.bool_)
    length = np.where(valid, view[:, 0], 0).astype(np.int64)
    short = length <= 12
    for number in [-1, *np.unique(view[~short, 2]).tolist()]:
        rows = np.flatnonzero(short if number < 0 else ~short & (view[:, 2] == number))
        starts = 16 * (chunk.offset + rows) + 4 if number < 0 else view[rows, 3].astype(np.int64)
        data = _bytes_of(views if number < 0 else buffers[number])
        yield TextPiece(data, starts, starts + length[rows], first + rows)


def text_buffers(texts: pa.Array | pa.ChunkedArray) -> tuple[U8, I64]:
    """The UTF-8 bytes of a string column and the n + 1 positions of its texts in them; bytes are not copied.

    Slices keep their place; a null is whatever its slot holds: mask it afterwards.
    """
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # combine_chunks keeps several chunks where one would overflow its offsets
        texts = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in texts.chunks])
    narrow = pa.types.is_string(texts.type) or pa.types.is_binary(texts.type)
    if not (narrow or pa.types.is_large_string(texts.type) or pa.types.is_large_binary(texts.type)):
        texts = texts.cast(pa.large_string())
    _, offsets_buffer, data_buffer = texts.buffers()
    width = np.int32 if narrow else np.int64
    if len(texts) == 0 or offsets_buffer is None:
        offsets = np.zeros(1, np.int64)
    else:
        item = np.dtype(width).itemsize
        offsets = np.frombuffer(offsets_buffer, width, len(texts) + 1, texts.offset * item).astype(np.int64)
    return _bytes_of(data_buffer), offsets


def _bytes_of(buffer: pa.Buffer | None) -> U8:
    data = np.frombuffer(buffer, np.uint8) if buffer is not None else np.zeros(0, np.uint8)
    data = data.view()
    data.flags.writeable = False  # one compiled variant, whether Arrow says that the buffer may be written or not
    return data


def as_bytes(text: str | bytes) -> U8:
    """A short byte string as the read-only array that the kernels take."""
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def tokenize(text: bytes, spec: FeatureSpec) -> list[bytes]:
    """The tokens of one text, `</s>` last: slow, to explain a score."""
    data, tokens, i = as_bytes(text), list[bytes](), 0
    while EOS not in tokens[-1:]:
        start, i, _ = _next_word(data, i, len(data), spec.classes)
        tokens.append(text[start:i] if start < i else EOS)
    return tokens


def ngram_buckets(tokens: list[bytes], spec: FeatureSpec) -> list[tuple[bytes, int]]:
    """Every n-gram (n >= 2) of the tokens, joined by spaces, with its bucket: slow, to explain a score."""
    hashes = [int(np.int32(np.uint32(_hash(as_bytes(token), 0, len(token))))) for token in tokens]
    found = []
    for i, value in enumerate(hashes):
        for j in range(i + 1, min(len(hashes), i + spec.word_ngrams)):
            value = (value * int(_NGRAM_PRIME) + hashes[j]) % 2**64
            found.append((b" ".join(tokens[i : j + 1]), value % spec.buckets))
    return found


def subword_buckets(token: bytes, spec: FeatureSpec) -> list[int]:
    """The buckets of a token's subwords: slow, to explain a score."""
    if spec.lengths is None or token == EOS:
        return []
    data, hashes, buckets = as_bytes(token), np.empty(MAX_SUBWORD, np.uint32), list[int]()
    for first in range(-1, len(data)):
        found = _subwords(data, first, 0, len(data), spec.lengths, hashes)
        buckets += [int(value) % spec.buckets for value in hashes[:found]]
    return buckets
