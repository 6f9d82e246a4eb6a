"""Slices of an input: in its own form, on and on through it, and how much of it they stand for."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from curation.documents import InputFile
from curation.errors import InputError
from curation.slices import Slice, cut_slices

SPARK: Any = None  # local files are cut without it


def lines(count: int, first: int = 0) -> bytes:
    # Text that can't be packed small: a file is read some dozens of KB ahead.
    texts = ("".join(hashlib.sha512(b"%d %d" % (first + i, j)).hexdigest() for j in range(20)) for i in range(count))
    return b"".join(json.dumps({"id": str(first + i), "text": t}).encode() + b"\n" for i, t in enumerate(texts))


def write(path: Path, data: bytes) -> InputFile:
    packed = {".gz": gzip.compress, ".zst": lambda d: zstandard.ZstdCompressor().compress(d)}.get(path.suffix)
    path.write_bytes(packed(data) if packed else data)
    return InputFile(str(path), "jsonl", path.stat().st_size, 0)


def ids(part: Slice) -> list[int]:
    found: list[int] = []
    for file in sorted(Path(part.path).iterdir()):
        data = file.read_bytes()
        if file.suffix == ".parquet":
            found += map(int, pq.read_table(file)["id"].to_pylist())
            continue
        data = gzip.decompress(data) if file.suffix == ".gz" else data
        data = zstandard.ZstdDecompressor().decompress(data) if file.suffix == ".zst" else data
        found += [int(json.loads(line)["id"]) for line in data.splitlines()]
    return found


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_slices_go_on_through_a_file_and_stand_for_their_share_of_it(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, lines(2_000))
    parts = cut_slices(SPARK, [file], [300, 700, 700, 700], tmp_path / "slices")
    assert [part.rows for part in parts] == [300, 700, 700, 700]
    assert ids(parts[1]) == list(range(300, 1_000))
    assert ids(parts[3]) == list(range(700))  # too few were left: from the beginning again
    for part in parts:
        assert part.bytes == pytest.approx(file.bytes * part.rows / 2_000, rel=0.25)


def test_a_slice_takes_from_many_files_and_all_of_a_small_input(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i:02}.jsonl", lines(100, 100 * i)) for i in range(20)]
    small, whole = cut_slices(SPARK, files, [80, 5_000], tmp_path / "slices")
    assert len({number // 100 for number in ids(small)}) == 8 and small.rows == 80
    assert whole.rows == 800 and len(set(ids(whole))) == 800
    (all_,) = cut_slices(SPARK, files[:3], [5_000], tmp_path / "all")
    assert all_.rows == 300 and all_.bytes == sum(file.bytes for file in files[:3])


def test_parquet_is_sliced_by_rows_across_row_groups(tmp_path: Path) -> None:
    table = pa.table({"id": [str(i) for i in range(1_000)], "text": ["word " * 20] * 1_000})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=150)
    file = InputFile(str(tmp_path / "a.parquet"), "parquet", (tmp_path / "a.parquet").stat().st_size, 0)
    one, two = cut_slices(SPARK, [file], [200, 200], tmp_path / "slices")
    assert ids(one) == list(range(200)) and ids(two) == list(range(200, 400))
    assert one.bytes == file.bytes * 0.2


def test_an_input_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hold no row to try"):
        cut_slices(SPARK, [write(tmp_path / "a.jsonl", b"")], [10], tmp_path / "slices")


def test_elsewhere_files_that_spark_cannot_read_are_not_sliced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^s3://b/a\.warc\.gz: slices of \.warc files are cut on this machine only"):
        cut_slices(SPARK, [InputFile("s3://b/a.warc.gz", "warc", 10, 0)], [10], tmp_path / "slices")
