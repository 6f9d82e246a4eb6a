"""A run killed, killed on other executors, stopped with Ctrl-C, killed again: the tables of an undisturbed run."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr import cli
from betr.tables import ALL, CLASSIFIERS, IMPORTED_FILES, SELECTION_RUNS, STAGE_RUNS
from curation.tables import Tables
from tests.helpers import arguments, commits, interrupt_when, rows_hash, settings

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.timeout(1800)]  # three starts of Java

ON_THIS_MACHINE = ["--master", "local[2]", "--spark", "spark.driver.memory=1g"]
ON_TWO_EXECUTORS = [
    "--master", "local-cluster[2,1,1024]", "--spark", "spark.driver.memory=1g", "spark.executor.memory=1g"
]  # fmt: skip


@contextmanager
def ctrl_c_when(moment: Callable[[], bool]) -> Iterator[None]:
    """Within the body this process gets a Ctrl-C, once `moment` is there."""
    over = threading.Event()

    def wait() -> None:
        while not over.wait(0.002):
            if moment():
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_run_stopped_and_killed_in_every_long_stage_ends_with_the_tables_of_an_undisturbed_one(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expected = finished
    root = tmp_path / "tables"
    given = arguments(settings(folder, tables=str(root)))

    code, _, err = interrupt_when(lambda: commits(root / "sample_embeddings") >= 1, signal.SIGKILL, [*given, *ON_THIS_MACHINE])
    assert code == -signal.SIGKILL, err

    # The next driver has executors of their own, two processes.
    code, _, err = interrupt_when(lambda: commits(root / "corpus_scores") >= 1, signal.SIGKILL, [*given, *ON_TWO_EXECUTORS])
    assert code == -signal.SIGKILL, err
    assert "import   unchanged" in err and "embed    resumed" in err and "train    done" in err

    # Then someone goes on in a session that is there, and stops it by hand.
    with ctrl_c_when(lambda: commits(root / "corpus_scores") >= 2):
        assert cli.main(given) == 130
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    assert "train    unchanged" in err
    assert "the same `betr run` again goes on from there" in err

    def writing_a_selection() -> bool:
        return commits(root / "selections") == 0 and any((root / "selections").rglob("*.parquet"))

    code, _, err = interrupt_when(writing_a_selection, signal.SIGKILL, [*given, *ON_THIS_MACHINE])
    assert code == -signal.SIGKILL
    assert "train    unchanged" in err and "score    resumed" in err
    assert "WARN" not in err

    assert cli.main(given) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "Traceback" not in err
    assert "select" in err and "kept" in err
    report = json.loads(out)
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
