"""Tasks: what is refused, what a prompt reads like, what a parser takes for an item, how labels and shots are given."""

from __future__ import annotations

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bare.draws import draw_distinct, half_samples, resampled_counts, row_seed, sample_by_hash
from bare.personas import persona_of
from bare.tasks import (
    Parsed,
    Seeds,
    Task,
    check_seeds,
    draw_shots,
    load_task,
    parse_task,
    read_seeds,
    shipped_tasks,
)
from curation.errors import InputError
from curation.hashing import mix

SUMS = """
name: sums
description: These are sums.
opening: "[sum]"
closing: "[/sum]"
fields:
  - {name: kind, marker: "Kind:", check: choice, choices: [plus, minus, times]}
  - {name: question, marker: "Q:", min_chars: 3, max_chars: 40}
  - {name: hint, marker: "Hint:", optional: true, pattern: '[a-z ]+'}
  - {name: answer, marker: "A:", check: number}
label: {field: kind, balance: {plus: 0.5, minus: 0.3, times: 0.2}}
refine: Correct it.
judge: Which is the worst sum?
shots: 2
"""
TASK = parse_task(SUMS)
ONE = {"kind": "plus", "question": "one and one?", "answer": "2"}
TWO = {"kind": "minus", "question": "two less one?", "hint": "count down", "answer": "1"}


def changed(**changes: object) -> str:
    """SUMS with top-level keys replaced, or removed where the value is None."""
    data = yaml.safe_load(SUMS)
    data.update(changes)
    return yaml.safe_dump({key: value for key, value in data.items() if value is not None}, sort_keys=False)


def with_fields(*fields: Mapping[str, object]) -> str:
    return changed(fields=list(fields), label=None)


# -- what is refused ---------------------------------------------------------------------------------------------------

Q = {"name": "question", "marker": "Q:"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(closing=None), "no closing marker; add `closing:`"),
        (changed(opening="  "), "no opening marker"),
        (changed(opening="[su\nm]"), "opening marker is one line"),
        (changed(opening="sum", closing="sum."), "neither marker may hold the other"),
        (changed(name="My Task"), "a task's name is of a-z"),
        (changed(colour="red"), "unknown key 'colour'; known are name, description"),
        (changed(description=None), "the key 'description' is missing"),
        (changed(refine="  "), "`refine` is empty"),
        (changed(shots=0), "shots must be at least 1; got 0"),
        (changed(shots="three"), "shots must be a whole number; got 'three'"),
        (changed(shots=True), "shots must be a whole number; got True"),
        (changed(fields=[]), "there are no fields"),
        (changed(fields="question"), "fields must be a list"),
        (with_fields(Q, {**Q, "marker": "R:"}), "the name 'question' belongs to two fields"),
        (with_fields(Q, {"name": "other", "marker": "Q:"}), "the marker 'Q:' belongs to two fields"),
        (with_fields(Q, {"name": "other", "marker": "Q:s"}), "'Q:' is the beginning of the marker 'Q:s'"),
        (with_fields({"name": "q", "marker": "[sum]:"}), "hold each other"),
        (with_fields({**Q, "optional": True}), "every field is optional"),
        (with_fields({**Q, "check": "integer"}), "check must be one of text, number, choice; got 'integer'"),
        (with_fields({**Q, "check": "choice"}), "choices come with `check: choice`"),
        (with_fields({**Q, "choices": ["a"]}), "choices come with `check: choice`"),
        (with_fields({**Q, "check": "choice", "choices": ["a", "A"]}), "must differ in more than letter case"),
        (with_fields({**Q, "check": "choice", "choices": [True, False]}), "YAML reads yes, no, on and off as truth"),
        (with_fields({**Q, "pattern": "("}), "is no regular expression"),
        (with_fields({**Q, "min_chars": 5, "max_chars": 4}), "1 <= min_chars <= max_chars; got 5 and 4"),
        (with_fields({**Q, "length": 5}), "field 1: unknown key 'length'"),
        (with_fields({"marker": "Q:"}), "field 1: the key 'name' is missing"),
        (changed(label={"field": "colour"}), "no field 'colour'; there are kind, question"),
        (changed(label={"field": "question"}), "must be a required one with `check: choice`"),
        (changed(label={"field": "kind", "balance": {"plus": 0.5, "minus": 0.4}}), "must sum to 1; plus 0.5, minus 0.4 sum to 0.9"),
        (changed(label={"field": "kind", "balance": {"plus": 0.5, "power": 0.5}}), "balance names 'power', which is no choice"),
        (changed(label={"field": "kind", "balance": {"plus": 1.5, "minus": -0.5}}), "0 or more"),
        (changed(label={"field": "kind", "balance": {"plus": "half", "minus": 0.5}}), "a share must be a number; got 'half'"),
        (changed(label={"field": "kind", "balance": {"plus": 0.33333, "minus": 0.66667}}), "at most four decimals"),
        (changed(label={"field": "kind", "balance": "even"}), "balance must be `equal` or a share"),
        (changed(label={"field": "kind", "shots": "all"}), "shots must be one of same, any; got 'all'"),
        (changed(sampling={"draft": {"temperature": 3}}), "temperature must lie in \\[0, 2\\]; got 3"),
        (changed(sampling={"draft": {"top_p": 0}}), "top_p must lie in"),
        (changed(sampling={"draft": {"seed": 0}}), "sampling.draft: unknown key 'seed'"),
        (changed(sampling={"improve": {}}), "sampling: unknown key 'improve'"),
        (changed(seeds={"patterns": [{"column": "text", "pattern": "(?P<query>.*)"}]}), "must be fields"),
        (changed(seeds={"drop": "("}), "seeds.drop '\\(' is no regular expression"),
        ("name: [", "is no YAML"),
        ("- a\n- b", "must be a mapping"),
        (SUMS + "\nname: sums", "the key 'name' stands twice"),
    ],
)
def test_a_task_that_breaks_a_rule_is_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_task(text, where="task file sums.yaml")
    assert str(caught.value).startswith("task file sums.yaml")
    assert "\n" not in str(caught.value)


