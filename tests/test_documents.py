"""curation/documents.py: every row becomes a document, a rejection or a duplicate, whatever the splits and the order."""

import gzip
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from curation.documents import (
    DOCUMENTS,
    DUPLICATE_DOCUMENTS,
    MAX_CHUNKS,
    REJECTED_DOCUMENTS,
    Columns,
    InputFile,
    import_id,
    list_inputs,
    n_chunks,
    parse_columns,
    read_rows,
    to_documents,
)
from curation.errors import InputError, SchemaError, input_errors

Row = dict[str, Any]
Result = dict[str, list[Row]]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def json_lines(rows: Iterable[Row | bytes]) -> bytes:
    return b"".join(
        (row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()) + b"\n" for row in rows
    )


def write(path: Path, rows: Iterable[Row | bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = json_lines(rows)
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return str(path)


def collected(frames: tuple[DataFrame, DataFrame, DataFrame]) -> Result:
    names = ("documents", "rejected", "duplicates")
    order = {"documents": ("doc_id",), "rejected": ("file", "row"), "duplicates": ("file", "row")}
    return {
        name: sorted((row.asDict() for row in frame.collect()), key=lambda row: [row[key] for key in order[name]])
        for name, frame in zip(names, frames, strict=True)
    }


def imported(
    spark: SparkSession,
    paths: list[str],
    columns: Columns = Columns(),  # noqa: B008 - frozen
    existing: DataFrame | None = None,
    **options: Any,
) -> Result:
    limit = {key: options[key] for key in ("max_bytes",) if key in options}
    rows = read_rows(spark, list_inputs(spark, paths), columns, **limit)
    return collected(to_documents(rows, existing, import_id="run", n_chunks=4, **limit))


def reasons(result: Result) -> dict[int, str]:
    return {row["row"]: row["reason"] for row in result["rejected"]}


def ids(result: Result) -> list[str]:
    return [row["doc_id"] for row in result["documents"]]


def reference(files: dict[str, list[bytes]], existing: dict[str, str], max_bytes: int) -> dict[str, Any]:
    """The rules in plain Python, a row at a time: ids kept, (file, row) -> reason, (file, row) -> id it repeats."""
    good: list[tuple[str, str, str, int]] = []
    rejected: dict[tuple[str, int], str] = {}
    for file, lines in files.items():
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                pairs = json.loads(line.decode(), object_pairs_hook=lambda p: p)
            except UnicodeDecodeError:
                rejected[file, number] = "not_utf8"
                continue
            except ValueError:
                pairs = None
            if not (isinstance(pairs, list) and line.strip().startswith(b"{")) or len(dict(pairs)) < len(pairs):
                rejected[file, number] = "malformed_json"
                continue
            row = dict(pairs)
            text = row.get("text")
            if text is None:
                rejected[file, number] = "no_text"
            elif not text.strip():
                rejected[file, number] = "empty"
            elif len(text.encode()) > max_bytes:
                rejected[file, number] = "too_long"
            else:
                good.append((row.get("id") or sha(text)[:32], text, file, number))
    kept_text: dict[str, str] = dict(existing)
    for doc_id, text, _, _ in sorted(good, key=lambda g: sha(g[1])):
        kept_text.setdefault(doc_id, text)
    owner = {text: doc_id for doc_id, text in existing.items()}
    for doc_id in sorted(kept_text):
        owner.setdefault(kept_text[doc_id], doc_id)
    documents: dict[str, str] = {}
    duplicates: dict[tuple[str, int], str] = {}
    for doc_id, text, file, number in sorted(good, key=lambda g: (g[2], g[3])):
        if kept_text[doc_id] != text:
            rejected[file, number] = "id_conflict"
        elif owner[text] == doc_id and doc_id not in existing and doc_id not in documents:
            documents[doc_id] = text
        else:
            duplicates[file, number] = owner[text]
    return {"documents": documents, "rejected": rejected, "duplicates": duplicates}


def as_reference(result: Result) -> dict[str, Any]:
    return {
        "documents": {row["doc_id"]: row["text"] for row in result["documents"]},
        "rejected": {(row["file"], row["row"]): row["reason"] for row in result["rejected"]},
        "duplicates": {(row["file"], row["row"]): row["duplicate_of"] for row in result["duplicates"]},
    }


AWKWARD: list[Row | bytes] = [
    {"id": "a", "text": "one"},
    b"{'text': 'single quotes'}",
    {"id": "b", "text": "two\r\nlines "},
    b"",
    b'{"id": "c", "text": "bad \xff"}',
    {"id": "d"},
    {"id": "e", "text": None},
    {"id": "f", "text": " \n\t\u00a0\u3000"},
    {"id": "a", "text": "one"},
    {"id": "a", "text": "another text"},
    {"id": "0", "text": "one"},
    b'{"id": "g", "text": "cut sh',
    b'["text"]',
    b"null",
    b"   \r",
    b'{"id": "h", "text": "twice", "text": "twice"}',
    b'{"id": "i", "text": "x"} trailing',
    b'{"id": "j", "text": "x"}{"id": "k", "text": "y"}',
    b'{"id": "l", "text": "x"}, {"id": "m", "text": "y"}',
    {"text": "no id"},
    {"id": "", "text": "no id either"},
    {"text": "no id"},
    {"id": "n", "text": "é" * 21},
    {"id": "o", "text": "é" * 20},
    b'{"id": "p", "text": "carriage return"}\r',
    b'{"id": "q", "text": "a}"}}',
]


# -- documents -------------------------------------------------------------------------------------------------------


def test_a_json_line_becomes_a_document_with_its_text_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
    path = write(
        tmp_path / "pages.jsonl",
        [{"id": 7, "text": " été\n", "license": "CC0", "n": 1, "tags": ["x", "y"], "no": None}],
    )
    result = imported(spark, [path])
    chunk = spark.sql("SELECT concat('run-', lpad(cast(pmod(xxhash64('7'), 4) AS string), 5, '0')) AS c").collect()[0][
        "c"
    ]
    assert result["documents"] == [
        {
            "doc_id": "7", "text": " été\n", "source": "pages", "license": "CC0", "bytes": 7,
            "metadata": {"n": "1", "tags": '["x","y"]'}, "file": path,
            "text_hash": sha(" été\n")[:32], "chunk": chunk,
        }
    ]  # fmt: skip
    assert not result["rejected"]
    assert not result["duplicates"]


@pytest.mark.connect
def test_frames_have_the_columns_of_their_tables(spark: SparkSession, tmp_path: Path) -> None:
    rows = read_rows(spark, list_inputs(spark, [write(tmp_path / "a.jsonl", [{"text": "x"}])]), Columns())
    for spec, frame in zip(
        (DOCUMENTS, REJECTED_DOCUMENTS, DUPLICATE_DOCUMENTS),
        to_documents(rows, None, import_id="run", n_chunks=4),
        strict=True,
    ):
        found = {field.name: field.dataType for field in frame.schema.fields}
        assert found == {field.name: field.dataType for field in spec.struct(spark).fields}


@pytest.mark.parametrize("split", [None, pytest.param(200, marks=pytest.mark.night)])
def test_every_row_falls_where_the_rules_say(spark: SparkSession, tmp_path: Path, split: int | None) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in AWKWARD]
    parts = {"x.jsonl": lines, "y.jsonl.gz": lines[::-1], "z.jsonl.zst": lines, "a.jsonl": lines[::2]}
    files = {write(tmp_path / name, part): part for name, part in parts.items()}
    with setting(spark, "spark.sql.files.maxPartitionBytes", split):
        result = imported(spark, list(files), max_bytes=40)
    assert as_reference(result) == reference(files, {}, 40)
    assert {row["reason"] for row in result["rejected"]} == {
        "malformed_json", "no_text", "empty", "not_utf8", "too_long", "id_conflict",
    }  # fmt: skip
    assert all(row["detail"] for row in result["rejected"])


class setting:  # noqa: N801 - reads like a keyword
    def __init__(self, spark: SparkSession, key: str, value: object | None) -> None:
        self.spark, self.key, self.value = spark, key, value

    def __enter__(self) -> None:
        if self.value is not None:
            self.spark.conf.set(self.key, str(self.value))

    def __exit__(self, *_: object) -> None:
        if self.value is not None:
            self.spark.conf.unset(self.key)


@pytest.mark.parametrize("split", [150, pytest.param(1000, marks=pytest.mark.night)])
def test_row_numbers_are_exact_for_any_split(spark: SparkSession, tmp_path: Path, split: int) -> None:
    bad = {1, 2, 17, 30, 49, 50}
    rows = [b"{broken" if n in bad else {"text": f"document {n} " + "x" * (n % 50)} for n in range(1, 51)]
    paths = [write(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst")]
    with setting(spark, "spark.sql.files.maxPartitionBytes", split):
        result = imported(spark, paths)
    assert [(row["file"], row["row"]) for row in result["rejected"]] == [(p, n) for p in paths for n in sorted(bad)]
    assert len(result["documents"]) == 50 - len(bad)
    expected = [(p, n) for p in paths[1:] for n in range(1, 51) if n not in bad]
    assert [(row["file"], row["row"]) for row in result["duplicates"]] == expected


def test_splits_and_partitions_change_no_row(spark: SparkSession, tmp_path: Path) -> None:
    rows = [{"id": f"{n % 30}", "text": f"text {n % 45}"} for n in range(100)]
    path = write(tmp_path / "a.jsonl", rows)
    once = imported(spark, [path])
    with setting(spark, "spark.sql.files.maxPartitionBytes", 400), setting(spark, "spark.sql.shuffle.partitions", 7):
        assert imported(spark, [path]) == once
    assert once["documents"]
    assert once["duplicates"]
    assert once["rejected"]


def test_repartitioned_rows_give_the_same(spark: SparkSession, tmp_path: Path) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in AWKWARD]
    rows = read_rows(spark, list_inputs(spark, [write(tmp_path / "a.jsonl.zst", lines)]), Columns())
    once = collected(to_documents(rows, None, import_id="run", n_chunks=4))
    again = collected(to_documents(rows.repartition(5, "ordinal"), None, import_id="run", n_chunks=4))
    assert again == once


def test_the_order_of_files_changes_no_row(spark: SparkSession, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}])
    two = write(tmp_path / "two.jsonl", [{"id": "a", "text": "y"}, {"id": "c", "text": "x"}])
    assert imported(spark, [one, two]) == imported(spark, [two, one])


