"""The exact cut at a budget: the best rows whose weights still fit, found by histograms and never by a global sort.

Rows are taken by key, highest first, equal keys by id in the order of their UTF-8 bytes, as long as the sum of their
weights stays within the budget: so the rows kept fall short of it by less than the first row that is left out. A pass
over the rows adds up weights in bins of the key; the bin in which the budget runs out is split again until so few rows
are left in it that the driver can sort them. Where very many rows share one key, the ids are split in the same manner.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, takewhile
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from curation.errors import InputError
from curation.frames import driver_rows

SORTED_ROWS = 100_000  # what the driver sorts at most, all groups together
BINS = 65_536  # bins of a later pass, all groups together
# Bins of the first pass. Where the cut of scores usually lies, from 1/16 to 1, equal ones: found without a logarithm,
# so fine that the driver can sort the boundary bin of half a billion rows, so few that they stay in a core's cache.
# Elsewhere by parts of a power of two: 1,600 for scores from 1e-5 on, 540,000 for keys all over the range of doubles.
_FROM, _TO, _STEPS = 1 / 16, 1.0, 4_096
_OCTAVE = 128
_INFINITY = 1_025 * _OCTAVE  # finite doubles lie between 2**-1074 and 2**1024
_ID_DIGITS = 4  # hexadecimal digits of the id that a pass splits by


@dataclass(frozen=True)
class Cut:
    """Where the budget runs out.

    key, id: the last row kept, None where not even the first row fits; kept_rows, kept_weight: what is kept;
    rows, weight: what there is. Rows that agree in key and id are one row with the sum of their weights.
    """

    key: float | None
    id: str | None
    kept_rows: int
    kept_weight: int
    rows: int
    weight: int


def find_cut(rows: DataFrame, *, key: str | Column, id: str | Column, weight: str | Column, budget: int) -> Cut:
    """The cut of the best `rows` whose `weight` sums to at most `budget`; it runs a few jobs over key, id and weight.

    key: double, higher is better; id: string; weight: integer, 0 or more (`F.lit(1)` makes the budget a count of rows).
    A budget of at least the total keeps every row. Keys that are null or NaN, null ids and null or negative weights
    raise InputError.
    """
    return count_rows(rows, key=key, id=id, weight=weight).cuts({"": budget})[""]


def find_cuts(
    rows: DataFrame,
    *,
    key: str | Column,
    id: str | Column,
    weight: str | Column,
    group: str | Column,
    budgets: Mapping[str, int],
) -> dict[str, Cut]:
    """One cut for each group, as find_cut makes it, in the same passes over the rows.

    budgets: group (string) -> budget; some dozens of groups, not thousands. Rows of other groups are left out.
    """
    if not budgets:
        return {}
    if len(budgets) > 1 or "" not in budgets:
        rows = rows.where((F.col(group) if isinstance(group, str) else group).isin(*budgets))
    return count_rows(rows, key=key, id=id, weight=weight, group=group).cuts(budgets)


def count_rows(
    rows: DataFrame, *, key: str | Column, id: str | Column, weight: str | Column, group: str | Column | None = None
) -> Counted:
    """The first pass of find_cuts, for budgets that depend on what there is; the same rows are refused.

    group: None for one group of all rows, which is called "".
    """
    given = (F.lit("") if group is None else group, key, id, weight)
    group_, key_, id_, weight_ = (F.col(c) if isinstance(c, str) else c for c in given)
    rows = rows.select(
        group_.alias("group"), key_.alias("key"), id_.alias("id"), weight_.cast("bigint").alias("weight")
    )
    return Counted(rows, _first_histogram(rows, [] if group is None else ["group"], names=(key, id, weight)))


@dataclass(frozen=True)
class Counted:
    """Rows by group after the first pass over them."""

    _rows: DataFrame
    _bins: Mapping[str, Sequence[_Bin]]

    @property
    def totals(self) -> dict[str, tuple[int, int]]:
        """group -> its rows, and the sum of their weights."""
        return {name: (sum(b.rows for b in bins), sum(b.weight for b in bins)) for name, bins in self._bins.items()}

    def cuts(self, budgets: Mapping[str, int]) -> dict[str, Cut]:
        """One cut for each group that has a budget."""
        searches = {name: _Search(budget) for name, budget in budgets.items()}
        for name, search in searches.items():
            search.start(self._bins.get(name, ()))
        _find(self._rows, searches)
        return {name: search.cut() for name, search in searches.items()}

    def cut_at(self, key: float, id: str) -> Cut:
        """Where another cut ended, on these rows, which have no groups: whatever lies at or above it by now is kept."""
        rows, weight = self.totals.get("", (0, 0))
        here = Cut(key, id, 0, 0, rows, weight)
        kept = self._rows.where(is_kept(here, key="key", id="id")).agg(F.count(F.lit(1)), F.sum("weight"))
        kept_rows, kept_weight = kept.collect()[0]
        return Cut(key, id, kept_rows, kept_weight or 0, rows, weight)


def _find(rows: DataFrame, searches: Mapping[str, _Search]) -> None:
    """The later passes."""
    bins, limit = max(2, BINS // len(searches)), max(1, SORTED_ROWS // len(searches))
    while wide := {n: s.boundary for n, s in searches.items() if s.inside > limit and s.boundary.low < s.boundary.high}:
        for name, found in _histogram(_inside(rows, wide), _bin_by_width(bins)).items():
            searches[name].narrow(found)
    for name, search in searches.items():
        while search.inside > limit:
            search.narrow_ids(*_histogram_of_ids(_inside(rows, {name: search.boundary})))
    if few := {n: s.boundary for n, s in searches.items() if s.inside}:
        last_rows: dict[str, list[_Row]] = {name: [] for name in few}
        for name, *row in _collect(_inside(rows, few).select("group", "key", "id", "weight")):
            last_rows[name].append(_Row(*row))
        for name, rest in last_rows.items():
            searches[name].finish(rest)
    if unnamed := {n: s.last for n, s in searches.items() if s.last is not None and s.last_id is None}:
        for name, last_id in _collect(_inside(rows, unnamed).groupBy("group").agg(F.max("id"))):
            searches[name].last_id = last_id


def is_kept(cut: Cut, *, key: str | Column, id: str | Column) -> Column:
    """Whether a row is at or above the cut; holds `key >= threshold` as a conjunct, by which files are skipped."""
    if cut.key is None:
        return F.lit(False)
    key_, id_ = (F.col(c) if isinstance(c, str) else c for c in (key, id))
    threshold = F.lit(_least_zero(cut.key))
    return (key_ >= threshold) & ((key_ > threshold) | (id_ <= F.lit(cut.id)))


def keep(rows: DataFrame, cut: Cut, *, key: str | Column, id: str | Column) -> DataFrame:
    """The rows at or above the cut."""
    return rows.where(is_kept(cut, key=key, id=id))


def keep_groups(
    rows: DataFrame, cuts: Mapping[str, Cut], *, group: str | Column, key: str | Column, id: str | Column
) -> DataFrame:
    """The rows at or above their own group's cut; rows of groups without a cut are left out."""
    group_, key_, id_ = (F.col(c) if isinstance(c, str) else c for c in (group, key, id))
    thresholds = [(name, _least_zero(cut.key), cut.id) for name, cut in cuts.items() if cut.key is not None]
    if not thresholds:
        return rows.where(F.lit(False))
    schema = "cut_group string, cut_key double, cut_id string"
    cut_at = F.broadcast(driver_rows(rows.sparkSession, thresholds, schema))
    kept = (key_ > F.col("cut_key")) | ((key_ == F.col("cut_key")) & (id_ <= F.col("cut_id")))
    lowest = F.lit(min(threshold for _, threshold, _ in thresholds))
    return rows.where(key_ >= lowest).join(cut_at, (group_ == F.col("cut_group")) & kept, "leftsemi")


