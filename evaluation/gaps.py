"""Gaps before and after: frames in, frame out. No reading, no writing."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from curation.sampling import hash_fraction

HELD_BACK = "held back"


def is_held_back(share: float, seed: int) -> Column:
    """Whether no model is ever shown an example: by hash of its id, the same in all rounds."""
    return hash_fraction("example_id", seed, HELD_BACK) < share


def still_open(covered: DataFrame, before: DataFrame | None) -> DataFrame:
    """COVERAGE's rows with the similarity that the round before left (before: its rows of LOOP_GAPS, or None)."""
    if before is None:
        return covered
    return covered.drop("similarity").join(
        before.select("example_id", F.col("after").alias("similarity")), "example_id"
    )


def cover_again(covered: DataFrame, nearest: DataFrame) -> DataFrame:
    """What each example has nearest to it, now that synthetic documents stand beside the real ones.

    covered: example_id, benchmark, real, before. nearest: example_id, doc_id, similarity of the selected synthetic
    document that is nearest, at most one row an example. Returns covered with after and doc_id; where a real document
    is as near, doc_id is null.
    """
    synthetic = nearest.select("example_id", F.col("doc_id").alias("made"), F.col("similarity").alias("synthetic"))
    joined = covered.join(synthetic, "example_id", "left")
    nearer = F.col("real").isNull() | (F.col("synthetic") > F.col("real"))
    return joined.select(
        *covered.columns,
        F.greatest("real", "synthetic").alias("after"),  # of one alone where the other is null
        F.when(nearer, F.col("made")).alias("doc_id"),
    )


def nearest_shown(documents: DataFrame, examples: DataFrame) -> DataFrame:
    """The example that a document is nearest to, of those that its draft was shown.

    documents: doc_id, example_ids, embedding. examples: example_id, embedding. Returns doc_id, nearest_example_id,
    similarity: cosine in [-1, 1]; of equals
    the first by id. A document whose draft was shown none is absent.
    """
    pairs = documents.select("doc_id", "embedding", F.explode("example_ids").alias("example_id")).join(
        examples.select("example_id", F.col("embedding").alias("other")), "example_id"
    )
    cosine = _dot("embedding", "other") / F.sqrt(_dot("embedding", "embedding") * _dot("other", "other"))
    best = F.min(F.struct((-cosine).alias("far"), "example_id")).alias("best")
    return (
        pairs.groupBy("doc_id")
        .agg(best)
        .select(
            "doc_id",
            F.col("best.example_id").alias("nearest_example_id"),
            (-F.col("best.far")).cast("float").alias("similarity"),
        )
    )


def _dot(a: str, b: str) -> Column:
    products = F.zip_with(a, b, lambda x, y: x.cast("double") * y.cast("double"))
    return F.aggregate(products, F.lit(0.0), lambda total, each: total + each)