# -- ids and duplicates ----------------------------------------------------------------------------------------------


def test_without_an_id_the_id_is_the_hash_of_the_text(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "hello"}, {"id": None, "text": "world"}])
    assert ids(imported(spark, [path])) == sorted([sha("hello")[:32], sha("world")[:32]])


def test_the_same_text_twice_is_kept_once_under_the_smallest_id(spark: SparkSession, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [{"id": "z", "text": "same"}, {"id": "b", "text": "same"}, {"id": "c", "text": "same"}]
    )
    result = imported(spark, [path])
    assert ids(result) == ["b"]
    assert [(row["doc_id"], row["duplicate_of"], row["row"]) for row in result["duplicates"]] == [
        ("z", "b", 1),
        ("c", "b", 3),
    ]


def test_one_id_with_two_texts_keeps_the_text_of_the_smallest_hash(spark: SparkSession, tmp_path: Path) -> None:
    texts = sorted(["first", "second", "third"], key=sha)
    path = write(tmp_path / "a.jsonl", [{"id": "a", "text": text} for text in reversed(texts)])
    result = imported(spark, [path])
    assert [row["text"] for row in result["documents"]] == [texts[0]]
    assert reasons(result) == {1: "id_conflict", 2: "id_conflict"}
    assert result["rejected"][0]["detail"] == "the id 'a' stands for another text"