# -- the search, on the driver -----------------------------------------------------------------------------------------


class _Bin(NamedTuple):
    rows: int
    weight: int
    low: float
    high: float


class _Row(NamedTuple):
    key: float
    id: str
    weight: int


class _Bounds(NamedTuple):
    """Lowest and highest key and, where these are the same, bounds of the id's bytes in hexadecimal digits."""

    low: float
    high: float
    low_id: str = ""
    high_id: str = "G"  # behind every digit


@dataclass
class _Search:
    """What is known of one group's cut: the rows certainly kept, and the bin in which the budget runs out."""

    budget: int
    rows: int = 0
    weight: int = 0
    kept_rows: int = 0
    kept_weight: int = 0
    inside: int = 0  # rows in the boundary bin; 0 once the cut is found
    boundary: _Bounds = field(default_factory=lambda: _Bounds(0.0, 0.0))
    last: _Bounds | None = None  # among these the last row kept has the highest id
    last_id: str | None = None

    def start(self, bins: Sequence[_Bin]) -> None:
        self.rows, self.weight = sum(b.rows for b in bins), sum(b.weight for b in bins)
        self.narrow(bins)

    def narrow(self, bins: Sequence[_Bin]) -> None:
        """Keep the bins that fit, best first, and go on inside the one that doesn't."""
        bins = _in_order(bins)
        self._take(bins, [_Bounds(b.low, b.high) for b in bins])
        if self.last is not None:
            self.last = _Bounds(self.last.low, self.last.low)

    def narrow_ids(self, bins: Sequence[_Bin], bounds: Sequence[tuple[str, str]]) -> None:
        """The same within one key, with bins of ids."""
        self._take(bins, [_Bounds(self.boundary.low, self.boundary.high, *ids) for ids in bounds])
        if self.inside and self.boundary.low_id == self.boundary.high_id:
            self.inside = 0  # one id, many rows: they go together, and together they don't fit

    def finish(self, rows: Sequence[_Row]) -> None:
        """Sort what is left and add it up."""
        for (key, id_), same in groupby(sorted((-r.key, r.id, r.weight) for r in rows), key=lambda r: r[:2]):
            weights = [weight for *_, weight in same]
            if self.kept_weight + sum(weights) > self.budget:
                break
            self.kept_rows += len(weights)
            self.kept_weight += sum(weights)
            self.last, self.last_id = _Bounds(-key, -key), id_
        self.inside = 0

    def cut(self) -> Cut:
        key = None if self.last is None else self.last.low + 0.0  # never -0.0
        return Cut(key, self.last_id, self.kept_rows, self.kept_weight, self.rows, self.weight)

    def _take(self, bins: Sequence[_Bin], bounds: Sequence[_Bounds]) -> None:
        fits = bisect_right(list(accumulate(b.weight for b in bins)), self.budget - self.kept_weight)
        self.kept_rows += sum(b.rows for b in bins[:fits])
        self.kept_weight += sum(b.weight for b in bins[:fits])
        if fits:
            self.last = bounds[fits - 1]
        self.inside = bins[fits].rows if fits < len(bins) else 0
        if self.inside:
            self.boundary = bounds[fits]


