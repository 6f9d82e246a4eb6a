"""Arms side by side at equal tokens: gains over random, winners, and whether a target wins on its own benchmark.

Figures alone, from the tables PROXY_RUNS and EVALUATIONS as pandas frames. Fewer bits per byte are better; a gain is
what the other arm needs more. Every interval is by bootstrap over seeds and examples (resampling.py), and a verdict
follows the joint intervals: all differences of one question at one size hold at once (max-statistic).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd

from curation.errors import InputError
from curation.report import number, percent
from curation.statistics import wilson
from evaluation.resampling import REPLICATES, Contrasts, Floats, Panel, contrasts, resample

Verdict = Literal["better", "worse", "open", "alone"]
BASELINE = "random"
LEVEL = 0.95
_RUN_COLUMNS = (
    "proxy_id", "arm_id", "arm", "size", "parameters", "seed", "tokens", "epochs", "loss", "status", "reason", "flops",
    "seconds", "device", "tokenizer_id", "held_out_id",
)  # fmt: skip
_EVALUATION_COLUMNS = ("proxy_id", "phase", "benchmark", "example_id", "bits_per_byte", "correct")


@dataclass(frozen=True)
class Size:
    """A size of model that was compared: what each arm trained on, and of how many comparisons each verdict is one."""

    size: str
    parameters: int
    tokens: int
    arms: int
    comparisons: int


@dataclass(frozen=True)
class ArmRuns:
    """The runs of an arm at a size: finished ones are averaged, diverged ones are left out and counted."""

    arm: str
    size: str
    parameters: int
    tokens: int | None
    epochs: float | None
    finished: int
    diverged: int
    reasons: tuple[str, ...]
    loss: float | None
    flops: float
    seconds: float
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Loss:
    """Mean bits per byte of an arm, over seeds and examples; benchmark None: the mean of the benchmarks' means."""

    arm: str
    size: str
    benchmark: str | None
    bits_per_byte: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """How much better an arm is than another: fewer bits per byte, or more right answers (a share), above 0 is better.

    low, high: for this figure alone; joint_low, joint_high: for all of its question and size at once. verdict:
    better or worse where the joint interval leaves out 0, open where it doesn't, alone where one seed or one example
    can't tell the spread.
    """

    arm: str
    over: str
    size: str
    benchmark: str | None
    gain: float
    low: float
    high: float
    joint_low: float
    joint_high: float
    verdict: Verdict