def test_the_same_row_twice_is_a_duplicate_of_itself(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": "a", "text": "x"}, {"id": "a", "text": "x"}])
    result = imported(spark, [path])
    assert ids(result) == ["a"]
    assert result["duplicates"] == [{"doc_id": "a", "duplicate_of": "a", "file": path, "row": 2, "import_id": "run"}]


@pytest.mark.processes  # under Spark Connect, which allows less
def test_what_was_imported_stays_and_only_what_is_new_comes(spark: SparkSession, tmp_path: Path) -> None:
    old = write(tmp_path / "old.jsonl", [{"id": "m", "text": "x"}, {"id": "n", "text": "y"}])
    first = imported(spark, [old])
    existing = spark.createDataFrame([tuple(row.values()) for row in first["documents"]], DOCUMENTS.schema)
    new = write(
        tmp_path / "new.jsonl",
        [
            {"id": "a", "text": "x"},  # a smaller id, but m is there
            {"id": "n", "text": "smaller or larger hash"},
            {"id": "m", "text": "x"},
            {"id": "o", "text": "z"},
        ],
    )
    second = imported(spark, [old, new], existing=existing)
    assert ids(second) == ["o"]
    assert [(row["file"], row["row"], row["reason"]) for row in second["rejected"]] == [(new, 2, "id_conflict")]
    assert [(row["file"], row["row"], row["duplicate_of"]) for row in second["duplicates"]] == [
        (new, 1, "m"),
        (new, 3, "m"),
    ]


@pytest.mark.night
def test_a_second_import_of_the_same_file_adds_nothing(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": str(n), "text": f"text {n}"} for n in range(20)])
    first = imported(spark, [path])
    existing = spark.createDataFrame([tuple(row.values()) for row in first["documents"]], DOCUMENTS.schema)
    assert imported(spark, [path], existing=existing) == {"documents": [], "rejected": [], "duplicates": []}


# -- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_mapped_and_the_others_kept_in_metadata(spark: SparkSession, tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [{"url": "u", "body": "x", "crawl": "2024", "terms": "MIT", "id": 5, "text": "other"}]
    )
    columns = parse_columns("id=url, text=body,source=crawl,license=terms")
    (row,) = imported(spark, [path], columns)["documents"]
    assert (row["doc_id"], row["text"], row["source"], row["license"]) == ("u", "x", "2024", "MIT")
    assert row["metadata"] == {"id": "5", "text": "other"}


def test_a_column_with_two_roles_takes_no_default(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"source": "u", "text": "x"}])
    (row,) = imported(spark, [path], parse_columns("id=source"))["documents"]
    assert (row["doc_id"], row["source"], row["metadata"]) == ("u", "a", {})


