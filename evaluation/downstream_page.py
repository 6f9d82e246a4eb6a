"""The page of `evaluate downstream`: what made rows are worth to a model, the answer first."""

from __future__ import annotations

from collections.abc import Sequence

from bare.tasks import Task
from curation import report
from curation.progress import clock
from curation.report import COLUMNS, Html, Point, Reference, Section, number, percent
from evaluation.compare import Gain, bits
from evaluation.downstream import DUPLICATE, EQUAL_COST, EQUAL_ROWS, REAL, TOP_UP, UNTRAINED
from evaluation.downstream_figures import (
    BITS,
    RIGHT,
    TITLES,
    Experiment,
    Found,
    Score,
    figure,
    over_baseline,
    seen_from,
    share,
    words,
)
from evaluation.report import verdict_of

ABOUT = {
    EQUAL_ROWS: (
        "Every arm gives its first rows in the order in which they were made, as many as the arm with the fewest has; "
        "all make equally many steps."
    ),
    EQUAL_COST: (
        "Every made arm gives what the whole spending of the cheapest one buys. Arms have unequal rows; all make "
        "equally many steps, so that a shorter arm is read oftener."
    ),
    TOP_UP: (
        f"{REAL}: the real rows as they are. {DUPLICATE}: rare labels filled up by repeating their real rows. The "
        "others: filled up with made rows, as many. All make equally many steps."
    ),
}
# What holds for every such comparison, whatever its figures say.
ALWAYS = (
    "Few rows and few test rows leave wide intervals. That arms can't be told apart doesn't say that they are equal.",
    "Seeds are of training, not of making: rows made once more would differ too, and no interval here counts that.",
    "The learning rate and the number of epochs are the same for all arms. Another choice can suit one arm better.",
    "What the test rows don't ask isn't measured. They should be real, and new to whoever made the rows.",
)


def downstream_page(found: Found, *, task: Task, notes: Sequence[str] = ()) -> str:
    """The whole page, self-contained."""
    said = words(found)
    sections = [
        Section("In short", _short(found, said.told, notes)),
        Section("What goes against BARE", _against(said.against)),
        *(Section(TITLES[each.name], _experiment(found, each)) for each in found.experiments),
        Section("Runs and what they took", [block for each in found.experiments for block in _runs(each)]),
        Section("What this can't tell", [report.bullets(said.limits), report.bullets(ALWAYS)]),
        Section("Words", [_terms(found)]),
    ]
    return report.page(f"{task.name}: what made rows are worth to a model", sections, lead=said.told[0])


def _short(found: Found, told: Sequence[str], notes: Sequence[str]) -> list[Html]:
    runs = {a.arm: a for each in found.experiments for a in each.arms}
    cards: list[tuple[object, object]] = [
        ("model", found.model.rstrip("/").rsplit("/", 1)[-1]),
        ("how", found.method),
        ("parameters that learn", found.trained),
        ("test rows", found.tests),
        ("arms", len(runs)),
        ("runs", sum(a.finished for each in found.experiments for a in each.arms if a.arm != UNTRAINED)),
        ("diverged runs", sum(a.diverged for each in found.experiments for a in each.arms)),
    ]
    blocks = [report.figures(cards), report.bullets(told)]
    if notes:
        blocks.append(report.bullets(notes))
    return blocks


def _against(against: Sequence[str]) -> list[Html]:
    if against:
        return [report.bullets(against)]
    return [report.paragraph("Nothing of what was measured. What wasn't measured stands below.")]


# -- an experiment -----------------------------------------------------------------------------------------------------


def _experiment(found: Found, each: Experiment) -> list[Html]:
    blocks = [report.paragraph(ABOUT[each.name], kind="quiet")]
    arms = [a.arm for a in each.arms if a.finished]
    measures = [m for m in (RIGHT, BITS) if any(s.measure == m for s in each.scores)]
    scores = {(s.arm, s.measure): s for s in each.scores if s.label is None or len(each.labels) == 1}
    charts = []
    for measure in measures:
        points = [Point(a, (s := scores[a, measure]).value, s.low, s.high) for a in arms]
        if measure == RIGHT:
            chance = Reference(1 / len(each.labels), "chance") if len(each.labels) > 1 else None
            charts.append(report.intervals("Right answers, mean over labels", points, reference=chance, share=True))
        else:
            charts.append(report.intervals("Bits per byte of the answer", points, note="fewer are better"))
    for measure in measures:
        gains = over_baseline(each, measure)
        scale = 100 if measure == RIGHT else 1
        unit = "percentage points" if measure == RIGHT else "bits per byte fewer"
        title = f"{'Right answers' if measure == RIGHT else 'Bits per byte'}: better than {each.baseline}"
        whiskers = [Point(g.arm, scale * g.gain, scale * g.joint_low, scale * g.joint_high) for g in gains]
        note = f"{unit}; whiskers hold together at {percent(found.level, 0)}"
        charts.append(report.intervals(title, whiskers, reference=Reference(0.0, each.baseline), note=note))
    blocks.append(report.beside(*charts))
    rows = [
        (
            a.arm, a.rows, *((share(scores[a.arm, RIGHT]), percent(each.f1[a.arm])) if RIGHT in measures else ()),
            bits((s := scores[a.arm, BITS]).value, s.low, s.high), _labels(a.labels),
        )
        for a in each.arms if a.finished
    ]  # fmt: skip
    right = ["right answers", "macro F1"] if RIGHT in measures else []
    caption = "Each figure with its own interval; macro F1 has none"
    blocks.append(report.table(["arm", "rows", *right, "bits per byte", "rows by label"], rows, caption=caption))
    blocks.append(_pairs(each, measures))
    if len(each.labels) > 1:
        blocks += _by_label(each, measures)
    return blocks