@dataclass(frozen=True)
class Winner:
    """may_be_best: arms that no other surely beats, the lowest bits per byte first; winner: where it is one alone."""

    size: str
    benchmark: str | None
    winner: str | None
    may_be_best: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """An arm for one target measured on a benchmark: its gain over the baseline there."""

    size: str
    arm: str
    target: str
    benchmark: str
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagonal:
    """Where the arm made for a benchmark stands on it among the arms for one target: 1 is best.

    low: 1 and the arms that are surely better; high: all but those that are surely worse. wins: high is 1; loses: low
    is above 1.
    """

    size: str
    arm: str
    benchmark: str
    rank: int
    low: int
    high: int
    of: int


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers beside chance; low and high hold for all arms and benchmarks of the size at once."""

    arm: str
    size: str
    benchmark: str
    accuracy: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Comparison:
    """All of a comparison in figures. sizes ascend; the last one is what the words speak of."""

    phase: str
    baseline: str
    level: float
    replicates: int
    seed: int
    examples: dict[str, int]
    sizes: tuple[Size, ...]
    runs: tuple[ArmRuns, ...]
    losses: tuple[Loss, ...]
    gains: tuple[Gain, ...]
    pairs: tuple[Gain, ...]
    winners: tuple[Winner, ...]
    cells: tuple[Cell, ...]
    diagonals: tuple[Diagonal, ...]
    accuracies: tuple[Accuracy, ...]
    accuracy_gains: tuple[Gain, ...]
    left_out: tuple[str, ...]


def compare(
    runs: pd.DataFrame,
    evaluations: pd.DataFrame,
    *,
    baseline: str = BASELINE,
    targets: Mapping[str, str] | None = None,
    chance: Mapping[str, float] | None = None,
    phase: str = "pretrained",
    level: float = LEVEL,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Comparison:
    """Every arm against the baseline and each other, by benchmark and size, from rows of PROXY_RUNS and EVALUATIONS.

    targets: arm -> the one benchmark that it was made for, for the matrix. chance: benchmark -> share of right answers
    of a guess, for accuracy. Arms at unequal tokens, models or held-out examples are refused: they don't compare.
    """
    if not 0.5 <= level < 1:
        raise InputError(f"the level of the intervals must be at least 0.5 and below 1; got {level!r}")
    runs, rows = _checked(runs, evaluations, phase)
    finished = runs[runs["status"] == "finished"]
    arms = sorted(set(runs["arm"]))
    if baseline not in arms or len(arms) < 2:
        raise InputError(
            f"compare: it needs runs of the baseline {baseline!r} and of another arm; there are {', '.join(arms)}"
        )
    targets = dict(targets or {})
    _check_targets(targets, runs, rows)
    left_out: list[str] = []
    parts: list[Comparison] = []
    by_size = runs.groupby("size")["parameters"].first().sort_values()
    for size in by_size.index:
        mine = finished[finished["size"] == size]
        absent = sorted(set(runs["arm"]) - set(mine["arm"]))
        if baseline in absent or mine["arm"].nunique() < 2:
            left_out.append(f"size {size}: {' and '.join(absent)} finished no run, so nothing is compared there")
            continue
        left_out += [f"size {size}: {arm} finished no run and isn't compared" for arm in absent]
        found = _one_size(
            str(size), mine, rows, baseline=baseline, targets=targets, chance=chance or {}, level=level,
            replicates=replicates, seed=seed,
        )  # fmt: skip
        left_out += found.left_out
        parts.append(found)
    if not parts:
        raise InputError(
            f"compare: at no size did {baseline} and another arm finish a run; {'; '.join(left_out)}: look at the "
            "runs' reasons"
        )
    joined = {
        field.name: tuple(each for part in parts for each in getattr(part, field.name))
        for field in dataclasses.fields(Comparison)
        if field.name in _PARTS
    }
    return Comparison(
        phase=phase, baseline=baseline, level=level, replicates=replicates, seed=seed, examples=parts[-1].examples,
        runs=tuple(_runs(runs, by_size)), left_out=tuple(left_out), **joined,
    )  # fmt: skip


def by_tokens(runs: pd.DataFrame, evaluations: pd.DataFrame, **settings: Any) -> tuple[Comparison, ...]:
    """A comparison for each number of tokens (the column `asked`), ascending; the last one is what is told.

    settings: of `compare`. At fewer tokens than the most there may be none, where no arm finished a run beside the
    baseline: the last one's left_out says so.
    """
    found: list[Comparison] = []
    left_out: list[str] = []
    counts = sorted(set(runs["asked"]))
    for asked in counts:
        mine = runs[runs["asked"] == asked]
        if asked < counts[-1] and not _compares(mine, settings.get("baseline", BASELINE)):
            left_out.append(f"at {number(asked)} tokens nothing is compared: too few arms finished a run")
            continue
        found.append(compare(mine, evaluations, **settings))
    return (*found[:-1], dataclasses.replace(found[-1], left_out=(*found[-1].left_out, *left_out)))


def _compares(runs: pd.DataFrame, baseline: str) -> bool:
    """Whether at some size the baseline and another arm finished a run."""
    arms = runs[runs["status"] == "finished"].groupby("size")["arm"].agg(set)
    return any(baseline in each and len(each) > 1 for each in arms)


_PARTS = ("sizes", "losses", "gains", "pairs", "winners", "cells", "diagonals", "accuracies", "accuracy_gains")


def chance_of(held_out: pd.DataFrame) -> dict[str, float]:
    """benchmark -> share of its examples that a guess gets right, from HELD_OUT_EXAMPLES; without choices: absent."""
    measured = held_out[held_out["removed"].isna()]
    choices = measured["choices"].map(lambda each: 0 if each is None else len(each))
    there = measured.assign(chance=1 / choices.where(choices > 1))
    by_benchmark = there.groupby("benchmark")["chance"]
    return {str(b): float(each.mean()) for b, each in by_benchmark if not each.isna().any()}


# -- what is compared --------------------------------------------------------------------------------------------------


def _checked(runs: pd.DataFrame, evaluations: pd.DataFrame, phase: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    for what, frame, columns in (
        ("proxy_runs", runs, _RUN_COLUMNS),
        ("evaluations", evaluations, _EVALUATION_COLUMNS),
    ):
        if absent := [column for column in columns if column not in frame]:
            raise InputError(f"{what}: no column {', '.join(absent)}; it has {', '.join(map(str, frame))}")
    if runs.empty:
        raise InputError("compare: there is no run of a proxy model; train some first")
    unknown = sorted(set(runs["status"]) - {"finished", "diverged"})
    if unknown:
        raise InputError(f"proxy_runs: status must be finished or diverged; got {unknown[0]!r}")
    twice = runs[runs.duplicated(["arm", "size", "seed"])]
    if len(twice):
        one = twice.iloc[0]
        raise InputError(
            f"proxy_runs: {one['arm']}, {one['size']}, seed {one['seed']} is there twice; leave out the runs of other "
            "settings"
        )
    _check_same(runs[runs["status"] == "finished"], runs)
    rows = evaluations[evaluations["phase"] == phase]
    if rows.empty:
        phases = ", ".join(sorted(set(evaluations["phase"]))) or "none"
        raise InputError(f"evaluations: no row of the phase {phase!r}; there are {phases}")
    return runs, rows


def _check_same(finished: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Whatever must be the same for losses to compare: of all runs, of an arm, of a size."""
    for column, why in (
        ("held_out_id", "measured on other examples"),
        ("tokenizer_id", "models that read other tokens"),
    ):
        if finished[column].nunique() > 1:
            raise InputError(
                f"proxy_runs: runs with {column} {' and '.join(sorted(map(str, set(finished[column]))))}: {why} they "
                "don't compare; choose one"
            )
    for arm, mine in runs.groupby("arm"):
        if mine["arm_id"].nunique() > 1:
            raise InputError(
                f"proxy_runs: the arm {arm} stands for {mine['arm_id'].nunique()} selections; choose one arm_id"
            )
    for size, mine in runs.groupby("size"):
        if mine["parameters"].nunique() > 1:
            raise InputError(f"proxy_runs: models of size {size} have unequal parameters, so they don't compare")
    for size, mine in finished.groupby("size"):
        by_arm = mine.groupby("arm")["tokens"].agg(["min", "max"])
        if by_arm["min"].min() != by_arm["max"].max():
            told = ", ".join(
                f"{arm} {number(int(low))}" if low == high else f"{arm} {number(int(low))} to {number(int(high))}"
                for arm, low, high in by_arm.itertuples()
            )
            raise InputError(
                f"proxy_runs: at size {size} the arms trained on unequal tokens ({told}), and more tokens alone make a "
                "model better; train all on as many"
            )


