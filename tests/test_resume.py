"""The driver killed with SIGKILL in a stage and started again: the same tables as an undisturbed run."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr.tables import ALL, CLASSIFIERS, IMPORTED_FILES, STAGE_RUNS
from curation.tables import Tables
from tests.helpers import betr_command, last_json, rows_hash, run_betr, write_house

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.kill, pytest.mark.timeout(600)]


def arguments(folder: Path, tables: Path) -> list[str]:
    return [
        "run", "--documents", str(folder / "documents"), "--benchmarks", *sorted(map(str, (folder / "benchmarks").glob("*"))),
        "--tables", str(tables), "--encoder", "hashing:32", "--sample", "0.5", "--per-benchmark", "3", "--keep", "0.25",
        "--chunk-bytes", "25000", "--wave-rows", "60", "--dim", "8", "--buckets", "5000", "--min-count", "1", "--epochs", "3",
        "--learning-rate", "0.3", "--master", "local[2]", "--spark", "spark.driver.memory=1g", "--json",
    ]  # fmt: skip


def commits(table: Path) -> int:
    return len(list((table / "_delta_log").glob("*.json")))


def files(table: Path) -> int:
    return len(list(table.rglob("*.parquet")))


# What is seen on the disk when the stage is in its midst.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "embed": lambda root: commits(root / "sample_embeddings") >= 2,
    "score": lambda root: commits(root / "corpus_scores") >= 2,
    "select": lambda root: files(root / "selections") >= 1 and commits(root / "selections") == 0,
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_house(folder)
    return folder, last_json(run_betr(*arguments(folder, folder / "tables")))


def kill_when(moment: Callable[[Path], bool], folder: Path, tables: Path) -> None:
    """Start a run and kill its driver with SIGKILL as soon as `moment` holds."""
    process = subprocess.Popen(
        betr_command(*arguments(folder, tables)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
    )
    deadline = time.monotonic() + 240
    while not moment(tables):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the moment never came"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("stage", MOMENTS)
def test_a_run_killed_in_a_stage_ends_with_the_same_tables(
    stage: str, undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession
) -> None:
    folder, expected = undisturbed
    root = tmp_path / "tables"
    kill_when(MOMENTS[stage], folder, root)
    report = last_json(run_betr(*arguments(folder, root)))
    states = {each["stage"]: each["state"] for each in report["stages"]}
    before = list(states)[: list(states).index(stage)]
    assert states == {**dict.fromkeys(states, "done"), **dict.fromkeys(before, "unchanged"), stage: "resumed"}
    assert report["selection"] == expected["selection"]
    assert report["classifier"] == expected["classifier"]
    ours, theirs = Tables(spark, str(root)), Tables(spark, str(folder / "tables"))
    for spec in ALL:
        if spec is not STAGE_RUNS:
            assert rows_hash(ours, spec) == rows_hash(theirs, spec), spec.name
    assert ours.read(CLASSIFIERS).count() == ours.read(IMPORTED_FILES).count() == 1


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, expected = undisturbed
    root = tmp_path / "tables"
    process = subprocess.Popen(
        betr_command(*arguments(folder, root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    while not commits(root / "sample_embeddings") >= 1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "the same `betr run` again goes on from there" in err
    assert "Traceback" not in err
    assert last_json(run_betr(*arguments(folder, root)))["selection"] == expected["selection"]
    shutil.rmtree(root)
