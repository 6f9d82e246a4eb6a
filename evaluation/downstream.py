"""What made rows are worth to a model: fine-tuned on each arm's rows, measured on real test rows (BARE 4, downstream).

    equal_rows   every arm of `bare compare` and real rows, equally many of each, in the order of making
    equal_cost   every made arm on what the cheapest arm's whole spending buys
    top_up       few and imbalanced real rows: as they are, with the rare ones repeated, with made rows in their place

Rules alone: rows in, arms out. What reads tables and trains is downstream_stages.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bare.tasks import Task
from curation.errors import InputError
from curation.held_out import LONGEST, SHORTEST, TestIndex
from curation.overlap import normalised
from evaluation.measuring import Example

EQUAL_ROWS, EQUAL_COST, TOP_UP = "equal_rows", "equal_cost", "top_up"
EXPERIMENTS = (EQUAL_ROWS, EQUAL_COST, TOP_UP)
EVERY = "every"  # experiment: what stands in the figures of each
REAL, UNTRAINED, DUPLICATE = "real", "untrained", "duplicate"  # arms beside those of `bare compare`
OURS = "bare"
LEAST_TESTS = 10
SEED, MADE, REPEATED = "seed", "made_row", "duplicate"  # why a test row isn't measured


@dataclass(frozen=True)
class Row:
    """A row of training or test, in the task's fields."""

    row_id: str
    fields: Mapping[str, str]
    label: str | None = None


@dataclass(frozen=True)
class Arm:
    """What a model is fine-tuned on; no rows: the model as it is. generation_id: where made rows come from."""

    experiment: str
    arm: str
    rows: tuple[Row, ...]
    generation_id: str | None = None

    @property
    def labels(self) -> dict[str, int]:
        return dict(sorted(Counter(row.label for row in self.rows if row.label is not None).items()))


@dataclass(frozen=True)
class Asking:
    """How a row is asked. prompt, answer: fields, in the order in which a model reads them; choices: of a label."""

    task: Task
    prompt: tuple[str, ...]
    answer: tuple[str, ...]
    choices: tuple[str, ...] = ()

    def example(self, row: Row) -> Example:
        """The item up to the answer's marker, then the answer with the end of its line: no answer begins another."""
        markers = {f.name: f.marker for f in self.task.fields}
        asked = [f"{markers[name]} {row.fields[name]}" for name in self.prompt if name in row.fields]
        first, *others = self.answer
        question = "\n".join([self.task.opening, *asked, markers[first]])
        group = row.label if row.label is not None else self.task.name
        if self.choices:
            choices = tuple(f" {choice}\n" for choice in self.choices)
            return Example(row.row_id, group, question, choices, self.choices.index(row.fields[first]))
        lines = [row.fields.get(first, ""), *(f"{markers[n]} {row.fields[n]}" for n in others if n in row.fields)]
        return Example(row.row_id, group, question, (" " + "\n".join(lines) + "\n",), 0)


def asking_of(task: Task, *, prompt: Sequence[str] = (), answer: Sequence[str] = ()) -> Asking:
    """answer: none is the label, or the last required field; prompt: none is all other fields.

    Where the label is the answer, and alone, a model chooses among its values.
    """
    there = [f.name for f in task.fields]
    for flag, named in (("--answer", answer), ("--prompt", prompt)):
        if unknown := [name for name in named if name not in there]:
            raise InputError(f"{flag}: the task {task.name} has no field {unknown[0]!r}; it has {', '.join(there)}")
    required = [f.name for f in task.fields if not f.optional]
    chosen = tuple(answer) or ((task.label.field,) if task.label is not None else (required[-1],))
    rest = tuple(name for name in (prompt or there) if name not in chosen)
    if not rest or set(prompt) & set(chosen):
        said = ", ".join(chosen)
        raise InputError(
            f"--answer {said}: a model needs another field of {task.name} to answer from; name fewer, or other --prompt"
        )
    if optional := [name for name in chosen if name not in required]:
        raise InputError(f"--answer: the field {optional[0]!r} of {task.name} may be absent; name required ones")
    choices: tuple[str, ...] = ()
    if task.label is not None and chosen == (task.label.field,):
        choices = tuple(task.wanted_shares or ())
    return Asking(task, rest, chosen, choices)


# -- arms --------------------------------------------------------------------------------------------------------------


def equal_rows(made: Mapping[str, Sequence[Row]], *, generations: Mapping[str, str]) -> list[Arm]:
    """Each arm's first rows, as many as the arm with the fewest has; real rows among them."""
    for arm, rows in made.items():
        if not rows:
            raise InputError(
                f"arm {arm} has no accepted row to train on; leave it out with --arms, or see why with `bare show`"
            )
    count = min(map(len, made.values()))
    return [Arm(EQUAL_ROWS, arm, tuple(rows[:count]), generations.get(arm)) for arm, rows in made.items()]


