"""A Spark cluster of processes on this machine: a standalone master and workers, from pyspark's own wheel.

`make cluster` runs one until Ctrl-C; the tests run their jobs on one. Nothing of it is left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyspark

from curation.errors import InputError

SPARK_HOME = Path(pyspark.__file__).parent
HOST = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 30.0


@dataclass
class Cluster:
    """A master and the workers that were started; `folder` takes their logs and whatever executors write.

    gpus: of each worker, by a discovery script that says so: worker i has the addresses from i * gpus on. They are
    this machine's own where it has as many, and stand for some where it has none.
    """

    folder: Path
    cores: int = 1
    memory: str = "1g"
    gpus: int = 0
    port: int = 0
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    url: str = ""
    page: str = ""
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)

    def start(self, workers: int) -> None:
        """Start the master, then the workers, and return when all of them are registered."""
        ports = ["--port", str(self.port), "--webui-port", "8080" if self.port else "0"]
        self._spawn("master", "org.apache.spark.deploy.master.Master", "--host", HOST, *ports)
        self.url = self._wait("master", r"Starting Spark master at (spark://\S+)")
        self.page = self._wait("master", r"MasterWebUI.* started at (http://\S+)")
        for number in range(workers):
            self._spawn_worker(number)
        for number in range(workers):
            self._wait(f"worker-{number}", "(Successfully registered)")

    def start_worker(self, number: int) -> None:
        """Start one worker, in place of one that was killed or as one more."""
        self._spawn_worker(number)
        self._wait(f"worker-{number}", "(Successfully registered)")

    def kill_worker(self, number: int) -> None:
        """What a machine does that loses its power: the worker and its executors are gone without a word."""
        daemon = self._daemons.pop(f"worker-{number}")
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()

    def stop(self) -> None:
        """End every process that was started; workers first, whose executors end with them."""
        daemons = [self._daemons[name] for name in sorted(self._daemons, reverse=True)]
        for daemon in daemons:
            daemon.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)  # an executor that hung, too
            daemon.wait()
        self._daemons.clear()

    def addresses(self, number: int) -> list[str]:
        """The addresses of a worker's GPUs."""
        return [str(number * self.gpus + i) for i in range(self.gpus)]

    def _spawn_worker(self, number: int) -> None:
        options = []
        if self.gpus:
            script = self.folder / f"gpus-{number}"
            found = json.dumps({"name": "gpu", "addresses": self.addresses(number)})
            script.write_text(f"#!/bin/sh\necho {shlex.quote(found)}\n", encoding="utf-8")
            script.chmod(0o755)
            options = [
                f"-Dspark.worker.resource.gpu.amount={self.gpus}",
                f"-Dspark.worker.resource.gpu.discoveryScript={script}",
            ]
        size = ["--cores", str(self.cores), "--memory", self.memory]
        place = ["--host", HOST, "--webui-port", "0", "--work-dir", str(self.folder / f"worker-{number}")]
        arguments = [*size, *place, self.url]
        self._spawn(f"worker-{number}", "org.apache.spark.deploy.worker.Worker", *arguments, options=options)

    def _spawn(self, name: str, main: str, *arguments: str, options: Sequence[str] = ()) -> None:
        env = {
            **self.env,
            "SPARK_HOME": str(SPARK_HOME),
            "SPARK_LOCAL_IP": HOST,
            # What an executor that is killed leaves lies here, and goes with the folder.
            "SPARK_LOCAL_DIRS": str(self.folder),
            "SPARK_DAEMON_MEMORY": "256m",
            "SPARK_WORKER_OPTS": " ".join(options),
            "PYSPARK_PYTHON": sys.executable,
        }
        with self._log(name).open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and executors are in the group of their worker.
            self._daemons[name] = subprocess.Popen(
                [str(SPARK_HOME / "bin" / "spark-class"), main, *arguments],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def _wait(self, name: str, said: str) -> str:
        """What the log says in the group of `said`, as soon as it says so."""
        deadline = time.monotonic() + START_SECONDS
        while (found := re.search(said, text := self._log(name).read_text(errors="replace"))) is None:
            if self._daemons[name].poll() is not None or time.monotonic() > deadline:
                last = (text.strip().splitlines() or ["it said nothing"])[-1]
                raise InputError(f"the cluster's {name} did not start: {last}; Spark needs Java 17 or newer")
            time.sleep(0.1)
        return found[1]

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@contextlib.contextmanager
def running(
    workers: int = 2, *, cores: int = 1, memory: str = "1g", gpus: int = 0, port: int = 0,
    env: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A cluster while the body runs, in a temporary folder. port: the master's; 0: any that is free."""
    with tempfile.TemporaryDirectory(prefix="betr-cluster-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), cores, memory, gpus, port, dict(os.environ) if env is None else env)
        try:
            cluster.start(workers)
            yield cluster
        finally:
            cluster.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a cluster until Ctrl-C or SIGTERM; the exit code: 0, 1 where it doesn't start."""
    parser = argparse.ArgumentParser(prog="python -m deploy.cluster", description=__doc__)
    parser.add_argument("--workers", type=int, default=2, help="how many workers (2)")
    parser.add_argument("--cores", type=int, default=1, help="cores of each worker (1)")
    parser.add_argument("--memory", default="1g", help="memory that a worker's executors may have together (1g)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that each worker says it has (0)")
    parser.add_argument("--port", type=int, default=7077, help="the master's port (7077; 0: any that is free)")
    given = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(
            given.workers, cores=given.cores, memory=given.memory, gpus=given.gpus, port=given.port
        ) as cluster:
            print(_usage(cluster, given.workers), flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except InputError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1


def _usage(cluster: Cluster, workers: int) -> str:
    asks = " --gpus-per-task 1 --spark spark.executor.resource.gpu.amount=1" if cluster.gpus else ""
    has = f", {cluster.gpus} GPU(s)" if cluster.gpus else ""
    return (
        f"master   {cluster.url}, its page {cluster.page}\n"
        f"workers  {workers}, each {cluster.cores} core(s), {cluster.memory}{has}\n"
        f"check    betr doctor --master {cluster.url}\n"
        f"run      betr run --master {cluster.url}{asks} --documents ... --benchmarks ... --tables ...\n"
        f"logs     {cluster.folder}, as long as it runs; Ctrl-C stops it"
    )


if __name__ == "__main__":
    sys.exit(main())
