"""What leaves the house: accepted rows with their origin, the data card, sheets for reviewers and what comes back."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bare import measuring, stages
from bare.agreement import (
    REVIEW,
    Agreement,
    Review,
    SheetRow,
    agreements,
    decide,
    read_sheet,
    stratified_sample,
    write_sheet,
)  # fmt: skip
from bare.card import CardFacts, DataFile, SeedsUsed, write_card
from bare.compare import ComparisonRow, in_order
from bare.config import ARMS, BareConfig
from bare.cost import load_prices
from bare.report import Compared, ModelUsed, RoundSummary, RunReport, review_page, run_page
from bare.run import Making, Run, opened
from bare.tables import COMPARISONS, DRAFTS, REFINED, REVIEWS, ROUNDS, ROW_EMBEDDINGS, VERDICTS
from curation import export as shards
from curation.command import arguments
from curation.embedding import embed
from curation.errors import InputError
from curation.export import ExportConfig
from curation.files import whole, write_whole
from curation.frames import driver_rows
from curation.progress import Terminal

NOT_HELD_OUT = "No seeds are held out: the real rows are those that the models were shown."
SHEET_CANDIDATES = 100_000  # rows that a sheet's sample is drawn from, by hash


# -- rows --------------------------------------------------------------------------------------------------------------


def export(
    config: BareConfig,
    out: str,
    *,
    how: ExportConfig | None = None,
    spark: SparkSession | None = None,
    terminal: Terminal | None = None,
) -> dict[str, Any]:
    """Accepted rows with where each comes from: as JSON lines in one file, or as shards in a folder, as `how` says."""
    if how is None and not out.endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"--out {out}: name a file that ends in .jsonl or .jsonl.gz, or say --format for shards")
    with opened(config, spark, terminal) as run:
        making = stages.reopen(run)
        found = _export_file(run, Path(out)) if how is None else _export_shards(run, making, out, how)
        return {"generation_id": run.generation_id, **found}


def accepted_rows(run: Run) -> DataFrame:
    """The accepted rows beside their drafts and calls."""
    calls = run.mine(REFINED).select("row_id", "prompt_hash", "model", "revision", "license", "sampling", "seed")
    drafts = run.mine(DRAFTS).select(
        "draft_id", "shots", F.col("model").alias("draft_model"), F.col("revision").alias("draft_revision"),
        F.col("license").alias("draft_license"), F.col("text").alias("draft"), F.col("seed").alias("draft_seed"),
        F.col("prompt_hash").alias("draft_prompt_hash"), F.col("sampling").alias("draft_sampling"),
    )  # fmt: skip
    columns = ("row_id", "draft_id", "round", "item", "attempt", "label", "fields", "decided_by", "text")
    rows = run.mine(VERDICTS).where("accepted").select(*columns)
    return rows.join(drafts, "draft_id").join(calls, "row_id", "left")


def _export_file(run: Run, path: Path) -> dict[str, Any]:
    """One JSON lines file, whole or not at all: the fields, label and origin of a row a line."""
    count = 0
    opener = gzip.open if path.name.endswith(".gz") else open
    with whole(path) as part, opener(part, "wt", encoding="utf-8") as file:
        for row in accepted_rows(run).drop("text").orderBy("item", "attempt").toLocalIterator():
            values = row.asDict(recursive=True)
            fields = values.pop("fields")
            origin = {"generation_id": run.generation_id, **values}
            file.write(json.dumps({**fields, "origin": origin}, ensure_ascii=False) + "\n")
            count += 1
    run.terminal.line(f"{count:,} accepted rows in {path}")
    return {"out": str(path), "rows": count}


def _export_shards(run: Run, making: Making, out: str, how: ExportConfig) -> dict[str, Any]:
    """Shards of id, text (the values without markers and label), label, fields and origin."""
    rows = accepted_rows(run)
    origin = (name for name in rows.columns if name not in ("row_id", "text", "label", "fields"))
    generation = F.lit(run.generation_id).alias("generation_id")
    records = rows.select(
        F.col("row_id").alias("id"), "text", "label", "fields", F.struct(generation, *origin).alias("origin")
    )
    # A generation grows, and people overrule verdicts: which rows they are belongs to what is exported.
    hashed = run.mine(VERDICTS).where("accepted").select(F.xxhash64("row_id", "text").alias("hash"))
    row = hashed.agg(F.count(F.lit(1)).alias("rows"), F.expr("bit_xor(hash)").alias("hash")).collect()[0]
    return shards.export(
        records,
        how,
        out,
        origin={"generation_id": run.generation_id, "rows": row["rows"], "rows_hash": row["hash"]},
        read=lambda: {"tables": run.tables.root, "versions": run.tables.versions_read},
        card=lambda _: write_card(card_facts(run, making, files="data/train-*.parquet")),
        terminal=run.terminal,
    )


# -- a generation's figures --------------------------------------------------------------------------------------------


def run_report(run: Run) -> RunReport:
    """A generation's figures for the page and the card."""
    making, totals, task = run.making, run.totals, run.making.task
    drafter = making.drafter
    models = [ModelUsed(drafter.settings.role, drafter.name, drafter.revision, drafter.license)]
    if making.refiner is not None:
        models.append(ModelUsed("instruct", making.refiner.name, making.refiner.revision, making.refiner.license))
    histograms = measuring.histograms(run)
    rounds = [
        RoundSummary(
            row["round"], row["accepted"], measuring.metrics_of(run, row["round"]), row["action"], row["reason"],
            row["halted"],
        )
        for row in run.mine(ROUNDS).orderBy("round").collect()
    ]  # fmt: skip
    return RunReport(
        generation_id=run.generation_id,
        task=task.name,
        description=task.description,
        arm=run.config.arm,
        drafts=totals.drafts,
        refined=totals.refined,
        reasons={"accepted": totals.accepted, **dict(totals.rejected)},
        models=models,
        measures=measuring.metrics_of(run, measuring.ALL_ROUNDS),
        real=measuring.metrics_of(run, measuring.REAL),
        cosines=histograms.get(measuring.ALL_ROUNDS),
        real_cosines=histograms.get(measuring.REAL),
        indistinguishability=measuring.indistinguishable(run),
        rounds=rounds,
        rows=sheet_rows(run, accepted_only=True, most=10),
        tokens_in=totals.tokens_in,
        tokens_out=totals.tokens_out,
        seconds=totals.seconds,
        cost=totals.cost,
        currency=_currency(run),
        notes=() if making.held_out else (NOT_HELD_OUT,),
        compared=_compared(run),
        compare_by=_compare_by(run),
    )


