"""What a run will cost, from short runs on slices of its corpus: fixed and linear parts, an interval, machines, money.

Figures alone: betr/trial.py makes the runs. A stage's seconds are a line over what it grows with (documents, texts,
pairs, training steps), fitted by least squares; the linear part is divided among the machines, the fixed part isn't.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from curation.errors import InputError

# Student's t for 95%, by degrees of freedom from 1 on.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
RATES = (0.03, 0.1, 0.3)  # the paper's, below all
GB = 1e9


# -- machines and prices -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machines:
    """What a run is to have: its cores are held while it runs, its GPUs while it embeds."""

    executors: int
    cores_per_executor: int
    gpus: int = 0

    def __post_init__(self) -> None:
        for name, least in (("executors", 1), ("cores_per_executor", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}; got {getattr(self, name)!r}")

    @property
    def cores(self) -> int:
        return self.executors * self.cores_per_executor


@dataclass(frozen=True)
class Prices:
    """What machines and storage cost: an hour of a core, an hour of a GPU, a month of a GB (10^9 bytes)."""

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    gb_month: float = 0.0
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in _PRICED:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise InputError(f"{name} must be a number of 0 or more; got {value!r}")


_PRICED = ("core_hour", "gpu_hour", "gb_month")


def load_prices(path: str) -> Prices:
    """A YAML file: `currency: EUR` and `machines:` with core_hour, gpu_hour, gb_month.

    `models`, of `bare estimate`, may stand beside them: one file serves both.
    """
    return prices_in(read_prices(path), path)


def read_prices(path: str) -> Mapping[str, Any]:
    """The file as it is written: `machines`, and `currency` and `models` where they stand there."""
    try:
        data = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prices {path} can't be read ({error}); give a YAML file") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"--prices {path} is no YAML ({' '.join(str(error).split())}); correct it") from error
    machines = data.get("machines") if isinstance(data, Mapping) else None
    known = isinstance(data, Mapping) and not set(data) - {"currency", "machines", "models"}
    if not known or not isinstance(machines, Mapping) or not machines or set(machines) - set(_PRICED):
        raise InputError(
            f"--prices {path} must hold `machines` with {', '.join(_PRICED)}, at least one, and may hold `currency` "
            "and `models`, and nothing else"
        )
    return dict(data)


def prices_in(data: Mapping[str, Any], path: str) -> Prices:
    """The prices of machines in what `read_prices` read of this path."""
    currency = data.get("currency", "USD")
    if not isinstance(currency, str) or not currency.strip():
        raise InputError(f"--prices {path}: currency must be a text such as EUR; got {currency!r}")
    try:
        return Prices(**data["machines"], currency=currency)
    except InputError as error:
        raise InputError(f"--prices {path}: {error}") from None


# -- a line through the trial's runs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """seconds = fixed + slope * x, neither part below 0, with what the runs' spread leaves open.

    covariance: of (fixed, slope); freedom: runs beyond what the line takes, 0 where they can't tell any spread.
    """

    fixed: float
    slope: float
    covariance: tuple[tuple[float, float], tuple[float, float]]
    freedom: int

    def variance(self, times: float, x: float) -> float:
        """Of times * fixed + slope * x."""
        (a, b), (_, c) = self.covariance
        return max(0.0, times * times * a + 2 * times * x * b + x * x * c)


def fit_line(x: Sequence[float], seconds: Sequence[float]) -> Line:
    """Least squares; the mean where x never changes. A part that comes out below 0 is 0, the other fitted alone."""
    if not x or len(x) != len(seconds):
        raise ValueError(f"a line needs as many amounts as seconds; got {len(x)} and {len(seconds)}")
    xs, ys = np.asarray(x, np.float64), np.asarray(seconds, np.float64)
    n, mean = len(xs), float(ys.mean())
    if np.ptp(xs) == 0:
        spread = float(ys.var(ddof=1)) / n if n > 1 else 0.0
        return Line(max(0.0, mean), 0.0, ((spread, 0.0), (0.0, 0.0)), n - 1)
    design = np.stack([np.ones(n), xs], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    fixed, slope = (float(value) for value in inverse @ design.T @ ys)
    left = ys - design @ [fixed, slope]
    freedom = n - 2
    covariance = inverse * (float(left @ left) / freedom if freedom else 0.0)
    if slope < 0:
        fixed, slope = mean, 0.0
    elif fixed < 0:
        fixed, slope = 0.0, float(xs @ ys / (xs @ xs))
    rows = ((float(covariance[0, 0]), float(covariance[0, 1])), (float(covariance[1, 0]), float(covariance[1, 1])))
    return Line(max(0.0, fixed), slope, rows, freedom)


@dataclass(frozen=True)
class Term:
    """Part of a stage's work, measured: seconds of runs over the amount x that each did, and the amount to come.

    times: how often the fixed part is to be paid (a commit a chunk); speedup: tasks at once, in those of the trial;
    by_documents: `amount` follows from how many documents the corpus is taken to hold; spread: standard deviation of
    `amount` for other reasons, as a share of it.
    """

    stage: str
    unit: str
    x: Sequence[float]
    seconds: Sequence[float]
    amount: float
    times: float = 1.0
    speedup: float = 1.0
    by_documents: bool = False
    spread: float = 0.0


@dataclass(frozen=True)
class StageEstimate:
    """A stage's seconds: start (paid once, in a process that has just begun), fixed, linear; with a 95% interval."""

    stage: str
    unit: str
    amount: float
    start: float
    fixed: float
    linear: float
    seconds: float
    low: float
    high: float
    core_hours: float
    gpu_hours: float
    cost: float


