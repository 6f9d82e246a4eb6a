"""Where a stage's seconds go, to reading, computing or writing: clocks in the tasks of our functions, and the driver's.

Spark reads, computes and writes in one pipeline, and only a function in its middle can tell the parts: it waits for
rows (reading), works on them (compute), and hands its own on. What it measures travels in two columns beside its last
rows; an observation sums them while the rows are written, and they go no further. No second job; Connect does the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import LongType, StructField, StructType

T = TypeVar("T")
Part = Literal["reading", "compute", "writing"]
READING, COMPUTE = "reading_ns_", "compute_ns_"
ANSWER_SECONDS = 5.0  # an observation comes with the end of its job; one that doesn't is given up


@dataclass(frozen=True)
class Split:
    """Parts of a stage's seconds on the clock, None where they can't be told apart; what is left is the driver's."""

    reading: float | None = None
    compute: float | None = None
    writing: float | None = None


# -- in a task ---------------------------------------------------------------------------------------------------------


def timed(
    batches: Iterable[pa.RecordBatch], work: Callable[[Iterator[pa.RecordBatch]], Iterable[pa.RecordBatch]]
) -> Iterator[pa.RecordBatch]:
    """What `work` makes of the batches, with two columns more: in the last batch's first row how long it waited for
    input and how long it worked, in ns; else 0.
    """
    waited = 0

    def watched() -> Iterator[pa.RecordBatch]:
        nonlocal waited
        source = iter(batches)
        while True:
            start = time.perf_counter_ns()
            batch = next(source, None)
            waited += time.perf_counter_ns() - start
            if batch is None:
                return
            yield batch

    made, worked = iter(work(watched())), 0
    held: pa.RecordBatch | None = None
    while True:
        before, start = waited, time.perf_counter_ns()
        batch = next(made, None)
        worked += time.perf_counter_ns() - start - (waited - before)
        if batch is None:
            break
        if len(batch) == 0:  # has no row to carry anything
            yield _stamped(batch, 0, 0)
            continue
        if held is not None:
            yield _stamped(held, 0, 0)
        held = batch
    if held is not None:
        yield _stamped(held, waited, worked)


def timed_schema(schema: StructType) -> StructType:
    """The schema of a function's rows with what `timed` adds."""
    return StructType([*schema.fields, StructField(READING, LongType()), StructField(COMPUTE, LongType())])


def timed_ddl(schema: str) -> str:
    """The same for a schema as Spark DDL."""
    return f"{schema}, {READING} bigint, {COMPUTE} bigint"


def _stamped(batch: pa.RecordBatch, reading: int, compute: int) -> pa.RecordBatch:
    columns = []
    for value in (reading, compute):
        column = np.zeros(len(batch), np.int64)
        column[:1] = value
        columns.append(pa.array(column))
    return pa.RecordBatch.from_arrays([*batch.columns, *columns], [*batch.schema.names, READING, COMPUTE])


# -- on the driver -----------------------------------------------------------------------------------------------------


class StageClock:
    """The clocks of one stage. slots: tasks that run at once; tasks' seconds over them are seconds on the clock.

    Watching costs about a microsecond a row: a stage of many quick rows watches some of its jobs, and sets `watched` to
    the share of its work that these were.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = max(1, slots)
        self.watched = 1.0
        self._own: dict[Part, float] = {}
        self._watched: list[tuple[Any, int]] = []

    @contextmanager
    def counting(self, part: Part) -> Iterator[None]:
        """Count the body's seconds on the driver as `part`, but for what is counted inside it."""
        start, before = time.monotonic(), sum(self._own.values())
        try:
            yield
        finally:
            inside = sum(self._own.values()) - before
            self._own[part] = self._own.get(part, 0.0) + time.monotonic() - start - inside

    def waiting(self, rows: Iterable[T]) -> Iterator[T]:
        """The rows; the driver's waiting for them is reading."""
        source, end = iter(rows), object()
        while True:
            with self.counting("reading"):
                row = next(source, end)
            if row is end:
                return
            yield row  # type: ignore[misc]

    def watch(self, frame: DataFrame, *, tasks: int | None = None) -> DataFrame:
        """A frame of `timed` rows without their clock columns, which are summed when it is first written.

        tasks: how many make it, where that is known: fewer than the slots leave some of these empty.
        """
        observation = Observation()
        sums = (F.sum(READING).alias("reading"), F.sum(COMPUTE).alias("compute"))
        self._watched.append((observation, max(1, min(self.slots, tasks or self.slots))))
        return frame.observe(observation, *sums).drop(READING, COMPUTE)

    def split(self, in_writes: float) -> Split:
        """The stage's parts, after its last write. in_writes: seconds that its writes took, with the jobs behind them.

        Of these jobs, what the tasks' own clocks count is reading and compute, and the rest is writing.
        """
        told = [(_answer(observation), at_once) for observation, at_once in self._watched]
        parts: dict[Part, float] = dict(self._own)
        if told and all(sums is not None for sums, _ in told):
            names: tuple[Part, ...] = ("reading", "compute")
            in_tasks = {
                part: sum(((sums or {}).get(part) or 0) / 1e9 / at_once for sums, at_once in told) / self.watched
                for part in names
            }
            both = sum(in_tasks.values())
            if both > in_writes:  # more ran at once than the session says
                in_tasks = {part: seconds * in_writes / both for part, seconds in in_tasks.items()}
            for part, seconds in in_tasks.items():
                parts[part] = parts.get(part, 0.0) + seconds
            in_writes -= min(both, in_writes)
        parts["writing"] = parts.get("writing", 0.0) + in_writes
        return Split(**parts)


def _answer(observation: Any) -> dict[str, Any] | None:
    """What was observed; None where no answer comes (a classic observation waits for it without end)."""
    found: list[dict[str, Any]] = []

    def ask() -> None:
        try:
            found.append(observation.get)
        except Exception:  # measuring is never a reason to fail
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return found[0] if found and found[0] else None
