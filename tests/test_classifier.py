"""The classifier: training against plain numpy and official fastText, files that tell when they are not whole,
imports.
"""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from betr.classifier import (
    FoldedClassifier,
    TrainingConfig,
    _fold_repeats,
    import_fasttext,
    initial_rows,
    load_classifier,
    train_classifier,
    validate,
)
from betr.features import FeatureSpec, tokenize
from curation.errors import InputError

SMALL = TrainingConfig(dim=10, epochs=3, learning_rate=0.5, min_count=2, buckets=1000)


def corpus(documents: int, seed: int = 0) -> list[tuple[str, int]]:
    """Texts over a Zipf vocabulary whose label tilts the odds of some words: learnable, not trivial."""
    rng = np.random.default_rng(seed)
    base = 1 / np.arange(1, 301)
    tilt = np.exp(rng.normal(scale=0.5, size=300))
    made = []
    for _ in range(documents):
        label = int(rng.random() < 0.5)
        odds = base * (tilt if label else 1 / tilt)
        made.append((" ".join(f"w{i}" for i in rng.choice(300, rng.integers(5, 60), p=odds / odds.sum())), label))
    return made


def scores_of(classifier: FoldedClassifier, documents: list[tuple[str, int]]) -> Any:
    return classifier.score(pa.array([text for text, _ in documents]))


# --- training


def reference_training(documents: list[tuple[str, int]], config: TrainingConfig) -> dict[str, float]:
    """fastText's supervised SGD with two output vectors, in float64 and dictionaries: the weight of each word."""

    def signed_hash(token: bytes) -> int:
        h = 2166136261
        for byte in token:
            h = ((h ^ byte) * 16777619) % 2**32
        return h - 2**32 if h >= 2**31 else h

    def word_key(token: bytes) -> int:
        h = 14695981039346656037
        for byte in token:
            h = ((h ^ byte) * 1099511628211) % 2**64
        return h

    def subwords(word: str) -> list[bytes]:
        word = f"<{word}>"
        runs = [
            word[i : i + n] for i in range(len(word)) for n in range(config.minn, config.maxn + 1) if i + n <= len(word)
        ]
        return [run.encode() for run in runs if run not in ("<", ">")]

    texts = [[*text.encode().split(), b"</s>"] for text, _ in documents]
    counts = Counter(token for tokens in texts for token in tokens)
    rows: dict[Any, Any] = {}
    lines = []
    for tokens in texts:
        features: list[Any] = [token for token in tokens if counts[token] >= config.min_count]
        if config.maxn:
            features += [signed_hash(run) % 2**32 % config.buckets for t in tokens[:-1] for run in subwords(t.decode())]
        for a, b in itertools.pairwise(tokens):
            features.append((signed_hash(a) % 2**64 * 116049371 + signed_hash(b)) % 2**64 % config.buckets)
        for feature in features:
            key = word_key(feature) if isinstance(feature, bytes) else feature
            rows.setdefault(feature, initial_rows(config.seed, np.array([key], np.uint64), config.dim)[0].astype(float))
        lines.append(features)
    output = np.zeros((2, config.dim))
    total, clock, pending = config.epochs * sum(len(tokens) + 1 for tokens in texts), 0, 0
    for _ in range(config.epochs):
        for features, tokens, (_, label) in zip(lines, texts, documents, strict=True):
            rate = config.learning_rate * (1 - clock / total)
            hidden = np.mean([rows[feature] for feature in features], axis=0)
            p = np.exp(output @ hidden) / np.exp(output @ hidden).sum()
            alpha = rate * (np.eye(2)[label] - p)
            step = alpha @ output / len(features)
            output += np.outer(alpha, hidden)
            for feature in features:
                rows[feature] = rows[feature] + step
            pending += len(tokens) + 1
            if pending > 100:
                clock, pending = clock + pending, 0
    return {f.decode(): float(row @ (output[1] - output[0])) for f, row in rows.items() if isinstance(f, bytes)}


@pytest.mark.parametrize("subwords", [(0, 0), (1, 2), (2, 4)], ids=str)
def test_compiled_training_is_plain_sgd(subwords: tuple[int, int]) -> None:
    documents, config = corpus(120), replace(SMALL, minn=subwords[0], maxn=subwords[1])
    classifier, log = train_classifier(documents, config)
    expected = reference_training(documents, config)
    assert set(classifier.words) == set(expected)
    found = dict(zip(classifier.words, classifier.word_weights.tolist(), strict=True))
    assert max(abs(found[word] - expected[word]) for word in expected) < 1e-4 * max(map(abs, expected.values()))
    assert log.documents == 120
    assert log.positives == sum(label for _, label in documents)
    assert log.losses[-1] < log.losses[0]


