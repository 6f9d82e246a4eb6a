"""BARE's pages: rows to review side by side, a generation, arms compared. Plain data in, a self-contained page out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from bare.agreement import SheetRow
from bare.compare import EQUAL_ROWS, ComparisonRow, basis_title, in_columns, shown
from bare.judge import CHANCE, Indistinguishability
from bare.metrics import HISTOGRAM_BINS, Measure
from bare.reading import Reading, moves_with_rows, reading
from curation import report
from curation.errors import InputError
from curation.report import Html, Point, Reference, Section, escape
from curation.statistics import wilson

ACCEPTED = "accepted"
ROWS_SHOWN = 10
CHARTED = (  # what is drawn of an A/B; the table has all
    "mean_cosine", "distinct_2", "self_bleu", "coverage", "indistinguishability", "acceptance",
)  # fmt: skip
DIVERSITY, QUALITY = "mean_cosine", ("indistinguishability", "acceptance")  # against each other
REAL = "real"  # the arm of rows that nobody made
_ON_BUDGET = ("accepted_rows", "cost_per_accepted", "tokens_per_accepted", "seconds_per_accepted")
COMPARABLE = (
    "Every arm is cut as if it had been stopped there, and the rows that were rejected on the way are counted.",
    "No arm is marked as the best: where one's interval holds another's figure, these rows don't tell them apart.",
)
_CHANCE = Reference(CHANCE, "chance")


@dataclass(frozen=True)
class ModelUsed:
    """A model and what it did: base, instruct, judge or encoder."""

    role: str
    name: str
    revision: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class RoundSummary:
    """A round as the tables have it: its accepted rows, its measures, and what they led to."""

    number: int
    accepted: int
    measures: Sequence[Measure] = ()
    action: str = "none"
    reason: str = ""
    halted: bool = False


@dataclass(frozen=True)
class Compared:
    """A comparison that a generation is an arm of: when it was made, its page's name, its figures."""

    comparison_id: str
    created: str
    arm: str
    page: str
    rows: Sequence[ComparisonRow]


@dataclass(frozen=True)
class RunReport:
    """A generation in figures: what its page and its card are made from.

    reasons: rows for each reason, the accepted ones under `accepted` (`verdicts.count_reasons`). real: the measures of
    real rows. cosines, real_cosines: counts over HISTOGRAM_BINS bins of [-1, 1]. Tokens, seconds and cost are those of
    all calls, of rejected rows too, and None where they aren't known. rows: some to look at. compared: the latest
    comparison that this generation is an arm of; compare_by: the command that makes one.
    """

    generation_id: str
    task: str
    description: str
    arm: str
    drafts: int
    refined: int
    reasons: Mapping[str, int]
    models: Sequence[ModelUsed] = ()
    measures: Sequence[Measure] = ()
    real: Sequence[Measure] = ()
    cosines: Sequence[int] | None = None
    real_cosines: Sequence[int] | None = None
    indistinguishability: Indistinguishability | None = None
    rounds: Sequence[RoundSummary] = ()
    rows: Sequence[SheetRow] = ()
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float | None = None
    cost: float | None = None
    currency: str = "USD"
    notes: Sequence[str] = ()
    compared: Compared | None = None
    compare_by: str = "bare compare"

    def __post_init__(self) -> None:
        if sum(self.reasons.values()) > self.drafts:
            raise InputError(
                f"report: {self.drafts} drafts can't have {sum(self.reasons.values())} verdicts; count each row once"
            )
        for counts in (self.cosines, self.real_cosines):
            if counts is not None and len(counts) != HISTOGRAM_BINS:
                raise InputError(f"report: cosines are counted in {HISTOGRAM_BINS} bins of [-1, 1]; got {len(counts)}")

    @property
    def accepted(self) -> int:
        return self.reasons.get(ACCEPTED, 0)


# -- side by side ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"\w+\s*|[^\w\s]\s*|\s+")
_EXACTLY = 4_000_000  # pairs of words up to which the alignment is the full one


