"""Near-duplicates in a run: which of a cluster stays before and after the ranking, against all pairs."""

import dataclasses
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from betr import corpus, deduplication, pipeline, show, stages
from betr.config import RunConfig
from betr.run import Run
from betr.tables import CORPUS_SCORES, DOCUMENTS, SELECTIONS
from curation.errors import InputError
from curation.near_duplicates import NEAR_DUPLICATES, PAIRS, SIGNATURES
from curation.overlap import words
from curation.progress import Terminal
from curation.tables import Tables
from tests.helpers import demo_documents, settings, write_lines

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.processes]  # beside the others, under Spark Connect


def copies() -> list[dict[str, Any]]:
    """Documents with another last word, and some of these with another first word."""
    long = [row for row in demo_documents(0, 40) if len(row["text"].split()) >= 45]
    last = [{**row, "id": f"{row['id']}/last", "text": row["text"].rsplit(" ", 1)[0] + " indeed"} for row in long]
    return last + [{**row, "id": f"{row['id']}/first", "text": "Well " + row["text"]} for row in last[:5]]


def clusters_of_all_pairs(texts: dict[str, str]) -> dict[str, set[str]]:
    """doc_id -> its cluster, of those that have one: what pairs of a Jaccard similarity of 0.8 and more connect."""
    grams = {}
    for doc, text in texts.items():
        found = words(text)
        grams[doc] = {tuple(found[k : k + 5]) for k in range(max(1, len(found) - 4))}
    cluster = {doc: {doc} for doc in texts}
    for one, other in combinations(texts, 2):
        shared = len(grams[one] & grams[other])
        if shared and shared / len(grams[one] | grams[other]) >= 0.8 and cluster[one] is not cluster[other]:
            cluster[one] |= cluster[other]
            for doc in cluster[other]:
                cluster[doc] = cluster[one]
    return {doc: members for doc, members in cluster.items() if len(members) > 1}


