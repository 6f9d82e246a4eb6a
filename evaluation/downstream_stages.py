"""`evaluate downstream` on tables: what each step reads, what it is made from, what it commits.

A run is one model, fine-tuned on one arm's rows with one seed and measured on the test rows: a task of its own, whose
result is kept in the working folder. A finished run is never repeated; one that was killed begins anew.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from bare.arms import rows_made
from bare.compare import UNITS, Unit, equal_cost
from bare.compare import Arm as MadeArm
from bare.config import ARMS as WAYS
from bare.draws import sample_by_hash
from bare.tables import COMPARISONS, GENERATIONS, SEEDS
from bare.tasks import Task, parse_task, read_seeds
from betr.run import Outcome, Run
from curation import jsonlines
from curation.errors import InputError
from curation.hashing import content_id
from curation.jsonlines import RowRejected
from curation.session import is_local_session
from evaluation import downstream, held_out, models, proxy, runs, tokenizer
from evaluation.downstream import EQUAL_COST, EVERY, LEAST_TESTS, REAL, UNTRAINED, Arm, Asking, Row
from evaluation.downstream_config import DownstreamConfig
from evaluation.measuring import Example, FinetuningConfig, finetune, measure
from evaluation.models import LORA, ModelChoice, TuningConfig
from evaluation.tables import DOWNSTREAM_EVALUATIONS, DOWNSTREAM_RUNS, HELD_OUT_EXAMPLES
from evaluation.tokenizer import ProxyTokenizer
from evaluation.training import DIVERGED, FINISHED, describe_device, uses_bfloat16

STAGE = "downstream"
TESTS = "test rows"  # what its files are called
MOST_RISE = 1.0  # nats a token by which an epoch's loss may lie above the first one's
_EVALUATION = pa.schema([
    ("downstream_id", pa.string()), ("example_id", pa.string()), ("benchmark", pa.string()), ("nats", pa.float64()),
    ("bytes", pa.int32()), ("bits_per_byte", pa.float64()), ("answer", pa.string()), ("correct", pa.bool_()),
])  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A comparison of the tables as rows. made: arm -> accepted rows in the order of making; at_cost: the first of
    these that equal spending buys, by `unit`. shown, held_out: seeds, by whether a generating model saw them.
    """

    comparison_id: str
    task: Task
    generations: dict[str, str]
    made: dict[str, list[Row]]
    at_cost: dict[str, list[Row]]
    unit: Unit | None
    shown: list[Row]
    held_out: list[Row]


@dataclass(frozen=True)
class Tests:
    """The rows that models are measured on, as examples. removed: reason -> rows; of_seeds: they are held-out seeds."""

    held_out_id: str
    examples: tuple[Example, ...]
    removed: dict[str, int]
    of_seeds: bool


@dataclass(frozen=True)
class DownstreamRun:
    """One model to fine-tune: all that a task needs to know of it. steps 0: it is measured as it is."""

    downstream_id: str
    arm: Arm
    examples: tuple[Example, ...]
    steps: int
    seed: int


@dataclass(frozen=True)
class _Job:
    """What all runs of a call share: it goes to every executor once."""

    choice: ModelChoice
    tuning: TuningConfig
    tokenizer: ProxyTokenizer | None
    tests: tuple[Example, ...]
    choices: tuple[str, ...]
    working: str
    local: bool


# -- what there is -----------------------------------------------------------------------------------------------------


