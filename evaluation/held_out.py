"""What models are measured on: questions of held-out files, without what was trained on or stands in the pool.

An example that is removed stays in the table, with the reason: nothing is left out silently.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from betr.benchmarks import BENCHMARK_EXAMPLES, WHAT, Asked, BenchmarkSource, asked
from curation import jsonlines
from curation.decontamination import DecontaminationConfig, TestSet, find_hits
from curation.errors import InputError
from curation.hashing import content_id
from curation.held_out import TestIndex
from curation.jsonlines import RowRejected
from curation.overlap import normalised
from curation.session import release, share
from curation.tables import Tables
from evaluation.measuring import Example
from evaluation.tables import HELD_OUT_EXAMPLES

TRAINING_EXAMPLE, IN_POOL = "training_example", "in_pool"  # why an example isn't measured
ON_CONTAMINATION = ("remove", "refuse")


@dataclass(frozen=True)
class HeldOutConfig:
    """per_benchmark: examples of each, by hash of id and seed; None: all. on_contamination: an example that stands in
    the pool is removed, or the run is refused. decontamination: what counts as standing there.
    """

    per_benchmark: int | None = 200
    seed: int = 0
    on_contamination: str = "remove"
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)

    def __post_init__(self) -> None:
        if self.per_benchmark is not None and self.per_benchmark < 1:
            raise InputError(f"held-out examples: at least 1 of each benchmark; got {self.per_benchmark}")
        if self.on_contamination not in ON_CONTAMINATION:
            raise InputError(
                f"--on-contamination must be one of {', '.join(ON_CONTAMINATION)}; got {self.on_contamination!r}"
            )


@dataclass(frozen=True)
class Asking:
    """The examples of files, by benchmark and id. questions, texts: of each id, without passages, and as a target.

    rejected: benchmark -> reason -> rows; duplicates: rows that repeat an example.
    """

    examples: tuple[Example, ...]
    questions: dict[str, str]
    texts: dict[str, str]
    counts: dict[str, int]
    rejected: dict[str, dict[str, int]]
    duplicates: dict[str, int]

    def said(self, example: Example) -> tuple[str, str]:
        """The question without its passages, alone and with the gold answer."""
        question = self.questions[example.example_id]
        return question, question + "\n" + example.choices[example.gold].strip()


@dataclass(frozen=True)
class HeldOut:
    """A set of held-out examples as the table has it. counts: measured ones of each benchmark; removed: by reason."""

    held_out_id: str
    examples: tuple[Example, ...]
    counts: dict[str, int]
    removed: dict[str, dict[str, int]]


def read_asked(
    spark: SparkSession, sources: Iterable[BenchmarkSource], *, per_benchmark: int | None = None, seed: int = 0
) -> Asking:
    """Each benchmark's distinct examples as questions with answers, `per_benchmark` of each by hash of id and seed.

    InputError: a benchmark without a usable row.
    """
    found: dict[str, dict[str, tuple[Example, Asked]]] = {}
    rejected: dict[str, Counter[str]] = {}
    duplicates: Counter[str] = Counter()
    for source in sorted(set(sources), key=lambda s: (s.name, s.path)):
        there = found.setdefault(source.name, {})
        reasons = rejected.setdefault(source.name, Counter())
        for _, line in jsonlines.lines(jsonlines.read_bytes(spark, source.path, what=WHAT)):
            try:
                row = asked(jsonlines.parse(line))
            except RowRejected as verdict:
                reasons[verdict.reason] += 1
                continue
            example = _example(source.name, row)
            if example.example_id in there:
                duplicates[source.name] += 1
            there[example.example_id] = (example, row)
    chosen: list[tuple[Example, Asked]] = []
    for name, there in sorted(found.items()):
        if not there:
            reasons_said = ", ".join(f"{reason} {count:,}" for reason, count in rejected[name].items()) or "no rows"
            raise InputError(
                f"held-out benchmark {name} has no question with an answer ({reasons_said}); give a file of questions, "
                "choices and gold answers, as for --benchmarks"
            )
        order = sorted(there, key=lambda each: hashlib.sha256(f"{seed}\0{each}".encode()).digest())
        chosen += [there[each] for each in sorted(order[:per_benchmark])]
    return Asking(
        tuple(example for example, _ in chosen),
        {example.example_id: row.question for example, row in chosen},
        {example.example_id: row.text for example, row in chosen},
        dict(Counter(example.benchmark for example, _ in chosen)),
        {name: dict(reasons) for name, reasons in rejected.items() if reasons},
        dict(duplicates),
    )


def _example(benchmark: str, row: Asked) -> Example:
    text = json.dumps([benchmark, row.context, row.choices, row.gold], ensure_ascii=False)
    example_id = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return Example(example_id, benchmark, row.context, row.choices, row.gold)


def hold_out(
    tables: Tables, asking: Asking, config: HeldOutConfig, *, documents: DataFrame, training_texts: Sequence[str]
) -> HeldOut:
    """Keep a set of held-out examples in the table, each with the reason why it isn't measured; once for one pool.

    documents: the pool (chunk, doc_id, text, bytes). training_texts: of targets and of fine-tuning, few. An example
    equal to one of them in words is a `training_example`; one with an n-gram in the pool (question, or question and
    gold answer) is `in_pool`. InputError: nothing is left of a benchmark, or on_contamination is `refuse` and something
    stands in the pool.
    """
    held_out_id = _held_out_id(asking, config, documents, training_texts)
    there = load(tables, held_out_id)
    if there is None:
        removed = dict.fromkeys(_trained_on(asking, training_texts), TRAINING_EXAMPLE)
        rest = [example for example in asking.examples if example.example_id not in removed]
        removed.update(dict.fromkeys(_in_pool(tables.spark, asking, rest, config, documents), IN_POOL))
        rows = [
            (held_out_id, e.example_id, e.benchmark, e.question, list(e.choices), e.gold, removed.get(e.example_id))
            for e in asking.examples
        ]
        frame = HELD_OUT_EXAMPLES.frame(tables.spark, rows)
        tables.replace(HELD_OUT_EXAMPLES, frame, where={"held_out_id": held_out_id}, keys_are_unique=True)
        there = load(tables, held_out_id)
        assert there is not None
    check(there, config)
    return there


def training_texts(tables: Tables, *finetuning: Asking) -> list[str]:
    """The texts of every target example that the tables hold, and of what models are fine-tuned on."""
    targets = {row["text"] for row in tables.read(BENCHMARK_EXAMPLES).select("text").distinct().collect()}
    return sorted(targets.union(*(each.texts.values() for each in finetuning)))


def load(tables: Tables, held_out_id: str) -> HeldOut | None:
    """The set of this name, None where the table has none. On the driver: held-out examples are few."""
    rows = tables.read(HELD_OUT_EXAMPLES).where(F.col("held_out_id") == held_out_id).collect()
    if not rows:
        return None
    kept = [row for row in rows if row["removed"] is None]
    examples = [
        Example(row["example_id"], row["benchmark"], row["question"], tuple(row["choices"]), row["gold"])
        for row in kept
    ]
    removed: dict[str, dict[str, int]] = {}
    for row in rows:
        if row["removed"] is not None:
            mine = removed.setdefault(row["benchmark"], {})
            mine[row["removed"]] = mine.get(row["removed"], 0) + 1
    examples.sort(key=lambda e: (e.benchmark, e.example_id))
    return HeldOut(
        held_out_id, tuple(examples), dict(Counter(e.benchmark for e in examples)), dict(sorted(removed.items()))
    )


def _held_out_id(asking: Asking, config: HeldOutConfig, documents: DataFrame, training_texts: Sequence[str]) -> str:
    # Documents are added by whole chunks and never rewritten.
    pool = documents.groupBy("chunk").agg(F.count(F.lit(1)).alias("n"), F.sum("bytes").alias("b")).collect()
    settings: dict[str, Any] = {"decontamination": vars(config.decontamination)}
    return content_id(
        "held out", [e.example_id for e in asking.examples], sorted(set(map(normalised, training_texts))),
        sorted((row["chunk"], row["n"], row["b"]) for row in pool), settings,
    )  # fmt: skip


def _trained_on(asking: Asking, training_texts: Sequence[str]) -> list[str]:
    trained = {normalised(text) for text in training_texts}
    return [e.example_id for e in asking.examples if normalised(asking.texts[e.example_id]) in trained]


def _in_pool(
    spark: SparkSession, asking: Asking, examples: Sequence[Example], config: HeldOutConfig, documents: DataFrame
) -> list[str]:
    """Examples whose question, or question and gold answer, has an n-gram that stands in the pool: ids.

    An n-gram that stands there oftener than `commonest` says nothing.
    """
    settings = config.decontamination
    if not examples:
        return []
    owners = [(e, text) for e in examples for text in asking.said(e)]
    ids, names = [e.example_id for e, _ in owners], [e.benchmark for e, _ in owners]
    shared = share(spark, TestSet.of(ids, names, [text for _, text in owners], settings))
    hits = find_hits(documents, tests=shared).groupBy("gram")
    counted = hits.agg(F.count(F.lit(1)).alias("n"), F.min("shared").alias("shared"))
    # A row an n-gram of the held-out texts at most.
    runs = [row["shared"] for row in counted.where(F.col("n") <= settings.commonest).collect()]
    release(shared)
    return contaminated(owners, runs, settings)


def contaminated(
    owners: Sequence[tuple[Example, str]], runs: Sequence[str], settings: DecontaminationConfig
) -> list[str]:
    """Ids of the examples of which a text holds one of these runs of words as an n-gram of its own.

    A text of `longest` words or more has n-grams of that length, a shorter one has itself.
    """
    if not runs or not owners:
        return []
    index = TestIndex.of(runs, shortest=settings.shortest, longest=settings.longest)
    texts = [text for _, text in owners]
    own = [min(settings.longest, len(normalised(text).split())) for text in texts]
    hits = index.find(texts)
    return sorted({
        owners[text][0].example_id
        for text, length in zip(hits.text.tolist(), hits.length.tolist(), strict=True)
        if length == own[text]
    })  # fmt: skip


def check(found: HeldOut, config: HeldOutConfig) -> None:
    """InputError: on_contamination is `refuse` and something stands in the pool, or nothing is left of a benchmark."""
    in_pool = {name: reasons[IN_POOL] for name, reasons in found.removed.items() if IN_POOL in reasons}
    if in_pool and config.on_contamination == "refuse":
        said = ", ".join(f"{name} {count:,}" for name, count in sorted(in_pool.items()))
        there = len(found.examples) + sum(sum(reasons.values()) for reasons in found.removed.values())
        raise InputError(
            f"--on-contamination refuse: {sum(in_pool.values()):,} of {there:,} held-out examples stand "
            f"in the pool ({said}; the table {HELD_OUT_EXAMPLES.name} has them); leave their documents "
            "out of the pool, or say --on-contamination remove"
        )
    if empty := sorted(set(found.removed) - set(found.counts)):
        raise InputError(
            f"nothing is left to measure of {', '.join(empty)}: all of its held-out examples were trained on or stand "
            f"in the pool (the table {HELD_OUT_EXAMPLES.name} says which); give another held-out file"
        )
