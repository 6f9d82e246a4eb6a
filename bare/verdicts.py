"""Accepted, or rejected for one reason: what a completion is by itself, then whether it copies a seed, a test, a row.

The reasons in order of precedence are REASONS: a row has the first that holds. Copies of rows are looked for among what
passed everything else, in the order of a key (the row's id): the row with the smaller key is kept, and a row is a copy
only of one that is kept. So neither batch nor order of input changes a verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bare.agreement import REVIEWED
from bare.tasks import CHECK_FAILED, FAILED, FIELD_MISSING, NOT_PARSED, REFUSED, TRUNCATED, Parsed, Seeds, Task
from curation.errors import InputError
from curation.overlap import Best, Floats, GramIndex, Grams, Indices, nearest, normalised, share_of

if TYPE_CHECKING:
    from curation.held_out import TestIndex  # compiled: numba takes a second, and few runs hold tests against rows

LABEL_CHANGED, TEST_OVERLAP = "label_changed", "test_overlap"
COPY_OF_SEED, COPY_OF_ROW = "copy_of_seed", "copy_of_row"
REASONS = (
    FAILED, REFUSED, TRUNCATED, NOT_PARSED, FIELD_MISSING, CHECK_FAILED,
    LABEL_CHANGED, TEST_OVERLAP, COPY_OF_SEED, COPY_OF_ROW,
)  # fmt: skip
EXACT, NGRAMS, EMBEDDING = "exact", "ngrams", "embedding"  # how a copy was seen, in order of precedence
COLUMNS = ("row_id", "fields", "item", "reason", "detail", "matched_id", "matched_by", "overlap")
BLOCK = 512  # rows that are compared with those kept, and with each other, at once


@dataclass(frozen=True)
class VerdictConfig:
    """What counts as a copy.

    ngram: words in a run; overlap: share of runs in common that makes a copy, by `measure` (containment: of the smaller
    text; jaccard: of both). cosine: of embeddings that makes a copy. shortest_test, longest_test: words of a run in
    common with a test set.
    """

    ngram: int = 5
    overlap: float = 0.6
    measure: str = "containment"
    cosine: float = 0.95
    shortest_test: int = 8
    longest_test: int = 13

    def __post_init__(self) -> None:
        if self.ngram < 1:
            raise InputError(f"verdicts: ngram must be at least 1 word; got {self.ngram!r}")
        if self.measure not in ("containment", "jaccard"):
            raise InputError(f"verdicts: measure must be containment or jaccard; got {self.measure!r}")
        for name in ("overlap", "cosine"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"verdicts: {name} must lie in (0, 1]; got {getattr(self, name)!r}")
        if not 1 <= self.shortest_test <= self.longest_test:
            raise InputError(
                "verdicts: a run shared with a test must hold 1 <= shortest_test <= longest_test; "
                f"got {self.shortest_test!r} and {self.longest_test!r}"
            )


# -- refusals ----------------------------------------------------------------------------------------------------------

_UNABLE = (
    r"(?:can(?:no|')?t|can not|couldn't|won't|will not|(?:must|have to|need to)? ?decline to|"
    r"(?:am|'m) ?(?:not able|unable|not allowed|not permitted) to)(?: be able to)?"
)
_AI = r"(?:ai|artificial intelligence|large language model|language model)\b"
_APOLOGY = (
    r"(?:(?:i am|i'm|we're) (?:very |so |really |truly )?(?:sorry|afraid)|sorry|(?:i|we|my) apolog\w+|unfortunately)\b"
)
_HELP = r"(?:assist|help|comply|proceed)(?: you)? (?:with|in)\b"
_MAKE = r"(?:fulfil?l|complete|generate|create|provide|produce|write|rewrite|refine|improve|process)"
_TALK = r"(?:answer|discuss|continue|share|support|respond to|engage (?:in|with)|give|offer)"
_ASKED = r"(?:that|this|your|any|such|the requested|explicit)\b"
_MATTER = (
    r"(?:content|material|text|requests?|instructions?|information|advice|questions?|examples?|prompts?|topics?|"
    r"conversations?)\b"
)
# What a refusal won't do, and to what. An apology alone, or an inability alone, is how people talk.
_REFUSED = (
    rf"(?:{_HELP}|{_MAKE} (?:{_ASKED}|(?:\w+ ){{0,2}}{_MATTER})|{_TALK} (?:that|this|your|such) (?:\w+ )?{_MATTER})"
)
_REFUSAL = re.compile(
    r"\W*(?:"
    # I'm sorry, but I can't help with that. / I apologize, but I am unable to create this content.
    rf"{_APOLOGY}[^.!?\n]{{0,40}}?\b(?:i|we) ?{_UNABLE} {_REFUSED}"
    # I cannot assist with that request. / I won't generate such content.
    rf"|i ?{_UNABLE} {_HELP}"
    rf"|i ?{_UNABLE} {_MAKE} {_ASKED}"
    # As an AI language model, I ... / I'm just an AI.
    rf"|as an? {_AI}[^.\n]{{0,40}}?,? i\b"
    rf"|i(?: am|'m) (?:just |only )?an? {_AI}"
    r")",
    re.IGNORECASE,
)
# `I can't help with the feeling that`, `can't help you in`: the idiom goes on with what is felt or thought.
_IDIOM = re.compile(
    r"can(?:no|')?t help (?:with |in )?(?:but|\w+ing\b|the (?:feeling|thought|impression))", re.IGNORECASE
)


def is_refusal(text: str | None) -> bool:
    """Whether a model says that it won't: by how the text begins, never by an apology or an inability alone."""
    if not text:
        return False
    start = " ".join(text[:400].replace("\u2019", "'").split())
    found = _REFUSAL.match(start)
    return found is not None and _IDIOM.search(start[: found.end() + 20]) is None