@dataclass(frozen=True)
class _Sum:
    """Terms added up. by_documents: seconds of their linear parts that follow from the number of documents; amounts:
    the variance that uncertain amounts bring.
    """

    fixed: float
    linear: float
    variance: float
    freedom: int
    by_documents: float
    amounts: float


def _sum(terms: Sequence[Term]) -> _Sum:
    fixed = linear = variance = by_documents = amounts = 0.0
    freedom = 10**6
    for term in terms:
        line = fit_line(term.x, term.seconds)
        grown = line.slope * term.amount / term.speedup
        fixed += line.fixed * term.times
        linear += grown
        variance += line.variance(term.times, term.amount / term.speedup)
        freedom = min(freedom, line.freedom)
        by_documents += grown if term.by_documents else 0.0
        amounts += (grown * term.spread) ** 2
    return _Sum(fixed, linear, variance, freedom, by_documents, amounts)


def _interval(seconds: float, found: _Sum, documents_spread: float) -> tuple[float, float]:
    """95%: Student's t over the runs' spread, and amounts on top: of documents, which errs for all stages at once, and
    those that err by themselves.
    """
    t = T95[min(max(found.freedom, 1), len(T95)) - 1] if found.freedom <= len(T95) else 1.96
    uncertain = math.hypot(documents_spread * found.by_documents, math.sqrt(found.amounts))
    half = math.hypot(t * math.sqrt(found.variance), 1.96 * uncertain)
    return max(0.0, seconds - half), seconds + half


