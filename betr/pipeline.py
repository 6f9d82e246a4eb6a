"""BETR, from documents and benchmark examples to a ranked and cut corpus: the paper's section 3, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyspark.sql import SparkSession

from betr import diff, export, pages, release, stages, tracked
from betr.config import RunConfig
from betr.run import Run
from betr.show import gaps, report, summarise
from betr.tables import ALL
from curation.errors import DriftError, input_errors
from curation.export import ExportConfig
from curation.progress import Terminal
from curation.session import get_session
from curation.tables import Tables, hold


def betr(run: Run) -> None:
    """The method. Each stage reads what earlier ones left in the tables, and does what is missing or has changed."""
    stages.check_inputs(run)  # what can be refused is refused before hours of work
    stages.import_documents(run)  # the corpus; what can't be used goes aside with a reason
    stages.deduplicate(run, "before")  # the longest of near-duplicates, where that is asked for
    stages.read_targets(run)  # 3.1  training examples of the tasks, an equal share of each
    stages.draw_sample(run)  # 3.2  the documents that are ranked, by hash of their ids
    stages.embed(run)  # 3.2  examples and sample in one space
    stages.rank(run)  # 3.3  every example ranks every sampled document; best rank; the top 10% are positive
    stages.train(run)  # 3.4  a fastText classifier learns to tell the positives
    stages.score(run)  # 3.4  it scores the whole corpus, broadcast to every executor
    stages.deduplicate(run, "after")  # or the best of them
    stages.decontaminate(run)  # 3.1  what the corpus shares with held-out tests is kept from the selection
    stages.select(run)  # 3.5  the best tokens for the compute at hand
    stages.cover(run)  # which examples chose what, and which have nothing near them
    stages.watch(run)  # what has moved since the last run


STAGES: dict[str, Callable[[Run], object]] = {
    "import": stages.import_documents,
    "deduplicate": stages.deduplicate,
    "targets": stages.read_targets,
    "sample": stages.draw_sample,
    "embed": stages.embed,
    "rank": stages.rank,
    "train": stages.train,
    "score": stages.score,
    "decontaminate": stages.decontaminate,
    "select": stages.select,
    "cover": stages.cover,
    "watch": stages.watch,
}


def run(config: RunConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None) -> dict[str, Any]:
    """Run everything that is missing or has changed on `config.tables`; returns the object that `--json` prints.

    Raises InputError for bad input (nothing half-written) and TablesBusyError while another run holds the tables.
    """
    with opened(config, spark, terminal) as this, tracked.tracked(this) as mlflow:
        betr(this)
        retain(this)
        page = pages.draw(this)
        summarise(this)
        return checked(this, tracked.log(this, mlflow, report(this) | {"page": page}, page=page, draws=True))


def run_stage(
    stage: str, config: RunConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Run one stage by name on what earlier stages left; returns the same object as `run`."""
    with opened(config, spark, terminal) as this, tracked.tracked(this, stage) as mlflow:
        STAGES[stage](this)
        found = tracked.log(this, mlflow, report(this))
        return checked(this, found) if stage == "watch" else found


def retain(run: Run) -> None:
    """Set how long the tables keep what they replace, where --retention-days says so."""
    days = run.config.retention_days
    if days is not None and (changed := run.tables.retain(ALL, days=days)):
        run.terminal.line(f"retention: {len(changed)} tables now keep {days} days")


def checked(run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints, or DriftError with it where --on-drift fail is given and a measure is beyond its limit."""
    breached = [each["said"] for each in found["drift"] if each["breached"]]
    if breached and run.config.on_drift == "fail":
        moved = "; ".join(breached)
        raise DriftError(
            f"everything is written, and moved beyond its limit since the last run: {moved}; look at the page, then "
            "--retrain, or widen --drift",
            found,
        )
    return found


def draw_page(
    config: RunConfig, out: str, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Write the page of the latest selection (`betr report`); returns its figures."""
    with opened(config, spark, terminal) as this, tracked.tracked(this, "report") as mlflow:
        stages.cover(this)
        found = pages.write(this, out)
        tracked.log(this, mlflow, report(this), page=out)
        return found


def list_gaps(
    config: RunConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None, **wanted: Any
) -> dict[str, Any]:
    """List the task examples with the least near them (`betr gaps`); wanted: as `show.gaps` takes it."""
    with opened(config, spark, terminal) as this:
        stages.cover(this)
        return gaps(this, **wanted)


def compare_selections(
    config: RunConfig, a: str, b: str, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """What came in and went out between two selections (`betr diff`), by source and by `config.by`."""
    with input_errors():
        return diff.show(Run(config, spark or get_session(), terminal or Terminal()), a, b, by=config.by)


def export_selection(
    config: RunConfig, how: ExportConfig, out: str, *, selection: str | None = None,
    spark: SparkSession | None = None, terminal: Terminal | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a selection, by default the latest, as shards into a folder (`betr export`); returns their totals."""
    with input_errors():
        return export.write(Run(config, spark or get_session(), terminal or Terminal()), how, out, selection=selection)


def release_selection(
    config: RunConfig, selection: str | None, *, name: str | None = None, spark: SparkSession | None = None,
    terminal: Terminal | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a selection, by default the latest, as a table of its own (`betr release`)."""
    with opened(config, spark, terminal) as this:
        return release.release(this, selection, name=name)


@contextmanager
def opened(config: RunConfig, spark: SparkSession | None = None, terminal: Terminal | None = None) -> Iterator[Run]:
    """The tables root of `config`, held against other runs while the body works on it."""
    spark = spark or get_session()
    with input_errors(), hold(Tables(spark, config.tables)):
        yield Run(config, spark, terminal or Terminal())
