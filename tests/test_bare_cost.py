"""Costs: the price table, what rows cost, what more will cost, and the gate before any token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bare.cost import Price, PriceTable, check_licenses, estimate, load_prices, per_accepted, row_costs
from curation.errors import InputError

PRICES = """
currency: EUR
models:
  small: {input_per_million: 0.5, output_per_million: 2}
  own: {per_hour: 3.6}
  free: {per_hour: 0}
"""


def table(tmp_path: Path, text: str = PRICES) -> PriceTable:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    return load_prices(str(path))


def test_a_rows_cost_is_its_tokens_and_seconds_at_their_prices(tmp_path: Path) -> None:
    prices = table(tmp_path)
    assert prices.currency == "EUR"
    costs = row_costs(prices.price("small"), [1_000_000, 2_000], [500_000, 0], [9, 9])
    assert costs.tolist() == pytest.approx([1.5, 0.001])
    assert row_costs(prices.price("own"), [5], [5], [10.0]).tolist() == pytest.approx([0.01])
    assert row_costs(prices.price("free"), [5], [5], [10.0]).tolist() == [0.0]


def test_an_unknown_count_is_an_unknown_cost_only_where_it_costs(tmp_path: Path) -> None:
    prices = table(tmp_path)
    assert np.isnan(row_costs(prices.price("small"), [None, 4], [3, 3], [1, 1])).tolist() == [True, False]
    assert row_costs(prices.price("own"), [None], [None], [1.0]).tolist() == pytest.approx([0.001])


def test_a_model_without_a_price_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no price for model 'large'; it has free, own, small. Add it, with 0 where"):
        table(tmp_path).check(["small", "large"])
    table(tmp_path).check(["small", "own"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: [small]", "must hold `models`"),
        ("prices: {}", "must hold `models`"),
        ("currency: 5\nmodels: {}", "currency must be a text"),
        ("models: {small: 3}", "small must have input_per_million"),
        ("models: {small: {}}", "small must have input_per_million"),
        ("models: {small: {per_token: 3}}", "small must have input_per_million"),
        ("models: {small: {per_hour: -1}}", "small: price: per_hour must be a number of 0 or more; got -1"),
        ("models: {small: {per_hour: .inf}}", "per_hour must be a number"),
        ("models: {small: {per_hour: '3'}}", "per_hour must be a number"),
        ("models: {1: {per_hour: 3}}", "Put quotes around it"),
        ("models: {", "is no YAML"),
    ],
)
def test_a_price_table_that_breaks_a_rule_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        table(tmp_path, text)
    assert "prices.yaml" in str(caught.value)
    with pytest.raises(InputError, match="can't be read"):
        load_prices(str(tmp_path / "none.yaml"))


def test_an_estimate_counts_the_rejected_rows_too() -> None:
    found = estimate([0.02, 0.04, 0.02, 0.04], [True, False, False, True], wanted=100, tokens=[10] * 4, seconds=[2.0] * 4)
    assert found.cost == pytest.approx(0.12 / 2 * 100)
    assert (found.drafts, found.tokens, found.seconds, found.trial, found.accepted) == (200, 2000, 400.0, 4, 2)
    assert found.low <= found.cost and found.high is None  # four rows: some replicates accept none


def test_an_estimates_interval_holds_the_true_cost_about_as_often() -> None:
    """A draft costs 0.01 to 0.03 (0.02 on average), six in ten are accepted: 100 rows cost 3.33."""
    held = 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        found = estimate(rng.uniform(0.01, 0.03, 80), rng.random(80) < 0.6, wanted=100, seed=trial)
        assert found.high is not None
        held += found.low <= 0.02 / 0.6 * 100 <= found.high
    assert 0.88 <= held / 200 <= 0.995


def test_a_trial_that_says_nothing_gives_no_estimate() -> None:
    with pytest.raises(InputError, match="accepted none of its 3 rows"):
        estimate([1.0] * 3, [False] * 3, wanted=5)
    with pytest.raises(InputError, match="cost of 1 of 2 trial rows isn't known"):
        estimate([1.0, np.nan], [True, True], wanted=5)
    with pytest.raises(InputError, match="a cost and a verdict for each draft"):
        estimate([1.0], [True, True], wanted=5)
    with pytest.raises(InputError, match="at least 1; got 0"):
        estimate([1.0], [True], wanted=0)


def test_the_interval_of_an_accepted_rows_cost_is_that_of_drafts_drawn_again() -> None:
    """Against a plain bootstrap with numpy's generator: the rejected rows' cost is shared out each time."""
    rng = np.random.default_rng(3)
    spent, kept = rng.gamma(2, 1.5, size=150), rng.random(150) < 0.4
    value, low, high = per_accepted(spent, kept)
    drawn = [spent[rows].sum() / kept[rows].sum() for rows in rng.integers(0, 150, size=(4_000, 150))]
    assert value == pytest.approx(spent.sum() / kept.sum()) and high is not None
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), rel=0.03)
    assert per_accepted(spent, kept) == (value, low, high)
    found = estimate(spent, kept, wanted=50)
    assert (found.cost, found.low, found.high) == (value * 50, low * 50, high * 50)


def test_licences_that_are_not_allowed_are_refused_together_by_name() -> None:
    given = {"base model org/a": "Apache 2.0", "instruct model org/b": "other", "seeds": None}
    with pytest.raises(InputError, match=r"instruct model org/b \(other\); seeds \(unknown\) are not among .* \(apache-2.0, mit\)"):
        check_licenses(given, allowed=["apache-2.0", "mit"])
    check_licenses({"base": "Apache_2.0 ", "seeds": "MIT"}, allowed=["apache-2.0", "mit"])
    check_licenses({"seeds": ""}, allowed=["unknown"])
    with pytest.raises(InputError, match=r"base \(mit\) is not among those allowed \(none\)"):
        check_licenses({"base": "mit"}, allowed=[])
    with pytest.raises(InputError, match="is not among"):
        check_licenses({"base": "mit-but-not-really"}, allowed=["mit"])


def test_prices_are_checked_at_birth() -> None:
    with pytest.raises(InputError, match="output_per_million must be a number"):
        Price(output_per_million=float("nan"))