@pytest.mark.parametrize("text", ["id", "id=", "name=x", "id=a,id=b", "=a"])
def test_malformed_columns_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--columns"):
        parse_columns(text)


@pytest.mark.connect
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.zst", "parquet"])
@pytest.mark.parametrize(("mapping", "role"), [("text=body", "text"), ("id=url", "id")])
def test_a_wrong_column_name_shows_those_there(
    spark: SparkSession, tmp_path: Path, ending: str, mapping: str, role: str
) -> None:
    path = str(tmp_path / f"a.{ending}")
    if ending == "parquet":
        to_parquet(path, {"name": ["x"], "text": ["y"]})
    else:
        write(Path(path), [{"name": "x", "text": "y"}, b"broken"])
    name = mapping.partition("=")[2]
    expected = rf"no column '{name}'; it has \['name', 'text'\]. Map it with --columns {role}=<yours>"
    with pytest.raises(SchemaError, match=expected):
        read_rows(spark, list_inputs(spark, [path]), parse_columns(mapping))


def test_one_file_of_several_without_text_is_named(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "x"}])
    write(tmp_path / "b.jsonl", [{"body": "x"}])
    with pytest.raises(SchemaError, match=r"b\.jsonl: no column 'text'; it has \['body'\]"):
        read_rows(spark, list_inputs(spark, [str(tmp_path)]), Columns())