def parse_imbalance(text: str, task: Task) -> dict[str, int]:
    """`label=rows,...` -> how many real rows of each label there are to be; labels that aren't named keep theirs."""
    labels = tuple(task.wanted_shares or ())
    if not labels:
        raise InputError(f"--imbalance: the task {task.name} has no label, so that none can be rare; leave it out")
    found: dict[str, int] = {}
    for part in text.split(","):
        label, equals, rows = part.strip().rpartition("=")
        if not equals or not rows.strip().isdecimal():
            raise InputError(f"--imbalance wants LABEL=ROWS,...; got {part.strip()!r}")
        if label not in labels:
            raise InputError(f"--imbalance: {label!r} is no label of {task.name}; there are {', '.join(labels)}")
        found[label] = int(rows)
    return found


def imbalanced(real: Sequence[Row], wanted: Mapping[str, int]) -> list[Row]:
    """The first real rows of each label, as many as are wanted of it; labels that aren't named keep theirs."""
    there = Counter(row.label for row in real)
    for label, rows in wanted.items():
        if there[label] < rows:
            raise InputError(f"--imbalance {label}={rows}: there are {there[label]} real rows of it; ask for fewer")
    seen: Counter[str | None] = Counter()
    kept = []
    for row in real:
        seen[row.label] += 1
        if row.label is None or seen[row.label] <= wanted.get(row.label, len(real)):
            kept.append(row)
    return kept


@dataclass(frozen=True)
class ToppedUp:
    """arms: none where no label is rare. filled: label -> made rows; lacking: those that nobody made."""

    arms: tuple[Arm, ...]
    filled: dict[str, int]
    lacking: dict[str, int]


def top_up(
    real: Sequence[Row], made: Mapping[str, Sequence[Row]], labels: Sequence[str], *, generations: Mapping[str, str]
) -> ToppedUp:
    """The real rows alone, with the rare ones repeated, and with each arm's made rows: all rare labels filled to the
    size of the largest, or as far as every arm's rows reach: all arms but the first have equally many of each.
    """
    there = Counter(row.label for row in real)
    largest = max(there.values(), default=0)
    known = there.keys() | {row.label for rows in made.values() for row in rows}
    wanted = {label: largest - there[label] for label in labels if label in known and there[label] < largest}
    reach = {label: min((sum(r.label == label for r in rows) for rows in made.values()), default=0) for label in wanted}
    # A label without a real row can't be repeated: then nobody fills it.
    filled = {label: min(rows, reach[label]) if there[label] else 0 for label, rows in wanted.items()}
    filled = {label: rows for label, rows in filled.items() if rows}
    lacking = {label: rows - filled.get(label, 0) for label, rows in wanted.items() if rows > filled.get(label, 0)}
    if not filled:
        return ToppedUp((), {}, lacking)
    arms = [Arm(TOP_UP, REAL, tuple(real))]
    again = [row for label, rows in filled.items() for row in _repeated([r for r in real if r.label == label], rows)]
    arms.append(Arm(TOP_UP, DUPLICATE, (*real, *again)))
    for arm, rows in made.items():
        mine = [row for label, count in filled.items() for row in [r for r in rows if r.label == label][:count]]
        arms.append(Arm(TOP_UP, arm, (*real, *mine), generations.get(arm)))
    return ToppedUp(tuple(arms), filled, lacking)


def _repeated(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows in turn until there are so many; each copy has a name of its own, so that it has its own place."""
    return [
        replace(rows[k % len(rows)], row_id=f"{rows[k % len(rows)].row_id}#{k // len(rows) + 2}") for k in range(count)
    ]


# -- test rows ---------------------------------------------------------------------------------------------------------


def separate(task: Task, tests: Sequence[Row], seeds: Sequence[Row], made: Sequence[Row]) -> dict[str, str]:
    """row_id -> why a test row isn't measured: it equals a seed or a made row in words, whatever its label, or shares a
    run of 8 to 13 words with one, or repeats another test row.

    Runs are those of 13 words, and whole texts of 8 to 12.
    """
    texts = {row.row_id: task.text_of(row.fields) for row in tests}
    removed: dict[str, str] = {}
    first: dict[str, str] = {}
    for row_id, text in texts.items():
        if first.setdefault(normalised(text), row_id) != row_id:
            removed[row_id] = REPEATED
    for reason, rows in ((MADE, made), (SEED, seeds)):  # what is both is a seed
        others = [task.text_of(row.fields) for row in rows]
        same = set(map(normalised, others))
        ids = list(texts)
        shared = _sharing([texts[row_id] for row_id in ids], others)
        for number, row_id in enumerate(ids):
            if number in shared or normalised(texts[row_id]) in same:
                removed[row_id] = reason
    return removed


def _sharing(tests: Sequence[str], others: Sequence[str]) -> set[int]:
    """The tests that share a run of words with another text: the other's own n-grams in it, or its own in another."""
    if not tests or not others:
        return set()
    theirs = TestIndex.of(others, shortest=SHORTEST, longest=LONGEST).shared_run(tests)
    found = {number for number, run in enumerate(theirs) if run is not None}
    mine = TestIndex.of(tests, shortest=SHORTEST, longest=LONGEST)
    hits = mine.find(others)
    short = hits.gram[hits.length < LONGEST]  # a whole short test in a longer text; longer runs the others' index has
    return found | set(mine.owners[short].tolist())
