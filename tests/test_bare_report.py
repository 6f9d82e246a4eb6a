"""BARE's pages: what the refiner changed, every figure with its interval, nothing said that isn't so."""

from __future__ import annotations

import dataclasses
import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bare.agreement import SheetRow
from bare.compare import ComparisonRow
from bare.judge import indistinguishability
from bare.metrics import HISTOGRAM_BINS, Measure
from bare.report import (
    Compared,
    ModelUsed,
    RoundSummary,
    RunReport,
    comparison_page,
    mark_differences,
    review_page,
    run_page,
    side_by_side,
)
from curation.errors import InputError

EVIL = "<script>alert('x')</script>"


class Reader(HTMLParser):
    """The texts of a page in their order, and the tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def plain(marked: str) -> str:
    return html.unescape(re.sub(r"</?(?:ins|del)>", "", marked))


def bins(at: int) -> list[int]:
    return [10 if i == at else 0 for i in range(HISTOGRAM_BINS)]


RUN = RunReport(
    "gen1", "grade_school_maths", "Maths problems.", "bare", drafts=200, refined=180,
    reasons={"accepted": 120, "not_parsed": 50, "copy_of_row": 20}, models=[ModelUsed("base", "org/base", None, "gemma")],
    measures=[Measure("mean_cosine", 0.31, 0.29, 0.33, 120), Measure("vendi", 20.0, 18.0, 22.0, 120)],
    real=[Measure("mean_cosine", 0.28, 0.25, 0.31, 60), Measure("vendi", 15.0, 13.0, 17.0, 60)],
    cosines=bins(25), real_cosines=bins(24), indistinguishability=indistinguishability(["missed", "missed", "found", "abstained"]),
    rows=[SheetRow(f"row{i}", f"a draft number {i}", f"a refined text {i}", "accepted") for i in range(14)],
    tokens_in=1_000, tokens_out=500, seconds=12.5, cost=0.6, currency="EUR",
)  # fmt: skip


def run(**changes: Any) -> RunReport:
    return dataclasses.replace(RUN, **changes)


def comparison() -> list[ComparisonRow]:
    rows = []
    for basis in ("equal_rows", "equal_cost"):
        for k, arm in enumerate(("base only", "BARE", "real rows")):
            rows.append(ComparisonRow(basis, arm, "accepted_rows", 40.0 + k, None, None, 40 + k))
            rows.append(ComparisonRow(basis, arm, "mean_cosine", 0.3 + k / 100, 0.25, 0.4, 40))
            if arm != "real rows":
                rows.append(ComparisonRow(basis, arm, "cost_per_accepted", 0.5 + k, 0.4, None if k else 0.9, 80))
                rows.append(ComparisonRow(basis, arm, "indistinguishability", 0.6, 0.5, 0.7, 35))
    return rows


COMPARED = Compared("cmp1", "2026-11-26T02:00:00+00:00", "BARE", "comparison-cmp1.html", comparison())


# -- side by side ------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_without_its_marks_each_text_is_what_it_was(draft: str, refined: str) -> None:
    left, right = mark_differences(draft, refined)
    printable = str.maketrans(dict.fromkeys(map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160), 65534, 65535]), "�"))
    assert plain(left) == draft.translate(printable) and plain(right) == refined.translate(printable)
    assert "<ins>" not in left and "<del>" not in right


Words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=9)


@given(Words, Words)
@settings(deadline=None)
def test_what_is_not_marked_stands_in_both_in_the_same_order(one: list[str], other: list[str]) -> None:
    left, right = mark_differences(" ".join(one), " ".join(other))
    kept = [re.sub(r"<(ins|del)>.*?</\1>", " ", marked).split() for marked in (left, right)]
    assert kept[0] == kept[1]
    if one == other:
        assert kept[0] == one


def test_single_words_are_marked_and_spaces_make_no_difference() -> None:
    left, right = mark_differences("Tom has 3 apples.\nHe eats 1", "Tom has 4 apples. He eats 1!")
    assert left == "Tom has <del>3</del> apples.\nHe eats 1" and right == "Tom has <ins>4</ins> apples. He eats 1<ins>!</ins>"
    assert mark_differences("same  text\n", "same text") == ("same  text\n", "same text")
    assert mark_differences("", "new") == ("", "<ins>new</ins>")


def test_texts_are_escaped_inside_marks_and_outside() -> None:
    left, right = mark_differences(f"x {EVIL} y", f"{EVIL} z")
    assert "<script" not in left + right and plain(right) == f"{EVIL} z"


def test_a_row_shows_both_texts_its_label_and_its_verdict() -> None:
    shown = Reader(side_by_side(SheetRow("r1", "a draft", "a text", "copy_of_seed", "yes"), number="3 of 9"))
    assert shown.text == "3 of 9 r1 label: yes copy_of_seed Base draft a draft Refined a text"
    assert shown.tags.count("del") == shown.tags.count("ins") == 1
    assert "good" in side_by_side(SheetRow("r1", "a", "b", "accepted")) and "good" not in side_by_side(SheetRow("r1", "a", "b", "refused"))


def test_without_a_draft_or_a_difference_there_is_one_column() -> None:
    assert Reader(side_by_side(SheetRow("r1", "", "a text", "accepted"))).text == "r1 accepted Text a text"
    assert side_by_side(SheetRow("r1", "a text", "a text", "accepted")).count('class="text"') == 1


def test_the_review_page_holds_every_row_and_counts_the_verdicts() -> None:
    rows = [SheetRow(f"r{i}", f"draft {EVIL}", f"text {i} {EVIL}", "accepted" if i % 3 else "copy_of_row", EVIL) for i in range(9)]
    read = Reader(review_page(rows, title=f"T {EVIL}", task_description=f"D {EVIL}"))
    assert read.tags.count("article") == 9 and "script" not in read.tags
    assert "1 of 9 r0" in read.text and "9 of 9 r8" in read.text
    assert "automatic verdict rows accepted 6 copy_of_row 3" in read.text
    assert "no rows to review" in Reader(review_page([], title="T", task_description="D")).text


# -- a generation ------------------------------------------------------------------------------------------------------


def test_every_draft_has_one_fate_and_they_sum_up() -> None:
    read = Reader(run_page(RUN))
    assert "accepted 120 60.0%" in read.text and "not_parsed 50 25.0%" in read.text and "no verdict yet 10 5.0%" in read.text
    assert "no verdict yet" not in Reader(run_page(run(drafts=190))).text
    with pytest.raises(InputError, match="100 drafts can't have 190 verdicts"):
        run(drafts=100)


def test_cost_is_that_of_all_rows_over_the_accepted_ones() -> None:
    read = Reader(run_page(RUN))
    assert "cost of an accepted row 0.00500 EUR" in read.text and "cost 0.600 EUR" in read.text
    assert "cost of an accepted row –" in Reader(run_page(run(cost=None))).text
    assert "cost of an accepted row –" in Reader(run_page(run(reasons={"not_parsed": 9}))).text


def test_measures_stand_beside_those_of_real_rows_and_unequal_numbers_are_told() -> None:
    read = Reader(run_page(RUN))
    assert "Mean cosine (lower is better) 0.310 [0.290, 0.330] 120 0.280 [0.250, 0.310] 60" in read.text
    assert "Not of equally many rows, so the real rows are no mark to stand beside: Vendi score." in read.text
    even = run(real=[Measure("vendi", 15.0, 13.0, 17.0, 120)])
    assert "Not of equally many" not in Reader(run_page(even)).text
    assert "Nothing is measured yet." in Reader(run_page(run(measures=(), indistinguishability=None))).text


def test_indistinguishability_stands_beside_chance_and_its_abstentions() -> None:
    read = Reader(run_page(RUN))
    assert "chance 75.0%" in read.text and "3 answers read, 1 unreadable and left out" in read.text and "66.7%" in read.text
    assert "Chance is 75%" in read.text
    assert "chance" not in Reader(run_page(run(indistinguishability=None))).text.casefold()


def test_rounds_are_drawn_in_their_order_with_what_they_led_to() -> None:
    rounds = [
        RoundSummary(k, 40, [Measure("mean_cosine", 0.3 + k / 10, 0.2, 0.9, 40)], "rotate_shots" if k == 1 else "none", f"why {k}", halted=k == 2)
        for k in (2, 0, 1)
    ]
    read = Reader(run_page(run(rounds=rounds)))
    assert "Mean cosine: 0: 0.300 [0.200, 0.900], 1: 0.400 [0.200, 0.900], 2: 0.500" in read.text and "real rows 0.280" in read.text
    assert "0 40 none why 0 1 40 rotate_shots why 1 2 40 none, halted why 2" in read.text
    with pytest.raises(InputError, match="a round is there twice"):
        run_page(run(rounds=[RoundSummary(1, 4), RoundSummary(1, 5)]))


def test_ten_rows_are_shown_side_by_side() -> None:
    assert Reader(run_page(RUN)).tags.count("article") == 10
    assert "Rows side by side" not in Reader(run_page(run(rows=()))).text


def test_no_text_of_a_run_becomes_markup() -> None:
    evil = run(
        task=EVIL, description=EVIL, arm=EVIL, generation_id=EVIL, reasons={EVIL: 1}, notes=[EVIL], currency=EVIL,
        models=[ModelUsed(EVIL, EVIL, EVIL, EVIL)], measures=[Measure(EVIL, 1.0, 1.0, 1.0, 1)],
        rounds=[RoundSummary(0, 1, [Measure(EVIL, 1.0, 1.0, 1.0, 1)], EVIL, EVIL)],
    )  # fmt: skip
    read = Reader(run_page(evil))
    assert "script" not in read.tags and read.text.count(EVIL) > 10


def test_a_comparison_stands_on_the_page_of_its_arm_with_intervals_and_its_own_page() -> None:
    page = run_page(run(compared=COMPARED))
    read, whole = Reader(page), comparison_page(comparison(), title="T", task_description="D")
    assert "This generation is the arm BARE of comparison cmp1 , made 2026-11-26 02:00:00 UTC; comparison-cmp1.html" in read.text
    section = page[page.index('id="diversity-against-quality-by-arm"') :].split("</section>")[0]
    charts = re.findall(r"<figure.*?</figure>", section, re.DOTALL)
    assert len(charts) == 4 and all(chart in whole for chart in charts)  # as that page draws them, at equal rows
    assert "0.310 [0.250, 0.400]" in Reader(section).text and "Cost of an accepted row" in Reader(section).text
    assert "No arm is marked as the best" in read.text
    assert read.tags.count("dt") == 8 + 5  # the figures in short; each measure of the page is explained once


def test_without_a_comparison_the_page_says_what_makes_one() -> None:
    read = Reader(run_page(run(compare_by="bare compare --tables /data/bare --task arc <b>")))
    assert "This makes and compares them: bare compare --tables /data/bare --task arc <b>" in read.text


def test_a_histogram_of_other_bins_is_refused() -> None:
    with pytest.raises(InputError, match="counted in 40 bins"):
        run(cosines=[1, 2, 3])


# -- arms compared -----------------------------------------------------------------------------------------------------


def test_every_figure_of_every_arm_stands_on_the_page_at_each_basis() -> None:
    read = Reader(comparison_page(comparison(), title="T", task_description="D", currency="EUR"))
    assert read.text.index("At equal accepted rows") < read.text.index("At equal cost")
    for line in (
        "Mean cosine (lower is better) 0.300 [0.250, 0.400] 0.310 [0.250, 0.400] 0.320 [0.250, 0.400] 40",
        "Cost of an accepted row (lower is better) 0.500 [0.400, 0.900] 1.500 [0.400, ∞] 80",
        "Accepted rows 40 41 42 40 to 42",
    ):
        assert read.text.count(line) == 2, line
    assert "Cost is in EUR." in read.text


def test_chance_is_drawn_and_told_where_a_judge_was_asked() -> None:
    page = comparison_page(comparison(), title="T", task_description="D")
    assert page.count(">chance 75.0%<") == 4 and "by chance is 75%, not half" in page
    unjudged = [row for row in comparison() if row.measure != "indistinguishability"]
    assert "chance" not in comparison_page(unjudged, title="T", task_description="D")


def test_diversity_stands_against_quality_where_both_are_known() -> None:
    page = comparison_page(comparison(), title="T", task_description="D")
    said = re.findall(r"<desc>([^<]+)</desc>", page)
    (against, _) = (each for each in said if "Indistinguishability (higher is better)" in each)
    assert "base only: Indistinguishability (higher is better) 0.600 [0.500, 0.700], Mean cosine (lower is better) 0.300" in against
    assert "chance: Indistinguishability" in against and "real rows: Mean" not in against  # the arm `real` isn't among these
    real = [dataclasses.replace(row, arm="real") if row.arm == "real rows" else row for row in comparison()]
    assert "real rows: Mean cosine (lower is better) 0.320" in comparison_page(real, title="T", task_description="D")
    few = [row for row in comparison() if row.measure in ("mean_cosine", "accepted_rows")]
    assert "Diversity against quality" not in comparison_page(few, title="T", task_description="D")
    accepted = [*few, ComparisonRow("equal_rows", "base only", "acceptance", 0.5, 0.4, 0.6, 80)]
    accepted.append(ComparisonRow("equal_rows", "none", "acceptance", 0.0, 0.0, 0.1, 80))
    page = comparison_page(accepted, title="T", task_description="D")
    assert page.count("<figcaption>Diversity against quality") == 1 and "one of the two isn&#x27;t known: none" in page


def test_what_is_the_same_for_all_by_design_is_not_drawn() -> None:
    page = comparison_page(comparison(), title="T", task_description="D")
    titles = re.findall(r"<figcaption>([^<]+)", page)
    assert titles.count("Accepted rows") == 1 and titles.count("Mean cosine") == 2
    assert comparison_page([r for r in comparison() if r.basis == "equal_rows"], title="T", task_description="D").count("Accepted rows</") == 2


def test_the_page_says_of_sizes_only_what_it_is_told() -> None:
    note = "Two small models; no evidence for larger ones."
    assert note in comparison_page(comparison(), title="T", task_description="D", notes=[note])
    silent = comparison_page(comparison(), title="T", task_description="D")
    assert "small" not in Reader(silent.split("</style>")[1].replace("<small>", "").replace("</small>", "")).text and "larger" not in silent


def test_each_measure_is_explained_once() -> None:
    read = Reader(comparison_page(comparison(), title="T", task_description="D"))
    assert read.tags.count("dt") == 4 and read.text.count("over all pairs: how much") == 1
    with pytest.raises(InputError, match="no figures to show"):
        comparison_page([], title="T", task_description="D")


def test_no_arm_becomes_markup() -> None:
    rows = [dataclasses.replace(row, arm=row.arm + EVIL) for row in comparison()]
    read = Reader(comparison_page(rows, title=EVIL, task_description=EVIL, notes=[EVIL], currency=EVIL))
    assert "script" not in read.tags and EVIL in read.text
