"""curation/sampling.py: the same sample for any partitioning, exact counts, larger samples hold the smaller."""

import pytest
from pyspark.sql import DataFrame, SparkSession
from scipy import stats

from curation.errors import InputError
from curation.sampling import CORPUS_SAMPLE, hash_fraction, sample_documents, share_for_count

N = 4000


@pytest.fixture
def documents(spark: SparkSession) -> DataFrame:
    return spark.range(0, N, 1, 3).selectExpr("concat('doc-', id) AS doc_id", "concat('text ', id) AS text")


def positions(documents: DataFrame, seed: int, salt: str = "") -> dict[str, float]:
    return dict(documents.select("doc_id", hash_fraction("doc_id", seed, salt)).collect())  # type: ignore[arg-type]


def sampled(documents: DataFrame, seed: int, below: float, last_id: str = "") -> set[str]:
    return {row["doc_id"] for row in sample_documents(documents, seed=seed, below=below, last_id=last_id).collect()}


def test_positions_are_uniform_and_unrelated_between_seeds_and_salts(documents: DataFrame) -> None:
    first, second, salted = positions(documents, 1), positions(documents, 2), positions(documents, 1, "split")
    for found in (first, second, salted):
        assert stats.kstest(list(found.values()), "uniform").pvalue > 0.001
        assert len(set(found.values())) == N
        assert all(0 <= value < 1 for value in found.values())
    for other in (second, salted):
        assert abs(stats.spearmanr(list(first.values()), [other[doc_id] for doc_id in first]).statistic) < 0.06


def test_the_low_bits_of_a_position_are_uniform_too(documents: DataFrame) -> None:
    low = [(value * 2**30) % 1 for value in positions(documents, 3).values()]
    assert stats.kstest(low, "uniform").pvalue > 0.001


@pytest.mark.connect
def test_a_sample_has_its_tables_columns_and_holds_what_lies_below(documents: DataFrame, spark: SparkSession) -> None:
    sample = sample_documents(documents, seed=5, below=0.25)
    assert sample.schema.names == CORPUS_SAMPLE.struct(spark).names
    expected = {doc_id: place for doc_id, place in positions(documents, 5).items() if place < 0.25}
    assert {row["doc_id"]: row["position"] for row in sample.collect()} == expected
    row = sample.where("doc_id = 'doc-7'").first() or sample.first()
    assert row is not None
    assert row["text"] == row["doc_id"].replace("doc-", "text ")
    assert row["seed"] == 5


def test_repartitioning_changes_no_sample(documents: DataFrame) -> None:
    assert sampled(documents.repartition(7, "text"), 5, 0.1) == sampled(documents, 5, 0.1)


def test_a_larger_sample_holds_the_smaller(documents: DataFrame) -> None:
    small, large = (sampled(documents, 5, *share_for_count(documents, seed=5, count=n)) for n in (100, 300))
    assert small < large


@pytest.mark.connect
@pytest.mark.parametrize("count", [1, 777, N])
def test_a_count_is_met_exactly_by_the_lowest_positions(documents: DataFrame, count: int) -> None:
    below, last_id = share_for_count(documents, seed=9, count=count)
    ordered = sorted((place, doc_id) for doc_id, place in positions(documents, 9).items())
    assert (below, last_id) == ordered[count - 1]
    assert sampled(documents, 9, below, last_id) == {doc_id for _, doc_id in ordered[:count]}


@pytest.mark.connect
def test_documents_at_one_position_are_told_apart_by_id(documents: DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.sql import functions as F

    monkeypatch.setattr("curation.sampling.hash_fraction", lambda *_: F.lit(0.5))
    few = documents.limit(50)
    first = sorted(row["doc_id"] for row in few.collect())[:20]
    below, last_id = share_for_count(few, seed=1, count=20)
    assert (below, last_id) == (0.5, first[-1])
    assert sampled(few, 1, below, last_id) == set(first)


def test_a_corpus_too_small_for_the_count_is_refused(documents: DataFrame) -> None:
    with pytest.raises(InputError, match=r"asks for 4,001 documents, but the corpus holds 4,000; ask for fewer"):
        share_for_count(documents, seed=1, count=N + 1)


def test_counts_and_shares_outside_their_range_are_refused(documents: DataFrame) -> None:
    with pytest.raises(InputError, match="at least 1 document; got 0"):
        share_for_count(documents, seed=1, count=0)
    for below in (0.0, 1.5, -0.1, float("nan")):
        with pytest.raises(InputError, match=r"in \(0, 1\]"):
            sample_documents(documents, seed=1, below=below)


def test_the_whole_share_is_the_whole_corpus(documents: DataFrame) -> None:
    assert len(sampled(documents, 1, 1.0)) == N
