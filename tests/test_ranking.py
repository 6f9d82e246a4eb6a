"""Ranking against a full sort of every pair, labels against a plain sort, and the laws that both obey."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from betr import ranking
from betr.ranking import (
    Cutoff,
    CutoffBeyondK,
    Examples,
    NearestDocuments,
    best_ranks,
    collect_examples,
    find_cutoff,
    find_relevance_cutoff,
    label_documents,
    mean_relevance,
    nearest_examples,
    rank_documents,
    suggested_k,
    warn_if_dense,
    with_floor,
    with_sampled_floor,
)
from curation.errors import InputError, input_errors
from curation.session import share

Pairs = dict[str, list[tuple[str, np.float32]]]  # example -> documents, best first


# -- the slow, obvious way ---------------------------------------------------------------------------------------------


def unit(values: Any) -> np.ndarray:
    rows = np.asarray(values, np.float32).astype(np.float64)
    lengths = [math.sqrt(math.fsum(row * row)) for row in rows]
    return (rows / np.array(lengths)[:, None]).astype(np.float32)


def similarity(x: np.ndarray, y: np.ndarray) -> np.float32:
    return np.float32(math.fsum(x.astype(np.float64) * y.astype(np.float64)))


def sorted_pairs(documents: dict[str, Any], examples: dict[str, Any]) -> Pairs:
    rows, targets = unit(list(documents.values())), unit(list(examples.values()))
    every: Pairs = {}
    for example_id, target in zip(examples, targets, strict=True):
        scored = [(doc_id, similarity(row, target)) for doc_id, row in zip(documents, rows, strict=True)]
        every[example_id] = sorted(scored, key=lambda pair: (-pair[1], pair[0].encode()))
    return every


def plain_labels(every: Pairs, positives: int) -> tuple[dict[str, tuple[int, str, float]], set[str]]:
    """Best rank, nearest example and similarity of each document, and the ids of the best."""
    best: dict[str, tuple[int, float, bytes, str]] = {}
    for example_id, ranked in every.items():
        for rank, (doc_id, value) in enumerate(ranked, start=1):
            key = (rank, -float(value), example_id.encode(), example_id)
            best[doc_id] = min(best.get(doc_id, key), key)
    order = sorted(best, key=lambda doc_id: (best[doc_id][0], best[doc_id][1], doc_id.encode()))
    return {d: (b[0], b[3], -b[1]) for d, b in best.items()}, set(order[:positives])


# -- data --------------------------------------------------------------------------------------------------------------


def vectors(n: int, dimension: int, seed: int, prefix: str) -> dict[str, list[float]]:
    """Some close together, every fifth the same as one before."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((4, dimension))[rng.integers(0, 4, n)] + rng.standard_normal((n, dimension))
    values[::5] = values[rng.integers(0, n, len(values[::5]))]
    names = rng.permutation(n)
    return {f"{prefix}{i:04d}": row.astype(np.float32).tolist() for i, row in zip(names, values, strict=True)}


def frame(spark: SparkSession, rows: dict[str, Any], key: str = "doc_id") -> DataFrame:
    return spark.createDataFrame(list(rows.items()), f"{key} string, embedding array<float>")


def ids_of(spark: SparkSession, rows: Iterable[str]) -> DataFrame:
    return spark.createDataFrame([(row,) for row in rows], "doc_id string")


def ranks_of(spark: SparkSession, rows: Pairs, k: int) -> DataFrame:
    listed = [
        (example_id, doc_id, rank, float(value))
        for example_id, ranked in rows.items()
        for rank, (doc_id, value) in enumerate(ranked[:k], start=1)
    ]
    return spark.createDataFrame(listed, "example_id string, doc_id string, rank int, similarity float")


def pairs_in(ranks: DataFrame) -> Pairs:
    out: Pairs = {}
    for row in sorted(ranks.collect(), key=lambda row: (row["example_id"], row["rank"])):
        out.setdefault(row["example_id"], []).append((row["doc_id"], np.float32(row["similarity"])))
        assert row["rank"] == len(out[row["example_id"]])
    return out


def as_examples(rows: dict[str, Any]) -> Examples:
    names = sorted(rows, key=str.encode)
    return Examples(names, unit([rows[name] for name in names]))


