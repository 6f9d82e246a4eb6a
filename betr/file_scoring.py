"""Scores from the documents' Parquet files, read by the tasks themselves: no text goes through Spark's rows.

Spark -> Arrow -> Python is what limits `scoring.score_documents`. Here Spark only says which files a chunk has; each
task reads its share of their row groups with pyarrow and hands them to the same functions: the same scores.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from betr.scoring import Scorer, TokenCounter, score_batches, scored_schema
from curation.clock import StageClock, timed, timed_schema
from curation.errors import InputError
from curation.frames import arrow_schema
from curation.session import Shared, is_local_session
from curation.tables import Tables, TableSpec, is_local

BATCH_BYTES = 8 * 2**20  # of text in a batch: some thousand documents, and a few caches full
BATCH_ROWS = 8192
TASK_BYTES = 128 * 2**20
BUFFER_BYTES = 4 * 2**20  # a column of a row group is read piece by piece, however large it is
READS = ("auto", "spark", "files")


@dataclass(frozen=True)
class DataFile:
    """One Parquet file of a table: path or URI, bytes and rows as the table records them, its partition's values."""

    path: str
    bytes: int
    rows: int
    partition: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowGroups:
    """Some row groups of one file as it was when it was planned. modified: ns since 1970; bytes: uncompressed."""

    file: DataFile
    modified: int
    groups: tuple[int, ...]
    bytes: int


# -- which way ---------------------------------------------------------------------------------------------------------


def choose_way(tables: Tables, spec: TableSpec, read: str = "auto") -> tuple[str, str]:
    """("files" or "spark", why) for one of READS.

    files: refused with an InputError where the table's files aren't its rows. auto: these too go through Spark, and so
    does what executors might not see (another machine's disk) or not be allowed to see (a store, a catalog).
    """
    if read == "spark":
        return "spark", "--read spark"
    if read == "files":
        if (reason := tables.files_are_not_rows(spec)) is not None:
            raise InputError(f"--read files: {spec.name} can't be read by its files: {reason}; use --read spark")
        return "files", "--read files"
    if not tables.is_catalog and not is_local(tables.root):
        return "spark", "the tables aren't on this machine's disk"
    if not is_local_session(tables.spark):
        return "spark", "executors on other machines may not see this machine's disk"
    reason = tables.files_are_not_rows(spec)
    return ("files", "the files lie on this machine's disk") if reason is None else ("spark", reason)


# -- what is to be read ------------------------------------------------------------------------------------------------


def list_files(rows: DataFrame, partition_by: Sequence[str] = ()) -> list[DataFile]:
    """The files behind a frame that only reads and filters by partition, with the rows that the table counts in each.

    One job that reads no column; one row a file comes to the driver.
    """
    where = [F.col("_metadata.file_path").alias("path_"), F.col("_metadata.file_size").alias("bytes_")]
    counted = rows.select(*where, *partition_by).groupBy("path_", "bytes_", *partition_by).count()
    try:
        found = counted.collect()
    except Exception:
        for path in map(_plain, rows.inputFiles()):  # these Spark takes from the table's log, and opens none
            _found(path)
        raise
    files = (
        DataFile(_plain(row["path_"]), row["bytes_"], row["count"], {name: row[name] for name in partition_by})
        for row in found
    )
    return sorted(files, key=lambda file: file.path)


