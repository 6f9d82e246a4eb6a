"""A shard as a file: the same rows give the same bytes, whole or not at all, and every format gives the rows back."""

import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from curation import shards
from curation.errors import InputError
from curation.shards import FORMATS, Columns, by_shard, groups, is_intact, mds_index, notes, refuse_twins, write_shard

COLUMNS = Columns(
    pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("tokens", pa.int64()), ("score", pa.float64()), ("license", pa.string()),
         ("good", pa.bool_()), ("metadata", pa.string())]
    ),
    frozenset({"metadata"}),
)  # fmt: skip
TEXTS = ["", "plain", 'quotes " and \\', "a\nb\u2028c\x00d", "naïve 漢字 🙂", "x" * 5000]


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"d{i}", "text": TEXTS[i % len(TEXTS)] + str(i), "tokens": i * 3, "score": i / 7, "license": None if i % 3 else "MIT",
            "good": i % 2 == 0, "metadata": None if i % 5 == 4 else json.dumps({"a": TEXTS[i % len(TEXTS)], "n": str(i)}),
        }
        for i in range(count)
    ]  # fmt: skip


def batches(given: list[dict[str, Any]], *sizes: int) -> Iterator[pa.RecordBatch]:
    """The rows in batches of these sizes in turn."""
    table, start = pa.Table.from_pylist(given, schema=COLUMNS.schema), 0
    for size in itertools.cycle(sizes):
        if start >= len(given):
            return
        yield table.slice(start, size).combine_chunks().to_batches()[0]
        start += size


def read_mds(data: bytes) -> list[dict[str, Any]]:
    """MDS as its specification has it: count, offsets, the columns' encodings; samples as sizes and values."""
    count = int(np.frombuffer(data, "<u4", 1)[0])
    offsets = np.frombuffer(data, "<u4", count + 1, 4).astype(int)
    head = json.loads(data[4 * (count + 2) : offsets[0]])
    decode: dict[str, Callable[[bytes], Any]] = {
        "str": bytes.decode, "json": json.loads, "int": lambda b: int.from_bytes(b, "little", signed=True),
        "float64": lambda b: float(np.frombuffer(b, "<f8")[0]),
    }  # fmt: skip
    found = []
    for begin, end in itertools.pairwise(offsets):
        sample = data[begin:end]
        free = head["column_sizes"].count(None)
        lengths, at, row = iter(np.frombuffer(sample, "<u4", free).astype(int)), 4 * free, {}
        for name, encoding, size in zip(head["column_names"], head["column_encodings"], head["column_sizes"], strict=True):
            length = next(lengths) if size is None else size
            row[name], at = decode[encoding](sample[at : at + length]), at + length
        assert at == len(sample)
        found.append(row)
    return found


def read_back(format: str, file: Path) -> list[dict[str, Any]]:
    if format == "mds":
        return read_mds(file.read_bytes())
    if format == "jsonl":
        with zstandard.open(file, "rt", encoding="utf-8", newline="\n") as lines:
            return [json.loads(line) for line in lines]
    return pq.read_table(file).to_pylist()


def expected(format: str, row: dict[str, Any]) -> dict[str, Any]:
    if format in ("jsonl", "mds"):
        row = row | {"metadata": None if row["metadata"] is None else json.loads(row["metadata"])}
    return row | {"license": row["license"] or ""} if format == "mds" else row


def write(folder: Path, format: str, given: Iterator[pa.RecordBatch]) -> shards.Shard:
    for each in (folder / "parts", (folder / FORMATS[format].name).parent):
        each.mkdir(parents=True, exist_ok=True)
    return write_shard(given, number=3, of=12, format=FORMATS[format], columns=COLUMNS, out=folder, parts=folder / "parts")


@pytest.mark.parametrize("format", FORMATS)
def test_a_shard_gives_its_rows_back_and_says_what_it_is(format: str, tmp_path: Path) -> None:
    given = rows(50)
    shard = write(tmp_path, format, batches(given, 7))
    file = tmp_path / shard.name
    assert read_back(format, file) == [expected(format, row) for row in given]
    assert (shard.records, shard.tokens) == (50, sum(row["tokens"] for row in given))
    assert shard.text_bytes == sum(len(row["text"].encode()) for row in given)
    assert shard.bytes == file.stat().st_size and shard.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert shard.name == FORMATS[format].name.format(number=3, of=12, hash=shard.sha256[:16])
    assert notes(tmp_path / "parts") == [shard] and list(tmp_path.glob(FORMATS[format].pattern)) == [file]
    assert is_intact(file, shard.sha256) and not is_intact(file, "0") and not is_intact(tmp_path / "gone", shard.sha256)


