"""One page of HTML that needs nothing else: frame, tables and charts as inline SVG. It knows neither method.

Whatever is a plain `str` is text and gets escaped; only `Html`, which this module makes, is markup. So no text of a
corpus or of a model can become part of the page. No script, no file, no network: it reads the same in a mail.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

from curation.errors import InputError

ABSENT = "–"
COLOURS = 6  # series that are told apart by colour, and by mark; more are refused
COLUMNS = 16  # of a heat map: more can't be read


class Html(str):
    """Markup that is safe as it stands: made here, never from a text that someone else wrote."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """What a notebook shows: the markup, and the page's style for it alone."""
        return f'<div class="curation"><style>{_notebook_css()}</style>{self}</div>'


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; it can be linked to by the heading's words."""

    title: str
    body: Sequence[Html]


@dataclass(frozen=True)
class Point:
    """A value with its interval; where the value is None it wasn't measured. An end that is None is open."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Reference:
    """A line to compare with, such as chance."""

    value: float
    label: str


def escape(text: object) -> Html:
    """Text as markup: Html stays as it is, everything else is escaped, lone surrogates and controls replaced."""
    if isinstance(text, Html):
        return text
    plain = _UNPRINTABLE.sub("\ufffd", str(text))
    return Html(html.escape(plain))


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after another, each escaped where it is no Html."""
    return Html(between.join(escape(part) for part in parts))


def number(value: Real | float | None) -> str:
    """A figure as every table and chart shows it: whole numbers with commas, others to about three digits."""
    if value is None or value != value:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}".replace("-", "−")
    return _decimal(float(value), _digits(float(value)))


_SIZES = ((1000, 0), (100, 1), (10, 2), (0.1, 3), (0.01, 4), (0.001, 5))


def _digits(figure: float) -> int | None:
    """Decimals for about three digits that count; None for what is too large or too small to write out."""
    size = abs(figure)
    if not size:
        return 3
    return None if size >= 1e15 else next((digits for least, digits in _SIZES if size >= least), None)


def _decimal(figure: float, digits: int | None) -> str:
    if math.isinf(figure):
        return "∞" if figure > 0 else "−∞"
    told = f"{figure:.2e}" if digits is None and figure else f"{figure + 0.0:,.{digits or 0}f}"
    return told.replace("-", "−")


def _rounded(figure: float, digits: int) -> str:
    """To so many decimals, and nothing is ever minus nothing."""
    return _decimal(round(figure, digits), digits)


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 as percent."""
    return ABSENT if share is None or share != share else f"{share * 100:.{digits}f}%".replace("-", "−")


def moment(created: str) -> str:
    """A moment as tables keep it (2026-11-27T02:00:00+00:00), for people."""
    return created.replace("T", " ").replace("+00:00", " UTC")


def interval(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """`0.312 [0.290, 0.334]`: a figure with its interval, all to the figure's own decimals; an open end is infinite."""
    if value is None:
        return ABSENT
    if low is None and high is None:
        return number(value)
    digits = _digits(float(value or high or low or 0.0))
    below, above = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return f"{_decimal(float(value), digits)} [{_decimal(below, digits)}, {_decimal(above, digits)}]"


# -- the frame ---------------------------------------------------------------------------------------------------------


def page(title: str, sections: Sequence[Section], *, lead: str = "", contents: bool = True) -> str:
    """The whole page; lead: what stands under the title. Two headings of the same words get two anchors."""
    anchors = _anchors([section.title for section in sections])
    links = [f'<a href="#{anchor}">{escape(s.title)}</a>' for anchor, s in zip(anchors, sections, strict=True)]
    toc = f'<nav aria-label="Contents">{"".join(links)}</nav>' if contents and len(links) > 2 else ""
    parts = [
        f'<section id="{anchor}"><h2>{escape(s.title)}</h2>\n{join(s.body, chr(10))}</section>'
        for anchor, s in zip(anchors, sections, strict=True)
    ]
    under = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{under}</header>\n{toc}\n<main>\n{chr(10).join(parts)}\n</main>\n"
        "</body>\n</html>\n"
    )


def _anchors(titles: Sequence[str]) -> list[str]:
    found: list[str] = []
    for title in titles:
        stem = re.sub(r"\W+", "-", title.lower()).strip("-") or "section"
        anchor, again = stem, 2
        while anchor in found:
            anchor, again = f"{stem}-{again}", again + 1
        found.append(anchor)
    return found


def paragraph(text: object, *, kind: str = "") -> Html:
    """A paragraph; kind: `note` sets it apart, `quiet` makes it small."""
    return Html(f"<p{_class(kind)}>{escape(text)}</p>")


