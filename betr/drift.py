"""What has moved since the last run: scores, rejections, coverage, the share that is kept. Measures with limits.

A scheduled run compares its new documents with all that were there before, and its selection with the last one that was
cut by the same settings. A measure beyond its limit is a breach: a warning, or an exit code of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from curation.command import at_least_0, parse_numbers
from curation.tables import TableSpec

DRIFT = TableSpec(
    "drift",
    key=("selection_id", "measure"),
    schema="selection_id string, compared_with string, measure string, value double, at_most double, n bigint, "
    "n_before bigint, breached boolean, said string, run_id string",
)

# Population stability: below 0.1 nothing has moved, above 0.25 it has, as scoring models are watched since the 1990s.
LIMITS = {"psi": 0.2, "ks": 0.1, "rejected": 0.05, "coverage": 0.05, "kept": 1.0}
MEANINGS = {
    "psi": "population stability index of the new documents' scores, in tenths of those before, where it is no chance",
    "ks": "largest distance between the two distributions of scores (Kolmogorov-Smirnov), where it is no chance",
    "rejected": "change of the share of rows put aside",
    "coverage": "largest fall of a benchmark's median similarity to its nearest document",
    "kept": "new documents' share kept against that of those before, in doublings either way",
}
TITLES = {
    "psi": "scores (PSI)", "ks": "scores (KS)", "rejected": "rows put aside", "coverage": "coverage",
    "kept": "share kept",
}  # fmt: skip
SIGNIFICANCE = 0.01
ACTIONS = ("warn", "fail", "ignore")
TENTHS = 10

Median = tuple[int, float | None]  # of so many examples


@dataclass(frozen=True)
class Measure:
    """One comparison. n, n_before: documents (rows, examples) that the figure rests on; said: the figure in words."""

    measure: str
    value: float
    at_most: float
    n: int
    n_before: int
    said: str

    @property
    def breached(self) -> bool:
        return self.value > self.at_most


def parse_limits(given: Sequence[str]) -> dict[str, float]:
    """LIMITS with `name=number` in place of its own."""
    kinds = dict.fromkeys(LIMITS, at_least_0)
    return LIMITS | parse_numbers(given, kinds, option="--drift", number="a number of 0 or more")


def psi(before: Sequence[int], new: Sequence[int]) -> float | None:
    """Population stability index of counts over the same fine bins, in ascending order; None where a side is empty.

    The bins are put together into tenths of `before`, as equal as whole bins allow: sum of (p - q) ln(p / q), with half
    a document added to every tenth, so that an empty one doesn't make it infinite.
    """
    if not sum(before) or not sum(new):
        return None
    tenths = _tenths(before)
    p = [sum(new[i] for i in tenth) + 0.5 for tenth in tenths]
    q = [sum(before[i] for i in tenth) + 0.5 for tenth in tenths]
    return sum((a / sum(p) - b / sum(q)) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))


def psi_by_chance(before: Sequence[int], new: Sequence[int]) -> float:
    """What the index exceeds in one of a hundred draws of so many documents from one distribution.

    Times n m / (n + m) it is then about chi-squared, with a degree less than there are tenths; the quantile is that of
    Wilson and Hilferty.
    """
    n, m, degrees = sum(new), sum(before), len(_tenths(before)) - 1
    if not n or not m or not degrees:
        return 0.0
    z, spread = NormalDist().inv_cdf(1 - SIGNIFICANCE), 2 / (9 * degrees)
    return degrees * (1 - spread + z * math.sqrt(spread)) ** 3 * (1 / n + 1 / m)


def _tenths(counts: Sequence[int]) -> list[list[int]]:
    """Runs of bins, each of which ends with the bin in which another tenth of the counts is full."""
    tenths: list[list[int]] = [[]]
    total, passed, full = sum(counts), 0, 1
    for i, count in enumerate(counts):
        tenths[-1].append(i)
        passed += count
        if passed * TENTHS >= full * total and passed < total:
            full = passed * TENTHS // total + 1
            tenths.append([])
    return tenths


def ks(before: Sequence[int], new: Sequence[int]) -> tuple[float, float] | None:
    """(largest distance of the two cumulative shares, its two-sided p-value) of counts over the same bins.

    Bins hide what happens inside them, so that the distance is a lower bound. The p-value is Kolmogorov's limit for
    large samples.
    """
    n, m = sum(new), sum(before)
    if not n or not m:
        return None
    distance, a, b = 0.0, 0, 0
    for one, other in zip(new, before, strict=True):
        a, b = a + one, b + other
        distance = max(distance, abs(a / n - b / m))
    return distance, kolmogorov(distance * math.sqrt(n / (n + m) * m))


def kolmogorov(x: float) -> float:
    """The chance that Kolmogorov's statistic exceeds x."""
    if x < 0.2:  # there it is 1 to twelve digits, and the series converges slowly
        return 1.0
    terms = (2 * (-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, sum(terms)))


