"""The stage that finds what the corpus shares with held-out test sets, and how a selection applies it (BETR 3.1).

Nothing is rewritten: hits and verdicts lie beside the text, a selection leaves out what is dropped and counts what is
left of the rest, and an export cuts the text.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from betr import benchmarks, corpus
from betr.run import Outcome, Run
from betr.tables import CONTAMINATED_DOCUMENTS, CONTAMINATION_HITS, DECONTAMINATED_CHUNKS, DOCUMENTS
from curation.decontamination import (
    CUT,
    DROPPED,
    DecontaminationConfig,
    contaminated_documents,
    find_hits,
    kept_share,
    parse_decontamination,
    pieces_of,
)
from curation.errors import InputError
from curation.hashing import content_id
from curation.session import release, share

NONE = ("none",)


def decontaminate(run: Run) -> Outcome | None:
    """Look for the test sets' runs of words in every chunk that they weren't looked for in yet, and judge documents."""
    tables = run.tables
    sources, settings = named_sources(run), _settings(run)
    if not sources:
        return None
    prints = [(each.name, benchmarks.fingerprint(run.spark, each)) for each in sources]
    tests_id = content_id("tests", prints, settings.shortest, settings.longest)
    now = corpus.key(run)
    key = content_id("decontaminate", tests_id, vars(settings), now)
    if (earlier := run.result("decontaminate", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("decontaminate", key, unit="documents", in_parts=True) as work:
        with work.clock.counting("reading"):
            tests = benchmarks.read_tests(run.spark, sources, settings)
        mine = F.col("tests_id") == tests_id
        read = {row["chunk"] for row in tables.read(DECONTAMINATED_CHUNKS).where(mine).select("chunk").collect()}
        chunks = corpus.missing(run, work, read)
        shared = share(run.spark, tests)
        for wave in corpus.waves(work, chunks):
            texts = tables.read(DOCUMENTS).where(F.col("chunk").isin(*wave))
            hits = find_hits(texts, tests=shared).withColumn("tests_id", F.lit(tests_id))
            where = corpus.rows_of("tests_id", tests_id, wave)
            # A document's hits differ in place or length, and no document is in two chunks.
            tables.replace(CONTAMINATION_HITS, hits, where=where, keys_are_unique=True)
            done = DECONTAMINATED_CHUNKS.frame(run.spark, [(tests_id, chunk, chunks[chunk][0]) for chunk in wave])
            tables.append(DECONTAMINATED_CHUNKS, done, keys_are_unique=True)  # they weren't read before
        release(shared)
        found = tables.read(CONTAMINATION_HITS).where(mine)
        verdicts = contaminated_documents(found, settings).withColumn("decontamination_id", F.lit(key))
        # One row a document: it was grouped by.
        tables.replace(CONTAMINATED_DOCUMENTS, verdicts, where={"decontamination_id": key}, keys_are_unique=True)
        work.rows_in = work.rows_out
        with work.clock.counting("compute"):
            totals = _totals(run, key, tests_id)
        how = {"named": list(_named(run)), "settings": vars(settings)}
        work.values = {"tests_id": tests_id, "corpus": now, "tests": len(tests.ids), **totals, **how}
    outcome = run.needs("decontaminate")
    run.terminal.line(f"  {_in_words(outcome.values)}")
    return outcome


def named_sources(run: Run) -> list[benchmarks.BenchmarkSource]:
    """The files of the test sets that --tests names, else of those that were searched for last; none for `none`."""
    named = _named(run)
    if not named or named == NONE:
        return []
    return run.once("test sets", lambda: benchmarks.parse_sources(named, option="--tests"))


def _named(run: Run) -> tuple[str, ...]:
    before = run.now("decontaminate")
    return run.config.tests or (tuple(before["named"]) if before else ())


def _settings(run: Run) -> DecontaminationConfig:
    before = run.now("decontaminate")
    if run.config.tests or run.config.decontamination or not before:
        return parse_decontamination(run.config.decontamination)
    return DecontaminationConfig(**before["settings"])


def _totals(run: Run, key: str, tests_id: str) -> dict[str, Any]:
    judged = run.tables.read(CONTAMINATED_DOCUMENTS).where(F.col("decontamination_id") == key)
    verdicts = {row["verdict"]: row for row in judged.groupBy("verdict").agg(F.count(F.lit(1)).alias("n")).collect()}
    hits = run.tables.read(CONTAMINATION_HITS).where(F.col("tests_id") == tests_id).count()
    return {"hits": hits, **{name: verdicts[name]["n"] if name in verdicts else 0 for name in (CUT, DROPPED)}}


def _in_words(values: dict[str, Any]) -> str:
    return f"{values['hits']:,} hits; {values[CUT]:,} documents are cut, {values[DROPPED]:,} dropped"


def applied(run: Run, corpus_key: str) -> Outcome | None:
    """The verdicts that a selection of this corpus is to apply: the latest, unless --tests says `none`.

    InputError where they are of other test sets than --tests names, or know not all of the corpus.
    """
    named, latest = run.config.tests, run.now("decontaminate")
    if named == NONE:
        return None
    if latest is None:
        if named:
            raise InputError("--tests: the corpus wasn't searched for them yet: run `betr decontaminate --tests ...`")
        return None
    if named and list(named) != latest["named"]:
        raise InputError(
            "--tests names other test sets than the corpus was searched for last: run `betr decontaminate --tests ...`"
        )
    if latest["corpus"] != corpus_key:
        raise InputError(
            "documents came since the corpus was searched for tests: run `betr decontaminate`, or say --tests none"
        )
    return latest


def leave_out(run: Run, scores: DataFrame, decontamination_id: str) -> DataFrame:
    """Scores without what is dropped, and with the tokens that are left of what is cut, by its share of characters."""
    found = run.result("decontaminate", decontamination_id)
    if found is not None and not found[CUT] + found[DROPPED]:
        return scores
    verdicts = run.tables.read(CONTAMINATED_DOCUMENTS).where(F.col("decontamination_id") == decontamination_id)
    judged = scores.join(verdicts.select("doc_id", "verdict", kept_share().alias("left")), "doc_id", "left")
    tokens = F.when(F.col("left").isNull(), F.col("tokens")).otherwise(F.round(F.col("tokens") * F.col("left")))
    kept = judged.where(F.col("verdict").isNull() | (F.col("verdict") != DROPPED))
    return kept.withColumn("tokens", tokens.cast("bigint")).drop("verdict", "left")



def in_pieces(run: Run, rows: DataFrame, decontamination_id: str) -> DataFrame:
    """Rows of documents (id, text, tokens that are left, bytes) as what is left of them: a cut one is a row a piece.

    A piece's id is the document's with `#` and its number behind; its tokens are its share by characters, in all as
    many as the document has left; its bytes too, but of the whole document, so that no text is read for them.
    """
    verdicts = run.tables.read(CONTAMINATED_DOCUMENTS).where(F.col("decontamination_id") == decontamination_id)
    cut = verdicts.where(F.col("verdict") == CUT)
    cut = cut.select(F.col("doc_id").alias("id"), "pieces", "characters", "kept_characters")
    parts = F.transform("pieces", lambda piece, number: F.struct(
        number.alias("number"), piece["start"].alias("start"), piece["end"].alias("end"),
        F.aggregate(F.slice("pieces", 1, number + 1), F.lit(0), lambda sum_, p: sum_ + p["end"] - p["start"])
        .alias("until"),
    ))  # fmt: skip
    split = rows.join(cut, "id", "left").withColumn("part_", F.explode_outer(parts))
    part, whole = F.col("part_"), F.col("part_").isNull()
    length = part["end"] - part["start"]

    def tokens_until(characters: Column) -> Column:
        return F.floor(F.col("tokens") * characters / F.col("kept_characters") + 0.5)

    mine = tokens_until(part["until"]) - tokens_until(part["until"] - length)
    here = F.greatest(F.lit(1), F.floor(F.col("bytes") * length / F.col("characters")))
    return split.withColumns({
        "id": F.when(whole, F.col("id")).otherwise(F.concat("id", F.lit("#"), part["number"].cast("string"))),
        "text": F.get(pieces_of("text", F.when(~whole, F.array(part))), F.lit(0)),
        "tokens": F.when(whole, F.col("tokens")).otherwise(mine).cast("bigint"),
        "bytes": F.when(whole, F.col("bytes")).otherwise(here).cast("bigint"),
    }).drop("part_", "pieces", "characters", "kept_characters")  # fmt: skip