def bullets(items: Iterable[object]) -> Html:
    """A list of points."""
    return Html(f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>")


def code(text: object) -> Html:
    """An id or a path: in a fixed width, breaking where it must."""
    return Html(f"<code>{escape(text)}</code>")


def terms(pairs: Iterable[tuple[object, object]]) -> Html:
    """What words mean: a term and its explanation each."""
    return Html(f"<dl>{''.join(f'<dt>{escape(a)}</dt><dd>{escape(b)}</dd>' for a, b in pairs)}</dl>")


def figures(pairs: Iterable[tuple[object, object]]) -> Html:
    """The few figures to see first: (name, value) each; numbers are formatted."""
    cards = [f"<div><dt>{escape(name)}</dt><dd>{escape(_cell(value))}</dd></div>" for name, value in pairs]
    return Html(f'<dl class="figures">{"".join(cards)}</dl>')


def beside(*parts: Html) -> Html:
    """Charts next to each other where there is room, below each other where there isn't."""
    return Html(f'<div class="beside">{"".join(parts)}</div>')


def table(headers: Sequence[object], rows: Iterable[Sequence[object]], *, caption: object = "") -> Html:
    """A table that scrolls sideways by itself; columns in which numbers stand are set right. None is a dash.

    Every row has a cell for each header. The first column is the rows' heading.
    """
    body = [list(row) for row in rows]
    for row in body:
        if len(row) != len(headers):
            raise InputError(f"table: a row needs {len(headers)} cells, one for each header; got {len(row)}: {row!r}")
    right = [_is_numeric([row[i] for row in body]) for i in range(len(headers))]
    head = "".join(f'<th scope="col"{_class("n" * r)}>{escape(h)}</th>' for h, r in zip(headers, right, strict=True))
    lines = [
        "<tr>"
        + "".join(
            f'<th scope="row"{_class("n" * r)}>{escape(_cell(cell))}</th>'
            if i == 0
            else f"<td{_class('n' * r)}>{escape(_cell(cell))}</td>"
            for i, (cell, r) in enumerate(zip(row, right, strict=True))
        )
        + "</tr>"
        for row in body
    ]
    above = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
    return Html(
        f'<div class="wide"><table>{above}<thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(value: object) -> object:
    return number(value) if value is None or isinstance(value, Real) else value


_NUMERIC = re.compile(r"[−+-]?[\d.,]+(?:e[−+-]?\d+)?%?(?: ?\[.*\]| to [\d.,]+%?)?(?: [A-Z]{3})?|[–∞]")
_TAG = re.compile(r"</?\w+>")


def _is_numeric(cells: Sequence[object]) -> bool:
    """Whether a column is one of figures: numbers, or texts that begin as one, and dashes; not dashes alone."""
    if not any(isinstance(c, Real) or str(c) not in ("", "None", ABSENT) for c in cells):
        return False
    return all(c is None or c == "" or isinstance(c, Real) or _NUMERIC.fullmatch(_TAG.sub("", str(c))) for c in cells)


# -- charts ------------------------------------------------------------------------------------------------------------
# Each is a figure of inline SVG with title and description, drawn 440 units wide, so that letters stay readable on a
# phone. Colours come from the page's style, and every series has a mark or a dash of its own besides.

WIDTH = 440.0
_LETTER = 7.0  # the mean width of a letter at the charts' size, in fonts that run wide
_MARKS = ("circle", "square", "diamond", "triangle", "ring", "cross")
_CORNERS = {
    "square": ((-3.2, -3.2), (3.2, -3.2), (3.2, 3.2), (-3.2, 3.2)),
    "diamond": ((0.0, -4.5), (4.5, 0.0), (0.0, 4.5), (-4.5, 0.0)),
    "triangle": ((0.0, -4.3), (4.2, 3.2), (-4.2, 3.2)),
}
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) within [low, high], ascending."""
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise InputError(f"chart: an axis runs from a lower to a higher number; got {low!r} and {high!r}")
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-290):  # nothing between them that could be told apart
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [min(high, max(low, k * step)) for k in range(first, last + 1)]


@dataclass(frozen=True)
class Scale:
    """A linear map from figures to units of the drawing; a single figure stands in the middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high == self.low:
            return (self.start + self.end) / 2
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _span(values: Iterable[float | None], *, zero: bool = False, room: float = 0.06) -> tuple[float, float]:
    """The lowest and highest of the values that there are, with some room; zero: it is an end that must be seen."""
    there = [v for v in values if v is not None and math.isfinite(v)] + ([0.0] if zero else [])
    if not there:
        return 0.0, 1.0
    low, high = min(there), max(there)
    spare = (high - low) * room if high > low else abs(high) * 0.1 or 0.5
    return (0.0 if zero and low >= 0 else low - spare), (0.0 if zero and high <= 0 else high + spare)


def bar_chart(title: str, bars: Sequence[Point], *, note: str = "", share: bool = False) -> Html:
    """A bar from zero for each point, its figure beside it, whiskers where it has an interval; share: as percent."""
    low, high = _span([end for bar in bars for end in _ends(bar)], zero=True)
    return _row_chart(title, bars, (low, high), bar=True, reference=None, note=note, share=share)


def intervals(
    title: str,
    points: Sequence[Point],
    *,
    reference: Reference | None = None,
    note: str = "",
    share: bool = False,
) -> Html:
    """A dot with whiskers for each point: a measure and its interval, arm by arm; an open end runs to the edge.

    reference: a dashed line across all, such as chance.
    """
    across = [] if reference is None else [reference.value]
    low, high = _span([*(end for point in points for end in _ends(point)), *across])
    return _row_chart(title, points, (low, high), bar=False, reference=reference, note=note, share=share)


def _row_chart(
    title: str, points: Sequence[Point], ends: tuple[float, float], *, bar: bool, reference: Reference | None,
    note: str, share: bool,
) -> Html:  # fmt: skip
    """A line for each point: label to the left, drawing, figure to the right."""
    for point in points:
        _check_point(title, point)
    shown = percent if share else number
    told = [shown(point.value) for point in points]
    left = min(150.0, max([28.0, *(_width(p.label) for p in points)])) + 12
    x = Scale(*ends, left, WIDTH - 16 - max([32.0, *(_width(t) for t in told)]))
    top, pitch = (26.0 if reference else 8.0), 24.0
    bottom = top + pitch * max(1, len(points))
    parts = _x_axis(x, top, bottom, share=share)
    if reference is not None:
        label = f"{reference.label} {shown(reference.value)}"
        parts.append(_line("ref", x(reference.value), top - 6, x(reference.value), bottom))
        parts.append(_text(_within(x(reference.value), label), top - 11, label, "middle ref"))
    for k, (point, figure) in enumerate(zip(points, told, strict=True)):
        y = top + pitch * (k + 0.5)
        parts.append(_text(left - 10, y + 4, _cut(point.label, left - 12), "end", whole=point.label))
        parts.append(_text(WIDTH - 4, y + 4, figure, "end"))
        if point.value is None:
            continue
        at = x(point.value)
        if bar:
            start, width = min(at, x(0.0)), max(abs(at - x(0.0)), 0.75)
            parts.append(
                f'<rect class="c0 fill" x="{_n(start)}" y="{_n(y - 7)}" width="{_n(width)}" height="14" rx="2"/>'
            )
        parts += _whiskers(x, y, point, "ink line" if bar else "c0 line")
        if not bar:
            parts.append(f'<circle class="c0 fill" cx="{_n(at)}" cy="{_n(y)}" r="4.5"/>')
    said = [f"{p.label}: {interval(p.value, p.low, p.high)}" for p in points]
    said += [f"{reference.label}: {number(reference.value)}"] if reference else []
    return _figure(title, "; ".join(said), bottom + 26, parts, note)


def dumbbells(
    title: str,
    pairs: Sequence[tuple[str, float, float]],
    *,
    ends: tuple[str, str] = ("before", "after"),
    reference: Reference | None = None,
    note: str = "",
) -> Html:
    """A line for each thing from what it was to what it is: (label, before, after). reference: a line across all."""
    if bad := next((pair for pair in pairs if not all(map(math.isfinite, pair[1:]))), None):
        raise InputError(f"chart {title}: before and after are finite numbers; got {bad}")
    across = [] if reference is None else [reference.value]
    left = min(150.0, max([28.0, *(_width(label) for label, _, _ in pairs)])) + 12
    x = Scale(*_span([*(value for _, *both in pairs for value in both), *across]), left, WIDTH - 16)
    top, pitch = 8.0 + _legend_height(ends) + (18.0 if reference else 0.0), 18.0
    bottom = top + pitch * max(1, len(pairs))
    parts = [*_legend(ends), *_x_axis(x, top, bottom)]
    if reference is not None:
        label = f"{reference.label} {number(reference.value)}"
        parts.append(_line("ref", x(reference.value), top - 4, x(reference.value), bottom))
        parts.append(_text(_within(x(reference.value), label), top - 9, label, "middle ref"))
    for k, (label, before, after) in enumerate(pairs):
        y = top + pitch * (k + 0.5)
        parts.append(_text(left - 10, y + 4, _cut(label, left - 12), "end", whole=label))
        parts += [_line("c1 line", x(before), y, x(after), y), _mark(0, x(before), y), _mark(1, x(after), y)]
    said = [f"{label}: {number(before)} to {number(after)}" for label, before, after in pairs]
    said += [f"{reference.label}: {number(reference.value)}"] if reference else []
    return _figure(title, "; ".join(said), bottom + 26, parts, note)


def _ends(point: Point) -> list[float | None]:
    """What an axis must have room for: nothing, where there is no value."""
    return [] if point.value is None else [point.low, point.value, point.high]


def _check_point(title: str, point: Point) -> None:
    if point.value is None:
        return
    low = -math.inf if point.low is None else point.low
    high = math.inf if point.high is None else point.high
    if not math.isfinite(point.value) or not low <= point.value <= high:
        raise InputError(f"chart {title}: a point is a finite number within its interval, or None; got {point}")


def _whiskers(x: Scale, y: float, point: Point, kind: str) -> list[str]:
    """A line over the interval with a stop at each end that it has."""
    if point.low is None and point.high is None:
        return []
    low = x.start if point.low is None else x(point.low)
    high = x.end if point.high is None else x(point.high)
    stops = [end for end, known in ((low, point.low), (high, point.high)) if known is not None]
    return [_line(kind, low, y, high, y), *(_line(kind, stop, y - 5, stop, y + 5) for stop in stops)]


def histogram(
    title: str,
    edges: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    x_label: str = "",
    note: str = "",
    reference: Reference | None = None,
) -> Html:
    """Outlines of counts over the same bins, each as a share of its own total, so that unequal totals compare.

    edges: one more than bins, ascending. Empty bins at both ends are cut off. reference: a dashed line upwards, such as
    a threshold; it stands at the edge where it lies beyond the bins.
    """
    _check_series(title, series)
    if len(edges) < 2 or any(b <= a for a, b in pairwise(edges)):
        raise InputError(f"chart {title}: a histogram needs at least two edges, ascending; got {list(edges)!r}")
    for name, counts in series.items():
        if len(counts) != len(edges) - 1 or any(c < 0 or not math.isfinite(c) for c in counts):
            raise InputError(
                f"chart {title}: {name} needs a count of 0 or more for each of {len(edges) - 1} bins; got {counts!r}"
            )
    filled = [i for i in range(len(edges) - 1) if any(counts[i] for counts in series.values())] or [0]
    first, last = filled[0], filled[-1] + 1
    shares = {name: [c / (sum(counts) or 1) for c in counts[first:last]] for name, counts in series.items()}
    keys = list(series) if len(series) > 1 else []
    top = 10.0 + _legend_height(keys) + (18.0 if reference else 0.0)
    bottom = 186.0 + top
    y = Scale(0.0, max(s for each in shares.values() for s in each) or 1.0, bottom, top)
    x = Scale(edges[first], edges[last], _room(y, share=True), WIDTH - 12)
    parts = [*_legend(keys), *_y_axis(y, x, share=True), *_x_axis(x, bottom, bottom)]
    for k, each in enumerate(shares.values()):
        steps = "".join(f"V{_n(y(s))}H{_n(x(edges[first + i + 1]))}" for i, s in enumerate(each))
        path = f"M{_n(x.start)},{_n(y.start)}{steps}V{_n(y.start)}"
        parts.append(f'<path class="c{k} area" d="{path}Z"/><path class="c{k} line"{_dash(k)} d="{path}"/>')
    parts.append(_below(x, bottom, x_label))
    said = [f"{name}: {number(sum(counts))} in all, {_mode(edges, counts)}" for name, counts in series.items()]
    if reference is not None:
        label = f"{reference.label} {number(reference.value)}"
        parts.append(_line("ref", x(reference.value), top - 4, x(reference.value), bottom))
        parts.append(_text(_within(x(reference.value), label), top - 9, label, "middle ref"))
        said.append(f"{reference.label}: {number(reference.value)}")
    return _figure(title, "; ".join(said), bottom + (44 if x_label else 26), parts, note)


def _mode(edges: Sequence[float], counts: Sequence[float]) -> str:
    if not sum(counts):
        return "none"
    at = max(range(len(counts)), key=lambda i: counts[i])
    return f"the fullest bin from {number(edges[at])} to {number(edges[at + 1])}"


def line_chart(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, Point]]],
    *,
    x_label: str = "",
    reference: Reference | None = None,
    note: str = "",
    share: bool = False,
) -> Html:
    """A measure over rounds: (x, point) each, ascending in x, with its interval as a band.

    A point without a value breaks the line. reference: a dashed line across.
    """
    _check_series(title, lines)
    for name, each in lines.items():
        for _, point in each:
            _check_point(f"{title}, {name}", point)
        if any(b[0] <= a[0] for a, b in pairwise(each)):
            raise InputError(f"chart {title}: the points of {name} must ascend in x; got {[at for at, _ in each]!r}")
    every = [(at, point) for each in lines.values() for at, point in each]
    across = [at for at, _ in every] or [0.0]
    low, high = _span([*(e for _, p in every for e in _ends(p)), *([reference.value] if reference else [])])
    keys = list(lines) if len(lines) > 1 else []
    top, bottom = 12.0 + _legend_height(keys), 198.0 + _legend_height(keys)
    y = Scale(low, high, bottom, top)
    left = _room(y, share=share)
    axis = Scale(min(across), max(across), left, WIDTH - 12)
    x = Scale(axis.low, axis.high, left + 8, WIDTH - 20)
    whole = all(float(at).is_integer() for at in across)
    parts = [*_legend(keys), *_y_axis(y, axis, share=share), *_x_axis(x, bottom, bottom, whole=whole)]
    if reference is not None:
        label = f"{reference.label} {(percent if share else number)(reference.value)}"
        parts.append(_line("ref", left, y(reference.value), axis.end, y(reference.value)))
        parts.append(_text(axis.end, y(reference.value) - 5, label, "end ref"))
    for k, each in enumerate(lines.values()):
        for run in _runs(each):
            ends = [(x(at), y(a), y(b)) for at, _, a, b in run if a is not None and b is not None]
            parts += _band(k, ends)
            trace = [(x(at), y(value)) for at, value, _, _ in run]
            parts.append(f'<polyline class="c{k} line"{_dash(k)} points="{_places(trace)}"/>')
            parts += [_mark(k, *place) for place in trace]
    parts.append(_below(x, bottom, x_label))
    said = [
        f"{name}: "
        + ", ".join(f"{number(int(at) if whole else at)}: {interval(p.value, p.low, p.high)}" for at, p in each)
        for name, each in lines.items()
    ]
    return _figure(title, "; ".join(said), bottom + (44 if x_label else 26), parts, note)


