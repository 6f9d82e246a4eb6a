"""What a run leaves to look at: the summary, the `--json` object, `betr show` and `betr explain`. Reads tables only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from rich.table import Table
from rich.text import Text

from betr import classifier, corpus, coverage
from betr import explain as explaining
from betr.config import RunConfig
from betr.run import DONE, RESUMED, STAGE_ORDER, STARTED, UNCHANGED, Outcome, Run
from betr.stages import load_trained, origins, with_texts, write_seeds
from betr.tables import (
    ALL,
    BENCHMARK_EXAMPLES,
    CLASSIFIERS,
    CONTAMINATED_DOCUMENTS,
    CONTAMINATION_HITS,
    CORPUS_SCORES,
    COVERAGE,
    DOCUMENTS,
    DRIFT,
    DUPLICATE_DOCUMENTS,
    NEAR_DUPLICATES,
    REJECTED_DOCUMENTS,
    SAMPLE_LABELS,
    SELECTION_RUNS,
    SELECTIONS,
    STAGE_RUNS,
)
from curation.errors import InputError
from curation.progress import Terminal, clock, excerpt
from curation.tables import Tables

ROWS_SHOWN = 20
IDS_SHOWN = 5
TEXT_SHOWN = 160  # characters
LATEST = "latest"


def report(run: Run) -> dict[str, Any]:
    """The object that `--json` prints: this run's stages, and the classifier and selection that now hold."""
    imports = run.all("import")
    trained, selected = run.now("train"), run.now("select")
    cut = ("selection_id", "keep", "threshold", "documents", "tokens", "kept_documents", "kept_tokens")
    return {
        "run_id": run.run_id,
        "tables": run.tables.root,
        "stages": [vars(stage) for stage in run.reports],
        "rejected": corpus.rejections(imports),
        "duplicates": sum(outcome["duplicates"] for outcome in imports),
        "classifier": _figures(trained) if trained else None,
        "selection": {name: selected[name] for name in cut} if selected else None,
        "drift": drift_of(run, selected),
        "warnings": run.warnings,
    }


def drift_of(run: Run, selected: Outcome | None) -> list[dict[str, Any]]:
    """What has moved since the selection before this one, where there is one by the same settings."""
    watched = run.now("watch")
    if watched is None or selected is None or watched["selection_id"] != selected.key:
        return []
    return list(watched["measures"])


def _figures(trained: Outcome) -> dict[str, Any]:
    """How well the classifier that now holds does; its heads too, where it has any."""
    figures = {name: trained[name] for name in ("classifier_id", "accuracy", "auc", "log_loss", "positives")}
    heads = {
        name: {figure: head[figure] for figure in ("accuracy", "auc")}
        for name, head in trained.values.get("heads", {}).items()
    }
    return {**figures, "heads": heads} if heads else figures


def summarise(run: Run) -> None:
    """A run's last words on the terminal: what every stage did, what was put aside, what was kept."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("stage", "left"),
        ("", "left"),
        ("rows in", "right"),
        ("rows out", "right"),
        ("time", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for stage in run.reports:
        idle = stage.state == "unchanged"
        rows_in = "" if idle else f"{stage.rows_in:,}"
        table.add_row(stage.stage, stage.state, rows_in, f"{stage.rows_out:,}", "" if idle else clock(stage.seconds))
    run.terminal.console.print()
    run.terminal.console.print(table)
    found = report(run)
    if found["rejected"] or found["duplicates"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in found["rejected"].items()) or "none"
        run.terminal.line(f"rejected: {reasons}; duplicates: {found['duplicates']:,}")
    cut = found["selection"]
    if cut is not None:
        carried = run.config.carry is not None
        asked = "above a threshold that holds on" if carried else f"{cut['keep']:.2%} asked for"
        run.terminal.line(
            f"kept {cut['kept_tokens']:,} of {cut['tokens']:,} tokens ({asked}), "
            f"{cut['kept_documents']:,} of {cut['documents']:,} documents, {_threshold(run)}"
        )
        run.terminal.line(
            f"selection {cut['selection_id']} in {run.tables.root}; `betr explain DOC_ID` says why one is in"
        )


def _threshold(run: Run) -> str:
    """The cut in words: a soft cut goes by another key than the score, and quotas have a threshold each."""
    selected = run.needs("select")
    what = "score" if selected["mode"] == "hard" else "key"
    by = f" by head {run.config.head}" if run.config.head else ""
    lowest = ", the lowest over all quotas" if run.config.quota else ""
    return f"{what}{by} from {selected['threshold']:.6f}{lowest}"


def explain(config: RunConfig, doc_id: str, *, spark: SparkSession, terminal: Terminal) -> dict[str, Any]:
    """Why a document is in the selections, or isn't: score, rank, cuts, nearest example, the words that carried it."""
    run = Run(config, spark, terminal)
    trained = run.needs("train")
    run.needs("score")
    tables = run.tables
    model = load_trained(run, trained)
    explanation = explaining.explain_document(
        doc_id,
        documents=tables.read(DOCUMENTS),
        scores=tables.read(CORPUS_SCORES).where(F.col("classifier_id") == trained.key),
        selection_runs=tables.read(SELECTION_RUNS).where(F.col("classifier_id") == trained.key),
        selections=tables.read(SELECTIONS),
        labels=tables.read(SAMPLE_LABELS).where(F.col("labels_id") == trained["labels_id"]),
        examples=tables.read(BENCHMARK_EXAMPLES).where(F.col("targets_id") == origins(run, trained.key).wanted.key),
        contributions=lambda text: classifier.feature_contributions(text, model),
        rejected=tables.read(REJECTED_DOCUMENTS),
        duplicates=tables.read(DUPLICATE_DOCUMENTS),
        contaminated=tables.read(CONTAMINATED_DOCUMENTS),
        near_duplicates=tables.read(NEAR_DUPLICATES),
    )
    terminal.console.print(explaining.render_explanation(explanation))
    return explaining.as_json(explanation)


