"""Arms of an experiment side by side: right answers and bits per byte on the same test rows, with intervals, in words.

Every interval is by bootstrap over seeds and test rows (resampling.py), test rows within their label. The mean over
labels counts each label the same, so that a rare one isn't drowned: of right answers it is the macro accuracy. A
verdict follows the joint intervals, which hold for all differences of one experiment and measure at once.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from curation.errors import InputError
from curation.report import number, percent
from curation.statistics import wilson
from evaluation.compare import (
    LEVEL,
    Gain,
    Verdict,
    Winner,
    Words,
    bits,
    gain_of,
    listed,
    panel_of,
    points,
    turned,
    weight_of,
    winner_of,
)
from evaluation.downstream import DUPLICATE, EQUAL_COST, EQUAL_ROWS, EVERY, EXPERIMENTS, OURS, REAL, TOP_UP, UNTRAINED
from evaluation.resampling import REPLICATES, Floats, Panel, contrasts, resample
from evaluation.training import FINISHED

BITS, RIGHT = "bits", "right"  # measures
TITLES = {
    EQUAL_ROWS: "Equally many rows of each arm",
    EQUAL_COST: "What equal spending buys",
    TOP_UP: "Few and imbalanced real rows, topped up",
}


@dataclass(frozen=True)
class ArmRuns:
    """The models of an arm: finished ones are averaged, diverged ones left out and counted. labels: rows by label."""

    arm: str
    rows: int
    labels: dict[str, int]
    finished: int
    diverged: int
    reasons: tuple[str, ...]
    steps: int
    seen: int
    first_loss: float | None
    loss: float | None
    flops: float
    seconds: float
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """An arm's mean over seeds and test rows with its own interval; label None: the mean over labels."""

    arm: str
    measure: str
    label: str | None
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Experiment:
    """What an experiment's models tell. pairs: every two arms, by measure (`size`), on the mean over labels; by_label:
    each arm over the baseline, by measure and label (`benchmark`), where there are several; f1: macro F1 by arm, the
    mean over seeds.
    """

    name: str
    baseline: str
    labels: dict[str, int]
    arms: tuple[ArmRuns, ...]
    scores: tuple[Score, ...]
    by_label: tuple[Gain, ...]
    pairs: tuple[Gain, ...]
    winners: tuple[Winner, ...]
    f1: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def measure(self) -> str:
        """What verdicts are told of first: right answers, where there are labels."""
        return RIGHT if any(s.measure == RIGHT for s in self.scores) else BITS

    @property
    def ours(self) -> list[str]:
        """The arms whose defeats are listed: BARE's, else every made one."""
        there = [a.arm for a in self.arms if a.arm not in (REAL, UNTRAINED, DUPLICATE) and a.finished]
        return [OURS] if OURS in there else there


@dataclass(frozen=True)
class Found:
    """All of it. parameters, trained: of the model, and those that learn; tests: rows measured; removed: by reason."""

    model: str
    method: str
    parameters: int
    trained: int
    level: float
    replicates: int
    tests: int
    removed: dict[str, int]
    of_seeds: bool
    experiments: tuple[Experiment, ...]


def judge(
    runs: pd.DataFrame, evaluations: pd.DataFrame, *, removed: Mapping[str, int], of_seeds: bool, level: float = LEVEL,
    replicates: int = REPLICATES, seed: int = 0,
) -> Found:  # fmt: skip
    """Every experiment of the runs, from rows of DOWNSTREAM_RUNS and DOWNSTREAM_EVALUATIONS that belong together."""
    runs = runs.rename(columns={"downstream_id": "proxy_id"})
    rows = evaluations.rename(columns={"downstream_id": "proxy_id"})
    found = []
    for name in (e for e in EXPERIMENTS if e in set(runs["experiment"])):
        mine = runs[runs["experiment"].isin([name, EVERY])]
        found.append(_experiment(name, mine, rows, level=level, replicates=replicates, seed=seed))
    one = runs.sort_values("trained_parameters").iloc[-1]
    return Found(
        str(one["model"]), str(one["method"]), int(one["parameters"]), int(one["trained_parameters"]), level,
        replicates, int(rows["example_id"].nunique()), dict(removed), of_seeds, tuple(found),
    )  # fmt: skip


