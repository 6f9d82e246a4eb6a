"""What a selection cost, what it brought and when it pays: the arithmetic behind `evaluate roi`, without Spark.

A ledger holds a row for each run of a stage, of all that was done: choosing, other ways to choose, the small models,
what models wrote. A price table makes money of it. Three parts, as managers ask: the gain on
the tasks, the running cost of selecting again, the effect on the business at a value that the user gives. Nothing is
priced at 0 because a price is missing, and what can't be said is None with a reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from bare import cost
from betr import estimate
from curation.errors import InputError
from curation.report import number, percent
from evaluation.scaling import Estimate, LossLaw, Multiplier, losses
from evaluation.scaling import estimate as estimate_interval

Unit = Literal["points", "bits"]
COLUMNS = ("part", "stage", "seconds", "cores", "gpus", "tokens", "money")
RESOURCES = {"cores": "core_hour", "gpus": "gpu_hour"}
UNITS: dict[Unit, str] = {"points": "percentage points", "bits": "bits a byte"}
HOUR = 3600.0


# -- prices and costs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PriceTable:
    """Prices of an hour of a core and of a GPU, None: the table doesn't say; and of models, by name."""

    core_hour: float | None = None
    gpu_hour: float | None = None
    currency: str = "USD"
    models: Mapping[str, cost.Price] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in RESOURCES.values():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not 0 <= value < math.inf):
                raise InputError(f"{name} must be a number of 0 or more; got {value!r}")

    def price(self, name: str, stage: str) -> float:
        """InputError where the table lacks it: a cost that is left out would read as none."""
        value = getattr(self, name)
        if value is None:
            raise InputError(
                f"the price table has no {name}, which the stage {stage} needs; add it under machines, with 0 where it "
                "costs nothing"
            )
        return float(value)

    def of_calls(
        self, model: str, tokens_in: float, tokens_out: float, seconds: float, *, calls: int, untold: int = 0
    ) -> float:
        """What calls of a model cost, by their sums; untold: calls that told no tokens. InputError where the model has
        no price, or where its price is by tokens that nobody told.
        """
        price = cost.PriceTable(self.models, self.currency).price(model)
        if untold and (price.input_per_million or price.output_per_million):
            raise InputError(
                f"{untold:,} of {calls:,} calls of the model {model!r} told no tokens, and it is priced by tokens: "
                "price it by the hour (per_hour)"
            )
        return float(cost.row_costs(price, [tokens_in], [tokens_out], [seconds])[0])


def load_prices(path: str) -> PriceTable:
    """The file of `betr estimate` and `bare estimate`: `currency`, `machines`, `models`.

    A price that it doesn't hold stays unknown, not 0.
    """
    data = estimate.read_prices(path)
    currency = estimate.prices_in(data, path).currency
    machines = {name: data["machines"].get(name) for name in RESOURCES.values()}
    return PriceTable(**machines, currency=currency, models=cost.prices_in(data.get("models", {}), path))


@dataclass(frozen=True)
class StageCost:
    """What all runs of a stage took; money: what was paid beside the machines, such as a model's tokens by a server.

    part: of what it is a part, such as choosing, or small models. seconds: of all runs together.
    """

    part: str
    stage: str
    runs: int
    seconds: float
    core_hours: float
    gpu_hours: float
    tokens: int
    money: float
    cost: float


def costs(ledger: pd.DataFrame, prices: PriceTable) -> list[StageCost]:
    """Cost by stage, in the order of the first row of each: core-hours and GPU-hours at their prices, and money.

    ledger: COLUMNS; seconds of wall clock, cores and gpus held meanwhile, tokens and money null where there are none.
    """
    _check_ledger(ledger)
    found = []
    for stage, rows in ledger.groupby("stage", sort=False):
        seconds = rows["seconds"].fillna(0).to_numpy(np.float64)
        hours = {r: float(seconds @ rows[r].fillna(0).to_numpy(np.float64)) / HOUR for r in RESOURCES}
        priced = sum(taken * prices.price(RESOURCES[r], str(stage)) for r, taken in hours.items() if taken)
        money = float(rows["money"].fillna(0).sum())
        tokens = int(rows["tokens"].fillna(0).sum())
        part, runs = str(rows["part"].iloc[0]), len(rows)
        took = float(seconds.sum()), hours["cores"], hours["gpus"]
        found.append(StageCost(part, str(stage), runs, *took, tokens, money, float(priced + money)))
    return found