def _check_targets(targets: Mapping[str, str], runs: pd.DataFrame, rows: pd.DataFrame) -> None:
    for arm, benchmark in targets.items():
        if arm not in set(runs["arm"]):
            raise InputError(f"targets: no run of the arm {arm!r}; there are {', '.join(sorted(set(runs['arm'])))}")
        if benchmark not in set(rows["benchmark"]):
            there = ", ".join(sorted(set(rows["benchmark"])))
            raise InputError(f"targets: {arm} was made for {benchmark!r}, which isn't measured; measured are {there}")
    if len(set(targets.values())) < len(targets):
        raise InputError("targets: two arms are made for the same benchmark; the matrix has one arm a target")


def panel_of(mine: pd.DataFrame, rows: pd.DataFrame, column: str, benchmarks: Sequence[str] | None = None) -> Panel:
    """Models on every example. InputError where one wasn't measured on what another was."""
    mine = mine.sort_values(["arm", "seed"], ignore_index=True)
    order = list(mine["proxy_id"])
    measured = rows[rows["proxy_id"].isin(order)]
    values: dict[str, Floats] = {}
    for benchmark, each in measured.groupby("benchmark"):
        if benchmarks is not None and benchmark not in benchmarks:
            continue
        if each.duplicated(["proxy_id", "example_id"]).any():
            raise InputError(f"evaluations: a model has two rows for one example of {benchmark}; each counts once")
        wide = each.pivot(index="proxy_id", columns="example_id", values=column).reindex(order)
        figures = wide.sort_index(axis=1).to_numpy(np.float64, na_value=np.nan)
        lacking = int((~np.isfinite(figures)).sum())
        if lacking:
            model = order[int(np.flatnonzero(~np.isfinite(figures).all(axis=1))[0])]
            raise InputError(
                f"evaluations: {lacking} of {figures.size} measures of {column} on {benchmark} are absent or no "
                f"number, of model {model} first; measure all finished models on the same examples"
            )
        values[str(benchmark)] = figures
    if not values:
        raise InputError("evaluations: no finished model of a size was measured; measure them first")
    models = {str(arm): list(each.index) for arm, each in mine.groupby("arm")}
    return Panel(models, values)


