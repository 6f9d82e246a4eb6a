"""A run killed, stopped with Ctrl-C on other executors, killed again, each in a later stage: an undisturbed run's tables."""

import signal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr.tables import ALL, CLASSIFIERS, IMPORTED_FILES, SELECTION_RUNS, STAGE_RUNS
from curation.tables import Tables
from tests.helpers import arguments, commits, interrupt_when, last_json, rows_hash, run_command, settings

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]  # four starts of Java

ON_THIS_MACHINE = ["--master", "local[2]", "--spark", "spark.driver.memory=1g"]
ON_TWO_EXECUTORS = [
    "--master", "local-cluster[2,1,1024]", "--spark", "spark.driver.memory=1g", "spark.executor.memory=1g"
]  # fmt: skip


def test_a_run_stopped_and_killed_in_every_long_stage_ends_with_the_tables_of_an_undisturbed_one(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession
) -> None:
    folder, expected = finished
    root = tmp_path / "tables"
    command = [*arguments(settings(folder, tables=str(root))), *ON_THIS_MACHINE]

    code, _, err = interrupt_when(lambda: commits(root / "sample_embeddings") >= 1, signal.SIGKILL, command)
    assert code == -signal.SIGKILL, err

    # The next driver has executors of their own, two processes, and is stopped by hand.
    elsewhere = [*command[: -len(ON_THIS_MACHINE)], *ON_TWO_EXECUTORS]
    code, out, err = interrupt_when(lambda: commits(root / "corpus_scores") >= 2, signal.SIGINT, elsewhere)
    assert code == 130, err
    assert out == "" and "Traceback" not in err
    assert "import   unchanged" in err and "embed    resumed" in err and "train    done" in err
    assert "the same `betr run` again goes on from there" in err

    def writing_a_selection() -> bool:
        return commits(root / "selections") == 0 and any((root / "selections").rglob("*.parquet"))

    code, _, err = interrupt_when(writing_a_selection, signal.SIGKILL, command)
    assert code == -signal.SIGKILL
    assert "train    unchanged" in err and "score    resumed" in err

    last = run_command(*command, interpreted=True)
    report = last_json(last)
    assert last.stdout.count("\n") == 1
    assert "Traceback" not in last.stderr and "WARN" not in last.stderr
    assert "select" in last.stderr and "kept" in last.stderr
    assert set(report) == set(expected)
    states = {each["stage"]: each["state"] for each in report["stages"]}
    assert states == {**dict.fromkeys(states, "unchanged"), "select": "done", "cover": "done"}
    assert report["selection"] == expected["selection"]
    assert report["classifier"] == expected["classifier"]
    ours, theirs = Tables(spark, str(root)), Tables(spark, str(folder / "tables"))
    for spec in ALL:
        if spec is not STAGE_RUNS:
            assert rows_hash(ours, spec) == rows_hash(theirs, spec), spec.name
    for spec in (CLASSIFIERS, IMPORTED_FILES, SELECTION_RUNS):
        assert ours.read(spec).count() == 1
