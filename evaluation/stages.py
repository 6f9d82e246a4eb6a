"""The steps of a comparison on tables: what each reads, what it is made from (its key), what it commits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from betr import corpus
from betr.benchmarks import fingerprint, parse_sources
from betr.run import Outcome, Run
from betr.tables import DOCUMENTS
from curation.errors import InputError
from curation.hashing import content_id
from evaluation import arms, held_out, proxy, runs, tokenizer
from evaluation.config import EvaluationConfig
from evaluation.held_out import HeldOut
from evaluation.measuring import Example
from evaluation.proxy import Arm
from evaluation.tables import EVALUATIONS, HELD_OUT_EXAMPLES, PROXY_RUNS

__all__ = ["Measured", "hold_out", "make_arms", "measured", "train"]


@dataclass(frozen=True)
class Measured:
    """What a comparison is drawn from: rows of PROXY_RUNS, EVALUATIONS and HELD_OUT_EXAMPLES that belong together.

    runs have a column more, `asked`: the tokens asked for, which are rounded up to whole steps, and which a run that
    diverged hasn't seen.
    """

    runs: pd.DataFrame
    evaluations: pd.DataFrame
    held_out: pd.DataFrame


def check_inputs(run: Run, config: EvaluationConfig) -> None:
    """What can be refused is refused before hours of work: missing files, no held-out split, no main line."""
    if not config.held_out:
        raise InputError(
            "a comparison measures models on examples that nobody has trained on: name held-out splits with --held-out "
            "NAME=PATH..."
        )
    _sources(run, config.held_out, "--held-out")
    if config.finetune:
        _sources(run, config.finetune, "--finetune")
    proxy.working_folder(run.tables, config.working)
    run.needs("select")


def make_arms(run: Run, config: EvaluationConfig) -> list[Row]:
    """Every arm that isn't there yet, each a selection like any; rows of ARMS."""
    return arms.make_arms(run, config)


def hold_out(run: Run, config: EvaluationConfig) -> HeldOut:
    """The examples that models are measured on: none that was trained on, none that stands in the corpus."""
    sources, tuning = _sources(run, config.held_out, "--held-out"), _finetuning_sources(run, config)
    files = [(each.name, fingerprint(run.spark, each)) for each in (*sources, *tuning)]
    wanted = run.needs("targets")
    made_from = (files, corpus.key(run), wanted.key, config.questions, config.finetune_examples, config.seed)
    key = content_id("held-out", *made_from)
    stage = "held-out"
    if (earlier := run.result(stage, key)) is not None:
        there = held_out.load(run.tables, earlier["held_out_id"])
        assert there is not None
        held_out.check(there, config.holding_out)  # on_contamination is no part of the key
        run.unchanged(earlier)
        return there
    with run.stage(stage, key, unit="examples") as work:
        asking = held_out.read_asked(run.spark, sources, per_benchmark=config.questions, seed=config.seed)
        work.progress.expect(len(asking.examples))
        work.progress.batch(len(asking.examples))
        tuning_examples = _tuning(run, config)
        taught = held_out.training_texts(run.tables, *([tuning_examples] if tuning_examples else []))
        found = held_out.hold_out(run.tables, asking, config.holding_out, documents=_pool(run), training_texts=taught)
        work.rows_in, work.rows_out = len(asking.examples), len(found.examples)
        work.values = {"held_out_id": found.held_out_id, "counts": found.counts, "removed": found.removed}
    for benchmark, reasons in asking.rejected.items():
        said = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))
        run.warn(f"held-out {benchmark}: {said}: these rows give no question with an answer")
    for benchmark, reasons in found.removed.items():
        said = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in sorted(reasons.items()))
        run.terminal.line(f"  {benchmark}: {said}: not measured; {found.counts[benchmark]:,} stay")
    return found


