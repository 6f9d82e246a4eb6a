"""bench/: equal results before any time, interleaved rounds, ratios within one run, a page drawn and never typed."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench import documents, draw, harness, languages
from bench.__main__ import GPU_QUESTIONS, QUESTIONS, main
from bench.harness import CannotRun, Case, Measured, Question, Seconds, Setup, Target, Unequal, measure

pytestmark = pytest.mark.processes  # one starts a Python of its own, and all need no session

ROOT = Path(__file__).resolve().parent.parent
SUPPORT = {"__init__", "__main__", "documents", "draw", "gpu", "harness", "hollow", "languages", "models", "official"}


def cases(calls: list[str] | None = None) -> list[Case]:
    said = [] if calls is None else calls
    return [
        Case("ours", "ours", lambda: said.append("ours"), "MB", 10.0),
        Case("theirs", "peer", lambda: said.append("theirs"), "MB", 10.0),
        Case("read", "limit", lambda: said.append("read"), "MB", 20.0),
    ]


def question(**changed: Any) -> Question:
    given: dict[str, Any] = {
        "question": "How fast?",
        "input": "ten MB",
        "cases": cases(),
        "check": lambda: "all of it",
        "targets": lambda m: [Target("it", m.x_peer("ours"), "x theirs", at_least=1e9)],
        "packages": ("numpy",),
        "repeats": 3,
    }
    return Question(**{**given, **changed})


def setup(tmp_path: Path, **given: Any) -> Setup:
    return Setup(**{"scale": "small", "folder": tmp_path, "scratch": tmp_path, "stack": ExitStack(), **given})


def test_without_a_name_every_question_runs_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def call(command: list[str]) -> int:
        called.append(command[3:])
        return 0

    monkeypatch.setattr(subprocess, "call", call)
    assert main(["--seconds", "60"]) == 0
    assert called == [[name, "--seconds", "60"] for name in QUESTIONS]
    with pytest.raises(SystemExit):
        main(["scorin"])
    assert "there is no question 'scorin'" in capsys.readouterr().err


def test_features_are_told_apart_by_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents in two languages, one without blanks: labelled by the English ones, a row a language."""
    rows = []
    for i in range(60):
        good = i % 10 < 3
        rows.append({"id": f"x.en/{i}", "language": "en", "text": f"{'stars and planets' if good else 'salt and rice'} {i} " * 5})
        rows.append({"id": f"x.zh/{i}", "language": "zh", "text": f"{'行星和恒星' if good else '盐和米饭'}第{i}篇" * 5})
    rows.append({"id": "x.zh/only", "language": "zh", "text": "没有译文"})
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "targets.jsonl").write_text(json.dumps({"query": "What are stars and planets?", "choices": ["stars"], "gold": 0}))
    given = ["--documents", str(tmp_path / "documents.jsonl"), "--targets", str(tmp_path / "targets.jsonl")]
    assert languages.main([*given, "--prefix", r"x\.\w+/", "--encoder", "hashing:64"]) == 0
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["", "documents", *languages.WAYS]
    assert [row[:2] for row in table[2:5]] == [["en", "60"], ["zh", "60"], ["mean", "120"]]
    chinese = dict(zip(table[0], table[3], strict=True))
    assert float(chinese["segments"]) > 0.9 > float(chinese["words"])  # each of its "words" is seen once


# -- timing ------------------------------------------------------------------------------------------------------------


def test_cases_take_turns_after_a_warm_up_of_each() -> None:
    calls: list[str] = []
    times = measure(cases(calls), repeats=2, warm_up=1)
    assert calls == ["ours", "theirs", "read"] * 3
    assert {name: len(each) for name, each in times.items()} == {"ours": 2, "theirs": 2, "read": 2}


def test_a_case_may_have_fewer_rounds_and_tell_its_own_seconds() -> None:
    slow = Case("slow", "peer", lambda: Seconds(7.5), "runs", 1, repeats=1)
    times = measure([*cases(), slow], repeats=3, warm_up=0)
    assert times["slow"] == [7.5] and len(times["ours"]) == 3


def test_rounds_end_when_the_seconds_are_spent_but_not_before_the_third() -> None:
    now = iter(range(1000))
    times = measure(cases(), repeats=9, warm_up=0, seconds=1, clock=lambda: float(next(now)))
    assert len(times["ours"]) == 3


def test_spread_is_half_the_interquartile_range() -> None:
    assert harness.spread([1, 2, 3, 4, 100]) == 1.0
    assert harness.spread([1.0, 3.0]) == 1.0 and harness.spread([5.0]) == 0.0


