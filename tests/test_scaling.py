"""Scaling fits: known constants are recovered within their intervals, published figures come out, nothing is extrapolated."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from betr.filter_rate import LAWS, filter_rate
from curation.errors import InputError
from evaluation import fitting, repetition, scaling
from evaluation.filter_law import beside, fit_filter_law
from evaluation.fitting import Floats
from evaluation.laws import Laws, as_json, fit_arms
from evaluation.repetition import R_STAR, effective_tokens, tokens_worth, worth_of_next
from evaluation.scaling import (
    AccuracyLaw,
    Curve,
    LossLaw,
    Multiplier,
    compute_multiplier,
    curve,
    fit_accuracy,
    fit_loss,
    inverse_density,
    loss_starts,
)

TRUE = {"E": 0.9, "A": 60.0, "B": 300.0, "alpha": 0.3, "beta": 0.33}


def true_loss(n: Floats, d: Floats, *, times: float = 1.0) -> Floats:
    """times: how much more the same compute is worth, N and D alike scaled by its root."""
    root = math.sqrt(times)
    return TRUE["E"] + TRUE["A"] / (n * root) ** TRUE["alpha"] + TRUE["B"] / (d * root) ** TRUE["beta"]


def runs(noise: float = 0.003, *, times: float = 1.0, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """7 sizes on 6 numbers of tokens each, with noise of the log loss."""
    n, d = np.repeat(np.geomspace(1e6, 1e9, 7), 6), np.tile(np.geomspace(3e7, 3e10, 6), 7)
    return n, d, true_loss(n, d, times=times) * np.exp(np.random.default_rng(seed).normal(0, noise, len(n)))


@pytest.fixture(scope="module")
def law() -> LossLaw:
    return fit_loss(*runs(), replicates=300)


# -- the law of loss ---------------------------------------------------------------------------------------------------


def test_known_constants_are_recovered_within_their_intervals(law: LossLaw) -> None:
    for name, true in TRUE.items():
        found = getattr(law, name)
        assert found.low <= true <= found.high, (name, found)
        assert found.low < found.value < found.high
    n, d, _ = runs()
    assert law.loss(n, d) == pytest.approx(true_loss(n, d), rel=0.004)
    assert law.replicated(n, d).shape == (300, len(n))


def test_without_noise_the_constants_are_the_true_ones() -> None:
    exact = fit_loss(*runs(0.0), replicates=100)
    for name, true in TRUE.items():
        assert getattr(exact, name).value == pytest.approx(true, rel=0.02)


def slow_objective(theta: Floats, x: Floats, y: Floats, weights: Floats, delta: float) -> float:
    """Huber on the logs, run by run, in plain Python."""
    total = 0.0
    for (n, d), log_loss, w in zip(x, y, weights, strict=True):
        terms = [theta[0] - theta[3] * n, theta[1] - theta[4] * d, theta[2]]
        r = abs(math.log(sum(math.exp(t) for t in terms)) - log_loss)
        total += w * (0.5 * r * r / delta if r <= delta else r - 0.5 * delta)
    return total / sum(weights)


def test_the_compiled_fit_is_scipys_best_of_the_same_grid() -> None:
    """scipy's BFGS from every 6th start of the grid, over the objective in plain Python."""
    n, d, loss = (each[::2] for each in runs(0.01))
    x = np.stack([np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()], axis=1)
    y, weights, starts = np.log(loss), inverse_density(6 * n * d), loss_starts(loss)
    ours, value = fitting.fit_all(fitting.LOSS, starts, x, y, weights, 1e-3, math.nan, 500)
    assert value == pytest.approx(slow_objective(ours, x, y, weights, 1e-3))
    theirs = [
        optimize.minimize(slow_objective, start, args=(x, y, weights, 1e-3), method="BFGS", options={"maxiter": 150})
        for start in starts[::36]
    ]
    best = min(theirs, key=lambda each: each.fun)
    assert value <= best.fun * (1 + 1e-6)
    polished = optimize.minimize(
        slow_objective, ours, args=(x, y, weights, 1e-3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13}
    )
    assert value == pytest.approx(polished.fun, rel=1e-4)  # no lower point nearby
    assert np.exp(ours[2]) == pytest.approx(np.exp(polished.x[2]), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "floor"), [(fitting.LOSS, math.nan), (fitting.ACCURACY, math.nan), (fitting.ACCURACY, 0.25)]
)
def test_gradients_are_those_of_the_objective(kind: int, floor: float) -> None:
    rng = np.random.default_rng(1)
    size = fitting.SIZES[kind]
    for _ in range(20):
        theta = rng.normal(0, 0.5, size)
        x, y, w = rng.uniform(0.1, 2, (9, 2)), rng.uniform(0.1, 0.9, 9), rng.integers(0, 3, 9).astype(float) + 0.1
        gradient = np.empty(size)
        fitting.objective(kind, theta, x, y, w, 0.3, floor, gradient)
        slow = optimize.approx_fprime(
            theta, lambda t, x=x, y=y, w=w: fitting.objective(kind, t, x, y, w, 0.3, floor, np.empty(size)), 1e-7
        )
        if kind == fitting.ACCURACY and math.isfinite(floor):
            slow[0] = 0.0
        assert gradient == pytest.approx(slow, abs=2e-5)


