"""Benchmarks -> target examples: one text each, an equal share of each benchmark, training splits only (BETR 3.1).

The paper puts question, answer and extra fields into one document and leaves the template open. Ours: the question as
it reads, the gold answer's text, then extra fields (passage, context, support, facts, code), a line each. No letters,
no wrong choices, no `Question:` or `Answer:`: they stand in every example and in no document. A continuation goes on in
the question's line, a blank is filled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from curation import jsonlines
from curation.decontamination import DecontaminationConfig, TestSet
from curation.errors import InputError
from curation.jsonlines import RowRejected
from curation.tables import TableSpec

WHAT = "benchmark file"  # as errors call it

BENCHMARK_EXAMPLES = TableSpec(
    "benchmark_examples",
    key=("targets_id", "example_id"),
    schema="targets_id string, example_id string, benchmark string, split string, text string, file string, row bigint",
    partition_by=("targets_id",),
)

HELD_OUT = {"test", "tests", "validation", "valid", "val", "dev"}

QUESTIONS = ("query", "question", "goal", "ctx", "sentence", "problem")
ANSWERS = ("gold", "answer", "answers", "answerKey", "correct_answer", "label", "solution")
CHOICES = ("choices", "options", "endings")
NAMED_CHOICES = (("sol1", "sol2"), ("option1", "option2"), ("answerA", "answerB", "answerC"))
EXTRAS = ("passage", "context", "support", "facts", "code")
LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class BenchmarkSource:
    """A benchmark's name and one of its files."""

    name: str
    path: str


@dataclass(frozen=True)
class BenchmarkExample:
    """A row of `benchmark_examples`."""

    example_id: str
    benchmark: str
    split: str
    text: str
    file: str
    row: int


@dataclass(frozen=True)
class RejectedExample:
    """A row that gives no example: reason is malformed_json, not_utf8, unknown_shape, no_answer or empty."""

    benchmark: str
    file: str
    row: int
    reason: str
    detail: str


