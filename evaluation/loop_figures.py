"""What a loop tells, in figures and in words: gaps before and after, with intervals; no Spark, from pandas frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bare.metrics import mean_of
from bare.show import STOPPED
from curation.progress import clock
from curation.report import interval, number, percent
from curation.statistics import wilson
from evaluation import compare

SHOWN, UNSEEN, OTHERS = "gaps that a model was shown", "gaps that no model was shown", "examples that were no gaps"
ALL_ROUNDS = -1


@dataclass(frozen=True)
class Group:
    """Some examples before and after: mean similarity of the nearest document, and how many reach the level.

    gain: the mean difference, with its 95% interval over examples. round: ALL_ROUNDS: from the real selection to the
    end. closed: of those below the level before, how many reach it after; share_low, share_high: of their share.
    """

    name: str
    round: int
    examples: int
    before: float | None
    after: float | None
    gain: float | None
    low: float | None
    high: float | None
    nearer: int
    open: int
    closed: int
    share_low: float | None
    share_high: float | None


@dataclass(frozen=True)
class Round:
    """What a round took and made: a row of LOOP_ROUNDS."""

    round: int
    gaps: int
    shown: int
    drafts: int
    accepted: int
    stopped_by: str
    copies: int
    documents: int
    below_cut: int
    over_cap: int
    selected: int
    selected_tokens: int
    real_tokens: int
    cap_tokens: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    model_seconds: float
    seconds: float

    @property
    def share(self) -> float:
        """The synthetic documents' of all selected tokens."""
        return self.selected_tokens / (self.real_tokens + self.selected_tokens)


@dataclass(frozen=True)
class ShownDocument:
    """A synthetic document beside the gap it is nearest to of those its draft was shown."""

    doc_id: str
    made_in: int
    text: str
    gap: str | None
    similarity: float | None
    score: float
    reason: str | None


@dataclass(frozen=True)
class ShownGap:
    """A gap of any round: its nearest document's similarity among the real ones, and after the last round."""

    text: str
    shown: bool
    real: float
    after: float


@dataclass(frozen=True)
class LoopFigures:
    """All of a loop in figures. level: the similarity at which a gap is closed; similarities: group -> before, after.

    judged: small models with the synthetic documents and without; None where they weren't asked.
    """

    loop_id: str
    closed_at: float
    level: float
    benchmark: str | None
    most_synthetic: float
    rounds: tuple[Round, ...]
    groups: tuple[Group, ...]
    similarities: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]
    gaps: tuple[ShownGap, ...]
    documents: tuple[ShownDocument, ...]
    judged: compare.Comparison | None
    why_not_judged: str | None
    roots: dict[str, str]

    def group(self, name: str, round_: int = ALL_ROUNDS) -> Group:
        return next(each for each in self.groups if (each.name, each.round) == (name, round_))


def closing_level(real: Sequence[float], closed_at: float) -> float:
    """The similarity that a share `closed_at` of the examples didn't reach before the loop: an example's own."""
    return float(np.quantile(np.asarray(real, np.float64), closed_at, method="inverted_cdf"))


def groups(rows: pd.DataFrame, level: float, *, seed: int = 0) -> list[Group]:
    """The groups of each round, then over all rounds, from rows of LOOP_GAPS of all rounds.

    Over all rounds a gap is what was one in any of them, and was shown if it was in any of them: from what real
    documents alone gave it to what it has after the last round.
    """
    found = []
    for round_, mine in sorted(rows.groupby("round")):
        found += _grouped(mine, "before", int(round_), level, seed)
    return [*found, *_grouped(over_all_rounds(rows), "real", ALL_ROUNDS, level, seed)]


def over_all_rounds(rows: pd.DataFrame) -> pd.DataFrame:
    """The last round's rows, with gap and shown as of any round."""
    last = rows[rows["round"] == rows["round"].max()].set_index("example_id")
    ever = rows.groupby("example_id")[["gap", "shown"]].any()
    return last.drop(columns=["gap", "shown"]).join(ever)