# -- what stands by itself ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedIndex:
    """The seeds as copies are looked up among them; vectors: theirs in the order of `seeds.seeds`, if any."""

    ids: tuple[str, ...]
    exact: Mapping[str, int]
    grams: GramIndex
    vectors: npt.NDArray[np.float64] | None

    @classmethod
    def of(cls, task: Task, seeds: Seeds, config: VerdictConfig, *, vectors: npt.ArrayLike | None = None) -> SeedIndex:
        texts = [task.text_of(seed.fields) for seed in seeds.seeds]
        index = GramIndex()
        index.add(Grams.of(texts, config.ngram))
        exact: dict[str, int] = {}
        for position, text in enumerate(texts):
            exact.setdefault(normalised(text), position)
        return cls(tuple(s.seed_id for s in seeds.seeds), exact, index, _vectors(vectors, len(texts), "seeds"))


def check_rows(
    rows: pd.DataFrame,
    *,
    task: Task,
    seeds: SeedIndex,
    tests: TestIndex | None = None,
    config: VerdictConfig | None = None,
    vectors: npt.ArrayLike | None = None,
    drafts: bool = False,
) -> pd.DataFrame:
    """Everything about a row that other rows have no say in; one row out for each in, in their order.

    rows: row_id, text, finish_reason, and label (the one that was wanted, or the draft's; may be absent or null).
    vectors: of the rows' items where they are embedded already (NaN or zeros for no item); else give them to
    `reject_copies`. drafts: the rows are a base model's own, whose label the prompt may have written (`Task.opened`).
    Out: COLUMNS, where fields and item (the text that is compared and embedded) are null for what doesn't parse, and
    reason is null for what passes.
    """
    config = config or VerdictConfig()
    labels = rows["label"] if "label" in rows else pd.Series([None] * len(rows))
    blank: dict[str, Any] = dict.fromkeys(COLUMNS)
    found: list[dict[str, Any]] = []
    for row_id, text, finish, label in zip(rows["row_id"], rows["text"], rows["finish_reason"], labels, strict=True):
        wanted = None if pd.isna(label) else label
        said = None if pd.isna(text) else text
        parsed = task.parse(said, finish, label=wanted if drafts else None)
        found.append({**blank, "row_id": row_id, **_by_itself(task, parsed, said, wanted)})
    out = pd.DataFrame(found, columns=list(COLUMNS), dtype=object)
    out["overlap"] = out["overlap"].astype(float)

    passed = np.flatnonzero(out["reason"].isna())
    if tests is not None:
        for position, run in zip(passed.tolist(), tests.shared_run(out["item"].iloc[passed].tolist()), strict=True):
            if run is not None:
                _reject(out, position, TEST_OVERLAP, f"it shares with a test: {run}")
        passed = np.flatnonzero(out["reason"].isna())
    items = out["item"].iloc[passed].tolist()
    by_grams = seeds.grams.best(Grams.of(items, config.ngram), measure=config.measure)
    for k, position in enumerate(passed.tolist()):
        same = seeds.exact.get(normalised(items[k]))
        if same is not None:
            _reject(out, position, COPY_OF_SEED, "the same words", seeds.ids[same], EXACT, 1.0)
        elif by_grams.share[k] >= config.overlap:
            _reject(out, position, COPY_OF_SEED, _shared_runs(by_grams.share[k], config),
                    seeds.ids[by_grams.other[k]], NGRAMS, by_grams.share[k])  # fmt: skip
    reject_near_seeds(out, _vectors(vectors, len(rows), "rows"), seeds, config)
    return out


