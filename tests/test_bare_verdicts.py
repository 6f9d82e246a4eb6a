"""Overlap and verdicts: against all-pairs loops, and that neither order nor batch decides who is the copy."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bare import verdicts
from bare.tasks import parse_task, read_seeds
from bare.verdicts import (
    REASONS,
    SeedIndex,
    VerdictConfig,
    check_rows,
    count_reasons,
    find_copies,
    is_refusal,
    reject_copies,
)
from curation import overlap
from curation.errors import InputError
from curation.held_out import TestIndex
from curation.overlap import GramIndex, Grams, nearest, normalised, words

# -- words and n-grams -------------------------------------------------------------------------------------------------


def test_words_know_no_case_no_punctuation_and_no_width() -> None:
    assert words("Don't PANIC — it's ｆｉｎｅ, 3.5!") == ["don", "t", "panic", "it", "s", "fine", "3", "5"]
    assert words("snake_case Straße") == ["snake", "case", "strasse"]
    assert words("我喝茶 tea です") == ["我", "喝", "茶", "tea", "で", "す"]
    assert words("한국어 말") == ["한국어", "말"]
    assert normalised("?!") == "?!" != normalised("...") and normalised("A  b.") == normalised("a, B")


def grams_of(text: str, n: int) -> set[tuple[str, ...]]:
    """The reference: the text's n-grams as tuples of words; all words, where there are fewer than n."""
    w = words(text)
    return {tuple(w[i : i + n]) for i in range(len(w) - n + 1)} or ({tuple(w)} if w else set())


def overlap_of(one: str, other: str, n: int, measure: str) -> float:
    a, b = grams_of(one, n), grams_of(other, n)
    whole = min(len(a), len(b)) if measure == "containment" else len(a | b)
    return len(a & b) / whole if whole else 0.0


Texts = st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=9).map(" ".join), max_size=8)


@given(Texts, Texts, st.integers(1, 4), st.sampled_from(["containment", "jaccard"]))
@settings(max_examples=60, deadline=None)
def test_best_overlap_is_that_of_all_pairs(rows: list[str], others: list[str], n: int, measure: str) -> None:
    index = GramIndex()
    index.add(Grams.of(others[:3], n))
    index.add(Grams.of(others[3:], n))
    best = index.best(Grams.of(rows, n), measure=measure)
    for row, other, share in zip(rows, best.other, best.share, strict=True):
        all_pairs = [overlap_of(row, text, n, measure) for text in others]
        assert share == pytest.approx(max(all_pairs, default=0.0))
        assert other == (all_pairs.index(max(all_pairs)) if share else -1)


def test_blocks_of_any_size_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    rows, others = ([" ".join(rng.choices("abcdef", k=rng.randint(0, 30))) for _ in range(40)] for _ in range(2))
    index = GramIndex()
    index.add(Grams.of(others, 3))
    whole = index.best(Grams.of(rows, 3))
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    near = nearest(vectors, vectors[::-1])
    monkeypatch.setattr(overlap, "_CELLS", 90)
    monkeypatch.setattr(overlap, "_ENTRIES", 5)
    small, near_small = index.best(Grams.of(rows, 3)), nearest(vectors, vectors[::-1])
    assert np.array_equal(whole.other, small.other) and np.array_equal(whole.share, small.share)
    assert np.array_equal(near.other, near_small.other) and np.array_equal(near.share, near_small.share)


def test_an_ngram_of_very_many_texts_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "COMMONEST", 3)
    index = GramIndex()
    index.add(Grams.of(["once upon a time"] * 4 + ["long long ago"], 2))
    assert index.best(Grams.of(["once upon a time", "so long long ago"], 2)).share.tolist() == [0.0, 1.0]


# -- tests sets --------------------------------------------------------------------------------------------------------


def shares_a_run(row: str, tests: Sequence[str], shortest: int, longest: int) -> bool:
    """The reference: every test text by all its runs of `longest` words, or as a whole."""
    mine = words(row)
    for test in tests:
        theirs = words(test)
        n = min(len(theirs), longest)
        if n < shortest:
            continue
        runs = {tuple(theirs[i : i + n]) for i in range(len(theirs) - n + 1)}
        if any(tuple(mine[i : i + n]) in runs for i in range(len(mine) - n + 1)):
            return True
    return False


@given(Texts, Texts)
@settings(max_examples=60, deadline=None)
def test_test_overlap_is_that_of_all_pairs(rows: list[str], tests: list[str]) -> None:
    found = TestIndex.of(tests, shortest=3, longest=5).shared_run(rows)
    assert [run is not None for run in found] == [shares_a_run(row, tests, 3, 5) for row in rows]
    assert all(run is None or run in " ".join(words(row)) for run, row in zip(found, rows, strict=True))