@dataclass(frozen=True)
class PartCost:
    """What the stages of a part took together."""

    part: str
    core_hours: float
    gpu_hours: float
    tokens: int
    cost: float


def parts(stages: Sequence[StageCost]) -> list[PartCost]:
    """Cost by part, in the order of their first stages."""
    found = []
    for part in dict.fromkeys(each.part for each in stages):
        mine = [each for each in stages if each.part == part]
        hours = (math.fsum(each.core_hours for each in mine), math.fsum(each.gpu_hours for each in mine))
        found.append(PartCost(part, *hours, sum(each.tokens for each in mine), math.fsum(each.cost for each in mine)))
    return found


def _check_ledger(ledger: pd.DataFrame) -> None:
    if absent := [column for column in COLUMNS if column not in ledger]:
        raise InputError(f"ledger: no column {', '.join(absent)}; it has {', '.join(map(str, ledger))}")
    if ledger.empty:
        raise InputError("ledger: it has no row, so there is no cost to speak of; run the stages first")
    for column in COLUMNS[2:]:
        values = pd.to_numeric(ledger[column])
        if (values < 0).any() or np.isinf(values.to_numpy(np.float64, na_value=0.0)).any():
            stage = ledger["stage"][(values < 0) | (values == math.inf)].iloc[0]
            raise InputError(f"ledger: {column} must be a number of 0 or more; it isn't in stage {stage}")
    held = ledger["cores"].fillna(0).add(ledger["gpus"].fillna(0)) > 0
    untimed = ledger[held & ledger["seconds"].isna()]
    if len(untimed):
        raise InputError(
            f"ledger: the stage {untimed['stage'].iloc[0]} held machines for an unknown time; say its seconds"
        )
    unpaid = ledger[~held & ledger["money"].isna() & (ledger["tokens"].fillna(0) > 0)]
    if len(unpaid):
        raise InputError(
            f"ledger: the stage {unpaid['stage'].iloc[0]} made tokens on no machine and for no money; say what it "
            "cost, with 0 where that is so"
        )


# -- what was gained ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gained:
    """What some stages bought: a gain over what there was without them, with its interval, in `unit`.

    rival: of another way to choose: it isn't surely worse than the one that the return is of.
    """

    name: str
    stages: tuple[str, ...]
    gain: Estimate
    unit: Unit = "points"
    rival: bool = False

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"{self.name}: a gain is in {' or '.join(UNITS)}; got {self.unit!r}")


@dataclass(frozen=True)
class PerCost:
    """A gain beside its cost; each: what one unit of money bought, None where it cost nothing. stages: their shares."""

    name: str
    unit: Unit
    gain: Estimate
    cost: float
    each: Estimate | None
    stages: tuple[tuple[str, float], ...]
    rival: bool = False


def per_cost(stages: Sequence[StageCost], gained: Sequence[Gained]) -> list[PerCost]:
    """Gain per cost, and how the cost is made up by stage. A stage pays for one gain only: else it'd count twice."""
    taken: dict[str, str] = {}
    for each in gained:
        for stage in each.stages:
            if stage in taken:
                raise InputError(f"the stage {stage} can't pay for both {taken[stage]} and {each.name}; name it once")
            taken[stage] = each.name
    return ways(stages, gained)


def ways(stages: Sequence[StageCost], gained: Sequence[Gained]) -> list[PerCost]:
    """Gain per cost of ways to choose of which one alone would be taken: stages that several need count for each."""
    of = {each.stage: each.cost for each in stages}
    found = []
    for each in gained:
        if unknown := [stage for stage in each.stages if stage not in of]:
            raise InputError(f"{each.name}: no stage {unknown[0]!r} in the ledger; there are {', '.join(of)}")
        spent = math.fsum(of[stage] for stage in each.stages)
        bought = _scaled(each.gain, 1 / spent) if spent > 0 else None
        by_stage = tuple((stage, of[stage]) for stage in each.stages)
        found.append(PerCost(each.name, each.unit, each.gain, spent, bought, by_stage, each.rival))
    return found


def _scaled(given: Estimate, factor: float) -> Estimate:
    low, high = (None if end is None else end * factor for end in (given.low, given.high))
    return Estimate(given.value * factor, low, high)


# -- against training longer -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BreakEven:
    """From which cost of training on a selection pays: it costs S once and training then takes 1 / m of the compute.

    training: S / (1 - 1 / m), None with a reason where no training is dear enough; high None: the interval is open.
    saved: of the planned training, S taken off.
    """

    selection: float
    multiplier: Estimate | None
    training: Estimate | None
    planned: float | None
    saved: Estimate | None
    reason: str = ""


