"""DSIR: importance weights over hashed words and word pairs, and a draw in proportion to them (arXiv 2302.03169).

A text is a bag of hashed words and pairs of neighbouring words. Its log importance weight is the sum over the bag of
log(target share of the bucket) - log(raw share of the bucket), smoothed as in the paper's code. The k highest of log
weight + Gumbel noise are a draw of k without replacement in proportion to the weights: `SelectionConfig(mode=
"resample")` cuts them at a budget of tokens.

Words are those of curation/overlap.py (letters and digits, case folded), where the paper's code keeps punctuation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from safetensors import SafetensorError
from safetensors.numpy import load, save

from curation.compiled import jit, mixed
from curation.errors import InputError
from curation.word_hashes import hashed_words

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

BUCKETS = 10_000  # the paper's
SMOOTHING = 1e-8  # the paper's code: added to each bucket's share


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """log_ratio [buckets]: what one occurrence of a feature of a bucket adds to a text's log importance weight."""

    log_ratio: F64

    @classmethod
    def fit(cls, target: I64, raw: I64) -> ImportanceWeights:
        """From how often each bucket occurs in the target texts and in the raw ones, int64 [buckets] both."""
        for name, counts in (("target", target), ("raw", raw)):
            if not counts.sum():
                raise InputError(f"DSIR needs words on both sides; the {name} texts hold none")
        return cls(np.log(target / target.sum() + SMOOTHING) - np.log(raw / raw.sum() + SMOOTHING))

    def score_array(self, texts: pa.Array) -> pa.DoubleArray:
        """The log importance weight of each text, float64 [n]: 0 where a text has no word, null where it is null.

        Summed in the order of the text: no batch changes a bit of it.
        """
        words = hashed_words(texts)
        found = _sums(words.hashes, words.offsets, self.log_ratio)
        return pa.array(found, mask=texts.is_null().to_numpy(zero_copy_only=False) if texts.null_count else None)

    def save(self, path: str | Path) -> str:
        """Write the file, whole or not at all; returns the sha256 of its bytes."""
        payload = save({"log_ratio": self.log_ratio})
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(payload)
        part.replace(target)
        return hashlib.sha256(payload).hexdigest()

    @classmethod
    def load(cls, path: str | Path, sha256: str) -> ImportanceWeights:
        """The weights in a file; InputError if it is missing, or not the one of `sha256`."""
        try:
            payload = Path(path).read_bytes()
            if hashlib.sha256(payload).hexdigest() != sha256:
                raise InputError(f"{path}: the importance weights were cut short or altered; copy the file back")
            return cls(load(payload)["log_ratio"])
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(f"{path}: the importance weights can't be read ({error}); copy the file back") from error


def bucket_counts(texts: DataFrame, *, buckets: int = BUCKETS) -> I64:
    """How often the words and word pairs of these rows (text) fall into each bucket, int64 [buckets].

    Counted in the tasks; a row a bucket comes to the driver.
    """

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        counts = np.zeros(buckets, np.int64)
        for batch in batches:
            add_counts(batch.column("text"), counts)
        used = np.flatnonzero(counts)
        columns = {"bucket": pa.array(used, pa.int32()), "n": pa.array(counts[used], pa.int64())}
        yield pa.RecordBatch.from_pydict(columns)

    counted = texts.select("text").mapInArrow(count, "bucket int, n bigint")
    total = np.zeros(buckets, np.int64)
    for row in counted.groupBy("bucket").agg(F.sum("n").alias("n")).collect():
        total[row["bucket"]] = row["n"]
    return total


def add_counts(texts: pa.Array, counts: I64) -> None:
    """Add how often the features of texts fall into each bucket to `counts`, int64 [buckets]."""
    words = hashed_words(texts)
    _count(words.hashes, words.offsets, counts)


# -- compiled ----------------------------------------------------------------------------------------------------------


@jit()
def _count(hashes: npt.NDArray[np.uint64], offsets: I64, counts: I64) -> None:
    buckets = np.uint64(counts.size)
    for text in range(offsets.size - 1):
        before = np.uint64(0)
        for i in range(offsets[text], offsets[text + 1]):
            if i > offsets[text]:
                counts[np.int64(mixed(before + hashes[i]) % buckets)] += 1
            counts[np.int64(hashes[i] % buckets)] += 1
            before = mixed(hashes[i])


@jit()
def _sums(hashes: npt.NDArray[np.uint64], offsets: I64, weights: F64) -> F64:
    buckets = np.uint64(weights.size)
    sums = np.zeros(offsets.size - 1)
    for text in range(offsets.size - 1):
        before, total = np.uint64(0), 0.0
        for i in range(offsets[text], offsets[text + 1]):
            if i > offsets[text]:
                total += weights[np.int64(mixed(before + hashes[i]) % buckets)]
            total += weights[np.int64(hashes[i] % buckets)]
            before = mixed(hashes[i])
        sums[text] = total
    return sums
