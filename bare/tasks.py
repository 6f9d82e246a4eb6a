"""Tasks as data: what a row looks like, how a model is asked for one, and how its answer is read, strictly.

An item stands between an opening and a closing marker, a field a line or more, each behind its own marker. A draft
prompt is raw text for a base model (BARE 3): one sentence, the shots with blank lines between, an open marker.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from bare.draws import Indices, draw_distinct, hash64
from bare.generators.protocol import Message, Sampling
from curation.errors import InputError
from curation.hashing import content_id

CHECKS = ("text", "number", "choice")
SHOTS_FOR_LABEL = ("same", "any")
LONGEST_CYCLE = 10_000  # items after which the wanted labels repeat: shares of at most four decimals

DEFAULT_SAMPLING = {
    "draft": Sampling(temperature=0.7, max_tokens=1000),
    "refine": Sampling(temperature=0.7, max_tokens=1000),
    "instruct": Sampling(temperature=1.0, max_tokens=1000),
    "judge": Sampling(temperature=0.0, max_tokens=16),
}
STAGES = tuple(DEFAULT_SAMPLING)

# Why a completion is no item; `verdicts` adds what shows only beside other rows.
FAILED, REFUSED, TRUNCATED = "generation_failed", "refused", "truncated"
NOT_PARSED, FIELD_MISSING, CHECK_FAILED = "not_parsed", "field_missing", "check_failed"

_NUMBER = re.compile(r"[-+]?(?:[0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Field:
    """One field of an item.

    marker: what its line begins with, such as `Question:`. check: text, number (digits, thousands by comma, a point),
    or choice among `choices` up to letter case. pattern: a regular expression that the whole value matches.
    min_chars, max_chars: bounds of its length. columns: where a seed's row may hold it; default: the field's name.
    """

    name: str
    marker: str
    check: str = "text"
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    min_chars: int = 1
    max_chars: int | None = None
    optional: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"field {self.name!r}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(f"{where}: a field's name is of a-z, 0-9 and _, a letter first; rename it")
        if not self.marker.strip() or self.marker != self.marker.strip() or "\n" in self.marker:
            raise InputError(f"{where}: a marker is one line without spaces around it; got {self.marker!r}")
        if self.check not in CHECKS:
            raise InputError(f"{where}: check must be one of {', '.join(CHECKS)}; got {self.check!r}")
        if (self.check == "choice") != bool(self.choices):
            raise InputError(f"{where}: choices come with `check: choice` only; add the one or drop the other")
        if len({c.casefold() for c in self.choices}) < len(self.choices) or not all(c.strip() for c in self.choices):
            raise InputError(f"{where}: choices must differ in more than letter case, none empty; got {self.choices}")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except re.error as error:
                raise InputError(
                    f"{where}: pattern {self.pattern!r} is no regular expression ({error}); correct it"
                ) from error
        if self.min_chars < 1 or (self.max_chars is not None and self.max_chars < self.min_chars):
            raise InputError(
                f"{where}: lengths must hold 1 <= min_chars <= max_chars; got {self.min_chars} and {self.max_chars}"
            )

    def read(self, value: str) -> tuple[str, str | None]:
        """The value as it is kept (a choice as it is spelled in the task), and which check it fails, None for none."""
        if self.check == "number" and not _NUMBER.fullmatch(value):
            return value, "is no number"
        if self.check == "choice":
            spelled = next((c for c in self.choices if c.casefold() == value.casefold()), None)
            if spelled is None:
                return value, f"is none of {', '.join(self.choices[:8])}{', ...' if len(self.choices) > 8 else ''}"
            value = spelled
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            return value, f"doesn't match the pattern {self.pattern}"
        if len(value) < self.min_chars:
            return value, f"has {len(value)} characters, fewer than {self.min_chars}"
        if self.max_chars is not None and len(value) > self.max_chars:
            return value, f"has {len(value)} characters, more than {self.max_chars}"
        return value, None


@dataclass(frozen=True)
class Label:
    """Which field is the label, and the share of the accepted rows that each of its values should have.

    shots: `same` draws a draft's shots among the seeds of the wanted label, `any` among all.
    """

    field: str
    balance: tuple[tuple[str, Fraction], ...]
    shots: str = "same"


@dataclass(frozen=True)
class SeedPattern:
    """A column that holds several fields: the named groups of the regular expression are the fields."""

    column: str
    pattern: str


@dataclass(frozen=True)
class Parsed:
    """What a completion says: its fields, or the reason why it is no item, with the detail for a person."""

    fields: dict[str, str] | None = None
    reason: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class Seed:
    """A real example. seed_id: hash of its fields; source_id: the row's own id; license: as the row states it."""

    seed_id: str
    fields: dict[str, str]
    label: str | None = None
    source_id: str | None = None
    license: str | None = None


