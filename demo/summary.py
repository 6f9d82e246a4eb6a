"""What the demo shows at its end: what was kept of each domain, and the ten highest documents with their tasks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curation.files import write_whole
from curation.progress import excerpt

RowLike = Mapping[str, Any]
Closing = dict[str, list[dict[str, Any]]]


def domain_table(documents: DataFrame, selection: DataFrame, scores: DataFrame) -> DataFrame:
    """Each domain's share of the tokens in the corpus and in the selection; lift is the second over the first.

    documents: doc_id, metadata. selection: doc_id. scores: doc_id, tokens. Returns domain, documents, tokens, share,
    kept_documents, kept_tokens, kept_share, lift; shares lie in [0, 1]. A document without a score is left out.
    """
    kept = selection.select("doc_id", F.lit(1).alias("kept"))
    rows = (
        scores.select("doc_id", "tokens")
        .join(documents.select("doc_id", _domain().alias("domain")), "doc_id")
        .join(kept, "doc_id", "left")
    )
    domains = rows.groupBy("domain").agg(
        F.count("doc_id").alias("documents"),
        F.sum("tokens").alias("tokens"),
        F.count("kept").alias("kept_documents"),
        F.coalesce(F.sum(F.when(F.col("kept") == 1, F.col("tokens"))), F.lit(0)).alias("kept_tokens"),
    )
    everything = Window.partitionBy(F.lit(1))  # of one row a domain

    def share(tokens: str) -> Column:
        return F.coalesce(F.try_divide(F.col(tokens), F.sum(tokens).over(everything)), F.lit(0.0))

    shares = domains.withColumn("share", share("tokens")).withColumn("kept_share", share("kept_tokens"))
    return shares.select(
        "domain", "documents", "tokens", "share", "kept_documents", "kept_tokens", "kept_share",
        F.try_divide("kept_share", "share").alias("lift"),
    )  # fmt: skip


def highest(documents: DataFrame, scores: DataFrame, *, count: int = 10) -> DataFrame:
    """The `count` documents with the highest scores: doc_id, domain, text, score; ties by doc_id."""
    top = scores.select("doc_id", "score").orderBy(F.desc("score"), "doc_id").limit(count)
    return documents.select("doc_id", _domain().alias("domain"), "text").join(F.broadcast(top), "doc_id")


def remembered(folder: Path, selection_id: str, find: Callable[[], Closing]) -> Closing:
    """The closing rows of a selection: from `folder` where an earlier run left them, else found and left there."""
    file = folder / f"{selection_id}.json"
    with contextlib.suppress(OSError, ValueError):
        kept: Closing = json.loads(file.read_text(encoding="utf-8"))
        return kept
    found = find()
    write_whole(json.dumps(found), file)
    return found


def render(*, domains: Iterable[RowLike], top: Iterable[RowLike], nearest: Iterable[RowLike], console: Console) -> None:
    """Print both tables. domains and top: rows of the above; nearest: doc_id, benchmark, the example's text."""
    console.print()
    console.print(_domains(domains))
    console.print()
    console.print(_highest(top, {row["doc_id"]: row for row in nearest}))


def _domain() -> Column:
    return F.coalesce(F.col("metadata").getItem("domain"), F.lit("(none)"))


def _domains(rows: Iterable[RowLike]) -> Table:
    title = "What was kept, by domain (the method never saw the domain)"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("domain")
    for name in ("documents", "kept", "tokens in corpus", "in selection", "lift"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: (-(row["lift"] or 0.0), row["domain"])):
        lift = row["lift"] or 0.0
        table.add_row(
            row["domain"],
            f"{row['documents']:,}",
            f"{row['kept_documents']:,}",
            f"{row['share']:.1%}",
            f"{row['kept_share']:.1%}",
            Text(f"{lift:.2f}", style="bold green" if lift > 1 else ""),
        )
    return table


def _highest(rows: Iterable[RowLike], nearest: dict[str, RowLike]) -> Table:
    table = Table(
        title="The ten highest documents, each with the task example that it is nearest to",
        title_justify="left", title_style="bold", show_lines=True,
    )  # fmt: skip
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("document", ratio=1)
    table.add_column("nearest example", ratio=1)
    for row in sorted(rows, key=lambda row: (-row["score"], row["doc_id"])):
        example = nearest.get(row["doc_id"])
        table.add_row(
            f"{row['score']:.4f}",
            Text.assemble((f"{row['domain']}\n", "bold"), excerpt(row["text"], 100)),
            Text.assemble((f"{example['benchmark']}\n", "bold"), excerpt(example["text"], 100)) if example else "",
        )
    return table
