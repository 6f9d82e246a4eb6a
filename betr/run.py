"""A run over one tables root: which stage is done, what it left, what is to be done again. No method in here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from pyspark.sql import Row, SparkSession

from betr.config import RunConfig
from betr.tables import STAGE_RUNS
from curation.clock import StageClock
from curation.errors import InputError
from curation.hashing import content_id
from curation.progress import StageProgress, Terminal, clock
from curation.session import TaskWatch, default_parallelism
from curation.tables import Tables, Write

T = TypeVar("T")
DONE, RESUMED, UNCHANGED, STARTED = "done", "resumed", "unchanged", "started"
STAGE_ORDER = (
    "import", "targets", "sample", "embed", "rank", "train", "score", "deduplicate", "decontaminate", "select", "cover",
    "watch",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a stage left: `key` names it by everything that it was made from, `values` is what the next stages need."""

    stage: str
    key: str
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


@dataclass
class StageReport:
    stage: str
    state: str
    rows_in: int = 0
    rows_out: int = 0
    seconds: float = 0.0


@dataclass
class Work:
    """What a stage's body fills in while it runs. bytes_in: of the input files, or of the text, where it is known."""

    progress: StageProgress
    clock: StageClock = field(default_factory=StageClock)
    rows_in: int = 0
    rows_out: int = 0
    bytes_in: int | None = None
    values: dict[str, Any] = field(default_factory=dict)


