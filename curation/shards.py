"""One shard as a file: Parquet, JSON lines, MosaicML's MDS. Equal rows in equal order give equal bytes.

A shard is streamed: rows come in groups of some megabytes, and where a group ends hangs on its rows alone, not on the
batches that Spark hands out. It is written under a name of no meaning and moved to one that holds its content's hash.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from curation.errors import InputError

GROUP_BYTES = 16 * 2**20  # of text: a row group of Parquet, and what a task holds of a shard
GROUP_ROWS = 2**16
ZSTD_LEVEL = 3
MDS_BYTES = 2**32  # its offsets have 32 bits
HASH_SHOWN = 16  # hex digits of the content's hash in a shard's name


@dataclass(frozen=True)
class Shard:
    """A shard as it lies there. name: its path below the export's folder. tokens: None where records have no count.

    text_bytes: UTF-8 bytes of its texts; bytes, sha256: of the file.
    """

    number: int
    name: str
    records: int
    tokens: int | None
    text_bytes: int
    bytes: int
    sha256: str


SHARD = pa.schema(
    [
        ("number", pa.int64()), ("name", pa.string()), ("records", pa.int64()), ("tokens", pa.int64()),
        ("text_bytes", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """What a shard's records are made of. json: the columns of strings that hold JSON."""

    schema: pa.Schema
    json: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Format:
    """How a shard is written. name: what it is called, with its number, how many there are and its content's hash."""

    write: Callable[[BinaryIO, Iterable[pa.RecordBatch], Columns], None]
    name: str

    @property
    def pattern(self) -> str:
        """What all names of shards match."""
        return re.sub(r"\{.*?\}", "*", self.name)


# -- in a task ---------------------------------------------------------------------------------------------------------