def k_best(documents: dict[str, Any], examples: Examples, k: int, blocks: Sequence[int]) -> Pairs:
    """The kernel alone: documents in blocks of these sizes, in turn; what it keeps, sorted."""
    best, rows, names = NearestDocuments(examples, k), unit(list(documents.values())), list(documents)
    sizes, start = cycle(blocks), 0
    while start < len(names):
        stop = start + next(sizes)
        best.add(pa.array(names[start:stop]), rows[start:stop])
        start = stop
    out: Pairs = {}
    for batch in best.pairs():
        for row in batch.to_pylist():
            out.setdefault(row["example_id"], []).append((row["doc_id"], np.float32(row["similarity"])))
    return {e: sorted(kept, key=lambda pair: (-pair[1], pair[0].encode())) for e, kept in out.items()}


def cut(every: Pairs, k: int) -> Pairs:
    return {example_id: ranked[:k] for example_id, ranked in every.items()}


# -- the kernel --------------------------------------------------------------------------------------------------------

# Few values and few dimensions: most similarities tie.
few = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)


@settings(max_examples=60, deadline=None)
@given(
    documents=st.dictionaries(st.text(max_size=3).filter(lambda t: t.isprintable()), few, min_size=1, max_size=40),
    examples=st.dictionaries(st.text("abé𐀀\uffff", max_size=2), few, min_size=1, max_size=5),
    k=st.integers(1, 50),
    blocks=st.lists(st.integers(1, 17), min_size=1, max_size=4),
    tile=st.integers(1, 64),
)
def test_k_best_are_those_of_a_full_sort_for_any_blocks_ties_and_ids(
    documents: dict[str, Any], examples: dict[str, Any], k: int, blocks: list[int], tile: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "TILE_PAIRS", tile)
        found = k_best(documents, as_examples(examples), k, blocks)
    assert found == cut(sorted_pairs(documents, examples), k)


@pytest.mark.parametrize("dimension", [1, 2, 7, 8, 9, 31, 384, 1024])
@pytest.mark.parametrize("n", [1, 63, 64, 65])
def test_k_best_are_exact_in_any_dimension_and_at_block_boundaries(dimension: int, n: int) -> None:
    documents, examples = vectors(n, dimension, n, "d"), vectors(3, dimension, 99, "e")
    every = sorted_pairs(documents, examples)
    for k in (1, 5, n, n + 10):
        assert k_best(documents, as_examples(examples), k, [64]) == cut(every, k)


def test_documents_closer_together_than_float32_products_can_tell_are_ranked_right() -> None:
    rng = np.random.default_rng(5)
    base = rng.standard_normal(768)
    documents = {f"d{i:03d}": (base + 1e-5 * rng.standard_normal(768)).tolist() for i in range(300)}
    examples = {f"e{i}": (base + rng.standard_normal(768)).tolist() for i in range(8)}
    every = sorted_pairs(documents, examples)
    assert k_best(documents, as_examples(examples), 20, [64]) == cut(every, 20)
    values = [value for _, value in every["e0"]]
    assert len(set(values)) > 5
    assert values[0] - values[-1] < ranking._margin(768)