@given(st.lists(st.lists(st.integers(0, 6), max_size=12), max_size=6))
def test_a_row_named_once_keeps_how_often_its_text_has_it(texts: list[list[int]]) -> None:
    ids = np.array([row for text in texts for row in text], np.int32)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    repeats = _fold_repeats(ids, ends, 7)
    starts = ends - [len(text) for text in texts]
    for text, start, (distinct, repeated) in zip(texts, starts.tolist(), repeats.tolist(), strict=True):
        rows = ids[start : start + distinct].tolist()
        times = ids[start + distinct : start + distinct + repeated].tolist()
        assert min(times, default=2) > 1
        counted = zip(rows, [*times, *[1] * (distinct - repeated)], strict=True)
        assert sorted(counted) == sorted(Counter(text).items())


def test_vocabulary_is_ordered_by_count_then_bytes_and_cut_at_min_count() -> None:
    documents = [("b b a a c é é é", 1), ("b a d __label__1 __label__1", 0), ("zz", 0)]
    classifier, log = train_classifier(documents, replace(SMALL, min_count=3))
    assert classifier.words == ["</s>", "a", "b", "é"]
    assert log.tokens == 8 + 1 + 5 + 1 + 1 + 1


def test_training_again_gives_the_same_bytes_from_any_shape_of_input() -> None:
    documents = corpus(300)
    first = train_classifier(documents, SMALL)
    table = pa.table(
        {"text": [text for text, _ in documents], "label": pa.array([label for _, label in documents], pa.int32())}
    )
    for again in (iter(documents), table, iter(table.to_batches(max_chunksize=7))):
        classifier, log = train_classifier(again, SMALL)
        assert classifier.to_bytes() == first[0].to_bytes()
        assert log == first[1]
    assert train_classifier(documents, replace(SMALL, seed=1))[0].to_bytes() != first[0].to_bytes()


