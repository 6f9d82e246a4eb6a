"""What was spent on all tables of a root, and on BARE's beside it; what that cost and brought back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from pyspark.sql import functions as F

from bare.generators.spec import parse_generator, priced_as
from bare.tables import DRAFTS, GENERATIONS, JUDGEMENTS, REFINED
from betr.run import STAGE_ORDER, Run
from curation.errors import InputError
from curation.session import default_parallelism
from curation.tables import Tables
from evaluation import roi
from evaluation.compare import Comparison, Gain, Size, turned
from evaluation.config import RoiConfig
from evaluation.laws import ArmLaws, Laws
from evaluation.scaling import Estimate
from evaluation.tables import PROXY_RUNS

TRAINING = {"proxies", "loop/proxies"}  # `evaluate compare`'s models, and those that judge a loop
SELECTING = tuple(stage for stage in STAGE_ORDER if stage != "watch")  # it only tells what moved
ON_GPUS = {"embed"}
# What every way to choose needs of the main line, and what those need beside it that have a classifier of their own.
ALL_NEED = ("import", "deduplicate", "decontaminate")
TAUGHT_NEED = {"direct": ("targets", "sample"), "dsir": ("targets", "sample"), "quality": ("sample",)}
CHOOSING, OTHER_WAYS, JUDGING, WRITING, BESIDE = "choosing", "other ways to choose", "small models", "writing", "beside"
CALLS = {"bare/draft": DRAFTS, "bare/refine": REFINED, "bare/judge": JUDGEMENTS}


def of_stages(run: Run, *, cores: int, gpus: int) -> pd.DataFrame:
    """A row for each finished run of a stage in `stage_runs`, the main line's first: what `roi.costs` takes.

    cores: held by every stage; gpus: by those that embed. Training is left out: `of_proxies` counts it run by run.
    """
    done = [(stage, row["seconds"]) for (stage, _), row in run.finished().items() if stage not in TRAINING]
    places = {stage: at for at, stage in enumerate(SELECTING)}
    rows = sorted(done, key=lambda each: places.get(each[0], len(places)))
    return _frame(
        (_part(stage), stage, seconds, cores, gpus if stage in ON_GPUS else 0, None, None) for stage, seconds in rows
    )


def _part(stage: str) -> str:
    if stage in SELECTING:
        return CHOOSING
    if stage.startswith("arm/"):
        return OTHER_WAYS
    return JUDGING if stage == "held-out" else BESIDE


def of_proxies(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each trained model, of PROXY_RUNS: one GPU and a core, or the cores that its device names."""
    rows = runs.sort_values(["arm", "parameters", "tokens", "seed"])
    columns = ("seconds", "device", "tokens")
    return _frame(
        (JUDGING, "proxies", seconds, *machine(device), tokens, None)
        for seconds, device, tokens in rows[list(columns)].itertuples(index=False)
    )


def machine(device: str) -> tuple[int, int]:
    """(cores, GPUs) of a device as `training.describe_device` writes it: `cpu, 2 threads, float32`, or a GPU's name."""
    found = re.match(r"cpu, (\d+) thread", device)
    return (int(found[1]), 0) if found else (1, 1)


def of_calls(tables: Tables, prices: roi.PriceTable) -> pd.DataFrame:
    """A row for each generation and model of a BARE root: its drafts, refinements and judgements at the models' prices.

    seconds: of calls, those of all tasks added up. A call that failed and told no tokens costs its seconds alone.
    """
    if not tables.exists(GENERATIONS):
        raise InputError(f"--bare {tables.root} holds no generation; name the tables of `bare run`, or leave it out")
    rows = []
    for stage, spec in CALLS.items():
        model = "judge" if spec is JUDGEMENTS else "model"
        untold = (F.col("tokens_in").isNull() | F.col("tokens_out").isNull()) & (F.col("finish_reason") != "error")
        sums = (
            tables.read(spec)
            .groupBy("generation_id", F.col(model).alias("model"))
            .agg(
                F.count(F.lit(1)).alias("calls"),
                F.count_if(untold).alias("untold"),
                *(F.coalesce(F.sum(c), F.lit(0)).alias(c) for c in ("tokens_in", "tokens_out", "seconds")),
            )
        )
        for row in sums.orderBy("generation_id", "model").collect():
            spent = prices.of_calls(
                priced_as(parse_generator(row["model"])), row["tokens_in"], row["tokens_out"], row["seconds"],
                calls=row["calls"], untold=row["untold"],
            )  # fmt: skip
            rows.append((WRITING, stage, row["seconds"], 0, 0, row["tokens_in"] + row["tokens_out"], spent))
    return _frame(rows)