def _experiment(
    name: str, mine: pd.DataFrame, rows: pd.DataFrame, *, level: float, replicates: int, seed: int
) -> Experiment:
    finished = mine[mine["status"] == FINISHED]
    there, asked = set(finished["arm"]), sorted(set(mine["arm"]))
    left_out = [f"{arm} finished no run and isn't compared" for arm in asked if arm not in there]
    trained = [arm for arm in asked if arm in there and arm != UNTRAINED]
    if len(there) < 2 or not trained:
        raise InputError(
            f"{TITLES[name].lower()}: {' and '.join(arm for arm in asked if arm not in there)} finished no run, so "
            "nothing is compared; look at the runs' reasons"
        )
    baseline = next((arm for arm in (REAL, "instruct") if arm in trained), trained[0])
    rows = rows[rows["proxy_id"].isin(set(finished["proxy_id"]))]
    measures = [BITS, *([RIGHT] if rows["correct"].notna().all() else [])]
    scores: list[Score] = []
    by_label: list[Gain] = []
    pairs: list[Gain] = []
    winners: list[Winner] = []
    for measure in measures:
        column = "bits_per_byte" if measure == BITS else "correct"
        panel = _with_untrained(panel_of(finished, rows.astype({column: float}), column))
        drawn = resample(panel, replicates=replicates, seed=seed)
        columns: list[str | None] = [*panel.benchmarks, *([None] if len(panel.values) > 1 else [])]
        overall = columns[-1]
        scores += _scores(panel, drawn, columns, measure, level)
        if len(panel.values) > 1:
            others = [(arm, baseline) for arm in panel.arms if arm != baseline]
            by_label += _gains(panel, drawn, others, panel.benchmarks, measure, level)
        beside = _gains(panel, drawn, list(combinations(panel.arms, 2)), [overall], measure, level)
        pairs += beside
        sign = 1 if measure == BITS else -1
        needs = {s.arm: sign * s.value for s in scores if s.measure == measure and s.label == overall}
        winners.append(winner_of(measure, overall, panel.arms, needs, beside))
    labels = {b: v.shape[1] for b, v in panel.values.items()}
    f1 = _macro_f1(finished, rows) if RIGHT in measures else {}
    return Experiment(
        name, baseline, labels, tuple(_arms(mine)), tuple(scores), tuple(by_label), tuple(pairs), tuple(winners), f1,
        tuple(left_out),
    )  # fmt: skip


def _with_untrained(panel: Panel) -> Panel:
    """The model as it is has no seeds to differ by where it was measured once: it is the same for each of them."""
    mine = panel.models.get(UNTRAINED, ())
    if len(mine) != 1:
        return panel
    most = max(len(rows) for rows in panel.models.values())
    return Panel({**panel.models, UNTRAINED: list(mine) * most}, panel.values)


def _scores(
    panel: Panel, drawn: Floats, columns: Sequence[str | None], measure: str, level: float
) -> Iterator[Score]:
    keys = [(arm, label) for arm in panel.arms for label in columns]
    found = contrasts(panel, drawn, np.stack([weight_of(panel, *key) for key in keys]), level=level)
    for k, (arm, label) in enumerate(keys):
        value, low, high = (float(each[k]) for each in (found.value, found.low, found.high))
        if measure == RIGHT:  # answers that all agree leave the bootstrap no spread: at least what so few rows leave
            n = _rows_of(panel, label)
            wide = wilson(round(value * n), n, level=level)
            low, high = max(0.0, min(low, wide[0], value)), min(1.0, max(high, wide[1], value))
        yield Score(arm, measure, label, value, low, high)


def _gains(
    panel: Panel, drawn: Floats, pairs: Sequence[tuple[str, str]], columns: Sequence[str | None], measure: str,
    level: float,
) -> list[Gain]:  # fmt: skip
    """How much better the first arm of each pair is, one family of comparisons."""
    keys = [(arm, over, label) for arm, over in pairs for label in columns]
    sign = -1 if measure == BITS else 1
    weights = np.stack([sign * (weight_of(panel, arm, b) - weight_of(panel, over, b)) for arm, over, b in keys])
    found = contrasts(panel, drawn, weights, level=level)
    gains = [gain_of(found, k, measure, *key) for k, key in enumerate(keys)]
    return gains if measure == BITS else [_at_least_as_wide(panel, gain, level) for gain in gains]