def reject_near_seeds(
    out: pd.DataFrame, vectors: npt.NDArray[np.float64] | None, seeds: SeedIndex | None, config: VerdictConfig
) -> None:
    """What passed so far, against the seeds by embedding, where both have vectors; `out` (COLUMNS) is changed."""
    if vectors is None or seeds is None or seeds.vectors is None:
        return
    passed = np.flatnonzero(out["reason"].isna())
    best = nearest(vectors[passed], seeds.vectors)
    for k, position in enumerate(passed.tolist()):
        share = float(best.share[k])
        if share >= config.cosine:
            _reject(out, position, COPY_OF_SEED, f"cosine {share:.3f}", seeds.ids[best.other[k]], EMBEDDING, share)


def _by_itself(task: Task, parsed: Parsed, text: str | None, label: str | None) -> dict[str, Any]:
    if parsed.fields is None:
        # A refusal doesn't parse either, and why it doesn't says less than that it is one.
        if parsed.reason != FAILED and is_refusal(text):
            return {"reason": REFUSED, "detail": " ".join((text or "").split())[:200]}
        return {"reason": parsed.reason, "detail": parsed.detail}
    item = task.text_of(parsed.fields)
    row = {"fields": parsed.fields, "item": item, "detail": ""}
    if is_refusal(item):
        return {**row, "reason": REFUSED, "detail": " ".join(item.split())[:200]}
    now = task.label_of(parsed.fields)
    if label is not None and now != label:
        return {**row, "reason": LABEL_CHANGED, "detail": f"from {label} to {now}"}
    return row


def _reject(
    out: pd.DataFrame, position: int, reason: str, detail: str, matched_id: str | None = None,
    matched_by: str | None = None, overlap: float = np.nan,
) -> None:  # fmt: skip
    columns = ["reason", "detail", "matched_id", "matched_by", "overlap"]
    for column, value in zip(columns, (reason, detail, matched_id, matched_by, overlap), strict=True):
        out.at[position, column] = value


def _shared_runs(share: float, config: VerdictConfig) -> str:
    of = "the shorter text's" if config.measure == "containment" else "both texts'"
    return f"{share:.0%} of {of} runs of {config.ngram} words"


def _vectors(vectors: npt.ArrayLike | None, rows: int, whose: str) -> npt.NDArray[np.float64] | None:
    if vectors is None:
        return None
    array = np.asarray(vectors, np.float64)
    if array.ndim != 2 or len(array) != rows:
        raise InputError(f"verdicts: {rows} {whose} need as many vectors, a row each; got shape {array.shape}")
    array = np.nan_to_num(array, nan=0.0)  # what has no item has no vector, and is near to nothing
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(array, norms, out=np.zeros_like(array), where=norms > 0)


# -- copies among the rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copies:
    """For each row the row that it copies (-1: it is kept), how that was seen, and how much they share."""

    of: Indices
    by: npt.NDArray[np.object_]
    overlap: Floats


