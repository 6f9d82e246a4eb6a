"""What moved since the last run: each measure against scipy or a slow reference, and its limits."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import kolmogorov as scipys
from scipy.stats import chi2, ks_2samp

from betr import drift
from curation.errors import InputError

Counts = st.lists(st.integers(0, 40), min_size=1, max_size=30)


def as_values(counts: list[int]) -> list[int]:
    return [i for i, count in enumerate(counts) for _ in range(count)]


@given(Counts, st.data())
@settings(deadline=None)
def test_the_distance_is_scipys(before: list[int], data: st.DataObject) -> None:
    new = data.draw(st.lists(st.integers(0, 40), min_size=len(before), max_size=len(before)))
    found = drift.ks(before, new)
    if not sum(before) or not sum(new):
        assert found is None and drift.psi(before, new) is None
        return
    assert found is not None
    assert found[0] == pytest.approx(ks_2samp(as_values(new), as_values(before)).statistic, abs=1e-12)


@pytest.mark.parametrize("x", [0.0, 0.1, 0.199, 0.2, 0.3, 0.5, 0.828, 1.0, 1.36, 2.0, 5.0, 40.0])
def test_kolmogorovs_limit_is_scipys(x: float) -> None:
    assert drift.kolmogorov(x) == pytest.approx(scipys(x), abs=1e-9)


@given(Counts)
@settings(deadline=None)
def test_tenths_hold_every_bin_once_and_about_a_tenth_of_the_documents(counts: list[int]) -> None:
    tenths = drift._tenths(counts)
    assert [i for tenth in tenths for i in tenth] == list(range(len(counts))) and all(tenths)
    assert len(tenths) <= 10
    if max(counts) * 10 <= sum(counts):  # no bin is larger than a tenth: then none holds two tenths
        assert all(sum(counts[i] for i in tenth) <= 0.2 * sum(counts) + 1 for tenth in tenths)


def test_the_index_is_that_of_the_formula_over_tenths() -> None:
    random = np.random.default_rng(0)
    edges = np.linspace(-6, 6, 241)
    before = np.histogram(random.normal(0, 1, 20_000), edges)[0].tolist()
    new = np.histogram(random.normal(0.5, 1.2, 5_000), edges)[0].tolist()
    cuts = np.searchsorted(np.cumsum(before), np.arange(1, 10) / 10 * sum(before)) + 1
    p, q = (np.array([sum(part) + 0.5 for part in np.split(np.array(c), cuts)]) for c in (new, before))
    p, q = p / p.sum(), q / q.sum()
    assert drift.psi(before, new) == pytest.approx(float(np.sum((p - q) * np.log(p / q))))
    assert drift.psi(before, before) == 0
    same = drift.psi(before, np.histogram(random.normal(0, 1, 5_000), edges)[0].tolist())
    moved = drift.psi(before, new)
    assert same is not None and moved is not None and same < 0.02 < 0.2 < moved


@pytest.mark.parametrize(("n", "m"), [(60, 600), (5_000, 20_000), (10**6, 10**9)])
def test_what_chance_makes_of_the_index_is_chi_squared(n: int, m: int) -> None:
    found = drift.psi_by_chance([m // 10] * 10, [n // 10] * 10)
    assert found == pytest.approx(chi2.ppf(0.99, 9) * (1 / n + 1 / m), rel=0.005)
    assert drift.psi_by_chance([5], [3]) == 0 == drift.psi_by_chance([0, 0], [3, 1])


def test_an_index_of_the_same_distribution_is_mostly_told_as_chance() -> None:
    random = np.random.default_rng(1)
    before = random.multinomial(600, [0.02] * 50).tolist()
    told = [drift.of_scores(before, random.multinomial(60, [0.02] * 50).tolist(), drift.LIMITS)[0] for _ in range(200)]
    assert sum(each.breached for each in told) <= 10
    assert all("by chance up to" in each.said for each in told if each.value == 0)
    shifted = drift.of_scores(before, [0] * 40 + [6] * 10, drift.LIMITS)[0]
    assert shifted.breached and "by chance" not in shifted.said


def test_a_distance_that_chance_makes_is_no_breach_however_large() -> None:
    few = drift.of_scores([5, 5], [3, 1], drift.LIMITS)
    many = drift.of_scores([50_000, 50_000], [30_000, 10_000], drift.LIMITS)
    assert "by chance" in few[1].said and few[1].value == 0 and not few[1].breached
    assert many[1].value == pytest.approx(0.25) and many[1].breached
    assert [each.measure for each in many] == ["psi", "ks"] and (many[0].n, many[0].n_before) == (40_000, 100_000)
    assert drift.of_scores([0, 0], [3, 1], drift.LIMITS) == []


def test_rejections_coverage_and_what_is_kept_are_told_in_words() -> None:
    (rejected,) = drift.of_rejections((10, 1_000), (90, 1_000), drift.LIMITS)
    assert rejected.value == pytest.approx(0.08) and rejected.breached
    assert rejected.said == "9.0% of 1,000 new rows put aside, 1.0% of 1,000 before"
    assert drift.of_rejections((0, 0), (1, 2), drift.LIMITS) == []

    before: dict[str, tuple[int, float | None]] = {"arc": (20, 0.6), "piqa": (20, 0.5), "gone": (3, 0.9), "bare": (2, None)}
    now: dict[str, tuple[int, float | None]] = {"arc": (20, 0.7), "piqa": (20, 0.42), "new": (5, 0.1), "bare": (2, 0.3)}
    (covered,) = drift.of_coverage(before, now, drift.LIMITS)
    assert covered.value == pytest.approx(0.08) and covered.breached and covered.said.startswith("piqa")
    (better,) = drift.of_coverage({"arc": (20, 0.6)}, now, drift.LIMITS)
    assert better.value == 0 and drift.of_coverage({}, now, drift.LIMITS) == []

    (kept,) = drift.of_kept((100, 1_000), (400, 1_000), drift.LIMITS)
    assert kept.value == pytest.approx(2, abs=0.02) and kept.breached
    (none,) = drift.of_kept((100, 1_000), (0, 4), drift.LIMITS)
    assert math.isfinite(none.value) and not none.breached
    assert drift.of_kept((0, 0), (1, 2), drift.LIMITS) == []


def test_limits_are_set_by_name() -> None:
    assert drift.parse_limits(["psi=0.4", "kept=2"]) == {**drift.LIMITS, "psi": 0.4, "kept": 2.0}
    assert set(drift.LIMITS) == set(drift.MEANINGS)


@pytest.mark.parametrize("given_", ["psi", "psi=", "psi=x", "psi=-1", "psi=inf", "phi=0.1", "=1"])
def test_a_limit_that_says_nothing_is_one_sentence(given_: Any) -> None:
    with pytest.raises(InputError, match="--drift reads NAME=NUMBER"):
        drift.parse_limits([given_])