def test_a_replicate_is_a_fit_of_the_runs_drawn() -> None:
    n, d, loss = runs(0.01)
    x = np.ascontiguousarray(np.stack([np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()], axis=1))
    starts, y = loss_starts(loss), np.log(loss)
    counts = np.random.default_rng(2).multinomial(len(n), np.full(len(n), 1 / len(n)), size=4).astype(float)
    optimum, _ = fitting.fit_all(fitting.LOSS, starts, x, y, np.ones(len(n)), 1e-3, math.nan, 500)
    many = fitting.fit_replicates(fitting.LOSS, optimum, starts, x, y, counts, 1e-3, math.nan, 500)
    for theta, row in zip(many, counts, strict=True):
        drawn = np.repeat(np.arange(len(n)), row.astype(int))
        _, value = fitting.fit_all(fitting.LOSS, starts, x[drawn], y[drawn], np.ones(len(drawn)), 1e-3, math.nan, 500)
        assert slow_objective(theta, x, y, row, 1e-3) == pytest.approx(value, rel=1e-3)


def test_a_dear_run_weighs_as_much_as_many_cheap_ones() -> None:
    weights = inverse_density([1e18] * 9 + [1e21])
    assert weights.mean() == pytest.approx(1) and weights[9] > 5 * weights[0] and len(set(weights[:9].round(9))) == 1
    assert inverse_density([1e18] * 3).tolist() == [1, 1, 1]


def test_the_order_of_runs_changes_nothing_but_which_are_drawn(law: LossLaw) -> None:
    n, d, loss = runs()
    order = np.random.default_rng(4).permutation(len(n))
    other = fit_loss(n[order], d[order], loss[order], replicates=100)
    for name in TRUE:
        assert getattr(other, name).value == pytest.approx(getattr(law, name).value, rel=1e-3)
    again = fit_loss(*runs(), replicates=300)
    assert np.array_equal(again.replicates, law.replicates)