def scatter(
    title: str,
    points: Mapping[str, tuple[Point, Point]],
    *,
    x_label: str,
    y_label: str,
    x_reference: Reference | None = None,
    y_reference: Reference | None = None,
    x_share: bool = False,
    y_share: bool = False,
    note: str = "",
) -> Html:
    """One measure against another: name -> (x, y), each with its interval as a whisker; drawn where both have a value.

    x_reference, y_reference: dashed lines at a value of x and of y.
    """
    _check_series(title, points)
    for name, pair in points.items():
        for each in pair:
            _check_point(f"{title}, {name}", each)
    drawn = [(k, pair) for k, pair in enumerate(points.values()) if all(each.value is not None for each in pair)]
    spans = []
    for side, reference in enumerate((x_reference, y_reference)):
        ends = [end for _, pair in drawn for end in _ends(pair[side])]
        spans.append(_span([*ends, *([reference.value] if reference else [])]))
    keys = list(points)
    top = 12.0 + _legend_height(keys) + (14 if x_reference else 0)
    bottom = top + 200.0
    y = Scale(*spans[1], bottom, top)
    x = Scale(*spans[0], _room(y, share=y_share), WIDTH - 12)
    parts = [*_legend(keys, lines=False), *_y_axis(y, x, share=y_share), *_x_axis(x, top, bottom, share=x_share)]
    if x_reference is not None:
        label = f"{x_reference.label} {(percent if x_share else number)(x_reference.value)}"
        parts.append(_line("ref", x(x_reference.value), top - 6, x(x_reference.value), bottom))
        parts.append(_text(_within(x(x_reference.value), label), top - 9, label, "middle ref"))
    if y_reference is not None:
        label = f"{y_reference.label} {(percent if y_share else number)(y_reference.value)}"
        parts.append(_line("ref", x.start, y(y_reference.value), x.end, y(y_reference.value)))
        parts.append(_text(x.end, y(y_reference.value) - 5, label, "end ref"))
    for k, (across, up) in drawn:
        assert across.value is not None and up.value is not None
        at, height = x(across.value), y(up.value)
        parts += _whiskers(x, height, across, f"c{k} line")
        if up.low is not None or up.high is not None:
            low, high = (y.start if up.low is None else y(up.low)), (y.end if up.high is None else y(up.high))
            parts.append(_line(f"c{k} line", at, low, at, high))
            stops = [end for end, known in ((low, up.low), (high, up.high)) if known is not None]
            parts += [_line(f"c{k} line", at - 5, stop, at + 5, stop) for stop in stops]
        parts.append(_mark(k, at, height))
    parts.append(_below(x, bottom, x_label))
    said = [
        f"{name}: {x_label} {interval(a.value, a.low, a.high)}, {y_label} {interval(b.value, b.low, b.high)}"
        for name, (a, b) in points.items()
    ]
    for axis, reference in ((x_label, x_reference), (y_label, y_reference)):
        said += [f"{reference.label}: {axis} {number(reference.value)}"] if reference else []
    return _figure(title, "; ".join(said), bottom + 44, parts, "; ".join(filter(None, [f"upwards: {y_label}", note])))


