"""Small JSON lines files, read whole on the driver: benchmarks, seeds, test sets. Corpora go through `documents`."""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from curation.documents import read_zst
from curation.errors import InputError
from curation.tables import absolute, is_local

EXTENSIONS = tuple(base + packed for base in (".jsonl", ".ndjson", ".json") for packed in ("", ".gz", ".zst"))


class RowRejected(Exception):  # noqa: N818 - not an error: a row's verdict
    """Why a row can't be used: a reason to count, and the detail for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def list_files(path: str, *, what: str) -> list[str]:
    """The JSON lines files that a path, a folder or a glob names; InputError where there are none."""
    path = absolute(path)
    if not is_local(path):
        return [_known(path, what)]
    if os.path.isdir(path):
        names = sorted(name for name in os.listdir(path) if not name.startswith((".", "_")))
        found = [os.path.join(path, name) for name in names if name.lower().endswith(EXTENSIONS)]
    elif os.path.exists(path):
        found = [_known(path, what)]
    elif glob.has_magic(path):
        found = [_known(match, what) for match in sorted(glob.glob(path, recursive=True))]
    else:
        raise InputError(f"{what} {path} does not exist; check the path")
    if not found:
        raise InputError(f"{path} holds no {what}; known files: {', '.join(EXTENSIONS)}")
    return found


def _known(path: str, what: str) -> str:
    if not path.lower().endswith(EXTENSIONS):
        raise InputError(f"{what} {path} is no JSON lines file by its name; known: {', '.join(EXTENSIONS)}")
    return path


def stem(path: str) -> str:
    """The file's name without folder and endings."""
    name = path.rstrip("/").rsplit("/", 1)[-1]
    ending = max((ext for ext in EXTENSIONS if name.lower().endswith(ext)), key=len, default="")
    return name[: len(name) - len(ending)]


def read_bytes(spark: SparkSession, path: str, *, what: str) -> bytes:
    """The file unpacked, from wherever Spark reads; InputError where it can't be read."""
    try:
        if is_local(path):
            with open(path, "rb") as stream:
                data = stream.read()
        else:  # these files are small and needed here; Spark knows the way to any store
            data = bytes(spark.read.format("binaryFile").load(path).select("content").collect()[0]["content"])
        if path.lower().endswith(".gz"):
            return gzip.decompress(data)
        return b"".join(read_zst(io.BytesIO(data), path)) if path.lower().endswith(".zst") else data
    except (OSError, EOFError, zlib.error, PySparkException, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{what} {path} can't be read ({reason}); fetch it again") from error


def lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines that aren't blank, with their number from 1."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, line


def rows(data: bytes, path: str, *, what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with their numbers; InputError for a line that is none, where to leave one out would be wrong."""
    for number, line in lines(data):
        try:
            yield number, parse(line)
        except RowRejected as rejected:
            raise InputError(f"{what} {path}, line {number}: {rejected.detail}; correct it") from None


def parse(line: bytes) -> dict[str, Any]:
    """The line's JSON object, or RowRejected."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise RowRejected("not_utf8", "the bytes are no valid UTF-8") from None
    except (ValueError, RecursionError):
        raise RowRejected("malformed_json", "the line is no JSON") from None
    if not isinstance(row, dict):
        raise RowRejected("malformed_json", "the line is no JSON object")
    return row
