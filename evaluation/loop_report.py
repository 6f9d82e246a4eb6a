"""The loop's page: gaps before and after, what was made for which, what it took, what models make of it."""

from __future__ import annotations

import numpy as np

from curation import report
from curation.progress import clock, excerpt
from curation.report import Html, Point, Reference, Section, number, percent
from evaluation import compare
from evaluation.loop_figures import (
    ALL_ROUNDS,
    OTHERS,
    SHOWN,
    UNSEEN,
    Group,
    LoopFigures,
    change,
    spent,
    words,
)

BINS = 24
EXCERPT = 300
LIMITS = (
    "Real coverage is that of the ranked sample: real documents that weren't sampled have no embedding, so a gap may "
    "be smaller than it looks. Of the synthetic documents every one is counted.",
    "A similarity that rises says that a text is nearer, not that it is right: nobody has checked what models wrote.",
    "Any text added can only raise the similarity of the nearest. What the examples that were no gaps gained shows how "
    "much of it comes by itself.",
    "A document that was made from an example is near to it because of that. Only gaps that no model was shown tell "
    "whether others like them are covered too.",
    "The classifier was taught by real documents. How it scores the style of a model isn't known.",
)
_REASONS = {"below_cut": "below the real cut", "over_cap": "beyond the cap"}


def loop_page(found: LoopFigures, *, title: str = "The gaps, before and after") -> str:
    """The whole page, the answer first."""
    said = words(found)
    against = [report.bullets(said.against)] if said.against else [report.paragraph("Nothing of what was measured.")]
    sections = [
        Section("In short", _short(found, said.told)),
        Section("What goes against it", against),
        Section("Gaps before and after", _gaps(found)),
        Section("Round by round", _rounds(found)),
        Section("What was made, and for which gap", _documents(found)),
        Section("What it took", _cost(found)),
        Section("What models make of it", _judged(found)),
        Section("What this can't tell", [report.bullets(LIMITS)]),
        Section("Words", [_terms(found)]),
    ]
    return report.page(title, sections, lead=said.told[1] if len(said.told) > 1 else said.told[0])


def _short(found: LoopFigures, told: tuple[str, ...]) -> list[Html]:
    last = found.rounds[-1]
    cards: list[tuple[object, object]] = [
        ("rounds", len(found.rounds)),
        ("gaps, all rounds", sum(found.group(name).examples for name in (UNSEEN, SHOWN))),
        ("synthetic documents", last.documents),
        ("of them selected", last.selected),
        ("their share of the tokens", percent(last.share, 2)),
        ("at most", percent(found.most_synthetic)),
    ]
    return [report.figures(cards), report.bullets(told)]


def _gaps(found: LoopFigures) -> list[Html]:
    every = [value for pair in found.similarities.values() for side in pair for value in side]
    blocks: list[Html] = []
    level = Reference(found.level, "closed from")
    if every:
        low, high = min(*every, found.level), max(*every, found.level)
        edges = [float(e) for e in np.linspace(low, high + 1e-6, BINS + 1)]
        charts = [
            report.histogram(
                f"{name[0].upper()}{name[1:]}",
                edges,
                {
                    label: np.histogram(side, edges)[0].tolist()
                    for label, side in zip(("before", "after"), found.similarities[name], strict=True)
                },
                x_label="similarity of the nearest document",
                reference=level,
                note=f"{found.group(name).examples:,} examples",
            )
            for name in (UNSEEN, SHOWN)
            if found.group(name).examples
        ]
        blocks.append(report.beside(*charts))
        drawn = [
            report.dumbbells(
                f"{'Shown' if shown else 'Not shown'}: the least covered",
                [(excerpt(g.text, 80), g.real, g.after) for g in found.gaps if g.shown == shown],
                reference=level,
                note="similarity of the nearest document, among the real ones and after the last round",
            )
            for shown in (False, True)
            if any(g.shown == shown for g in found.gaps)
        ]
        blocks.append(report.beside(*drawn))
    mine = [group for group in found.groups if group.round == ALL_ROUNDS and group.examples]
    blocks.append(
        report.beside(
            report.intervals(
                "Nearer by",
                [Point(_brief(g), g.gain, g.low, g.high) for g in mine],
                reference=Reference(0.0, "as before"),
                note="mean over examples of the similarity gained, all rounds; whiskers: 95%",
            )
        )
    )
    blocks.append(_table(mine, "From the real selection to the last round"))
    return blocks


def _brief(group: Group) -> str:
    return {SHOWN: "gaps, shown", UNSEEN: "gaps, not shown", OTHERS: "no gaps"}[group.name]