def train(
    run: Run, config: EvaluationConfig, compared: Sequence[Arm], found: HeldOut, *, stage: str = "proxies"
) -> Outcome:
    """A model of each arm, size, number of tokens and seed, trained and measured: those that aren't there yet.

    stage: the name under which the result is remembered; the latest of `proxies` is the latest comparison.
    """
    tables = run.tables
    shared = tokenizer.train_on_pool(tables, _pool(run), vocabulary=config.vocabulary, seed=config.seed)
    tuning = _finetuning(run, config)
    wanted = [
        proxy.plan(compared, each, tokenizer=shared, held_out=found, finetuning=tuning) for each in config.each_proxies
    ]
    key = content_id("proxies", sorted(each.proxy_id for some in wanted for each in some))
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    done: list[proxy.Proxies] = []
    with run.stage(stage, key, unit="tokens", in_parts=True) as work:
        tokens = [each.training.steps * each.training.step_tokens for each in config.each_proxies]
        show = runs.shown_on(work.progress)

        def told(now: int, total: int) -> None:
            before = sum(part.trained * n for part, n in zip(done, tokens, strict=False))
            to_come = sum(len(each) * n for each, n in list(zip(wanted, tokens, strict=True))[len(done) + 1 :])
            show(before + now, before + total + to_come)

        for each in config.each_proxies:
            part = proxy.train_proxies(
                tables, compared, each, tokenizer=shared, held_out=found,
                working=proxy.working_folder(tables, config.working), finetuning=tuning, on_progress=told,
                run_id=run.run_id,
            )  # fmt: skip
            done.append(part)
        work.rows_in = work.rows_out = sum(part.trained * n for part, n in zip(done, tokens, strict=True))
        work.values = {
            "proxy_ids": [each for part in done for each in part.proxy_ids], "held_out_id": found.held_out_id,
            "diverged": sum(part.diverged for part in done), "flops": sum(part.flops for part in done),
        }  # fmt: skip
    for part, each in zip(done, config.each_proxies, strict=True):
        at = f"at {each.training.tokens:,} tokens " if len(done) > 1 else ""
        for warning in part.warnings:
            run.warn(f"{at}{warning}")
    if diverged := sum(part.diverged for part in done):
        trained = sum(part.trained for part in done)
        run.warn(f"{diverged} of {trained} runs diverged: they are recorded with the reason, and in no mean")
    return run.needs(stage)


def measured(run: Run, trained: Outcome) -> Measured:
    """What the runs of a training left, on the driver: a row a model, and a row a model and held-out example."""
    mine = F.col("proxy_id").isin(trained["proxy_ids"])
    held = run.tables.read(HELD_OUT_EXAMPLES).where(F.col("held_out_id") == trained["held_out_id"])
    runs = pd.DataFrame(run.tables.read(PROXY_RUNS).where(mine).toPandas())
    return Measured(
        runs.assign(asked=[json.loads(each)["training"]["tokens"] for each in runs["settings"]]),
        run.tables.read(EVALUATIONS).where(mine).toPandas(),
        held.toPandas(),
    )


def _pool(run: Run) -> DataFrame:
    return run.tables.read(DOCUMENTS).select("chunk", "doc_id", "text", "bytes")


def _sources(run: Run, files: tuple[str, ...], flag: str) -> list[Any]:
    return run.once(f"sources {flag}", lambda: parse_sources(files, option=flag))


def _finetuning_sources(run: Run, config: EvaluationConfig) -> list[Any]:
    return _sources(run, config.finetune, "--finetune") if config.finetune else []


def _tuning(run: Run, config: EvaluationConfig) -> held_out.Asking | None:
    """The examples of --finetune, read once a run."""
    sources = _finetuning_sources(run, config)
    if not sources:
        return None
    return run.once(
        "finetuning",
        lambda: held_out.read_asked(run.spark, sources, per_benchmark=config.finetune_examples, seed=config.seed),
    )


def _finetuning(run: Run, config: EvaluationConfig) -> Sequence[Example]:
    asking = _tuning(run, config)
    return () if asking is None else asking.examples