def _runs(points: Sequence[tuple[float, Point]]) -> list[list[tuple[float, float, float | None, float | None]]]:
    """The stretches without a gap: (x, value, low, high) each."""
    runs: list[list[tuple[float, float, float | None, float | None]]] = [[]]
    for at, point in points:
        if point.value is None:
            runs.append([])
        else:
            runs[-1].append((at, point.value, point.low, point.high))
    return [run for run in runs if run]


def _band(k: int, ends: Sequence[tuple[float, float, float]]) -> list[str]:
    """The area between the intervals' ends; a single interval is a line."""
    if len(ends) == 1:
        [(at, low, high)] = ends
        return [_line(f"c{k} line", at, low, at, high)]
    outline = [(at, high) for at, _, high in ends] + [(at, low) for at, low, _ in reversed(ends)]
    return [f'<polygon class="c{k} area" points="{_places(outline)}"/>'] if ends else []


def _check_series(title: str, series: Mapping[str, object]) -> None:
    if not 1 <= len(series) <= COLOURS:
        raise InputError(f"chart {title}: it holds from 1 to {COLOURS} series; got {len(series)}. Split it")


def _figure(title: str, said: str, height: float, parts: Sequence[str], note: str) -> Html:
    """The chart with its caption; title and description are what a screen reader says."""
    under = f"<small>{escape(note)}</small>" if note else ""
    return Html(
        f"<figure><figcaption>{escape(title)}{under}</figcaption>"
        f'<svg viewBox="0 0 {_n(WIDTH)} {_n(height)}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(said)}</desc>{''.join(parts)}</svg></figure>"
    )


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Mapping[tuple[int, int], Point],
    *,
    outlined: Iterable[tuple[int, int]] = (),
    strongest: float | None = None,
    note: str = "",
) -> Html:
    """Figures of rows by columns, the stronger coloured the further from 0: above in one colour, below in another.

    cells: (row, column) -> figure; one that is absent stays empty. outlined: cells to find at once, such as a diagonal.
    strongest: the size of figure that is coloured fully, so that maps side by side compare; None: this map's largest.
    """
    if not 1 <= len(columns) <= COLUMNS or not rows:
        raise InputError(
            f"chart {title}: a heat map has rows and from 1 to {COLUMNS} columns; got {len(columns)}. Split it"
        )
    for (i, j), point in cells.items():
        _check_point(f"{title}, {rows[i]} by {columns[j]}", point)
    left = min(150.0, max([28.0, *(_width(r) for r in rows)])) + 12
    wide, tall = (WIDTH - left - 4) / len(columns), 30.0
    level = all(_width(c) <= wide - 4 for c in columns)
    top = 22.0 if level else min(150.0, max(_width(c) for c in columns)) + 14
    values = [p.value for p in cells.values() if p.value is not None]
    most = strongest or max(map(abs, values), default=0.0) or 1.0
    # As many decimals as there is room for, the same in all cells; none fits: colours and hovering alone.
    digits = next((d for d in (3, 2, 1) if all(_width(_rounded(v, d)) <= wide - 4 for v in values)), None)
    parts = []
    for j, column in enumerate(columns):
        x = left + wide * (j + 0.5)
        turn = "" if level else f' transform="rotate(-90 {_n(x + 4)} {_n(top - 8)})"'
        label = _cut(column, wide - 2 if level else top - 12)
        hover = f"<title>{escape(column)}</title>" if label != column else ""
        place = f'x="{_n(x if level else x + 4)}" y="{_n(top - 8)}"'
        parts.append(f'<text class="{"middle" if level else "start"}" {place}{turn}>{hover}{escape(label)}</text>')
    for i, row in enumerate(rows):
        parts.append(_text(left - 10, top + tall * (i + 0.5) + 4, _cut(row, left - 12), "end", whole=row))
    for (i, j), point in sorted(cells.items()):
        x, y = left + wide * j, top + tall * i
        if point.value is None:
            continue
        strength = 0.04 + 0.56 * min(1.0, abs(point.value) / most)
        shown = f"{rows[i]} by {columns[j]}: {interval(point.value, point.low, point.high)}"
        parts.append(
            f'<rect class="c{0 if point.value >= 0 else 1} fill" fill-opacity="{_n(strength)}" x="{_n(x + 1)}" '
            f'y="{_n(y + 1)}" width="{_n(wide - 2)}" height="{_n(tall - 2)}" rx="2">'
            f"<title>{escape(shown)}</title></rect>"
        )
        if digits is not None:
            parts.append(_text(x + wide / 2, y + tall / 2 + 4, _rounded(point.value, digits), "middle"))
    for i, j in outlined:
        parts.append(
            f'<rect class="ink outline" x="{_n(left + wide * j + 1)}" y="{_n(top + tall * i + 1)}" '
            f'width="{_n(wide - 2)}" height="{_n(tall - 2)}" rx="2"/>'
        )
    said = [f"{rows[i]} by {columns[j]}: {interval(p.value, p.low, p.high)}" for (i, j), p in sorted(cells.items())]
    return _figure(title, "; ".join(said), top + tall * len(rows) + 6, parts, note)


