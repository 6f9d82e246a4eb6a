"""The paper's fits: loss from parameters and tokens, accuracy from loss, and the compute that a better selection saves.

Each fit holds its replicates, one a row, so that whatever is computed from it has an interval of the same bootstrap.
Nothing is extrapolated without saying so, and a compute multiplier never is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from bare.draws import resampled_counts
from curation.errors import InputError
from evaluation import fitting
from evaluation.fitting import Floats

DELTA = 1e-3
REPLICATES = 4_000
LEVEL = 0.95
BINS = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6
_ITERATIONS = 500
_POINTS = 200
_COLLINEAR = 0.98


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; without ends where it has none."""

    value: float
    low: float | None = None
    high: float | None = None


def estimate(value: float, replicates: Floats, level: float) -> Estimate:
    """Percentiles of the replicates that are numbers, the value among them; no interval where 1 of 20 is none."""
    there = replicates[np.isfinite(replicates)]
    if len(there) < 0.95 * max(1, len(replicates)):
        return Estimate(value)
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


# -- loss from parameters and tokens -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Optimum:
    """The best use of a compute by a fitted law; extrapolated: model or tokens lie beyond those of the runs."""

    flops: float
    parameters: Estimate
    tokens: Estimate
    tokens_per_parameter: Estimate
    loss: Estimate
    extrapolated: bool