def break_even(selection: float, multiplier: Multiplier, *, planned: float | None = None) -> BreakEven:
    """selection: what selecting costs; planned: what the training is to cost without it."""
    for name, value in (("the selection's cost", selection), ("the planned training's cost", planned)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} must be a number of 0 or more; got {value!r}")
    if multiplier.value is None:
        return BreakEven(selection, None, None, planned, None, multiplier.reason)
    m = Estimate(multiplier.value, multiplier.low, multiplier.high)
    saved = None if planned is None else _turned(m, lambda x: planned * (1 - 1 / x) - selection)
    if m.value <= 1:
        reason = "the selection saves no compute, so that no training is dear enough"
        return BreakEven(selection, m, None, planned, saved, reason)
    value = selection / (1 - 1 / m.value)
    # The larger the multiplier, the sooner it pays.
    low = None if m.high is None else selection / (1 - 1 / m.high)
    high = None if m.low is None or m.low <= 1 else selection / (1 - 1 / m.low)
    return BreakEven(selection, m, Estimate(value, low, high), planned, saved)


def _turned(given: Estimate, function: Any) -> Estimate:
    """A rising function of a figure and of its ends."""
    return Estimate(function(given.value), *(None if end is None else function(end) for end in (given.low, given.high)))


@dataclass(frozen=True)
class Longer:
    """How long plain training takes for the same gain, by the law of its own runs.

    tokens, times: in all, and as multiples of those trained; None with a reason where no number of tokens is enough;
    high None: in too many replicates none is. extrapolated: beyond the runs that the law was fitted to.
    """

    trained: float
    tokens: Estimate | None
    times: Estimate | None
    extrapolated: bool
    reason: str = ""


def longer(law: LossLaw, gain: Estimate, *, parameters: float, tokens: float) -> Longer:
    """Plain training of N parameters to L(N, D) - gain: D' = (B / (L - gain - E - A / N^alpha))^(1 / beta).

    gain: in the loss's unit. The interval takes the law's replicates with the gain's own ends.
    """
    if not (parameters > 0 and tokens > 0):
        raise InputError(f"parameters and tokens must be above 0; got {parameters!r} and {tokens!r}")
    if gain.value <= 0:
        return Longer(tokens, Estimate(tokens), Estimate(1.0), False, "there is no gain to catch up with")
    value = _until(law.point[None], gain.value, parameters, tokens)[0]
    if not np.isfinite(value):
        reason = f"a model of {number(int(parameters))} parameters gains that from no number of tokens, by this law"
        return Longer(tokens, None, None, True, reason)
    ends = [gain.value if end is None else end for end in (gain.low, gain.high)]
    below = np.quantile(_until(law.replicates, max(0.0, ends[0]), parameters, tokens), (1 - law.level) / 2)
    above = np.quantile(_until(law.replicates, ends[1], parameters, tokens), (1 + law.level) / 2, method="inverted_cdf")
    high = max(float(above), float(value)) if np.isfinite(above) else None
    found = Estimate(float(value), min(float(below), float(value)), high)
    return Longer(tokens, found, _scaled(found, 1 / tokens), not law.within(parameters, float(value)))


def _until(rows: np.ndarray, gain: float, parameters: float, tokens: float) -> np.ndarray:
    """D' by each row of log E, log A, log B, alpha, beta; infinite where no number of tokens is enough."""
    wanted = losses(rows, [parameters], [tokens])[:, 0] - gain
    left = wanted - np.exp(rows[:, 0]) - np.exp(rows[:, 1] - rows[:, 3] * math.log(parameters))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(np.where(left > 0, np.exp((rows[:, 2] - np.log(left)) / rows[:, 4]), np.inf))


# -- at equal cost -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualCost:
    """An arm beside plain training for the same money, by the laws of both arms' runs.

    choosing, training: what choosing costs, and one training; extra: the one as a share of the other, so that plain
    training reads tokens, and the arm tokens / (1 + extra). gain: L_plain(N, tokens) - L_arm(N, tokens / (1 + extra)),
    N parameters, the loss's unit; None with a reason: both lie among the runs, or nothing is said. planned: training is
    the one that the user named, not that of a small model.
    """

    choosing: float
    training: float | None
    planned: bool
    extra: float | None
    parameters: float | None
    tokens: float | None
    gain: Estimate | None
    reason: str = ""


