"""Scoring a frame: the same numbers as the classifier alone, however the rows are cut."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import floor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from tokenizers import Tokenizer, models, pre_tokenizers

from betr.classifier import FoldedClassifier, TrainingConfig, train_classifier
from betr.file_scoring import DataFile, check_files, choose_way, cut_batch, list_files, plan, score_files
from betr.scoring import BytesPerToken, ExactTokens, calibrate_bytes_per_token, score_documents
from curation.errors import InputError, MissingExtraError, input_errors
from curation.session import share
from curation.tables import Tables, TableSpec

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


def test_without_the_libraries_the_extra_that_brings_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, said in [
        ("huggingface_hub", "house/model", "the tokenizer 'house/model' needs the extra 'embedding', which isn't installed"),
        ("tokenizers", str(tmp_path), "counting tokens with a tokenizer needs the extra 'embedding', which isn't installed"),
    ]:
        (tmp_path / "tokenizer.json").write_text('{"of": "this test"}')
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingExtraError, match=said):
            ExactTokens.load(name)


def test_an_unreadable_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer .*missing"):
        ExactTokens.load(str(tmp_path / "missing" / "tokenizer"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=rf"the definition of the tokenizer '{tmp_path}' can't be read \(.*; give a tokenizer\.json"):
        ExactTokens.load(str(tmp_path))


# -- heads -------------------------------------------------------------------------------------------------------------

NAMES = ("arc", "böölq")


@pytest.fixture(scope="module")
def heads(classifier: FoldedClassifier) -> tuple[FoldedClassifier, ...]:
    """The classifier for all targets, and two heads: the same features, other words and weights."""
    config = TrainingConfig(dim=4, learning_rate=1.0, min_count=1, buckets=100)
    made = []
    for word in ("naïve", "task"):
        documents = [(f"{word} text {i % 7}", 1) for i in range(20)] + [(f"the other {i % 3}", 0) for i in range(20)]
        made.append(train_classifier(documents, config)[0])
    return classifier, *made


@pytest.mark.connect
def test_heads_score_beside_in_the_same_pass_and_change_no_score(
    spark: SparkSession, stored: Path, heads: tuple[FoldedClassifier, ...]
) -> None:
    documents = Tables(spark, str(stored)).read(STORED)
    given: dict[str, Any] = {
        "classifier": share(spark, tuple(each.to_bytes() for each in heads)), "tokens": BytesPerToken(3.7),
        "keep": KEPT, "heads": NAMES,
    }
    with batch_size(spark, 7):
        through = score_documents(documents, **given)
        expected = settled(through)
    shares = plan(list_files(documents, ("chunk",)), ("doc_id", "text", *KEPT), tasks=3)
    by_files = score_files(spark, shares, documents.schema, **given, batch_bytes=40)
    assert through.columns == ["doc_id", "score", "tokens", *KEPT, "heads"]
    assert by_files.schema == through.schema
    assert settled(by_files) == expected and len(expected) == 132

    main, *others = (each.score(pa.array(TEXTS)) for each in heads)
    for row in through.collect():
        i = int(row["doc_id"][1:]) % len(TEXTS)
        if TEXTS[i] is None:
            assert row["score"] is None and row["heads"] is None
        else:
            assert row["score"] == main[i]
            assert list(row["heads"].items()) == [(name, float(s[i])) for name, s in zip(NAMES, others, strict=True)]


# -- files in the task -------------------------------------------------------------------------------------------------

CHUNKS = ("c 0%", "c1/ü", "c2")
STORED = TableSpec(
    "documents",
    key=("doc_id",),
    schema="doc_id string, text string, source string, metadata map<string,string>, bytes int, chunk string",
    partition_by=("chunk",),
)
KEPT = ("chunk", "source", "metadata", "bytes")


@pytest.fixture(scope="module")
def stored(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Delta table: three partitions of two files, each of several row groups; nulls in all columns but the key."""
    root = tmp_path_factory.mktemp("stored")
    rows = [
        (f"d{i:03}", text, None if i % 5 == 0 else f"s{i % 2}", {"k": str(i)} if i % 4 else None, i if i % 3 else None)
        for i, text in enumerate(TEXTS * 2)
    ]
    frame = spark.createDataFrame(
        [(*row, CHUNKS[i % 3]) for i, row in enumerate(rows)], STORED.schema
    )
    Tables(spark, str(root)).append(STORED, frame.repartition(2), keys_are_unique=True)
    for file in sorted((root / "documents").glob("chunk=*/*.parquet")):
        pq.write_table(pq.ParquetFile(file).read(), root / "file", row_group_size=7)
        shutil.move(root / "file", file)
    # The log must know the files as they are now.
    shutil.rmtree(root / "documents" / "_delta_log")
    for sums in (root / "documents").rglob("*.crc"):
        sums.unlink()
    spark.sql(f"CONVERT TO DELTA parquet.`{root}/documents` PARTITIONED BY (chunk string)")
    return root


