"""Verdicts on executors: frames in, frames out. Each row by itself, then against accepted rows, then within its wave.

Copies are judged in the order of (attempt, item), the order in which waves are filled: whatever the size of the waves,
the same rows are accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from bare.agreement import AUTOMATIC
from bare.tables import VERDICTS
from bare.tasks import Task
from bare.verdicts import (
    COPY_OF_ROW,
    EMBEDDING,
    EXACT,
    NGRAMS,
    SeedIndex,
    VerdictConfig,
    check_rows,
    copy_detail,
    match_accepted,
    reject_copies,
    reject_near_seeds,
)  # fmt: skip
from curation.embedding import Encoder, embed
from curation.held_out import TestIndex
from curation.session import Shared

ACCEPTED_A_TASK = 20_000  # accepted rows that one task holds, with their embeddings, while a wave is compared
_SIGNS = (EXACT, NGRAMS, EMBEDDING)  # how a copy was seen, the strongest first
MATCH = "row_id string, matched_id string, matched_by string, overlap double"


@dataclass(frozen=True)
class Rules:
    """What rows are held against; travels to the executors."""

    task: Task
    seeds: SeedIndex
    tests: TestIndex | None
    config: VerdictConfig
    drafts: bool  # the rows are a base model's own: the prompt wrote the label's line


def check(rows: DataFrame, *, rules: Shared[Rules]) -> DataFrame:
    """VERDICTS' columns with each row's verdict by itself, and `draft_item`: the draft's text where it parses.

    rows: row_id, draft_id, wave, round, item, attempt, label, text, finish_reason, error, draft_text, draft_finish.
    """

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in frames:
            yield check_frame(frame, rules.value)

    return rows.mapInPandas(task, f"{_own_columns()}, draft_item string")


def check_frame(frame: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """`check` of one batch of rows."""
    checked = check_rows(
        frame, task=rules.task, seeds=rules.seeds, tests=rules.tests, config=rules.config, drafts=rules.drafts
    )
    kept = ["row_id", "draft_id", "wave", "round", "item", "attempt", "label"]
    out = frame[kept].reset_index(drop=True)
    failed = frame["error"].reset_index(drop=True)
    out["fields"] = checked["fields"]
    out["text"] = checked["item"]
    out["accepted"] = checked["reason"].isna()
    out["reason"] = checked["reason"]
    out["detail"] = checked["detail"].where(failed.isna(), failed)
    for column in ("matched_id", "matched_by", "overlap"):
        out[column] = checked[column]
    out["decided_by"] = AUTOMATIC
    out["automatic_reason"] = out["reason"]
    out["draft_item"] = [
        _item(rules.task, text, finish, label)
        for text, finish, label in zip(frame["draft_text"], frame["draft_finish"], frame["label"], strict=True)
    ]
    return out


def _item(task: Task, text: str | None, finish: str, label: str | None) -> str | None:
    parsed = task.parse(None if pd.isna(text) else text, finish, label=None if pd.isna(label) else label)
    return None if parsed.fields is None else task.text_of(parsed.fields)


def embed_rows(checked: DataFrame, *, encoder: Encoder, tasks: int) -> DataFrame:
    """(row_id, encoder_id, embedding, draft_embedding) of the rows that stand so far, one pass of the encoder.

    Between the check and the encoder the rows change their tasks: a task with two functions of ours at once takes two
    Python workers, and each of the many would sooner or later load every model.
    """
    one = F.struct(F.concat(F.lit("r"), "row_id").alias("id"), "text")
    other = F.struct(F.concat(F.lit("d"), "row_id").alias("id"), F.col("draft_item").alias("text"))
    both = checked.where("accepted").select(F.explode(F.array(one, other)).alias("each")).select("each.id", "each.text")
    texts = both.where(F.col("text").isNotNull()).repartition(tasks, F.xxhash64("id"))
    vectors = embed(texts, id_column="id", encoder=encoder, kind="document")
    which, row = F.substring("id", 1, 1), F.expr("substring(id, 2)")
    return vectors.groupBy(row.alias("row_id"), "encoder_id").agg(
        F.first(F.when(which == "r", F.col("embedding")), ignorenulls=True).alias("embedding"),
        F.first(F.when(which == "d", F.col("embedding")), ignorenulls=True).alias("draft_embedding"),
    )


def match(rows: DataFrame, accepted: DataFrame, *, config: VerdictConfig, buckets: int) -> DataFrame:
    """For each row that copies an accepted one, which (MATCH): the strongest sign, then the most in common, then id.

    rows, accepted: row_id, text, embedding. Accepted rows lie in buckets, a task each; a wave's rows visit all of them.
    """

    def compare(mine: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
        found = match_accepted(
            mine["text"].tolist(),
            theirs["row_id"].tolist(),
            theirs["text"].tolist(),
            config=config,
            vectors=_matrix(mine),
            accepted_vectors=_matrix(theirs),
        )
        return found.assign(row_id=mine["row_id"].to_numpy()).dropna(subset=["matched_id"])[
            ["row_id", "matched_id", "matched_by", "overlap"]
        ]

    every = F.explode(F.sequence(F.lit(0), F.lit(buckets - 1)))
    one = rows.select("row_id", "text", "embedding", every.alias("bucket"))
    other = accepted.select(
        "row_id", "text", "embedding", F.pmod(F.xxhash64("row_id"), F.lit(buckets)).cast("int").alias("bucket")
    )
    pairs = one.groupBy("bucket").cogroup(other.groupBy("bucket")).applyInPandas(compare, MATCH)  # type: ignore[arg-type]
    sign = F.array_position(F.array(*(F.lit(s) for s in _SIGNS)), F.col("matched_by"))
    best = F.min(F.struct(sign.alias("sign"), (-F.col("overlap")).alias("less"), "matched_id", "matched_by"))
    return pairs.groupBy("row_id").agg(best.alias("b")).select(
        "row_id", "b.matched_id", "b.matched_by", (-F.col("b.less")).alias("overlap")
    )


def settle(
    checked: DataFrame, embeddings: DataFrame, matches: DataFrame | None, *, rules: Shared[Rules]
) -> DataFrame:
    """A wave's final verdicts: copies of seeds by embedding, of accepted rows (`matches`), of one another.

    A wave's rows go to one task together.
    """
    names = [column for column in VERDICTS.struct(checked.sparkSession).names if column != "generation_id"]
    rows = checked.select(*names).join(embeddings.select("row_id", "embedding"), "row_id", "left")
    known = "row_id, known_id, known_by, known_overlap"
    if matches is not None:
        renamed = matches.toDF(*known.split(", "))
        rows = rows.join(renamed, "row_id", "left")
    else:
        rows = rows.withColumns(
            {
                "known_id": F.lit(None).cast("string"),
                "known_by": F.lit(None).cast("string"),
                "known_overlap": F.lit(None).cast("double"),
            }
        )

    def together(frame: pd.DataFrame) -> pd.DataFrame:
        settled = settle_frame(frame[frame["accepted"]], rules.value)
        return pd.concat([settled[names], frame.loc[~frame["accepted"], names]], ignore_index=True)

    return rows.withColumn("wave_", F.lit(0)).groupBy("wave_").applyInPandas(together, _own_columns())


def settle_frame(frame: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """`settle` of the rows of one wave that stand: VERDICTS' columns, embedding, known_id, known_by, known_overlap."""
    frame = frame.sort_values(["attempt", "item"], kind="stable", ignore_index=True)
    vectors = _matrix(frame)
    # Judged in the order of keys: a place in the order of (attempt, item) stands for the row's id.
    keys = [f"{place:012d}" for place in range(len(frame))]
    of_key = dict(zip(keys, frame["row_id"], strict=True))
    texts = dict.fromkeys(("reason", "detail", "matched_id", "matched_by"))
    judged = pd.DataFrame({"row_id": keys, "fields": frame["fields"], "item": frame["text"], **texts}, dtype=object)
    judged["overlap"] = np.nan
    reject_near_seeds(judged, vectors, rules.seeds, rules.config)
    for place in np.flatnonzero(judged["reason"].isna() & frame["known_id"].notna()).tolist():
        known, by, share = (frame.at[place, f"known_{name}"] for name in ("id", "by", "overlap"))
        values = (COPY_OF_ROW, copy_detail(by, share, rules.config), known, by, share)
        judged.loc[place, ["reason", "detail", "matched_id", "matched_by", "overlap"]] = values
    judged = reject_copies(judged, config=rules.config, vectors=vectors)
    for column in ("reason", "detail", "matched_by", "overlap"):
        frame[column] = judged[column]
    frame["detail"] = frame["detail"].fillna("")
    frame["matched_id"] = [of_key.get(m, m) if isinstance(m, str) else None for m in judged["matched_id"]]
    frame["accepted"] = frame["reason"].isna()
    frame["automatic_reason"] = frame["reason"]
    return frame


def _matrix(frame: pd.DataFrame) -> npt.NDArray[np.float64] | None:
    vectors = frame["embedding"].tolist()
    if not vectors:
        return None
    width = max((len(v) for v in vectors if v is not None), default=0)
    return np.array([np.full(width, np.nan) if v is None else np.asarray(v, np.float64) for v in vectors])


def _own_columns() -> str:
    return VERDICTS.schema.removeprefix("generation_id string, ")