def find_copies(
    texts: Sequence[str],
    order: Sequence[str],
    *,
    config: VerdictConfig | None = None,
    vectors: npt.ArrayLike | None = None,
    accepted: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
) -> Copies:
    """Row by row in ascending `order`: a row is kept unless it copies one that is kept already.

    order: distinct keys. vectors: for copies by embedding. accepted: rows of earlier waves, which stay.
    Of the kept rows that it copies a row names the one by the strongest sign (same words, runs of words, embedding),
    among these the one it shares most with, of equals the first. Blocks of rows against all kept: time grows with rows
    times kept rows, memory with the kept rows alone.
    """
    config, count = config or VerdictConfig(), len(texts)
    if len(order) != count or len(set(order)) != count:
        raise InputError("copies: every row needs a key of its own to be ordered by; give its id")
    fixed = np.zeros(count, bool) if accepted is None else np.asarray(accepted, bool)
    matrix = _vectors(vectors, count, "rows")
    grams = Grams.of(texts, config.ngram)
    sequence = np.array(sorted(range(count), key=lambda i: (not fixed[i], order[i])), np.int64)
    result = Copies(np.full(count, -1, np.int64), np.full(count, None, dtype=object), np.full(count, np.nan))

    kept_rows = np.flatnonzero(fixed[sequence])
    kept = sequence[kept_rows]
    index = GramIndex()
    index.add(grams.take(kept))
    first_with: dict[str, int] = {}
    for row in kept.tolist():
        first_with.setdefault(normalised(texts[row]), row)
    kept_list = kept.tolist()
    for start in range(len(kept_rows), count, BLOCK):
        block, candidates = sequence[start : start + BLOCK], []
        for row in block.tolist():  # the same words: a look-up, before anything is multiplied
            same = first_with.get(normalised(texts[row]))
            if same is None:
                candidates.append(row)
            else:
                _mark(result, row, same, EXACT, 1.0)
        rows = np.array(candidates, np.int64)
        some = grams.take(rows)
        against = np.array(kept_list, np.int64)
        by_grams = index.best(some, measure=config.measure)
        by_vector = nearest(matrix[rows], matrix[against]) if matrix is not None else None
        among = GramIndex()
        among.add(some)
        shares = share_of(among.shared(some), some.sizes[:, None], some.sizes[None, :], config.measure)
        cosines = np.round(matrix[rows] @ matrix[rows].T, 9) if matrix is not None else None
        kept_here: list[int] = []
        for k, row in enumerate(candidates):
            same = first_with.get(normalised(texts[row]))
            if same is not None:
                _mark(result, row, same, EXACT, 1.0)
                continue
            match = _strongest(
                _better(by_grams, against, k, shares, rows, kept_here), config.overlap, NGRAMS
            ) or _strongest(_better(by_vector, against, k, cosines, rows, kept_here), config.cosine, EMBEDDING)
            if match is not None:
                _mark(result, row, *match)
                continue
            kept_here.append(k)
            first_with[normalised(texts[row])] = row
        index.add(some.take(np.array(kept_here, np.int64)))
        kept_list += rows[kept_here].tolist()
    return result


def _better(
    before: Best | None, kept: Indices, k: int, table: Floats | None, rows: Indices, kept_here: list[int]
) -> tuple[int, float]:
    """The kept row, of earlier blocks or of this one, that row k shares most with; of equals the earlier."""
    if before is None or table is None:
        return -1, 0.0
    other, share = (int(kept[before.other[k]]), float(before.share[k])) if before.other[k] >= 0 else (-1, 0.0)
    if kept_here:
        here = table[k, kept_here]
        at = int(np.argmax(here))
        if here[at] > share:
            return int(rows[kept_here[at]]), float(here[at])
    return other, share


def _strongest(found: tuple[int, float], least: float, by: str) -> tuple[int, str, float] | None:
    other, share = found
    return (other, by, share) if other >= 0 and share >= least else None


def _mark(result: Copies, row: int, other: int, by: str, overlap: float) -> None:
    result.of[row], result.by[row], result.overlap[row] = other, by, overlap


