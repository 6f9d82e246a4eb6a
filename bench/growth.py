"""Growth: ten times the documents through `betr run`, each size in a process of its own: time, and peak memory."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench import documents
from bench.harness import CannotRun, Case, Measured, Question, Seconds, Setup, Target, require
from bench.recut import run_settings

FLAT = 1.2
HEAP = "1g"  # a heap that may grow does grow, garbage and all: the same for every size, small, and there from the start
PARTS = ("driver_jvm_mb", "driver_python_mb", "workers_mb")


def build(setup: Setup) -> Question:
    sizes = setup.pick((200, 2_000), (20_000, 60_000, 200_000))
    corpus = documents.corpus(setup)
    settings: dict[str, Any] = {
        "encoder": "hashing:64", "sample": setup.pick("100", "3000"), "keep": 0.1, "epochs": 5,
        "chunk_bytes": setup.pick(2**18, 32 * 2**20),
    }  # fmt: skip
    inputs: dict[int, Path] = {}
    for size in sizes:
        table = documents.distinct(documents.repeated(corpus, documents=size).select(["doc_id", "text"]))
        files = max(1, round(documents.megabytes(table) / 32))
        inputs[size] = documents.write_parts(table, setup.scratch / f"documents-{size}", files)
    largest = documents.told(table)
    base = run_settings(setup, inputs[sizes[0]])
    del table, corpus
    peaks: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    reports: dict[int, dict[str, Any]] = {}

    numbers = itertools.count()

    def run(size: int) -> Seconds:
        number = next(numbers)  # tables of its own: what the check ran is no run to be measured again
        config = {**base, **settings, "documents": [str(inputs[size])], "tables": f"{base['tables']}-{size}-{number}"}
        report, peak = watched([sys.executable, "-m", "bench.growth", json.dumps(config)])
        peaks[size].append(peak)
        reports[size] = report
        return Seconds(report["seconds"])

    def check() -> str:
        run(sizes[0])
        kept = reports[sizes[0]]["documents"]
        require(kept == sizes[0], f"{kept:,} of {sizes[0]:,} documents were imported: the input isn't what it says")
        peaks[sizes[0]].clear()
        return f"all {kept:,} documents of the smallest size are imported and scored"

    def peak(size: int, part: str) -> float:
        return max((each[part] for each in peaks[size]), default=0.0)

    def told(size: int) -> dict[str, Any]:
        return {"documents": size, **{part: round(peak(size, part)) for part in PARTS}}

    def targets(measured: Measured) -> list[Target]:
        small, large = sizes[0], sizes[-1]
        factor = measured.median(_name(large)) / measured.median(_name(small))
        found = [
            Target(f"growth, {large / small:g}x the documents", factor, "x the time", at_most=large / small * 1.05)
        ]
        for part in PARTS:
            name = f"growth, peak of {part.removesuffix('_mb').replace('_', ' ')}"
            ratio = peak(large, part) / max(1.0, peak(small, part))
            found.append(Target(name, ratio, "x the memory", at_most=FLAT, note="flat: within a fifth"))
        return found

    return Question(
        "How do time and memory grow with the corpus?",
        f"up to {largest}; {settings['sample']} sampled at every size, encoder {settings['encoder']}, chunks of "
        f"{settings['chunk_bytes'] / 2**20:g} MiB; Spark local[2] with a heap of {HEAP}",
        [
            Case(_name(size), "ours", partial(run, size), "documents", size, extra=partial(told, size))
            for size in sizes
        ],
        check,
        targets,
        note="Seconds are `betr run`'s, without Spark's start. Memory is resident, asked for ten times a second: of "
        "the driver's Java, whose whole heap is touched at the start, of the driver's Python, and of all of Spark's "
        "Python workers together.",
        packages=("pyspark", "delta-spark", "psutil"),
        repeats=2,
        warm_up=0,
        growth={"x": "documents", "memory": list(PARTS)},
    )  # fmt: skip


def _name(size: int) -> str:
    return f"{size:,} documents"


def watched(command: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """The JSON that a process prints last, and its tree's peaks in MB."""
    peaks = dict.fromkeys(PARTS, 0.0)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            for part, mb in resident(root).items():
                peaks[part] = max(peaks[part], mb)
            time.sleep(0.1)
        assert process.stdout is not None
        said = process.stdout.read().strip().splitlines()
    if process.returncode or not said:
        raise CannotRun(f"a run of growth ended with {process.returncode}; its words stand above")
    found: dict[str, Any] = json.loads(said[-1])
    return found, peaks


def resident(root: psutil.Process) -> dict[str, float]:
    """MB that a Spark driver's processes hold now, by what they are."""
    found = dict.fromkeys(PARTS, 0.0)
    try:
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in tree:
        try:
            size, java = process.memory_info().rss / 1e6, _is_java(process)
            parent = process.parent()
            if java and parent is not None and _is_java(parent):
                continue  # forked to become another program, and still its parent's memory: counted there
        except psutil.Error:
            continue
        part = PARTS[0] if java else PARTS[1] if process.pid == root.pid else PARTS[2]
        found[part] += size
    return found


def _is_java(process: psutil.Process) -> bool:
    return Path(process.exe()).name == "java"


def main(settings: str) -> int:
    from betr import pipeline
    from betr.config import RunConfig
    from curation import session

    given: dict[str, Any] = json.loads(settings)
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    java = f"{session.quiet_logs()} {session.java_options()} -Xms{HEAP} -XX:+AlwaysPreTouch"
    conf = {"spark.driver.memory": HEAP, "spark.driver.extraJavaOptions": java}
    spark = session.get_session("bench", master="local[2]", conf=conf)
    start = time.perf_counter()
    pipeline.run(RunConfig(**given), spark=spark)
    seconds = time.perf_counter() - start
    from betr.tables import CORPUS_SCORES
    from curation.tables import Tables

    print(json.dumps({"seconds": seconds, "documents": Tables(spark, given["tables"]).read(CORPUS_SCORES).count()}))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
