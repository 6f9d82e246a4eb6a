"""One question, measured: equal inputs, results checked first, repeats interleaved, medians with their spread.

A bench file has `build(setup) -> Question`. All ratios are within one run of one machine: absolute seconds drift.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Role = Literal["ours", "peer", "limit"]
RESULTS = Path(__file__).parent / "results"
SPREAD = "half the interquartile range of the repeats, in seconds"
# What decides how fast the kernels, the encoders and their peers can be.
FLAGS = ("avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "neon", "sve")


class Unequal(Exception):  # noqa: N818 - the verdict of a check
    """Two ways give different results: there is nothing to time."""


class CannotRun(Exception):  # noqa: N818 - said in one sentence, without a stack
    """This machine lacks what a question needs."""


@dataclass(frozen=True)
class Seconds:
    """A run's own measure of its time, where the clock around it would count more (a process's start)."""

    value: float


@dataclass(frozen=True)
class Case:
    """One way to do the work: `run` does `amount` of `unit` once.

    peer, limit: the cases that this one is held against; empty for the first of that role. repeats: fewer rounds than
    the others, for what takes minutes. extra: further fields of the result, read after the last run.
    """

    name: str
    role: Role
    run: Callable[[], object]
    unit: str
    amount: float
    peer: str = ""
    limit: str = ""
    repeats: int | None = None
    extra: Callable[[], dict[str, Any]] = dict


@dataclass(frozen=True)
class Target:
    """A figure that was promised: a measured value with its bound, None where this machine can't tell."""

    figure: str
    value: float | None
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def reached(self) -> bool | None:
        if self.value is None or (self.at_least is None and self.at_most is None):
            return None
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)


@dataclass(frozen=True)
class Question:
    """What a bench file asks. check: proves results equal and says what it compared; it raises Unequal where not.

    warm_up: rounds before the clock counts; 0 where the check has run every case. targets: from the medians.
    """

    question: str
    input: str
    cases: Sequence[Case]
    check: Callable[[], str]
    targets: Callable[[Measured], list[Target]] = lambda _: []
    note: str = ""
    packages: tuple[str, ...] = ()
    repeats: int = 5
    warm_up: int = 1
    growth: dict[str, Any] = field(default_factory=dict)  # what is drawn as lines: {"x": FIELD, "memory": [FIELD...]}
    # What is drawn as a table of the cases' fields, the largest of `parts` named: {"parts": [...], "beside": [...]}
    profile: dict[str, Any] = field(default_factory=dict)


@dataclass
class Setup:
    """Where a question works. folder: inputs, kept between runs; scratch: gone afterwards; stack: what is to close."""

    scale: Literal["small", "full"]
    folder: Path
    scratch: Path
    stack: ExitStack
    device: str = "cuda"

    def pick(self, small: T, full: T) -> T:
        return small if self.scale == "small" else full


# -- timing ------------------------------------------------------------------------------------------------------------


