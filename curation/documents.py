"""Documents from JSON lines, Parquet, Arrow, text, WARC and Delta; what can't be taken is kept aside with its reason.

Everything heavy is Spark's own: no text passes through Python, but for .zst, Arrow and WARC, which Spark can't read.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields, replace
from functools import partial, reduce
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from curation import hub, warc
from curation.arrow_files import FILE, ROW, read_arrow
from curation.errors import InputError, SchemaError, input_errors
from curation.frames import driver_rows
from curation.tables import TableSpec, absolute, is_local

DOCUMENTS = TableSpec(
    "documents",
    key=("doc_id",),
    schema="doc_id string, text string, source string, license string, bytes bigint, metadata map<string,string>, "
    "file string, text_hash string, chunk string",
    partition_by=("chunk",),
)
REJECTED_DOCUMENTS = TableSpec(
    "rejected_documents",
    key=("import_id", "file", "row"),
    schema="file string, row bigint, reason string, detail string, import_id string",
)
DUPLICATE_DOCUMENTS = TableSpec(
    "duplicate_documents",
    key=("import_id", "file", "row"),
    schema="doc_id string, duplicate_of string, file string, row bigint, import_id string",
)

# While an import runs: its rows as they were read and checked, and those that don't become documents. The input is
# parsed once; what follows reads the columns that it needs.
IMPORT_ROWS = TableSpec(
    "import_rows",
    key=("file", "block", "ordinal"),
    schema="file string, block bigint, ordinal bigint, doc_id string, text string, source string, license string, "
    "metadata map<string,string>, text_hash string, reason string, detail string",
)
IMPORT_VERDICTS = TableSpec(
    "import_verdicts",
    key=("file", "block", "ordinal"),
    schema="doc_id string, file string, block bigint, ordinal bigint, verdict string, duplicate_of string",
)

MAX_BYTES = 10 * 10**6  # UTF-8 bytes of one document's text
MAX_CHUNKS = 4096
KNOWN = {
    **{ext: "jsonl" for base in (".jsonl", ".ndjson", ".json") for ext in (base, f"{base}.gz", f"{base}.zst")},
    ".parquet": "parquet",
    ".arrow": "arrow",
    **{ext: "warc" for base in (".warc", ".wet", ".warc.wet") for ext in (base, f"{base}.gz")},
    **{ext: "text" for base in (".txt", ".md", ".text") for ext in (base, f"{base}.gz")},
}
REASONS = {
    "not_utf8": "the bytes are no valid UTF-8",
    "malformed_json": "the line is not one JSON object with each key once",
    "no_text": "the text column is missing or null",
    "empty": "the text is only whitespace",
    "too_long": "the text is longer than the limit",
    "id_conflict": "the id stands for another text",
    "cut_short": "the file can't be read from here on",
    "http_status": "the server did not answer with the page",
    "not_text": "the record holds neither HTML nor plain text",
    "malformed_http": "what the server answered can't be read",
    "malformed_html": "the page can't be read",
}
BLANK = "blank_line"  # between rows: skipped, neither a document nor a rejection

# All that Unicode and Python's str.isspace call whitespace, and the byte order mark.
WHITESPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
# Jackson takes single quotes and gives up on strings over 20 million characters unless told otherwise.
JSON_OPTIONS = {"allowSingleQuotes": "false", "maxStringLen": str(2**31 - 1)}
ROWS = (
    "file string, block bigint, ordinal bigint, id string, text string, source string, license string, "
    "metadata map<string,string>, reason string"
)


@dataclass(frozen=True)
class Columns:
    """Which of the input's columns play which role; None: the column of the role's own name, where there is one."""

    id: str | None = None
    text: str | None = None
    source: str | None = None
    license: str | None = None

    def name(self, role: str) -> str | None:
        """The column for `role`; a default that was given another role is not taken twice."""
        given: str | None = getattr(self, role)
        return given or (None if role in astuple(self) else role)

    def names(self) -> dict[str, str]:
        return {f.name: name for f in fields(self) if (name := self.name(f.name)) is not None}


@dataclass(frozen=True, order=True)
class InputFile:
    """A file, or a Delta table at its version. bytes: as stored; modified: milliseconds since 1970, or the version.

    A file of the Hugging Face hub is known by its name there and its content's hash, as `modified`; it lies at
    `fetched`, and came with the commit `revision`.
    """

    path: str
    format: str
    bytes: int
    modified: int
    fetched: str = field(default="", compare=False)
    revision: str = field(default="", compare=False)

    @property
    def place(self) -> str:
        return self.fetched or self.path

    @property
    def dataset(self) -> str:
        """OWNER/NAME, of a file of the hub."""
        return "/".join(self.path.split("/")[3:5]) if self.fetched else ""

    @property
    def compressed(self) -> bool:
        return self.format in {"parquet", "delta"} or self.path.endswith((".gz", ".zst"))

    @property
    def text_per_byte(self) -> float:
        """About how much text a stored byte stands for."""
        pages = self.format == "warc" and ".wet" not in self.path.lower().rsplit("/", 1)[-1]  # mostly mark-up
        return (3 if self.compressed else 1) / (8 if pages else 1)


def parse_columns(text: str) -> Columns:
    """`id=a,text=b` -> Columns. InputError for a role that doesn't exist, one given twice, or a missing name."""
    roles = [f.name for f in fields(Columns)]
    found: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        role, equals, name = (p.strip() for p in part.partition("="))
        if not equals or not name or role not in roles or role in found:
            problem = "is given twice" if role in found else "is not ROLE=COLUMN"
            raise InputError(f"--columns {part!r} {problem}; write id=...,text=..., with roles among {roles}")
        found[role] = name
    return Columns(**found)


