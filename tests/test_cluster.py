"""Both methods on a standalone master with two workers, executors being processes of their own."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bare.tables import DRAFTS, REFINED, VERDICTS
from betr.tables import CORPUS_SCORES, SAMPLE_EMBEDDINGS
from curation.tables import Tables
from deploy.cluster import SPARK_HOME, Cluster, running
from tests.helpers import (
    INTERPRETED,
    arguments,
    brief_environment,
    commits,
    last_json,
    rows_hash,
    settings,
)

pytestmark = [pytest.mark.slow, pytest.mark.processes]

REPOSITORY = Path(__file__).parent.parent
CUT = ("threshold", "documents", "tokens", "kept_documents", "kept_tokens")


def cut(report: dict[str, Any]) -> dict[str, object]:
    return {name: report["selection"][name] for name in CUT}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A standalone master and two workers of one core each, which say that they have a GPU each."""
    with running(2, gpus=1, env=brief_environment()) as cluster:
        yield cluster


def submission(
    cluster: Cluster, script: Path, given: list[str], folder: Path, conf: Mapping[str, str] = MappingProxyType({})
) -> "subprocess.Popen[str]":
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        **conf,
    }
    command = [
        str(SPARK_HOME / "bin" / "spark-submit"), "--master", cluster.url, "--driver-memory", "1g",
        "--executor-memory", "800m",
        *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")), str(script), *given,
    ]  # fmt: skip
    env = {**brief_environment(), "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable,
           "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_HOME": str(SPARK_HOME)}  # fmt: skip
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder
    )


def finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


# The job as it is, and after it, in the same session, what tasks are told of their GPUs.
JOB_AND_QUESTION = """
import json, runpy, sys
from pathlib import Path
import pyarrow as pa
from pyspark.sql import SparkSession
from bare.generators.load import task_device
from curation.embedding import embedding_profile

def told(batches):
    for batch in batches:
        yield pa.RecordBatch.from_pylist([{"worker": Path.cwd().parts[-3], "device": task_device(False)}])

try:
    runpy.run_path(sys.argv.pop(1), run_name="__main__")
except SystemExit as left:
    if left.code:
        raise
rows = SparkSession.getActiveSession().range(0, 8, 1, 8)
asked = {name: rows.mapInArrow(told, "worker string, device string", profile=profile).collect()
         for name, profile in (("gpu", embedding_profile(1.0)), ("none", None))}
Path("devices.json").write_text(json.dumps({name: [tuple(row) for row in found] for name, found in asked.items()}))
"""


@dataclass(frozen=True)
class Disturbed:
    """What is left of a run on a cluster, of which a worker lost its power while the run embedded."""

    report: dict[str, Any]
    tables: Path
    events: list[dict[str, Any]]
    devices: dict[str, list[list[str]]]


@pytest.fixture(scope="module")
def disturbed(
    finished: tuple[Path, dict[str, Any]], cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    tables, script = folder / "tables", folder / "job.py"
    script.write_text(JOB_AND_QUESTION)
    given = arguments(settings(finished[0], tables=str(tables)))
    job = str(REPOSITORY / "jobs" / "betr_run.py")
    conf = {
        "spark.executor.resource.gpu.amount": "1",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": str(folder),
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
    }
    process = submission(cluster, script, [job, *given[1:], "--gpus-per-task", "1"], folder, conf)
    deadline = time.monotonic() + 300
    while commits(tables / "sample_embeddings") < 1:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"nothing was embedded: {finish(process).stderr[-3000:]}")
        time.sleep(0.01)
    cluster.kill_worker(0)
    cluster.start_worker(0)  # the machine is back
    report = last_json(finish(process))
    (log,) = folder.glob("app-*")
    events = [json.loads(line) for line in log.read_text().split("\n") if line.startswith('{"Event":"SparkListener')]
    return Disturbed(report, tables, events, json.loads((folder / "devices.json").read_text()))


def test_a_run_on_a_cluster_gives_the_same_selection_though_a_worker_is_lost(
    finished: tuple[Path, dict[str, Any]], disturbed: Disturbed, spark: SparkSession
) -> None:
    assert cut(disturbed.report) == cut(finished[1])
    assert "SparkListenerExecutorRemoved" in {event["Event"] for event in disturbed.events}
    ours, theirs = Tables(spark, str(disturbed.tables)), Tables(spark, str(finished[0] / "tables"))
    for spec in (SAMPLE_EMBEDDINGS, CORPUS_SCORES):  # what was made meanwhile, and what came of it all
        assert rows_hash(ours, spec) == rows_hash(theirs, spec), spec.name


def test_embedding_asks_for_a_gpu_and_no_other_stage_does(disturbed: Disturbed) -> None:
    submitted = [event["Stage Info"] for event in disturbed.events if event["Event"] == "SparkListenerStageSubmitted"]
    asking = {stage["Stage ID"] for stage in submitted if stage["Resource Profile Id"] != 0}
    waves = sum(commits(disturbed.tables / name) for name in ("sample_embeddings", "benchmark_embeddings"))
    assert len(asking) == waves + 1 > 2  # and the question after the run
    assert len(asking) < len({stage["Stage ID"] for stage in submitted}) / 2


def test_a_task_uses_the_gpu_that_its_executor_was_given(disturbed: Disturbed, cluster: Cluster) -> None:
    theirs = {f"worker-{number}": f"cuda:{cluster.addresses(number)[0]}" for number in range(2)}
    assert {tuple(each) for each in disturbed.devices["gpu"]} == set(theirs.items())
    assert {device for _, device in disturbed.devices["none"]} == {"cpu"}


@pytest.mark.night
def test_spark_submit_on_a_standalone_cluster_gives_the_same_synthetic_rows(
    generated: tuple[dict[str, Any], dict[str, Any]], cluster: Cluster, tmp_path: Path, spark: SparkSession
) -> None:
    here, expected = generated
    there = {**here, "tables": str(tmp_path / "tables")}
    flags = {f"--{name.replace('_', '-')}": value for name, value in there.items()}
    given = [str(v) for flag, value in flags.items() for v in (flag, *(value if isinstance(value, tuple) else [value]))]
    job = REPOSITORY / "jobs" / "bare_run.py"
    report = last_json(finish(submission(cluster, job, ["--json", *given], tmp_path, INTERPRETED)))
    told = ("generation_id", "drafts", "refined", "accepted", "rejected", "tokens_in", "tokens_out", "measures")
    assert {name: report[name] for name in told} == {name: expected[name] for name in told}
    ours, theirs = (Tables(spark, tables["tables"]) for tables in (there, here))
    for spec in (DRAFTS, REFINED, VERDICTS):
        unlike = frozenset({"seconds"})
        assert rows_hash(ours, spec, leave_out=unlike) == rows_hash(theirs, spec, leave_out=unlike), spec.name


def test_a_cluster_started_by_hand_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "deploy.cluster", "--workers", "1", "--port", "0"]
    env = brief_environment()
    with subprocess.Popen(command, env=env, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(5)]
        daemons = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert told[0].startswith("master   spark://127.0.0.1:") and "betr run --master spark://" in told[3]
    assert (process.returncode, rest) == (0, "stopped\n")
    assert len(daemons) == 2 and not [pid for pid in daemons if Path("/proc", pid).exists()]
    assert not Path(told[4].split()[1].rstrip(",")).exists()
