"""Samples by hash of the id: the same documents for any partitioning, and a larger sample holds every smaller one."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from curation.errors import InputError
from curation.tables import TableSpec

CORPUS_SAMPLE = TableSpec(
    "corpus_sample",
    key=("seed", "doc_id"),
    schema="seed bigint, doc_id string, position double, text string",
    partition_by=("seed",),
)

BINS = 1 << 16


def hash_fraction(id_column: str | Column, seed: int, salt: str = "") -> Column:
    """A double in [0, 1) from 53 hashed bits of (salt, seed, id): uniform, and independent for another seed or salt."""
    key = F.xxhash64(F.lit(f"{salt}/{seed}"), F.col(id_column) if isinstance(id_column, str) else id_column)
    return F.shiftrightunsigned(key, 11).cast("double") * F.lit(2.0**-53)


def sample_documents(documents: DataFrame, *, seed: int, below: float, last_id: str = "") -> DataFrame:
    """Documents at a position under `below`, a share in (0, 1]: seed, doc_id, position, text.

    last_id: of the documents exactly at `below`, those with an id up to this one are in (from `share_for_count`).
    """
    if not 0 < below <= 1:
        raise InputError(f"a sample's share must be in (0, 1]; got {below!r}. Give a share or a whole number")
    position = F.col("position")
    placed = documents.select(
        F.lit(seed).cast("bigint").alias("seed"), "doc_id", hash_fraction("doc_id", seed).alias("position"), "text"
    )
    return placed.where((position < below) | ((position == below) & (F.col("doc_id") <= last_id)))


def share_for_count(documents: DataFrame, *, seed: int, count: int) -> tuple[float, str]:
    """`below` and `last_id` for which `sample_documents` keeps exactly `count` documents.

    Two passes of histogram over the position, ids only; never a sort of the corpus. InputError where it is too small.
    """
    if count < 1:
        raise InputError(f"a sample needs at least 1 document; got {count}. Give a share in (0, 1) or a whole number")
    placed = documents.select("doc_id", hash_fraction("doc_id", seed).alias("position"))
    low, width, before, there = 0.0, 1.0, 0, 0
    for level in range(2):
        bin_of = F.floor((F.col("position") - low) / (width / BINS))
        inside = placed.where((F.col("position") >= low) & (F.col("position") < low + width))
        counts = {row["bin"]: row["count"] for row in inside.groupBy(bin_of.alias("bin")).count().collect()}
        if level == 0:
            there = sum(counts.values())
            if there < count:
                raise InputError(
                    f"the sample asks for {count:,} documents, but the corpus holds {there:,}; "
                    "ask for fewer, or for a share in (0, 1], or import more documents"
                )
        chosen = 0
        for chosen in sorted(counts):
            if before + counts[chosen] >= count:
                break
            before += counts[chosen]
        low, width = low + chosen * (width / BINS), width / BINS
    # Powers of two: every bin's edge is exact in a double, so no document falls between two bins.
    inside = placed.where((F.col("position") >= low) & (F.col("position") < low + width))
    last = inside.orderBy("position", "doc_id").limit(count - before).collect()[-1]
    return float(last["position"]), str(last["doc_id"])