def parts(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Rows by group, by name of the group."""
    gap, shown = rows["gap"].astype(bool), rows["shown"].astype(bool)
    return {UNSEEN: rows[gap & ~shown], SHOWN: rows[gap & shown], OTHERS: rows[~gap]}


def _grouped(rows: pd.DataFrame, column: str, round_: int, level: float, seed: int) -> list[Group]:
    return [_group(name, part, column, round_, level, seed) for name, part in parts(rows).items()]


def _group(name: str, rows: pd.DataFrame, column: str, round_: int, level: float, seed: int) -> Group:
    before, after = (rows[each].to_numpy(np.float64) for each in (column, "after"))
    gain = mean_of("gain", after - before, seed=seed)
    open_ = before < level
    closed = int((open_ & (after >= level)).sum())
    low, high = wilson(closed, int(open_.sum())) if open_.any() else (None, None)
    mean_before, mean_after = (float(each.mean()) if len(rows) else None for each in (before, after))
    return Group(
        name, round_, len(rows), mean_before, mean_after, gain.value, gain.low, gain.high, int((after > before).sum()),
        int(open_.sum()), closed, low, high,
    )  # fmt: skip


def as_json(found: LoopFigures) -> dict[str, Any]:
    """The figures as `--json` prints them, without every example's similarity: those are in the table loop_gaps."""
    return {name: value for name, value in dataclasses.asdict(found).items() if name != "similarities"}


# -- in words ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """What can be said, and what goes against it."""

    told: tuple[str, ...]
    against: tuple[str, ...]


def words(found: LoopFigures) -> Words:
    """The loop in sentences; every number is one of the figures', as the page shows it."""
    return Words(tuple(_told(found)), tuple(_against(found)))


def change(group: Group) -> str:
    """`from 0.412 to 0.455, by 0.043 [0.020, 0.071]`"""
    gain = interval(group.gain, group.low, group.high)
    return f"from {number(group.before)} to {number(group.after)}, by {gain}"


def _told(found: LoopFigures) -> Iterator[str]:
    last = found.rounds[-1]
    rounds = f"{len(found.rounds)} round{'' if len(found.rounds) == 1 else 's'}"
    yield (
        f"{rounds} made {last.documents:,} synthetic documents of {sum(r.drafts for r in found.rounds):,} drafts; "
        f"{last.selected:,} are in the selection, {percent(last.share, 2)} of its tokens, on top of all the real ones."
    )
    for name in (UNSEEN, SHOWN):
        group = found.group(name)
        if not group.examples:
            continue
        yield (
            f"{name.capitalize()} ({group.examples:,}): the nearest document's similarity goes {change(group)}; "
            f"{group.closed:,} of {group.open:,} below {number(found.level)} reach it."
        )
    if found.judged is not None:
        yield from compare.words(found.judged).told


def _against(found: LoopFigures) -> Iterator[str]:
    last, unseen, shown = found.rounds[-1], found.group(UNSEEN), found.group(SHOWN)
    if not last.selected:
        yield "No synthetic document is in the selection, so no gap can have become smaller by them."
    if not unseen.examples:
        yield (
            "Every gap was shown to a model, so nothing tells what the rows bring beyond the examples that they were "
            "made from."
        )
    elif not unseen.gain:
        yield "None of the gaps that no model was shown has anything nearer to it than before."
    elif not (unseen.low or 0) > 0:
        by = interval(unseen.gain, unseen.low, unseen.high)
        yield f"That gaps which no model was shown have something nearer isn't sure: {by}."
    if shown.gain and unseen.gain is not None and unseen.examples and shown.gain > unseen.gain:
        yield (
            f"Gaps that a model was shown gained {number(shown.gain)}, the others {number(unseen.gain)}: the "
            "difference may be no more than likeness to the examples themselves."
        )
    for group in (unseen, shown):
        if group.examples and group.closed < group.open:
            left = f"{group.open - group.closed:,} of {group.examples:,}"
            yield f"Of the {group.name}, {left} stay below {number(found.level)}."
    if last.below_cut:
        yield (
            f"{last.below_cut:,} of {last.documents:,} synthetic documents score below the real cut and stay out: the "
            "classifier doesn't take them for what the tasks need."
        )
    if last.over_cap:
        cap = percent(found.most_synthetic)
        yield f"{last.over_cap:,} more reach the cut and stay out because of the cap of {cap}."
    for each in found.rounds:
        rejected = each.drafts - each.accepted
        if rejected:
            of = f"{rejected:,} of {each.drafts:,} drafts"
            yield f"Round {each.round + 1}: BARE rejected {of}; they are paid all the same."
        if each.stopped_by != "accepted":
            yield f"Round {each.round + 1} ended early: {STOPPED.get(each.stopped_by, each.stopped_by)}."
    if found.judged is not None:
        yield from compare.words(found.judged, ours=None).against
    elif found.why_not_judged:
        yield f"What a model makes of it isn't measured: {found.why_not_judged}."


def spent(found: LoopFigures) -> str:
    """What all rounds took, in one sentence."""
    costs = [each.cost for each in found.rounds if each.cost is not None]
    money = f", {number(sum(costs))} of the price table's currency" if len(costs) == len(found.rounds) else ""
    return (
        f"{sum(r.tokens_in for r in found.rounds):,} tokens read and {sum(r.tokens_out for r in found.rounds):,} "
        f"written by the models in {clock(sum(r.model_seconds for r in found.rounds))} of their time{money}; "
        f"{clock(sum(r.seconds for r in found.rounds))} in all."
    )
