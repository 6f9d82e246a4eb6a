"""Two selections side by side, against sets of ids."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from betr import diff, pipeline
from betr.diff import Side, groups, side_by_side
from betr.selection import find_selection
from betr.tables import CORPUS_SCORES, SELECTIONS
from curation.errors import InputError
from curation.frames import driver_rows
from curation.tables import Tables
from tests.helpers import settings

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

RUNS = [
    Row(selection_id="aa11", name="default", version=1), Row(selection_id="ab22", name="default", version=2),
    Row(selection_id="cc33", name="wiki", version=1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found"), [("default", "ab22"), ("default@1", "aa11"), ("wiki", "cc33"), ("aa", "aa11"), ("cc33", "cc33")]
)
def test_a_selection_is_found_by_name_version_and_id(wanted: str, found: str) -> None:
    assert find_selection(RUNS, wanted, root="/t")["selection_id"] == found


@pytest.mark.parametrize(
    ("wanted", "message"), [("a", "is how 2 ids begin"), ("default@9", "is no selection"), ("x", "default@1, default@2, wiki@1")]
)
def test_one_that_is_not_there_is_a_sentence_with_those_that_are(wanted: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_selection(RUNS, wanted, root="/t")


@pytest.mark.parametrize("seed", [0, 1])
def test_every_document_of_either_stands_on_its_side(spark: SparkSession, seed: int) -> None:
    random = np.random.default_rng(seed)
    about = {f"d{i:02d}": (int(random.integers(1, 100)), ("web", "wiki", None)[i % 3]) for i in range(40)}
    a, b = ({doc for doc in about if random.random() < share} for share in (0.5, 0.3))
    one, other = (driver_rows(spark, [(doc,) for doc in sorted(each)], "doc_id string").repartition(3) for each in (a, b))
    known = driver_rows(spark, [(doc, *each) for doc, each in about.items()], "doc_id string, tokens bigint, source string")
    found = groups(side_by_side(one, other, known), F.col("source"))
    for group in found:
        mine = {doc for doc, (_, source) in about.items() if (source or "(none)") == group.value}
        for side, docs in ((group.both, a & b), (group.only_a, a - b), (group.only_b, b - a)):
            assert side == Side(len(docs & mine), sum(about[doc][0] for doc in docs & mine))
    moved = [group.only_a.tokens + group.only_b.tokens for group in found]
    assert moved == sorted(moved, reverse=True) and len(found) == 3


@pytest.mark.night
def test_a_larger_cut_holds_the_smaller_one_and_the_command_says_so(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "tables", tmp_path / "tables")
    given = dataclasses.replace(settings(finished[0]), tables=str(tmp_path / "tables"), by=("metadata.domain",))
    larger = pipeline.run_stage("select", dataclasses.replace(given, keep=0.4), spark=spark)
    found = pipeline.compare_selections(given, "default@1", "default", spark=spark)
    assert (found["a"], found["b"]) == ("default@1", "default@2")
    kept = finished[1]["selection"]
    assert found["both"] == {"documents": kept["kept_documents"], "tokens": kept["kept_tokens"]}
    assert found["only_a"] == {"documents": 0, "tokens": 0}
    assert found["only_b"]["documents"] == larger["selection"]["kept_documents"] - kept["kept_documents"]
    assert found["jaccard"] == pytest.approx(kept["kept_documents"] / larger["selection"]["kept_documents"])
    for groups_ in found["by"].values():
        assert sum(group["only_b"]["documents"] for group in groups_) == found["only_b"]["documents"]
    tables = Tables(spark, given.tables)
    ids = [each.selection_id for each in tables.read(SELECTIONS).select("selection_id").distinct().collect()]
    assert len(ids) == 2 and tables.read(CORPUS_SCORES).count() > found["both"]["documents"]
    same = diff.compare(pipeline.Run(given, spark, pipeline.Terminal()), "default", "default")
    assert same.jaccard == 1 and same.only_a == same.only_b == Side(0, 0)
