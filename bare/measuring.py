"""Measures, judge and rounds as steps on tables: what rows are like, beside real ones, and what follows from it.

Everything is measured on a fixed sample by hash of the id, so what comes to the driver is bounded: metrics.SAMPLE rows.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from bare import metrics
from bare.collapse import Breach, Decision, Round, Settings, decide
from bare.draws import hash64, row_seed
from bare.generation import Asking, complete
from bare.generators.protocol import Prompt, Sampling
from bare.generators.spec import parse_generator
from bare.judge import Indistinguishability, draw_questions, indistinguishability, judge_messages, parse_answer
from bare.metrics import Clusters, Measure
from bare.run import Run
from bare.stages import accepted_rows, judge_model, round_settings
from bare.tables import JUDGEMENTS, METRICS, ROUNDS, VERDICTS
from bare.tasks import FIELD_MISSING, NOT_PARSED, TRUNCATED, Seeds, Task
from curation.embedding import Vectors, embedding_profile
from curation.frames import driver_rows
from curation.session import TaskWatch, default_parallelism, is_local_session, release, share

ALL_ROUNDS, REAL = -1, -2  # rounds of the table `metrics` that are none
FEWEST_FOR_CLUSTERS = 10  # real rows
PARSE_FAILURES = (NOT_PARSED, FIELD_MISSING)


def sample(rows: DataFrame, *, size: int, seed: int, of: int | None = None) -> pd.DataFrame:
    """At most `size` rows, those that `metrics.fixed_sample` takes: by hash of row_id, on the driver.

    of: how many rows there are at most, where that is known: up to `size` all are taken, and none is hashed.
    """
    if of is not None and of <= size:
        return rows.toPandas()

    def place(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            # As a decimal: 64 bits without a sign have no type of Spark's.
            yield frame.assign(place_=[f"{hash64('sample', seed, i):020d}" for i in frame["row_id"]])

    ids = rows.select("row_id").mapInPandas(place, "row_id string, place_ string")
    first = ids.orderBy("place_", "row_id").limit(size).select("row_id")
    return rows.join(F.broadcast(first), "row_id").toPandas()


def measure(run: Run, round_: int | None = None) -> tuple[Measure, ...]:
    """Every measure of the accepted rows (of one round, or of all), written to `metrics`.

    A generation's only round is all of it: it is measured once, and written as both.
    """
    making, config = run.making, run.config
    of_round = F.lit(True) if round_ is None else F.col("round") == round_
    rows = accepted_rows(run).where(of_round)
    columns = ("row_id", "label", "text", "embedding", "draft_embedding")
    accepted, every = run.totals.accepted, run.totals.judged
    frame = sample(rows.select(*columns), size=metrics.SAMPLE, seed=config.seed, of=accepted)
    judged_rows = run.mine(VERDICTS).where(of_round).select("row_id", "reason")
    verdicts = sample(judged_rows, size=metrics.SAMPLE, seed=config.seed, of=every)
    found = list(measure_frame(frame, making.task, real_clusters(run), run.shown_vectors(), seed=config.seed))
    reasons = [r if isinstance(r, str) else None for r in verdicts["reason"]]
    found += [
        metrics.rate("parse_failures", reasons, PARSE_FAILURES, seed=config.seed),
        metrics.rate("truncation", reasons, (TRUNCATED,), seed=config.seed),
    ]
    judged = indistinguishable(run, round_)
    if judged is not None and judged.rate is not None:
        found.append(Measure("indistinguishability", judged.rate, judged.low, judged.high, judged.answered))
    rounds = {ALL_ROUNDS if round_ is None else round_} | ({ALL_ROUNDS} if config.rounds == 1 else set())
    _write(run, sorted(rounds), found, frame)
    run.measured |= rounds
    return tuple(found)


def measure_real(run: Run) -> tuple[Measure, ...]:
    """The same measures of the real rows, to stand beside."""
    making, seed = run.making, run.config.seed
    real = making.real.seeds
    frame = pd.DataFrame(
        {
            "row_id": [s.seed_id for s in real],
            "label": [s.label for s in real],
            "text": [making.task.text_of(s.fields) for s in real],
            "embedding": list(run.real_vectors()),
        }
    )
    found = measure_frame(frame, making.task, None, None, seed=seed)
    _write(run, [REAL], found, frame)
    return found


def real_clusters(run: Run) -> Clusters | None:
    """Clusters of the real rows, None where they are too few."""
    real = run.making.real.seeds
    if len(real) < FEWEST_FOR_CLUSTERS:
        return None
    return metrics.fit_clusters(run.real_vectors(), [seed.seed_id for seed in real], seed=run.config.seed)


def measure_frame(
    frame: pd.DataFrame, task: Task, clusters: Clusters | None, shown: Vectors | None, *, seed: int
) -> tuple[Measure, ...]:
    """The measures that a frame of rows allows: row_id, label, text, embedding, perhaps draft_embedding.

    clusters: of real rows. shown: embeddings of the seeds that models were shown.
    """
    if not len(frame):
        return ()
    ids, texts = frame["row_id"].tolist(), frame["text"].tolist()
    vectors = np.array(frame["embedding"].tolist(), np.float64)
    labels = frame["label"].tolist() if task.label else None
    drafts = None
    if "draft_embedding" in frame and frame["draft_embedding"].notna().all():
        drafts = np.array(frame["draft_embedding"].tolist(), np.float64)
    found = metrics.measure_rows(
        ids, texts, vectors, labels=labels, wanted=task.wanted_shares, drafts=drafts, seeds=shown, clusters=clusters,
        seed=seed,
    )  # fmt: skip
    if drafts is None and "draft_embedding" in frame and frame["draft_embedding"].notna().any():
        both = frame[frame["draft_embedding"].notna()]
        pair = [np.array(both[name].tolist(), np.float64) for name in ("draft_embedding", "embedding")]
        found = (*found, metrics.draft_to_refined(*pair, seed=seed))
    return found


def _write(run: Run, rounds: Sequence[int], found: Sequence[Measure], frame: pd.DataFrame) -> None:
    histogram = None
    if len(frame) >= 2:
        vectors = np.array(frame["embedding"].tolist(), np.float64)
        distribution = metrics.cosine_distribution(vectors, frame["row_id"].tolist(), seed=run.config.seed)
        histogram = list(distribution.counts) if distribution else None
    rows = [
        (run.generation_id, round_, m.name, m.value, m.low, m.high, m.n, histogram if m.name == "mean_cosine" else None)
        for round_ in rounds
        for m in found
    ]
    if rows:
        run.tables.replace(
            METRICS,
            METRICS.frame(run.spark, rows),
            where=f"generation_id = '{run.generation_id}' AND round IN ({', '.join(map(str, rounds))})",
            keys_are_unique=True,
        )


# -- the judge ---------------------------------------------------------------------------------------------------------


def judge(run: Run, round_: int | None = None) -> Indistinguishability | None:
    """Ask the judge about accepted rows that it wasn't asked about yet (BARE 4); None where no judge is named."""
    config, making = run.config, run.making
    if config.judge is None:
        return None
    name = str(parse_generator(config.judge))
    of_round = F.lit(True) if round_ is None else F.col("round") == round_
    rows = accepted_rows(run).where(of_round).select("row_id", "round", "fields")
    chosen = sample(rows, size=config.judged, seed=config.seed, of=run.totals.accepted)
    asked_before = {r["row_id"] for r in run.mine(JUDGEMENTS).where(F.col("judge") == name).select("row_id").collect()}
    chosen = chosen[~chosen["row_id"].isin(asked_before)].sort_values("row_id", ignore_index=True)
    if len(chosen):
        questions = draw_questions(chosen["row_id"].tolist(), real_rows=len(making.real.seeds), run_seed=config.seed)
        chosen["real"] = [list(q.real) for q in questions]
        chosen["place"] = [q.place for q in questions]
        chosen["fields"] = [json.dumps(dict(f)) for f in chosen["fields"]]
        _ask_judge(run, chosen, name)
    return indistinguishable(run, round_)


