"""A generation's rows as an arm of the A/B: one row a draft, with all that its calls took, in the order of making."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from bare import measuring
from bare.compare import Arm
from bare.run import Run
from bare.tables import DRAFTS, JUDGEMENTS, REFINED, ROW_EMBEDDINGS, VERDICTS
from curation.tables import Tables, TableSpec


def arm_of(run: Run) -> Arm:
    """A generation's rows as they were made, each with all that its calls took."""
    refines = run.making.refiner is not None
    return Arm(
        run.config.arm, rows_made(run.tables, run.generation_id, refines=refines, judge=measuring.judge_of(run))
    )


def rows_made(tables: Tables, generation_id: str, *, refines: bool, judge: str | None = None) -> pd.DataFrame:
    """What an arm's rows are, and their `fields`, in the order of making; refines: whether drafts were refined."""

    def mine(spec: TableSpec) -> DataFrame:
        return tables.read(spec).where(F.col("generation_id") == generation_id)

    calls = mine(DRAFTS).select("draft_id", *_spent("draft"))
    refined = mine(REFINED).select("row_id", *_spent("refine"))
    judgements = mine(JUDGEMENTS).where(F.col("judge") == F.lit(judge))
    judged = judgements.select("row_id", F.col("verdict").alias("judged"))
    vectors = mine(ROW_EMBEDDINGS).select("row_id", "embedding")
    rows = mine(VERDICTS).join(calls, "draft_id").join(refined, "row_id", "left").join(vectors, "row_id", "left")
    none = F.lit(0.0)
    sums = [
        (F.col(f"draft_{name}") + (F.col(f"refine_{name}") if refines else
                                   F.coalesce(f"refine_{name}", none))).alias(name)
        for name in ("cost", "tokens", "seconds")
    ]  # fmt: skip
    frame = rows.join(judged, "row_id", "left").select(
        "row_id", "wave", "attempt", "item", "text", "label", "fields", "embedding", "accepted", *sums, "judged"
    )
    made: pd.DataFrame = frame.orderBy("wave", "attempt", "item").toPandas()
    return made


def _spent(call: str) -> list[Any]:
    tokens = F.col("tokens_in") + F.col("tokens_out")
    return [
        F.col("cost").alias(f"{call}_cost"),
        tokens.cast("double").alias(f"{call}_tokens"),
        F.col("seconds").alias(f"{call}_seconds"),
    ]


def real_arm(run: Run) -> Arm:
    """Real rows that no model was shown (or all seeds, where none are held out): what arms are held against."""
    real, task = run.making.real.seeds, run.making.task
    frame = pd.DataFrame(
        {
            "row_id": [seed.seed_id for seed in real],
            "text": [task.text_of(seed.fields) for seed in real],
            "label": [seed.label for seed in real],
            "embedding": list(run.real_vectors()),
            "accepted": True,
            "cost": np.nan,
            "tokens": np.nan,
            "seconds": np.nan,
            "judged": None,
        }
    )
    return Arm("real", frame, real=True)
