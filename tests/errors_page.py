"""docs/errors.md: every sentence that an error can say, where it arises, and the test that provokes it.

`python -m tests.errors_page --write` draws it anew from the sources; tests/test_errors_page.py holds it to them.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
PACKAGES = ("curation", "betr", "bare", "evaluation", "demo")
# ValueErrors of tasks come back from executors as they are; `_stop` is what ends a batch of requests to a server.
ERRORS = (
    "InputError", "SchemaError", "MissingExtraError", "TablesBusyError", "ChecksFailedError", "DriftError",
    "ValueError", "_stop",
)  # fmt: skip
SHARED, SHARED_AT_HOME = 20, 8  # characters that a test and a sentence must share, and no other sentence have
HOLE = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Sentence:
    """What an error says, with {placeholders} for what differs each time, and the module that raises it."""

    module: str
    error: str
    text: str

    @cached_property
    def parts(self) -> list[str]:
        """What stands between the placeholders."""
        return [part for part in HOLE.split(self.text) if part]


# -- what the sources say ----------------------------------------------------------------------------------------------


@cache
def sentences() -> tuple[Sentence, ...]:
    """Every sentence of every error that is made in the packages, by module, in the order of the source."""
    found: dict[Sentence, None] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for error, text in _of_module(ast.parse(path.read_text(encoding="utf-8"))):
                found[Sentence(str(path.relative_to(ROOT)), error, text)] = None
    return tuple(found)


def _of_module(tree: ast.Module) -> Iterator[tuple[str, str]]:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:  # of curation/errors.py: what lies behind an error of Spark's
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_CAUSES":
            yield from (("InputError", f"{sentence} ({{line}})") for _, sentence in ast.literal_eval(node.value))
            spoken = ast.Call(ast.Name("explain"), [], [])
            yield from (("InputError", text) for text in _texts(spoken, tree, functions))
    refusing = {name: said for name, said in map(_refusal, ast.walk(tree)) if said}
    for scope, call in _calls(tree, tree):
        error = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if error in refusing:
            yield from (("InputError", refusing[error] + text) for text in _texts(call.args[0], scope, functions))
        if error not in ERRORS or not call.args or getattr(scope, "name", "") in refusing:
            continue
        if error == "MissingExtraError":
            what, extra = (_texts(arg, scope, functions) or ["{what}"] for arg in call.args)
            yield from ((error, f"{a} needs the extra '{b}', which isn't installed") for a, b in product(what, extra))
        elif texts := _texts(call.args[0], scope, functions):
            yield from ((error, text) for text in texts)
        elif not _PASSED_ON.search(ast.unparse(call.args[0])):
            raise AssertionError(f"{ast.unparse(call)}: teach tests/errors_page.py to read what this says")


# What another error said; and two that are caught where they are raised.
_PASSED_ON = re.compile(r"\b(error|fatal)\b|^meta\['format'\]$|^tensor$")


def _refusal(node: ast.AST) -> tuple[str, str]:
    """A function that makes an error from the end of its sentence: its name, and the sentence's beginning."""
    match node:
        case ast.FunctionDef(
            name=name,
            args=ast.arguments(args=[ast.arg(arg=why)]),
            body=[ast.Return(value=ast.Call(func=ast.Name(id="InputError"), args=[ast.JoinedStr() as said]))],
        ):
            return name, _texts(said, node, {})[0].removesuffix(f"{{{why}}}")
        case _:
            return "", ""