@dataclass(frozen=True)
class RejectedSeed:
    """A row that is no seed: its number from 0, the reason of `Task.parse` or `duplicate`, and the detail."""

    row: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Seeds:
    """The pool of real examples by seed_id, whatever the order of their rows, and the rows that gave none."""

    seeds: tuple[Seed, ...]
    rejected: tuple[RejectedSeed, ...] = ()

    def __len__(self) -> int:
        return len(self.seeds)

    @cached_property
    def labels(self) -> npt.NDArray[np.object_]:
        return np.array([seed.label for seed in self.seeds], dtype=object)


@dataclass(frozen=True)
class Task:
    """What the data is, its fields, and how models are asked: everything a prompt and a parser need."""

    name: str
    description: str
    opening: str
    closing: str
    fields: tuple[Field, ...]
    refine: str
    judge: str
    label: Label | None = None
    shots: int = 3
    samplings: tuple[tuple[str, Sampling], ...] = tuple(DEFAULT_SAMPLING.items())
    seed_patterns: tuple[SeedPattern, ...] = ()
    seed_drop: str | None = None

    def __post_init__(self) -> None:
        where = f"task {self.name}"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(f"{where}: a task's name is of a-z, 0-9 and _, a letter first; rename it")
        for key in ("description", "refine", "judge"):
            if not getattr(self, key).strip():
                raise InputError(f"{where}: `{key}` is empty; say in a sentence what it asks for")
        for key in ("opening", "closing"):
            marker = getattr(self, key)
            if not marker.strip():
                raise InputError(f"{where}: there is no {key} marker; add `{key}:` with a text that no item holds")
            if "\n" in marker or marker != marker.strip():
                raise InputError(f"{where}: the {key} marker is one line without spaces around it; got {marker!r}")
        if self.opening in self.closing or self.closing in self.opening:
            raise InputError(
                f"{where}: neither marker may hold the other; got {self.opening!r} and {self.closing!r}. "
                "Take a pair such as [item] and [/item]"
            )
        if not self.fields:
            raise InputError(f"{where}: there are no fields; give at least one with a name and a marker")
        for key in ("name", "marker"):
            values = [getattr(f, key) for f in self.fields]
            twice = [value for value, count in Counter(values).items() if count > 1]
            if twice:
                raise InputError(f"{where}: the {key} {twice[0]!r} belongs to two fields; each field needs its own")
        markers = [f.marker for f in self.fields]
        for one in markers:
            for other in markers:
                if one != other and other.startswith(one):
                    raise InputError(
                        f"{where}: the marker {one!r} is the beginning of the marker {other!r}; rename one"
                    )
            if one in self.opening or one in self.closing or self.opening in one or self.closing in one:
                raise InputError(f"{where}: the field marker {one!r} and an item's marker hold each other; rename one")
        if all(f.optional for f in self.fields):
            raise InputError(f"{where}: every field is optional, so nothing would be an item; make one required")
        if self.shots < 1:
            raise InputError(f"{where}: shots must be at least 1; got {self.shots}")
        if sorted(dict(self.samplings)) != sorted(STAGES):
            raise InputError(f"{where}: sampling must name {', '.join(STAGES)}; got {list(dict(self.samplings))}")
        self._check_label()
        self._check_seed_reading()

    def _check_label(self) -> None:
        if self.label is None:
            return
        where = f"task {self.name}: label"
        there = {f.name: f for f in self.fields}
        if self.label.field not in there:
            raise InputError(f"{where}: no field {self.label.field!r}; there are {', '.join(there)}")
        chosen = there[self.label.field]
        if chosen.check != "choice" or chosen.optional:
            raise InputError(f"{where}: the field {chosen.name!r} must be a required one with `check: choice`")
        labels = [label for label, _ in self.label.balance]
        unknown = sorted(set(labels) - set(chosen.choices))
        if unknown:
            raise InputError(
                f"{where}: balance names {unknown[0]!r}, which is no choice of {chosen.name!r}; "
                f"there are {', '.join(chosen.choices)}"
            )
        if len(set(labels)) < len(labels) or not labels:
            raise InputError(f"{where}: balance must name labels, each once; got {labels}")
        if any(share < 0 for _, share in self.label.balance):
            raise InputError(f"{where}: a share in balance must be 0 or more; got {_shares(self.label.balance)}")
        total = sum(share for _, share in self.label.balance)
        if total != 1:
            raise InputError(
                f"{where}: the shares in balance must sum to 1; {_shares(self.label.balance)} sum to {float(total):g}. "
                "Correct them, or write `balance: equal`"
            )
        if self._cycle_length > LONGEST_CYCLE:
            raise InputError(
                f"{where}: balance takes shares of at most four decimals; got {_shares(self.label.balance)}. Round them"
            )
        if self.label.shots not in SHOTS_FOR_LABEL:
            raise InputError(f"{where}: shots must be one of {', '.join(SHOTS_FOR_LABEL)}; got {self.label.shots!r}")

    def _check_seed_reading(self) -> None:
        names = {f.name for f in self.fields}
        for seed_pattern in self.seed_patterns:
            try:
                groups = set(re.compile(seed_pattern.pattern).groupindex)
            except re.error as error:
                raise InputError(
                    f"task {self.name}: seed pattern {seed_pattern.pattern!r} is no regular expression ({error}); "
                    "correct it"
                ) from error
            if not groups or groups - names:
                raise InputError(
                    f"task {self.name}: the named groups of seed pattern {seed_pattern.pattern!r} must be fields "
                    f"({', '.join(sorted(names))}), at least one; got {sorted(groups)}"
                )
        if self.seed_drop is not None:
            try:
                re.compile(self.seed_drop)
            except re.error as error:
                raise InputError(
                    f"task {self.name}: seeds.drop {self.seed_drop!r} is no regular expression ({error}); correct it"
                ) from error

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """Hash of all that the task says: what rows made with it depend on."""
        return content_id(dataclasses.asdict(self))

    def sampling(self, stage: str) -> Sampling:
        """The stage's sampling; drafts, refinements and the instruct-only arm stop at the closing marker."""
        sampling = dict(self.samplings)[stage]
        return sampling if stage == "judge" else dataclasses.replace(sampling, stop=(*sampling.stop, self.closing))

    def label_of(self, fields: Mapping[str, str]) -> str | None:
        """The value of the label field, None where the task has none."""
        return None if self.label is None else fields.get(self.label.field)

    @property
    def wanted_shares(self) -> dict[str, float] | None:
        """The wanted share of every choice of the label field, 0 for those that the balance leaves out."""
        if self.label is None:
            return None
        choices = next(f.choices for f in self.fields if f.name == self.label.field)
        return {**dict.fromkeys(choices, 0.0), **{label: float(share) for label, share in self.label.balance}}

    def text_of(self, fields: Mapping[str, str]) -> str:
        """The item's values without markers and label, a line each: what is compared, embedded and measured."""
        label = self.label.field if self.label else None
        return "\n".join(fields[f.name] for f in self.fields if f.name in fields and f.name != label)

    def render(self, fields: Mapping[str, str]) -> str:
        """The item as a model reads and writes it, between its markers: `parse` gives the same fields back."""
        lines = [f"{f.marker} {fields[f.name]}" for f in self.fields if f.name in fields]
        return "\n".join([self.opening, *lines, self.closing])

    # -- prompts -------------------------------------------------------------------------------------------------------

    def draft_prefix(self, shots: Sequence[Mapping[str, str]]) -> str:
        """What the prompts of all drafts with these shots begin with, to the last character (--share-shots)."""
        return "\n\n".join([self.description, *(self.render(shot) for shot in shots), self.opening])

    def opened(self, label: str | None) -> str:
        """What the prompt writes of the open item: the wanted label's line where the label is the first field."""
        if label is None or self.label is None or self.fields[0].name != self.label.field:
            return ""
        return f"\n{self.fields[0].marker} {label}"

    def draft_prompt(self, shots: Sequence[Mapping[str, str]], label: str | None = None) -> str:
        """Raw completion: the sentence, the shots with blank lines between, an open marker, the label if wanted."""
        self._check_wanted(label)
        return self.draft_prefix(shots) + self.opened(label)

    def refine_messages(
        self, draft_text: str, shots: Sequence[Mapping[str, str]] | None = None, *, label: str | None = None
    ) -> tuple[Message, ...]:
        """One user turn (not every chat template knows a system turn): improve the draft, answer in the format alone.

        draft_text: a completion as it came, parsed or not; what follows its closing marker is left out, and
        the label's line that the prompt wrote (`opened`) put back in front.
        """
        self._check_wanted(label)
        draft, written = self._inside(draft_text), self.opened(label).strip()
        if written and not draft.startswith(self.fields[0].marker):
            draft = f"{written}\n{draft}"
        parts = [
            self.description,
            *self._examples(shots),
            "This is a draft of one more:",
            f"{self.opening}\n{draft}\n{self.closing}",
            self.refine,
            *self._keep_label(label),
            self._format_request(),
        ]
        return (Message("user", "\n\n".join(parts)),)

    def instruct_messages(
        self, shots: Sequence[Mapping[str, str]] | None = None, *, label: str | None = None, persona: str | None = None
    ) -> tuple[Message, ...]:
        """The baseline without a base model: write one more item, in the voice of a persona where one is given."""
        self._check_wanted(label)
        voice = f"Imagine that you are {persona}. Draw on what such a person knows, meets and cares about."
        parts = [
            self.description,
            *self._examples(shots),
            *([voice] if persona else []),
            "Write one more that is unlike the examples in its subject." if shots else "Write one.",
            *self._keep_label(label),
            self._format_request(),
        ]
        return (Message("user", "\n\n".join(parts)),)

    def _examples(self, shots: Sequence[Mapping[str, str]] | None) -> list[str]:
        return ["These are examples:", *(self.render(shot) for shot in shots)] if shots else []

    def _keep_label(self, label: str | None) -> list[str]:
        if label is None or self.label is None:
            return []
        marker = next(f.marker for f in self.fields if f.name == self.label.field)
        return [f"It must be one of this kind, and say so in its line: {marker} {label}"]

    def _format_request(self) -> str:
        lines = "\n".join(f"{f.marker} ...{' (may be left out)' if f.optional else ''}" for f in self.fields)
        return (
            "Answer with the item alone, in this format, with nothing before or after it:\n\n"
            f"{self.opening}\n{lines}\n{self.closing}"
        )

    def _check_wanted(self, label: str | None) -> None:
        if label is None:
            return
        choices = () if self.label is None else tuple(known for known, _ in self.label.balance)
        if label not in choices:
            raise InputError(
                f"task {self.name}: {label!r} is no label in its balance; there are {', '.join(choices) or 'none'}"
            )

    # -- parsing -------------------------------------------------------------------------------------------------------

    def parse(self, text: str | None, finish_reason: str = "stop", *, label: str | None = None) -> Parsed:
        """The item in a completion, or the one reason why there is none.

        The item ends at the first closing marker: what a model goes on to write is cut. Words before an opening marker
        are passed over if they hold no field. Every required field stands once, in the task's order, each marker at the
        beginning of its line; anything else isn't guessed at. label: the wanted label of a draft, whose line the prompt
        has written (`opened`).
        """
        if finish_reason == "error" or text is None:
            return Parsed(reason=FAILED, detail="the generator gave no text")
        if finish_reason == "refusal":
            return Parsed(reason=REFUSED, detail=text.strip()[:200])
        text = text.replace("\r\n", "\n")
        if label is not None:
            text = f"{self.opened(label)}\n{text}"
        if self.closing not in text and finish_reason == "length":
            return Parsed(reason=TRUNCATED, detail=f"it reached the longest length without {self.closing}")
        body = text.split(self.closing, 1)[0]
        before, opening, after = body.partition(self.opening)
        if opening:
            if self._markers.search(before):
                return Parsed(reason=NOT_PARSED, detail="a second item opens before the first is closed")
            if self.opening in after:
                return Parsed(reason=NOT_PARSED, detail=f"{self.opening} stands twice before {self.closing}")
            body = after
        return self._parse_fields(body)

    def _parse_fields(self, body: str) -> Parsed:
        found = list(self._markers.finditer(body))
        names = [self._by_marker[match["marker"]].name for match in found]
        lead = body[: found[0].start()] if found else body
        if not found or lead.strip():
            said = " ".join(lead.split())[:80]
            return Parsed(reason=NOT_PARSED, detail=f"no field begins it: {said!r}" if said else "it is empty")
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            return Parsed(reason=NOT_PARSED, detail=f"{twice} stands twice")
        ends = [match.start() for match in found[1:]] + [len(body)]
        values = {name: body[m.end() : end].strip() for name, m, end in zip(names, found, ends, strict=True)}
        for known in self.fields:
            if not values.get(known.name) and not known.optional:
                return Parsed(reason=FIELD_MISSING, detail=known.name)
        if names != [f.name for f in self.fields if f.name in values]:
            return Parsed(reason=NOT_PARSED, detail=f"the fields stand in another order: {', '.join(names)}")
        fields = {}
        for known in self.fields:
            if values.get(known.name):
                fields[known.name], failed = known.read(values[known.name])
                if failed:
                    return Parsed(reason=CHECK_FAILED, detail=f"{known.name} {failed}")
        return Parsed(fields=fields)

    def _inside(self, text: str) -> str:
        """A completion's text without item markers, cut at the closing one, whether it parses or not."""
        body = text.split(self.closing, 1)[0]
        return body.rpartition(self.opening)[2].strip()

    @cached_property
    def _by_marker(self) -> dict[str, Field]:
        return {f.marker: f for f in self.fields}

    @cached_property
    def _markers(self) -> re.Pattern[str]:
        return re.compile(r"(?m)^[ \t]*(?P<marker>" + "|".join(re.escape(f.marker) for f in self.fields) + ")")

    # -- labels --------------------------------------------------------------------------------------------------------

    def wanted_labels(self, numbers: Sequence[int] | npt.NDArray[np.int64]) -> list[str | None]:
        """The label that each item by its number (0, 1, ...) should have; each cycle meets the balance exactly.

        A cycle is as long as the shares' common denominator. None for each where the task has no label.
        """
        if self.label is None:
            return [None] * len(numbers)
        labels = [label for label, _ in self.label.balance]
        return [labels[k] for k in self._cycle[np.asarray(numbers, np.int64) % len(self._cycle)]]

    @property
    def _cycle_length(self) -> int:
        return math.lcm(*(share.denominator for _, share in self.label.balance)) if self.label else 1

    @cached_property
    def _cycle(self) -> Indices:
        assert self.label is not None
        length = self._cycle_length
        shares = np.array([int(share * length) for _, share in self.label.balance], np.int64)
        given = np.zeros_like(shares)
        cycle = np.empty(length, np.int64)
        for item in range(length):  # the label furthest behind its share comes next
            cycle[item] = np.argmax(shares * (item + 1) - given * length)
            given[cycle[item]] += 1
        return cycle

    # -- seeds ---------------------------------------------------------------------------------------------------------

    def seed_fields(self, row: Mapping[str, Any]) -> dict[str, str]:
        """A row's values for the fields: by the seed patterns first, then by column; absent ones are left out."""
        values: dict[str, str] = {}
        for seed_pattern in self.seed_patterns:
            held = row.get(seed_pattern.column)
            match = re.fullmatch(seed_pattern.pattern, held.strip()) if isinstance(held, str) else None
            for name, value in (match.groupdict() if match else {}).items():
                if value is not None:
                    values.setdefault(name, value)
        for known in self.fields:
            column = next((c for c in known.columns or (known.name,) if row.get(c) is not None), None)
            if column is not None:
                values.setdefault(known.name, _plain(row[column]))
        if self.seed_drop is not None:
            values = {name: re.sub(self.seed_drop, "", value) for name, value in values.items()}
        return {name: stripped for name, value in values.items() if (stripped := value.replace("\r\n", "\n").strip())}