@pytest.mark.parametrize(
    ("n", "d", "loss", "said"),
    [
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], [1] * 5, "5 constants and needs at least 6 runs; got 5"),
        ([1, 1, 2, 2, 1, 2], [1, 2, 3, 1, 2, 3], [1] * 6, "got 2 sizes and 3 numbers of tokens"),
        ([1, 2, 3, 4, 5, 6], [20, 40, 60, 80, 100, 120], [1] * 6, "tokens that don't just grow with the model"),
        ([1, 2, 3, 4, 5, 6], [6, 5, 4, 1, 2, 3], [1, 1, 1, 1, 1, math.nan], "loss must be numbers above 0; got nan: leave diverged"),
        ([1, 2, 3, 4, 5, 6], [6, 5, 4, 1, 2], [1] * 6, r"a loss for each run; got \(6,\), \(5,\) and \(6,\)"),
    ],
)  # fmt: skip
def test_runs_that_cannot_tell_are_refused(n: Any, d: Any, loss: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit_loss(n, d, loss)


def test_replicates_that_cannot_tell_are_left_out_and_counted() -> None:
    n, d, loss = (each[[0, 5, 14, 21, 30, 35, 41]] for each in runs(0.001))
    few = fit_loss(n, d, loss, replicates=400)
    assert few.left_out > 0 and len(few.replicates) == 400 - few.left_out


# -- compute-optimal ---------------------------------------------------------------------------------------------------


def published(e: float, a: float, b: float, alpha: float, beta: float) -> LossLaw:
    """A law of known constants, as if it had been fitted without doubt."""
    row = np.array([[math.log(e), math.log(a), math.log(b), alpha, beta]])
    figures = (scaling.Estimate(x) for x in (e, a, b, alpha, beta))
    return LossLaw(
        next(figures), next(figures), next(figures), next(figures), next(figures), row, 0, np.array([1e6, 1e12]),
        np.array([1e6, 1e14]), 0.95,
    )  # fmt: skip


def test_published_constants_give_the_published_twenty_tokens_a_parameter() -> None:
    """Muennighoff et al., appendix A: a, b, e, alpha = beta give Chinchilla's 20 at any compute."""
    c4 = published(math.exp(0.6254804), math.exp(6.255414), math.exp(7.3049974), 0.3526596, 0.3526596)
    for flops in (1e19, 1e21, 5.76e23):
        assert c4.optimum(flops).tokens_per_parameter.value == pytest.approx(20, abs=1)


def test_the_optimum_is_the_lowest_of_all_that_the_compute_buys(law: LossLaw) -> None:
    best = law.optimum(1e19)
    sizes = np.geomspace(1e6, 1e10, 4001)
    along = law.loss(sizes, 1e19 / 6 / sizes)
    assert best.loss.value == pytest.approx(along.min(), rel=1e-6) and best.parameters.value == pytest.approx(
        sizes[along.argmin()], rel=0.01
    )
    assert best.tokens.value * best.parameters.value * 6 == pytest.approx(1e19)
    assert (
        best.parameters.low is not None
        and best.parameters.high is not None
        and best.parameters.low < best.parameters.high
    )
    assert not best.extrapolated and law.optimum(1e24).extrapolated
    with pytest.raises(InputError, match="such as 1e21; got 0"):
        law.optimum(0)


def test_the_papers_tokens_a_parameter_are_recovered_from_runs_that_have_them() -> None:
    """10 to 12 (BETR): constants whose optimum is 11, as `betr select --flops` takes it, seen through noisy runs."""
    n, d = np.repeat(np.geomspace(1e7, 1e9, 6), 6), np.tile(np.geomspace(1e8, 1e10, 6), 6)
    alpha, a = 0.33, 200.0
    loss = 0.7 + a / n**alpha + a * 11**alpha / d**alpha  # alpha = beta: D / N = (B / A)^(1 / alpha)
    fitted = fit_loss(n, d, loss * np.exp(np.random.default_rng(0).normal(0, 0.002, len(n))), replicates=200)
    best = fitted.optimum(1e19)
    assert best.tokens_per_parameter.low is not None and best.tokens_per_parameter.high is not None
    assert (
        best.tokens_per_parameter.low <= 11 <= best.tokens_per_parameter.high
        and 9 < best.tokens_per_parameter.value < 13
    )
    asked = filter_rate(pool_tokens=10**12, flops=1e19)
    assert asked.training_tokens is not None and asked.model_parameters is not None
    assert asked.training_tokens / asked.model_parameters == pytest.approx(11)


def test_tokens_for_a_loss_turn_the_law_round(law: LossLaw) -> None:
    there = law.loss([1e8], [5e9])[0]
    assert law.tokens_for(there, 1e8) == pytest.approx(5e9)
    assert law.tokens_for(law.E.value, 1e8) is None


# -- accuracy ----------------------------------------------------------------------------------------------------------


def test_a_known_sigmoid_is_recovered_and_anchored() -> None:
    bits = np.linspace(0.6, 1.6, 24)
    true = scaling.accuracies(np.array([[0.25, 6.0, 0.8]]), bits[None])[0]
    y = np.clip(true + np.random.default_rng(1).normal(0, 0.01, len(bits)), 0, 1)
    for chance in (None, 0.25):
        found = fit_accuracy(bits, y, chance=chance, replicates=200)
        for each, known in ((found.floor, 0.25), (found.steepness, 6.0), (found.middle, 0.8)):
            assert each.low is not None and each.high is not None and each.low <= known <= each.high
        assert found.accuracy(0.0) == pytest.approx(1.0) and found.accuracy(9.0) == pytest.approx(
            found.floor.value, abs=1e-6
        )
        assert np.all(np.diff(found.accuracy(np.linspace(0, 3, 50))) <= 0)
        assert found.replicated(bits).shape == (200, 24) and found.bits == (0.6, 1.6)


def test_the_sigmoid_is_least_squares() -> None:
    bits, y = np.linspace(0.5, 1.5, 12), np.array([0.9, 0.85, 0.84, 0.7, 0.6, 0.5, 0.45, 0.33, 0.3, 0.27, 0.26, 0.25])
    found = fit_accuracy(bits, y, replicates=100)

    def residuals(theta: Floats) -> Floats:
        return scaling.accuracies(theta[None], bits[None])[0] - y

    slow = optimize.least_squares(residuals, [0.2, 5.0, 0.8])
    assert [found.floor.value, found.steepness.value, found.middle.value] == pytest.approx(slow.x, rel=1e-3)


@pytest.mark.parametrize(
    ("bits", "accuracy", "chance", "said"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], None, "of at least 4 runs"),
        ([1, 2, 3, 0], [0.1, 0.2, 0.3, 1], None, "bits per byte above 0 and accuracies from 0 to 1"),
        ([1, 1, 2, 2], [0.1, 0.2, 0.3, 1], None, "runs of at least 3 different losses"),
        ([1, 2, 3, 4], [0.1, 0.2, 0.3, 1], 1.0, "chance must be a share of at least 0 and below 1; got 1.0"),
    ],
)  # fmt: skip
def test_what_makes_no_sigmoid_is_refused(bits: Any, accuracy: Any, chance: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        fit_accuracy(bits, accuracy, chance=chance)


# -- the multiplier ----------------------------------------------------------------------------------------------------

FLOPS = np.geomspace(1e19, 1e22, 400)


def reached(flops: Floats, times: float = 1.0) -> Floats:
    return 1 - 3 / (flops * times) ** 0.04 * 2


def test_the_papers_multipliers_come_out_and_agree_with_each_other() -> None:
    """Core, RefinedWeb: BETR 4.7 and DCLM-Baseline 2.6 over no filter, BETR over DCLM-Baseline 1.8; Nemotron 4.7, 1.9, 2.5."""
    none = Curve(FLOPS, reached(FLOPS))
    betr, *dclm = (Curve(FLOPS, reached(FLOPS, times)) for times in (4.7, 2.6, 1.9))
    for method, times in ((betr, 4.7), (dclm[0], 2.6), (dclm[1], 1.9)):
        assert compute_multiplier(none, method, bins=30).value == pytest.approx(times, rel=0.03)
    over = [compute_multiplier(each, betr, bins=30).value for each in dclm]
    assert over == pytest.approx([1.8, 2.5], rel=0.03)


def slow_multiplier(baseline: Curve, method: Curve, bins: int) -> float | None:
    low = max(min(baseline.reached), min(method.reached))
    high = min(max(baseline.reached), max(method.reached))
    ratios = []
    for k in range(bins):
        means = []
        for each in (baseline, method):
            inside = [
                c
                for c, y in zip(each.flops, each.reached, strict=True)
                if low <= y <= high and min(bins - 1, math.floor((y - low) / (high - low) * bins)) == k
            ]
            means.append(sum(inside) / len(inside) if inside else None)
        if means[0] is not None and means[1] is not None:
            ratios.append(means[0] / means[1])
    return sum(ratios) / len(ratios) if ratios else None


def test_bins_are_those_of_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    for bins in (1, 5, 20):
        a = Curve(FLOPS[::9], reached(FLOPS[::9]) + rng.normal(0, 0.02, len(FLOPS[::9])))
        b = Curve(FLOPS[::7], reached(FLOPS[::7], 3) + rng.normal(0, 0.02, len(FLOPS[::7])))
        assert compute_multiplier(a, b, bins=bins).value == pytest.approx(slow_multiplier(a, b, bins))


def test_what_one_alone_reaches_is_in_no_bin() -> None:
    """A method that ends above all that the baseline reaches has no multiplier, and points beyond change none."""
    low, high = Curve(np.array([1e18, 1e19]), np.array([0.2, 0.3])), Curve(np.array([1e18, 1e19]), np.array([0.4, 0.5]))
    found = compute_multiplier(low, high)
    assert found.value is None and found.bins == 0 and found.low is None
    assert (
        found.reason
        == "the baseline reaches 0.2 to 0.3 and the method 0.4 to 0.5: no bin holds both, and none is extrapolated"
    )
    base, method = Curve(FLOPS, reached(FLOPS)), Curve(FLOPS, reached(FLOPS, 3))
    longer = Curve(np.append(FLOPS, 1e24), np.append(method.reached, method.reached[-1] + 0.2))
    assert compute_multiplier(base, longer).value == compute_multiplier(base, method).value
    with pytest.raises(InputError, match="at least 1 bin; got 0"):
        compute_multiplier(base, method, bins=0)
    with pytest.raises(InputError, match="the method's curve needs a finite figure for each compute"):
        compute_multiplier(base, Curve(FLOPS, FLOPS * np.nan))


def test_a_known_multiplier_is_within_its_interval_through_both_fits() -> None:
    """Two arms, one worth 2.5 times the compute of the other, seen through noisy losses and accuracies."""
    curves = []
    for seed, times in ((1, 1.0), (2, 2.5)):
        n, d, loss = runs(0.003, times=times, seed=seed)
        noisy = scaling.accuracies(np.array([[0.25, 4.0, 1.6]]), loss[None])[0] + np.random.default_rng(seed).normal(
            0, 0.005, len(n)
        )
        law, sigmoid = fit_loss(n, d, loss, replicates=200), fit_accuracy(loss, noisy, chance=0.25, replicates=200)
        curves.append((curve([law], [sigmoid]), curve([law])))  # both arms' runs are alike, and so are their paths
    for k in (0, 1):
        found = compute_multiplier(curves[0][k], curves[1][k])
        assert found.value is not None and found.low is not None and found.high is not None
        assert found.low <= 2.5 <= found.high and found.value == pytest.approx(2.5, rel=0.25)
        same = compute_multiplier(curves[0][k], curves[0][k])
        assert same.value == pytest.approx(1.0) and same.low is not None and same.low < 1


def test_a_curve_stays_within_the_runs(law: LossLaw) -> None:
    n, d, _ = runs()
    walked = curve([law])
    assert walked.flops.min() >= 6 * (n * d).min() * 0.999 and walked.flops.max() <= 6 * (n * d).max() * 1.001
    assert np.all(np.diff(walked.reached) > 0) and walked.replicates is not None and walked.replicates.shape[0] == 300
    other = fit_loss(*(each[:-6] for each in runs()), replicates=100)
    far = fit_loss(n, d * 1e4, runs()[2], replicates=100)
    with pytest.raises(InputError, match="the arms share no range of sizes and tokens that were trained"):
        scaling.common_path(law, far)
    with pytest.raises(InputError, match="must be measured on the same runs"):
        curve([law, other])
    with pytest.raises(InputError, match="a law for each benchmark; got 0 of loss, 0 of accuracy"):
        curve([])


def test_an_interval_is_not_given_where_replicates_reach_no_common_bin() -> None:
    base = Curve(FLOPS, reached(FLOPS), np.repeat(reached(FLOPS)[None], 100, axis=0))
    apart = np.repeat(reached(FLOPS, 2)[None], 100, axis=0)
    apart[:20] += 5
    found = compute_multiplier(base, Curve(FLOPS, reached(FLOPS, 2), apart))
    assert isinstance(found, Multiplier) and found.value is not None and found.low is None
    assert found.reason == "no interval: in 20 of 100 replicates no bin holds both"


# -- the filter rate ---------------------------------------------------------------------------------------------------


def filtered(
    exponent: float,
    at_1e20: float,
    *,
    noise: float = 0.001,
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0),
    bend: float = 0.01,
) -> tuple[Floats, Floats, Floats]:
    computes = np.geomspace(1e19, 1e22, 4)
    c, f = np.repeat(computes, len(rates)), np.tile(rates, len(computes))
    best = np.log(at_1e20) + exponent * np.log(c / 1e20)
    loss = 2.0 - 0.1 * np.log10(c / 1e19) + bend * (np.log(f) - best) ** 2
    return c, f, loss + np.random.default_rng(0).normal(0, noise, len(c))


