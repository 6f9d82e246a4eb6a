"""`betr doctor`: what this machine, its Spark session and its executors have, and what to do where a check fails.

Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from rich.table import Table
from rich.text import Text

from betr.classifier import FoldedClassifier
from betr.features import FeatureSpec
from betr.kernel import available_kernels, kernel_in_use
from curation.class_archive import archive_file
from curation.embedding import fast_precision
from curation.errors import ChecksFailedError, InputError, explain
from curation.jars import delta_fits, find_jars, home_folder, misfit
from curation.progress import Terminal
from curation.session import default_parallelism, is_connect, is_local_session
from curation.tables import Tables, TableSpec, is_local

OK, WARNING, FAILED = "ok", "warning", "failed"
EXTRAS = {
    "embedding": ("torch", "transformers", "sentence_transformers"),
    "generation": ("torch", "transformers"),
    "connect": ("grpc", "grpc_status"),
    "warc": ("fastwarc", "resiliparse", "py3langid"),
    "hub": ("huggingface_hub",),
    "mlflow": ("mlflow",),
    "lora": ("peft",),
}
LITTLE_DISK = 5 * 2**30
# White space of every kind, labels, text longer than a block of the kernels.
TEXTS = ("", " ", "one two  two", "one\ttwo\nthree\x0bfour", "__label__1 one", "</s> one", "ünï 中文", "x" * 70_000)
PROBE = TableSpec("doctor_probe", key=("n",), schema="n bigint, text string")


@dataclass(frozen=True)
class Finding:
    """One check: what is there, and, where that isn't well, what to do about it."""

    state: str
    found: str
    remedy: str = ""