# -- axes and marks ----------------------------------------------------------------------------------------------------


def tick_labels(places: Sequence[float], *, share: bool = False) -> list[str]:
    """The places of an axis in as few digits as tell them apart, all with the same number of decimals."""
    values = [place * 100 if share else place for place in places]
    largest = max([abs(v) for v in values], default=0.0)
    if values and (largest >= 1e15 or 0 < largest < 1e-4):
        return [f"{v:.3g}".replace("-", "−") for v in values]
    enough = (d for d in range(9) if all(abs(round(v, d) - v) <= 1e-6 * largest for v in values))
    digits = next(enough, 9)
    return [f"{round(v, digits) + 0.0:,.{digits}f}".replace("-", "−") + "%" * share for v in values]


def _x_axis(x: Scale, top: float, bottom: float, *, share: bool = False, whole: bool = False) -> list[str]:
    """As many places as fit without touching, with lines up to `top`; whole: at whole numbers alone."""
    parts = [_line("axis", x.start, bottom, x.end, bottom)]
    for count in (6, 5, 4, 3, 2, 1):
        places = [t for t in ticks(x.low, x.high, count) if not whole or float(t).is_integer()]
        told = tick_labels(places, share=share)
        apart = max((_width(t) for t in told), default=0.0) + 10
        if all(abs(x(b) - x(a)) >= apart for a, b in pairwise(places)):
            break
    for place, label in zip(places, told, strict=True):
        parts.append(_line("grid", x(place), top, x(place), bottom + 4))
        parts.append(_text(x(place), bottom + 18, label, "middle quiet"))
    return parts


