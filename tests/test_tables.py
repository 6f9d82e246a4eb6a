"""Tables: written idempotently by key, checked before a row is written, each commit with its lineage."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from curation.errors import InputError, SchemaError, TablesBusyError
from curation.tables import Tables, TableSpec, _claim, _lease, absolute, hold, is_catalog_name

THINGS = TableSpec("things", key=("id",), schema="id string, kind string, value double", partition_by=("kind",))
OTHERS = TableSpec("others", key=("id",), schema="id string")


def things(spark: SparkSession, *rows: tuple[str | None, str, float]) -> DataFrame:
    return spark.createDataFrame(rows, THINGS.schema)


def content(tables: Tables, version: int | None = None) -> list[tuple[str, str, float]]:
    return sorted(tuple(row) for row in tables.read(THINGS, version).collect())


def test_inserting_twice_changes_nothing_and_keeps_what_is_there(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    tables.insert(THINGS, things(spark, ("a", "x", 1.0), ("b", "y", 2.0)))
    tables.insert(THINGS, things(spark, ("b", "y", 9.0), ("c", "y", 3.0)))
    assert content(tables) == [("a", "x", 1.0), ("b", "y", 2.0), ("c", "y", 3.0)]


@pytest.mark.connect
def test_upserting_updates_by_key(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    tables.append(THINGS, things(spark, ("a", "x", 1.0)))
    tables.upsert(THINGS, things(spark, ("a", "x", 5.0), ("b", "x", 2.0)))
    assert content(tables) == [("a", "x", 5.0), ("b", "x", 2.0)]


def test_replacing_touches_only_the_named_rows_and_is_repeatable(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    tables.append(THINGS, things(spark, ("a", "x", 1.0), ("b", "it's", 2.0)))
    for _ in range(2):
        tables.replace(THINGS, things(spark, ("c", "it's", 3.0)), where={"kind": "it's"})
        assert content(tables) == [("a", "x", 1.0), ("c", "it's", 3.0)]


def test_a_version_reads_as_it_was_and_a_read_frame_is_pinned(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    tables.append(THINGS, things(spark, ("a", "x", 1.0)))
    before, pinned = tables.version(THINGS), tables.read(THINGS)
    tables.append(THINGS, things(spark, ("b", "x", 2.0)))
    assert content(tables, before) == [("a", "x", 1.0)]
    assert pinned.count() == 1
    assert tables.read(THINGS).count() == 2


def test_columns_that_came_later_are_null_in_a_table_of_before_and_come_with_its_next_write(
    spark: SparkSession, tables_root: str
) -> None:
    later = TableSpec("others", key=("id",), schema="id string, size bigint, kind string", added=("size", "kind"))
    Tables(spark, tables_root).append(OTHERS, spark.createDataFrame([("a",)], OTHERS.schema), keys_are_unique=True)
    tables = Tables(spark, tables_root)
    assert tables.read(later).columns == ["id", "size", "kind"]
    tables.append(later, spark.createDataFrame([("b", 5, "x")], later.schema), keys_are_unique=True)
    rows = tables.read(later).orderBy("id").collect()
    assert [tuple(row) for row in rows] == [("a", None, None), ("b", 5, "x")]
    with pytest.raises(SchemaError, match="holds another schema"):  # any other column is refused as ever
        Tables(spark, tables_root).exists(TableSpec("others", key=("id",), schema="id string, age int", added=("age",)))


def test_a_write_is_noted_with_what_its_commit_added(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    with tables.scratch(OTHERS):
        tables.append(OTHERS, spark.createDataFrame([("a",)], OTHERS.schema), keys_are_unique=True)
        tables.append(THINGS, things(spark, ("a", "x", 1.0)), keys_are_unique=True)
    files = [file.stat().st_size for file in Path(tables_root, "things").rglob("*.parquet")]
    assert tables.written(tables.writes) == {"things": (sum(files), len(files))}
    assert [each.spec for each in tables.writes] == [OTHERS, THINGS]
    assert all(0 < (each.commit_seconds or 0) <= each.seconds for each in tables.writes)


@pytest.mark.connect
def test_a_retention_is_set_once_where_tables_are_and_keeps_what_it_says(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    tables.append(THINGS, things(spark, ("a", "x", 1.0)))
    assert tables.retain([THINGS, OTHERS], days=60) == ["things"] and not tables.exists(OTHERS)
    version = tables.version(THINGS)
    assert tables.retain([THINGS, OTHERS], days=60) == [] and tables.version(THINGS) == version
    (row,) = spark.sql(f"DESCRIBE DETAIL {tables.location(THINGS)}").collect()
    assert row["properties"] == dict.fromkeys(
        ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration"), "interval 60 days")
    assert content(tables) == [("a", "x", 1.0)]


def test_a_table_that_is_not_there_reads_as_empty(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    assert not tables.exists(THINGS)
    assert tables.version(THINGS) is None
    assert tables.read(THINGS).columns == ["id", "kind", "value"]
    assert tables.read(THINGS).count() == 0


def test_every_commit_says_who_made_it_from_what(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root, run_id="r1", config_hash="c1")
    tables.append(OTHERS, spark.createDataFrame([("o",)], OTHERS.schema))
    tables.read(OTHERS)
    tables.insert(THINGS, things(spark, ("a", "x", 1.0)))
    tables.append(THINGS, things(spark, ("b", "x", 1.0)))
    commits = tables.history(THINGS)
    assert [commit["operation"] for commit in commits][:2] == ["WRITE", "MERGE"]
    lineage = {"run_id": "r1", "config_hash": "c1", "read_versions": {"others": tables.version(OTHERS)}}
    assert [commit["userMetadata"] for commit in commits] == [lineage] * len(commits)


@pytest.mark.parametrize("method", ["insert", "upsert", "append"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "x", 1.0), ("a", "y", 2.0)], r"things: the key \{'id': 'a'\} stands 2 times .* nothing was written"),
        ([(None, "x", 1.0)], r"things: the key \{'id': None\} has no value"),
    ],
)
def test_a_bad_key_is_refused_before_a_row_is_written(
    spark: SparkSession, tables_root: str, method: str, rows: list[tuple[str | None, str, float]], message: str
) -> None:
    tables = Tables(spark, tables_root)
    with pytest.raises(SchemaError, match=message):
        getattr(tables, method)(THINGS, things(spark, *rows))
    assert tables.read(THINGS).count() == 0


def test_other_columns_than_declared_are_refused(spark: SparkSession, tables_root: str) -> None:
    rows = things(spark, ("a", "x", 1.0)).withColumnRenamed("kind", "sort")
    with pytest.raises(SchemaError, match=r"things: rows lack \['kind'\] and hold \['sort'\] besides"):
        Tables(spark, tables_root).append(THINGS, rows)


def test_a_root_that_holds_another_schema_is_refused(spark: SparkSession, tables_root: str) -> None:
    Tables(spark, tables_root).append(THINGS, things(spark, ("a", "x", 1.0)))
    other = TableSpec("things", key=("id",), schema="id string, size bigint")
    with pytest.raises(SchemaError, match=r"holds another schema .*kind string.* choose another --tables root"):
        Tables(spark, tables_root).read(other)


def test_a_folder_that_is_no_table_is_refused(spark: SparkSession, tables_root: str) -> None:
    folder = Path(tables_root, "things")
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SchemaError, match="holds files but no Delta table"):
        Tables(spark, tables_root).read(THINGS)


def test_a_root_that_is_a_file_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        Tables(spark, str(tmp_path / "file"))


@pytest.mark.processes  # under Spark Connect, which allows less
def test_tables_in_a_schema_work_as_those_in_a_folder(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = f"spark_catalog.curation_test_{os.getpid()}"  # another run of the tests may go on beside this one
    spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    spark.sql(f"CREATE SCHEMA {schema}")
    try:
        tables = Tables(spark, schema, run_id="r")
        assert tables.is_catalog and not tables.exists(THINGS)
        tables.insert(THINGS, things(spark, ("a", "x", 1.0)))
        tables.append(THINGS, things(spark, ("b", "y", 1.0)))
        tables.replace(THINGS, things(spark, ("c", "x", 1.0)), where={"kind": "x"})
        assert content(tables) == [("b", "y", 1.0), ("c", "x", 1.0)]
        assert tables.history(THINGS)[0]["userMetadata"]["run_id"] == "r"
        tables.append(OTHERS, spark.createDataFrame([("a",)], OTHERS.schema), keys_are_unique=True)  # makes the table
        assert [commit["userMetadata"]["run_id"] for commit in tables.history(OTHERS)] == ["r"]
        with hold(tables, lease_seconds=60), monkeypatch.context() as patched:
            with pytest.raises(TablesBusyError, match="in use by"), hold(tables, lease_seconds=60):
                pass
            # Who looks before this run has claimed, and claims after it, leaves with a sentence all the same.
            first = iter([None])
            patched.setattr("curation.tables._lease", lambda each: next(first, _lease(each)))
            with pytest.raises(TablesBusyError, match=r"was taken by .* at this moment"), hold(tables, lease_seconds=60):
                pass
        for holder, expires in (("a run that died", 1.0), ("the next one", time.time() + 60)):
            _claim(tables, holder, expires)  # given back, and run out: it may come
            assert _lease(tables) == (holder, expires)
    finally:
        spark.sql(f"DROP SCHEMA {schema} CASCADE")


def test_where_the_platform_refuses_the_setting_a_merge_goes_without_its_lineage(
    spark: SparkSession, tables_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, key: str, value: object = None) -> None:
        raise RuntimeError(f"[CONFIG_NOT_AVAILABLE] {key}")

    tables = Tables(spark, tables_root)
    monkeypatch.setattr(type(spark.conf), "set", refuse)
    monkeypatch.setattr(type(spark.conf), "unset", refuse)
    tables.insert(THINGS, things(spark, ("a", "x", 1.0)))
    assert content(tables) == [("a", "x", 1.0)]


def _hold_until(
    root: str, held: "multiprocessing.synchronize.Event", stop: "multiprocessing.synchronize.Event"
) -> None:
    from curation.tables import _hold_folder

    with _hold_folder(Path(root)):
        held.set()
        stop.wait(60)


@pytest.mark.connect
def test_two_runs_on_one_root_exclude_each_other_and_a_dead_one_frees_it(spark: SparkSession, tables_root: str) -> None:
    context = multiprocessing.get_context("spawn")
    held, stop = context.Event(), context.Event()
    other = context.Process(target=_hold_until, args=(tables_root, held, stop))
    other.start()
    assert held.wait(60)
    with pytest.raises(TablesBusyError, match=f"in use by process {other.pid}"), hold(Tables(spark, tables_root)):
        pass
    other.kill()
    other.join()
    with hold(Tables(spark, tables_root)):
        assert Path(tables_root, ".lock").read_text().startswith("process")


def test_roots_are_told_apart() -> None:
    assert is_catalog_name("main.betr")
    assert not is_catalog_name("./main.betr")
    assert not is_catalog_name("/data/main.betr")
    assert not is_catalog_name("tables")
    assert absolute("s3://bucket/x/") == "s3://bucket/x"
    assert absolute("file:///tmp/x") == "/tmp/x"
    assert absolute("x") == str(Path.cwd() / "x")
