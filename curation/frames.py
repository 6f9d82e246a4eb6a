"""Frames from the driver's own rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from inspect import signature
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType


def driver_rows(spark: SparkSession, rows: Iterable[Sequence[Any]], schema: str) -> DataFrame:
    """A few rows of the driver's as a frame with this schema (DDL).

    By way of Arrow they are part of the plan: no Python reads them again, one task writes them, and where there
    are none, what they are joined to is planned away.
    """
    struct = parsed_schema(spark, schema)
    arrow = arrow_schema(struct)
    columns = list(zip(*rows, strict=True)) or [()] * len(arrow)
    values = [pa.array(map(_for_arrow, column), kind) for column, kind in zip(columns, arrow.types, strict=True)]
    return spark.createDataFrame(pa.Table.from_arrays(values, schema=arrow), struct)


def arrow_schema(struct: StructType) -> pa.Schema:
    """The same columns in Arrow, as Spark hands them over: times in UTC."""
    return to_arrow_schema(struct, **_IN_UTC)


# pyspark 4.0 and 4.1 always say UTC, 4.2 has to be told.
_IN_UTC: dict[str, Any] = {"timezone": "UTC"} if "timezone" in signature(to_arrow_schema).parameters else {}


def _for_arrow(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC)  # without a zone it is this machine's
    return list(value.items()) if isinstance(value, Mapping) else value


def parsed_schema(spark: SparkSession, schema: str) -> StructType:
    """The schema that this DDL declares."""
    if schema not in _PARSED:  # asking Spark takes tens of milliseconds, and every write asks
        _PARSED[schema] = spark.createDataFrame([], schema).schema  # type: ignore[call-overload]
    return _PARSED[schema]


_PARSED: dict[str, StructType] = {}
