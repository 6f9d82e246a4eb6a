"""python -m bench [NAME...]: measure and write bench/results/NAME.json; without a name all that needs no GPU."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

# In the order in which they run: short ones first. A GPU's questions run where one is (bench/gpu_*.py).
QUESTIONS = (
    "shipping", "kernel", "decontamination", "heads", "ranking", "training", "cut", "scoring", "near_duplicates",
    "embedding", "generation", "recut", "growth", "profile", "estimate",
)  # fmt: skip
GPU_QUESTIONS = ("gpu_embedding", "gpu_generation", "gpu_ranking")
# A case's figure is for one core, or for Spark's tasks of one thread each; who takes more says so in its own code.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = (*QUESTIONS, *GPU_QUESTIONS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--scale", choices=("small", "full"), default="full", help="small: a smoke test of seconds")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results; default: bench/results")
    parser.add_argument("--seconds", type=float, default=180.0, help="timed rounds end once so many are spent")
    parser.add_argument("--device", default="cuda", help="of the gpu_ questions: cuda, or cpu with --scale small")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in known]:  # argparse's choices refuse no name at all
        parser.error(f"there is no question {unknown[0]!r}; there are {', '.join(known)}")
    if given.scale == "small" and given.out is None:
        parser.error("--scale small measures nothing: give --out FOLDER, not the results that are published")
    names = given.names or list(QUESTIONS)
    if len(names) > 1:  # a process each: none inherits another's heap, threads or JVM
        passed = [part for part in arguments if part not in names]
        return max(subprocess.call([sys.executable, "-m", "bench", name, *passed]) for name in names)
    for name in THREADS:
        os.environ[name] = "1"
    return measure_one(names[0], given)


def measure_one(name: str, given: argparse.Namespace) -> int:
    if name.startswith("gpu_"):
        from bench.hollow import without_spark

        without_spark()
    from bench import harness

    kept = Path(os.environ.get("BENCH_FOLDER", Path(os.environ.get("BETR_HOME", ".local")) / "bench")).absolute()
    kept.mkdir(parents=True, exist_ok=True)
    print(f"{name}: preparing", flush=True)
    start = time.monotonic()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=kept)))
        setup = harness.Setup(given.scale, kept, scratch, stack, given.device)
        try:
            question = import_module(f"bench.{name}").build(setup)
            result = harness.run(question, seconds=given.seconds)
        except (harness.Unequal, harness.CannotRun) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    result["scale"] = given.scale
    path = harness.write(result, name, given.out or harness.RESULTS)
    for case in result["cases"]:
        beside = "".join(
            f", {case[key]:g} {word}" for key, word in (("x_peer", "x peer"), ("of_limit", "of limit")) if case[key]
        )
        print(f"  {case['case']}: {case['median_s']:g} s, {case['per_second']:g} {case['unit']}/s{beside}")
    for target in result["targets"]:
        bound = f">= {target['at_least']:g}" if target["at_least"] is not None else f"<= {target['at_most']:g}"
        verdict = {True: "reached", False: "not reached", None: "can't be told here"}[target["reached"]]
        print(f"  {target['figure']}: {target['value']} {target['unit']} ({bound}): {verdict}")
    print(f"{name}: {time.monotonic() - start:.0f} s in all, {path}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
