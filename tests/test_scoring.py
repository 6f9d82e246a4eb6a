"""Scoring a frame: the same numbers as the classifier alone, however the rows are cut."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import floor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from tokenizers import Tokenizer, models, pre_tokenizers

from betr.classifier import FoldedClassifier, TrainingConfig, train_classifier
from betr.scoring import BytesPerToken, ExactTokens, calibrate_bytes_per_token, score_documents
from curation.errors import InputError
from curation.session import share

TEXTS = [
    "the task text",
    None,
    "",
    "unknown words",
    "naïve 数学 🙂",
    "a\nb\nc",
    *[f"the {i} text of task {i % 7}" for i in range(60)],
]


@pytest.fixture(scope="module")
def classifier() -> FoldedClassifier:
    documents = [(f"the task text {i % 5}", 1) for i in range(20)] + [(f"of other {i % 5}", 0) for i in range(20)]
    return train_classifier(documents, TrainingConfig(dim=4, learning_rate=1.0, min_count=1, buckets=100))[0]


@pytest.fixture(scope="module")
def documents(spark: SparkSession) -> DataFrame:
    rows = [(f"d{i:03}", text, f"c{i % 3}", {"domain": "x"}) for i, text in enumerate(TEXTS)]
    return spark.createDataFrame(rows, "doc_id string, text string, chunk string, metadata map<string,string>")


def rows_of(frame: DataFrame) -> list[Any]:
    return sorted(map(tuple, frame.collect()))


@contextmanager
def batch_size(spark: SparkSession, rows: int) -> Iterator[None]:
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, str(rows))
    try:
        yield
    finally:
        spark.conf.set(key, str(before))


@pytest.mark.connect
def test_each_document_scores_as_the_classifier_alone(
    spark: SparkSession, documents: DataFrame, classifier: FoldedClassifier
) -> None:
    scored = score_documents(documents, classifier=share(spark, classifier.to_bytes()), tokens=BytesPerToken(4.0))
    assert scored.schema.simpleString() == "struct<doc_id:string,score:double,tokens:bigint>"
    expected = [
        (f"d{i:03}", None, None)
        if text is None
        else (f"d{i:03}", float(classifier.score(pa.array([text]))[0]), max(1, floor(len(text.encode()) / 4 + 0.5)))
        for i, text in enumerate(TEXTS)
    ]
    assert rows_of(scored) == expected


def test_partitioning_order_and_batch_size_change_no_score(
    spark: SparkSession, documents: DataFrame, classifier: FoldedClassifier
) -> None:
    shared = share(spark, classifier.to_bytes())
    expected = rows_of(score_documents(documents, classifier=shared, tokens=BytesPerToken(3.7)))
    for rows, frame in (
        (1, documents),
        (7, documents.repartition(5)),
        (10_000, documents.orderBy(documents.doc_id.desc()).coalesce(1)),
    ):
        with batch_size(spark, rows):
            assert rows_of(score_documents(frame, classifier=shared, tokens=BytesPerToken(3.7))) == expected


@pytest.mark.connect
def test_kept_columns_pass_through_unchanged(
    spark: SparkSession, documents: DataFrame, classifier: FoldedClassifier
) -> None:
    shared = share(spark, classifier.to_bytes())
    scored = score_documents(documents, classifier=shared, tokens=BytesPerToken(4.0), keep=("chunk", "metadata"))
    assert scored.columns == ["doc_id", "score", "tokens", "chunk", "metadata"]
    kept = scored.select("doc_id", "chunk", "metadata").collect()
    assert sorted(map(tuple, kept)) == [(f"d{i:03}", f"c{i % 3}", {"domain": "x"}) for i in range(len(TEXTS))]


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """Words and punctuation; a truncation and a padding that counting must not obey."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.enable_truncation(3)
    made.enable_padding(length=9)
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


@pytest.mark.connect
def test_exact_tokens_count_the_whole_text(
    spark: SparkSession, documents: DataFrame, classifier: FoldedClassifier, tokenizer: str
) -> None:
    counter = ExactTokens.load(tokenizer)
    Path(tokenizer, "tokenizer.json").unlink()  # executors must not need the file
    scored = score_documents(documents, classifier=share(spark, classifier.to_bytes()), tokens=counter)
    assert [row[2] for row in rows_of(scored.na.fill(-1, ["score"]))] == [
        None if text is None else len(text.split()) for text in TEXTS
    ]


def test_calibrated_ratio_is_all_bytes_over_all_tokens(tokenizer: str) -> None:
    assert calibrate_bytes_per_token(["the cat", "über"], tokenizer) == (7 + 5) / 3
    with pytest.raises(InputError, match="finds no token in 2 sampled texts"):
        calibrate_bytes_per_token(["", " "], tokenizer)


@given(texts=st.lists(st.one_of(st.none(), st.text(max_size=9))), ratio=st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_bytes_per_token_rounds_half_up_and_is_at_least_one(texts: list[str | None], ratio: float) -> None:
    expected = [None if text is None else max(1, floor(len(text.encode()) / ratio + 0.5)) for text in texts]
    for kind in (pa.string(), pa.large_string()):
        assert BytesPerToken(ratio).count(pa.array(texts, kind)).to_pylist() == expected


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ratio_that_is_no_positive_number_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="bytes per token must be a positive number"):
        BytesPerToken(ratio)


def test_an_unreadable_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer .*missing"):
        ExactTokens.load(str(tmp_path / "missing" / "tokenizer"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="definition can't be read"):
        ExactTokens.load(str(tmp_path))