def gaps(
    run: Run, *, count: int, of: str = "corpus", benchmark: str | None = None, out: str | None = None
) -> dict[str, Any]:
    """List the examples of the latest selection that are covered least; out: JSON lines file, seeds for `bare`.

    of: `corpus` or `selection`, what of it an example lacks near it (coverage.least_covered).
    """
    covered = run.needs("cover")
    made_from = origins(run, run.needs("select")["classifier_id"])
    if benchmark is not None and benchmark not in covered["examples"]:
        raise InputError(f"--benchmark {benchmark}: there is none; there are {', '.join(covered['examples'])}")
    mine = run.tables.read(COVERAGE).where(F.col("selection_id") == covered["selection_id"])
    least = coverage.least_covered(mine, count=count, of=of, benchmark=benchmark).collect()
    rows = with_texts(run, made_from.wanted, least)
    _show_gaps(run, rows, of)
    if out is not None:
        seeds = write_seeds(run, made_from.wanted, rows, out)
        run.terminal.line(f"{len(seeds):,} seeds in {out}: `bare run --seeds {out} --task TASK` writes more like them")
    columns = ("example_id", "benchmark", "similarity", "selected_similarity", "sampled", "selected", "text")
    return {
        "selection_id": covered["selection_id"],
        "out": out,
        "gaps": [{name: row[name] for name in columns} for row in rows],
    }


def _show_gaps(run: Run, rows: Sequence[dict[str, Any]], of: str) -> None:
    what = "the ranked sample" if of == "corpus" else "what the selection holds of the sample"
    title = f"examples with the least near them in {what}"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("nearest", justify="right")
    table.add_column("nearest kept", justify="right")
    table.add_column("benchmark")
    table.add_column("example", ratio=1)
    for row in rows:
        near = (f"{row[n]:.3f}" if row[n] is not None else "none" for n in ("similarity", "selected_similarity"))
        table.add_row(*near, row["benchmark"], Text(excerpt(row["text"], TEXT_SHOWN)))
    run.terminal.console.print(table)


def show(
    config: RunConfig, view: str, *, spark: SparkSession, terminal: Terminal, run_id: str | None = None
) -> Any:
    """Print one view of a tables root; returns its rows as plain objects. run_id: of the view `run`."""
    if run_id is not None and view != "run":
        raise InputError(f"`betr show {view}` takes no id, and {run_id!r} was given; `betr show run ID` does")
    tables = Tables(spark, config.tables)
    if not tables.exists(STAGE_RUNS):
        raise InputError(f"{tables.root} holds no tables of betr; `betr run` makes them, or name another --tables root")
    if view == "run":
        found = find_run(tables.read(STAGE_RUNS).collect(), run_id or LATEST, root=tables.root)
        _show_run(found, terminal)
        return found
    rows = VIEWS[view](tables)
    if not rows:
        terminal.line(f"no {view} in {tables.root}")
        return rows
    table = Table(title=f"{view} of {tables.root}", header_style="bold", title_justify="left")
    for name in rows[0]:
        number = isinstance(rows[0][name], int | float)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    terminal.console.print(table)
    return rows


# -- one run: where its time went --------------------------------------------------------------------------------------


