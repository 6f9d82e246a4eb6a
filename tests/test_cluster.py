"""Both methods where executors are processes of their own: local-cluster, and a standalone master with two workers."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyspark
import pytest
from pyspark.sql import SparkSession

from bare.tables import DRAFTS, REFINED, VERDICTS
from curation.tables import Tables
from tests.helpers import INTERPRETED, arguments, brief_environment, last_json, rows_hash, run_command, settings

pytestmark = [pytest.mark.slow, pytest.mark.processes]

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
    result = run_command(*given, "--master", "local-cluster[2,1,1024]", *memory, interpreted=True)
    report = last_json(result)
    assert cut(report) == cut(finished[1])
    assert result.stdout.count("\n") == 1
    assert "Traceback" not in result.stderr and "WARN" not in result.stderr
    assert "select" in result.stderr and "kept" in result.stderr
    assert set(report) == set(finished[1])


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone master and two workers of one core each, from the wheel's own spark-class."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {**brief_environment(), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME), "PYSPARK_PYTHON": sys.executable,
           "SPARK_DAEMON_MEMORY": "256m"}  # fmt: skip
    url = f"spark://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("standalone")
    spark_class = str(SPARK_HOME / "bin" / "spark-class")
    commands = [[spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", str(port),
                 "--webui-port", "0"]]  # fmt: skip
    commands += [
        [spark_class, "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1", "--memory", "1g",
         "--webui-port", "0", "--work-dir", str(folder / f"worker-{i}"), url]
        for i in range(2)
    ]  # fmt: skip
    log = folder / "daemons.log"
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


def submit(
    master: str, job: str, given: list[str], folder: Path, conf: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.CompletedProcess[str]":
    command = [
        str(SPARK_HOME / "bin" / "spark-submit"), "--master", master, "--driver-memory", "1g", "--executor-memory", "800m",
        "--conf", "spark.driver.host=127.0.0.1", "--conf", "spark.sql.shuffle.partitions=2",
        "--conf", "spark.databricks.delta.snapshotPartitions=2",
        *(part for name, value in conf.items() for part in ("--conf", f"{name}={value}")), str(REPOSITORY / "jobs" / job), *given,
    ]  # fmt: skip
    env = {**brief_environment(), "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable,
           "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME)}  # fmt: skip
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False, cwd=folder)


def test_spark_submit_on_a_standalone_cluster_gives_the_same_selection(
    finished: tuple[Path, dict[str, Any]], master: str, tmp_path: Path
) -> None:
    given = arguments(settings(finished[0], tables=str(tmp_path / "tables"), wave_rows=1000, chunk_bytes=100_000))[1:]
    assert cut(last_json(submit(master, "betr_run.py", given, tmp_path))) == cut(finished[1])
    assert (tmp_path / "tables" / "corpus_scores" / "_delta_log").is_dir()


def test_spark_submit_on_a_standalone_cluster_gives_the_same_synthetic_rows(
    generated: tuple[dict[str, Any], dict[str, Any]], master: str, tmp_path: Path, spark: SparkSession
) -> None:
    here, expected = generated
    there = {**here, "tables": str(tmp_path / "tables")}
    flags = {f"--{name.replace('_', '-')}": value for name, value in there.items()}
    given = [str(v) for flag, value in flags.items() for v in (flag, *(value if isinstance(value, tuple) else [value]))]
    report = last_json(submit(master, "bare_run.py", ["--json", *given], tmp_path, INTERPRETED))
    told = ("generation_id", "drafts", "refined", "accepted", "rejected", "tokens_in", "tokens_out", "measures")
    assert {name: report[name] for name in told} == {name: expected[name] for name in told}
    ours, theirs = (Tables(spark, tables["tables"]) for tables in (there, here))
    for spec in (DRAFTS, REFINED, VERDICTS):
        unlike = frozenset({"seconds"})
        assert rows_hash(ours, spec, leave_out=unlike) == rows_hash(theirs, spec, leave_out=unlike), spec.name