def test_unknown_task_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no task and no file 'sudoku'; shipped tasks: biomedical_yes_no_maybe, doc"):
        load_task("sudoku")
    bad = tmp_path / "latin.yaml"
    bad.write_bytes("name: é".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.yaml can't be read"):
        load_task(str(bad))


def test_a_task_file_is_the_task_it_says(tmp_path: Path) -> None:
    path = tmp_path / "sums.yaml"
    path.write_text(SUMS, encoding="utf-8")
    assert load_task(str(path)) == TASK
    assert load_task(str(path)).task_id == TASK.task_id != parse_task(changed(refine="Improve it.")).task_id


def test_a_task_goes_through_pickle_with_what_it_has_computed() -> None:
    TASK.parse("x"), TASK.wanted_labels([0])
    copy = pickle.loads(pickle.dumps(TASK))
    assert copy == TASK and copy.wanted_labels(range(10)) == TASK.wanted_labels(range(10))


def test_stages_stop_at_the_closing_marker_and_the_judge_does_not() -> None:
    task = parse_task(changed(sampling={"draft": {"temperature": 0.9, "stop": ["END"]}}))
    assert task.sampling("draft").temperature == 0.9 and task.sampling("draft").stop == ("END", "[/sum]")
    assert (task.sampling("refine").temperature, task.sampling("refine").max_tokens) == (0.7, 1000)
    assert task.sampling("instruct").temperature == 1.0
    assert task.sampling("judge").stop == ()


# -- prompts -----------------------------------------------------------------------------------------------------------


def test_draft_prompt_is_the_sentence_the_shots_and_an_open_marker() -> None:
    assert TASK.draft_prompt([ONE, TWO]) == (
        "These are sums.\n\n"
        "[sum]\nKind: plus\nQ: one and one?\nA: 2\n[/sum]\n\n"
        "[sum]\nKind: minus\nQ: two less one?\nHint: count down\nA: 1\n[/sum]\n\n"
        "[sum]"
    )


def test_rows_with_the_same_shots_share_their_prompt_up_to_the_label() -> None:
    prefix = TASK.draft_prefix([ONE, TWO])
    assert TASK.draft_prompt([ONE, TWO]) == prefix
    assert TASK.draft_prompt([ONE, TWO], "times") == prefix + "\nKind: times"
    with pytest.raises(InputError, match="'power' is no label in its balance; there are plus, minus, times"):
        TASK.draft_prompt([ONE], "power")


def test_a_label_behind_another_field_is_not_written_by_the_prompt() -> None:
    data = yaml.safe_load(SUMS)
    task = parse_task(changed(fields=[*data["fields"][1:], data["fields"][0]]))
    assert task.draft_prompt([ONE], "plus") == task.draft_prompt([ONE])


def test_refining_shows_the_draft_without_what_leaked_behind_it() -> None:
    (message,) = TASK.refine_messages("\nKind: plus\nQ: 1+1?\nA: 3\n[/sum]\n\n[sum]\nKind: leak", [ONE], label="plus")
    assert message.role == "user"
    assert "[sum]\nKind: plus\nQ: 1+1?\nA: 3\n[/sum]\n\nCorrect it." in message.content
    assert "leak" not in message.content and TASK.render(ONE) in message.content and "Kind: plus" in message.content
    assert TASK.render(ONE) not in TASK.refine_messages("x", None)[0].content
    assert message.content.endswith("[sum]\nKind: ...\nQ: ...\nHint: ... (may be left out)\nA: ...\n[/sum]")


def test_refining_shows_the_label_that_the_drafts_prompt_wrote() -> None:
    (message,) = TASK.refine_messages("\nQ: 1+1?\nA: 3\n", label="plus")
    assert "[sum]\nKind: plus\nQ: 1+1?\nA: 3\n[/sum]" in message.content


def test_instruct_baseline_takes_shots_label_and_persona() -> None:
    plain, voiced = TASK.instruct_messages([ONE])[0].content, TASK.instruct_messages([ONE], persona="a nurse")[0].content
    assert TASK.render(ONE) in plain and "nurse" not in plain
    assert "Imagine that you are a nurse." in voiced
    assert "Kind: times" in TASK.instruct_messages(label="times")[0].content


# -- parsing -----------------------------------------------------------------------------------------------------------

GOOD = "\nKind: plus\nQ: one and one?\nA: 2\n"


@pytest.mark.parametrize(
    ("text", "finish", "reason", "detail"),
    [
        (GOOD, "stop", None, ""),
        (GOOD + "[/sum]", "stop", None, ""),
        (GOOD + "[/sum]\n\n[sum]\nKind: minus\nQ: and so on", "length", None, ""),
        ("[sum]" + GOOD + "[/sum]", "stop", None, ""),
        ("Here it is:\n```\n[sum]" + GOOD + "[/sum]\n```\nI hope that helps!", "stop", None, ""),
        (GOOD.replace("\n", "\r\n"), "stop", None, ""),
        (GOOD.replace("plus", "PLUS"), "stop", None, ""),
        (GOOD, "length", "truncated", "[/sum]"),
        ("", "stop", "not_parsed", "empty"),
        ("Sure!" + GOOD, "stop", "not_parsed", "no field begins it: 'Sure!'"),
        ("once upon a time", "stop", "not_parsed", "once upon"),
        (GOOD + "\n[sum]" + GOOD, "stop", "not_parsed", "second item opens"),
        ("[sum]\n[sum]" + GOOD + "[/sum]", "stop", "not_parsed", "stands twice"),
        (GOOD + "A: 3", "stop", "not_parsed", "answer stands twice"),
        ("\nQ: one and one?\nKind: plus\nA: 2", "stop", "not_parsed", "another order"),
        ("\nKind: plus\nA: 2", "stop", "field_missing", "question"),
        ("\nKind: plus\nQ:\nA: 2", "stop", "field_missing", "question"),
        ("\nKind: plus\nQ: who?\n", "stop", "field_missing", "answer"),
        (GOOD.replace("2", "two"), "stop", "check_failed", "answer is no number"),
        (GOOD.replace("plus", "power"), "stop", "check_failed", "kind is none of plus, minus, times"),
        (GOOD.replace("one and one?", "?!"), "stop", "check_failed", "question has 2 characters, fewer than 3"),
        (GOOD.replace("one and one?", "x" * 41), "stop", "check_failed", "question has 41 characters, more than 40"),
        ("\nKind: plus\nQ: why?\nHint: LOUD\nA: 2", "stop", "check_failed", "hint doesn't match"),
        ("I can't.", "refusal", "refused", "I can't."),
        (None, "error", "generation_failed", "no text"),
    ],
)
def test_a_completion_is_an_item_or_has_one_reason(text: str | None, finish: str, reason: str | None, detail: str) -> None:
    parsed = TASK.parse(text, finish)
    assert parsed.reason == reason and detail in parsed.detail
    assert parsed.fields == (ONE if reason is None else None)


def test_a_draft_goes_on_from_the_label_that_the_prompt_wrote() -> None:
    assert TASK.parse("\nQ: one and one?\nA: 2\n", label="plus").fields == ONE
    assert TASK.parse("\nQ: one and one?\nA: 2\n").reason == "field_missing"
    assert TASK.parse(" and minus\nQ: one and one?\nA: 2\n", label="plus").reason == "check_failed"


@pytest.mark.parametrize(
    ("number", "is_one"),
    [("7", True), ("-7.25", True), ("1,234,567", True), ("+3", True), ("12,34", False), ("7 apples", False),
     ("$7", False), ("1e5", False), (".5", False), ("5.", False), ("٧", False), ("1/2", False), ("7\n8", False)],
)  # fmt: skip
def test_a_number_is_digits_and_nothing_else(number: str, is_one: bool) -> None:
    assert (TASK.parse(GOOD.replace("2", number)).reason is None) == is_one


Values = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
FREE = parse_task(changed(label=None, fields=[
    {"name": "first", "marker": "First:"}, {"name": "middle", "marker": "Middle:", "optional": True},
    {"name": "last", "marker": "Last:"}]))  # fmt: skip


def is_plain(value: str) -> bool:
    """Nothing in it that the format could take for its own."""
    value = value.replace("\r\n", "\n")
    return bool(value.strip()) and not any(m in value for m in ("[sum]", "[/sum]", "First:", "Middle:", "Last:"))


@given(Values.filter(is_plain), st.one_of(st.none(), Values.filter(is_plain)), Values.filter(is_plain), st.text(max_size=20))
@settings(deadline=None)
def test_what_is_rendered_is_parsed_back_whatever_follows(first: str, middle: str | None, last: str, leak: str) -> None:
    fields = {"first": first, "middle": middle, "last": last}
    there = {name: value.replace("\r\n", "\n").strip() for name, value in fields.items() if value is not None}
    assert FREE.parse(FREE.render(there) + leak) == Parsed(fields=there)
    assert FREE.parse(FREE.render(there).removeprefix("[sum]") + leak, "length") == Parsed(fields=there)


Pieces = st.sampled_from(["[sum]", "[/sum]", "First:", "Middle:", "Last:", "\n", " ", "word", "Sure, ", "2"])


@given(st.lists(Pieces, max_size=14).map("".join), st.sampled_from(["stop", "length", "refusal", "error"]))
@settings(deadline=None)
def test_any_text_gives_fields_or_a_reason_never_both_and_never_an_exception(text: str, finish: str) -> None:
    parsed = FREE.parse(text, finish)
    assert (parsed.fields is None) != (parsed.reason is None)
    if parsed.fields is not None:
        assert parsed == FREE.parse(FREE.render(parsed.fields))  # it was an item: written again, it reads the same
        assert {"first", "last"} <= set(parsed.fields) and all(v == v.strip() != "" for v in parsed.fields.values())
    elif finish == "stop":
        assert parsed.reason in {"not_parsed", "field_missing"}


@given(st.lists(Pieces, max_size=14).map("".join))
@settings(deadline=None)
def test_the_parser_agrees_with_a_line_by_line_reader(text: str) -> None:
    """The reference reads one character after another what `parse` finds by regular expressions."""
    assert FREE.parse(text).fields == read_line_by_line(text)


def read_line_by_line(text: str) -> dict[str, str] | None:
    body = ""
    while text and not body.endswith("[/sum]"):
        body, text = body + text[0], text[1:]
    body = body.removesuffix("[/sum]")
    markers = {"First:": "first", "Middle:": "middle", "Last:": "last"}
    lines = body.split("\n")
    if "[sum]" in body:
        if body.count("[sum]") > 1:
            return None
        before, after = body.split("[sum]")
        if any(line.lstrip(" ").startswith(tuple(markers)) for line in before.split("\n")):
            return None
        lines = after.split("\n")
    collected: list[tuple[str, list[str]]] = [("", [])]
    for line in lines:
        marker = next((m for m in markers if line.lstrip(" ").startswith(m)), None)
        if marker:
            collected.append((markers[marker], [line.lstrip(" ").removeprefix(marker)]))
        else:
            collected[-1][1].append(line)
    if "".join(collected[0][1]).strip():
        return None
    values = [(name, "\n".join(part).strip()) for name, part in collected[1:]]
    names = [name for name, _ in values]
    full = {name: value for name, value in values if value}
    if len(set(names)) < len(names) or names != [n for n in ("first", "middle", "last") if n in names]:
        return None
    return full if {"first", "last"} <= set(full) else None


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "balance",
    ["equal", {"plus": 0.5, "minus": 0.3, "times": 0.2}, {"plus": 0.5, "minus": 0.5}, {"plus": 1, "minus": 0, "times": 0},
     {"plus": 0.0001, "minus": 0.9999}],
)  # fmt: skip
def test_every_cycle_of_items_meets_the_balance_exactly(balance: object) -> None:
    task = parse_task(changed(label={"field": "kind", "balance": balance}))
    assert task.label is not None
    cycle = len(task._cycle)
    for start in (0, 3 * cycle):
        counts = Counter(task.wanted_labels(range(start, start + cycle)))
        assert {label: Fraction(counts[label], cycle) for label, _ in task.label.balance} == dict(task.label.balance)