@pytest.mark.parametrize(("segmenter", "subwords"), [("space", (0, 0)), ("unicode14", (0, 0)), ("unicode14", (2, 4))])
def test_texts_larger_than_every_buffer_train_as_well(segmenter: str, subwords: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    long = " ".join(f"word{i}" for i in rng.integers(0, 100_000, 250_000))
    documents = [("short text", 0), (long, 1), ("short text again", 0), (long[: len(long) // 2], 1)]
    minn, maxn = subwords
    config = replace(SMALL, dim=4, epochs=1, word_ngrams=2, minn=minn, maxn=maxn, segmenter=segmenter)
    classifier, log = train_classifier(documents, config)
    assert (
        log.words
        == sum(c >= 2 for c in Counter(f"{long} {documents[3][0]} short text short text again".split()).values()) + 1
    )
    assert classifier.to_bytes() == train_classifier(documents, config)[0].to_bytes()


def test_training_on_segments_is_training_on_the_tokens_joined_by_blanks() -> None:
    spec = replace(SMALL, minn=1, maxn=2)
    documents = [(f"{text.replace(' ', '(')}人{label}東京", label) for text, label in corpus(60)]
    segmented, log = train_classifier(documents, replace(spec, segmenter="unicode14"))
    joined = [(b" ".join(tokenize(t.encode(), segmented.features)[:-1]).decode(), label) for t, label in documents]
    spaced, spaced_log = train_classifier(joined, spec)
    assert "人" in segmented.words and "(" in segmented.words
    assert replace(segmented, features=spaced.features).to_bytes() == spaced.to_bytes()
    assert log == spaced_log


@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_own_training_is_as_good_as_official_fasttext(tmp_path: Path, ngrams: int) -> None:
    made = corpus(5000)
    documents, held_out = made[:3000], made[3000:]
    (tmp_path / "train.txt").write_text("".join(f"__label__{label} {text}\n" for text, label in documents))
    model = fasttext.train_supervised(
        str(tmp_path / "train.txt"),
        dim=20,
        lr=0.3,
        epoch=5,
        minCount=5,
        wordNgrams=ngrams,
        bucket=10_000,
        thread=10,
        verbose=0,
    )
    model.save_model(str(tmp_path / "model.bin"))
    classifier, _ = train_classifier(documents, TrainingConfig(20, 5, 0.3, 5, ngrams, 10_000))
    labels = [label for _, label in held_out]
    ours, theirs = (
        roc_auc_score(labels, scores_of(c, held_out)) for c in (classifier, import_fasttext(tmp_path / "model.bin"))
    )
    assert theirs > 0.8
    assert ours > theirs - 0.01


def test_a_bucket_that_training_never_saw_weighs_nothing() -> None:
    classifier, log = train_classifier(corpus(20), SMALL)
    assert np.count_nonzero(classifier.bucket_weights) == log.buckets_used < 1000


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no documents to train on"),
        ([("a a", 0), ("b b", 0)], "leave no positive one"),
        ([("a a", 1), ("b b", 1)], "leave no negative one"),
        ([("a", 1), ("b", 0)], "no word occurs 7 times"),
        ([("a", 1), ("b", 2)], "must be 0 or 1; got 2.0"),
        ([("a", 1), (None, 0)], "has no text"),
    ],
)
def test_what_cannot_be_trained_is_refused(documents: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_classifier(documents, replace(SMALL, min_count=7))


def test_a_step_too_large_ends_training_with_the_setting_to_lower() -> None:
    with pytest.raises(InputError, match=r"training diverged in epoch 1; lower learning_rate \(1e\+30\)"):
        train_classifier(corpus(20), replace(SMALL, learning_rate=1e30))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"min_count": 0},
        {"word_ngrams": 6},
        {"buckets": 0},
        {"buckets": 0, "word_ngrams": 1, "minn": 1, "maxn": 2},
        {"minn": 3, "maxn": 2},
        {"segmenter": "words"},
        {"seed": -1},
    ],
)
def test_a_wrong_configuration_is_refused_at_birth(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        TrainingConfig(**wrong)


def test_progress_counts_every_document_of_every_epoch() -> None:
    seen: list[tuple[int, int]] = []
    train_classifier(corpus(50), SMALL, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (150, 150)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# --- files


@pytest.fixture(scope="module")
def trained() -> FoldedClassifier:
    return train_classifier(corpus(200), SMALL)[0]


def test_saved_and_loaded_is_the_same_classifier(trained: FoldedClassifier, tmp_path: Path) -> None:
    sha256 = trained.save(tmp_path / "new folder" / "classifier.safetensors")
    loaded = load_classifier(tmp_path / "new folder" / "classifier.safetensors", sha256)
    assert loaded.to_bytes() == trained.to_bytes()
    assert loaded.words == trained.words
    assert loaded.features == trained.features
    assert loaded.labels == trained.labels
    assert scores_of(loaded, corpus(50)).tolist() == scores_of(trained, corpus(50)).tolist()
    assert trained.save(tmp_path / "again") == sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "new folder"]


def test_a_file_holds_its_features_and_one_without_them_means_words(trained: FoldedClassifier) -> None:
    spec = FeatureSpec(2, 1000, minn=2, maxn=4, segmenter="unicode14")
    other = replace(trained, features=spec)
    assert FoldedClassifier.from_bytes(other.to_bytes()).features == spec
    assert FoldedClassifier.from_bytes(trained.to_bytes()).features == FeatureSpec(2, 1000)
    words = replace(trained, features=FeatureSpec(2, 1000, "__label__", 0, 0, "space"))
    assert words.to_bytes() == trained.to_bytes()  # the bytes of before there were others: no sha256 changes


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_an_altered_byte_or_a_cut_is_noticed_without_a_recorded_sha256(
    trained: FoldedClassifier, data: st.DataObject
) -> None:
    payload = bytearray(trained.to_bytes())
    where = data.draw(st.integers(0, len(payload) - 1))
    if data.draw(st.booleans()):
        payload = payload[:where]
    else:
        payload[where] ^= data.draw(st.integers(1, 255))
    try:
        read = FoldedClassifier.from_bytes(bytes(payload))
    except InputError:
        return
    assert read.to_bytes() == trained.to_bytes()  # white space of the header: nothing that means anything changed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a classifier"),
        (b"PK\x03\x04 something else", "not a classifier"),
        (b"\xff" * 40, "not a classifier"),
        (None, "can't be read"),
    ],
)
def test_a_file_that_is_no_classifier_is_refused_by_name(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"file.*{message}"):
        load_classifier(path)


