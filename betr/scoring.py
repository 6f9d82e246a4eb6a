"""Every document of the corpus -> a score and its tokens: one pass over the text, near the speed of reading it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql.types import DoubleType, LongType, MapType, StringType, StructField, StructType

from betr.classifier import FoldedClassifier, FoldedHeads
from curation.clock import StageClock, timed, timed_schema
from curation.errors import InputError, MissingExtraError
from curation.session import Shared


class TokenCounter(Protocol):
    """Counts the tokens of texts."""

    def count(self, texts: pa.Array) -> pa.Array:
        """int64 [n], null where the text is null."""
        ...

    @property
    def name(self) -> str:
        """What identifies the count: it belongs with every figure in tokens."""
        ...


@dataclass(frozen=True)
class BytesPerToken:
    """Tokens as UTF-8 bytes over a calibrated ratio, rounded half up, at least 1."""

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio < float("inf"):
            raise InputError(f"bytes per token must be a positive number; got {self.ratio!r}")

    @property
    def name(self) -> str:
        return f"bytes/{self.ratio!r}"

    def count(self, texts: pa.Array) -> pa.Array:
        size = pc.binary_length(texts)
        counts = np.floor(size.fill_null(0).to_numpy(zero_copy_only=False) / self.ratio + 0.5)
        mask = texts.is_null().to_numpy(zero_copy_only=False)
        return pa.array(np.maximum(counts, 1).astype(np.int64), mask=mask)


@dataclass(frozen=True)
class ExactTokens:
    """Tokens of a Hugging Face fast tokenizer, special tokens left out.

    `definition` is the text of its tokenizer.json, so that executors need neither the file nor the network.
    """

    tokenizer: str
    definition: str

    @classmethod
    def load(cls, tokenizer: str) -> "ExactTokens":
        """By name or path: a tokenizer.json, a folder that holds one, a name in the local Hugging Face cache, then
        the hub.
        """
        counter = cls(tokenizer, _tokenizer_file(tokenizer).read_text(encoding="utf-8"))
        _tokenizer(counter.definition, tokenizer)  # a file that is no tokenizer fails here, not on an executor
        return counter

    @property
    def name(self) -> str:
        return f"tokenizer {self.tokenizer}"

    def count(self, texts: pa.Array) -> pa.Array:
        tokenizer = _tokenizer(self.definition, self.tokenizer)
        counts = np.zeros(len(texts), np.int64)
        for start in range(0, len(texts), 256):  # bounds what the encodings of a batch take
            block = texts[start : start + 256].fill_null("").to_pylist()
            encodings = tokenizer.encode_batch_fast(block, add_special_tokens=False)
            counts[start : start + len(block)] = [len(encoding) for encoding in encodings]
        return pa.array(counts, mask=texts.is_null().to_numpy(zero_copy_only=False))


def _tokenizer_file(name: str) -> Path:
    path = Path(name)
    for candidate in (path, path / "tokenizer.json"):
        if candidate.is_file():
            return candidate
    if not path.exists():
        try:
            from huggingface_hub import hf_hub_download
        except ImportError as error:
            raise MissingExtraError(f"the tokenizer {name!r}", "embedding") from error
        for offline in (True, False):
            try:
                return Path(hf_hub_download(name, "tokenizer.json", local_files_only=offline))
            except Exception:  # the hub raises a dozen kinds; the next try, or the message below, follows
                continue
    raise InputError(
        f"no tokenizer {name!r}: neither a tokenizer.json, nor a folder with one, nor a model at hand; give a path"
    )


@lru_cache(maxsize=2)
def _tokenizer(definition: str, name: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError("counting tokens with a tokenizer", "embedding") from error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one thread a task
    try:
        tokenizer = Tokenizer.from_str(definition)
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"the definition of the tokenizer {name!r} can't be read ({error}); give a tokenizer.json"
        ) from error
    tokenizer.no_truncation()  # sentence encoders cut at some hundred tokens: here the whole text counts
    tokenizer.no_padding()
    return tokenizer


def calibrate_bytes_per_token(texts: Iterable[str], tokenizer: str | ExactTokens) -> float:
    """Total UTF-8 bytes over total tokens of a sample of texts."""
    counter = ExactTokens.load(tokenizer) if isinstance(tokenizer, str) else tokenizer
    sample = pa.array(texts, pa.large_string())
    size = pc.sum(pc.binary_length(sample)).as_py() or 0
    tokens = pc.sum(counter.count(sample)).as_py() or 0
    if tokens == 0:
        raise InputError(
            f"{counter.name} finds no token in {len(sample)} sampled texts; give another sample or tokenizer"
        )
    return float(size / tokens)


class TextScorer(Protocol):
    """Scores texts, each by itself: what other methods put in a classifier's place."""

    def score_array(self, texts: pa.Array) -> pa.DoubleArray:
        """float64 [n], null where the text is null."""
        ...