def test_an_items_label_depends_on_its_number_alone() -> None:
    whole = TASK.wanted_labels(range(50))
    assert [TASK.wanted_labels([i])[0] for i in range(50)] == whole
    assert TASK.wanted_labels(np.arange(49, -1, -1)) == whole[::-1]
    assert FREE.wanted_labels([1, 2]) == [None, None]


# -- seeds and shots ---------------------------------------------------------------------------------------------------


def pool(n: int) -> Seeds:
    kinds = ("plus", "minus", "times")
    return read_seeds(TASK, [{"id": i, "kind": kinds[i % 3], "question": f"what is {i}?", "answer": i} for i in range(n)])


def test_a_row_that_is_no_seed_is_rejected_with_its_reason() -> None:
    rows = [
        {**ONE, "example_id": "e1", "license": "CC0"}, dict(ONE), {"kind": "plus"}, {**ONE, "answer": "many"},
        {**ONE, "question": "what?\nA: 5"}, {**ONE, "question": "what? [/sum]"}, {}, {**TWO, "kind": "Minus"},
    ]  # fmt: skip
    seeds = read_seeds(TASK, rows)
    assert {s.label: (s.source_id, s.license) for s in seeds.seeds} == {"plus": ("e1", "CC0"), "minus": (None, None)}
    assert [(r.row, r.reason) for r in seeds.rejected] == [
        (1, "duplicate"), (2, "field_missing"), (3, "check_failed"), (4, "not_parsed"), (5, "field_missing"), (6, "not_parsed"),
    ]  # fmt: skip


