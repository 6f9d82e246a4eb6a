"""Scheduled runs: a night's new documents alone are read and scored, the cut is carried on, and what moved is told."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr import pipeline
from betr.changes import changes_of
from betr.config import RunConfig
from betr.run import Run
from betr.tables import CORPUS_SCORES, COVERAGE, DRIFT, SELECTIONS
from curation.errors import DriftError
from curation.progress import Terminal
from curation.tables import Tables
from tests.helpers import demo_documents, settings, write_lines

pytestmark = [pytest.mark.slow, pytest.mark.processes]  # beside the others, under Spark Connect


@pytest.fixture(scope="module")
def night(finished: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The settings of the night after the first run: 60 documents more, one row that is none, half of them how-tos alone."""
    folder = tmp_path_factory.mktemp("nights")
    shutil.copytree(finished[0] / "tables", folder / "tables")
    rows: list[dict[str, Any]] = [*demo_documents(600, 660), {"id": "empty", "text": "  "}]
    more = write_lines(folder / "night.jsonl", rows)
    documents = (str(finished[0] / "documents"), str(more))
    return settings(finished[0], tables=str(folder / "tables"), documents=documents, keep=None, carry="default")


@pytest.fixture(scope="module")
def second(night: RunConfig, spark: SparkSession) -> dict[str, Any]:
    return pipeline.run(dataclasses.replace(night, page=None), spark=spark)


