"""Every example ranks every sampled document; best rank -> score -> label (BETR 3.2-3.4).

Similarity is the cosine of two embeddings. All that is compared or stored comes from one compiled kernel with a fixed
order of additions, so ranks are the same for any partitioning, batch size and BLAS; BLAS only proposes pairs.

    ranks  = rank_documents(embeddings, share(spark, examples), k=suggested_k(n, len(examples.ids)))   -> SAMPLE_RANKS
    cutoff = find_cutoff(sample, ranks, k=k, positive_fraction=0.1)       CutoffBeyondK: rank again with its next_k
    labels = label_documents(sample, ranks, cutoff=cutoff)                                            -> SAMPLE_LABELS
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from curation.clock import StageClock, timed, timed_ddl
from curation.errors import InputError
from curation.sampling import hash_fraction
from curation.session import Shared, release, share
from curation.tables import TableSpec

SAMPLE_RANKS = TableSpec(
    "sample_ranks",
    key=("ranking_id", "example_id", "doc_id"),
    schema="ranking_id string, example_id string, doc_id string, rank int, similarity float",
    partition_by=("ranking_id",),
)
SAMPLE_RELEVANCE = TableSpec(
    "sample_relevance",
    key=("ranking_id", "doc_id"),
    schema="ranking_id string, doc_id string, relevance double",
    partition_by=("ranking_id",),
)
SAMPLE_LABELS = TableSpec(
    "sample_labels",
    key=("labels_id", "doc_id"),
    schema="labels_id string, doc_id string, best_rank int, nearest_example_id string, similarity float, "
    "relevance double, label int",
    partition_by=("labels_id",),
)

POSITIVE_FRACTION = 0.10
AGGREGATIONS = ("max", "mean_reciprocal", "mean_log")
DENSE = 0.01  # examples over sampled documents: above this, ties between examples begin to decide labels
MAX_PAIRS = 2**34  # of the means: 64 GiB of similarities through the shuffle, some 20 core-minutes of sorting

BLOCK = 2048  # documents of one product
TILE_PAIRS = 2**20  # similarities of one product: 4 MiB, stays in the cache for the scan
OUTPUT_ROWS = 2**16
FLOOR_PARTS = 16
FLOOR_FROM = 32  # tasks at once: from here on it pays to rank a part first, so that each task hands on less
PAIRS = "example_id string, doc_id string, similarity float"
PAIRS_PER_TASK = 2**24  # of the means: similarities that one task sorts, 64 MiB


class CutoffBeyondK(InputError):  # noqa: N818 - asks for another k rather than reporting a mistake
    """Too few documents are among the k best of any example: rank again with `next_k`."""

    def __init__(self, k: int, reached: int, positives: int, documents: int) -> None:
        # At least double; proportionally more where far too few were reached. k = n always reaches every document.
        self.next_k = min(documents, max(2 * k, math.ceil(1.5 * k * positives / max(reached, 1))))
        super().__init__(
            f"sample_ranks: the k = {k:,} best documents of each example are {reached:,} different documents, but "
            f"{positives:,} of {documents:,} are to be positive; rank again with k = {self.next_k:,}"
        )


@dataclass(frozen=True, eq=False)
class Examples:
    """The target examples: ids in UTF-8 order, matrix float32 (M, d) of unit rows, C order.

    floor: float32 (M,), where known: no more than floor_k-1 documents are nearer to an example than its floor.
    """

    ids: list[str]
    matrix: np.ndarray
    floor: np.ndarray | None = None
    floor_k: int = 0


def collect_examples(embeddings: DataFrame) -> Examples:
    """The examples' embeddings [example_id, embedding] on the driver (50,000 x 1024 take 200 MB), sorted by id.

    Raises InputError for no rows, an id that comes twice, and embeddings that are null, NaN, infinite, zero or of mixed
    dimension. Rows get unit length here, whatever length they had.
    """
    table = embeddings.select("example_id", F.col("embedding").cast("array<float>").alias("embedding")).toArrow()
    if table.num_rows == 0:
        raise InputError("benchmark_embeddings: no rows for this encoder; embed the benchmark examples first")
    table = table.combine_chunks()
    table = table.take(pc.sort_indices(table["example_id"]))  # Arrow compares bytes, as Spark does
    ids = table["example_id"].to_pylist()
    for one, following in pairwise(ids):
        if one == following:
            raise InputError(f"benchmark_embeddings: example {one} comes twice; each example needs one embedding")
    try:
        matrices = [_unit_rows(batch, "example", None) for batch in table.to_batches() if batch.num_rows]
        if len({matrix.shape[1] for matrix in matrices}) > 1:
            raise ValueError("ranking: examples have embeddings of different dimensions; embed them with one encoder")
    except ValueError as error:
        raise InputError(str(error)) from None
    return Examples(ids, np.concatenate(matrices))


def suggested_k(
    n_documents: int, n_examples: int, positive_fraction: float = POSITIVE_FRACTION, margin: float = 6.0
) -> int:
    """How many documents each example should keep so that the cutoff rank lies within k.

    M examples with r documents each name at most r M documents, so the cutoff is at least fraction * n / M. It was 2.8
    times that in the paper (n = 10M, M = 14k: about 200) and 1.2-2 times in simulation; `margin` allows for 6 times.
    """
    least = positive_fraction * n_documents / max(n_examples, 1)
    return max(1, min(n_documents, max(16, math.ceil(margin * least))))


def warn_if_dense(n_documents: int, n_examples: int, positive_fraction: float = POSITIVE_FRACTION) -> str | None:
    """A sentence where examples exceed 1% of the sample: the best rank then tells few documents apart."""
    if n_examples <= DENSE * n_documents:
        return None
    cutoff = max(1, math.ceil(positive_fraction * n_documents / n_examples))
    wanted = math.ceil(n_examples / DENSE)
    then = math.ceil(positive_fraction * wanted / n_examples)
    share = n_examples / max(n_documents, 1)
    return (
        f"{n_examples:,} examples are {share:.1%} of {n_documents:,} sampled documents, more than {DENSE:.0%}: the "
        f"cutoff rank may be as low as {cutoff:,}, where ties decide much; sample {wanted:,} documents (cutoff rank at "
        f"least {then:,}) or take fewer examples"
    )


# -- ranks -------------------------------------------------------------------------------------------------------------


def rank_documents(
    embeddings: DataFrame, examples: Shared[Examples], *, k: int, clock: StageClock | None = None
) -> DataFrame:
    """The k most similar documents of each example: [example_id, doc_id, rank (from 1), similarity].

    embeddings: [doc_id, embedding], one row a document. Order: similarity descending, then doc_id ascending (by bytes).
    Exact for any partitioning. A null, NaN, infinite, zero or wrongly sized embedding raises ValueError in the worker.

    A task holds M x k pairs of 8 bytes, one block and its partition's ids, and hands at most M x k rows to the merge: P
    partitions shuffle at most P x M x k rows (M = 14k, k = 400, P = 64: 360M). Where P is large, give the examples a
    floor (`with_sampled_floor`): then about 16 x M x k, whatever P.
    """
    if k < 1:
        raise InputError(f"k must be at least 1; got {k}")

    def nearest(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        best = NearestDocuments(examples.value, k)
        for ids, documents in _blocks(batches, examples.value.matrix.shape[1]):
            best.add(ids, documents)
        yield from best.pairs()

    def nearest_timed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from timed(batches, nearest)

    if clock is None:
        pairs = _embeddings(embeddings).mapInArrow(nearest, PAIRS)
    else:
        pairs = clock.watch(_embeddings(embeddings).mapInArrow(nearest_timed, timed_ddl(PAIRS)))
    order = Window.partitionBy("example_id").orderBy(F.desc("similarity"), F.asc("doc_id"))
    ranked = pairs.withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= k)
    return ranked.select("example_id", "doc_id", "rank", "similarity")


def with_floor(examples: Examples, ranks: DataFrame, *, k: int) -> Examples:
    """The examples with the similarity of their k-th document in `ranks`, of any subset of the sample: a lower bound.

    An action; collects at most M rows. Ranking the whole with k or fewer then skips all that can't be among the k best.
    """
    found = ranks.where(F.col("rank") == k).select("example_id", "similarity").toArrow()
    at = {example_id: i for i, example_id in enumerate(examples.ids)}
    floor = np.full(len(examples.ids), -np.inf, dtype=np.float32)
    for example_id, similarity in zip(found["example_id"].to_pylist(), found["similarity"].to_pylist(), strict=True):
        floor[at[example_id]] = similarity
    return replace(examples, floor=floor, floor_k=k)


def with_sampled_floor(embeddings: DataFrame, examples: Examples, *, k: int) -> Examples:
    """`with_floor` from one document in sixteen, by hash, ranked in at most as many tasks; for this k or less."""
    some = embeddings.where(hash_fraction("doc_id", 0, "floor") < 1 / FLOOR_PARTS).coalesce(FLOOR_PARTS)
    shared = share(embeddings.sparkSession, examples)
    try:
        return with_floor(examples, rank_documents(some, shared, k=k), k=k)
    finally:
        release(shared)


def best_ranks(ranks: DataFrame) -> DataFrame:
    """Best rank of each document over all examples: [doc_id, best_rank, nearest_example_id, similarity] (BETR 3.4).

    S_j = max_i v(r_ij) for any decreasing v. Of examples that rank it equally, the more similar is named, then the
    lower id.
    Documents that no example ranks among its k best are absent: they lie beyond the cutoff.
    """
    # 0 - x rather than -x: there is no negative zero to sort apart.
    key = F.struct("rank", (F.lit(0.0).cast("float") - F.col("similarity")).alias("distance"), "example_id")
    best = ranks.groupBy("doc_id").agg(F.min(key).alias("best"))
    return best.select(
        "doc_id",
        F.col("best.rank").alias("best_rank"),
        F.col("best.example_id").alias("nearest_example_id"),
        (F.lit(0.0).cast("float") - F.col("best.distance")).alias("similarity"),
    )


def nearest_examples(embeddings: DataFrame, examples: Shared[Examples]) -> DataFrame:
    """The example most similar to each document, sampled or not: [doc_id, example_id, similarity]; ties by id."""

    def nearest(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        given = examples.value
        names, matrix = pa.array(given.ids, pa.string()), given.matrix
        size = max(1, min(BLOCK, 2**23 // len(matrix)))  # 32 MiB of similarities
        for ids, documents in _blocks(batches, matrix.shape[1], size):
            example, similarity = _nearest_rows(documents @ matrix.T, documents, matrix, _margin(matrix.shape[1]))
            yield pa.record_batch([ids, names.take(pa.array(example)), pa.array(similarity)], _names(NEAREST))

    return _embeddings(embeddings).mapInArrow(nearest, NEAREST)


NEAREST = "doc_id string, example_id string, similarity float"


# -- labels ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutoff:
    """The last positive document: by best rank, similarity, id; or by relevance, id. With the counts that led to it."""

    doc_id: str
    positives: int
    documents: int
    rank: int | None = None
    similarity: float | None = None
    relevance: float | None = None


def count_positives(documents: int, positive_fraction: float = POSITIVE_FRACTION) -> int:
    """floor(fraction * n + 1/2), at least 1."""
    if not 0 < positive_fraction < 1:
        raise InputError(f"the positive fraction must lie in (0, 1); got {positive_fraction!r}")
    if documents < 1:
        raise InputError("corpus_sample: no documents to label; sample some documents first")
    return max(1, math.floor(positive_fraction * documents + 0.5))


def find_cutoff(
    sample: DataFrame | int, ranks: DataFrame, *, k: int, positive_fraction: float = POSITIVE_FRACTION
) -> Cutoff:
    """Where the best documents end: order by best rank, then similarity descending, then doc_id (an action).

    sample: [doc_id], or how many there are; ranks: the k best of each example over exactly this sample. Raises
    CutoffBeyondK where fewer documents than wanted have a rank within k: beyond k no best rank is known, so no cutoff
    there could be exact.
    """
    documents = sample if isinstance(sample, int) else sample.count()
    positives = count_positives(documents, positive_fraction)
    best = best_ranks(ranks)
    counts = {row["best_rank"]: row["count"] for row in best.groupBy("best_rank").count().collect()}  # at most k rows
    if sum(counts.values()) < positives:
        raise CutoffBeyondK(k, sum(counts.values()), positives, documents)
    remaining, rank = positives, 0
    for rank in sorted(counts):
        if remaining <= counts[rank]:
            break
        remaining -= counts[rank]
    assert rank <= k, f"cutoff rank {rank} beyond k = {k}"
    # At most one document an example has this rank, so at most M rows are ordered.
    last = _nth(best.where(F.col("best_rank") == rank), remaining, F.desc("similarity"), F.asc("doc_id"))
    return Cutoff(last["doc_id"], positives, documents, rank=rank, similarity=last["similarity"])


def find_relevance_cutoff(relevance: DataFrame, *, positive_fraction: float = POSITIVE_FRACTION) -> Cutoff:
    """Where the most relevant documents end: order by relevance descending, then doc_id (an action).

    relevance: [doc_id, relevance], read several times, so a table. A histogram is refined around the boundary until its
    bin is small: no sort, and exact, as a bin is a monotone function of the relevance.
    """
    documents = relevance.count()
    positives = count_positives(documents, positive_fraction)
    inside, remaining = relevance.select("doc_id", "relevance"), positives
    while True:
        row = inside.agg(F.min("relevance"), F.max("relevance"), F.count("*")).first()
        assert row is not None
        low, high, count = row
        if count <= SMALL_BIN or low == high:
            last = _nth(inside, remaining, F.desc("relevance"), F.asc("doc_id"))
            return Cutoff(last["doc_id"], positives, documents, relevance=last["relevance"])
        bin_of = F.floor((F.col("relevance") - F.lit(low)) / F.lit(high - low) * BINS).cast("int")
        binned = inside.withColumn("bin", bin_of)
        counts = {row["bin"]: row["count"] for row in binned.groupBy("bin").count().collect()}
        boundary = 0
        for boundary in sorted(counts, reverse=True):
            if remaining <= counts[boundary]:
                break
            remaining -= counts[boundary]
        inside = binned.where(F.col("bin") == boundary).drop("bin")


BINS = 2**12
SMALL_BIN = 2**14


def label_documents(
    sample: DataFrame, ranks: DataFrame, *, cutoff: Cutoff, relevance: DataFrame | None = None
) -> DataFrame:
    """Every sampled document: [doc_id, best_rank, nearest_example_id, similarity, relevance, label] (BETR 3.4).

    label is 1 up to the cutoff and 0 beyond it. best_rank, nearest_example_id and similarity are null beyond k;
    relevance is null unless the labels come from it (pass the frame [doc_id, relevance] that the cutoff was found in).
    """
    labelled = sample.select("doc_id").join(best_ranks(ranks), "doc_id", "left")
    doc_id = F.col("doc_id")
    if relevance is None:
        labelled = labelled.withColumn("relevance", F.lit(None).cast("double"))
        rank, similarity = F.col("best_rank"), F.col("similarity")
        first = similarity > F.lit(cutoff.similarity)
        tied = (similarity == F.lit(cutoff.similarity)) & (doc_id <= F.lit(cutoff.doc_id))
        positive = (rank < F.lit(cutoff.rank)) | ((rank == F.lit(cutoff.rank)) & (first | tied))
    else:
        labelled = labelled.join(relevance.select("doc_id", "relevance"), "doc_id", "left")
        value = F.col("relevance")
        same = value == F.lit(cutoff.relevance)
        positive = (value > F.lit(cutoff.relevance)) | (same & (doc_id <= F.lit(cutoff.doc_id)))
    label = F.when(positive, 1).otherwise(0).alias("label")
    return labelled.select("doc_id", "best_rank", "nearest_example_id", "similarity", "relevance", label)


def _nth(frame: DataFrame, n: int, *order: Column) -> Any:
    """The n-th row in this order (from 1): Spark's top-n, no sort of the whole."""
    row = frame.orderBy(*order).offset(n - 1).limit(1).first()
    assert row is not None
    return row


