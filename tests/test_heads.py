"""A classifier a benchmark beside the one for all targets: each what it would be alone, and nothing of the others."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from betr import classifier, cli, pipeline
from betr.classifier import load_classifier
from betr.features import FeatureSpec
from betr.run import Run
from betr.tables import (
    BENCHMARK_EMBEDDINGS,
    BENCHMARK_EXAMPLES,
    CLASSIFIERS,
    CORPUS_SCORES,
    DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SAMPLE_LABELS,
    SELECTION_RUNS,
    SELECTIONS,
    STAGE_RUNS,
)
from curation.errors import InputError
from curation.progress import Terminal
from curation.tables import Tables
from evaluation.arm_config import ArmsConfig
from evaluation.arms import make_arms
from tests.helpers import settings
from tests.test_pipeline import STAGES, states
from tests.test_ranking import plain_labels, sorted_pairs

pytestmark = [pytest.mark.processes, pytest.mark.slow]  # beside the others, under Spark Connect

HEADS = ("arc_easy", "openbookqa")
Finished = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def headed(finished: Finished, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A copy of the finished tables on which a run with heads followed, and its report."""
    root = tmp_path_factory.mktemp("headed") / "tables"
    shutil.copytree(finished[0] / "tables", root)
    return root, pipeline.run(settings(finished[0], tables=str(root), heads=True), spark=spark)


@pytest.fixture
def own(headed: Finished, tmp_path: Path) -> Path:
    """A copy of the tables with heads, to change."""
    return Path(shutil.copytree(headed[0], tmp_path / "tables"))


def rows_of(tables: Tables, spec: Any, where: str, *columns: str) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in tables.read(spec).where(where).select(*columns).collect()}


def classifiers(tables: Tables, classifier_id: str) -> dict[str, Row]:
    return {row["head"]: row for row in tables.read(CLASSIFIERS).where(F.col("classifier_id") == classifier_id).collect()}


@pytest.mark.night
def test_heads_turned_on_later_leave_all_that_was_there_and_the_same_scores_for_all_targets(
    headed: Finished, finished: Finished, spark: SparkSession
) -> None:
    root, report = headed
    assert states(report) == {**dict.fromkeys(STAGES, "done"), **dict.fromkeys(STAGES[:4], "unchanged")}
    ours, theirs = Tables(spark, str(root)), Tables(spark, str(finished[0] / "tables"))
    plain, now = finished[1]["classifier"]["classifier_id"], report["classifier"]["classifier_id"]
    assert plain != now

    # Ranked deeper, for the heads: the labels for all targets are the same rows all the same.
    labels_id = classifiers(theirs, plain)[""]["labels_id"]
    mine = f"labels_id = '{labels_id}'"
    assert rows_of(ours, SAMPLE_LABELS, mine, "*") == rows_of(theirs, SAMPLE_LABELS, mine, "*")

    # The classifier that was there wasn't trained again; beside it there is one for each head.
    before, after = classifiers(theirs, plain)[""].asDict(), classifiers(ours, now)
    assert set(after) == {"", *HEADS}
    assert {**after[""].asDict(), "classifier_id": plain} == before == classifiers(ours, plain)[""].asDict()
    assert (root / before["path"]).stat().st_mtime == (finished[0] / "tables" / before["path"]).stat().st_mtime
    assert len(list((root / "classifier_files").iterdir())) == 3

    columns = ("doc_id", "chunk", "score", "tokens", "source")
    scores = rows_of(theirs, CORPUS_SCORES, "true", *columns)
    assert len(scores) == 600
    for classifier_id in (plain, now):
        assert rows_of(ours, CORPUS_SCORES, f"classifier_id = '{classifier_id}'", *columns) == scores
    # Scores with heads and without never stand under one id.
    filled = ours.read(CORPUS_SCORES).groupBy("classifier_id", F.map_keys("heads").alias("heads")).count().collect()
    assert {(row[0], tuple(row[1] or ()), row[2]) for row in filled} == {(plain, (), 600), (now, HEADS, 600)}

    kept = {"keep", "threshold", "documents", "tokens", "kept_documents", "kept_tokens"}
    assert {k: report["selection"][k] for k in kept} == {k: finished[1]["selection"][k] for k in kept}
    assert [(name, list(figures)) for name, figures in report["classifier"]["heads"].items()] == [
        (name, ["accuracy", "auc"]) for name in HEADS
    ]
    assert {k: v for k, v in report["classifier"].items() if k not in ("heads", "classifier_id")} == {
        k: v for k, v in finished[1]["classifier"].items() if k != "classifier_id"
    }