def examine(start: Callable[[], SparkSession], *, tables: str = "", terminal: Terminal) -> dict[str, Any]:
    """Run and print every check; returns {"ok", "checks": [{"check", "state", "found", "remedy"}]}.

    start: opens the session, when all is checked that needs none. tables: a root that is to be writable; without one
    Delta is tried in a temporary folder. Raises ChecksFailedError, with the same object, where a check failed.
    """
    sessions: list[SparkSession] = []

    def session() -> Finding:
        sessions.append(start())
        spark = sessions[0]
        where = "Connect" if is_connect(spark) else spark.conf.get("spark.master", "")
        return Finding(OK, f"Spark {spark.version} on {where}, {default_parallelism(spark)} tasks at once")

    checks: dict[str, Callable[[], Finding]] = {
        "python": _python,
        "java": _java,
        "delta's jars": _jars,
        "machine": _machine,
        "kernel": _kernel,
        "precision": lambda: Finding(OK, f"encoders compute in {fast_precision()} here (--precision auto)"),
        **{f"extra {name}": lambda name=name: _extra(name) for name in EXTRAS},  # type: ignore[misc]
        "session": session,
        "executors": lambda: _executors(sessions[0]),
        "tables": lambda: _tables(sessions[0], tables),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    rows = []
    for name, check in checks.items():
        if name in ("executors", "tables") and not sessions:
            continue  # the session's own line says why there is none
        finding = _found(check)
        rows.append({"check": name, **dataclasses.asdict(finding)})
        style = {OK: "green", WARNING: "yellow", FAILED: "bold red"}[finding.state]
        told = f"{finding.found}{': ' if finding.remedy else ''}{finding.remedy}"
        table.add_row(Text(name), Text(finding.state, style=style), Text(told))
    terminal.console.print(table)
    failed = [row["check"] for row in rows if row["state"] == FAILED]
    result = {"ok": not failed, "checks": rows}
    if failed:
        raise ChecksFailedError(f"not in order: {', '.join(failed)}; what to do stands beside each", result)
    return result


def _found(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except InputError as error:
        return Finding(FAILED, str(error))
    except Exception as error:  # a doctor doesn't die of what the patient has
        return Finding(FAILED, explain(error) or f"{type(error).__name__}: {error}")


# -- this machine ------------------------------------------------------------------------------------------------------


def _python() -> Finding:
    names = ("betr-bare", "pyspark", "delta-spark", "pyarrow", "numpy", "numba")
    return Finding(OK, f"{platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in names)}")


def _java() -> Finding:
    if os.environ.get("SPARK_REMOTE"):
        return Finding(OK, "not needed here: SPARK_REMOTE names a Connect server")
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    remedy = "install Java 17 or newer, or set JAVA_HOME to it"
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60).stderr
    except OSError:
        return Finding(FAILED, f"there is no {java}", remedy)
    found = re.search(r'version "(?:1\.)?(\d+)[^"]*"', told)
    if found is None or int(found[1]) < 17:
        return Finding(FAILED, f"{java}: {told.splitlines()[0] if told else 'no version'}", remedy)
    return Finding(OK, told.splitlines()[0])


def _jars() -> Finding:
    if not delta_fits() and not os.environ.get("SPARK_REMOTE"):
        said, _, remedy = misfit().partition(": ")
        return Finding(FAILED, said, remedy)
    jars = find_jars()
    if not jars:
        return Finding(WARNING, "not here yet", "the first session fetches them; `make setup` does so before")
    archive = archive_file()
    quick = "; Java's classes are kept for a quick start" if archive is not None and archive.is_file() else ""
    return Finding(OK, f"{len(jars)} in {jars[0].parent}{quick}")


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    home = home_folder()
    there = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    found = f"{os.cpu_count()} cores, {memory:.0f} GiB of memory, {free / 2**30:,.0f} GiB free under {there}"
    if free < LITTLE_DISK:
        return Finding(WARNING, found, "Spark's shuffles need room; free some, or set --spark spark.local.dir=FOLDER")
    return Finding(OK, found)


def _kernel() -> Finding:
    """Which kernel scores, and that all that can run here give the same bits."""
    kernels = available_kernels()
    draw = np.random.default_rng(0)
    words = ("one", "two", "ünï", "__label__1", "</s>")
    pool = [word.encode() for word in words]
    model = FoldedClassifier(
        features=FeatureSpec(word_ngrams=2, buckets=1000),
        word_bytes=np.frombuffer(b"".join(pool), np.uint8),
        word_offsets=np.cumsum([0, *map(len, pool)], dtype=np.int64),
        word_weights=draw.normal(size=len(pool)).astype(np.float32),
        bucket_weights=draw.normal(size=1000).astype(np.float32),
    )
    segments = FeatureSpec(word_ngrams=2, buckets=1000, minn=2, maxn=4, segmenter="unicode14")
    models = (model, dataclasses.replace(model, features=segments))
    texts = pa.array([*TEXTS, None])
    margins = {kernel: [m.margins(texts, kernel=kernel).tobytes() for m in models] for kernel in kernels}
    odd = [kernel for kernel in kernels if margins[kernel] != margins["numba"]]
    if odd:
        return Finding(FAILED, f"{', '.join(odd)} and numba disagree", "set BETR_KERNEL=numba and report this")
    found = f"{kernel_in_use()} scores; the same bits from {', '.join(kernels)}"
    if kernels == ("numba",):
        remedy = "half as fast as the one in C: install betr-bare where a C compiler is"
        return Finding(WARNING, found, remedy)
    return Finding(OK, found)


def _extra(name: str) -> Finding:
    missing = [package for package in EXTRAS[name] if importlib.util.find_spec(package) is None]
    if missing:
        return Finding(WARNING, f"lacks {', '.join(missing)}", f"if you need it: pip install 'betr-bare[{name}]'")
    return Finding(OK, "there")


# -- the session -------------------------------------------------------------------------------------------------------


def _executors(spark: SparkSession) -> Finding:
    """What the workers are: they must have this package, and the driver's Python and Arrow."""
    tasks = default_parallelism(spark)

    def told(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            if batch.num_rows:
                from betr import kernel

                row = {"host": socket.gethostname(), "libraries": _libraries(), "kernel": kernel.kernel_in_use()}
                yield pa.RecordBatch.from_pylist([row])

    rows = spark.range(0, 4 * tasks, 1, 2 * tasks).mapInArrow(told, "host string, libraries string, kernel string")
    found = sorted({tuple(row) for row in rows.collect()})
    hosts, kernels = (sorted({row[column] for row in found}) for column in (0, 2))
    more = ", ..." if len(hosts) > 5 else ""
    summary = f"{len(hosts)} host(s) answered, {', '.join(hosts[:5])}{more}; their kernel: {', '.join(kernels)}"
    unlike = [(host, libraries) for host, libraries, _ in found if libraries != _libraries()]
    if unlike:
        host, libraries = unlike[0]
        remedy = f"{host} has {libraries}, the driver {_libraries()}: give both the same environment"
        return Finding(WARNING, summary, remedy)
    return Finding(OK, summary)


def _libraries() -> str:
    names = ("pyspark", "pyarrow", "numpy")
    return f"Python {'.'.join(map(str, sys.version_info[:2]))}, {', '.join(f'{n} {version(n)}' for n in names)}"


def _tables(spark: SparkSession, root: str) -> Finding:
    """A Delta table written twice, read and dropped."""
    with tempfile.TemporaryDirectory(prefix="betr-doctor-") as scratch:
        if not root and not is_local_session(spark):
            return Finding(WARNING, "not tried", "name the root that is to be used with --tables ROOT")
        there = not root or not is_local(root) or Path(root).exists()
        tables = Tables(spark, root or scratch)
        with tables.scratch(PROBE):
            rows = spark.createDataFrame([(1, "one"), (2, "two")], PROBE.schema)
            tables.append(PROBE, rows)
            tables.insert(PROBE, rows)  # by key: nothing comes twice
            count = tables.read(PROBE).count()
        if not there:
            with contextlib.suppress(OSError):
                Path(root).rmdir()
    if count != 2:
        return Finding(FAILED, f"{root}: two rows were written and {count} are there", "check the storage's guarantees")
    return Finding(OK, f"Delta writes, merges and reads in {root or 'a temporary folder'}")