def mark_differences(draft: str, refined: str) -> tuple[Html, Html]:
    """Both texts, word by word: what the draft alone has is deleted, what the refined text alone has inserted.

    Without its marks each is the text that it was, spaces and line ends included, which make no difference.
    """
    ours, theirs = _TOKEN.findall(draft), _TOKEN.findall(refined)
    junk = len(ours) * len(theirs) > _EXACTLY
    matcher = SequenceMatcher(None, [t.strip() for t in ours], [t.strip() for t in theirs], autojunk=junk)
    left, right = [], []
    for kind, a, b, c, d in matcher.get_opcodes():
        left.append(_marked("del", ours[a:b], kind != "equal"))
        right.append(_marked("ins", theirs[c:d], kind != "equal"))
    return report.join(left), report.join(right)


def _marked(tag: str, tokens: Sequence[str], changed: bool) -> Html:
    text = "".join(tokens)
    inner = text.rstrip()
    if not changed or not inner:
        return escape(text)
    return Html(f"<{tag}>{escape(inner)}</{tag}>{escape(text[len(inner) :])}")


def side_by_side(row: SheetRow, *, number: str = "") -> Html:
    """A row's base draft beside its refined text, with the automatic verdict; one column where there is no draft."""
    kind = "good" if row.automatic == ACCEPTED else "bad"
    head = [
        f"<h3>{escape(number)}</h3>{report.code(row.row_id)}" if number else f"<h3>{report.code(row.row_id)}</h3>",
        f"<span>label: <b>{escape(row.label)}</b></span>" if row.label else "",
        f'<span class="badge {kind}">{escape(row.automatic)}</span>',
    ]
    if not row.draft.strip():
        columns = [("Text", escape(row.refined))]
    elif row.draft == row.refined:
        columns = [("Base draft and refined text are the same", escape(row.refined))]
    else:
        draft, refined = mark_differences(row.draft, row.refined)
        columns = [("Base draft", draft), ("Refined", refined)]
    texts = "".join(f'<div><h4>{title}</h4><div class="text">{text}</div></div>' for title, text in columns)
    return Html(f'<article><header>{"".join(head)}</header><div class="pair">{texts}</div></article>')


def review_page(rows: Sequence[SheetRow], *, title: str, task_description: str) -> str:
    """The page that a reviewer reads beside the sheet: every row with what the refiner did to its draft."""
    verdicts = Counter(row.automatic for row in rows)
    counted = sorted(verdicts.items(), key=lambda item: (item[0] != ACCEPTED, -item[1], item[0]))
    how = [
        report.paragraph(
            "Read a row here and give your verdict in the sheet, in the line with the same row_id: accept or reject, a "
            "reason where you reject, and your name as reviewer. A line without a verdict is left open. Change nothing "
            "else in the sheet: it is checked when it comes back."
        ),
        report.paragraph(
            "The coloured word beside each row is the automatic verdict: accepted, or the reason of its rejection. It "
            "may be wrong. The majority of reviewers overrules it; a tie rejects."
        ),
    ]
    key = Html("In a pair, the left marks <del>what the refiner took out</del>, the right <ins>what it put in</ins>.")
    how.append(report.paragraph(key))
    how.append(report.table(["automatic verdict", "rows"], counted))
    articles = [side_by_side(row, number=f"{k} of {len(rows)}") for k, row in enumerate(rows, start=1)]
    body = articles or [report.paragraph("There are no rows to review.")]
    return report.page(
        title, [Section("How to review", how), Section("Rows", body)], lead=task_description, contents=False
    )


# -- a generation ------------------------------------------------------------------------------------------------------


def run_page(run: RunReport, *, title: str = "") -> str:
    """A generation on a page: counts and reasons, measures beside real rows, rounds, some rows, how to read it all."""
    sections = [
        Section("In short", [*_short(run)]),
        Section("What became of the drafts", _fates(run)),
        Section("Measures", _measured(run)),
        Section("Diversity against quality, by arm", _by_arm(run)),
    ]
    if run.rounds:
        sections.append(Section("Rounds", _rounds(run)))
    if run.rows:
        sections.append(Section("Rows side by side", [side_by_side(row) for row in run.rows[:ROWS_SHOWN]]))
    sections.append(Section("How to read the measures", _how_to_read(_names(run))))
    return report.page(title or f"{run.task}: {run.arm}", sections, lead=run.description)