def estimate_stages(
    terms: Sequence[Term], start: Mapping[str, float], *, machines: Machines, prices: Prices,
    documents_spread: float = 0.0, gpu_stages: Sequence[str] = ("embed",),
) -> tuple[list[StageEstimate], StageEstimate]:  # fmt: skip
    """Each stage in the order of its first term, after those that only start; and their sum.

    start: stage -> what it took longer in a process that had just begun. documents_spread: standard deviation of the
    number of documents, as a share of it.
    """
    of_terms = dict.fromkeys(term.stage for term in terms)
    names = [*(name for name in start if name not in of_terms), *of_terms]
    stages = []
    for name in names:
        mine = [term for term in terms if term.stage == name]
        found = _sum(mine)
        begun = start.get(name, 0.0)
        seconds = begun + found.fixed + found.linear
        low, high = _interval(seconds, found, documents_spread)
        unit, amount = (mine[0].unit, mine[0].amount) if mine else ("", 0.0)
        gpus = machines.gpus if name in gpu_stages else 0
        core_hours, gpu_hours = seconds * machines.cores / 3600, seconds * gpus / 3600
        cost = core_hours * prices.core_hour + gpu_hours * prices.gpu_hour
        parts = (begun, found.fixed, found.linear, seconds, low, high, core_hours, gpu_hours, cost)
        stages.append(StageEstimate(name, unit, amount, *parts))
    whole = _sum(terms)
    seconds = sum(stage.seconds for stage in stages)
    low, high = _interval(seconds, whole, documents_spread)
    total = StageEstimate(
        "total", "", 0.0, sum(s.start for s in stages), sum(s.fixed for s in stages), sum(s.linear for s in stages),
        seconds, low, high, sum(s.core_hours for s in stages), sum(s.gpu_hours for s in stages),
        sum(s.cost for s in stages),
    )  # fmt: skip
    return stages, total


# -- sizes -------------------------------------------------------------------------------------------------------------


def documents_of(corpus_bytes: int, slices: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """(documents, standard deviation as a share): the corpus's bytes by the slices' (documents, bytes of input)."""
    documents, size = sum(n for n, _ in slices), sum(b for _, b in slices)
    if documents < 1 or size < 1:
        raise InputError("the trial read no document, so nothing can be estimated; look at the input: `betr import`")
    ratios = np.array([n / b for n, b in slices if b])
    spread = float(ratios.std(ddof=1) / ratios.mean() / math.sqrt(len(ratios))) if len(ratios) > 1 else 0.0
    return corpus_bytes * documents / size, spread


def pairs_of(documents: float, slices: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """(pairs to compare for near-duplicates, standard deviation as a share): from slices' (documents, pairs compared).

    Two documents meet with one chance p all over the corpus, which the slices tell. So pairs grow with the square of
    the documents, until each is compared once, as in a large cluster with its centre: min(p N^2 / 2, N) of N documents.
    Half a pair more than the slices have stands for what so few can't show, with Poisson's spread.
    """
    seen = sum(pairs for _, pairs in slices) + 0.5
    tried = sum(n * (n - 1) / 2 for n, _ in slices)
    if not tried or documents <= 0:
        return 0.0, 0.0

    def met(pairs: float) -> float:
        return min(pairs / tried * documents * documents / 2, documents)

    found, away = met(seen), math.sqrt(seen)
    return found, (met(seen + away) - met(max(0.0, seen - away))) / 2 / found


def stored(
    written: Mapping[str, Sequence[tuple[float, float]]], amounts: Mapping[str, float]
) -> dict[str, float]:
    """Bytes by table for the whole run. written: table -> (amount, bytes) of each trial run; amounts: table -> amount
    to come; a table without one keeps its size.
    """
    found = {}
    for table, sizes in written.items():
        amount, size = sum(a for a, _ in sizes), sum(b for _, b in sizes)
        if table in amounts and amount:
            found[table] = size / amount * amounts[table]
        else:
            found[table] = size / max(1, len(sizes))
    return found


def recuts(
    select: Term, rates: Sequence[float], *, documents: float, tokens: float, bytes_per_kept: float,
    machines: Machines, prices: Prices,
) -> list[dict[str, Any]]:  # fmt: skip
    """What another cut of the same scores costs, by the share kept. The term of select counts rows read and kept."""
    line = fit_line(select.x, select.seconds)
    found = []
    for rate in sorted(set(rates)):
        kept = rate * documents
        seconds = line.fixed + line.slope * (documents + kept) / select.speedup
        hours = seconds * machines.cores / 3600
        found.append(
            {
                "keep": rate,
                "kept_documents": round(kept),
                "kept_tokens": round(rate * tokens),
                "seconds": seconds,
                "core_hours": hours,
                "bytes": kept * bytes_per_kept,
                "cost": hours * prices.core_hour,
                "cost_month": kept * bytes_per_kept / GB * prices.gb_month,
            }
        )
    return found