def equal_cost(
    plain: LossLaw | None, method: LossLaw | None, *, choosing: float, training: float | None, planned: bool = False,
    reason: str = "",
) -> EqualCost:  # fmt: skip
    """At the largest model and the most tokens that both laws' runs have. reason: why there is no law.

    Replicates of both are a step apart, since arms fitted with one seed have drawn the same places among their runs.
    """
    if training is None or training <= 0:
        return EqualCost(choosing, training, planned, None, None, None, None, "nobody knows what a training costs")
    extra = choosing / training
    known = (choosing, training, planned, extra)
    if plain is None or method is None:
        return EqualCost(*known, None, None, None, reason or "there is no law of both arms' runs")
    size = min(plain.parameters.max(), method.parameters.max())
    tokens = min(plain.tokens.max(), method.tokens.max())
    fewer = tokens / (1 + extra)
    if not (plain.within(size, tokens) and method.within(size, fewer)):
        least = max(plain.tokens.min(), method.tokens.min())
        told = (
            f"choosing costs {_share(extra)} a training, so that the arm would be left with {number(int(fewer))} "
            f"tokens beside {number(int(tokens))}, and nothing under {number(int(least))} was trained"
        )
        return EqualCost(*known, float(size), float(tokens), None, told)
    value = float(plain.loss([size], [tokens])[0] - method.loss([size], [fewer])[0])
    theirs, ours = plain.replicated([size], [tokens])[:, 0], method.replicated([size], [fewer])[:, 0]
    rows = min(len(theirs), len(ours))
    gain = estimate_interval(value, theirs[:rows] - np.roll(ours[:rows], 1), plain.level)
    return EqualCost(*known, float(size), float(tokens), gain)


# -- the three parts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Running:
    """What selecting again costs: the stages that run again, each at a share of what it cost the first time."""

    times_a_year: float
    once: float
    a_year: float
    stages: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Effect:
    """What the gain is worth in a year, by the value a percentage point that the user gave, and what is left of it.

    net: after the running cost; pays_back: years until the first cost is back, None where net isn't above 0.
    """

    value_per_point: float
    points: Estimate
    a_year: Estimate
    net: Estimate
    pays_back: float | None


@dataclass(frozen=True)
class Return:
    """All of the page in figures. reasons: what couldn't be said, and why."""

    currency: str
    stages: tuple[StageCost, ...]
    parts: tuple[PartCost, ...]
    total: float
    gains: tuple[PerCost, ...]
    ways: tuple[PerCost, ...]
    running: Running | None
    effect: Effect | None
    break_even: BreakEven | None
    longer: Longer | None
    equal_cost: EqualCost | None
    reasons: tuple[str, ...]


def return_on(
    ledger: pd.DataFrame,
    prices: PriceTable,
    gained: Sequence[Gained],
    *,
    multiplier: Multiplier | None = None,
    planned_training: float | None = None,
    plain: Longer | None = None,
    times_a_year: float = 0.0,
    repeated: Mapping[str, float] | None = None,
    value_per_point: float | None = None,
    others: Sequence[Gained] = (),
    equal: EqualCost | None = None,
    unsaid: Sequence[str] = (),
) -> Return:
    """Cost, gain, running cost and effect. multiplier, plain, equal and value are of the first of `gained`.

    others: all ways to choose that were compared, whose stages may be the same; unsaid: what more isn't known.
    repeated: stage -> the share of its cost that selecting again takes (1: all of it; new documents alone: less).
    value_per_point: money a year for one percentage point.
    """
    stages = costs(ledger, prices)
    gains = per_cost(stages, gained)
    if not gains:
        raise InputError("the return needs a gain and the stages that paid for it; give at least one")
    selection = gains[0].cost
    reasons = []
    running = _running(stages, times_a_year, repeated or {})
    if running is None:
        reasons.append("running cost: nobody said how often a year it is selected again, and which stages that takes")
    effect = None
    if value_per_point is None:
        reasons.append("effect on the business: nobody said what a percentage point is worth")
    elif gains[0].unit != "points":
        reasons.append(
            "effect on the business: the gain is in bits a byte, and how many right answers that is isn't known"
        )
    else:
        effect = _effect(gains[0].gain, value_per_point, selection, 0.0 if running is None else running.a_year)
    even = None
    if multiplier is None:
        reasons.append("break-even: there is no compute multiplier; fit a law to each arm's runs")
    else:
        even = break_even(selection, multiplier, planned=planned_training)
        if even.reason:
            reasons.append(f"break-even: {even.reason}")
    if plain is None:
        reasons.append("training longer: there is no law of the plain runs; train it at more sizes and tokens")
    elif plain.reason:
        reasons.append(f"training longer: {plain.reason}")
    total = math.fsum(each.cost for each in stages)
    if equal is None:
        reasons.append("equal cost: there is no law of both arms' runs; train them at more sizes and tokens")
    elif equal.reason:
        reasons.append(f"equal cost: {equal.reason}")
    return Return(
        prices.currency, tuple(stages), tuple(parts(stages)), total, tuple(gains), tuple(ways(stages, others)), running,
        effect, even, plain, equal, (*reasons, *unsaid),
    )  # fmt: skip


