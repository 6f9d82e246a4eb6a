"""The best filter rate by compute from one's own runs, beside the paper's laws (betr/filter_rate.py).

At a compute C runs that kept different shares F of the pool are compared: loss = k(C) + v (log F - log F*(C))^2, a
parabola in log F for each compute whose lowest point moves as log F* = log factor + exponent log C, the paper's form.
That is linear in its constants (v, p and q with F* = -(p + q log C) / 2v), so one least-squares fit holds all runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from betr.filter_rate import LAWS, LOWEST_RATE_TRIED
from curation.errors import InputError
from curation.report import percent
from evaluation.compare import panel_of
from evaluation.fitting import Floats
from evaluation.resampling import drawn_places, resample
from evaluation.scaling import LEVEL, REPLICATES, Estimate, estimate


@dataclass(frozen=True)
class Best:
    """The best share to keep at a compute. outside: beyond the shares that were tried; extrapolated: the compute is."""

    flops: float
    keep: Estimate
    outside: bool
    extrapolated: bool


@dataclass(frozen=True, eq=False)
class FilterLaw:
    """F% = factor * C^exponent through one's own runs, as the paper writes it; None with a reason where it isn't told.

    replicates: (replicates, 2) of log factor (of the share, not of percent) and exponent; those without a lowest point
    are NaN. computes, rates: what was tried.
    """

    factor: Estimate | None
    exponent: Estimate | None
    replicates: Floats
    computes: tuple[float, ...]
    rates: tuple[float, ...]
    runs: int
    level: float
    reason: str = ""

    def best(self, flops: float) -> Best | None:
        """The best share at this compute, at most 1; None where the law isn't told."""
        if self.factor is None or self.exponent is None:
            return None
        if not (math.isfinite(flops) and flops > 0):
            raise InputError(f"flops must be a number above 0, such as 1e21; got {flops!r}")
        value = self.factor.value / 100 * flops**self.exponent.value
        many = np.exp(self.replicates[:, 0] + self.replicates[:, 1] * math.log(flops))
        keep = estimate(min(1.0, value), np.minimum(many, 1.0), self.level)
        outside = not min(self.rates) <= value <= max(self.rates)
        return Best(flops, keep, outside, not min(self.computes) <= flops <= max(self.computes))


def fit_filter_law(
    flops: npt.ArrayLike, keep: npt.ArrayLike, loss: npt.ArrayLike, *, drawn: Floats | None = None,
    replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0,
) -> FilterLaw:  # fmt: skip
    """The law through runs (compute, share of the pool's tokens kept, loss), at least 3 shares at 2 computes.

    The bootstrap draws residuals, widened by the fit's freedom; drawn: (replicates, runs), the losses on examples drawn
    anew, where these could have been others. No lowest point (the loss bends the other way, or falls
    all the way) gives no law but its reason: try lower or higher shares.
    """
    c, f, y = (np.asarray(each, np.float64) for each in (flops, keep, loss))
    if not c.shape == f.shape == y.shape or c.ndim != 1:
        raise InputError(
            f"the filter law needs compute, share and loss of each run; got {c.shape}, {f.shape}, {y.shape}"
        )
    if not (np.isfinite(c) & (c > 0) & (f > 0) & (f <= 1) & np.isfinite(y)).all():
        raise InputError("the filter law needs computes above 0, shares in (0, 1] and losses; leave diverged runs out")
    computes, group = np.unique(c, return_inverse=True)
    rates = np.unique(f)
    tried = [len(np.unique(f[group == k])) for k in range(len(computes))]
    if len(computes) < 2 or min(tried) < 3 or len(y) < len(computes) + 4:
        raise InputError(
            f"the filter law needs at least 3 shares kept at each of 2 computes, and a run more than its constants; "
            f"got {len(y)} runs at {len(computes)} computes with {min(tried)} shares at the least"
        )
    log_c, log_f = np.log(c), np.log(f)
    middle_c, middle_f = log_c.mean(), log_f.mean()
    x, z = log_c - middle_c, log_f - middle_f
    design = np.column_stack([z * z, z, z * x, *(group == k for k in range(len(computes)))]).astype(np.float64)
    solve = np.linalg.pinv(design)
    constants = solve @ y
    fitted = design @ constants
    freedom = len(y) - design.shape[1]
    left = (y - fitted) * math.sqrt(len(y) / freedom)
    residuals = left[drawn_places(len(y), len(y), replicates, ("residuals", seed, "filter law"))]
    fits = fitted if drawn is None else (drawn @ solve.T) @ design.T
    many = (fits + residuals - residuals.mean(axis=1, keepdims=True)) @ solve.T
    point = _law(constants[None], middle_c, middle_f)[0]
    rows = _law(many, middle_c, middle_f)
    tried_c, tried_f = tuple(computes.tolist()), tuple(rates.tolist())
    common = (rows, tried_c, tried_f, len(y), level)
    if not np.isfinite(point).all():
        return FilterLaw(None, None, *common, "no share between those tried is best: the loss has no lowest point")
    at = point[0] + point[1] * np.log(computes)
    if not ((at >= math.log(rates[0])) & (at <= math.log(rates[-1]))).any():
        which = "lower" if at.mean() < math.log(rates[0]) else "higher"
        return FilterLaw(
            None, None, *common, f"at every compute the best share lies beyond those tried: try {which} ones"
        )
    factor = estimate(100 * math.exp(point[0]), 100 * np.exp(rows[:, 0]), level)
    return FilterLaw(factor, estimate(float(point[1]), rows[:, 1], level), *common)


