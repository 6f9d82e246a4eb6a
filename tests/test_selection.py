"""Selections against a plain sort with a running sum, and soft draws against the exact law."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from scipy.stats import chisquare

from betr.selection import (
    SELECTION_RUNS,
    Selection,
    SelectionConfig,
    carry,
    config_of,
    cuts_of,
    key_of,
    next_version,
    select,
    selection_id,
    share_out,
    with_key,
    with_verdict,
)
from curation.errors import InputError, SchemaError
from curation.hashing import content_id
from curation.sampling import hash_fraction

SCHEMA = "doc_id string, score double, tokens bigint, source string"
# Scores as fastText reports them, p + 1e-5: some above 1, many equal.
ROWS = [
    (f"doc{i:03d}", round((i * 37 % 101) / 100, 2) + 1e-5, 5 + i * 13 % 40, ("wiki", "web", "code")[i % 5 % 3])
    for i in range(150)
]
TOTAL = sum(r[2] for r in ROWS)
LANGUAGE = {doc_id: ("de" if i % 10 == 0 else "en") for i, (doc_id, *_) in enumerate(ROWS) if i % 7}


@pytest.fixture(scope="module")
def scores(spark: SparkSession) -> DataFrame:
    return spark.createDataFrame(ROWS, SCHEMA)


@pytest.fixture(scope="module")
def documents(spark: SparkSession) -> DataFrame:
    """Documents without their text: whoever asks for it fails."""
    rows = [(r[0], {"language": LANGUAGE[r[0]]} if r[0] in LANGUAGE else {}) for r in ROWS]
    return spark.createDataFrame(rows, "doc_id string, metadata map<string,string>")


def run(
    scores: DataFrame, documents: DataFrame | None = None, *, heads: Collection[str] = (), **settings: Any
) -> Selection:
    config = SelectionConfig(**settings)
    return select(
        scores, config, classifier_id="c", selection_id=selection_id("scored", config), documents=documents, heads=heads
    )


def kept_of(selection: Selection) -> set[str]:
    return {r["doc_id"] for r in selection.rows.collect()}


def best(rows: Sequence[tuple[float, str, int]], budget: int) -> set[str]:
    """Reference: sort, add up, stop."""
    kept, used = set(), 0
    for _, doc_id, tokens in sorted(rows, key=lambda r: (-r[0], r[1])):
        if used + tokens > budget:
            break
        kept.add(doc_id)
        used += tokens
    return kept


@pytest.mark.connect
def test_hard_selection_is_the_head_of_a_plain_sort(scores: DataFrame) -> None:
    selection = run(scores, keep=0.3)
    budget = int(Fraction("0.3") * TOTAL)
    expected = best([(s, d, t) for d, s, t, _ in ROWS], budget)
    assert selection.rate.tokens == budget
    assert {tuple(r) for r in selection.rows.collect()} == {(selection.selection_id, d, 1.0) for d in expected}
    assert selection.kept_documents == len(expected)
    assert (selection.documents, selection.tokens) == (len(ROWS), TOTAL)
    assert selection.threshold == min(s for d, s, *_ in ROWS if d in expected)
    last = sorted((r for r in ROWS if r[0] in expected), key=lambda r: (-r[1], r[0]))[-1]
    assert selection.threshold_id == last[0]


@pytest.mark.parametrize("settings", [{"tokens": 900}, {"tokens": 700, "mode": "soft", "quotas": ("source=code:0.5",)}])
def test_partitions_and_order_change_no_selection(scores: DataFrame, settings: dict[str, Any]) -> None:
    once = run(scores, **settings)
    again = run(scores.orderBy(F.desc("tokens")).repartition(5, "doc_id"), **settings)
    assert again.cuts == once.cuts
    assert again.selection_id == once.selection_id
    assert kept_of(again) == kept_of(once)
    assert once.kept_documents == len(kept_of(once))


def test_kept_tokens_are_within_one_document_of_the_budget(scores: DataFrame) -> None:
    selection = run(scores, tokens=1000)
    assert 1000 - max(t for *_, t, _ in ROWS) < selection.kept_tokens <= 1000


@pytest.mark.connect
def test_soft_selection_is_gumbel_top_k_by_numpy(scores: DataFrame) -> None:
    """Same u, independent arithmetic: log-odds of the clipped score over the temperature, minus log(-log u)."""
    config = SelectionConfig(tokens=1200, mode="soft", temperature=2.0, seed=7)
    u = {r["doc_id"]: r["u"] for r in scores.select(
        "doc_id", hash_fraction("doc_id", 7, "soft selection").alias("u")).collect()}
    p = np.clip([s for _, s, *_ in ROWS], 1e-5, 1 - 1e-5)
    keys = np.log(p / (1 - p)) / 2.0 - np.log(-np.log([u[d] for d, *_ in ROWS]))
    selection = select(scores, config, classifier_id="c", selection_id="s")
    assert kept_of(selection) == best([(k, r[0], r[2]) for k, r in zip(keys, ROWS, strict=True)], 1200)
    weights = {r["doc_id"]: r["weight"] for r in selection.rows.collect()}
    expected = dict(zip((r[0] for r in ROWS), np.sqrt(p / (1 - p)), strict=True))
    assert weights == pytest.approx({d: expected[d] for d in weights})


def test_soft_draws_follow_the_law_of_sampling_without_replacement(spark: SparkSession) -> None:
    """4,000 draws of 2 from 5: how often each pair comes, against the sum over both orders of drawing it."""
    draws, p = 4_000, [0.5, 0.2, 0.8, 0.35, 0.6]
    rows = [(f"{draw}/{i}", draw, i, p[i]) for draw in range(draws) for i in range(len(p))]
    frame = spark.createDataFrame(rows, "doc_id string, draw int, i int, score double")
    keys = np.empty((draws, len(p)))
    for r in with_key(frame, SelectionConfig(keep=0.1, mode="soft", seed=3)).collect():
        keys[r["draw"], r["i"]] = r["key"]
    drawn = Counter(tuple(sorted(pair)) for pair in np.argsort(-keys, axis=1)[:, :2].tolist())
    w = [x / (1 - x) for x in p]
    law = {
        pair: sum(w[a] / sum(w) * w[b] / (sum(w) - w[a]) for a, b in permutations(pair))
        for pair in combinations(range(len(p)), 2)
    }
    assert sum(law.values()) == pytest.approx(1)
    assert chisquare([drawn[pair] for pair in law], [draws * q for q in law.values()]).pvalue > 0.01


def test_another_seed_draws_others_and_a_low_temperature_takes_the_best(scores: DataFrame) -> None:
    """Keys alone: far below 1 the noise decides only between equal scores."""
    soft = {
        "a": SelectionConfig(keep=0.1, mode="soft", seed=1),
        "b": SelectionConfig(keep=0.1, mode="soft", seed=2),
        "cold": SelectionConfig(keep=0.1, mode="soft", temperature=1e-4),
    }
    rows = scores.select("score", *(key_of(config).alias(name) for name, config in soft.items())).collect()
    order = {name: sorted(range(len(rows)), key=lambda i, name=name: -rows[i][name]) for name in soft}  # type: ignore[misc]
    assert order["a"][:20] != order["b"][:20]
    cold = [min(rows[i]["score"], 1 - 1e-5) for i in order["cold"]]
    assert cold == sorted(cold, reverse=True)


def test_quotas_of_sources_are_filled_to_within_a_document(scores: DataFrame) -> None:
    selection = run(scores, tokens=1000, quotas=("source=wiki:0.2", "source=code:0.1"))
    expected: set[str] = set()
    for group, budget in (({"wiki"}, 200), ({"code"}, 100), ({"web"}, 700)):
        expected |= best([(s, d, t) for d, s, t, source in ROWS if source in group], budget)
    assert kept_of(selection) == expected
    assert selection.warnings == ()
    assert sum(t for d, _, t, _ in ROWS if d in expected) == selection.kept_tokens


@pytest.mark.connect
def test_quotas_of_metadata_read_no_text(scores: DataFrame, documents: DataFrame) -> None:
    selection = run(scores, documents, tokens=800, quotas=("metadata.language=de:0.25",))
    german = [(s, d, t) for d, s, t, _ in ROWS if LANGUAGE.get(d) == "de"]
    others = [(s, d, t) for d, s, t, _ in ROWS if LANGUAGE.get(d) != "de"]
    assert kept_of(selection) == best(german, 200) | best(others, 600)


def test_quotas_of_two_fields_at_once_are_of_the_documents_that_have_both_values(
    scores: DataFrame, documents: DataFrame
) -> None:
    both = "metadata.language,source"
    selection = run(scores, documents, tokens=800, quotas=(f"{both}=en,wiki:0.25", f"{both} = en , code : 0.1"))
    assert selection.config.shares == {"en,wiki": Fraction(1, 4), "en,code": Fraction(1, 10)}
    expected: set[str] = set()
    for wanted, budget in (({"wiki"}, 200), ({"code"}, 80)):
        expected |= best([(s, d, t) for d, s, t, source in ROWS if LANGUAGE.get(d) == "en" and source in wanted], budget)
    others = [(s, d, t) for d, s, t, source in ROWS if LANGUAGE.get(d) != "en" or source == "web"]
    assert kept_of(selection) == expected | best(others, 520)
    with pytest.raises(InputError, match=r"no document has metadata.language,source=fr,wiki; there are en,web"):
        run(scores, documents, tokens=800, quotas=(f"{both}=fr,wiki:0.25",))


# Many ties; piqa is nobody's highest.
HEADS = {
    d: {"arc": i * 7 % 10 / 10 + 1e-5, "boolq": i * 3 % 8 / 10 + 1e-5, "piqa": 1e-5} for i, (d, *_) in enumerate(ROWS)
}
HIGHEST = {d: sorted((-score, name) for name, score in heads.items())[0] for d, heads in HEADS.items()}
NAMES = tuple(HEADS["doc000"])


@pytest.fixture(scope="module")
def headed(spark: SparkSession) -> DataFrame:
    rows = [(*row, HEADS[row[0]]) for row in ROWS]
    return spark.createDataFrame(rows, f"{SCHEMA}, heads map<string,double>")


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_a_head_is_cut_as_if_it_were_the_score(spark: SparkSession, headed: DataFrame, mode: str) -> None:
    selection = run(headed, tokens=900, mode=mode, head="boolq", quotas=("source=code:0.3",), heads=NAMES)
    alone = spark.createDataFrame([(d, HEADS[d]["boolq"], t, s) for d, _, t, s in ROWS], SCHEMA)
    expected = run(alone, tokens=900, mode=mode, quotas=("source=code:0.3",))
    assert selection.cuts == expected.cuts
    assert sorted(r[1:] for r in selection.rows.collect()) == sorted(r[1:] for r in expected.rows.collect())


@pytest.mark.connect
@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_quotas_of_heads_are_of_the_documents_that_each_scores_highest(
    spark: SparkSession, headed: DataFrame, mode: str
) -> None:
    selection = run(headed, tokens=1000, mode=mode, quotas=("head=arc:0.2", "head=boolq:0.5"), heads=NAMES)
    rows = [(d, -HIGHEST[d][0], t, HIGHEST[d][1]) for d, _, t, _ in ROWS]
    assert sum(len(set(heads.values())) < 3 for heads in HEADS.values()) > 10
    expected = run(spark.createDataFrame(rows, SCHEMA), tokens=1000, mode=mode, quotas=("source=arc:0.2", "source=boolq:0.5"))
    assert selection.cuts == expected.cuts
    assert sorted(r[1:] for r in selection.rows.collect()) == sorted(r[1:] for r in expected.rows.collect())
    assert selection.cuts[""].kept_rows == 0  # every document is one head's or the other's
    if mode == "hard":
        kept = [best([(s, d, t) for d, s, t, head in rows if head == name], budget) for name, budget in
                zip(("arc", "boolq"), (285, 714), strict=True)]
        assert kept_of(selection) == kept[0] | kept[1]


def test_a_head_that_is_nobodys_highest_leaves_its_share_to_the_others(headed: DataFrame) -> None:
    selection = run(headed, tokens=1000, quotas=("head=piqa:0.4",), heads=NAMES)
    assert "quota of head: 'piqa' holds 0 tokens of the 400" in selection.warnings[0]
    assert kept_of(selection) == best([(-HIGHEST[d][0], d, t) for d, _, t, _ in ROWS], 1000)


def test_a_head_that_is_not_there_is_refused_with_those_that_are(headed: DataFrame) -> None:
    for settings in ({"head": "wino"}, {"quotas": ("head=arc:0.1", "head=wino:0.1")}):
        with pytest.raises(InputError, match=r"there is no head 'wino'; there are arc, boolq, piqa$"):
            run(headed, keep=0.1, heads=NAMES, **settings)
    with pytest.raises(InputError, match=r"by the head 'arc', but the scores are for all targets only: run `betr run --heads`"):
        run(headed, keep=0.1, head="arc")


def test_value_with_too_few_tokens_gives_its_rest_to_the_others(scores: DataFrame) -> None:
    code = sum(t for *_, t, source in ROWS if source == "code")
    budget = code * 2 + 500
    selection = run(scores, tokens=budget, quotas=("source=code:0.8",))
    kept = kept_of(selection)
    assert {d for d, *_, source in ROWS if source == "code"} <= kept
    assert budget - 2 * 45 < selection.kept_tokens <= budget
    assert f"'code' holds {code:,} tokens of the {budget * 4 // 5:,}" in selection.warnings[0]


@given(
    st.integers(0, 10_000),
    st.lists(st.integers(1, 30), min_size=1, max_size=5).filter(lambda shares: sum(shares) <= 100),
    st.lists(st.integers(0, 5_000), min_size=6, max_size=6),
)
def test_shared_out_budget_is_filled_and_fair(budget: int, percents: list[int], sizes: list[int]) -> None:
    shares = {f"v{i}": Fraction(percent, 100) for i, percent in enumerate(percents)}
    there = {**dict(zip(shares, sizes, strict=False)), "": sizes[-1]}
    budgets, _ = share_out(budget, shares, there)
    every = {**shares, "": 1 - sum(shares.values())}
    assert sum(budgets.values()) <= budget
    assert all(budgets[name] <= there[name] for name in every)
    assert all(budgets[name] >= min(there[name], int(share * budget)) for name, share in every.items())
    hungry = [name for name, share in every.items() if share > 0 and budgets[name] < there[name]]
    if hungry:
        assert sum(budgets.values()) > budget - len(every)
        levels = [Fraction(budgets[name]) / every[name] for name in hungry]
        assert max(levels) - min(levels) <= 1 / min(every[name] for name in hungry)


def test_budget_that_nobody_may_take_is_told() -> None:
    budgets, notes = share_out(100, {"a": Fraction(1, 2), "b": Fraction(1, 2)}, {"a": 10, "b": 20, "": 1000})
    assert budgets == {"a": 10, "b": 20, "": 0}
    assert "70 tokens of the budget stay unused" in notes[-1]


def test_unknown_quota_value_is_refused_with_those_there(scores: DataFrame, documents: DataFrame) -> None:
    with pytest.raises(InputError, match=r"no document has source=books; there are web, wiki, code"):
        run(scores, tokens=800, quotas=("source=books:0.25",))
    with pytest.raises(InputError, match=r"no document has metadata.language=fr; there are en, de"):
        run(scores, documents, tokens=800, quotas=("metadata.language=fr:0.25",))
    with pytest.raises(InputError, match=r"metadata.topic=art; no document has one"):
        run(scores, documents, tokens=800, quotas=("metadata.topic=art:0.25",))
    with pytest.raises(SchemaError, match=r"quotas of metadata.language need the table documents"):
        run(scores, tokens=800, quotas=("metadata.language=de:0.25",))


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_scores_that_are_no_numbers_are_refused(spark: SparkSession, mode: str) -> None:
    rows = spark.createDataFrame([("a", math.nan, 3, "w"), ("b", None, 3, "w"), ("c", 0.5, 3, "w")], SCHEMA)
    with pytest.raises(InputError, match="key is null or NaN in 2 rows"):
        run(rows, keep=0.9, mode=mode)


def test_budget_below_the_first_document_is_refused(scores: DataFrame) -> None:
    with pytest.raises(InputError, match="budget of 1 tokens is less than the first document holds"):
        run(scores, tokens=1)


@pytest.mark.connect
@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 0.3},
        {"keep": 0.3, "mode": "soft", "temperature": 0.7},
        {"tokens": 900, "quotas": ("source=wiki:0.3", "source=code:0.1")},
        {"keep": 0.3, "quotas": ("metadata.language=de:0.4",)},
    ],
)
def test_a_verdict_by_the_cuts_is_that_of_the_rows_written(
    scores: DataFrame, documents: DataFrame, settings: dict[str, Any]
) -> None:
    selection = run(scores, documents, **settings)
    judged = with_verdict(scores, selection.config, selection.cuts, documents=documents).collect()
    assert len(judged) == len(ROWS)
    assert {row["doc_id"] for row in judged if row["kept"]} == kept_of(selection)


@pytest.mark.parametrize("settings", [{"keep": 0.3}, {"keep": 0.3, "mode": "soft", "seed": 5}])
def test_a_cut_that_is_carried_on_keeps_what_it_kept_and_whatever_new_lies_above_it(
    spark: SparkSession, scores: DataFrame, settings: dict[str, Any]
) -> None:
    first = run(scores, **settings)
    row = Row(**first.run_row(version=1, run_id="r", created="2025-01-01T00:00:00Z"))
    config = carry(row, name="nightly")
    assert (config.keep, config.threshold, config.threshold_id, config.name) == (None, first.threshold, first.threshold_id, "nightly")
    added = [(f"new{i:03d}", i / 40, 10, "web") for i in range(40)] + [("a", first.threshold, 10, "web")]
    grown = scores.union(spark.createDataFrame(added, SCHEMA)).repartition(4)
    again = select(grown, config, classifier_id="c", selection_id="s")
    kept = {r["doc_id"]: r["key"] for r in with_key(grown, config).collect()}
    last = (-first.threshold, first.threshold_id)
    expected = {doc for doc, key in kept.items() if (-key, doc) <= last}
    assert kept_of(again) == expected and kept_of(first) == expected & {doc for doc, *_ in ROWS}
    assert again.kept_documents == len(expected) > first.kept_documents
    assert again.kept_tokens == sum(tokens for doc, _, tokens, _ in [*ROWS, *added] if doc in expected)
    assert (again.threshold, again.threshold_id) == (first.threshold, first.threshold_id)
    assert again.rate.keep == pytest.approx(again.kept_tokens / again.tokens)


def test_a_threshold_that_nothing_reaches_and_one_of_quotas_are_refused(scores: DataFrame) -> None:
    with pytest.raises(InputError, match="no document reaches the threshold 2 that is carried on"):
        run(scores, threshold=2.0, threshold_id="a")
    quotas = run(scores, keep=0.3, quotas=("source=wiki:0.3",)).run_row(version=1, run_id="r", created="")
    with pytest.raises(InputError, match="has a threshold each"):
        carry(Row(**quotas), name="nightly")


@pytest.mark.connect
def test_run_row_tells_the_selection_again(spark: SparkSession, scores: DataFrame) -> None:
    selection = run(scores, tokens=800, quotas=("source=wiki:0.3",), mode="soft", name="mine")
    row = selection.run_row(version=2, run_id="r", created="2025-01-01T00:00:00Z")
    names = SELECTION_RUNS.struct(spark).names
    runs = spark.createDataFrame([tuple(row[name] for name in names)], SELECTION_RUNS.schema)
    (stored,) = runs.collect()
    assert config_of(stored["parameters"]) == selection.config
    assert cuts_of(stored["parameters"]) == selection.cuts
    assert (stored["kept_tokens"], stored["budget_tokens"], stored["keep"]) == (selection.kept_tokens, 800, 800 / TOTAL)
    json.loads(stored["parameters"])

    assert next_version(runs, name="mine", selection_id=selection.selection_id) == (2, True)
    assert next_version(runs, name="mine", selection_id="another") == (3, False)
    assert next_version(runs, name="other", selection_id="another") == (1, False)


def test_selection_id_names_scores_and_settings() -> None:
    config = SelectionConfig(keep=0.1)
    assert selection_id("s", config) == selection_id("s", SelectionConfig(keep=0.1))
    others = [SelectionConfig(keep=0.2), SelectionConfig(keep=0.1, seed=1), SelectionConfig(keep=0.1, name="b")]
    ids = {selection_id("s", config), selection_id("t", config), *(selection_id("s", other) for other in others)}
    assert len(ids) == 5
    # Settings that came later change no id where they aren't used: what an earlier version selected stays as it is.
    assert selection_id("s", config) == content_id("selection", "s", {
        "keep": 0.1, "tokens": None, "flops": None, "law": "nemotron", "mode": "hard", "temperature": 1.0, "seed": 0, "head": None,
        "quotas": (), "name": "default",
    })  # fmt: skip
    carried = SelectionConfig(threshold=0.5, threshold_id="a")
    assert selection_id("s", carried) != selection_id("s", SelectionConfig(threshold=0.5, threshold_id="b"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of keep, tokens and flops; got none"),
        ({"keep": 0.1, "tokens": 5}, "got keep and tokens"),
        ({"keep": 1.2}, r"in \(0, 1\]; got 1.2"),
        ({"tokens": 0}, "at least 1; got 0"),
        ({"flops": -1.0}, "above 0.*got -1.0"),
        ({"keep": 0.1, "threshold": 0.5, "threshold_id": "a"}, "got keep and threshold"),
        ({"threshold": 0.5}, "goes with the document that it ended at"),
        ({"keep": 0.1, "law": "x"}, "no law 'x'"),
        ({"keep": 0.1, "mode": "warm"}, "mode must be one of hard, soft; got 'warm'"),
        ({"keep": 0.1, "temperature": 0.0}, "temperature must be a number above 0; got 0.0"),
        ({"keep": 0.1, "name": " "}, "needs a name"),
        ({"keep": 0.1, "quotas": ("wiki:0.1",)}, "a quota reads source=VALUE:SHARE, metadata.KEY=VALUE:SHARE or head=NAME:SHARE"),
        ({"keep": 0.1, "quotas": ("head=a:0.1", "source=b:0.1")}, "of one field; got head and source"),
        ({"keep": 0.1, "head": "a", "quotas": ("head=b:0.1",)}, "head a and quotas of heads exclude each other"),
        ({"keep": 0.1, "quotas": ("license=mit:0.1",)}, "got 'license=mit:0.1'"),
        ({"keep": 0.1, "quotas": ("source=wiki:1.1",)}, r"share must be in \(0, 1\]; got '1.1'"),
        ({"keep": 0.1, "quotas": ("source=wiki:much",)}, r"share must be in \(0, 1\]; got 'much'"),
        ({"keep": 0.1, "quotas": ("metadata.x,source=a:0.1",)}, "as many values: metadata.KEY,source=VALUE,VALUE:SHARE; got 'metadata.x,source=a:0.1'"),
        ({"keep": 0.1, "quotas": ("source,source=a,b:0.1",)}, "names each once"),
        ({"keep": 0.1, "quotas": ("source,head=a,b:0.1",)}, "got 'source,head=a,b:0.1'"),
        ({"keep": 0.1, "quotas": ("source=a:0.6", "source=b:0.5")}, "sum to at most 1; got 1.1"),
        ({"keep": 0.1, "quotas": ("source=a:0.6", "source=a:0.1")}, "source=a is given twice"),
        ({"keep": 0.1, "quotas": ("source=a:0.6", "metadata.x=b:0.1")}, "of one field; got source and metadata.x"),
    ],
)
def test_bad_settings_are_refused_with_rule_and_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelectionConfig(**settings)