@dataclass(frozen=True, eq=False)
class LossLaw:
    """L = E + A / N^alpha + B / D^beta, with N parameters and D tokens.

    replicates: (replicates, 5) of log E, log A, log B, alpha, beta; left_out: further ones whose runs can't tell N
    from D. parameters, tokens: of the runs, for what is interpolation.
    """

    E: Estimate
    A: Estimate
    B: Estimate
    alpha: Estimate
    beta: Estimate
    replicates: Floats
    left_out: int
    parameters: Floats
    tokens: Floats
    level: float

    @property
    def point(self) -> Floats:
        """The fit itself as a row like the replicates'."""
        logs = [math.log(each.value) for each in (self.E, self.A, self.B)]
        return np.array([*logs, self.alpha.value, self.beta.value])

    def loss(self, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        """The loss that the law gives, in the unit of the runs' losses."""
        return losses(self.point[None], parameters, tokens)[0]

    def replicated(self, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
        """The same by every replicate: (replicates, points)."""
        return losses(self.replicates, parameters, tokens)

    def within(self, parameters: float, tokens: float) -> bool:
        """Whether such a run lies among those that the law was fitted to."""
        inside = self.parameters.min() <= parameters <= self.parameters.max()
        return bool(inside and self.tokens.min() <= tokens <= self.tokens.max())

    def optimum(self, flops: float) -> Optimum:
        """N and D that make the loss least at C = 6 N D: N = G (C / 6)^(beta / (alpha + beta))."""
        if not (math.isfinite(flops) and flops > 0):
            raise InputError(f"flops must be a number above 0, such as 1e21; got {flops!r}")
        n = _best_parameters(self.point[None], flops)
        many = _best_parameters(self.replicates, flops)
        per = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        parameters, tokens = float(n[0]), float(per / n[0])
        then = losses_each(self.replicates, many, per / many)
        return Optimum(
            flops,
            estimate(parameters, many, self.level),
            estimate(tokens, per / many, self.level),
            estimate(tokens / parameters, per / many**2, self.level),
            estimate(float(self.loss([parameters], [tokens])[0]), then, self.level),
            not self.within(parameters, tokens),
        )

    def tokens_for(self, loss: float, parameters: float) -> float | None:
        """How many tokens bring a model of this size to the loss; None where no number of them does."""
        left = loss - self.E.value - self.A.value / parameters**self.alpha.value
        return (self.B.value / left) ** (1 / self.beta.value) if left > 0 else None


def losses(rows: Floats, parameters: npt.ArrayLike, tokens: npt.ArrayLike) -> Floats:
    """(rows, points): the loss by each row of log E, log A, log B, alpha, beta."""
    n, d = np.log(np.asarray(parameters, np.float64)), np.log(np.asarray(tokens, np.float64))
    with np.errstate(over="ignore"):
        e, a, b = (rows[:, k, None] for k in range(3))
        return np.asarray(np.exp(e) + np.exp(a - rows[:, 3, None] * n) + np.exp(b - rows[:, 4, None] * d))


def losses_each(rows: Floats, parameters: Floats, tokens: Floats) -> Floats:
    """The loss by each row at parameters and tokens of its own: (rows,)."""
    log_e, log_a, log_b, alpha, beta = rows.T
    return np.asarray(np.exp(log_e) + np.exp(log_a) / parameters**alpha + np.exp(log_b) / tokens**beta)


def _best_parameters(rows: Floats, flops: float) -> Floats:
    log_a, log_b, alpha, beta = rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4]
    with np.errstate(all="ignore"):  # an exponent below 0 has no optimum: NaN
        g = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
        return np.exp(g + beta / (alpha + beta) * math.log(flops / FLOPS_PER_PARAMETER_AND_TOKEN))


def inverse_density(flops: npt.ArrayLike) -> Floats:
    """Weights inverse to the density of log FLOPs, 1 on average: many cheap runs don't outvote a dear one.

    The density is a Gaussian kernel's with Scott's bandwidth, which the paper doesn't state.
    """
    logs = np.log(np.asarray(flops, np.float64))
    width = logs.std() * len(logs) ** -0.2
    if width < 1e-9:
        return np.ones(len(logs))
    density = np.exp(-0.5 * ((logs[:, None] - logs[None, :]) / width) ** 2).mean(axis=1)
    return np.asarray((1 / density) / (1 / density).mean())


def fit_loss(
    parameters: npt.ArrayLike, tokens: npt.ArrayLike, loss: npt.ArrayLike, *, replicates: int = REPLICATES,
    delta: float = DELTA, level: float = LEVEL, seed: int = 0,
) -> LossLaw:  # fmt: skip
    """The law through runs of known parameters, tokens and loss (bits per byte, nats: the law is in the same unit).

    Huber (delta) on log losses via log-sum-exp, BFGS from a grid of starts, weights inverse to the density of log
    FLOPs; the bootstrap draws runs. InputError where the runs can't tell what N does from what D does.
    """
    n, d, y = (np.asarray(each, np.float64) for each in (parameters, tokens, loss))
    _check_runs(n, d, y)
    log_n, log_d = np.log(n), np.log(d)
    # Centred, a term is its size in the middle of the runs, and hardly moves with its exponent.
    x = np.ascontiguousarray(np.stack([log_n - log_n.mean(), log_d - log_d.mean()], axis=1))
    weights = inverse_density(FLOPS_PER_PARAMETER_AND_TOKEN * n * d)
    starts = loss_starts(y)
    settings = (x, np.log(y), delta, math.nan, _ITERATIONS)
    theta, _ = _fit(fitting.LOSS, starts, weights, *settings)
    counts = resampled_counts(len(y), replicates, seed=seed).astype(np.float64)
    able = np.array([_identified(log_n[row > 0], log_d[row > 0]) for row in counts], bool)
    many = _fit_many(fitting.LOSS, theta, starts, counts[able] * weights, *settings)
    means = log_n.mean(), log_d.mean()
    rows = _uncentred(many, *means)
    point = _uncentred(theta[None], *means)[0]
    e, a, b = (estimate(math.exp(point[k]), np.exp(rows[:, k]), level) for k in range(3))
    alpha, beta = (estimate(float(point[k]), rows[:, k], level) for k in (3, 4))
    return LossLaw(e, a, b, alpha, beta, rows, int((~able).sum()), n, d, level)


def _uncentred(thetas: Floats, n: float, d: float) -> Floats:
    """(a, b, e, alpha, beta) around the means -> log E, log A, log B, alpha, beta."""
    a, b, e, alpha, beta = thetas.T
    return np.stack([e, a + alpha * n, b + beta * d, alpha, beta], axis=1)


def loss_starts(loss: Floats) -> Floats:
    """The grid: what of the middle loss is E and what each term, in three parts each, and four of either exponent."""
    middle, least = float(np.exp(np.log(loss).mean())), float(loss.min())
    rows = []
    for e, share, alpha, beta in product((0.1, 0.5, 0.9), (0.1, 0.5, 0.9), *2 * ((0.1, 0.3, 0.6, 1.0),)):
        rest = middle - e * least
        rows.append((math.log(share * rest), math.log((1 - share) * rest), math.log(e * least), alpha, beta))
    return np.array(rows)


def _check_runs(n: Floats, d: Floats, y: Floats) -> None:
    if not n.shape == d.shape == y.shape or n.ndim != 1:
        raise InputError(
            f"the law needs parameters, tokens and a loss for each run; got {n.shape}, {d.shape} and {y.shape}"
        )
    for name, values in (("parameters", n), ("tokens", d), ("loss", y)):
        wrong = values[~(np.isfinite(values) & (values > 0))]
        if len(wrong):
            raise InputError(f"the law's {name} must be numbers above 0; got {wrong[0]:g}: leave diverged runs out")
    if len(y) < 6:
        raise InputError(f"the law has 5 constants and needs at least 6 runs; got {len(y)}")
    if not _identified(np.log(n), np.log(d)):
        raise InputError(
            "the law can't be fitted: it needs at least 3 sizes of model and 3 numbers of tokens, and tokens that "
            f"don't just grow with the model; got {len(set(n.tolist()))} sizes and {len(set(d.tolist()))} numbers of "
            "tokens. Train some sizes on more and on fewer tokens"
        )


def _identified(log_n: Floats, log_d: Floats) -> bool:
    if len(np.unique(log_n)) < 3 or len(np.unique(log_d)) < 3 or len(log_n) < 6:
        return False
    return bool(abs(np.corrcoef(log_n, log_d)[0, 1]) < _COLLINEAR)


def _fit(
    kind: int, starts: Floats, weights: Floats, x: Floats, y: Floats, delta: float, floor: float, iterations: int
) -> tuple[Floats, float]:
    theta, value = fitting.fit_all(kind, starts, x, y, weights, delta, floor, iterations)
    return theta, float(value)


def _fit_many(
    kind: int, theta: Floats, starts: Floats, weights: Floats, x: Floats, y: Floats, delta: float, floor: float,
    iterations: int,
) -> Floats:  # fmt: skip
    weights = np.ascontiguousarray(weights)
    return np.asarray(fitting.fit_replicates(kind, theta, starts, x, y, weights, delta, floor, iterations))


# -- accuracy from loss ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AccuracyLaw:
    """Accuracy = c + (1 - c) s(L) / s(0), s(L) = 1 / (1 + exp(k (L - L0))): 1 at 0 bits a byte, c far above.

    replicates: (replicates, 3) of c, k, L0. bits: from the least to the most bits per byte of the runs.
    """

    floor: Estimate
    steepness: Estimate
    middle: Estimate
    replicates: Floats
    bits: tuple[float, float]
    level: float

    def accuracy(self, bits: npt.ArrayLike) -> Floats:
        """The accuracy at these bits per byte."""
        row = np.array([[self.floor.value, self.steepness.value, self.middle.value]])
        return accuracies(row, np.atleast_1d(np.asarray(bits, np.float64))[None])[0]

    def replicated(self, bits: Floats) -> Floats:
        """The same by every replicate, at bits (replicates, points) of their own, or (points,) for all."""
        return accuracies(self.replicates, np.atleast_2d(bits))


def accuracies(rows: Floats, bits: Floats) -> Floats:
    """(rows, points) by rows of c, k, L0."""
    c, k, middle = (rows[:, j, None] for j in range(3))
    falls, zero = np.logaddexp(0, k * (bits - middle)), np.logaddexp(0, -k * middle)
    return np.asarray(c + (1 - c) * np.exp(zero - falls))


def fit_accuracy(
    bits: npt.ArrayLike, accuracy: npt.ArrayLike, *, chance: float | None = None, replicates: int = REPLICATES,
    level: float = LEVEL, seed: int = 0,
) -> AccuracyLaw:  # fmt: skip
    """The sigmoid from bits per byte to accuracy, anchored at (0, 1), through runs on one benchmark, by least squares.

    chance: where the curve ends for a model that knows nothing; None: fitted as well, which needs runs near it.
    """
    x, y = np.asarray(bits, np.float64), np.asarray(accuracy, np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 4:
        raise InputError(
            f"the sigmoid needs bits per byte and accuracy of at least 4 runs; got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and (x > 0).all() and ((y >= 0) & (y <= 1)).all()):
        raise InputError("the sigmoid needs bits per byte above 0 and accuracies from 0 to 1; leave diverged runs out")
    if chance is not None and not 0 <= chance < 1:
        raise InputError(f"chance must be a share of at least 0 and below 1; got {chance!r}")
    if len(np.unique(x)) < 3:
        raise InputError("the sigmoid needs runs of at least 3 different losses; train other sizes")
    floor = math.nan if chance is None else chance
    starts = np.array(
        [
            (math.log(c / (1 - c)), math.log(k / x.mean()), m * x.mean())
            for c, k, m in product((0.05, 0.25, 0.5), (1.0, 4.0, 16.0), (0.3, 0.7, 1.0, 1.5))
        ]
    )
    settings = (np.ascontiguousarray(x[:, None]), y, DELTA, floor, _ITERATIONS)
    theta, _ = _fit(fitting.ACCURACY, starts, np.ones(len(x)), *settings)
    counts = resampled_counts(len(x), replicates, seed=seed).astype(np.float64)
    able = np.array([len(np.unique(x[row > 0])) >= 3 for row in counts], bool)
    rows = _plain(_fit_many(fitting.ACCURACY, theta, starts, counts[able], *settings), floor)
    point = _plain(theta[None], floor)[0]
    c, steepness, middle = (estimate(float(point[k]), rows[:, k], level) for k in range(3))
    return AccuracyLaw(c, steepness, middle, rows, (float(x.min()), float(x.max())), level)


def _plain(thetas: Floats, floor: float) -> Floats:
    free = 1 / (1 + np.exp(-np.clip(thetas[:, 0], -700, 700)))
    c = np.full(len(thetas), floor) if math.isfinite(floor) else free
    return np.stack([c, np.exp(np.minimum(thetas[:, 1], 50.0)), thetas[:, 2]], axis=1)


# -- the compute multiplier --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curve:
    """What an arm reaches at each compute, more is better; replicates: (replicates, points), or None."""

    flops: Floats
    reached: Floats
    replicates: Floats | None = None


@dataclass(frozen=True)
class Multiplier:
    """How many times the compute the baseline needs for the same; value None: it can't be said, reason says why.

    low, high: None where there is no interval. bins: how many it is the mean of; span: what was reached in them.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    bins: int = 0
    span: tuple[float, float] | None = None
    reason: str = ""


def common_path(*laws: LossLaw, points: int = _POINTS) -> tuple[Floats, Floats]:
    """(parameters, tokens) along which arms compare: the line of log N in log C through all runs that lie within the
    sizes and tokens that every arm has trained, from the cheapest of them to the dearest.

    On one path for both arms a multiplier is that of the selection, not of how its runs split compute into N and D.
    """
    least_n, most_n = max(law.parameters.min() for law in laws), min(law.parameters.max() for law in laws)
    least_d, most_d = max(law.tokens.min() for law in laws), min(law.tokens.max() for law in laws)
    n, d = (np.concatenate([getattr(law, what) for law in laws]) for what in ("parameters", "tokens"))
    inside = (n >= least_n) & (n <= most_n) & (d >= least_d) & (d <= most_d)
    flops = FLOPS_PER_PARAMETER_AND_TOKEN * n[inside] * d[inside]
    if not len(flops) or np.ptp(np.log(flops)) < 1e-6:
        raise InputError(
            "the arms share no range of sizes and tokens that were trained, so that their compute can't be compared"
        )
    slope, start = np.polyfit(np.log(flops), np.log(n[inside]), 1)
    along = np.geomspace(flops.min(), flops.max(), points)
    sizes = np.clip(np.exp(start + slope * np.log(along)), least_n, most_n)
    tokens = along / FLOPS_PER_PARAMETER_AND_TOKEN / sizes
    trained = (tokens >= least_d * (1 - 1e-9)) & (tokens <= most_d * (1 + 1e-9))
    return sizes[trained], tokens[trained]


def curve(
    laws: Sequence[LossLaw], accuracy: Sequence[AccuracyLaw] = (), *, path: tuple[Floats, Floats] | None = None
) -> Curve:
    """An arm's mean over benchmarks along a path: accuracy, or without sigmoids loss turned round (-L).

    laws, accuracy: one a benchmark, through the same runs. path: `common_path` of the arms that are to be compared;
    None: of this one alone.
    """
    if not laws or len(accuracy) not in (0, len(laws)):
        raise InputError(
            f"a curve needs a law for each benchmark; got {len(laws)} of loss, {len(accuracy)} of accuracy"
        )
    n, d = laws[0].parameters, laws[0].tokens
    if any(not (np.array_equal(law.parameters, n) and np.array_equal(law.tokens, d)) for law in laws):
        raise InputError(
            "a curve's benchmarks must be measured on the same runs; fit them again on those that all have"
        )
    sizes, tokens = common_path(laws[0]) if path is None else path
    few = min([len(law.replicates) for law in laws] + [len(law.replicates) for law in accuracy])
    point, many = np.zeros(len(sizes)), np.zeros((few, len(sizes)))
    for k, law in enumerate(laws):
        bits, drawn = law.loss(sizes, tokens), law.replicated(sizes, tokens)[:few]
        if accuracy:
            point += accuracy[k].accuracy(bits)
            many += accuracies(accuracy[k].replicates[:few], drawn)
        else:
            point, many = point - bits, many - drawn
    return Curve(FLOPS_PER_PARAMETER_AND_TOKEN * sizes * tokens, point / len(laws), many / len(laws))


def compute_multiplier(baseline: Curve, method: Curve, *, bins: int = BINS, level: float = LEVEL) -> Multiplier:
    """Mean over bins of what is reached: the baseline's mean FLOPs in the bin over the method's.

    Bins of equal width fill what both reach, from the higher of the least to the lower of the most; one that holds no
    point of either is no part of it. Where they have no such span, there is no multiplier.
    """
    if bins < 1:
        raise InputError(f"the multiplier needs at least 1 bin; got {bins}")
    for name, each in (("baseline", baseline), ("method", method)):
        if each.flops.shape != each.reached.shape or not len(each.flops) or not np.isfinite(each.reached).all():
            raise InputError(f"the {name}'s curve needs a finite figure for each compute; got {each.reached.shape}")
    value, used, span = (each[0] for each in _multipliers(baseline, method, bins, points=True))
    if not used:
        ours, theirs = (f"{c.reached.min():.4g} to {c.reached.max():.4g}" for c in (method, baseline))
        return Multiplier(
            None,
            reason=f"the baseline reaches {theirs} and the method {ours}: no bin holds both, and none is extrapolated",
        )
    ends = float(span[0]), float(span[1])
    if baseline.replicates is None or method.replicates is None:
        return Multiplier(float(value), bins=int(used), span=ends)
    many, there, _ = _multipliers(baseline, method, bins, points=False)
    found = estimate(float(value), np.where(there > 0, many, np.nan), level)
    lost = int((there == 0).sum())
    reason = f"no interval: in {lost:,} of {len(there):,} replicates no bin holds both" if found.low is None else ""
    return Multiplier(float(value), found.low, found.high, int(used), ends, reason)


def _multipliers(
    baseline: Curve, method: Curve, bins: int, *, points: bool
) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """(multiplier, bins that hold both, span) of the curves themselves, or of each replicate."""
    ours, theirs = (_rows(each, points) for each in (method, baseline))
    rows = min(len(ours), len(theirs))
    # Arms fitted with one seed have drawn the same places among their runs: one step apart they are drawn alone.
    ours, theirs = np.roll(ours[:rows], 1, axis=0), theirs[:rows]
    low = np.maximum(ours.min(axis=1), theirs.min(axis=1))
    high = np.minimum(ours.max(axis=1), theirs.max(axis=1))
    a, b = (_bin_means(r, c.flops, low, high, bins) for r, c in ((theirs, baseline), (ours, method)))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = a / b
        used = np.isfinite(ratios)
        value = np.where(used, ratios, 0.0).sum(axis=1) / np.maximum(1, used.sum(axis=1))
    return value, used.sum(axis=1), np.stack([low, high], axis=1)


def _rows(each: Curve, points: bool) -> Floats:
    return each.reached[None] if points or each.replicates is None else each.replicates


def _bin_means(reached: Floats, flops: Floats, low: Floats, high: Floats, bins: int) -> Floats:
    """Mean FLOPs of each row's points by bin, NaN where a bin holds none: (rows, bins)."""
    width = (high - low)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        place = np.floor((reached - low[:, None]) / width * bins)
    inside = (reached >= low[:, None]) & (reached <= high[:, None]) & (width > 0)
    which = np.where(inside, np.minimum(np.nan_to_num(place), bins - 1), 0).astype(np.int64)
    flat = (which + np.arange(len(reached))[:, None] * bins)[inside]
    size = len(reached) * bins
    counts = np.bincount(flat, minlength=size).astype(np.float64)
    sums = np.bincount(flat, weights=np.broadcast_to(flops, reached.shape)[inside], minlength=size)
    with np.errstate(invalid="ignore"):
        return np.asarray((sums / np.where(counts > 0, counts, np.nan)).reshape(len(reached), bins))