@pytest.mark.night
def test_a_second_run_is_unchanged_and_going_back_finds_what_was_without_heads(
    own: Path, headed: Finished, finished: Finished, spark: SparkSession
) -> None:
    before = sorted(own.rglob("*.json"))
    again = pipeline.run(settings(finished[0], tables=str(own), heads=True), spark=spark)
    assert states(again) == dict.fromkeys(STAGES, "unchanged")
    assert sorted(own.rglob("*.json")) == before
    assert again["classifier"] == headed[1]["classifier"]
    back = pipeline.run(settings(finished[0], tables=str(own)), spark=spark)
    assert states(back) == dict.fromkeys(STAGES, "unchanged")
    assert (back["classifier"], back["selection"]) == (finished[1]["classifier"], finished[1]["selection"])


@pytest.mark.night
def test_each_heads_score_is_what_its_classifier_gives_alone(headed: Finished, spark: SparkSession) -> None:
    root, report = headed
    tables = Tables(spark, str(root))
    now = report["classifier"]["classifier_id"]
    ids, texts = zip(*sorted(rows_of(tables, DOCUMENTS, "true", "doc_id", "text")), strict=True)
    alone = {
        head: dict(zip(ids, load_classifier(root / row["path"], row["sha256"]).score(pa.array(texts)), strict=True))
        for head, row in classifiers(tables, now).items()
    }
    for row in tables.read(CORPUS_SCORES).where(F.col("classifier_id") == now).collect():
        assert {"": row["score"], **row["heads"]} == {head: scores[row["doc_id"]] for head, scores in alone.items()}


@pytest.mark.night
def test_a_head_is_the_classifier_that_its_benchmark_alone_would_train(
    own: Path, headed: Finished, finished: Finished, spark: SparkSession
) -> None:
    (file,) = (finished[0] / "benchmarks").glob("openbookqa*")
    alone = settings(finished[0], tables=str(own), benchmarks=(str(file),))
    for stage in ("targets", "embed", "rank", "train"):
        report = pipeline.run_stage(stage, alone, spark=spark)
    tables = Tables(spark, str(own))
    expected = classifiers(tables, report["classifier"]["classifier_id"])[""]
    found = classifiers(tables, headed[1]["classifier"]["classifier_id"])["openbookqa"]
    assert found["path"] != expected["path"]
    named = {"classifier_id", "head", "path", "labels_id"}
    assert {k: v for k, v in found.asDict().items() if k not in named} == {
        k: v for k, v in expected.asDict().items() if k not in named
    }
    columns = [name for name in SAMPLE_LABELS.struct(spark).names if name != "labels_id"]
    labels = [rows_of(tables, SAMPLE_LABELS, f"labels_id = '{row['labels_id']}'", *columns) for row in (found, expected)]
    assert labels[0] == labels[1] and len(labels[0]) == sampled(tables)