# `FoldedClassifier.to_bytes()`; with heads the classifier for all targets, and then each head's.
Payload: TypeAlias = bytes | tuple[bytes, ...]
Scorer: TypeAlias = Payload | TextScorer


@lru_cache(maxsize=2)
def _classifier(payload: bytes) -> FoldedClassifier:
    """One decoded classifier and lookup table per worker process, not per task or batch."""
    return FoldedClassifier.from_bytes(payload)


@lru_cache(maxsize=1)
def _classifiers(payloads: tuple[bytes, ...]) -> FoldedHeads:
    return FoldedHeads(tuple(map(FoldedClassifier.from_bytes, payloads)))


def _decoded(payload: Scorer) -> TextScorer | FoldedHeads:
    if isinstance(payload, bytes):
        return _classifier(payload)
    return _classifiers(payload) if isinstance(payload, tuple) else payload


def score_documents(
    documents: DataFrame,
    *,
    classifier: Shared[Scorer],
    tokens: TokenCounter,
    keep: Sequence[str] = (),
    heads: Sequence[str] = (),
    clock: StageClock | None = None,
) -> DataFrame:
    """doc_id, score (double), tokens (bigint) and the columns `keep` of every document; both null where text is null.

    `documents` has doc_id and text; `classifier` shares `FoldedClassifier.to_bytes()` or a TextScorer. A row depends on
    its text alone: no partitioning and no batch size changes it. clock: notes what the tasks spend on reading and on
    scoring.
    heads: names; `classifier` then shares a tuple, the classifier for all targets before theirs, and the column `heads`
    (map<string,double>, in this order) holds their scores. No head changes the score or another head.
    """
    is_timed, schema = clock is not None, scored_schema(documents.schema, keep, heads)

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        work = partial(score_batches, classifier=classifier, tokens=tokens, keep=keep, heads=heads)
        yield from timed(batches, work) if is_timed else work(batches)

    rows = documents.select("doc_id", *keep, "text")
    scores = rows.mapInArrow(score, timed_schema(schema) if is_timed else schema)
    return scores if clock is None else clock.watch(scores)


def scored_schema(documents: StructType, keep: Sequence[str] = (), heads: Sequence[str] = ()) -> StructType:
    """Columns and types of scored documents."""
    by_head = [StructField("heads", MapType(StringType(), DoubleType()))] if heads else []
    return StructType(
        [documents["doc_id"], StructField("score", DoubleType()), StructField("tokens", LongType())]
        + [documents[name] for name in keep]
        + by_head
    )


def score_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    classifier: Shared[Scorer],
    tokens: TokenCounter,
    keep: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """The columns of `scored_schema` for batches that have doc_id, text and `keep`: what both ways of reading do."""
    payload = classifier.value
    model = _decoded(payload)
    for batch in batches:
        texts = batch.column("text")
        by_head: list[pa.Array] = []
        if isinstance(model, FoldedHeads):
            scores, *by_head = _score_heads(model, texts, heads)
        else:
            scores = model.score_array(texts)
        yield pa.RecordBatch.from_arrays(
            [batch.column("doc_id"), scores, tokens.count(texts), *map(batch.column, keep), *by_head],
            ["doc_id", "score", "tokens", *keep, *(["heads"] if by_head else [])],
        )


def _score_heads(model: FoldedHeads, texts: pa.Array, names: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """The first classifier's scores, and the others' as one map a text; both null where the text is null."""
    scores = model.score(texts)
    null = texts.is_null().to_numpy(zero_copy_only=False)
    starts = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(~null * len(names), out=starts[1:])
    offsets = pa.array(starts, mask=np.append(null, False))  # a null start makes a null map, which holds nothing
    keys = pa.array(names, pa.string()).take(pa.array(np.tile(np.arange(len(names)), len(texts) - int(null.sum()))))
    maps = pa.MapArray.from_arrays(offsets, keys, pa.array(scores[~null, 1:].ravel()))
    return pa.array(scores[:, 0], mask=null), maps