# -- what is to be read ----------------------------------------------------------------------------------------------


def list_inputs(spark: SparkSession, paths: Iterable[str]) -> list[InputFile]:
    """What is behind paths, folders (with all below them), globs, catalog and hub names; sorted, each once.

    Of a folder that is a Hugging Face dataset the files with its rows. Hidden files (`_` or `.` in front) inside a
    folder are passed over, as everywhere in Spark.
    """
    paths = list(paths)
    if not paths:
        raise InputError("no documents are named; give at least one file, folder, glob or Delta table")
    inputs = sorted({found for path in paths for found in _list_path(spark, path)})
    for one, other in itertools.pairwise(inputs):
        if one.path == other.path:
            raise InputError(f"{one.path} is named in two versions of one dataset; import one of them")
    if any(file.format == "warc" for file in inputs):
        warc.check_installed()
    return inputs


def n_chunks(inputs: Iterable[InputFile], chunk_bytes: int) -> int:
    """Chunks of about `chunk_bytes` of text each, in [1, 4096]; .gz, .zst, Parquet and Delta count threefold.

    Of a WARC's pages an eighth is text.
    """
    if chunk_bytes < 1:
        raise InputError(f"chunk_bytes must be at least 1; got {chunk_bytes}")
    total = math.ceil(sum(file.bytes * file.text_per_byte for file in inputs))
    return max(1, min(MAX_CHUNKS, -(-total // chunk_bytes)))


def import_id(inputs: Iterable[InputFile], columns: Columns, *, max_bytes: int = MAX_BYTES) -> str:
    """12 hex digits that name what is imported and how: files with size and time, columns, limit."""
    files = [(file.path, file.format, file.bytes, file.modified) for file in sorted(inputs)]
    described = [files, astuple(columns), max_bytes]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]


def _list_path(spark: SparkSession, path: str) -> list[InputFile]:
    if not path.strip():
        raise InputError("an empty path is named as documents; give a file, folder, glob or Delta table")
    if path.startswith("hf://"):
        return [_hub_file(file) for file in hub.fetch(path, _format)]
    local = absolute(path)
    if is_local(local):
        if os.path.exists(local):
            return _list_local(spark, local)
        if glob.has_magic(local):
            matches = sorted(glob.glob(local, recursive=True))
            if not matches:
                raise InputError(f"no file matches {path}; check the pattern")
            return [found for match in matches if not _hidden(match) for found in _list_local(spark, match)]
        if re.fullmatch(r"[\w-]+(\.[\w-]+){1,2}", path) and _format(path) is None and spark.catalog.tableExists(path):
            return [_delta(spark, path, path)]
        raise InputError(f"{path} does not exist; give a file, folder, glob, or Delta table by path or catalog name")
    return _list_remote(spark, local)


def _list_local(spark: SparkSession, path: str) -> list[InputFile]:
    if os.path.isfile(path):
        return [_input_file(path, os.path.getsize(path), os.stat(path).st_mtime_ns // 10**6)]
    if os.path.isdir(os.path.join(path, "_delta_log")):
        return [_delta(spark, path, f"delta.`{path}`")]
    found = _list_folder(path)
    if not found:
        raise InputError(f"{path} is a folder without documents; known files: {', '.join(KNOWN)}")
    return found


def _list_folder(path: str) -> list[InputFile]:
    files = hub.snapshot_files(path, _format)
    if files is None:
        entries = [entry for entry in os.scandir(path) if not _hidden(entry.name)]
        files = [entry.path for entry in entries if entry.is_file()]
        below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    else:
        below = []
    here = [_input_file(file, os.path.getsize(file), os.stat(file).st_mtime_ns // 10**6) for file in files]
    return here + [file for folder in below for file in _list_folder(folder)]


def _list_remote(spark: SparkSession, path: str) -> list[InputFile]:
    """Through Spark, which knows every store; the files' content isn't read."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    try:
        if not glob.has_magic(path) and _format(path) is None and _is_delta(spark, path):
            return [_delta(spark, path, f"delta.`{path}`")]
        at = F.unix_millis("modificationTime").alias("at")
        rows = reader.load(path).select(_decoded(F.col("_metadata.file_path")).alias("path"), "length", at).collect()
    except PySparkException as error:
        raise InputError(f"{path} can't be listed ({_first_line(error)}); check path and rights") from error
    if not rows:
        raise InputError(f"{path} holds no documents; known files: {', '.join(KNOWN)}")
    return [_input_file(row["path"], row["length"], row["at"]) for row in rows]


def _input_file(path: str, size: int, modified: int) -> InputFile:
    kind = _format(path)
    if kind is None:
        raise InputError(f"{path}: the format isn't known from the name; known names end in {', '.join(KNOWN)}")
    if _hidden(path):
        raise InputError(f"{path} is hidden (its name starts with _ or .) and Spark passes it over; rename it")
    return InputFile(path, kind, size, modified)


def _hub_file(file: hub.HubFile) -> InputFile:
    listed = _input_file(file.name, file.bytes, int(hashlib.sha256(file.content.encode()).hexdigest()[:12], 16))
    return replace(listed, fetched=file.place, revision=file.revision)


def _delta(spark: SparkSession, path: str, name: str) -> InputFile:
    try:
        version = spark.sql(f"DESCRIBE HISTORY {name} LIMIT 1").collect()[0]["version"]
        size = spark.sql(f"DESCRIBE DETAIL {name}").collect()[0]["sizeInBytes"]
    except PySparkException as error:
        raise InputError(f"{path} is no readable Delta table ({_first_line(error)}); name another") from error
    return InputFile(path, "delta", int(size), int(version))


def _is_delta(spark: SparkSession, path: str) -> bool:
    try:
        return bool(spark.sql(f"DESCRIBE HISTORY delta.`{path}` LIMIT 1").collect())
    except PySparkException:
        return False


def _format(path: str) -> str | None:
    name = path.lower()
    return next((kind for ext, kind in KNOWN.items() if name.endswith(ext)), None)


def _hidden(path: str) -> bool:
    return os.path.basename(path.rstrip("/")).startswith(("_", "."))


# -- reading ---------------------------------------------------------------------------------------------------------


def read_rows(
    spark: SparkSession, inputs: Iterable[InputFile], columns: Columns, *, max_bytes: int = MAX_BYTES
) -> DataFrame:
    """Every row of the inputs: where it stands, and its fields or the reason why it has none.

    file, block and ordinal name the row: a block is a split of the file, ordinals rise by 1 within it, and a block of
    -1 says that the ordinal is the row's number. SchemaError where a column isn't there.
    """
    inputs = list(inputs)
    _check_json_columns(spark, [file for file in inputs if file.format == "jsonl"], columns)
    with input_errors():
        lines = [file for file in inputs if file.format == "jsonl" and not file.path.endswith(".zst")]
        zst = [file.place for file in inputs if file.format == "jsonl" and file.path.endswith(".zst")]
        parquet = [file for file in inputs if file.format == "parquet"]
        arrow = [file.place for file in inputs if file.format == "arrow"]
        texts = [file for file in inputs if file.format == "text"]
        pages = [file.place for file in inputs if file.format == "warc"]
        frames = [_read_table(spark, file, columns) for file in inputs if file.format == "delta"]
        if lines:
            frames.append(_parse_lines(_text_lines(spark, lines), columns))
        if zst:
            frames.append(_parse_lines(_zst_lines(spark, zst), columns))
        if parquet:
            frames.append(_read_parquet(spark, parquet, columns))
        if arrow:
            opened = partial(open_file, anywhere=True)
            frames += [_take_arrow(frame, columns, arrow) for frame in read_arrow(spark, arrow, opened)]
        if texts:
            frames += _read_texts(spark, texts, max_bytes)
        frames = [frame.withColumn("detail", _null("detail")) for frame in frames]
        if pages:
            frames.append(_read_pages(spark, pages, max_bytes))
    if not frames:
        raise InputError("no documents are named; give at least one file, folder, glob or Delta table")
    return _named(reduce(DataFrame.unionByName, frames), inputs)


def _named(rows: DataFrame, inputs: list[InputFile]) -> DataFrame:
    """A fetched file goes by its name on the hub, wherever its copy lies."""
    folders = set()
    for each in inputs:
        if each.fetched:
            there = f"{hub.SCHEME}{each.dataset}/"
            folders.add((each.fetched.removesuffix(each.path.removeprefix(there)), there))
    file = F.col("file")
    for here, there in sorted(folders):
        inside = file.substr(F.lit(len(here) + 1), F.length(file))
        file = F.when(file.startswith(here), F.concat(F.lit(there), inside)).otherwise(file)
    return rows.withColumn("file", file) if folders else rows


def _text_lines(spark: SparkSession, files: list[InputFile]) -> DataFrame:
    # A string column takes the bytes as they are; only "\n" ends a line, whatever else Hadoop takes for an end.
    scan = spark.read.option("lineSep", "\n").text([_literal_path(file.place) for file in files])
    return scan.select(*_split_position(), "value")


def _zst_lines(spark: SparkSession, paths: list[str]) -> DataFrame:
    # One row a partition: each task decompresses its own files.
    numbers = spark.range(0, len(paths), 1, numPartitions=len(paths))
    lines = numbers.mapInArrow(_decompress(paths), "file string, ordinal bigint, value binary")
    return lines.select(
        "file", F.lit(-1).cast("bigint").alias("block"), "ordinal", F.col("value").cast("string").alias("value")
    )


def _read_parquet(spark: SparkSession, files: list[InputFile], columns: Columns) -> DataFrame:
    scan = spark.read.option("mergeSchema", "true").parquet(*(_literal_path(file.place) for file in files))
    where = [_path(), F.lit(-1).cast("bigint").alias("block"), (F.col("_metadata.row_index") + 1).alias("ordinal")]
    label = files[0].path if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    return _take_columns(scan, where, columns, label, source=_stem(F.col("file")))


def _take_arrow(scan: DataFrame, columns: Columns, paths: list[str]) -> DataFrame:
    where = [F.col(FILE).alias("file"), F.lit(-1).cast("bigint").alias("block"), F.col(ROW).alias("ordinal")]
    label = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    return _take_columns(scan, where, columns, label, source=_stem(F.col("file")))


def _read_pages(spark: SparkSession, paths: list[str], max_bytes: int) -> DataFrame:
    """WARC and WET: what a record holds by itself, whatever the columns of other inputs are called."""
    numbers = spark.range(0, len(paths), 1, numPartitions=len(paths))
    rows = numbers.mapInArrow(warc.read_files(paths, open_file, max_bytes=max_bytes), warc.ROWS)
    return rows.withColumn("source", _stem(F.col("file")))


def _read_table(spark: SparkSession, table: InputFile, columns: Columns) -> DataFrame:
    reader = spark.read.format("delta").option("versionAsOf", table.modified)
    is_path = not is_local(table.path) or os.path.isabs(table.path)
    scan = reader.load(table.path) if is_path else reader.table(table.path)
    name = table.path.rstrip("/").rsplit("/", 1)[-1]
    return _take_columns(scan, _split_position(), columns, table.path, source=F.lit(name))


def _read_texts(spark: SparkSession, files: list[InputFile], max_bytes: int) -> list[DataFrame]:
    """One document a file; a file that is too long by its size alone isn't opened."""
    long = [file for file in files if not file.compressed and file.bytes > max_bytes]
    empty = [file for file in files if file.bytes == 0]  # Spark makes no row of a file without a byte
    short = [file for file in files if file not in {*long, *empty}]
    frames = []
    if long or empty:
        told = [(file, "too_long") for file in long] + [(file, "empty") for file in empty]
        rows = [(file.place, -1, 1, None, None, None, None, None, reason) for file, reason in told]
        frames.append(driver_rows(spark, rows, ROWS))
    if short:
        scan = spark.read.text([_literal_path(file.place) for file in short], wholetext=True)
        rows_ = scan.select(_path(), F.col("value").alias("text")).select(
            "file", F.lit(-1).cast("bigint").alias("block"), F.lit(1).cast("bigint").alias("ordinal"),
            _null("id"), "text", F.element_at(F.split("file", "/"), -2).alias("source"), _null("license"),
            _empty_metadata(), F.when(~F.is_valid_utf8("text"), F.lit("not_utf8")).alias("reason"),
        )  # fmt: skip
        frames.append(rows_)
    return frames


def _parse_lines(lines: DataFrame, columns: Columns) -> DataFrame:
    """JSON lines -> fields. Numbers and nested values become their JSON text, a null value is as good as none."""
    names = columns.names()
    bare = F.ltrim("value", F.lit(" \t\r\n\ufeff"))
    # Jackson stops after the first value: only inside brackets does what follows it count.
    objects = F.from_json(F.concat(F.lit("["), bare, F.lit("]")), "array<map<string,string>>", JSON_OPTIONS)
    valid = F.is_valid_utf8("value")
    closed = F.rtrim("value", F.lit(" \t\r\n")).endswith("}")
    # Always true, but Spark moves no filter below what isn't deterministic: it would parse each line again for it.
    ordinal = F.when(F.monotonically_increasing_id() >= 0, F.col("ordinal")).alias("ordinal")
    parsed = lines.select(
        "file", "block", ordinal, valid.alias("valid"), F.when(valid, bare == "").alias("blank"),
        F.when(valid & closed, objects).alias("objects"),
    )  # fmt: skip
    once = parsed.select(
        "file", "block", "ordinal", "valid", "blank",
        F.when(F.size("objects") == 1, F.get("objects", F.lit(0))).alias("fields"),
    )  # fmt: skip
    keys = F.map_keys("fields")

    def value(role: str) -> Column:
        column = F.try_element_at("fields", F.lit(names[role])) if role in names else F.lit(None).cast("string")
        return column.alias(role)

    taken = F.array(*(F.lit(name) for name in names.values()))
    reason = (
        F.when(~F.col("valid"), F.lit("not_utf8"))
        .when(F.col("blank"), F.lit(BLANK))
        .when(F.col("fields").isNull() | (F.size(keys) != F.size(F.array_distinct(keys))), F.lit("malformed_json"))
    )
    others = F.map_filter("fields", lambda key, val: ~F.array_contains(taken, key) & val.isNotNull())
    return once.select(
        "file", "block", "ordinal", value("id"), value("text"),
        F.coalesce(value("source"), _stem(F.col("file"))).alias("source"), value("license"),
        others.alias("metadata"), reason.alias("reason"),
    )  # fmt: skip


def _take_columns(scan: DataFrame, where: list[Column], columns: Columns, label: str, *, source: Column) -> DataFrame:
    """Columns of a table -> fields; the others into metadata."""
    types = {field.name: field.dataType for field in scan.schema.fields if field.name not in (FILE, ROW)}
    for role, name in columns.names().items():
        if name not in types and (role == "text" or getattr(columns, role)):
            raise _no_column(label, name, role, list(types))
    names = {role: name for role, name in columns.names().items() if name in types}

    def value(role: str) -> Column:
        if role not in names:
            return _null(role)
        kind = types[names[role]]
        plain = isinstance(kind, T.BinaryType)  # bytes of a text: whether they are UTF-8 is judged below
        return (_column(names[role]).cast("string") if plain else _as_text(names[role], kind)).alias(role)

    others = [
        F.struct(F.lit(name).alias("key"), _as_text(name, kind).alias("value"))
        for name, kind in types.items()
        if name not in names.values()
    ]
    metadata = F.map_from_entries(F.filter(F.array(*others), lambda entry: entry["value"].isNotNull()))
    rows = scan.select(
        *where, value("id"), value("text"), value("source"), value("license"),
        (metadata if others else _empty_metadata()).alias("metadata"),
    )  # fmt: skip
    valid = F.is_valid_utf8("text") & F.coalesce(F.is_valid_utf8("id"), F.lit(True))
    reason = F.when(~valid, F.lit("not_utf8")).alias("reason")
    return rows.withColumns({"source": F.coalesce("source", source), "reason": reason})


def _as_text(name: str, kind: T.DataType) -> Column:
    """A value as a string that no session's time zone changes: nested ones as JSON, bytes beyond UTF-8 as base64."""
    column = _column(name)
    if isinstance(kind, T.TimestampType):
        utc = F.to_utc_timestamp(column, F.current_timezone())
        return F.date_format(utc, "yyyy-MM-dd'T'HH:mm:ss.SSSSSS'Z'")
    if isinstance(kind, T.ArrayType | T.MapType | T.StructType | T.VariantType):
        return F.to_json(column, {"timeZone": "UTC"})
    if isinstance(kind, T.BinaryType):
        text = column.cast("string")
        return F.when(F.is_valid_utf8(text), text).otherwise(F.base64(column))
    return column.cast("string")


def _check_json_columns(spark: SparkSession, files: list[InputFile], columns: Columns, *, sample: int = 16) -> None:
    """SchemaError where the first rows of a file never name a column that is asked for; looks into at most 16 files."""
    wanted = {role: name for role, name in columns.names().items() if role == "text" or getattr(columns, role)}
    chosen = files[:: max(1, -(-len(files) // sample))]
    frames = []
    for file in chosen:
        lines = _zst_lines(spark, [file.place]) if file.path.endswith(".zst") else _text_lines(spark, [file])
        keys = F.from_json("value", "map<string,string>", JSON_OPTIONS)
        first = lines.limit(100).where(F.is_valid_utf8("value")).select(F.explode(F.map_keys(keys)).alias("key"))
        frames.append(first.groupBy(F.lit(file.path).alias("file")).agg(F.sort_array(F.collect_set("key")).alias("keys")))
    if not frames:
        return
    with input_errors():
        seen = reduce(DataFrame.unionByName, frames).collect()
    for row in sorted(seen, key=lambda row: row["file"]):
        for role, name in wanted.items():
            if name not in row["keys"]:
                raise _no_column(row["file"], name, role, row["keys"])


def _no_column(label: str, name: str, role: str, there: list[str]) -> SchemaError:
    return SchemaError(f"{label}: no column {name!r}; it has {there}. Map it with --columns {role}=<yours>")


def _decompress(paths: list[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                row = 1
                for values in _zst_batches(paths[number]):
                    files = pa.repeat(paths[number], len(values))
                    ordinals = pa.array(np.arange(row, row + len(values), dtype=np.int64))
                    yield pa.RecordBatch.from_arrays([files, ordinals, values], ["file", "ordinal", "value"])
                    row += len(values)

    return rows


def _zst_batches(path: str, *, batch_bytes: int = 1 << 22) -> Iterator[pa.Array]:
    """The file's lines as binary arrays of about `batch_bytes`; a line is never split, its newline is kept off."""
    held = bytearray()
    with open_file(path) as stream:
        for piece in read_zst(stream, path):
            held += piece
            if len(held) >= batch_bytes and (end := held.rfind(b"\n") + 1):
                yield _lines(bytes(held[:end]))
                del held[:end]
    if held:
        yield _lines(bytes(held) if held.endswith(b"\n") else bytes(held) + b"\n")


def _lines(data: bytes) -> pa.Array:
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
    # Without a copy a line: each value holds its newline, which JSON takes for space.
    offsets = np.concatenate(([0], ends + 1)).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def read_zst(stream: BinaryIO, label: str) -> Iterator[bytes]:
    """What a .zst stream of one or more frames holds, in pieces; InputError, naming `label`, if it is cut short."""
    import zstandard

    # 2 GiB: the largest window that `zstd --long` writes.
    codec = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame, inside = codec.decompressobj(), False
    while block := stream.read(1 << 16):
        while block:
            try:
                yield frame.decompress(block)
            except zstandard.ZstdError as error:
                raise InputError(f"{label} is no intact .zst file ({error}); fetch or compress it again") from error
            inside, block = not frame.eof, frame.unused_data
            if frame.eof:
                frame = codec.decompressobj()
    if inside:
        raise InputError(f"{label} is cut short: its last .zst frame has no end; fetch or compress it again")


def open_file(path: str, *, anywhere: bool = False) -> BinaryIO:
    """A file's bytes, wherever pyarrow can open it. anywhere: they aren't read from first to last."""
    if is_local(path):
        return open(path, "rb")
    from pyarrow import fs

    try:
        store, inside = fs.FileSystem.from_uri(path)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path} can't be opened by pyarrow ({error}); copy it to a folder that driver and executors share"
        ) from error
    return store.open_input_file(inside) if anywhere else store.open_input_stream(inside)  # type: ignore[no-any-return]


# -- documents, rejections, duplicates -------------------------------------------------------------------------------


PLACE = ["file", "block", "ordinal"]  # where a row stands in the input


def to_documents(
    rows: DataFrame, existing: DataFrame | None, *, import_id: str, n_chunks: int, max_bytes: int = MAX_BYTES
) -> tuple[DataFrame, DataFrame, DataFrame]:
    """Rows -> new documents, rejected rows, duplicates: `check_rows`, `settle`, and the three frames that they give.

    The three share no row and leave out only blank lines and rows that `existing` (documents imported before) holds
    from the same file.
    """
    checked = check_rows(rows, max_bytes=max_bytes)
    verdicts = settle(checked, existing)
    return (
        new_documents(checked, verdicts, import_id=import_id, n_chunks=n_chunks),
        rejected_rows(checked, verdicts, import_id=import_id),
        duplicate_rows(checked, verdicts, import_id=import_id),
    )


def check_rows(rows: DataFrame, *, max_bytes: int = MAX_BYTES) -> DataFrame:
    """Rows with their id, the hash of their text (32 hex digits of SHA-256), and the reason why one can't be taken."""
    text = F.col("text")
    reason = (
        F.when(F.col("reason").isNotNull(), F.col("reason"))
        .when(text.isNull(), F.lit("no_text"))
        .when(F.ltrim(text, F.lit(WHITESPACE)) == "", F.lit("empty"))
        .when(F.octet_length(text) > max_bytes, F.lit("too_long"))
    )
    hashed = rows.withColumns({"reason": reason, "text_hash": F.substring(F.sha2(text, 256), 1, 32)})
    doc_id = F.coalesce(F.nullif("id", F.lit("")), F.col("text_hash"))
    # A rejected row has done its service: its text isn't kept.
    kept = F.when(F.col("reason").isNull(), text).alias("text")
    return hashed.select(
        *PLACE, doc_id.alias("doc_id"), kept, "source", "license", "metadata", "text_hash", "reason", "detail"
    )  # fmt: skip


def settle(checked: DataFrame, existing: DataFrame | None) -> DataFrame:
    """The good rows that don't become documents, and why: doc_id, file, block, ordinal, verdict, duplicate_of.

    A document keeps its place: what was imported stays. Among new rows of one id the text with the smallest hash is
    kept, of one text the smallest id, of one id and text the first row of the first file. Reads keys only, no text.
    """
    good = checked.where(F.col("reason").isNull()).select("doc_id", "text_hash", *PLACE)
    new = good.withColumn("new", F.lit(True))
    if existing is not None:
        keys = existing.select("doc_id", "text_hash", "file", F.lit(False).alias("new"))
        # Of what is there, only what shares an id or a text with a new row can matter: a night's import is small.
        same_id = keys.join(good.select("doc_id").distinct(), "doc_id", "left_semi").select(*keys.columns)
        same_text = keys.join(good.select("text_hash").distinct(), "text_hash", "left_semi").select(*keys.columns)
        new = new.unionByName(same_id.unionByName(same_text).distinct(), allowMissingColumns=True)
    kept = F.min(F.struct("new", "text_hash", *PLACE)).over(Window.partitionBy("doc_id"))
    by_id = new.withColumn("kept", kept)
    conflict = F.col("text_hash") != F.col("kept.text_hash")
    first = ~F.col("new") | (F.struct(*PLACE) == F.struct(*(F.col(f"kept.{name}") for name in PLACE)))
    # Of the rows that their id left standing, one text stands once.
    stands = F.when(~conflict & first, F.struct("new", "doc_id"))
    owner = F.min(stands).over(Window.partitionBy("text_hash"))["doc_id"]
    settled = by_id.withColumns({"conflict": conflict, "first": first, "owner": owner})
    again = ~F.col("kept.new") & (F.col("kept.file") == F.col("file"))
    verdict = (
        F.when(F.col("conflict"), F.lit("id_conflict"))
        .when(F.col("first") & (F.col("owner") == F.col("doc_id")), F.lit("document"))
        .when(again, F.lit("again"))
        .otherwise(F.lit("duplicate"))
    )
    owner_ = F.col("owner").alias("duplicate_of")
    verdicts = settled.where("new").select("doc_id", *PLACE, verdict.alias("verdict"), owner_)
    return verdicts.where(F.col("verdict") != "document")


def put_aside(checked: DataFrame, verdicts: DataFrame) -> set[str]:
    """The reasons for which rows don't become documents, `duplicate` among them; an action, on keys alone."""
    failed = checked.where(F.col("reason") != BLANK).select("reason")
    others = verdicts.where(F.col("verdict") != "again").select(F.col("verdict").alias("reason"))
    return {row["reason"] for row in failed.unionByName(others).distinct().collect()}


def new_documents(checked: DataFrame, verdicts: DataFrame, *, import_id: str, n_chunks: int) -> DataFrame:
    """Of checked rows and the verdicts on them what becomes documents."""
    documents = checked.where(F.col("reason").isNull()).join(verdicts.select(*PLACE), PLACE, "left_anti").select(
        "doc_id", "text", "source", "license", F.octet_length("text").cast("bigint").alias("bytes"), "metadata", "file",
        "text_hash", F.concat(F.lit(f"{import_id}-"), F.lpad(_bucket("doc_id", n_chunks), 5, "0")).alias("chunk"),
    )  # fmt: skip
    return documents.repartition("chunk")


def rejected_rows(checked: DataFrame, verdicts: DataFrame, *, import_id: str) -> DataFrame:
    """What is refused, each row with its reason."""
    sentences = F.create_map(*(F.lit(part) for pair in REASONS.items() for part in pair))
    detail = F.coalesce("detail", F.try_element_at(sentences, F.col("reason")))
    failed = checked.where(F.col("reason") != BLANK).select(*PLACE, "reason", detail.alias("detail"))
    conflicts = verdicts.where(F.col("verdict") == "id_conflict").select(
        *PLACE, F.col("verdict").alias("reason"),
        F.concat(F.lit("the id '"), "doc_id", F.lit("' stands for another text")).alias("detail"),
    )  # fmt: skip
    run = F.lit(import_id).alias("import_id")
    return _number(failed.unionByName(conflicts), checked).select("file", "row", "reason", "detail", run)


def duplicate_rows(checked: DataFrame, verdicts: DataFrame, *, import_id: str) -> DataFrame:
    """What is a copy, each row with what it copies."""
    run = F.lit(import_id).alias("import_id")
    return _number(verdicts.where(F.col("verdict") == "duplicate"), checked).select(
        "doc_id", "duplicate_of", "file", "row", run
    )


def _number(named: DataFrame, rows: DataFrame) -> DataFrame:
    """Adds `row`, counted from 1 through the file: the rows of the blocks before it, then its place in its own."""
    # Counts lines without their text; one row a block, as many as the scan has splits.
    blocks = rows.where("block >= 0").groupBy("file", "block").agg(
        F.min("ordinal").alias("first"), F.count(F.lit(1)).alias("there")
    )
    before = F.sum("there").over(Window.partitionBy("file").orderBy("block")) - F.col("there")
    blocks = blocks.select("file", "block", "first", "there", before.alias("before"))
    place = F.col("ordinal") - F.col("first")
    row = (
        F.when(F.col("block") < 0, F.col("ordinal"))
        .when((place >= 0) & (place < F.col("there")), F.col("before") + place + 1)
        .otherwise(F.raise_error(F.lit("the two scans of the input were split differently")).cast("bigint"))
    )
    return named.join(F.broadcast(blocks), ["file", "block"], "left").withColumn("row", row)


# -- expressions -----------------------------------------------------------------------------------------------------


def _bucket(column: str, n: int) -> Column:
    return F.pmod(F.xxhash64(column), F.lit(n).cast("bigint")).cast("string")


def _path() -> Column:
    return _decoded(F.col("_metadata.file_path")).alias("file")


def _decoded(uri: Column) -> Column:
    """Spark's URI of a file as the path that a person typed."""
    plain = F.url_decode(F.replace(uri, F.lit("+"), F.lit("%2B")))
    return F.regexp_replace(plain, "^file:/+", "/")


def _split_position() -> list[Column]:
    # Rows of a block come in order, in one task: the id's differences are row numbers, whatever its task's share of it.
    block = F.col("_metadata.file_block_start").cast("bigint").alias("block")
    return [_path(), block, F.monotonically_increasing_id().alias("ordinal")]


def _stem(path: Column) -> Column:
    endings = "|".join(re.escape(ext) for ext in sorted(KNOWN, key=len, reverse=True))
    return F.regexp_replace(F.element_at(F.split(path, "/"), -1), f"(?i)({endings})$", "")


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")


def _null(name: str) -> Column:
    return F.lit(None).cast("string").alias(name)


def _empty_metadata() -> Column:
    return F.create_map().cast("map<string,string>").alias("metadata")


def _literal_path(path: str) -> str:
    """A path that Hadoop's globbing takes as it is."""
    return re.sub(r"([\\\[\]{}*?])", r"\\\1", path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
