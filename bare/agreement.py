"""People in the loop: a review sheet out, checked whole when it comes back, and how far people and verdicts agree."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from bare.draws import sample_by_hash
from curation.errors import InputError

Verdict = Literal["accept", "reject"]
VERDICTS = ("accept", "reject")
REVIEWED = "rejected_in_review"  # the reason of a row that people reject and the automatic verdict accepts
AUTOMATIC, REVIEW = "automatic", "review"  # who decided
SHOWN = ("row_id", "label", "draft", "refined", "automatic")  # what the sheet shows, and must come back unchanged
FILLED = ("verdict", "reason", "reviewer")  # what a reviewer fills in
COLUMNS = (*SHOWN, *FILLED)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class SheetRow:
    """A row for review: its base draft beside its refined text. automatic: accepted, or the reason of its rejection."""

    row_id: str
    draft: str
    refined: str
    automatic: str
    label: str = ""


@dataclass(frozen=True)
class Review:
    """One reviewer's verdict on one row."""

    row_id: str
    verdict: Verdict
    reason: str
    reviewer: str


@dataclass(frozen=True)
class Agreement:
    """Cohen's kappa of two raters on the rows that both rated: 1 full agreement, 0 that of chance.

    observed, expected: shares of agreement found and by chance. kappa is None where chance alone agrees fully (both
    said the same of every row) and where they rated no row in common.
    """

    one: str
    other: str
    rows: int
    observed: float | None
    expected: float | None
    kappa: float | None


@dataclass(frozen=True)
class Settled:
    """A row's verdict after review. detail: what people said, None where the automatic verdict's own detail stands."""

    accepted: bool
    reason: str | None
    decided_by: str
    detail: str | None = None


# -- the sheet ---------------------------------------------------------------------------------------------------------


def stratified_sample(ids: Sequence[str], strata: Sequence[str], size: int, *, seed: int = 0) -> list[int]:
    """Positions of about `size` rows, every stratum in its share and each with one row at least, by hash of the id.

    The places go to the strata by largest remainder, so that they sum to `size` (or to the strata, if these are more).
    """
    if size < 1:
        raise InputError(f"review: the sample needs at least 1 row; got {size}")
    counts = Counter(strata)
    places = dict.fromkeys(counts, 1)
    spare = min(size, len(ids)) - len(counts)
    if spare > 0:
        # What one row each doesn't cover, shared out in proportion to the rows that are left.
        left = {stratum: count - 1 for stratum, count in counts.items()}
        total = sum(left.values())
        exact = {stratum: spare * rest / total for stratum, rest in left.items()}
        places = {stratum: 1 + int(share) for stratum, share in exact.items()}
        missing = spare - sum(int(share) for share in exact.values())
        for stratum in sorted(exact, key=lambda s: (int(exact[s]) - exact[s], s))[:missing]:
            places[stratum] += 1
    chosen: list[int] = []
    for stratum in sorted(counts):
        mine = [i for i, s in enumerate(strata) if s == stratum]
        chosen += [mine[k] for k in sample_by_hash([ids[i] for i in mine], places[stratum], seed=seed)]
    return sorted(chosen, key=lambda i: ids[i])


def write_sheet(rows: Iterable[SheetRow]) -> str:
    """The sheet as CSV: a row each with its texts and three empty cells to fill in.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, which `read_sheet` knows.
    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([*(_cell(getattr(row, column)) for column in SHOWN), *[""] * len(FILLED)])
    return out.getvalue()


def read_sheet(text: str, rows: Iterable[SheetRow], *, where: str = "the sheet") -> list[Review]:
    """The verdicts in a sheet that came back; rows without a verdict are left out.

    rows: all that were exported. Anything wrong refuses the whole sheet, with its wrong lines named: a missing
    column, an unknown or repeated id, a changed text, a verdict other than accept or reject, a rejection without a
    reason, a verdict without a reviewer. Spreadsheets' own changes (line ends, a byte order mark, semicolons) are none.
    """
    known = {row.row_id: row for row in rows}
    lines = _lines(text.removeprefix("\ufeff"), where)
    header = [name.strip().casefold() for name in lines[0][1]]
    absent = [column for column in COLUMNS if column not in header]
    if absent or len(set(header)) < len(header):
        what = f"has no column {', '.join(absent)}" if absent else "names a column twice"
        raise InputError(
            f"{where} {what}; it has {', '.join(header)}. Export it again and fill in the last three columns"
        )
    reviews, wrong = [], []
    seen: set[tuple[str, str]] = set()
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            wrong.append(f"line {number}: {len(cells)} cells where the header has {len(header)}")
            continue
        cell = dict(zip(header, cells, strict=True))
        found = _review(cell, known, seen)
        if isinstance(found, str):
            wrong.append(f"line {number}: {found}")
        elif found is not None:
            reviews.append(found)
    if wrong:
        more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
        raise InputError(
            f"{where} is refused whole: {'; '.join(wrong[:5])}{more}. Correct these lines and import it again"
        )
    return reviews


def _lines(text: str, where: str) -> list[tuple[int, list[str]]]:
    first = text.split("\n", 1)[0]
    separator = max((",", ";", "\t"), key=first.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        lines, begins = [], 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((begins, cells))
            begins = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{where} is no CSV ({error}); save it as CSV in UTF-8 and import it again") from error
    if not lines:
        raise InputError(f"{where} is empty; export it again")
    return lines


def _review(cell: Mapping[str, str], known: Mapping[str, SheetRow], seen: set[tuple[str, str]]) -> Review | str | None:
    """A line's verdict, None where there is none yet, or what is wrong with it."""
    row_id, verdict = _uncell(cell["row_id"]).strip(), cell["verdict"].strip().casefold()
    row = known.get(row_id)
    if row is None:
        return f"the id {row_id!r} was never exported"
    for column in SHOWN[1:]:
        if _digest(_uncell(cell[column])) != _digest(getattr(row, column)):
            return f"the column {column} of {row_id} was changed"
    reviewer, reason = cell["reviewer"].strip(), cell["reason"].strip()
    if not verdict:
        return f"{row_id} has a reason but no verdict" if reason else None
    if verdict not in VERDICTS:
        return f"the verdict {cell['verdict']!r} of {row_id} is neither accept nor reject"
    if not reviewer:
        return f"{row_id} has a verdict but no reviewer"
    if verdict == "reject" and not reason:
        return f"{row_id} is rejected without a reason"
    if (row_id, reviewer) in seen:
        return f"{row_id} stands twice for the reviewer {reviewer}"
    seen.add((row_id, reviewer))
    return Review(row_id, "accept" if verdict == "accept" else "reject", reason, reviewer)


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def _uncell(text: str) -> str:
    return text[1:] if text.startswith("'") else text


