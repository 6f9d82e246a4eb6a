"""Near-duplicates: text in memory -> signatures on one core; documents in Parquet -> clusters, by Spark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame

from bench import documents
from bench.harness import Case, Measured, Question, Setup, Target, require
from curation import near_duplicates as near
from curation.compiled import jit
from curation.near_duplicates import NearDuplicateConfig
from curation.overlap import GramIndex, Grams, words
from curation.session import get_session
from curation.tables import Tables
from curation.word_hashes import hashed_words

CONFIG = NearDuplicateConfig()
MINIMA = CONFIG.bands * CONFIG.rows
COMPARED = 4_000  # documents that are compared with each other and with copies for the check


def build(setup: Setup) -> Question:
    import datasketch
    import rensa

    corpus = documents.corpus(setup)
    texts, size = corpus["text"].combine_chunks(), documents.megabytes(corpus)
    few = texts.slice(0, setup.pick(500, 5_000))
    few_size = pc.sum(pc.binary_length(few)).as_py() / 1e6
    bytes_ = np.frombuffer(texts.buffers()[2], np.uint8)
    eights = bytes_[: len(bytes_) // 8 * 8].view(np.uint64)
    multipliers = (near._turns(CONFIG)[:MINIMA] | np.uint64(1), near._turns(CONFIG)[MINIMA:])

    spark = get_session("bench", master="local[2]")
    setup.stack.callback(spark.stop)
    path = str(documents.write_parts(corpus.select(["doc_id", "text"]), setup.scratch / "documents", 8))
    tables = Tables(spark, str(setup.scratch / "tables"))
    found: dict[str, Any] = {}

    def read() -> DataFrame:
        return spark.read.parquet(path)

    def permutations() -> None:
        read_ = hashed_words(texts)
        _permute(read_.hashes, read_.offsets, CONFIG.ngram, *multipliers, np.empty((len(texts), MINIMA), np.uint32))

    def by_datasketch(some: pa.Array) -> list[Any]:
        shingles = ([each.encode() for each in _shingles(text)] for text in some.to_pylist())
        return [sketch.hashvalues for sketch in datasketch.MinHash.generator(shingles, num_perm=MINIMA)]

    def by_rensa(some: pa.Array) -> list[Any]:
        sketches = []
        for text in some.to_pylist():
            sketch = rensa.RMinHash(num_perm=MINIMA, seed=1)
            sketch.update(_shingles(text))
            sketches.append(sketch.digest())
        return sketches

    def signed() -> None:
        near.signatures(read(), config=CONFIG).write.format("noop").mode("overwrite").save()

    def text_to_python() -> None:
        rows = read().mapInArrow(_sizes, "bytes bigint")
        rows.write.format("noop").mode("overwrite").save()

    def clustered() -> None:
        for spec in (near.PAIRS, near.SIGNATURES, near.NEAR_DUPLICATES):
            tables.drop(spec)
        mine = {"config_id": CONFIG.config_id, "chunk": "0"}
        rows = near.signatures(read(), config=CONFIG).selectExpr("*", *(f"'{v}' AS {k}" for k, v in mine.items()))
        tables.replace(near.SIGNATURES, rows, where=mine, keys_are_unique=True)
        with tables.scratch(*near.SCRATCH):
            store, none = near.store_in(tables, CONFIG), tables.read(near.PAIRS)
            links = near.find_links(tables.read(near.SIGNATURES), read(), none, config=CONFIG, store=store)
            members = near.clusters(links, store=store).toArrow()
        found["documents_in_clusters"], found["clusters"] = members.num_rows, len(pc.unique(members["cluster_id"]))
        found["compared_pairs"] = tables.read(near.PAIRS).count()

    def check() -> str:
        some = _with_copies(texts.slice(0, setup.pick(500, COMPARED)))
        grams = Grams.of(some.to_pylist(), CONFIG.ngram)
        pairs = _near_pairs(grams, CONFIG.threshold + near.BEYOND)
        counts, bands = near.sign_texts(some, CONFIG)
        require(counts.to_pylist() == grams.sizes.tolist(), "the numbers of distinct n-grams differ from overlap.Grams")
        met = {"ours": [bool(np.any(np.equal(bands[a].values, bands[b].values))) for a, b in pairs]}
        for name, sketch in (("datasketch", by_datasketch), ("rensa", by_rensa)):
            rows = np.array(sketch(some)).reshape(len(some), CONFIG.bands, CONFIG.rows)
            met[name] = [bool((rows[a] == rows[b]).all(axis=1).any()) for a, b in pairs]
        told = ", ".join(f"{name} {sum(found):,}" for name, found in met.items())
        for name, found in met.items():
            require(sum(found) >= 0.97 * len(pairs), f"{name} finds too few of {len(pairs):,} pairs: {told}")
        among = f"{len(some):,} documents and copies with words left out"
        return f"of {len(pairs):,} pairs {near.BEYOND} beyond the threshold, among {among}, meet: {told}"

    def targets(measured: Measured) -> list[Target]:
        return [
            Target("signatures, a core", measured.x_peer("signatures"), "x datasketch", at_least=20),
            Target("signatures, a core", measured.times_faster("signatures", "rensa"), "x rensa", at_least=7),
            Target(
                "signatures beside as many permutations",
                measured.times_faster("signatures", "as many permutations, compiled"), "x", at_least=1.3,
            ),
        ]  # fmt: skip

    in_spark: dict[str, Any] = {"unit": "MB", "amount": size, "limit": "text to Python, Spark"}
    return Question(
        "How fast are near-duplicates found?",
        f"{documents.told(corpus)}; {CONFIG.bands} bands of {CONFIG.rows} minima over {CONFIG.ngram}-grams",
        [
            Case("signatures", "ours", lambda: near.sign_texts(texts, CONFIG), "MB", size),
            Case("datasketch", "peer", lambda: by_datasketch(few), "MB", few_size, repeats=3),
            Case("rensa", "peer", lambda: by_rensa(few), "MB", few_size, repeats=3),
            Case("as many permutations, compiled", "peer", permutations, "MB", size, repeats=3),
            Case("words hashed", "ours", lambda: hashed_words(texts), "MB", size),
            Case("memory read", "limit", lambda: int(eights.sum()), "MB", size),
            Case("signatures, Spark", "ours", signed, **in_spark),
            Case("clusters, Spark", "ours", clustered, **in_spark, repeats=3, extra=lambda: dict(found)),
            Case("text to Python, Spark", "limit", text_to_python, "MB", size),
        ],
        check,
        targets,
        note="One core, but for the cases of Spark, which run in two tasks. The peers get n-grams as strings made in "
        "Python, as their users give them. Clusters are from text to clusters by way of tables: signatures, pairs "
        "compared, components.",
        packages=("datasketch", "rensa", "numba", "numpy", "pyarrow", "pyspark", "delta-spark"),
    )  # fmt: skip


def _shingles(text: str) -> list[str]:
    found = words(text)
    return [" ".join(found[i : i + CONFIG.ngram]) for i in range(max(1, len(found) - CONFIG.ngram + 1))]


def _with_copies(texts: pa.Array) -> pa.Array:
    """The texts, and each once more without one of every 30 to 120 words."""
    copies = []
    for number, text in enumerate(texts.to_pylist()):
        every = 30 * (1 + number % 4)
        copies.append(" ".join(word for place, word in enumerate(text.split()) if (place + number) % every))
    return pa.concat_arrays([texts, pa.array(copies, texts.type)])


def _near_pairs(grams: Grams, least: float) -> list[tuple[int, int]]:
    """All pairs of this similarity, each compared."""
    index = GramIndex()
    index.add(grams)
    pairs: list[tuple[int, int]] = []
    for start in range(0, grams.texts, 200):
        part = np.arange(start, min(start + 200, grams.texts))
        shared = index.shared(grams.take(part))
        whole = grams.sizes[part][:, None] + grams.sizes[None, :] - shared
        a, b = np.nonzero(shared >= least * np.maximum(whole, 1))
        pairs += [(int(x), int(y)) for x, y in zip(part[a], b, strict=True) if x < y]
    return pairs


def _sizes(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pc.binary_length(batch.column("text")).cast(pa.int64())], ["bytes"])


@jit()
def _permute(words_: Any, offsets: Any, ngram: int, multipliers: Any, addends: Any, minima: Any) -> None:
    """The classical scheme: each place is the least of one multiply-shift hash over all n-grams."""
    table, grams = np.empty(1024, np.uint64), np.empty(1024, np.uint64)
    least = np.empty(multipliers.size, np.uint64)
    for text in range(offsets.size - 1):
        table, grams, found = near._distinct(words_, offsets[text], offsets[text + 1], ngram, table, grams)
        least[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        for k in range(found):
            for place in range(multipliers.size):
                least[place] = min(least[place], grams[k] * multipliers[place] + addends[place])
        for place in range(multipliers.size):
            minima[text, place] = least[place] >> np.uint64(32)
