"""Features: a slow reference written from fastText's source, and official fastText itself, on any text."""

from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betr.classifier import FoldedClassifier, feature_contributions, import_fasttext
from betr.features import FeatureSpec, as_bytes, build_vocabulary
from curation.errors import InputError

WORDS = [
    "a",
    "the",
    "rank",
    "ranks",
    "eightchr",
    "ninechars",
    "seventeen-letters",
    "seventeen+letters",
    "naïve",
    "数学",
    "🙂",
    "é" * 40,
]
ODD = [
    "</s>",
    "</s",
    "</s>x",
    "__label__1",
    "__label__",
    "__label__é",
    "__label_",
    "_",
    "unknown",
    "x" * 3000,
    "\x85",
    "\u00a0",
    "\u2028",
]
SPACES = [" ", "\n", "\r", "\t", "\v", "\f", "\0", "  ", " \n\t"]


def reference_features(
    text: bytes, vocabulary: dict[bytes, int], ngrams: int, buckets: int
) -> tuple[list[int], list[int]]:
    """fastText's Dictionary::getLine and addWordNgrams, line by line, in plain integers: (word ids, buckets)."""

    def fnv(token: bytes) -> int:
        h = 2166136261
        for byte in token:
            h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) % 2**32
        return h

    tokens, current = [], b""
    for i in range(len(text)):
        if text[i : i + 1] in (b" ", b"\n", b"\r", b"\t", b"\v", b"\f", b"\0"):
            tokens += [current] if current else []
            current = b""
        else:
            current += text[i : i + 1]
    tokens += ([current] if current else []) + [b"</s>"]
    words, hashes = [], []
    for token in tokens:
        if token in vocabulary:
            words.append(vocabulary[token])
        elif token.startswith(b"__label__"):
            continue
        h = fnv(token)
        hashes.append(h - 2**32 if h >= 2**31 else h)
        if token == b"</s>":
            break
    found = []
    for i, h in enumerate(hashes):
        h %= 2**64
        for j in range(i + 1, min(len(hashes), i + ngrams)):
            h = (h * 116049371 + hashes[j]) % 2**64
            found.append(h % buckets)
    return words, found


def random_classifier(words: list[str], spec: FeatureSpec, seed: int = 0) -> FoldedClassifier:
    rng = np.random.default_rng(seed)
    raw = [word.encode() for word in words]
    offsets = np.cumsum([0, *map(len, raw)]).astype(np.int64)
    return FoldedClassifier(
        spec,
        as_bytes(b"".join(raw)),
        offsets,
        rng.normal(size=len(raw)).astype(np.float32),
        rng.normal(size=spec.buckets).astype(np.float32),
    )


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[fasttext.FastText._FastText, FoldedClassifier]:
    folder = tmp_path_factory.mktemp("official")
    rng = np.random.default_rng(1)
    lines = [f"__label__{i % 2} " + " ".join(rng.choice(WORDS[i % 2 * 4 : i % 2 * 4 + 8], 12)) for i in range(200)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    # With one thread, or cells that ten don't divide, fastText 0.9.3 leaves rows as the memory was: NaN now and then.
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=10, minCount=1, wordNgrams=3, bucket=1000, thread=10, verbose=0
    )
    model.set_matrices(rng.normal(size=model.get_input_matrix().shape), rng.normal(size=(2, 10)))
    model.save_model(str(folder / "model.bin"))
    return model, import_fasttext(folder / "model.bin")


def official_score(model: fasttext.FastText._FastText, text: str, label: str = "__label__1") -> float:
    predictions = model.f.predict(text.replace("\n", " ") + "\n", 2, 0.0, "strict")
    return {name: p for p, name in predictions}[label]


def one_score(classifier: FoldedClassifier, text: str) -> float:
    return float(classifier.score(pa.array([text]))[0])


pieces = st.lists(st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD), st.text(max_size=12)), max_size=12)
texts = st.one_of(
    st.text(),
    st.builds(
        lambda parts, spaces: "".join(part + space for part, space in zip(parts, spaces, strict=False)),
        pieces,
        st.lists(st.sampled_from(SPACES), min_size=12, max_size=12),
    ),
)


@given(text=texts, ngrams=st.integers(1, 5), buckets=st.sampled_from([1, 7, 1000, 2_000_003]))
@settings(max_examples=300, deadline=None)
def test_margin_is_the_mean_weight_of_the_reference_features(text: str, ngrams: int, buckets: int) -> None:
    spec = FeatureSpec(ngrams, buckets if ngrams > 1 else 0)
    classifier = random_classifier([*WORDS, "</s>"], spec)
    words, found = reference_features(
        text.encode(), {word.encode(): i for i, word in enumerate([*WORDS, "</s>"])}, ngrams, max(buckets, 1)
    )
    weights = [*classifier.word_weights[words], *(classifier.bucket_weights[found] if ngrams > 1 else [])]
    assert len(weights) > 0
    assert classifier.margins(pa.array([text]))[0] == pytest.approx(np.mean(weights, dtype=np.float64), abs=1e-12)