def find_run(memory: Sequence[Row], run_id: str, *, root: str) -> dict[str, Any]:
    """What the rows of `stage_runs` tell of one run: every stage that it worked on, with its costs.

    run_id: the id, its beginning, or `latest`. InputError names the latest ids where that isn't one run's.
    """
    memory = sorted(memory, key=lambda row: (row["started"], row["state"] == DONE))
    ids = list(dict.fromkeys(row["run_id"] for row in memory))
    matching = ids[-1:] if run_id == LATEST else [each for each in ids if each.startswith(run_id)]
    if len(matching) != 1:
        problem = f"is how {len(matching)} runs begin" if matching else "is no run that changed anything"
        latest = ", ".join((matching or ids)[-IDS_SHOWN:]) or "none"
        raise InputError(f"{run_id!r} {problem} in {root}; the latest are {latest}: give one, or `latest`")
    (found,) = matching
    stages: dict[str, dict[str, Any]] = {}
    for at, row in enumerate(memory):
        if row["run_id"] == found:
            stages[row["stage"]] = _stage_costs(row, memory[:at])
    seconds = sum(stage["seconds"] for stage in stages.values())
    for stage in stages.values():
        stage["share"] = stage["seconds"] / seconds if seconds else None
    started = min(row["started"] for row in memory if row["run_id"] == found)
    return {"run_id": found, "started": started, "seconds": seconds, "stages": list(stages.values())}


def _stage_costs(row: Row, earlier: Sequence[Row]) -> dict[str, Any]:
    before = {each["state"] for each in earlier if (each["stage"], each["key"]) == (row["stage"], row["key"])
              and (each["run_id"] != row["run_id"] or each["state"] == DONE)}  # fmt: skip
    again = row["state"] == DONE and DONE in before
    state = UNCHANGED if again else RESUMED if row["state"] == DONE and STARTED in before else row["state"]
    found = {"stage": row["stage"], "state": state, **{name: row[name] for name in COSTS}}
    if again:  # what was done then isn't this run's cost
        found |= dict.fromkeys(COSTS[2:]) | {"seconds": 0.0}
    parts = [found[name] for name in PARTS if found[name] is not None]
    found["seconds_other"] = max(0.0, found["seconds"] - sum(parts)) if parts else None
    found["rows_per_second"] = found["rows_out"] / found["seconds"] if found["seconds"] else None
    return found


PARTS = ("seconds_reading", "seconds_compute", "seconds_writing")
COSTS = ("rows_in", "rows_out", "bytes_in", "bytes_out", "files", "seconds", *PARTS, "seconds_commits")


def _show_run(found: dict[str, Any], terminal: Terminal) -> None:
    title = f"run {found['run_id']}, {found['started']:%Y-%m-%d %H:%M:%S} UTC"
    table = Table(title=title, header_style="bold", title_justify="left", box=None, pad_edge=False)
    numbers = ("rows in", "rows out", "MB in", "MB out", "files", "rows/s", "seconds", "share")
    for name in ("stage", "state", *numbers, "reading", "compute", "writing", "(commits)", "other"):
        table.add_column(name, justify="left" if name in ("stage", "state") else "right")
    for stage in found["stages"]:
        sizes = (None if stage[name] is None else stage[name] / 1e6 for name in ("bytes_in", "bytes_out"))
        share = "" if stage["share"] is None else f"{stage['share']:.0%}"
        seconds = (stage[name] for name in (*PARTS, "seconds_commits", "seconds_other"))
        table.add_row(
            stage["stage"], stage["state"], _cell(stage["rows_in"]), _cell(stage["rows_out"]), *map(_decimal, sizes),
            _cell(stage["files"]), _decimal(stage["rows_per_second"]), _decimal(stage["seconds"]), share,
            *map(_decimal, seconds),
        )  # fmt: skip
    terminal.console.print(table)
    terminal.line(
        f"{clock(found['seconds'])} in all. Of a write with its jobs, what our functions in the tasks count is "
        "reading and compute, and the rest is writing; an empty cell isn't told apart (docs/tables.md)"
    )


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _runs(tables: Tables) -> list[dict[str, Any]]:
    rows = tables.read(STAGE_RUNS).where("state <> 'started'").orderBy(F.desc("started")).limit(5 * ROWS_SHOWN)
    columns = ("run_id", "stage", "key", "started", "seconds", "rows_in", "rows_out")
    return [{name: row[name] for name in columns} for row in rows.collect()]


def _selections(tables: Tables) -> list[dict[str, Any]]:
    columns = (
        "selection_id",
        "name",
        "version",
        "mode",
        "keep",
        "threshold",
        "kept_documents",
        "kept_tokens",
        "tokens",
        "classifier_id",
        "created",
    )
    rows = tables.read(SELECTION_RUNS).select(*columns).orderBy("name", "version")
    return [row.asDict() for row in rows.collect()]


def _classifiers(tables: Tables) -> list[dict[str, Any]]:
    columns = (
        "classifier_id",
        "head",
        "origin",
        "encoder_id",
        "training_documents",
        "accuracy",
        "auc",
        "log_loss",
        "rank_correlation",
        "bytes_per_token",
        "sha256",
        "path",
        "registered_as",
    )
    rows = tables.read(CLASSIFIERS).select(*columns).orderBy("classifier_id", "head")
    return [row.asDict() for row in rows.collect()]


