"""BARE, from a few real examples to accepted rows: a base model drafts, an instruct model refines (BARE 3)."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from bare import measuring, publish, show, stages, tracked
from bare.config import BareConfig
from bare.run import Run, opened
from bare.tables import DRAFTS, REFINED, VERDICTS
from curation.errors import InputError, input_errors
from curation.progress import Terminal
from curation.session import get_session


def bare(run: Run) -> None:
    """The method. Waves of drafts, refinements and verdicts until enough rows are accepted, or the budget is spent."""
    stages.prepare(run)  # task, seeds, models, licences: what can be refused is refused before any token
    finish_waves(run)  # what a killed run left
    for round_ in range(run.config.rounds):
        settings = stages.round_settings(run, round_)
        while not spent(run):
            wave = stages.draft(run, round_, settings)  # the base model drafts, from a few real examples
            if wave is None:
                break
            stages.refine(run, wave, settings)  # the instruct model refines each draft
            stages.judge_rows(run, wave)  # accepted, or rejected for one reason
        if run.stopped_by and not accepted_in(run, round_):
            break
        if measuring.close_round(run, round_).halted:  # every measure against the round before and against real rows
            run.stopped_by = f"collapse control halted it after round {round_}"
            break
    if not run.stopped_by and run.totals.accepted < run.config.accepted:
        run.stopped_by = "attempts"  # every item that is left was drafted as often as it may be
    if measuring.ALL_ROUNDS not in run.measured:
        measuring.judge(run)
        measuring.measure(run)


def finish_waves(run: Run) -> None:
    """Refine and judge what is drafted already: a killed run's wave, or what `bare draft` left."""
    for wave in sorted(run.waves(DRAFTS) - run.waves(VERDICTS)):
        settings = stages.round_settings(run, stages.round_of_wave(run, wave))
        if wave not in run.waves(REFINED):
            stages.refine(run, wave, settings)
        stages.judge_rows(run, wave)


def spent(run: Run) -> bool:
    """Whether rows or budget are reached; says which in `run.stopped_by`."""
    config, totals = run.config, run.totals
    if run.interrupted:
        run.stopped_by = "interrupted"
        return True
    limits = (
        ("accepted", totals.accepted, config.accepted),
        ("budget_rows", totals.drafts, config.budget_rows),
        ("budget_tokens", totals.tokens_in + totals.tokens_out, config.budget_tokens),
        ("budget_cost", totals.cost, config.budget_cost),
        ("budget_seconds", time.monotonic() - run.started, config.budget_seconds),
    )
    for name, value, limit in limits:
        if value is not None and limit is not None and value >= limit:
            run.stopped_by = name
            return True
    return False


def accepted_in(run: Run, round_: int) -> bool:
    """Whether a round has accepted rows."""
    return bool(run.mine(VERDICTS).where("accepted").where(f"round = {round_}").limit(1).count())


# -- commands ----------------------------------------------------------------------------------------------------------


def run(config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None) -> dict[str, Any]:
    """Draft, refine and judge until `--accepted` rows stand or a budget is spent; the object that `--json` prints.

    Raises InputError for bad input (nothing half-written) and TablesBusyError while another run holds the tables.
    """
    with opened(config, spark, terminal) as this, tracked.tracked(this) as mlflow, waits_for_wave(this):
        bare(this)
        show.summarise(this)
        page = publish.page(this)
        if page is not None:
            this.terminal.line(f"the page: {page}")
        found = tracked.log(this, mlflow, show.report(this))
        if this.interrupted:
            raise KeyboardInterrupt
        return found


@contextmanager
def waits_for_wave(run: Run) -> Iterator[None]:
    """Stop and keep: Ctrl-C ends the run after the wave, with all its figures; a second one breaks it off."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return

    def finish(number: int, _: Any) -> None:
        run.interrupted = True
        signal.signal(number, signal.default_int_handler)
        run.terminal.line("stopping after this wave; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, finish)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def draft(config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None) -> dict[str, Any]:
    """Draft every item that has no accepted row and waits for no verdict, wave by wave."""
    with opened(config, spark, terminal) as this:
        stages.prepare(this)
        for round_ in range(config.rounds):
            settings = stages.round_settings(this, round_)
            while not spent(this) and stages.draft(this, round_, settings, waiting_too=False) is not None:
                pass
        return show.report(this)


def refine(
    config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Refine and judge every wave that is drafted."""
    with opened(config, spark, terminal) as this:
        stages.prepare(this)
        finish_waves(this)
        show.summarise(this)
        return show.report(this)


def estimate(
    config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Make a trial wave, which counts as the run's first, and say what all `--accepted` rows will take."""
    with opened(config, spark, terminal) as this:
        stages.prepare(this)
        finish_waves(this)
        if not this.waves(VERDICTS):
            trial = dataclasses.replace(config, wave_rows=config.trial)
            this.config = trial
            settings = stages.round_settings(this, 0)
            wave = stages.draft(this, 0, settings)
            if wave is not None:
                stages.refine(this, wave, settings)
                stages.judge_rows(this, wave)
            this.config = config
        return show.estimate_cost(this)


def judge(config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None) -> dict[str, Any]:
    """Ask the judge about the accepted rows of a generation."""
    with opened(config, spark, terminal) as this:
        stages.reopen(this)
        if this.config.judge is None:
            raise InputError("--judge is missing: name the model that judges, such as transformers:PATH_OR_NAME")
        measuring.judge(this)
        measuring.measure(this)
        show.summarise(this)
        return show.report(this)


def measure(
    config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Measure the accepted rows of a generation beside real ones."""
    with opened(config, spark, terminal) as this:
        stages.reopen(this)
        measuring.measure_real(this)
        measuring.measure(this)
        show.summarise(this)
        return show.report(this)


def view(
    config: BareConfig, view: str, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """One view on a generation."""
    spark = spark or get_session()
    with input_errors():
        this = Run(config, spark, terminal or Terminal())
        stages.reopen(this)
        return show.show(this, view)


COMMANDS = {
    "run": run, "estimate": estimate, "draft": draft, "refine": refine, "judge": judge, "measure": measure, "show": view
}  # fmt: skip