# -- formats ---------------------------------------------------------------------------------------------------------


def to_parquet(path: str, columns: dict[str, Any]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path, row_group_size=10)
    return path


def test_parquet_rows_are_numbered_and_typed_columns_become_text(spark: SparkSession, tmp_path: Path) -> None:
    import datetime

    when = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    path = to_parquet(
        str(tmp_path / "p.parquet"),
        {
            "id": list(range(50)), "text": [None if n == 31 else f"text {n}" for n in range(50)], "n": [1.5] * 50,
            "tags": [["a", "b"]] * 50, "when": [when] * 50, "raw": [b"\xff"] * 50, "gone": [None] * 50,
        },
    )  # fmt: skip
    with (
        setting(spark, "spark.sql.files.maxPartitionBytes", 300),
        setting(spark, "spark.sql.session.timeZone", "Asia/Tokyo"),
    ):
        result = imported(spark, [path])
    assert len(result["documents"]) == 49
    assert reasons(result) == {32: "no_text"}
    assert result["documents"][0]["metadata"] == {
        "n": "1.5", "tags": '["a","b"]', "when": "2024-01-02T03:04:05.000000Z", "raw": "/w==",
    }  # fmt: skip
    assert result["documents"][0]["source"] == "p"


def test_parquet_files_with_other_columns_go_together(spark: SparkSession, tmp_path: Path) -> None:
    to_parquet(str(tmp_path / "a.parquet"), {"text": ["x"], "one": ["1"]})
    to_parquet(str(tmp_path / "b.parquet"), {"text": ["y"], "two": ["2"]})
    documents = imported(spark, [str(tmp_path)])["documents"]
    assert {row["text"]: row["metadata"] for row in documents} == {"x": {"one": "1"}, "y": {"two": "2"}}


@pytest.mark.connect
def test_bytes_that_are_no_utf8_are_refused_in_parquet(spark: SparkSession, tmp_path: Path) -> None:
    path = to_parquet(str(tmp_path / "a.parquet"), {"text": [b"fine", b"bad \xff"]})
    result = imported(spark, [path])
    assert [row["text"] for row in result["documents"]] == ["fine"]
    assert reasons(result) == {2: "not_utf8"}


def test_a_text_file_is_one_document_of_its_folder(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "essays"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"one\r\ntwo\n")
    (folder / "b.md").write_bytes(b"\xff")
    (folder / "c.txt.gz").write_bytes(gzip.compress(b"packed\n"))
    (folder / "d.text").write_bytes(b"")
    (folder / "e.txt").write_bytes(b"x" * 41)
    result = imported(spark, [str(folder)], max_bytes=40)
    assert sorted((row["text"], row["source"]) for row in result["documents"]) == [
        ("one\r\ntwo\n", "essays"),
        ("packed\n", "essays"),
    ]
    assert {(os.path.basename(row["file"]), row["row"], row["reason"]) for row in result["rejected"]} == {
        ("b.md", 1, "not_utf8"), ("d.text", 1, "empty"), ("e.txt", 1, "too_long"),
    }  # fmt: skip