def test_a_value_with_the_tasks_own_closing_marker_is_no_seed() -> None:
    with pytest.raises(InputError, match="holds one of the task's markers"):
        read_seeds(FREE, [{"first": "a", "last": "b [/sum] c"}])


def test_rows_in_another_order_give_the_same_pool() -> None:
    rows = [{"kind": "plus", "question": f"what is {i}?", "answer": i} for i in range(9)]
    assert read_seeds(TASK, rows).seeds == read_seeds(TASK, rows[::-1]).seeds


def test_no_seed_at_all_is_refused_with_the_commonest_reason() -> None:
    with pytest.raises(InputError, match=r"none of the 3 rows is an example of task sums; 2 are field_missing \(question\)"):
        read_seeds(TASK, [{"kind": "plus"}, {"kind": "plus", "answer": 2}, {}])
    with pytest.raises(InputError, match="there are no rows"):
        read_seeds(TASK, [])


SHIPPED_ROWS: dict[str, list[dict[str, object]]] = {
    "grade_school_maths": [
        {"question": "Ann has 3 bags with 4 marbles each. How many marbles are there?",
         "answer": "She has 3*4=<<3*4=12>>12 marbles.\n#### 12"},
        {"example_id": "e", "benchmark": "maths",
         "text": "Ann has 3 bags with 4 marbles each. How many marbles are there?\nShe has 3*4=12 marbles.\n12"},
    ],
    "multi_hop_questions": [
        {"question": "Could a hen lay an egg on the moon?", "answer": False, "facts": ["Hens need air.", "The moon has none."]},
        {"text": "Could a hen lay an egg on the moon?\nno\nHens need air.\nThe moon has none."},
    ],
    "biomedical_yes_no_maybe": [
        {"question": "Does tea lower the pulse of healthy adults?", "final_decision": "No", "long_answer": "It does not.",
         "context": {"contexts": ["Forty adults drank tea for a month.", "Their pulse was 70 before and 71 after the month."]}},
        {"text": "Does tea lower the pulse of healthy adults?\nno\nForty adults drank tea for a month. Their pulse was 70 before "
                 "and 71 after the month."},
    ],
    "newsgroup_posts": [
        {"label_text": "sci.space", "label": 14, "text": "Has anybody seen the pictures of the launch? I missed it."},
    ],
    "instruction_and_answer": [
        {"instruction": "Name three rivers.", "input": "", "output": "Rhine, Nile, Ob."},
        {"text": "Name three rivers.\nRhine, Nile, Ob."},
    ],
    "documents_on_a_theme": [
        {"doc_id": "d", "text": "The mill stands where two streams meet.\n\nIt was built by a family of weavers, who sold cloth in "
                                "the town, and it is open on Sundays."},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SHIPPED_ROWS))
