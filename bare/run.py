"""A run over one tables root: what rows are made from, and what was made so far. No method in here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from bare.checking import Rules
from bare.collapse import Settings
from bare.config import BareConfig
from bare.generation import Model
from bare.tables import DRAFTS, REFINED, VERDICTS
from bare.tasks import Seeds, Task
from curation.embedding import Encoder, Vectors
from curation.errors import input_errors
from curation.hashing import content_id
from curation.progress import Terminal
from curation.session import get_session
from curation.tables import Tables, TableSpec, hold


@dataclass(frozen=True)
class Making:
    """What the rows of a generation are made from. shots: seeds that models are shown; real: what they aren't."""

    generation_id: str
    task: Task
    shots: Seeds
    real: Seeds
    held_out: bool
    drafter: Model
    refiner: Model | None
    encoder: Encoder
    rules: Rules
    settings: Settings


@dataclass
class Totals:
    """What was made so far, by all runs of this generation. cost is None where no price is known."""

    drafts: int = 0
    refined: int = 0
    accepted: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cost: float | None = None
    uncounted: int = 0  # calls whose tokens or cost nobody told
    rejected: Counter[str] = field(default_factory=Counter)

    def add_calls(self, rows: int, calls: dict[str, Any], *, drafts: bool) -> None:
        if drafts:
            self.drafts += rows
        else:
            self.refined += rows
        self.tokens_in += calls["tokens_in"] or 0
        self.tokens_out += calls["tokens_out"] or 0
        self.seconds += calls["seconds"] or 0.0
        self.uncounted += calls["uncounted"] or 0
        if calls["cost"] is not None:
            self.cost = (self.cost or 0.0) + calls["cost"]

    @property
    def judged(self) -> int:
        """Rows that have a verdict."""
        return self.accepted + self.rejected.total()

    def add_verdicts(self, counts: dict[str | None, int]) -> None:
        self.accepted += counts.get(None, 0)
        self.rejected.update({reason: count for reason, count in counts.items() if reason is not None})


class Run:
    """The tables, the configuration, the terminal, and what this generation holds so far."""

    def __init__(self, config: BareConfig, spark: SparkSession, terminal: Terminal) -> None:
        self.config, self.spark, self.terminal = config, spark, terminal
        self.run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{content_id(time.time_ns(), length=6)}"
        settings = {name: value for name, value in config.settings(None).items() if name != "tables"}
        self.tables = Tables(spark, config.tables, run_id=self.run_id, config_hash=content_id(settings))
        self.warnings: list[str] = []
        self.started = time.monotonic()
        self.stopped_by = ""
        self.interrupted = False
        self.totals = Totals()
        self.drafted: dict[int, int] = {}  # rows of each wave
        self.measured: set[int] = set()  # rounds, by this run
        self.metrics: tuple[int | None, list[Row]] | None = None  # the generation's, at this version of their table
        self._waves: dict[str, set[int]] = {}
        self._left: set[int] = set()  # waves of which earlier runs left rows
        self._making: Making | None = None
        self._embedded: dict[str, Vectors] = {}

    @property
    def making(self) -> Making:
        assert self._making is not None, "stages.prepare comes first"
        return self._making

    @property
    def generation_id(self) -> str:
        return self.making.generation_id

    def begin(self, making: Making) -> None:
        """Know the generation, and count what earlier runs of it left."""
        self._making = making
        self.totals = Totals()
        for spec in (DRAFTS, REFINED):
            rows = self.mine(spec).groupBy("wave").agg(F.count(F.lit(1)).alias("rows"), *call_sums()).collect()
            self._waves[spec.name] = {row["wave"] for row in rows}
            for row in rows:
                self.totals.add_calls(row["rows"], row.asDict(), drafts=spec is DRAFTS)
                if spec is DRAFTS:
                    self.drafted[row["wave"]] = row["rows"]
        verdicts = self.mine(VERDICTS).groupBy("wave", "reason").count().collect()
        self._waves[VERDICTS.name] = {row["wave"] for row in verdicts}
        self._left = set().union(*self._waves.values())
        for row in verdicts:
            self.totals.add_verdicts({row["reason"]: row["count"]})

    def real_vectors(self) -> Vectors:
        """Embeddings of the real rows, in their order."""
        return self._vectors(self.making.real)

    def shown_vectors(self) -> Vectors:
        """Embeddings of the seeds that models are shown, in their order."""
        return self._vectors(self.making.shots)

    def _vectors(self, seeds: Seeds) -> Vectors:
        key = content_id([seed.seed_id for seed in seeds.seeds])
        if key not in self._embedded:
            task, encode = self.making.task, self.making.encoder.load("cpu")
            self._embedded[key] = encode.encode([task.text_of(seed.fields) for seed in seeds.seeds], "document")
        return self._embedded[key]

    def mine(self, spec: TableSpec) -> DataFrame:
        """This generation's rows of a table."""
        return self.tables.read(spec).where(F.col("generation_id") == self.generation_id)

    def waves(self, spec: TableSpec) -> set[int]:
        """The waves whose rows are in the table."""
        return self._waves[spec.name]

    def commit(self, spec: TableSpec, rows: DataFrame, wave: int) -> DataFrame:
        """Make `rows` the wave's rows of a table, in one commit, once a run; returns them as they were written."""
        marked = rows.withColumns({"generation_id": F.lit(self.generation_id), "wave": F.lit(wave)})
        # A row's key is a hash of generation, item and attempt, and a wave holds each item once.
        if wave in self._left:
            condition = f"generation_id = '{self.generation_id}' AND wave = {wave}"
            self.tables.replace(spec, marked, where=condition, keys_are_unique=True)
        else:  # this run drafts it: there is nothing to replace, and Delta need not look for it among all files
            self.tables.append(spec, marked, keys_are_unique=True)
        self._waves.setdefault(spec.name, set()).add(wave)
        return self.mine(spec).where(F.col("wave") == wave)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.terminal.warn(text)


def call_sums() -> list[Any]:
    """Sums of what calls took; cost is null where no row's is known. uncounted: calls whose tokens nobody told."""
    sums = [F.sum(name).alias(name) for name in ("tokens_in", "tokens_out", "seconds", "cost")]
    untold = F.col("tokens_in").isNull() | F.col("tokens_out").isNull()
    return [*sums, F.count_if(untold).alias("uncounted")]


@contextmanager
def opened(config: BareConfig, spark: SparkSession | None = None, terminal: Terminal | None = None) -> Iterator[Run]:
    """The tables root of `config`, held against other runs while the body works on it."""
    spark = spark or get_session()
    with input_errors(), hold(Tables(spark, config.tables)):
        yield Run(config, spark, terminal or Terminal())