def by_shard(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """Batches in the order of their first column, a shard's number, as (number, its rows); that column stays."""
    pieces = ((number, piece) for batch in batches for number, piece in _runs(batch))
    for number, mine in itertools.groupby(pieces, key=itemgetter(0)):
        yield number, (piece for _, piece in mine)


def _runs(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    numbers = batch.column(0).to_numpy(zero_copy_only=False)
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            yield int(numbers[start]), batch.slice(start, stop - start)


def refuse_twins(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, sorted by place_ and id; InputError where an id comes twice, which then has no order of its own.

    Its records have one place, so that they lie side by side.
    """
    last: pa.RecordBatch | None = None
    for batch in batches:
        if len(batch) == 0:
            continue
        keys = batch.select(["place_", "id"])
        both = keys if last is None else _joined([last, keys])
        place, ids = both.column("place_"), both.column("id")
        same = pc.and_(pc.equal(place[1:], place[:-1]), pc.equal(ids[1:], ids[:-1]))
        if (twin := pc.index(same, True).as_py()) >= 0:
            raise InputError(f"the id {ids[twin].as_py()!r} stands for two records; give each an id of its own")
        last = keys.slice(len(keys) - 1)
        yield batch


def write_shard(
    batches: Iterable[pa.RecordBatch], *, number: int, of: int, format: Format, columns: Columns, out: Path, parts: Path
) -> Shard:
    """Write the rows as shard `number` of `of` into the folder `out`, whole or not at all.

    parts: a folder on the same disk for what isn't finished, and for a note on each shard that is: what a later run
    goes on from. Both are there already; where they aren't any more, the export has ended without this task.
    """
    part, counted = parts / f"{uuid.uuid4().hex}.part", _Counted(columns.schema)
    try:
        with open(part, "xb") as file:
            sink = _Hashed(file)
            format.write(sink, groups(counted.watch(batches)), columns)  # type: ignore[arg-type]
        name = format.name.format(number=number, of=of, hash=sink.sha256[:HASH_SHOWN])
        part.replace(out / name)
    finally:
        part.unlink(missing_ok=True)
    shard = Shard(number, name, counted.records, counted.tokens, counted.text_bytes, sink.written, sink.sha256)
    note = parts / f"{uuid.uuid4().hex}.part"
    note.write_text(json.dumps(asdict(shard)), encoding="utf-8")
    note.replace(parts / f"{number}.json")
    return shard


def notes(parts: Path) -> list[Shard]:
    """The shards that are finished, as their tasks noted."""
    return [Shard(**json.loads(note.read_text(encoding="utf-8"))) for note in parts.glob("*.json")]


def is_intact(file: Path, sha256: str) -> bool:
    """Whether the file is there with the content that has this hash."""
    try:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


class _Hashed(io.RawIOBase):
    """Hands on what is written, and hashes and counts it: no file is read again for its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file, self._hash, self.written = file, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.written

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._hash.update(view)
        self.written += len(view)
        return len(view)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class _Counted:
    """Counts the records, their tokens and bytes of text on their way, and hands on the schema's columns alone."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema, self.records, self.text_bytes = schema, 0, 0
        self.tokens: int | None = 0 if "tokens" in schema.names else None

    def watch(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            values = [batch.column(each.name).cast(each.type) for each in self.schema]
            rows = pa.RecordBatch.from_arrays(values, schema=self.schema)
            self.records += len(rows)
            self.text_bytes += pc.sum(pc.binary_length(rows.column("text"))).as_py() or 0
            if self.tokens is not None:
                self.tokens += pc.sum(rows.column("tokens")).as_py() or 0
            yield rows


def groups(
    batches: Iterable[pa.RecordBatch], *, most_bytes: int = GROUP_BYTES, most_rows: int = GROUP_ROWS
) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of as many as fit into both limits, one at least, wherever the given batches end."""
    held: list[pa.RecordBatch] = []
    rows, size = 0, 0
    for batch in batches:
        ends = np.cumsum(pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False), dtype=np.int64)
        start = 0
        while start < len(batch):
            before = int(ends[start - 1]) if start else 0
            fitting = int(np.searchsorted(ends, before + most_bytes - size, side="right"))
            stop = max(min(fitting, start + most_rows - rows), start if rows else start + 1)
            if stop > start:
                held.append(batch.slice(start, stop - start))
                rows, size = rows + stop - start, size + int(ends[stop - 1]) - before
            if stop < len(batch):
                yield _joined(held)
                held, rows, size = [], 0, 0
            start = stop
    if held:
        yield _joined(held)


def _joined(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(held).combine_chunks().to_batches()[0]


# -- formats -----------------------------------------------------------------------------------------------------------


def write_parquet(file: BinaryIO, batches: Iterable[pa.RecordBatch], columns: Columns) -> None:
    """A row group a batch, zstd. Columns in which hardly two values are equal get no dictionary."""
    named = [name for name in columns.schema.names if name not in ("id", "text")]
    with pq.ParquetWriter(file, columns.schema, compression="zstd", use_dictionary=named) as writer:
        for batch in batches:
            writer.write_batch(batch, row_group_size=len(batch))


def write_jsonl(file: BinaryIO, batches: Iterable[pa.RecordBatch], columns: Columns) -> None:
    """A JSON object a line, in one zstd frame; what is JSON already stands in it as it is."""
    dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    keys = [(name, f"{dumps(name)}: ", name in columns.json) for name in columns.schema.names]
    # Some readers stop at the end of the first frame: there is one.
    with zstandard.ZstdCompressor(level=ZSTD_LEVEL).stream_writer(file, closefd=False) as out:
        for batch in batches:
            lines = []
            for row in batch.to_pylist():
                values = (
                    key + (value if is_json and (value := row[name]) is not None else dumps(row[name]))
                    for name, key, is_json in keys
                )
                lines.append("{" + ", ".join(values) + "}\n")
            out.write("".join(lines).encode())


def write_mds(file: BinaryIO, batches: Iterable[pa.RecordBatch], columns: Columns) -> None:
    """MosaicML's MDS, version 2: the number of samples, where each begins, how columns are encoded, the samples.

    The samples stand behind their offsets, so they wait in a temporary file until all are known. MDS has no null: a
    string is empty instead, and a number is refused.
    """
    layout = mds_layout(columns)
    fixed = [size is not None for size in layout["column_sizes"]]
    config = json.dumps(layout, sort_keys=True).encode()
    sizes = [0]
    with tempfile.TemporaryFile() as samples:
        for batch in batches:
            encoded = [
                _mds_encoded(batch.column(name), name, encoding)
                for name, encoding in zip(layout["column_names"], layout["column_encodings"], strict=True)
            ]
            for values in zip(*encoded, strict=True):
                lengths = [len(value) for value, known in zip(values, fixed, strict=True) if not known]
                sample = np.array(lengths, "<u4").tobytes() + b"".join(values)
                samples.write(sample)
                sizes.append(len(sample))
        begin = 4 + 4 * len(sizes) + len(config)
        if begin + sum(sizes) >= MDS_BYTES:
            raise InputError(f"an MDS shard holds less than 4 GiB, and one would have {begin + sum(sizes):,} bytes; "
                             "export with a smaller --shard-bytes")  # fmt: skip
        file.write(np.array([len(sizes) - 1], "<u4").tobytes())
        file.write((np.cumsum(sizes, dtype=np.int64) + begin).astype("<u4").tobytes())
        file.write(config)
        samples.seek(0)
        shutil.copyfileobj(samples, file, 2**20)


def mds_layout(columns: Columns) -> dict[str, Any]:
    """What an MDS shard says of itself, in its head and in the index; columns by name, as in MosaicML's own."""
    names = sorted(columns.schema.names)
    encodings = [_mds_encoding(columns, name) for name in names]
    return {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["sha256"],
        "size_limit": None,
        "column_names": names,
        "column_encodings": encodings,
        "column_sizes": [8 if encoding in ("int", "float64") else None for encoding in encodings],
    }


def mds_index(shards: Iterable[Shard], columns: Columns) -> dict[str, Any]:
    """`index.json`, which is what a reader of MDS opens."""
    layout = {**mds_layout(columns), "zip_data": None}
    return {
        "version": 2,
        "shards": [
            {
                **layout,
                "raw_data": {"basename": each.name, "bytes": each.bytes, "hashes": {"sha256": each.sha256}},
                "samples": each.records,
            }
            for each in shards
        ],
    }


def _mds_encoding(columns: Columns, name: str) -> str:
    kind = columns.schema.field(name).type
    if name in columns.json or pa.types.is_boolean(kind):
        return "json"
    if pa.types.is_integer(kind):
        return "int"
    return "float64" if pa.types.is_floating(kind) else "str"


def _mds_encoded(values: pa.Array, name: str, encoding: str) -> list[bytes]:
    if encoding in ("int", "float64"):
        if values.null_count:
            raise InputError(f"MDS has no null, and the column {name} holds some; export to parquet or jsonl instead")
        numbers = values.to_numpy(zero_copy_only=False).astype("<i8" if encoding == "int" else "<f8")
        return [number.tobytes() for number in numbers]
    if pa.types.is_boolean(values.type):
        return [json.dumps(value).encode() for value in values.to_pylist()]
    nothing = "null" if encoding == "json" else ""
    return [value.encode() for value in values.fill_null(nothing).to_pylist()]


_NUMBERED = "{number:05d}-of-{of:05d}-{hash}"
FORMATS = {
    "parquet": Format(write_parquet, f"shard-{_NUMBERED}.parquet"),
    "jsonl": Format(write_jsonl, f"shard-{_NUMBERED}.jsonl.zst"),
    "mds": Format(write_mds, f"shard-{_NUMBERED}.mds"),
    "hf": Format(write_parquet, f"data/train-{_NUMBERED}.parquet"),
}
