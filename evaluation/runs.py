"""Models to train, each in a task of its own: spread over executors in waves, a folder a run, committed as they end.

A run's folder keeps its evaluations, then its result, each whole or not at all: a result stands for all of a run, and
one that is there is only read, also where the driver died before it wrote the tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import SparkSession

from bare.generators.load import task_device
from curation.embedding import embedding_profile
from curation.errors import InputError, input_errors
from curation.files import write_whole
from curation.session import default_parallelism, release, share
from curation.tables import Tables, TableSpec
from evaluation.training import FINISHED

WAVES = 4  # runs of a wave for each that goes on at once: cores that are through early take another
RESULT, EVALUATIONS, PROGRESS = "result.json", "evaluations.parquet", "progress"

R = TypeVar("R")
J = TypeVar("J")
Result = dict[str, Any]


# -- on the driver -----------------------------------------------------------------------------------------------------


def in_waves(
    spark: SparkSession, wanted: Sequence[R], job: J, one: Callable[[R, J], Result], *, gpus_per_task: float = 0
) -> Iterator[list[Result]]:
    """The results of `one(run, job)`, each in a task of its own, wave by wave: what comes out is to be committed."""
    size = WAVES * default_parallelism(spark)
    for first in range(0, len(wanted), size):
        yield _wave(spark, wanted[first : first + size], job, one, gpus_per_task)


def _wave(
    spark: SparkSession, wave: Sequence[R], job: J, one: Callable[[R, J], Result], gpus_per_task: float
) -> list[Result]:
    shared = share(spark, (tuple(wave), job))

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            mine, its_job = shared.value
            for number in frame["id"]:
                yield pd.DataFrame({"result": [json.dumps(one(mine[number], its_job))]})

    numbers = spark.range(0, len(wave), 1, len(wave))
    profile = embedding_profile(gpus_per_task)
    schema = "result string"
    rows = numbers.mapInPandas(task, schema) if profile is None else numbers.mapInPandas(task, schema, profile=profile)
    with input_errors():
        results = [json.loads(row["result"]) for row in rows.collect()]
    release(shared)
    return results


def commit(
    tables: Tables, results: Sequence[Result], working: Path, *, key: str, evaluations: TableSpec, runs: TableSpec,
    shared: Mapping[str, Any],
) -> None:  # fmt: skip
    """A wave's evaluations, then its runs with what they share: a run in the table has all of its evaluations."""
    finished = [each[key] for each in results if each["status"] == FINISHED]
    if finished:
        paths = [(working / "runs" / each / EVALUATIONS).as_uri() for each in finished]
        rows = tables.spark.read.schema(evaluations.schema).parquet(*paths)
        condition = f"{key} IN ({', '.join(repr(each) for each in finished)})"
        tables.replace(evaluations, rows.coalesce(1), where=condition, keys_are_unique=True)
    names = runs.struct(tables.spark).names
    frame = runs.frame(tables.spark, [[{**each, **shared}[name] for name in names] for each in results])
    tables.append(runs, frame, keys_are_unique=True)  # none of them was there


# -- in a task ---------------------------------------------------------------------------------------------------------


def folder_of(working: str, run: str) -> Path:
    """A run's folder, made where it isn't there."""
    folder = Path(working) / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def result(folder: Path) -> Result | None:
    """What a finished run left, None where it isn't through."""
    path = folder / RESULT
    if not path.exists():
        return None
    found: Result = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_result(folder: Path, row: Result) -> None:
    """The last thing that a run does."""
    write_whole(json.dumps(row, indent=1), folder / RESULT)


def write_evaluations(folder: Path, schema: pa.Schema, columns: Mapping[str, Sequence[Any]]) -> None:
    part = folder / f".{EVALUATIONS}.{os.getpid()}.part"
    pq.write_table(pa.Table.from_pydict(dict(columns), schema=schema), part)
    part.replace(folder / EVALUATIONS)


def hardware(local: bool) -> str:
    """The device of this task; on a CPU PyTorch gets as many threads as the task has cores.

    local: in a session on this machine, whose GPU is taken where it has one.
    """
    import torch

    device = _device(local)
    if device == "cpu":
        context = TaskContext.get()
        torch.set_num_threads(max(1, context.cpus() if context is not None else 1))
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return device


def _device(local: bool) -> str:
    import torch

    given = task_device(local)
    if given == "local":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if given.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"proxies: the task was given a GPU ({given}), but PyTorch {torch.__version__} sees no CUDA there; install "
            "a build with CUDA on the executors"
        )
    return given


# -- progress ----------------------------------------------------------------------------------------------------------


class Told:
    """Notes how far a run is, every few seconds, in a file of its folder; each: what a step counts."""

    def __init__(self, folder: Path, each: int) -> None:
        self._path, self._each, self._last = folder / PROGRESS, each, 0.0

    def __call__(self, step: int, loss: float) -> None:
        if time.monotonic() - self._last >= 2:
            self._last = time.monotonic()
            with contextlib.suppress(OSError):  # never a reason to fail
                self._path.write_text(str(step * self._each), encoding="utf-8")


def shown_on(progress: Any) -> Callable[[int, int], None]:
    """(done, of how much) as a stage's progress shows it, which counts what came since the last time."""
    shown = 0

    def told(done: int, total: int) -> None:
        nonlocal shown
        progress.total = total
        progress.advance(done - shown)
        shown = done

    return told


class Watched:
    """While the body runs, tells `on_progress` how far the runs are, of how much; runs: what each counts in all."""

    def __init__(
        self, working: Path, runs: Mapping[str, int], on_progress: Callable[[int, int], None] | None
    ) -> None:
        self._folders = {working / "runs" / run: whole for run, whole in runs.items()}
        self._tell = on_progress
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> None:
        if self._tell is not None:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._tell is not None:
            self._thread.join(timeout=5)
            self._tell(self._seen(), sum(self._folders.values()))

    def _poll(self) -> None:
        assert self._tell is not None
        while not self._stop.wait(2):
            self._tell(self._seen(), sum(self._folders.values()))

    def _seen(self) -> int:
        return sum(self._of(folder, whole) for folder, whole in self._folders.items())

    def _of(self, folder: Path, whole: int) -> int:
        if (folder / RESULT).exists():
            return whole
        try:
            return int((folder / PROGRESS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
