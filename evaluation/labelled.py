"""What the two fastText controls are taught: positives and negatives as doc_id, text, label.

direct: the targets' own examples against random documents ("benchmark against crawl", BETR's control). quality: text
that somebody calls good against random documents, in DCLM's manner (arXiv 2406.11794: instruction data and explanations
against the web); it never sees the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from curation import documents as reading
from curation.errors import InputError
from curation.sampling import hash_fraction
from evaluation.arm_config import FIELDS, positive_field


class Positives(NamedTuple):
    """rows: doc_id, text. of_corpus: which documents of the corpus are positives, None where none are."""

    rows: DataFrame
    of_corpus: Column | None


def direct_rows(examples: DataFrame, sample: DataFrame) -> DataFrame:
    """examples: example_id, text. sample: doc_id, text, documents drawn by hash."""
    positives = examples.select(F.concat(F.lit("example:"), "example_id").alias("doc_id"), "text")
    return labelled(positives, sample)


def labelled(positives: DataFrame, negatives: DataFrame) -> DataFrame:
    """doc_id, text, label of both."""
    good, bad = (
        rows.select("doc_id", "text", F.lit(label).alias("label")) for rows, label in ((positives, 1), (negatives, 0))
    )
    return good.unionByName(bad)


def quality_positives(
    spark: SparkSession, corpus: DataFrame, named: Sequence[str], *, max_bytes: int = reading.MAX_BYTES
) -> Positives:
    """The documents that are named as good text: those of the corpus by a field, and files' rows that can be read.

    corpus: doc_id, text, source, metadata. A file's row goes by its text: two of one text are one.
    """
    fields = [positive_field(each) for each in named if each.startswith(FIELDS)]
    paths = [each for each in named if not each.startswith(FIELDS)]
    parts, of_corpus = [], None
    if fields:
        matches = [_field(field).eqNullSafe(F.lit(value)) for field, value in fields]
        of_corpus = reduce(lambda one, other: one | other, matches)
        parts.append(corpus.where(of_corpus).select("doc_id", "text"))
    if paths:
        checked = _checked(spark, paths, max_bytes).where(F.col("reason").isNull())
        texts = checked.groupBy("text_hash").agg(F.min("text").alias("text"))
        parts.append(texts.select(F.concat(F.lit("positive:"), "text_hash").alias("doc_id"), "text"))
    return Positives(reduce(DataFrame.unionByName, parts), of_corpus)


def quality_rows(positives: Positives, corpus: DataFrame, sample: DataFrame) -> DataFrame:
    """The positives against the sample without those documents: what is called good isn't taught as bad."""
    if positives.of_corpus is not None:
        sample = sample.join(corpus.where(positives.of_corpus).select("doc_id"), "doc_id", "left_anti")
    return labelled(positives.rows, sample)


def files_key(spark: SparkSession, named: Sequence[str]) -> list[str]:
    """What names the positives: fields as they are, files with their size and time; InputError where one is missing."""
    paths = [each for each in named if not each.startswith(FIELDS)]
    fields = sorted(each for each in named if each.startswith(FIELDS))
    if not paths:
        return fields
    return [*fields, reading.import_id(reading.list_inputs(spark, paths), reading.Columns())]


def of_corpus(named: Sequence[str]) -> bool:
    """Whether some positives are documents of the corpus."""
    return any(each.startswith(FIELDS) for each in named)


def put_aside(spark: SparkSession, named: Sequence[str], *, max_bytes: int = reading.MAX_BYTES) -> dict[str, int]:
    """reason -> rows of the named files that can't be used."""
    paths = [each for each in named if not each.startswith(FIELDS)]
    if not paths:
        return {}
    bad = _checked(spark, paths, max_bytes).where(F.col("reason").isNotNull())
    return {row["reason"]: row["count"] for row in bad.groupBy("reason").count().orderBy("reason").collect()}


def thinned(rows: DataFrame, share: float, *, seed: int, salt: str) -> DataFrame:
    """Rows with about this share of the positives, by hash of doc_id; another salt thins independently."""
    if share >= 1:
        return rows
    return rows.where((F.col("label") == 0) | (hash_fraction("doc_id", seed, f"positives, {salt}") < share))


def check_counts(arm: str, counts: dict[int, int]) -> None:
    """InputError where a side has nothing to train on."""
    for label, side in ((1, "positive"), (0, "negative")):
        if not counts.get(label):
            raise InputError(f"the arm {arm} has no {side} text to train on; name others or draw a larger sample")


def _checked(spark: SparkSession, paths: list[str], max_bytes: int) -> DataFrame:
    rows = reading.read_rows(spark, reading.list_inputs(spark, paths), reading.Columns(), max_bytes=max_bytes)
    return reading.check_rows(rows, max_bytes=max_bytes)


def _field(field: str) -> Column:
    if field == "source":
        return F.col("source")
    return F.try_element_at(F.col("metadata"), F.lit(field.removeprefix("metadata.")))
