"""A comparison from a finished BETR run to a page: arms at equal tokens, models on each, what they tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pyspark.sql import Row, SparkSession

from betr import pages
from betr.config import RunConfig
from betr.pipeline import opened
from betr.run import Outcome, Run
from curation.files import write_whole
from curation.progress import Terminal
from evaluation import compare, filter_law, laws, ledger, loop, loop_figures, loop_stages, proxy, roi, stages
from evaluation.arm_config import parse_arm
from evaluation.config import EvaluationConfig, RoiConfig
from evaluation.loop_config import LoopConfig
from evaluation.loop_report import loop_page
from evaluation.proxy import FINETUNED
from evaluation.report import comparison_page, return_page
from evaluation.scaling import REPLICATES


def evaluate(run: Run, config: EvaluationConfig) -> tuple[list[Row], Outcome]:
    """The comparison. Each step does what is missing or has changed."""
    stages.check_inputs(run, config)
    rows = stages.make_arms(run, config)  # other ways to choose as many tokens, each a selection
    found = stages.hold_out(run, config)  # what models are asked: nothing that was trained on or stands in the corpus
    compared = [proxy.arm_of(run.tables, row) for row in rows]
    trained = stages.train(run, config, compared, found)  # a model of each, by size and seed; measured, tuned, again
    return rows, trained


def make_arms(
    config: EvaluationConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """The arms alone (`evaluate arms`); returns a row of each."""
    with opened(RunConfig(tables=config.tables), spark, terminal) as run:
        return {"arms": [row.asDict() for row in stages.make_arms(run, config)], "warnings": run.warnings}


def run_comparison(
    config: EvaluationConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Arms, models, figures and the page (`evaluate compare`); returns the object that `--json` prints."""
    with opened(RunConfig(tables=config.tables), spark, terminal) as run:
        rows, trained = evaluate(run, config)
        judged = judge(run, trained, level=config.level)
        said = compare.words(judged.found, ours=config.ours)
        more, turned = compare.token_words(judged.by_tokens)
        kept = [] if judged.kept is None else filter_law.words(judged.kept)
        for line in dict.fromkeys((*said.told, *more, *said.against, *turned, *kept)):
            run.terminal.line(line)
        page = draw(run, config, judged, rows, trained.key)
        held_out = run.needs("held-out")
        return {
            "arms": [row.asDict() for row in rows],
            "held_out": {"measured": held_out["counts"], "removed": held_out["removed"]},
            "pretrained": compare.as_json(judged.found),
            "finetuned": None if judged.tuned is None else compare.as_json(judged.tuned),
            "by_tokens": [
                {"tokens": each.sizes[-1].tokens, "gains": [dataclasses.asdict(g) for g in each.gains]}
                for each in judged.by_tokens
            ],
            "laws": laws.as_json(judged.laws),
            "filter_law": None if judged.kept is None else filter_law.as_json(judged.kept),
            "page": page,
            "warnings": run.warnings,
        }


@dataclass(frozen=True)
class Judged:
    """What the models of a comparison tell.

    by_tokens: at each number of tokens, ascending. tuned: after fine-tuning, None where nobody asked for it. kept: the
    best share to keep, None without arms keep:SHARE.
    """

    by_tokens: tuple[compare.Comparison, ...]
    tuned: compare.Comparison | None
    laws: laws.Laws
    kept: filter_law.FilterLaw | None

    @property
    def found(self) -> compare.Comparison:
        """The comparison that is told: at the most tokens."""
        return self.by_tokens[-1]


def judge(run: Run, trained: Outcome, *, level: float) -> Judged:
    """Figures of the runs that a training left, from the tables alone."""
    there = stages.measured(run, trained)
    return judge_tables(there.runs, there.evaluations, chance=compare.chance_of(there.held_out), level=level)


def judge_tables(
    runs: pd.DataFrame, evaluations: pd.DataFrame, *, chance: Mapping[str, float], level: float,
    replicates: int = REPLICATES,
) -> Judged:  # fmt: skip
    """The comparison at each number of tokens (`runs.asked`), the laws through all runs, the best share to keep.

    replicates: of the laws.
    """
    asked, arms = set(evaluations["benchmark"]), set(runs["arm"])
    heads = {arm: arm.partition(":")[2] for arm in sorted(arms) if arm.startswith("betr:")}
    settings: dict[str, Any] = {
        "targets": {arm: head for arm, head in heads.items() if head in asked}, "chance": chance, "level": level,
    }  # fmt: skip
    each = compare.by_tokens(runs, evaluations, **settings)
    tuned = None
    if (evaluations["phase"] == FINETUNED).any():
        most = runs[runs["asked"] == runs["asked"].max()]
        tuned = compare.compare(most, evaluations, phase=FINETUNED, **settings)
    keeps = {arm: parse_arm(arm).number for arm in sorted(arms) if arm.startswith("keep:")}
    kept = filter_law.of_runs(runs, evaluations, keeps, level=level, replicates=replicates) if keeps else None
    fitted = laws.fit_arms(
        runs, evaluations, baseline=compare.BASELINE, chance=chance, level=level, replicates=replicates
    )
    return Judged(each, tuned, fitted, kept)


def draw(run: Run, config: EvaluationConfig, judged: Judged, rows: Sequence[Row], key: str) -> str | None:
    """The page of a comparison where --page says, else under a local tables root; None where there is no such place."""
    out = pages.where(config.page, run.tables, f"comparison-{key}.html")
    if out is None:
        return None
    page = comparison_page(
        judged.found, ours=config.ours, laws=judged.laws, tuned=judged.tuned, by_tokens=judged.by_tokens,
        kept=judged.kept,
        reach={row["arm"]: row["tokens"] for row in rows},
    )  # fmt: skip
    run.terminal.line(f"the page: {write_whole(page, out)}")
    return out


def run_roi(
    config: RoiConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """What the latest comparison's selection cost and brings back (`evaluate roi`): figures and one page."""
    with opened(RunConfig(tables=config.tables), spark, terminal) as run:
        trained = run.needs("proxies", "compare", program="evaluate")
        judged = judge(run, trained, level=config.level)
        found = ledger.returned(run, config, judged.found, judged.laws)
        said = roi.words(found)
        for line in (*said.gain, *said.running, *said.effect, *said.against):
            run.terminal.line(line)
        out = pages.where(config.page, run.tables, f"return-{trained.key}.html")
        if out is not None:
            run.terminal.line(f"the page: {write_whole(return_page(found), out)}")
        return {**roi.as_json(found), "page": out}


def close_loop(
    config: LoopConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Write what the selection lacks, select of it, measure again (`evaluate loop`): figures and one page."""
    with opened(RunConfig(tables=config.tables), spark, terminal) as run, loop_stages.begin(run, config) as this:
        judged = loop.close(this)
        found = loop_stages.figures(this, judged)
        said = loop_figures.words(found)
        for line in dict.fromkeys((*said.told, *said.against, loop_figures.spent(found))):
            run.terminal.line(line)
        out = pages.where(config.page, run.tables, f"loop-{found.loop_id}.html")
        if out is not None:
            run.terminal.line(f"the page: {write_whole(loop_page(found), out)}")
        return {**loop_figures.as_json(found), "page": out, "warnings": [*run.warnings, *this.synthetic.warnings]}