@pytest.mark.parametrize("dimension", [1, 3, 64, 384, 1024])
def test_blas_stays_within_the_margin_of_the_kernel(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    for scale in (0.0, 1.0):  # all of one sign: the products add up, and so do their errors
        x = unit(np.abs(rng.standard_normal((50, dimension))) if scale else rng.standard_normal((50, dimension)))
        y = unit(np.abs(rng.standard_normal((60, dimension))) if scale else rng.standard_normal((60, dimension)))
        exact = ranking._every_similarity(x, y)
        assert np.abs((x @ y.T).astype(np.float64) - exact).max() <= ranking._margin(dimension)
        assert exact.tolist() == [[similarity(a, b) for b in y] for a in x]


def test_of_many_equal_documents_the_smallest_ids_stay() -> None:
    names = [f"d{i:05d}" for i in np.random.default_rng(0).permutation(3000)]
    documents = {name: [1.0, 2.0] for name in names}
    found = k_best(documents, as_examples({"e": [2.0, 1.0]}), 7, [512])
    assert [doc_id for doc_id, _ in found["e"]] == [f"d{i:05d}" for i in range(7)]


def test_a_floor_from_a_subset_changes_no_pair() -> None:
    documents, examples = vectors(400, 12, 1, "d"), as_examples(vectors(6, 12, 2, "e"))
    subset = k_best(dict(list(documents.items())[:60]), examples, 9, [64])
    floor = np.array([subset[example_id][-1][1] for example_id in examples.ids], np.float32)
    bounded = Examples(examples.ids, examples.matrix, floor, floor_k=9)
    for k in (3, 9):
        assert k_best(documents, bounded, k, [64]) == k_best(documents, examples, k, [64])
    with pytest.raises(ValueError, match="floor holds for k <= 9"):
        NearestDocuments(bounded, 10)


def test_length_of_an_embedding_changes_no_rank() -> None:
    documents, examples = vectors(100, 16, 3, "d"), as_examples(vectors(4, 16, 4, "e"))
    longer = {
        doc_id: (np.array(row) * 2.0 ** (i % 9 - 4)).tolist() for i, (doc_id, row) in enumerate(documents.items())
    }
    assert k_best(longer, examples, 10, [32]) == k_best(documents, examples, 10, [32])


# -- the stages --------------------------------------------------------------------------------------------------------

DOCUMENTS = vectors(230, 20, 7, "d")
EXAMPLES = vectors(9, 20, 8, "e")
EVERY = sorted_pairs(DOCUMENTS, EXAMPLES)


def shared_examples(spark: SparkSession, rows: dict[str, Any] | None = None) -> Any:
    return share(spark, collect_examples(frame(spark, rows or EXAMPLES, "example_id")))


@pytest.mark.connect
def test_ranks_are_those_of_a_full_sort(spark: SparkSession) -> None:
    ranks = rank_documents(frame(spark, DOCUMENTS), shared_examples(spark), k=12)
    assert ranks.columns == ["example_id", "doc_id", "rank", "similarity"]
    assert dict(ranks.dtypes) == {"example_id": "string", "doc_id": "string", "rank": "int", "similarity": "float"}
    assert pairs_in(ranks) == cut(EVERY, 12)


@pytest.mark.parametrize(("partitions", "batch"), [(1, 1000), (5, 7)])
def test_repartitioning_order_and_batch_size_change_no_rank(spark: SparkSession, partitions: int, batch: int) -> None:
    setting = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(setting)
    spark.conf.set(setting, str(batch))
    try:
        turned = frame(spark, dict(reversed(DOCUMENTS.items()))).repartition(partitions)
        assert pairs_in(rank_documents(turned, shared_examples(spark), k=5)) == cut(EVERY, 5)
    finally:
        spark.conf.set(setting, str(before))


def test_k_above_the_number_of_documents_ranks_them_all(spark: SparkSession) -> None:
    assert pairs_in(rank_documents(frame(spark, DOCUMENTS), shared_examples(spark), k=500)) == EVERY


def test_one_example_and_one_document_rank_first(spark: SparkSession) -> None:
    documents, examples = {"d": [0.6, 0.8]}, {"e": [3.0, 4.0]}
    found = pairs_in(rank_documents(frame(spark, documents), shared_examples(spark, examples), k=3))
    assert found == {"e": [("d", np.float32(1.0))]}


def test_a_floor_from_a_part_of_the_sample_changes_no_rank(spark: SparkSession) -> None:
    embeddings, examples = frame(spark, DOCUMENTS).repartition(4), shared_examples(spark)
    first = rank_documents(embeddings.where("doc_id < 'd0080'"), examples, k=6)
    bounded = with_floor(examples.value, first, k=6)
    assert bounded.floor is not None
    assert np.isfinite(bounded.floor).all()
    assert pairs_in(rank_documents(embeddings, share(spark, bounded), k=6)) == cut(EVERY, 6)


@pytest.mark.connect
def test_a_floor_drawn_by_hash_changes_no_rank(spark: SparkSession) -> None:
    embeddings, examples = frame(spark, DOCUMENTS).repartition(4), shared_examples(spark).value
    for k in (2, 6):
        bounded = with_sampled_floor(embeddings, examples, k=k)
        assert bounded.floor is not None and bounded.floor_k == k
        assert k > 2 or np.isfinite(bounded.floor).all()
        assert pairs_in(rank_documents(embeddings, share(spark, bounded), k=k)) == cut(EVERY, k)


def test_best_rank_names_the_more_similar_example_then_the_lower_id(spark: SparkSession) -> None:
    rows = [("b", "x", 2, 0.5), ("a", "x", 2, 0.5), ("c", "x", 2, 0.25), ("d", "x", 3, 0.9), ("c", "y", 1, -0.5)]
    rows += [("a", "z", 1, 0.1), ("b", "z", 1, 0.2)]
    ranks = spark.createDataFrame(rows, "example_id string, doc_id string, rank int, similarity float")
    assert sorted(tuple(row) for row in best_ranks(ranks).collect()) == [
        ("x", 2, "a", 0.5), ("y", 1, "c", -0.5), ("z", 1, "b", float(np.float32(0.2)))
    ]  # fmt: skip


@pytest.mark.connect
@pytest.mark.parametrize("fraction", [0.001, 0.37])
def test_labels_are_those_of_a_plain_sort_and_k_does_not_matter(spark: SparkSession, fraction: float) -> None:
    positives = max(1, math.floor(fraction * len(DOCUMENTS) + 0.5))
    best, chosen = plain_labels(EVERY, positives)
    sample = ids_of(spark, DOCUMENTS)
    enough = max(best[doc_id][0] for doc_id in chosen)
    for k in (enough, len(DOCUMENTS)):
        ranks = ranks_of(spark, EVERY, k)
        cutoff = find_cutoff(sample, ranks, k=k, positive_fraction=fraction)
        assert (cutoff.rank, cutoff.positives, cutoff.documents) == (enough, positives, len(DOCUMENTS))
        labels = label_documents(sample, ranks, cutoff=cutoff)
        assert ", ".join(f"{n} {t}" for n, t in labels.dtypes) in ranking.SAMPLE_LABELS.schema
        rows = labels.collect()
        assert len(rows) == len(DOCUMENTS)
        assert {row["doc_id"] for row in rows if row["label"] == 1} == chosen
        assert {row["label"] for row in rows} == {0, 1}
        for row in rows:
            known = best[row["doc_id"]] if best[row["doc_id"]][0] <= k else (None, None, None)
            assert (row["best_rank"], row["nearest_example_id"], row["similarity"], row["relevance"]) == (*known, None)


def test_ties_at_the_cutoff_go_to_the_more_similar_then_the_lower_id(spark: SparkSession) -> None:
    rows = [(f"e{i}", f"d{i}", 1, 0.5) for i in (3, 1, 4, 2)] + [("e9", "d9", 1, 0.75), ("e1", "d0", 2, 0.25)]
    ranks = spark.createDataFrame(rows, "example_id string, doc_id string, rank int, similarity float")
    sample = ids_of(spark, [f"d{i}" for i in range(10)])
    cutoff = find_cutoff(sample, ranks, k=2, positive_fraction=0.3)
    assert cutoff == Cutoff("d2", 3, 10, rank=1, similarity=0.5)
    labels = label_documents(sample, ranks, cutoff=cutoff)
    assert sorted(row["doc_id"] for row in labels.where("label = 1").collect()) == ["d1", "d2", "d9"]


@pytest.mark.connect
def test_a_cutoff_beyond_k_asks_for_a_larger_k_until_it_is_reached(spark: SparkSession) -> None:
    sample, k = ids_of(spark, DOCUMENTS), 1
    enough = max(rank for rank, _, _ in plain_labels(EVERY, 1)[0].values())
    while k < enough:
        with pytest.raises(CutoffBeyondK, match="rank again with k") as beyond:
            find_cutoff(sample, ranks_of(spark, EVERY, k), k=k, positive_fraction=0.999)
        assert beyond.value.next_k >= min(2 * k, len(DOCUMENTS))
        k = beyond.value.next_k
    cutoff = find_cutoff(sample, ranks_of(spark, EVERY, k), k=k, positive_fraction=0.999)
    labels = label_documents(sample, ranks_of(spark, EVERY, k), cutoff=cutoff)
    assert {row["doc_id"] for row in labels.where("label = 1").collect()} == plain_labels(EVERY, cutoff.positives)[1]


@pytest.mark.connect
@pytest.mark.parametrize("aggregation", ["mean_reciprocal", "mean_log"])
def test_mean_relevance_is_the_mean_over_full_ranks(
    spark: SparkSession, aggregation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "PAIRS_PER_TASK", 4 * len(DOCUMENTS))  # three parts
    wanted = dict.fromkeys(DOCUMENTS, 0.0)
    for ranked in EVERY.values():
        for rank, (doc_id, _) in enumerate(ranked, start=1):
            wanted[doc_id] += (1 / rank if aggregation == "mean_reciprocal" else -math.log2(rank)) / len(EVERY)
    found = []
    for partitions in (1, 5):
        embeddings = frame(spark, DOCUMENTS).repartition(partitions)
        relevance = mean_relevance(
            embeddings, shared_examples(spark), n_documents=len(DOCUMENTS), aggregation=aggregation
        )
        found.append({row["doc_id"]: row["relevance"] for row in relevance.collect()})
    assert found[0] == found[1]
    assert found[0] == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.connect
@pytest.mark.parametrize(("bins", "small"), [(4096, 16384), (3, 16)])
def test_relevance_cutoff_is_that_of_a_plain_sort(
    spark: SparkSession, bins: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BINS", bins)
    monkeypatch.setattr(ranking, "SMALL_BIN", small)
    rng = np.random.default_rng(2)
    values = {f"d{i:03d}": float(rng.choice([-9.5, -0.25, 0.1, 0.1 + 1e-16, 0.3, rng.random()])) for i in range(120)}
    relevance = spark.createDataFrame(list(values.items()), "doc_id string, relevance double")
    order = sorted(values, key=lambda doc_id: (-values[doc_id], doc_id))
    sample, ranks = ids_of(spark, values), ranks_of(spark, {"e": [(order[0], np.float32(0.5))]}, 1)
    for fraction in (0.01, 0.6):
        positives = max(1, math.floor(fraction * 120 + 0.5))
        cutoff = find_relevance_cutoff(relevance, positive_fraction=fraction)
        assert cutoff == Cutoff(order[positives - 1], positives, 120, relevance=values[order[positives - 1]])
    labels = label_documents(sample, ranks, cutoff=cutoff, relevance=relevance).collect()
    assert {row["doc_id"] for row in labels if row["label"] == 1} == set(order[:positives])
    assert {row["doc_id"]: row["relevance"] for row in labels} == values


def test_means_over_too_many_pairs_are_refused(spark: SparkSession) -> None:
    with pytest.raises(InputError, match=r"9 examples x 10,000,000,000 documents exceed 17,179,869,184"):
        mean_relevance(frame(spark, DOCUMENTS), shared_examples(spark), n_documents=10**10, aggregation="mean_log")
    with pytest.raises(InputError, match="aggregation must be one of"):
        mean_relevance(frame(spark, DOCUMENTS), shared_examples(spark), n_documents=230, aggregation="max")


def test_fewer_than_one_document_an_example_is_refused(spark: SparkSession) -> None:
    with pytest.raises(InputError, match="k must be at least 1; got 0"):
        rank_documents(frame(spark, DOCUMENTS), shared_examples(spark), k=0)


def test_a_sample_that_is_empty_or_not_embedded_whole_is_refused(spark: SparkSession) -> None:
    with pytest.raises(InputError, match="corpus_sample: no documents to label; sample some documents first"):
        find_cutoff(0, ranks_of(spark, {}, 1), k=1)
    some = frame(spark, dict(list(DOCUMENTS.items())[:3]))
    relevance = mean_relevance(some, shared_examples(spark), n_documents=4, aggregation="mean_log")
    with pytest.raises(InputError, match="3 embeddings for 4 documents; embed the whole sample first"), input_errors():
        relevance.collect()


def test_nearest_example_is_the_most_similar_and_the_lower_id_of_equals(spark: SparkSession) -> None:
    examples = {**EXAMPLES, "e9998": EXAMPLES["e0001"], "a0": EXAMPLES["e0003"]}
    every = sorted_pairs(examples, DOCUMENTS)  # each document ranks the examples
    found = nearest_examples(frame(spark, DOCUMENTS).repartition(3), shared_examples(spark, examples))
    assert found.columns == ["doc_id", "example_id", "similarity"]
    assert {row["doc_id"]: (row["example_id"], np.float32(row["similarity"])) for row in found.collect()} == {
        doc_id: ranked[0] for doc_id, ranked in every.items()
    }


@pytest.mark.parametrize(
    ("embedding", "said"),
    [
        ([1.0, math.nan], "ranking: document bad has an embedding with NaN or infinite values"),
        ([1.0, math.inf], "ranking: document bad has an embedding with NaN or infinite values"),
        ([1.0, None], "ranking: document bad has an embedding with NaN or infinite values"),
        ([0.0, 0.0], "ranking: document bad has an embedding with zeros only"),
        ([1.0, 0.0, 0.0], "ranking: document bad has an embedding of dimension 3, others have 2"),
        ([], "ranking: document bad has an embedding of dimension 0, others have 2"),
        (None, "ranking: document bad has no embedding"),
    ],
)
def test_an_embedding_without_a_direction_is_refused_by_its_id(embedding: Any, said: str) -> None:
    rows = [["before", "good", "bad", "fine"], [[], [1.0, 2.0], embedding, [2.0, 1.0]]]
    columns = [pa.array(rows[0]), pa.array(rows[1], pa.list_(pa.float32()))]
    batch = pa.record_batch(columns, ["doc_id", "embedding"]).slice(1)
    with pytest.raises(ValueError, match=said):
        list(ranking._blocks(iter([batch]), 2))


@pytest.mark.connect
def test_nan_in_an_embedding_is_refused_in_the_worker_and_on_the_driver(spark: SparkSession) -> None:
    rows = {"a": [1.0, 2.0], "bad": [math.nan, 1.0], "fine": [2.0, 1.0]}
    with pytest.raises(Exception, match="ranking: document bad has an embedding with NaN"):
        rank_documents(frame(spark, rows), shared_examples(spark, {"e": [1.0, 0.0]}), k=1).collect()
    with pytest.raises(InputError, match="ranking: example bad has an embedding with NaN"):
        collect_examples(frame(spark, rows, "example_id"))
    with pytest.raises(InputError, match="ranking: example c has an embedding of dimension 3, others have 2"):
        collect_examples(frame(spark, {"a": [1.0, 2.0], "c": [1.0, 2.0, 3.0]}, "example_id"))


def test_examples_are_sorted_unit_rows_and_each_comes_once(spark: SparkSession) -> None:
    examples = collect_examples(frame(spark, {"é": [0.0, 2.0], "z": [3.0, 4.0], "𐀀": [1.0, 0.0]}, "example_id"))
    assert examples.ids == ["z", "é", "𐀀"]
    assert examples.matrix.tolist() == np.array([[0.6, 0.8], [0.0, 1.0], [1.0, 0.0]], np.float32).tolist()
    twice = frame(spark, {"a": [1.0, 0.0]}, "example_id")
    with pytest.raises(InputError, match="example a comes twice"):
        collect_examples(twice.union(twice))
    with pytest.raises(InputError, match="no rows"):
        collect_examples(twice.where("false"))


def test_suggested_k_covers_the_papers_cutoff_and_never_exceeds_the_sample() -> None:
    assert 200 < suggested_k(10_000_000, 14_000) < 1000
    assert suggested_k(20_000, 28) >= 87
    assert suggested_k(10, 3) == 10
    assert suggested_k(20_000, 2_000) >= 16


def test_examples_above_one_percent_of_the_sample_are_warned_of() -> None:
    assert warn_if_dense(20_000, 200) is None
    said = warn_if_dense(20_000, 400)
    assert said is not None
    assert "2.0%" in said
    assert "sample 40,000 documents (cutoff rank at least 10)" in said


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, math.nan])
def test_a_positive_fraction_outside_zero_and_one_is_refused(spark: SparkSession, fraction: float) -> None:
    with pytest.raises(InputError, match=r"positive fraction must lie in \(0, 1\)"):
        find_cutoff(ids_of(spark, ["d"]), ranks_of(spark, {}, 1), k=1, positive_fraction=fraction)