def test_a_known_filter_law_is_recovered_and_stands_beside_the_papers() -> None:
    own = fit_filter_law(*filtered(0.25, 0.08), replicates=500)
    assert own.exponent is not None and own.factor is not None
    assert (
        own.exponent.low is not None and own.exponent.high is not None and own.exponent.low <= 0.25 <= own.exponent.high
    )
    best = own.best(1e20)
    assert best is not None and best.keep.low is not None and best.keep.high is not None
    assert best.keep.low <= 0.08 <= best.keep.high and not best.outside and not best.extrapolated
    far = own.best(1e26)
    assert far is not None and far.keep.value == 1.0 and far.outside and far.extrapolated
    rows = beside(own, [1e20, 1e23])
    assert [name for name, _, _ in rows] == ["own", *LAWS] * 2
    assert [share.value for name, c, share in rows if name == "nemotron" and share is not None] == [
        LAWS["nemotron"].share(1e20),
        LAWS["nemotron"].share(1e23),
    ]
    exact = fit_filter_law(*filtered(0.25, 0.08, noise=0.0), replicates=100)
    assert exact.exponent is not None and exact.exponent.value == pytest.approx(0.25)


def test_the_papers_law_comes_back_out_of_runs_that_follow_it() -> None:
    law = LAWS["nemotron"]
    c = np.repeat([1e20, 1e21, 1e22, 1e23], 4)
    f = np.tile([0.03, 0.1, 0.3, 1.0], 4)
    best = np.log([law.share(each) for each in c])
    own = fit_filter_law(c, f, 2 + 0.01 * (np.log(f) - best) ** 2, replicates=100)
    assert own.factor is not None and own.exponent is not None
    assert (own.factor.value, own.exponent.value) == (pytest.approx(law.factor), pytest.approx(law.exponent))


