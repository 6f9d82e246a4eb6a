"""One Spark session: laptop, cluster, Databricks, Connect. The only room that knows the JVM and the classic context."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pyspark import TaskContext
from pyspark.sql import SparkSession

from curation.class_archive import java_options
from curation.errors import InputError
from curation.jars import find_jars, home_folder, resolve_jars

ON_DATABRICKS = "DATABRICKS_RUNTIME_VERSION"  # a variable that its clusters and its serverless compute set
WITHOUT_A_NUMBER = 8  # tasks at once, where the session doesn't say: serverless has `auto`

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

DELTA_CONF = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
}

RUNTIME_CONF = {
    # pyspark 4.2.0 hangs on a plain Python udf right on a Parquet scan without this.
    "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled": "false",
    # Batches by bytes: four thousand documents of 10 MB would not fit into a worker.
    "spark.sql.execution.arrow.maxBytesPerBatch": str(64 * 2**20),
    # A row group is what one task reads: Parquet's own 128 MB leave a chunk of the corpus with two, of unequal size.
    "parquet.block.size": str(16 * 2**20),
}


def get_session(
    app_name: str = "betr-bare", *, master: str | None = None, conf: dict[str, str] | None = None
) -> SparkSession:
    """The active session where there is one (Databricks, notebooks); else a new one with Delta wired in.

    master: a Spark master (`local[4]`, `spark://host:7077`) or a Connect address (`sc://host`). An active session or
    spark-submit's own --master is never overridden: asking for another one raises InputError.
    conf: Spark settings that win over the laptop's defaults.
    """
    active = SparkSession.getActiveSession()
    if active is None and ON_DATABRICKS in os.environ:
        active = SparkSession.builder.getOrCreate()  # the one that the platform has made, whatever kind it is
    if active is not None:
        _refuse_other_master(active, master)
        for key, value in {**RUNTIME_CONF, **(conf or {})}.items():
            with contextlib.suppress(Exception):  # serverless allows some settings only, and does without the others
                active.conf.set(key, value)
        return active
    try:
        return _build(app_name, master, conf or {})
    except Exception as error:
        raise InputError(_start_failure(error, master)) from error


def is_connect(spark: SparkSession) -> bool:
    """True where the session is a Spark Connect client (no JVM, no sparkContext)."""
    return ".connect." in type(spark).__module__


def is_local_session(spark: SparkSession) -> bool:
    """True where executors are threads of this machine's own process: a GPU of this machine is theirs."""
    try:
        return (spark.conf.get("spark.master", "") or "").startswith("local")
    except Exception:  # some Connect servers keep their settings to themselves
        return False


def default_parallelism(spark: SparkSession) -> int:
    """Cores that the session can use at once, at least 1 (Connect: shuffle partitions stand in for it)."""
    if is_connect(spark):
        partitions = spark.conf.get("spark.sql.shuffle.partitions", "") or ""
        return max(1, int(partitions)) if partitions.isdigit() else WITHOUT_A_NUMBER
    return max(1, int(spark.sparkContext.defaultParallelism))


def task_gpu() -> str | None:
    """In a task: the address of the GPU that Spark gave it, None where it gave none."""
    context = TaskContext.get()
    given = (context.resources() if context is not None else {}).get("gpu")
    return None if given is None else given.addresses[0]


class Shared(Protocol[T_co]):
    """A large value that every executor reads as `.value`."""

    @property
    def value(self) -> T_co: ...


@dataclass(frozen=True)
class _Enclosed(Generic[T]):
    value: T


def share(spark: SparkSession, value: T) -> Shared[T]:
    """Hand a large value to every executor once: a broadcast on classic, the function's own closure under Connect."""
    if is_connect(spark):
        return _Enclosed(value)
    return spark.sparkContext.broadcast(value)  # type: ignore[return-value]


def release(shared: Shared[Any]) -> None:
    """Free a shared value on the executors as soon as no stage needs it."""
    if not isinstance(shared, _Enclosed):
        shared.destroy()  # type: ignore[attr-defined]


