"""A loop's figures against slow references, its words and its page: the same numbers, defeats as plain as gains."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.errors import InputError
from curation.report import number
from evaluation import loop_figures
from evaluation.loop_config import LoopConfig
from evaluation.loop_figures import (
    ALL_ROUNDS,
    OTHERS,
    SHOWN,
    UNSEEN,
    LoopFigures,
    Round,
    ShownDocument,
    ShownGap,
    closing_level,
    groups,
    over_all_rounds,
    parts,
    spent,
    words,
)
from evaluation.loop_report import LIMITS, loop_page
from evaluation.loop_stages import cap_tokens
from tests.browser import find, look
from tests.test_compare import tables as compared
from tests.test_report import Reader

EVIL = "<script>alert('x')</script>"
NAMED: dict[str, Any] = {"tables": "there", "task": "t.yaml", "base": "scripted:s", "instruct": "scripted:s"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rounds": 0}, "--rounds must be at least 1; got 0"),
        ({"count": 0}, "--count must be at least 1; got 0"),
        ({"most_synthetic": 1.0}, "--most-synthetic must be a share of the selected tokens in [0, 1); got 1.0"),
        ({"most_synthetic": -0.1}, "--most-synthetic must be a share of the selected tokens in [0, 1); got -0.1"),
        ({"hold_back": 1.0}, "--hold-back must be a share of the examples in [0, 1); got 1.0"),
        ({"closed_at": 1.5}, "--closed-at must be a share of the examples in [0, 1]; got 1.5"),
        ({"synthetic": " "}, "--synthetic names a source; got ' '"),
        ({"task": ""}, "--task is missing: rows for the gaps are made as `bare run` makes them, which needs it"),
        ({"base": None}, "--base is missing"),
        ({"instruct": None}, "--instruct is missing"),
        ({"bare": ("temperature",)}, "--bare wants NAME=VALUE of allow_licenses, "),
        ({"bare": ("seeds=x",)}, "got 'seeds=x'"),
        ({"bare": ("temperature=[",)}, "--bare temperature=[: the value is no YAML; put it in quotes"),
        ({"bare": ("wave_rows=many",)}, "--bare: a value is not of its option's kind ("),
        ({"accepted": 0}, "--accepted must be at least 1; got 0"),
        ({"budget_cost": 1.0}, "--budget-cost needs prices"),
        ({"models": 0}, "proxies need at least 1 seed; got 0"),
    ],
)
def test_settings_that_make_no_loop_are_refused_at_birth(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        LoopConfig(**{**NAMED, **changed})


def test_barewise_options_reach_bare_as_their_kind() -> None:
    config = LoopConfig(**NAMED, bare=("temperature=0.5", "refine-shots=true", "allow_licenses=[MIT, unknown]"), seed=3)
    made = config.making(1, tables="b", seeds=("s",), tests=("t",), encoder=loop_encoder())
    assert (made.temperature, made.refine_shots, made.allow_licenses) == (0.5, True, ("MIT", "unknown"))
    assert (made.seed, made.hold_out, made.tests, made.encoder) == (4, 0.0, ("t",), "hashing:64")


def loop_encoder() -> Any:
    from curation.embedding import EncoderConfig

    return EncoderConfig("hashing:64")


def test_what_comes_after_the_rounds_names_no_other_loop() -> None:
    plain = LoopConfig(**NAMED).settings()
    assert LoopConfig(**NAMED, rounds=5, page="none", models=1, level=0.9).settings() == plain
    assert LoopConfig(**NAMED, most_synthetic=0.2).settings() != plain


@given(st.integers(0, 10**12), st.floats(0, 0.999))
def test_the_cap_is_the_most_that_keeps_the_share(real: int, share: float) -> None:
    cap, wanted = cap_tokens(real, share), Fraction(repr(share))
    assert cap <= wanted * (real + cap)
    assert cap + 1 > wanted * (real + cap + 1)


# -- figures -----------------------------------------------------------------------------------------------------------


def rows(*, rounds: int = 2, examples: int = 40, gaps: int = 16, seed: int = 0) -> pd.DataFrame:
    """Rows of LOOP_GAPS as a loop leaves them: a round's gaps are the least covered, some of them shown."""
    rng = np.random.default_rng(seed)
    real = rng.uniform(0.1, 0.9, examples).astype(np.float32)
    before, made = real.copy(), []
    for round_ in range(rounds):
        chosen = set(np.argsort(before, kind="stable")[:gaps].tolist())
        after = np.maximum(before, rng.uniform(0.0, 0.7, examples).astype(np.float32))
        for i in range(examples):
            shown = i in chosen and i % 3 != 0
            made.append((round_, f"e{i:02}", "b", i in chosen, shown, i % 3 == 0, real[i], before[i], after[i], "d"))
        before = after
    columns = ["round", "example_id", "benchmark", "gap", "shown", "held_back", "real", "before", "after", "doc_id"]
    return pd.DataFrame(made, columns=columns)