def read_comparison(run: Run, config: DownstreamConfig) -> Compared:
    """The comparison that is asked for, or the latest, with every arm's rows. On the driver: arms have thousands."""
    tables = run.tables
    rows = tables.read(COMPARISONS).select("comparison_id", "arm", "generation_id", "created").distinct().collect()
    order = sorted({(row["created"] or "", row["comparison_id"]) for row in rows})
    if not order:
        raise InputError(f"{tables.root} holds no comparison of ways to make rows: make one with `bare compare`")
    there = [each for _, each in order]
    wanted = config.comparison or there[-1]
    if wanted not in there:
        raise InputError(f"--comparison {wanted}: there is none in {tables.root}; there are {', '.join(there)}")
    named = {r["arm"]: r["generation_id"] for r in rows if r["comparison_id"] == wanted and r["generation_id"]}
    generations = {arm: named[arm] for arm in WAYS if arm in named}
    if unknown := sorted(set(config.arms) - {*generations, REAL}):
        raise InputError(
            f"--arms: the comparison {wanted} has no arm {unknown[0]!r}; it has {', '.join(generations)}, {REAL}"
        )
    found = tables.read(GENERATIONS).where(F.col("generation_id").isin(*generations.values())).collect()
    first = next(row for row in found if row["generation_id"] == next(iter(generations.values())))
    task = parse_task(first["task_definition"], where=f"task {first['task']}")
    chosen = [arm for arm in generations if not config.arms or arm in config.arms or arm in config.top_up]
    frames = {arm: rows_made(tables, generations[arm], refines=WAYS[arm][1]) for arm in chosen}
    made = {arm: _rows(frame) for arm, frame in frames.items()}
    wanted_arms = {arm: frame for arm, frame in frames.items() if not config.arms or arm in config.arms}
    at_cost, unit = _at_cost(wanted_arms) if config.equal_cost and wanted_arms else ({}, None)
    seeds = tables.read(SEEDS).where(F.col("seeds_id") == first["seeds_id"]).orderBy("seed_id").collect()
    by_role: dict[str, list[Row]] = {"shot": [], "real": []}
    for seed in seeds:
        by_role[seed["role"]].append(Row(seed["seed_id"], dict(seed["fields"]), seed["label"]))
    kept = {arm: generations[arm] for arm in chosen}
    return Compared(wanted, task, kept, made, at_cost, unit, by_role["shot"], by_role["real"])


def _rows(frame: pd.DataFrame) -> list[Row]:
    mine = frame[frame["accepted"].astype(bool)]
    columns = zip(mine["row_id"], mine["fields"], mine["label"], strict=True)
    return [Row(row_id, dict(fields), label) for row_id, fields, label in columns]


def _at_cost(frames: Mapping[str, pd.DataFrame]) -> tuple[dict[str, list[Row]], Unit]:
    arms = [MadeArm(arm, frame) for arm, frame in frames.items()]
    unit: Unit = next((u for u in UNITS if not any(pd.isna(arm.spent(u)).any() for arm in arms)), "seconds")
    return {arm.name: _rows(arm.rows) for arm in equal_cost(arms, unit=unit)}, unit


def read_tests(run: Run, config: DownstreamConfig, compared: Compared, asking: Asking) -> Tests:
    """The test rows: those of files, or the seeds that no model was shown, without what models may train on."""
    made = [row for rows in compared.made.values() for row in rows]
    if config.test:
        tests, seeds = _read_files(run, config, compared.task), [*compared.shown, *compared.held_out]
    else:
        tests, seeds = compared.held_out, compared.shown
        if not tests:
            raise InputError(
                f"{run.tables.root} holds no seed that models weren't shown: name real test rows with --test FILE"
            )
    removed = downstream.separate(compared.task, tests, seeds, made)
    of_seeds = sum(reason == downstream.SEED for reason in removed.values())
    if of_seeds == len(tests):
        raise InputError(
            f"--test {', '.join(config.test)} holds the seeds themselves: all {len(tests):,} rows equal a seed or "
            "share a run of words with one; give rows that models weren't shown"
        )
    kept = [row for row in tests if row.row_id not in removed]
    if config.tests is not None:
        kept = [kept[k] for k in sorted(sample_by_hash([row.row_id for row in kept], config.tests, seed=config.seed))]
    if len(kept) < LEAST_TESTS:
        said = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in sorted(Counter(removed.values()).items()))
        raise InputError(
            f"{len(kept)} test rows are too few to tell arms apart ({said or 'none'} removed): give at least "
            f"{LEAST_TESTS} with --test"
        )
    there = {row.row_id for row in kept} | set(removed)
    every = [(asking.example(row), removed.get(row.row_id)) for row in tests if row.row_id in there]
    held_out_id = content_id(STAGE, [(e.example_id, e.question, e.choices, why) for e, why in every])
    if held_out.load(run.tables, held_out_id) is None:
        frame = HELD_OUT_EXAMPLES.frame(
            run.spark,
            [(held_out_id, e.example_id, e.benchmark, e.question, list(e.choices), e.gold, why) for e, why in every],
        )
        run.tables.replace(HELD_OUT_EXAMPLES, frame, where={"held_out_id": held_out_id}, keys_are_unique=True)
    examples = tuple(example for example, why in every if why is None)
    return Tests(held_out_id, examples, dict(Counter(removed.values())), not config.test)