def _y_axis(y: Scale, x: Scale, *, share: bool) -> list[str]:
    parts = []
    places = ticks(y.low, y.high, 4)
    for place, label in zip(places, tick_labels(places, share=share), strict=True):
        parts.append(_line("grid", x.start, y(place), x.end, y(place)))
        parts.append(_text(x.start - 6, y(place) + 4, label, "end quiet"))
    return parts


def _room(y: Scale, *, share: bool) -> float:
    """Where the drawing begins to the right of its vertical axis' labels."""
    return 14 + max([20.0, *(_width(t) for t in tick_labels(ticks(y.low, y.high, 4), share=share))])


def _below(x: Scale, bottom: float, label: str) -> str:
    return _text((x.start + x.end) / 2, bottom + 36, label, "middle quiet") if label else ""


def _legend(names: Sequence[str], *, lines: bool = True) -> list[str]:
    parts = []
    for k, (name, (at, line)) in enumerate(zip(names, _legend_places(names), strict=True)):
        y = 10.0 + 18 * line
        parts += [*([_line(f"c{k} line", at, y, at + 22, y, _dash(k))] if lines else []), _mark(k, at + 11, y)]
        parts.append(_text(at + 28, y + 4, _cut(name, 180), "start", whole=name))
    return parts


def _legend_places(names: Sequence[str]) -> list[tuple[float, int]]:
    """Where each name stands: from left to right, in a new line where the last is full."""
    places, at, line = [], 8.0, 0
    for name in names:
        width = 28 + min(180.0, _width(name)) + 18
        if at + width > WIDTH and at > 8.0:
            at, line = 8.0, line + 1
        places.append((at, line))
        at += width
    return places


