"""Round against round: whether synthetic data is collapsing onto itself, and what to change before it does.

Every measure of a round is compared with the round before, with the first round (a slow slide passes the round before
each time) and with real data. A difference in the direction of harm is a breach when its interval lies beyond a limit.
The interval is widened (Bonferroni) by all comparisons of all rounds that are planned, and the limit leaves room for
differences that don't matter: fifty quiet rounds raise no alarm. One action a round, with its reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from bare.metrics import LEVEL, Measure
from curation.errors import InputError

Against = Literal["before", "first", "real"]
Action = Literal["none", "rotate_shots", "hotter", "colder_refiner", "halt"]
CONTROLS = ("watch", "adapt", "off")
POOLS = ("accumulate", "replace")


@dataclass(frozen=True)
class Monitor:
    """How one measure is watched.

    harm: +1 where a rise is harm, -1 where a fall is. change: how far it may go from the round before; from the first
    round twice that. real: how far from real data, None where real data has no such measure. relative: these are shares
    of what it is compared with, not differences. set_size: the measure moves with the number of rows, so it is compared
    at equal numbers alone. kind: what it tells of, by which the action is chosen.
    """

    name: str
    harm: Literal[1, -1]
    change: float
    real: float | None
    kind: Literal["diversity", "quality", "drift"] = "diversity"
    relative: bool = False
    set_size: bool = False

    def __post_init__(self) -> None:
        if self.harm not in (1, -1):
            raise InputError(f"monitor {self.name}: harm must be 1 (a rise) or -1 (a fall); got {self.harm!r}")
        if self.change < 0 or (self.real is not None and self.real < 0):
            raise InputError(f"monitor {self.name}: limits must be 0 or more; got {self.change!r} and {self.real!r}")

    def limit(self, against: Against, reference: float) -> float | None:
        """How far beyond the reference harm may go, None where there is no limit."""
        share = {"before": self.change, "first": 2 * self.change, "real": self.real}[against]
        return share if share is None or not self.relative else share * abs(reference)


# Cosine alone is a weak alarm: words and syntax go first, so lexical measures stand beside it.
MONITORS = (
    Monitor("mean_cosine", 1, 0.03, 0.20),
    Monitor("mean_cosine_within", 1, 0.03, 0.20),
    Monitor("p95_cosine", 1, 0.04, 0.20),
    Monitor("vendi", -1, 0.10, 0.60, relative=True, set_size=True),
    Monitor("distinct_1", -1, 0.10, 0.50, relative=True, set_size=True),
    Monitor("distinct_2", -1, 0.08, 0.40, relative=True, set_size=True),
    Monitor("distinct_3", -1, 0.05, 0.30, relative=True, set_size=True),
    Monitor("self_bleu", 1, 0.05, 0.25, set_size=True),
    Monitor("compression", 1, 0.08, 0.50, relative=True, set_size=True),
    Monitor("coverage", -1, 0.08, 0.40, set_size=True),
    Monitor("tail_mass", -1, 0.05, 0.15),
    Monitor("seed_copies", 1, 0.03, 0.10),
    Monitor("label_distance", 1, 0.05, 0.25),
    Monitor("parse_failures", 1, 0.08, None, kind="quality"),
    Monitor("truncation", 1, 0.05, None, kind="quality"),
    Monitor("indistinguishability", -1, 0.10, None, kind="quality"),
    Monitor("draft_to_refined", -1, 0.05, None, kind="drift"),
)


@dataclass(frozen=True)
class Settings:
    """What control may change: temperatures of drafting and refining, and the rotation that shots are drawn by."""

    temperature: float = 0.7
    refine_temperature: float = 0.7
    rotation: int = 0


@dataclass(frozen=True)
class CollapseConfig:
    """How rounds are controlled.

    control: watch logs what it would do, adapt does it, off compares nothing. false_alarms: the probability of any
    false alarm in all `rounds` together. hottest: of drafting; coldest: of refining; step: of either.
    """

    control: str = "watch"
    false_alarms: float = 0.01
    rounds: int = 50
    hottest: float = 1.0
    coldest: float = 0.3
    step: float = 0.1
    monitors: tuple[Monitor, ...] = MONITORS

    def __post_init__(self) -> None:
        if self.control not in CONTROLS:
            raise InputError(f"--control must be one of {', '.join(CONTROLS)}; got {self.control!r}")
        if not 0 < self.false_alarms < 1:
            raise InputError(f"collapse: false_alarms must be a probability in (0, 1); got {self.false_alarms!r}")
        if self.rounds < 1:
            raise InputError(f"--rounds must be at least 1; got {self.rounds!r}")
        if not self.step > 0 or self.coldest < 0 or self.hottest < 0:
            raise InputError(
                "collapse: step must be above 0, hottest and coldest 0 or more; "
                f"got {self.step}, {self.hottest}, {self.coldest}"
            )
        names = [m.name for m in self.monitors]
        if len(set(names)) < len(names) or not names:
            raise InputError(f"collapse: monitors must be named once each, one at least; got {names}")

    @property
    def z(self) -> float:
        """Standard errors to an interval's end: Bonferroni over monitors, three comparisons, all rounds."""
        return NormalDist().inv_cdf(1 - self.false_alarms / (3 * len(self.monitors) * self.rounds))


