"""A generation's rows as an arm of the A/B: one row a draft, with all that its calls took, in the order of making."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import functions as F

from bare import measuring
from bare.compare import Arm
from bare.run import Run
from bare.tables import DRAFTS, JUDGEMENTS, REFINED, ROW_EMBEDDINGS, VERDICTS


def arm_of(run: Run) -> Arm:
    """A generation's rows as they were made, each with all that its calls took."""
    calls = run.mine(DRAFTS).select("draft_id", *_spent("draft"))
    refined = run.mine(REFINED).select("row_id", *_spent("refine"))
    judge = measuring.judge_of(run)
    judgements = run.mine(JUDGEMENTS).where(F.col("judge") == F.lit(judge))
    judged = judgements.select("row_id", F.col("verdict").alias("judged"))
    vectors = run.mine(ROW_EMBEDDINGS).select("row_id", "embedding")
    rows = run.mine(VERDICTS).join(calls, "draft_id").join(refined, "row_id", "left").join(vectors, "row_id", "left")
    none = F.lit(0.0)
    sums = [
        (F.col(f"draft_{name}") + (F.coalesce(f"refine_{name}", none) if run.making.refiner is None else
                                   F.col(f"refine_{name}"))).alias(name)
        for name in ("cost", "tokens", "seconds")
    ]  # fmt: skip
    frame = rows.join(judged, "row_id", "left").select(
        "row_id", "wave", "attempt", "item", "text", "label", "embedding", "accepted", *sums, "judged"
    )
    made: pd.DataFrame = frame.orderBy("wave", "attempt", "item").toPandas()
    return Arm(run.config.arm, made)


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