def test_a_shipped_task_reads_the_rows_that_its_data_comes_in(name: str) -> None:
    task = load_task(name)
    seeds = read_seeds(task, SHIPPED_ROWS[name])
    assert [r for r in seeds.rejected if r.reason != "duplicate"] == []
    for seed in seeds.seeds:
        assert task.parse(task.render(seed.fields)).fields == seed.fields
        assert set(seed.fields) >= {f.name for f in task.fields if not f.optional}
        assert "<<" not in task.text_of(seed.fields)
    assert {name: value for name, value in seeds.seeds[0].fields.items() if name in ("result", "answer", "decision")} in (
        {"result": "12"}, {"answer": "no"}, {"decision": "no"}, {"answer": "Rhine, Nile, Ob."}, {})  # fmt: skip


def test_every_shipped_task_is_tried() -> None:
    assert sorted(SHIPPED_ROWS) == shipped_tasks()


def test_shots_depend_on_run_item_and_attempt_alone() -> None:
    seeds, items = pool(40), [f"item{i}" for i in range(60)]
    drawn = draw_shots(TASK, seeds, items, run_seed=1, shots=3)
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    for batch in (1, 7):
        parts = [draw_shots(TASK, seeds, items[k : k + batch], run_seed=1, shots=3) for k in range(0, 60, batch)]
        assert np.array_equal(np.concatenate(parts), drawn)
    assert np.array_equal(draw_shots(TASK, seeds, items[::-1], run_seed=1, shots=3), drawn[::-1])
    for other in ({"run_seed": 2}, {"run_seed": 1, "rotation": 1}, {"run_seed": 1, "attempts": [1] * 60}):
        assert (draw_shots(TASK, seeds, items, shots=3, **other) != drawn).any(axis=1).mean() > 0.9  # type: ignore[arg-type]