def test_a_delta_table_is_read_at_the_version_that_was_listed(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    spark.createDataFrame([("a", "x", 1), ("b", None, 2)], "id string, text string, n int").coalesce(1).write.format(
        "delta"
    ).save(path)
    (listed,) = list_inputs(spark, [path])
    assert (listed.format, listed.modified) == ("delta", 0)
    spark.createDataFrame([("c", "y", 3)], "id string, text string, n int").write.format("delta").mode("append").save(
        path
    )
    result = collected(to_documents(read_rows(spark, [listed], Columns()), None, import_id="run", n_chunks=4))
    assert [(row["doc_id"], row["source"], row["metadata"]) for row in result["documents"]] == [
        ("a", "table", {"n": "1"})
    ]
    assert reasons(result) == {2: "no_text"}
    assert list_inputs(spark, [path])[0].modified == 1


def test_a_catalog_table_is_an_input(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql(f"CREATE TABLE default.pages_in_catalog USING delta LOCATION '{tmp_path}/t' AS SELECT 'x' AS text")
    try:
        result = imported(spark, ["default.pages_in_catalog"])
        assert [row["text"] for row in result["documents"]] == ["x"]
    finally:
        spark.sql("DROP TABLE default.pages_in_catalog")


@pytest.mark.processes  # under Spark Connect, which allows less
def test_formats_mix_in_one_import(spark: SparkSession, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"text": "1"}])
    write(tmp_path / "deep" / "b.ndjson.gz", [{"text": "2"}])
    write(tmp_path / "deep" / "c.json.zst", [{"text": "3"}])
    (tmp_path / "d.txt").write_text("4")
    to_parquet(str(tmp_path / "e.parquet"), {"text": ["5"]})
    spark.createDataFrame([("6",)], "text string").write.format("delta").save(str(tmp_path / "deep" / "table"))
    result = imported(spark, [str(tmp_path / "*.*"), str(tmp_path / "deep"), str(tmp_path / "deep" / "table")])
    assert sorted(row["text"] for row in result["documents"]) == ["1", "2", "3", "4", "5", "6"]


def test_frames_of_zst_follow_each_other_and_lines_cross_batches(spark: SparkSession, tmp_path: Path) -> None:
    texts = [f"{n} " + "long " * 200_000 for n in range(12)]
    data = json_lines({"text": text} for text in texts)
    half = len(data) // 2
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(data[:half]) + zstandard.compress(data[half:-1]))
    assert sorted(row["text"] for row in imported(spark, [str(path)])["documents"]) == sorted(texts)


def test_a_byte_order_mark_is_no_part_of_the_json(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [b'\xef\xbb\xbf{"text": "x"}'])
    assert [row["text"] for row in imported(spark, [path])["documents"]] == ["x"]


def test_a_text_over_twenty_million_characters_is_too_long_and_not_malformed(
    spark: SparkSession, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x"}, {"text": "x" * 20_000_001}])
    assert reasons(imported(spark, [path])) == {2: "too_long"}


def test_any_file_name_is_read_and_reported_as_typed(spark: SparkSession, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / name, [{"text": f"{name}"}, b"broken"])
        for name in ("a b+c.jsonl", "é%20.jsonl", "[1]{2}.jsonl.gz", "x*?.jsonl.zst")
    ]
    result = imported(spark, paths)
    assert sorted(row["file"] for row in result["documents"]) == sorted(paths)
    assert sorted(row["file"] for row in result["rejected"]) == sorted(paths)


# -- inputs ----------------------------------------------------------------------------------------------------------


def test_inputs_are_listed_once_and_sorted(spark: SparkSession, tmp_path: Path) -> None:
    b, a = write(tmp_path / "b.jsonl", [{"text": "x"}]), write(tmp_path / "sub" / "a.jsonl", [{"text": "y"}])
    write(tmp_path / "_hidden" / "c.jsonl", [{"text": "z"}])
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".b.jsonl.crc").touch()
    found = list_inputs(spark, [str(tmp_path), b, f"file://{a}", str(tmp_path / "**" / "*.jsonl")[:-6] + "a.jsonl"])
    assert [file.path for file in found] == [b, a]
    assert found[0].bytes == os.path.getsize(b)
    assert found[0].modified == os.stat(b).st_mtime_ns // 10**6


def test_missing_empty_and_unknown_inputs_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").touch()
    write(tmp_path / "_x.jsonl", [{"text": "x"}])
    for path, message in [
        (str(tmp_path / "none.jsonl"), "does not exist"),
        ("no_schema.no_table", "does not exist"),
        (str(tmp_path / "*.csv"), "no file matches"),
        (str(tmp_path / "empty"), "folder without documents"),
        (str(tmp_path / "page.html"), r"isn't known .*\.jsonl.*\.parquet.*\.txt"),
        (str(tmp_path / "_x.jsonl"), "hidden"),
        ("", "empty path"),
    ]:
        with pytest.raises(InputError, match=message):
            list_inputs(spark, [path])
    with pytest.raises(InputError, match="no documents are named"):
        list_inputs(spark, [])