def _at_least_as_wide(panel: Panel, gain: Gain, level: float) -> Gain:
    """Where answers all agree the bootstrap shows no spread: then the interval of two shares of so many rows (Newcombe
    1998, method 10), as if they were of different rows. No difference of shares is beyond 1.
    """
    if gain.joint_high - gain.joint_low > 1e-9:
        names = ("low", "high", "joint_low", "joint_high")
        return dataclasses.replace(gain, **{name: min(1.0, max(-1.0, getattr(gain, name))) for name in names})
    means = {arm: float((weight_of(panel, arm, gain.benchmark) * panel.means()).sum()) for arm in (gain.arm, gain.over)}
    n = _rows_of(panel, gain.benchmark)
    (mine, (low, high)), (other, (least, most)) = (
        (value, wilson(round(value * n), n, level=level)) for value in (means[gain.arm], means[gain.over])
    )
    ends = gain.gain - math.hypot(mine - low, most - other), gain.gain + math.hypot(high - mine, other - least)
    verdict: Verdict = gain.verdict
    if verdict != "alone":
        verdict = "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "open"
    return dataclasses.replace(
        gain, low=ends[0], high=ends[1], joint_low=ends[0], joint_high=ends[1], verdict=verdict
    )


def _rows_of(panel: Panel, label: str | None) -> int:
    return sum(v.shape[1] for b, v in panel.values.items() if label in (None, b))


def _macro_f1(finished: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    """arm -> the mean over seeds of the mean over labels of F1; a label that nobody answers has 0."""
    labels = sorted(set(rows["benchmark"]))
    found: dict[str, float] = {}
    for arm, mine in finished.groupby("arm"):
        by_seed = []
        for proxy_id in mine["proxy_id"]:
            each = rows[rows["proxy_id"] == proxy_id]
            by_label = []
            for label in labels:
                gold, said = each["benchmark"] == label, each["answer"] == label
                by_label.append(2 * int((gold & said).sum()) / max(1, int(gold.sum()) + int(said.sum())))
            by_seed.append(math.fsum(by_label) / len(by_label))
        found[str(arm)] = math.fsum(by_seed) / len(by_seed)
    return found


def _arms(mine: pd.DataFrame) -> Iterator[ArmRuns]:
    for arm, each in mine.groupby("arm"):
        finished, diverged = each[each["status"] == FINISHED], each[each["status"] != FINISHED]
        first = each.iloc[0]
        yield ArmRuns(
            arm=str(arm), rows=int(first["rows"]),
            labels={str(label): int(n) for label, n in dict(first["labels"] or {}).items()},
            finished=len(finished), diverged=len(diverged),
            reasons=tuple(dict.fromkeys(str(reason) for reason in diverged.sort_values("seed")["reason"])),
            steps=int(each["steps"].max()), seen=int(each["seen"].max()),
            first_loss=_mean(finished["first_loss"]), loss=_mean(finished["loss"]),
            flops=float(each["flops"].sum()), seconds=float(each["seconds"].sum()),
            devices=tuple(sorted({str(device) for device in each["device"].dropna()})),
        )  # fmt: skip


def _mean(values: pd.Series) -> float | None:
    there = values.dropna()
    return float(there.mean()) if len(there) else None


# -- in words ----------------------------------------------------------------------------------------------------------


def words(found: Found) -> Words:
    """The figures in sentences; every number is one of theirs, as the page shows it."""
    told = [line for each in found.experiments for line in _told(each)]
    against = [line for each in found.experiments for line in _against(each)]
    return Words(tuple(dict.fromkeys(told)), tuple(dict.fromkeys(against)), tuple(_limits(found)))


def figure(measure: str, value: float, low: float, high: float) -> str:
    """Bits per byte, or percentage points, with their ends."""
    return bits(value, low, high) if measure == BITS else points(value, low, high)


def sentence(gain: Gain) -> str:
    """One difference in words, by what its interval allows."""
    right, on = gain.size == RIGHT, "" if gain.benchmark is None else f" on {gain.benchmark}"
    gap = figure(gain.size, gain.gain, gain.joint_low, gain.joint_high)
    lost = figure(gain.size, -gain.gain, -gain.joint_high, -gain.joint_low)
    unit = "percentage points of right answers" if right else "bits a byte"
    match gain.verdict:
        case "better" if right:
            return f"{gain.arm} gives {gap} percentage points more right answers than {gain.over}{on}."
        case "worse" if right:
            return f"{gain.arm} gives {lost} percentage points fewer right answers than {gain.over}{on}."
        case "better":
            return f"{gain.arm} needs {gap} bits a byte fewer than {gain.over}{on}."
        case "worse":
            return f"{gain.arm} needs {lost} bits a byte more than {gain.over}{on}."
        case "alone":
            return f"{gain.arm} differs from {gain.over}{on} by {gap} {unit}, on one seed or one row: no verdict."
    return f"{gain.arm} can't be told from {gain.over}{on}: {gap} {unit}."


def seen_from(arm: str, found: Experiment, measure: str) -> list[Gain]:
    """Every difference of a measure of an arm to another, with it in front."""
    return [g if g.arm == arm else turned(g) for g in found.pairs if g.size == measure and arm in (g.arm, g.over)]


def over_baseline(found: Experiment, measure: str) -> list[Gain]:
    """Every other arm's difference of a measure to the baseline, with the arm in front."""
    return [turned(g) for g in seen_from(found.baseline, found, measure)]


def _told(found: Experiment) -> Iterator[str]:
    where = _where(found)
    mine = over_baseline(found, found.measure)
    first = sorted(mine, key=lambda g: (g.arm not in found.ours, g.arm == UNTRAINED, -g.gain, g.arm))
    yield from (f"{where}: {sentence(g)}" for g in first)
    for won in (w for w in found.winners if w.size == found.measure and w.winner is not None):
        yield f"{where}: {won.winner} surely beats every other arm."


def _where(found: Experiment) -> str:
    if found.name == EQUAL_ROWS:
        rows = next(a.rows for a in found.arms if a.arm != UNTRAINED)
        return f"At {number(rows)} rows an arm"
    if found.name == EQUAL_COST:
        return "At equal cost"
    real = next(a for a in found.arms if a.arm == REAL)
    return f"With {number(real.rows)} imbalanced real rows"


def _against(found: Experiment) -> Iterator[str]:
    where = _where(found)
    for arm in found.ours:
        for measure in dict.fromkeys((found.measure, BITS)):
            for gain in seen_from(arm, found, measure):
                if gain.verdict != "better":
                    yield f"{where}: {sentence(gain)}"
        for gain in (g for g in found.by_label if g.arm == arm):
            if gain.verdict == "worse":
                yield f"{where}: {sentence(gain)}"
    for each in (a for a in found.arms if a.diverged):
        why = "; ".join(each.reasons)
        yield f"{where}: {each.diverged} of {each.finished + each.diverged} runs of {each.arm} diverged ({why})."
    yield from (f"{where}: {each}." for each in found.left_out)


def _limits(found: Found) -> Iterator[str]:
    whose = "seeds that no generating model was shown" if found.of_seeds else "rows of the test file"
    removed = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in sorted(found.removed.items()))
    yield f"{number(found.tests)} test rows, {whose}; removed before: {removed or 'none'}."
    learns = f"{number(found.trained)} of its {number(found.parameters)} parameters learn ({found.method})"
    yield f"One model, {found.model}: {learns}. Another model, a larger one above all, may rank the arms otherwise."
    for each in found.experiments:
        seeds = [a.finished for a in each.arms if a.arm != UNTRAINED and a.finished]
        least, most = min(seeds), max(seeds)
        runs = f"{least}" if least == most else f"{least} to {most}"
        steps = max(a.steps for a in each.arms)
        yield (
            f"{TITLES[each.name]}: {runs} seed{'' if most == 1 else 's'} an arm, {number(steps)} steps each. Its "
            f"differences of one measure hold together at {percent(found.level, 0)} (max-statistic, "
            f"{number(found.replicates)} replicates over seeds and test rows)."
        )
        if len(each.labels) > 1:
            few = {label: n for label, n in each.labels.items() if n < 10}
            if few:
                yield f"Few test rows: {listed([f'{n} of {label}' for label, n in few.items()])}."


