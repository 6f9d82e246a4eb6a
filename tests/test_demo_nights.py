"""`make demo-nights`: which documents come in when, the command that each night is, and what is told of them."""

import gzip
import io
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from rich.console import Console

from betr.changes import Arrived, Changes, CoverageChange, Cut, StageWork
from betr.cli import build_parser
from betr.config import RunConfig
from curation.command import read_config
from curation.errors import InputError
from curation.progress import Terminal
from demo import nights
from demo.nights import FILES, NIGHTLY, SOURCE, Nightly
from tests.helpers import write_lines

SETTINGS = {"benchmarks": ["piqa=/b/piqa.jsonl"], "encoder": "hashing:64", "sample": "40", "by": ["metadata.domain"]}


@pytest.fixture
def nightly(tmp_path: Path) -> Nightly:
    for name in (*FILES, SOURCE):
        write_lines(tmp_path / "source" / f"{name}.jsonl.gz", [{"id": f"{name}/{i}", "text": f"text {i}"} for i in range(200)])
    return Nightly(tmp_path / "house", tmp_path / "source", SETTINGS)


def ids(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["id"] for line in lines]


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> Path:
    """A night that writes down what it was given, says a sentence, and leaves with a code."""
    script, given = folder / "nightly", folder / "given"
    script.write_text(f'#!/bin/sh\necho "$*" >> {given}\necho "betr: a sentence"\nexit {code}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(nights, "NIGHTLY", script)
    return given


def test_a_tenth_comes_on_the_first_day_another_source_on_the_second_and_each_file_is_written_once(nightly: Nightly) -> None:
    nightly.lay_out()
    first = {path: path.read_bytes() for path in nightly.corpus.iterdir()}
    assert sorted(path.name for path in first) == sorted(f"{name}.jsonl.gz" for name in FILES) and not nightly.came(1)
    nightly.come_in(1)
    there = [id_ for path in first for id_ in ids(path)]
    later = ids(nightly.file_of(1))
    assert sorted(there + later) == sorted(id_ for name in FILES for id_ in ids(nightly.source / f"{name}.jsonl.gz"))
    assert 20 < len(later) < 120 and nightly.came(1) and not nightly.came(2)
    nightly.come_in(2)
    assert ids(nightly.file_of(2)) == ids(nightly.source / f"{SOURCE}.jsonl.gz")
    stamps = {path: path.stat().st_mtime_ns for path in nightly.corpus.iterdir()}
    nightly.lay_out()
    nightly.come_in(1)
    nightly.come_in(2)
    assert stamps == {path: path.stat().st_mtime_ns for path in nightly.corpus.iterdir()}
    assert {path: path.read_bytes() for path in first} == first


def test_each_night_is_the_same_command_and_its_options_are_those_of_the_first_run(
    nightly: Nightly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = stand_in(tmp_path, monkeypatch, 3)  # what moved is no failure of the demo
    nightly.lay_out()
    nightly.night(1, Terminal())
    nightly.night(2, Terminal())
    settings = nightly.house / "settings.yaml"
    assert given.read_text().splitlines() == [f"{nightly.house / 'tables'} {nightly.corpus} --config {settings}"] * 2
    said = capsys.readouterr().err
    assert said.count("betr: a sentence") == 2 and said.count("exit code 3: all is written") == 2
    assert yaml.safe_load(settings.read_text()) == SETTINGS
    # As cron's script calls it: the first run's settings, but for what is kept.
    line = next(line for line in NIGHTLY.read_text().splitlines() if line.startswith("betr run"))
    assert line.startswith('betr run "$@" --tables')
    argv = ["run", "--config", str(settings), "--tables", nightly.config.tables, "--documents", str(nightly.corpus), "--carry", "default"]
    parsed: Namespace = build_parser().parse_args(argv)
    night = read_config(RunConfig, parsed["run"])
    stages = ("import", "targets", "sample", "embed", "rank", "train", "score")
    assert [night.settings(stage) for stage in stages] == [nightly.config.settings(stage) for stage in stages]


def test_a_night_that_fails_ends_the_demo(nightly: Nightly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, 1)
    nightly.lay_out()
    with pytest.raises(InputError, match=r"night 1 failed with exit code 1; see .*tables\.log"):
        nightly.night(1, Terminal())


def changes(kept: int, *, breached: bool, **measure: Any) -> Changes:
    before = Cut("s1", 1, "2026-11-26T02:00:00+00:00", 1_000, 50_000, 100, 5_000, 0.875)
    now = Cut("s2", 2, "2026-11-27T02:00:00+00:00", 1_200, 60_000, 100 + kept, 5_000 + 50 * kept, 0.875)
    moved = {"measure": "psi", "value": 0.5 if breached else 0.0, "at_most": 0.2, "breached": breached, "said": "x", **measure}
    return Changes(
        before, now, Arrived(1, 210, {"no_text": 4}, 6, 200, kept, {"wiki": (200, kept)}), (StageWork("import", 210, 200, 3.0), StageWork("score", 200, 200, 1.0)),
        (CoverageChange("piqa", 8, 0.4, 0.4, 0.3, 0.35),), (moved,),
    )  # fmt: skip


def test_the_nights_stand_side_by_side() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(nights.compared([changes(20, breached=False), changes(4, breached=True)]))
    text = " ".join(console.export_text().translate(dict.fromkeys(map(ord, "│┃"), " ")).split())
    for line in (
        "night 1 night 2", "rows read 210 from 1 file 210 from 1 file", "put aside 4, and 6 copies 4, and 6 copies",
        "new documents 200 200", "from wiki 200 wiki 200", "of the new ones kept 20 (10.0%) 4 (2.0%)", "import 200, score 200",
        "moved: scores (PSI) 0.000, limit 0.2: within 0.500, limit 0.2: beyond its limit",
        "nothing to do for targets, sample, embed, rank, train, select, cover, watch",
    ):  # fmt: skip
        assert line in text, line
    assert "120 of 1,200; before 100 of 1,000" in text and "10.0%; before 10.0%" in text
