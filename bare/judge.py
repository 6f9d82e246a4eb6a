"""Indistinguishability (BARE 4): three real rows and a synthetic one in hashed order, a judge names the worst.

The rate is the share of answers that name another row than the synthetic one. A judge that can't tell them apart is
right a quarter of the time, so chance is 0.75, and more means that real rows look worse. Answers that don't say one
number plainly are abstentions: counted, and left out of the rate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bare.draws import draw_distinct, hash64
from bare.generators.protocol import Message
from bare.tasks import Task
from curation.errors import InputError
from curation.statistics import wilson

CHANCE = 0.75
REAL = 3  # real rows beside the synthetic one
Verdict = Literal["missed", "found", "abstained"]


@dataclass(frozen=True)
class Question:
    """One question to the judge: the real rows shown, in their order, and the synthetic row's place from 1 to 4."""

    synthetic_id: str
    real: tuple[int, ...]
    place: int


@dataclass(frozen=True)
class Indistinguishability:
    """rate: share of read answers that miss the synthetic row, with its Wilson interval; None where none was read."""

    rate: float | None
    low: float | None
    high: float | None
    answered: int
    missed: int
    abstained: int
    chance: float = CHANCE


def draw_questions(synthetic_ids: Sequence[str], *, real_rows: int, run_seed: int) -> list[Question]:
    """For each synthetic row three of `real_rows` real ones and its place among them, by hash of its id alone."""
    if real_rows < REAL:
        raise InputError(
            f"the judge compares with {REAL} real rows, but there are {real_rows}; hold out more real rows"
        )
    keys = np.fromiter((hash64("judge", run_seed, i) for i in synthetic_ids), np.uint64, len(synthetic_ids))
    drawn = draw_distinct(keys, real_rows, REAL).tolist()
    return [
        Question(i, tuple(real), hash64("place", run_seed, i) % (REAL + 1) + 1)
        for i, real in zip(synthetic_ids, drawn, strict=True)
    ]


def judge_messages(
    task: Task, question: Question, synthetic: Mapping[str, str], real: Sequence[Mapping[str, str]]
) -> tuple[Message, ...]:
    """One user turn: the four rows under their numbers, the task's question, and how to answer. real: all real rows."""
    shown = [real[i] for i in question.real]
    shown.insert(question.place - 1, synthetic)
    rows = "\n\n".join(f"Example {n}\n{task.render(row)}" for n, row in enumerate(shown, start=1))
    request = f"Answer with its number alone: {', '.join(map(str, range(1, REAL + 1)))} or {REAL + 1}."
    return (Message("user", f"{task.description}\n\n{rows}\n\n{task.judge}\n{request}"),)


_NUMBER = r"(?P<number>[1-4])"
_OUT_OF = r"(?: ?\(? ?(?:out )?of (?:4|four|the four)(?: examples| options)?\)?)?"
_NAMED = r"(?:example|number|option|item|no\.|#)"
_WORST = r"(?: (?:is|seems|looks)(?: clearly)? (?:the )?(?:worst|weakest)(?: one| example)?)?"
_SAYS = r"(?: is|:| is:) ?"
_LEAD = rf"(?:(?:the )?(?:(?:final )?answer|(?:worst|weakest)(?: one| example)?){_SAYS}|i (?:choose|pick) )?"
_ANSWER = re.compile(rf"{_LEAD}(?:{_NAMED} ?)?\(?{_NUMBER}\)?{_OUT_OF}{_WORST}[.!]?", re.IGNORECASE)
_FINAL = re.compile(rf"(?:the )?(?:final )?answer{_SAYS}(?:{_NAMED} ?)?\(?{_NUMBER}\)?{_OUT_OF}[.!]?", re.IGNORECASE)


def parse_answer(text: str | None, finish_reason: str = "stop") -> int | None:
    """The number from 1 to 4 that the judge names, None (an abstention) where it doesn't name one plainly.

    The whole answer says one number and nothing else ("3", "Example 3.", "The worst is 3 (out of 4)"), or its last line
    is "Answer: 3" and no other line answers otherwise. Two numbers, a number above 4, a fraction: an abstention.
    """
    if text is None or finish_reason != "stop":
        return None
    lines = [plain for line in text.splitlines() if (plain := " ".join(re.sub(r"[*_`\"']", "", line).split()))]
    if not lines:
        return None
    whole = _ANSWER.fullmatch(lines[0]) if len(lines) == 1 else None
    if whole is not None:
        return int(whole["number"])
    final = _FINAL.fullmatch(lines[-1])
    others = {found["number"] for line in lines if (found := _ANSWER.fullmatch(line))}
    return int(final["number"]) if final is not None and others == {final["number"]} else None


def verdict(question: Question, answer: int | None) -> Verdict:
    """What an answer says of the synthetic row."""
    return "abstained" if answer is None else "found" if answer == question.place else "missed"


def indistinguishability(verdicts: Sequence[Verdict]) -> Indistinguishability:
    """The rate over the answers that were read, with its 95% Wilson interval; abstentions apart."""
    missed, found = (sum(v == kind for v in verdicts) for kind in ("missed", "found"))
    answered = missed + found
    if not answered:
        return Indistinguishability(None, None, None, 0, 0, len(verdicts))
    low, high = wilson(missed, answered)
    return Indistinguishability(missed / answered, low, high, answered, missed, len(verdicts) - answered)
