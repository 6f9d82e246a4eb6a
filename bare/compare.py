"""The honest A/B: arms side by side at equal accepted rows and at equal cost, every figure with its interval.

Rows stand in the order in which they were made, and an arm is cut as if it had been stopped there: what was rejected on
the way is counted. At equal rows each arm has as many accepted rows as the one with the fewest; at equal cost each has
what the cheapest arm's whole spending buys. Most measures move with the number of rows, so at equal cost they are taken
on the number of accepted rows that all arms have; how many the budget buys is a figure of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.table import Table
from rich.text import Text

from bare import cost, metrics
from bare.judge import indistinguishability
from bare.metrics import Clusters
from bare.reading import READINGS, reading
from curation.errors import InputError
from curation.report import ABSENT, interval, number, percent
from curation.statistics import wilson

Unit = Literal["cost", "tokens", "seconds"]
UNITS: tuple[Unit, ...] = get_args(Unit)
COLUMNS = ("row_id", "text", "label", "embedding", "accepted", "cost", "tokens", "seconds", "judged")
EQUAL_ROWS = "equal_rows"
_JUDGED = ("missed", "found", "abstained")


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm's rows in the order in which they were made, a row for each draft with all its calls.

    rows: COLUMNS; text is the item, label and embedding may be null for what was rejected, cost, tokens and seconds
    where nobody told them, judged (missed, found, abstained) where no judge was asked. real: rows that cost nothing.
    """

    name: str
    rows: pd.DataFrame
    real: bool = False

    def __post_init__(self) -> None:
        where = f"arm {self.name}"
        absent = [column for column in COLUMNS if column not in self.rows]
        if absent:
            raise InputError(f"{where}: its rows have no column {', '.join(absent)}; they have {list(self.rows)}")
        if self.rows["row_id"].duplicated().any():
            twice = self.rows["row_id"][self.rows["row_id"].duplicated()].iloc[0]
            raise InputError(f"{where}: row {twice} is there twice; each draft counts once")
        if self.rows["accepted"].isna().any():
            raise InputError(f"{where}: a row has no verdict yet; finish its wave first")
        if self.real and not self.accepted.all():
            raise InputError(f"{where}: real rows are all accepted; leave out those that aren't")
        unknown = sorted(set(self.rows["judged"].dropna()) - set(_JUDGED))
        if unknown:
            raise InputError(f"{where}: judged must be one of {', '.join(_JUDGED)}; got {unknown[0]!r}")
        for unit in UNITS:
            if (self.spent(unit) < 0).any():
                raise InputError(f"{where}: {unit} must be 0 or more; got {np.nanmin(self.spent(unit)):g}")
        without = self.rows[self.accepted & self.rows["embedding"].isna().to_numpy()]
        if len(without):
            raise InputError(f"{where}: the accepted row {without['row_id'].iloc[0]} has no embedding; embed it first")

    @property
    def accepted(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.rows["accepted"], bool)

    def spent(self, unit: Unit) -> npt.NDArray[np.float64]:
        """What each draft took; NaN where nobody told."""
        return np.asarray(pd.to_numeric(self.rows[unit]).to_numpy(np.float64, na_value=np.nan))

    def until(self, drafts: int) -> Arm:
        """The arm as it was after so many drafts."""
        return dataclasses.replace(self, rows=self.rows.iloc[:drafts])


@dataclass(frozen=True)
class ComparisonRow:
    """A figure of an arm: of the table COMPARISONS what belongs to it.

    n: the rows that it rests on. value is None where it couldn't be measured; low and high are None where it is a plain
    count, and high alone where the interval is open above.
    """

    basis: str
    arm: str
    measure: str
    value: float | None
    low: float | None
    high: float | None
    n: int


# -- equal what --------------------------------------------------------------------------------------------------------


def equal_rows(arms: Sequence[Arm]) -> tuple[Arm, ...]:
    """Each arm until it had as many accepted rows as the arm with the fewest, real rows among them.

    An arm that accepted none can't be cut to anything: it stays whole, as what it cost for nothing.
    """
    _check(arms)
    there = [int(arm.accepted.sum()) for arm in arms if arm.accepted.any()]
    if not there:
        raise InputError("compare: no arm accepted a row, so there is nothing to compare; see why with `bare show`")
    rows = min(there)
    return tuple(
        arm.until(int(np.flatnonzero(arm.accepted)[rows - 1]) + 1) if arm.accepted.any() else arm for arm in arms
    )


