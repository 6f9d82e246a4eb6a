"""The two-label fastText classifier: train it, fold it to one float a feature, save it, import an official one (BETR
3.4).

A trained model's p(positive) is softmax over two scores x . o_positive and x . o_negative, x the mean of its feature
rows; that is sigmoid(mean over features of w), w[f] = row_f . (o_positive - o_negative). So w is all that scoring
needs.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import save as safetensors_save

from betr import features as ft
from betr.features import F32, F64, I64, U8, FeatureSpec
from betr.kernel import FeatureWeights, row_width, text_margins
from curation.errors import InputError

FORMAT = "betr-folded-classifier-1"


@dataclass(frozen=True)
class TrainingConfig:
    """fastText's hyper-parameters; the defaults are the paper's (3.4), `buckets` fastText's own (unstated there)."""

    dim: int = 128
    epochs: int = 5
    learning_rate: float = 0.03
    min_count: int = 5
    word_ngrams: int = 2
    buckets: int = 2_000_000
    seed: int = 0
    minn: int = 0
    maxn: int = 0
    segmenter: str = "space"

    def __post_init__(self) -> None:
        for name, low, high in (("dim", 1, 4096), ("epochs", 1, 1000), ("min_count", 1, 2**31), ("seed", 0, 2**63 - 1)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} must be in {low}..{high}; got {getattr(self, name)!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(f"learning_rate must be a positive number; got {self.learning_rate!r}")
        self.features()

    def features(self) -> FeatureSpec:
        buckets = self.buckets if self.word_ngrams > 1 or self.maxn else 0
        return FeatureSpec(self.word_ngrams, buckets, minn=self.minn, maxn=self.maxn, segmenter=self.segmenter)


@dataclass(frozen=True)
class TrainingLog:
    """What a training saw and how it went; `losses` is the mean loss per document of each epoch."""

    documents: int
    positives: int
    tokens: int
    words: int
    buckets_used: int
    losses: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FoldedClassifier:
    """A two-label linear text classifier: one weight per word of the vocabulary and per bucket of n-grams.

    `word_bytes[word_offsets[i]:word_offsets[i + 1]]` is word i, of weight `word_weights[i]`. `labels` is (negative,
    positive); as tokens of a text they are skipped, as fastText does.
    """

    features: FeatureSpec
    word_bytes: U8
    word_offsets: I64
    word_weights: F32
    bucket_weights: F32
    labels: tuple[str, str] = ("__label__0", "__label__1")

    def __post_init__(self) -> None:
        if len(self.word_offsets) != len(self.word_weights) + 1 or len(self.bucket_weights) != self.features.buckets:
            raise InputError(
                f"the classifier's parts don't fit: {len(self.word_offsets) - 1} words, {len(self.word_weights)} "
                f"word weights, {len(self.bucket_weights)} bucket weights for {self.features.buckets} buckets; retrain"
            )
        if not (np.isfinite(self.word_weights).all() and np.isfinite(self.bucket_weights).all()):
            raise InputError(
                "the classifier has weights that are not finite; train it again with a lower learning rate"
            )

    @cached_property
    def words(self) -> list[str]:
        """The vocabulary, most frequent word first; bytes that are not UTF-8 show as U+FFFD."""
        raw, ends = self.word_bytes.tobytes(), self.word_offsets.tolist()
        return [raw[a:b].decode(errors="replace") for a, b in pairwise(ends)]

    @cached_property
    def _weights(self) -> FeatureWeights:
        pool, offsets = _with_labels(self.word_bytes, self.word_offsets, self._bare_labels)
        return FeatureWeights(
            self.features,
            ft.build_vocabulary(pool, offsets),
            _as_rows(self.word_weights, 1),
            _as_rows(self.bucket_weights, 1),
            heads=1,
        )

    @property
    def _bare_labels(self) -> list[bytes]:
        """Labels that lack the prefix: known by name only."""
        return [name.encode() for name in self.labels if not name.startswith(self.features.label_prefix)]

    def margins(self, texts: pa.Array | pa.ChunkedArray, *, kernel: str | None = None) -> F64:
        """The mean weight of each text's features: the log-odds of positive; float64 [n]. A null counts as an empty
        text. kernel: one of `available_kernels()`, the one in use if not given.
        """
        return text_margins(self._weights, texts, kernel=kernel)[:, 0]

    def score(self, texts: pa.Array | pa.ChunkedArray) -> F64:
        """What official fastText reports as the probability of positive, to 1e-6: sigmoid(margin) + 1e-5; float64 [n].

        In (1e-5, 1 + 1e-5], never NaN. A null scores 0.0, below any text; `score_array` keeps it null. A text without
        any known feature (for which fastText predicts nothing) has margin 0. Sums are in double precision; fastText's
        are in single, so that its own rounding shows in texts of very many tokens.
        """
        return _scores(self.margins(texts), texts)

    def score_array(self, texts: pa.Array | pa.ChunkedArray) -> pa.DoubleArray:
        """`score` as an Arrow array, null where the text is null."""
        mask = texts.is_null().to_numpy(zero_copy_only=False) if texts.null_count else None
        return pa.array(self.score(texts), mask=mask)

    def to_bytes(self) -> bytes:
        """The file's content: safetensors, the same bytes for the same classifier."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "bucket_weights": self.bucket_weights,
            "word_bytes": self.word_bytes,
            "word_offsets": self.word_offsets,
            "word_weights": self.word_weights,
        }
        meta: dict[str, Any] = {"format": FORMAT, "features": self.features.recorded(), "labels": list(self.labels)}
        meta["content_sha256"] = _content_sha256(meta, tensors)
        # One metadata entry: safetensors does not promise an order of several.
        return safetensors_save(tensors, {"betr": json.dumps(meta, sort_keys=True)})

    @classmethod
    def from_bytes(cls, payload: bytes, *, name: str = "the classifier") -> "FoldedClassifier":
        """The classifier of `to_bytes`; InputError if the bytes were cut short, altered, or are something else."""
        meta, tensors = _parse(payload, name)
        if _content_sha256({k: v for k, v in meta.items() if k != "content_sha256"}, tensors) != meta["content_sha256"]:
            raise InputError(
                f"{name}: its content doesn't match the checksum inside, so it was altered; train it again"
            )
        return cls(features=FeatureSpec(**meta["features"]), labels=tuple(meta["labels"]), **tensors)

    def save(self, path: str | Path) -> str:
        """Write the file, whole or not at all; returns the sha256 of its bytes."""
        payload = self.to_bytes()
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        part.write_bytes(payload)
        os.replace(part, target)
        return hashlib.sha256(payload).hexdigest()


def _with_labels(pool: U8, offsets: I64, labels: list[bytes]) -> tuple[U8, I64]:
    """Words, and behind them the labels, where the kernels skip them."""
    pool = np.concatenate([pool, *(np.frombuffer(name, np.uint8) for name in labels)])
    pool.flags.writeable = False
    return pool, np.concatenate([offsets, offsets[-1] + np.cumsum([len(name) for name in labels], dtype=np.int64)])


def _as_rows(weights: F32, width: int) -> F32:
    rows = np.require(weights, np.float32, ["C", "A"]).reshape(-1, width)
    rows.flags.writeable = False  # one compiled variant, wherever the weights came from
    return rows


def _scores(margins: F64, texts: pa.Array | pa.ChunkedArray) -> F64:
    """What fastText reports of the margins, [n] or [n, heads]; 0.0 where the text is null.

    Here, once, and not in the kernels: the exponential of one library may differ from another's in the last bit.
    """
    with np.errstate(over="ignore"):  # exp(-margin) is inf for a margin below -709: the score is that of fastText, 1e-5
        scores = np.asarray(1.0 / (1.0 + np.exp(-margins)) + ft.FASTTEXT_LOG_OFFSET)
    if texts.null_count:
        scores[texts.is_null().to_numpy(zero_copy_only=False)] = 0.0
    return scores


@dataclass(frozen=True, eq=False)
class FoldedHeads:
    """Several folded classifiers that score a text in one pass: one lookup of a feature finds all their weights.

    A column of the result is, bit by bit, what that classifier gives alone. They share their features (InputError if
    not); their vocabularies may differ. Where they differ in which tokens they skip as labels, a pass goes to each
    kind. Weights take 4 * row_width(heads) bytes a feature: 128 MB for ten heads over 2,000,000 buckets.
    """

    classifiers: tuple[FoldedClassifier, ...]

    def __post_init__(self) -> None:
        if not self.classifiers:
            raise InputError("there are no classifiers to score with; give at least one")
        first = self.classifiers[0].features
        for i, classifier in enumerate(self.classifiers):
            if classifier.features != first:
                raise InputError(
                    f"classifiers that score in one pass must share their features: number 0 has {first}, number {i} "
                    f"has {classifier.features}; train them with the same word_ngrams and buckets, or score apart"
                )

    @cached_property
    def _passes(self) -> list[tuple[list[int], FeatureWeights]]:
        groups: dict[Any, list[int]] = {}
        for i, classifier in enumerate(self.classifiers):
            groups.setdefault(_skips(classifier), []).append(i)
        return [(columns, _stacked([self.classifiers[i] for i in columns])) for columns in groups.values()]

    def margins(self, texts: pa.Array | pa.ChunkedArray) -> F64:
        """The log-odds of positive, as `FoldedClassifier.margins`; float64 [n, heads]."""
        margins = np.empty((len(texts), len(self.classifiers)))
        for columns, weights in self._passes:
            margins[:, columns] = text_margins(weights, texts)
        return margins

    def score(self, texts: pa.Array | pa.ChunkedArray) -> F64:
        """As `FoldedClassifier.score`; float64 [n, heads], in the order of the classifiers."""
        return _scores(self.margins(texts), texts)


def _words(classifier: FoldedClassifier) -> Iterator[bytes]:
    raw = classifier.word_bytes.tobytes()
    return (raw[start:stop] for start, stop in pairwise(classifier.word_offsets.tolist()))


def _skips(classifier: FoldedClassifier) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """What decides which tokens are skipped, and so which n-grams there are: labels by name, and words like labels."""
    prefix = classifier.features.label_prefix.encode()
    words = frozenset(word for word in _words(classifier) if word.startswith(prefix))
    return frozenset(classifier._bare_labels), words


def _stacked(classifiers: list[FoldedClassifier]) -> FeatureWeights:
    """The union of the vocabularies, in order of first appearance; -0.0 where a classifier doesn't know a word."""
    if len(classifiers) == 1:
        return classifiers[0]._weights
    ids: dict[bytes, int] = {}
    known = [np.array([ids.setdefault(word, len(ids)) for word in _words(c)], np.int64) for c in classifiers]
    width, spec = row_width(len(classifiers)), classifiers[0].features
    words, buckets = (ft.aligned_zeros((rows, width), np.float32) for rows in (len(ids), spec.buckets))
    words.fill(-0.0)
    for head, (classifier, row) in enumerate(zip(classifiers, known, strict=True)):
        words[row, head] = classifier.word_weights + np.float32(0)  # a weight of -0.0 becomes 0.0, which adds the same
        buckets[:, head] = classifier.bucket_weights
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(word) for word in ids], out=offsets[1:])
    pool, offsets = _with_labels(np.frombuffer(b"".join(ids), np.uint8), offsets, classifiers[0]._bare_labels)
    vocabulary = ft.build_vocabulary(pool, offsets)
    return FeatureWeights(spec, vocabulary, _as_rows(words, width), _as_rows(buckets, width), len(classifiers))