def _calls(node: ast.AST, scope: ast.AST) -> Iterator[tuple[ast.AST, ast.Call]]:
    """Every call with the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield scope, child
        yield from _calls(child, child if isinstance(child, ast.FunctionDef) else scope)


def _texts(node: ast.expr, scope: ast.AST, functions: dict[str, ast.FunctionDef]) -> list[str]:
    """What an expression may say; nothing where it passes on what another one has said."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        said = "".join(
            f"{{{_name(part.value)}}}" if isinstance(part, ast.FormattedValue) else str(ast.literal_eval(part))
            for part in node.values
        )
        passed_on = said.endswith(": {error}") or not re.search("[a-z]{3}", HOLE.sub("", said))
        return [] if passed_on else [said]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, scope, functions) + _texts(node.orelse, scope, functions)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        pair = (_texts(side, scope, functions) or [f"{{{_name(side)}}}"] for side in (node.left, node.right))
        return [a + b for a, b in product(*pair)]
    if isinstance(node, ast.Dict):
        return [text for value in node.values for text in _texts(value, scope, functions)]
    if isinstance(node, ast.Name) or (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        name = node.id if isinstance(node, ast.Name) else node.value.id  # type: ignore[attr-defined]
        assigned = [each for each in ast.walk(scope) if isinstance(each, ast.Assign)]
        values = [each.value for each in assigned if name in map(_assigned, each.targets)]
        return [text for value in values for text in _texts(value, scope, functions)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
        maker = functions[node.func.id]
        returned = (each.value for each in ast.walk(maker) if isinstance(each, ast.Return) and each.value is not None)
        return [text for value in returned for text in _texts(value, maker, functions)]
    return []


def _name(node: ast.expr) -> str:
    """A placeholder's name: the last word of what fills it."""
    match node:
        case ast.Attribute(attr="__name__", value=value) | ast.Starred(value=value) | ast.BinOp(left=value):
            return _name(value)
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name.strip("_").lower()
        case ast.Subscript(value=value) | ast.BoolOp(values=[value, *_]) | ast.GeneratorExp(elt=value):
            return _name(value)
        case ast.ListComp(elt=value) | ast.IfExp(body=value):
            return _name(value)
        case ast.Call(args=[value, *_]) if not isinstance(value, ast.Constant):
            return _name(value)
        case ast.Call(func=ast.Attribute(value=value)) | ast.Call(func=value):
            return _name(value)
        case _:
            return "..."


def _assigned(target: ast.expr) -> str:
    """The name that an assignment is to, or to an item of."""
    while isinstance(target, ast.Subscript):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


# -- what the tests provoke --------------------------------------------------------------------------------------------


@cache
def provoked() -> dict[Sentence, str]:
    """Sentence -> the test that asserts the longest run of it, of equals the first; those without one are left out.

    What counts is the whole sentence, where no other says more of the text itself, or a run of it that no other
    sentence has: in a module's own tests a shorter one, that no other sentence of the module has.
    """
    everywhere = _owners(sentences(), SHARED)
    best: dict[Sentence, tuple[int, str]] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        mine = _owners((each for each in sentences() if path.stem in _own_tests(each.module)), SHARED_AT_HOME)
        for test, strings in _tests(ast.parse(path.read_text(encoding="utf-8"))):
            shared: dict[Sentence, set[str]] = {}
            for owners, length in ((everywhere, SHARED), (mine, SHARED_AT_HOME)):
                for run in (run for text in strings for run in _runs(text, length)):
                    if len(said_by := owners.get(run, set())) == 1:
                        (only,) = said_by
                        shared.setdefault(only, set()).add(run)
            weights = {sentence: len(runs) for sentence, runs in shared.items()}
            for text in strings:
                for sentence in _held(text):
                    weights[sentence] = max(weights.get(sentence, 0), len(text))
            for sentence, weight in weights.items():
                if weight > best.get(sentence, (0, ""))[0]:
                    best[sentence] = (weight, f"{path.stem}::{test}")
    found = {sentence: best[sentence][1] for sentence in sentences() if sentence in best}
    for sentence in sentences():
        for (module, beginning), test in _CREDITED.items():
            if sentence.module == module and sentence.text.startswith(beginning):
                found.setdefault(sentence, test)
    return found


# Read by a person: what these tests look for is too short to be told from other sentences.
_CREDITED = {
    ("curation/cutting.py", "the cut can't order"): "test_cutting::test_values_without_an_order_are_refused_by_name",
    ("curation/embedding.py", "embedding (there"): "test_embedding::test_a_missing_extra_is_named_with_its_command",
    ("curation/embedding.py", "encoder: {model} needs its own code ({module}"): (
        "test_embedding::test_no_code_of_a_model_is_ever_run"
    ),
    ("curation/embedding.py", "{table}: holds"): "test_embedding::test_a_table_with_another_dimension_is_refused",
    ("curation/embedding.py", "embedding: {names} {row} has"): "test_embedding::test_a_worker_names_the_row_without_text",
    ("curation/tables.py", "{root} is in use by {holder}"): (
        "test_tables::test_two_runs_on_one_root_exclude_each_other_and_a_dead_one_frees_it"
    ),
    ("curation/tables.py", "{root} is in use by {current}"): (
        "test_tables::test_tables_in_a_schema_work_as_those_in_a_folder"
    ),
    **dict.fromkeys(
        [("betr/classifier.py", "{path} can't be folded: " + why) for why in ("it has", "its dictionary is", "it is q")],
        "test_classifier::test_what_does_not_fold_exactly_is_refused_by_name",
    ),
    **dict.fromkeys(
        [("betr/file_scoring.py", "{path} has no column"), ("betr/file_scoring.py", "{path} is cut short")],
        "test_scoring::test_a_file_without_a_column_or_with_a_broken_footer_is_named",
    ),
    ("betr/benchmarks.py", "benchmark {name} has no usable row"): (
        "test_benchmarks::test_a_benchmark_without_a_usable_row_is_refused"
    ),
    ("betr/classifier.py", "{path} was cut short at byte"): (
        "test_classifier::test_a_model_cut_anywhere_or_extended_is_refused"
    ),
    ("betr/pipeline.py", "everything is written"): (
        "test_nights::test_a_breach_fails_with_its_own_exit_code_once_all_is_written"
    ),
    ("betr/ranking.py", "ranking: {kind} {ids}"): (
        "test_ranking::test_an_embedding_without_a_direction_is_refused_by_its_id"
    ),
    ("betr/selection.py", "{wanted} {problem}"): "test_diff::test_one_that_is_not_there_is_a_sentence_with_those_that_are",
    ("betr/show.py", "`betr show {view}`"): "test_cli::test_a_finished_run_can_be_shown_and_explained",
    ("betr/show.py", "{run_id} {problem}"): "test_show_run::test_an_id_that_is_not_one_run_is_refused_with_the_latest",
    ("betr/stages.py", "{root} holds no documents"): (
        "test_pipeline::test_bad_input_is_one_sentence_and_leaves_nothing_half_written"
    ),
    ("bare/compare.py", "compare: cost is counted"): (
        "test_bare_compare::test_costs_are_by_any_unit_and_an_unknown_one_is_named"
    ),
    **dict.fromkeys(
        [("bare/generators/transformers.py", "{spec}: " + what) for what in ("{model} is", "{folder} holds", "there is")],
        "test_bare_transformers::test_what_cannot_be_loaded_is_one_sentence",
    ),
    **dict.fromkeys(
        [("bare/stages.py", what) for what in ("--task", "--seeds is", "{what} {file}", "--{name} is")],
        "test_bare_pipeline::test_bad_input_is_one_sentence_and_makes_no_row",
    ),
}


@cache
def _held(text: str) -> tuple[Sentence, ...]:
    """The sentences that a text holds whole: of several those that say most of it themselves, and not by a placeholder."""
    held = [sentence for sentence in sentences() if _holds(text, sentence)]
    most = max((len("".join(sentence.parts)) for sentence in held), default=0)
    return tuple(sentence for sentence in held if len("".join(sentence.parts)) == most)


def _holds(text: str, sentence: Sentence) -> bool:
    """Whether a test's text holds the whole sentence, with something for each placeholder."""
    if len(text) < max(SHARED, *map(len, sentence.parts)) or not all(part in text for part in sentence.parts):
        return False
    pattern = "".join(".+" if HOLE.fullmatch(each) else re.escape(each) for each in re.split(r"(\{[^{}]*\})", sentence.text))
    return len("".join(sentence.parts)) >= SHARED and re.search(pattern, text) is not None


def _owners(some: Iterable[Sentence], length: int) -> dict[str, set[Sentence]]:
    """Run -> the sentences that hold it."""
    found: dict[str, set[Sentence]] = {}
    for sentence in some:
        for run in (run for part in sentence.parts for run in _runs(part, length)):
            found.setdefault(run, set()).add(sentence)
    return found


def _own_tests(module: str) -> set[str]:
    """The names of a module's own tests: of betr/cli.py test_cli, of bare/generators/spec.py test_bare_spec or _generators."""
    package, *folders, name = module.removesuffix(".py").split("/")
    prefix = "test_bare" if package == "bare" else "test"
    return {f"{prefix}_{each}" for each in (*folders, name)}


def _runs(text: str, length: int) -> set[str]:
    return {text[i : i + length] for i in range(len(text) - length + 1)}


def _plain(text: str) -> str:
    """A regular expression's text: what is escaped is meant as it stands."""
    return re.sub(r"\\([^\w\s])", r"\1", text)


def _tests(tree: ast.Module) -> Iterator[tuple[str, set[str]]]:
    """(test, what it expects errors to say): what it matches or finds in them, literally or case by case."""
    constants = {
        _assigned(node.targets[0] if isinstance(node, ast.Assign) else node.target): _strings(node)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
    }
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
            continue
        expected = [each.value for each in ast.walk(node) if isinstance(each, ast.keyword) and each.arg == "match"]
        expected += [each.left for each in ast.walk(node) if isinstance(each, ast.Compare) and _is_said(each.comparators[0])]
        searches = [each for each in ast.walk(node) if isinstance(each, ast.Call) and len(each.args) == 2]
        expected += [each.args[0] for each in searches if ast.unparse(each.func).startswith("re.") and _is_said(each.args[1])]
        if not expected:
            continue
        strings = set().union(*map(_strings, expected))
        if any(isinstance(each, ast.Name | ast.FormattedValue) for part in expected for each in ast.walk(part)):
            loops = [each.iter for each in ast.walk(node) if isinstance(each, ast.For)]
            named = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            strings = strings.union(
                *map(_strings, [*node.decorator_list, *loops]), *(constants[name] for name in named & constants.keys())
            )
        yield node.name, {_plain(text) for text in strings}


_SAID = re.compile(r"err\b|error|stderr|raised|caught|explain|said|sentence|message")


def _is_said(node: ast.expr) -> bool:
    """Whether something looks like what an error has said."""
    return _SAID.search(ast.unparse(node)) is not None


def _strings(node: ast.AST) -> set[str]:
    found = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return {value for value in found if isinstance(value, str)}


# -- the page ----------------------------------------------------------------------------------------------------------

# Where a sentence can't say itself when it comes or what to do.
NOTES = {
    "Spark failed: {error} (BETR_DEBUG=1 shows the whole stack)": "a cause that isn't known here: look at the stack",
    "{root} was taken by {taken} at this moment; start again when it has ended": "two runs began in the same second",
}


def page() -> str:
    """The whole page."""
    tested = provoked()
    blocks = [HEAD.format(sentences=len(sentences()), tested=len(tested))]
    for module in dict.fromkeys(each.module for each in sentences()):
        mine = [each for each in sentences() if each.module == module]
        said = (ast.get_docstring(ast.parse((ROOT / module).read_text(encoding="utf-8"))) or "").splitlines()[0]
        rows = [f"| {cell(each)} | {tested.get(each, NOT_YET)} |" for each in mine]
        blocks.append("\n".join([f"## {module}", f"{said}", "", "| sentence | test |", "|---|---|", *rows]))
    return "\n\n".join(blocks) + "\n"


def cell(sentence: Sentence) -> str:
    """A sentence as it stands in the page, with its note."""
    fence = "``" if "`" in sentence.text else "`"
    space = " " if "`" in (sentence.text[0], sentence.text[-1]) else ""
    told = f"{fence}{space}{sentence.text}{space}{fence}".replace("|", "\\|")
    note = NOTES.get(sentence.text)
    return f"{told} - {note}" if note else told


NOT_YET = "none yet"
HEAD = """# What errors say

Drawn by `python -m tests.errors_page --write` from the sources; a test holds it to them.

An error that a person can act on is one sentence: what is wrong (file, table, value), the rule, the remedy. The command prints it
behind its own name and ends with exit code 1 (3: everything is written, and moved further than allowed). From Python it is an
`InputError` or one of its kinds (`curation/errors.py`). Raised on an executor it comes back through Spark, and is the same sentence.
Options that don't exist and values that aren't of their type are told by the parser, with exit code 2. Anything else
is a bug of ours, and comes with its stack; `BETR_DEBUG=1` shows the stack behind a sentence too. A sentence may stand behind the
name of the file that it is about: `price table FILE: ...`.

{sentences} sentences, by the module that says them; what differs each time stands in braces. `test` names one that provokes the
sentence and reads it ({tested} have one)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="draw docs/errors.md anew")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
