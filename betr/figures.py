"""What a selection's page says, found in the tables: counts, scores, sources, coverage, documents, validation, costs.

Everything is counted by Spark; to the driver come histograms, a row a source or benchmark, and a few documents.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from betr import classifier, corpus, coverage, stages
from betr.changes import Changes, changes_of
from betr.coverage import BenchmarkCoverage
from betr.run import STAGE_ORDER, Run
from betr.selection import (
    BIN,
    EDGE,
    SelectionConfig,
    config_of,
    cuts_of,
    log_odds_bin,
    score_of,
    with_value,
    with_verdict,
)
from betr.tables import ALL, COVERAGE, DOCUMENTS, SAMPLE_LABELS, SELECTION_RUNS
from curation import sampling
from curation.progress import excerpt
from curation.statistics import wilson

OTHER_CUTS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
VALUES = 20  # of a source or field: the largest; the others together
DOCUMENTS_SHOWN = 5  # of each place
WINDOW = 2_000  # documents next to a place that those shown are from: sampled ones first, whose nearest task is known
WORDS_SHOWN = 5
GAPS_SHOWN = 10
TEXT_SHOWN = 280  # characters
CALIBRATION_BINS = 10
PLACES = ("at the top", "at the cut", "just below the cut")

Totals = tuple[int, int, int, int]


@dataclass(frozen=True)
class ScoreBin:
    """Documents and tokens whose score's log-odds lie in [low, high); of them kept."""

    low: float
    high: float
    documents: int
    tokens: int
    kept_documents: int
    kept_tokens: int


@dataclass(frozen=True)
class OtherCut:
    """What a hard cut at this share of the tokens would keep, to the width of a bin."""

    keep: float
    score: float
    documents: int
    tokens: int


@dataclass(frozen=True)
class Stratum:
    """A source, or a value of a metadata field, in the corpus and in what was kept; shares are of the tokens."""

    value: str
    documents: int
    tokens: int
    kept_documents: int
    kept_tokens: int
    share: float
    kept_share: float

    @property
    def lift(self) -> float | None:
        return self.kept_share / self.share if self.share else None


@dataclass(frozen=True)
class ShownDocument:
    """A document to look at. example, benchmark, similarity: the nearest task example; None beyond the sample.

    words: what added most to its log-odds, and how much.
    """

    place: str
    doc_id: str
    source: str | None
    score: float
    tokens: int
    text: str
    benchmark: str | None
    example: str | None
    similarity: float | None
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ShownGap:
    """An example with little near it, and its nearest document in the sample."""

    benchmark: str
    similarity: float | None
    selected_similarity: float | None
    text: str
    nearest: str | None


@dataclass(frozen=True)
class CalibrationBin:
    """Held-out documents with scores in one bin: how many, their mean score, and how many of them are positive.

    share, low, high: of positives with both classes weighing the same, as in training; Wilson's interval at 95%.
    """

    documents: int
    score: float
    positives: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class SelectionFigures:
    """All that the page of one selection says. by: field -> its strata, `source` first. costs: of all runs."""

    selection: dict[str, Any]
    parameters: dict[str, Any]
    config: SelectionConfig
    benchmarks: dict[str, int]
    imported: dict[str, int]
    rejected: dict[str, int]
    sampled: int
    positives: int
    bins: tuple[ScoreBin, ...]
    other_cuts: tuple[OtherCut, ...]
    by: dict[str, tuple[Stratum, ...]]
    coverage: tuple[BenchmarkCoverage, ...]
    gaps: tuple[ShownGap, ...]
    documents: tuple[ShownDocument, ...]
    contamination: dict[str, Any] | None  # of the search for held-out tests, where the selection goes by one
    near_duplicates: dict[str, Any] | None  # of the search for them, the same
    classifier: dict[str, Any]
    calibration: tuple[CalibrationBin, ...]
    changes: Changes | None  # since the selection before, where there is one by the same settings
    costs: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    versions: dict[str, str]
    tables: dict[str, int]