def _read_files(run: Run, config: DownstreamConfig, task: Task) -> list[Row]:
    """The rows of --test that are items of the task; the others are counted, and told."""
    rows, broken = [], 0
    for path in (each for given in config.test for each in jsonlines.list_files(given, what=TESTS)):
        for _, line in jsonlines.lines(jsonlines.read_bytes(run.spark, path, what=TESTS)):
            try:
                rows.append(jsonlines.parse(line))
            except RowRejected:
                broken += 1
    found = read_seeds(task, rows)
    reasons = Counter(each.reason for each in found.rejected)
    if broken:
        reasons["malformed_json"] += broken
    if reasons:
        said = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(reasons.items()))
        run.warn(f"--test: {said}: these rows aren't measured")
    return [Row(seed.seed_id, seed.fields, seed.label) for seed in found.seeds]


def arms_of(run: Run, config: DownstreamConfig, compared: Compared, tests: Tests) -> list[Arm]:
    """Every arm of every experiment, and the model as it is."""
    real = compared.shown if tests.of_seeds else sorted([*compared.shown, *compared.held_out], key=lambda r: r.row_id)
    wanted = [arm for arm in compared.generations if not config.arms or arm in config.arms]
    rows = {arm: compared.made[arm] for arm in wanted}
    if not config.arms or REAL in config.arms:
        rows = {REAL: real, **rows}
    arms = downstream.equal_rows(rows, generations=compared.generations)
    for arm, bought in compared.at_cost.items():
        if bought:
            arms.append(Arm(EQUAL_COST, arm, tuple(bought), compared.generations[arm]))
        else:
            run.warn(f"equal cost: what the cheapest arm spent buys no row of {arm}, so it is left out")
    arms += _topped_up(run, config, compared, real)
    return [Arm(EVERY, UNTRAINED, ()), *arms]


def _topped_up(run: Run, config: DownstreamConfig, compared: Compared, real: Sequence[Row]) -> list[Arm]:
    labels = tuple(compared.task.wanted_shares or ())
    if config.imbalance is not None:
        real = downstream.imbalanced(real, downstream.parse_imbalance(config.imbalance, compared.task))
    if not labels:
        return []
    if unknown := sorted(set(config.top_up) - set(compared.generations)):
        if config.top_up != (downstream.OURS,):
            there = ", ".join(compared.generations)
            raise InputError(f"--top-up: the comparison has no arm {unknown[0]!r} to top up with; it has {there}")
        return []
    filling = {arm: compared.made[arm] for arm in config.top_up}
    found = downstream.top_up(real, filling, labels, generations=compared.generations)
    if found.lacking:
        said = ", ".join(f"{rows} of {label}" for label, rows in found.lacking.items())
        run.warn(f"top-up: {said} are lacking: {', '.join(config.top_up)} made no more, or there is no real row of it")
    if not found.arms and not found.lacking:
        run.warn("top-up: no label is rarer than another, so there is nothing to fill; name one with --imbalance")
    return list(found.arms)


# -- runs --------------------------------------------------------------------------------------------------------------


