"""`evaluate downstream`: from the rows of a `bare compare` to a page that says what they are worth to a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from pyspark.sql import SparkSession

from betr import pages
from betr.config import RunConfig
from betr.pipeline import opened
from curation.files import write_whole
from curation.progress import Terminal
from evaluation import downstream, downstream_figures, downstream_stages, models, proxy
from evaluation.downstream_config import DownstreamConfig
from evaluation.downstream_page import downstream_page


def run_downstream(
    config: DownstreamConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Each step does what is missing or has changed; returns the object that `--json` prints."""
    with opened(RunConfig(tables=config.tables), spark, terminal) as run:
        models.choose(config.model, config.tuning)  # what can be refused is refused before any work
        proxy.working_folder(run.tables, config.working)
        compared = downstream_stages.read_comparison(run, config)
        asking = downstream.asking_of(compared.task, prompt=config.prompt, answer=config.answer)
        tests = downstream_stages.read_tests(run, config, compared, asking)  # nothing that anybody trained on
        arms = downstream_stages.arms_of(run, config, compared, tests)
        trained = downstream_stages.train(run, config, compared, asking, tests, arms)
        there = downstream_stages.measured(run, trained)
        found = downstream_figures.judge(
            there.runs, there.evaluations, removed=tests.removed, of_seeds=tests.of_seeds, level=config.level
        )
        said = downstream_figures.words(found)
        for each in found.experiments:
            run.terminal.console.print(downstream_figures.as_table(each))
        for line in (*said.told, *said.against):
            run.terminal.line(line)
        out = pages.where(config.page, run.tables, f"downstream-{trained.key}.html")
        if out is not None:
            counted = [f"Equal cost is counted in {compared.unit}."] if compared.unit else []
            page = downstream_page(found, task=compared.task, notes=[*counted, *run.warnings])
            run.terminal.line(f"the page: {write_whole(page, out)}")
        return {
            "comparison_id": compared.comparison_id,
            **dataclasses.asdict(found),
            "told": said.told,
            "against": said.against,
            "page": out,
            "warnings": run.warnings,
        }