def test_shots_of_a_wanted_label_have_that_label() -> None:
    seeds = pool(12)
    labels = TASK.wanted_labels(range(30))
    drawn = draw_shots(TASK, seeds, [f"i{i}" for i in range(30)], run_seed=0, labels=labels)
    assert [[seeds.seeds[s].label for s in row] for row in drawn] == [[label] * 2 for label in labels]


def test_fewer_seeds_than_shots_are_refused() -> None:
    with pytest.raises(InputError, match=r"shows 2 examples a prompt; there are 1 seeds\. Give more"):
        draw_shots(TASK, pool(1), ["a"], run_seed=0)


def test_labels_without_seeds_cannot_be_balanced() -> None:
    with pytest.raises(InputError, match=r"the labels can't be balanced: each needs 2 seeds to show, but there are 1 of times"):
        check_seeds(TASK, pool(5))
    any_shots = parse_task(changed(label={"field": "kind", "shots": "any"}))
    check_seeds(any_shots, pool(5))
    no_times = parse_task(changed(label={"field": "kind", "balance": {"plus": 0.5, "minus": 0.5, "times": 0}}))
    check_seeds(no_times, pool(5))
    with pytest.raises(InputError, match="task sums: 2 shots are to be 'times', but 1 seeds are; give more"):
        draw_shots(no_times, pool(5), ["a"], run_seed=0, labels=["times"])