def equal_cost(arms: Sequence[Arm], *, unit: Unit = "cost") -> tuple[Arm, ...]:
    """Each arm until the next draft would have cost more than the cheapest arm spent in all; real rows stay whole."""
    _check(arms)
    if unit not in UNITS:
        raise InputError(f"compare: cost is counted in one of {', '.join(UNITS)}; got {unit!r}")
    made = [arm for arm in arms if not arm.real]
    for arm in made:
        unknown = int(np.isnan(arm.spent(unit)).sum())
        if unknown:
            others = " or ".join(u for u in UNITS if u != unit)
            raise InputError(
                f"arm {arm.name}: the {unit} of {unknown} of its {len(arm.rows)} rows isn't known, so it can't be "
                f"compared at equal {unit}; compare by {others}"
            )
    if not made:
        raise InputError("compare: real rows alone have no cost to be equal at; add an arm that was made")
    budget = min(math.fsum(arm.spent(unit)) for arm in made)
    if budget <= 0:
        nothing = next(arm.name for arm in made if math.fsum(arm.spent(unit)) <= 0)
        others = " or ".join(u for u in UNITS if u != unit)
        raise InputError(f"arm {nothing}: it took no {unit}, so there is none to be equal at; compare by {others}")
    # The arm that sets the budget keeps all of its rows, whatever rounding does to its running sum.
    return tuple(
        arm if arm.real else arm.until(int(np.searchsorted(np.cumsum(arm.spent(unit)), budget * (1 + 1e-9), "right")))
        for arm in arms
    )


def _check(arms: Sequence[Arm]) -> None:
    names = [arm.name for arm in arms]
    if not names or len(set(names)) < len(names):
        raise InputError(f"compare: it needs arms, each with a name of its own; got {', '.join(names) or 'none'}")


# -- the figures -------------------------------------------------------------------------------------------------------