def read_seeds(task: Task, rows: Iterable[Mapping[str, Any]]) -> Seeds:
    """Rows (JSON lines, a table's, BETR's `benchmark_examples`: example_id, benchmark, text) -> the pool of real seeds.

    A seed survives being written and read by the task; a row that doesn't is rejected with the reason, one that repeats
    another as `duplicate`. InputError where no row is a seed.
    """
    found: dict[str, Seed] = {}
    rejected = []
    total = 0
    for number, row in enumerate(rows):
        total += 1
        values = task.seed_fields(row)
        parsed = task.parse(task.render(values))
        if parsed.fields is None:
            rejected.append(RejectedSeed(number, str(parsed.reason), parsed.detail))
            continue
        if any(parsed.fields.get(name, "").casefold() != value.casefold() for name, value in values.items()):
            rejected.append(RejectedSeed(number, NOT_PARSED, "a value holds one of the task's markers"))
            continue
        seed_id = content_id(task.name, parsed.fields)
        if seed_id in found:
            rejected.append(RejectedSeed(number, "duplicate", f"the same as seed {seed_id}"))
            continue
        own, stated = _first(row, ("example_id", "seed_id", "id", "native_id")), _first(row, ("license", "licence"))
        found[seed_id] = Seed(seed_id, parsed.fields, task.label_of(parsed.fields), own, stated)
    if not found:
        if not rejected:
            raise InputError(f"seeds: there are no rows; task {task.name} needs at least {task.shots} real examples")
        (reason, detail), count = Counter((r.reason, r.detail) for r in rejected).most_common(1)[0]
        raise InputError(
            f"seeds: none of the {total:,} rows is an example of task {task.name}; {count:,} are {reason} ({detail}). "
            f"Give rows with the columns {', '.join('/'.join(f.columns or (f.name,)) for f in task.fields)}"
        )
    return Seeds(tuple(sorted(found.values(), key=lambda seed: seed.seed_id)), tuple(rejected))