def _ask_judge(run: Run, chosen: pd.DataFrame, name: str) -> None:
    config, making = run.config, run.making
    model = judge_model(run)
    columns = "row_id string, round int, fields string, real array<int>, place int"
    asked = chosen[["row_id", "round", "fields", "real", "place"]].itertuples(index=False)
    rows = driver_rows(run.spark, asked, columns)
    shared = share(run.spark, making.real)
    ask = judge_asking(making.task, shared, run_seed=config.seed, sampling=making.task.sampling("judge"))
    tasks = config.partitions or default_parallelism(run.spark)
    with run.terminal.stage("judge", total=len(chosen), unit="rows") as progress, TaskWatch(run.spark, progress.tasks):
        progress.batch(len(chosen))
        answered = complete(
            rows.repartition(tasks, F.xxhash64("row_id")), ask=ask, asked=columns, model=model,
            local=is_local_session(run.spark), profile=embedding_profile(config.gpus_per_task),
        )  # fmt: skip
        judged = answered.mapInPandas(_read_answers(making.real), _JUDGED).withColumns(
            {"generation_id": F.lit(run.generation_id), "judge": F.lit(name)}
        )
        run.tables.append(JUDGEMENTS, judged, keys_are_unique=True)
        progress.advance(len(chosen))
    release(shared)