def _digest(text: str) -> str:
    """What a text says whatever a spreadsheet did to its line ends and its outer spaces."""
    plain = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").strip().split("\n"))
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


# -- agreement ---------------------------------------------------------------------------------------------------------


def cohens_kappa(one: Mapping[str, str], other: Mapping[str, str], *, names: tuple[str, str] = ("", "")) -> Agreement:
    """Agreement beyond chance of two raters (row -> verdict), on the rows that both rated."""
    both = sorted(set(one) & set(other))
    if not both:
        return Agreement(*names, 0, None, None, None)
    n = len(both)
    first, second = Counter(one[row] for row in both), Counter(other[row] for row in both)
    agreed = sum(one[row] == other[row] for row in both)
    by_chance = sum(first[verdict] * second[verdict] for verdict in first)  # of n * n
    kappa = None if by_chance == n * n else (agreed * n - by_chance) / (n * n - by_chance)
    return Agreement(*names, n, agreed / n, by_chance / n**2, kappa)


def agreements(reviews: Iterable[Review], automatic: Mapping[str, str]) -> list[Agreement]:
    """Each reviewer against the automatic verdicts (row -> `accept` or `reject`), then each pair of reviewers."""
    by_reviewer: dict[str, dict[str, str]] = {}
    for review in reviews:
        if by_reviewer.setdefault(review.reviewer, {}).setdefault(review.row_id, review.verdict) != review.verdict:
            raise InputError(
                f"review: {review.reviewer} says both accept and reject of {review.row_id}; keep the later sheet alone"
            )
    raters = sorted(by_reviewer)
    found = [cohens_kappa(by_reviewer[r], automatic, names=(r, "automatic")) for r in raters]
    return found + [cohens_kappa(by_reviewer[a], by_reviewer[b], names=(a, b)) for a, b in combinations(raters, 2)]


def settle(verdicts: Sequence[Verdict]) -> Verdict | None:
    """A row's verdict by its reviewers: that of the majority; of a tie `reject`; None without any reviewer."""
    if not verdicts:
        return None
    return "accept" if 2 * verdicts.count("accept") > len(verdicts) else "reject"


def decide(automatic_reason: str | None, reviews: Sequence[Review]) -> Settled:
    """A row's verdict after review: people overrule the automatic one by majority, and a tie rejects.

    automatic_reason: None where it was accepted; reviews: all of this row, one a reviewer. A rejection that people
    confirm keeps its automatic reason, which says more; one that they make is REVIEWED, with their reasons as detail.
    Reviews in any order decide the same; without any the automatic verdict stands.
    """
    rows = sorted({review.row_id for review in reviews})
    if len(rows) > 1:
        raise InputError(f"review: a row is settled by its own reviews; got those of {', '.join(rows)}")
    twice = [name for name, count in Counter(review.reviewer for review in reviews).items() if count > 1]
    if twice:
        raise InputError(f"review: {twice[0]} reviewed {reviews[0].row_id} more than once; keep the later sheet alone")
    verdict = settle([review.verdict for review in reviews])
    if verdict is None:
        return Settled(automatic_reason is None, automatic_reason, AUTOMATIC)
    if verdict == "accept":
        detail = None if automatic_reason is None else f"accepted in review against {automatic_reason}"
        return Settled(True, None, REVIEW, detail)
    if automatic_reason is not None:
        return Settled(False, automatic_reason, REVIEW)
    said = sorted(f"{r.reviewer}: {r.reason}" for r in reviews if r.verdict == "reject")
    return Settled(False, REVIEWED, REVIEW, f"reviewed: {'; '.join(said)}")