def plan(
    arms: Sequence[Arm], asking: Asking, choice: ModelChoice, tuning: TuningConfig, *, seeds: int, held_out_id: str,
    tokenizer_id: str | None = None,
) -> list[DownstreamRun]:  # fmt: skip
    """Every run that is asked for, the longest first. Its id is a hash of all that its result hangs on.

    All arms of an experiment make as many steps of as many rows: those of the one with the most rows. A named model
    as it is has no chance in it: it is measured once.
    """
    found = []
    most = {e: max(len(arm.rows) for arm in arms if arm.experiment == e) for e in {arm.experiment for arm in arms}}
    for arm in arms:
        examples = tuple(asking.example(row) for row in arm.rows)
        steps = -(-tuning.epochs * most[arm.experiment] // tuning.batch) if examples else 0
        for seed in range(seeds if examples or choice.size is not None else 1):
            made_from = (
                arm.experiment, arm.arm, [(e.example_id, e.question, e.choices, e.gold) for e in examples],
                choice.name, choice.revision, choice.rate(tuning), tuning.settings(), steps, seed, held_out_id,
                tokenizer_id,
            )  # fmt: skip
            found.append(DownstreamRun(content_id(STAGE, *made_from), arm, examples, steps, seed))
    return sorted(found, key=lambda each: (-each.steps, each.seed, each.arm.arm, each.downstream_id))


def train(
    run: Run, config: DownstreamConfig, compared: Compared, asking: Asking, tests: Tests, arms: Sequence[Arm]
) -> Outcome:
    """A model of each arm and seed, fine-tuned and measured: those that aren't there yet."""
    tables, tuning = run.tables, config.tuning
    choice = models.choose(config.model, tuning)
    reader = _tokenizer(run, config, asking, arms) if choice.size is not None else None
    wanted = plan(
        arms, asking, choice, tuning, seeds=config.seeds, held_out_id=tests.held_out_id,
        tokenizer_id=None if reader is None else reader.tokenizer_id,
    )  # fmt: skip
    key = content_id(STAGE, sorted(each.downstream_id for each in wanted))
    if (earlier := run.result(STAGE, key)) is not None:
        return run.unchanged(earlier)
    working = proxy.working_folder(tables, config.working)
    with run.stage(STAGE, key, unit="steps", in_parts=True) as work:
        there = {row["downstream_id"] for row in tables.read(DOWNSTREAM_RUNS).select("downstream_id").collect()}
        missing = [each for each in wanted if each.downstream_id not in there]
        job = _Job(
            choice, tuning, reader, tests.examples, asking.choices, str(working), is_local_session(tables.spark)
        )
        shared = {
            "comparison_id": compared.comparison_id, "model": choice.name, "revision": choice.revision,
            "method": tuning.method, "held_out_id": tests.held_out_id, "run_id": run.run_id,
            "settings": json.dumps({**tuning.settings(), "rate": choice.rate(tuning)}, sort_keys=True),
        }  # fmt: skip
        diverged = 0
        with runs.Watched(working, {each.downstream_id: each.steps for each in missing}, runs.shown_on(work.progress)):
            for made in runs.in_waves(tables.spark, missing, job, run_one, gpus_per_task=config.gpus_per_task):
                runs.commit(
                    tables, made, working, key="downstream_id", evaluations=DOWNSTREAM_EVALUATIONS,
                    runs=DOWNSTREAM_RUNS, shared=shared,
                )  # fmt: skip
                diverged += sum(each["status"] == DIVERGED for each in made)
        work.rows_in = work.rows_out = sum(each.steps for each in missing)
        work.values = {
            "downstream_ids": [each.downstream_id for each in wanted], "held_out_id": tests.held_out_id,
            "diverged": diverged,
        }  # fmt: skip
    if diverged:
        run.warn(f"{diverged} runs diverged: they are recorded with the reason, and in no mean")
    return run.needs(STAGE)


def _tokenizer(run: Run, config: DownstreamConfig, asking: Asking, arms: Sequence[Arm]) -> ProxyTokenizer:
    """A proxy's tokenizer: one for all arms, from all rows that any of them trains on."""
    texts = {row.row_id: asking.task.render(row.fields) for arm in arms for row in arm.rows}
    rows = [(row_id, text, len(text.encode())) for row_id, text in sorted(texts.items())]
    pool: DataFrame = run.spark.createDataFrame(rows, "doc_id string, text string, bytes bigint")
    return tokenizer.train_on_pool(run.tables, pool, vocabulary=config.vocabulary, seed=config.seed)


def run_one(run: DownstreamRun, job: _Job) -> dict[str, Any]:
    """Fine-tune and measure: what a task does with a run; a result that is there is only read."""
    folder = runs.folder_of(job.working, run.downstream_id)
    if (there := runs.result(folder)) is not None:
        return there
    device = runs.hardware(job.local)
    began = time.monotonic()
    low = uses_bfloat16(job.tuning.precision, device)
    row: dict[str, Any] = {
        "downstream_id": run.downstream_id, "experiment": run.arm.experiment, "arm": run.arm.arm,
        "generation_id": run.arm.generation_id, "rows": len(run.arm.rows), "labels": run.arm.labels, "seed": run.seed,
        "steps": 0, "seen": 0, "tokens": 0, "first_loss": None, "loss": None, "status": FINISHED, "reason": None,
    }  # fmt: skip
    with models.ready(job.choice, job.tuning, seed=run.seed, device=device, tokenizer=job.tokenizer) as its:
        if run.steps:
            config = FinetuningConfig(
                batch=job.tuning.batch, learning_rate=job.choice.rate(job.tuning), steps=run.steps
            )
            tuned = finetune(
                its.model, its.tokenizer, run.examples, config, peak=0.0, seed=run.seed, context=its.context,
                device=device, on_step=runs.Told(folder, 1), bfloat16=low, batch_tokens=its.batch_tokens,
            )  # fmt: skip
            row |= {
                "steps": tuned.steps, "seen": tuned.seen, "tokens": tuned.tokens,
                "first_loss": _number(tuned.first_loss), "loss": _number(tuned.loss),
            }  # fmt: skip
            if (reason := _diverged(tuned.first_loss, tuned.loss)) is not None:
                row |= {"status": DIVERGED, "reason": reason}
        if row["status"] == FINISHED:
            _measure(run, job, its, folder, device)
        # A weight that learns takes a pass forward and two back, one that doesn't a pass forward and one through it.
        each = 6 if job.tuning.method != LORA else 4
        row |= {
            "parameters": its.parameters, "trained_parameters": its.trained if run.steps else 0,
            "flops": float(each * its.parameters * row["tokens"]), "seconds": time.monotonic() - began,
            "device": describe_device(device, low),
        }  # fmt: skip
    runs.write_result(folder, row)
    return row


def _measure(run: DownstreamRun, job: _Job, its: models.Ready, folder: Any, device: str) -> None:
    found = measure(
        its.model.eval(), its.tokenizer, job.tests, context=its.context, device=device, batch_tokens=its.batch_tokens,
        by_byte=False, read_once=True,
    )  # fmt: skip
    names = ("example_id", "benchmark", "nats", "bytes", "bits_per_byte", "correct")
    runs.write_evaluations(folder, _EVALUATION, {
        "downstream_id": [run.downstream_id] * len(found),
        "answer": [None if each.chosen is None else job.choices[each.chosen] for each in found],
        **{name: [getattr(each, name) for each in found] for name in names},
    })  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _diverged(first: float, last: float) -> str | None:
    """Why a run has diverged, None where it hasn't."""
    if not math.isfinite(last):
        return "the loss is no number"
    if last > first + MOST_RISE:
        return f"the loss rose: {first:.3f} in the first epoch, {last:.3f} in the last"
    return None


# -- what runs left ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Rows of DOWNSTREAM_RUNS and DOWNSTREAM_EVALUATIONS that belong together."""

    runs: pd.DataFrame
    evaluations: pd.DataFrame


def measured(run: Run, trained: Outcome) -> Measured:
    mine = F.col("downstream_id").isin(trained["downstream_ids"])
    return Measured(
        run.tables.read(DOWNSTREAM_RUNS).where(mine).toPandas(),
        run.tables.read(DOWNSTREAM_EVALUATIONS).where(mine).toPandas(),
    )