def _in_order(bins: Iterable[_Bin]) -> list[_Bin]:
    """Bins by key, highest first. Those that overlap are one: not every engine's log2 is monotone to the last bit."""
    ordered: list[_Bin] = []
    for bin_ in sorted(bins, key=lambda b: b.high, reverse=True):
        if ordered and bin_.high >= ordered[-1].low:
            last = ordered.pop()
            bin_ = _Bin(last.rows + bin_.rows, last.weight + bin_.weight, min(last.low, bin_.low), last.high)
        ordered.append(bin_)
    return ordered


# -- the passes, on the executors --------------------------------------------------------------------------------------


def _bin_of_any() -> Column:
    """A bin of any double: an interval of its own, or by sign, power of two, and part of the octave."""
    key = F.col("key")
    equal = F.floor(key * F.lit(float(_STEPS))) + F.lit(4 * _INFINITY)  # above all the others
    steps = F.floor(F.least(F.log2(F.abs(key)) * F.lit(float(_OCTAVE)), F.lit(float(_INFINITY))))
    magnitude = (steps + F.lit(1_074 * _OCTAVE + 1)).cast("bigint")
    by_magnitude = F.when(key > 0, magnitude).when(key < 0, -magnitude).otherwise(F.lit(0).cast("bigint"))
    return F.when(key.between(_FROM, _TO), equal).otherwise(by_magnitude)


def _bin_by_width(bins: int) -> Column:
    """Equal bins from the lowest to the highest key of each group's boundary bin; these two lie in different ones."""
    key, low, high = F.col("key"), F.col("low"), F.col("high")
    return F.floor((key - low) / (high - low) * F.lit(float(bins - 1)))


def _first_histogram(rows: DataFrame, by: list[str], *, names: tuple[Any, ...]) -> dict[str, list[_Bin]]:
    """`_histogram` of all rows, in bins of any double; bad values are refused, by these names of key, id and weight.

    by: ["group"], or nothing where all rows are one group: Spark would hash and compare even a constant, row by row.
    """
    of_key, of_id, of_weight = _bad_values().values()
    counted = rows.groupBy(*by, F.when(~(of_key | of_weight), _bin_of_any()).alias("bin")).agg(*_sums())
    # No id is read for this: a file whose statistics know of no null is passed over.
    no_bin = F.lit(None).cast("bigint").alias("bin")
    counted = counted.union(rows.where(of_id).groupBy(*by, no_bin).agg(*_sums()))
    found = _bins(counted if by else counted.select(F.lit(""), "*"))
    if found is None:
        raise _refusal(rows, names)
    return found