def _tables(tables: Tables) -> list[dict[str, Any]]:
    return [
        {
            "table": spec.name,
            "version": tables.version(spec),
            "rows": tables.read(spec).count(),
            "key": ", ".join(spec.key),
        }
        for spec in ALL
        if tables.exists(spec)
    ]


def _rejected(tables: Tables) -> list[dict[str, Any]]:
    """Every reason with its count and one row to look at."""
    rows = (
        tables.read(REJECTED_DOCUMENTS)
        .groupBy("reason")
        .agg(F.count(F.lit(1)).alias("rows"), F.min(F.struct("file", "row", "detail")).alias("first"))
    )
    return [
        {
            "reason": r["reason"],
            "rows": r["rows"],
            "file": r["first"]["file"],
            "row": r["first"]["row"],
            "detail": r["first"]["detail"],
        }
        for r in rows.orderBy(F.desc("rows"), "reason").collect()
    ]


def _duplicates(tables: Tables) -> list[dict[str, Any]]:
    rows = tables.read(DUPLICATE_DOCUMENTS).groupBy("duplicate_of").agg(F.count(F.lit(1)).alias("copies"))
    return [row.asDict() for row in rows.orderBy(F.desc("copies"), "duplicate_of").limit(ROWS_SHOWN).collect()]


def _summary(tables: Tables) -> list[dict[str, Any]]:
    """The latest run of every stage, with what it left."""
    seen: dict[str, dict[str, Any]] = {}
    for row in tables.read(STAGE_RUNS).where("state <> 'started'").orderBy(F.desc("started")).collect():
        if row["stage"] not in seen:
            left = {
                k: v for k, v in json.loads(row["outcome"]).items() if isinstance(v, int | float | str) and k != "path"
            }
            told = ", ".join(f"{name} {_cell(value)}" for name, value in list(left.items())[:6])
            seen[row["stage"]] = {"stage": row["stage"], "run_id": row["run_id"], "rows": row["rows_out"], "left": told}
    return [seen[stage] for stage in STAGE_ORDER if stage in seen]


def _coverage(tables: Tables) -> list[dict[str, Any]]:
    """Each benchmark against the sample, for every selection that has it."""
    rows = tables.read(COVERAGE).groupBy("selection_id", "benchmark").agg(
        F.count(F.lit(1)).alias("examples"),
        F.sum("selected").alias("selected"),
        F.count_if(F.col("selected") > 0).alias("chose"),
        F.count_if(F.col("selected_rank").isNull()).alias("nothing_kept"),
        F.median("similarity").alias("median_similarity"),
    )  # fmt: skip
    return [row.asDict() for row in rows.orderBy("selection_id", "benchmark").collect()]


def _contamination(tables: Tables) -> list[dict[str, Any]]:
    """What the corpus shares with each test set, by search; the most frequent n-gram may be too common to count."""
    hits = tables.read(CONTAMINATION_HITS)
    keys = ["tests_id", "test_set"]
    most = hits.groupBy(*keys, "gram").count().groupBy(*keys).agg(F.max("count").alias("most_frequent"))
    found = hits.groupBy(*keys).agg(
        F.count(F.lit(1)).alias("hits"),
        F.count_distinct("doc_id").alias("documents"),
        F.count_distinct("test_id").alias("tests"),
        F.count_distinct("gram").alias("ngrams"),
    )
    return [row.asDict() for row in found.join(most, keys).orderBy(*keys).collect()]


def _near_duplicates(tables: Tables) -> list[dict[str, Any]]:
    """How many documents each search for near-duplicates leaves out, and how large clusters are."""
    copy = F.col("doc_id") != F.col("kept_doc_id")
    found = tables.read(NEAR_DUPLICATES).groupBy("deduplication_id").agg(
        F.count_distinct("cluster_id").alias("clusters"),
        F.count_if(copy).alias("copies"),
        F.max("documents").alias("largest"),
        F.median(F.when(copy, F.col("similarity"))).alias("median_similarity"),
    )
    return [row.asDict() for row in found.orderBy("deduplication_id").collect()]


def _moved(tables: Tables) -> list[dict[str, Any]]:
    columns = ("selection_id", "compared_with", "measure", "value", "at_most", "breached", "said")
    return [row.asDict() for row in tables.read(DRIFT).select(*columns).orderBy("selection_id", "measure").collect()]


# `run`, one run by its id, is a view of its own kind.
VIEWS = {
    "summary": _summary,
    "runs": _runs,
    "selections": _selections,
    "coverage": _coverage,
    "drift": _moved,
    "contamination": _contamination,
    "near-duplicates": _near_duplicates,
    "classifiers": _classifiers,
    "tables": _tables,
    "rejected": _rejected,
    "duplicates": _duplicates,
}
