"""Reviews: a sheet that comes back as it went out, one that doesn't is refused whole, and agreement beyond chance."""

from __future__ import annotations

import csv
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from bare.agreement import (
    COLUMNS,
    REVIEWED,
    Agreement,
    Review,
    Settled,
    SheetRow,
    agreements,
    cohens_kappa,
    decide,
    read_sheet,
    settle,
    stratified_sample,
    write_sheet,
)
from curation.errors import InputError

ROWS = [
    SheetRow("r1", "a draft", "a text", "accepted"),
    SheetRow("r2", "=1+1", "two lines\nand \"quotes\", commas; 'n more", "copy_of_seed", "yes"),
    SheetRow("r3", "- dashes", "'quoted'", "accepted", "no"),
]


def filled(*answers: tuple[str, str, str], separator: str = ",") -> str:
    """The exported sheet with the last three cells of each row filled in."""
    lines = list(csv.reader(io.StringIO(write_sheet(ROWS), newline="")))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator)
    writer.writerow(lines[0])
    for line, answer in zip(lines[1:], answers, strict=True):
        writer.writerow([*line[:-3], *answer])
    return out.getvalue()


GOOD = (("accept", "", "ann"), ("Reject ", "wrong sum", "ann"), ("", "", ""))


def test_a_filled_sheet_gives_its_verdicts_and_leaves_out_what_is_open() -> None:
    expected = [Review("r1", "accept", "", "ann"), Review("r2", "reject", "wrong sum", "ann")]
    assert read_sheet(filled(*GOOD), ROWS) == expected
    assert read_sheet(write_sheet(ROWS), ROWS) == []


def test_what_a_spreadsheet_changes_is_no_change() -> None:
    expected = read_sheet(filled(*GOOD), ROWS)
    assert read_sheet("\ufeff" + filled(*GOOD, separator=";").replace("\r\n", "\n") + "\n;;;;;;;\n", ROWS) == expected
    assert read_sheet(filled(*GOOD).replace("two lines\n", "two lines \r\n"), ROWS) == expected
    assert read_sheet(filled(*GOOD, separator="\t"), ROWS) == expected


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    cells = [cell for line in csv.reader(io.StringIO(write_sheet(ROWS), newline="")) for cell in line]
    assert "'=1+1" in cells and "'- dashes" in cells and "''quoted'" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