def test_groups_are_the_gaps_shown_the_others_and_the_rest_of_each_round_and_of_all() -> None:
    frame, level = rows(), 0.45
    found = {(each.name, each.round): each for each in groups(frame, level)}
    assert len(found) == 9
    for (name, round_), group in found.items():
        last = frame["round"].max()
        ids = [
            id_
            for id_, each in frame.groupby("example_id")
            for mine in [each if round_ == ALL_ROUNDS else each[each["round"] == round_]]
            if name == (OTHERS if not mine["gap"].any() else SHOWN if mine["shown"].any() else UNSEEN)
        ]
        at = frame.set_index(["round", "example_id"])
        column, first = ("real", 0) if round_ == ALL_ROUNDS else ("before", round_)
        pairs = [
            (float(at.loc[(first, i), column]), float(at.loc[(last if round_ == ALL_ROUNDS else round_, i), "after"]))
            for i in ids
        ]
        assert group.examples == len(pairs)
        assert group.gain == pytest.approx(sum(b - a for a, b in pairs) / len(pairs))
        assert group.before == pytest.approx(sum(a for a, _ in pairs) / len(pairs))
        assert group.nearer == sum(b > a for a, b in pairs)
        assert group.open == sum(a < level for a, _ in pairs)
        assert group.closed == sum(a < level <= b for a, b in pairs)
        assert group.low is not None and group.gain is not None and group.high is not None
        assert group.low <= group.gain <= group.high


def test_a_gap_is_closed_at_what_a_share_of_the_examples_did_not_exceed() -> None:
    real = [0.4, 0.1, 0.3, 0.2]
    assert [closing_level(real, share) for share in (0.0, 0.5, 0.75, 1.0)] == [0.1, 0.2, 0.3, 0.4]


def figures(frame: pd.DataFrame | None = None, **changed: Any) -> LoopFigures:
    frame = rows() if frame is None else frame
    one = Round(
        round=0, gaps=16, shown=10, drafts=30, accepted=20, stopped_by="accepted", copies=1, documents=19, below_cut=4,
        over_cap=2, selected=13, selected_tokens=500, real_tokens=9_500, cap_tokens=600, tokens_in=1_000,
        tokens_out=400, cost=0.5, model_seconds=12.0, seconds=30.0,
    )  # fmt: skip
    two = dataclasses.replace(one, round=1, stopped_by="budget_seconds", documents=38, below_cut=9, selected=27)
    level = closing_level(frame[frame["round"] == 0]["real"], 0.5)
    over_all = over_all_rounds(frame)
    given: dict[str, Any] = {
        "loop_id": "abc", "closed_at": 0.5, "level": level, "benchmark": None, "most_synthetic": 0.1,
        "rounds": (one, two), "groups": tuple(groups(frame, level)),
        "similarities": {name: (tuple(p["real"]), tuple(p["after"])) for name, p in parts(over_all).items()},
        "gaps": (ShownGap("Why is it so?", True, 0.2, 0.5), ShownGap("What is it?", False, 0.1, 0.1)),
        "documents": (
            ShownDocument("d0", 0, "A text.", "Why is it so?", 0.41, 0.8, None),
            ShownDocument("d1", 1, "Another text.", None, None, 0.1, "below_cut"),
        ),
        "judged": None, "why_not_judged": "no held-out split was named (--held-out)", "roots": {},
    }  # fmt: skip
    return LoopFigures(**{**given, **changed})


