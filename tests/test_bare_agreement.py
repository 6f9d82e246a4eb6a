"""Reviews: a sheet that comes back as it went out, one that doesn't is refused whole, and agreement beyond chance."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from bare.agreement import (
    COLUMNS,
    Agreement,
    Review,
    SheetRow,
    agreements,
    cohens_kappa,
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