_JUDGED = (
    "row_id string, round int, real array<string>, place int, text string, finish_reason string, answer int, "
    "verdict string, tokens_in bigint, tokens_out bigint, seconds double, cost double"
)


def judge_asking(task: Task, real: Any, *, run_seed: int, sampling: Sampling) -> Asking:
    """The question about each row: which of four is the worst."""

    def ask(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Prompt | None]]:
        rows = [seed.fields for seed in real.value.seeds]
        questions = draw_questions(frame["row_id"].tolist(), real_rows=len(rows), run_seed=run_seed)
        return frame, [
            Prompt(
                q.synthetic_id,
                row_seed(run_seed, q.synthetic_id, "judge", 0),
                messages=judge_messages(task, q, json.loads(fields), rows),
                sampling=sampling,
            )
            for q, fields in zip(questions, frame["fields"], strict=True)
        ]

    return ask


def _read_answers(real: Seeds) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    ids = [seed.seed_id for seed in real.seeds]

    def read(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            answers = [parse_answer(t, f) for t, f in zip(frame["text"], frame["finish_reason"], strict=True)]
            said = [
                "abstained" if a is None else "found" if a == place else "missed"
                for a, place in zip(answers, frame["place"], strict=True)
            ]
            out = frame.assign(answer=pd.array(answers, dtype="Int64"), verdict=said)
            out["real"] = [[ids[i] for i in row] for row in frame["real"]]
            yield out[[column.split()[0] for column in _JUDGED.split(", ")]]

    return read


def judge_of(run: Run) -> str | None:
    """The judge that figures are of: the one that is named, else the one that answered most (of equals, by name)."""
    if run.config.judge is not None:
        return str(parse_generator(run.config.judge))
    counts = run.mine(JUDGEMENTS).groupBy("judge").count().orderBy(F.desc("count"), "judge").limit(1).collect()
    return str(counts[0]["judge"]) if counts else None


def indistinguishable(run: Run, round_: int | None = None) -> Indistinguishability | None:
    """What the judge's answers so far say, None where none was asked."""
    rows = run.mine(JUDGEMENTS).where(F.col("judge") == F.lit(judge_of(run)))
    if round_ is not None:
        rows = rows.where(F.col("round") == round_)
    counts = {row["verdict"]: row["count"] for row in rows.groupBy("verdict").count().collect()}
    if not counts:
        return None
    return indistinguishability([kind for kind, count in counts.items() for _ in range(count)])


# -- rounds ------------------------------------------------------------------------------------------------------------


def close_round(run: Run, round_: int) -> Decision:
    """Measure a round, hold it against those before and against real rows, and decide on the next one's settings."""
    config = run.config
    count = run.mine(VERDICTS).where("accepted").where(F.col("round") == round_).count()
    rounds, past = earlier_rounds(run, round_ + 1)
    if past and past[-1].round == round_ and _accepted_then(run, round_) == count:
        return past[-1]  # closed by an earlier run, and nothing came since
    rounds, past = rounds[:round_], past[:round_]
    judge(run, round_)
    now = Round(round_, measure(run, round_), round_settings(run, round_))
    real = metrics_of(run, REAL) or list(measure_real(run))
    limits = config.collapse
    if run.making.refiner is None:  # there is nothing to make colder
        limits = dataclasses.replace(limits, coldest=max(limits.coldest, now.settings.refine_temperature))
    decision = decide([*rounds, now], past, real, config=limits)
    row = (
        run.generation_id, round_, json.dumps(dataclasses.asdict(now.settings)), decision.action, decision.reason,
        json.dumps([dataclasses.asdict(b) for b in decision.breaches]), list(decision.skipped), decision.applied,
        decision.halted, json.dumps(dataclasses.asdict(decision.settings)),
        count, datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    run.tables.replace(
        ROUNDS,
        ROUNDS.frame(run.spark, [row]),
        where=f"generation_id = '{run.generation_id}' AND round = {round_}",
        keys_are_unique=True,
    )
    if decision.breaches:
        done = "" if decision.applied else " (not done: watching)"
        run.warn(f"round {round_}: {decision.action}{done}: {decision.reason}")
    elif config.rounds > 1:
        run.terminal.line(f"round {round_}: no alarm")
    return decision


def _accepted_then(run: Run, round_: int) -> int:
    row = run.mine(ROUNDS).where(F.col("round") == round_).select("accepted").first()
    return -1 if row is None else int(row["accepted"])


def earlier_rounds(run: Run, round_: int) -> tuple[list[Round], list[Decision]]:
    """The rounds before this one as they were measured and decided on."""
    rows = run.mine(ROUNDS).where(F.col("round") < round_).orderBy("round").collect()
    rounds, past = [], []
    for row in rows:
        settings = Settings(**json.loads(row["settings"]))
        rounds.append(Round(row["round"], tuple(metrics_of(run, row["round"])), settings))
        past.append(
            Decision(
                round=row["round"],
                action=row["action"],
                reason=row["reason"],
                settings=Settings(**json.loads(row["next_settings"])),
                breaches=tuple(Breach(**b) for b in json.loads(row["breaches"])),
                applied=row["applied"],
                halted=row["halted"],
                skipped=tuple(row["skipped"]),
            )
        )
    return rounds, past


def metrics_of(run: Run, round_: int) -> list[Measure]:
    """The measures of a round as they were written."""
    rows = [row for row in _metric_rows(run) if row["round"] == round_]
    return [Measure(row["measure"], row["value"], row["low"], row["high"], row["n"]) for row in rows]


def histograms(run: Run) -> dict[int, list[int]]:
    """The cosines' histogram of each round that has one."""
    return {row["round"]: list(row["histogram"]) for row in _metric_rows(run) if row["histogram"] is not None}


def _metric_rows(run: Run) -> list[Row]:
    """All of the generation's measures, by name: some dozens a round, read once as they stand."""
    version = run.tables.version(METRICS)
    if run.metrics is None or run.metrics[0] != version:
        rows = run.mine(METRICS).collect()
        run.metrics = (version, sorted(rows, key=lambda row: row["measure"]))
    return run.metrics[1]