def _compared(run: Run) -> Compared | None:
    """The latest comparison that this generation is an arm of, its figures in the order of `bare compare`."""
    mine = run.mine(COMPARISONS).orderBy(F.desc("created"), "comparison_id").first()
    if mine is None:
        return None
    wanted = F.col("comparison_id") == mine["comparison_id"]
    rows = [
        ComparisonRow(*(row[field.name] for field in dataclasses.fields(ComparisonRow)))
        for row in run.tables.read(COMPARISONS).where(wanted).collect()
    ]
    ordered = in_order(rows, arms=("real", *ARMS))
    return Compared(mine["comparison_id"], mine["created"], mine["arm"], page_of(mine["comparison_id"]), ordered)


def page_of(comparison_id: str) -> str:
    """The name of a comparison's page."""
    return f"comparison-{comparison_id}.html"


def _compare_by(run: Run) -> str:
    """`bare compare` with the options that this generation was made with."""
    return shlex.join(["bare", "compare", *arguments(run.config, "compare")])


def _currency(run: Run) -> str:
    """The price table's, while it is still where it was."""
    try:
        return load_prices(run.config.prices).currency if run.config.prices else "USD"
    except InputError:
        return "of the price table"


def page(run: Run) -> Path | None:
    """The generation's page beside its tables, where they are a folder here."""
    root = Path(run.tables.root)
    if not root.is_dir():
        return None
    return write_whole(run_page(run_report(run)), root / "pages" / f"generation-{run.generation_id}.html")