@dataclass(frozen=True)
class Round:
    """A round's measures and the settings that it was made with."""

    number: int
    measures: tuple[Measure, ...]
    settings: Settings = Settings()


@dataclass(frozen=True)
class Breach:
    """A measure beyond its limit: harm is the difference in that direction, at_least its interval's near end."""

    measure: str
    kind: str
    against: Against
    value: float
    reference: float
    harm: float
    at_least: float
    limit: float

    def __str__(self) -> str:
        rose = "rose" if self.value > self.reference else "fell"
        other = {"before": "the round before", "first": "the first round", "real": "real data"}[self.against]
        return (
            f"{self.measure} {rose} from {self.reference:.3f} ({other}) to {self.value:.3f}, "
            f"by {self.at_least:.3f} at least where {self.limit:.3f} is the limit"
        )


@dataclass(frozen=True)
class Decision:
    """What a round led to. settings: the next round's; applied: whether they were changed; halted: no further round.

    skipped: comparisons that couldn't be made, with the reason.
    """

    round: int
    action: Action
    reason: str
    settings: Settings
    breaches: tuple[Breach, ...] = ()
    applied: bool = False
    halted: bool = False
    skipped: tuple[str, ...] = ()


# -- comparing ---------------------------------------------------------------------------------------------------------


def find_breaches(
    rounds: Sequence[Round], real: Iterable[Measure], *, config: CollapseConfig
) -> tuple[tuple[Breach, ...], tuple[str, ...]]:
    """The last round's breaches, the clearest first for each measure, and the comparisons that couldn't be made."""
    now, others = rounds[-1], [("real", tuple(real))]
    if len(rounds) > 1:
        others.insert(0, ("before", rounds[-2].measures))
    if len(rounds) > 2:
        others.insert(1, ("first", rounds[0].measures))
    measured = {m.name: m for m in now.measures}
    breaches, skipped = [], []
    for monitor in config.monitors:
        if monitor.name not in measured:
            continue
        for against, measures in others:
            reference = next((m for m in measures if m.name == monitor.name), None)
            if reference is None or (against == "real" and monitor.real is None):
                continue
            current = measured[monitor.name]
            why = _incomparable(monitor, current, reference)
            if why is not None:
                skipped.append(f"{monitor.name} against {against}: {why}")
                continue
            breach = _compare(monitor, against, current, reference, config.z)  # type: ignore[arg-type]
            if breach is not None:
                breaches.append(breach)
    return tuple(breaches), tuple(skipped)


def _incomparable(monitor: Monitor, current: Measure, reference: Measure) -> str | None:
    if current.value is None or reference.value is None:
        return "too few rows to measure"
    if monitor.set_size and current.n != reference.n:
        return f"{current.n:,} rows and {reference.n:,}, and it moves with their number"
    return None


def _compare(monitor: Monitor, against: Against, current: Measure, reference: Measure, z: float) -> Breach | None:
    assert current.value is not None and reference.value is not None
    limit = monitor.limit(against, reference.value)
    if limit is None:
        return None
    harm = monitor.harm * (current.value - reference.value)
    at_least = harm - z * math.hypot(_standard_error(current), _standard_error(reference))
    if at_least <= limit:
        return None
    return Breach(monitor.name, monitor.kind, against, current.value, reference.value, harm, at_least, limit)


def _standard_error(measure: Measure) -> float:
    """From the longer side of the interval: one that ends at a bound is short there for want of room, not of doubt."""
    assert measure.value is not None and measure.low is not None and measure.high is not None
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2)
    return max(measure.high - measure.value, measure.value - measure.low) / reach