def check_seeds(task: Task, seeds: Seeds, *, shots: int | None = None) -> None:
    """InputError where the pool can't give every draft its shots: too few seeds, or too few of a wanted label."""
    shots = task.shots if shots is None else shots
    if len(seeds) < shots:
        raise InputError(f"task {task.name} shows {shots} examples a prompt; there are {len(seeds)} seeds. Give more")
    if task.label is None or task.label.shots != "same":
        return
    there = Counter(seed.label for seed in seeds.seeds)
    short = {label: there[label] for label, share in task.label.balance if share and there[label] < shots}
    if short:
        raise InputError(
            f"task {task.name}: the labels can't be balanced: each needs {shots} seeds to show, but there are "
            f"{', '.join(f'{count} of {label}' for label, count in short.items())}. Give more seeds, set these labels' "
            "share to 0, or write `shots: any` under `label`"
        )


def draw_shots(
    task: Task,
    seeds: Seeds,
    item_ids: Sequence[str],
    *,
    run_seed: int,
    attempts: Sequence[int] | npt.NDArray[np.int64] | None = None,
    labels: Sequence[str | None] | None = None,
    shots: int | None = None,
    rotation: int = 0,
) -> Indices:
    """For each item the positions in `seeds.seeds` of its shots, in their order: shape (items, shots).

    By hash of (run seed, rotation, item, attempt), without replacement: batch, order and partition change no row. Items
    with one id and attempt share their shots (a group's id in place of the item's shares a prefix). labels: what is
    wanted; where the task says `shots: same`, an item's shots come from the seeds of its label. rotation: another
    number gives other shots in another order (collapse control).
    """
    shots = task.shots if shots is None else shots
    check_seeds(task, seeds, shots=shots)
    tries = [0] * len(item_ids) if attempts is None else [int(a) for a in attempts]
    keys = np.fromiter(
        (hash64("shots", run_seed, rotation, item, attempt) for item, attempt in zip(item_ids, tries, strict=True)),
        np.uint64,
        len(item_ids),
    )
    if labels is None or task.label is None or task.label.shots != "same":
        return draw_distinct(keys, len(seeds), shots)
    wanted = np.array(labels, dtype=object)
    drawn = np.empty((len(item_ids), shots), np.int64)
    for label in set(labels):
        mine = wanted == label
        pool = np.arange(len(seeds)) if label is None else np.flatnonzero(seeds.labels == label)
        if len(pool) < shots:
            raise InputError(
                f"task {task.name}: {shots} shots are to be {label!r}, but {len(pool)} seeds are; give more"
            )
        drawn[mine] = pool[draw_distinct(keys[mine], len(pool), shots)]
    return drawn


