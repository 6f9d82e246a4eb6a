"""How much of a gain is left once every arm's model was fine-tuned on the same task set: the paper's open question."""

from __future__ import annotations

from dataclasses import dataclass

from curation.report import percent
from evaluation.compare import Comparison, Gain, bits, place


@dataclass(frozen=True)
class Left:
    """A gain over the baseline before and after fine-tuning, each with its own interval.

    share: of the gain that is left; None where the gain before isn't surely one, so that a share of it says nothing.
    """

    arm: str
    size: str
    benchmark: str | None
    before: Gain
    after: Gain
    share: float | None


def what_is_left(before: Comparison, after: Comparison) -> list[Left]:
    """Each gain that was measured in both phases, in the order of `before`."""
    of = {(g.arm, g.size, g.benchmark): g for g in after.gains}
    found = []
    for gain in before.gains:
        if (later := of.get((gain.arm, gain.size, gain.benchmark))) is not None:
            share = later.gain / gain.gain if gain.verdict == "better" and gain.gain > 0 else None
            found.append(Left(gain.arm, gain.size, gain.benchmark, gain, later, share))
    return found


def words(found: list[Left], size: str) -> list[str]:
    """What can be said of the averages at a size; every number is one of `found`'s."""
    told = []
    for each in (e for e in found if e.size == size and e.benchmark is None):
        before, after = (bits(g.gain, g.joint_low, g.joint_high) for g in (each.before, each.after))
        if each.share is None:
            told.append(f"{each.arm}: no sure gain before fine-tuning ({before} bits per byte); after it {after}.")
        elif each.after.verdict == "better":
            told.append(
                f"{each.arm}: {percent(each.share)} of its gain is left after fine-tuning: {before} bits per byte "
                f"before, {after} after."
            )
        else:
            told.append(
                f"{each.arm}: its gain was {before} bits per byte, and after fine-tuning ({after}) it isn't surely one."
            )
    return told


def rows(found: list[Left], size: str) -> list[tuple[object, ...]]:
    """arm, benchmark, gain before, gain after, share left: a row of a table each."""
    return [
        (
            each.arm,
            place(each.benchmark),
            bits(each.before.gain, each.before.joint_low, each.before.joint_high),
            bits(each.after.gain, each.after.joint_low, each.after.joint_high),
            None if each.share is None else percent(each.share),
        )
        for each in found
        if each.size == size
    ]
