"""What MLflow gets of a run, where --mlflow names an experiment: settings, figures, page, classifier and version."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from betr import coverage, pages, stages
from betr.run import Outcome, Run
from curation import tracking
from curation.hashing import content_id

RECORDED = ("accuracy", "auc", "log_loss", "rank_correlation", "positives", "training_documents", "bytes_per_token")


@contextmanager
def tracked(run: Run, stage: str | None = None) -> Iterator[tracking.Tracked | None]:
    """MLflow's run around this one, or around one stage of it; None where no experiment is named."""
    config = run.config
    with tracking.tracked(
        config.mlflow,
        name=run.run_id,
        tags={"program": "betr", "command": stage or "run", "run_id": run.run_id, "tables": run.tables.root},
        parameters=config.settings(stage),
        warn=run.warn,
        model=config.mlflow_model,
    ) as this:
        yield this


def log(
    run: Run, this: tracking.Tracked | None, found: dict[str, Any], *, page: str | None = None, draws: bool = False
) -> dict[str, Any]:
    """Send what is written to MLflow; `found`, what --json prints, with where it went.

    page: the page's file. draws: without one (tables that aren't in a folder here) it is drawn for MLflow alone.
    """
    if this is None:
        return found
    trained, values, version = run.now("train"), figures(run, found), None
    with tempfile.TemporaryDirectory(prefix="betr-page-") as folder:
        if page is None and draws and run.config.page != pages.NONE:
            page = str(Path(folder, f"selection-{run.needs('select').key}.html"))
            pages.write(run, page)
        with tracking.warned(run.warn):  # MLflow's trouble, and no one else's
            this.figures(values)
            this.object(run.config.settings(None), "settings.json")
            this.object(found, "report.json")
            if page is not None:
                this.file(page)
            if trained is not None:
                version = _log_classifier(run, this, trained)
    if version is not None and trained is not None:
        stages.record_version(run, trained.key, version)
    run.terminal.line(f"MLflow: run {this.run_id} in {this.experiment}")
    model = version.uri if version is not None else None
    return found | {"mlflow": {"experiment": this.experiment, "run_id": this.run_id, "model": model}}


def figures(run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of a run by name: the cut, the classifier, coverage, what was put aside, drift, each stage."""
    selected, covered = run.now("select"), run.now("cover")
    cut = dict(found["selection"] or {})
    if selected is not None:
        cut["kept_share"] = selected["kept_tokens"] / max(1, selected["tokens"])
    at = coverage.QUANTILES.index(0.5)
    return {
        "selection": cut,
        "classifier": found["classifier"] or {},
        "coverage": {
            name: {"median": each["quantiles"][at]}
            for name, each in (covered["examples"] if covered is not None else {}).items()
            if each["quantiles"]
        },
        "rejected": found["rejected"],
        "duplicates": found["duplicates"],
        "drift": {each["measure"]: each["value"] for each in found["drift"]},
        "stage": {
            each["stage"]: {name: each[name] for name in ("rows_in", "rows_out", "seconds")} for each in found["stages"]
        },
        "warnings": len(found["warnings"]),
    }


def _log_classifier(run: Run, this: tracking.Tracked, trained: Outcome) -> tracking.Registered | None:
    """The classifier's files, its heads' among them; the version that they are, where --mlflow-model says so."""
    heads: Mapping[str, Any] = trained.values.get("heads", {})
    files = {stages.REGISTERED_FILE: stages.classifier_path(run, trained["path"])}
    files |= {f"heads/{Path(each['path']).name}": stages.classifier_path(run, each["path"]) for each in heads.values()}
    hashes = {name: each["sha256"] for name, each in sorted(heads.items())}
    about = {
        "classifier_id": trained.key,
        "sha256": trained["sha256"],
        "heads": {name: f"heads/{Path(each['path']).name}" for name, each in sorted(heads.items())},
        "encoder_id": trained["encoder_id"],
        "token_counter": trained["token_counter"],
        **{name: trained[name] for name in RECORDED},
    }
    version, new = this.model(
        files,
        inputs={"text": "string"},
        outputs={"score": "double"},
        about=about,
        name=run.config.mlflow_model,
        alias=run.config.mlflow_alias,
        identity={"sha256": trained["sha256"], "heads": content_id(hashes) if hashes else "none"},
        tags={"classifier_id": trained.key},
    )
    if version is None:
        return None
    this.tags({"registered_as": version.uri})
    alias = "" if run.config.mlflow_alias == tracking.NO_ALIAS else f", now @{run.config.mlflow_alias}"
    run.terminal.line(f"MLflow: {'new ' if new else 'the same classifier as '}{version.uri}{alias}")
    return version
