"""Two selections side by side: what came in, what went out, by source and by metadata. Reads no text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from rich.table import Table

from betr.run import Run
from betr.selection import find_selection, with_value
from betr.tables import CORPUS_SCORES, DOCUMENTS, SELECTION_RUNS, SELECTIONS

VALUES = 20
SIDES = ("both", "only_a", "only_b")


@dataclass(frozen=True)
class Side:
    """Documents and tokens that both selections hold, or one alone."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class Group:
    """A source, or a value of a metadata field, with its documents in both selections, in A alone and in B alone."""

    value: str
    both: Side
    only_a: Side
    only_b: Side


@dataclass(frozen=True)
class Difference:
    """jaccard: documents in both over those in either; 1 for two equal selections. by: field -> its largest groups."""

    a: str
    b: str
    both: Side
    only_a: Side
    only_b: Side
    by: dict[str, tuple[Group, ...]]

    @property
    def jaccard(self) -> float | None:
        either = self.both.documents + self.only_a.documents + self.only_b.documents
        return self.both.documents / either if either else None


def side_by_side(a: DataFrame, b: DataFrame, about: DataFrame) -> DataFrame:
    """a, b: doc_id. about: doc_id, tokens and whatever else is grouped by. `about` of every document of either, with
    `side`: both, only_a or only_b.
    """
    mine, theirs = a.select("doc_id", F.lit(True).alias("in_a")), b.select("doc_id", F.lit(True).alias("in_b"))
    either = mine.join(theirs, "doc_id", "full")
    alone = F.when(F.col("in_b").isNull(), F.lit("only_a")).when(F.col("in_a").isNull(), F.lit("only_b"))
    side = alone.otherwise(F.lit("both"))
    return about.join(either.select("doc_id", side.alias("side")), "doc_id")


def groups(sided: DataFrame, value: Column, *, most: int = VALUES) -> tuple[Group, ...]:
    """The values with the most tokens that changed sides, the largest first; of equals the first by name."""
    sums = [
        (F.count_if(F.col("side") == side).alias(f"{side}_documents"),
         F.coalesce(F.sum(F.when(F.col("side") == side, F.col("tokens"))), F.lit(0)).alias(f"{side}_tokens"))
        for side in SIDES
    ]  # fmt: skip
    counted = sided.groupBy(value.alias("value")).agg(*(column for pair in sums for column in pair))
    moved = F.col("only_a_tokens") + F.col("only_b_tokens")
    rows = counted.orderBy(moved.desc(), F.col("value").asc_nulls_last()).limit(most).collect()
    return tuple(Group(row["value"] or "(none)", *_sides(row)) for row in rows)


def _sides(row: Row) -> list[Side]:
    return [Side(row[f"{side}_documents"], row[f"{side}_tokens"]) for side in SIDES]


def compare(run: Run, a: str, b: str, *, by: tuple[str, ...] = ()) -> Difference:
    """Selection B against selection A, each as `find_selection` takes it; by: metadata fields beside the source."""
    tables = run.tables
    runs = tables.read(SELECTION_RUNS).collect()
    one, other = (find_selection(runs, wanted, root=tables.root) for wanted in (a, b))
    selected = tables.read(SELECTIONS)
    scores = tables.read(CORPUS_SCORES).select("classifier_id", "doc_id", "tokens", "source")
    about = scores.where(F.col("classifier_id") == other["classifier_id"])
    if one["classifier_id"] != other["classifier_id"]:  # tokens and source of what only the other one has scored
        rest = scores.where(F.col("classifier_id") == one["classifier_id"])
        about = about.unionByName(rest.join(about.select("doc_id"), "doc_id", "left_anti"))
    mine, theirs = (selected.where(F.col("selection_id") == row["selection_id"]) for row in (one, other))
    sided = side_by_side(mine, theirs, about)
    documents = tables.read(DOCUMENTS).select("doc_id", "metadata")
    fields = {field: groups(with_value(sided, field, documents), F.col("value")) for field in ("source", *by)}
    (total,) = groups(sided.withColumn("all", F.lit("all")), F.col("all")) or (Group("all", *(Side(0, 0),) * 3),)
    called, against = (f"{row['name']}@{row['version']}" for row in (one, other))
    return Difference(called, against, total.both, total.only_a, total.only_b, fields)


def show(run: Run, a: str, b: str, *, by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Print the difference; returns it as plain objects."""
    found = compare(run, a, b, by=by)
    console = run.terminal.console
    table = Table(title=f"A: {found.a}, B: {found.b}", title_justify="left", header_style="bold")
    for name in ("", "documents", "tokens"):
        table.add_column(name, justify="right" if name else "left")
    for name, side in (("in both", found.both), ("out: in A alone", found.only_a), ("in: in B alone", found.only_b)):
        table.add_row(name, f"{side.documents:,}", f"{side.tokens:,}")
    console.print(table)
    if found.jaccard is not None:
        run.terminal.line(f"of the documents in either, {found.jaccard:.1%} are in both")
    for field, values in found.by.items():
        table = Table(title=f"by {field}, tokens", title_justify="left", header_style="bold")
        for name in (field, "in both", "out", "in"):
            table.add_column(name, justify="left" if name == field else "right", overflow="fold")
        for group in values:
            table.add_row(group.value, *(f"{side.tokens:,}" for side in (group.both, group.only_a, group.only_b)))
        console.print(table)
    return asdict(found) | {"jaccard": found.jaccard}
