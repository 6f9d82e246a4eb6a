"""The paper's filter-rate laws, and what becomes of a share or a number of tokens."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from betr.filter_rate import LAWS, filter_rate, from_flops, from_share, from_tokens
from curation.errors import InputError

LARGE_POOL = 10**16


@pytest.mark.parametrize(
    ("law", "flops", "percent"),
    [
        ("nemotron", 1e20, 4.0),
        ("nemotron", 1e23, 22.49),
        ("refinedweb", 1e20, 3.786),
        ("refinedweb", 1e23, 9.957),
        ("fixed-6.6b", 6 * 6.6e9 * 1e12, 9.44),
    ],
)
def test_laws_give_the_percentages_of_their_formulas(law: str, flops: float, percent: float) -> None:
    assert from_flops(flops, LARGE_POOL, law=law).keep == pytest.approx(percent / 100, rel=1e-3)


def test_nemotron_law_is_near_the_papers_rule_of_thumb() -> None:
    """About 3% at 1e20 and about 30% at 1e23: within a third, which is what one digit of a constant allows."""
    assert from_flops(1e20, LARGE_POOL).keep == pytest.approx(0.03, rel=0.34)
    assert from_flops(1e23, LARGE_POOL).keep == pytest.approx(0.30, rel=0.34)


@given(st.floats(1e15, 1e27), st.floats(1e15, 1e27), st.sampled_from(sorted(LAWS)))
def test_more_compute_never_filters_more(a: float, b: float, law: str) -> None:
    low, high = sorted((a, b))
    assert 0 < from_flops(low, LARGE_POOL, law=law).keep <= from_flops(high, LARGE_POOL, law=law).keep <= 1


@given(st.floats(1e17, 1e26), st.floats(5, 40))
def test_compute_is_six_times_parameters_times_tokens(flops: float, ratio: float) -> None:
    rate = from_flops(flops, LARGE_POOL, tokens_per_parameter=ratio)
    assert rate.model_parameters is not None
    assert rate.training_tokens is not None
    assert 6 * rate.model_parameters * rate.training_tokens == pytest.approx(flops)
    assert rate.training_tokens / rate.model_parameters == pytest.approx(ratio)


def test_fixed_model_has_its_own_size() -> None:
    rate = from_flops(6 * 6.6e9 * 2e12, LARGE_POOL, law="fixed-6.6b")
    assert rate.model_parameters == 6.6e9
    assert rate.training_tokens == pytest.approx(2e12)


def test_large_pool_needs_no_warning() -> None:
    rate = from_flops(1e21, LARGE_POOL)
    assert rate.warnings == ()
    assert rate.epochs is not None
    assert rate.epochs < 1


def test_small_pool_warns_with_epochs_and_remedy() -> None:
    """1e20 FLOPs train on 13.5 billion tokens; 4% of 100 billion are 4 billion."""
    (warning,) = from_flops(1e20, 100 * 10**9).warnings
    assert "3.39 epochs" in warning
    assert "A pool of 3.39e+11 tokens" in warning
    assert "keeping 13.54% of this pool" in warning
    assert "2305.16264" not in warning


def test_many_epochs_cite_what_repetition_costs() -> None:
    rate = from_flops(1e20, 10**9)
    assert rate.epochs == pytest.approx(13.54e9 / 0.04e9, rel=1e-3)
    assert "more than the 4 that cost hardly any loss (arXiv 2305.16264)" in rate.warnings[0]
    assert "all of this pool makes 13.5" in rate.warnings[0]


def test_rate_below_those_tried_warns() -> None:
    assert "below the 3%" in from_flops(1e18, LARGE_POOL).warnings[0]


@pytest.mark.parametrize(("keep", "pool", "tokens"), [(0.29, 100, 29), (0.1, 30, 3), (0.1, 39, 3), (1, 7, 7)])
def test_share_is_taken_by_its_digits(keep: float, pool: int, tokens: int) -> None:
    assert from_share(keep, pool).tokens == tokens


def test_tokens_become_a_share() -> None:
    assert from_tokens(25, 100).keep == 0.25
    everything = from_tokens(200, 100)
    assert (everything.keep, everything.tokens) == (1.0, 100)
    assert "200 tokens are asked for and the pool holds 100" in everything.warnings[0]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"keep": 0}, r"in \(0, 1\]; got 0"),
        ({"keep": 1.5}, r"in \(0, 1\]; got 1.5"),
        ({"keep": -0.1}, r"in \(0, 1\]; got -0.1"),
        ({"keep": math.nan}, r"in \(0, 1\]; got nan"),
        ({"tokens": 0}, "at least 1; got 0"),
        ({"flops": 0.0}, "above 0.*got 0.0"),
        ({"flops": math.inf}, "above 0.*got inf"),
        ({"flops": 1e20, "law": "chinchilla"}, "no law 'chinchilla'; choose one of nemotron, refinedweb, fixed-6.6b"),
        ({"flops": 1e20, "tokens_per_parameter": 0}, "above 0; got 0"),
        ({}, "exactly one of keep, tokens and flops; got none"),
        ({"keep": 0.1, "flops": 1e20}, "got keep and flops"),
        ({"keep": 0.1, "pool_tokens": 0}, "pool holds 0 tokens"),
    ],
)
def test_bad_settings_are_refused_with_rule_and_value(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        filter_rate(**{"pool_tokens": 1000, **wanted})
