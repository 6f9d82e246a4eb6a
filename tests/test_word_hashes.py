"""curation/word_hashes.py: compiled, it gives the hashes of `overlap.Words.of`, bit by bit, for any text."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.overlap import Words, words
from curation.word_hashes import hashed_words


def same(texts: list[str]) -> None:
    found, expected = hashed_words(pa.array(texts, pa.string())), Words.of(texts)
    different = np.flatnonzero(found.lengths != expected.lengths)
    assert not len(different), [(hex(ord(texts[i][0])), words(texts[i])) for i in different[:5]]
    assert np.array_equal(found.hashes, expected.hashes)


def test_every_code_point_among_letters_and_alone() -> None:
    points = [chr(p) for p in range(0x20400) if not 0xD800 <= p < 0xE000]
    same([f"{p} a{p}B {p}{p}" for p in points])


# Marks that compose, reorder, or make a syllable with what stands before them; letters that fold to several.
Odd = st.sampled_from([*"eA5_ß", "\u0301", "\u0327", "\u0323", "\u1100", "\u1161", "\u11a8", "가", "\u0e33", "か", "\u3099", "ﬃ", "…", "㍍", "ΐ", "İ", "\U0001d400", "\U00020000", "\u0345", "\u00b4"])


@given(st.lists(st.one_of(st.text(max_size=40), st.lists(Odd, max_size=12).map("".join)), max_size=6))
def test_any_text(texts: list[str]) -> None:
    same(texts)


def test_words_of_every_length_up_to_beyond_two_blocks_of_the_hash() -> None:
    same(["x" * n + " " + "yz" * n for n in range(40)])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_slices_chunks_and_nulls_are_read_where_they_lie(kind: pa.DataType) -> None:
    texts = ["one two", None, "", "drei Vier fünf", "e\u0301 à côté", "…", "last one"]
    column = pa.chunked_array([pa.array(texts[:3], kind), pa.array([], kind), pa.array(["gone", *texts[3:], "gone"], kind).slice(1, 4)])
    expected = Words.of([text or "" for text in texts])
    found = hashed_words(column)
    assert np.array_equal(found.offsets, expected.offsets) and np.array_equal(found.hashes, expected.hashes)
    assert hashed_words(pa.array([], kind)).lengths.tolist() == []