def gather(run: Run, *, by: Sequence[str] = ()) -> SelectionFigures:
    """The figures of the selection that now holds; its `cover` must have run. by: metadata to count by besides."""
    selected, covered = run.needs("select"), run.needs("cover")
    made_from = stages.origins(run, selected["classifier_id"])
    read = run.tables.read
    row = read(SELECTION_RUNS).where(F.col("selection_id") == selected.key).first()
    assert row is not None
    config, parameters = config_of(row["parameters"]), json.loads(row["parameters"])
    scores = stages.scores_to_cut(run, selected["classifier_id"], config)
    documents = read(DOCUMENTS).select("doc_id", "metadata")
    judged = with_verdict(scores, config, cuts_of(row["parameters"]), documents=documents)
    judged = judged.withColumn("by_score", score_of(config))
    coverage_rows = read(COVERAGE).where(F.col("selection_id") == selected.key)
    bins = score_bins(judged)
    totals = totals_of(bins)
    imports = run.all("import")
    return SelectionFigures(
        selection={**selected.values, "selection_id": selected.key, "created": row["created"], "run_id": row["run_id"]},
        parameters=parameters,
        config=config,
        benchmarks=made_from.wanted["examples"],
        imported={
            "files": sum(each["files"] for each in imports),
            "duplicates": sum(each["duplicates"] for each in imports),
            "documents": sum(count for count, _ in corpus.chunks(run).values()),
            "bytes": sum(size for _, size in corpus.chunks(run).values()),
        },
        rejected=corpus.rejections(imports),
        sampled=made_from.drawn["rows"],
        positives=made_from.ranked["positives"],
        bins=bins,
        other_cuts=other_cuts(bins),
        by={
            field: strata(with_value(judged, field, documents), F.col("value"), totals=totals)
            for field in ("source", *by)
        },
        coverage=tuple(_as_coverage(each) for each in covered["examples"].values()),
        gaps=_gaps(run, made_from, coverage_rows),
        documents=_documents(run, made_from, judged),
        contamination=_found(run, "decontaminate", config.decontamination_id),
        near_duplicates=_found(run, "deduplicate", config.deduplication_id),
        classifier={"classifier_id": made_from.trained.key, **made_from.trained.values},
        calibration=calibration(_held_out(run, made_from, scores)),
        changes=changes_of(run, selected),
        costs=_costs(run),
        settings=run.settings_of(selected) | {"tables": run.tables.root},
        versions=_versions(run, made_from),
        tables={spec.name: run.tables.version(spec) or 0 for spec in ALL if run.tables.exists(spec)},
    )


# -- scores ------------------------------------------------------------------------------------------------------------


def score_bins(judged: DataFrame) -> tuple[ScoreBin, ...]:
    """A histogram over the log-odds of `by_score`, ascending, without empty bins. judged: by_score, tokens, kept."""
    at = log_odds_bin(F.col("by_score"))
    counted = judged.groupBy(at.alias("bin")).agg(*_sums()).collect()
    return tuple(
        ScoreBin(round(row["bin"] * BIN - EDGE, 6), round((row["bin"] + 1) * BIN - EDGE, 6), *row[1:])
        for row in sorted(counted, key=lambda row: row["bin"])
    )


def _sums() -> tuple[Column, ...]:
    return (
        F.count(F.lit(1)).alias("documents"),
        F.sum("tokens").alias("tokens"),
        F.count_if(F.col("kept")).alias("kept_documents"),
        F.coalesce(F.sum(F.when(F.col("kept"), F.col("tokens"))), F.lit(0)).alias("kept_tokens"),
    )


def other_cuts(bins: Sequence[ScoreBin], shares: Iterable[float] = OTHER_CUTS) -> tuple[OtherCut, ...]:
    """What hard cuts at these shares of the tokens would keep: whole bins from the top, and of the last one a part."""
    total = sum(each.tokens for each in bins)
    found = []
    for share in shares:
        left, documents, tokens = share * total, 0.0, 0.0
        odds = math.inf
        for each in reversed(bins):
            part = min(1.0, left / each.tokens) if each.tokens else 1.0
            documents, tokens, left = documents + part * each.documents, tokens + part * each.tokens, left - each.tokens
            odds = each.high - part * (each.high - each.low)
            if left <= 0:
                break
        if bins:
            found.append(OtherCut(share, 1 / (1 + math.exp(-odds)), round(documents), round(tokens)))
    return tuple(found)


# -- sources -----------------------------------------------------------------------------------------------------------