def test_a_file_other_than_the_recorded_one_is_refused(trained: FoldedClassifier, tmp_path: Path) -> None:
    trained.save(tmp_path / "c")
    with pytest.raises(InputError, match="recorded is 0000"):
        load_classifier(tmp_path / "c", "0" * 64)


def test_parts_that_do_not_fit_are_refused(trained: FoldedClassifier) -> None:
    with pytest.raises(InputError, match="don't fit"):
        replace(trained, features=FeatureSpec(2, 999))
    with pytest.raises(InputError, match="not finite"):
        replace(trained, word_weights=trained.word_weights * np.float32("nan"))


# --- official models


def official(folder: Path, labels: tuple[str, ...] = ("0", "1"), name: str = "model.bin", **options: Any) -> Path:
    lines = [f"__label__{labels[i % len(labels)]} {text}" for i, (text, _) in enumerate(corpus(60))]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    options = {
        "dim": 10,
        "epoch": 2,
        "minCount": 1,
        "wordNgrams": 2,
        "bucket": 500,
        "thread": 10,
        "verbose": 0,
        **options,
    }
    model = fasttext.train_supervised(str(folder / "train.txt"), **options)
    if name.endswith(".ftz"):
        model.quantize(input=str(folder / "train.txt"), **({"cutoff": 300} if "pruned" in name else {}))
    model.save_model(str(folder / name))
    return folder / name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "hs"},
        {"wordNgrams": 1},
        {"wordNgrams": 4},
        {"bucket": 1},
        {"minn": 2, "maxn": 3},
        {"minn": 0, "maxn": 2, "wordNgrams": 1},
        {"minn": 4, "maxn": 3},
        {"minn": 3, "maxn": 6, "loss": "hs"},
    ],
)
@pytest.mark.parametrize("positive", ["0", "__label__1"])
def test_an_imported_model_scores_as_official_fasttext(tmp_path: Path, options: dict[str, Any], positive: str) -> None:
    path = official(tmp_path, lr=2.0, epoch=20, **options)
    classifier = import_fasttext(path, positive)
    model = fasttext.load_model(str(path))
    label = "__label__" + positive.removeprefix("__label__")
    for text, _ in [*corpus(40, seed=3), ("", 0), ("unknown words only", 0)]:
        expected = {name: p for p, name in model.f.predict(text + "\n", 2, 0.0, "strict")}[label]
        assert abs(float(classifier.score(pa.array([text]))[0]) - expected) < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "ova"}, "loss is ova"),
        ({"loss": "ns"}, "loss is ns"),
        ({"minn": 2, "maxn": 33}, "up to 33 characters"),
        ({"labels": ("0", "1", "2")}, "3 labels"),
        ({"name": "model.ftz"}, "quantised"),
        ({"name": "pruned.ftz", "bucket": 2000}, "pruned"),
        ({"wordNgrams": 6}, "wordNgrams is 6"),
    ],
)
def test_what_does_not_fold_exactly_is_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_fasttext(official(tmp_path, **options))


def test_word_vectors_are_refused_by_name(tmp_path: Path) -> None:
    official(tmp_path)
    fasttext.train_unsupervised(
        str(tmp_path / "train.txt"), model="cbow", dim=10, minCount=1, maxn=0, epoch=1, thread=10, verbose=0
    ).save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(InputError, match="cbow model of word vectors"):
        import_fasttext(tmp_path / "vectors.bin")


def test_a_model_cut_anywhere_or_extended_is_refused(tmp_path: Path) -> None:
    path = official(tmp_path, bucket=20)
    payload = path.read_bytes()
    for size in [*range(0, 300, 7), *range(300, len(payload), 997), len(payload) - 1]:
        path.write_bytes(payload[:size])
        with pytest.raises(InputError, match=r"cut short|not a fastText model"):
            import_fasttext(path)
    path.write_bytes(payload + b"x")
    with pytest.raises(InputError, match="behind its end"):
        import_fasttext(path)
    path.write_bytes(b"text" + payload)
    with pytest.raises(InputError, match="not a fastText model"):
        import_fasttext(path)
    path.write_bytes(payload[:4] + (13).to_bytes(4, "little") + payload[8:])
    with pytest.raises(InputError, match="version is 13"):
        import_fasttext(path)
    with pytest.raises(InputError, match="no such fastText model file"):
        import_fasttext(tmp_path / "missing.bin")


