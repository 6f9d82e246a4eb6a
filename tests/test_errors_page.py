"""docs/errors.md against the sources: every sentence stands in it, it holds no other, and the tests that it names are there."""

import ast
import re

import pytest

from tests import errors_page
from tests.errors_page import HEAD, NOT_YET, NOTES, PAGE, ROOT, Sentence, cell, provoked, sentences

DRAW = "`python -m tests.errors_page --write` draws docs/errors.md anew"


def listed() -> dict[tuple[str, str], str]:
    """(module, cell of the sentence) -> test, as the page has it."""
    rows: dict[tuple[str, str], str] = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        module, _, body = section.partition("\n")
        for line in body.splitlines():
            if line.startswith("| `"):
                said, test = line[2:-2].rsplit(" | ", 1)
                assert (module, said) not in rows, f"{module} lists twice: {said}"
                rows[module, said] = test
    return rows


def test_the_page_holds_every_sentence_of_the_sources_and_no_other() -> None:
    there, wanted = set(listed()), {(each.module, cell(each)) for each in sentences()}
    assert not wanted - there, f"the page lacks these; {DRAW}"
    assert not there - wanted, f"no source says these; {DRAW}"


def test_every_test_that_the_page_names_is_there() -> None:
    named = set(listed().values()) - {NOT_YET}
    there = set()
    for file in {each.partition("::")[0] for each in named}:
        tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
        there |= {f"{file}::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert not named - there, DRAW


def test_every_sentence_has_a_test_that_provokes_it() -> None:
    tested = provoked()
    untested = [f"{each.module}: {each.text}" for each in sentences() if each not in tested]
    assert not untested, "no test reads these: provoke each in its module's tests, with `match=` a run that is its own"
    assert NOT_YET not in listed().values(), DRAW


def test_the_page_counts_what_it_lists() -> None:
    tests = listed().values()
    head = HEAD.format(sentences=len(tests), tested=sum(test != NOT_YET for test in tests))
    assert PAGE.read_text(encoding="utf-8").startswith(head)


def test_a_note_belongs_to_a_sentence_that_there_is() -> None:
    assert NOTES.keys() <= {each.text for each in sentences()}


def test_sentences_are_written_as_sentences_are_here() -> None:
    for each in sentences():
        assert "\n" not in each.text and "  " not in each.text, each
        assert each.text.removesuffix("...")[-1] not in ".,;:", each
        assert not re.search(r"\b(please|invalid|illegal|oops|failed to)\b|!$", each.text, re.IGNORECASE), each


def test_the_reader_finds_what_errors_can_say_or_asks_to_be_taught() -> None:
    source = '''
def check(self, table, k, path):
    problem = "is given twice" if k else f"is {path} already"
    if k < 1:
        raise InputError(f"k must be at least 1; got {self.k!r}")
    if not path:
        raise MissingExtraError(f"the tokenizer {path}", "embedding")
    raise SchemaError(missing(table)) from None

def missing(table):
    if table.rows:
        return f"{table.name} {', '.join(table.rows)}; " "correct it"
    return "nothing is there"

def passed_on(error, k):
    def refuse(why):
        return InputError(f"{k} can't be read: {why}")
    if k:
        raise refuse("it is empty")
    raise InputError(str(error))

def named(problem, said):
    said = {1: "one is wrong", 2: f"{problem} is worse"}
    raise InputError(said[problem])
'''
    found = [Sentence("m", error, text) for error, text in errors_page._of_module(ast.parse(source))]
    assert sorted(each.text for each in found) == sorted([
        "k must be at least 1; got {k}", "the tokenizer {path} needs the extra 'embedding', which isn't installed",
        "{name} {rows}; correct it", "nothing is there", "{k} can't be read: it is empty", "one is wrong",
        "{problem} is worse",
    ])  # fmt: skip
    with pytest.raises(AssertionError, match=r"InputError\(what\): teach"):
        list(errors_page._of_module(ast.parse("def f(what):\n    raise InputError(what)")))