def _first(row: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((str(row[key]) for key in keys if row.get(key) not in (None, "")), None)


def _plain(value: Any) -> str:
    """A column's value as text: truth as yes and no, a list of sentences as lines, PubMedQA's contexts as lines."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Mapping) and "contexts" in value:
        value = value["contexts"]
    if isinstance(value, list | tuple | np.ndarray):
        parts = [_plain(part) for part in value]
        return ("\n" if any(part.rstrip().endswith(".") for part in parts) else ", ").join(parts)
    return str(value)


def _shares(balance: Iterable[tuple[str, Fraction]]) -> str:
    return ", ".join(f"{label} {float(share):g}" for label, share in balance)


# -- from YAML ---------------------------------------------------------------------------------------------------------


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with the package."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("bare").joinpath("shipped").iterdir()
        if entry.name.endswith(".yaml")
    )


def load_task(name_or_path: str) -> Task:
    """A shipped task by its name, or one of your own from a YAML file; InputError names the file and what is wrong."""
    text, where = task_text(name_or_path)
    return parse_task(text, where=where)


def task_text(name_or_path: str) -> tuple[str, str]:
    """The task's YAML, and what errors call it."""
    if name_or_path in shipped_tasks():
        text = resources.files("bare").joinpath("shipped", f"{name_or_path}.yaml").read_text(encoding="utf-8")
        return text, f"task {name_or_path}"
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise InputError(
            f"there is no task and no file {name_or_path!r}; shipped tasks: {', '.join(shipped_tasks())}, "
            "or give the path of a YAML file"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"task file {path} can't be read ({error}); give a YAML file in UTF-8") from error
    return text, f"task file {path}"


def parse_task(text: str, *, where: str = "task") -> Task:
    """A task from YAML text, every key known, every value of its kind; `where` begins the message of an error."""
    try:
        data = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{where} is no YAML ({' '.join(str(error).split())}); correct it") from error
    reader = _Reader(
        data,
        where,
        (
            "name",
            "description",
            "opening",
            "closing",
            "fields",
            "label",
            "refine",
            "judge",
            "shots",
            "sampling",
            "seeds",
        ),
    )
    fields = tuple(_read_field(item, f"{where}: field {n}") for n, item in enumerate(reader.items("fields"), start=1))
    seeds = _Reader(reader.get("seeds", {}), f"{where}: seeds", ("patterns", "drop"))
    patterns = [_Reader(p, f"{where}: seeds.patterns", ("column", "pattern")) for p in seeds.items("patterns", ())]
    try:
        return Task(
            name=reader.text("name"),
            description=reader.text("description"),
            opening=reader.text("opening", ""),
            closing=reader.text("closing", ""),
            fields=fields,
            refine=reader.text("refine"),
            judge=reader.text("judge"),
            label=_read_label(reader.get("label", None), fields, f"{where}: label"),
            shots=reader.whole("shots", 3),
            samplings=_read_samplings(reader.get("sampling", {}), f"{where}: sampling"),
            seed_patterns=tuple(SeedPattern(p.text("column"), p.text("pattern")) for p in patterns),
            seed_drop=seeds.optional_text("drop"),
        )
    except InputError as error:
        raise InputError(f"{error}" if str(error).startswith(where) else f"{where}: {error}") from None


def _read_field(item: Any, where: str) -> Field:
    reader = _Reader(item, where, tuple(f.name for f in dataclasses.fields(Field)))
    try:
        return Field(
            name=reader.text("name"),
            marker=reader.text("marker"),
            check=reader.text("check", "text"),
            choices=reader.texts("choices"),
            pattern=reader.optional_text("pattern"),
            min_chars=reader.whole("min_chars", 1),
            max_chars=reader.whole("max_chars", None),
            optional=reader.truth("optional", False),
            columns=reader.texts("columns"),
        )
    except InputError as error:
        raise InputError(f"{error}" if str(error).startswith(where) else f"{where}: {error}") from None


def _read_label(item: Any, fields: tuple[Field, ...], where: str) -> Label | None:
    if item is None:
        return None
    reader = _Reader(item, where, ("field", "balance", "shots"))
    name = reader.text("field")
    choices = next((f.choices for f in fields if f.name == name), ())
    balance = reader.get("balance", "equal")
    if balance == "equal":
        shares = {choice: Fraction(1, len(choices)) for choice in choices}
    elif isinstance(balance, Mapping):
        shares = {_text(label, where): _share(share, where) for label, share in balance.items()}
    else:
        raise InputError(f"{where}: balance must be `equal` or a share for each label; got {balance!r}")
    return Label(name, tuple(shares.items()), reader.text("shots", "same"))


def _read_samplings(item: Any, where: str) -> tuple[tuple[str, Sampling], ...]:
    reader = _Reader(item, where, STAGES)
    keys = tuple(f.name for f in dataclasses.fields(Sampling))
    samplings = {}
    for stage, default in DEFAULT_SAMPLING.items():
        given = _Reader(reader.get(stage, {}), f"{where}.{stage}", keys)
        try:
            samplings[stage] = Sampling(
                temperature=given.number("temperature", default.temperature),
                top_p=given.number("top_p", default.top_p),
                top_k=given.whole("top_k", default.top_k),
                max_tokens=given.whole("max_tokens", default.max_tokens),
                stop=given.texts("stop"),
            )
        except InputError as error:
            raise InputError(f"{error}" if str(error).startswith(where) else f"{where}.{stage}: {error}") from None
    return tuple(samplings.items())


_MISSING: Any = object()


@dataclass(frozen=True)
class _Reader:
    """A mapping whose keys are known beforehand and whose values are of the kind that is asked for."""

    data: Any
    where: str
    keys: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.data, Mapping):
            raise InputError(f"{self.where} must be a mapping with the keys {', '.join(self.keys)}; got {self.data!r}")
        unknown = [str(key) for key in self.data if key not in self.keys]
        if unknown:
            raise InputError(f"{self.where}: unknown key {unknown[0]!r}; known are {', '.join(self.keys)}")

    def get(self, key: str, default: Any = _MISSING) -> Any:
        if key not in self.data:
            if default is _MISSING:
                raise InputError(f"{self.where}: the key {key!r} is missing; add it")
            return default
        return self.data[key]

    def text(self, key: str, default: Any = _MISSING) -> str:
        return _text(self.get(key, default), f"{self.where}: {key}").strip()

    def optional_text(self, key: str) -> str | None:
        return self.text(key) if self.data.get(key) is not None else None

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(_text(item, f"{self.where}: {key}") for item in self.items(key, ()))

    def items(self, key: str, default: Any = _MISSING) -> Sequence[Any]:
        value = self.get(key, default)
        if not isinstance(value, list | tuple):
            raise InputError(f"{self.where}: {key} must be a list; got {value!r}")
        return value

    def whole(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is not default and (isinstance(value, bool) or not isinstance(value, int)):
            raise InputError(f"{self.where}: {key} must be a whole number; got {value!r}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{self.where}: {key} must be a number; got {value!r}")
        return float(value)

    def truth(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.where}: {key} must be true or false; got {value!r}")
        return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        hint = "; YAML reads yes, no, on and off as truth: put quotes around them" if isinstance(value, bool) else ""
        raise InputError(f"{where} must be a text; got {value!r}{hint}")
    return value


def _share(value: Any, where: str) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: a share must be a number; got {value!r}")
    return Fraction(str(value))  # as it is written: 0.1 is a tenth


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