@given(text=texts)
@settings(max_examples=500, deadline=None)
def test_score_is_that_of_official_fasttext(official: tuple, text: str) -> None:
    model, classifier = official
    assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "\0",
        "the",
        "the rank",
        "unknown",
        "</s> the rank",
        "rank </s> the",
        "rank </s>the",
        "__label__1",
        "__label__1 a",
        "__label__2 a",
        "a\n\nrank\nthe",
        "a\0rank",
        "a\u00a0rank",
        "x" * 100_000,
        "the " * 40,
        "é" * 40,
        "é" * 41,
        "numéro",
    ],
)
def test_score_is_that_of_official_fasttext_on_odd_texts(official: tuple, text: str) -> None:
    model, classifier = official
    assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


@given(many=st.lists(texts, max_size=8), at=st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_neighbours_slices_chunks_and_string_width_change_no_score(official: tuple, many: list[str], at: int) -> None:
    classifier = official[1]
    alone = [one_score(classifier, text) for text in many]
    array = pa.array(many, pa.string())
    assert classifier.score(array).tolist() == alone
    assert classifier.score(array.cast(pa.large_string())).tolist() == alone
    assert classifier.score(array.slice(min(at, len(many)))).tolist() == alone[at:]
    assert classifier.score(pa.chunked_array([array.slice(0, at), array.slice(min(at, len(many)))])).tolist() == alone


def test_a_null_text_scores_null_and_leaves_its_neighbours_alone(official: tuple) -> None:
    classifier = official[1]
    array = pa.array(["the rank", None, "a"])
    expected = [one_score(classifier, "the rank"), None, one_score(classifier, "a")]
    assert classifier.score_array(array).to_pylist() == expected
    assert classifier.score_array(array.slice(1)).to_pylist() == expected[1:]
    assert classifier.score(array).tolist() == [expected[0], 0.0, expected[2]]


def test_a_text_without_features_is_undecided() -> None:
    classifier = random_classifier(["word"], FeatureSpec(2, 10))
    assert one_score(classifier, "") == 0.5 + 1e-5  # no </s> in this vocabulary: fastText predicts nothing


@given(text=texts, ngrams=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_contributions_sum_to_the_margin(text: str, ngrams: int) -> None:
    classifier = random_classifier([*WORDS, "</s>"], FeatureSpec(ngrams, 50 if ngrams > 1 else 0))
    total = sum(contribution for _, contribution in feature_contributions(text, classifier))
    assert total == pytest.approx(classifier.margins(pa.array([text]))[0], abs=1e-9)


def test_contributions_name_words_and_ngrams_up_to_the_end_of_the_text() -> None:
    classifier = random_classifier(["the", "rank"], FeatureSpec(2, 50))
    found = feature_contributions("the odd __label__x rank", classifier)
    assert sorted(name for name, _ in found) == ["odd rank", "rank", "rank </s>", "the", "the odd"]
    assert [abs(value) for _, value in found] == sorted((abs(value) for _, value in found), reverse=True)


def test_words_alike_in_their_ends_are_told_apart() -> None:
    words = ["seventeen-letters", "seventeen+letters", "12345678", "123456789", "1234567890abcdef", "1234567890abcde"]
    classifier = random_classifier(words, FeatureSpec(1, 0))
    margins = classifier.margins(pa.array([*words, "seventeen_letters", "1234567"]))
    assert margins.tolist() == [*classifier.word_weights.astype(float).tolist(), 0.0, 0.0]


def test_a_vocabulary_with_a_word_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"the word b'ab' twice"):
        build_vocabulary(as_bytes("abab"), np.array([0, 2, 4], np.int64))


@pytest.mark.parametrize("wrong", [{"word_ngrams": 0}, {"word_ngrams": 6}, {"buckets": 0}, {"label_prefix": ""}])
def test_a_wrong_feature_spec_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FeatureSpec(**wrong)


def test_models_with_another_label_prefix_skip_their_own_labels(tmp_path: Path) -> None:
    lines = [f"@{'yes' if i % 2 else 'no'} " + ("rank the __label__q" if i % 2 else "a of") for i in range(40)]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
    fasttext.train_supervised(
        str(tmp_path / "train.txt"), label="@", dim=10, minCount=1, wordNgrams=2, bucket=100, thread=10, verbose=0
    ).save_model(str(tmp_path / "m.bin"))
    classifier = import_fasttext(tmp_path / "m.bin", "@yes")
    model = fasttext.load_model(str(tmp_path / "m.bin"))
    for text in (
        "rank the",
        "@yes rank the",
        "rank @no the",
        "@maybe rank",
        "__label__q the",
        "__label__z the",
        "rank __label__q",
    ):
        assert abs(one_score(classifier, text) - official_score(model, text, "@yes")) < 1e-6
        total = sum(contribution for _, contribution in feature_contributions(text, classifier))
        assert total == pytest.approx(classifier.margins(pa.array([text]))[0], abs=1e-9)