def _short(run: RunReport) -> Iterable[Html]:
    yield from (report.paragraph(note, kind="note") for note in run.notes)
    share = run.accepted / run.drafts if run.drafts else None
    per_row = run.cost / run.accepted if run.cost is not None and run.accepted else None
    yield report.figures(
        [
            ("accepted rows", run.accepted),
            ("drafts", run.drafts),
            ("acceptance", report.percent(share)),
            ("tokens in", run.tokens_in),
            ("tokens out", run.tokens_out),
            ("seconds of machines", run.seconds),
            ("cost", _money(run.cost, run.currency)),
            ("cost of an accepted row", _money(per_row, run.currency)),
        ]
    )
    yield report.paragraph("Tokens, seconds and cost are those of all calls, those of rejected rows too.", kind="quiet")
    if run.models:
        rows = [(m.role, m.name, m.revision or "unknown", m.license or "unknown") for m in run.models]
        yield report.table(["role", "model", "revision", "licence"], rows)
    yield report.paragraph(report.join(["generation ", report.code(run.generation_id)]), kind="quiet")


def _money(amount: float | None, currency: str) -> str:
    return report.ABSENT if amount is None else f"{report.number(float(amount))} {currency}"


def _fates(run: RunReport) -> list[Html]:
    """Every draft has one fate: accepted, one reason, or no verdict yet."""
    fates = [(reason, count) for reason, count in run.reasons.items() if count or reason == ACCEPTED]
    open_rows = run.drafts - sum(run.reasons.values())
    if open_rows:
        fates.append(("no verdict yet", open_rows))
    rows = []
    for reason, count in fates:
        low, high = wilson(count, run.drafts) if run.drafts else (None, None)
        ends = f"{report.percent(low)} to {report.percent(high)}" if run.drafts else report.ABSENT
        rows.append((reason, count, report.percent(count / run.drafts if run.drafts else None), ends))
    return [
        report.bar_chart("Drafts by their fate", [Point(reason, count) for reason, count in fates]),
        report.table(["fate", "drafts", "share", "95% interval (Wilson)"], rows),
    ]


def _measured(run: RunReport) -> list[Html]:
    real = {m.name: m for m in run.real}
    if not run.measures and run.indistinguishability is None:
        return [report.paragraph("Nothing is measured yet.")]
    blocks: list[Html] = []
    if run.measures:
        headers = ["measure", "accepted rows", "rows", *(["real rows", "real, rows"] if real else [])]
        lines = []
        for m in run.measures:
            other = real.get(m.name)
            beside = [_figure(other), None if other is None else other.n] if real else []
            lines.append([reading(m.name).heading, _figure(m), m.n, *beside])
        blocks.append(report.table(headers, lines, caption="Value [95% interval]"))
        uneven = [reading(m.name).title for m in run.measures if _uneven(m, real.get(m.name))]
        if uneven:
            blocks.append(
                report.paragraph(
                    f"Not of equally many rows, so the real rows are no mark to stand beside: {', '.join(uneven)}.",
                    kind="note",
                )
            )
    charts = [*_cosines(run), *_judge(run.indistinguishability)]
    return [*blocks, report.beside(*charts)] if charts else blocks


def _uneven(measure: Measure, other: Measure | None) -> bool:
    return other is not None and moves_with_rows(measure.name) and measure.n != other.n


def _figure(measure: Measure | None) -> str:
    if measure is None:
        return report.ABSENT
    return shown(ComparisonRow("", "", measure.name, measure.value, measure.low, measure.high, measure.n))


def _cosines(run: RunReport) -> list[Html]:
    series = {"accepted rows": run.cosines, "real rows": run.real_cosines}
    there = {name: counts for name, counts in series.items() if counts is not None}
    if run.cosines is None:
        return []
    edges = [-1 + 2 * k / HISTOGRAM_BINS for k in range(HISTOGRAM_BINS + 1)]
    return [report.histogram("Cosines of all pairs", edges, there, x_label="cosine", note="share of the pairs")]


