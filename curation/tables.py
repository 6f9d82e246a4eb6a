"""Delta tables under one root: declared once with their key, written idempotently, each commit with its lineage."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from curation.errors import InputError, SchemaError, TablesBusyError
from curation.frames import driver_rows, parsed_schema

# Features of a Delta table that leave its data files what they seem: each row of a file is a row of the table.
HARMLESS_FEATURES = {
    *("appendOnly", "allowColumnDefaults", "changeDataFeed", "checkConstraints", "checkpointProtection", "clustering"),
    *("domainMetadata", "generatedColumns", "identityColumns", "inCommitTimestamp", "invariants", "rowTracking"),
    *("v2Checkpoint", "vacuumProtocolCheck"),
}
RETENTION = ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration")
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
LEASE_SECONDS = 300  # schedules wait longer than this before they try again: a run that died holds its tables so long


@dataclass(frozen=True)
class TableSpec:
    """A table's name, the columns that name a row, its schema as Spark DDL, and how its files are laid out.

    added: columns, the schema's last, that came later: a table of before reads as null there, and gets them with its
    next write.
    """

    name: str
    key: tuple[str, ...]
    schema: str
    partition_by: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def struct(self, spark: SparkSession) -> StructType:
        return parsed_schema(spark, self.schema)

    def frame(self, spark: SparkSession, rows: Iterable[Sequence[Any]] = ()) -> DataFrame:
        """The driver's rows as a frame with the table's columns."""
        return driver_rows(spark, rows, self.schema)


@dataclass(frozen=True)
class Write:
    """One commit as it was written: seconds of the whole call, with the job behind it.

    bytes, files: of the data files that it added; commit_seconds: from its last file to the end. None where the table's
    log doesn't lie on this machine's disk.
    """

    spec: TableSpec
    seconds: float
    bytes: int | None = None
    files: int | None = None
    commit_seconds: float | None = None


@dataclass
class Tables:
    """The tables under `root`: a path (one folder a table) or `catalog.schema`.

    run_id and config_hash go into every commit's metadata, with the versions of the tables read since the last commit.
    """

    spark: SparkSession
    root: str
    run_id: str = ""
    config_hash: str = ""
    _there: set[str] = field(default_factory=set, repr=False)  # with the schema that is declared
    _versions: dict[str, int] = field(default_factory=dict, repr=False)
    _read: dict[str, int] = field(default_factory=dict, repr=False)
    writes: list[Write] = field(default_factory=list, repr=False)  # every append and replace, in their order
    _scratch: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.is_catalog = is_catalog_name(self.root)
        if not self.is_catalog:
            self.root = absolute(self.root)
            if Path(self.root).is_file():
                raise InputError(f"--tables {self.root} is a file; name a folder or a catalog.schema")

    # -- where and whether -------------------------------------------------------------------------------------------

    def location(self, spec: TableSpec) -> str:
        """The table as SQL names it."""
        return f"{self.root}.{spec.name}" if self.is_catalog else f"delta.`{self.path(spec)}`"

    def path(self, spec: TableSpec) -> str:
        return f"{self.root.rstrip('/')}/{spec.name}"

    def exists(self, spec: TableSpec) -> bool:
        """True where the table is there with the schema that `spec` declares; another schema raises SchemaError."""
        if spec.name in self._there:
            return True
        if self.is_catalog:
            if not self.spark.catalog.tableExists(self.location(spec)):
                return False
        elif is_local(self.root) and not Path(self.path(spec), "_delta_log").is_dir():
            folder = Path(self.path(spec))
            if folder.is_dir() and any(folder.iterdir()) and not _only_orphans(folder):
                raise SchemaError(f"{folder} holds files but no Delta table; choose another --tables root or move them")
            return False
        try:
            found = self._load(spec, None).schema
        except AnalysisException as error:
            if _says_missing(error):
                return False
            raise
        self._check_schema(spec, found)
        self._there.add(spec.name)
        return True

    def create(self, spec: TableSpec) -> None:
        """Make the table if it isn't there."""
        if self.exists(spec):
            return
        parts = f" PARTITIONED BY ({', '.join(spec.partition_by)})" if spec.partition_by else ""
        with self._commit_metadata(spec):
            self.spark.sql(f"CREATE TABLE IF NOT EXISTS {self.location(spec)} ({spec.schema}) USING delta{parts}")
        self._forget(spec)

    # -- reading -----------------------------------------------------------------------------------------------------

    def version(self, spec: TableSpec) -> int | None:
        """The table's current version, None where it doesn't exist."""
        if spec.name not in self._versions:
            if not self.exists(spec):
                return None
            self._versions[spec.name] = self._latest(spec)
        return self._versions[spec.name]

    def read(self, spec: TableSpec, version: int | None = None) -> DataFrame:
        """The table at `version`, or as it is now: pinned, so that a later commit doesn't change what a stage reads.

        A table that isn't there yet reads as empty.
        """
        current = self.version(spec) if version is None else version
        if current is None:
            return spec.frame(self.spark)
        self._read[spec.name] = current
        frame = self._load(spec, current)
        lacking = [name for name in spec.added if name not in frame.columns]
        if not lacking:
            return frame
        types = {f.name: f.dataType for f in spec.struct(self.spark)}
        return frame.withColumns({name: F.lit(None).cast(types[name]) for name in lacking})

    @property
    def versions_read(self) -> dict[str, int]:
        """Table -> the version that was read last, of all tables read so far."""
        return dict(sorted(self._read.items()))

    def history(self, spec: TableSpec) -> list[dict[str, Any]]:
        """Commits, newest first: version, timestamp, operation, and our metadata as a dict."""
        rows = self.spark.sql(f"DESCRIBE HISTORY {self.location(spec)}").select(
            "version", "timestamp", "operation", "userMetadata"
        )
        return [{**row.asDict(), "userMetadata": json.loads(row["userMetadata"] or "{}")} for row in rows.collect()]

    def files_are_not_rows(self, spec: TableSpec) -> str | None:
        """Why the rows of the table's Parquet files aren't the table's rows; None where they are.

        A table keeps what it was ever given: a feature that is off now may still mark files of before.
        """
        if self.is_catalog:
            return "a catalog may filter rows and hide columns"
        row = self.spark.sql(f"DESCRIBE DETAIL {self.location(spec)}").first()
        assert row is not None
        mode = (row["properties"] or {}).get("delta.columnMapping.mode", "none")
        features = set(row["tableFeatures"] or ())
        if "deletionVectors" in features:
            return "it may have deletion vectors"
        if mode != "none":
            return f"its columns are mapped by {mode}"
        # Reader version 2 is column mapping, and the mode says that there is none.
        if unknown := sorted(features - HARMLESS_FEATURES - {"columnMapping"}):
            return f"it has the table feature {unknown[0]}"
        return None

    # -- writing -----------------------------------------------------------------------------------------------------

    def insert(self, spec: TableSpec, rows: DataFrame) -> None:
        """Add the rows whose key isn't there yet; a second time changes nothing."""
        self._merge(spec, rows, "WHEN NOT MATCHED THEN INSERT *")

    def upsert(self, spec: TableSpec, rows: DataFrame) -> None:
        """Add new rows by key and update those that are there."""
        self._merge(spec, rows, "WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *")

    def append(
        self, spec: TableSpec, rows: DataFrame, *, keys: DataFrame | None = None, keys_are_unique: bool = False
    ) -> None:
        """Add rows that the caller knows to be new (it made them from an anti-join on the key), in one commit.

        keys: a cheap frame with the same keys, checked instead of `rows` where computing the rows is dear (a model).
        keys_are_unique: the stage that made the rows guarantees it (a groupBy or a row number on the key).
        """
        with self._noted(spec):
            rows = self._conform(spec, rows)
            if not keys_are_unique:
                self._check_keys(spec, rows if keys is None else keys)
            self._write(spec, rows, "append", {})

    def replace(
        self,
        spec: TableSpec,
        rows: DataFrame,
        *,
        where: dict[str, str] | str,
        keys: DataFrame | None = None,
        keys_are_unique: bool = False,
    ) -> None:
        """Make `rows` the only ones for which `where` (column = value, or SQL) holds, in one commit: repeatable.

        keys, keys_are_unique: as in `append`.
        """
        with self._noted(spec):
            rows = self._conform(spec, rows)
            if not keys_are_unique:
                self._check_keys(spec, rows if keys is None else keys)
            if isinstance(where, str):
                condition = where
            else:
                condition = " AND ".join(f"{column} = {_literal(value)}" for column, value in where.items())
            self._write(spec, rows, "overwrite", {"replaceWhere": condition})

    def retain(self, specs: Iterable[TableSpec], *, days: int) -> list[str]:
        """Keep what the tables replace, and their log, for so many days; the names of those that kept it otherwise.

        Until then VACUUM leaves the files of earlier versions, and `read` with a version finds them.
        """
        wanted = dict.fromkeys(RETENTION, f"interval {days} days")
        changed = []
        for spec in specs:
            if not self.exists(spec):
                continue
            row = self.spark.sql(f"DESCRIBE DETAIL {self.location(spec)}").select("properties").first()
            assert row is not None
            if wanted.items() <= dict(row["properties"] or {}).items():
                continue
            settings = ", ".join(f"'{name}' = '{value}'" for name, value in wanted.items())
            with self._commit_metadata(spec):
                self.spark.sql(f"ALTER TABLE {self.location(spec)} SET TBLPROPERTIES ({settings})")
            self._forget(spec)
            changed.append(spec.name)
        return changed

    def drop(self, spec: TableSpec) -> None:
        """Remove a table that only served a stage while it ran."""
        if self.is_catalog:
            self.spark.sql(f"DROP TABLE IF EXISTS {self.location(spec)}")
        elif is_local(self.root):
            shutil.rmtree(self.path(spec), ignore_errors=True)
        elif self.exists(spec):  # a remote store is reached through Delta only: the files go with the next VACUUM
            self.spark.sql(f"DELETE FROM {self.location(spec)}")
        self._forget(spec)
        self._there.discard(spec.name)
        self._read.pop(spec.name, None)

    @contextlib.contextmanager
    def scratch(self, *specs: TableSpec) -> Iterator[None]:
        """Tables that only serve the body: empty at its start, whatever a killed run left, and gone at its end."""
        for spec in specs:
            self.drop(spec)
            self._scratch.add(spec.name)
        try:
            yield
        finally:
            for spec in specs:
                self.drop(spec)

    def written(self, writes: Sequence[Write]) -> dict[str, tuple[int, int]]:
        """Table -> bytes and files that these writes added; without tables that only served a stage.

        A table whose log lies elsewhere is asked for its history: one query a table.
        """
        found: dict[str, tuple[int, int]] = {}
        for name, mine in _by_table(writes).items():
            if name in self._scratch:
                continue
            sizes = [(each.bytes, each.files) for each in mine if each.bytes is not None and each.files is not None]
            if len(sizes) < len(mine):
                rows = self.spark.sql(f"DESCRIBE HISTORY {self.location(mine[0].spec)} LIMIT {len(mine)}").select(
                    F.try_element_at("operationMetrics", F.lit("numOutputBytes")).cast("bigint").alias("bytes"),
                    F.coalesce(
                        F.try_element_at("operationMetrics", F.lit("numFiles")),
                        F.try_element_at("operationMetrics", F.lit("numAddedFiles")),
                    ).cast("bigint").alias("files"),
                )  # fmt: skip
                sizes = [(row["bytes"] or 0, row["files"] or 0) for row in rows.collect()]
            found[name] = (sum(b for b, _ in sizes), sum(f for _, f in sizes))
        return found

    # -- inside ------------------------------------------------------------------------------------------------------

    def _load(self, spec: TableSpec, version: int | None) -> DataFrame:
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        return reader.table(self.location(spec)) if self.is_catalog else reader.load(self.path(spec))

    def _latest(self, spec: TableSpec) -> int:
        if not self.is_catalog and is_local(
            self.root
        ):  # Delta's protocol: commit N is the file N.json; no job for that
            return max(int(p.stem) for p in Path(self.path(spec), "_delta_log").glob("*.json") if p.stem.isdigit())
        row = self.spark.sql(f"DESCRIBE HISTORY {self.location(spec)} LIMIT 1").select("version").first()
        return int(row["version"]) if row is not None else 0

    def _merge(self, spec: TableSpec, rows: DataFrame, clauses: str) -> None:
        rows = self._conform(spec, rows)
        self._check_keys(spec, rows)
        self.create(spec)
        view = f"rows_of_{spec.name}_{uuid.uuid4().hex}"
        rows.createOrReplaceTempView(view)
        on = " AND ".join(f"t.{column} = s.{column}" for column in spec.key)
        try:
            with self._commit_metadata(spec):
                self.spark.sql(f"MERGE INTO {self.location(spec)} t USING {view} s ON {on} {clauses}").collect()
        finally:
            self.spark.catalog.dropTempView(view)
        self._forget(spec)

    @contextlib.contextmanager
    def _noted(self, spec: TableSpec) -> Iterator[None]:
        """Note how long the body, one write, takes, and what its commit added."""
        start = time.monotonic()
        yield
        seconds, ended = time.monotonic() - start, time.time()
        if self.is_catalog or not is_local(self.root):
            self.writes.append(Write(spec, seconds))
            return
        log = Path(self.path(spec), "_delta_log", f"{self._latest(spec):020}.json")
        actions = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
        added = [action["add"] for action in actions if "add" in action]
        last = max((each["modificationTime"] / 1000 for each in added), default=None)
        commit = None if last is None else min(seconds, max(0.0, ended - last))
        self.writes.append(Write(spec, seconds, sum(each["size"] for each in added), len(added), commit))

    def _write(self, spec: TableSpec, rows: DataFrame, mode: str, options: dict[str, str]) -> None:
        writer = rows.write.format("delta").option("userMetadata", self._lineage(spec))
        if spec.added:
            writer = writer.option("mergeSchema", "true")
        there = self.exists(spec)
        if there:
            writer = writer.mode(mode).options(**options)
        else:  # the first commit makes the table and holds its first rows: nothing in between to be killed at
            writer = writer.mode("append").partitionBy(*spec.partition_by)
        if self.is_catalog:
            # The commit that makes a table of a catalog knows no writer's options.
            with contextlib.nullcontext() if there else self._commit_metadata(spec):
                writer.saveAsTable(self.location(spec))
        else:
            writer.save(self.path(spec))
        self._there.add(spec.name)
        self._forget(spec)

    def _conform(self, spec: TableSpec, rows: DataFrame) -> DataFrame:
        """The rows with the table's columns in the table's order and types; a column too few or too many is refused."""
        wanted = spec.struct(self.spark)
        missing = [name for name in wanted.names if name not in rows.columns]
        extra = [name for name in rows.columns if name not in wanted.names]
        if missing or extra:
            raise SchemaError(
                f"{spec.name}: rows lack {missing} and hold {extra} besides; the table's columns are {wanted.names}"
            )
        found = {f.name: f.dataType for f in rows.schema.fields}
        return rows.select(
            *(f.name if found[f.name] == f.dataType else F.col(f.name).cast(f.dataType).alias(f.name) for f in wanted)
        )

    def _check_keys(self, spec: TableSpec, rows: DataFrame) -> None:
        null = F.lit(False)
        for column in spec.key:
            null = null | F.col(column).isNull()
        bad = (
            rows.groupBy(*spec.key)
            .agg(F.count(F.lit(1)).alias("n_"))
            .where((F.col("n_") > 1) | null)
            .limit(1)
            .collect()
        )
        if bad:
            key = {column: bad[0][column] for column in spec.key}
            problem = "has no value" if None in key.values() else f"stands {bad[0]['n_']} times"
            raise SchemaError(f"{spec.name}: the key {key} {problem} in the rows to write; nothing was written")

    def _check_schema(self, spec: TableSpec, found: StructType) -> None:
        wanted = {f.name: f.dataType.simpleString() for f in spec.struct(self.spark).fields}
        there = {f.name: f.dataType.simpleString() for f in found.fields}
        later = set(spec.added) - set(there)  # these come with the next write
        if there != {name: kind for name, kind in wanted.items() if name not in later}:
            raise SchemaError(
                f"{self.location(spec)} holds another schema ({_columns(there)}) than this version writes "
                f"({_columns(wanted)}); choose another --tables root"
            )

    def _lineage(self, spec: TableSpec) -> str:
        versions = {name: version for name, version in self.versions_read.items() if name != spec.name}
        return json.dumps({"run_id": self.run_id, "config_hash": self.config_hash, "read_versions": versions})

    @contextlib.contextmanager
    def _commit_metadata(self, spec: TableSpec) -> Iterator[None]:
        """SQL has no writer options: the session's setting carries the metadata for the one statement inside.

        Serverless compute refuses the setting: there such a commit goes without.
        """
        with contextlib.suppress(Exception):
            self.spark.conf.set(USER_METADATA, self._lineage(spec))
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                self.spark.conf.unset(USER_METADATA)

    def _forget(self, spec: TableSpec) -> None:
        self._versions.pop(spec.name, None)