# -- deciding ----------------------------------------------------------------------------------------------------------


def decide(
    rounds: Sequence[Round], past: Sequence[Decision], real: Iterable[Measure], *, config: CollapseConfig
) -> Decision:
    """One action for the last of `rounds`, by its breaches and by what was tried since the last quiet round.

    Diversity lost: first other shots, then drafting hotter a step a round while quality holds. Quality or theme lost:
    the refiner colder a step a round. Where nothing is left to try, halt. past: a decision for each earlier round.
    """
    if not rounds:
        raise InputError("collapse: there is no round to decide on; measure one first")
    if len(past) != len(rounds) - 1 or [d.round for d in past] != [r.number for r in rounds[:-1]]:
        raise InputError(
            f"collapse: the rounds {[r.number for r in rounds]} need a decision for each but the last; "
            f"got {[d.round for d in past]}"
        )
    now = rounds[-1]
    if config.control == "off":
        return Decision(now.number, "none", "control is off", now.settings)
    breaches, skipped = find_breaches(rounds, real, config=config)
    if not breaches:
        return Decision(now.number, "none", "no measure is beyond its limit", now.settings, skipped=skipped)
    tried = _tried(past)
    action, why = _choose(breaches, tried, now.settings, config)
    clearest = max(breaches, key=lambda b: (b.at_least / max(b.limit, 1e-9), b.measure))
    more = f" (and {len(breaches) - 1} more)" if len(breaches) > 1 else ""
    adapt = config.control == "adapt"
    return Decision(
        round=now.number,
        action=action,
        reason=f"{clearest}{more}; {why}",
        settings=_changed(now.settings, action, config) if adapt else now.settings,
        breaches=breaches,
        applied=adapt,
        halted=adapt and action == "halt",
        skipped=skipped,
    )


def _tried(past: Sequence[Decision]) -> set[str]:
    """The actions of the alarmed rounds since the last quiet one."""
    tried: set[str] = set()
    for decision in reversed(past):
        if not decision.breaches:
            break
        tried.add(decision.action)
    return tried


def _choose(
    breaches: Sequence[Breach], tried: set[str], settings: Settings, config: CollapseConfig
) -> tuple[Action, str]:
    kinds = {breach.kind for breach in breaches}
    can_heat = settings.temperature < config.hottest - 1e-9
    can_cool = settings.refine_temperature > config.coldest + 1e-9
    if "diversity" in kinds:
        if "rotate_shots" not in tried:
            return "rotate_shots", "diversity is lost: other shots, in another order"
        if "quality" not in kinds and can_heat:
            return "hotter", "other shots didn't help, and quality holds: drafting gets hotter"
    if kinds & {"quality", "drift"}:
        if can_cool:
            lost = "the theme" if "quality" not in kinds else "quality"
            return "colder_refiner", f"{lost} is lost: the refiner gets colder"
        if "rotate_shots" not in tried:
            return "rotate_shots", "the refiner is as cold as it may be: other shots"
    return "halt", "nothing is left to try"


def _changed(settings: Settings, action: Action, config: CollapseConfig) -> Settings:
    if action == "rotate_shots":
        return dataclasses.replace(settings, rotation=settings.rotation + 1)
    if action == "hotter":
        hotter = min(config.hottest, round(settings.temperature + config.step, 6))
        return dataclasses.replace(settings, temperature=hotter)
    if action == "colder_refiner":
        colder = max(config.coldest, round(settings.refine_temperature - config.step, 6))
        return dataclasses.replace(settings, refine_temperature=colder)
    return settings


# -- what the next round may be seeded from ----------------------------------------------------------------------------


def seed_pool(real: Sequence[str], synthetic: Sequence[Sequence[str]], *, mode: str) -> list[str]:
    """Ids that a next round may draw from: real seeds, and of the rounds' accepted rows all or the last round's.

    mode, always said: `accumulate` (error stays bounded) or `replace` (the last round takes the place of those before).
    Real seeds are always in; without any, InputError: seeding from synthetic data alone is how collapse begins.
    """
    if mode not in POOLS:
        raise InputError(f"rounds must be kept in one of the modes {', '.join(POOLS)}; got {mode!r}")
    if not real:
        raise InputError(
            "there are no real seeds, and seeding from synthetic data alone is refused; give real examples"
        )
    rounds = synthetic if mode == "accumulate" else synthetic[-1:]
    return list(dict.fromkeys([*real, *(row for rows in rounds for row in rows)]))
