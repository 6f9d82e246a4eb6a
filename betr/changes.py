"""What has changed from a selection to the next one: rows that came, work that was done, both cuts, both coverages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyspark.sql import functions as F

from betr import corpus, coverage, stages
from betr.run import STAGE_ORDER, Outcome, Run
from betr.tables import CORPUS_SCORES, SELECTION_RUNS, SELECTIONS

SOURCES = 10
_MEDIAN = coverage.QUANTILES.index(0.5)
_OF_A_SELECTION = ("cover", "watch")  # stages whose result names the selection that it is of


@dataclass(frozen=True)
class Cut:
    """A selection in figures. version: under its name; threshold: the lowest score (key) kept."""

    selection_id: str
    version: int
    created: str
    documents: int
    tokens: int
    kept_documents: int
    kept_tokens: int
    threshold: float


@dataclass(frozen=True)
class Arrived:
    """Rows of the imports between two selections. kept: of their documents, by the later one.

    sources: source -> (documents, kept), the largest SOURCES of them.
    """

    files: int
    rows: int
    rejected: dict[str, int]
    duplicates: int
    documents: int
    kept: int
    sources: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class StageWork:
    """What a stage did between two selections; a stage that isn't listed found all of its work done."""

    stage: str
    rows_in: int
    rows_out: int
    seconds: float


@dataclass(frozen=True)
class CoverageChange:
    """Medians over a benchmark's examples: similarity of the nearest sampled document and of the nearest kept one."""

    benchmark: str
    examples: int
    before: float | None
    now: float | None
    kept_before: float | None
    kept_now: float | None


@dataclass(frozen=True)
class Changes:
    """A selection beside the one that its drift was measured against; measures: as the stage `watch` left them."""

    before: Cut
    now: Cut
    arrived: Arrived
    work: tuple[StageWork, ...]
    coverage: tuple[CoverageChange, ...]
    measures: tuple[dict[str, Any], ...]

    @property
    def breached(self) -> tuple[dict[str, Any], ...]:
        return tuple(each for each in self.measures if each["breached"])

    @property
    def unchanged(self) -> tuple[str, ...]:
        """Stages that had nothing to do."""
        mine = {each.stage for each in self.work}
        optional = {"deduplicate", "decontaminate"}
        return tuple(stage for stage in STAGE_ORDER if stage not in mine | optional)


def changes_of(run: Run, selected: Outcome) -> Changes | None:
    """What changed from the selection before to this one; None where `watch` found none before it."""
    watched = run.before("watch", where=lambda each: each["selection_id"] == selected.key)
    last = None if watched is None else run.result("select", watched["compared_with"])
    if watched is None or last is None:
        return None
    came = [each for each in corpus.imports(run) if run.began(last) < run.began(each) < run.began(selected)]
    rejected, duplicates = corpus.rejections(came), sum(each["duplicates"] for each in came)
    chunks = [chunk for each in came for chunk in each["chunks"]]
    documents = sum(count for each in came for count, _ in each["chunks"].values())
    sources = _kept(run, selected, chunks)
    return Changes(
        before=_cut(run, last),
        now=_cut(run, selected),
        arrived=Arrived(
            sum(each["files"] for each in came), documents + duplicates + sum(rejected.values()), rejected, duplicates,
            documents, sum(kept for _, kept in sources.values()), dict(list(sources.items())[:SOURCES]),
        ),
        work=_work(run, last, selected),
        coverage=_coverage(stages.cover_of(run, last), stages.cover_of(run, selected)),
        measures=tuple(watched["measures"]),
    )  # fmt: skip


def _cut(run: Run, selected: Outcome) -> Cut:
    row = run.tables.read(SELECTION_RUNS).where(F.col("selection_id") == selected.key).first()
    assert row is not None
    return Cut(**{name: row[name] for name in Cut.__dataclass_fields__})


def _kept(run: Run, selected: Outcome, chunks: list[str]) -> dict[str, tuple[int, int]]:
    """source -> (documents of these chunks, those of them in the selection), the largest first; reads their scores."""
    if not chunks:
        return {}
    scores = run.tables.read(CORPUS_SCORES).where(
        (F.col("classifier_id") == selected["classifier_id"]) & F.col("chunk").isin(*chunks)
    )
    kept = run.tables.read(SELECTIONS).where(F.col("selection_id") == selected.key)
    rows = scores.join(kept.select("doc_id", F.lit(1).alias("kept")), "doc_id", "left")
    counted = rows.groupBy("source").agg(F.count(F.lit(1)).alias("documents"), F.count("kept").alias("kept")).collect()
    found = sorted(counted, key=lambda row: (-row["documents"], row["source"] or ""))
    return {row["source"] or "(none)": (row["documents"], row["kept"]) for row in found}


def _work(run: Run, last: Outcome, selected: Outcome) -> tuple[StageWork, ...]:
    found: dict[str, StageWork] = {}
    for (stage, key), row in run.finished().items():
        of = run.result(stage, key) if stage in _OF_A_SELECTION else None
        if of is not None:
            mine = of["selection_id"] == selected.key
        else:
            mine = run.began(last) < row["started"] <= run.began(selected)
        if mine:
            was = found.get(stage, StageWork(stage, 0, 0, 0.0))
            found[stage] = StageWork(
                stage, was.rows_in + (row["rows_in"] or 0), was.rows_out + (row["rows_out"] or 0),
                was.seconds + row["seconds"],
            )  # fmt: skip
    return tuple(found[stage] for stage in STAGE_ORDER if stage in found)


def _coverage(before: Outcome | None, now: Outcome | None) -> tuple[CoverageChange, ...]:
    if before is None or now is None:
        return ()
    was, is_ = before["examples"], now["examples"]

    def median(values: dict[str, Any] | None, name: str) -> float | None:
        return values[name][_MEDIAN] if values is not None and values[name] else None

    return tuple(
        CoverageChange(
            name, each["examples"],
            *(median(side, which) for which in ("quantiles", "selected_quantiles") for side in (was.get(name), each)),
        )
        for name, each in is_.items()
    )  # fmt: skip
