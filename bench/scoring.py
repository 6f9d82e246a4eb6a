"""Scoring in Spark: a table of documents -> a table of scores, on two cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from bench import documents, official
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr import file_scoring, scoring
from betr.classifier import import_fasttext
from curation.session import get_session, share

RATIO = 4.0
SCHEMA = "doc_id string, score double, tokens bigint"


def build(setup: Setup) -> Question:
    corpus = documents.corpus(setup)
    model = official.model_file(setup, corpus)
    table = documents.repeated(corpus, megabytes=setup.pick(2, 400)).select(["doc_id", "text"])
    folder = documents.write_parts(table, setup.scratch / "documents", 8)
    size, input_ = documents.megabytes(table), documents.told(table)
    del table
    spark = get_session("bench", master="local[2]")
    setup.stack.callback(spark.stop)
    folded = import_fasttext(model, official.POSITIVE)
    shared = share(spark, folded.to_bytes())
    texts = [pq.read_table(path, columns=["text"])["text"] for path in sorted(folder.glob("*.parquet"))]
    tokens = scoring.BytesPerToken(RATIO)
    paths = [(str(path),) for path in sorted(folder.glob("*.parquet"))]

    data_files = [
        file_scoring.DataFile(str(path), path.stat().st_size, pq.ParquetFile(path).metadata.num_rows)
        for path in sorted(folder.glob("*.parquet"))
    ]

    def read() -> DataFrame:
        return spark.read.parquet(str(folder))

    def to(name: str, frame: Callable[[], DataFrame]) -> Callable[[], None]:
        return lambda: frame().write.mode("overwrite").parquet(str(setup.scratch / name))

    def in_tasks(task: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]) -> DataFrame:
        return spark.createDataFrame(paths, "path string").mapInArrow(task, SCHEMA)  # as many files a core

    ours = to("ours", lambda: scoring.score_documents(read(), classifier=shared, tokens=tokens))
    ranges = file_scoring.plan(data_files, ("doc_id", "text"), tasks=2)
    schema = read().schema
    in_task = to(
        "in_task",
        lambda: file_scoring.score_files(spark, ranges, schema, classifier=shared, tokens=tokens),
    )
    official_udf = _official_udf(str(model))
    peer = to("peer", lambda: read().select("doc_id", official_udf("text").alias("score"), _tokens()))
    lengths = to("lengths", lambda: read().mapInArrow(_lengths, SCHEMA))
    read_only = to("read", lambda: in_tasks(_read_only))

    def kernel() -> None:
        with ThreadPoolExecutor(2) as pool:  # the kernel holds no lock of Python's
            list(pool.map(folded.score, texts))

    def check() -> str:
        ours()
        in_task()
        peer()
        through, files = (spark.read.parquet(str(setup.scratch / name)) for name in ("ours", "in_task"))
        unlike = through.exceptAll(files).count() + files.exceptAll(through).count()
        require(not unlike, f"{unlike:,} rows differ between the two ways of reading")
        both = (
            spark.read.parquet(str(setup.scratch / "ours")).select("doc_id", "score", "tokens")
            .join(spark.read.parquet(str(setup.scratch / "peer")).toDF("doc_id", "other", "counted"), "doc_id", "full")
        )
        off, missing, miscounted, rows = both.agg(
            F.max(F.abs(F.col("score") - F.col("other"))),
            F.count_if(F.col("score").isNull() | F.col("other").isNull()),
            F.count_if(F.col("tokens") != F.col("counted")),
            F.count(F.lit(1)),
        ).collect()[0]
        require(not missing, f"{missing:,} documents are in one table only")
        require(not miscounted, f"{miscounted:,} documents have other counts of tokens")
        require(off < 1e-6, f"scores differ by {off:.2g}")
        return f"{rows:,} scores, at most {off:.1g} apart; the same tokens; both ways of reading equal"

    def targets(measured: Measured) -> list[Target]:
        lengths_, reading, scoring_, official_ = (
            measured.median(name)
            for name in ("lengths only", "read in the task", "kernel alone, in memory", "official, pandas UDF")
        )
        taken = f"lengths, then the kernel alone: {lengths_:.2f} + {scoring_:.2f} s, so"
        read = f"reading, then the kernel alone: {reading:.2f} + {scoring_:.2f} s, so"
        together = reading + scoring_
        return [
            Target("scoring, DataFrame", measured.x_peer("DataFrame"), "x official", at_least=5.5),
            Target("scoring, DataFrame", measured.of_limit("DataFrame"), "of lengths only", at_least=0.7,
                   note=f"{taken} {lengths_ / (lengths_ + scoring_):.0%} at most"),
            Target("scoring, files in the task", measured.x_peer("files in the task"), "x official", at_least=9,
                   note=f"{read} {official_ / together:.1f} x at most, if Spark and the scores' file took no time"),
            Target("scoring, files in the task", measured.of_limit("files in the task"), "of read only", at_least=0.65,
                   note=f"{read} {reading / together:.0%} at most"),
        ]

    return Question(
        "How fast does Spark score a corpus?",
        f"{input_}, in {len(paths)} Parquet files; Spark local[2], Parquet to Parquet",
        [
            Case("DataFrame", "ours", ours, "MB", size, limit="lengths only"),
            Case("files in the task", "ours", in_task, "MB", size, limit="read in the task"),
            Case("official, pandas UDF", "peer", peer, "MB", size, limit="lengths only", repeats=3),
            Case("lengths only", "limit", lengths, "MB", size),
            Case("read in the task", "limit", read_only, "MB", size),
            Case("kernel alone, in memory", "limit", kernel, "MB", size),
        ],
        check,
        targets,
        note="Lengths only: the same job through mapInArrow that takes each text's length. Read in the task: pyarrow "
        "reads the files inside the task, no text reaches Spark. Kernel alone: two threads over texts in memory.",
        packages=("pyspark", "pyarrow", "fasttext-numpy2", "numba", "pandas"),
        repeats=5,
    )  # fmt: skip


def _official_udf(path: str) -> Callable[[str], Column]:
    def score(texts: Iterator[pd.Series]) -> Iterator[pd.Series]:
        model = official.load(path)
        for each in texts:
            yield pd.Series(official.probabilities(model, each.tolist()), dtype="float64")

    found: Callable[[str], Column] = F.pandas_udf(score, "double")  # type: ignore[call-overload]
    return found


def _tokens() -> Column:
    counted = F.floor(F.octet_length("text") / F.lit(RATIO) + F.lit(0.5))
    return F.greatest(F.lit(1), counted).cast("bigint").alias("tokens")


def _lengths(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        lengths = pc.binary_length(batch.column("text")).cast(pa.int64())
        columns = [batch.column("doc_id"), lengths.cast(pa.float64()), lengths]
        yield pa.RecordBatch.from_arrays(columns, ["doc_id", "score", "tokens"])


def _read_only(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A row a file: what was read of it."""
    for batch in batches:
        for path in batch.column("path").to_pylist():
            total = sum(map(_text_bytes, pq.ParquetFile(path).iter_batches(4096, columns=["doc_id", "text"])))
            values = [pa.array([Path(path).name]), pa.array([float(total)]), pa.array([total], pa.int64())]
            yield pa.RecordBatch.from_arrays(values, ["doc_id", "score", "tokens"])


def _text_bytes(batch: pa.RecordBatch) -> int:
    return int(np.sum(pc.binary_length(batch.column("text")).to_numpy(zero_copy_only=False)))