def test_ratios_are_per_unit_and_against_the_named_case() -> None:
    several = [*cases(), Case("other", "peer", lambda: None, "MB", 10.0), Case("new", "ours", lambda: None, "MB", 30, "other")]
    found = Measured(several, {"ours": [9, 1, 2], "theirs": [8], "read": [1], "other": [20], "new": [3]})
    assert found.median("ours") == 2 and found.per_second("read") == 20
    assert (found.x_peer("ours"), found.of_limit("ours"), found.x_peer("theirs")) == (4, 0.25, 1)
    assert found.x_peer("new") == 20 and found.x_peer("other") == 1
    assert Measured([cases()[0]], {"ours": [1]}).x_peer("ours") is None


# -- the result --------------------------------------------------------------------------------------------------------


def test_nothing_is_timed_where_results_differ() -> None:
    calls: list[str] = []

    def check() -> str:
        raise Unequal("scores differ by 0.1")

    with pytest.raises(Unequal, match=r"0\.1"):
        harness.run(question(cases=cases(calls), check=check), say=lambda _: None)
    assert calls == []


def test_a_missing_package_is_said_before_anything_runs() -> None:
    with pytest.raises(CannotRun, match="no-such-peer isn't installed"):
        harness.run(question(packages=("no-such-peer",)), say=lambda _: None)


def test_a_wrong_name_among_the_targets_is_found_before_the_clock_starts() -> None:
    calls: list[str] = []
    with pytest.raises(KeyError):
        harness.run(question(cases=cases(calls), targets=lambda m: [m.x_peer("outs")]), say=lambda _: None)
    assert calls == []


def test_a_result_has_the_promised_fields(tmp_path: Path) -> None:
    result = harness.run(question(), say=lambda _: None)
    assert json.loads(harness.write(result, "it", tmp_path).read_text()) == result
    assert {"question", "machine", "versions", "cases"} <= result.keys()
    for case in result["cases"]:
        assert {"case", "role", "median_s", "spread", "per_second", "unit", "x_peer", "of_limit"} <= case.keys()
        assert case["role"] in ("ours", "peer", "limit")
    assert {"cpu", "cores", "memory_gib", "flags", "os", "python", "java"} <= result["machine"].keys()
    assert result["versions"]["numpy"] and result["checked"] == "all of it"
    assert result["targets"][0]["reached"] is False


@pytest.mark.parametrize(
    ("value", "bounds", "reached"),
    [(5.0, {"at_least": 5}, True), (4.9, {"at_least": 5}, False), (5.0, {"at_most": 4}, False), (None, {"at_most": 4}, None)],
)
def test_a_target_is_reached_or_not_or_not_measured(value: float | None, bounds: dict[str, Any], reached: bool) -> None:
    assert Target("it", value, "x", **bounds).reached is reached


# -- the files ---------------------------------------------------------------------------------------------------------


def test_every_file_of_the_bench_is_a_question_that_is_run_or_known_support() -> None:
    files = {path.stem for path in (ROOT / "bench").glob("*.py")}
    assert files == SUPPORT | set(QUESTIONS) | set(GPU_QUESTIONS)
    for name in (*QUESTIONS, *GPU_QUESTIONS):
        assert "def build(setup: Setup) -> Question:" in (ROOT / "bench" / f"{name}.py").read_text()


def test_documents_repeat_under_new_ids() -> None:
    texts = pa.array(["a" * 400_000, "b" * 600_000], pa.large_string())
    table = pa.table([pa.array(["x", "y"], pa.large_string()), texts], ["doc_id", "text"])
    five = documents.repeated(table, documents=5)
    assert five["doc_id"].to_pylist() == ["x#0", "y#0", "x#1", "y#1", "x#2"]
    assert documents.megabytes(documents.repeated(table, megabytes=2.3)) == pytest.approx(2.4)
    assert len(set(documents.distinct(five)["text"].to_pylist())) == 5


def test_a_gpu_question_says_in_one_sentence_that_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bench import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CannotRun, match="sees no GPU here"):
        gpu.device(setup(tmp_path))
    with pytest.raises(CannotRun, match="--scale small"):
        gpu.device(setup(tmp_path, device="cpu", scale="full"))
    assert gpu.device(setup(tmp_path, device="cpu")) == "cpu"