def _running(stages: Sequence[StageCost], times: float, repeated: Mapping[str, float]) -> Running | None:
    if not 0 <= times < math.inf:
        raise InputError(f"how often a year it is selected again must be a number of 0 or more; got {times!r}")
    of = {each.stage: each.cost for each in stages}
    for stage, share in repeated.items():
        if stage not in of:
            raise InputError(f"running cost: no stage {stage!r} in the ledger; there are {', '.join(of)}")
        if not 0 <= share < math.inf:
            raise InputError(f"running cost: the share of {stage} must be a number of 0 or more; got {share!r}")
    if not times or not repeated:
        return None
    again = tuple((stage, of[stage] * share) for stage, share in repeated.items())
    once = math.fsum(part for _, part in again)
    return Running(times, once, times * once, again)


def _effect(points: Estimate, value: float, selection: float, running: float) -> Effect:
    if not 0 <= value < math.inf:
        raise InputError(f"the value of a percentage point must be a number of 0 or more; got {value!r}")
    a_year = _scaled(points, value)
    net = _turned(a_year, lambda x: x - running)
    return Effect(value, points, a_year, net, selection / net.value if net.value > 0 else None)


def as_json(found: Return) -> dict[str, Any]:
    """The return as `--json` prints it."""
    return dataclasses.asdict(found)


# -- in words ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """The three parts, the break-even, and what goes against it or couldn't be said."""

    gain: tuple[str, ...]
    running: tuple[str, ...]
    effect: tuple[str, ...]
    against: tuple[str, ...]


def words(found: Return) -> Words:
    """The return in sentences; every number is one of the result's."""
    return Words(
        tuple(_gain_words(found)), tuple(_running_words(found)), tuple(_effect_words(found)),
        tuple(_against_words(found)),
    )  # fmt: skip


def money(value: float, currency: str) -> str:
    """An amount: cents below 100, whole units above."""
    told = f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{told} {currency}".replace("-", "−")


def amounts(given: Estimate, currency: str) -> str:
    """An amount with its interval, an open end in words."""
    if given.low is None and given.high is None:
        return money(given.value, currency)
    low = "at least" if given.low is None else money(given.low, currency)
    high = "no limit" if given.high is None else money(given.high, currency)
    return f"{money(given.value, currency)} [{low} to {high}]"


def figure(given: Estimate) -> str:
    """A gain with its interval."""
    if given.low is None or given.high is None:
        return number(given.value)
    return f"{number(given.value)} [{number(given.low)}, {number(given.high)}]"


def _gain_words(found: Return) -> Iterator[str]:
    yield from _gains_alone(found)
    yield from _equal_words(found)


def _gains_alone(found: Return) -> Iterator[str]:
    for each in found.gains:
        yield (
            f"{each.name}: {figure(each.gain)} {UNITS[each.unit]}, for {money(each.cost, found.currency)}."
            + ("" if each.each is None else f" Each {found.currency} bought {figure(each.each)}.")
        )
    if (even := found.break_even) is not None and even.training is not None and even.multiplier is not None:
        yield (
            f"Training reaches the same with {figure(even.multiplier)} times less compute. The selection pays as soon "
            f"as training costs {amounts(even.training, found.currency)}."
        )
    if even is not None and even.saved is not None and even.planned is not None and even.saved.value > 0:
        yield (
            f"Of a training that costs {money(even.planned, found.currency)} it saves "
            f"{amounts(even.saved, found.currency)}, its own cost taken off."
        )
    if (plain := found.longer) is not None and plain.times is not None and not plain.reason:
        beyond = ", which lies beyond what was trained" if plain.extrapolated else ""
        open_end = "" if plain.times.high is not None else ", perhaps never"
        ends = "" if plain.times.high is None else f" [{number(plain.times.low)}, {number(plain.times.high)}]"
        yield f"Without it the same takes {number(plain.times.value)}{ends} times the tokens{open_end}{beyond}."