def report(
    config: BareConfig, out: str, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Write a generation's page into a file."""
    with opened(config, spark, terminal) as run:
        stages.reopen(run)
        path = write_whole(run_page(run_report(run)), out)
        run.terminal.line(f"the page: {path}")
        return {"generation_id": run.generation_id, "out": str(path)}


def card(
    config: BareConfig, out: str, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Write the data card of a generation."""
    with opened(config, spark, terminal) as run:
        making = stages.reopen(run)
        path = write_whole(write_card(card_facts(run, making, files="data/*.jsonl")), out)
        run.terminal.line(f"the data card: {path}")
        return {"generation_id": run.generation_id, "out": str(path)}


def card_facts(run: Run, making: Making, *, files: str) -> CardFacts:
    """What a generation's card is written from. files: the pattern of the files that hold its rows."""
    task = making.task
    every = [*making.shots.seeds, *(making.real.seeds if making.held_out else ())]
    accepted = run.mine(VERDICTS).where("accepted")
    labels = _counts(accepted, "label") if task.label else None
    words = F.size(F.split(F.trim("text"), r"\s+")).alias("words")
    lengths = measuring.sample(accepted.select("row_id", words), size=10_000, seed=run.config.seed)
    found = agreements_of(run)
    reviewed = run.mine(REVIEWS).select("row_id").distinct().count()
    overruled = run.mine(VERDICTS).where("decided_by = 'review'").where(
        F.col("accepted") != F.col("automatic_reason").isNull()
    )
    return CardFacts(
        run=run_report(run),
        seeds=SeedsUsed(
            shots=len(making.shots), held_out=len(making.real) if making.held_out else 0,
            licenses=[seed.license for seed in every], sources=list(run.config.seeds),
        ),
        files=(DataFile(files),),
        labels=labels,
        seed_labels=dict(Counter(str(seed.label) for seed in every)) if task.label else None,
        words=lengths["words"].tolist(),
        seed_words=[len(task.text_of(seed.fields).split()) for seed in every],
        judge=measuring.judge_of(run),
        reviewed=reviewed,
        overruled=overruled.count(),
        agreements=found,
        control=run.config.control if run.config.rounds > 1 else None,
        tests_checked=bool(run.config.tests),
        created=datetime.now(UTC).date().isoformat(),
    )  # fmt: skip


def _counts(rows: DataFrame, column: str) -> dict[str, int]:
    return {row[column]: row["count"] for row in rows.groupBy(column).count().orderBy(column).collect()}


# -- people in the loop ------------------------------------------------------------------------------------------------


def sheet_rows(
    run: Run, *, accepted_only: bool = False, most: int | None = None, ids: list[str] | None = None
) -> list[SheetRow]:
    """Rows beside their drafts as a reviewer sees them; `automatic` is what no reviewer has touched."""
    rows = run.mine(VERDICTS).select("row_id", "draft_id", "label", "text", "accepted", "automatic_reason")
    if accepted_only:
        rows = rows.where("accepted")
    if ids is not None:
        wanted = driver_rows(run.spark, [(i,) for i in ids], "row_id string")
        rows = rows.join(F.broadcast(wanted), "row_id")
    if most is not None:
        rows = rows.orderBy("row_id").limit(most)
    drafts = run.mine(DRAFTS).select("draft_id", F.col("text").alias("draft"))
    refined = run.mine(REFINED).select("row_id", F.col("text").alias("refined"))
    found = rows.join(drafts, "draft_id").join(refined, "row_id", "left").orderBy("row_id").collect()
    return [
        SheetRow(
            row["row_id"],
            (row["draft"] or "").strip(),
            (row["refined"] or row["text"] or "").strip(),
            row["automatic_reason"] or "accepted",
            row["label"] or "",
        )
        for row in found
    ]


def review_export(
    config: BareConfig, out: str, rows: int, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """A sample of every verdict in its share: sheet.csv to fill in, page.html to read."""
    with opened(config, spark, terminal) as run:
        making = stages.reopen(run)
        stratum = F.coalesce("automatic_reason", F.lit("accepted")).alias("stratum")
        verdicts = run.mine(VERDICTS).select("row_id", stratum)
        some = measuring.sample(verdicts, size=SHEET_CANDIDATES, seed=run.config.seed).sort_values("row_id")
        if not len(some):
            raise InputError(f"generation {run.generation_id} has no rows to review yet; make some with `bare run`")
        ids = some["row_id"].tolist()
        chosen = stratified_sample(ids, some["stratum"].tolist(), rows, seed=run.config.seed)
        shown = sheet_rows(run, ids=[ids[i] for i in chosen])
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sheet.csv").write_text(write_sheet(shown), encoding="utf-8", newline="")
        title = f"{making.task.name}: {len(shown)} rows to review"
        page_ = review_page(shown, title=title, task_description=making.task.description)
        (folder / "page.html").write_text(page_, encoding="utf-8")
        run.terminal.line(
            f"{len(shown)} rows to review in {folder / 'sheet.csv'}, to read in {folder / 'page.html'}; fill in "
            "verdict (accept or reject), reason and reviewer, then `bare review import --sheet FILE`"
        )
        return {"generation_id": run.generation_id, "rows": len(shown), "out": str(folder)}


def review_import(
    config: BareConfig, sheet: list[str], *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Read sheets that came back, settle their rows, and say how far reviewers and verdicts agree.

    All sheets are checked before anything is written; a bad one is refused whole. A second import of a sheet changes
    nothing; a reviewer's later sheet takes the place of the earlier one, row by row.
    """
    texts = {path: _sheet_text(path) for path in sheet}
    with opened(config, spark, terminal) as run:
        stages.reopen(run)
        found: dict[tuple[str, str], tuple[Review, str]] = {}
        for path, text in texts.items():
            known = sheet_rows(run, ids=_ids_in(text, path))
            digest = hashlib.sha256(text.encode()).hexdigest()
            for review in read_sheet(text, known, where=path):
                found[review.row_id, review.reviewer] = (review, digest)
        if not found:
            names = ", ".join(sheet)
            raise InputError(f"--sheet {names}: no row has a verdict yet; fill in verdict, reason and reviewer")
        _refuse_unparsed(run, [review for review, _ in found.values()])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        values = [(run.generation_id, r.row_id, r.reviewer, r.verdict, r.reason, d, now) for r, d in found.values()]
        run.tables.upsert(REVIEWS, REVIEWS.frame(run.spark, values))
        changed = _settle(run, sorted({row_id for row_id, _ in found}))
        agreed = agreements_of(run)
        for each in agreed:
            kappa = "none (both say the same of every row)" if each.kappa is None else f"{each.kappa:.2f}"
            share = "" if each.observed is None else f", {each.observed:.0%} agree"
            run.terminal.line(f"{each.one} and {each.other}: {each.rows} rows{share}, Cohen's kappa {kappa}")
        run.terminal.line(f"{len(found)} reviews taken in, {changed} verdicts changed")
        stages.reopen(run)  # counts after the change
        return {
            "generation_id": run.generation_id,
            "reviews": len(found),
            "changed": changed,
            "accepted": run.totals.accepted,
            "agreements": [vars(each) for each in agreed],
        }


def _sheet_text(path: str) -> str:
    try:
        return Path(path).expanduser().read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--sheet {path} can't be read ({error}); save it as CSV in UTF-8") from error


def _ids_in(text: str, path: str) -> list[str]:
    """Whatever the sheet's cells hold that could be a row's id: what isn't one finds no row."""
    import re

    found = sorted(set(re.findall(r"\b[0-9a-f]{16}\b", text)))
    if not found:
        raise InputError(f"{path} names no row; export it again with `bare review export`")
    return found


def _refuse_unparsed(run: Run, reviews: list[Review]) -> None:
    accepted = [r.row_id for r in reviews if r.verdict == "accept"]
    wanted = driver_rows(run.spark, [(i,) for i in accepted], "row_id string")
    bad = run.mine(VERDICTS).where(F.col("fields").isNull()).join(wanted, "row_id").orderBy("row_id").first()
    if bad is not None:
        raise InputError(
            f"review: {bad['row_id']} is accepted, but it holds no item ({bad['reason']}: {bad['detail']}); reject it"
        )


def _settle(run: Run, row_ids: list[str]) -> int:
    """Verdicts of the reviewed rows by rule (agreement.decide); how many are other than before."""
    wanted = driver_rows(run.spark, [(i,) for i in row_ids], "row_id string")
    rows = run.mine(VERDICTS).join(F.broadcast(wanted), "row_id").collect()
    reviews: dict[str, list[Review]] = {}
    for r in run.mine(REVIEWS).join(F.broadcast(wanted), "row_id").collect():
        reviews.setdefault(r["row_id"], []).append(Review(r["row_id"], r["verdict"], r["reason"], r["reviewer"]))
    columns = VERDICTS.struct(run.spark).names
    settled, changed = [], 0
    for row in rows:
        now = decide(row["automatic_reason"], reviews[row["row_id"]])
        values = {**row.asDict(), "accepted": now.accepted, "reason": now.reason, "decided_by": now.decided_by}
        if now.detail is not None:
            values["detail"] = now.detail
        elif row["decided_by"] == REVIEW:  # what earlier reviews said no longer holds
            values["detail"] = ""
        changed += values["accepted"] != row["accepted"]
        settled.append(tuple(values[column] for column in columns))
    run.tables.upsert(VERDICTS, VERDICTS.frame(run.spark, settled))
    _embed_missing(run)
    return changed


def _embed_missing(run: Run) -> None:
    """Rows that people accepted against a verdict that came before their embedding."""
    there = run.mine(ROW_EMBEDDINGS).select("row_id")
    missing = run.mine(VERDICTS).where("accepted").join(there, "row_id", "left_anti").select("row_id", "wave", "text")
    if not missing.limit(1).count():
        return
    vectors = embed(missing, id_column="row_id", encoder=run.making.encoder, kind="document")
    rows = vectors.join(missing.select("row_id", "wave"), "row_id").withColumns(
        {"generation_id": F.lit(run.generation_id), "draft_embedding": F.lit(None).cast("array<float>")}
    )
    run.tables.append(ROW_EMBEDDINGS, rows, keys_are_unique=True)


def agreements_of(run: Run) -> list[Agreement]:
    """Each reviewer against the automatic verdicts, and each pair of reviewers, over all reviews so far."""
    rows = run.mine(REVIEWS).collect()
    reviews = [Review(r["row_id"], r["verdict"], r["reason"], r["reviewer"]) for r in rows]
    if not reviews:
        return []
    wanted = driver_rows(run.spark, [(i,) for i in sorted({r.row_id for r in reviews})], "row_id string")
    verdicts = run.mine(VERDICTS).join(wanted, "row_id").select("row_id", "automatic_reason").collect()
    automatic = {v["row_id"]: "accept" if v["automatic_reason"] is None else "reject" for v in verdicts}
    return agreements(reviews, automatic)