def test_every_order_of_every_choice_is_drawn_equally_often() -> None:
    drawn = draw_distinct(mix(np.arange(60_000, dtype=np.uint64)), 5, 3)
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == set(permutations(range(5), 3))
    expected = 60_000 / 60
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_squared < 98.3  # 59 degrees of freedom: passed with probability 0.999


def test_ten_thousand_prompts_take_no_time_to_draw() -> None:
    drawn = draw_shots(TASK, pool(300), [str(i) for i in range(10_000)], run_seed=0, labels=TASK.wanted_labels(range(10_000)))
    assert drawn.shape == (10_000, 2) and len(np.unique(drawn)) == 300


def test_a_rows_seed_is_its_own() -> None:
    seeds = {row_seed(r, i, s, a) for r in (0, 1) for i in ("a", "b") for s in ("draft", "refine") for a in (0, 1)}
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert row_seed(0, "a", "draft", 0) == 3775117005357915622  # rows already made depend on it


def test_samples_are_nested_and_know_no_order() -> None:
    ids = [f"d{i}" for i in range(50)]
    chosen = [ids[i] for i in sample_by_hash(ids, 20, seed=3)]
    assert [ids[::-1][i] for i in sample_by_hash(ids[::-1], 20, seed=3)] == chosen
    assert [ids[i] for i in sample_by_hash(ids, 5, seed=3)] == chosen[:5]
    assert sorted(sample_by_hash(ids, 99, seed=3)) == list(range(50))


def test_replicates_hold_as_many_rows_as_the_sample_or_half() -> None:
    counts = resampled_counts(30, 200, seed=0)
    assert counts.shape == (200, 30) and (counts.sum(axis=1) == 30).all()
    assert abs(counts.var() - (1 - 1 / 30)) < 0.1  # a multinomial's
    halves = half_samples(31, 200, seed=0)
    assert halves.shape == (200, 15) and all(len(set(row)) == 15 for row in halves.tolist())
    assert abs(np.bincount(halves.ravel(), minlength=31) / 200 - 15 / 31).max() < 0.15


def test_shipped_prompts_name_every_field_and_no_markdown() -> None:
    for name in shipped_tasks():
        task = load_task(name)
        assert re.search(r"\w\.$", task.description) and "\n" not in task.description
        assert all(f.marker.endswith(":") for f in task.fields)
        assert isinstance(task, Task) and task.judge.endswith("?")


def test_personas_are_the_items_own_and_many() -> None:
    personas = [persona_of(f"i{i}", run_seed=0) for i in range(500)]
    assert persona_of("i7", run_seed=0) == personas[7] and len(set(personas)) > 450
    assert sum(persona_of(f"i{i}", run_seed=1) == personas[i] for i in range(500)) < 10
    assert all(re.fullmatch(r"an? [a-z ]+ (in|on|by|near) [a-z ]+ who [a-z ]+", p) for p in personas)
