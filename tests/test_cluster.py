"""The whole line where executors are processes of their own: local-cluster, and a standalone master with two workers."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyspark
import pytest

from tests.helpers import arguments, last_json, run_command, settings

pytestmark = [pytest.mark.slow]

SPARK_HOME = Path(pyspark.__file__).parent
REPOSITORY = Path(__file__).parent.parent
CUT = ("threshold", "documents", "tokens", "kept_documents", "kept_tokens")


def cut(report: dict[str, Any]) -> dict[str, object]:
    return {name: report["selection"][name] for name in CUT}


def test_two_executor_processes_give_the_same_selection_and_json_alone_on_stdout(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    given = arguments(settings(finished[0], tables=str(tmp_path / "tables"), wave_rows=1000, chunk_bytes=100_000))
    memory = ["--spark", "spark.driver.memory=1g", "spark.executor.memory=1g"]
    result = run_command(*given, "--master", "local-cluster[2,1,1024]", *memory)
    report = last_json(result)
    assert cut(report) == cut(finished[1])
    assert result.stdout.count("\n") == 1
    assert "Traceback" not in result.stderr and "WARN" not in result.stderr
    assert "select" in result.stderr and "kept" in result.stderr
    assert set(report) == set(finished[1])


@pytest.fixture
def master(tmp_path: Path) -> Iterator[str]:
    """A standalone master and two workers of one core each, from the wheel's own spark-class."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME), "PYSPARK_PYTHON": sys.executable,
           "SPARK_DAEMON_MEMORY": "256m"}  # fmt: skip
    url = f"spark://127.0.0.1:{port}"
    spark_class = str(SPARK_HOME / "bin" / "spark-class")
    commands = [[spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port),
                 "--webui-port", "0"]]  # fmt: skip
    commands += [
        [spark_class, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g",
         "--webui-port", "0", "--work-dir", str(tmp_path / f"worker-{i}"), url]
        for i in range(2)
    ]  # fmt: skip
    log = tmp_path / "daemons.log"
    with log.open("w") as output:
        daemons = [subprocess.Popen(command, env=env, stdout=output, stderr=output) for command in commands]
        try:
            deadline = time.monotonic() + 120
            while log.read_text().count("Registering worker") < 2:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)
            yield url
        finally:
            for daemon in daemons:
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(30)


def test_spark_submit_on_a_standalone_cluster_gives_the_same_selection(
    finished: tuple[Path, dict[str, Any]], master: str, tmp_path: Path
) -> None:
    submit = [
        str(SPARK_HOME / "bin" / "spark-submit"), "--master", master, "--driver-memory", "1g", "--executor-memory", "800m",
        "--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.sql.shuffle.partitions=2",
        "--conf", "spark.databricks.delta.snapshotPartitions=2", str(REPOSITORY / "jobs" / "betr_run.py"),
    ]  # fmt: skip
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable,
           "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME)}  # fmt: skip
    given = arguments(settings(finished[0], tables=str(tmp_path / "tables"), wave_rows=1000, chunk_bytes=100_000))[1:]
    result = subprocess.run(
        [*submit, *given], env=env, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path
    )
    assert cut(last_json(result)) == cut(finished[1])
    assert (tmp_path / "tables" / "corpus_scores" / "_delta_log").is_dir()
