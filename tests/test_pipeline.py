"""The whole line on a small made-up corpus, through the same functions as the command line."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from betr import file_scoring, pipeline
from betr.tables import (
    CORPUS_SAMPLE,
    CORPUS_SCORES,
    DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SAMPLE_LABELS,
    SELECTION_RUNS,
    SELECTIONS,
    STAGE_RUNS,
)
from curation.errors import InputError
from curation.tables import Tables
from tests.helpers import demo_documents, rows_hash, settings, write_house, write_lines

pytestmark = [pytest.mark.slow]

STAGES = ["import", "targets", "sample", "embed", "rank", "train", "score", "select", "cover"]


def states(report: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: stage["state"] for stage in report["stages"]}


@pytest.fixture
def house(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    copy = tmp_path / "house"
    shutil.copytree(finished[0] / "tables", copy / "tables")
    for name in ("documents", "benchmarks"):  # the files themselves stay: an import knows them by their path
        (copy / name).symlink_to(finished[0] / name)
    return copy


@pytest.mark.connect
def test_a_first_run_does_every_stage_and_reports_it(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    folder, report = finished
    assert states(report) == dict.fromkeys(STAGES, "done")
    assert [set(stage) for stage in report["stages"]] == [{"stage", "state", "rows_in", "rows_out", "seconds"}] * 9
    assert report["tables"] == str(folder / "tables")
    assert report["rejected"] == {} and report["duplicates"] == 0
    assert {"classifier_id", "accuracy", "auc", "log_loss", "positives"} <= set(report["classifier"])
    cut = report["selection"]
    tables = Tables(spark, str(folder / "tables"))
    scores = tables.read(CORPUS_SCORES).collect()
    assert cut["documents"] == len(scores) == 600
    assert cut["tokens"] == sum(row["tokens"] for row in scores)
    budget = int(0.25 * cut["tokens"])
    assert 0 <= budget - cut["kept_tokens"] <= max(row["tokens"] for row in scores)
    best = sorted(scores, key=lambda row: (-row["score"], row["doc_id"]))[: cut["kept_documents"]]
    assert {r["doc_id"] for r in tables.read(SELECTIONS).collect()} == {row["doc_id"] for row in best}


@pytest.mark.connect
def test_every_stage_records_where_its_seconds_went(finished: tuple[Path, dict[str, Any]], spark: SparkSession) -> None:
    folder, _ = finished
    rows = Tables(spark, str(folder / "tables")).read(STAGE_RUNS).where("state = 'done'").collect()
    costs = {row["stage"]: row.asDict() for row in rows}
    parts = ("seconds_reading", "seconds_compute", "seconds_writing")
    for stage in ("embed", "rank", "train", "score"):
        assert all(costs[stage][part] is not None for part in parts), stage
    assert costs["embed"]["seconds_compute"] > 0 and costs["score"]["seconds_reading"] > 0
    for stage, cost in costs.items():
        assert 0 < sum(cost[part] or 0 for part in parts) <= cost["seconds"], stage
        assert 0 < cost["seconds_commits"] <= cost["seconds_writing"] and cost["files"] > 0, stage
    scores = [file.stat().st_size for file in (folder / "tables" / CORPUS_SCORES.name).rglob("*.parquet")]
    assert (costs["score"]["bytes_out"], costs["score"]["files"]) == (sum(scores), len(scores))
    inputs = sum(file.stat().st_size for file in (folder / "documents").glob("*"))
    assert costs["import"]["bytes_in"] == inputs


def test_the_selection_leans_towards_what_the_benchmarks_ask(finished: tuple[Path, dict[str, Any]], spark: SparkSession) -> None:
    tables = Tables(spark, str(finished[0] / "tables"))
    domain = F.col("metadata")["domain"].alias("domain")
    kept = tables.read(SELECTIONS).join(tables.read(DOCUMENTS), "doc_id").groupBy(domain).count().collect()
    domains = {row["domain"]: row["count"] for row in kept}
    # Half of the corpus; the stand-in for an encoder only knows words, or it would be far more.
    assert domains["encyclopedia"] > 0.55 * sum(domains.values())


def test_a_second_run_writes_no_row(house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession) -> None:
    before = {p: p.stat().st_mtime_ns for p in (house / "tables").rglob("*.json")}
    config = settings(finished[0], tables=str(house / "tables"))
    assert states(pipeline.run(config, spark=spark)) == dict.fromkeys(STAGES, "unchanged")
    assert {p: p.stat().st_mtime_ns for p in (house / "tables").rglob("*.json")} == before


def test_a_new_cut_reads_scores_only(house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession) -> None:
    for table in (DOCUMENTS, CORPUS_SAMPLE, SAMPLE_EMBEDDINGS, SAMPLE_LABELS):  # no text, and nothing made from it
        shutil.rmtree(house / "tables" / table.name)
    report = pipeline.run_stage("select", settings(house, documents=(), benchmarks=(), keep=0.1), spark=spark)
    assert states(report) == {"select": "done"}
    assert report["selection"]["kept_tokens"] < finished[1]["selection"]["kept_tokens"]
    runs = Tables(spark, str(house / "tables")).read(SELECTION_RUNS).orderBy("version").collect()
    assert [(row["name"], row["version"], row["keep"]) for row in runs] == [("default", 1, 0.25), ("default", 2, 0.1)]


@pytest.mark.night
def test_an_added_file_is_scored_alone_and_the_classifier_stays(
    house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    more = write_lines(house / "more.jsonl", [*demo_documents(600, 640), *({**row, "id": f"copy-{row['id']}"} for row in demo_documents(0, 5))])
    config = settings(finished[0], tables=str(house / "tables"), documents=(str(finished[0] / "documents"), str(more)))
    report = pipeline.run(config, spark=spark)
    assert states(report) == {**dict.fromkeys(STAGES, "unchanged"), "import": "done", "score": "done", "select": "done", "cover": "done", "watch": "done"}
    rows = {stage["stage"]: stage["rows_out"] for stage in report["stages"]}
    assert rows["import"] == rows["score"] == 40
    assert report["duplicates"] == 5
    assert report["selection"]["documents"] == 640
    assert report["classifier"] == finished[1]["classifier"]

    os.utime(more)  # a file that was touched is read again, and nothing of it is counted twice
    again = pipeline.run_stage("import", config, spark=spark)
    assert states(again) == {"import": "done"}
    assert again["duplicates"] == 5
    # What the sample, and with it all that follows, is drawn from is the corpus as it is, where that is asked for.
    assert states(pipeline.run_stage("sample", config, spark=spark)) == {"sample": "unchanged"}
    anew = pipeline.run_stage("sample", dataclasses.replace(config, retrain=True), spark=spark)
    assert [(stage["state"], stage["rows_in"]) for stage in anew["stages"]] == [("done", 640)]


def test_single_stages_on_files_in_another_order_and_partitioning_give_the_same_selection(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path
) -> None:
    rows = demo_documents(0, 600)[::-1]
    for i in range(3):
        write_lines(tmp_path / "documents" / f"{i}.jsonl.gz", rows[i::3])
    shutil.copytree(finished[0] / "benchmarks", tmp_path / "benchmarks")
    parts = spark.conf.get("spark.sql.shuffle.partitions")
    spark.conf.set("spark.sql.shuffle.partitions", "5")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "37")
    try:
        config = settings(tmp_path, chunk_bytes=10**9, wave_rows=151)
        for stage in STAGES:
            report = pipeline.run_stage(stage, config, spark=spark)
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", parts or "2")
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    cut = {"threshold", "documents", "tokens", "kept_documents", "kept_tokens"}
    assert {k: report["selection"][k] for k in cut} == {k: finished[1]["selection"][k] for k in cut}
    ours, theirs = Tables(spark, str(tmp_path / "tables")), Tables(spark, str(finished[0] / "tables"))
    # Ids of stages cover the files' names; what they hold must not.
    for spec, names in (
        (DOCUMENTS, {"chunk", "file"}),
        (CORPUS_SAMPLE, set()),
        (SAMPLE_EMBEDDINGS, set()),
        (SAMPLE_LABELS, {"labels_id"}),
        (CORPUS_SCORES, {"classifier_id", "chunk"}),
        (SELECTIONS, {"selection_id"}),
    ):
        assert rows_hash(ours, spec, leave_out=frozenset(names)) == rows_hash(
            theirs, spec, leave_out=frozenset(names)
        ), spec.name


def unscored(house: Path, spark: SparkSession) -> Tables:
    """The house as if `score` had never run."""
    tables = Tables(spark, str(house / "tables"))
    spark.sql(f"DELETE FROM {tables.location(STAGE_RUNS)} WHERE stage = 'score'")
    tables.drop(CORPUS_SCORES)
    return Tables(spark, tables.root)


@pytest.mark.night
@pytest.mark.processes  # under Spark Connect, which allows less
def test_both_ways_of_reading_leave_the_same_scores(
    house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = rows_hash(Tables(spark, str(finished[0] / "tables")), CORPUS_SCORES)
    for read, said in (
        ("spark", "score reads through Spark: --read spark"),
        ("auto", "score reads files in the task: the files lie on this machine's disk"),
    ):
        tables = unscored(house, spark)
        config = settings(finished[0], tables=tables.root, read=read)
        assert states(pipeline.run_stage("score", config, spark=spark)) == {"score": "done"}
        assert said in capsys.readouterr().err
        assert rows_hash(Tables(spark, tables.root), CORPUS_SCORES) == expected
        for file in Path(tables.root, CORPUS_SCORES.name).rglob("*.parquet"):
            rows = [(row["score"], row["doc_id"]) for row in pq.ParquetFile(file).read().to_pylist()]
            assert rows == sorted(rows)
        outcome = tables.read(STAGE_RUNS).where("stage = 'score' AND state = 'done'").first()
        assert outcome is not None and f'"read": "{"spark" if read == "spark" else "files"}"' in outcome["outcome"]
    # How it was read is no part of what it is.
    again = pipeline.run_stage("score", settings(finished[0], tables=tables.root, read="spark"), spark=spark)
    assert states(again) == {"score": "unchanged"}


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("vanished", "spark"),
        pytest.param("changed", "files", marks=pytest.mark.night),
        pytest.param("vanished", "files", marks=pytest.mark.night),
        pytest.param("changed", "spark", marks=pytest.mark.night),
    ],
)
def test_a_corpus_file_that_is_gone_is_named_and_its_chunk_not_committed(
    house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession, read: str, told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = unscored(house, spark)
    (last, *_) = sorted((house / "tables" / "documents").glob("chunk=*/*.parquet"), reverse=True)
    find = file_scoring.list_files

    def befall(*arguments: Any) -> list[file_scoring.DataFile]:
        found = find(*arguments)
        last.with_name(f".{last.name}.crc").unlink(missing_ok=True)
        last.write_bytes(last.read_bytes()[:-100]) if told == "changed" else last.unlink()
        return found

    monkeypatch.setattr(file_scoring, "list_files", befall)
    with pytest.raises(InputError, match=f"{last.name} has {told}"):
        pipeline.run_stage("score", settings(finished[0], tables=tables.root, read=read), spark=spark)
    chunks = {row["chunk"] for row in Tables(spark, tables.root).read(CORPUS_SCORES).select("chunk").collect()}
    assert chunks and last.parent.name.removeprefix("chunk=") not in chunks


@pytest.mark.night
def test_going_back_to_an_earlier_setting_makes_it_current_again(
    house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    folder, tables = finished[0], str(house / "tables")
    changed = pipeline.run(settings(folder, tables=tables, positive_fraction=0.2), spark=spark)
    assert states(changed) == {**dict.fromkeys(STAGES, "done"), **dict.fromkeys(STAGES[:4], "unchanged")}
    back = pipeline.run(settings(folder, tables=tables), spark=spark)
    assert states(back) == dict.fromkeys(STAGES, "unchanged")
    assert back["selection"] == finished[1]["selection"]
    rescored = pipeline.run_stage("score", settings(folder, tables=tables), spark=spark)
    assert rescored["classifier"] == finished[1]["classifier"]


def test_bad_input_is_one_sentence_and_leaves_nothing_half_written(
    house: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession
) -> None:
    write_house(tmp_path, 30)
    tables = Tables(spark, str(tmp_path / "tables"))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"documents": (str(tmp_path / "nowhere"),)}, "nowhere does not exist"),
        ({"documents": ()}, "holds no documents yet: name some with --documents"),
        ({"columns": "text=body"}, r"no column 'body'; it has \['domain', 'id', 'license', 'source', 'text'\]"),
        ({"encoder": "no model at all"}, "no model at all"),
        ({"head": "arc_easy"}, "by the head 'arc_easy', but the scores are for all targets only: run `betr run --heads`"),
        ({"heads": True, "quota": ("head=piqa:0.2",)}, "there is no head 'piqa'; there are arc_easy, openbookqa"),
    ]
    for change, message in refused:
        with pytest.raises(InputError, match=message):
            pipeline.run(settings(tmp_path, **change), spark=spark)
    assert not tables.exists(DOCUMENTS)
    for sample, message in [
        ("601", "asks for 601 documents, but the corpus holds 600"),
        ("1e-9", "--sample 1e-9 of 600 documents draws none; ask for a larger share or a number"),
    ]:
        with pytest.raises(InputError, match=message):
            pipeline.run(settings(finished[0], tables=str(house / "tables"), sample=sample), spark=spark)
    # The import and the targets were there, and the sample isn't.
    runs = [Tables(spark, str(root / "tables")).read(STAGE_RUNS).count() for root in (house, finished[0])]
    assert runs[0] == runs[1]


def test_a_corpus_of_rejected_rows_is_refused_with_their_reasons(tmp_path: Path, spark: SparkSession) -> None:
    write_house(tmp_path, 30)
    shutil.rmtree(tmp_path / "documents")
    write_lines(tmp_path / "documents" / "a.jsonl", [{"text": " "}, {"text": ""}])
    with pytest.raises(InputError, match="not one document is left of 2 rows; rejected: 2 empty"):
        pipeline.run(settings(tmp_path), spark=spark)


def test_an_altered_classifier_file_is_refused(
    house: Path, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    (file,) = (house / "tables" / "classifier_files").glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="cut short or altered: its sha256 is"):
        pipeline.run(settings(finished[0], tables=str(house / "tables")), spark=spark)