@pytest.fixture
def own(stored: Path, tmp_path: Path) -> Path:
    """A copy of `stored` to change."""
    return Path(shutil.copytree(stored, tmp_path / "own"))


def scored_by_files(
    spark: SparkSession, frame: DataFrame, classifier: FoldedClassifier, *, tasks: int = 2, batch_bytes: int = 2**23
) -> DataFrame:
    shares = plan(list_files(frame, ("chunk",)), ("doc_id", "text", *KEPT), tasks=tasks)
    return score_files(
        spark, shares, frame.schema, classifier=share(spark, classifier.to_bytes()), tokens=BytesPerToken(3.7),
        keep=KEPT, batch_bytes=batch_bytes,
    )  # fmt: skip


def settled(frame: DataFrame) -> list[str]:
    return sorted(map(repr, frame.collect()))


@pytest.mark.connect
def test_files_in_the_task_give_the_rows_that_spark_gives(
    spark: SparkSession, stored: Path, classifier: FoldedClassifier
) -> None:
    documents = Tables(spark, str(stored)).read(STORED)
    for frame in (documents, documents.where(documents.chunk == CHUNKS[1])):
        through = score_documents(
            frame, classifier=share(spark, classifier.to_bytes()), tokens=BytesPerToken(3.7), keep=KEPT
        )
        expected = settled(through)
        assert len(expected) in (132, 44)
        for tasks, batch_bytes in ((1, 1), (2, 40), (50, 2**23)):
            scored = scored_by_files(spark, frame, classifier, tasks=tasks, batch_bytes=batch_bytes)
            assert scored.schema == through.schema
            assert settled(scored) == expected, (tasks, batch_bytes)