def test_a_model_whose_parts_contradict_each_other_is_refused_with_what_they_say(tmp_path: Path) -> None:
    path = official(tmp_path, bucket=20)
    whole = path.read_bytes()
    size, words = np.frombuffer(whole, "<i4", 2, 64).tolist()  # behind the magic number, the version and the settings
    ends = [92]  # of the dictionary's entries: a word, a NUL, its count, its kind
    for _ in range(size):
        ends.append(whole.index(b"\0", ends[-1]) + 10)
    rows = words + 20
    matrix = ends[-1] + 1  # behind whether it is quantised
    output = matrix + 16 + 4 * 10 * rows + 1

    def altered(at: int, value: int, size: int) -> Path:
        path.write_bytes(whole[:at] + value.to_bytes(size, "little") + whole[at + size :])
        return path

    for at, value, width, message in [
        (64, size + 1, 4, rf"its dictionary says {size + 1} entries for {words} words and 2 labels; copy or export it again"),
        (ends[1] - 1, 1, 1, r"its dictionary mixes words and labels; export it again with fastText 0\.9"),
        (matrix, rows + 1, 8, rf"its input matrix is {rows + 1} x 10, not {rows} x 10; copy or export it again"),
        (output - 1, 1, 1, r"its output matrix is quantised; give the \.bin it was made from"),
        (output, 3, 8, r"its output matrix is 3 x 10, not 2 x 10; copy or export it again"),
    ]:
        with pytest.raises(InputError, match=rf"model\.bin can't be folded: {message}"):
            import_fasttext(altered(at, value, width))


def test_the_positive_label_is_told_by_its_name_or_asked_for(tmp_path: Path) -> None:
    path = official(tmp_path, labels=("web", "hq"))
    assert import_fasttext(path).labels == ("__label__web", "__label__hq")
    assert import_fasttext(path, "web").labels == ("__label__hq", "__label__web")
    with pytest.raises(InputError, match=r"'__label__hq'.*not 'good'"):
        import_fasttext(path, "good")
    with pytest.raises(InputError, match="--positive-label"):
        import_fasttext(official(tmp_path, labels=("web", "wiki")))


def test_a_folded_model_in_blocks_is_the_folded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from betr import classifier as module

    path = official(tmp_path)
    whole = import_fasttext(path).to_bytes()
    monkeypatch.setattr(module, "_IMPORT_BLOCK_BYTES", 8 * 10 * 7)
    assert import_fasttext(path).to_bytes() == whole


# --- validation


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 0.50001, 0.7, 0.9, 1.0]),
            st.integers(0, 1),
            st.one_of(st.none(), st.integers(1, 5)),
        ),
        min_size=2,
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_validation_figures_are_those_of_scikit_learn_and_scipy(rows: list[tuple[float, int, int | None]]) -> None:
    scores, labels, ranks = (list(column) for column in zip(*rows, strict=True))
    found = validate(np.array(scores), np.array(labels), ranks)
    p = np.clip(np.array(scores) - 1e-5, 1e-12, 1 - 1e-12)
    assert found["documents"] == len(rows)
    assert found["positives"] == sum(labels)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, p > 0.5))
    assert found["log_loss"] == pytest.approx(log_loss(labels, p, labels=[0, 1]))
    if 0 < sum(labels) < len(labels):
        assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
    else:
        assert found["auc"] is None
    ranked = [(score, -rank) for score, _, rank in rows if rank is not None]
    if len({score for score, _ in ranked}) > 1 and len({rank for _, rank in ranked}) > 1:
        assert found["rank_correlation"] == pytest.approx(spearmanr(*zip(*ranked, strict=True)).statistic)
    else:
        assert found["rank_correlation"] is None


def test_a_classifiers_metadata_is_plain_json(trained: FoldedClassifier) -> None:
    payload = trained.to_bytes()
    header = json.loads(payload[8 : 8 + int.from_bytes(payload[:8], "little")])
    meta = json.loads(header["__metadata__"]["betr"])
    assert meta["features"] == {"word_ngrams": 2, "buckets": 1000, "label_prefix": "__label__"}
    assert meta["labels"] == ["__label__0", "__label__1"]
