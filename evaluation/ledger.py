"""What the stages of a selection took, from the tables, and what that cost and brought back."""

from __future__ import annotations

import pandas as pd

from betr.run import STAGE_ORDER, Run
from curation.errors import InputError
from curation.session import default_parallelism
from evaluation import roi
from evaluation.compare import Comparison
from evaluation.config import RoiConfig
from evaluation.laws import Laws
from evaluation.scaling import Estimate

SELECTING = tuple(stage for stage in STAGE_ORDER if stage != "watch")  # it only tells what moved
ON_GPUS = {"embed"}


def of_selection(run: Run, *, cores: int, gpus: int) -> pd.DataFrame:
    """A row for each finished run of a stage of the main line: what `roi.costs` takes. Arms and models aren't in it."""
    done = ((stage, row["seconds"]) for (stage, _), row in run.finished().items() if stage in SELECTING)
    rows = sorted(done, key=lambda each: SELECTING.index(each[0]))
    return pd.DataFrame(
        [(stage, seconds, cores, gpus if stage in ON_GPUS else 0, None, None) for stage, seconds in rows],
        columns=list(roi.COLUMNS),
    ).astype({"tokens": "float64", "money": "float64"})


def gained(found: Comparison, arm: str, stages: tuple[str, ...]) -> roi.Gained:
    """An arm's gain over the baseline at the largest size: right answers in percentage points where they can be told
    from chance on every benchmark that has them, else bits per byte, averaged over the benchmarks.
    """
    size = found.sizes[-1].size
    mine = [g for g in found.gains if g.arm == arm and g.size == size]
    if not mine:
        there = ", ".join(sorted({g.arm for g in found.gains if g.size == size}))
        raise InputError(f"--arm {arm}: the latest comparison has no such arm at size {size}; it has {there}")
    right = [g for g in found.accuracy_gains if g.arm == arm and g.size == size and g.benchmark is None]
    if right:
        gain = right[0]
        return roi.Gained(
            f"{arm} over {found.baseline}", stages, Estimate(100 * gain.gain, 100 * gain.low, 100 * gain.high), "points"
        )
    gain = next((g for g in mine if g.benchmark is None), mine[0])
    return roi.Gained(f"{arm} over {found.baseline}", stages, Estimate(gain.gain, gain.low, gain.high), "bits")


def returned(run: Run, config: RoiConfig, found: Comparison, fitted: Laws) -> roi.Return:
    """Cost, gain, running cost and effect of an arm of the main line."""
    assert config.prices is not None
    cores = config.cores if config.cores is not None else default_parallelism(run.spark)
    ledger = of_selection(run, cores=cores, gpus=config.gpus)
    there = tuple(dict.fromkeys(ledger["stage"]))
    multiplier = next((each.multiplier for each in fitted.multipliers if each.arm == config.arm), None)
    return roi.return_on(
        ledger, roi.load_prices(config.prices), [gained(found, config.arm, there)], multiplier=multiplier,
        planned_training=config.training_cost, times_a_year=config.times_a_year,
        repeated={stage: share for stage, share in config.shares.items() if stage in there},
        value_per_point=config.value_per_point,
    )  # fmt: skip