def _runs(runs: pd.DataFrame, order: pd.Series) -> Iterator[ArmRuns]:
    for size in order.index:
        for arm, mine in runs[runs["size"] == size].groupby("arm"):
            finished, diverged = mine[mine["status"] == "finished"], mine[mine["status"] == "diverged"]
            yield ArmRuns(
                arm=str(arm),
                size=str(size),
                parameters=int(mine["parameters"].iloc[0]),
                tokens=int(finished["tokens"].iloc[0]) if len(finished) else None,
                epochs=float(finished["epochs"].mean()) if len(finished) else None,
                finished=len(finished),
                diverged=len(diverged),
                reasons=tuple(dict.fromkeys(str(reason) for reason in diverged.sort_values("seed")["reason"])),
                loss=float(finished["loss"].mean()) if len(finished) else None,
                flops=float(mine["flops"].sum()),
                seconds=float(mine["seconds"].sum()),
                devices=tuple(sorted({str(device) for device in mine["device"].dropna()})),
            )


# -- the figures of a size ---------------------------------------------------------------------------------------------


def _one_size(
    size: str, mine: pd.DataFrame, rows: pd.DataFrame, *, baseline: str, targets: Mapping[str, str],
    chance: Mapping[str, float], level: float, replicates: int, seed: int,
) -> Comparison:  # fmt: skip
    panel = panel_of(mine, rows, "bits_per_byte")
    drawn = resample(panel, replicates=replicates, seed=seed)
    arms, benchmarks = panel.arms, panel.benchmarks
    columns: list[str | None] = [*benchmarks, *([None] if len(benchmarks) > 1 else [])]

    def differences(pairs: Sequence[tuple[str, str]], where: Sequence[str | None]) -> list[Gain]:
        """What the second arm of each pair needs more, in bits, one family of comparisons."""
        keys = [(arm, over, benchmark) for arm, over in pairs for benchmark in where]
        weights = np.stack([weight_of(panel, over, b) - weight_of(panel, arm, b) for arm, over, b in keys])
        found = contrasts(panel, drawn, weights, level=level)
        return [gain_of(found, k, size, *key) for k, key in enumerate(keys)]

    others = [arm for arm in arms if arm != baseline]
    gains = differences([(arm, baseline) for arm in others], columns)
    pairs = differences(list(combinations(arms, 2)), columns)
    keys = [(arm, benchmark) for arm in arms for benchmark in columns]
    means = contrasts(panel, drawn, np.stack([weight_of(panel, *key) for key in keys]), level=level)
    losses = tuple(
        Loss(arm, size, b, float(means.value[k]), float(means.low[k]), float(means.high[k]))
        for k, (arm, b) in enumerate(keys)
    )
    single = {arm: b for arm, b in targets.items() if arm in arms}
    cells: tuple[Cell, ...] = ()
    diagonals: tuple[Diagonal, ...] = ()
    if len(single) > 1:
        own = {(g.arm, g.benchmark): g for g in gains}
        cells = tuple(
            Cell(size, arm, single[arm], b, g.gain, g.joint_low, g.joint_high)
            for arm in single
            for b in dict.fromkeys(single.values())
            if (g := own.get((arm, b))) is not None
        )
        rivals = [(arm, other, single[arm]) for arm in single for other in single if other != arm]
        weights = np.stack([weight_of(panel, other, b) - weight_of(panel, arm, b) for arm, other, b in rivals])
        found = contrasts(panel, drawn, weights, level=level)
        beside = [gain_of(found, k, size, *rival) for k, rival in enumerate(rivals)]
        diagonals = tuple(
            _diagonal(arm, b, size, [g for g in beside if g.arm == arm], len(single)) for arm, b in single.items()
        )
    accuracies, accuracy_gains, left_out = _accuracy(
        size, mine, rows, baseline=baseline, chance=chance, level=level, replicates=replicates, seed=seed
    )
    one = mine.iloc[0]
    return Comparison(
        phase="", baseline=baseline, level=level, replicates=replicates, seed=seed,
        examples={b: v.shape[1] for b, v in panel.values.items()},
        sizes=(Size(size, int(one["parameters"]), int(one["tokens"]), len(arms), len(gains)),),
        runs=(), losses=losses, gains=tuple(gains), pairs=tuple(pairs),
        winners=tuple(
            winner_of(size, b, arms, {e.arm: e.bits_per_byte for e in losses if e.benchmark == b}, pairs)
            for b in columns
        ),
        cells=cells, diagonals=diagonals, accuracies=accuracies, accuracy_gains=accuracy_gains,
        left_out=tuple(left_out),
    )  # fmt: skip