def _judge(found: Indistinguishability | None) -> list[Html]:
    if found is None:
        return []
    note = f"{found.answered:,} answers read, {found.abstained:,} unreadable and left out; 95% interval (Wilson)"
    point = Point("accepted rows", found.rate, found.low, found.high)
    return [report.intervals("Indistinguishability", [point], reference=_CHANCE, share=True, note=note)]


def _rounds(run: RunReport) -> list[Html]:
    """Each measure over the rounds, the real rows' value as a line, and what each round led to."""
    rounds = sorted(run.rounds, key=lambda r: r.number)
    if any(a.number == b.number for a, b in pairwise(rounds)):
        raise InputError("report: a round is there twice; give the later one alone")
    real = {m.name: m.value for m in run.real}
    charts = []
    for name in dict.fromkeys(m.name for r in rounds for m in r.measures):
        about = reading(name)
        points = []
        for each in rounds:
            m = next((m for m in each.measures if m.name == name), Measure(name, None, None, None, 0))
            points.append((float(each.number), Point(str(each.number), m.value, m.low, m.high)))
        mark = real.get(name)
        line = _CHANCE if name == "indistinguishability" else Reference(mark, "real rows") if mark is not None else None
        note = f"{about.better} is better" if about.better else ""
        charts.append(
            report.line_chart(
                about.title, {about.title: points}, x_label="round", reference=line, share=about.share, note=note
            )
        )
    lines = [(str(r.number), r.accepted, r.action + (", halted" if r.halted else ""), r.reason) for r in rounds]
    return [report.table(["round", "accepted", "action", "why"], lines), report.beside(*charts)]


def _by_arm(run: RunReport) -> list[Html]:
    """The comparison that this generation is an arm of, at equal rows; where there is none, the command for one."""
    found = run.compared
    if found is None:
        told = ["These rows weren't compared with rows that are made in other ways. This makes and compares them: "]
        return [report.paragraph(report.join([*told, report.code(run.compare_by)]))]
    about = report.join([
        f"This generation is the arm {found.arm} of comparison ", report.code(found.comparison_id),
        f", made {report.moment(found.created)}; ", report.code(found.page), " shows it at equal cost too.",
    ])  # fmt: skip
    return [report.paragraph(about, kind="quiet"), report.bullets(COMPARABLE), *_basis(found.rows, EQUAL_ROWS)]


def _names(run: RunReport) -> list[str]:
    judged = ["indistinguishability"] if run.indistinguishability is not None else []
    rounds = (m.name for r in run.rounds for m in r.measures)
    compared = [row.measure for row in run.compared.rows if row.basis == EQUAL_ROWS] if run.compared else []
    return [*judged, *(m.name for m in run.measures), *rounds, *compared]


def _how_to_read(names: Iterable[str]) -> list[Html]:
    """A paragraph for each measure that stands on the page, in the order in which they come."""
    known: list[Reading] = [reading(name) for name in dict.fromkeys(names)]
    return [
        report.paragraph(
            "Intervals are at 95%: they tell how far the figure would move with other rows of the same making, not "
            "with another model, task or judge."
        ),
        report.terms((about.heading, about.text) for about in known if about.text),
    ]


# -- arms compared -----------------------------------------------------------------------------------------------------


def comparison_page(
    rows: Sequence[ComparisonRow],
    *,
    title: str,
    task_description: str,
    notes: Sequence[str] = (),
    currency: str = "USD",
) -> str:
    """The arms of `compare.compare` on a page: charts and a table for each basis, and how to read each measure.

    notes: what must be said of this comparison, at its top; the page says nothing of models or sizes by itself.
    """
    if not rows:
        raise InputError("comparison: there are no figures to show; compare some arms first")
    sections = [Section("Before reading", _before(rows, notes, currency))]
    for basis in dict.fromkeys(row.basis for row in rows):
        sections.append(Section(basis_title(basis), _basis(rows, basis)))
    sections.append(Section("How to read the measures", _how_to_read(row.measure for row in rows)))
    return report.page(title, sections, lead=task_description)


