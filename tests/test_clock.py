"""Where seconds go: what a task's clock counts, and how a stage's parts are made of it."""

from collections.abc import Iterator
from types import SimpleNamespace

import pyarrow as pa
import pytest

from curation import clock
from curation.clock import COMPUTE, READING, StageClock, timed


class Hand:
    """A clock that moves only when it is moved."""

    def __init__(self) -> None:
        self.now = 0

    def pass_(self, ns: int) -> None:
        self.now += ns


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    fake = SimpleNamespace(perf_counter_ns=lambda: hand.now, monotonic=lambda: hand.now / 1e9)
    monkeypatch.setattr(clock, "time", fake)
    return hand


def batch(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"id": [str(i) for i in range(rows)]}, pa.schema([("id", pa.string())]))


@pytest.mark.parametrize("sizes", [[3, 2], [0, 4], [4, 0], [1], [2, 2, 2]])
def test_a_task_tells_its_waiting_and_its_working_once_in_its_last_rows(hand: Hand, sizes: list[int]) -> None:
    def source() -> Iterator[pa.RecordBatch]:
        for size in sizes:
            hand.pass_(1_000)
            yield batch(size)
        hand.pass_(500)  # finding out that there is no more

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for each in batches:
            hand.pass_(30)
            yield each
        hand.pass_(7)

    rows, told = 0, []
    for made in timed(source(), work):
        hand.pass_(100_000)  # whoever takes the rows: none of ours
        assert made.schema.names == ["id", READING, COMPUTE]
        rows += len(made)
        told += [pair for pair in zip(made[READING].to_pylist(), made[COMPUTE].to_pylist(), strict=True) if any(pair)]
    assert rows == sum(sizes)
    assert told == [(1_000 * len(sizes) + 500, 30 * len(sizes) + 7)]


def test_a_task_without_rows_tells_nothing_and_an_error_passes_through(hand: Hand) -> None:
    assert list(timed(iter(()), lambda batches: batches)) == []

    def broken(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield next(batches)
        raise ValueError("row 2")

    with pytest.raises(ValueError, match="row 2"):
        list(timed([batch(1), batch(1)], broken))


def test_what_is_counted_inside_is_not_counted_twice(hand: Hand) -> None:
    stage = StageClock()

    def rows() -> Iterator[int]:
        for number in range(3):
            hand.pass_(2_000_000_000)
            yield number

    with stage.counting("compute"):
        for _ in stage.waiting(rows()):
            hand.pass_(1_000_000_000)
    split = stage.split(in_writes=0.5)
    assert (split.reading, split.compute, split.writing) == pytest.approx((6.0, 3.0, 0.5))


@pytest.mark.parametrize(
    ("at_once", "in_writes", "expected"),
    [
        (2, 10.0, (1.0, 3.0, 6.0)),  # 2 and 6 task seconds, two at a time, of 10 seconds of writes
        (1, 10.0, (2.0, 6.0, 2.0)),
        (1, 4.0, (1.0, 3.0, 0.0)),  # more ran at once than was said: parts never exceed the clock
    ],
)
def test_tasks_seconds_over_those_at_once_are_seconds_on_the_clock(
    at_once: int, in_writes: float, expected: tuple[float, float, float]
) -> None:
    stage = StageClock(slots=2)
    stage._watched.append((SimpleNamespace(get={"reading": 2_000_000_000, "compute": 6_000_000_000}), at_once))
    split = stage.split(in_writes)
    assert (split.reading, split.compute, split.writing) == pytest.approx(expected)


def test_jobs_that_are_watched_stand_for_those_that_are_not() -> None:
    stage = StageClock()
    stage.watched = 0.25
    stage._watched.append((SimpleNamespace(get={"reading": 1_000_000_000, "compute": 500_000_000}), 1))
    split = stage.split(10.0)
    assert (split.reading, split.compute, split.writing) == pytest.approx((4.0, 2.0, 4.0))


def test_without_an_answer_nothing_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "ANSWER_SECONDS", 0.01)
    stage = StageClock()
    stage._watched += [(SimpleNamespace(get={}), 1), (SimpleNamespace(), 1)]
    split = stage.split(2.0)
    assert (split.reading, split.compute, split.writing) == (None, None, 2.0)