def strata(judged: DataFrame, value: Column, *, totals: Totals, most: int = VALUES) -> tuple[Stratum, ...]:
    """The largest values by tokens with what was kept of each, the largest first; the others together as `others`."""
    named = judged.groupBy(value.alias("value")).agg(*_sums()).orderBy(F.desc("tokens"), "value").limit(most).collect()
    rows: list[tuple[Any, ...]] = [(row["value"] or "(none)", *row[1:]) for row in named]
    rest = [whole - sum(row[i] for row in named) for i, whole in enumerate(totals, start=1)]
    if rest[0]:
        rows.append(("others", *rest))
    _, tokens, _, kept_tokens = totals
    return tuple(
        Stratum(value, documents, here, kept, kept_here, here / max(1, tokens), kept_here / max(1, kept_tokens))
        for value, documents, here, kept, kept_here in rows
    )


def totals_of(bins: Iterable[ScoreBin]) -> Totals:
    """Documents, tokens, and both of what was kept, in all."""
    sums = [(each.documents, each.tokens, each.kept_documents, each.kept_tokens) for each in bins]
    documents, tokens, kept, kept_tokens = (sum(column) for column in zip(*sums, strict=True)) if sums else (0, 0, 0, 0)
    return documents, tokens, kept, kept_tokens


# -- coverage ----------------------------------------------------------------------------------------------------------


def _as_coverage(values: dict[str, Any]) -> BenchmarkCoverage:
    lists: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
    return BenchmarkCoverage(**lists)


def _gaps(run: Run, made_from: stages.Origins, covered: DataFrame) -> tuple[ShownGap, ...]:
    least = coverage.least_covered(covered, count=GAPS_SHOWN).collect()
    ids = [row["example_id"] for row in least]
    wanted = stages.targets(run, made_from.wanted).where(F.col("example_id").isin(ids)).select("example_id", "text")
    texts: dict[str, str] = dict(wanted.collect())
    near = [row["nearest_doc_id"] for row in least if row["nearest_doc_id"] is not None]
    sampled = stages.sample(run, made_from.drawn).where(F.col("doc_id").isin(near)).select("doc_id", "text")
    nearest = {doc_id: excerpt(text, TEXT_SHOWN) for doc_id, text in sampled.collect()}
    return tuple(
        ShownGap(row["benchmark"], row["similarity"], row["selected_similarity"],
                 excerpt(texts[row["example_id"]], TEXT_SHOWN), nearest.get(row["nearest_doc_id"]))
        for row in least
    )  # fmt: skip


def _found(run: Run, stage: str, key: str | None) -> dict[str, Any] | None:
    found = run.result(stage, key) if key is not None else None
    return found.values if found is not None else None


# -- documents ---------------------------------------------------------------------------------------------------------


def _documents(run: Run, made_from: stages.Origins, judged: DataFrame) -> tuple[ShownDocument, ...]:
    """Some documents at the top, at the cut and below it: sampled ones first, since their nearest task is known."""
    last_first = (F.asc("key"), F.desc("doc_id"))
    best_first = (F.desc("key"), F.asc("doc_id"))
    wanted = (
        (judged.where("kept"), best_first),
        (judged.where("kept"), last_first),
        (judged.where("not kept"), best_first),
    )
    labels = run.tables.read(SAMPLE_LABELS).where(F.col("labels_id") == made_from.labels_id)
    labels = labels.where(F.col("nearest_example_id").isNotNull()).select("doc_id", "nearest_example_id", "similarity")
    found: dict[str, tuple[str, int, Any]] = {}
    for place, (rows, order) in zip(PLACES, wanted, strict=True):
        near = rows.orderBy(*order).limit(WINDOW).select("doc_id", "chunk", "source", "tokens", "by_score", "key")
        first = near.join(labels, "doc_id", "left").orderBy(F.col("nearest_example_id").isNull(), *order)
        for number, row in enumerate(first.limit(DOCUMENTS_SHOWN).collect()):
            found.setdefault(row["doc_id"], (place, number, row))
    chunks = {row["chunk"] for _, _, row in found.values()}
    mine = F.col("chunk").isin(*chunks) & F.col("doc_id").isin(*found)  # a chunk is a partition: no other is read
    texts: dict[str, str] = dict(run.tables.read(DOCUMENTS).where(mine).select("doc_id", "text").collect())
    examples = {row["nearest_example_id"] for _, _, row in found.values()} - {None}
    tasks = stages.targets(run, made_from.wanted).where(F.col("example_id").isin(*examples))
    by_id = {row["example_id"]: row for row in tasks.select("example_id", "benchmark", "text").collect()}
    model = stages.load_trained(run, made_from.trained)
    shown = []
    for place, _, row in sorted(found.values(), key=lambda each: (PLACES.index(each[0]), each[1])):
        example = by_id.get(row["nearest_example_id"])
        carried = [each for each in classifier.feature_contributions(texts[row["doc_id"]], model) if each[1] > 0]
        shown.append(ShownDocument(
            place=place,
            doc_id=row["doc_id"],
            source=row["source"],
            score=row["by_score"],
            tokens=row["tokens"],
            text=excerpt(texts[row["doc_id"]], TEXT_SHOWN),
            benchmark=example["benchmark"] if example else None,
            example=excerpt(example["text"], TEXT_SHOWN) if example else None,
            similarity=row["similarity"] if example else None,
            words=tuple(carried[:WORDS_SHOWN]),
        ))  # fmt: skip
    return tuple(shown)


