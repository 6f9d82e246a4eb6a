"""Arrow files (IPC streams, as `datasets` saves them, or IPC files) as frames: a task a file, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from curation.errors import InputError

FILE, ROW = "__file", "__row"  # columns beside the file's own: where a row stands, from 1
BATCH_BYTES = 1 << 22


def read_arrow(spark: SparkSession, paths: list[str], open_file: Callable[[str], BinaryIO]) -> list[DataFrame]:
    """A frame for each schema among the files: their columns, FILE and ROW. InputError for one that is cut short."""
    by_schema: dict[pa.Schema, list[str]] = {}
    for path in paths:
        with open_file(path) as stream:
            schema, _ = _open(stream, path)
        fields = [pa.field(each.name, _plain(each.type)) for each in schema]
        by_schema.setdefault(pa.schema(fields), []).append(path)
    frames = []
    for schema, same in by_schema.items():
        placed = schema.append(pa.field(FILE, pa.string())).append(pa.field(ROW, pa.int64()))
        numbers = spark.range(0, len(same), 1, numPartitions=len(same))
        frames.append(numbers.mapInArrow(_read(same, open_file, placed), from_arrow_schema(placed)))
    return frames


def batches(stream: BinaryIO, path: str) -> Iterator[pa.RecordBatch]:
    """The file's record batches; InputError, naming `path`, if it is cut short."""
    _, read = _open(stream, path)
    try:
        yield from read
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


def _read(
    paths: list[str], open_file: Callable[[str], BinaryIO], schema: pa.Schema
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def rows(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                with open_file(paths[number]) as stream:
                    row = 1
                    for piece in _pieces(batches(stream, paths[number])):
                        place = [
                            pa.repeat(paths[number], len(piece)),
                            pa.array(np.arange(row, row + len(piece), dtype=np.int64)),
                        ]
                        columns = [*piece.columns, *place]
                        cast = [_cast(c, kind) for c, kind in zip(columns, schema.types, strict=True)]
                        yield pa.RecordBatch.from_arrays(cast, schema=schema)
                        row += len(piece)

    return rows


def _pieces(whole: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in whole:
        rows = max(1, len(batch) * BATCH_BYTES // max(1, batch.nbytes))
        yield from (batch.slice(first, rows) for first in range(0, len(batch), rows))


def _open(stream: BinaryIO, path: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        if stream.read(6) == b"ARROW1":
            file = pa.ipc.open_file(stream)
            return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
        stream.seek(0)
        reader = pa.ipc.open_stream(stream)
        return reader.schema, iter(reader)
    except (pa.ArrowInvalid, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(f"{path} is cut short or no Arrow file ({error}); fetch it again")


def _plain(kind: pa.DataType) -> pa.DataType:
    """The nearest type that Spark knows."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(each.name, _plain(each.type)) for each in kind])
    if types.is_map(kind):
        return pa.map_(_plain(kind.key_type), _plain(kind.item_type))
    if types.is_timestamp(kind) or types.is_date64(kind):
        return pa.timestamp("us", "UTC" if getattr(kind, "tz", None) else None)
    if types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind) or types.is_time(kind):
        return pa.string()
    if types.is_duration(kind):
        return pa.int64()
    if types.is_float16(kind):
        return pa.float32()
    signed = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20)}
    return signed.get(kind, kind)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.cast(kind, safe=False) if column.type != kind else column
