"""The page: every text escaped, nothing from outside, charts that draw what they are given and say it in words."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation import report
from curation.errors import InputError
from curation.report import Html, Point, Reference, Scale, Section

EVIL = "<script>alert(\"it's\")</script> & <img src=x onerror=y>"
SVG = "{http://www.w3.org/2000/svg}"


class Reader(HTMLParser):
    """The tags of a page with their attributes, its texts, and whether each tag is closed in its place."""

    VOID = ("meta", "br", "img", "link", "input")
    EMPTY = ("line", "circle", "rect", "path", "polygon", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.EMPTY
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def everything(text: str) -> str:
    """A page that shows one text wherever a text may stand."""
    point = Point(text, 0.5, 0.4, 0.6)
    blocks = [
        report.paragraph(text), report.paragraph(text, kind="note"), report.bullets([text]), report.code(text),
        report.terms([(text, text)]), report.figures([(text, text)]), report.table([text, "n"], [[text, 1]], caption=text),
        report.bar_chart(text, [point], note=text), report.intervals(text, [point], reference=Reference(0.75, text), note=text),
        report.histogram(text, [0, 1, 2], {text: [1, 2], "other": [0, 1]}, x_label=text, note=text),
        report.line_chart(text, {text: [(0, point), (1, point)], "other": [(0, point)]}, x_label=text, reference=Reference(0.1, text)),
        report.scatter(
            text, {text: (point, point), "other": (point, Point("", None))}, x_label=text, y_label=text, note=text,
            x_reference=Reference(0.1, text), y_reference=Reference(0.2, text),
        ),
        report.dumbbells(text, [(text, 0.1, 0.4)], ends=(text, "b"), reference=Reference(0.2, text), note=text),
        report.heat_map(text, [text, "b"], [text, "d"], {(0, 0): point, (1, 1): point}, outlined=[(0, 0)], note=text),
    ]  # fmt: skip
    return report.page(text, [Section(text, blocks), Section(text, [report.beside(*blocks)]), Section("end", [])], lead=text)


def svg_of(chart: Html) -> ET.Element:
    found = re.search(r"<svg.*</svg>", chart, re.DOTALL)
    assert found is not None
    return ET.fromstring(found[0])


def numbers(root: ET.Element, tag: str, *names: str, kind: str = "") -> list[tuple[float, ...]]:
    return [
        tuple(float(e.attrib[name]) for name in names)
        for e in root.iter(SVG + tag)
        if set(kind.split()) <= set(e.attrib["class"].split())
    ]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_no_text_becomes_markup_wherever_it_stands() -> None:
    read = Reader(everything(EVIL))
    plain = Reader(everything("x" * len(EVIL)))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]
    assert not {"script", "img"} & {tag for tag, _ in read.tags}
    assert sum(EVIL in words for words in read.words) > 20


def test_the_page_needs_nothing_from_outside() -> None:
    text = everything("plain")
    read = Reader(text)
    for tag, attributes in read.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "img")
        assert not {"src", "style"} & set(attributes) and not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in text and "url(" not in text
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_text_makes_a_page_that_reads_and_encodes(text: str) -> None:
    """Lone surrogates, controls and quotes too: they show as a replacement, and the file can be written."""
    made = everything(text)
    Reader(made.encode("utf-8").decode("utf-8"))
    for svg in re.findall(r"<svg.*?</svg>", made, re.DOTALL):
        ET.fromstring(svg)


def test_anchors_are_distinct_and_all_linked() -> None:
    read = Reader(report.page("t", [Section(title, []) for title in ("A b", "a  B", "", "Größe", "a b 2")]))
    ids = [attributes["id"] for tag, attributes in read.tags if tag == "section"]
    assert ids == ["a-b", "a-b-2", "section", "größe", "a-b-2-2"]
    assert [attributes["href"] for tag, attributes in read.tags if tag == "a"] == [f"#{i}" for i in ids]
    assert "<nav" not in report.page("t", [Section("one", []), Section("two", [])])


def test_markup_is_only_what_this_module_made() -> None:
    assert report.escape(Html("<b>x</b>")) == "<b>x</b>"
    assert report.escape("<b>") == "&lt;b&gt;" and report.escape(3) == "3"
    joined = Html("<b>") + "<i>"
    assert report.escape(joined) == "&lt;b&gt;&lt;i&gt;"  # what is put together by hand is text again
    assert report.escape("a\ud800b\x00c") == "a\ufffdb\ufffdc"


# -- figures and tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), (float("nan"), "–"), (0, "0"), (0.0, "0.000"), (-0.0, "0.000"), (12, "12"), (1234567, "1,234,567"),
        (-5, "−5"), (0.3126, "0.313"), (-0.3126, "−0.313"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12,346"),
        (0.000123, "1.23e−04"), (0.00612, "0.00612"), (0.0999, "0.0999"), (float("inf"), "∞"), (True, "yes"), (1e20, "1.00e+20"),
    ],
)  # fmt: skip
def test_figures_look_the_same_everywhere(value: float | None, shown: str) -> None:
    assert report.number(value) == shown
    assert f">{shown}</td>" in report.table(["a", "b"], [["x", value]])


def test_shares_and_intervals_in_words() -> None:
    assert (report.percent(0.1234), report.percent(None), report.percent(1, 0)) == ("12.3%", "–", "100%")
    assert report.interval(0.5, 0.25, 0.75) == "0.500 [0.250, 0.750]"
    assert report.interval(0.104, 0.0931, 0.115) == "0.104 [0.093, 0.115]"
    assert report.interval(0.00612, 0.005, 0.1) == "0.00612 [0.00500, 0.10000]" and report.interval(0.0, 0.0, 0.02) == "0.0000 [0.0000, 0.0200]"
    assert report.interval(0.5, 0.25) == "0.500 [0.250, ∞]" and report.interval(7) == "7" and report.interval(7, 5, 9) == "7.000 [5.000, 9.000]" and report.interval(None) == "–"


def test_columns_of_figures_stand_right_and_others_left() -> None:
    read = Reader(report.table(["arm", "rows", "share", "range", "why", "none"],
                               [["a", 1, "1.2%", "0.5 [0.4, 0.6]", "12 apples", None], ["b", None, "–", "–", "3", None]]))  # fmt: skip
    kinds = [attributes.get("class") for tag, attributes in read.tags if tag in ("td", "th")]
    assert kinds == [None, "n", "n", "n", None, None] * 3
    with pytest.raises(InputError, match="a row needs 2 cells, one for each header; got 1"):
        report.table(["a", "b"], [["x"]])


# -- charts ------------------------------------------------------------------------------------------------------------

Finite = st.floats(-1e9, 1e9, allow_nan=False)


@given(Finite, st.floats(1e-6, 1e9), st.integers(1, 8))
@settings(deadline=None)
def test_ticks_are_round_evenly_apart_and_within_the_axis(low: float, width: float, count: int) -> None:
    high = low + width
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        return
    found = report.ticks(low, high, count)
    assert all(low <= t <= high for t in found) and found == sorted(found) and len(found) <= count + 1
    steps = {float(f"{b - a:.3e}") for a, b in pairwise(found[1:-1])}
    for step in steps if width > 1e-3 * abs(low) else ():
        assert f"{step:.0e}"[0] in "125"


def test_tick_labels_tell_the_ticks_apart_in_few_digits() -> None:
    assert report.tick_labels([0, 50, 100]) == ["0", "50", "100"]
    assert report.tick_labels([0.0, 0.05, 0.1]) == ["0.00", "0.05", "0.10"]
    assert report.tick_labels([-0.2, 0.0, 0.2], share=True) == ["−20%", "0%", "20%"]
    assert report.tick_labels([0.005, 0.01], share=True) == ["0.5%", "1.0%"]
    assert report.tick_labels([1e-7, 2e-7]) == ["1e−07", "2e−07"] and report.tick_labels([]) == []
    assert report.ticks(3, 3) == [3]
    with pytest.raises(InputError, match="from a lower to a higher number; got 1 and 0"):
        report.ticks(1, 0)


@given(st.lists(st.tuples(Finite, Finite, Finite), min_size=1, max_size=6), st.booleans())
@settings(deadline=None, max_examples=50)
def test_every_interval_is_drawn_to_scale_and_inside(triples: list[tuple[float, float, float]], bar: bool) -> None:
    """The slow way: whatever the axis is, distances in the drawing are proportional to those of the figures."""
    ordered = [sorted(t) for t in triples]
    points = [Point(f"p{i}", v, low, high) for i, (low, v, high) in enumerate(ordered)]
    root = svg_of(report.bar_chart("t", points) if bar else report.intervals("t", points))
    kind = "ink line" if bar else "c0 line"
    spans = [(a, b) for a, b, y1, y2 in numbers(root, "line", "x1", "x2", "y1", "y2", kind=kind) if y1 == y2]
    assert len(spans) == len(points)
    assert all(0 <= a <= b + 0.01 and b <= report.WIDTH for a, b in spans)
    xs = [x for span in spans for x in span]
    ends = [v for low, _, high in ordered for v in (low, high)]
    width, room = max(ends) - min(ends), max(xs) - min(xs)
    for x, end in zip(xs, ends, strict=True):
        if width > 1e-6:
            assert x == pytest.approx(min(xs) + (end - min(ends)) / width * room, abs=0.05)
    if not bar:
        dots = [x for (x,) in numbers(root, "circle", "cx", kind="fill")]
        assert all(a - 0.01 <= dot <= b + 0.01 for dot, (a, b) in zip(dots, spans, strict=True))


def test_bars_begin_at_zero_and_are_as_long_as_their_figures() -> None:
    root = svg_of(report.bar_chart("t", [Point("a", 10.0), Point("b", 5.0), Point("c", -5.0), Point("d", None)]))
    (ax, aw), (bx, bw), (cx, cw) = numbers(root, "rect", "x", "width")
    assert ax == bx and aw == pytest.approx(2 * bw, abs=0.05) and cw == pytest.approx(bw, abs=0.05)
    assert cx + cw == pytest.approx(ax, abs=0.05)
    assert [e.text for e in root.iter(SVG + "text") if e.text in ("10.00", "5.000", "−5.000", "–")] == ["10.00", "5.000", "−5.000", "–"]


def test_one_measure_against_another_is_drawn_to_scale_on_both_axes() -> None:
    places = {"a": (0.2, 4.0), "b": (0.4, 2.0), "c": (0.8, 3.0)}
    points = {name: (Point("", x, x - 0.1, x + 0.1), Point("", y, y - 1, None if name == "c" else y + 1)) for name, (x, y) in places.items()}
    chart = report.scatter(
        "t", {**points, "unknown": (Point("", None), Point("", 1.0))}, x_label="quality", y_label="likeness", x_share=True,
        x_reference=Reference(0.6, "chance"), y_reference=Reference(3.0, "real rows"),
    )  # fmt: skip
    root = svg_of(chart)
    across, up = [], []
    for k in range(3):
        lines = numbers(root, "line", "x1", "y1", "x2", "y2", kind=f"c{k} line")
        across.append(next((x1, x2) for x1, y1, x2, y2 in lines if y1 == y2 and x2 - x1 > 11))
        up.append(next((y1, y2) for x1, y1, x2, y2 in lines if x1 == x2 and abs(y1 - y2) > 11))
    assert numbers(root, "line", "x1", kind="c3 line") == []  # what isn't known of one of the two
    per_x = (across[2][1] - across[0][0]) / 0.8
    for (x, _), (x1, x2) in zip(places.values(), across, strict=True):
        assert (x2 - x1, x1 - across[0][0]) == pytest.approx((0.2 * per_x, (x - 0.2) * per_x), abs=0.1)
    per_y = (up[0][0] - up[0][1]) / 2  # upwards is more
    for (_, y), (y1, y2) in zip(places.values(), up, strict=True):
        assert up[0][0] - y1 == pytest.approx((y - 4) * per_y, abs=0.1) and y1 > y2
    assert up[2][1] == min(y for (y,) in numbers(root, "line", "y2", kind="c2 line"))  # an open end runs to the edge
    (chance, real) = numbers(root, "line", "x1", "y1", "x2", "y2", kind="ref")
    assert chance[0] == chance[2] == pytest.approx(across[0][0] + 0.5 * per_x, abs=0.1)
    assert real[1] == real[3] == pytest.approx(up[0][0], abs=0.1)
    text = "".join(root.itertext())
    assert "chance 60.0%" in text and "real rows 3.000" in text and "unknown" in text and "upwards: likeness" in chart
    assert "a: quality 0.200 [0.100, 0.300], likeness 4.000 [3.000, 5.000]" in (root[1].text or "")


def test_the_line_to_compare_with_is_drawn_where_its_value_is() -> None:
    chart = report.intervals("t", [Point("a", 0.5, 0.5, 0.5), Point("b", 1.0, 1.0, 1.0)], reference=Reference(0.75, "chance"), share=True)
    root = svg_of(chart)
    dots = [x for (x,) in numbers(root, "circle", "cx")]
    [(x1, x2)] = numbers(root, "line", "x1", "x2", kind="ref")
    assert x1 == x2 == pytest.approx(sum(dots) / 2, abs=0.05)
    assert "chance 75.0%" in "".join(root.itertext())


def test_an_open_end_runs_to_the_edge_without_a_stop() -> None:
    root = svg_of(report.intervals("t", [Point("a", 1.0, 0.5, None), Point("b", 2.0, 1.0, 3.0)]))
    lines = numbers(root, "line", "x1", "x2", "y1", "y2", kind="c0 line")
    assert len([1 for x1, x2, _, _ in lines if x1 == x2]) == 3
    [(_, axis_end)] = numbers(root, "line", "x1", "x2", kind="axis")
    assert max(x2 for _, x2, _, _ in lines) == axis_end


def test_a_histogram_shows_shares_of_its_own_total() -> None:
    root = svg_of(report.histogram("t", [0, 1, 2, 3, 4], {"few": [0, 1, 3, 0], "many": [0, 100, 300, 0]}))
    few, many = (e.attrib["d"] for e in root.iter(SVG + "path") if e.attrib["class"].endswith("line"))
    assert few == many
    bottom, heights = float(re.findall(r"V([\d.]+)", few)[-1]), [float(v) for v in re.findall(r"V([\d.]+)", few)[:-1]]
    assert len(heights) == 2  # empty bins at the ends are cut off
    assert bottom - heights[1] == pytest.approx(3 * (bottom - heights[0]), abs=0.05)
    assert "few: 4 in all, the fullest bin from 2 to 3" in "".join(root.itertext())


def test_a_heat_map_colours_by_sign_and_strength_and_leaves_empty_what_is_absent() -> None:
    cells = {(0, 0): Point("", 0.4, 0.3, 0.5), (0, 1): Point("", -0.2), (1, 1): Point("", 0.0), (1, 0): Point("", None)}
    chart = report.heat_map("t", ["a", "b"], ["x", "y"], cells, outlined=[(0, 0)])
    root = svg_of(chart)
    drawn = {(e.attrib["class"].split()[0], float(e.attrib["fill-opacity"])) for e in root.iter(SVG + "rect") if "fill-opacity" in e.attrib}
    assert drawn == {("c0", 0.6), ("c1", 0.32), ("c0", 0.04)}
    assert len(list(root.iter(SVG + "rect"))) == 4  # three figures and an outline
    assert "a by x: 0.400 [0.300, 0.500]" in "".join(root.itertext())
    assert [e.text for e in root.iter(SVG + "text") if e.text in ("0.400", "−0.200", "0.000")] == ["0.400", "−0.200", "0.000"]
    half = svg_of(report.heat_map("t", ["a"], ["x"], {(0, 0): Point("", 0.4)}, strongest=0.8))
    assert [float(e.attrib["fill-opacity"]) for e in half.iter(SVG + "rect")] == [0.32]
    narrow = svg_of(report.heat_map("t", ["a"], [f"benchmark {i}" for i in range(14)], {(0, i): Point("", 0.1234) for i in range(14)}))
    assert {e.text for e in narrow.iter(SVG + "text") if e.text and e.text[0] == "0"} == {"0.1"}
    assert sum("rotate" in e.attrib.get("transform", "") for e in narrow.iter(SVG + "text")) == 14
    with pytest.raises(InputError, match=r"rows and from 1 to 16 columns; got 17\. Split it"):
        report.heat_map("t", ["a"], ["x"] * 17, {})


def test_a_line_breaks_where_nothing_was_measured() -> None:
    each = [(i, Point(str(i), None if i == 2 else float(i), None if i == 2 else i - 1.0, None if i == 2 else i + 1.0)) for i in range(6)]
    root = svg_of(report.line_chart("t", {"m": each}, x_label="round"))
    runs = [e.attrib["points"].split() for e in root.iter(SVG + "polyline")]
    assert [len(run) for run in runs] == [2, 3]
    assert len(list(root.iter(SVG + "polygon"))) == 2 and len(numbers(root, "circle", "cx")) == 5
    xs = [float(place.split(",")[0]) for run in runs for place in run]
    assert [b - a for a, b in pairwise(xs)] == pytest.approx([xs[1] - xs[0]] + [2 * (xs[1] - xs[0])] + [xs[1] - xs[0]] * 2, abs=0.05)
    ticks = [e.text for e in root.iter(SVG + "text") if e.attrib["class"] == "middle quiet"]
    assert ticks == ["0", "1", "2", "3", "4", "5", "round"]


def test_every_chart_says_in_words_what_it_shows() -> None:
    point = Point("arm", 0.5, 0.4, 0.6)
    charts = [
        report.bar_chart("its title", [point]), report.intervals("its title", [point]),
        report.line_chart("its title", {"arm": [(1, point)]}),
    ]  # fmt: skip
    for chart in charts:
        root = svg_of(chart)
        assert root.attrib["role"] == "img" and root[0].text == "its title"
        assert root[1].tag == SVG + "desc" and "0.500 [0.400, 0.600]" in (root[1].text or "")


def test_series_differ_by_more_than_colour() -> None:
    lines = {f"s{k}": [(0.0, Point("", float(k))), (1.0, Point("", float(k)))] for k in range(report.COLOURS)}
    root = svg_of(report.line_chart("t", lines))
    assert len({e.attrib.get("stroke-dasharray") for e in root.iter(SVG + "polyline")}) == report.COLOURS


def test_long_labels_are_cut_and_whole_where_one_points() -> None:
    name = "an arm whose name is far too long for any chart"
    root = svg_of(report.intervals("t", [Point(name, 1.0)]))
    [label] = [e for e in root.iter(SVG + "text") if len(e) and e[0].tag == SVG + "title"]
    assert label[0].text == name and (label[0].tail or "").endswith("…")
    assert report._width(label[0].tail or "") <= 150 and report._cut("語" * 40, 100).count("語") < 9


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: report.intervals("t", [Point("a", 1.0, 2.0, 3.0)]), "a finite number within its interval"),
        (lambda: report.bar_chart("t", [Point("a", float("nan"))]), "a finite number within its interval"),
        (lambda: report.dumbbells("t", [("a", 0.1, float("nan"))]), "before and after are finite numbers"),
        (lambda: report.histogram("t", [0, 1], {}), "from 1 to 6 series; got 0"),
        (lambda: report.histogram("t", [0, 1], {"a": [1, 2]}), "a needs a count of 0 or more for each of 1 bins"),
        (lambda: report.histogram("t", [0, 0], {"a": [1]}), "at least two edges, ascending"),
        (lambda: report.line_chart("t", {"a": [(1, Point("", 1.0)), (1, Point("", 2.0))]}), "must ascend in x"),
        (lambda: report.line_chart("t", {str(k): [] for k in range(7)}), "got 7. Split it"),
        (lambda: report.scatter("t", {}, x_label="x", y_label="y"), "from 1 to 6 series; got 0"),
        (
            lambda: report.scatter("t", {"a": (Point("", 1.0), Point("", 1.0, 2.0, 3.0))}, x_label="x", y_label="y"),
            "chart t, a: a point is a finite number within its interval",
        ),
    ],
)
def test_a_chart_of_nonsense_is_refused(draw: Callable[[], Html], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()


def test_charts_of_nothing_are_drawn_empty() -> None:
    for chart in (report.bar_chart("t", []), report.intervals("t", [Point("a", None)]), report.histogram("t", [0, 1], {"a": [0]}),
                  report.scatter("t", {"a": (Point("", None), Point("", 1.0))}, x_label="x", y_label="y"),
                  report.line_chart("t", {"a": []}), report.line_chart("t", {"a": [(3, Point("", 0.5, 0.5, 0.5))]})):  # fmt: skip
        assert svg_of(chart)[0].text == "t"


def test_one_figure_alone_stands_in_the_middle() -> None:
    assert Scale(2, 2, 10, 20)(2) == 15 and Scale(0, 4, 10, 20)(1) == 12.5 and Scale(0, 4, 20, 10)(9) == 10
