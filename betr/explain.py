"""Why a document is in a selection, or isn't: score, rank, cuts, nearest task example, the words that carried it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from rich.console import Group
from rich.table import Table
from rich.text import Text

from betr.selection import SelectionConfig, config_of, cuts_of, highest_head, key_of
from curation.decontamination import DROPPED
from curation.errors import InputError

FEATURES_SHOWN = 10  # on either side
TEXT_SHOWN = 300  # characters


@dataclass(frozen=True)
class SelectionVerdict:
    """What one selection did with the document: `key` against `threshold` (its own quota's), both of the same kind.

    threshold is None where the quotas left nothing for documents of this kind. head: whose score was cut, where the
    selection names one. shared: what it shares with held-out tests or with another document,
    where the selection looks at that, and what follows.
    """

    selection_id: str
    name: str
    version: int
    mode: str
    selected: bool
    key: float
    threshold: float | None
    quota: str
    head: str = ""
    shared: str = ""


@dataclass(frozen=True)
class NearestExample:
    """The document in the sample: its best rank (None: beyond the k that were kept) and the example that gave it.

    label: 1 where the classifier was taught to keep it.
    """

    best_rank: int | None
    label: int
    similarity: float | None
    example_id: str | None
    benchmark: str | None
    text: str | None


@dataclass(frozen=True)
class Explanation:
    """All that is known of one document. contributions: feature and its share of the log-odds, largest first.

    heads: the score by each head, None where the scores have none.
    """

    doc_id: str
    source: str | None
    text: str
    score: float
    rank: int
    documents: int
    tokens: int
    selections: tuple[SelectionVerdict, ...]
    sampled: NearestExample | None
    contributions: tuple[tuple[str, float], ...]
    heads: Mapping[str, float] | None = None


def rank_of(scores: DataFrame, doc_id: str) -> tuple[int, int]:
    """The document's rank among all by score (1 is the highest, ties by id), and how many there are."""
    return _rank(scores, _scored(scores, doc_id))


def explain_document(
    doc_id: str,
    *,
    documents: DataFrame,
    scores: DataFrame,
    selection_runs: DataFrame,
    selections: DataFrame,
    labels: DataFrame,
    examples: DataFrame,
    contributions: Callable[[str], list[tuple[str, float]]],
    rejected: DataFrame | None = None,
    duplicates: DataFrame | None = None,
    contaminated: DataFrame | None = None,
    near_duplicates: DataFrame | None = None,
) -> Explanation:
    """Explain one document by the tables' rows of one classifier; an id that isn't there raises InputError.

    contributions: text -> [(word or 2-gram, what it adds to the log-odds)], from classifier.feature_contributions.
    rejected, duplicates: asked where the id is unknown. contaminated, near_duplicates: what a
    selection may leave out.
    """
    mine = F.col("doc_id") == F.lit(doc_id)
    document = documents.where(mine).select("text", "source", "metadata").first()
    if document is None:
        raise InputError(_not_there(doc_id, rejected, duplicates))
    scored = _scored(scores, doc_id)
    rank, total = _rank(scores, scored)
    return Explanation(
        doc_id=doc_id,
        source=document["source"],
        text=document["text"],
        score=scored["score"],
        rank=rank,
        documents=total,
        tokens=scored["tokens"],
        selections=verdicts_on(
            scores.where(mine), selection_runs, selections.where(mine), document, scored["heads"],
            _by_id(contaminated, "decontamination_id", doc_id), _by_id(near_duplicates, "deduplication_id", doc_id),
        ),
        sampled=_nearest(labels.where(mine).first(), examples),
        contributions=tuple(sorted(contributions(document["text"]), key=lambda c: (-abs(c[1]), c[0]))),
        heads=scored["heads"],
    )


def as_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as plain objects, for --json."""
    return dataclasses.asdict(explanation)


def render_explanation(explanation: Explanation) -> Group:
    """The explanation as a person at the terminal reads it."""
    e = explanation
    parts: list[Text | Table] = [
        Text(f"document {e.doc_id}", style="bold"),
        Text(f"source {e.source}, {e.tokens:,} tokens" if e.source else f"{e.tokens:,} tokens"),
        Text(_shorten(e.text), style="dim"),
        Text(f"score {e.score:.6f}: rank {e.rank:,} of {e.documents:,} (top {e.rank / e.documents:.2%})"),
    ]
    if e.heads:
        by_score = sorted(e.heads.items(), key=lambda head: (-head[1], head[0]))
        parts.append(Text("by head: " + ", ".join(f"{name} {score:.6f}" for name, score in by_score)))
    parts.append(Text(_sample_sentence(e.sampled)))
    if e.sampled is not None and e.sampled.text is not None:
        parts.append(Text(_shorten(e.sampled.text), style="dim"))
    parts += [_selection_table(e.selections) if e.selections else Text("no selection of these scores has been made")]
    parts += [_feature_table(e.contributions) if e.contributions else Text("no word of it is known to the classifier")]
    parts += [Text(f"{v.name}@{v.version}: {v.shared}") for v in e.selections if v.shared]
    return Group(*parts)


def _scored(scores: DataFrame, doc_id: str) -> Row:
    row = scores.where(F.col("doc_id") == F.lit(doc_id)).select("doc_id", "score", "tokens", "heads").first()
    if row is None:
        raise InputError(f"document {doc_id!r} has no score by this classifier yet: run `betr score` first")
    return row


def _rank(scores: DataFrame, scored: Row) -> tuple[int, int]:
    score, doc_id = F.lit(scored["score"]), F.lit(scored["doc_id"])
    before = (F.col("score") > score) | ((F.col("score") == score) & (F.col("doc_id") < doc_id))
    above, total = scores.agg(F.count_if(before), F.count(F.lit(1))).collect()[0]
    return above + 1, total


def verdicts_on(
    scored: DataFrame, runs: DataFrame, selected: DataFrame, document: Row, heads: Mapping[str, float] | None,
    judged: Mapping[str, Row], clustered: Mapping[str, Row],
) -> tuple[SelectionVerdict, ...]:
    """What selections of one classifier's scores, rows of SELECTION_RUNS, did with one document, by name and version.

    scored: the document's row of scores; selected: its rows of SELECTIONS; document: source, metadata; judged,
    clustered: its rows by decontamination_id and deduplication_id.
    """
    chosen = {row["selection_id"] for row in selected.select("selection_id").collect()}
    made = [(run, config_of(run["parameters"])) for run in runs.orderBy("name", "version").collect()]
    if not made:
        return ()
    keys = scored.select(*(key_of(config).alias(run["selection_id"]) for run, config in made)).collect()[0]
    verdicts = []
    for run, config in made:
        cuts = cuts_of(run["parameters"])
        value = _quota_value(config, document, heads)
        cut = cuts.get(value, cuts.get(""))
        verdicts.append(SelectionVerdict(
            selection_id=run["selection_id"],
            name=run["name"],
            version=run["version"],
            mode=run["mode"],
            selected=run["selection_id"] in chosen,
            key=keys[run["selection_id"]],
            threshold=None if cut is None else cut.key,
            quota=f"{config.quota_field}={value}" if value in config.shares else "",
            head=config.head or "",
            shared=_shared(judged.get(config.decontamination_id or ""), clustered.get(config.deduplication_id or "")),
        ))
    return tuple(verdicts)


def _by_id(rows: DataFrame | None, column: str, doc_id: str) -> dict[str, Row]:
    """The document's row by the id in this column."""
    return {} if rows is None else {row[column]: row for row in rows.where(F.col("doc_id") == doc_id).collect()}


def _shared(judged: Row | None, clustered: Row | None) -> str:
    """What a deduplication and a decontamination left of the document, in words; empty where they found nothing."""
    if clustered is not None and clustered["kept_doc_id"] != clustered["doc_id"]:
        near = clustered["similarity"]
        how = "by way of others" if near is None else f"Jaccard similarity {near:.2f}"
        return f"left out: a near-duplicate of {clustered['kept_doc_id']} ({how}), which stays"
    if judged is None:
        return ""
    what = f"it shares {judged['hits']:,} runs of words with {', '.join(judged['test_sets'])}"
    if judged["verdict"] == DROPPED:
        return f"dropped: {what} ({judged['reason'].replace('_', ' ')})"
    return f"cut to {judged['kept_characters'] / judged['characters']:.0%}: {what}"


def _quota_value(config: SelectionConfig, document: Row, heads: Mapping[str, float] | None) -> str:
    if config.quota_field == "head":
        return highest_head(heads) if heads else ""
    metadata = document["metadata"] or {}
    values = [
        (document["source"] if field == "source" else metadata.get(field.removeprefix("metadata."))) or ""
        for field in config.quota_fields
    ]
    return ",".join(values) if all(values) else ""


def _nearest(label: Row | None, examples: DataFrame) -> NearestExample | None:
    if label is None:
        return None
    example = None
    if label["nearest_example_id"] is not None:
        wanted = F.col("example_id") == F.lit(label["nearest_example_id"])
        example = examples.where(wanted).select("benchmark", "text").first()
    return NearestExample(
        best_rank=label["best_rank"],
        label=label["label"],
        similarity=label["similarity"],
        example_id=label["nearest_example_id"],
        benchmark=example["benchmark"] if example else None,
        text=example["text"] if example else None,
    )


def _not_there(doc_id: str, rejected: DataFrame | None, duplicates: DataFrame | None) -> str:
    """Why there is no such document, as far as the import has recorded it."""
    if duplicates is not None:
        copy = duplicates.where(F.col("doc_id") == F.lit(doc_id)).orderBy("file", "row").first()
        if copy is not None:
            return (
                f"document {doc_id!r} ({copy['file']} row {copy['row']}) is a duplicate of {copy['duplicate_of']!r}, "
                "which was kept in its place: explain that one"
            )
    if rejected is not None:
        bad = rejected.where(F.col("detail").contains(f"'{doc_id}'")).orderBy("file", "row").first()
        if bad is not None:
            return (
                f"there is no document {doc_id!r}; {bad['file']} row {bad['row']} was rejected: {bad['reason']} "
                f"({bad['detail']}); correct it and import its file again"
            )
    return f"there is no document {doc_id!r} in the table documents; ids are in its column doc_id"


def _sample_sentence(sampled: NearestExample | None) -> str:
    if sampled is None:
        return "not in the sample that was ranked"
    taught = "as one to keep" if sampled.label else "as one to drop"
    if sampled.example_id is None:
        return f"in the sample, taught to the classifier {taught}: no task example ranks it among its nearest"
    benchmark = f" of {sampled.benchmark}" if sampled.benchmark else ""
    return (
        f"in the sample, taught to the classifier {taught}: rank {sampled.best_rank:,} for the example "
        f"{sampled.example_id}{benchmark}, similarity {sampled.similarity:.4f}"
    )


def _selection_table(verdicts: tuple[SelectionVerdict, ...]) -> Table:
    table = Table(title="selections", title_justify="left", header_style="bold")
    for name in ("selection", "version", "mode", "quota", "verdict"):
        table.add_column(name)
    table.add_column("key", justify="right")
    table.add_column("threshold", justify="right")
    for v in verdicts:
        verdict = "in" if v.selected else "out"
        threshold = "none" if v.threshold is None else f"{v.threshold:.6f}"
        mode = f"{v.mode}, head {v.head}" if v.head else v.mode
        table.add_row(v.name, str(v.version), mode, v.quota, verdict, f"{v.key:.6f}", threshold)
    return table


def _feature_table(contributions: tuple[tuple[str, float], ...]) -> Table:
    table = Table(title="what carried the score (added to its log-odds)", title_justify="left", header_style="bold")
    for name in ("for", "against"):
        table.add_column(name)
        table.add_column("", justify="right")
    speak_for = [c for c in contributions if c[1] > 0][:FEATURES_SHOWN]
    against = [c for c in contributions if c[1] < 0][:FEATURES_SHOWN]
    for i in range(max(len(speak_for), len(against))):
        cells = [(Text(c[i][0]), Text(f"{c[i][1]:+.4f}")) if i < len(c) else ("", "") for c in (speak_for, against)]
        table.add_row(*cells[0], *cells[1])
    return table


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_SHOWN else line[: TEXT_SHOWN - 1] + "…"
