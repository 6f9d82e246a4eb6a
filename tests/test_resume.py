"""A run stopped with Ctrl-C, then killed with SIGKILL in one stage after the other: the tables of an undisturbed run."""

import signal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr.tables import ALL, CLASSIFIERS, IMPORTED_FILES, SELECTION_RUNS, STAGE_RUNS
from curation.tables import Tables
from tests.helpers import arguments, commits, interrupt_when, last_json, rows_hash, run_command, settings

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]  # five starts of Java

ON_THIS_MACHINE = ["--master", "local[2]", "--spark", "spark.driver.memory=1g"]


def test_a_run_stopped_and_killed_in_every_long_stage_ends_with_the_tables_of_an_undisturbed_one(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession
) -> None:
    folder, expected = finished
    root = tmp_path / "tables"
    command = [*arguments(settings(folder, tables=str(root))), *ON_THIS_MACHINE]

    code, out, err = interrupt_when(lambda: commits(root / "sample_embeddings") >= 1, signal.SIGINT, command)
    assert code == 130, err
    assert out == "" and "Traceback" not in err
    assert "the same `betr run` again goes on from there" in err

    code, _, err = interrupt_when(lambda: commits(root / "sample_embeddings") >= 2, signal.SIGKILL, command)
    assert code == -signal.SIGKILL
    assert "import   unchanged" in err and "sample   unchanged" in err

    code, _, err = interrupt_when(lambda: commits(root / "corpus_scores") >= 2, signal.SIGKILL, command)
    assert code == -signal.SIGKILL
    assert "embed    resumed" in err and "train    done" in err

    def writing_a_selection() -> bool:
        return commits(root / "selections") == 0 and any((root / "selections").rglob("*.parquet"))

    code, _, err = interrupt_when(writing_a_selection, signal.SIGKILL, command)
    assert code == -signal.SIGKILL
    assert "train    unchanged" in err and "score    resumed" in err

    report = last_json(run_command(*command, interpreted=True))
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