class TaskWatch:
    """Calls `on_progress(done, total)` with the finished and known tasks of each Spark stage while the body runs.

    Classic asks the status tracker twice a second from a thread; Connect has its own progress handler.
    """

    def __init__(self, spark: SparkSession, on_progress: Callable[[int, int], None]) -> None:
        self._spark, self._on_progress = spark, on_progress
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> TaskWatch:
        if is_connect(self._spark):
            self._spark.registerProgressHandler(self._from_connect)  # type: ignore[arg-type]
        else:
            self._thread = threading.Thread(target=self._poll, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is None:
            self._spark.removeProgressHandler(self._from_connect)  # type: ignore[arg-type]
        else:
            self._thread.join(timeout=2)

    def _from_connect(self, stages: Any, **_: Any) -> None:
        for stage in stages or ():
            self._on_progress(stage.num_completed_tasks, stage.num_tasks)

    def _poll(self) -> None:
        tracker = self._spark.sparkContext.statusTracker()
        while not self._stop.wait(0.5):
            try:
                infos = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
            except Exception:  # the context is going down: progress is never a reason to fail
                return
            for info in infos:
                if info is not None:
                    self._on_progress(info.numCompletedTasks, info.numTasks)


def interrupts_raise() -> None:
    """For a command line, before and after it starts a session: Ctrl-C and SIGTERM raise KeyboardInterrupt, no more.

    pyspark's own handler calls the JVM from inside the call that was broken off, and py4j logs both with their stacks
    through the root logger, which prints where nobody has set up logging. In a thread of somebody's process (a
    scheduler's) the signals are theirs.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


def cancel_jobs(spark: SparkSession) -> None:
    """Stop whatever the session is computing (Ctrl-C), and nothing of others who share its cluster."""
    spark.interruptAll()


def java_process(spark: SparkSession) -> subprocess.Popen[bytes]:
    """The process of the Java that this process started for its classic session."""
    process: subprocess.Popen[bytes] = spark.sparkContext._gateway.proc  # type: ignore[union-attr]
    return process


def jars_argument() -> str:
    """Delta's jars as spark-submit's --jars wants them; resolved on first use."""
    return ",".join(str(jar) for jar in find_jars() or resolve_jars())


def _build(app_name: str, master: str | None, conf: dict[str, str]) -> SparkSession:
    remote = os.environ.get("SPARK_REMOTE") or (master if master and master.startswith("sc://") else None)
    if remote:
        builder: Any = SparkSession.builder.remote(remote)
        for key, value in {**RUNTIME_CONF, **conf}.items():
            builder = builder.config(key, value)
        return builder.getOrCreate()

    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has started the JVM and knows the master
    # Executors take python3 from PATH otherwise, which has neither this package nor its libraries.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    settings: dict[str, str] = {**DELTA_CONF, **RUNTIME_CONF}
    if not submitted:
        target = master or os.environ.get("SPARK_MASTER") or "local[*]"
        settings["spark.master"] = target
        if target.startswith(("local[", "local-cluster[")) or target == "local":
            settings.update(_laptop_defaults(target))
        settings["spark.jars"] = jars_argument()
    settings["spark.ui.showConsoleProgress"] = "false"
    # Errors are our sentences: telling the JVM the line of each column expression is a call more for every one.
    settings["spark.python.sql.dataFrameDebugging.enabled"] = "false"
    settings.update(conf)
    if submitted:
        _bring_delta(settings)
    builder = SparkSession.builder.appName(app_name)
    for key, value in settings.items():
        builder = builder.config(key, value)
    with _java_output_aside() if not submitted else contextlib.nullcontext():
        session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    if submitted:
        _refuse_other_master(session, master)
    return session


def spark_log() -> Path:
    """Where the Java side of a session that this process starts writes: its chatter isn't for the terminal."""
    return home_folder() / "logs" / f"spark-{os.getpid()}.log"


@contextlib.contextmanager
def _java_output_aside() -> Iterator[None]:
    """Start Java with its output in `spark_log()`: what it prints at start-up helps nobody, and stdout is ours."""
    log = spark_log()
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    aside = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.dup2(aside, 1)
        os.dup2(aside, 2)
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (*kept, aside):
            os.close(descriptor)
        atexit.register(_remove_if_empty, log)


def _remove_if_empty(log: Path) -> None:
    with contextlib.suppress(OSError):
        useful = [line for line in log.read_text(errors="replace").splitlines() if not line.startswith(_CHATTER)]
        if not useful:
            log.unlink()


_CHATTER = ("WARNING: Using incubator", "Setting default log level", "To adjust logging level", "WARN NativeCodeLoader")


def _laptop_defaults(master: str) -> dict[str, str]:
    """Settings for one machine: its cores and memory, few partitions, no web page, loopback only."""
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    cores = os.cpu_count() or 1
    wanted = master.removeprefix("local[").split("]")[0].split(",")[0] if master.startswith("local[") else ""
    tasks = int(wanted) if wanted.isdigit() else cores
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    # A quarter of the machine for the JVM: encoders and classifiers live outside it, in the Python workers.
    heap = max(1, min(32, int(gib / 4)))
    return {
        "spark.driver.memory": f"{heap}g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": f"{quiet_logs()} {java_options()}".strip(),
        "spark.python.daemon.module": "curation.worker_daemon",
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": str(home_folder() / "warehouse"),
        "spark.sql.shuffle.partitions": str(max(2, tasks)),
        "spark.databricks.delta.snapshotPartitions": "1",  # a log of thousands of files is a task's work
        "spark.sql.sources.parallelPartitionDiscovery.parallelism": str(max(2, tasks)),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "4096",
    }


def quiet_logs() -> str:
    """The Java option that keeps what Spark tells itself out of the log."""
    return f"-Dlog4j2.configurationFile={Path(__file__).with_name('log4j2.properties').as_uri()}"


def _bring_delta(settings: dict[str, str]) -> None:
    """Under spark-submit without --packages: give the running driver and its executors Delta's jars all the same."""
    from pyspark import SparkContext
    from pyspark.core.context import SparkContext as Context  # the gateway that spark-submit opened

    Context._ensure_initialized()  # type: ignore[attr-defined]
    jvm = SparkContext._jvm
    assert jvm is not None
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        loader.loadClass(DELTA_CONF["spark.sql.extensions"])
        return
    except Exception:  # py4j wraps ClassNotFoundException: the cluster doesn't bring Delta, so we do
        pass
    jars = find_jars() or resolve_jars()
    for jar in jars:
        loader.addURL(jvm.java.net.URL(jar.as_uri()))
    given = jvm.java.lang.System.getProperty("spark.jars") or ""
    settings["spark.jars"] = ",".join([*filter(None, given.split(",")), *map(str, jars)])


def _refuse_other_master(session: SparkSession, master: str | None) -> None:
    if master is None or is_connect(session):
        return
    active = session.sparkContext.master
    if active != master:
        raise InputError(
            f"--master {master}: this session already runs on {active}, and an active session is never moved; "
            "leave --master out, or stop the session first"
        )


def _start_failure(error: Exception, master: str | None) -> str:
    if isinstance(error, InputError):
        return str(error)
    reason = str(error).strip().splitlines()
    return (
        f"Spark could not start on {master or 'this machine'}: {reason[0] if reason else type(error).__name__}. "
        "Check that Java 17 or newer is on PATH or JAVA_HOME, and that the master can be reached"
    )