@pytest.mark.night
@pytest.mark.slow
def test_what_a_gpu_question_takes_of_ours_is_imported_without_spark() -> None:
    hidden = (
        "from importlib.machinery import PathFinder\n"
        "from bench.hollow import PACKAGES, without_spark\n"
        "find = PathFinder.find_spec\n"
        "def hide(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in PACKAGES else find(name, path, target)\n"
        "PathFinder.find_spec = staticmethod(hide)\n"
        "assert without_spark() == sorted(PACKAGES)\n"
        "import bench.gpu_ranking, bench.gpu_generation, bench.gpu_embedding\n"
        "assert bench.gpu_ranking.unit_rows(3).shape == (3, 384)\n"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


# -- the page ----------------------------------------------------------------------------------------------------------


def made(**changed: Any) -> dict[str, Any]:
    result = harness.run(question(), say=lambda _: None)
    for case, seconds in zip(result["cases"], (2.0, 8.0, 0.5), strict=True):
        case |= {"median_s": seconds, "spread": 0.25, "x_peer": 8.0 / seconds, "of_limit": 0.5 / seconds}
    return {**result, "scale": "full", **changed}


def test_the_page_is_what_the_committed_results_give() -> None:
    files = draw.draw(draw.read())
    for name, text in files.items():
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == text, f"docs/{name}: make bench-draw"
    drawn = {f"figures/{path.name}" for path in (ROOT / "docs" / "figures").glob("*.svg")}
    assert drawn == {name for name in files if name.endswith(".svg")}


def test_committed_results_are_measurements_not_smoke_tests() -> None:
    assert [name for name, result in draw.read().items() if result["scale"] != "full"] == []


def test_a_page_has_each_case_each_target_and_the_machine() -> None:
    files = draw.draw({"kernel": made(note="a note | with a bar")})
    page = files["performance.md"]
    assert "| ours | ours | 2.000 | ±0.250 |" in page and "≥ 1,000,000,000 x theirs" in page and "**no**" in page
    assert "a note \\| with a bar" in page and made()["machine"]["cpu"].split()[0] in page
    assert "Not measured yet: " in page and "Smoke tests" not in page
    assert "Smoke tests, not measurements" in draw.draw({"kernel": made(scale="small")})["performance.md"]


def test_a_figure_is_a_picture_of_its_own_for_light_and_dark_pages() -> None:
    svg = draw.draw({"kernel": made()})["figures/kernel.svg"]
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg" and "prefers-color-scheme:dark" in svg
    assert [f'"{colour} fill"' in svg for colour in ("c0", "c5", "c2")] == [True, True, True]


def test_a_limit_far_beyond_leaves_the_bars_readable() -> None:
    result = made()
    result["cases"][2]["x_peer"] = 500.0
    files = draw.draw({"kernel": result})
    assert ">read<" not in files["figures/kernel.svg"] and "beyond the edge: read: 500" in files["performance.md"]


def test_growth_is_drawn_as_lines_beside_a_straight_one() -> None:
    sizes = (100, 1000)
    result = made(growth={"x": "documents", "memory": ["workers_mb"]})
    result["cases"] = [
        {**result["cases"][0], "case": f"{n}", "documents": n, "median_s": n / 50, "workers_mb": 300.0} for n in sizes
    ]
    files = draw.draw({"growth": result})
    assert "polyline" in files["figures/growth-time.svg"] and "linear" in files["figures/growth-time.svg"]
    ET.fromstring(files["figures/growth-memory.svg"])
    assert "| peak | workers mb |" in files["performance.md"]


def test_a_profile_names_its_three_largest_costs() -> None:
    result = made(profile={"parts": ["seconds_reading", "seconds_compute"], "beside": ["files"]})
    parts = ((1.0, 5.0), (None, 3.0), (None, None))
    for case, (reading, compute) in zip(result["cases"], parts, strict=True):
        case |= {"seconds_reading": reading, "seconds_compute": compute, "files": 7}
    page = draw.draw({"profile": result})["performance.md"]
    assert (
        "**The three largest costs:** ours, compute: 5.000 s, 55.6%; theirs, compute: 3.000 s, 33.3%; "
        "ours, reading: 1.000 s, 11.1%." in page
    )
    assert "| where the seconds go | reading | compute | files |" in page and "| ours | 1.000 | 5.000 | 7 |" in page
    assert "| read |" not in page.split("| where")[1].split("\n\n")[0]


def test_an_empty_bench_says_what_is_missing() -> None:
    page = draw.draw({})["performance.md"]
    assert "Not measured yet: shipping, kernel" in page and "##" not in page


def test_drawing_removes_the_figures_of_questions_that_are_gone(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "gone.svg").write_text("<svg/>")
    draw.write(draw.draw({"kernel": made()}), tmp_path)
    assert sorted(path.name for path in (tmp_path / "figures").glob("*")) == ["kernel.svg"]


def test_a_smoke_test_never_lands_among_the_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "kernel", "--scale", "small"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2 and "--out FOLDER" in done.stderr