def test_row_groups_are_shared_out_whole_and_evenly(spark: SparkSession, stored: Path) -> None:
    files = list_files(Tables(spark, str(stored)).read(STORED), ("chunk",))
    assert sum(file.rows for file in files) == 132 and {file.partition["chunk"] for file in files} == set(CHUNKS)
    groups = {(file.path, n) for file in files for n in range(-(-file.rows // 7))}
    for tasks in (1, 3, 1000):
        shares = plan(files, ("doc_id", "text"), tasks=tasks)
        assert len(shares) == min(tasks, len(groups))
        assert sorted((u.file.path, n) for share in shares for u in share for n in u.groups) == sorted(groups)
        loads = [sum(u.bytes for u in share) for share in shares]
        assert max(loads) - min(loads) <= max(u.bytes / len(u.groups) for share in shares for u in share) * 2
    assert plan([], ("doc_id", "text"), tasks=4) == []


@given(texts=st.lists(st.one_of(st.none(), st.text(max_size=9))), limit=st.integers(1, 30))
def test_a_batch_is_cut_by_bytes_and_loses_nothing(texts: list[str | None], limit: int) -> None:
    batch = pa.record_batch({"text": pa.array(texts, pa.string()), "i": pa.array(range(len(texts)), pa.int64())})
    parts = list(cut_batch(batch, limit))
    assert [row for part in parts for row in part.to_pylist()] == batch.to_pylist()
    for part in parts:
        assert len(part) == 1 or sum(len((t or "").encode()) for t in part["text"].to_pylist()) <= limit
    assert all(map(len, parts))


@pytest.mark.connect
def test_a_pinned_version_reads_the_files_that_it_had(
    spark: SparkSession, own: Path, classifier: FoldedClassifier
) -> None:
    tables = Tables(spark, str(own))
    version = tables.version(STORED)
    before = settled(scored_by_files(spark, tables.read(STORED), classifier))
    tables.replace(STORED, tables.read(STORED).limit(3), where="true", keys_are_unique=True)
    assert len(settled(scored_by_files(spark, tables.read(STORED), classifier))) == 3
    assert settled(scored_by_files(spark, tables.read(STORED, version), classifier)) == before


@pytest.mark.processes  # under Spark Connect, which allows less
def test_deletion_vectors_and_mapped_columns_go_through_spark_and_say_so(spark: SparkSession, own: Path) -> None:
    tables = Tables(spark, str(own))
    name = tables.location(STORED)
    assert choose_way(tables, STORED) == ("files", "the files lie on this machine's disk")
    assert choose_way(tables, STORED, "files") == ("files", "--read files")
    assert choose_way(tables, STORED, "spark") == ("spark", "--read spark")

    shutil.copytree(own / "documents", own / "mapped")
    mapped = TableSpec("mapped", STORED.key, STORED.schema, STORED.partition_by)
    spark.sql(
        f"ALTER TABLE {tables.location(mapped)} SET TBLPROPERTIES "
        "('delta.columnMapping.mode' = 'name', 'delta.minReaderVersion' = '2', 'delta.minWriterVersion' = '5')"
    )
    assert choose_way(tables, mapped) == ("spark", "its columns are mapped by name")

    spark.sql(f"ALTER TABLE {name} SET TBLPROPERTIES (delta.enableDeletionVectors = true)")
    spark.sql(f"DELETE FROM {name} WHERE doc_id = 'd006'")
    assert list((own / "documents").rglob("deletion_vector*.bin"))
    assert choose_way(tables, STORED) == ("spark", "it may have deletion vectors")
    with pytest.raises(InputError, match="documents can't be read by its files: it may have deletion vectors; use"):
        choose_way(tables, STORED, "files")
    # Even if a table kept quiet about them: the rows of its files are more than it counts.
    tables = Tables(spark, str(own))
    with pytest.raises(InputError, match=r"holds \d+ rows, of which the table counts \d+: score with --read spark"):
        plan(list_files(tables.read(STORED), ("chunk",)), ("doc_id", "text"), tasks=1)


def test_what_executors_may_not_see_goes_through_spark(
    spark: SparkSession, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_way(Tables(spark, "s3a://bucket/root"), STORED) == ("spark", "the tables aren't on this machine's disk")
    catalog = Tables(spark, "some.schema_")
    assert choose_way(catalog, STORED) == ("spark", "a catalog may filter rows and hide columns")
    with pytest.raises(InputError, match="a catalog may filter"):
        choose_way(catalog, STORED, "files")
    monkeypatch.setattr("betr.file_scoring.is_local_session", lambda _: False)
    way, why = choose_way(Tables(spark, str(stored)), STORED)
    assert (way, why) == ("spark", "executors on other machines may not see this machine's disk")
    with pytest.raises(InputError, match=r"--read files: pyarrow doesn't know the store of s3a://bucket/root/file\.parquet; use"):
        check_files([DataFile("s3a://bucket/root/file.parquet", 1, 1)])


def remove(file: Path) -> None:
    file.unlink()


def grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"x")


def rewrite(file: Path) -> None:
    file.write_bytes(file.read_bytes())
    os.utime(file, ns=(0, 0))


@pytest.mark.connect
@pytest.mark.parametrize(("befalls", "told"), [(remove, "has vanished"), (grow, "has changed"), (rewrite, "has changed")])
def test_a_file_that_vanishes_or_changes_after_it_was_planned_is_named(
    spark: SparkSession, own: Path, classifier: FoldedClassifier, befalls: Callable[[Path], None], told: str
) -> None:
    documents = Tables(spark, str(own)).read(STORED)
    files = list_files(documents, ("chunk",))
    scored = scored_by_files(spark, documents, classifier)
    befalls(Path(files[1].path))
    with pytest.raises(InputError, match=rf"{files[1].path} {told}.*and run again$"), input_errors():
        scored.collect()
    if befalls is rewrite:  # the same size: only who saw it before can tell
        check_files(files)
    else:
        for look in (check_files, lambda files: plan(files, ("doc_id", "text"), tasks=2)):
            with pytest.raises(InputError, match=rf"{files[1].path} {told}"):
                look(files)


def test_a_file_without_a_column_or_with_a_broken_footer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"doc_id": ["a"]}), file)
    with pytest.raises(InputError, match=r"a.parquet has no column 'text'; it has \['doc_id'\]"):
        plan([DataFile(str(file), file.stat().st_size, 1)], ("doc_id", "text"), tasks=1)
    with pytest.raises(InputError, match=r"xxx can't be read \(.*\): score with --read spark"):
        check_files([DataFile(f"{tmp_path}/{'x' * 300}", 1, 1)])
    file.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"a.parquet is cut short or not what its name says"):
        plan([DataFile(str(file), 10, 1)], ("doc_id",), tasks=1)