_DTYPES = {"bucket_weights": "F32", "word_bytes": "U8", "word_offsets": "I64", "word_weights": "F32"}
_NUMPY = {"F32": np.float32, "U8": np.uint8, "I64": np.int64}


def _content_sha256(meta: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _parse(payload: bytes, name: str) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Metadata and tensors (views of the payload) of a safetensors file of ours.

    Read by hand because safetensors.numpy.load drops the metadata; a header that lies about sizes fails here.
    """
    try:
        size = int.from_bytes(payload[:8], "little")
        header = json.loads(payload[8 : 8 + size])
        meta = json.loads(header["__metadata__"]["betr"])
        if meta["format"] != FORMAT or not isinstance(meta["content_sha256"], str):
            raise ValueError(meta["format"])
        layout = {tensor: header[tensor] for tensor in _DTYPES}
        body = max(entry["data_offsets"][1] for entry in layout.values())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{name} is not a classifier of betr, or was cut short; give the file that `betr train` wrote"
        ) from error
    if len(payload) != 8 + size + body:
        raise InputError(
            f"{name} was cut short or extended: {len(payload)} bytes, not {8 + size + body}; copy or train it again"
        )
    try:
        tensors = {}
        for tensor, dtype in _DTYPES.items():
            start, stop = layout[tensor]["data_offsets"]
            if layout[tensor]["dtype"] != dtype:
                raise ValueError(tensor)
            tensors[tensor] = np.frombuffer(payload[8 + size + start : 8 + size + stop], _NUMPY[dtype])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name}: its header was altered; copy or train it again") from error
    return meta, tensors


def load_classifier(path: str | Path, sha256: str | None = None) -> FoldedClassifier:
    """The classifier in a file; InputError if it is missing, cut short, altered, not ours, or not the one of
    `sha256`.
    """
    try:
        payload = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: the classifier's file can't be read ({error.strerror}); train again or correct the path"
        ) from error
    if sha256 is not None and (found := hashlib.sha256(payload).hexdigest()) != sha256:
        raise InputError(
            f"{path}: the classifier was cut short or altered: its sha256 is {found}, recorded is {sha256}; "
            "copy or train it again"
        )
    return FoldedClassifier.from_bytes(payload, name=str(path))


# --- explaining -------------------------------------------------------------------------------------------------------


def feature_contributions(text: str, classifier: FoldedClassifier) -> list[tuple[str, float]]:
    """What each word and n-gram of one text adds to its margin (log-odds), largest effect first; they sum to the
    margin.

    A feature that occurs k times is listed once, with k times its weight over the number of features. A word's subwords
    count with the word, known or not.
    """
    spec = classifier.features
    tokens = ft.tokenize(text.encode(), spec)
    ids, wanted = {}, set(tokens)
    raw, ends = classifier.word_bytes.tobytes(), classifier.word_offsets.tolist()
    for i, (start, stop) in enumerate(pairwise(ends)):
        if (word := raw[start:stop]) in wanted:
            ids[word] = i
    labels = {name.encode() for name in classifier.labels}
    prefix = spec.label_prefix.encode()
    tokens = [token for token in tokens if token in ids or not (token in labels or token.startswith(prefix))]
    weights = [(token, float(classifier.word_weights[ids[token]])) for token in tokens if token in ids]
    subwords = ((token, bucket) for token in tokens for bucket in ft.subword_buckets(token, spec))
    for feature, bucket in (*subwords, *ft.ngram_buckets(tokens, spec)):
        weights.append((feature, float(classifier.bucket_weights[bucket])))
    totals: dict[str, float] = {}
    for feature, weight in weights:
        key = feature.decode(errors="replace")
        totals[key] = totals.get(key, 0.0) + weight / len(weights)
    return sorted(totals.items(), key=lambda item: (-abs(item[1]), item[0]))


# --- training ---------------------------------------------------------------------------------------------------------

Documents: TypeAlias = pa.Table | pa.RecordBatchReader | Iterable[pa.RecordBatch] | Iterable[tuple[str, int]]


def train_classifier(
    documents: Documents,
    config: TrainingConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldedClassifier, TrainingLog]:
    """Train fastText's supervised model on (text, label 0 or 1) pairs, or Arrow batches with columns text and label.

    Plain SGD in the order given, as fastText's single thread: one document at a time, each epoch in the same order,
    the learning rate falling linearly in tokens read. So the caller orders the documents (by a hash of the id: labels
    must not come in blocks); the same documents in the same order with the same seed give the same classifier (bit by
    bit on one kind of processor). `progress` is called with (documents done, documents to do) over all epochs. Text is
    read once; features lie in a temporary file, rows exist only for what occurs: 4 * dim bytes per distinct feature,
    beside the words themselves.
    """
    spec = config.features()
    with tempfile.TemporaryFile(prefix="betr-features-") as spool:
        collected = _collect(documents, spec, spool)
        positives = int(collected.labels.sum())
        total = len(collected.labels)
        if positives in (0, total):
            which = "positive" if positives == 0 else "negative"
            raise InputError(
                f"training needs documents of both labels; all {total} of them leave no {which} one: raise the sample "
                "or the positive fraction"
            )
        kept = _by_frequency(collected, config.min_count)
        if len(kept) == 0:
            raise InputError(
                f"no word occurs {config.min_count} times in the {total} training documents; lower min_count or train "
                "on more"
            )
        word_row = np.full(len(collected.counts), -1, np.int32)
        word_row[kept] = np.arange(len(kept), dtype=np.int32)
        used_buckets = np.empty(np.count_nonzero(collected.seen), np.int64)
        spool.seek(0)
        ids = np.asarray(np.memmap(spool, np.int32, "r+", shape=(int(collected.ends[-1]),)))
        ends = collected.ends
        _to_rows(ids, ends, word_row, np.full(spec.buckets, -1, np.int32), len(kept), used_buckets)
        repeats = _fold_repeats(ids, ends, len(kept) + len(used_buckets))

        # The seed and the feature alone decide where a row starts, not which other features there are.
        rows = initial_rows(config.seed, _row_keys(collected, kept, used_buckets), config.dim)
        direction = np.zeros(config.dim, np.float32)
        losses = _descend(ids, ends, repeats, collected, rows, direction, config, progress)
    weights = _fold(rows, direction)
    # A bucket that training never touched keeps its random start in fastText: noise of mean 0. Its weight is 0 here.
    bucket_weights = np.zeros(spec.buckets, np.float32)
    bucket_weights[used_buckets] = weights[len(kept) :]
    pool, offsets = _take_words(collected, kept)
    classifier = FoldedClassifier(spec, pool, offsets, weights[: len(kept)].copy(), bucket_weights)
    log = TrainingLog(total, positives, int(collected.tokens.sum()), len(kept), len(used_buckets), tuple(losses))
    return classifier, log


@dataclass
class _Collected:
    """Every feature of the training texts: words by order of first appearance, their counts, and where each text
    ends.
    """

    pool: U8
    offsets: I64
    counts: I64
    seen: npt.NDArray[np.bool_]
    ends: I64
    tokens: I64
    labels: U8


def _batches(documents: Documents) -> Iterator[tuple[pa.Array, U8]]:
    if isinstance(documents, pa.Table):
        documents = documents.to_batches(max_chunksize=8192)
    iterator: Iterator[Any] = iter(documents)
    while block := list(islice(iterator, 1 if isinstance(documents, pa.RecordBatchReader) else 1024)):
        if isinstance(block[0], pa.RecordBatch):
            yield from ((b.column("text"), _labels(b.column("label"))) for b in block)
        else:
            yield (
                pa.array([text for text, _ in block], pa.large_string()),
                _labels(pa.array([label for _, label in block])),
            )


def _labels(labels: pa.Array) -> U8:
    values = np.asarray(labels.to_numpy(zero_copy_only=False), np.float64)
    if not np.isin(values, (0, 1)).all():
        raise InputError(f"a training label must be 0 or 1; got {float(values[~np.isin(values, (0, 1))][0])!r}")
    return values.astype(np.uint8)


def _collect(documents: Documents, spec: FeatureSpec, spool: IO[bytes]) -> _Collected:
    prefix, eos = ft.as_bytes(spec.label_prefix), ft.as_bytes(ft.EOS)
    seen = np.zeros(max(spec.buckets, 1), np.bool_)
    vocabulary = ft.build_vocabulary(np.zeros(1 << 20, np.uint8), np.zeros(1, np.int64), room=1 << 16)
    vocabulary = vocabulary._replace(offsets=np.zeros((1 << 16) + 1, np.int64))
    counts, used = np.zeros(1 << 16, np.int64), np.zeros(2, np.int64)
    features = np.empty(1 << 20, np.int32)
    all_ends, all_tokens, all_labels, written = [], [], [], 0
    for texts, labels in _batches(documents):
        if texts.null_count:
            raise InputError("a training document has no text (null); leave it out of the labels")
        data, offsets = ft.text_buffers(texts)
        ends, tokens = np.empty(len(texts), np.int64), np.empty(len(texts), np.int64)
        first = 0
        while first < len(texts):
            done = ft.collect_kernel(
                data,
                offsets,
                first,
                vocabulary,
                counts,
                used,
                spec.word_ngrams,
                spec.lengths,
                spec.classes,
                max(spec.buckets, 1),
                prefix,
                eos,
                seen,
                features,
                ends,
                tokens,
            )
            if done > first:
                spool.write(features[: ends[done - 1]].data)
                ends[first:done] += written
                written = int(ends[done - 1])
            if done < len(texts):  # something is full: make room for at least the next text, then go on with it
                size = int(offsets[done + 1] - offsets[done])
                most_words, most = ft.most_features(size, spec.word_ngrams, spec.lengths, spec.classes)
                if len(features) < most:
                    features = np.empty(most, np.int32)
                if used[0] + most_words > len(counts) or used[1] + size + len(eos) > len(vocabulary.pool):
                    vocabulary, counts = _grown(vocabulary, counts, used, most_words, size + len(eos))
            first = done
        all_ends.append(ends)
        all_tokens.append(tokens)
        all_labels.append(labels)
    spool.flush()
    if not all_ends:
        raise InputError("there are no documents to train on; look at the table sample_labels")
    words = int(used[0])
    return _Collected(
        vocabulary.pool[: used[1]],
        vocabulary.offsets[: words + 1],
        counts[:words],
        seen,
        np.concatenate(all_ends),
        np.concatenate(all_tokens),
        np.concatenate(all_labels),
    )


def _grown(vocabulary: ft.Vocabulary, counts: I64, used: I64, words: int, size: int) -> tuple[ft.Vocabulary, I64]:
    capacity = 2 * max(len(counts), int(used[0]) + words)
    pool = np.zeros(2 * max(len(vocabulary.pool), int(used[1]) + size), np.uint8)
    pool[: used[1]] = vocabulary.pool[: used[1]]
    offsets = np.zeros(capacity + 1, np.int64)
    offsets[: used[0] + 1] = vocabulary.offsets[: used[0] + 1]
    grown = ft.build_vocabulary(pool, offsets[: used[0] + 1], room=capacity - int(used[0]))._replace(offsets=offsets)
    more = np.zeros(capacity, np.int64)
    more[: len(counts)] = counts
    return grown, more


def _by_frequency(collected: _Collected, min_count: int) -> I64:
    """Words that occur min_count times, ordered by count (descending), then bytes: the order of texts leaves no
    trace.
    """
    kept = np.flatnonzero(collected.counts >= min_count)
    raw = collected.pool.tobytes()
    words = [raw[collected.offsets[i] : collected.offsets[i + 1]] for i in kept]
    order = sorted(range(len(kept)), key=lambda k: (-collected.counts[kept[k]], words[k]))
    return np.asarray(kept[order], np.int64)


def _take_words(collected: _Collected, kept: I64) -> tuple[U8, I64]:
    raw = collected.pool.tobytes()
    words = [raw[collected.offsets[i] : collected.offsets[i + 1]] for i in kept]
    offsets = np.zeros(len(kept) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return np.frombuffer(b"".join(words), np.uint8), offsets


@ft.jit()
def _to_rows(
    ids: npt.NDArray[np.int32],
    ends: I64,
    word_row: npt.NDArray[np.int32],
    bucket_row: npt.NDArray[np.int32],
    words: int,
    used_buckets: I64,
) -> None:
    """Turn word ids and buckets into rows, in place, and drop what is no feature (words below min_count).

    Buckets get their rows behind the words', in the order in which texts have them first: most n-grams are of one text
    only, and lie side by side in memory so. `bucket_row` (-1 everywhere) and `used_buckets` (of each such row) are
    filled.
    """
    read, write, used = 0, 0, 0
    for document in range(ends.size):
        while read < ends[document]:
            feature = ids[read]
            read += 1
            if feature >= 0:
                row = word_row[feature]
            else:
                row = bucket_row[-1 - feature]
                if row < 0:
                    row = np.int32(words + used)
                    bucket_row[-1 - feature] = row
                    used_buckets[used] = -1 - feature
                    used += 1
            if row >= 0:
                ids[write] = row
                write += 1
        ends[document] = write


@ft.jit()
def _fold_repeats(ids: npt.NDArray[np.int32], ends: I64, rows: int) -> npt.NDArray[np.int32]:
    """Let each text name a row once, in place; int32 [texts, 2]: its rows, and how many of them occur more than once.

    A text's places then hold the rows that occur more than once, those that occur once, and in what has become free
    how often each of the former does. Of the demo's documents an epoch moves a quarter fewer rows so.
    """
    repeats = np.empty((ends.size, 2), np.int32)
    counts = np.zeros(rows, np.int32)  # of the text's rows; none between two texts
    start = np.int64(0)
    for document in range(ends.size):
        stop = start
        for i in range(start, ends[document]):
            row = ids[i]
            if counts[row] == 0:
                ids[stop] = row
                stop += 1
            counts[row] += 1
        first = start
        for i in range(start, stop):
            if counts[ids[i]] > 1:
                ids[i], ids[first] = ids[first], ids[i]
                first += 1
        for i in range(start, first):
            ids[stop + i - start] = counts[ids[i]]
        for i in range(start, stop):
            counts[ids[i]] = 0
        repeats[document, 0], repeats[document, 1] = stop - start, first - start
        start = ends[document]
    return repeats


@ft.jit()
def _hash_words(pool: U8, offsets: I64, words: I64, keys: npt.NDArray[np.uint64]) -> None:
    for i in range(words.size):
        value = np.uint64(14695981039346656037)
        for k in range(offsets[words[i]], offsets[words[i] + 1]):
            value = (value ^ np.uint64(pool[k])) * np.uint64(1099511628211)
        keys[i] = value


def _row_keys(collected: _Collected, kept: I64, used_buckets: I64) -> npt.NDArray[np.uint64]:
    keys = np.empty(len(kept) + len(used_buckets), np.uint64)
    _hash_words(collected.pool, collected.offsets, kept, keys[: len(kept)])
    keys[len(kept) :] = used_buckets
    return keys


@ft.jit()
def _initial_rows(seed: int, keys: npt.NDArray[np.uint64], rows: F32) -> None:
    dim = rows.shape[1]
    scale = 2.0 / dim / 2.0**53
    for i in range(rows.shape[0]):
        state = (keys[i] + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)) * np.uint64(0x2545F4914F6CDD1D)
        for j in range(dim):  # splitmix64
            state += np.uint64(0x9E3779B97F4A7C15)
            z = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            rows[i, j] = np.float32(np.float64(z >> np.uint64(11)) * scale - 1.0 / dim)


def initial_rows(seed: int, keys: npt.NDArray[np.uint64], dim: int) -> F32:
    """Uniform in (-1/dim, 1/dim), as fastText starts its input rows; float32 [features, dim]."""
    rows = np.empty((len(keys), dim), np.float32)
    _initial_rows(seed, keys, rows)
    return rows


@ft.jit(fastmath=True)
def sgd_kernel(
    ids: npt.NDArray[np.int32],
    ends: I64,
    repeats: npt.NDArray[np.int32],
    tokens: I64,
    labels: U8,
    rows: F32,
    direction: F32,
    first: int,
    last: int,
    learning_rate: float,
    total_tokens: float,
    clock: F64,
) -> float:
    """One pass over documents first..last-1, updating rows and direction in place; returns the sum of their losses.

    fastText keeps two output vectors that start at zero and get opposite gradients, so they stay each other's negative:
    only their difference `direction` is kept. `ids` and `repeats` are what `_fold_repeats` made. `clock` holds [tokens
    that count for the rate, tokens not yet counted].
    """
    dim = rows.shape[1]
    flat = rows.reshape(rows.size)
    hidden = np.empty(dim, np.float32)
    step = np.empty(dim, np.float32)
    loss = 0.0
    for document in range(first, last):
        start = ends[document - 1] if document > 0 else 0
        stop = ends[document]
        rate = learning_rate * max(0.0, 1.0 - clock[0] / total_tokens)
        if stop > start:
            once, last_row = start + repeats[document, 1], start + repeats[document, 0]
            hidden[:] = np.float32(0.0)
            for k in range(start, once):
                times, row = np.float32(ids[last_row + k - start]), ids[k]
                for j in range(dim):
                    hidden[j] += times * rows[row, j]
            i = once
            while i + 4 <= last_row:  # four at a time, while the next ones are on their way from memory
                for k in range(i + 8, i + 12):
                    ahead = np.int64(ids[min(k, last_row - 1)]) * dim
                    for line in range(0, dim, 16):
                        ft.prefetch(flat, ahead + line)
                a, b, c, d = rows[ids[i]], rows[ids[i + 1]], rows[ids[i + 2]], rows[ids[i + 3]]
                for j in range(dim):
                    hidden[j] += (a[j] + b[j]) + (c[j] + d[j])
                i += 4
            for k in range(i, last_row):
                row = ids[k]
                for j in range(dim):
                    hidden[j] += rows[row, j]
            share = np.float32(1.0 / (stop - start))
            margin = np.float32(0.0)
            for j in range(dim):
                hidden[j] *= share
                margin += hidden[j] * direction[j]
            positive = 1.0 / (1.0 + math.exp(-np.float64(margin)))
            gradient = rate * (np.float64(labels[document]) - positive)
            loss += -math.log(max(positive if labels[document] else 1.0 - positive, 1e-30))
            on_rows, on_direction = np.float32(gradient * share), np.float32(2.0 * gradient)
            for j in range(dim):
                step[j] = on_rows * direction[j]
                direction[j] += on_direction * hidden[j]
            for k in range(start, once):
                times, row = np.float32(ids[last_row + k - start]), ids[k]
                for j in range(dim):
                    rows[row, j] += times * step[j]
            for k in range(once, last_row):
                row = ids[k]
                for j in range(dim):
                    rows[row, j] += step[j]
        clock[1] += tokens[document]
        if clock[1] > 100:  # fastText's lrUpdateRate
            clock[0] += clock[1]
            clock[1] = 0.0
    return loss


def _descend(
    ids: npt.NDArray[np.int32],
    ends: I64,
    repeats: npt.NDArray[np.int32],
    collected: _Collected,
    rows: F32,
    direction: F32,
    config: TrainingConfig,
    progress: Callable[[int, int], None] | None,
) -> list[float]:
    documents = len(ends)
    tokens = collected.tokens + 1  # fastText's file holds a label token on each line, which its clock counts
    clock, total = np.zeros(2), float(config.epochs) * float(tokens.sum())
    losses = []
    for epoch in range(config.epochs):
        loss = 0.0
        for first in range(0, documents, 8192):
            last = min(first + 8192, documents)
            loss += sgd_kernel(
                ids,
                ends,
                repeats,
                tokens,
                collected.labels,
                rows,
                direction,
                first,
                last,
                config.learning_rate,
                total,
                clock,
            )
            if progress is not None:
                progress(epoch * documents + last, config.epochs * documents)
        if not math.isfinite(loss):
            raise InputError(f"training diverged in epoch {epoch + 1}; lower learning_rate ({config.learning_rate!r})")
        losses.append(loss / documents)
    return losses


def _fold(rows: F32, direction: F32 | F64) -> F32:
    """row . direction for every row, in double precision; float32 [rows]."""
    folded = np.empty(len(rows), np.float32)
    _dot_rows(rows, direction.astype(np.float64), folded)
    return folded


@ft.jit(fastmath=True)
def _dot_rows(rows: F32, direction: F64, folded: F32) -> None:
    for i in range(rows.shape[0]):
        total = 0.0
        for j in range(rows.shape[1]):
            total += np.float64(rows[i, j]) * direction[j]
        folded[i] = total


# --- validation -------------------------------------------------------------------------------------------------------


def validate(scores: Any, labels: Any, best_ranks: Any) -> dict[str, float | int | None]:
    """How well scores match labels (0, 1) and best ranks (1 is best; None or NaN: beyond every example's k), arrays
    of [n].

    accuracy: at p = 1/2; auc: ties count one half; log_loss: natural logarithm of p = score - 1e-5, kept 1e-12 from 0
    and 1; rank_correlation: Spearman's, of score with -best_rank, ties at their mean rank. None where a figure has no
    meaning.
    """
    s = np.asarray(scores, np.float64)
    y = np.asarray(labels, np.int64)
    r = pa.array(best_ranks, pa.float64(), from_pandas=True).to_numpy(zero_copy_only=False)
    positives = int(y.sum())
    p = np.clip(s - ft.FASTTEXT_LOG_OFFSET, 1e-12, 1 - 1e-12)
    ranked = ~np.isnan(r)
    auc = None
    if 0 < positives < len(y):
        auc = (_mean_ranks(s)[y == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives))
    return {
        "documents": len(y),
        "positives": positives,
        "accuracy": float(np.mean((p > 0.5) == (y == 1))) if len(y) else None,
        "auc": None if auc is None else float(auc),
        "log_loss": float(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p)))) if len(y) else None,
        "rank_correlation": _correlation(_mean_ranks(s[ranked]), _mean_ranks(-r[ranked])),
    }


def _mean_ranks(values: F64) -> F64:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def _correlation(a: F64, b: F64) -> float | None:
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


# --- official models --------------------------------------------------------------------------------------------------

_MAGIC, _NEWEST_VERSION = 793712314, 12
_IMPORT_BLOCK_BYTES = 64 << 20
_LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_MODELS = {1: "cbow", 2: "skipgram", 3: "supervised"}
_POSITIVE_NAMES = {"1", "positive", "pos", "hq", "high", "high_quality", "yes", "true", "good", "keep", "relevant"}


class _Reader:
    """Reads little-endian values off a file and knows when it was cut short."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.file = path, path.stat().st_size, path.open("rb")

    def values(self, dtype: str, count: int = 1) -> Any:
        size = np.dtype(dtype).itemsize * count
        data = self.file.read(size) if 0 <= size <= self.size - self.file.tell() else b""
        if len(data) != size:
            raise InputError(
                f"{self.path} was cut short at byte {self.size}: not a whole fastText model; copy it again"
            )
        return np.frombuffer(data, dtype)

    def one(self, dtype: str) -> int:
        return int(self.values(dtype)[0])

    def until_nul(self) -> bytes:
        parts: list[bytes] = []
        while True:
            part = self.file.read(64)
            if not part:
                raise InputError(
                    f"{self.path} was cut short at byte {self.size}: not a whole fastText model; copy it again"
                )
            stop = part.find(b"\0")
            if stop >= 0:
                self.file.seek(stop + 1 - len(part), os.SEEK_CUR)
                return b"".join([*parts, part[:stop]])
            parts.append(part)


def import_fasttext(path: str | Path, positive_label: str | None = None) -> FoldedClassifier:
    """Fold an official two-label fastText `.bin`; its scores stay those of fastText to 1e-6.

    Softmax folds, and so does hierarchical softmax, which for two labels is one sigmoid. Anything that does not fold
    exactly is refused by name. The input matrix is read in blocks, so memory does not grow with the model.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such fastText model file; correct --import-fasttext")
    reader = _Reader(path)
    with reader.file:
        return _import(reader, positive_label)


def _import(reader: _Reader, positive_label: str | None) -> FoldedClassifier:
    def refuse(why: str) -> InputError:
        return InputError(f"{reader.path} can't be folded: {why}")

    if reader.size < 8 or reader.one("<i4") != _MAGIC:
        raise InputError(f"{reader.path} is not a fastText model (no magic number); give the .bin that fastText saved")
    version = reader.one("<i4")
    if not 11 <= version <= _NEWEST_VERSION:
        raise refuse(f"its format version is {version}, known are 11 and {_NEWEST_VERSION}; save it with fastText 0.9")
    dim, _, _, _, _, word_ngrams, loss, model, buckets, minn, maxn, _ = map(int, reader.values("<i4", 12))
    reader.values("<f8")
    if _MODELS.get(model) != "supervised":
        raise refuse(f"it is a {_MODELS.get(model, model)} model of word vectors; train with `fasttext supervised`")
    if version == 11:
        maxn = 0  # as fastText does: supervised models of version 11 never used character n-grams
    minn = max(minn, 1)  # fastText's own reading of 0: nothing is shorter than one character
    minn, maxn = (minn, maxn) if minn <= maxn else (0, 0)
    if maxn > ft.MAX_SUBWORD:
        raise refuse(
            f"its subwords have up to {maxn} characters (maxn), the most is {ft.MAX_SUBWORD}; train with fewer"
        )
    hashed = word_ngrams > 1 or maxn > 0
    if loss not in (1, 3):
        raise refuse(
            f"its loss is {_LOSSES.get(loss, loss)}, whose two labels are not one sigmoid; train with -loss softmax"
        )
    if not 0 <= word_ngrams <= ft.MAX_WORD_NGRAMS:
        raise refuse(f"wordNgrams is {word_ngrams}, the most is {ft.MAX_WORD_NGRAMS}; train with fewer")
    size, words, labels = map(int, reader.values("<i4", 3))
    reader.one("<i8")
    pruned = reader.one("<i8")
    if labels != 2:
        raise refuse(f"it has {labels} labels, and a score needs exactly two: one to keep, one to drop")
    if pruned >= 0:
        raise refuse("its dictionary is pruned (a quantised model, .ftz); give the .bin it was made from")
    if size != words + labels or words < 0:
        raise refuse(
            f"its dictionary says {size} entries for {words} words and {labels} labels; copy or export it again"
        )
    entries, types = [], []
    for _ in range(size):
        entries.append(reader.until_nul())
        reader.one("<i8")
        types.append(reader.one("<i1"))
    if any(types[:words]) or types[words:] != [1, 1]:
        raise refuse("its dictionary mixes words and labels; export it again with fastText 0.9")
    names = [name.decode(errors="replace") for name in entries[words:]]
    positive = _positive(names, positive_label, reader.path)

    if reader.one("<i1"):
        raise refuse("it is quantised (.ftz); give the .bin it was made from")
    rows, columns = map(int, reader.values("<i8", 2))
    start = reader.file.tell()
    # Without n-grams or subwords fastText makes no buckets; an old model may have them all the same, unused.
    if columns != dim or rows not in (words, words + buckets) or (hashed and rows != words + buckets):
        raise refuse(f"its input matrix is {rows} x {columns}, not {words + buckets} x {dim}; copy or export it again")
    body = rows * columns * 4
    if start + body > reader.size:
        reader.values("<f4", rows * columns)  # says that the file was cut short
    reader.file.seek(start + body)
    if reader.one("<i1"):
        raise refuse("its output matrix is quantised; give the .bin it was made from")
    out_rows, out_columns = map(int, reader.values("<i8", 2))
    if (out_rows, out_columns) != (2, dim):
        raise refuse(f"its output matrix is {out_rows} x {out_columns}, not 2 x {dim}; copy or export it again")
    output = reader.values("<f4", 2 * dim).reshape(2, dim).astype(np.float64)
    if reader.file.read(1):
        raise refuse("there is something behind its end; copy it again")

    if _LOSSES[loss] == "softmax":
        direction = output[positive] - output[1 - positive]
    else:  # the tree of two labels has one inner node; its sigmoid is the probability of the more frequent, first label
        direction = output[0] if positive == 0 else -output[0]
    weights = np.empty(rows, np.float32)
    reader.file.seek(start)
    block = max(1, _IMPORT_BLOCK_BYTES // (8 * dim))
    for i in range(0, rows, block):
        count = min(block, rows - i)
        weights[i : i + count] = reader.values("<f4", count * dim).reshape(count, dim).astype(np.float64) @ direction
    spec = FeatureSpec(max(word_ngrams, 1), buckets if hashed else 0, minn=minn, maxn=maxn)
    offsets = np.zeros(words + 1, np.int64)
    np.cumsum([len(word) for word in entries[:words]], out=offsets[1:])
    return FoldedClassifier(
        spec,
        np.frombuffer(b"".join(entries[:words]), np.uint8),
        offsets,
        weights[:words].copy(),
        weights[words : words + spec.buckets].copy(),
        labels=(names[1 - positive], names[positive]),
    )


def _positive(names: list[str], positive_label: str | None, path: Path) -> int:
    bare = [name.removeprefix("__label__") for name in names]
    if positive_label is not None:
        matches = [i for i in range(2) if positive_label in (names[i], bare[i])]
        if len(matches) != 1:
            raise InputError(
                f"{path} has the labels {names[0]!r} and {names[1]!r}, not {positive_label!r}; correct --positive-label"
            )
        return matches[0]
    matches = [i for i in range(2) if bare[i].lower() in _POSITIVE_NAMES]
    if len(matches) != 1:
        raise InputError(
            f"{path} has the labels {names[0]!r} and {names[1]!r}; say which one to keep with --positive-label"
        )
    return matches[0]