@pytest.fixture(scope="module")
def after(finished: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Any:
    """The finished run's tables with near copies of some documents, cut with the best of each cluster alone."""
    folder = tmp_path_factory.mktemp("after")
    shutil.copytree(finished[0] / "tables", folder / "tables")
    more = write_lines(folder / "copies.jsonl", copies())
    config = settings(
        finished[0], tables=str(folder / "tables"), documents=(str(finished[0] / "documents"), str(more)),
        near_duplicates="after", name="unique",
    )  # fmt: skip
    return config, pipeline.run(config, spark=spark)


def kept_by(spark: SparkSession, config: RunConfig, selection_id: str) -> set[str]:
    rows = Tables(spark, config.tables).read(SELECTIONS).where(F.col("selection_id") == selection_id).collect()
    return {row["doc_id"] for row in rows}


def test_of_each_cluster_the_highest_score_stays(after: tuple[RunConfig, dict[str, Any]], spark: SparkSession) -> None:
    config, report = after
    tables = Tables(spark, config.tables)
    texts: dict[str, str] = dict(tables.read(DOCUMENTS).select("doc_id", "text").collect())
    scores = {row["doc_id"]: row for row in tables.read(CORPUS_SCORES).collect()}
    wanted = clusters_of_all_pairs(texts)
    best = {doc: min(members, key=lambda d: (-scores[d]["score"], d)) for doc, members in wanted.items()}
    rows = {row["doc_id"]: row for row in tables.read(NEAR_DUPLICATES).collect()}
    assert {doc: row["kept_doc_id"] for doc, row in rows.items()} == best
    assert {doc: (row["cluster_id"], row["documents"]) for doc, row in rows.items()} == {
        doc: (min(members), len(members)) for doc, members in wanted.items()}
    assert {len(members) for members in wanted.values()} >= {2, 3}
    left = {doc: row["tokens"] for doc, row in scores.items() if best.get(doc, doc) == doc}
    assert (report["selection"]["documents"], report["selection"]["tokens"]) == (len(left), sum(left.values()))
    chosen = kept_by(spark, config, report["selection"]["selection_id"])
    assert chosen and chosen <= set(left)
    assert min(scores[doc]["score"] for doc in chosen) >= max(scores[doc]["score"] for doc in set(left) - chosen)


def test_none_keeps_all_and_looking_again_finds_the_same(
    after: tuple[RunConfig, dict[str, Any]], spark: SparkSession
) -> None:
    config, report = after
    versions = {spec.name: Tables(spark, config.tables).version(spec) for spec in (SIGNATURES, PAIRS)}
    again = pipeline.run(dataclasses.replace(config, near_duplicates=None), spark=spark)
    assert {each["state"] for each in again["stages"]} == {"unchanged"}
    assert again["selection"]["selection_id"] == report["selection"]["selection_id"]
    every = pipeline.run_stage("select", dataclasses.replace(config, near_duplicates="none", name="all"), spark=spark)
    assert every["selection"]["documents"] == 600 + len(copies())
    assert versions == {spec.name: Tables(spark, config.tables).version(spec) for spec in (SIGNATURES, PAIRS)}


def test_before_the_ranking_the_longest_stays_and_only_it_is_sampled(
    after: tuple[RunConfig, dict[str, Any]], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = after
    shutil.copytree(config.tables, tmp_path / "tables")
    before = dataclasses.replace(config, tables=str(tmp_path / "tables"), near_duplicates="before", sample="0.9", retrain=True)
    with pytest.raises(InputError, match=r"nobody has looked for them so yet: run `betr deduplicate"):
        pipeline.run_stage("sample", before, spark=spark)
    pairs = Tables(spark, before.tables).version(PAIRS)
    pipeline.run_stage("deduplicate", before, spark=spark)
    tables = Tables(spark, before.tables)
    assert tables.version(PAIRS) == pairs or tables.read(PAIRS).count() == tables.read(PAIRS, pairs).count()
    run = Run(before, spark, Terminal())
    unique = deduplication.applied(run, corpus.key(run), before_the_ranking=True)
    assert unique is not None
    texts: dict[str, str] = dict(tables.read(DOCUMENTS).select("doc_id", "text").collect())
    longest = {
        doc: min(members, key=lambda d: (-len(texts[d].encode()), d))
        for doc, members in clusters_of_all_pairs(texts).items()
    }
    rows = tables.read(NEAR_DUPLICATES).where(F.col("deduplication_id") == unique.key).collect()
    assert {row["doc_id"]: row["kept_doc_id"] for row in rows} == longest
    with monkeypatch.context() as another_night:
        another_night.setattr(corpus, "key", lambda _: "another night")
        with pytest.raises(InputError, match="documents came since near-duplicates were looked for: run `betr deduplicate`"):
            pipeline.run_stage("sample", before, spark=spark)
    pipeline.run_stage("sample", before, spark=spark)
    run = Run(before, spark, Terminal())
    drawn = {row["doc_id"] for row in stages.sample(run, run.needs("sample")).collect()}
    assert drawn and all(longest.get(doc, doc) == doc for doc in drawn)
    everything = dataclasses.replace(before, near_duplicates="none")
    pipeline.run_stage("sample", everything, spark=spark)
    run = Run(everything, spark, Terminal())
    assert drawn < {row["doc_id"] for row in stages.sample(run, run.needs("sample")).collect()}


def test_scores_that_lack_new_documents_choose_no_duplicates(
    after: tuple[RunConfig, dict[str, Any]], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "key", lambda _: "another night")
    with pytest.raises(InputError, match="--near-duplicates after goes by scores, and documents came since: run `betr score` first"):
        pipeline.run_stage("deduplicate", after[0], spark=spark)


def test_why_a_document_is_left_out_is_told(after: tuple[RunConfig, dict[str, Any]], spark: SparkSession) -> None:
    config, _ = after
    row = Tables(spark, config.tables).read(NEAR_DUPLICATES).where("doc_id <> kept_doc_id").orderBy("doc_id").first()
    assert row is not None
    told = show.explain(config, row["doc_id"], spark=spark, terminal=Terminal())
    said = {each["name"]: each["shared"] for each in told["selections"]}
    assert said["unique"].startswith(f"left out: a near-duplicate of {row['kept_doc_id']}") and said["default"] == ""
    (found,) = show.show(config, "near-duplicates", spark=spark, terminal=Terminal())
    assert found["copies"] == Tables(spark, config.tables).read(NEAR_DUPLICATES).where("doc_id <> kept_doc_id").count()
