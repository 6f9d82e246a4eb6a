"""The judge: what it is shown, what its answers are read as, and the rate with its interval."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from bare.judge import (
    CHANCE,
    Indistinguishability,
    draw_questions,
    indistinguishability,
    judge_messages,
    parse_answer,
    verdict,
)
from bare.tasks import parse_task
from curation.errors import InputError
from curation.statistics import wilson

TASK = parse_task("""
name: lines
description: These are lines.
opening: "[line]"
closing: "[/line]"
fields: [{name: line, marker: "Line:"}]
refine: Improve it.
judge: Which is the worst line?
""")


def test_a_question_depends_on_its_row_alone_and_places_come_up_alike() -> None:
    ids = [f"r{i}" for i in range(2_000)]
    questions = draw_questions(ids, real_rows=5, run_seed=1)
    assert draw_questions(ids[::-1], real_rows=5, run_seed=1) == questions[::-1]
    assert all(len(set(q.real)) == 3 and max(q.real) < 5 for q in questions)
    assert all(400 < count < 600 for count in Counter(q.place for q in questions).values())
    assert sum(a.place == b.place for a, b in zip(questions, draw_questions(ids, real_rows=5, run_seed=2), strict=True)) < 600
    with pytest.raises(InputError, match="compares with 3 real rows, but there are 2"):
        draw_questions(ids, real_rows=2, run_seed=1)


def test_the_judge_sees_three_real_rows_and_the_synthetic_one_in_its_place() -> None:
    real = [{"line": f"real {i}"} for i in range(6)]
    for question in draw_questions([f"r{i}" for i in range(20)], real_rows=6, run_seed=0):
        (message,) = judge_messages(TASK, question, {"line": "made"}, real)
        shown = re.findall(r"Example (\d)\n\[line\]\nLine: (.*)\n\[/line\]", message.content)
        assert [n for n, _ in shown] == ["1", "2", "3", "4"]
        assert shown[question.place - 1][1] == "made"
        assert [text for _, text in shown if text != "made"] == [f"real {i}" for i in question.real]
        assert "Which is the worst line?\nAnswer with its number alone: 1, 2, 3 or 4." in message.content


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3", 3), (" 3.\n", 3), ("**3**", 3), ("(3)", 3), ("#3", 3), ("Example 3", 3), ("3 (out of 4)", 3), ("3 of 4", 3),
        ("Answer: 3", 3), ("The worst is 3 (out of four).", 3), ("The final answer is example 3.", 3),
        ("Example 3 is the worst.", 3), ("The worst example is: 3", 3), ("I choose 3", 3),
        ("All are short.\nThe others rhyme.\nAnswer: 2", 2), ("2\nAnswer: 2", 2),
        ("34", None), ("3/4", None), ("3 or 4", None), ("3, 4", None), ("1 2 3 4", None), ("5", None), ("0", None),
        ("3.5", None), ("three", None), ("", None), ("None of them is bad.", None), ("Not 3", None), ("not example 3", None),
        ("Answer: 2\nAnswer: 3", None), ("1\nAnswer: 3", None), ("3 is worse than 2", None), ("3\n4", None), ("-3", None),
        ("3rd", None), ("Example 3 is the best.", None), ("3 (out of 4), or maybe 2", None), ("3 (out of 5)", None), ("٣", None),
        ("I think it is the third.\nExample 3", None),
    ],
)  # fmt: skip
def test_an_answer_is_one_number_said_plainly_or_an_abstention(text: str, answer: int | None) -> None:
    assert parse_answer(text) == answer


def test_an_answer_that_did_not_end_is_an_abstention() -> None:
    assert parse_answer(None, "error") is None
    assert parse_answer("3", "length") is None and parse_answer("3", "refusal") is None


@given(st.text(st.sampled_from("1234567890 .:\nAanswer()/of#*"), max_size=20))
@settings(deadline=None)
def test_what_is_read_stands_there_as_a_number_of_its_own(text: str) -> None:
    answer = parse_answer(text)
    numbers = set(re.findall(r"\d+", text))
    if answer is not None:
        assert str(answer) in numbers and numbers <= {str(answer), "4"}
    if len(numbers - {"4"}) > 1:
        assert answer is None


def test_the_rate_leaves_abstentions_out_and_counts_them() -> None:
    question = draw_questions(["a"], real_rows=3, run_seed=0)[0]
    other = question.place % 4 + 1
    verdicts = [verdict(question, answer) for answer in [other] * 6 + [question.place] * 2 + [None] * 3]
    found = indistinguishability(verdicts)
    assert (found.rate, found.answered, found.missed, found.abstained, found.chance) == (0.75, 8, 6, 3, CHANCE) == (0.75, 8, 6, 3, 0.75)
    assert indistinguishability(["abstained"] * 4) == Indistinguishability(None, None, None, 0, 0, 4)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_wilsons_interval_is_scipys(case: tuple[int, int]) -> None:
    expected = binomtest(*case).proportion_ci(0.95, "wilson")
    low, high = wilson(*case)
    assert low == pytest.approx(expected.low, abs=1e-9) and high == pytest.approx(expected.high, abs=1e-9)
    assert low <= case[0] / case[1] <= high


def test_a_share_of_nothing_is_refused() -> None:
    for wrong in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(InputError, match="a share needs"):
            wilson(*wrong)