def test_the_second_night_scores_what_is_new_and_carries_the_cut_on(
    second: dict[str, Any], night: RunConfig, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    states = {each["stage"]: each["state"] for each in second["stages"]}
    assert states == {
        "import": "done", "targets": "unchanged", "sample": "unchanged", "embed": "unchanged", "rank": "unchanged",
        "train": "unchanged", "score": "done", "select": "done", "cover": "done", "watch": "done",
    }  # fmt: skip
    rows = {each["stage"]: each["rows_out"] for each in second["stages"]}
    assert rows["import"] == rows["score"] == 60  # what is there is neither read nor scored again
    assert second["classifier"] == finished[1]["classifier"]
    first, cut = finished[1]["selection"], second["selection"]
    assert cut["threshold"] == first["threshold"] and cut["documents"] == 660
    tables = Tables(spark, night.tables)
    selected = {
        row["selection_id"]: {r["doc_id"] for r in tables.read(SELECTIONS).where(f"selection_id = '{row['selection_id']}'").collect()}
        for row in tables.read(SELECTIONS).select("selection_id").distinct().collect()
    }
    assert selected[first["selection_id"]] < selected[cut["selection_id"]]
    scores = {row["doc_id"]: row["score"] for row in tables.read(CORPUS_SCORES).collect()}
    added = selected[cut["selection_id"]] - selected[first["selection_id"]]
    assert added == {row["id"] for row in demo_documents(600, 660) if scores[row["id"]] >= first["threshold"]}


def test_what_moved_is_measured_against_the_rows(
    second: dict[str, Any], night: RunConfig, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    drift = {each["measure"]: each for each in second["drift"]}
    assert set(drift) == {"psi", "ks", "kept", "rejected", "coverage"}
    assert (drift["ks"]["n"], drift["ks"]["n_before"]) == (60, 600)
    assert drift["rejected"]["value"] == pytest.approx(1 / 61) and drift["rejected"]["n"] == 61
    assert drift["coverage"]["value"] == 0  # the same examples, the same sample
    kept = second["selection"]["kept_documents"] - finished[1]["selection"]["kept_documents"]
    assert drift["kept"]["said"].startswith(f"{kept / 60:.1%} of 60 new documents kept")
    rows = Tables(spark, night.tables).read(DRIFT).collect()
    assert {row["measure"]: row["value"] for row in rows} == {name: each["value"] for name, each in drift.items()}
    assert {row["compared_with"] for row in rows} == {finished[1]["selection"]["selection_id"]}
    page = Path(second["page"]).read_text()
    assert "Since the last run" in page and drift["psi"]["said"].split(":")[1].strip() in page


def test_what_a_night_changed_is_that_of_the_rows(
    second: dict[str, Any], night: RunConfig, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    run = Run(night, spark, Terminal())
    found = changes_of(run, run.needs("select"))
    assert found is not None
    first, cut = finished[1]["selection"], second["selection"]
    for side, told in ((found.before, first), (found.now, cut)):
        assert {name: getattr(side, name) for name in told if name != "keep"} == {n: v for n, v in told.items() if n != "keep"}
    tables = Tables(spark, night.tables)
    scores = {row["doc_id"]: row["score"] for row in tables.read(CORPUS_SCORES).collect()}
    kept = sum(scores[row["id"]] >= first["threshold"] for row in demo_documents(600, 660))
    came = found.arrived
    assert (came.files, came.rows, sum(came.rejected.values()), came.duplicates) == (1, 61, 1, 0)
    assert (came.documents, came.kept) == (60, kept) and 0 < kept < 60
    sources = Counter(row["source"] for row in demo_documents(600, 660))
    assert {name: n for name, (n, _) in came.sources.items()} == sources
    assert sum(k for _, k in came.sources.values()) == kept
    assert {each.stage: each.rows_out for each in found.work} == {
        "import": 60, "score": 60, "select": cut["kept_documents"], "cover": 6, "watch": 5}
    assert found.unchanged == ("targets", "sample", "embed", "rank", "train")
    assert list(found.measures) == second["drift"] and found.breached == tuple(m for m in second["drift"] if m["breached"])
    rows = tables.read(COVERAGE).collect()
    for each in found.coverage:
        for column, was, is_ in (("similarity", each.before, each.now), ("selected_similarity", each.kept_before, each.kept_now)):
            for told, selection_id in ((was, first["selection_id"]), (is_, cut["selection_id"])):
                values = [r[column] for r in rows if (r["selection_id"], r["benchmark"]) == (selection_id, each.benchmark)]
                there = sorted(value for value in values if value is not None)
                assert (told is None) == (not there)
                assert told is None or there[0] <= told <= there[-1]
    page = Path(second["page"]).read_text()
    assert f"Since the last run 60 documents came in; {kept} of them are kept" in page
    order = ('id="in-short"', "Beside version 1 of this selection", 'id="from-rows-to-a-selection"')
    assert [page.index(each) for each in order] == sorted(page.index(each) for each in order)
    assert "nothing to do for targets, sample, embed, rank, train" in page and "the only ones that were scored" in page
    (before,) = (each for each in run.all("select") if each.key == first["selection_id"])
    assert changes_of(run, before) is None  # nothing came before it


def test_a_breach_fails_with_its_own_exit_code_once_all_is_written(
    second: dict[str, Any], night: RunConfig, spark: SparkSession
) -> None:
    strict = dataclasses.replace(night, drift=("rejected=0.001", "psi=9", "ks=1"), on_drift="fail")
    with pytest.raises(DriftError, match=r"1\.6% of 61 new rows put aside, 0\.0% of 600 before") as caught:
        pipeline.run_stage("watch", strict, spark=spark)
    assert caught.value.exit_code == 3
    found = json.loads(json.dumps(caught.value.result))
    assert found["selection"] == second["selection"]
    assert [each["measure"] for each in found["drift"] if each["breached"]] == ["rejected"]
    told = pipeline.run_stage("watch", dataclasses.replace(strict, on_drift="warn"), spark=spark)
    assert any("moved since the last run" in warning for warning in told["warnings"])
    assert pipeline.run_stage("watch", dataclasses.replace(strict, on_drift="ignore"), spark=spark)["warnings"] == []


def test_a_third_run_without_anything_new_changes_nothing(
    second: dict[str, Any], night: RunConfig, spark: SparkSession
) -> None:
    again = pipeline.run(night, spark=spark)
    assert {each["state"] for each in again["stages"]} == {"unchanged"} and len(again["stages"]) == 10
    assert again["selection"] == second["selection"]