@pytest.mark.parametrize("format", FORMATS)
def test_the_batches_that_rows_come_in_change_no_byte(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "__kwdefaults__", {"most_bytes": 9000, "most_rows": 20})
    given = rows(90)
    ways = [write(tmp_path / str(sizes), format, batches(given, *sizes)) for sizes in ((90,), (1,), (7, 23))]
    assert len(set(ways)) == 1
    if format == "parquet":
        assert pq.ParquetFile(tmp_path / "(1,)" / ways[0].name).num_row_groups > 5


@pytest.mark.parametrize("format", FORMATS)
def test_a_task_that_fails_in_the_middle_leaves_nothing_and_the_next_try_the_whole_shard(format: str, tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from itertools.islice(batches(rows(50), 7), 4)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write(tmp_path, format, broken())
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    first = write(tmp_path, format, batches(rows(50), 7))
    again = write(tmp_path, format, batches(rows(50), 9))  # of a task that ran twice
    assert first == again and len([file for file in tmp_path.rglob("*") if file.is_file()]) == 2


def slow_groups(texts: list[str], most_bytes: int, most_rows: int) -> list[list[str]]:
    found: list[list[str]] = []
    for text in texts:
        fits = bool(found) and len(found[-1]) < most_rows and sum(len(t.encode()) for t in [*found[-1], text]) <= most_bytes
        if fits:
            found[-1].append(text)
        else:
            found.append([text])
    return found


@given(
    st.lists(st.text(max_size=6), max_size=30), st.lists(st.integers(1, 9), min_size=1), st.integers(1, 20), st.integers(1, 5)
)
def test_groups_hang_on_the_rows_alone(texts: list[str], sizes: list[int], most_bytes: int, most_rows: int) -> None:
    given = [{"text": text} for text in texts]
    found = groups(batches(given, *sizes), most_bytes=most_bytes, most_rows=most_rows)
    assert [group.column("text").to_pylist() for group in found] == slow_groups(texts, most_bytes, most_rows)


@given(st.lists(st.integers(0, 4), max_size=30), st.lists(st.integers(1, 9), min_size=1))
def test_rows_are_dealt_out_by_their_shard(numbers: list[int], sizes: list[int]) -> None:
    numbers = sorted(numbers)
    table = pa.table({"shard_": pa.array(numbers, pa.int32()), "id": [str(i) for i in range(len(numbers))]})
    given, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(numbers):
            break
        given += table.slice(start, size).to_batches()
        start += size
    found = {number: [i for piece in rows_ for i in piece.column("id").to_pylist()] for number, rows_ in by_shard(given)}
    assert found == {n: [str(i) for i, m in enumerate(numbers) if m == n] for n in set(numbers)}


def test_an_id_that_comes_twice_is_refused_across_batches_too() -> None:
    table = pa.table({"place_": [0.1, 0.2, 0.2, 0.2], "id": ["a", "b", "c", "c"]})
    for size in (1, 2, 3, 4):
        with pytest.raises(InputError, match="the id 'c' stands for two records"):
            list(refuse_twins(table.to_batches(max_chunksize=size)))
    assert len(list(refuse_twins(table.slice(0, 3).to_batches(max_chunksize=1)))) == 3


def test_what_mds_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = [*batches([row | {"tokens": None} for row in rows(2)], 2)]
    with pytest.raises(InputError, match="MDS has no null, and the column tokens"):
        shards.write_mds(io.BytesIO(), lacking, COLUMNS)
    monkeypatch.setattr(shards, "MDS_BYTES", 1000)
    with pytest.raises(InputError, match=r"less than 4 GiB.*smaller --shard-bytes"):
        shards.write_mds(io.BytesIO(), batches(rows(9), 9), COLUMNS)


def test_mds_is_byte_for_byte_what_mosaicmls_own_writer_makes_of_these_rows() -> None:
    """mosaicml-streaming 0.13.0: MDSWriter(columns=these, hashes=["sha256"], size_limit=None), and its index.json."""
    theirs = "d33c9f35ccee83d40e2b11e79ff1972440a4d7f7da12c653a394be8e03390266"
    file = io.BytesIO()
    shards.write_mds(file, batches(rows(50), 7), COLUMNS)
    assert hashlib.sha256(file.getvalue()).hexdigest() == theirs
    shard = shards.Shard(0, "shard.00000.mds", 50, None, 0, len(file.getvalue()), theirs)
    assert mds_index([shard], COLUMNS) == {
        "shards": [
            {
                "column_encodings": ["json", "str", "str", "json", "float64", "str", "int"],
                "column_names": ["good", "id", "license", "metadata", "score", "text", "tokens"],
                "column_sizes": [None, None, None, None, 8, None, 8],
                "compression": None, "format": "mds", "hashes": ["sha256"],
                "raw_data": {"basename": "shard.00000.mds", "bytes": 79481, "hashes": {"sha256": theirs}},
                "samples": 50, "size_limit": None, "version": 2, "zip_data": None,
            }
        ],
        "version": 2,
    }  # fmt: skip
