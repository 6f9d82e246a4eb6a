"""Slices of the documents that a person names: a few thousand rows in the form that they have there, for a trial.

A slice takes its rows from files all over the input, each time further on, and knows how many bytes of the input it
stands for: so a corpus is counted without being read.
"""

from __future__ import annotations

import gzip
import itertools
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from curation import arrow_files, warc
from curation.documents import InputFile, read_zst
from curation.errors import InputError
from curation.tables import is_local

FILES = 8  # of the input that a slice is taken from
MOST_BYTES = 64 * 2**20  # of a slice
PACKED = 3  # text over stored bytes, where a compressed file's own can't be told


@dataclass(frozen=True)
class Slice:
    """A folder of files. bytes: of the input, as it is stored, that its rows stand for."""

    path: str
    rows: int
    bytes: float


class _Source(Protocol):
    def take(self, rows: int, target: Path) -> tuple[int, float]:
        """Write the next rows, from the beginning again where too few are left; (rows, bytes that they stand for)."""
        ...


def cut_slices(spark: SparkSession, inputs: Sequence[InputFile], sizes: Sequence[int], folder: Path) -> list[Slice]:
    """A slice of about each of these sizes; fewer rows where the input has fewer, or rows are very long."""
    chosen = [replace(file, path=file.place, fetched="") for file in _spread(inputs, FILES)]
    sources = [_source(spark, file) for file in chosen]
    found = []
    for number, size in enumerate(sizes):
        place = folder / f"slice-{number}"
        place.mkdir(parents=True)
        rows, stands_for = 0, 0.0
        for at, source in enumerate(sources):
            wanted = -(-(size - rows) // (len(sources) - at))
            if wanted < 1:
                break
            taken, share = source.take(wanted, place / f"{at}-{_name(chosen[at])}")
            rows, stands_for = rows + taken, stands_for + share
        if not rows:
            raise InputError(f"{inputs[0].path} and the other inputs hold no row to try; look at them: `betr import`")
        found.append(Slice(str(place), rows, stands_for))
    return found


def _spread(inputs: Sequence[InputFile], count: int) -> list[InputFile]:
    """Files at even distances through the input's bytes, each once; those without a byte are left out."""
    files = [file for file in inputs if file.bytes]
    if len(files) <= count:
        return files
    ends = list(itertools.accumulate(file.bytes for file in files))
    marks = [(i + 0.5) * ends[-1] / count for i in range(count)]
    return list(dict.fromkeys(next(f for f, end in zip(files, ends, strict=True) if end >= mark) for mark in marks))


def _name(file: InputFile) -> str:
    stem = file.path.rstrip("/").rsplit("/", 1)[-1].lstrip("._") or "input"
    if file.format == "delta" or (file.format == "parquet" and not stem.lower().endswith(".parquet")):
        return f"{stem}.parquet"
    # Of lines elsewhere the text comes, not the file.
    return stem if is_local(file.path) else stem.removesuffix(".gz").removesuffix(".zst")


def _source(spark: SparkSession, file: InputFile) -> _Source:
    if file.format in ("arrow", "warc") and not is_local(file.path):
        raise InputError(f"{file.path}: slices of .{file.format} files are cut on this machine only; copy some here")
    if file.format == "delta" or not is_local(file.path):
        return _Remote(spark, file)
    of_format = {"parquet": _Parquet, "arrow": _Arrow, "warc": _Warc, "text": _Text, "jsonl": _Lines}
    source: _Source = of_format[file.format](file)
    return source


class _Lines:
    """JSON lines, plain, .gz or .zst: the slice is compressed as the file is."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._open()

    def _open(self) -> None:
        self._stream = open(self._file.path, "rb")  # noqa: SIM115 - read on by the next slice
        self._text, self._taken = 0, 0
        self._lines = _split(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        if self._file.path.endswith(".zst"):
            pieces = read_zst(self._stream, self._file.path)
        else:
            packed = self._file.path.endswith(".gz")
            stream: Any = gzip.GzipFile(fileobj=self._stream) if packed else self._stream
            pieces = iter(partial(stream.read, 1 << 16), b"")
        for piece in pieces:
            self._text += len(piece)
            yield piece

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        lines = self._next(rows)
        if len(lines) < rows and self._taken:
            self._stream.close()
            self._open()
            lines = self._next(rows)
        self._taken += len(lines)
        self._write(b"".join(lines), target)
        # Stored bytes over text, of all that was read so far: what is read ahead of the lines is in both.
        return len(lines), sum(map(len, lines)) * self._stream.tell() / max(1, self._text)

    def _next(self, rows: int) -> list[bytes]:
        lines, size = [], 0
        for line in itertools.islice(self._lines, rows):
            lines.append(line)
            size += len(line)
            if size >= MOST_BYTES // FILES:
                break
        return lines

    def _write(self, data: bytes, target: Path) -> None:
        if target.name.endswith(".gz"):
            data = gzip.compress(data, 6, mtime=0)
        elif target.name.endswith(".zst"):
            import zstandard

            data = zstandard.ZstdCompressor().compress(data)
        target.write_bytes(data)


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        held += piece
        *whole, held = held.split(b"\n")
        yield from (line + b"\n" for line in whole)
    if held:
        yield held


class _Parquet:
    def __init__(self, file: InputFile) -> None:
        self._file, self._from = file, 0

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        with pq.ParquetFile(self._file.path) as parquet:
            there = parquet.metadata.num_rows
            size = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.metadata.num_row_groups))
            wanted = min(rows, there, max(1, MOST_BYTES // FILES * there // max(1, size)))
            first = self._from if self._from + wanted <= there else 0
            _write_parquet(_rows(parquet, first, wanted), target)
        self._from = first + wanted
        return wanted, self._file.bytes * wanted / max(1, there)


def _rows(parquet: pq.ParquetFile, first: int, count: int) -> pa.Table:
    parts, at = [], 0
    for number in range(parquet.metadata.num_row_groups):
        here = parquet.metadata.row_group(number).num_rows
        low, high = max(first, at), min(first + count, at + here)
        if low < high:
            parts.append(parquet.read_row_group(number).slice(low - at, high - low))
        at += here
    return pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()


def _write_parquet(table: pa.Table, target: Path) -> None:
    # Small row groups: a slice is to be read by several tasks, as its corpus is.
    pq.write_table(table, target, row_group_size=max(1, len(table) // 4))


class _Arrow:
    """A file's rows, from the disk as they are asked for."""

    def __init__(self, file: InputFile) -> None:
        self._file, self._from = file, 0

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        with pa.memory_map(self._file.path) as stream:
            whole = pa.Table.from_batches(arrow_files.batches(stream, self._file.path))
            there = len(whole)
            wanted = min(rows, there, max(1, MOST_BYTES // FILES * there // max(1, whole.nbytes)))
            first = self._from if self._from + wanted <= there else 0
            with pa.ipc.new_stream(str(target), whole.schema) as out:
                out.write_table(whole.slice(first, wanted))
        self._from = first + wanted
        return wanted, self._file.bytes * wanted / max(1, there)


class _Warc:
    """Whole records; those that only tell of the crawl are left out. A file that is cut short begins again there."""

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self._open()

    def _open(self) -> None:
        self._stream = open(self._file.path, "rb")  # noqa: SIM115 - read on by the next slice
        self._records = warc.read_records(self._stream)
        self._next = next(self._records, None)
        self._until, self._taken = 0, 0

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        records, share = self._read(rows)
        if len(records) < rows and self._taken:
            self._stream.close()
            self._open()
            records, share = self._read(rows)
        self._taken += len(records)
        whole = [record.head + record.block + b"\r\n\r\n" for record in records]
        packed = target.name.lower().endswith(".gz")
        target.write_bytes(b"".join(gzip.compress(each, 6, mtime=0) if packed else each for each in whole))
        return len(records), float(share)

    def _read(self, rows: int) -> tuple[list[warc.Record], int]:
        """The next records, and the bytes of the file from where the last slice ended to where they do."""
        records: list[warc.Record] = []
        size, first = 0, self._until
        while isinstance(self._next, warc.Record) and len(records) < rows and size < MOST_BYTES // FILES:
            if self._next.type not in warc.NO_DOCUMENT and self._next.length == len(self._next.block):
                records.append(self._next)
                size += self._next.length
            self._next = next(self._records, None)
        # All of a file may be one gzip member: then about as far as it has been read.
        self._until = self._file.bytes if self._next is None else self._next.begins or self._stream.tell()
        return records, self._until - first


class _Text:
    """A file is a document."""

    def __init__(self, file: InputFile) -> None:
        self._file = file

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        shutil.copyfile(self._file.path, target)
        return 1, float(self._file.bytes)


class _Remote:
    """What Spark alone can read: its first rows, again for every slice."""

    def __init__(self, spark: SparkSession, file: InputFile) -> None:
        self._spark, self._file = spark, file

    def take(self, rows: int, target: Path) -> tuple[int, float]:
        path, kind = self._file.path, self._file.format
        if kind in ("delta", "parquet"):
            reader = self._spark.read.format(kind)
            frame = reader.load(path) if "/" in path else reader.table(path)
            table = frame.limit(rows).toArrow()
            _write_parquet(table, target)
            return len(table), self._file.bytes * len(table) / max(1, frame.count())
        lines = self._spark.read.option("wholetext", str(kind == "text").lower()).text(path).limit(rows)
        found = [row["value"] for row in lines.select(F.col("value").cast("binary").alias("value")).collect()]
        data = b"".join(bytes(value) + (b"" if kind == "text" else b"\n") for value in found)
        target.write_bytes(data)
        return len(found), len(data) / (PACKED if self._file.compressed else 1)
