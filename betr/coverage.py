"""Which task examples chose documents, and which have nothing near them: in the ranked sample, and of it in a cut.

An example that no document comes near is a gap of the corpus: no cut closes it, only other documents do. `betr gaps`
lists such examples as seeds for BARE.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from betr.benchmarks import WHAT, text_of
from curation import jsonlines
from curation.errors import InputError
from curation.files import write_whole
from curation.tables import TableSpec

COVERAGE = TableSpec(
    "coverage",
    key=("selection_id", "example_id"),
    schema="selection_id string, example_id string, benchmark string, nearest_doc_id string, similarity float, "
    "selected_doc_id string, selected_rank int, selected_similarity float, sampled bigint, selected bigint",
    partition_by=("selection_id",),
)

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
PLACES = ("corpus", "selection")


def cover(examples: DataFrame, ranks: DataFrame, labels: DataFrame, selected: DataFrame) -> DataFrame:
    """Coverage of each example by the sampled documents, and by those of them that a selection holds.

    examples: example_id, benchmark. ranks: example_id, doc_id, rank, similarity, the k best documents of each example.
    labels: doc_id, nearest_example_id, one row a sampled document. selected: doc_id, of the whole corpus.
    Returns COVERAGE's columns without selection_id, a row an example. nearest_doc_id, similarity: of its best document.
    selected_*: of the best one that the selection holds, null where none of the k is in it. sampled, selected:
    documents of the sample, and of these in the selection, that no other example ranks better.
    """
    # Of the selection only what is in the sample counts: one side of the join is sample-sized, and none is collected.
    chosen = labels.select("doc_id", "nearest_example_id").join(
        selected.select("doc_id", F.lit(True).alias("chosen")), "doc_id", "left"
    )
    by_example = chosen.where(F.col("nearest_example_id").isNotNull()).groupBy("nearest_example_id")
    counts = by_example.agg(F.count(F.lit(1)).alias("sampled"), F.count("chosen").alias("selected")).withColumnRenamed(
        "nearest_example_id", "example_id"
    )
    ranked = ranks.join(chosen.where("chosen").select("doc_id", "chosen"), "doc_id", "left").groupBy("example_id").agg(
        _first("doc_id", F.col("rank")).alias("nearest_doc_id"),
        _first("similarity", F.col("rank")).alias("similarity"),
        _first("doc_id", _chosen("rank")).alias("selected_doc_id"),
        F.min(_chosen("rank")).alias("selected_rank"),
        _first("similarity", _chosen("rank")).alias("selected_similarity"),
    )  # fmt: skip
    covered = examples.select("example_id", "benchmark").join(ranked, "example_id", "left")
    return covered.join(counts, "example_id", "left").fillna(0, ["sampled", "selected"])


def _chosen(column: str) -> Column:
    return F.when(F.col("chosen"), F.col(column))


def _first(column: str, rank: Column) -> Column:
    """The value where the rank is lowest, null ranks left out; a rank stands once an example, so there are no ties."""
    return F.min_by(column, rank)


@dataclass(frozen=True)
class BenchmarkCoverage:
    """One benchmark's examples against the sample. share: of the selection's sampled documents, those nearest to it.

    quantiles: at QUANTILES, of the similarity of each example's nearest sampled document; selected_quantiles of the
    nearest that is in the selection, over the examples that have one among their k. None where there is none.
    """

    benchmark: str
    examples: int
    chose: int
    selected: int
    share: float | None
    without_selected: int
    quantiles: tuple[float, ...] | None
    selected_quantiles: tuple[float, ...] | None


def by_benchmark(coverage: DataFrame) -> list[BenchmarkCoverage]:
    """The coverage of one selection, benchmark by benchmark, by name; one row a benchmark comes to the driver."""
    at = F.array(*(F.lit(q) for q in QUANTILES))
    rows = coverage.groupBy("benchmark").agg(
        F.count(F.lit(1)).alias("examples"),
        F.count_if(F.col("selected") > 0).alias("chose"),
        F.sum("selected").alias("selected"),
        F.count_if(F.col("selected_rank").isNull()).alias("without_selected"),
        F.percentile("similarity", at).alias("quantiles"),
        F.percentile("selected_similarity", at).alias("selected_quantiles"),
    )
    found = sorted(rows.collect(), key=lambda row: row["benchmark"])
    total = sum(row["selected"] for row in found)
    return [
        BenchmarkCoverage(
            benchmark=row["benchmark"],
            examples=row["examples"],
            chose=row["chose"],
            selected=row["selected"],
            share=row["selected"] / total if total else None,
            without_selected=row["without_selected"],
            quantiles=tuple(row["quantiles"]) if row["quantiles"] else None,
            selected_quantiles=tuple(row["selected_quantiles"]) if row["selected_quantiles"] else None,
        )
        for row in found
    ]


def least_covered(coverage: DataFrame, *, count: int, of: str = "corpus", benchmark: str | None = None) -> DataFrame:
    """The `count` examples of one selection with the lowest similarity to their nearest document; ties by id.

    of: `corpus`: nothing like them was found in the sample, so the corpus lacks it. `selection`: nothing that was kept
    is like them; an example of whose k best documents none was kept comes first.
    """
    check_count(count)
    if of not in PLACES:
        raise InputError(f"--of must be one of {', '.join(PLACES)}; got {of!r}")
    rows = coverage if benchmark is None else coverage.where(F.col("benchmark") == F.lit(benchmark))
    order = F.col("similarity" if of == "corpus" else "selected_similarity").asc_nulls_first()
    return rows.orderBy(order, F.col("similarity").asc_nulls_first(), "example_id").limit(count)


def check_count(count: int) -> None:
    if count < 1:
        raise InputError(f"--count must be at least 1; got {count!r}")


def seed_rows(
    spark: SparkSession, gaps: Sequence[Mapping[str, Any]], *, templates: Mapping[str, str], root: str
) -> tuple[list[dict[str, Any]], list[str]]:
    """Gaps (COVERAGE's columns with text, file and row) as rows that BARE takes for seeds, in their order.

    A row is the benchmark's own, read again from its file so that its fields are there, with the example's id and with
    `gap`: what makes it one. Where the file is gone or says something else by now, it is the example's text alone.
    templates: those that the examples were made with. Returns the rows, and the files that no longer hold theirs.
    """
    wanted: dict[str, dict[int, Mapping[str, Any]]] = {}
    for gap in gaps:
        wanted.setdefault(gap["file"], {})[gap["row"]] = gap
    own: dict[str, dict[str, Any]] = {}
    for file, by_number in sorted(wanted.items()):
        with contextlib.suppress(InputError):  # it is gone: its examples' texts are in the table
            for number, line in jsonlines.lines(jsonlines.read_bytes(spark, file, what=WHAT)):
                if (known := by_number.get(number)) is not None:
                    own |= _as_it_was(known, line, templates)
    rows = []
    for gap in gaps:
        why = {name: gap[name] for name in ("similarity", "selected_similarity", "selected")}
        marks = {"example_id": gap["example_id"], "benchmark": gap["benchmark"], "gap": {**why, "tables": root}}
        rows.append({"text": gap["text"], **own.get(gap["example_id"], {}), **marks})
    return rows, sorted({gap["file"] for gap in gaps if gap["example_id"] not in own})


def _as_it_was(gap: Mapping[str, Any], line: bytes, templates: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The example's id with the row that the line holds, where that is still the example's; else nothing."""
    try:
        row = jsonlines.parse(line)
        same = text_of(gap["benchmark"], row, templates) == gap["text"]
    except (jsonlines.RowRejected, InputError):
        return {}
    return {gap["example_id"]: row} if same else {}


def write_seeds(rows: Iterable[Mapping[str, Any]], path: str) -> None:
    """The rows as JSON lines, whole or not at all."""
    write_whole("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), path)