def weight_of(panel: Panel, arm: str, benchmark: str | None) -> Floats:
    """Picks the mean of an arm on a benchmark, or over all of them (None), out of (arms, benchmarks)."""
    weights = np.zeros((len(panel.models), len(panel.values)))
    row = panel.arms.index(arm)
    if benchmark is None:
        weights[row] = 1 / len(panel.values)
    else:
        weights[row, panel.benchmarks.index(benchmark)] = 1
    return weights


def gain_of(found: Contrasts, k: int, size: str, arm: str, over: str, benchmark: str | None) -> Gain:
    low, high = float(found.joint_low[k]), float(found.joint_high[k])
    verdict: Verdict = "alone" if found.alone[k] else "better" if low > 0 else "worse" if high < 0 else "open"
    ends = float(found.value[k]), float(found.low[k]), float(found.high[k]), low, high
    return Gain(arm, over, size, benchmark, *ends, verdict)


def winner_of(
    size: str, benchmark: str | None, arms: Sequence[str], needs: Mapping[str, float], pairs: Sequence[Gain]
) -> Winner:
    """needs: what each arm needs, fewer are better; pairs: every pair of arms, on this benchmark among others."""
    beaten = {g.over for g in pairs if g.benchmark == benchmark and g.verdict == "better"}
    beaten |= {g.arm for g in pairs if g.benchmark == benchmark and g.verdict == "worse"}
    left = tuple(sorted((arm for arm in arms if arm not in beaten), key=lambda arm: (needs[arm], arm)))
    return Winner(size, benchmark, left[0] if len(left) == 1 else None, left)


def _diagonal(arm: str, benchmark: str, size: str, beside: Sequence[Gain], of: int) -> Diagonal:
    surely = [g.verdict for g in beside]
    rank = 1 + sum(g.gain < 0 for g in beside)
    return Diagonal(size, arm, benchmark, rank, 1 + surely.count("worse"), of - surely.count("better"), of)