def _histogram(rows: DataFrame, bin_: Column) -> dict[str, list[_Bin]]:
    """Rows, weight, lowest and highest key of each bin of each group."""
    found = _bins(rows.groupBy("group", bin_.alias("bin")).agg(*_sums()))
    assert found is not None, "rows that have no bin were refused by the first pass"
    return found


def _bins(counted: DataFrame) -> dict[str, list[_Bin]] | None:
    """Bins by group; None where some row has none."""
    found: dict[str, list[_Bin]] = {}
    for name, number, *values in _collect(counted):
        if number is None:
            return None
        found.setdefault(name, []).append(_Bin(*values))
    return found


def _sums() -> tuple[Column, ...]:
    return F.count(F.lit(1)), F.sum("weight"), F.min("key"), F.max("key")


def _histogram_of_ids(rows: DataFrame) -> tuple[list[_Bin], list[tuple[str, str]]]:
    """Bins by the next bytes of the id, behind those that all ids share, in the ids' order; and each bin's bounds."""
    digits = F.hex(F.col("id").cast("binary"))
    lowest, highest = rows.agg(F.min(digits), F.max(digits)).collect()[0]
    shared = _shared_start(lowest, highest)
    head = F.substring(digits, len(shared) + 1, _ID_DIGITS)
    counted = rows.groupBy(head.alias("head")).agg(*_sums())
    bins, bounds = [], []
    for digits_, *values in sorted(_collect(counted)):
        bins.append(_Bin(*values))
        prefix, ended = shared + digits_, len(digits_) < _ID_DIGITS
        bounds.append((prefix, prefix if ended else prefix + "G"))
    return bins, bounds


def _collect(rows: DataFrame) -> Iterable[tuple[Any, ...]]:
    """A few rows as tuples."""
    return zip(*(column.to_pylist() for column in rows.toArrow().columns), strict=True)


def _inside(rows: DataFrame, bounds: Mapping[str, _Bounds]) -> DataFrame:
    """The rows within their group's bounds, with the bounds; a plain range of keys lets whole files be skipped."""
    limits = [(name, _least_zero(b.low), b.high + 0.0, b.low_id, b.high_id) for name, b in bounds.items()]
    key = F.col("key")
    rows = rows.where((key >= F.lit(min(b[1] for b in limits))) & (key <= F.lit(max(b[2] for b in limits))))
    if len(limits) == 1:
        name, *values = limits[0]
        columns = dict(zip(("low", "high", "low_id", "high_id"), map(F.lit, values), strict=True))
        rows = rows.where(F.col("group") == F.lit(name)).withColumns(columns)
    else:
        schema = "group string, low double, high double, low_id string, high_id string"
        rows = rows.join(F.broadcast(driver_rows(rows.sparkSession, limits, schema)), "group")
    rows = rows.where(key.between(F.col("low"), F.col("high")))
    if any((b.low_id, b.high_id) != ("", "G") for b in bounds.values()):
        rows = rows.where(F.hex(F.col("id").cast("binary")).between(F.col("low_id"), F.col("high_id")))
    return rows


def _shared_start(a: str, b: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return "".join(digit for digit, _ in same)


def _least_zero(value: float) -> float:
    """A lower bound for Parquet too: its dictionaries hold -0.0 below 0.0, where Spark takes both for equal."""
    return -0.0 if value == 0 else value


def _bad_values() -> dict[str, Column]:
    key, id_, weight = F.col("key"), F.col("id"), F.col("weight")
    return {
        "{key} is null or NaN": key.isNull() | F.isnan(key),
        "{id} is null": id_.isNull(),
        "{weight} is null or below 0": weight.isNull() | (weight < 0),
    }


def _refusal(rows: DataFrame, names: Sequence[str | Column]) -> InputError:
    rules = _bad_values()
    counts = rows.agg(*(F.count_if(bad) for bad in rules.values())).collect()[0]
    called = zip(names, ("key", "id", "weight"), strict=True)
    key, id_, weight = (name if isinstance(name, str) else default for name, default in called)
    found = ", ".join(
        f"{rule.format(key=key, id=id_, weight=weight)} in {count:,} rows"
        for rule, count in zip(rules, counts, strict=True)
        if count
    )
    return InputError(f"the cut can't order these rows: {found}; remove or repair them first")