def test_a_test_question_in_a_longer_text_is_found_and_named() -> None:
    test = "How many eggs do nine hens lay in a week?"
    index = TestIndex.of([test, "too short"])
    rows = [f"Think. {test.upper()} Sixty!", "How many eggs do ten hens lay in a week?", "too short"]
    assert index.shared_run(rows) == ["how many eggs do nine hens lay in a week", None, None]
    assert TestIndex.of([]).shared_run(rows) == [None] * 3


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I cannot assist with this request.",
        "Sorry, I can't provide medical advice.",
        "I apologize, but I am unable to create this content.",
        "Unfortunately, I'm not able to write that for you.",
        "I cannot fulfill your request.",
        "I can't assist you with that.",
        "I'm sorry, but I can't continue this conversation.",
        "As an AI language model, I do not have opinions.",
        "As an AI, I can't have a body.",
        "I am a large language model, trained to be safe.",
        "  **I'm really sorry**, but as much as I'd like to, I won't be able to help you with this.",
    ],
)
def test_a_refusal_is_seen(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "I'm sorry, but I can't make it to the game on Friday.",
        "Sorry for the long post, but I can't get X to start on my Sun.",
        "I can't help thinking that the launch was faked.",
        "I'm sorry, but I can't help but laugh at this.",
        "I am sorry that I couldn't answer sooner, my site was down.",
        "I cannot believe that they traded him!",
        "I can't afford a new monitor.",
        "Unfortunately, I sold mine last week.",
        "Sorry, I don't agree with that at all.",
        "Question: Ann says: I'm sorry, but I can't help with that. How many words does she say?",
        "As an airline pilot, I see this often.",
        "As an example, I took two cards from the deck.",
        "Unfortunately, I can't give an exact figure.",
        "Sorry, I can't provide a reference off hand.",
        "I'm afraid I can't answer for everybody here.",
        "I won't write to them again.",
        "I am an AIDS researcher and want to ask about this drug.",
    ],
)
def test_people_who_apologise_or_cannot_do_not_refuse(text: str | None) -> None:
    assert not is_refusal(text)


# -- a row by itself ---------------------------------------------------------------------------------------------------

TASK = parse_task("""
name: posts
description: These are posts.
opening: "[post]"
closing: "[/post]"
fields:
  - {name: group, marker: "Group:", check: choice, choices: [space, autos]}
  - {name: post, marker: "Post:", min_chars: 5}
label: {field: group}
refine: Improve it.
judge: Which is worst?
""")
SEEDS = read_seeds(TASK, [
    {"group": "space", "post": "the probe sent back its first pictures of the far side today"},
    {"group": "autos", "post": "my old engine stalls whenever the road gets steep and wet"},
])  # fmt: skip
CONFIG = VerdictConfig(ngram=3)


def rows_of(*texts: str | None, finish: str = "stop", label: str | None = None) -> pd.DataFrame:
    return pd.DataFrame({"row_id": [f"r{i}" for i in range(len(texts))], "text": list(texts),
                         "finish_reason": [finish if t is not None else "error" for t in texts], "label": label})  # fmt: skip


def item(post: str, group: str = "space") -> str:
    return f"[post]\nGroup: {group}\nPost: {post}\n[/post]"


def test_a_row_has_the_first_reason_that_holds() -> None:
    test = "what does the tower of the old harbour measure from base to top"
    seeds = SeedIndex.of(TASK, SEEDS, CONFIG)
    rows = rows_of(
        None,
        "I'm sorry, but I can't help with that.",
        item("I'm sorry, but I can't assist with this request."),
        "Group: space",
        item("one two three four", "boats"),
        "gibberish",
        item("my own words about the rings of a planet"),
        item("My OLD engine stalls, whenever the road gets steep and wet!"),
        item("today my old engine stalls whenever the road gets steep"),
        item(f"tell me {test}"),
        item("my old engine stalls whenever the road gets steep and wet", "autos"),
    )
    rows["label"] = ["space"] * 10 + ["space"]
    out = check_rows(rows, task=TASK, seeds=seeds, tests=TestIndex.of([test]), config=CONFIG)
    assert out["reason"].tolist() == [
        "generation_failed", "refused", "refused", "field_missing", "check_failed", "not_parsed", None,
        "copy_of_seed", "copy_of_seed", "test_overlap", "label_changed",
    ]  # fmt: skip
    autos = next(s.seed_id for s in SEEDS.seeds if s.label == "autos")
    assert out["matched_id"].tolist()[7:9] == [autos] * 2 and out["matched_by"].tolist()[7:9] == ["exact", "ngrams"]
    assert out["fields"][6] == {"group": "space", "post": "my own words about the rings of a planet"}
    assert out["item"][6] == "my own words about the rings of a planet" and out["item"][0] is None
    assert "from space to autos" in out["detail"][10] and test in out["detail"][9]
    truncated = check_rows(rows_of("[post]\nGroup: space\nPost: and then", finish="length"), task=TASK, seeds=seeds)
    assert truncated["reason"].tolist() == ["truncated"]
    assert set(out["reason"].dropna()) | {"truncated", "copy_of_row"} == set(REASONS)