# -- the paper's alternatives: a mean over all examples needs every rank of every document -----------------------------


def mean_relevance(
    embeddings: DataFrame, examples: Shared[Examples], *, n_documents: int, aggregation: str
) -> DataFrame:
    """Mean over all examples of 1/r ("mean_reciprocal") or log2(1/r) ("mean_log"): [doc_id, relevance] (BETR 3.4).

    embeddings: [doc_id, embedding] of exactly n_documents. Full ranks, exact, ties by doc_id. Costs: every pair in the
    fixed kernel, 4 bytes a pair through the shuffle, and a sort of n documents an example; so M x n is at most 2**34
    (InputError).
    """
    if aggregation not in AGGREGATIONS[1:]:
        raise InputError(f"aggregation must be one of {', '.join(AGGREGATIONS)}; got {aggregation!r}")
    n_examples = len(examples.value.ids)
    if n_examples * n_documents > MAX_PAIRS:
        raise InputError(
            f"aggregation {aggregation} ranks every pair: {n_examples:,} examples x {n_documents:,} documents exceed "
            f"{MAX_PAIRS:,}; sample at most {MAX_PAIRS // n_examples:,} documents, or use aggregation max"
        )
    per_task = min(n_examples, max(1, PAIRS_PER_TASK // max(n_documents, 1)))
    # Sums of integers don't depend on their order. Below 2**52 they stay exact, and apart, as doubles over M.
    largest = n_examples * (1 if aggregation == "mean_reciprocal" else max(1.0, math.log2(n_documents)))
    scale = 52 - math.ceil(math.log2(largest) + 1e-9)

    def similarities(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        matrix = examples.value.matrix
        for ids, documents in _blocks(batches, matrix.shape[1]):
            chunk = pa.ListArray.from_arrays(pa.array([0, len(ids)], pa.int32()), ids)
            for part, start in enumerate(range(0, n_examples, per_task)):
                every = _every_similarity(matrix[start : start + per_task], documents)
                columns = [pa.array([part], pa.int32()), chunk, pa.array([every.tobytes()])]
                yield pa.record_batch(columns, _names(SIMILARITIES))

    def points(group: pa.Table) -> pa.Table:
        group = group.combine_chunks()
        ids = group["doc_ids"].combine_chunks().flatten()
        if len(ids) != n_documents:
            raise ValueError(
                f"ranking: {len(ids):,} embeddings for {n_documents:,} documents; embed the whole sample first"
            )
        chunks = group["similarities"].to_pylist()
        lengths = group["doc_ids"].combine_chunks().value_lengths().to_pylist()
        every = np.concatenate(
            [np.frombuffer(one, np.float32).reshape(-1, n) for one, n in zip(chunks, lengths, strict=True)], axis=1
        )
        by_id = pc.sort_indices(ids).to_numpy()
        ranks = np.arange(1, n_documents + 1, dtype=np.float64)
        value = 1.0 / ranks if aggregation == "mean_reciprocal" else -np.log2(ranks)
        worth = np.rint(np.ldexp(value, scale)).astype(np.int64)
        total = np.zeros(n_documents, np.int64)
        for one in every:
            total[by_id[np.argsort(-one[by_id], kind="stable")]] += worth
        return pa.table([ids, pa.array(total)], ["doc_id", "points"])

    parts = _embeddings(embeddings).mapInArrow(similarities, SIMILARITIES)
    total = parts.groupBy("part").applyInArrow(points, "doc_id string, points bigint")
    summed = total.groupBy("doc_id").agg(F.sum("points").alias("points"))
    return summed.select("doc_id", (F.col("points") / F.lit(2.0**scale) / F.lit(float(n_examples))).alias("relevance"))


SIMILARITIES = "part int, doc_ids array<string>, similarities binary"


# -- embeddings out of Arrow -------------------------------------------------------------------------------------------


def _embeddings(frame: DataFrame) -> DataFrame:
    return frame.select("doc_id", F.col("embedding").cast("array<float>").alias("embedding"))


def _names(schema: str) -> list[str]:
    return [column.split()[0] for column in schema.split(", ")]


def _blocks(
    batches: Iterator[pa.RecordBatch], dimension: int, size: int | None = None
) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Batches [id, embedding] of any length as blocks of `size` documents: ids and float32 unit rows (size, d)."""
    size = size or BLOCK
    ids: list[pa.Array] = []
    rows: list[np.ndarray] = []
    held = 0
    for batch in batches:
        for start in range(0, batch.num_rows, size):
            part = batch.slice(start, size)
            ids.append(part.column(0).cast(pa.string()))
            rows.append(_unit_rows(part, "document", dimension))
            held += part.num_rows
            if held >= size:
                all_ids, all_rows = pa.concat_arrays(ids), np.concatenate(rows)
                yield all_ids.slice(0, size), all_rows[:size]
                ids, rows, held = [all_ids.slice(size)], [all_rows[size:]], held - size
    if held:
        yield pa.concat_arrays(ids), np.concatenate(rows)


def _unit_rows(batch: pa.RecordBatch, kind: str, dimension: int | None) -> np.ndarray:
    """The embeddings as float32 unit rows; ValueError names the first that has no direction or another dimension."""
    ids, column = batch.column(0), batch.column(1)

    def refuse(at: int, what: str) -> None:
        raise ValueError(f"ranking: {kind} {ids[int(at)].as_py()} {what}")

    if ids.null_count:
        raise ValueError(f"ranking: a {kind} has no id; every embedding needs one")
    if column.null_count:
        refuse(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0], "has no embedding; embed it again")
    lengths = np.diff(column.offsets.to_numpy())
    dimension = int(lengths[0]) if dimension is None else dimension
    other = np.flatnonzero(lengths != dimension)
    if other.size or dimension == 0:
        at = other[0] if other.size else 0
        refuse(at, f"has an embedding of dimension {lengths[at]}, others have {dimension}; embed all with one encoder")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)  # null becomes NaN
    rows, norms = _normalise(values.reshape(-1, dimension))
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        what = "zeros only" if norms[bad[0]] == 0 else "NaN or infinite values"
        refuse(bad[0], f"has an embedding with {what}: no cosine; embed it again with another precision, or remove it")
    return rows


# -- the k best --------------------------------------------------------------------------------------------------------


class NearestDocuments:
    """The k documents nearest to each example among those added so far; exact, whatever the blocks and their order."""

    def __init__(self, examples: Examples, k: int) -> None:
        if examples.floor is not None and k > examples.floor_k:
            raise ValueError(f"ranking: the examples' floor holds for k <= {examples.floor_k}, not for k = {k}")
        n = len(examples.ids)
        self._examples = examples
        self._floor = np.full(n, -np.inf, np.float32) if examples.floor is None else examples.floor
        # One heap an example, the worst document at its root. Pages that no document reaches take no memory.
        self._scores = np.empty((n, k), np.float32)
        self._rows = np.empty((n, k), np.int32)
        self._counts = np.zeros(n, np.int32)
        # Ids of all documents seen, end to end: they are compared where similarities tie.
        self._text = np.empty(2**16, np.uint8)
        self._ends = np.zeros(2**12, np.int64)
        self._seen = 0

    def add(self, ids: pa.Array, documents: np.ndarray) -> None:
        """ids: Arrow strings (b,); documents: float32 unit rows (b, d), C order."""
        matrix = self._examples.matrix
        n, size = len(matrix), len(documents)
        first = self._seen
        self._append(ids)
        height = max(1, TILE_PAIRS // size)
        tile = np.empty(min(height, n) * size, np.float32)
        margin = _margin(matrix.shape[1])
        for start in range(0, n, height):
            stop = min(n, start + height)
            product = tile[: (stop - start) * size].reshape(stop - start, size)
            np.matmul(matrix[start:stop], documents.T, out=product)
            _keep_best(
                product, documents, matrix, start, first, self._floor, margin,
                self._scores, self._rows, self._counts, self._text, self._ends,
            )  # fmt: skip

    def pairs(self) -> Iterator[pa.RecordBatch]:
        """[example_id, doc_id, similarity], in no order."""
        ends = pa.py_buffer(self._ends[: self._seen + 1])
        ids = pa.LargeStringArray.from_buffers(self._seen, ends, pa.py_buffer(self._text))
        names = pa.array(self._examples.ids, pa.string())
        step = max(1, OUTPUT_ROWS // self._scores.shape[1])
        for start in range(0, len(names), step):
            counts = self._counts[start : start + step]
            if not counts.any():
                continue
            filled = np.arange(self._scores.shape[1]) < counts[:, None]
            yield pa.record_batch(
                [
                    names.take(pa.array(start + np.repeat(np.arange(len(counts)), counts))),
                    ids.take(pa.array(self._rows[start : start + step][filled])).cast(pa.string()),
                    pa.array(self._scores[start : start + step][filled]),
                ],
                ["example_id", "doc_id", "similarity"],
            )

    def _append(self, ids: pa.Array) -> None:
        ids = ids.cast(pa.large_string())
        offsets = np.frombuffer(ids.buffers()[1], np.int64)[ids.offset : ids.offset + len(ids) + 1]
        used, more = int(self._ends[self._seen]), int(offsets[-1] - offsets[0])
        self._text = _grown(self._text, used, used + more)
        self._ends = _grown(self._ends, self._seen + 1, self._seen + 1 + len(ids))
        if more:
            self._text[used : used + more] = np.frombuffer(ids.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
        self._ends[self._seen + 1 : self._seen + 1 + len(ids)] = offsets[1:] - offsets[0] + used
        self._seen += len(ids)


def _grown(array: np.ndarray, used: int, wanted: int) -> np.ndarray:
    if wanted <= len(array):
        return array
    larger = np.empty(max(wanted, 2 * len(array)), array.dtype)
    larger[:used] = array[:used]
    return larger


def _margin(dimension: int) -> float:
    """How far a BLAS similarity may lie from the kernel's, at most.

    In float32, u = 2**-24, a product of x and y in any order of additions, fused or not, is off by at most
    d u / (1 - d u) |x| |y|. Rows are rounded to float32 (|x| <= 1 + u); the kernel's result is rounded once, and so is
    the bound that a BLAS similarity is held against: four u more. 1% allows for 1 / (1 - d u) up to d = 100,000 and for
    float64's own error.

    So if k pairs have a kernel similarity of at least t, a pair that BLAS sees below t - margin lies below t, not among
    the k best. If k pairs have a BLAS similarity of at least a, that holds with t = a - margin: what BLAS sees below
    a - 2 margin needs no look.
    """
    return 1.01 * (dimension + 4) * 2.0**-24


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without fastmath: additions stay in the order that is written."""
    return numba.njit(cache=True, nogil=True)(function)  # type: ignore[no-any-return]


@_compiled
def _dot(x: np.ndarray, y: np.ndarray, parts: np.ndarray) -> float:
    """Sum of products in float64, the same on every machine; parts: scratch, float64 (d // 8,) or more.

    The order is fixed: eight elements d // 8 apart, then those sums four by four. LLVM makes vectors of the first loop.
    A product of two float32 is exact in float64, so fusing it with an addition changes nothing.
    """
    n = len(x) // 8
    for j in range(n):
        p = np.float64(x[j]) * np.float64(y[j]) + np.float64(x[n + j]) * np.float64(y[n + j])
        q = np.float64(x[2 * n + j]) * np.float64(y[2 * n + j]) + np.float64(x[3 * n + j]) * np.float64(y[3 * n + j])
        r = np.float64(x[4 * n + j]) * np.float64(y[4 * n + j]) + np.float64(x[5 * n + j]) * np.float64(y[5 * n + j])
        s = np.float64(x[6 * n + j]) * np.float64(y[6 * n + j]) + np.float64(x[7 * n + j]) * np.float64(y[7 * n + j])
        parts[j] = (p + q) + (r + s)
    a = b = c = d = 0.0
    whole = n - n % 4
    for j in range(0, whole, 4):
        a += parts[j]
        b += parts[j + 1]
        c += parts[j + 2]
        d += parts[j + 3]
    for j in range(whole, n):
        a += parts[j]
    for j in range(8 * n, len(x)):
        a += np.float64(x[j]) * np.float64(y[j])
    return (a + b) + (c + d)


@_compiled
def _similarity(x: np.ndarray, y: np.ndarray, parts: np.ndarray) -> np.float32:
    return np.float32(_dot(x, y, parts)) + np.float32(0.0)  # no negative zero


@_compiled
def _normalise(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unit length, and the lengths that they had."""
    rows = np.empty(values.shape, np.float32)
    lengths = np.empty(len(values), np.float64)
    parts = np.empty(values.shape[1] // 8 + 1, np.float64)
    for i in range(len(values)):
        lengths[i] = np.sqrt(_dot(values[i], values[i], parts))
        if lengths[i] > 0:
            for j in range(values.shape[1]):
                rows[i, j] = np.float32(np.float64(values[i, j]) / lengths[i])
    return rows, lengths


@_compiled
def _every_similarity(examples: np.ndarray, documents: np.ndarray) -> np.ndarray:
    out = np.empty((len(examples), len(documents)), np.float32)
    parts = np.empty(documents.shape[1] // 8 + 1, np.float64)
    for j in range(len(documents)):
        for i in range(len(examples)):
            out[i, j] = _similarity(examples[i], documents[j], parts)
    return out


@_compiled
def _nearest_rows(
    product: np.ndarray, documents: np.ndarray, examples: np.ndarray, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest example of each document (the lowest of equals), and its similarity."""
    nearest = np.zeros(len(documents), np.int64)
    similarity = np.empty(len(documents), np.float32)
    parts = np.empty(documents.shape[1] // 8 + 1, np.float64)
    for j in range(len(documents)):
        bound = np.float32(np.max(product[j]) - 2 * margin)
        best = np.float32(-np.inf)
        for i in range(len(examples)):
            if product[j, i] >= bound:
                exact = _similarity(examples[i], documents[j], parts)
                if exact > best:
                    best = exact
                    nearest[j] = i
        similarity[j] = best
    return nearest, similarity


@_compiled
def _keep_best(
    product: np.ndarray,  # (examples of this tile, documents of this block), by BLAS
    documents: np.ndarray,
    examples: np.ndarray,
    start: int,  # the tile's first example
    first: int,  # the block's first document
    floor: np.ndarray,
    margin: float,
    scores: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    text: np.ndarray,
    ends: np.ndarray,
) -> None:
    k = scores.shape[1]
    maybe = np.empty(len(documents), np.int32)
    close = np.empty(len(documents), np.float32)
    parts = np.empty(documents.shape[1] // 8 + 1, np.float64)
    for tile_row in range(len(product)):
        i = start + tile_row
        least = scores[i, 0] if counts[i] == k else floor[i]
        bound = np.float32(least - margin)
        found = 0
        for j in range(len(documents)):
            maybe[found] = j
            close[found] = product[tile_row, j]
            found += product[tile_row, j] >= bound
        if found > k:  # one block can offer many at once: those far behind its own k best needn't be computed
            behind = np.float32(np.partition(close[:found], found - k)[found - k] - 2 * margin)
            bound = max(bound, behind)
        for c in range(found):
            if close[c] >= bound:
                exact = _similarity(examples[i], documents[maybe[c]], parts)
                if exact >= floor[i]:
                    _offer(exact, first + maybe[c], scores[i], rows[i], counts, i, text, ends)
                    if counts[i] == k:
                        bound = max(bound, np.float32(scores[i, 0] - margin))


@_compiled
def _offer(
    score: np.float32,
    row: int,
    scores: np.ndarray,
    rows: np.ndarray,
    counts: np.ndarray,
    i: int,
    text: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Put a document into example i's heap if it is better than the worst there."""
    n = counts[i]
    if n < len(scores):
        counts[i] = n + 1
        at = n
        while at > 0:
            parent = (at - 1) // 2
            if not _worse(score, row, scores[parent], rows[parent], text, ends):
                break
            scores[at], rows[at] = scores[parent], rows[parent]
            at = parent
    else:
        if not _worse(scores[0], rows[0], score, row, text, ends):
            return
        at = 0
        while 2 * at + 1 < n:
            child = 2 * at + 1
            if child + 1 < n and _worse(scores[child + 1], rows[child + 1], scores[child], rows[child], text, ends):
                child += 1
            if not _worse(scores[child], rows[child], score, row, text, ends):
                break
            scores[at], rows[at] = scores[child], rows[child]
            at = child
    scores[at], rows[at] = score, row


@_compiled
def _worse(score: float, row: int, other: float, other_row: int, text: np.ndarray, ends: np.ndarray) -> bool:
    """Less similar, or as similar with the larger id: by bytes, as Spark compares strings."""
    if score != other:
        return score < other
    a, a_end, b, b_end = ends[row], ends[row + 1], ends[other_row], ends[other_row + 1]
    while a < a_end and b < b_end:
        if text[a] != text[b]:
            return text[a] > text[b]
        a += 1
        b += 1
    return b == b_end and a < a_end
