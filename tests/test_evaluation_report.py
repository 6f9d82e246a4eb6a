"""The evaluation's pages: the figures of the result and no others, every text escaped, defeats shown as plainly as wins."""

from __future__ import annotations

import dataclasses
import re

import pytest

from evaluation.compare import Comparison, bits, compare, words
from evaluation.report import SMALL, comparison_page
from tests.test_bare_report import Reader as PageReader
from tests.test_compare import ARMS, MADE_FOR, diverged, tables
from tests.test_report import Reader

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def found() -> Comparison:
    frames = tables(ARMS, examples=30)
    frames = diverged(frames, frames[0]["proxy_id"] == "poor-large-1")
    return compare(*frames, targets=MADE_FOR, chance={"maths": 0.25, "trivia": 0.25}, replicates=200)


def test_the_page_says_all_that_the_words_say(found: Comparison) -> None:
    page = PageReader(comparison_page(found, ours="betr"))
    said = words(found, ours="betr")
    for sentence in (*said.told, *said.against, *said.limits, *SMALL):
        assert sentence in page.text
    page_headings = re.findall(r"<h2>(.*?)</h2>", comparison_page(found))
    assert page_headings[:3] == ["In short", "What goes against it", "Gain over random"]  # the answer first


def test_every_gain_loss_and_rank_stands_on_the_page(found: Comparison) -> None:
    page = PageReader(comparison_page(found)).text
    for g in found.gains:
        if g.size == "large":
            assert bits(g.gain, g.joint_low, g.joint_high) in page and bits(g.gain, g.low, g.high) in page
    for loss in found.losses:
        if loss.benchmark is None:
            assert bits(loss.bits_per_byte, loss.low, loss.high) in page
    for d in found.diagonals:
        assert f"{d.rank} of {d.of}" in page
    assert page.count("2 of 3") == 1 and "the loss is no number" in page  # the arm that lost a run


def test_a_defeat_is_shown_where_it_is_and_nothing_is_made_up_where_there_is_none(found: Comparison) -> None:
    lost = PageReader(comparison_page(found, ours="poor")).text
    assert "poor is worse than random" in lost and "Nothing of what was measured" not in lost
    frames = tables({"betr": 0.3}, examples=20, sizes=["large"])
    won = PageReader(comparison_page(compare(*frames, replicates=200), ours="betr")).text
    assert "Nothing of what was measured. What wasn't measured stands below." in won
    assert "Each target on each benchmark" not in won and "Right answers" not in won


def test_no_name_becomes_markup(found: Comparison) -> None:
    frames = tables({EVIL: 0.2, "other": {EVIL: 0.1}}, examples=10, benchmarks=(EVIL, "plain"))
    frames = diverged(frames, frames[0]["proxy_id"] == f"{EVIL}-large-1")
    frames[0]["reason"] = frames[0]["reason"].where(frames[0]["reason"].isna(), EVIL)
    page = comparison_page(compare(*frames, targets={EVIL: EVIL, "other": "plain"}, replicates=200), title=EVIL)
    assert "<script" not in page
    read = Reader(page)
    assert sum(EVIL in text for text in read.words) > 20
    for _, attributes in read.tags:
        assert not {"src", "style", "onerror"} & set(attributes)


def test_one_benchmark_one_size_and_one_seed_make_a_page_too() -> None:
    frames = tables({"betr": 0.3}, examples=20, sizes=["large"], benchmarks=("maths",), seeds=1)
    page = PageReader(comparison_page(compare(*frames, replicates=200))).text
    assert "One seed an arm can't tell the spread between runs" in page and "no verdict" in page


def test_many_arms_and_benchmarks_are_split_so_that_they_can_be_read() -> None:
    names = tuple(f"benchmark_{i:02}" for i in range(20))
    arms = {f"arm_{name}": {name: 0.2} for name in names[:8]}
    frames = tables(arms, examples=6, seeds=2, benchmarks=names)
    page = comparison_page(compare(*frames, targets={arm: arm.removeprefix("arm_") for arm in arms}, replicates=100))
    Reader(page)
    assert len(re.findall("<figcaption>Gain over random by benchmark, [12] of 2", page)) == 2
    assert page.count("the best 5 arms and random, the table has 3 more") == 1


def test_the_page_is_the_same_for_the_same_result(found: Comparison) -> None:
    assert comparison_page(found) == comparison_page(dataclasses.replace(found))