def test_the_published_shares_lie_within_what_the_laws_rounding_leaves() -> None:
    """About 3% at 1e20 and 30% at 1e23, with an exponent of two digits: 0.25 is anything from 0.245 to 0.255."""
    factor, exponent = LAWS["nemotron"].factor, LAWS["nemotron"].exponent
    for flops, share in ((1e20, 3.0), (1e23, 30.0)):
        low, high = ((factor + f) * flops ** (exponent + e) for f, e in ((-0.5e-5, -0.005), (0.5e-5, 0.005)))
        assert low < share < high


def test_a_best_rate_that_was_not_tried_is_no_law_but_a_reason() -> None:
    upside_down = fit_filter_law(*filtered(0.2, 0.1, bend=-0.01), replicates=100)
    assert upside_down.exponent is None and upside_down.best(1e20) is None
    assert "no lowest point" in upside_down.reason and beside(upside_down, [1e20])[0] == ("own", 1e20, None)
    beyond = fit_filter_law(*filtered(0.0, 0.001), replicates=100)
    assert (
        beyond.factor is None
        and beyond.reason == "at every compute the best share lies beyond those tried: try lower ones"
    )
    for flops, keep, loss, said in (
        ([1, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5], [1] * 5, "at least 3 shares kept at each of 2 computes.*got 5 runs at 1 computes"),
        ([1, 1, 1], [0.1, 0.2, 2], [1] * 3, "the filter law needs computes above 0, shares in"),
        ([1, 1], [0.1, 0.2, 2], [1] * 3, r"compute, share and loss of each run; got \(2,\), \(3,\), \(3,\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            fit_filter_law(flops, keep, loss)
    with pytest.raises(InputError, match="such as 1e21; got -1"):
        fit_filter_law(*filtered(0.25, 0.08), replicates=100).best(-1)


# -- repetition --------------------------------------------------------------------------------------------------------


def test_the_papers_example_of_repetition_comes_out() -> None:
    """Muennighoff et al., appendix: R* = 3, a unit read five times is worth 3.21 units, read 101 times 3.99 or 4.00."""
    assert effective_tokens(1, 5, r_star=3) == pytest.approx(3.21, abs=0.005)
    assert effective_tokens(1, 101, r_star=3) == pytest.approx(4, abs=0.011)


def test_repeated_tokens_are_worth_less_and_less_and_never_more_than_new_ones() -> None:
    trained = np.linspace(0, 60e6, 121)
    worth = np.array([effective_tokens(1e6, each) for each in trained])
    assert np.all(worth <= trained + 1e-6) and np.all(np.diff(worth) > 0) and np.all(np.diff(worth, 2) < 1e-3)
    assert worth[-1] < 1e6 * (1 + R_STAR)
    for each in (0.5e6, 3e6, 20e6):
        slope = (effective_tokens(1e6, each + 1) - effective_tokens(1e6, each - 1)) / 2
        assert slope == pytest.approx(worth_of_next(1e6, each), rel=1e-4)
        assert tokens_worth(1e6, effective_tokens(1e6, each)) == pytest.approx(each)
    assert tokens_worth(1e6, 17e6) is None


def test_four_epochs_are_almost_free_and_the_rest_is_said() -> None:
    found = repetition.repetition(1e9)
    assert found.free == 4e9 and found.worth == pytest.approx(0.93, abs=0.005)
    assert worth_of_next(1e9, found.half) == pytest.approx(0.5) and found.most == pytest.approx(16.39e9, rel=1e-3)
    assert len(repetition.ASSUMED) == 3


def test_repetition_needs_numbers() -> None:
    for call, said in (
        (lambda: effective_tokens(0, 1), "unique tokens must be a number above 0; got 0"),
        (lambda: effective_tokens(1, -1), "trained on must be a number of at least 0; got -1"),
        (lambda: worth_of_next(1, 1, r_star=0), r"R\* must be a number above 0; got 0"),
        (lambda: repetition.repetition(1, epochs=0.5), "the epochs that count as free must be at least 1; got 0.5"),
    ):
        with pytest.raises(InputError, match=said):
            call()  # type: ignore[no-untyped-call]


# -- from the tables ---------------------------------------------------------------------------------------------------


def measured(times: dict[str, float], *, sizes: int = 7) -> tuple[pd.DataFrame, pd.DataFrame]:
    """PROXY_RUNS and EVALUATIONS of arms that are worth so many times the compute, on two benchmarks."""
    table, rows = [], []
    for k, (arm, worth) in enumerate(times.items()):
        n, d, loss = runs(0.002, times=worth, seed=k)
        for i in range(6 * sizes):
            table.append(
                {
                    "proxy_id": f"{arm}{i}",
                    "arm": arm,
                    "parameters": n[i],
                    "tokens": d[i],
                    "seed": 0,
                    "status": "finished",
                }
            )
            right = scaling.accuracies(np.array([[0.25, 4.0, 1.6]]), loss[None])[0, i]
            for b, times_b in (("x", 1.0), ("y", 1.5)):
                rows += [{"proxy_id": f"{arm}{i}", "phase": "pretrained", "benchmark": b, "bits_per_byte": loss[i] * times_b,
                          "correct": None if b == "y" else k < right * 100} for k in range(100 if b == "x" else 1)]  # fmt: skip
        table.append(
            {"proxy_id": f"{arm} broken", "arm": arm, "parameters": 5.0, "tokens": 5.0, "seed": 0, "status": "diverged"}
        )
    return pd.DataFrame(table), pd.DataFrame(rows)


def test_laws_and_multipliers_come_from_the_tables_or_say_why_not() -> None:
    table, rows = measured({"random": 1.0, "betr": 2.0})
    found = fit_arms(table, rows, baseline="random", chance={"x": 0.25}, replicates=150)
    [both] = found.multipliers
    assert (both.arm, both.over, both.by) == ("betr", "random", "loss")  # one benchmark has no right answers
    assert (
        both.multiplier.value == pytest.approx(2.0, rel=0.2)
        and both.multiplier.low is not None
        and both.multiplier.high is not None
    )
    assert both.multiplier.low <= 2.0 <= both.multiplier.high
    assert {arm.arm: (arm.runs, sorted(arm.loss), sorted(arm.accuracy)) for arm in found.arms} == dict.fromkeys(
        ("betr", "random"), (42, ["x", "y"], ["x"])
    )
    one = fit_arms(
        table, rows[rows["benchmark"] == "x"], baseline="random", chance={"x": 0.25}, replicates=150
    ).multipliers[0]
    assert one.by == "accuracy" and one.multiplier.value == pytest.approx(2.0, rel=0.25)
    read = json.loads(json.dumps(as_json(found)))
    assert (
        read["multipliers"][0]["multiplier"]["value"] == both.multiplier.value
        and read["arms"][0]["loss"]["x"]["E"]["low"]
    )
    smaller = table[~((table["arm"] == "betr") & (table["parameters"] > 1.1e7))]
    unlike = fit_arms(smaller, rows, baseline="random", replicates=150).multipliers[0].multiplier
    assert unlike.value == pytest.approx(2.0, rel=0.2)  # other runs, and yet the same selection
    few = table[~((table["arm"] == "betr") & (table["parameters"] > 9e6))]
    [none] = fit_arms(few, rows, baseline="random", replicates=100).multipliers
    assert (
        none.multiplier.value is None
        and "betr: the law can't be fitted: it needs at least 3 sizes of model" in none.multiplier.reason
    )
    [unmeasured] = fit_arms(
        table, rows[rows["proxy_id"].str.startswith("random")], baseline="random", replicates=100
    ).multipliers
    assert unmeasured.multiplier.reason == "betr: none of its runs was measured"
    with pytest.raises(InputError, match="the baseline 'nobody' has no finished run; train it or choose another"):
        fit_arms(table, rows, baseline="nobody")
    apart = table.assign(tokens=table["tokens"].where(table["arm"] == "random", table["tokens"] * 1e4))
    [nothing] = fit_arms(apart, rows, baseline="random", replicates=100).multipliers
    assert (
        nothing.multiplier.reason
        == "the arms share no range of sizes and tokens that were trained, so that their compute can't be compared"
    )
    other = rows.replace({"benchmark": {"x": "z"}})[lambda f: f["proxy_id"].str.startswith("betr")]
    mixed = pd.concat([rows[rows["proxy_id"].str.startswith("random") & (rows["benchmark"] == "x")], other])
    assert (
        fit_arms(table, mixed, baseline="random", replicates=100).multipliers[0].multiplier.reason
        == "no benchmark is measured in both arms"
    )
    page = comparison_page_of(found)
    assert (
        "Laws and the compute saved" in page and "How much to keep" in page and "How far the selections reach" in page
    )


def comparison_page_of(laws: Laws) -> str:
    from evaluation.compare import compare
    from evaluation.report import comparison_page
    from tests.test_compare import tables

    own = fit_filter_law(*filtered(0.25, 0.08), replicates=100)
    beyond = fit_filter_law(*filtered(0.0, 0.001), replicates=100)
    found = compare(*tables({"betr": 0.2}, sizes=["large"], examples=10), replicates=100)
    assert "t told by these 16 runs: at every compute" in comparison_page(found, kept=beyond)
    return comparison_page(found, laws=laws, kept=own, reach={"betr": 1e6})


def test_an_accuracy_law_and_a_loss_law_are_what_a_curve_is_made_of(law: LossLaw) -> None:
    c, k, middle = scaling.Estimate(0.25), scaling.Estimate(4.0), scaling.Estimate(1.6)
    sigmoid = AccuracyLaw(c, k, middle, np.tile([[0.25, 4.0, 1.6]], (300, 1)), (1.0, 3.0), 0.95)
    both = curve([law, law], [sigmoid, sigmoid])
    one = curve([law], [sigmoid])
    assert both.reached == pytest.approx(one.reached) and both.replicates == pytest.approx(one.replicates)