@pytest.mark.night
def test_a_head_is_labelled_by_the_best_ranks_over_its_examples_however_small_k_was(
    own: Path, finished: Finished, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a full sort of every pair; k = 3 documents of each of three examples can't be a fifth of the sample."""
    config = settings(finished[0], tables=str(own), heads=True, k=3, positive_fraction=0.2)
    pipeline.run_stage("rank", config, spark=spark)
    said = capsys.readouterr().err
    assert "head arc_easy: the k = 3 best of each example are too few; again with" in said
    tables = Tables(spark, str(own))
    documents = dict(rows_of_embeddings(tables, SAMPLE_EMBEDDINGS, "doc_id"))
    examples = dict(rows_of_embeddings(tables, BENCHMARK_EMBEDDINGS, "example_id"))
    benchmark = dict(rows_of(tables, BENCHMARK_EXAMPLES, "true", "example_id", "benchmark"))
    outcome = json.loads(latest(tables, "rank")["outcome"])
    for head, labels in {"": outcome, **outcome["heads"]}.items():
        mine = {e: row for e, row in examples.items() if head in ("", benchmark[e])}
        assert labels["examples"] == len(mine) == (6 if head == "" else 3)
        best, positive = plain_labels(sorted_pairs(documents, mine), round(0.2 * len(documents)))
        rows = tables.read(SAMPLE_LABELS).where(F.col("labels_id") == labels["labels_id"]).collect()
        assert {row["doc_id"] for row in rows if row["label"]} == positive
        assert len(rows) == len(best) == sampled(tables)
        assert labels["cutoff_rank"] == max(best[doc_id][0] for doc_id in positive)
        for row in rows:
            rank, example_id, _ = best[row["doc_id"]]
            assert (row["best_rank"], row["nearest_example_id"]) == ((rank, example_id) if rank <= labels["k"] else (None, None))


def sampled(tables: Tables) -> int:
    return int(json.loads(latest(tables, "sample")["outcome"])["rows"])


def rows_of_embeddings(tables: Tables, spec: Any, key: str) -> list[tuple[str, list[float]]]:
    return [(row[key], row["embedding"]) for row in tables.read(spec).collect()]


def latest(tables: Tables, stage: str) -> Row:
    row = tables.read(STAGE_RUNS).where(F.col("stage") == stage).orderBy(F.desc("started")).first()
    assert row is not None
    return row


@pytest.mark.night
def test_training_that_was_broken_off_goes_on_with_the_heads_that_are_missing(
    own: Path, finished: Finished, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(finished[0], tables=str(own), heads=True, epochs=2)
    train, calls = classifier.train_classifier, 0

    def counted(*given: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return train(*given, **more)

    monkeypatch.setattr(classifier, "train_classifier", counted)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_stage("train", config, spark=spark)
    report = pipeline.run_stage("train", config, spark=spark)
    assert calls == 4
    assert states(report) == {"train": "resumed"}
    assert set(report["classifier"]["heads"]) == set(HEADS)
    assert set(classifiers(Tables(spark, str(own)), report["classifier"]["classifier_id"])) == {"", *HEADS}


@pytest.mark.night
def test_features_are_chosen_by_the_run_and_recorded_with_every_classifier(
    own: Path, finished: Finished, headed: Finished, spark: SparkSession
) -> None:
    """Subwords of segments, with heads: trained, folded, saved and scored as words are, under another name."""
    before = headed[1]["classifier"]["classifier_id"]
    words = classifiers(Tables(spark, str(own)), before)[""]
    assert not {"features", "minn", "maxn"} & set(json.loads(words["parameters"]))  # named as before there were others
    config = settings(finished[0], tables=str(own), heads=True, epochs=1, features="segments", maxn=2)
    report = pipeline.run_stage("train", config, spark=spark)
    made = classifiers(Tables(spark, str(own)), report["classifier"]["classifier_id"])
    assert set(made) == {"", *HEADS} and before != report["classifier"]["classifier_id"]
    for row in made.values():
        spec = load_classifier(own / row["path"], row["sha256"]).features
        assert spec == FeatureSpec(2, 5_000, minn=1, maxn=2, segmenter="unicode14")
        assert {"features": "segments", "maxn": 2}.items() <= json.loads(row["parameters"]).items()
    assert states(pipeline.run_stage("score", config, spark=spark)) == {"score": "done"}
    tables = Tables(spark, str(own))
    mine = tables.read(CORPUS_SCORES).where(F.col("classifier_id") == report["classifier"]["classifier_id"])
    found = {row["doc_id"]: row["score"] for row in mine.collect()}
    texts = tables.read(DOCUMENTS).select("doc_id", "text").toArrow()
    scores = load_classifier(own / made[""]["path"]).score(texts["text"]).tolist()
    assert found == dict(zip(texts["doc_id"].to_pylist(), scores, strict=True))


@pytest.mark.night
def test_a_cut_by_head_and_its_explanation_read_scores_only(
    own: Path, headed: Finished, spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sample_ranks", "sample_embeddings", "corpus_sample"):
        shutil.rmtree(own / name)
    tables = Tables(spark, str(own))
    now = f"classifier_id = '{headed[1]['classifier']['classifier_id']}'"
    scores = tables.read(CORPUS_SCORES).where(now).collect()
    told = ["--tables", str(own), "--json"]
    assert cli.main(["select", "--head", "arc_easy", "--keep", "0.2", "--name", "arc", *told]) == 0
    assert cli.main(["select", "--quota", "head=openbookqa:0.7", "--keep", "0.2", "--name", "share", *told]) == 0
    tables = Tables(spark, str(own))
    made = {row["name"]: row for row in tables.read(SELECTION_RUNS).where(now).collect()}
    assert set(made) == {"default", "arc", "share"}
    kept = rows_of(tables, SELECTIONS, f"selection_id = '{made['arc']['selection_id']}'", "doc_id")
    order = sorted(scores, key=lambda row: (-row["heads"]["arc_easy"], row["doc_id"]))
    assert kept == {(row["doc_id"],) for row in order[: len(kept)]} and kept

    capsys.readouterr()
    first = order[0]
    assert cli.main(["explain", first["doc_id"], *told]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert explained["heads"] == first["heads"]
    verdicts = {each["name"]: each for each in explained["selections"]}
    assert verdicts["arc"]["selected"] and verdicts["arc"]["key"] == first["heads"]["arc_easy"]
    assert (verdicts["arc"]["head"], verdicts["default"]["head"]) == ("arc_easy", "")
    assert verdicts["share"]["key"] == max(first["heads"].values())

    assert cli.main(["select", "--head", "piqa", *told]) == 1
    assert "there is no head 'piqa'; there are arc_easy, openbookqa" in capsys.readouterr().err


def test_what_has_no_heads_yet_says_which_stage_makes_them(
    finished: Finished, tmp_path: Path, spark: SparkSession
) -> None:
    root = str(shutil.copytree(finished[0] / "tables", tmp_path / "tables"))
    for stage, change, told in (
        ("train", {"heads": True}, "the labels are for all targets only: run `betr rank --heads` first"),
        ("score", {"heads": True}, "the classifier is for all targets only: run `betr train --heads` first"),
        ("select", {"head": "arc_easy"}, "the scores are for all targets only: run `betr run --heads` first"),
    ):
        with pytest.raises(InputError, match=told):
            pipeline.run_stage(stage, settings(finished[0], tables=root, **change), spark=spark)


def test_scores_of_a_version_without_heads_stay_and_new_ones_may_have_heads(tmp_path: Path, spark: SparkSession) -> None:
    tables = Tables(spark, str(tmp_path / "tables"))
    old = CORPUS_SCORES.schema.replace(", heads map<string,double>", "")
    before = spark.createDataFrame([("a", "0", "one", 0.5, 3, "s")], old)
    before.write.format("delta").partitionBy(*CORPUS_SCORES.partition_by).save(tables.path(CORPUS_SCORES))
    assert [row["heads"] for row in tables.read(CORPUS_SCORES).collect()] == [None]
    after = spark.createDataFrame([("b", "0", "one", 0.5, 3, "s", {"arc": 0.25})], CORPUS_SCORES.schema)
    tables.replace(CORPUS_SCORES, after, where={"classifier_id": "b", "chunk": "0"}, keys_are_unique=True)
    assert {row["classifier_id"]: row["heads"] for row in tables.read(CORPUS_SCORES).collect()} == {
        "a": None, "b": {"arc": 0.25}
    }


@pytest.mark.night
def test_an_arm_for_one_target_keeps_the_best_by_that_head(own: Path, finished: Finished, spark: SparkSession) -> None:
    run = Run(settings(finished[0], tables=str(own), heads=True), spark, Terminal())
    (arm,) = make_arms(run, ArmsConfig(arms=("betr:arc_easy",), tokens=5_000))
    scores = run.tables.read(CORPUS_SCORES).where(F.col("heads").isNotNull()).collect()
    left, best = 5_000, set()
    for row in sorted(scores, key=lambda row: (-row["heads"]["arc_easy"], row["doc_id"])):
        if row["tokens"] > left:
            break
        left -= row["tokens"]
        best.add(row["doc_id"])
    assert rows_of(run.tables, SELECTIONS, f"selection_id = '{arm['selection_id']}'", "doc_id") == {(i,) for i in best}
    assert (arm["kind"], arm["tokens"]) == ("betr", 5_000 - left)
