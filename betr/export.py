"""A selection's documents as shards for a trainer (`betr export`): which records they are, and their card."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from betr import contamination
from betr.run import Run
from betr.selection import config_of, find_selection, score_of
from betr.stages import scores_to_cut
from betr.tables import DOCUMENTS, SELECTION_RUNS, SELECTIONS
from curation.export import ExportConfig, export, plain_card

VALUES = 20


def records(run: Run, selected: Row) -> DataFrame:
    """The documents of a selection, a row of SELECTION_RUNS, as a trainer gets them.

    id, text, source, license, tokens, score (the one that was cut), weight, metadata, and `bytes`, which only counts.
    A document that the tables have lost has no text here, and the export refuses it. One that is cut for held-out tests
    is a record a piece.
    """
    tables, config = run.tables, config_of(selected["parameters"])
    kept = tables.read(SELECTIONS).where(F.col("selection_id") == selected["selection_id"]).select("doc_id", "weight")
    score = score_of(config).alias("score")
    scores = scores_to_cut(run, selected["classifier_id"], config)
    documents = tables.read(DOCUMENTS).select("doc_id", "text", "source", "license", "metadata", "bytes")
    joined = kept.join(scores.select("doc_id", score, "tokens"), "doc_id", "left").join(documents, "doc_id", "left")
    carried = ("source", "license", "tokens", "score", "weight", "metadata", "bytes")
    rows = joined.select(F.col("doc_id").alias("id"), "text", *carried)
    return rows if config.decontamination_id is None else contamination.in_pieces(run, rows, config.decontamination_id)


def chosen(run: Run, wanted: str | None) -> Row:
    """The row of SELECTION_RUNS that is meant, as `find_selection` takes it; None: the latest."""
    name = wanted if wanted is not None else run.needs("select").key
    return find_selection(run.tables.read(SELECTION_RUNS).collect(), name, root=run.tables.root)


def write(run: Run, config: ExportConfig, out: str, *, selection: str | None = None) -> dict[str, Any]:
    """Export a selection, as `find_selection` takes it, by default the latest."""
    selected = chosen(run, selection)
    found = records(run, selected)
    named = f"{selected['name']}@{selected['version']}"

    def card(manifest: Mapping[str, Any]) -> str:
        about = "\n\n".join(_shares(found, field) for field in ("source", "license"))
        return plain_card(manifest, title=f"Selection {named}", about=about)

    return export(
        found,
        config,
        out,
        origin={"selection_id": selected["selection_id"]},
        read=lambda: {"tables": run.tables.root, "selection": named, "versions": run.tables.versions_read},
        card=card,
        terminal=run.terminal,
    )


def _shares(found: DataFrame, field: str) -> str:
    """The field's values with the most tokens, as a table of Markdown; of distinct documents."""
    counted = found.groupBy(field).agg(F.count(F.lit(1)).alias("documents"), F.sum("tokens").alias("tokens"))
    rows = counted.orderBy(F.desc("tokens"), F.col(field).asc_nulls_last()).limit(VALUES).collect()
    lines = [f"| {_cell(row[field])} | {row['documents']:,} | {row['tokens']:,} |" for row in rows]
    return "\n".join([f"| {field} | documents | tokens |", "|---|---:|---:|", *lines])


def _cell(value: str | None) -> str:
    return "(none)" if value is None else html.escape(" ".join(value.split())).replace("|", "\\|")