def of_scores(before: Sequence[int], new: Sequence[int], limits: Mapping[str, float]) -> list[Measure]:
    """PSI and KS of the new documents' scores; none where there are no new ones, or were none."""
    index, distance, most = psi(before, new), ks(before, new), psi_by_chance(before, new)
    if index is None or distance is None:
        return []
    n, m = sum(new), sum(before)
    away, chance = distance
    by_chance = chance > SIGNIFICANCE
    p = "below 0.0001" if chance < 1e-4 else f"{chance:.4f}"
    said = f"scores of {n:,} new documents against {m:,} before: PSI {index:.3f}"
    chance_said = f" (by chance up to {most:.3f})" if index <= most else ""
    return [
        Measure("psi", 0.0 if index <= most else index, limits["psi"], n, m, said + chance_said),
        Measure(
            "ks", 0.0 if by_chance else away, limits["ks"], n, m,
            f"largest distance of the two distributions {away:.3f} (p {p}{': by chance' if by_chance else ''})",
        ),
    ]  # fmt: skip


def of_rejections(
    before: tuple[int, int], new: tuple[int, int], limits: Mapping[str, float]
) -> list[Measure]:
    """Each side: (rows put aside, rows read)."""
    if not before[1] or not new[1]:
        return []
    was, now = before[0] / before[1], new[0] / new[1]
    said = f"{now:.1%} of {new[1]:,} new rows put aside, {was:.1%} of {before[1]:,} before"
    return [Measure("rejected", abs(now - was), limits["rejected"], new[1], before[1], said)]


def of_coverage(
    before: Mapping[str, Median], now: Mapping[str, Median], limits: Mapping[str, float]
) -> list[Measure]:
    """Each side: benchmark -> (examples, median similarity of the nearest document)."""
    falls = {
        name: (before[name][1] or 0.0) - (now[name][1] or 0.0)
        for name in sorted(before.keys() & now.keys())
        if before[name][1] is not None
    }
    if not falls:
        return []
    worst = max(falls, key=lambda name: falls[name])
    (n_before, was), (n, is_) = before[worst], now[worst]
    said = f"{worst}: median similarity to the nearest document {is_ or 0:.3f}, {was or 0:.3f} before"
    return [Measure("coverage", max(0.0, falls[worst]), limits["coverage"], n, n_before, said)]


def of_kept(before: tuple[int, int], new: tuple[int, int], limits: Mapping[str, float]) -> list[Measure]:
    """Each side: (documents kept, documents), by the cut that holds now."""
    if not before[1] or not new[1]:
        return []
    was, now = before[0] / before[1], new[0] / new[1]
    # Half a document on each side, so that nothing kept of a few is no infinite change.
    doublings = abs(math.log2(((new[0] + 0.5) / (new[1] + 1)) / ((before[0] + 0.5) / (before[1] + 1))))
    said = f"{now:.1%} of {new[1]:,} new documents kept, {was:.1%} of {before[1]:,} before"
    return [Measure("kept", doublings, limits["kept"], new[1], before[1], said)]