def plan(files: Iterable[DataFile], columns: Sequence[str], *, tasks: int) -> list[list[RowGroups]]:
    """The files' row groups shared out by their bytes: about `tasks` lists, more where one would hold over 128 MB.

    Reads each file's footer. InputError where a file has vanished, isn't what the table recorded, or lacks a column.
    """
    units = [unit for file in files for unit in _row_groups(file, [c for c in columns if c not in file.partition])]
    wanted = max(tasks, -(-sum(unit.bytes for unit in units) // TASK_BYTES))
    shares: list[list[RowGroups]] = [[] for _ in range(min(wanted, len(units)))]
    loads = [0] * len(shares)
    for unit in sorted(units, key=lambda unit: -unit.bytes):
        lightest = loads.index(min(loads))
        shares[lightest].append(unit)
        loads[lightest] += unit.bytes
    return [_joined(share) for share in shares]


def check_files(files: Iterable[DataFile]) -> None:
    """InputError names the first file that is no longer there, or has another size than the table recorded."""
    for file in files:
        _look(file)


def _row_groups(file: DataFile, columns: Sequence[str]) -> Iterator[RowGroups]:
    modified = _look(file)
    with _opened(file, modified) as parquet:
        meta, names = parquet.metadata, parquet.schema_arrow.names
        if missing := [name for name in columns if name not in names]:
            raise InputError(f"{file.path} has no column {missing[0]!r}; it has {names}: score with --read spark")
        if meta.num_rows != file.rows:
            raise InputError(
                f"{file.path} holds {meta.num_rows:,} rows, of which the table counts {file.rows:,}: "
                "score with --read spark"
            )
        for number in range(meta.num_row_groups):
            yield RowGroups(file, modified, (number,), _bytes(meta.row_group(number), columns))


def _joined(units: Iterable[RowGroups]) -> list[RowGroups]:
    """Row groups of one file in its order, so that a task opens it once."""
    by_file: dict[str, list[RowGroups]] = defaultdict(list)
    for unit in units:
        by_file[unit.file.path].append(unit)
    return [
        RowGroups(
            same[0].file, same[0].modified, tuple(sorted(n for u in same for n in u.groups)), sum(u.bytes for u in same)
        )
        for _, same in sorted(by_file.items())
    ]


# -- reading -----------------------------------------------------------------------------------------------------------


def score_files(
    spark: SparkSession,
    shares: Sequence[Sequence[RowGroups]],
    schema: StructType,
    *,
    classifier: Shared[Scorer],
    tokens: TokenCounter,
    keep: Sequence[str] = (),
    heads: Sequence[str] = (),
    batch_bytes: int = BATCH_BYTES,
    clock: StageClock | None = None,
) -> DataFrame:
    """The frame of `scoring.score_documents` for the row groups of a `plan`, a task each share.

    schema: the documents' columns, partition columns among them. A file that has vanished or changed since it was
    planned fails the job with an InputError that names it.
    """
    shares = [list(share) for share in shares]
    is_timed, result = clock is not None, scored_schema(schema, keep, heads)
    if is_timed:
        result = timed_schema(result)
    arrow = arrow_schema(StructType([schema[name] for name in ("doc_id", *keep, "text")]))

    def score(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        work = partial(score_batches, classifier=classifier, tokens=tokens, keep=keep, heads=heads)
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                read = (b for unit in shares[number] for b in read_batches(unit, arrow, batch_bytes=batch_bytes))
                yield from timed(read, work) if is_timed else work(read)

    # One row a partition: each task reads its own share.
    numbers = spark.range(0, len(shares), 1, numPartitions=max(1, len(shares)))
    scores = numbers.mapInArrow(score, result)
    return scores if clock is None else clock.watch(scores, tasks=len(shares))


def read_batches(unit: RowGroups, schema: pa.Schema, *, batch_bytes: int = BATCH_BYTES) -> Iterator[pa.RecordBatch]:
    """The columns of `schema`, in batches of at most `batch_bytes` of text (a longer document comes alone)."""
    partition = unit.file.partition
    stored = [name for name in schema.names if name not in partition]
    with _opened(unit.file, unit.modified) as parquet:
        for number in unit.groups:
            group = parquet.metadata.row_group(number)
            # By the group's mean row; what then is too large all the same is cut.
            rows = max(1, min(BATCH_ROWS, batch_bytes * group.num_rows // max(1, _bytes(group, stored))))
            for batch in parquet.iter_batches(rows, row_groups=[number], columns=stored, use_threads=False):
                columns = [
                    pa.array([partition[each.name]] * len(batch), each.type)
                    if each.name in partition
                    else _typed(batch.column(each.name), each.type)
                    for each in schema
                ]
                yield from cut_batch(pa.RecordBatch.from_arrays(columns, schema=schema), batch_bytes)
    # Read to the end from a file that was rewritten meanwhile, the rows may be anything.
    if _look(unit.file) != unit.modified:
        raise InputError(_changed(unit.file))


def cut_batch(batch: pa.RecordBatch, batch_bytes: int) -> Iterator[pa.RecordBatch]:
    """Slices of at most `batch_bytes` of text, each with one row at least, in order."""
    ends = np.cumsum(pc.binary_length(batch.column("text")).fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    start = 0
    while start < len(batch):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + batch_bytes, side="right")))
        yield batch.slice(start, stop - start)
        start = stop


@contextlib.contextmanager
def _opened(file: DataFile, modified: int) -> Iterator[pq.ParquetFile]:
    """The file as Parquet; whatever goes wrong with it in the body is told as what befell the file."""
    if _look(file) != modified:
        raise InputError(_changed(file))
    try:
        store, path = _store(file.path)
        with store.open_input_file(path) as handle, pq.ParquetFile(handle, buffer_size=BUFFER_BYTES) as parquet:
            yield parquet
    except (OSError, pa.ArrowException) as error:
        if _look(file) != modified:
            raise InputError(_changed(file)) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{file.path} is cut short or not what its name says ({reason}); fetch it again") from error


def _look(file: DataFile) -> int:
    """When the file was last modified, ns; InputError where it has vanished or has another size than was recorded."""
    found = _found(file.path)
    if found.size != file.bytes:
        raise InputError(_changed(file))
    return int(found.mtime_ns or 0)


def _found(path: str) -> fs.FileInfo:
    store, place = _store(path)
    try:
        found = store.get_file_info(place)
    except OSError as error:
        raise InputError(f"{path} can't be read ({str(error)[:200]}): score with --read spark") from error
    if found.type == fs.FileType.NotFound:
        raise InputError(f"{path} has vanished; put it back, or import the documents again, and run again")
    return found


def _changed(file: DataFile) -> str:
    return f"{file.path} has changed since it was written; put it back, or import the documents again, and run again"


def _store(path: str) -> tuple[fs.FileSystem, str]:
    if is_local(path):
        return fs.LocalFileSystem(), path
    try:
        return fs.FileSystem.from_uri(path)  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"--read files: pyarrow doesn't know the store of {path}; use --read spark") from error


def _plain(uri: str) -> str:
    """Spark's URI of a local file as a path; another URI as it is."""
    return re.sub("^file:/+", "/", unquote(uri)) if uri.startswith("file:") else uri


def _bytes(group: Any, columns: Sequence[str]) -> int:
    """Uncompressed bytes of the columns in a row group."""
    parts = (group.column(i) for i in range(group.num_columns))
    return sum(part.total_uncompressed_size for part in parts if part.path_in_schema.split(".")[0] in columns)


def _typed(column: pa.Array, wanted: pa.DataType) -> pa.Array:
    return column if column.type == wanted else column.cast(wanted)
