"""The driver's rows as frames: of the plan, of the declared types, the same under Connect."""

from datetime import UTC, datetime

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from curation.frames import driver_rows

pytestmark = pytest.mark.connect

SCHEMA = "id string, n int, score double, when timestamp, fields map<string,string>, ids array<bigint>"


def test_rows_come_back_as_they_were_given(spark: SparkSession) -> None:
    moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    given = [
        ("a", 1, 0.5, moment, {"k": "v", "": "empty name"}, [1, 2**40]),
        ("b", None, float("inf"), None, {}, []),
        (None, -7, None, moment, None, None),
    ]
    frame = driver_rows(spark, given, SCHEMA)
    assert ", ".join(f"{name} {kind}" for name, kind in frame.dtypes) == SCHEMA
    seconds = F.unix_seconds("when").alias("seconds")
    found = [tuple(row) for row in frame.select("id", "n", "score", seconds, "fields", "ids").collect()]
    assert found == [(i, n, s, w and int(w.timestamp()), f, ids) for i, n, s, w, f, ids in given]


def test_no_rows_are_a_frame_with_the_columns(spark: SparkSession) -> None:
    frame = driver_rows(spark, [], SCHEMA)
    assert frame.columns == [part.split()[0] for part in SCHEMA.split(", ")] and frame.count() == 0


def test_rows_are_read_by_no_python(spark: SparkSession) -> None:
    frame = driver_rows(spark, [("a", 1)], "id string, n int")
    plan = frame._explain_string() if hasattr(frame, "_explain_string") else frame._jdf.queryExecution().toString()  # type: ignore[operator]
    assert "LocalRelation" in plan or "LocalTableScan" in plan, plan