def test_stores_that_only_spark_knows_are_listed_the_same(spark: SparkSession, tmp_path: Path) -> None:
    paths = [write(tmp_path / name, [{"text": "x"}]) for name in ("a b.jsonl", "sub/c.jsonl")]
    assert list_inputs(spark, [f"file:{tmp_path}"]) == list_inputs(spark, paths)
    with pytest.raises(InputError, match="can't be listed"):
        list_inputs(spark, [f"file:{tmp_path}/none"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"/empty holds no documents; known files: .*\.jsonl.*\.parquet"):
        list_inputs(spark, [f"file:{tmp_path}/empty"])


def test_a_file_where_only_spark_can_read_is_named_if_pyarrow_is_to_read_it() -> None:
    no_spark: Any = None
    with pytest.raises(InputError, match=r"^s3a://bucket/a\.arrow can't be opened by pyarrow \(.*; copy it to a folder"):
        read_rows(no_spark, [InputFile("s3a://bucket/a.arrow", "arrow", 9, 0)], Columns())


@pytest.mark.parametrize("ending", ["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_file_is_named(spark: SparkSession, tmp_path: Path, ending: str, damage: str) -> None:
    path = tmp_path / f"a b.jsonl.{ending}"
    write(path, [{"text": f"{n} {sha(str(n))}"} for n in range(5000)])
    path.write_bytes(path.read_bytes()[:-2000] if damage == "cut" else b"plain text, not packed")
    with pytest.raises(InputError, match=rf"^{path} is (cut short|no intact)"), input_errors():
        imported(spark, [str(path)])


def test_a_damaged_parquet_file_is_named(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"a\.parquet is cut short"), input_errors():
        imported(spark, [str(tmp_path / "a.parquet")])


def test_no_inputs_are_refused(spark: SparkSession) -> None:
    with pytest.raises(InputError, match="no documents are named"):
        read_rows(spark, [], Columns())


def test_the_import_id_names_files_columns_and_limit() -> None:
    a, b = InputFile("/a.jsonl", "jsonl", 1, 1), InputFile("/b.jsonl", "jsonl", 1, 1)
    base = import_id([a, b], Columns())
    assert import_id([b, a], Columns()) == base
    assert len(base) == 12
    others = [
        import_id([a], Columns()),
        import_id([a, InputFile("/b.jsonl", "jsonl", 2, 1)], Columns()),
        import_id([a, InputFile("/b.jsonl", "jsonl", 1, 2)], Columns()),
        import_id([a, b], Columns(text="body")),
        import_id([a, b], Columns(), max_bytes=5),
    ]
    assert len({base, *others}) == 6


def test_chunks_follow_the_bytes_within_their_bounds() -> None:
    plain, packed = InputFile("/a.jsonl", "jsonl", 1000, 1), InputFile("/a.jsonl.gz", "jsonl", 1000, 1)
    assert n_chunks([plain], 100) == 10
    assert n_chunks([plain, packed], 100) == 40
    assert n_chunks([plain], 10**9) == 1
    assert n_chunks([packed], 1) == 3000
    assert n_chunks([packed, packed], 1) == MAX_CHUNKS
    with pytest.raises(InputError, match="chunk_bytes"):
        n_chunks([plain], 0)


def test_chunks_hold_every_document_once(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"id": f"{n}", "text": f"text {n}"} for n in range(200)])
    rows = read_rows(spark, list_inputs(spark, [path]), Columns())
    documents, _, _ = to_documents(rows, None, import_id="run", n_chunks=4)
    expected = F.concat(F.lit("run-0000"), F.pmod(F.xxhash64("doc_id"), F.lit(4)).cast("string"))
    assert documents.where(F.col("chunk") == expected).count() == 200
    assert documents.select("chunk").distinct().count() == 4
