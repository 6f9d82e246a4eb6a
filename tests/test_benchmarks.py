"""betr/benchmarks.py: each usual shape gives question and gold answer; held-out splits and odd rows stay out."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from pyspark.sql import SparkSession

from betr.benchmarks import (
    BENCHMARK_EXAMPLES,
    BenchmarkExamples,
    BenchmarkSource,
    parse_sources,
    parse_templates,
    read_benchmarks,
)
from curation.errors import InputError

LISTED = "Question: Which palms are warm?\n A. dry palms\n B. wet palms\n C. oily palms\nAnswer:"

SHAPES: list[tuple[str, dict[str, Any], str]] = [
    ("letters", {"query": LISTED, "choices": ["A", "B", "C"], "gold": 0}, "Which palms are warm?\ndry palms"),
    ("gold as letter", {"query": LISTED, "choices": ["A", "B", "C"], "gold": "B"}, "Which palms are warm?\nwet palms"),
    ("gold as digits", {"query": LISTED, "choices": ["A", "B", "C"], "gold": "2"}, "Which palms are warm?\noily palms"),
    ("texts", {"query": "Question: Why?\nAnswer:", "choices": ["so", "no"], "gold": 1}, "Why?\nno"),
    ("gold as text", {"query": "Why?", "choices": ["so", "no"], "gold": "so"}, "Why?\nso"),
    (
        "texts that the query lists too",
        {"query": "Why?\nA. so\nB. no\nAnswer:", "choices": ["so", "no"], "gold": 0},
        "Why?\nso",
    ),
    (
        "lines like choices inside the question",
        {
            "query": "Order:\n A. is first\n B. is second\nWhich?\n A. the one\n B. both\nAnswer:",
            "choices": ["A", "B"],
            "gold": 1,
        },
        "Order:\n A. is first\n B. is second\nWhich?\nboth",
    ),
    (
        "boolq: passage before the question",
        {
            "query": "Persian -- A language.\nQuestion: is it one?\n A. yes\n B. no\nAnswer:",
            "choices": ["A", "B"],
            "gold": 1,
        },
        "Persian -- A language.\nis it one?\nno",
    ),
    (
        "hellaswag: the continuation goes on",
        {
            "query": "Ice: Then\nChoose the best continuation:\n A. , he waxes.\n B. he goes.\nAnswer:",
            "choices": ["A", "B"],
            "gold": 0,
        },
        "Ice: Then, he waxes.",
    ),
    (
        "piqa",
        {
            "goal": "Boil it",
            "sol1": "plate",
            "sol2": "jar",
            "label": 1,
            "query": "Goal: Boil it\n A. plate\n B. jar\nAnswer:",
            "choices": ["A", "B"],
            "gold": 1,
        },
        "Boil it\njar",
    ),
    ("piqa, original", {"goal": "Boil it", "sol1": "plate", "sol2": "jar", "label": 0}, "Boil it\nplate"),
    (
        "socialiqa",
        {
            "context": "Cam cooks.",
            "question": "Why?",
            "answerA": "fun",
            "answerB": "food",
            "answerC": "no",
            "label": "1",
            "query": "Question: Cam cooks. Why?\n A. fun\n B. food\n C. no\nAnswer:",
            "choices": ["A", "B", "C"],
            "gold": 0,
        },
        "Cam cooks. Why?\nfun",
    ),
    (
        "socialiqa, original",
        {
            "context": "Cam cooks.",
            "question": "Why?",
            "answerA": "fun",
            "answerB": "food",
            "answerC": "no",
            "label": "2",
        },
        "Why?\nfood\nCam cooks.",
    ),
    (
        "winogrande: the blank is filled",
        {
            "sentence": "Ian ate as _ hates it.",
            "option1": "Ian",
            "option2": "Den",
            "answer": "2",
            "query": "Fill in the blank: Ian ate as ___ hates it.\n A. Ian\n B. Den\nAnswer:",
            "choices": ["A", "B"],
            "gold": 1,
        },
        "Ian ate as Den hates it.",
    ),
    ("winogrande, original", {"sentence": "I saw _ .", "option1": "a", "option2": "b", "answer": "1"}, "I saw a ."),
    (
        "gsm8k: without the calculator's notes",
        {"question": "How many?", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 24"},
        "How many?\n48/2 = 24 clips.\n24",
    ),
    (
        "strategyqa: a truth value and facts",
        {"question": "Could it?", "answer": True, "facts": ["It can.", "It may."], "term": "it"},
        "Could it?\nyes\nIt can.\nIt may.",
    ),
    ("mmlu", {"question": "Find c.", "subject": "algebra", "choices": ["0", "1", "2"], "answer": 2}, "Find c.\n2"),
    (
        "mmlu: numbers that are other numbers' places",
        {"question": "q", "choices": ["3", "0", "1"], "answer": 1},
        "q\n0",
    ),
    (
        "mbpp",
        {"text": "Write f.", "code": "def f():\r\n  return 1", "test_list": ["assert f()"]},
        "Write f.\ndef f():\r\n  return 1",
    ),
    (
        "arc, original",
        {"question": "Why?", "choices": {"text": ["so", "no"], "label": ["1", "2"]}, "answerKey": "2"},
        "Why?\nno",
    ),
    (
        "arc, older",
        {"question": "Why?", "choices": [{"text": "so", "label": "A"}, {"text": "no", "label": "B"}], "answerKey": "A"},
        "Why?\nso",
    ),
    ("hellaswag, original", {"ctx": "He runs", "endings": ["home.", "away."], "label": "1"}, "He runs away."),
    ("triviaqa", {"question": "Who?", "answer": {"value": "Ada", "aliases": ["A."]}}, "Who?\nAda"),
    (
        "squad",
        {"context": "Ada did.", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [0]}},
        "Who?\nAda\nAda did.",
    ),
    ("webqs", {"question": "Which?", "answers": ["one", "two"]}, "Which?\none, two"),
    ("sciq", {"question": "q", "correct_answer": "a", "distractor1": "b", "support": "s"}, "q\na\ns"),
    (
        "boolq, original",
        {"question": "is it", "passage": "No, it is not.", "answer": False},
        "is it\nno\nNo, it is not.",
    ),
    ("a number", {"question": "6 * 7", "answer": 42}, "6 * 7\n42"),
    ("an answer that the question holds", {"question": "Is 55 or 50 more?", "answer": "55"}, "Is 55 or 50 more?\n55"),
    ("text alone", {"text": "A passage whose last word is this."}, "A passage whose last word is this."),
]


def write(path: Path, rows: list[Any]) -> str:
    data = b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
    if path.suffix in {".gz", ".zst"}:
        data = gzip.compress(data) if path.suffix == ".gz" else zstandard.compress(data)
    path.write_bytes(data)
    return str(path)


def read(spark: SparkSession, *args: str, **options: Any) -> BenchmarkExamples:
    return read_benchmarks(spark, parse_sources(args), **options)


def questions(n: int) -> list[dict[str, str]]:
    return [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(n)]


@pytest.mark.parametrize(("row", "text"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_each_shape_gives_question_and_gold_answer(
    spark: SparkSession, tmp_path: Path, row: dict[str, Any], text: str
) -> None:
    (example,) = read(spark, write(tmp_path / "b.jsonl", [row])).examples
    assert example.text == text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{broken", "malformed_json"),
        (b"[1]", "malformed_json"),
        (b'{"question": "\xff"}', "not_utf8"),
        ({"title": "t"}, "unknown_shape"),
        ({"query": "no list", "choices": ["A", "B"], "gold": 0}, "unknown_shape"),
        ({"question": "q"}, "no_answer"),
        ({"question": "q", "answer": " "}, "no_answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": 2}, "no_answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": -1}, "no_answer"),
        ({"question": "q", "choices": ["a", "b"], "answer": "c"}, "no_answer"),
        ({"text": "  "}, "empty"),
    ],
)
def test_an_odd_row_is_set_aside_with_its_reason(spark: SparkSession, tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "b.jsonl", [{"text": "x"}, b"", row])
    found = read(spark, path)
    assert [(r.benchmark, r.file, r.row, r.reason) for r in found.rejected] == [("b", path, 3, reason)]
    assert found.rejected[0].detail
    assert found.counts == {"b": 1}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_packed_files_give_the_same_examples(spark: SparkSession, tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"b.{ending}", questions(3))
    found = read(spark, path)
    assert sorted((e.benchmark, e.text, e.file, e.row) for e in found.examples) == [
        ("b", f"question {i}\nanswer {i}", path, i + 1) for i in range(3)
    ]


def test_stores_that_only_spark_knows_give_the_same_examples(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl.gz", questions(3))
    local, remote = read(spark, path), read_benchmarks(spark, [BenchmarkSource("b", f"file:{path}")])
    assert [e.example_id for e in remote.examples] == [e.example_id for e in local.examples]


@pytest.mark.connect
def test_the_frame_has_its_tables_columns_and_rows(spark: SparkSession, tmp_path: Path) -> None:
    found = read(spark, write(tmp_path / "b_train.jsonl", questions(3)))
    frame = found.to_frame(spark, targets_id="set")
    assert frame.schema == BENCHMARK_EXAMPLES.struct(spark)
    assert {row["targets_id"] for row in frame.collect()} == {"set"}
    assert sorted(row["example_id"] for row in frame.collect()) == [e.example_id for e in found.examples]
    assert {row["split"] for row in frame.collect()} == {"train"}


def test_an_example_twice_in_a_benchmark_counts_once_and_in_two_benchmarks_twice(
    spark: SparkSession, tmp_path: Path
) -> None:
    a = write(tmp_path / "a.jsonl", [*questions(3), *questions(2)])
    found = read(spark, a, write(tmp_path / "b.jsonl", questions(3)))
    assert found.counts == {"a": 3, "b": 3}
    assert found.duplicates == {"a": 2, "b": 0}
    assert len({e.example_id for e in found.examples}) == 6


def test_each_benchmark_gives_its_equal_share_whatever_the_order_of_rows(spark: SparkSession, tmp_path: Path) -> None:
    rows = questions(40)
    a, b = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", rows[:20])
    found = read(spark, a, b, per_benchmark=10, seed=3)
    assert found.counts == {"a": 10, "b": 10}
    assert found.available == {"a": 40, "b": 20}
    assert not found.warnings
    write(tmp_path / "a.jsonl", rows[::-1])
    again = read(spark, b, a, per_benchmark=10, seed=3)
    assert [e.example_id for e in again.examples] == [e.example_id for e in found.examples]
    more = read(spark, a, per_benchmark=20, seed=3)
    assert {e.example_id for e in found.examples if e.benchmark == "a"} < {e.example_id for e in more.examples}
    other = read(spark, a, per_benchmark=10, seed=4)
    assert [e.example_id for e in other.examples] != [e.example_id for e in found.examples if e.benchmark == "a"]


def test_a_benchmark_with_fewer_examples_gives_all_and_says_so(spark: SparkSession, tmp_path: Path) -> None:
    found = read(spark, write(tmp_path / "a.jsonl", questions(3)), per_benchmark=5)
    assert found.counts == {"a": 3}
    assert found.warnings == [
        "benchmark a holds 3 distinct examples, not the 5 asked for; all are used, so its share is the smaller"
    ]


# -- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["gsm8k_test.jsonl", "x-validation.jsonl.gz", "dev.jsonl", "a.val.jsonl", "Test2.jsonl"]
)
def test_a_file_that_says_test_or_validation_is_refused_unless_allowed(
    spark: SparkSession, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / name, questions(2))
    with pytest.raises(InputError, match=rf"benchmark b: {path} is no training split .* --allow-test b"):
        read(spark, f"b={path}")
    assert read(spark, f"b={path}", allow_splits={"b"}).counts == {"b": 2}


@pytest.mark.parametrize("split", ["test", "validation", "Dev", "test-clean"])
def test_a_row_that_says_test_or_validation_is_refused_unless_allowed(
    spark: SparkSession, tmp_path: Path, split: str
) -> None:
    path = write(tmp_path / "b.jsonl", [*questions(1), {"text": "x", "split": split}])
    with pytest.raises(InputError, match=rf"row 2's split '{split}' says .*--allow-test b"):
        read(spark, path)
    assert {e.split for e in read(spark, path, allow_splits={"b"}).examples} == {"unstated", split}


@pytest.mark.parametrize("name", ["latest", "contest_train", "development", "attestation", "devops", "evaluate"])
def test_names_that_only_contain_such_a_word_are_fine(spark: SparkSession, tmp_path: Path, name: str) -> None:
    assert read(spark, write(tmp_path / f"{name}.jsonl", questions(1))).counts == {name: 1}


# -- what the user names ---------------------------------------------------------------------------------------------


def test_sources_are_named_by_the_user_or_by_their_stem(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.b.jsonl.gz", []), write(tmp_path / "c.ndjson", [])
    (tmp_path / "README.md").touch()
    odd = write(tmp_path / "x=y.jsonl", [])
    assert parse_sources([f"mine={a}", b]) == [BenchmarkSource("c", b), BenchmarkSource("mine", a)]
    assert [s.name for s in parse_sources([str(tmp_path)])] == ["a.b", "c", "x=y"]
    assert [s.name for s in parse_sources([str(tmp_path / "*.ndjson"), odd])] == ["c", "x=y"]
    assert {s.name for s in parse_sources([f"all={tmp_path}"])} == {"all"}


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").touch()
    (tmp_path / ".json").touch()
    for args, message in [
        ([], "no benchmark is named"),
        ([str(tmp_path / "none.jsonl")], "does not exist"),
        ([str(tmp_path / "empty")], "holds no benchmark file"),
        ([str(tmp_path / "*.jsonl")], "holds no benchmark file"),
        ([str(tmp_path / "a.csv")], "no JSON lines file"),
        (["name="], "names no path"),
        ([str(tmp_path / ".json")], r"/\.json: its name is all ending, so nothing names it; write name=path"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_sources(args)


def test_a_benchmark_without_a_usable_row_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="benchmark b has no rows"):
        read(spark, write(tmp_path / "b.jsonl", [b""]))
    path = write(tmp_path / "c.jsonl", [{"title": "x", "body": "y"}] * 3)
    with pytest.raises(InputError, match=r"3 of 3 are unknown_shape .*\['body', 'title'\].*--template c="):
        read(spark, path)


def test_a_damaged_file_is_named(spark: SparkSession, tmp_path: Path) -> None:
    for ending in ("gz", "zst"):
        path = tmp_path / f"b.jsonl.{ending}"
        write(path, questions(500))
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(InputError, match=str(path)):
            read(spark, str(path))


def test_a_template_makes_texts_of_any_shape(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", [{"title": "T", "body": ["x", "y"], "n": True}])
    templates = parse_templates(["b={title}: {body} ({n}) {{}}"])
    assert [e.text for e in read(spark, path, templates=templates).examples] == ["T: x, y (yes) {}"]


@pytest.mark.parametrize("template", ["{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "no field", "{open"])
def test_a_template_holds_plain_field_names_only(template: str) -> None:
    with pytest.raises(InputError, match="--template b="):
        parse_templates([f"b={template}"])


def test_a_field_that_a_template_names_and_a_row_lacks_is_named(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", [{"title": "T"}])
    with pytest.raises(InputError, match=r"no field 'body' that --template names; it has \['title'\]"):
        read(spark, path, templates={"b": "{title}: {body}"})


def test_options_for_a_benchmark_that_is_not_there_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    path = write(tmp_path / "b.jsonl", questions(1))
    with pytest.raises(InputError, match=r"--template c: no such benchmark .*\['b'\]"):
        read(spark, path, templates={"c": "{a}"})
    with pytest.raises(InputError, match=r"--allow-test c: no such benchmark"):
        read(spark, path, allow_splits={"c"})
    with pytest.raises(InputError, match="--per-benchmark must be at least 1; got 0"):
        read(spark, path, per_benchmark=0)
