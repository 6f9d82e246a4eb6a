"""The cut against a plain sort with a running sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from curation import cutting
from curation.cutting import Cut, find_cut, find_cuts, keep, keep_groups
from curation.errors import InputError

Row = tuple[float, str, int]
SCHEMA = "key double, id string, weight bigint"


def cut_by_sorting(rows: Sequence[Row], budget: int) -> Cut:
    """Independent reference: sort everything, add up, stop before the first row that doesn't fit."""
    ordered = sorted(rows, key=lambda r: (-r[0], r[1].encode()))
    kept: list[Row] = []
    for _, same in groupby(ordered, key=lambda r: (r[0], r[1])):
        unit = list(same)
        if sum(r[2] for r in kept) + sum(r[2] for r in unit) > budget:
            break
        kept += unit
    last = kept[-1] if kept else (None, None, 0)
    return Cut(last[0], last[1], len(kept), sum(r[2] for r in kept), len(rows), sum(r[2] for r in rows))


def frame(spark: SparkSession, rows: Sequence[Row]) -> DataFrame:
    return spark.createDataFrame(list(rows), SCHEMA)


def cut(rows: DataFrame, budget: int) -> Cut:
    return find_cut(rows, key="key", id="id", weight="weight", budget=budget)


def budgets_of(rows: Sequence[Row]) -> list[int]:
    """Budgets worth trying: none, the edges of some prefixes, one off them, everything, more than that."""
    ordered = sorted(rows, key=lambda r: (-r[0], r[1].encode()))
    total = sum(r[2] for r in rows)
    prefix = sum(r[2] for r in ordered[: len(ordered) // 3])
    return sorted({0, ordered[0][2], prefix - 1, prefix, prefix + 1, total - 1, total, total + 1} - {-1})


EXTREMES = [math.inf, 1.7976931348623157e308, 1e300, 1.0, math.nextafter(1.0, 0), 1e-300, 5e-324, 1e-323, 0.0, -0.0]
CASES: dict[str, list[Row]] = {
    "one_row": [(0.5, "a", 7)],
    "one_row_without_weight": [(0.5, "a", 0)],
    "all_keys_equal": [(0.25, f"{i * 7919 % 1000:03d}", i % 5) for i in range(300)],
    "three_keys": [((i * 31 % 3) / 3, f"doc{i:04d}", 1 + i % 7) for i in range(300)],
    "extremes": [(sign * x, f"{i}{sign}", 3 + i) for i, x in enumerate(EXTREMES) for sign in (1, -1)],
    "both_zeros_are_one_key": [(0.0 if i % 3 else -0.0, f"z{i * 37 % 100:02d}", 2) for i in range(100)],
    "zero_weights": [((i * 13 % 50) / 50, f"w{i:03d}", 0 if i % 2 else 3) for i in range(200)],
    "clustered": [(0.9 + i * 2.0**-53, f"c{i:03d}", 1 + i % 3) for i in range(200)],
    "skewed": [(math.exp(-((i * 17 % 97) ** 1.4)), f"s{i:03d}", 10 ** (i % 6)) for i in range(200)],
    "ids_of_all_lengths": [(1.0, "é𝄞a"[: i % 4] + "x" * (i // 4) + "\0" * (i % 3), 1 + i % 2) for i in range(120)],
    "ids_with_a_long_common_start": [(1.0, f"https://example.org/pages/{i * 7919 % 500:06d}", 5) for i in range(200)],
}


SPLIT = ("three_keys", "extremes", "both_zeros_are_one_key", "skewed", "ids_of_all_lengths",
         "ids_with_a_long_common_start")


@pytest.mark.connect
@pytest.mark.parametrize("split", [False, True], ids=["sorted_by_the_driver", "split_to_the_last_rows"])
def test_cut_is_that_of_a_plain_sort(spark: SparkSession, split: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cases and budgets at once: each is a group of one frame.

    Split: tiny bins and a tiny last sort take small data through every pass that large data needs.
    """
    wanted = {(name, budget) for name, case in CASES.items() for budget in budgets_of(case)}
    if split:
        wanted = {(name, 2 * sum(r[2] for r in CASES[name]) // 5) for name in SPLIT}
        monkeypatch.setattr(cutting, "SORTED_ROWS", 5 * len(wanted))
        monkeypatch.setattr(cutting, "BINS", 16 * len(wanted))
        monkeypatch.setattr(cutting, "_OCTAVE", 2)
        monkeypatch.setattr(cutting, "_INFINITY", 2 * 1_025)
        monkeypatch.setattr(cutting, "_STEPS", 32)
    rows, budgets, expected = [], {}, {}
    for name, budget in sorted(wanted):
        group = f"{name} {budget}"
        rows += [(group, *row) for row in CASES[name]]
        budgets[group] = budget
        expected[group] = cut_by_sorting(CASES[name], budget)
    all_rows = spark.createDataFrame(rows, f"group string, {SCHEMA}").repartition(3)
    found = find_cuts(all_rows, key="key", id="id", weight="weight", group="group", budgets=budgets)
    assert found == expected

    kept = keep_groups(all_rows, found, group="group", key="key", id="id")
    sums = kept.groupBy("group").agg(F.count("*").alias("n"), F.sum("weight").alias("w")).collect()
    assert {r["group"]: (r["n"], r["w"]) for r in sums} == {
        group: (c.kept_rows, c.kept_weight) for group, c in expected.items() if c.kept_rows
    }


@pytest.mark.connect
def test_partitions_and_order_change_no_cut(spark: SparkSession) -> None:
    rows = CASES["three_keys"] + CASES["clustered"]
    expected = cut_by_sorting(rows, 500)
    assert cut(frame(spark, rows).coalesce(1), 500) == expected
    assert cut(frame(spark, rows[::-1]).repartition(7, "id"), 500) == expected
    kept = keep(frame(spark, rows), expected, key="key", id="id").collect()
    assert sorted(tuple(r) for r in kept) == sorted(sorted(rows, key=lambda r: (-r[0], r[1]))[: expected.kept_rows])


@pytest.mark.connect
def test_heavy_ties_are_cut_by_id(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 rows with three keys, and a driver that may sort 1,000."""
    monkeypatch.setattr(cutting, "SORTED_ROWS", 1_000)
    rows = spark.range(100_000).select(
        (F.col("id") % 3 / 4).alias("key"), F.sha2(F.col("id").cast("string"), 256).alias("id"),
        (F.col("id") % 5).alias("weight"))
    plain = [(r["key"], r["id"], r["weight"]) for r in rows.collect()]
    assert cut(rows, 90_001) == cut_by_sorting_fast(plain, 90_001)


def cut_by_sorting_fast(rows: Sequence[Row], budget: int) -> Cut:
    """The reference for unique ids: one running sum."""
    kept = weight = 0
    ordered = sorted(rows, key=lambda r: (-r[0], r[1]))
    for row in ordered:
        if weight + row[2] > budget:
            break
        kept, weight = kept + 1, weight + row[2]
    return Cut(*ordered[kept - 1][:2], kept, weight, len(rows), sum(r[2] for r in rows))


def test_rows_of_one_key_and_id_stay_together(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "SORTED_ROWS", 2)
    rows: list[Row] = [(1.0, "a", 1), (0.5, "b", 1), (0.5, "c", 1), (0.5, "c", 1), (0.5, "c", 1), (0.5, "d", 1)]
    assert cut(frame(spark, rows), 4) == cut_by_sorting(rows, 4) == Cut(0.5, "b", 2, 2, 6, 6)


def test_no_rows_and_no_room_keep_nothing(spark: SparkSession) -> None:
    nothing = cut(frame(spark, CASES["one_row"]).where("false"), 5)
    assert nothing == Cut(None, None, 0, 0, 0, 0)
    assert keep(frame(spark, CASES["one_row"]), nothing, key="key", id="id").count() == 0


def test_count_of_rows_is_a_budget_too(spark: SparkSession) -> None:
    found = find_cut(frame(spark, CASES["zero_weights"]), key="key", id="id", weight=F.lit(1), budget=17)
    assert (found.kept_rows, found.kept_weight, found.weight) == (17, 17, 200)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((math.nan, "a", 1), "score is null or NaN in 1 rows"),
        ((None, "a", 1), "score is null or NaN in 1 rows"),
        ((0.5, None, 1), "doc_id is null in 1 rows"),
        ((0.5, "a", -1), "tokens is null or below 0 in 1 rows"),
        ((0.5, "a", None), "tokens is null or below 0 in 1 rows"),
    ],
)
def test_values_without_an_order_are_refused_by_name(
    spark: SparkSession, row: tuple[float | None, str | None, int | None], message: str
) -> None:
    rows = spark.createDataFrame([(0.5, "b", 1), row], "score double, doc_id string, tokens bigint")
    with pytest.raises(InputError, match=message):
        find_cut(rows, key="score", id="doc_id", weight="tokens", budget=1)


def test_zero_of_either_sign_is_found_in_parquet(spark: SparkSession, tables_root: str) -> None:
    """Parquet drops row groups by dictionaries in which -0.0 stands below 0.0."""
    rows: list[Row] = [(-0.0, f"{i:04d}", 1) for i in range(1_000)]
    frame(spark, rows).coalesce(1).write.parquet(tables_root)
    stored = spark.read.parquet(tables_root)
    found = cut(stored, 10)
    assert found == Cut(0.0, "0009", 10, 10, 1_000, 1_000)
    assert keep(stored, found, key="key", id="id").count() == 10


Keys = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, -0.0, 0.5, 1.0]))


@given(
    st.lists(st.tuples(Keys, st.text("abé", max_size=2), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(0, 150),
    st.lists(Keys, max_size=4),
)
def test_bins_of_any_borders_lead_to_the_same_cut(rows: list[Row], budget: int, borders: list[float]) -> None:
    """The driver's part alone: one histogram with arbitrary borders, then the rows of the boundary bin."""
    binned: dict[int, list[Row]] = {}
    for row in rows:
        binned.setdefault(sum(border <= row[0] for border in borders), []).append(row)
    search = cutting._Search(budget)
    search.start([
        cutting._Bin(len(b), sum(r[2] for r in b), min(r[0] for r in b), max(r[0] for r in b)) for b in binned.values()
    ])
    if search.inside:
        search.finish([cutting._Row(*r) for r in rows if search.boundary.low <= r[0] <= search.boundary.high])
    if search.last is not None and search.last_id is None:
        search.last_id = max((r[1] for r in rows if r[0] == search.last.low), key=str.encode)
    assert search.cut() == cut_by_sorting(rows, budget)


def test_overlapping_bins_are_one() -> None:
    bins = [cutting._Bin(1, 10, 0.1, 0.3), cutting._Bin(2, 20, 0.3, 0.5), cutting._Bin(4, 40, 0.6, 0.9)]
    assert cutting._in_order(bins) == [cutting._Bin(4, 40, 0.6, 0.9), cutting._Bin(3, 30, 0.1, 0.5)]