class Run:
    """The tables, the configuration, the terminal, and the memory of earlier runs on this root."""

    def __init__(self, config: RunConfig, spark: SparkSession, terminal: Terminal) -> None:
        self.config, self.spark, self.terminal = config, spark, terminal
        self.run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{content_id(time.time_ns(), length=6)}"
        settings = {name: value for name, value in config.settings(None).items() if name != "tables"}
        self.tables = Tables(spark, config.tables, run_id=self.run_id, config_hash=content_id(settings))
        self.reports: list[StageReport] = []
        self.warnings: list[str] = []
        self._memory: list[Row] = sorted(self.tables.read(STAGE_RUNS).collect(), key=lambda row: row["started"])
        self._current: dict[str, Outcome] = {}
        self._looked_up: dict[str, Any] = {}

    def once(self, what: str, look_up: Callable[[], T]) -> T:
        """What `look_up` finds, looked up once a run: files that are listed early aren't listed again."""
        if what not in self._looked_up:
            self._looked_up[what] = look_up()
        found: T = self._looked_up[what]
        return found

    def all(self, stage: str) -> list[Outcome]:
        """Every finished run of a stage on this root, one a key, oldest first."""
        rows = [row for row in self._memory if row["stage"] == stage and row["state"] == DONE]
        return list({row["key"]: Outcome(stage, row["key"], json.loads(row["outcome"])) for row in rows}.values())

    def before(self, stage: str, *, where: Callable[[Outcome], bool] = lambda _: True) -> Outcome | None:
        """The latest finished run of a stage on this root for which `where` holds."""
        for row in reversed(self._memory):
            if row["stage"] == stage and row["state"] == DONE:
                outcome = Outcome(stage, row["key"], json.loads(row["outcome"]))
                if where(outcome):
                    return outcome
        return None

    def settings_of(self, outcome: Outcome) -> dict[str, Any]:
        """The settings that a finished stage ran with, as JSON keeps them."""
        rows = (row for row in reversed(self._memory) if row["state"] == DONE)
        row = next(row for row in rows if (row["stage"], row["key"]) == (outcome.stage, outcome.key))
        found: dict[str, Any] = json.loads(row["settings"])
        return found

    def finished(self) -> dict[tuple[str, str], Row]:
        """(stage, key) -> the row of `stage_runs` that first left this result, with its costs; oldest first."""
        done: dict[tuple[str, str], Row] = {}
        for row in self._memory:
            if row["state"] == DONE:  # later rows only note that the result is wanted again
                done.setdefault((row["stage"], row["key"]), row)
        return done

    def began(self, outcome: Outcome) -> datetime:
        """When the run of a stage that first left this outcome began."""
        found: datetime = self.finished()[outcome.stage, outcome.key]["started"]
        return found

    def record(self, stage: str) -> Row | None:
        """The row of `stage_runs` that this run's stage left, with its costs."""
        mine = (row for row in reversed(self._memory) if row["run_id"] == self.run_id and row["state"] == DONE)
        return next((row for row in mine if row["stage"] == stage), None)

    def now(self, stage: str) -> Outcome | None:
        """What this run's stage left, else the latest."""
        return self._current.get(stage) or self.before(stage)

    def needs(self, stage: str, command: str | None = None, *, program: str = "betr") -> Outcome:
        """`now`, or an InputError that says which command makes it."""
        outcome = self.now(stage)
        if outcome is None:
            raise InputError(
                f"{self.tables.root} has no result of the stage {stage!r} yet: run `{program} {command or stage}` first"
            )
        return outcome

    def unchanged(self, outcome: Outcome, note: str = "") -> Outcome:
        """Report a stage whose result is there already; from now on it is the one that later stages build on."""
        latest = self.before(outcome.stage)
        if latest is not None and latest.key != outcome.key:
            self._again(outcome)
        self._current[outcome.stage] = outcome
        self.reports.append(StageReport(outcome.stage, UNCHANGED, rows_out=int(outcome.values.get("rows", 0))))
        self.terminal.line_of(outcome.stage, f"unchanged{'; ' + note if note else ''}")
        return outcome

    @contextmanager
    def stage(self, stage: str, key: str, *, unit: str, in_parts: bool = False) -> Iterator[Work]:
        """Run a stage's body; its result is remembered when the body ends well, and only then.

        in_parts: the body commits as it goes and goes on from what is there. That it started is remembered too, and a
        later run says "resumed". The other stages are one commit: killed, they leave nothing to go on from.
        """
        started, clock_start = datetime.now(UTC).replace(tzinfo=None), time.monotonic()
        resumed = in_parts and any(
            row["stage"] == stage and row["key"] == key and row["state"] == STARTED for row in self._memory
        )
        if in_parts and not resumed:
            nothing_yet = Work(StageProgress(self.terminal, stage, None, unit))
            self._remember(stage, key, STARTED, started, 0.0, nothing_yet, {})
        writes_before = len(self.tables.writes)
        with self.terminal.stage(stage, unit=unit) as progress:
            work = Work(progress, StageClock(default_parallelism(self.spark)))
            with TaskWatch(self.spark, progress.tasks):
                yield work
        seconds = time.monotonic() - clock_start
        state = RESUMED if resumed else DONE
        self._remember(stage, key, DONE, started, seconds, work, self._costs(work, self.tables.writes[writes_before:]))
        self._current[stage] = Outcome(stage, key, {**work.values, "rows": work.rows_out})
        self.reports.append(StageReport(stage, state, work.rows_in, work.rows_out, round(seconds, 2)))
        rate = f", {work.rows_out / seconds:,.0f} {unit}/s" if work.rows_out else ""
        self.terminal.line_of(stage, f"{state}: {work.rows_out:,} {unit} in {clock(seconds)}{rate}")

    def result(self, stage: str, key: str) -> Outcome | None:
        return self.before(stage, where=lambda outcome: outcome.key == key)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.terminal.warn(text)

    def _again(self, outcome: Outcome) -> None:
        """Note that an older result is wanted again: a stage run by itself later builds on it."""
        row = next(
            r
            for r in reversed(self._memory)
            if (r["stage"], r["key"], r["state"]) == (outcome.stage, outcome.key, DONE)
        )
        again = Row(**{**row.asDict(), "run_id": self.run_id, "started": datetime.now(UTC).replace(tzinfo=None)})
        self._append(again)

    def _costs(self, work: Work, writes: Sequence[Write]) -> dict[str, Any]:
        """What a stage wrote, and where its seconds went: the columns of `stage_runs` that came later."""
        split = work.clock.split(sum(each.seconds for each in writes))
        sizes = self.tables.written(writes).values()
        commits = [each.commit_seconds for each in writes if each.commit_seconds is not None]
        return {
            "bytes_in": work.bytes_in,
            "bytes_out": sum(size for size, _ in sizes),
            "files": sum(files for _, files in sizes),
            "seconds_reading": split.reading,
            "seconds_compute": split.compute,
            "seconds_writing": split.writing,
            "seconds_commits": sum(commits) if commits else None,
        }

    def _remember(
        self, stage: str, key: str, state: str, started: datetime, seconds: float, work: Work, costs: dict[str, Any]
    ) -> None:
        values = {**work.values, "rows": work.rows_out} if state == DONE else {}
        row = Row(
            stage=stage,
            key=key,
            state=state,
            run_id=self.run_id,
            started=started,
            seconds=seconds,
            rows_in=work.rows_in,
            rows_out=work.rows_out,
            settings=json.dumps(self.config.settings(stage), sort_keys=True, default=str),
            outcome=json.dumps(values),
            **{name: costs.get(name) for name in STAGE_RUNS.added},
        )
        self._append(row)

    def _append(self, row: Row) -> None:
        self.tables.append(STAGE_RUNS, STAGE_RUNS.frame(self.spark, [row]), keys_are_unique=True)
        self._memory.append(row)