def _table(groups: list[Group], caption: str) -> Html:
    rows = [
        (
            g.name, g.examples, report.ABSENT if g.gain is None else change(g), g.nearer, f"{g.closed:,} of {g.open:,}",
            report.ABSENT if not g.open else
            f"{percent(g.closed / g.open)} [{percent(g.share_low)}, {percent(g.share_high)}]",
        )
        for g in groups
    ]  # fmt: skip
    headers = ["examples", "how many", "similarity of the nearest", "nearer than before", "closed", "share closed"]
    return report.table(headers, rows, caption=caption)


def _rounds(found: LoopFigures) -> list[Html]:
    blocks: list[Html] = []
    rows = [
        (r.round + 1, r.gaps, r.shown, r.drafts, r.accepted, r.stopped_by.replace("_", " "), r.copies,
         r.documents, r.below_cut, r.over_cap, r.selected, percent(r.share, 2))
        for r in found.rounds
    ]  # fmt: skip
    headers = [
        "round", "gaps", "shown to a model", "drafts", "accepted", "ended by", "copies", "documents so far",
        "below the cut", "beyond the cap", "selected", "share of tokens",
    ]  # fmt: skip
    blocks.append(report.table(headers, rows, caption="A selection holds the best of all rounds so far"))
    for each in found.rounds:
        mine = [g for g in found.groups if g.round == each.round and g.examples]
        blocks.append(_table(mine, f"Round {each.round + 1}, against what the one before left"))
    return blocks


def _documents(found: LoopFigures) -> list[Html]:
    if not found.documents:
        return [report.paragraph("No document was made.")]
    rows = [
        (
            excerpt(d.text, EXCERPT), excerpt(d.gap, EXCERPT) if d.gap else report.ABSENT,
            report.ABSENT if d.similarity is None else number(d.similarity), number(d.score),
            "selected" if d.reason is None else _REASONS[d.reason], d.made_in + 1,
        )
        for d in found.documents
    ]  # fmt: skip
    headers = [
        "synthetic document",
        "the gap, of those its draft was shown, that it is nearest to",
        "similarity",
        "score",
        "",
        "round",
    ]
    told = (
        f"{len(rows)} of {found.rounds[-1].documents:,} documents, by id, which is a hash: nobody chose them. The "
        "table loop_documents holds all, each with every gap that its draft was shown."
    )
    return [report.paragraph(told), report.table(headers, rows)]


def _cost(found: LoopFigures) -> list[Html]:
    rows = [
        (r.round + 1, r.tokens_in, r.tokens_out, clock(r.model_seconds),
         report.ABSENT if r.cost is None else number(r.cost), clock(r.seconds))
        for r in found.rounds
    ]  # fmt: skip
    headers = ["round", "tokens read", "tokens written", "the models' time", "money", "the round's time"]
    return [report.paragraph(spent(found)), report.table(headers, rows, caption="Rejected rows are counted")]


def _judged(found: LoopFigures) -> list[Html]:
    if found.judged is None:
        return [report.paragraph(f"Not measured: {found.why_not_judged}.", kind="note")]
    size = found.judged.sizes[-1].size
    mine = [g for g in found.judged.gains if g.size == size]
    chart = report.intervals(
        "Bits a byte fewer with the synthetic documents",
        [Point(compare.place(g.benchmark), g.gain, g.joint_low, g.joint_high) for g in mine],
        reference=Reference(0.0, "without"),
        note=f"size {size}; above 0 they help; all {len(mine)} hold at once",
    )
    verdicts = {"better": "better", "worse": "worse", "open": "can't be told apart", "alone": "no verdict"}
    rows = [
        (g.size, compare.place(g.benchmark), compare.bits(g.gain, g.joint_low, g.joint_high), verdicts[g.verdict])
        for g in found.judged.gains
    ]
    said = compare.words(found.judged)
    return [
        report.bullets(said.told),
        report.beside(chart),
        report.table(["size", "on", "bits a byte gained", "with the synthetic documents"], rows),
        report.bullets(said.limits),
    ]


def _terms(found: LoopFigures) -> Html:
    of = f" of {found.benchmark}" if found.benchmark else ""
    return report.terms(
        [
            ("Gap", f"One of the task examples{of} whose nearest document is least like it, when its round begins."),
            (
                "Similarity",
                "The cosine of an example's and a document's embedding, by the encoder that ranked the sample.",
            ),
            (
                "Closed",
                f"The nearest document's similarity was below {number(found.level)} and has reached it. That is what "
                f"{percent(found.closed_at, 0)} of all examples didn't exceed before the loop.",
            ),
            ("Shown", "A model saw the example in front of a draft, in any of the rounds that the figure is about."),
            (
                "The real cut",
                "The key and threshold that the real selection ended at. A synthetic document is taken only where that "
                "cut would have taken it.",
            ),
        ]
    )
