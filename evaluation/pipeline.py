"""A comparison from a finished BETR run to a page: arms at equal tokens, models on each, what they tell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyspark.sql import Row, SparkSession

from betr.config import RunConfig
from betr.run import Outcome, Run
from curation.errors import input_errors
from curation.files import write_whole
from curation.progress import Terminal
from curation.session import get_session
from curation.tables import Tables, hold, is_local
from evaluation import compare, stages
from evaluation.config import EvaluationConfig
from evaluation.proxy import FINETUNED
from evaluation.report import comparison_page

NONE = "none"


def evaluate(run: Run, config: EvaluationConfig) -> tuple[list[Row], Outcome]:
    """The comparison. Each step does what is missing or has changed."""
    stages.check_inputs(run, config)
    rows = stages.make_arms(run, config)  # other ways to choose as many tokens, each a selection
    found = stages.hold_out(run, config)  # what models are asked: nothing that was trained on or stands in the corpus
    trained = stages.train(run, config, rows, found)  # a model of each arm, size and seed; measured, fine-tuned, again
    return rows, trained


def make_arms(
    config: EvaluationConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """The arms alone (`evaluate arms`); returns a row of each."""
    with opened(config, spark, terminal) as run:
        return {"arms": [row.asDict() for row in stages.make_arms(run, config)], "warnings": run.warnings}


def run_comparison(
    config: EvaluationConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Arms, models, figures and the page (`evaluate compare`); returns the object that `--json` prints."""
    with opened(config, spark, terminal) as run:
        rows, trained = evaluate(run, config)
        there = stages.measured(run, trained)
        targets = {row["arm"]: row["arm"].partition(":")[2] for row in rows if row["arm"].startswith("betr:")}
        asked = set(there.evaluations["benchmark"])
        settings: dict[str, Any] = {
            "targets": {arm: name for arm, name in targets.items() if name in asked},
            "chance": compare.chance_of(there.held_out),
            "level": config.level,
        }
        found = compare.compare(there.runs, there.evaluations, **settings)
        tuned = None
        if (there.evaluations["phase"] == FINETUNED).any():
            tuned = compare.compare(there.runs, there.evaluations, phase=FINETUNED, **settings)
        said = compare.words(found, ours=config.ours)
        for line in (*said.told, *said.against):
            run.terminal.line(line)
        page = draw(run, config, found, tuned, trained.key)
        return {
            "arms": [row.asDict() for row in rows],
            "held_out": {"counts": there_counts(there), "removed": run.needs("held-out")["removed"]},
            "pretrained": compare.as_json(found),
            "finetuned": None if tuned is None else compare.as_json(tuned),
            "page": page,
            "warnings": run.warnings,
        }


def there_counts(there: stages.Measured) -> dict[str, int]:
    kept = there.held_out[there.held_out["removed"].isna()]
    return {str(name): len(rows) for name, rows in kept.groupby("benchmark")}


def draw(
    run: Run, config: EvaluationConfig, found: compare.Comparison, tuned: compare.Comparison | None, key: str
) -> str | None:
    """The page of a comparison where --page says, else under a local tables root; None where there is no such place."""
    out = config.page
    if out is None and not run.tables.is_catalog and is_local(run.tables.root):
        out = str(Path(run.tables.root, "pages", f"comparison-{key}.html"))
    if out is None or out == NONE:
        return None
    run.terminal.line(f"the page: {write_whole(comparison_page(found, ours=config.ours), out)}")
    return out


@contextmanager
def opened(
    config: EvaluationConfig, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> Iterator[Run]:
    """The tables root of `config`, held against other runs while the body works on it."""
    spark = spark or get_session()
    with input_errors(), hold(Tables(spark, config.tables)):
        yield Run(RunConfig(tables=config.tables), spark, terminal or Terminal())