def _labels(labels: dict[str, int]) -> str:
    return ", ".join(f"{label} {number(rows)}" for label, rows in labels.items()) or report.ABSENT


def _pairs(each: Experiment, measures: Sequence[str]) -> Html:
    """Every arm against every other, ours in front, then the others."""
    rows = []
    for measure in measures:
        first = [g for arm in each.ours for g in seen_from(arm, each, measure)]
        rest = [g for g in each.pairs if g.size == measure and not {g.arm, g.over} & set(each.ours)]
        rows += [
            (g.arm, g.over, "right answers" if measure == RIGHT else "bits per byte", _figure(g), verdict_of(g))
            for g in (*first, *rest)
        ]
    headers = ["arm", "against", "measure", "better by", "verdict"]
    caption = "Percentage points of right answers and bits per byte; all of a measure hold at once"
    return report.table(headers, rows, caption=caption)


def _figure(gain: Gain) -> str:
    return figure(gain.size, gain.gain, gain.joint_low, gain.joint_high)


def _by_label(each: Experiment, measures: Sequence[str]) -> list[Html]:
    measure = measures[0]
    labels = list(each.labels)
    scale = 100 if measure == RIGHT else 1
    mine = [g for g in each.by_label if g.size == measure]
    arms = list(dict.fromkeys(g.arm for g in mine))
    maps = []
    for at in range(0, len(labels), COLUMNS):
        part = labels[at : at + COLUMNS]
        cells = {
            (arms.index(g.arm), part.index(str(g.benchmark))): Point(
                "", scale * g.gain, scale * g.joint_low, scale * g.joint_high
            )
            for g in mine
            if g.benchmark in part
        }
        unit = "percentage points" if measure == RIGHT else "bits per byte fewer"
        title = f"Better than {each.baseline}, by label"
        maps.append(report.heat_map(title, arms, part, cells, note=f"{unit}; blue is better, orange is worse"))
    return [report.beside(*maps), *(_scores_by_label(each, kind) for kind in measures)]


def _scores_by_label(each: Experiment, measure: str) -> Html:
    scores = {(s.arm, s.label): s for s in each.scores if s.measure == measure}
    arms = [a.arm for a in each.arms if a.finished]
    rows = [(label, n, *(_score(scores[arm, label]) for arm in arms)) for label, n in each.labels.items()]
    caption = "Share of a label's test rows that are answered right" if measure == RIGHT else "Bits per byte by label"
    return report.table(["label", "test rows", *arms], rows, caption=caption)


def _score(score: Score) -> str:
    return share(score) if score.measure == RIGHT else bits(score.value, score.low, score.high)


def _runs(each: Experiment) -> list[Html]:
    rows = [
        (
            a.arm, a.rows, f"{a.finished} of {a.finished + a.diverged}", a.steps, a.seen, a.first_loss, a.loss,
            clock(a.seconds), f"{a.flops:.2e}", ", ".join(a.devices), "; ".join(a.reasons) or report.ABSENT,
        )
        for a in each.arms
    ]  # fmt: skip
    headers = [
        "arm", "rows", "runs finished", "steps", "rows seen", "loss, first epoch", "loss, last", "time", "FLOPs",
        "device", "why diverged",
    ]  # fmt: skip
    return [report.table(headers, rows, caption=f"{TITLES[each.name]}: time and FLOPs are the sum of all seeds")]


def _terms(found: Found) -> Html:
    return report.terms([
        (
            "Right answers",
            "The label that the model finds likeliest for a test row, given its other fields. The mean over labels "
            "counts each label the same, however many test rows it has (macro accuracy).",
        ),
        ("Macro F1", "The mean over labels of F1: it also counts against an arm what is wrongly called by a label."),
        (
            "Bits per byte",
            "How many bits a model needs for each byte of the right answer, given the other fields. Fewer are better.",
        ),
        (UNTRAINED, "The model as it is, before any row."),
        (
            "Can't be told",
            f"0 lies within the interval, which holds together with all others of its experiment and measure at "
            f"{percent(found.level, 0)}. It doesn't say that the arms are equal.",
        ),
    ])  # fmt: skip
