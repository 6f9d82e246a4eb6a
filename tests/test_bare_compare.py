"""The A/B against slow, obvious references: how arms are cut, what is counted, and what compares with what."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bare import metrics
from bare.compare import COLUMNS, Arm, ComparisonRow, as_table, compare, equal_cost, equal_rows, in_order, shown
from bare.metrics import measure_rows
from bare.reading import READINGS, moves_with_rows, reading
from bare.tables import COMPARISONS
from curation.errors import InputError
from curation.statistics import wilson


def arm(name: str, accepted: str, costs: list[float | None] | None = None, *, real: bool = False, seed: int = 0, **columns: Any) -> Arm:
    """An arm from a word of y and n, a letter for each draft."""
    n = len(accepted)
    rng = np.random.default_rng(seed)
    vectors = rng.normal(1.0, size=(n, 4))
    spent: Any = costs if costs is not None else [None if real else 1.0] * n
    rows = {
        "row_id": [f"{name}{i}" for i in range(n)],
        "text": [" ".join(f"w{w}" for w in rng.integers(0, 30, size=8)) for _ in range(n)],
        "label": ["ab"[i % 2] for i in range(n)],
        "embedding": [list(v) if kept == "y" else None for v, kept in zip(vectors, accepted, strict=True)],
        "accepted": [kept == "y" for kept in accepted],
        "cost": spent,
        "tokens": [None if real else 100.0 + i for i in range(n)],
        "seconds": [None if real else 0.5] * n,
        "judged": [None] * n,
        **columns,
    }
    return Arm(name, pd.DataFrame(rows), real=real)


def figures(rows: list[ComparisonRow], basis: str) -> dict[tuple[str, str], ComparisonRow]:
    found = {(row.arm, row.measure): row for row in rows if row.basis == basis}
    assert len(found) == sum(row.basis == basis for row in rows)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "HALVES", 10)


# -- equal what --------------------------------------------------------------------------------------------------------

Words = st.lists(st.text("yn", min_size=1, max_size=25), min_size=1, max_size=4)


@given(Words)
@settings(deadline=None, max_examples=25)
def test_equal_rows_cuts_each_arm_where_it_reached_the_smallest_number(words: list[str]) -> None:
    arms = [arm(f"a{i}", word) for i, word in enumerate(words)]
    there = [word.count("y") for word in words if "y" in word]
    if not there:
        with pytest.raises(InputError, match="no arm accepted a row"):
            equal_rows(arms)
        return
    for cut, word in zip(equal_rows(arms), words, strict=True):
        kept = "".join("y" if a else "n" for a in cut.accepted)
        if "y" not in word:
            assert kept == word  # it stays whole, as what it cost for nothing
            continue
        slow = ""  # draft by draft, until there are enough
        while slow.count("y") < min(there):
            slow += word[len(slow)]
        assert kept == slow


Spending = st.lists(st.integers(0, 20), min_size=1, max_size=20)


@given(st.lists(Spending, min_size=1, max_size=4))
@settings(deadline=None, max_examples=25)
def test_equal_cost_cuts_each_arm_at_the_whole_spending_of_the_cheapest(spendings: list[list[int]]) -> None:
    arms = [arm(f"a{i}", "y" * len(each), [each_ / 10 for each_ in each]) for i, each in enumerate(spendings)]
    arms.append(arm("real", "yyy", real=True))
    budget = min(sum(each) for each in spendings)
    if not budget:
        with pytest.raises(InputError, match=r"it took no cost, so there is none to be equal at; compare by tokens or seconds"):
            equal_cost(arms)
        return
    *cuts, real = equal_cost(arms)
    assert len(real.rows) == 3
    for cut, each in zip(cuts, spendings, strict=True):
        spent, drafts = 0, 0  # draft by draft, as long as the budget lasts
        while drafts < len(each) and spent + each[drafts] <= budget:
            spent, drafts = spent + each[drafts], drafts + 1
        assert len(cut.rows) == drafts
    assert any(len(cut.rows) == len(each) and sum(each) == budget for cut, each in zip(cuts, spendings, strict=True))


def test_costs_are_by_any_unit_and_an_unknown_one_is_named() -> None:
    known, unknown = arm("known", "yyyy", [1.0, 1.0, 1.0, 1.0]), arm("unknown", "yyy", [1.0, None, 1.0])
    with pytest.raises(InputError, match=r"arm unknown: the cost of 1 of its 3 rows isn't known, .* compare by tokens or seconds"):
        equal_cost([known, unknown])
    assert [len(cut.rows) for cut in equal_cost([known, unknown], unit="tokens")] == [3, 3]
    with pytest.raises(InputError, match="real rows alone have no cost"):
        equal_cost([arm("real", "yy", real=True)])
    with pytest.raises(InputError, match="one of cost, tokens, seconds; got 'money'"):
        equal_cost([known], unit="money")  # type: ignore[arg-type]


# -- the figures -------------------------------------------------------------------------------------------------------


def test_rejected_rows_are_paid_for_and_rows_after_the_cut_are_not() -> None:
    cheap, dear = arm("cheap", "nynynyny" * 4), arm("dear", "y" * 10 + "n" * 90, [3.0] * 100)
    found = figures(compare([cheap, dear], units=["cost", "tokens"]), "equal_rows")
    assert found["cheap", "accepted_rows"] == ComparisonRow("equal_rows", "cheap", "accepted_rows", 10.0, None, None, 20)
    assert found["cheap", "drafts"].value == 20 and found["dear", "drafts"].value == 10
    assert found["cheap", "cost_per_accepted"].value == 2.0 and found["dear", "cost_per_accepted"].value == 3.0
    assert found["dear", "cost_per_accepted"].high == 3.0  # each costs the same and all are accepted: nothing varies
    assert found["cheap", "tokens_per_accepted"].value == sum(100 + i for i in range(20)) / 10
    share = found["cheap", "acceptance"]
    assert (share.value, share.low, share.high, share.n) == (0.5, *wilson(10, 20), 20)
    low, high = found["cheap", "cost_per_accepted"].low, found["cheap", "cost_per_accepted"].high
    assert low is not None and high is not None and 1.3 < low < 2.0 < high < 4.0


def test_at_equal_cost_the_rows_that_it_buys_are_a_figure_with_an_interval() -> None:
    rows = compare([arm("often", "yyyn" * 10), arm("seldom", "nnny" * 20)])
    found = figures(rows, "equal_cost")
    often, seldom = found["often", "accepted_rows"], found["seldom", "accepted_rows"]
    assert (often.value, seldom.value, often.n, seldom.n) == (30, 10, 40, 40)
    for row in (often, seldom):
        assert row.low is not None and row.high is not None and row.value is not None
        assert 0 < row.low < row.value < row.high
        taken = found[row.arm, "cost_per_accepted"]
        assert taken.high is not None and row.low == pytest.approx(40 / taken.high)
    assert figures(rows, "equal_rows")["often", "accepted_rows"].low is None


def test_measures_are_taken_on_equally_many_rows_at_every_basis() -> None:
    often, seldom, real = arm("often", "yyyn" * 10), arm("seldom", "nnny" * 20, seed=1), arm("real", "y" * 25, real=True, seed=2)
    rows = compare([often, seldom, real], units=["cost", "seconds"])
    assert {row.basis for row in rows} == {"equal_rows", "equal_cost", "equal_seconds"}
    for basis, common in (("equal_rows", 20), ("equal_cost", 10), ("equal_seconds", 10)):
        found = figures(rows, basis)
        for (_, measure), row in found.items():
            if measure in {m.name for m in READINGS if m.kind == "diversity"}:
                assert row.n == common
        # The slow way: the first rows of each arm, taken by hand.
        for each in (often, seldom, real):
            mine = each.rows[each.rows["accepted"]].head(common)
            expected = measure_rows(list(mine["row_id"]), list(mine["text"]), np.array(list(mine["embedding"])), labels=list(mine["label"]))
            for m in expected:
                row = found[each.name, m.name]
                assert (row.value, row.low, row.high, row.n) == (m.value, m.low, m.high, m.n)


def test_real_rows_have_neither_cost_nor_acceptance() -> None:
    rows = compare([arm("made", "yyyyyn"), arm("real", "yyyyyyy", real=True)])
    of_real = {row.measure for row in rows if row.arm == "real"}
    assert "accepted_rows" in of_real and "mean_cosine" in of_real
    assert not of_real & {"drafts", "acceptance", "cost_per_accepted", "indistinguishability", "judge_abstained"}


def test_the_judges_rate_counts_accepted_rows_alone_and_abstentions_apart() -> None:
    judged = ["missed", "found", "abstained", "missed", "missed", None]
    found = figures(compare([arm("a", "yyyynn", judged=judged), arm("b", "yyyyyy")]), "equal_rows")
    rate, apart = found["a", "indistinguishability"], found["a", "judge_abstained"]
    assert (rate.value, rate.low, rate.high, rate.n) == (2 / 3, *wilson(2, 3), 3)
    assert (apart.value, apart.n) == (0.25, 4)
    assert found["b", "indistinguishability"] == ComparisonRow("equal_rows", "b", "indistinguishability", None, None, None, 0)


def test_an_arm_that_accepted_none_is_shown_with_what_it_cost() -> None:
    found = figures(compare([arm("good", "yynyyy"), arm("bad", "nnnnnn")]), "equal_rows")
    assert found["bad", "drafts"].value == 6 and found["bad", "accepted_rows"].value == 0
    assert found["bad", "acceptance"].value == 0 and found["bad", "cost_per_accepted"].value is None
    assert ("bad", "mean_cosine") not in found and found["good", "mean_cosine"].n == 5


def test_unknown_spending_is_no_spending_of_nothing() -> None:
    found = figures(compare([arm("a", "yyyyy", [1.0, None, 1.0, 1.0, 1.0])], units=["tokens"]), "equal_rows")
    assert found["a", "cost_per_accepted"].value is None and found["a", "tokens_per_accepted"].value == 102


def test_nullable_columns_of_pandas_are_read_as_well() -> None:
    plain = arm("a", "yynyy", [1.0, None, 1.0, 1.0, 1.0])
    types = {"cost": "Float64", "tokens": "Int64", "accepted": "boolean", "label": "string", "judged": "string"}
    rows = plain.rows.assign(tokens=[1, None, 2, 3, 4])
    assert compare([Arm("a", rows.astype(types))], units=["seconds"]) == compare([Arm("a", rows)], units=["seconds"])


def test_labels_count_only_where_all_accepted_rows_have_one() -> None:
    labelled, without = arm("a", "yyyyyyyy"), arm("b", "yyyyyyyy", label=[None, *"abababa"])
    assert any(row.measure == "label_distance" for row in compare([labelled], wanted={"a": 0.5, "b": 0.5}))
    both = {row.measure for row in compare([labelled, without], wanted={"a": 0.5, "b": 0.5})}
    assert not both & {"label_distance", "mean_cosine_within"}


def test_arms_are_left_as_they_were_and_come_out_the_same_again() -> None:
    arms = [arm("a", "yynyyyny"), arm("b", "ynyyyyyn", seed=3)]
    before = [each.rows.copy(deep=True) for each in arms]
    assert compare(arms) == compare(arms)
    for each, copy in zip(arms, before, strict=True):
        pd.testing.assert_frame_equal(each.rows, copy)


def test_rows_fit_the_table_of_comparisons() -> None:
    names = [field.split()[0] for field in COMPARISONS.schema.split(", ")]
    assert {field.name for field in dataclasses.fields(ComparisonRow)} <= set(names)
    rows = compare([arm("a", "yyyyy"), arm("b", "ynyyyy")])
    keys = [(row.basis, row.arm, row.measure) for row in rows]
    assert len(set(keys)) == len(keys)
    for row in rows:
        assert row.value is None or (isinstance(row.value, float) and math.isfinite(row.value))
        if row.value is not None and row.low is not None:
            assert row.low <= row.value and (row.high is None or row.value <= row.high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_id": ["x", "x", "y"]}, "arm a: row x is there twice"),
        ({"accepted": [True, None, False]}, "a row has no verdict yet"),
        ({"judged": ["missed", "right", None]}, "judged must be one of missed, found, abstained; got 'right'"),
        ({"cost": [1.0, -2.0, 1.0]}, "cost must be 0 or more; got -2"),
        ({"embedding": [[1.0], None, None]}, "the accepted row a1 has no embedding; embed it first"),
    ],
)
def test_an_arm_that_breaks_a_rule_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Arm("a", arm("a", "yyn").rows.assign(**change))


def test_arms_need_all_columns_names_of_their_own_and_accepted_real_rows() -> None:
    with pytest.raises(InputError, match="have no column judged; they have"):
        Arm("a", arm("a", "y").rows[list(COLUMNS[:-1])])
    with pytest.raises(InputError, match="a name of its own; got a, a"):
        compare([arm("a", "y"), arm("a", "y")])
    with pytest.raises(InputError, match="a name of its own; got none"):
        compare([])
    with pytest.raises(InputError, match="real rows are all accepted"):
        arm("real", "yn", real=True)


# -- to look at --------------------------------------------------------------------------------------------------------


def test_rows_of_a_table_come_back_in_the_order_of_the_comparison() -> None:
    rows = compare([arm("real", "yyyy", real=True), arm("bare", "yynyy"), arm("mine", "yyyyn")], units=["cost", "tokens"])
    for seed in range(3):
        mixed = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        ordered = in_order(mixed, arms=("real", "bare"))
        assert sorted(map(repr, ordered)) == sorted(map(repr, rows))
        assert list(dict.fromkeys(r.basis for r in ordered)) == list(dict.fromkeys(r.basis for r in rows))
        assert list(dict.fromkeys(r.arm for r in ordered)) == ["real", "bare", "mine"]
        assert ordered == in_order(reversed(mixed), arms=("real", "bare"))


def test_the_table_shows_every_figure_of_every_arm() -> None:
    rows = compare([arm("base [only]", "yynyy"), arm("real", "yyyyy", real=True)])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table(rows))
    text = console.export_text()
    assert "base [only]" in text and "At equal accepted rows" in text and "At equal cost" in text
    for row in rows:
        assert shown(row) in text and reading(row.measure).title in text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (ComparisonRow("b", "a", "acceptance", 0.5, 0.25, 0.75, 4), "50.0% [25.0%, 75.0%]"),
        (ComparisonRow("b", "a", "accepted_rows", 1200.0, 1100.2, 1300.1, 4), "1,200 [1,100, 1,301]"),
        (ComparisonRow("b", "a", "accepted_rows", 1200.0, None, None, 4), "1,200"),
        (ComparisonRow("b", "a", "accepted_rows", 12.0, 3.0, None, 4), "12 [3, ∞]"),
        (ComparisonRow("b", "a", "cost_per_accepted", 0.5, 0.25, None, 4), "0.500 [0.250, ∞]"),
        (ComparisonRow("b", "a", "mean_cosine", None, None, None, 0), "–"),
    ],
)
def test_a_figure_is_shown_with_its_interval(row: ComparisonRow, text: str) -> None:
    assert shown(row) == text


def test_every_measure_has_a_reading() -> None:
    x = np.random.default_rng(0).normal(size=(8, 3))
    texts = [f"w{i} w{i + 1} same" for i in range(8)]
    ids = [str(i) for i in range(8)]
    measured = measure_rows(ids, texts, x, labels=["a", "b"] * 4, wanted={"a": 0.5, "b": 0.5}, drafts=x, seeds=x, clusters=metrics.fit_clusters(x, ids))
    known = {each.name: each for each in READINGS}
    assert len(known) == len(READINGS) and {m.name for m in measured} <= set(known)
    for each in READINGS:
        assert each.text.endswith(".") and each.title[0].isupper()
    assert moves_with_rows("vendi") and not moves_with_rows("mean_cosine")
    assert reading("some_new_measure").title == "Some new measure"
    assert reading("mean_cosine").heading == "Mean cosine (lower is better)"
