"""Records as shards that trainers read: Parquet, JSON lines, MosaicML's MDS, a Hugging Face dataset folder.

Which records lie in which shard, and in which order, hangs on their ids and a seed alone: every repetition of a record
has a place in [0, 1) by hash, a shard is a range of places, and in it records lie by their place. The shards one after
the other are one shuffle of all records, the same for any partitioning, any size of shards, and after any kill.

Tasks write the shards, under names that hold their content's hash; the driver writes the manifest, last.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
)

from curation.command import option
from curation.errors import InputError, input_errors
from curation.files import write_whole
from curation.frames import arrow_schema, driver_rows
from curation.hashing import content_id
from curation.progress import Terminal, clock
from curation.sampling import hash_fraction
from curation.session import TaskWatch, default_parallelism
from curation.shards import (
    FORMATS,
    SHARD,
    Columns,
    Shard,
    by_shard,
    is_intact,
    mds_index,
    notes,
    refuse_twins,
    write_shard,
)
from curation.tables import absolute, is_local

SHARD_BYTES = 256 * 2**20
MOST_EPOCHS = 100  # of one record: an odds weight may ask for a hundred thousand
MOST_TASKS = 4096
WEIGHTS = ("column", "repeat")
DONE, RESUMED, UNCHANGED = "done", "resumed", "unchanged"
# Spark, pyarrow and `datasets` pass over files that begin so: what they read is the shards alone.
MANIFEST, STARTED, PARTS = "_manifest.json", "_started.json", "_parts"
INDEX, CARD = "index.json", "README.md"
HELPERS = ("place_", "repetition_", "copies_", "shard_", "bytes")  # columns that no shard holds

PLAIN = (StringType, BooleanType, IntegerType, LongType, FloatType, DoubleType)
Card = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class ExportConfig:
    """How records become shards. A field's metadata says what it means, and which program reads it."""

    format: str = option("parquet", f"what is written: {', '.join(FORMATS)}", stages="betr")
    shard_bytes: int = option(
        SHARD_BYTES,
        "text in a shard, about: UTF-8 bytes before compression; at most twice as much beside its longest record",
        stages="every",
    )
    epochs: float = option(
        1.0, "how often each record is there; 2.5: twice, and half of them, by hash, once more", stages="every"
    )
    weights: str = option(
        "column",
        "column: a record's weight goes along and does nothing; repeat: a record is there weight times --epochs",
        stages="betr",
    )
    order_seed: int = option(0, "seed of the order, and of who is there once more", stages="every")

    def __post_init__(self) -> None:
        for name, choices in (("format", tuple(FORMATS)), ("weights", WEIGHTS)):
            if getattr(self, name) not in choices:
                raise InputError(f"--{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        most = 2**30 if self.format == "mds" else 2**40
        if not 1 <= self.shard_bytes <= most:
            raise InputError(f"--shard-bytes must be in 1..{most:,} ({self.format}); got {self.shard_bytes!r}")
        if not 0 < self.epochs <= MOST_EPOCHS:
            raise InputError(f"--epochs must be above 0 and at most {MOST_EPOCHS}; got {self.epochs!r}")


@dataclass(frozen=True)
class Plan:
    """What an export will write, known before it writes. left_out: records that are there no time.

    records: with their repetitions. cuts: equal ranges that the places are cut into; sizes: range -> records in it, of
    those that hold any. A shard is a range, and its number is that among these.
    """

    distinct: int
    left_out: int
    records: int
    text_bytes: int
    cuts: int
    sizes: Mapping[int, int]

    @property
    def figures(self) -> dict[str, int]:
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sizes"}
        return {**named, "shards": len(self.sizes)}


# -- the order ---------------------------------------------------------------------------------------------------------


def repeat(records: DataFrame, config: ExportConfig) -> DataFrame:
    """Each record as often as it is to be there, with `repetition_` (from 0) and `place_`, its place in [0, 1).

    The whole part of weight times epochs, and once more for those whose hash lies below the rest.
    """
    again = records.withColumn("copies_", copies(config)).where("copies_ > 0")
    numbered = again.withColumn("repetition_", F.explode(F.sequence(F.lit(0), F.col("copies_") - 1)))
    name = F.concat(F.col("id"), F.lit("/"), F.col("repetition_").cast("string"))
    return numbered.withColumn("place_", hash_fraction(name, config.order_seed, "export")).drop("copies_")


def copies(config: ExportConfig) -> Column:
    """How often a record is there."""
    times = _times(config)
    more = hash_fraction("id", config.order_seed, "export once more") < times - F.floor(times)
    return F.least(F.floor(times), F.lit(MOST_EPOCHS + 1)).cast("int") + more.cast("int")


def _times(config: ExportConfig) -> Column:
    epochs = F.lit(float(config.epochs))
    return F.col("weight") * epochs if config.weights == "repeat" else epochs


def cut(cuts: int) -> Column:
    """The range of places that a row lies in, of so many equal ones."""
    return F.floor(F.col("place_") * F.lit(cuts)).cast("int")


def make_plan(records: DataFrame, config: ExportConfig) -> Plan:
    """Count what there is and cut it into as many shards as it takes; reads ids, sizes and weights, no text.

    A shard holds at most twice --shard-bytes beside its longest record: where chance or few long records would exceed
    that, there are twice as many shards. InputError where a record can't be placed.
    """
    if config.weights == "repeat" and "weight" not in records.columns:
        raise InputError("--weights repeat: the records have no column weight; leave it out")
    lean = records.select(*(name for name in ("id", "bytes", "tokens", "weight") if name in records.columns))
    needed = [name for name in lean.columns if name != "weight" or config.weights == "repeat"]
    times, count = _times(config), F.col("copies_").cast("bigint")
    found = lean.withColumn("copies_", copies(config)).agg(
        F.count(F.lit(1)).alias("distinct"),
        F.count_if(F.col("copies_") == 0).alias("left_out"),
        F.sum(count).alias("records"),
        F.sum(count * F.col("bytes")).alias("text_bytes"),
        F.max(times).alias("most"),
        F.count_if(F.isnan(times) | (times < 0)).alias("unfit"),
        *(F.count_if(F.col(name).isNull()).alias(f"no_{name}") for name in needed),
    )
    row = found.collect()[0]
    for name in needed:
        if row[f"no_{name}"]:
            what = "text" if name == "bytes" else name
            lack = f"{row[f'no_{name}']:,} of {row['distinct']:,} records have no {what}"
            raise InputError(f"{lack}; nothing was written: bring back what the tables have lost, or leave these out")
    if not row["distinct"]:
        raise InputError("there is no record to export; select or make some first")
    if row["unfit"]:
        raise InputError(f"--weights repeat: {row['unfit']:,} records have a weight that is no number from 0 on")
    if row["most"] >= MOST_EPOCHS + 1:
        raise InputError(
            f"--weights repeat: a record would be there {row['most']:,.0f} times, and {MOST_EPOCHS} is the most; leave "
            "--weights out (a soft cut's weights are odds, and its draw has gone by them already), or lower --epochs"
        )
    if not row["records"]:
        raise InputError(f"--epochs {config.epochs:g} leaves out all {row['distinct']:,} records; raise it")
    placed = repeat(lean, config)
    cuts = max(1, -(-row["text_bytes"] // config.shard_bytes))
    while True:
        counted = placed.groupBy(cut(cuts).alias("shard_")).agg(
            F.count(F.lit(1)).alias("records"), (F.sum("bytes") - F.max("bytes")).alias("beside")
        )
        sizes = {each["shard_"]: each for each in counted.collect()}
        if all(each["beside"] <= 2 * config.shard_bytes for each in sizes.values()):
            break
        cuts *= 2
    return Plan(
        row["distinct"], row["left_out"], row["records"], row["text_bytes"], cuts,
        {number: sizes[number]["records"] for number in sorted(sizes)},
    )  # fmt: skip


# -- the folder --------------------------------------------------------------------------------------------------------


class Folder:
    """The folder that an export goes to, and what an earlier try left there. export_id: of what is to lie there."""

    def __init__(self, out: str, export_id: str) -> None:
        if not is_local(out):
            raise InputError(
                f"--out {out}: shards are written as files; give a path, as of a mounted volume, that driver and "
                "executors share, and copy them where they are to go"
            )
        self.path, self.export_id = Path(absolute(out)), export_id
        self.parts, self.manifest_file = self.path / PARTS, self.path / MANIFEST
        self._started = self.path / STARTED

    def look(self) -> dict[str, Any] | None:
        """The manifest, or what says that this export began; None in an empty folder. InputError in any other."""
        try:
            there = sorted(each.name for each in self.path.iterdir())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(
                f"--out {self.path} is no folder that can be read ({error.strerror}); choose another folder"
            ) from error
        if set(there) <= {PARTS, f"{STARTED}.part"}:  # or killed before there was a word of it
            return None
        for file in (self.manifest_file, self._started):
            found = _read_json(file)
            if found is not None and found.get("export_id") == self.export_id:
                return found
            if found is not None:
                settings = _settings_of(found)
                raise InputError(
                    f"--out {self.path} holds another export ({settings}); choose another folder, or empty it"
                )
        some = ", ".join(there[:3])
        raise InputError(
            f"--out {self.path} isn't empty ({some}), and holds no export; choose another folder, or empty it"
        )

    def is_whole(self, manifest: Mapping[str, Any]) -> bool:
        """Whether all that a manifest names is there, by its size."""
        return all(_size(self.path / each["name"]) == each["bytes"] for each in manifest["shards"])

    def begin(self, known: Mapping[str, Any]) -> None:
        """Leave word of what is begun here; a later try with the same settings goes on."""
        write_whole(_as_json({"export_id": self.export_id, **known}), self._started)
        try:
            for folder in (self.parts, (self.path / FORMATS[known["settings"]["format"]].name).parent):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {self.path} can't be written ({error.strerror}); choose another folder") from error

    def sweep(self, shards: Iterable[Shard], format: str) -> None:
        """Remove shards that aren't among these: of a task whose answer never came, or whose libraries were others."""
        wanted = {self.path / each.name for each in shards}
        for file in set(self.path.glob(FORMATS[format].pattern)) - wanted:
            file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what only served while shards were written."""
        shutil.rmtree(self.parts, ignore_errors=True)
        self._started.unlink(missing_ok=True)


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{file} is cut short or not what its name says; empty its folder, export again") from error
    return found


def _settings_of(found: Mapping[str, Any]) -> str:
    said = {**found.get("origin", {}), **found.get("settings", {})}
    return ", ".join(f"{name} {value}" for name, value in said.items()) or "of another program"


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


# -- the export --------------------------------------------------------------------------------------------------------


def export(
    records: DataFrame,
    config: ExportConfig,
    out: str,
    *,
    origin: Mapping[str, Any],
    read: Callable[[], Mapping[str, Any]] = dict,
    card: Card | None = None,
    terminal: Terminal | None = None,
) -> dict[str, Any]:
    """Write the records as shards into the folder `out`, with their manifest; returns the totals and where it lies.

    records: id (unique), text, and any columns to carry, of which tokens and weight are known; `bytes`, of the text in
    UTF-8, spares reading the text twice, and isn't written. A column of maps, lists or structs becomes JSON.
    origin: says what the records are: with the settings it names the export. read: what they were read from, as the
    manifest tells it, asked once they are planned. card: the manifest -> README.md of the format hf.
    A folder that holds this export whole stays as it is; one that holds a part of it gets the rest.
    """
    terminal, start = terminal or Terminal(), time.monotonic()
    settings = asdict(config) | {"epochs": float(config.epochs)}
    folder = Folder(out, content_id("export", dict(origin), settings, records.columns))
    found = folder.look()
    if found is not None and "shards" in found and folder.is_whole(found):
        folder.sweep((Shard(**each) for each in found["shards"]), config.format)
        folder.tidy()
        terminal.line(f"export   unchanged: {_in_words(found['totals'])}, {folder.path}")
        return _result(UNCHANGED, folder, found)
    watched = terminal.stage("export", unit="records")
    with input_errors(), watched as progress, TaskWatch(records.sparkSession, progress.tasks):
        lean, columns = _as_written(records)
        plan = make_plan(lean, config)
        known = {"settings": settings, "origin": dict(origin), "plan": plan.figures}
        if found is not None and found["plan"] != plan.figures:
            raise InputError(f"--out {folder.path} was begun with other records; choose another folder, or empty it")
        kept = _kept(records.sparkSession, folder, found)
        folder.begin(known)
        progress.expect(plan.records)
        progress.advance(sum(each.records for each in kept))
        progress.batch(plan.records - progress.done)
        written = _write(lean, columns, plan, config, folder, kept)
    shards = sorted([*kept, *written], key=lambda each: each.number)
    _check_written(folder, shards, plan)
    manifest = _manifest(folder, known, read(), columns, shards)
    if config.format == "mds":
        write_whole(json.dumps(mds_index(shards, columns), sort_keys=True), folder.path / INDEX)
    if config.format == "hf":
        write_whole((card or plain_card)(manifest), folder.path / CARD)
    folder.sweep(shards, config.format)
    write_whole(_as_json(manifest), folder.manifest_file)
    folder.tidy()
    if plan.left_out:
        terminal.line(f"  {plan.left_out:,} of {plan.distinct:,} records are left out, as --epochs and weights say")
    state = RESUMED if kept else DONE
    seconds = clock(time.monotonic() - start)
    terminal.line(f"export   {state}: {_in_words(manifest['totals'])} into {folder.path} in {seconds}")
    return _result(state, folder, manifest)


def _as_written(records: DataFrame) -> tuple[DataFrame, Columns]:
    """The records with their bytes and with columns that every format holds, and these columns.

    Maps, lists and structs become JSON; what is neither text, number nor boolean becomes text.
    """
    kept = [each for each in records.schema if each.name not in HELPERS]
    nested = frozenset(each.name for each in kept if isinstance(each.dataType, ArrayType | MapType | StructType))
    other = [each for each in kept if not isinstance(each.dataType, PLAIN)]
    as_text = {e.name: _to_json(e) if e.name in nested else F.col(e.name).cast("string") for e in other}
    lean = records.withColumns(as_text) if as_text else records
    if "bytes" not in records.columns:
        lean = lean.withColumn("bytes", F.octet_length("text"))
    flat = StructType([StructField(e.name, StringType()) if e.name in as_text else e for e in kept])
    return lean, Columns(arrow_schema(flat), nested)


def _to_json(field: StructField) -> Column:
    value = F.col(field.name)
    if isinstance(field.dataType, MapType):  # in the order of its keys, whatever order they came in
        value = F.map_from_entries(F.array_sort(F.map_entries(value)))
    return F.to_json(value, {"ignoreNullFields": "false"})


def _kept(spark: SparkSession, folder: Folder, found: Mapping[str, Any] | None) -> list[Shard]:
    """The shards that an earlier try left whole, by their checksum, which tasks compute."""
    if found is None:
        return []
    noted = [Shard(**each) for each in found["shards"]] if "shards" in found else notes(folder.parts)
    there = [each for each in noted if _size(folder.path / each.name) == each.bytes]
    if not there:
        return []
    path = folder.path

    def intact(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            good = [is_intact(path / row["name"], row["sha256"]) for row in batch.to_pylist()]
            yield batch.filter(pa.array(good, pa.bool_()))

    schema = "number int, name string, sha256 string"
    rows = driver_rows(spark, [(each.number, each.name, each.sha256) for each in there], schema)
    tasks = min(len(there), default_parallelism(spark))
    whole = {row["number"] for row in rows.repartition(tasks).mapInArrow(intact, schema).collect()}
    return [each for each in there if each.number in whole]


def _write(
    records: DataFrame, columns: Columns, plan: Plan, config: ExportConfig, folder: Folder, kept: Sequence[Shard]
) -> list[Shard]:
    """Write the shards that aren't kept, a task some of them; one row a shard comes to the driver."""
    numbers = {range_: number for number, range_ in enumerate(plan.sizes)}
    done = {each.number for each in kept}
    if len(done) == len(numbers):
        return []
    placed = repeat(records, config).withColumn("shard_", cut(plan.cuts))
    if done:
        ranges = [(range_,) for range_, number in numbers.items() if number in done]
        there = driver_rows(records.sparkSession, ranges, "shard_ int")
        placed = placed.join(F.broadcast(there), "shard_", "left_anti")
    path, export_id, of = folder.path, folder.export_id, len(numbers)
    renumbered = None if of == plan.cuts else numbers
    parts, format = folder.parts, config.format

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for range_, rows in by_shard(refuse_twins(batches)):
            check_shared(path, export_id)
            shard = write_shard(
                rows, number=range_ if renumbered is None else renumbered[range_], of=of, format=FORMATS[format],
                columns=columns, out=path, parts=parts,
            )  # fmt: skip
            yield pa.RecordBatch.from_pylist([asdict(shard)], schema=SHARD)

    tasks = min(of - len(done), MOST_TASKS)
    lanes = ", ".join(map(str, _lanes(records.sparkSession, tasks)))
    lane = F.expr(f"get(array({lanes}), pmod(shard_, {tasks}))")
    in_order = placed.repartition(tasks, lane.cast("bigint")).sortWithinPartitions("place_", "id", "repetition_")
    rows = in_order.select("shard_", "place_", *columns.schema.names)
    return [Shard(**row.asDict()) for row in rows.mapInArrow(write, from_arrow_schema(SHARD)).collect()]


def _lanes(spark: SparkSession, tasks: int) -> list[int]:
    """For each of so many tasks a number that Spark hands to it when it partitions by hash.

    Of as many shards as tasks, partitioned by their own numbers, a third of the tasks would get none, and some four.
    """
    told = spark.range(64 * tasks).select("id", F.pmod(F.hash("id"), F.lit(tasks)).alias("task"))
    found = {row["task"]: row["id"] for row in told.groupBy("task").agg(F.min("id").alias("id")).collect()}
    return [found.get(task, task) for task in range(tasks)]


def check_shared(path: Path, export_id: str) -> None:
    """InputError on an executor that doesn't see the driver's folder."""
    found = _read_json(path / STARTED)
    if found is None or found.get("export_id") != export_id:
        raise InputError(
            f"--out {path}: the executor on {socket.gethostname()} doesn't see the driver's folder; name one that both "
            "share, such as a mounted volume"
        )


def _check_written(folder: Folder, shards: Sequence[Shard], plan: Plan) -> None:
    """What the tasks say that they wrote is what was planned, and the driver sees it."""
    sizes = dict(enumerate(plan.sizes.values()))
    if {each.number: each.records for each in shards} != sizes or len(shards) != len(sizes):
        raise InputError(
            f"--out {folder.path}: the records changed while they were written; empty this folder, and export again "
            "while no other run writes these tables"
        )
    for each in shards:
        if _size(folder.path / each.name) != each.bytes:
            raise InputError(
                f"--out {folder.path}: the driver doesn't see {each.name}, which an executor wrote; name a folder that "
                "both share, such as a mounted volume"
            )


def _manifest(
    folder: Folder, known: Mapping[str, Any], read: Mapping[str, Any], columns: Columns, shards: Sequence[Shard]
) -> dict[str, Any]:
    tokens = None if any(each.tokens is None for each in shards) else sum(each.tokens or 0 for each in shards)
    totals = {
        "shards": len(shards),
        "records": sum(each.records for each in shards),
        "tokens": tokens,
        "text_bytes": sum(each.text_bytes for each in shards),
        "bytes": sum(each.bytes for each in shards),
    }
    types = {each.name: "json" if each.name in columns.json else str(each.type) for each in columns.schema}
    return {
        "export_id": folder.export_id, **known, "read": dict(read), "columns": types, "totals": totals,
        "shards": [asdict(each) for each in shards],
    }  # fmt: skip


def _result(state: str, folder: Folder, manifest: Mapping[str, Any]) -> dict[str, Any]:
    plan = {name: manifest["plan"][name] for name in ("distinct", "left_out")}
    where = {"out": str(folder.path), "manifest": str(folder.manifest_file)}
    return {"state": state, "export_id": folder.export_id, **where, **manifest["totals"], **plan}


def _in_words(totals: Mapping[str, Any]) -> str:
    tokens = "" if totals["tokens"] is None else f", {totals['tokens']:,} tokens"
    return f"{totals['records']:,} records{tokens} in {totals['shards']:,} shards, {totals['bytes'] / 1e6:,.1f} MB"


def plain_card(manifest: Mapping[str, Any], *, title: str = "Training records", about: str = "") -> str:
    """README.md of a Hugging Face dataset folder: where its data lies, how much it is, what a column holds."""
    totals, settings = manifest["totals"], manifest["settings"]
    files = [{"split": "train", "path": "data/train-*.parquet"}]
    header = {"pretty_name": title, "configs": [{"config_name": "default", "data_files": files}]}
    said = ", ".join(f"{name} {value}" for name, value in {**manifest["origin"], **settings}.items())
    columns = "\n".join(f"| {name} | {kind} |" for name, kind in manifest["columns"].items())
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        f"{_in_words(totals)}; {manifest['plan']['distinct']:,} distinct records. Made with {said}. `{MANIFEST}` holds "
        "every shard's checksum.",
        about,
        f"| column | type |\n|---|---|\n{columns}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
