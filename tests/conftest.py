"""One Spark session for the whole suite: classic, or Connect when CURATION_TEST_CONNECT=1."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # workers would compile what they import anew, each time
# Small heaps on few cores: more collector threads cost more than they bring. And much of the code runs a few times only:
# compiled by Java's second compiler at its usual thresholds it takes longer than it would have run.
os.environ.setdefault(
    "JAVA_TOOL_OPTIONS",
    "-XX:+UseSerialGC -XX:InitialRAMPercentage=20 -Xmn1536m -XX:MetaspaceSize=512m -XX:Tier4InvocationThreshold=20000 "
    "-XX:Tier4MinInvocationThreshold=3000 -XX:Tier4CompileThreshold=50000 -XX:Tier4BackEdgeThreshold=200000",
)
LOCAL = Path(__file__).parent.parent / ".local"
os.environ.setdefault("BETR_HOME", str(LOCAL))
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(LOCAL / "cache" / "hypothesis"))
os.environ.setdefault("NUMBA_CACHE_DIR", str(LOCAL / "cache" / "numba"))

CONF = {
    # Delta keeps the snapshots of the last 10,000 tables for an hour, and the suite makes hundreds of roots: they filled
    # a heap of 2 GB, and collectors took 220 s of CPU in a run of all tests; with a hundred tables and 3 GB, 100 s. Of 3 GB
    # the tests still filled nine tenths: 5 GB, of which objects that die young have more room, and all of it from the start:
    # each step by which a heap grew was a collection of the whole.
    "spark.driver.memory": "5g",
    "spark.databricks.delta.delta.log.cacheSize": "100",
    "spark.sql.shuffle.partitions": "2",
    "spark.default.parallelism": "2",
    # Spark's own checks of its optimiser; SPARK_TESTING turns on more of them.
    "spark.sql.planChangeValidation": "false",
    "spark.sql.lightweightPlanChangeValidation": "false",
}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from curation import session as sessions
    from tests.helpers import INTERPRETED

    conf = {**CONF, **INTERPRETED}
    if os.environ.get("CURATION_TEST_CONNECT") == "1":
        os.environ["SPARK_TESTING"] = "1"  # the client then asks the server for the free port that it took
        settings = {
            **sessions._laptop_defaults("local[2]"),
            **sessions.DELTA_CONF,
            **sessions.RUNTIME_CONF,
            **conf,
            "spark.api.mode": "connect",
            "spark.jars": sessions.jars_argument(),
            "spark.connect.grpc.binding.port": "0",
        }
        builder = SparkSession.builder.master("local[2]").appName("tests")
        for key, value in settings.items():
            builder = builder.config(key, value)
        session = builder.getOrCreate()
        assert sessions.is_connect(session)
    else:
        session = sessions.get_session("tests", master="local[2]", conf=conf)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def finished(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A house with one undisturbed run, and its report; tests that change it work on a copy of its tables."""
    from betr import pipeline
    from tests.helpers import settings, write_house

    folder = tmp_path_factory.mktemp("finished")
    write_house(folder)
    return folder, pipeline.run(settings(folder), spark=spark)


@pytest.fixture(scope="session")
def generated(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and the report of one undisturbed run of BARE."""
    from bare import pipeline
    from tests.bare_house import config, house

    settings = house(tmp_path_factory.mktemp("generated"))
    return settings, pipeline.run(config(settings), spark=spark)


def pytest_collection_finish() -> None:
    """What the imports have made lives to the end: no collection looks through its millions of objects again."""
    gc.freeze()


@pytest.fixture
def tables_root(tmp_path: Path) -> str:
    return str(tmp_path / "tables")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under Connect one case of each test that runs in the classic session too: whether a stage works there doesn't hang
    on its parameters.
    """
    if os.environ.get("CURATION_TEST_CONNECT") != "1":
        return
    seen: set[str] = set()
    first: list[pytest.Item] = []
    others: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        again = test in seen and item.get_closest_marker("processes") is None
        (others if again else first).append(item)
        seen.add(test)
    items[:] = first
    config.hook.pytest_deselected(items=others)
