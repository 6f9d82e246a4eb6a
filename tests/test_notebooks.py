"""The notebooks: they run from top to bottom, show what they say that they show, and lie in the repository as they should."""

import ast
import html
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession

from curation.report import Html

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
FIRST, SECOND, THIRD, FOURTH = NOTEBOOKS


def cells(notebook: Path, kind: str = "code") -> dict[str, str]:
    """id -> source of the cells of a kind, in their order."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in found if cell["cell_type"] == kind}


@dataclass
class Ran:
    """A notebook after its run: its names, and what each cell's last expression was."""

    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    shown: dict[str, Any] = field(default_factory=dict)

    def charts(self) -> set[str]:
        """The cells that show a chart."""
        return {cell for cell, value in self.shown.items() if "<svg" in rich(value)}


def rich(value: Any) -> str:
    """What a notebook shows of a value: its HTML where it has some."""
    return str(value._repr_html_()) if hasattr(value, "_repr_html_") else html.escape(repr(value))


def run(notebook: Path) -> Ran:
    """Run a notebook as its kernel does: each cell in the same names, and the value of its last expression shown."""
    ran = Ran()
    for cell, source in cells(notebook).items():
        tree = ast.parse(source, f"{notebook.name}, cell {cell}")
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"{notebook.name}, cell {cell}", "exec"), ran.names)
        if isinstance(last, ast.Expr):
            expression = compile(ast.Expression(last.value), f"{notebook.name}, cell {cell}", "eval")
            ran.shown[cell] = eval(expression, ran.names)
    return ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the notebooks leave their files: what the first one makes the second one reads."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("notebooks")
        patch.setenv("BETR_NOTEBOOKS", str(place))
        yield place


@pytest.fixture(scope="module")
def first(spark: SparkSession, folder: Path) -> Ran:
    return run(FIRST)


# -- what they show ----------------------------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.slow
def test_the_first_selects_documents_for_its_tasks(first: Ran, folder: Path) -> None:
    assert first.charts() >= {"labels", "scores", "histogram", "subjects"}
    kept = {each.value: each.lift for each in first.names["found"].by["metadata.subject"]}
    asked_for = set(first.names["TASKS"])
    assert min(kept[subject] for subject in asked_for) > 1 > max(kept[each] for each in kept.keys() - asked_for)
    assert 0.19 < first.names["cut"]["kept_tokens"] / first.names["cut"]["tokens"] <= 0.2
    assert len(first.shown["chosen"]) == 8 and isinstance(first.shown["duplicates"], pd.DataFrame)
    assert "In short" in (folder / "selection.html").read_text()


@pytest.mark.night
@pytest.mark.slow
def test_the_second_explains_that_selection_and_cuts_another(first: Ran) -> None:
    ran = run(SECOND)
    assert ran.charts() >= {"histogram", "words", "coverage", "sources"}
    assert ran.names["found"].selection["selection_id"] == first.names["cut"]["selection_id"]
    why, cut = ran.names["why"], ran.names["cut"]
    assert why["rank"] <= cut["kept_documents"] and why["score"] >= cut["threshold"] and why["sampled"]
    change = ran.names["change"]
    assert change.only_b.documents == 0 < change.only_a.documents
    assert change.both.documents + change.only_a.documents == cut["kept_documents"]
    assert ran.shown["chose"]["documents"].is_monotonic_decreasing