def _legend_height(names: Sequence[str]) -> float:
    return 18.0 * (_legend_places(names)[-1][1] + 1) + 6 if names else 0.0


def _mark(k: int, x: float, y: float) -> str:
    """A sign at a place: one of its own for each series."""
    kind = _MARKS[k]
    if kind in ("circle", "ring"):
        return f'<circle class="c{k} {"fill" if kind == "circle" else "hole"}" cx="{_n(x)}" cy="{_n(y)}" r="3.5"/>'
    if kind == "cross":
        return f'<path class="c{k} line" d="M{_n(x - 3.5)},{_n(y - 3.5)}l7,7m0,-7l-7,7"/>'
    corners = [(x + a, y + b) for a, b in _CORNERS[kind]]
    return f'<polygon class="c{k} fill" points="{_places(corners)}"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line class="{kind}"{more} x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"/>'


def _dash(k: int) -> str:
    return f' stroke-dasharray="{_DASHES[k]}"' if _DASHES[k] else ""


def _places(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in places)


def _text(x: float, y: float, text: str, kind: str, *, whole: str | None = None) -> str:
    """A text of the drawing; whole: what was cut, shown where one points at it."""
    hover = f"<title>{escape(whole)}</title>" if whole is not None and whole != text else ""
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{hover}{escape(text)}</text>'


def _within(at: float, label: str) -> float:
    """The middle of a text around `at` that stays in the drawing."""
    half = _width(label) / 2 + 24
    return min(max(at, half), WIDTH - half)


def _width(text: str) -> float:
    """About how wide a text is drawn: letters of East Asia take twice the room, marks on letters none."""
    cells = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return cells * _LETTER


def _cut(text: str, room: float) -> str:
    """As much of a text as there is room for."""
    if _width(text) <= room:
        return text
    kept = ""
    for letter in text:
        if _width(kept + letter) > room - _LETTER:
            break
        kept += letter
    return kept.rstrip() + "…"


def _n(value: float) -> str:
    """A place in the drawing, to a hundredth."""
    return f"{round(value, 2) + 0.0:g}"


