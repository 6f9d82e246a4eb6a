"""The whole line where executors are processes of their own: local-cluster, and a standalone master with two workers."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

from tests.helpers import last_json, run_betr, write_house
from tests.test_resume import arguments

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.timeout(600)]

SPARK_HOME = Path(pyspark.__file__).parent
REPOSITORY = Path(__file__).parent.parent
CUT = ("threshold", "documents", "tokens", "kept_documents", "kept_tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    write_house(folder)
    return folder


@pytest.fixture(scope="module")
def on_one_machine(folder: Path) -> dict[str, object]:
    report = last_json(run_betr(*arguments(folder, folder / "tables")))
    return {name: report["selection"][name] for name in CUT}


def without_master(given: list[str]) -> list[str]:
    at = given.index("--master")
    return [*given[:at], *given[at + 4 :]]  # with --spark KEY=VALUE behind it


def test_two_executor_processes_give_the_same_selection(
    folder: Path, on_one_machine: dict[str, object], tmp_path: Path
) -> None:
    given = [*without_master(arguments(folder, tmp_path / "tables")), "--master", "local-cluster[2,1,1024]", "--json"]
    report = last_json(run_betr(*given, "--spark", "spark.driver.memory=1g", "spark.executor.memory=1g"))
    assert {name: report["selection"][name] for name in CUT} == on_one_machine


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
    folder: Path, on_one_machine: dict[str, object], master: str, tmp_path: Path
) -> None:
    submit = [
        str(SPARK_HOME / "bin" / "spark-submit"), "--master", master, "--driver-memory", "1g", "--executor-memory", "800m",
        "--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.sql.shuffle.partitions=2",
        "--conf", "spark.databricks.delta.snapshotPartitions=2", str(REPOSITORY / "jobs" / "betr_run.py"),
    ]  # fmt: skip
    env = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable,
           "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME)}  # fmt: skip
    given = without_master(arguments(folder, tmp_path / "tables"))[1:]
    result = subprocess.run(
        [*submit, *given, "--json"], env=env, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
    )
    report = last_json(result)
    assert {name: report["selection"][name] for name in CUT} == on_one_machine
    assert (tmp_path / "tables" / "corpus_scores" / "_delta_log").is_dir()