def test_a_rows_verdict_by_itself_is_the_same_in_any_batch() -> None:
    seeds = SeedIndex.of(TASK, SEEDS, CONFIG)
    rows = rows_of(*[item(f"post number {i} on things") for i in range(9)], "what?", None)
    whole = check_rows(rows, task=TASK, seeds=seeds, config=CONFIG)
    parts = [check_rows(rows.iloc[i : i + 4], task=TASK, seeds=seeds, config=CONFIG) for i in range(0, 11, 4)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert check_rows(rows.iloc[:0], task=TASK, seeds=seeds).columns.tolist() == list(verdicts.COLUMNS)


def test_a_drafts_label_is_the_one_that_the_prompt_wrote() -> None:
    seeds = SeedIndex.of(TASK, SEEDS, CONFIG)
    out = check_rows(rows_of("\nPost: of comets and tails\n", label="space"), task=TASK, seeds=seeds, drafts=True)
    assert out["reason"].tolist() == [None] and out["fields"][0]["group"] == "space"


def test_a_copy_of_a_seed_is_seen_by_its_embedding_last() -> None:
    vectors = np.eye(2)
    seeds = SeedIndex.of(TASK, SEEDS, CONFIG, vectors=vectors)
    rows = rows_of(item("quite another wording of the same"), item("something else altogether here"))
    out = check_rows(rows, task=TASK, seeds=seeds, config=CONFIG, vectors=[[0.2, 1.99], [np.nan, np.nan]])
    assert out["reason"].tolist() == ["copy_of_seed", None] and out["matched_by"][0] == "embedding"
    assert out["matched_id"][0] == SEEDS.seeds[1].seed_id
    later = reject_copies(check_rows(rows, task=TASK, seeds=seeds, config=CONFIG), seeds=seeds, vectors=[[0.2, 1.99], [1.0, 1.0]])
    pd.testing.assert_frame_equal(later, out)  # embedded before or after, a copy of a seed is one
    with pytest.raises(InputError, match="2 rows need as many vectors"):
        check_rows(rows, task=TASK, seeds=seeds, vectors=[[1.0, 0.0]])


# -- copies of rows ----------------------------------------------------------------------------------------------------


def copies_by_pairs(texts: Sequence[str], order: Sequence[str], vectors: np.ndarray | None, fixed: Sequence[bool], config: VerdictConfig) -> list[tuple[int, str | None]]:
    """The reference: one row after another, against each that is kept."""
    result: list[tuple[int, str | None]] = [(-1, None)] * len(texts)
    kept: list[int] = []
    for row in sorted(range(len(texts)), key=lambda i: (not fixed[i], order[i])):
        found: tuple[int, str | None] = (-1, None)
        if not fixed[row]:
            same = [k for k in kept if normalised(texts[k]) == normalised(texts[row])]
            shares = [overlap_of(texts[row], texts[k], config.ngram, config.measure) for k in kept]
            cosines = [0.0] * len(kept) if vectors is None else [round(float(vectors[row] @ vectors[k]), 9) for k in kept]
            if same:
                found = (same[0], "exact")
            elif kept and max(shares) >= config.overlap:
                found = (kept[shares.index(max(shares))], "ngrams")
            elif kept and max(cosines) >= config.cosine:
                found = (kept[cosines.index(max(cosines))], "embedding")
        if found[0] < 0:
            kept.append(row)
        result[row] = found
    return result


def random_rows(seed: int, count: int) -> tuple[list[str], list[str], np.ndarray]:
    rng = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = rng.choices("abcdefgh", k=rng.randint(0, 12))
        if texts and rng.random() < 0.5:  # a changed copy of an earlier one
            text = rng.choice(texts).split()
            if text and rng.random() < 0.7:
                text[rng.randrange(len(text))] = rng.choice("abcdefgh")
        texts.append(" ".join(text))
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return texts, [f"{rng.random():.12f}" for _ in range(count)], vectors


@pytest.mark.parametrize("measure", ["containment", "jaccard"])
@pytest.mark.parametrize("block", [1, 7, 512])
def test_copies_are_those_of_one_row_after_another(measure: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "BLOCK", block)
    config = VerdictConfig(ngram=2, overlap=0.5, measure=measure, cosine=0.97)
    for seed in range(4):
        texts, order, vectors = random_rows(seed, 60)
        fixed = np.arange(60) % 5 == 0
        for with_vectors in (None, vectors):
            found = find_copies(texts, order, config=config, vectors=with_vectors, accepted=fixed)
            expected = copies_by_pairs(texts, order, with_vectors, fixed.tolist(), config)
            assert list(zip(found.of.tolist(), found.by.tolist(), strict=True)) == expected
            assert {"exact", "ngrams"} <= set(found.by) and (with_vectors is None or "embedding" in set(found.by))


def test_the_order_of_input_changes_no_verdict() -> None:
    texts, order, vectors = random_rows(9, 80)
    shuffled = np.random.default_rng(1).permutation(80)
    one = find_copies(texts, order, config=VerdictConfig(ngram=2), vectors=vectors)
    two = find_copies([texts[i] for i in shuffled], [order[i] for i in shuffled], config=VerdictConfig(ngram=2), vectors=vectors[shuffled])
    assert np.array_equal(np.where(two.of >= 0, shuffled[two.of], -1), one.of[shuffled])


def test_waves_in_the_order_of_their_keys_end_as_one_wave() -> None:
    texts, order, _ = random_rows(5, 60)
    order = sorted(order)
    whole = find_copies(texts, order, config=VerdictConfig(ngram=2)).of < 0
    first = find_copies(texts[:30], order[:30], config=VerdictConfig(ngram=2)).of < 0
    kept = np.flatnonzero(first)
    second = find_copies(
        [texts[i] for i in kept] + texts[30:], [order[i] for i in kept] + order[30:], config=VerdictConfig(ngram=2),
        accepted=np.arange(len(kept) + 30) < len(kept),
    ).of < 0  # fmt: skip
    assert np.array_equal(whole, np.concatenate([first, second[len(kept) :]]))


def test_a_thousand_copies_of_one_row_are_one_row() -> None:
    found = find_copies(["The same again and again."] * 1_000, [f"{i:04d}" for i in range(1_000)][::-1])
    assert np.flatnonzero(found.of < 0).tolist() == [999] and set(found.by[:999]) == {"exact"}


def test_two_rows_of_one_key_are_refused() -> None:
    with pytest.raises(InputError, match="a key of its own"):
        find_copies(["a", "b"], ["k", "k"])


def test_rejected_rows_have_no_copies_and_accepted_ones_stay() -> None:
    seeds = SeedIndex.of(TASK, SEEDS, CONFIG)
    same = "a comet passed the sun and lost its tail"
    checked = check_rows(rows_of(item(same, "boats"), item(same), item(same + "!"), item("rust eats the door of my old car")), task=TASK, seeds=seeds, config=CONFIG)
    out = reject_copies(checked, config=CONFIG)
    assert out["reason"].tolist() == ["check_failed", None, "copy_of_row", None]
    assert out["matched_id"][2] == "r1"
    accepted = pd.DataFrame({"row_id": ["z9"], "item": [f"indeed {same}"]})
    later = reject_copies(checked, config=CONFIG, accepted=accepted)
    assert later["reason"].tolist() == ["check_failed", "copy_of_row", "copy_of_row", None]
    stored = checked.iloc[:, ::-1].assign(matched_id=np.nan, matched_by=np.nan, overlap=None, wave=1)  # as a table may give it
    pd.testing.assert_frame_equal(reject_copies(stored, config=CONFIG, accepted=accepted)[list(verdicts.COLUMNS)].fillna("-"), later.fillna("-"))
    assert later["matched_id"].tolist()[1:3] == ["z9", "z9"] and later["matched_by"][1] == "ngrams"
    assert checked["reason"].tolist() == ["check_failed", None, None, None]  # the caller's frame is as it was
    with pytest.raises(InputError, match="give both or neither"):
        reject_copies(checked, accepted=accepted, vectors=np.eye(4))


def test_reasons_are_counted_in_their_order() -> None:
    assert count_reasons([None, "copy_of_row", "refused", None, "copy_of_row"]) == {"accepted": 2, "refused": 1, "copy_of_row": 2}
    assert list(count_reasons(["copy_of_row", "refused"])) == ["accepted", "refused", "copy_of_row"]
    assert list(count_reasons(["rejected_in_review", "copy_of_row"])) == ["accepted", "copy_of_row", "rejected_in_review"]
    assert "rejected_in_review" not in REASONS
    with pytest.raises(InputError, match="'ugly' is no reason"):
        count_reasons(["ugly"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"ngram": 0}, "ngram"), ({"overlap": 0.0}, "overlap"), ({"cosine": 1.5}, "cosine"), ({"measure": "dice"}, "measure"),
     ({"shortest_test": 14}, "shortest_test")],
)  # fmt: skip
def test_settings_that_break_a_rule_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VerdictConfig(**wrong)  # type: ignore[arg-type]
