"""Intervals of differences between arms, where both the models' seeds and the examples could have been others.

A model is measured on every example, so seeds and examples cross: a replicate draws seeds within each arm and examples
within each benchmark, each by itself, and every arm is measured on the same examples drawn (Owen 2007, the pigeonhole
bootstrap). Of n things n - 1 are drawn, which makes the variance that of a mean of n (Rao and Wu 1988): with three
seeds the plain bootstrap would show two thirds of it. What few seeds leave open beyond that is added as Student's t
over the normal quantile, at Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from bare.draws import hash64
from curation.errors import InputError, MissingExtraError
from curation.hashing import mix

Floats = npt.NDArray[np.float64]
REPLICATES = 2_000
_AT_ONCE = 4_000_000  # draws held in memory at a time


@dataclass(frozen=True, eq=False)
class Panel:
    """Models measured on examples. models: arm -> its rows of every array; values: benchmark -> (models, examples)."""

    models: Mapping[str, Sequence[int]]
    values: Mapping[str, Floats]

    @property
    def arms(self) -> list[str]:
        return list(self.models)

    @property
    def benchmarks(self) -> list[str]:
        return list(self.values)

    def means(self) -> Floats:
        """Mean over seeds and examples: (arms, benchmarks)."""
        by_model = np.stack([v.mean(axis=1) for v in self.values.values()], axis=1)
        return np.stack([by_model[list(rows)].mean(axis=0) for rows in self.models.values()])


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Sums of arms' means with their intervals, an entry each: low, high for one alone, joint_* for all at once.

    alone: one seed an arm or one example a benchmark, whose spread nobody can tell: the interval is too narrow.
    """

    value: Floats
    low: Floats
    high: Floats
    joint_low: Floats
    joint_high: Floats
    alone: npt.NDArray[np.bool_]


def resample(panel: Panel, *, replicates: int = REPLICATES, seed: int = 0) -> Floats:
    """Every arm's mean in each replicate: (replicates, arms, benchmarks).

    Draws hang on seed and on the names of arm and benchmark: an arm that is left out changes no other's.
    """
    if replicates < 100:
        raise InputError(f"a bootstrap needs at least 100 replicates to have ends; got {replicates}")
    drawn = np.empty((replicates, len(panel.models), len(panel.values)))
    weights = [_weights(len(rows), replicates, ("seeds", seed, arm)) for arm, rows in panel.models.items()]
    for b, (benchmark, values) in enumerate(panel.values.items()):
        n = values.shape[1]
        step = max(1, _AT_ONCE // n)
        for begin in range(0, replicates, step):
            end = min(replicates, begin + step)
            # One product for all models: the examples drawn are the same for each of them.
            means = _weights(n, end - begin, ("examples", seed, benchmark), begin) @ values.T
            for a, rows in enumerate(panel.models.values()):
                drawn[begin:end, a, b] = (weights[a][begin:end] * means[:, list(rows)]).sum(axis=1)
    return drawn


def _weights(things: int, replicates: int, key: tuple[str, int, str], begin: int = 0) -> Floats:
    """What each of the things weighs in each replicate, by hash: (replicates, things), a row sums to 1."""
    if things == 1:
        return np.ones((replicates, 1))
    draws = things - 1
    chosen = drawn_places(things, draws, replicates, key, begin)
    flat = (chosen + np.arange(replicates, dtype=np.int64)[:, None] * things).ravel()
    return np.bincount(flat, minlength=replicates * things).reshape(replicates, things) / draws


def drawn_places(
    things: int, draws: int, replicates: int, key: tuple[str, int, str], begin: int = 0
) -> npt.NDArray[np.int64]:
    """Which of the things is drawn, with replacement, by hash of key, replicate and draw: (replicates, draws)."""
    first = (hash64("evaluation", *key) + begin * draws) % 2**64
    with np.errstate(over="ignore"):
        stream = np.arange(replicates * draws, dtype=np.uint64) + np.uint64(first)
        return (mix(stream) % np.uint64(things)).astype(np.int64).reshape(replicates, draws)


def contrasts(panel: Panel, drawn: Floats, coefficients: Floats, *, level: float = 0.95) -> Contrasts:
    """The sums over arms and benchmarks of coefficients (contrasts, arms, benchmarks) times means.

    low, high: the replicates' percentiles. joint: value -+ q times the replicates' standard deviation, q the quantile
    of the largest deviation among all contrasts (max-statistic): all intervals hold together at the level.
    """
    flat = coefficients.reshape(len(coefficients), -1)
    value = flat @ panel.means().ravel()
    spread = drawn.reshape(len(drawn), -1) @ flat.T - value
    wider = _students(panel, coefficients, level)
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    deviation = spread.std(axis=0)
    there = deviation > 1e-12 * np.maximum(1.0, np.abs(value))
    most = np.zeros(len(value))
    if there.any():
        # Each contrast is widened by its own freedom first, so that one with few seeds isn't the only one to set q.
        largest = (np.abs(spread[:, there]) / deviation[there]).max(axis=1)
        most[there] = np.quantile(largest, level) * deviation[there] * wider[there]
    ends = value + wider * low, value + wider * high
    return Contrasts(
        value, np.minimum(ends[0], value), np.maximum(ends[1], value), value - most, value + most,
        _alone(panel, coefficients),
    )  # fmt: skip


def _alone(panel: Panel, coefficients: Floats) -> npt.NDArray[np.bool_]:
    one_seed = np.array([len(rows) == 1 for rows in panel.models.values()])
    one_example = np.array([v.shape[1] == 1 for v in panel.values.values()])
    used = coefficients != 0
    return (used & (one_seed[:, None] | one_example[None, :])).any(axis=(1, 2))


def _students(panel: Panel, coefficients: Floats, level: float) -> Floats:
    """How much wider than a normal interval each contrast's must be, for the freedom that its variance has."""
    stdtrit = _stdtrit()
    total, by_freedom = np.zeros(len(coefficients)), np.zeros(len(coefficients))
    by_model = np.stack([v.mean(axis=1) for v in panel.values.values()], axis=1)
    for a, rows in enumerate(panel.models.values()):
        if len(rows) > 1:
            seeds = by_model[list(rows)] @ coefficients[:, a].T  # (seeds, contrasts)
            part = seeds.var(axis=0, ddof=1) / len(rows)
            total, by_freedom = total + part, by_freedom + part**2 / (len(rows) - 1)
    for b, values in enumerate(panel.values.values()):
        n = values.shape[1]
        if n > 1:
            by_arm = np.stack([values[list(rows)].mean(axis=0) for rows in panel.models.values()])
            part = (coefficients[:, :, b] @ by_arm).var(axis=1, ddof=1) / n
            total, by_freedom = total + part, by_freedom + part**2 / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(by_freedom > 0, total**2 / by_freedom, np.inf)
    freedom = np.clip(freedom, 1.0, 1e6)
    upper = (1 + level) / 2
    return np.asarray(stdtrit(freedom, upper) / NormalDist().inv_cdf(upper))


def _stdtrit() -> np.ufunc:
    try:
        from scipy.special import stdtrit
    except ImportError:
        raise MissingExtraError("comparing arms", "evaluation") from None
    return stdtrit
