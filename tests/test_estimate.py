"""`betr estimate`: known costs are recovered, intervals hold what they should, bad input is one sentence."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betr.estimate import (
    Machines,
    Prices,
    Term,
    documents_of,
    estimate_stages,
    fit_line,
    load_prices,
    pairs_of,
    recuts,
    stored,
)
from betr.trial import EstimateConfig
from curation.errors import InputError

XS = [2_500.0, 10_000.0, 2_500.0, 10_000.0]
ONE = Machines(1, 2)
FREE = Prices()


def config(**changed: Any) -> EstimateConfig:
    return EstimateConfig(**{"tables": "/t", "documents": ("d",), "benchmarks": ("b",), **changed})


# -- lines -------------------------------------------------------------------------------------------------------------


@given(st.floats(0, 1e3), st.floats(0, 1.0))
@settings(max_examples=50, deadline=None)
def test_a_known_line_is_recovered(fixed: float, slope: float) -> None:
    line = fit_line(XS, [fixed + slope * x for x in XS])
    assert line.fixed == pytest.approx(fixed, abs=1e-6) and line.slope == pytest.approx(slope, abs=1e-9)
    assert line.variance(1, 1e6) == pytest.approx(0, abs=1e-6) and line.freedom == 2


def test_no_part_is_ever_below_nothing() -> None:
    falling = fit_line(XS, [4.0, 2.0, 4.0, 2.0])
    assert (falling.fixed, falling.slope) == (3.0, 0.0)
    steep = fit_line(XS, [1.0, 6.0, 1.0, 6.0])
    assert steep.fixed == 0.0 and 1.0 / 2_500 < steep.slope < 7.0 / 10_000
    flat = fit_line([0.0] * 4, [1.0, 2.0, 3.0, 2.0])
    assert (flat.fixed, flat.slope, flat.freedom) == (2.0, 0.0, 3)


def test_the_interval_holds_the_truth_in_about_95_of_100_trials() -> None:
    chance, inside = np.random.default_rng(5), 0
    for _ in range(400):
        terms = [
            Term(stage, "documents", XS, [3 + 4e-3 * x + chance.normal(0, 0.5) for x in XS], 60_000)
            for stage in ("import", "score")
        ]
        _, total = estimate_stages(terms, {}, machines=ONE, prices=FREE)
        inside += total.low <= 2 * (3 + 4e-3 * 60_000) <= total.high
    assert 360 <= inside <= 400


# -- stages ------------------------------------------------------------------------------------------------------------


def test_fixed_parts_are_paid_by_the_commit_and_only_linear_parts_shrink_with_machines() -> None:
    seconds = [2 + 1e-3 * x for x in XS]
    term = Term("score", "documents", XS, seconds, amount=1e6, times=10, speedup=8)
    (begun, score), total = estimate_stages([term], {"start of Spark": 9.0}, machines=Machines(4, 4), prices=FREE)
    assert (score.start, score.fixed, score.linear) == pytest.approx((0, 20, 125))
    assert (begun.stage, begun.seconds, total.seconds) == ("start of Spark", 9.0, pytest.approx(154))
    assert total.core_hours == pytest.approx(154 * 16 / 3600)


def test_gpus_are_paid_while_embedding_and_money_follows_hours() -> None:
    terms = [Term(name, "texts", [0.0] * 4, [3600.0] * 4, 5) for name in ("embed", "score")]
    prices = Prices(core_hour=0.5, gpu_hour=3.0)
    (embed, score), total = estimate_stages(terms, {}, machines=Machines(2, 2, gpus=3), prices=prices)
    assert (embed.core_hours, embed.gpu_hours, embed.cost) == pytest.approx((4, 3, 11))
    assert (score.gpu_hours, score.cost, total.cost) == pytest.approx((0, 2, 13))


def test_an_uncertain_number_of_documents_widens_only_what_follows_from_it() -> None:
    def width(by_documents: bool) -> float:
        term = Term("import", "documents", XS, [1e-3 * x for x in XS], 1e6, by_documents=by_documents)
        _, total = estimate_stages([term], {}, machines=ONE, prices=FREE, documents_spread=0.1)
        return total.high - total.low

    assert width(False) == pytest.approx(0, abs=1e-6) and width(True) == pytest.approx(2 * 1.96 * 0.1 * 1000)


def test_an_uncertain_amount_widens_the_interval_by_itself() -> None:
    term = Term("deduplicate", "pairs compared", XS, [1e-3 * x for x in XS], 1e6, speedup=2, spread=0.3)
    _, total = estimate_stages([term], {}, machines=ONE, prices=FREE)
    assert total.seconds == pytest.approx(500) and total.high - total.low == pytest.approx(2 * 1.96 * 0.3 * 500)


@pytest.mark.parametrize("partners", [0.02, 0.3])
def test_pairs_of_a_corpus_follow_from_those_inside_slices(partners: float) -> None:
    """Documents that have one copy somewhere in the corpus: slices see few of the pairs, and on average all are told."""
    documents, size, chance = 40_000, 4_000, np.random.default_rng(3)
    pairs = round(partners * documents / 2)
    told, inside = [], 0
    for _ in range(60):
        ends = chance.permutation(documents)[: 2 * pairs].reshape(pairs, 2)
        part = chance.permutation(documents)
        slices = [(size, int(np.isin(ends, part[k * size : (k + 1) * size]).all(axis=1).sum())) for k in range(4)]
        found, spread = pairs_of(documents, slices)
        told.append(found)
        inside += abs(found - pairs) <= 1.96 * spread * found
    assert np.mean(told) == pytest.approx(pairs, rel=0.12) and inside >= 50


def test_no_document_is_taken_to_be_compared_more_than_about_once_and_none_found_is_not_none_there() -> None:
    assert pairs_of(1e6, [(1_000, 999)] * 4)[0] == pytest.approx(1e6)  # each slice one cluster
    found, spread = pairs_of(1e4, [(1_000, 0)] * 4)
    assert 0 < found < 20 and spread > 0.5
    assert pairs_of(1e6, [(1, 0)]) == (0.0, 0.0)


def test_documents_follow_from_bytes_and_differ_as_the_slices_do() -> None:
    assert documents_of(1_000_000, [(10, 5_000), (20, 10_000)]) == (2_000.0, 0.0)
    documents, spread = documents_of(1_000_000, [(8, 5_000), (12, 5_000)])
    assert documents == 2_000 and spread == pytest.approx(0.2, rel=0.01)
    with pytest.raises(InputError, match="the trial read no document"):
        documents_of(1_000, [(0, 0)])


def test_tables_grow_with_what_they_hold_and_others_keep_their_size() -> None:
    written = {"documents": [(10.0, 100.0), (40.0, 420.0)], "classifiers": [(0.0, 7.0), (0.0, 9.0)]}
    assert stored(written, {"documents": 1_000.0}) == {"documents": pytest.approx(10_400), "classifiers": 8.0}


def test_another_filter_rate_costs_a_cut_of_the_scores() -> None:
    select = Term("select", "rows", XS, [1 + 1e-5 * x for x in XS], 0, speedup=2)
    low, high = recuts(
        select, (0.3, 0.1, 0.3), documents=1e6, tokens=5e8, bytes_per_kept=20, machines=ONE, prices=Prices(3600, 0, 1)
    )
    assert (low["keep"], low["kept_tokens"], low["kept_documents"]) == (0.1, 50_000_000, 100_000)
    assert low["seconds"] == pytest.approx(1 + 1e-5 * 1.1e6 / 2) and high["seconds"] == pytest.approx(1 + 6.5)
    assert low["cost"] == pytest.approx(2 * low["seconds"]) and high["bytes"] == pytest.approx(6e6)


# -- prices and settings -----------------------------------------------------------------------------------------------


def test_one_price_table_serves_both_methods(tmp_path: Path) -> None:
    from bare.cost import load_prices as of_bare

    file = tmp_path / "prices.yaml"
    file.write_text("currency: EUR\nmachines: {core_hour: 0.04, gb_month: 0.02}\nmodels: {m: {per_hour: 1}}\n")
    assert load_prices(str(file)) == Prices(0.04, 0.0, 0.02, "EUR")
    assert of_bare(str(file)).currency == "EUR"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("machines: {}", "must hold `machines` with core_hour, gpu_hour, gb_month, at least one"),
        ("machines: {core: 1}", "must hold `machines`"),
        ("machine: {core_hour: 1}", "must hold `machines`"),
        ("machines: {core_hour: -1}", "core_hour must be a number of 0 or more; got -1"),
        ("machines: {core_hour: free}", "core_hour must be a number of 0 or more; got 'free'"),
        ("machines: {core_hour: 1}\ncurrency: 5", "currency must be a text such as EUR; got 5"),
        ("machines: [", "is no YAML"),
    ],
)
def test_a_price_table_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        config(prices=str(file))
    with pytest.raises(InputError, match="can't be read"):
        config(prices=str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trial": 10}, "--trial must be at least 40; got 10"),
        ({"trial_sample": 1}, "--trial-sample must be at least 10; got 1"),
        ({"executors": 4}, "--executors and --cores-per-executor go together"),
        ({"executors": 0, "cores_per_executor": 4}, "--executors must be at least 1; got 0"),
        ({"gpu_texts_per_second": 0.0}, "--gpu-texts-per-second must be above 0; got 0.0"),
        ({"documents": ()}, "--documents is missing"),
        ({"benchmarks": ()}, "--benchmarks is missing"),
        ({"keep": 2.0}, r"keep must .*\(0, 1\]; got 2.0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_before_any_trial(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**change)


def test_the_planned_run_has_the_runs_own_settings() -> None:
    planned = config(sample="0.2", executors=3, cores_per_executor=4, gpus=2)
    assert planned.machines(2, 0) == Machines(3, 4, 2) and config().machines(2, 1) == Machines(1, 2, 1)
    run = planned.run_config(tables="/scratch")
    assert (run.sample, run.tables) == ("0.2", "/scratch")
    assert {f.name for f in dataclasses.fields(run)} < {f.name for f in dataclasses.fields(planned)}