@pytest.mark.night
@pytest.mark.slow
def test_the_third_goes_from_seeds_to_rows_that_people_have_reviewed(spark: SparkSession, folder: Path) -> None:
    ran = run(THIRD)
    assert ran.charts() >= {"verdicts", "cosines", "judge"}
    assert ran.names["done"]["accepted"] == ran.names["config"].accepted and ran.names["done"]["rejected"]
    assert "<ins>" in rich(ran.shown["rows"]) and "chance" in rich(ran.shown["judge"])
    (settled,) = ran.shown["settled"].itertuples()
    assert not settled.accepted and settled.decided_by == "review"
    exported = (folder / "bare" / "rows.jsonl").read_text().splitlines()
    assert len(exported) == ran.names["exported"]["rows"] == ran.names["done"]["accepted"] - 1
    assert settled.row_id not in {json.loads(line)["origin"]["row_id"] for line in exported}


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.connect
@pytest.mark.skipif(os.environ.get("CURATION_TEST_CONNECT") != "1", reason="it runs in the Connect session: make test-night")
def test_the_fourth_works_on_a_catalog_that_is_not_databricks(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = f"spark_catalog.notebook_{tmp_path.name.replace('-', '_')}"
    monkeypatch.setenv("BETR_NOTEBOOK_SCHEMA", schema)
    monkeypatch.setenv("BETR_NOTEBOOK_FILES", str(tmp_path))
    try:
        ran = run(FOURTH)
        kept = spark.table(f"{schema}.training_documents").count()
        assert kept == ran.names["done"]["selection"]["kept_documents"] > 0
        assert ran.charts() == {"view"} and ran.names["done"]["run_id"] in rich(ran.shown["lineage"])
        assert {stage["state"] for stage in ran.names["again"]["stages"]} == {"unchanged"}
        assert (tmp_path / "selection.html").is_file() and list((tmp_path / "classifiers").iterdir())
    finally:
        spark.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")


def test_parameters_are_widgets_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, str] = {}

    class Widgets:
        text = asked.__setitem__

        @staticmethod
        def get(name: str) -> str:
            return {"schema": "main.corpus", "keep": "0.05"}.get(name, asked[name])

    names: dict[str, Any] = {"os": __import__("os"), "tempfile": __import__("tempfile")}
    names["dbutils"] = type("dbutils", (), {"widgets": Widgets})
    exec(cells(FOURTH)["parameters"], names)
    assert names["schema"] == "main.corpus" and names["keep"] == 0.05
    assert names["files"] == asked["files"] == "/Volumes/main/corpus/files"


def test_a_chart_brings_its_style_and_changes_no_other() -> None:
    shown = Html("<figure></figure>")._repr_html_()
    assert shown.startswith('<div class="curation"><style>') and shown.endswith("<figure></figure></div>")
    style = re.search("<style>(.*)</style>", shown, re.DOTALL)
    assert style is not None and style[1].startswith(".curation{") and "--c0:" in style[1]
    depth, rules = 0, []
    for sign in style[1]:  # all rules stand within the first one
        depth += (sign == "{") - (sign == "}")
        rules.append(depth)
    assert rules[-1] == 0 and 0 not in rules[len(".curation{") : -1]
    assert not re.search(r":root|(?<!\w)body\{", style[1])


# -- how they lie here -------------------------------------------------------------------------------------------------


def test_there_is_a_notebook_for_each_step() -> None:
    assert [each.name[0] for each in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_holds_no_outputs(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    found = json.loads(text)
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5) and set(found) == {
        "cells", "metadata", "nbformat", "nbformat_minor",
    }  # fmt: skip
    assert found["metadata"]["kernelspec"] == {"display_name": "Python 3", "language": "python", "name": "python3"}
    # As Jupyter saves it: a change of one line is a change of one line.
    assert text == json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    ids = [cell["id"] for cell in found["cells"]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"[a-z][a-z0-9-]{0,63}", each) for each in ids)
    for cell in found["cells"]:
        code = cell["cell_type"] == "code"
        assert cell["cell_type"] in ("code", "markdown") and cell["metadata"] == {} and cell["source"]
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | ({"execution_count", "outputs"} if code else set())
        assert all(line.endswith("\n") for line in cell["source"][:-1]) and not cell["source"][-1].endswith("\n")
        assert not code or (cell["execution_count"], cell["outputs"]) == (None, [])
    assert found["cells"][0]["source"][0].startswith("# ")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_anywhere(notebook: Path) -> None:
    code = "\n".join(cells(notebook).values())
    assert not re.search(r"sparkContext|_jvm|_jsc|\.rdd\b|\.cache\(|\.persist\(|IPython|matplotlib", code)
    strings = {each.value for each in ast.walk(ast.parse(code)) if isinstance(each, ast.Constant)}
    absolute = {each for each in strings if isinstance(each, str) and re.match(r"/\w+/|~|[A-Z]:\\", each)}
    assert absolute <= {"/Volumes/"}
    assert "http" not in "".join(cells(notebook, "markdown").values())


def test_notebooks_that_make_documents_make_the_same() -> None:
    for cell in ("corpus", "examples"):
        assert len({cells(each)[cell] for each in (FIRST, SECOND, FOURTH)}) == 1


def test_short_cells_and_words_between_them() -> None:
    for notebook in NOTEBOOKS:
        code, said = cells(notebook), cells(notebook, "markdown")
        assert len(said) >= len(code) / 2
        assert all(source.count("\n") < 60 for source in code.values())
