"""What the person at the terminal sees of a running stage: bar, rows, rate, time left; plain lines without one."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

PLAIN_EVERY_SECONDS = 10.0
COLUMN = 8  # characters of a stage's name, where none is longer


class _Rows(ProgressColumn):
    def render(self, task: Task) -> Text:
        if not task.total:
            return Text(task.fields["tasks"])
        return Text(f"{int(task.completed):,}/{int(task.total):,} {task.fields['unit']}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


class StageProgress:
    """One running stage. Rows already counted by `advance` are sure; `tasks` estimates those of the batch under way."""

    def __init__(self, show: Terminal, name: str, total: int | None, unit: str) -> None:
        self._show, self.name, self.total, self.unit = show, name, total, unit
        self.done = 0
        self._pending, self._working_tasks = 0, 0
        self._shown = 0.0
        self._tasks = ""
        self._start = self._last_line = time.monotonic()
        self._task: TaskID | None = show.bar_add(self) if show.bars else None

    def expect(self, total: int, *, unit: str | None = None) -> None:
        """Say how many rows there will be, once that is known."""
        self.total, self.unit = total, unit or self.unit
        self._update(self.done)

    def batch(self, rows: int, *, tasks: int = 0) -> None:
        """The rows of the batch that starts now: what Spark's finished tasks are a share of.

        tasks: of the Spark stage that does the work, where that is known: others (a shuffle before it) don't count.
        """
        self._pending, self._working_tasks = rows, tasks

    def tasks(self, finished: int, known: int) -> None:
        if self._working_tasks and known != self._working_tasks:
            return
        self._tasks = f"{finished}/{known} tasks" if known else ""
        if self.total is None:
            self._update(self._shown)
        if known and self._pending:
            self._update(self.done + self._pending * min(1.0, finished / known))

    def advance(self, rows: int) -> None:
        self.done += rows
        self._pending = 0
        self._update(self.done)

    def note(self, text: str) -> None:
        self._show.line(f"  {text}")

    def _update(self, done: float) -> None:
        self._shown = max(self._shown, done)
        if self._task is not None:
            self._show.bar_update(self._task, self)
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            self._show.line_of(self.name, self.plain())

    def plain(self) -> str:
        """`4,000/12,000 documents  33%  61/s  2m11s left`"""
        seconds = max(1e-9, time.monotonic() - self._start)
        rate = self._shown / seconds
        if not self.total:  # how many there will be isn't known yet: show that something moves
            return f"{self._tasks}  {clock(seconds)}"
        left = f"{clock((self.total - self._shown) / rate)} left" if rate > 0 else "time left unknown"
        share = 100 * self._shown / self.total
        return f"{int(self._shown):,}/{self.total:,} {self.unit}  {share:.0f}%  {rate:,.0f}/s  {left}"

    def finish(self) -> None:
        if self._task is not None:
            self._show.bar_remove(self._task)


class Terminal:
    """Everything a run says, on stderr (stdout belongs to `--json`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.console = Console(file=stream or sys.stderr, highlight=False)
        self.bars = self.console.is_terminal
        self._bar: Progress | None = None
        self._column = COLUMN

    def make_room(self, names: Iterable[str]) -> None:
        """From now on the lines of these stages begin in one column, and no other stage's before it."""
        self._column = max([self._column, *map(len, names)])

    def line_of(self, stage: str, text: str) -> None:
        """A line of a stage: its name, then what it says, in the column where all stages' do."""
        self.line(f"{self.padded(stage)} {text}")

    def padded(self, stage: str) -> str:
        return stage.ljust(self._column)

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        self.line(f"  warning: {text}")

    @contextlib.contextmanager
    def stage(self, name: str, *, total: int | None = None, unit: str = "rows") -> Iterator[StageProgress]:
        progress = StageProgress(self, name, total, unit)
        try:
            yield progress
        finally:
            progress.finish()

    def bar_add(self, stage: StageProgress) -> TaskID:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
                BarColumn(bar_width=28),  # where the terminal is narrow, it is the bar that gives way
                _Rows(table_column=Column(no_wrap=True)),
                _Rate(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bar.start()
        return self._bar.add_task(self.padded(stage.name), total=stage.total, unit=stage.unit, tasks="")

    def bar_update(self, task: TaskID, stage: StageProgress) -> None:
        if self._bar is not None:
            self._bar.update(task, completed=stage._shown, total=stage.total, unit=stage.unit, tasks=stage._tasks)

    def bar_remove(self, task: TaskID) -> None:
        if self._bar is not None:
            self._bar.remove_task(task)
            if not self._bar.tasks:
                self._bar.stop()
                self._bar = None


def clock(seconds: float) -> str:
    """`8s`, `2m11s`, `3h04m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def excerpt(text: str, characters: int) -> str:
    """The text's beginning on one line, cut at a word where it is long."""
    line = " ".join(text[: 4 * characters].split())
    if len(line) <= characters:
        return line
    return line[: characters - 1].rsplit(" ", 1)[0].rstrip(" ,.;:") + "…"