def _law(constants: Floats, middle_c: float, middle_f: float) -> Floats:
    """(rows, 2): log factor and exponent; NaN where the parabola has no lowest point."""
    v, p, q = constants[:, 0], constants[:, 1], constants[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.where(v > 0, -q / (2 * v), np.nan)
        start = np.where(v > 0, -p / (2 * v), np.nan) + middle_f - exponent * middle_c
    return np.stack([start, exponent], axis=1)


def of_runs(
    runs: pd.DataFrame, evaluations: pd.DataFrame, keeps: Mapping[str, float], *, phase: str = "pretrained",
    replicates: int = REPLICATES, level: float = LEVEL, seed: int = 0,
) -> FilterLaw:  # fmt: skip
    """The law through the finished runs of arms that kept these shares (arm -> share), from PROXY_RUNS and EVALUATIONS.

    The loss of a run is the mean of the benchmarks' means of bits per byte. A compute is a size and its tokens; runs of
    another compute don't compare. Seeds are in the residuals, and examples are drawn anew in every replicate. Where the
    runs don't suffice there is no law but the reason.
    """
    mine = runs[(runs["status"] == "finished") & runs["arm"].isin(list(keeps))]
    nothing = np.empty((0, 2))
    if mine.empty:
        return FilterLaw(None, None, nothing, (), (), 0, level, "no arm that keeps a share finished a run")
    panel = panel_of(mine.assign(arm=mine["proxy_id"]), evaluations[evaluations["phase"] == phase], "bits_per_byte")
    there = mine.set_index("proxy_id").loc[panel.arms]
    flops, kept = there["flops"].to_numpy(np.float64), there["arm"].map(dict(keeps)).to_numpy(np.float64)
    drawn = resample(panel, replicates=replicates, seed=seed).mean(axis=2)
    given: dict[str, Any] = {"drawn": drawn, "replicates": replicates, "level": level, "seed": seed}
    try:
        return fit_filter_law(flops, kept, panel.means().mean(axis=1), **given)
    except InputError as error:
        tried = tuple(np.unique(flops).tolist()), tuple(np.unique(kept).tolist())
        return FilterLaw(None, None, nothing, *tried, len(there), level, str(error))


def beside(own: FilterLaw, flops: Sequence[float]) -> list[tuple[str, float, Estimate | None]]:
    """(law, compute, share): one's own and the paper's at each compute; the paper's have no interval.

    One's own is None where it lies beyond the shares or the computes that were tried: it is never extrapolated.
    """
    rows: list[tuple[str, float, Estimate | None]] = []
    for each in flops:
        found = own.best(each)
        told = found is not None and not found.outside and not found.extrapolated
        rows.append(("own", each, found.keep if found is not None and told else None))
        rows += [(law.name, each, Estimate(law.share(each))) for law in LAWS.values()]
    return rows


def as_json(found: FilterLaw) -> dict[str, Any]:
    """The law as `--json` prints it, with the shares that it and the paper's laws give at the computes tried."""
    return {
        **{name: None if (e := getattr(found, name)) is None else asdict(e) for name in ("factor", "exponent")},
        "computes": found.computes, "rates": found.rates, "runs": found.runs, "reason": found.reason,
        "best": [
            {"law": name, "flops": flops, "keep": None if share is None else asdict(share)}
            for name, flops, share in beside(found, found.computes)
        ],
    }  # fmt: skip


def words(found: FilterLaw) -> list[str]:
    """The best share by one's own runs at the least and the most compute, then the paper's; or why it isn't told."""
    if found.reason:
        return [f"How much to keep isn't told by these {found.runs} runs: {found.reason}."]
    ends = sorted({found.computes[0], found.computes[-1]})
    rows = beside(found, ends)
    told = [
        f"At {flops:.2e} FLOPs "
        + (
            f"the best share to keep is {shares(keep)} of the tokens, by these {found.runs} runs."
            if keep is not None
            else f"the best share to keep lies beyond those tried ({percent(found.rates[0])} to "
            f"{percent(found.rates[-1])}): which it is isn't told."
        )
        for name, flops, keep in rows
        if name == "own"
    ]
    last = [f"{name} {shares(keep)}" for name, flops, keep in rows[-len(LAWS) :] if keep is not None]
    below = any(keep is not None and keep.value < LOWEST_RATE_TRIED for _, _, keep in rows[-len(LAWS) :])
    more = f": below {percent(LOWEST_RATE_TRIED, 0)} nobody has tried them" if below else ""
    told.append(f"The paper's laws say {', '.join(last)} at {found.computes[-1]:.2e} FLOPs{more}.")
    return told


def shares(keep: Estimate) -> str:
    """`12.3% [8.1%, 15.0%]`; the paper's, which has no interval and is small, `0.12%`."""
    if keep.low is None or keep.high is None:
        return percent(keep.value, 2)
    return f"{percent(keep.value)} [{percent(keep.low)}, {percent(keep.high)}]"