def _equal_words(found: Return) -> Iterator[str]:
    equal = found.equal_cost
    if equal is None or equal.extra is None or equal.training is None:
        return
    whose = "the training that is planned" if equal.planned else "one small model's training"
    yield (
        f"Choosing costs {money(equal.choosing, found.currency)}, {_share(equal.extra)} {whose} "
        f"({money(equal.training, found.currency)}): for that money plain training could read as many tokens more."
    )
    if equal.gain is not None:
        arm, ahead = found.gains[0].name.partition(" over ")[0], equal.gain.value >= 0
        gap = equal.gain if ahead else _behind(equal.gain)
        yield (
            f"At equal cost {arm} is {figure(gap)} {UNITS['bits']} {'ahead of' if ahead else 'behind'} plain training, "
            "by the laws of the small models."
        )


def _share(extra: float) -> str:
    return f"{percent(extra)} of" if extra < 10 else f"{number(extra)} times"


def _behind(gain: Estimate) -> Estimate:
    """A gain below 0, seen from the other side."""
    low, high = (None if end is None else -end for end in (gain.high, gain.low))
    return Estimate(-gain.value, low, high)


def _running_words(found: Return) -> Iterator[str]:
    yield f"All stages together cost {money(found.total, found.currency)} so far."
    dearest = max(found.stages, key=lambda each: (each.cost, each.stage))
    if found.total > 0:
        yield f"The dearest stage is {dearest.stage}: {money(dearest.cost, found.currency)}."
    if (running := found.running) is not None:
        yield (
            f"Selecting again costs {money(running.once, found.currency)}; {running.times_a_year:g} times a year "
            f"that is {money(running.a_year, found.currency)}."
        )


def _effect_words(found: Return) -> Iterator[str]:
    if (effect := found.effect) is None:
        return
    yield (
        f"At {money(effect.value_per_point, found.currency)} a percentage point and year, as given, the gain is worth "
        f"{amounts(effect.a_year, found.currency)} a year."
    )
    if effect.net.value > 0:
        yield f"After the running cost {amounts(effect.net, found.currency)} are left."
    if effect.pays_back is not None:
        yield f"The first cost is back after {number(effect.pays_back)} years."


def _cheaper_words(found: Return) -> Iterator[str]:
    """Other ways that cost less and aren't surely worse."""
    first = found.gains[0]
    for each in found.ways:
        if each.rival and each.cost < first.cost:
            told = f"{figure(each.gain)} {UNITS[each.unit]} for {money(each.cost, found.currency)}"
            yield f"A cheaper way isn't surely worse: {each.name}, {told}."


def _against_words(found: Return) -> Iterator[str]:
    for each in found.gains:
        if each.gain.value <= 0:
            yield f"{each.name} gained nothing: {figure(each.gain)} {UNITS[each.unit]}."
        elif each.gain.low is not None and each.gain.low <= 0:
            yield f"{each.name} may have gained nothing: its interval holds 0."
    yield from _cheaper_words(found)
    if (equal := found.equal_cost) is not None and equal.gain is not None:
        if equal.gain.value <= 0:
            yield "For the same money plain training is as good or better."
        elif equal.gain.low is None or equal.gain.low <= 0:
            yield "For the same money plain training may be as good: the interval holds 0."
    even = found.break_even
    doubtful = even is not None and even.multiplier is not None and (even.multiplier.low or math.inf) <= 1
    if doubtful and even is not None and even.training is not None:
        yield "It may never pay against training longer: the interval of the compute saved holds none at all."
    if even is not None and even.saved is not None and even.saved.value <= 0 and even.planned is not None:
        yield (
            f"For a training that costs {money(even.planned, found.currency)} the selection costs more than it saves: "
            f"{amounts(even.saved, found.currency)}."
        )
    if found.effect is not None and found.effect.net.value <= 0:
        yield f"The gain isn't worth its running cost: {amounts(found.effect.net, found.currency)} a year."
    elif found.effect is not None and found.effect.net.low is not None and found.effect.net.low <= 0:
        yield "The gain may not be worth its running cost: the interval of what is left holds 0."
    paid = {stage for each in (*found.gains, *found.ways) for stage, _ in each.stages}
    rest = [each for each in found.stages if each.stage not in paid and each.cost > 0]
    if rest:
        spent = math.fsum(each.cost for each in rest)
        yield f"No gain is set against {', '.join(each.stage for each in rest)}: {money(spent, found.currency)} more."
    yield from (f"Not said, {reason}." for reason in found.reasons)
