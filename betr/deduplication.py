"""The stage that finds near-duplicates in the corpus, and how a sample and a selection leave all but one of them out.

`before` the ranking the longest of a cluster stays, and only it may be sampled; `after` it the one with the highest
score. Either way the others lie untouched beside it: another setting, or none, is another selection.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from betr import corpus
from betr.run import Outcome, Run
from betr.tables import CORPUS_SCORES, DOCUMENTS
from curation.errors import InputError
from curation.hashing import content_id
from curation.near_duplicates import (
    NEAR_DUPLICATES,
    PAIRS,
    SCRATCH,
    SIGNATURES,
    NearDuplicateConfig,
    clusters,
    find_links,
    keep_one,
    parse_near,
    signatures,
    store_in,
)

BEFORE, AFTER, NONE = "before", "after", "none"


def deduplicate(run: Run, place: str | None = None) -> Outcome | None:
    """Sign the chunks that have no signature yet, compare what met, and keep one of each cluster.

    place: where in a run this is, or none by itself. None where near-duplicates are left alone, or looked for at the
    other place.
    """
    wanted = place_of(run)
    if wanted == NONE or place not in (None, wanted):
        return None
    run.needs("import", "import --documents PATH...")
    tables, settings = run.tables, _settings(run)
    now = corpus.key(run)
    judged_by = "bytes"
    if wanted == AFTER:
        scored = run.needs("score")
        if scored["corpus"] != now:
            raise InputError("--near-duplicates after goes by scores, and documents came since: run `betr score` first")
        judged_by = scored["classifier_id"]
    key = content_id("deduplicate", settings.config_id, judged_by, now)
    if (earlier := run.result("deduplicate", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("deduplicate", key, unit="documents", in_parts=True) as work:
        mine = F.col("config_id") == settings.config_id
        signed = {row["chunk"] for row in tables.read(SIGNATURES).where(mine).select("chunk").distinct().collect()}
        chunks = corpus.missing(run, work, signed)
        documents = tables.read(DOCUMENTS)
        for wave in corpus.waves(work, chunks):
            rows = signatures(documents.where(F.col("chunk").isin(*wave)), config=settings, keep=("chunk",))
            rows = rows.withColumn("config_id", F.lit(settings.config_id))
            tables.append(SIGNATURES, rows, keys_are_unique=True)  # the documents' key is, and these chunks had none
        with tables.scratch(*SCRATCH):
            store = store_in(tables, settings)
            links = find_links(
                tables.read(SIGNATURES).where(mine), documents, tables.read(PAIRS).where(mine),
                config=settings, store=store,
            )  # fmt: skip
            found = clusters(links, store=store)
            compared = tables.read(PAIRS).where(mine)
            preferences, prefer = _preferences(run, wanted, judged_by)
            rows = keep_one(found, preferences, compared, prefer=prefer).withColumn("deduplication_id", F.lit(key))
            # A document is in one cluster.
            tables.replace(NEAR_DUPLICATES, rows, where={"deduplication_id": key}, keys_are_unique=True)
        work.rows_in = work.rows_out
        with work.clock.counting("compute"):
            work.values = {"corpus": now, "place": wanted, "settings": vars(settings), **_totals(run, key)}
    outcome = run.needs("deduplicate")
    run.terminal.line(f"  {outcome['copies']:,} near-duplicates of {outcome['clusters']:,} documents are left out")
    return outcome


def place_of(run: Run) -> str:
    """Where in a run near-duplicates are looked for: as --near-duplicates says, else as the last time."""
    before = run.now("deduplicate")
    return run.config.near_duplicates or (before["place"] if before is not None else NONE)


def _settings(run: Run) -> NearDuplicateConfig:
    before = run.now("deduplicate")
    if run.config.near_duplicates or run.config.near or before is None:
        return parse_near(run.config.near)
    return NearDuplicateConfig(**before["settings"])


def _preferences(run: Run, place: str, judged_by: str) -> tuple[DataFrame, str]:
    """doc_id and the column whose highest value stays."""
    if place == BEFORE:
        return run.tables.read(DOCUMENTS).select("doc_id", "bytes"), "bytes"
    scores = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == judged_by)
    return scores.select("doc_id", "score"), "score"


def _totals(run: Run, key: str) -> dict[str, Any]:
    rows = run.tables.read(NEAR_DUPLICATES).where(F.col("deduplication_id") == key)
    copies, found, largest = rows.agg(
        F.count_if(F.col("doc_id") != F.col("kept_doc_id")), F.count_distinct("cluster_id"), F.max("documents")
    ).collect()[0]
    return {"copies": copies, "clusters": found, "largest": largest or 0}


def applied(run: Run, corpus_key: str, *, before_the_ranking: bool = False) -> Outcome | None:
    """The clusters that a selection of this corpus is to apply: the latest, unless `none` is asked for.

    before_the_ranking: a sample asks, which applies only those of that place. InputError where documents came that the
    clusters don't know, or they are of another place than --near-duplicates names.
    """
    latest, place = run.now("deduplicate"), place_of(run)
    if place == NONE or (before_the_ranking and place != BEFORE):
        return None
    if latest is None or latest["place"] != place:
        raise InputError(
            f"--near-duplicates {place}: nobody has looked for them so yet: run `betr deduplicate --near-duplicates "
            f"{place}`"
        )
    if latest["corpus"] != corpus_key:
        raise InputError(
            "documents came since near-duplicates were looked for: run `betr deduplicate`, or give "
            "--near-duplicates none"
        )
    return latest


def leave_out(run: Run, rows: DataFrame, deduplication_id: str) -> DataFrame:
    """Rows of documents without those of which a near-duplicate is kept."""
    clusters = run.tables.read(NEAR_DUPLICATES).where(F.col("deduplication_id") == deduplication_id)
    copies = clusters.where(F.col("doc_id") != F.col("kept_doc_id")).select("doc_id")
    return rows.join(copies, "doc_id", "left_anti")