def measure(
    cases: Sequence[Case],
    *,
    repeats: int,
    warm_up: int = 1,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """The times of each case, in rounds A B C A B C: what drifts, drifts for all.

    Rounds end early once `seconds` are spent, but never before the third.
    """
    for _ in range(warm_up):
        for case in cases:
            case.run()
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    begin = clock()
    for number in range(repeats):
        if number >= 3 and clock() - begin > seconds:
            break
        for case in cases:
            if case.repeats is not None and number >= case.repeats:
                continue
            gc.collect()
            start = clock()
            said = case.run()
            taken = clock() - start
            times[case.name].append(said.value if isinstance(said, Seconds) else taken)
    return times


def spread(times: Sequence[float]) -> float:
    """Half the interquartile range; half the range where there are fewer than four."""
    if len(times) < 4:
        return (max(times) - min(times)) / 2
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return (high - low) / 2


class Measured:
    """Medians by case, and the ratios among them: per unit of work, so that amounts may differ."""

    def __init__(self, cases: Sequence[Case], times: Mapping[str, Sequence[float]]) -> None:
        if len({case.name for case in cases}) < len(cases):
            raise ValueError(f"two cases have one name: {[case.name for case in cases]}")
        self.cases = {case.name: case for case in cases}
        self.times = {name: list(each) for name, each in times.items()}

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def per_second(self, name: str) -> float:
        return self.cases[name].amount / self.median(name)

    def times_faster(self, name: str, than: str) -> float:
        return self.per_second(name) / self.per_second(than)

    def x_peer(self, name: str) -> float | None:
        """How many times as fast as the peer."""
        return self._against(name, "peer")

    def of_limit(self, name: str) -> float | None:
        """Which share of the limit's speed."""
        return self._against(name, "limit")

    def _against(self, name: str, role: Role) -> float | None:
        case = self.cases[name]
        other = name if case.role == role else (case.peer if role == "peer" else case.limit)
        if not other:
            other = next((c.name for c in self.cases.values() if c.role == role), "")
        return self.times_faster(name, other) if other else None


def run(question: Question, *, seconds: float = float("inf"), say: Callable[[str], None] = print) -> dict[str, Any]:
    """Check, time, and the result as it is written; nothing is timed where the check fails."""
    if question.packages:
        missing = [name for name in question.packages if _version(name) is None]
        if missing:
            raise CannotRun(f"{', '.join(missing)} isn't installed; `make bench` installs it")
    # A wrong name among the targets is found now, not after minutes.
    question.targets(Measured(question.cases, {case.name: [1.0] for case in question.cases}))
    load = os.getloadavg()[0]
    checked = question.check()
    say(f"  equal: {checked}")
    times = measure(question.cases, repeats=question.repeats, warm_up=question.warm_up, seconds=seconds)
    measured = Measured(question.cases, times)
    result: dict[str, Any] = {
        "question": question.question,
        "input": question.input,
        "checked": checked,
        "note": question.note,
        "machine": {**machine(), "load_at_start": round(load, 2)},
        "versions": {name: _version(name) for name in question.packages},
        "spread_is": SPREAD,
        "cases": [_case(measured, name) for name in measured.cases],
        "targets": [_target(each) for each in question.targets(measured)],
    }
    if question.growth:
        result["growth"] = question.growth
    if question.profile:
        result["profile"] = question.profile
    return result


def _case(measured: Measured, name: str) -> dict[str, Any]:
    case, times = measured.cases[name], measured.times[name]
    return {
        "case": name,
        "role": case.role,
        "median_s": rounded(measured.median(name)),
        "spread": rounded(spread(times)),
        "per_second": rounded(measured.per_second(name)),
        "unit": case.unit,
        "x_peer": rounded(measured.x_peer(name)),
        "of_limit": rounded(measured.of_limit(name)),
        "amount": rounded(case.amount),
        "repeats": len(times),
        **case.extra(),
    }


def _target(target: Target) -> dict[str, Any]:
    return {
        "figure": target.figure,
        "value": rounded(target.value),
        "unit": target.unit,
        "at_least": target.at_least,
        "at_most": target.at_most,
        "reached": target.reached,
        "note": target.note,
    }


def rounded(value: float | None) -> float | None:
    """Four digits: no figure here means more."""
    return None if value is None else float(f"{value:.4g}")


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unequal(otherwise)


def write(result: dict[str, Any], name: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


# -- the machine -------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures hang on besides the code."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        info = ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    there = set(re.findall(r"[\w]+", info.split("\n\n")[0]))
    found = {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "flags": [flag for flag in FLAGS if flag in there],
        "os": platform.platform(),
        "python": platform.python_version(),
        "java": _java(),
    }
    if (gpu := _gpu()) is not None:
        found["gpu"] = gpu
    return found


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java")
    if java is None:
        return None
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "([^"]+)"', told)
    return found[1] if found else None


def _gpu() -> str | None:
    torch: Any = sys.modules.get("torch")  # a question that uses a GPU has imported it
    return torch.cuda.get_device_name(0) if torch is not None and torch.cuda.is_available() else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