def text_of(page: str) -> str:
    return " ".join(" ".join(Reader(page).words).split())


def test_the_page_says_all_that_the_words_say_and_every_group_of_every_round() -> None:
    found = figures()
    page, said = text_of(loop_page(found)), words(found)
    for sentence in (*said.told, *said.against, *LIMITS, spent(found)):
        assert sentence in page
    for group in found.groups:
        assert loop_figures.change(group) in page
    assert "5.00%" in page and "Another text." in page and "below the real cut" in page


def test_what_goes_against_it_is_said_as_plainly() -> None:
    against = "\n".join(words(figures()).against)
    assert "9 of 38 synthetic documents score below the real cut" in against
    assert "2 more reach the cut and stay out because of the cap of 10.0%" in against
    assert "Round 2 ended early: the budget of seconds is spent." in against and "Round 1 ended" not in against
    assert "Round 1: BARE rejected 10 of 30 drafts" in against
    frame = rows()
    frame.loc[~frame["shown"], "after"] = frame.loc[~frame["shown"], "real"]
    frame.loc[~frame["shown"], "before"] = frame.loc[~frame["shown"], "real"]
    nothing = figures(frame)
    unseen, shown = nothing.group(UNSEEN), nothing.group(SHOWN)
    against = "\n".join(words(nothing).against)
    assert unseen.gain == 0 and "None of the gaps that no model was shown has anything nearer" in against
    assert f"Gaps that a model was shown gained {number(shown.gain)}, the others {number(0.0)}" in against
    none = dataclasses.replace(figures().rounds[-1], selected=0, selected_tokens=0)
    assert "No synthetic document is in the selection" in words(figures(rounds=(none,))).against[0]
    seen = rows()
    seen["shown"] = seen["gap"]
    assert "Every gap was shown to a model" in "\n".join(words(figures(seen)).against)


@pytest.mark.parametrize("gain", [0.3, -0.3, 0.0])
def test_the_models_word_is_told_whichever_way_it_goes(gain: float) -> None:
    from evaluation.compare import compare

    frames = compared({"real+synthetic": gain}, examples=20, sizes=["large"])
    for frame in frames:
        frame.replace({"arm": {"random": "real"}}, inplace=True)
    judged = compare(*frames, baseline="real", replicates=200)
    found = figures(judged=judged, why_not_judged=None)
    said, page = words(found), text_of(loop_page(found))
    verdict = judged.gains[-1].verdict
    sentence = {"better": "is better than real", "worse": "is worse than real", "open": "can't be told from real"}[verdict]
    assert any(sentence in each for each in said.told) and sentence in page
    assert any(sentence in each for each in said.against) == (verdict != "better")


def test_no_text_becomes_markup() -> None:
    documents = (ShownDocument("d", 0, EVIL, EVIL, 0.5, 0.5, None),)
    page = loop_page(figures(documents=documents, gaps=(ShownGap(EVIL, True, 0.1, 0.2),), benchmark=EVIL))
    assert "<script" not in page and text_of(page)


@pytest.mark.skipif(find() is None, reason="no Chromium here")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_the_page_fits_a_browser(width: int, dark: bool, tmp_path: Path) -> None:
    page = tmp_path / "loop.html"
    page.write_text(loop_page(figures()))
    seen = look(page, width=width, dark=dark, folder=tmp_path)
    assert seen.console == [] and seen.told["overflow"] == 0 and seen.told["texts"] == [] and seen.told["unnamed"] == 0
