"""The exact cut at a token budget: scored rows -> the rows that are kept, written."""

from __future__ import annotations

from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from bench.harness import Case, Measured, Question, Setup, Target, require
from curation.cutting import find_cut, keep
from curation.session import get_session

SHARE = 0.1


def build(setup: Setup) -> Question:
    rows = setup.pick(50_000, 20_000_000)
    spark = get_session("bench", master="local[2]")
    setup.stack.callback(spark.stop)
    path = str(scored_rows(spark, rows, setup.folder))
    total = spark.read.parquet(path).agg(F.sum("tokens")).collect()[0][0]
    budget = int(total * SHARE)

    def read() -> DataFrame:
        return spark.read.parquet(path)

    def ours() -> None:
        cut = find_cut(read(), key="score", id="doc_id", weight="tokens", budget=budget)
        _write(keep(read(), cut, key="score", id="doc_id"), setup.scratch / "ours")

    def window() -> None:
        order = Window.orderBy(F.desc("score"), "doc_id").rowsBetween(Window.unboundedPreceding, 0)
        summed = read().withColumn("until", F.sum("tokens").over(order))
        _write(summed.where(F.col("until") <= budget).drop("until"), setup.scratch / "window")

    threshold: list[float] = []

    def filtered() -> None:
        _write(read().where(F.col("score") >= threshold[0]), setup.scratch / "filtered")

    def check() -> str:
        ours()
        window()
        kept = spark.read.parquet(str(setup.scratch / "ours"))
        a, b = _print(kept), _print(spark.read.parquet(str(setup.scratch / "window")))
        require(a == b, f"the cut keeps {a} and the window {b} (rows, tokens, hash)")
        threshold.append(kept.agg(F.min("score")).collect()[0][0])
        return f"{a[0]:,} rows kept, {a[1]:,} tokens of {budget:,}: the same rows"

    def targets(measured: Measured) -> list[Target]:
        name = f"cut of {rows / 1e6:g}M scored rows, exact"
        return [Target(name, measured.x_peer("histogram cut"), "x window", at_least=4.5)]

    return Question(
        "How fast is the exact cut?",
        f"{rows:,} rows of doc_id, score, tokens in Parquet by spark.range and a hash; a tenth of the tokens is kept",
        [
            Case("histogram cut", "ours", ours, "rows", rows),
            Case("one-partition window", "peer", window, "rows", rows, repeats=3),
            Case("filter and write", "limit", filtered, "rows", rows),
        ],
        check,
        targets,
        note="The limit knows the threshold before it reads.",
        packages=("pyspark", "delta-spark"),
    )


def scored_rows(spark: SparkSession, rows: int, folder: Path) -> Path:
    """Rows as `corpus_scores` holds them, written once: scores by hash, crowded towards 0 as a classifier's are."""
    path = folder / f"scored-{rows}"
    if not (path / "_SUCCESS").is_file():
        spark.range(0, rows, 1, 8).select(
            F.format_string("%016x", F.xxhash64("id")).alias("doc_id"),
            (F.pow(_uniform("score"), F.lit(3.0)) + F.lit(1e-5)).alias("score"),
            (F.floor(_uniform("tokens") * 2000) + 1).cast("bigint").alias("tokens"),
        ).write.mode("overwrite").parquet(str(path))
    return path


def _uniform(salt: str) -> Column:
    return F.pmod(F.xxhash64("id", F.lit(salt)), F.lit(2**40)).cast("double") / F.lit(float(2**40))


def _write(frame: DataFrame, path: Path) -> None:
    frame.select("doc_id", "score", "tokens").write.mode("overwrite").parquet(str(path))


def _print(frame: DataFrame) -> tuple[int, int, int]:
    """Rows, tokens and the exclusive or of the rows' hashes."""
    hashed = frame.select("tokens", F.xxhash64("doc_id", "score", "tokens").alias("h"))
    found = hashed.agg(F.count(F.lit(1)), F.sum("tokens"), F.expr("bit_xor(h)")).collect()[0]
    return int(found[0]), int(found[1] or 0), int(found[2] or 0)