@dataclass(frozen=True)
class BenchmarkExamples:
    """The examples chosen, by benchmark and id; what fell out, and what a person should know.

    counts: examples chosen of each benchmark; available: distinct ones there; duplicates: rows that repeat one.
    """

    examples: list[BenchmarkExample]
    rejected: list[RejectedExample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    available: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_frame(self, spark: SparkSession, *, targets_id: str) -> DataFrame:
        """The examples as rows of BENCHMARK_EXAMPLES, under the name of their set."""
        rows = [(targets_id, e.example_id, e.benchmark, e.split, e.text, e.file, e.row) for e in self.examples]
        return BENCHMARK_EXAMPLES.frame(spark, rows)


# -- what the user names ---------------------------------------------------------------------------------------------


def parse_sources(args: Iterable[str], *, option: str = "--benchmarks") -> list[BenchmarkSource]:
    """`name=path`, or a path whose stem is the name; a folder or glob gives its files, under `name` if there is one."""
    sources: list[BenchmarkSource] = []
    for arg in args:
        name, equals, path = arg.partition("=")
        if not equals or "/" in name or os.path.exists(arg):
            name, path = "", arg
        if (equals and not path) or (not equals and not arg.strip()):
            raise InputError(f"{option} {arg!r} names no path; write name=path or a path")
        files = jsonlines.list_files(path, what=WHAT)
        found = [BenchmarkSource(name or jsonlines.stem(file), file) for file in files]
        if nameless := [source.path for source in found if not source.name]:
            raise InputError(f"{option} {nameless[0]}: its name is all ending, so nothing names it; write name=path")
        sources += found
    if not sources:
        raise InputError(f"no benchmark is named; give {option} name=path or a path at least once")
    return sorted(set(sources), key=lambda source: (source.name, source.path))


def parse_templates(args: Iterable[str]) -> dict[str, str]:
    """`name={title}: {body}` -> {name: template}, checked."""
    templates: dict[str, str] = {}
    for arg in args:
        name, equals, template = arg.partition("=")
        if not equals or not name:
            raise InputError(f"--template {arg!r} names no benchmark; write NAME='{{question}} {{answer}}'")
        _template_fields(name, template)
        templates[name] = template
    return templates


def _template_fields(name: str, template: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise InputError(f"--template {name}={template!r} is malformed ({error}); write fields as {{field}}") from error
    found = [key for _, key, _, _ in parts if key is not None]
    plain = all(spec in ("", None) and conversion is None for _, _, spec, conversion in parts)
    if not found or not plain or not all(re.fullmatch(r"\w+", key) for key in found):
        raise InputError(f"--template {name}={template!r} must hold field names only, at least one, as {{field}}")
    return found


def fingerprint(spark: SparkSession, source: BenchmarkSource) -> str:
    """Hash of a source's name and content."""
    content = jsonlines.read_bytes(spark, source.path, what=WHAT)
    return hashlib.sha256(source.name.encode() + b"\0" + content).hexdigest()


# -- reading ---------------------------------------------------------------------------------------------------------


def read_benchmarks(
    spark: SparkSession,
    sources: Iterable[BenchmarkSource],
    *,
    per_benchmark: int | None = None,
    seed: int = 0,
    templates: Mapping[str, str] | None = None,
    allow_splits: Collection[str] = (),
) -> BenchmarkExamples:
    """Each benchmark's distinct examples, `per_benchmark` of each (None: all), chosen by hash of id and seed.

    A benchmark with fewer gives all it has, with a warning. InputError: a file or row of a test or validation split
    (unless the benchmark's name is in `allow_splits`), no usable row, a template's field missing.
    """
    if per_benchmark is not None and per_benchmark < 1:
        raise InputError(f"--per-benchmark must be at least 1; got {per_benchmark}. Leave it out to take all examples")
    sources, templates = sorted(set(sources), key=lambda s: (s.name, s.path)), dict(templates or {})
    names = sorted({source.name for source in sources})
    for given, option in ((templates, "--template"), (allow_splits, "--allow-test")):
        for name in sorted(set(given) - set(names)):
            raise InputError(f"{option} {name}: no such benchmark is given; there are {names}")

    found: dict[str, dict[str, BenchmarkExample]] = {name: {} for name in names}
    result = BenchmarkExamples([], duplicates=dict.fromkeys(names, 0))
    for source in sources:
        name, there = source.name, found[source.name]
        if name not in allow_splits:
            _refuse_held_out(name, jsonlines.stem(source.path), source.path, "the file's name")
            _refuse_held_out(name, name, source.path, "the benchmark's name")
        for number, line in jsonlines.lines(jsonlines.read_bytes(spark, source.path, what=WHAT)):
            try:
                row = jsonlines.parse(line)
                split = str(row.get("split") or "")
                if name not in allow_splits:
                    _refuse_held_out(name, split, source.path, f"row {number}'s split {split!r}")
                text = text_of(name, row, templates)
                if not text.strip():
                    raise RowRejected("empty", "the example's text is only whitespace")
            except RowRejected as verdict:
                result.rejected.append(RejectedExample(name, source.path, number, verdict.reason, verdict.detail))
                continue
            example_id = hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()[:32]
            if example_id in there:
                result.duplicates[name] += 1
                continue
            split = split or ("train" if "train" in _tokens(jsonlines.stem(source.path)) else "unstated")
            there[example_id] = BenchmarkExample(example_id, name, split, text, source.path, number)

    for name in names:
        if not found[name]:
            raise _nothing_usable(name, [r for r in result.rejected if r.benchmark == name], sources)
        chosen = sorted(found[name].values(), key=lambda e: hashlib.sha256(f"{seed}\0{e.example_id}".encode()).digest())
        result.available[name] = len(chosen)
        if per_benchmark is not None and len(chosen) < per_benchmark:
            result.warnings.append(
                f"benchmark {name} holds {len(chosen):,} distinct examples, not the {per_benchmark:,} asked for; "
                "all are used, so its share is the smaller"
            )
        result.examples.extend(sorted(chosen[:per_benchmark], key=lambda e: e.example_id))
        result.counts[name] = len(chosen[:per_benchmark])
    return result


def _refuse_held_out(name: str, text: str, path: str, what: str) -> None:
    said = sorted(_tokens(text) & HELD_OUT)
    if said:
        raise InputError(
            f"benchmark {name}: {path} is no training split ({what} says {said[0]!r}), and targets come from training "
            f"splits only; give the training file, or allow it with --allow-test {name}"
        )


def _tokens(text: str) -> set[str]:
    """Words between separators and digits: `latest` and `contest` say nothing about a test."""
    return set(re.findall(r"[^\W\d_]+", text.lower()))


def _nothing_usable(name: str, rejected: list[RejectedExample], sources: Iterable[BenchmarkSource]) -> InputError:
    paths = ", ".join(source.path for source in sources if source.name == name)
    if not rejected:
        return InputError(f"benchmark {name} has no rows ({paths}); give a file with one JSON object a line")
    (reason, detail), count = Counter((r.reason, r.detail) for r in rejected).most_common(1)[0]
    return InputError(
        f"benchmark {name} has no usable row in {paths}: {count:,} of {len(rejected):,} are {reason} ({detail}); "
        f"name its fields with --template {name}='{{question}} {{answer}}'"
    )


def text_of(name: str, row: Mapping[str, Any], templates: Mapping[str, str]) -> str:
    """A benchmark's row as one text: by its template, else by its keys. Raises what `example_text` raises."""
    return _fill(name, templates[name], row) if name in templates else example_text(row)


def _fill(name: str, template: str, row: Mapping[str, Any]) -> str:
    for key in _template_fields(name, template):
        if key not in row:
            raise InputError(
                f"benchmark {name}: a row has no field {key!r} that --template names; it has {sorted(row)}. "
                "Name fields that every row has"
            )
    return template.format_map({key: _plain(value) for key, value in row.items()})


# -- test sets ---------------------------------------------------------------------------------------------------------


def read_tests(spark: SparkSession, sources: Iterable[BenchmarkSource], config: DecontaminationConfig) -> TestSet:
    """Every text that the rows of test sets hold, each by itself, named `file:row`: a question, a choice, a passage.

    InputError for a row that isn't JSON: a test that can't be read would be overlooked.
    """
    ids, sets, texts = [], [], []
    for source in sorted(set(sources), key=lambda s: (s.name, s.path)):
        data = jsonlines.read_bytes(spark, source.path, what=WHAT)
        for number, row in jsonlines.rows(data, source.path, what="test file"):
            for text in _strings(row):
                ids.append(f"{jsonlines.stem(source.path)}:{number}")
                sets.append(source.name)
                texts.append(text)
    return TestSet.of(ids, sets, texts, config)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(each)


# -- one text per example --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Question:
    """What a row asks: the text before the answer, the choices, and how the two join."""

    text: str
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    continues: bool = False
    blank: bool = False


def example_text(row: Mapping[str, Any]) -> str:
    """The example's text by the shape of its keys; raises a verdict where the shape isn't known."""
    question_key = _question_key(row)
    extras = [_plain(row[key]).strip() for key in EXTRAS if row.get(key)]
    if question_key is None:
        if isinstance(row.get("text"), str):
            return _with_extras(row["text"].strip(), extras)
        raise RowRejected("unknown_shape", f"no question, query or text among the fields {sorted(row)}")
    question, answer = _read_answered(row, question_key)
    if not answer:
        raise RowRejected("no_answer", "the answer is empty")
    if question.blank:
        text = re.sub(r"_+", lambda _: answer, question.text, count=1)
    elif question.continues:
        text = question.text + _glued(answer)
    else:
        text = f"{question.text}\n{answer}"
    return _with_extras(text, extras)


@dataclass(frozen=True)
class Asked:
    """A row as a language model is asked: `context`, then one of `choices` (where there are none, the gold answer).

    context + choices[gold] is the whole; question: the context without passages, which a corpus may well hold; text:
    the same example as a target, `example_text`.
    """

    text: str
    question: str
    context: str
    choices: tuple[str, ...]
    gold: int


def asked(row: Mapping[str, Any]) -> Asked:
    """The row as context and answers, by the rules of `example_text`; passages stand before the question.

    Of a blank that is filled, the context ends before it: what follows it is part of each choice. Raises a verdict.
    """
    question_key = _question_key(row)
    if question_key is None:
        if isinstance(row.get("text"), str) and row.get("code"):
            return _asked(row, row["text"].strip(), "\n", (_plain(row["code"]).strip(),), 0)
        raise RowRejected("unknown_shape", f"no question and answer among the fields {sorted(row)}")
    question, answer = _read_answered(row, question_key)
    choices = question.choices if answer in question.choices else (answer,)
    gold = choices.index(answer)
    if question.blank:
        before, after = re.split(r"_+", question.text, maxsplit=1)
        gap = " " if before.strip() else ""
        return _asked(row, before.rstrip(), "", tuple(gap + choice + after for choice in choices), gold)
    if question.continues:
        return _asked(row, question.text, "", tuple(map(_glued, choices)), gold)
    return _asked(row, question.text, "\n", choices, gold)


def _asked(row: Mapping[str, Any], question: str, gap: str, choices: tuple[str, ...], gold: int) -> Asked:
    if not all(choice.strip() for choice in choices):
        raise RowRejected("no_answer", "an answer is empty")
    passages = [_plain(row[key]).strip() for key in ("passage", "context") if row.get(key)]
    before = "".join(f"{passage}\n" for passage in passages if passage not in question)
    return Asked(example_text(row), question, before + question + gap, choices, gold)


def _question_key(row: Mapping[str, Any]) -> str | None:
    return next((key for key in QUESTIONS if isinstance(row.get(key), str)), None)


def _read_answered(row: Mapping[str, Any], question_key: str) -> tuple[_Question, str]:
    """The row's question and the text of its right answer, which may be empty; raises a verdict where it has none."""
    answer_key = next((key for key in ANSWERS if row.get(key) is not None), None)
    if answer_key is None:
        raise RowRejected("no_answer", f"no gold, answer or label among the fields {sorted(row)}")
    question = _read_question(row, question_key)
    return question, _answer(row[answer_key], question)


def _glued(ending: str) -> str:
    """As it goes on from the text before it."""
    return ending if re.match(r"[,.;:!?']", ending) else f" {ending}"


def _read_question(row: Mapping[str, Any], key: str) -> _Question:
    choices, labels = _choices(row)
    text = _without_answer_cue(row[key])
    lettered = bool(choices) and all(re.fullmatch("[A-Z]", choice) for choice in choices)
    listed = _listed(text, choices if lettered else tuple(LETTERS[: len(choices)]))
    if listed is not None:
        text, texts = listed
        choices, labels = (texts, (*choices,)) if lettered else (choices, labels)
    elif lettered and key == "query":
        raise RowRejected("unknown_shape", "the choices are letters, but the query doesn't list their texts")
    text, continues = _cut(text, r"\n\s*Choose the best continuation:?\s*$")
    text, fills = _cut(text, r"^\s*Fill in the blank:\s*")
    text = re.sub(r"(?m)^\s*(?:Question|Goal|Q):[ \t]*", "", text).strip()
    blank = (fills or "option1" in row) and "_" in text
    return _Question(text, choices, labels, continues or key == "ctx", blank)


def _choices(row: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The choices' texts, and the labels that an answer may call them by."""
    for key in CHOICES:
        value = row.get(key)
        if isinstance(value, Mapping) and isinstance(value.get("text"), list):
            texts = tuple(_plain(text).strip() for text in value["text"])
            return texts, tuple(str(label) for label in value.get("label") or LETTERS[: len(texts)])
        if isinstance(value, list) and value:
            if all(isinstance(choice, Mapping) and "text" in choice for choice in value):
                texts = tuple(_plain(choice["text"]).strip() for choice in value)
                return texts, tuple(str(choice.get("label", LETTERS[n])) for n, choice in enumerate(value))
            return tuple(_plain(choice).strip() for choice in value), tuple(LETTERS[: len(value)])
    for keys in NAMED_CHOICES:
        if all(isinstance(row.get(key), str) for key in keys):
            first = 0 if keys[0] == "sol1" else 1  # PIQA counts from 0, WinoGrande and SocialIQA from 1
            return tuple(row[key].strip() for key in keys), tuple(str(n + first) for n in range(len(keys)))
    return (), ()


def _answer(value: Any, question: _Question) -> str:
    """The gold answer's text: by index, label or text among the choices, or as it stands."""
    choices = question.choices
    if isinstance(value, Mapping):  # TriviaQA {value, aliases}, SQuAD {text: [...]}
        value = value.get("value", value.get("text"))
        value = value[:1] if isinstance(value, list) else value
    if not choices or isinstance(value, bool | list):
        return _without_annotations(_plain(value)).strip() if value is not None else ""
    text = str(value).strip()
    if isinstance(value, int) and text not in question.labels:
        index = value
    elif text in question.labels:
        index = question.labels.index(text)
    elif text in choices:
        index = choices.index(text)
    elif text.isdigit():
        index = int(text)
    else:
        raise RowRejected("no_answer", "the answer is none of the choices")
    if not 0 <= index < len(choices):
        raise RowRejected("no_answer", f"the answer's number is outside its {len(choices)} choices")
    return choices[index]


def _listed(text: str, letters: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """Question and choices of a text that ends in lines `A. ...`, `B. ...`; None where it doesn't."""
    if not letters:
        return None
    ends = len(text)
    texts: list[str] = []
    for letter in reversed(letters):  # from the end: the question may hold such lines too
        marks = list(re.finditer(rf"(?m)^[ \t]*\(?{letter}[.):](?=\s|$)", text[:ends]))
        if not marks:
            return None
        texts.append(text[marks[-1].end() : ends].strip())
        ends = marks[-1].start()
    return text[:ends].rstrip(), tuple(reversed(texts))


def _without_answer_cue(text: str) -> str:
    return re.sub(r"(?:^|\n)\s*(?:Answer|A):?\s*$", "", text).strip()


def _without_annotations(text: str) -> str:
    """GSM8K's calculator notes (`<<48/2=24>>`) and answer mark (`####`) are no text."""
    return re.sub(r"(?m)^#### ", "", re.sub(r"<<[^<>\n]*>>", "", text))


def _cut(text: str, pattern: str) -> tuple[str, bool]:
    shorter, times = re.subn(pattern, "", text)
    return shorter, times > 0


def _with_extras(text: str, extras: list[str]) -> str:
    """The text and the extra fields, a line each; one that the text holds already isn't repeated."""
    for extra in extras:
        if extra not in text:
            text += f"\n{extra}"
    return text


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        separator = "\n" if any(isinstance(item, str) and item.rstrip().endswith(".") for item in value) else ", "
        return separator.join(_plain(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return "" if value is None else str(value)