def reject_copies(
    checked: pd.DataFrame,
    *,
    config: VerdictConfig | None = None,
    seeds: SeedIndex | None = None,
    accepted: pd.DataFrame | None = None,
    vectors: npt.ArrayLike | None = None,
    accepted_vectors: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """`check_rows`' rows with copies of rows rejected: of one another, and of `accepted` ones (row_id, item).

    checked: COLUMNS, in any order, among others. seeds: with vectors, for copies of seeds by embedding first. vectors,
    accepted_vectors: of all rows in `checked` and in `accepted`, in their order, or neither.
    """
    config = config or VerdictConfig()
    out = checked.reset_index(drop=True)
    texts = ["reason", "detail", "matched_id", "matched_by"]  # all null, they may come back from a table as numbers
    out = out.assign(**{column: out[column].astype(object) for column in texts}, overlap=out["overlap"].astype(float))
    mine = _vectors(vectors, len(out), "rows")
    reject_near_seeds(out, mine, seeds, config)
    passed = np.flatnonzero(out["reason"].isna())
    before = 0 if accepted is None else len(accepted)
    ids = ([] if accepted is None else accepted["row_id"].tolist()) + out["row_id"].iloc[passed].tolist()
    items = ([] if accepted is None else accepted["item"].tolist()) + out["item"].iloc[passed].tolist()
    theirs = _vectors(accepted_vectors, before, "accepted rows")
    both = None if mine is None else mine[passed]
    if mine is not None and before:
        if theirs is None:
            raise InputError("verdicts: the rows have vectors and the accepted rows have none; give both or neither")
        both = np.concatenate([theirs, mine[passed]])
    copies = find_copies(items, ids, config=config, vectors=both, accepted=np.arange(len(ids)) < before)
    for k, position in enumerate(passed.tolist(), start=before):
        if copies.of[k] >= 0:
            share, by = float(copies.overlap[k]), str(copies.by[k])
            _reject(out, position, COPY_OF_ROW, copy_detail(by, share, config), ids[copies.of[k]], by, share)
    return out


def copy_detail(by: str, share: float, config: VerdictConfig) -> str:
    """How a copy was seen, for a person."""
    return {EXACT: "the same words", EMBEDDING: f"cosine {share:.3f}"}.get(by) or _shared_runs(share, config)


def match_accepted(
    texts: Sequence[str],
    accepted_ids: Sequence[str],
    accepted_texts: Sequence[str],
    *,
    config: VerdictConfig,
    vectors: npt.ArrayLike | None = None,
    accepted_vectors: npt.ArrayLike | None = None,
) -> pd.DataFrame:
    """For each text the accepted row that it copies: matched_id, matched_by, overlap, null for none.

    The strongest sign (same words, runs of words, embedding), then the most in common, then the smaller id: so parts of
    the accepted rows may be looked through apart, and the best of the parts' answers taken.
    """
    order = np.array(sorted(range(len(accepted_ids)), key=lambda i: accepted_ids[i]), np.int64)
    ids, theirs = [accepted_ids[i] for i in order], [accepted_texts[i] for i in order]
    exact: dict[str, int] = {}
    for position, text in enumerate(theirs):
        exact.setdefault(normalised(text), position)
    index = GramIndex()
    index.add(Grams.of(theirs, config.ngram))
    by_grams = index.best(Grams.of(texts, config.ngram), measure=config.measure)
    mine = _vectors(vectors, len(texts), "rows")
    others = _vectors(accepted_vectors, len(ids), "accepted rows")
    by_vector = nearest(mine, others[order]) if mine is not None and others is not None else None
    found: list[tuple[str | None, str | None, float]] = []
    for k, text in enumerate(texts):
        same = exact.get(normalised(text))
        if same is not None:
            found.append((ids[same], EXACT, 1.0))
        elif by_grams.other[k] >= 0 and by_grams.share[k] >= config.overlap:
            found.append((ids[by_grams.other[k]], NGRAMS, float(by_grams.share[k])))
        elif by_vector is not None and by_vector.other[k] >= 0 and by_vector.share[k] >= config.cosine:
            found.append((ids[by_vector.other[k]], EMBEDDING, float(by_vector.share[k])))
        else:
            found.append((None, None, math.nan))
    return pd.DataFrame(found, columns=["matched_id", "matched_by", "overlap"])


def count_reasons(reasons: Sequence[str | None] | pd.Series) -> dict[str, int]:
    """Rows for each reason, in the order of precedence, and the accepted ones (reason null) under `accepted`.

    What people rejected (REVIEWED) stands last: it is no automatic reason, so REASONS doesn't hold it.
    """
    series = pd.Series(list(reasons), dtype=object)
    counts = series.dropna().value_counts()
    known = (*REASONS, REVIEWED)
    unknown = sorted(set(counts.index) - set(known))
    if unknown:
        raise InputError(f"verdicts: {unknown[0]!r} is no reason; there are {', '.join(known)}")
    fell = {reason: int(counts[reason]) for reason in known if reason in counts}
    return {"accepted": int(series.isna().sum()), **fell}