def is_catalog_name(root: str) -> bool:
    """`catalog.schema` (or a single schema in backticks) rather than a path."""
    return re.fullmatch(r"[A-Za-z_]\w*\.[A-Za-z_]\w*", root) is not None and not Path(root).exists()


def is_local(path: str) -> bool:
    return "://" not in path and not re.match(r"[a-z][a-z0-9+.-]+:/", path)


def absolute(path: str) -> str:
    """Local paths made absolute (executors have another working directory); others as they are."""
    path = path.removeprefix("file://") if path.startswith("file:///") else path
    return str(Path(path).expanduser().absolute()) if is_local(path) else path.rstrip("/")


@contextlib.contextmanager
def hold(tables: Tables, *, lease_seconds: int = LEASE_SECONDS) -> Iterator[None]:
    """Keep every other run off this root while the body runs; TablesBusyError says who has it.

    A local root is held by a lock that the system frees when the process dies, however it dies. Elsewhere a lease in
    the table `leases` is renewed while the run lives, and may be taken over once it has run out.
    """
    if not tables.is_catalog and is_local(tables.root):
        with _hold_folder(Path(tables.root)):
            yield
    else:
        with _hold_lease(tables, lease_seconds):
            yield


@contextlib.contextmanager
def _hold_folder(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        handle = open(root / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 - held over the yield
    except OSError as error:
        raise InputError(f"--tables {root} can't be written ({error.strerror}); choose another root") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            raise TablesBusyError(
                f"{root} is in use by {holder}; wait for that run to end, or use another --tables root"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield


LEASES = TableSpec("leases", key=("name",), schema="name string, holder string, expires double")


@contextlib.contextmanager
def _hold_lease(tables: Tables, lease_seconds: int) -> Iterator[None]:
    holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    current = _lease(tables)
    if current is not None and current[1] > time.time():
        raise TablesBusyError(
            f"{tables.root} is in use by {current[0]} for {current[1] - time.time():.0f} s more at least; "
            "wait for it to end, or use another --tables root"
        )
    try:
        _claim(tables, holder, time.time() + lease_seconds)
        taken = _lease(tables)
    except Exception as error:
        if "CONCURRENT" not in str(error):
            raise
        taken = None
    if taken is None or taken[0] != holder:
        raise TablesBusyError(
            f"{tables.root} was taken by {taken[0] if taken else 'another run'} at this moment; "
            "start again when it has ended"
        )
    done = threading.Event()

    def renew() -> None:
        while not done.wait(lease_seconds / 3):
            with contextlib.suppress(Exception):  # one missed renewal leaves two more before the lease runs out
                _claim(tables, holder, time.time() + lease_seconds)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=30)
        _claim(tables, holder, 0.0)


def _claim(tables: Tables, holder: str, expires: float) -> None:
    """Take the lease, or set one's own anew, in one commit; another run's that hasn't run out stays.

    Of two that claim at once only one commits: the other finds it there, or Delta says that they are CONCURRENT.
    """
    tables.create(LEASES)
    tables.spark.sql(
        f"MERGE INTO {tables.location(LEASES)} t "
        f"USING (SELECT 'run' AS name, {_literal(holder)} AS holder, {expires}D AS expires) s ON t.name = s.name "
        f"WHEN MATCHED AND (t.holder = s.holder OR t.expires <= {time.time()}D) THEN UPDATE SET * "
        "WHEN NOT MATCHED THEN INSERT *"
    ).collect()
    tables._forget(LEASES)


def _lease(tables: Tables) -> tuple[str, float] | None:
    tables._forget(LEASES)  # as it is now, whatever was looked at before
    row = tables.read(LEASES).where("name = 'run'").first()
    return (row["holder"], row["expires"]) if row is not None else None


def _literal(value: str) -> str:
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _by_table(writes: Sequence[Write]) -> dict[str, list[Write]]:
    found: dict[str, list[Write]] = {}
    for each in writes:
        found.setdefault(each.spec.name, []).append(each)
    return found


def _columns(types: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in types.items())


def _says_missing(error: AnalysisException) -> bool:
    text = str(error)
    return any(
        mark in text
        for mark in (
            "PATH_NOT_FOUND",
            "TABLE_OR_VIEW_NOT_FOUND",
            "DELTA_TABLE_NOT_FOUND",
            "DELTA_MISSING_DELTA_TABLE",
            "is not a Delta table",
        )
    )


def _only_orphans(folder: Path) -> bool:
    """A run that was killed before the table's first commit leaves data files but no log: they may stay."""
    return all(p.is_dir() or p.suffix in {".parquet", ".crc"} for p in folder.iterdir())
