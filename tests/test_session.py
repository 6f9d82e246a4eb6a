"""The session: found rather than made, never moved; large values reach every executor; errors come back as sentences."""

import io
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ClassVar

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from rich.console import Console

from curation import session, worker_daemon
from curation.errors import InputError, MissingExtraError, explain
from curation.progress import Terminal, clock

pytestmark = pytest.mark.connect


def test_an_active_session_is_used_as_it_is(spark: SparkSession) -> None:
    assert session.get_session() is SparkSession.getActiveSession()
    if not session.is_connect(spark):
        assert session.get_session(master=spark.sparkContext.master) is spark
        with pytest.raises(InputError, match=r"--master local\[7\]: this session already runs on local\[2\]"):
            session.get_session(master="local[7]")


def test_on_databricks_the_platforms_session_is_used_where_none_is_active(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(session.ON_DATABRICKS, "client.4.1")
    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", lambda self: spark)
    monkeypatch.setattr(session, "_build", lambda *_: pytest.fail("a session was built"))
    assert session.get_session() is spark


def test_a_session_that_says_auto_for_its_partitions_has_a_number_of_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Serverless:
        conf: ClassVar[dict[str, str]] = {"spark.sql.shuffle.partitions": "auto"}

    monkeypatch.setattr(session, "is_connect", lambda _: True)
    assert session.default_parallelism(Serverless()) == session.WITHOUT_A_NUMBER  # type: ignore[arg-type]
    Serverless.conf["spark.sql.shuffle.partitions"] = "64"
    assert session.default_parallelism(Serverless()) == 64  # type: ignore[arg-type]


def test_in_a_thread_of_somebodys_process_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(session.interrupts_raise).result()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_shared_value_reaches_every_task(spark: SparkSession) -> None:
    weights = np.arange(100_000, dtype=np.float32)
    shared = session.share(spark, weights)

    def total(batches):  # type: ignore[no-untyped-def]
        for batch in batches:
            yield batch.assign(id=float(shared.value.sum()))

    rows = spark.range(0, 4, 1, 4).select(F.col("id").cast("double").alias("id")).mapInPandas(total, "id double").collect()
    assert {row["id"] for row in rows} == {float(weights.sum())}
    session.release(shared)


def test_what_a_worker_has_loaded_is_left_out_of_later_collections(spark: SparkSession) -> None:
    def frozen(batches):  # type: ignore[no-untyped-def]
        import gc

        for batch in batches:
            yield batch.assign(id=gc.get_freeze_count())

    tasks = spark.range(0, 8, 1, 8).mapInPandas(frozen, "id bigint")  # more than workers: one has a second task
    assert max(row["id"] for row in tasks.collect()) > 10_000  # pandas and pyarrow alone are more


def test_a_collector_freezes_where_modules_were_loaded_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(worker_daemon.gc, "freeze", lambda: frozen.append(1))
    collector = worker_daemon.Collector()
    collector.collect(), collector.collect()
    assert len(frozen) == 1
    monkeypatch.setitem(sys.modules, "loaded_by_this_test", sys)
    collector.collect()
    assert len(frozen) == 2


def test_what_an_executor_refuses_comes_back_as_its_sentence(spark: SparkSession) -> None:
    def refuse(batches):  # type: ignore[no-untyped-def]
        raise InputError("vectors: row x holds NaN; embed it again")
        yield from batches

    with pytest.raises(Exception) as raised:
        spark.range(3).mapInPandas(refuse, "id bigint").collect()
    assert explain(raised.value) == "vectors: row x holds NaN; embed it again"


def test_errors_of_spark_become_sentences_and_others_stay(spark: SparkSession) -> None:
    with pytest.raises(Exception) as raised:
        spark.read.parquet("/no/such/place").collect()
    sentence = explain(raised.value)
    assert sentence is not None
    assert "/no/such/place" in sentence
    assert "\n" not in sentence
    assert explain(ValueError("ours")) is None
    assert str(MissingExtraError("an encoder", "embedding")) == (
        "an encoder needs the extra 'embedding', which isn't installed: pip install 'betr-bare[embedding]'"
    )


def test_finished_tasks_are_seen_while_a_job_runs(spark: SparkSession) -> None:
    def slow(batches):  # type: ignore[no-untyped-def]
        import time

        time.sleep(1.5)
        yield from batches

    seen: list[tuple[int, int]] = []
    with session.TaskWatch(spark, lambda done, known: seen.append((done, known))):
        spark.range(0, 4, 1, 4).mapInPandas(slow, "id bigint").collect()
    assert seen
    assert all(0 <= done <= known for done, known in seen)
    assert max(known for _, known in seen) >= 4


def test_ctrl_c_stops_the_jobs_of_its_own_session_alone(spark: SparkSession) -> None:
    if session.is_connect(spark):
        pytest.skip("a client of Connect knows no session but its own")

    def slow(batches):  # type: ignore[no-untyped-def]
        import time

        for batch in batches:
            time.sleep(3)
            yield batch

    def works(session: SparkSession) -> bool:
        try:
            return session.range(0, 1, 1, 1).mapInPandas(slow, "id bigint").count() == 1
        except Exception:
            return False

    ours, theirs = spark.newSession(), spark.newSession()
    with ThreadPoolExecutor(2) as pool:
        stopped, going_on = pool.submit(works, ours), pool.submit(works, theirs)
        while not stopped.done():
            session.cancel_jobs(ours)  # again, until its job has begun
            wait([stopped], timeout=0.2)
        assert not stopped.result() and going_on.result()


def test_plain_lines_where_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("curation.progress.PLAIN_EVERY_SECONDS", 0.0)
    terminal = Terminal(out)
    assert not terminal.bars
    with terminal.stage("embed", total=10, unit="texts") as stage:
        stage.batch(4)
        stage.tasks(1, 2)
        stage.advance(4)
        stage.tasks(2, 2)  # no batch is under way: nothing to add
        stage.batch(6, tasks=3)
        stage.tasks(2, 2)  # a shuffle's: the work has three
        stage.tasks(2, 3)
        stage.advance(6)
    lines = out.getvalue().splitlines()
    assert [re.match(r"embed    (\d+)/10 texts  (\d+)%  .*/s  .*", line).groups() for line in lines] == [  # type: ignore[union-attr]
        ("2", "20"), ("4", "40"), ("8", "80"), ("10", "100"),
    ]  # fmt: skip
    assert [clock(s) for s in (0.4, 59, 61, 3599, 3600, 11_045)] == ["0s", "59s", "1m01s", "59m59s", "1h00m", "3h04m"]


def test_stages_with_long_names_say_what_they_say_in_one_column(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("curation.progress.PLAIN_EVERY_SECONDS", 0.0)
    terminal = Terminal(out)
    terminal.make_room(["arm/direct/train", "arm/random"])
    terminal.make_room(["score"])  # shorter ones take nothing back
    for name in ("arm/direct/train", "arm/random", "score"):
        with terminal.stage(name, total=2, unit="documents") as stage:
            stage.advance(1)
        terminal.line_of(name, "done")
    lines = out.getvalue().splitlines()
    assert [line[:17].rstrip() for line in lines] == [n for n in ("arm/direct/train", "arm/random", "score") for _ in range(2)]
    assert all(line[16] == " " and line[17] != " " for line in lines)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_bars_of_long_names_stay_on_one_line_each(width: int) -> None:
    terminal = Terminal(io.StringIO())
    terminal.console = Console(width=width, force_terminal=True, color_system=None, file=io.StringIO())
    terminal.bars = True
    terminal.make_room(["arm/direct/train"])
    with terminal.stage("arm/direct/train", total=12_345_678, unit="documents") as one, terminal.stage("score", total=9, unit="rows"):
        one.advance(1_234_567)
        assert terminal._bar is not None
        shown = Console(width=width, color_system=None, file=io.StringIO())
        shown.print(terminal._bar.get_renderable())
    long, short = shown.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert long.startswith("arm/direct/train ") and short.startswith("score            ")
    assert "1,234,567/12,345,678 documents" in long and long.index("1,234,567") == short.index("0/9 rows")


def test_a_bar_with_rows_rate_and_time_left_on_a_terminal() -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Tty()
    terminal = Terminal(out)
    terminal.bars = True
    with terminal.stage("score", total=1000, unit="documents") as stage:
        stage.advance(250)
        assert terminal._bar is not None
        terminal._bar.refresh()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.getvalue())
    assert "score" in shown
    assert "250/1,000 documents" in shown
