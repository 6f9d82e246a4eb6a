"""One tokenizer for all arms: byte-level BPE, trained on a sample of the pool by hash, kept as the library's JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from curation.errors import InputError, MissingExtraError
from curation.hashing import content_id
from curation.sampling import hash_fraction
from curation.tables import Tables
from evaluation.tables import TOKENIZERS

END = "<|end|>"
VOCABULARY = 4096  # of a small model larger ones take most of the weights and of the time
SAMPLE_BYTES = 8_000_000
LEAST, MOST = 257, 65_536  # a byte each and the end; what two bytes can name


@dataclass(frozen=True)
class ProxyTokenizer:
    """Texts -> tokens, uint16. `definition` is the JSON of the library `tokenizers`: executors need no file."""

    tokenizer_id: str
    definition: str

    @property
    def end(self) -> int:
        """The token behind each document, and before each question."""
        return int(_opened(self.definition).token_to_id(END))

    @property
    def vocabulary(self) -> int:
        return int(_opened(self.definition).get_vocab_size())

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.uint16]]:
        """Each text's tokens, without an end. A text that spells the end token is read as plain characters."""
        found = _opened(self.definition).encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.uint16) for each in found]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(_opened(self.definition).decode(list(tokens), skip_special_tokens=False))


def train_tokenizer(texts: Iterable[str], *, vocabulary: int = VOCABULARY) -> str:
    """The definition of a byte-level BPE of at most so many tokens, the end first: same texts, same definition."""
    if not LEAST <= vocabulary <= MOST:
        raise InputError(f"a vocabulary must be in {LEAST}..{MOST:,}; got {vocabulary}")
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def train_on_pool(
    tables: Tables, documents: DataFrame, *, vocabulary: int = VOCABULARY, sample_bytes: int = SAMPLE_BYTES,
    seed: int = 0,
) -> ProxyTokenizer:  # fmt: skip
    """The tokenizer of a pool (doc_id, text, bytes), made from a sample of about so many bytes by hash of the id, once.

    What is there for this pool and these settings is taken as it is. InputError: an empty pool.
    """
    size = documents.agg(F.count(F.lit(1)).alias("documents"), F.sum("bytes").alias("bytes")).first()
    assert size is not None
    if not size["documents"]:
        raise InputError(f"{tables.root} holds no documents to train a tokenizer on: import some with `betr import`")
    parameters = {"vocabulary": vocabulary, "sample_bytes": sample_bytes, "seed": seed}
    tokenizer_id = content_id("tokenizer", parameters, size["documents"], size["bytes"])
    there = tables.read(TOKENIZERS).where(F.col("tokenizer_id") == tokenizer_id).select("definition").first()
    if there is not None:
        return ProxyTokenizer(tokenizer_id, there["definition"])
    share = min(1.0, sample_bytes / max(1, size["bytes"]))
    chosen = documents.where(hash_fraction("doc_id", seed, "tokenizer") < share) if share < 1 else documents
    rows = sorted((row["doc_id"], row["text"]) for row in chosen.select("doc_id", "text").toLocalIterator())
    if not rows:  # a few documents, each larger than the sample
        row = documents.select("doc_id", "text").orderBy(hash_fraction("doc_id", seed, "tokenizer"), "doc_id").first()
        assert row is not None
        rows = [(row["doc_id"], row["text"])]
    texts = [text for _, text in rows]
    definition = train_tokenizer(texts, vocabulary=vocabulary)
    made = ProxyTokenizer(tokenizer_id, definition)
    kept = (
        tokenizer_id, made.vocabulary, len(texts), sum(len(text.encode()) for text in texts),
        json.dumps(parameters, sort_keys=True), definition,
    )  # fmt: skip
    tables.replace(
        TOKENIZERS, TOKENIZERS.frame(tables.spark, [kept]), where={"tokenizer_id": tokenizer_id}, keys_are_unique=True
    )
    return made


@lru_cache(maxsize=4)
def _opened(definition: str) -> Any:
    tokenizer = _library().Tokenizer.from_str(definition)
    tokenizer.encode_special_tokens = True
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ModuleNotFoundError:
        raise MissingExtraError("the tokenizer of proxy models", "evaluation") from None
    return tokenizers
