"""Runs of words that texts share with test sets, against a reference of all pairs, and where they stand."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curation.errors import InputError
from curation.held_out import TestIndex, word_spans
from curation.overlap import words

WORDS = ["a", "B", "ß", "Ä", "ﬁn", "2½", "東", "京", "กา", "é", "snake_case", "don't", "x", "y"]  # fmt: skip
Texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join), max_size=6)


def hits_of_all_pairs(
    texts: list[str], tests: list[str], shortest: int, longest: int
) -> list[tuple[int, int, int, int]]:
    """(text, first word, words, test): each run of each text that is a run of a test, and the first such test."""
    found = []
    for number, text in enumerate(texts):
        mine = words(text)
        for at in range(len(mine)):
            for n in range(shortest, longest + 1):
                run = mine[at : at + n]
                for owner, test in enumerate(tests):
                    theirs = words(test)
                    fits = len(theirs) >= n if n == longest else len(theirs) == n
                    if len(run) == n and fits and any(run == theirs[k : k + n] for k in range(len(theirs) - n + 1)):
                        found.append((number, at, n, owner))
                        break
    return found


@given(Texts, Texts)
@example(["x a B ß y x", "a a a"], ["A b SS y", "a a"])
@settings(max_examples=150, deadline=None)
def test_hits_are_those_of_all_pairs(texts: list[str], tests: list[str]) -> None:
    index = TestIndex.of(tests, shortest=2, longest=4)
    hits = index.find(texts)
    owners = index.owners[hits.gram].tolist()
    found = list(zip(hits.text.tolist(), hits.word.tolist(), hits.length.tolist(), owners, strict=True))
    assert found == hits_of_all_pairs(texts, tests, 2, 4)


@given(Texts)
@settings(max_examples=100, deadline=None)
def test_what_stands_at_a_hit_holds_its_words(texts: list[str]) -> None:
    hits = TestIndex.of(texts, shortest=1, longest=3).find(texts)
    for text, word, n, start, end in zip(hits.text, hits.word, hits.length, hits.start, hits.end, strict=True):
        run, there = words(texts[text])[word : word + n], words(texts[text][start:end])
        assert any(there[k : k + n] == run for k in range(len(there)))


def test_places_in_plain_text_are_exact() -> None:
    text = "Think: how MANY eggs, do nine-hens lay? Yes"
    hits = TestIndex.of(["how many eggs do nine hens lay"], shortest=7, longest=13).find([text])
    assert text[hits.start[0] : hits.end[0]] == "how MANY eggs, do nine-hens lay"


def test_characters_that_combine_across_a_border_move_no_word() -> None:
    split = "か\u3099 one two"  # one character after NFKC, two before
    assert words(split) == ["が", "one", "two"]
    assert [split[start:end].strip() for start, end in word_spans(split)] == ["か\u3099", "one", "two"]


def test_every_code_point_is_part_of_a_word_or_not_as_in_words() -> None:
    points = [chr(p) for p in range(0x20, 0x40000) if not 0xD800 <= p < 0xE000]
    kept = [c for c in points if unicodedata.normalize("NFKC", c).casefold() == c]
    text = " ".join(f"{c}q" for c in kept)
    index = TestIndex.of(["q"], shortest=1, longest=1)
    reference = [k for k, word in enumerate(words(text)) if word == "q"]
    assert index.find([text]).word.tolist() == reference


def test_slices_nulls_and_kinds_of_columns_change_nothing() -> None:
    texts = ["nothing", "ä one two three", None, "one two three", ""]
    index = TestIndex.of(["one two three"], shortest=3, longest=3)
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        column = pa.array([*texts[:1], *texts], kind).slice(1)
        assert index.find(column).text.tolist() == [1, 3]
        assert index.find(pa.chunked_array([column.slice(0, 2), column.slice(2)])).text.tolist() == [1, 3]


def test_more_hits_than_there_was_room_for_are_all_found() -> None:
    index = TestIndex.of(["a b"], shortest=2, longest=2)
    assert index.find(["a b " * 3000] * 2).word.tolist() == [*range(0, 6000, 2)] * 2


def test_a_large_index_finds_each_of_its_own_texts_first() -> None:
    tests = [" ".join(f"w{(k * 7 + j) % 997}x{k}" for j in range(9)) for k in range(5000)]
    index = TestIndex.of(tests)
    hits = index.find(tests)
    assert hits.text.tolist() == index.owners[hits.gram].tolist() == list(range(5000))
    assert np.array_equal(hits.length, np.full(5000, 9))


def test_ngrams_longer_than_the_longest_are_refused() -> None:
    with pytest.raises(InputError, match="1 <= shortest <= longest; got 9 and 8"):
        TestIndex.of(["a"], shortest=9, longest=8)