def as_table(found: Experiment) -> Table:
    """An experiment for the terminal: a line an arm."""
    right = any(s.measure == RIGHT for s in found.scores)
    table = Table(title=TITLES[found.name], header_style="bold", title_justify="left")
    answers = ["right answers", "macro F1"] if right else []
    for name in ("arm", "rows", *answers, "bits per byte", f"over {found.baseline}"):
        table.add_column(Text(name), justify="left" if name == "arm" else "right", overflow="fold")
    scores = {(s.arm, s.measure): s for s in found.scores if s.label is None or len(found.labels) == 1}
    gains = {g.arm: g for g in over_baseline(found, found.measure)}
    for arm in (a for a in found.arms if a.finished):
        cells = [arm.arm, number(arm.rows)]
        if right:
            cells += [share(scores[arm.arm, RIGHT]), percent(found.f1[arm.arm])]
        each = scores[arm.arm, BITS]
        cells.append(bits(each.value, each.low, each.high))
        gain = gains.get(arm.arm)
        cells.append("" if gain is None else figure(gain.size, gain.gain, gain.joint_low, gain.joint_high))
        table.add_row(*map(Text, cells))
    return table


def share(score: Score) -> str:
    return f"{percent(score.value)} [{percent(score.low)}, {percent(score.high)}]"