_CSS = """
:root{color-scheme:light dark;--paper:#fdfdfb;--card:#fff;--ink:#1d2126;--quiet:#5b636d;--rule:#d9dcdf;--soft:#f0f1ee;
--link:#1f5fa8;--good:#1c6b3c;--good-soft:#d9f0df;--bad:#9b2c1d;--bad-soft:#fbe0da;--note:#fff6dc;--note-rule:#d8b24a;
--c0:#2563a8;--c1:#c4560d;--c2:#187a5b;--c3:#9a3f86;--c4:#7a6a00;--c5:#5a5f66}
@media(prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1c2025;--ink:#e4e6e8;--quiet:#a0a8b1;--rule:#373d45;
--soft:#22272d;--link:#8cbcf2;--good:#8fd6a6;--good-soft:#173a25;--bad:#f2a091;--bad-soft:#4a211a;--note:#332c17;
--note-rule:#a8862f;--c0:#6fa8e8;--c1:#f09a5b;--c2:#5fc9a1;--c3:#dd8fce;--c4:#d6c34f;--c5:#b3b9c1}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:74rem;padding:1.5rem clamp(.9rem,3vw,2.5rem) 4rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:break-word;
font-variant-numeric:lining-nums}
h1{font-size:1.75rem;line-height:1.2;margin:.4rem 0 .5rem;letter-spacing:-.01em;text-wrap:balance}
h2{font-size:1.25rem;line-height:1.3;margin:0 0 .7rem;text-wrap:balance}
h3{font-size:1rem;margin:1.2rem 0 .4rem}
section{margin:2.6rem 0 0;padding-top:1.1rem;border-top:1px solid var(--rule)}
p,ul,dl{margin:.6rem 0;max-width:44rem;text-wrap:pretty}
ul{padding-left:1.2rem}
li{margin:.25rem 0}
.lead{font-size:1.06rem;color:var(--quiet);margin:0}
.quiet{color:var(--quiet);font-size:.9rem}
.note{background:var(--note);border-left:3px solid var(--note-rule);padding:.55rem .9rem;border-radius:0 4px 4px 0}
a{color:var(--link)}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;margin:1.1rem 0 0;font-size:.92rem}
code{font:.86em/1.4 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:anywhere}
dt{font-weight:600;margin-top:.7rem}
dd{margin:.1rem 0 0}
dl.figures{display:grid;
grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;max-width:none;margin:1rem 0}
dl.figures>div{background:var(--soft);border-radius:6px;padding:.6rem .8rem}
dl.figures dt{font-weight:400;font-size:.83rem;color:var(--quiet);margin:0;line-height:1.3}
dl.figures dd{font-size:1.3rem;line-height:1.3;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.wide{overflow-x:auto;margin:1rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums lining-nums}
caption{text-align:left;color:var(--quiet);padding-bottom:.35rem}
caption span{display:block;max-width:calc(100vw - 2rem)}
th,td{padding:.36rem .9rem .36rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:600;vertical-align:bottom;border-bottom:1.5px solid var(--quiet)}
tbody th{font-weight:400;min-width:6rem}
.n{text-align:right;white-space:nowrap}
td small{color:var(--quiet);font-size:.83rem}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,23rem),1fr));gap:1rem 1.4rem;
margin:1rem 0;align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.8rem .9rem .6rem;
max-width:38rem;min-width:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.5rem;line-height:1.35}
figcaption small{display:block;font-weight:400;font-size:.83rem;color:var(--quiet)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:12px;fill:var(--ink);font-family:inherit;font-variant-numeric:tabular-nums}
svg .quiet{fill:var(--quiet);font-size:11.5px}
svg .middle{text-anchor:middle}
svg .end{text-anchor:end}
svg text.ref{fill:var(--quiet);font-size:11.5px}
svg line.ref{stroke:var(--quiet);stroke-width:1.2;stroke-dasharray:4 3}
svg .grid{stroke:var(--rule);stroke-width:1}
svg .axis{stroke:var(--quiet);stroke-width:1}
svg .line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}
svg .fill{fill:currentColor}
svg .hole{fill:var(--card);stroke:currentColor;stroke-width:1.6}
svg .area{fill:currentColor;fill-opacity:.15}
svg .ink{color:var(--ink)}
svg .outline{fill:none;stroke:currentColor;stroke-width:1.8}
.c0{color:var(--c0)}.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}.c5{color:var(--c5)}
ins{background:var(--good-soft);color:var(--good);text-decoration:underline;text-decoration-thickness:1px;
text-underline-offset:2px;border-radius:2px}
del{background:var(--bad-soft);color:var(--bad);border-radius:2px}
article{margin:1.4rem 0;border:1px solid var(--rule);border-radius:6px;background:var(--card);padding:.8rem 1rem 1rem}
article header{display:flex;flex-wrap:wrap;gap:.3rem .9rem;align-items:baseline;font-size:.9rem;color:var(--quiet);
margin-bottom:.6rem}
article h3{margin:0;color:var(--ink)}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem 1.6rem}
.pair h4{font-size:.83rem;font-weight:600;color:var(--quiet);margin:0 0 .25rem}
.text{white-space:pre-wrap;overflow-wrap:anywhere;font-family:Charter,"Iowan Old Style",Georgia,"Times New Roman",serif;
font-size:1.02rem;line-height:1.5}
.badge{border-radius:99px;padding:.05rem .6rem;font-size:.83rem;font-weight:600}
.good{background:var(--good-soft);color:var(--good)}
.bad{background:var(--bad-soft);color:var(--bad)}
@media print{:root{--paper:#fff;--card:#fff;--ink:#000;--quiet:#444;--rule:#bbb;--soft:#f4f4f4;--link:#000;--note:#fff;
--good:#14532d;--good-soft:#e5f4e9;--bad:#7f1d1d;--bad-soft:#fbe9e6;
--c0:#2563a8;--c1:#c4560d;--c2:#187a5b;--c3:#9a3f86;--c4:#7a6a00;--c5:#5a5f66}
body{max-width:none;padding:0;font-size:10.5pt}nav{display:none}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
section{margin-top:1.4rem}h2,h3,article header,figcaption{break-after:avoid}figure,tr,.figures>div{break-inside:avoid}
.wide{overflow:visible}a{text-decoration:none}}
""".strip()


def _notebook_css() -> str:
    """The page's style nested in a class: the notebook around it keeps its own."""
    nested = re.sub(r":root|(?<!\w)body(?=\{)", "&", _CSS)
    return f".curation{{{nested}&{{padding:.5rem}}}}"