def compare(
    arms: Sequence[Arm],
    *,
    units: Sequence[Unit] = ("cost",),
    clusters: Clusters | None = None,
    seeds: npt.ArrayLike | None = None,
    wanted: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[ComparisonRow]:
    """Every arm's figures at equal rows, then at equal spending by each of `units`.

    clusters: of held-out real rows, seeds: the seeds' vectors, wanted: the labels' shares, for the measures that need
    them. Cosines within labels are measured where every accepted row of every arm has one.
    """
    found: list[ComparisonRow] = []
    labelled = all(arm.rows["label"][arm.accepted].notna().all() for arm in arms)
    bases: list[tuple[str, tuple[Arm, ...], Unit | None]] = [(EQUAL_ROWS, equal_rows(arms), None)]
    bases += [(f"equal_{unit}", equal_cost(arms, unit=unit), unit) for unit in units]
    for basis, cut, unit in bases:
        common = min((int(arm.accepted.sum()) for arm in cut if arm.accepted.any()), default=0)
        for arm in cut:
            found += _counts(basis, arm, unit, seed)
            found += _judged(basis, arm)
            if arm.accepted.any():
                found += _measures(basis, arm, common, labelled, clusters, seeds, wanted, seed)
    return found


def _counts(basis: str, arm: Arm, unit: Unit | None, seed: int) -> Iterator[ComparisonRow]:
    """Rows, acceptance, and what an accepted row takes; real rows have their number alone."""
    drafts, accepted = len(arm.rows), int(arm.accepted.sum())
    if arm.real:
        yield ComparisonRow(basis, arm.name, "accepted_rows", float(accepted), None, None, accepted)
        return
    taken = {each: _per_accepted(arm, each, seed) for each in UNITS}
    low, high = _bought(arm, unit, taken[unit], accepted) if unit is not None else (None, None)
    yield ComparisonRow(basis, arm.name, "accepted_rows", float(accepted), low, high, drafts)
    yield ComparisonRow(basis, arm.name, "drafts", float(drafts), None, None, drafts)
    yield _share(basis, arm, "acceptance", accepted, drafts)
    for each, (value, least, most) in taken.items():
        yield ComparisonRow(basis, arm.name, f"{each}_per_accepted", value, least, most, drafts)


def _share(basis: str, arm: Arm, measure: str, part: int, whole: int) -> ComparisonRow:
    if not whole:
        return ComparisonRow(basis, arm.name, measure, None, None, None, 0)
    return ComparisonRow(basis, arm.name, measure, part / whole, *wilson(part, whole), whole)


Taken = tuple[float | None, float | None, float | None]


def _bought(arm: Arm, unit: Unit, taken: Taken, accepted: int) -> tuple[float | None, float | None]:
    """The interval of the rows that the budget buys: what was spent over what one row takes."""
    value, least, most = taken
    if value is None or least is None:
        return None, None
    spent = math.fsum(arm.spent(unit))
    low = 0.0 if most is None else min(float(accepted), spent / most)
    return low, max(float(accepted), spent / least) if least > 0 else None


def _per_accepted(arm: Arm, unit: Unit, seed: int) -> Taken:
    """What an accepted row takes, nothing known where no row was accepted or a draft's spending isn't known."""
    spent = arm.spent(unit)
    if not arm.accepted.any() or np.isnan(spent).any():
        return None, None, None
    return cost.per_accepted(spent, arm.accepted, replicates=metrics.REPLICATES, seed=seed)


def _judged(basis: str, arm: Arm) -> Iterator[ComparisonRow]:
    """The judge's rate over the accepted rows that it was asked about, and its abstentions."""
    verdicts = arm.rows["judged"][arm.accepted].dropna().tolist()
    if arm.real and not verdicts:
        return
    rate = indistinguishability(verdicts)
    yield ComparisonRow(basis, arm.name, "indistinguishability", rate.rate, rate.low, rate.high, rate.answered)
    yield _share(basis, arm, "judge_abstained", rate.abstained, len(verdicts))


def _measures(
    basis: str, arm: Arm, rows: int, labelled: bool, clusters: Clusters | None, seeds: npt.ArrayLike | None,
    wanted: Mapping[str, float] | None, seed: int,
) -> list[ComparisonRow]:  # fmt: skip
    """The measures of the arm's first `rows` accepted rows."""
    mine = arm.rows[arm.accepted].iloc[:rows]
    measured = metrics.measure_rows(
        mine["row_id"].tolist(),
        mine["text"].tolist(),
        np.array([np.asarray(vector, np.float64) for vector in mine["embedding"]]),
        labels=mine["label"].tolist() if labelled else None,
        wanted=wanted if labelled else None,
        seeds=seeds,
        clusters=clusters,
        seed=seed,
    )
    return [ComparisonRow(basis, arm.name, m.name, m.value, m.low, m.high, m.n) for m in measured]


# -- to look at --------------------------------------------------------------------------------------------------------


def basis_title(basis: str) -> str:
    """`equal_rows` in words."""
    what = basis.removeprefix("equal_")
    return f"At equal {'accepted rows' if basis == EQUAL_ROWS else what}"


def shown(row: ComparisonRow) -> str:
    """A figure as it is shown: counts whole, shares as percent, the interval behind."""
    if row.value is None:
        return ABSENT
    about = reading(row.measure)
    if about.share:
        ends = f" [{percent(row.low)}, {percent(row.high)}]" if row.low is not None else ""
        return percent(row.value) + ends
    if about.kind == "rows":
        if row.low is None:
            return number(int(row.value))
        return f"{number(int(row.value))} [{number(int(row.low))}, {number(math.ceil(row.high)) if row.high else '∞'}]"
    return interval(row.value, row.low, row.high)


def in_columns(
    rows: Sequence[ComparisonRow], basis: str
) -> tuple[list[str], list[tuple[str, dict[str, ComparisonRow]]]]:
    """The arms in their order, and each measure with its figure by arm, as a table has them."""
    mine = [row for row in rows if row.basis == basis]
    measures = {row.measure: {r.arm: r for r in mine if r.measure == row.measure} for row in mine}
    return list(dict.fromkeys(row.arm for row in mine)), list(measures.items())


def in_order(rows: Iterable[ComparisonRow], *, arms: Sequence[str]) -> list[ComparisonRow]:
    """Rows as a table gives them, in the order of `compare`: by basis, by arm as in `arms`, by measure."""
    bases, measures = [EQUAL_ROWS, *(f"equal_{unit}" for unit in UNITS)], [each.name for each in READINGS]

    def place(name: str, names: Sequence[str]) -> tuple[int, str]:
        return (names.index(name) if name in names else len(names)), name

    return sorted(rows, key=lambda r: (place(r.basis, bases), place(r.arm, arms), place(r.measure, measures)))


def as_table(rows: Sequence[ComparisonRow]) -> Table:
    """All figures for the terminal: a line a measure, a column an arm, at each basis in turn.

    No arm is marked as the best: intervals say how far these rows tell the arms apart.
    """
    arms = list(dict.fromkeys(row.arm for row in rows))
    table = Table(header_style="bold", title_justify="left", caption_justify="left")
    table.add_column("", overflow="fold")
    for arm in arms:
        table.add_column(Text(arm), justify="right", overflow="fold")
    for basis in dict.fromkeys(row.basis for row in rows):
        table.add_section()
        table.add_row(Text(basis_title(basis), style="bold"))
        for measure, by_arm in in_columns(rows, basis)[1]:
            arrow = {"lower": " ↓", "higher": " ↑", "": ""}[reading(measure).better]
            cells = [Text(shown(by_arm[arm]) if arm in by_arm else "") for arm in arms]
            table.add_row(Text(f"{reading(measure).title}{arrow}"), *cells)
    return table