# -- the classifier ----------------------------------------------------------------------------------------------------


def _held_out(run: Run, made_from: stages.Origins, scores: DataFrame) -> DataFrame:
    """score, label of the documents that the classifier was validated on."""
    labels = run.tables.read(SAMPLE_LABELS).where(F.col("labels_id") == made_from.labels_id)
    seed = run.settings_of(made_from.trained)["seed"]
    held_out = labels.where(stages.is_held_out(seed)).select("doc_id", "label")
    order = sampling.hash_fraction("doc_id", seed, "validation order")
    few = held_out.orderBy(order, "doc_id").limit(stages.VALIDATION_MOST)
    return scores.select("doc_id", "score").join(F.broadcast(few), "doc_id").select("score", "label")


def calibration(held_out: DataFrame, *, bins: int = CALIBRATION_BINS) -> tuple[CalibrationBin, ...]:
    """Mean score against share of positives, in bins of equal width. held_out: score, label (0, 1).

    The classifier learned from as many negatives as positives; here negatives are as frequent as in the sample. So
    negatives weigh as much as positives do in sum, and a calibrated score is the share that it meets.
    """
    at = F.least(F.floor(F.col("score") * bins), F.lit(bins - 1)).cast("int")
    rows = held_out.groupBy(at.alias("bin")).agg(
        F.count(F.lit(1)).alias("documents"), F.avg("score").alias("score"), F.sum("label").alias("positives")
    )
    counted = sorted(rows.collect(), key=lambda row: row["bin"])
    positives = sum(row["positives"] for row in counted)
    negatives = sum(row["documents"] for row in counted) - positives
    if not positives or not negatives:
        return ()
    weight = positives / negatives

    def balanced(share: float) -> float:
        return share / (share + (1 - share) * weight) if share else 0.0

    return tuple(
        CalibrationBin(
            row["documents"], row["score"], row["positives"], balanced(row["positives"] / row["documents"]),
            *map(balanced, wilson(row["positives"], row["documents"])),
        )
        for row in counted
    )  # fmt: skip


# -- costs and versions ------------------------------------------------------------------------------------------------


def _costs(run: Run) -> tuple[dict[str, Any], ...]:
    """Every stage's finished runs on this root, with what they took in all."""
    by_stage: dict[str, dict[str, Any]] = {}
    for row in run.finished().values():
        total = by_stage.setdefault(row["stage"], {"stage": row["stage"], "runs": 0, "seconds": 0.0, "rows_out": 0})
        total["runs"] += 1
        total["seconds"] += row["seconds"]
        total["rows_out"] += row["rows_out"] or 0
    return tuple(by_stage[stage] for stage in STAGE_ORDER if stage in by_stage)


def _versions(run: Run, made_from: stages.Origins) -> dict[str, str]:
    packages = {}
    for name in ("betr-bare", "pyspark", "delta-spark", "numpy", "pyarrow"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "encoder": made_from.embedded["encoder_id"],
        "classifier file, SHA-256": made_from.trained["sha256"],
        **packages,
    }


def as_json(figures: SelectionFigures) -> dict[str, Any]:
    """The figures as plain objects."""
    return dataclasses.asdict(figures)