Cells = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@given(st.lists(st.tuples(Cells, Cells), max_size=5))
@settings(deadline=None)
def test_any_texts_come_back_unchanged(texts: list[tuple[str, str]]) -> None:
    rows = [SheetRow(f"r{i}", draft, refined, "accepted") for i, (draft, refined) in enumerate(texts)]
    lines = list(csv.reader(io.StringIO(write_sheet(rows), newline="")))
    out = io.StringIO(newline="")
    csv.writer(out).writerows([lines[0], *([*line[:-3], "accept", "", "bo"] for line in lines[1:])])
    assert [r.row_id for r in read_sheet(out.getvalue(), rows)] == [row.row_id for row in rows]


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        (filled(*GOOD).replace("r1", "r9"), r"line 2: the id 'r9' was never exported"),
        (filled(*GOOD).replace("a text", "a nicer text"), "the column refined of r1 was changed"),
        (filled(*GOOD).replace("a draft", "a graft"), "the column draft of r1 was changed"),
        (filled(*GOOD).replace("copy_of_seed", "accepted"), "the column automatic of r2 was changed"),
        (filled(("ok", "", "ann"), *GOOD[1:]), "the verdict 'ok' of r1 is neither accept nor reject"),
        (filled(("accept", "", ""), *GOOD[1:]), "r1 has a verdict but no reviewer"),
        (filled(("reject", " ", "ann"), *GOOD[1:]), "r1 is rejected without a reason"),
        (filled(("", "hm", "ann"), *GOOD[1:]), "r1 has a reason but no verdict"),
        (filled(*GOOD).replace("refined", "text", 1), "has no column refined; it has row_id, label, draft, text"),
        (filled(*GOOD).replace("reason", "verdict", 1), "has no column reason"),
        (filled(*GOOD).replace("reviewer", "reviewer,verdict", 1), "names a column twice"),
        (filled(*GOOD) + "r1,a draft\r\n", "2 cells where the header has 8"),
        (filled(*GOOD) + filled(*GOOD).split("\r\n")[1] + "\r\n", "r1 stands twice for the reviewer ann"),
        ("", "the sheet is empty"),
        (filled(*GOOD) + '"open', "is no CSV"),
    ],
)
def test_a_bad_sheet_is_refused_whole(sheet: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_sheet(sheet, ROWS)


def test_every_wrong_line_is_named_up_to_five() -> None:
    with pytest.raises(InputError, match=r"line 2: .*; line 3: .*; line 5: .*\. Correct these lines"):
        read_sheet(filled(*[("maybe", "", "ann")] * 3), ROWS)
    many = [SheetRow(f"m{i}", "d", "t", "accepted") for i in range(9)]
    with pytest.raises(InputError, match=r"\(and 4 more\)"):
        read_sheet(write_sheet(many), ROWS)


Ratings = st.lists(st.tuples(st.sampled_from(["accept", "reject"]), st.sampled_from(["accept", "reject"])), min_size=1, max_size=40)


@given(Ratings)
@settings(deadline=None)
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    one, other = ({str(i): pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = cohens_kappa(one, other)
    same = len({verdict for pair in pairs for verdict in pair}) == 1
    assert found.rows == len(pairs) and found.observed == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    if same:
        assert found.kappa is None and found.observed == 1
    else:
        assert found.kappa == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


def test_kappa_of_a_textbook_table() -> None:
    """Twenty both accept, fifteen both reject, five and ten differ: observed 0.7, by chance 0.5."""
    pairs = [("accept", "accept")] * 20 + [("accept", "reject")] * 5 + [("reject", "accept")] * 10 + [("reject", "reject")] * 15
    one, other = ({str(i): pair[k] for i, pair in enumerate(pairs)} for k in (0, 1))
    found = cohens_kappa(one, {**other, "not rated by one": "accept"}, names=("ann", "bo"))
    assert (found.one, found.other, found.rows) == ("ann", "bo", 50)
    assert (found.observed, found.expected, found.kappa) == pytest.approx((0.7, 0.5, 0.4))
    assert cohens_kappa(one, {}) == Agreement("", "", 0, None, None, None)


def test_each_reviewer_is_compared_with_the_verdicts_and_with_each_other() -> None:
    reviews = [Review("r1", "accept", "", "bo"), Review("r2", "reject", "x", "bo"), Review("r1", "accept", "", "ann")]
    found = agreements(reviews, {"r1": "accept", "r2": "accept"})
    assert [(a.one, a.other, a.rows) for a in found] == [("ann", "automatic", 1), ("bo", "automatic", 2), ("ann", "bo", 1)]
    with pytest.raises(InputError, match="bo says both accept and reject of r1"):
        agreements([*reviews, Review("r1", "reject", "y", "bo")], {})


def test_reviewers_settle_by_majority_and_a_tie_rejects() -> None:
    assert settle(["accept", "accept", "reject"]) == "accept" and settle(["accept"]) == "accept"
    assert settle(["accept", "reject"]) == "reject" and settle(["reject"]) == "reject" and settle([]) is None


def reviews_of(*verdicts: str) -> list[Review]:
    return [Review("r1", v, f"why {i}" if v == "reject" else "", f"p{i}") for i, v in enumerate(verdicts)]  # type: ignore[arg-type]


def test_people_overrule_the_automatic_verdict_by_majority() -> None:
    assert decide("copy_of_seed", []) == Settled(False, "copy_of_seed", "automatic")
    assert decide(None, []) == Settled(True, None, "automatic")
    assert decide(None, reviews_of("reject", "accept", "reject")) == Settled(False, REVIEWED, "review", "reviewed: p0: why 0; p2: why 2")
    against = decide("copy_of_seed", reviews_of("accept", "accept", "reject"))
    assert against == Settled(True, None, "review", "accepted in review against copy_of_seed")
    assert decide(None, reviews_of("accept")) == Settled(True, None, "review")


def test_a_tie_rejects_and_a_confirmed_rejection_keeps_its_reason() -> None:
    assert decide(None, reviews_of("accept", "reject")).reason == REVIEWED
    assert decide("truncated", reviews_of("accept", "reject")) == Settled(False, "truncated", "review")
    assert decide("truncated", reviews_of("reject")) == Settled(False, "truncated", "review")


@given(st.lists(st.sampled_from(["accept", "reject"]), max_size=6), st.sampled_from([None, "truncated"]), st.randoms())
@settings(deadline=None)
def test_the_order_of_reviews_changes_no_decision(verdicts: list[str], reason: str | None, chance: random.Random) -> None:
    given_ = reviews_of(*verdicts)
    shuffled = chance.sample(given_, len(given_))
    found = decide(reason, given_)
    assert found == decide(reason, shuffled)
    assert found.accepted == (found.reason is None)
    if verdicts:
        assert found.accepted == (verdicts.count("accept") > verdicts.count("reject"))


def test_a_row_is_settled_by_its_own_reviews_one_a_reviewer() -> None:
    with pytest.raises(InputError, match="settled by its own reviews; got those of r1, r2"):
        decide(None, [Review("r1", "accept", "", "ann"), Review("r2", "accept", "", "bo")])
    with pytest.raises(InputError, match="ann reviewed r1 more than once; keep the later sheet"):
        decide(None, [Review("r1", "accept", "", "ann"), Review("r1", "reject", "x", "ann")])


@given(st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60), st.integers(1, 70))
@settings(deadline=None)
def test_a_sample_has_every_stratum_near_its_share(strata: list[str], size: int) -> None:
    ids = [f"r{i}" for i in range(len(strata))]
    chosen = stratified_sample(ids, strata, size)
    assert len(set(chosen)) == len(chosen) == max(min(size, len(ids)), len(set(strata)))
    assert {strata[i] for i in chosen} == set(strata)
    spare, rest = len(chosen) - len(set(strata)), len(ids) - len(set(strata))
    for stratum in set(strata):
        share = spare * (strata.count(stratum) - 1) / rest if rest else 0
        assert abs(sum(strata[i] == stratum for i in chosen) - 1 - share) < 1
    back = stratified_sample(ids[::-1], strata[::-1], size)
    assert [ids[::-1][i] for i in back] == [ids[i] for i in chosen]


def test_columns_are_those_of_the_sheet() -> None:
    assert write_sheet([]).strip() == ",".join(COLUMNS)