def _accuracy(
    size: str, mine: pd.DataFrame, rows: pd.DataFrame, *, baseline: str, chance: Mapping[str, float], level: float,
    replicates: int, seed: int,
) -> tuple[tuple[Accuracy, ...], tuple[Gain, ...], list[str]]:  # fmt: skip
    """Accuracy on the benchmarks where an arm is surely above chance; the others with the reason."""
    answered = rows[rows["proxy_id"].isin(set(mine["proxy_id"])) & rows["correct"].notna()]
    known = sorted(set(answered["benchmark"]) & set(chance))
    unknown = sorted(set(answered["benchmark"]) - set(chance))
    left_out = [f"size {size}: accuracy on {b} isn't told, because nobody said what chance is there" for b in unknown]
    if not known:
        return (), (), left_out
    panel = panel_of(mine, answered.astype({"correct": float}), "correct", known)
    drawn = resample(panel, replicates=replicates, seed=seed)
    keys = [(arm, b) for arm in panel.arms for b in known]
    found = contrasts(panel, drawn, np.stack([weight_of(panel, *key) for key in keys]), level=level)
    every = []
    for k, (arm, benchmark) in enumerate(keys):
        n, value = panel.values[benchmark].shape[1], float(found.value[k])
        # Answers that all agree leave the bootstrap no spread: at least what so many examples leave open, corrected
        # for the number of comparisons (Bonferroni).
        wide = wilson(round(value * n), n, level=1 - (1 - level) / len(keys))
        low, high = min(float(found.joint_low[k]), wide[0], value), max(float(found.joint_high[k]), wide[1], value)
        every.append(Accuracy(arm, size, benchmark, value, max(0.0, low), min(1.0, high), chance[benchmark]))
    able = [b for b in known if any(each.low > each.chance for each in every if each.benchmark == b)]
    left_out += [f"size {size}: accuracy on {b} isn't told, because no arm is surely above chance" for b in known
                 if b not in able]  # fmt: skip
    if not able:
        return (), (), left_out
    # Where every benchmark with choices is told, so is their average, of one as of many.
    places: list[str | None] = [*able, *([None] if able == known else [])]
    others = [(arm, b) for arm in panel.arms if arm != baseline for b in places]
    weights = np.stack([weight_of(panel, arm, b) - weight_of(panel, baseline, b) for arm, b in others])
    compared = contrasts(panel, drawn, weights, level=level)
    gains = tuple(gain_of(compared, k, size, arm, baseline, b) for k, (arm, b) in enumerate(others))
    return tuple(each for each in every if each.benchmark in able), gains, left_out


def as_json(found: Comparison) -> dict[str, Any]:
    """The comparison as `--json` prints it."""
    return dataclasses.asdict(found)


# -- in words ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """What can be said, what goes against the arms that were meant to win, and what the figures rest on."""

    told: tuple[str, ...]
    against: tuple[str, ...]
    limits: tuple[str, ...]


def words(found: Comparison, *, ours: str | None = None) -> Words:
    """The comparison at its largest size in sentences; every number is one of the result's, as pages show it.

    ours: the arm whose defeats are listed; None: all but the baseline.
    """
    last = found.sizes[-1]
    meant = [g for g in found.gains if g.size == last.size and (ours is None or g.arm == ours)]
    if not meant:
        raise InputError(f"compare: the arm {ours!r} isn't compared at size {last.size}; choose one that is")
    overall = [g for g in meant if g.benchmark is None] or meant
    return Words(
        tuple(_told(found, last, overall)), tuple(_against(found, last, meant, overall, ours)), tuple(_limits(found))
    )


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def place(benchmark: str | None) -> str:
    """A benchmark in words: None is the average of all."""
    return "the average of the benchmarks" if benchmark is None else benchmark