def _before(rows: Sequence[ComparisonRow], notes: Sequence[str], currency: str) -> list[Html]:
    bases = [basis.removeprefix("equal_") for basis in dict.fromkeys(row.basis for row in rows) if basis != EQUAL_ROWS]
    told = [*COMPARABLE]
    if bases:
        told.append(
            f"At equal {' and at equal '.join(bases)}, the measures are taken on as many accepted rows as all arms "
            "have, because most of them move with the number of rows; how many rows the budget buys is a "
            "figure of its own."
        )
    if any(row.measure == "indistinguishability" and row.value is not None for row in rows):
        told.append(f"Indistinguishability by chance is {CHANCE:.0%}, not half: the line is drawn in its charts.")
    if any(row.measure == "cost_per_accepted" and row.value is not None for row in rows):
        told.append(f"Cost is in {currency}.")
    return [*(report.paragraph(note, kind="note") for note in notes), report.bullets(told)]


def _basis(rows: Sequence[ComparisonRow], basis: str) -> list[Html]:
    arms, measures = in_columns(rows, basis)
    figures = dict(measures)
    charts = _against(figures, arms)
    for name in (*CHARTED, *_ON_BUDGET):
        if name not in figures or not _worth_drawing(name, figures[name], basis):
            continue
        about, by_arm = reading(name), figures[name]
        points = [_point(arm, by_arm.get(arm)) for arm in arms if arm in by_arm]
        line = _CHANCE if name == "indistinguishability" else None
        note = f"{about.better} is better" if about.better else ""
        charts.append(report.intervals(about.title, points, reference=line, share=about.share, note=note))
    lines = []
    for name, by_arm in measures:
        resting = {row.n for row in by_arm.values()}
        on = report.number(resting.pop()) if len(resting) == 1 else f"{min(resting):,} to {max(resting):,}"
        lines.append(
            [reading(name).heading, *(_stacked(shown(by_arm[arm])) if arm in by_arm else "" for arm in arms), on]
        )
    return [
        report.beside(*charts),
        report.table(
            ["measure", *arms, "rows"],
            lines,
            caption="Value [95% interval]; rows: how many drafts or accepted rows the figure rests on",
        ),
    ]


def _against(figures: Mapping[str, Mapping[str, ComparisonRow]], arms: Sequence[str]) -> list[Html]:
    """Diversity against quality: by the judge where one was asked, else by acceptance; none where either is unknown."""
    measured = (name for name in QUALITY if any(row.value is not None for row in figures.get(name, {}).values()))
    quality = next(measured, None)
    if quality is None or DIVERSITY not in figures:
        return []
    up, across = figures[DIVERSITY], figures[quality]
    placed = {arm: (_point(arm, across.get(arm)), _point(arm, up.get(arm))) for arm in arms if arm in across}
    real = up.get(REAL)
    mark = Reference(real.value, "real rows") if real is not None and real.value is not None else None
    absent = [arm for arm, pair in placed.items() if any(each.value is None for each in pair)]
    note = "better is to the right and down"
    note += f"; not drawn, one of the two isn't known: {', '.join(absent)}" if absent else ""
    return [
        report.scatter(
            "Diversity against quality", placed, x_label=reading(quality).heading, y_label=reading(DIVERSITY).heading,
            x_reference=_CHANCE if quality == "indistinguishability" else None, y_reference=mark,
            x_share=reading(quality).share, y_share=reading(DIVERSITY).share, note=note,
        )
    ] if len(absent) < len(placed) else []  # fmt: skip


def _worth_drawing(name: str, by_arm: Mapping[str, ComparisonRow], basis: str) -> bool:
    """Something was measured, and the basis doesn't make it the same for all."""
    return any(row.value is not None for row in by_arm.values()) and not (
        name == "accepted_rows" and basis == EQUAL_ROWS
    )


def _point(arm: str, row: ComparisonRow | None) -> Point:
    if row is None or row.value is None:
        return Point(arm, None)
    value = int(row.value) if reading(row.measure).kind == "rows" else row.value
    return Point(arm, value, row.low, row.high)


def _stacked(figure: str) -> Html:
    """A figure with its interval below it, so that many arms fit beside each other."""
    value, bracket, ends = figure.partition(" [")
    return Html(f"{escape(value)}<br><small>[{escape(ends)}</small>") if bracket else escape(figure)
