"""What MLflow gets of a run, where --mlflow names an experiment: settings, figures, the generation's page and card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bare import measuring, publish
from bare.card import write_card
from bare.report import run_page
from bare.run import Run
from curation import tracking


@contextmanager
def tracked(run: Run) -> Iterator[tracking.Tracked | None]:
    """MLflow's run around this one; None where no experiment is named."""
    tags = {"program": "bare", "command": "run", "run_id": run.run_id, "tables": run.tables.root}
    parameters = run.config.settings("run")
    with tracking.tracked(run.config.mlflow, name=run.run_id, tags=tags, parameters=parameters, warn=run.warn) as this:
        yield this


def log(run: Run, this: tracking.Tracked | None, found: dict[str, Any]) -> dict[str, Any]:
    """Send what is written to MLflow; `found`, what --json prints, with where it went."""
    if this is None:
        return found
    values, facts = figures(run, found), publish.card_facts(run, run.making, files="data/*.jsonl")
    with tracking.warned(run.warn):
        this.tags({"generation_id": run.generation_id, "stopped_by": run.stopped_by})
        this.figures(values)
        this.object(run.config.settings(None), "settings.json")
        this.object(found, "report.json")
        this.text(run_page(facts.run), f"generation-{run.generation_id}.html")
        this.text(write_card(facts), "README.md")
    run.terminal.line(f"MLflow: run {this.run_id} in {this.experiment}")
    return found | {"mlflow": {"experiment": this.experiment, "run_id": this.run_id}}


def figures(run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of a generation by name: rows, reasons, tokens, cost, measures with intervals beside real rows'."""
    rows = ("drafts", "refined", "accepted", "rejected", "tokens_in", "tokens_out", "seconds", "cost")
    figure = ("value", "low", "high")
    return {
        **{name: found[name] for name in rows},
        "accepted_share": run.totals.accepted / max(1, run.totals.judged),
        "indistinguishability": found["indistinguishability"] or {},
        **{
            place: {m.name: {name: getattr(m, name) for name in figure} for m in measuring.metrics_of(run, round_)}
            for place, round_ in (("measure", measuring.ALL_ROUNDS), ("real", measuring.REAL))
        },
        "warnings": len(found["warnings"]),
    }