def bits(value: float, low: float, high: float) -> str:
    """`0.198 [0.168, 0.227]`: to a thousandth of a bit, finer where an end would read as 0 and isn't."""
    ends = (value, low, high)
    digits = next((d for d in (3, 4, 5) if all(abs(end) >= 0.5 * 10**-d or not end for end in (low, high))), 6)
    told = [f"{round(end, digits) + 0.0:,.{digits}f}".replace("-", "−") for end in ends]
    return f"{told[0]} [{told[1]}, {told[2]}]"


def points(value: float, low: float, high: float) -> str:
    """A difference of shares in percentage points: `3.3 [1.2, 5.4]`."""
    told = [percent(round(end, 3) + 0.0)[:-1] for end in (value, low, high)]  # never a minus before nothing
    return f"{told[0]} [{told[1]}, {told[2]}]"


def _sentence(gain: Gain) -> str:
    """One gain in words, by what its interval allows."""
    where, gap = place(gain.benchmark), f"{bits(gain.gain, gain.joint_low, gain.joint_high)} bits a byte"
    if gain.verdict == "better":
        return f"{gain.arm} is better than {gain.over} on {where}, by {gap}."
    if gain.verdict == "worse":
        lost = bits(-gain.gain, -gain.joint_high, -gain.joint_low)
        return f"{gain.arm} is worse than {gain.over} on {where}, by {lost} bits a byte."
    if gain.verdict == "alone":
        return f"{gain.arm} differs from {gain.over} on {where} by {gap}, on one seed or one example: no verdict."
    return f"{gain.arm} can't be told from {gain.over} on {where}: {gap}."


def _told(found: Comparison, last: Size, overall: Sequence[Gain]) -> Iterator[str]:
    mine = [g for g in found.gains if g.size == last.size]
    yield from (_sentence(g) for g in sorted(overall, key=lambda g: (-g.gain, g.arm, g.benchmark or "")))
    for arm in dict.fromkeys(g.arm for g in overall):
        each = [g for g in mine if g.arm == arm and g.benchmark is not None]
        if len(each) < 2:
            continue
        parts = [
            f"{verdict} on {listed([str(g.benchmark) for g in each if g.verdict == verdict])}"
            for verdict in ("better", "worse", "open")
            if any(g.verdict == verdict for g in each)
        ]
        if parts:
            yield f"By benchmark, {arm} against {found.baseline} is {'; '.join(parts)}."
    for won in (w for w in found.winners if w.size == last.size):
        if won.winner is not None:
            yield f"{won.winner} wins on {place(won.benchmark)}: it surely beats every other arm."
    for diagonal in (d for d in found.diagonals if d.size == last.size):
        stands = f"{diagonal.arm}, made for {diagonal.benchmark}, ranks {_rank(diagonal)} on it"
        if diagonal.high == 1:
            yield f"{stands}: its own benchmark is surely its win."
        elif diagonal.low == 1:
            yield f"{stands}: it may be the best there, or not."
    for gain in (g for g in right_answers(found) if g.verdict in ("better", "worse")):
        more = f"{points(gain.gain, gain.joint_low, gain.joint_high)} percentage points"
        yield f"Right answers on {place(gain.benchmark)}: {gain.arm} has {more} more than {gain.over}."


def _rank(diagonal: Diagonal) -> str:
    return f"{diagonal.rank} [{diagonal.low}, {diagonal.high}] of {diagonal.of} arms for one target"


