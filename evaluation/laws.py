"""From the tables of runs to each arm's laws and its compute multiplier over the baseline, or why there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from curation.errors import InputError
from evaluation.scaling import (
    LEVEL,
    REPLICATES,
    AccuracyLaw,
    LossLaw,
    Multiplier,
    common_path,
    compute_multiplier,
    curve,
    fit_accuracy,
    fit_loss,
)


@dataclass(frozen=True, eq=False)
class ArmLaws:
    """An arm's laws by benchmark, through its finished runs; empty with a reason where they can't be fitted.

    average: of the mean of the benchmarks' means, in which costs are told.
    """

    arm: str
    runs: int
    loss: Mapping[str, LossLaw]
    accuracy: Mapping[str, AccuracyLaw]
    average: LossLaw | None = None
    reason: str = ""


@dataclass(frozen=True)
class ArmMultiplier:
    """How many times the compute the baseline needs for what the arm reaches; by: accuracy or loss."""

    arm: str
    over: str
    by: str
    multiplier: Multiplier


@dataclass(frozen=True, eq=False)
class Laws:
    """All arms' laws and their multipliers over the baseline."""

    baseline: str
    arms: tuple[ArmLaws, ...]
    multipliers: tuple[ArmMultiplier, ...]


def fit_arms(
    runs: pd.DataFrame,
    evaluations: pd.DataFrame,
    *,
    baseline: str,
    chance: Mapping[str, float] | None = None,
    phase: str = "pretrained",
    replicates: int = REPLICATES,
    level: float = LEVEL,
    seed: int = 0,
) -> Laws:
    """The laws through every arm's finished runs of all sizes, tokens and seeds, from PROXY_RUNS and EVALUATIONS.

    chance: benchmark -> what a guess gets right, where accuracy is to be measured. The multiplier goes by accuracy
    where both arms have a sigmoid on every benchmark, else by loss; an arm without laws has none, and its reason.
    """
    finished = runs[runs["status"] == "finished"].sort_values(["arm", "parameters", "tokens", "seed"])
    if baseline not in set(finished["arm"]):
        raise InputError(f"scaling: the baseline {baseline!r} has no finished run; train it or choose another")
    rows = evaluations[evaluations["phase"] == phase]
    found = {
        str(arm): _arm(str(arm), mine, rows, chance or {}, replicates=replicates, level=level, seed=seed)
        for arm, mine in finished.groupby("arm")
    }
    others = [arm for arm in found if arm != baseline]
    multipliers = [_multiplier(found[baseline], found[arm], level) for arm in others]
    return Laws(baseline, tuple(found.values()), tuple(multipliers))


def _arm(
    arm: str, mine: pd.DataFrame, rows: pd.DataFrame, chance: Mapping[str, float], *, replicates: int, level: float,
    seed: int,
) -> ArmLaws:  # fmt: skip
    n, d = (mine[column].to_numpy(np.float64) for column in ("parameters", "tokens"))
    measured = rows[rows["proxy_id"].isin(set(mine["proxy_id"]))]
    loss: dict[str, LossLaw] = {}
    accuracy: dict[str, AccuracyLaw] = {}
    every: list[np.ndarray] = []
    average = None
    try:
        for benchmark, each in measured.groupby("benchmark"):
            by_run = each.groupby("proxy_id")[["bits_per_byte"]].mean().reindex(mine["proxy_id"])
            bits = by_run["bits_per_byte"].to_numpy(np.float64)
            every.append(bits)
            loss[str(benchmark)] = fit_loss(n, d, bits, replicates=replicates, level=level, seed=seed)
            right = each.dropna(subset=["correct"]).groupby("proxy_id")["correct"].agg(lambda c: c.astype(float).mean())
            if benchmark in chance and len(right) == len(mine):
                share = right.reindex(mine["proxy_id"]).to_numpy(np.float64)
                accuracy[str(benchmark)] = fit_accuracy(
                    bits, share, chance=chance[str(benchmark)], replicates=replicates, level=level, seed=seed
                )
        if len(every) > 1:
            average = fit_loss(n, d, np.mean(every, axis=0), replicates=replicates, level=level, seed=seed)
    except InputError as error:
        return ArmLaws(arm, len(mine), {}, {}, reason=str(error))
    if not loss:
        return ArmLaws(arm, len(mine), {}, {}, reason="none of its runs was measured")
    return ArmLaws(arm, len(mine), loss, accuracy, average or next(iter(loss.values())))


def _multiplier(baseline: ArmLaws, method: ArmLaws, level: float) -> ArmMultiplier:
    for each in (baseline, method):
        if each.reason:
            return ArmMultiplier(
                method.arm, baseline.arm, "loss", Multiplier(None, reason=f"{each.arm}: {each.reason}")
            )
    shared = sorted(set(baseline.loss) & set(method.loss))
    if not shared:
        reason = Multiplier(None, reason="no benchmark is measured in both arms")
        return ArmMultiplier(method.arm, baseline.arm, "loss", reason)
    by = "accuracy" if all(b in each.accuracy for b in shared for each in (baseline, method)) else "loss"
    try:
        path = common_path(*(next(iter(each.loss.values())) for each in (baseline, method)))
        curves = [
            curve(
                [each.loss[b] for b in shared],
                [each.accuracy[b] for b in shared] if by == "accuracy" else (),
                path=path,
            )
            for each in (baseline, method)
        ]
        return ArmMultiplier(method.arm, baseline.arm, by, compute_multiplier(*curves, level=level))
    except InputError as error:
        return ArmMultiplier(method.arm, baseline.arm, by, Multiplier(None, reason=str(error)))


def as_json(found: Laws) -> dict[str, Any]:
    """The laws as `--json` prints them: figures with their intervals, without replicates."""

    def figures(law: LossLaw | AccuracyLaw, names: Sequence[str]) -> dict[str, Any]:
        return {name: dataclasses.asdict(getattr(law, name)) for name in names}

    return {
        "baseline": found.baseline,
        "arms": [
            {
                "arm": each.arm, "runs": each.runs, "reason": each.reason,
                "loss": {b: figures(law, ("E", "A", "B", "alpha", "beta")) for b, law in each.loss.items()},
                "accuracy": {b: figures(law, ("floor", "steepness", "middle")) for b, law in each.accuracy.items()},
            }
            for each in found.arms
        ],
        "multipliers": [dataclasses.asdict(each) for each in found.multipliers],
    }  # fmt: skip