def _frame(rows: Iterable[tuple[Any, ...]]) -> pd.DataFrame:
    kinds = dict.fromkeys(roi.COLUMNS[2:], "float64")
    return pd.DataFrame(list(rows), columns=list(roi.COLUMNS)).astype(kinds)


# -- gains -------------------------------------------------------------------------------------------------------------


def paid_by(arm: str, there: Sequence[str]) -> tuple[str, ...]:
    """The stages of the ledger that choosing this arm takes: of the main line, its own, and BARE's for bare:SHARE."""
    kind = arm.partition(":")[0]
    if kind in TAUGHT_NEED or kind == "random":
        needed = {*ALL_NEED, *TAUGHT_NEED.get(kind, ())}
    else:
        needed = {*SELECTING, *(CALLS if kind == "bare" else ())}
    own = (f"arm/{arm}", f"arm/{arm}/train", f"arm/{arm}/score") if arm != "betr" else ()  # its cut is the main line's
    return tuple(stage for stage in there if stage in needed or stage in own)


def gained(found: Comparison, arm: str, stages: tuple[str, ...], *, ours: str | None = None) -> roi.Gained:
    """An arm's gain over the baseline at the largest size: right answers in percentage points where they can be told
    from chance on every benchmark that has them, else bits per byte, averaged over the benchmarks.

    ours: another arm; this one is its rival where it isn't surely worse by bits per byte.
    """
    size = found.sizes[-1].size
    if not any(g.arm == arm and g.size == size for g in found.gains):
        there = ", ".join(sorted({g.arm for g in found.gains if g.size == size}))
        raise InputError(f"--arm {arm}: the latest comparison has no such arm at size {size}; it has {there}")
    rival = ours is not None and any(g.verdict in ("open", "better") for g in _between(found, arm, ours))
    name = f"{arm} over {found.baseline}"
    right = [g for g in found.accuracy_gains if g.arm == arm and g.size == size and g.benchmark is None]
    if right:
        g = right[0]
        return roi.Gained(name, stages, Estimate(100 * g.gain, 100 * g.low, 100 * g.high), "points", rival)
    return roi.Gained(name, stages, in_bits(found, arm), "bits", rival)


def in_bits(found: Comparison, arm: str) -> Estimate:
    """An arm's gain over the baseline at the largest size in bits per byte, on the average of the benchmarks."""
    mine = [g for g in found.gains if g.arm == arm and g.size == found.sizes[-1].size]
    gain = next((g for g in mine if g.benchmark is None), mine[0])
    return Estimate(gain.gain, gain.low, gain.high)


def _between(found: Comparison, arm: str, over: str) -> Iterator[Gain]:
    """The gain of one arm over another at the largest size, on the average of the benchmarks or on the only one."""
    many = len(found.examples) > 1
    for pair in found.pairs:
        if pair.size == found.sizes[-1].size and (pair.benchmark is None) == many:
            if (pair.arm, pair.over) == (arm, over):
                yield pair
            elif (pair.over, pair.arm) == (arm, over):
                yield turned(pair)


def written(found: Comparison, ours: str, there: Sequence[str]) -> list[roi.Gained]:
    """What the rows that BARE wrote brought on top of the main line, in bits per byte: paid by the stages that wrote
    them. Of several arms bare:SHARE the one with the highest gain.
    """
    size = found.sizes[-1].size
    arms = sorted({g.arm for g in found.gains if g.size == size and g.arm.startswith("bare:")})
    stages = tuple(stage for stage in CALLS if stage in there)
    if ours != "betr" or not arms or not stages:
        return []
    best = max((g for arm in arms for g in _between(found, arm, "betr")), key=lambda g: g.gain, default=None)
    if best is None:
        return []
    return [roi.Gained(f"{best.arm} over betr", stages, Estimate(best.gain, best.low, best.high), "bits")]