def _against(
    found: Comparison, last: Size, meant: Sequence[Gain], overall: Sequence[Gain], ours: str | None
) -> Iterator[str]:
    yield from (_sentence(g) for g in meant if g.verdict == "worse")
    yield from (_sentence(g) for g in overall if g.verdict in ("open", "alone"))
    for pair in (p for p in found.pairs if p.size == last.size and ours in (p.arm, p.over)):
        flipped = pair if pair.arm == ours else turned(pair)
        if flipped.over == found.baseline or flipped.benchmark is not None:
            continue
        if flipped.verdict in ("worse", "open", "alone"):
            yield _sentence(flipped)
    contested = [w for w in found.winners if w.size == last.size and w.winner is None]
    for each in contested:
        yield f"No winner on {place(each.benchmark)}: {listed(each.may_be_best)} may each be the best."
    for diagonal in (d for d in found.diagonals if d.size == last.size and d.low > 1):
        yield f"{diagonal.arm}, made for {diagonal.benchmark}, ranks {_rank(diagonal)} on it: it surely isn't the best."
    for smaller in found.sizes[:-1]:
        then = {(g.arm, g.benchmark): g for g in found.gains if g.size == smaller.size}
        for now in overall:
            before = then.get((now.arm, now.benchmark))
            if before is not None and {before.verdict, now.verdict} == {"better", "worse"}:
                yield f"At size {smaller.size} it is the other way round: {_sentence(before)}"
    lost = [r for r in found.runs if r.diverged]
    for run in lost:
        yield (
            f"{run.diverged} of {run.finished + run.diverged} runs of {run.arm} at size {run.size} diverged "
            f"({'; '.join(run.reasons)}): they are in no mean."
        )


def token_words(each: Sequence[Comparison]) -> tuple[list[str], list[str]]:
    """(what is told, what goes against it) of comparisons `by_tokens`: nothing where there is one number of tokens."""
    if len(each) < 2:
        return [], []
    counts, found = [number(e.sizes[-1].tokens) for e in each], each[-1]
    told = f"Told at {counts[-1]} tokens a model, the most of {listed(counts)}; laws use all of them."
    now = {(g.arm, g.benchmark): g for g in overall_gains(found)}
    against = [
        f"At {count} tokens it is the other way round: {_sentence(g)}"
        for count, earlier in zip(counts[:-1], each[:-1], strict=True)
        for g in overall_gains(earlier)
        if (then := now.get((g.arm, g.benchmark))) is not None and {g.verdict, then.verdict} == {"better", "worse"}
    ]
    return [told], against


def overall_gains(found: Comparison) -> list[Gain]:
    """The gains at the largest size on the average of the benchmarks, or on the only one."""
    mine = [g for g in found.gains if g.size == found.sizes[-1].size]
    return [g for g in mine if g.benchmark is None] or mine


def right_answers(found: Comparison) -> list[Gain]:
    """The gains in right answers at the largest size, without the average of one benchmark."""
    mine = [g for g in found.accuracy_gains if g.size == found.sizes[-1].size]
    many = len({g.benchmark for g in mine} - {None}) > 1
    return [g for g in mine if g.benchmark is not None or many]


def turned(gain: Gain) -> Gain:
    """The same difference, seen from the other arm."""
    other: Verdict = {"better": "worse", "worse": "better"}.get(gain.verdict, gain.verdict)  # type: ignore[assignment]
    return dataclasses.replace(
        gain, arm=gain.over, over=gain.arm, gain=-gain.gain, low=-gain.high, high=-gain.low,
        joint_low=-gain.joint_high, joint_high=-gain.joint_low, verdict=other,
    )  # fmt: skip


def _limits(found: Comparison) -> Iterator[str]:
    for each in found.sizes:
        seeds = [r.finished for r in found.runs if r.size == each.size and r.finished]
        runs = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        yield (
            f"Size {each.size}: {number(each.parameters)} parameters, {number(each.tokens)} tokens an arm, {runs} "
            f"seed{'' if max(seeds) == 1 else 's'} an arm. Its {each.comparisons} gains over {found.baseline} hold "
            f"together at {percent(found.level, 0)} (max-statistic, {number(found.replicates)} replicates over seeds "
            "and examples); so do, each by themselves, its pairs of arms and its ranks."
        )
    repeated = [r for r in found.runs if r.epochs is not None and r.epochs > 1]
    for run in repeated:
        yield f"{run.arm} at size {run.size} read its selection {number(run.epochs)} times."
    if not found.accuracies:
        yield "Accuracy tells nothing at these sizes: no arm is surely above chance, or no example has choices."
    yield from (f"Left out: {each}." for each in found.left_out)