# -- the whole ---------------------------------------------------------------------------------------------------------


def returned(run: Run, config: RoiConfig, found: Comparison, fitted: Laws) -> roi.Return:
    """Cost, gain, running cost and effect of an arm, over all that the tables of its root (and BARE's) took."""
    assert config.prices is not None
    prices = roi.load_prices(config.prices)
    cores = config.cores if config.cores is not None else default_parallelism(run.spark)
    models = pd.DataFrame(run.tables.read(PROXY_RUNS).toPandas())
    rows = [of_stages(run, cores=cores, gpus=config.gpus), of_proxies(models)]
    if config.bare is not None:
        rows.append(of_calls(Tables(run.spark, config.bare), prices))
    return return_of(pd.concat(rows, ignore_index=True), models, prices, config, found, fitted)


def return_of(
    ledger: pd.DataFrame, models: pd.DataFrame, prices: roi.PriceTable, config: RoiConfig, found: Comparison,
    fitted: Laws,
) -> roi.Return:  # fmt: skip
    """The return of `config.arm` by a ledger, the rows of PROXY_RUNS, the comparison and the laws: without Spark."""
    there, size = tuple(dict.fromkeys(ledger["stage"])), found.sizes[-1]
    ours = gained(found, config.arm, paid_by(config.arm, there))
    arms = dict.fromkeys(g.arm for g in found.gains if g.size == size.size)
    others = [gained(found, arm, paid_by(arm, there), ours=config.arm) for arm in arms if arm != config.arm]
    laws = {each.arm: each for each in fitted.arms}
    plain, mine = laws.get(found.baseline), laws.get(config.arm)
    stages = roi.costs(ledger, prices)
    choosing = roi.ways(stages, [ours])[0].cost
    multiplier = next((each.multiplier for each in fitted.multipliers if each.arm == config.arm), None)
    return roi.return_on(
        ledger, prices, [ours, *written(found, config.arm, there)], multiplier=multiplier,
        planned_training=config.training_cost, plain=_longer(plain, in_bits(found, config.arm), size),
        times_a_year=config.times_a_year,
        repeated={stage: share for stage, share in config.shares.items() if stage in there},
        value_per_point=config.value_per_point, others=[ours, *others],
        equal=_equal(plain, mine, choosing, _training(models, found, prices), config.training_cost),
        unsaid=tuple(_unsaid(config, found, there)),
    )  # fmt: skip


def _longer(plain: ArmLaws | None, gain: Estimate, size: Size) -> roi.Longer | None:
    if plain is None:
        return None
    if plain.average is None:
        return roi.Longer(size.tokens, None, None, False, f"{plain.arm}: {plain.reason}")
    return roi.longer(plain.average, gain, parameters=size.parameters, tokens=size.tokens)


def _training(models: pd.DataFrame, found: Comparison, prices: roi.PriceTable) -> float | None:
    """What one training of the baseline cost at the largest size and the most tokens, the mean over seeds."""
    size = found.sizes[-1]
    alike = (models["arm"] == found.baseline) & (models["size"] == size.size) & (models["tokens"] == size.tokens)
    runs = models[alike & (models["status"] == "finished")]
    if runs.empty:
        return None
    return roi.costs(of_proxies(runs), prices)[0].cost / len(runs)


def _equal(
    plain: ArmLaws | None, mine: ArmLaws | None, choosing: float, training: float | None, planned: float | None
) -> roi.EqualCost:
    reason = next((f"{each.arm}: {each.reason}" for each in (plain, mine) if each is not None and each.reason), "")
    by = [None if each is None else each.average for each in (plain, mine)]
    cost = training if planned is None else planned
    return roi.equal_cost(*by, choosing=choosing, training=cost, planned=planned is not None, reason=reason)


def _unsaid(config: RoiConfig, found: Comparison, there: Sequence[str]) -> Iterator[str]:
    """What the ledger doesn't hold."""
    if config.bare is not None:
        yield "what checking, embedding and measuring the written rows took: `bare` doesn't record it"
        if not any(g.arm.startswith("bare:") for g in found.gains):
            yield "what the written rows brought: no arm bare:SHARE was compared"
    if config.gpus and "embed" in there:
        yield "how long the GPUs were busy: embedding is counted as holding all of --gpus for its whole time"
