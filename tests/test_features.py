"""Features: a slow reference written from fastText's source, and official fastText itself, on any text."""

import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from betr.classifier import FoldedClassifier, feature_contributions, import_fasttext
from betr.features import SEGMENTERS, FeatureSpec, as_bytes, build_vocabulary, subword_buckets, tokenize
from betr.segments import CLASSES, point_classes
from curation.errors import InputError
from curation.overlap import UNSPACED

pytestmark = pytest.mark.processes  # it needs no session

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


def fnv(token: bytes) -> int:
    h = 2166136261
    for byte in token:
        h = ((h ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) % 2**32
    return h


def white_space_tokens(text: bytes) -> list[bytes]:
    tokens, current = [], b""
    for i in range(len(text)):
        if text[i : i + 1] in (b" ", b"\n", b"\r", b"\t", b"\v", b"\f", b"\0"):
            tokens += [current] if current else []
            current = b""
        else:
            current += text[i : i + 1]
    return tokens + ([current] if current else [])


def reference_subwords(word: bytes, minn: int, maxn: int) -> list[bytes]:
    """fastText's Dictionary::computeSubwords, line by line."""
    word, found = b"<" + word + b">", []
    for i in range(len(word)):
        ngram = b""
        if word[i] & 0xC0 == 0x80:
            continue
        j, n = i, 1
        while j < len(word) and n <= maxn:
            ngram += word[j : j + 1]
            j += 1
            while j < len(word) and word[j] & 0xC0 == 0x80:
                ngram += word[j : j + 1]
                j += 1
            if n >= minn and not (n == 1 and (i == 0 or j == len(word))):
                found.append(ngram)
            n += 1
    return found


def reference_segments(text: str) -> list[bytes]:
    """The tokens of segments.py by a pattern: symbols stand for themselves, other characters for their class."""
    stand = {"S": "\ue000", "W": "\ue001", "C": "\ue002", "M": "\ue003"}
    kinds = [CLASSES[point_classes()[ord(c)]] for c in text]
    shape = "".join(stand.get(kind, c) for kind, c in zip(kinds, text, strict=True))
    pattern = "\ue001[\ue001\ue003]*|\ue002\ue003*|\ue003+|([^\ue000-\ue003])\\1*\ue003*"
    return [text[found.start() : found.end()].encode() for found in re.finditer(pattern, shape)]


def reference_features(text: str, vocabulary: dict[bytes, int], spec: FeatureSpec) -> tuple[list[int], list[int]]:
    """fastText's Dictionary::getLine and addWordNgrams, line by line, in plain integers: (word ids, buckets)."""
    tokens = white_space_tokens(text.encode()) if spec.segmenter == "space" else reference_segments(text)
    words, found, hashes = [], [], []
    for token in [*tokens, b"</s>"]:
        if token in vocabulary:
            words.append(vocabulary[token])
        elif token.startswith(b"__label__"):
            continue
        h = fnv(token)
        hashes.append(h - 2**32 if h >= 2**31 else h)
        if token == b"</s>":
            break
        found += [fnv(subword) % spec.buckets for subword in reference_subwords(token, spec.minn, spec.maxn)]
    for i, h in enumerate(hashes):
        h %= 2**64
        for j in range(i + 1, min(len(hashes), i + spec.word_ngrams)):
            h = (h * 116049371 + hashes[j]) % 2**64
            found.append(h % spec.buckets)
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


Official = tuple[fasttext.FastText._FastText, FoldedClassifier]


def official_model(folder: Path, **options: int) -> Official:
    rng = np.random.default_rng(1)
    lines = [f"__label__{i % 2} " + " ".join(rng.choice(WORDS[i % 2 * 4 : i % 2 * 4 + 8], 12)) for i in range(200)]
    (folder / "train.txt").write_text("\n".join(lines) + "\n")
    # With one thread, or cells that ten don't divide, fastText 0.9.3 leaves rows as the memory was: NaN now and then.
    model = fasttext.train_supervised(
        str(folder / "train.txt"), dim=10, minCount=1, wordNgrams=3, bucket=1000, thread=10, verbose=0, **options
    )
    # Multiples of 1/64: official fastText's sums in single precision are exact, however many features there are.
    rows, output = (np.round(64 * rng.normal(size=shape)) / 64 for shape in (model.get_input_matrix().shape, (2, 10)))
    model.set_matrices(rows, output)
    model.save_model(str(folder / "model.bin"))
    return model, import_fasttext(folder / "model.bin")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Official:
    return official_model(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def with_subwords(tmp_path_factory: pytest.TempPathFactory) -> list[Official]:
    lengths = ((1, 3), (2, 4), (3, 6))
    return [official_model(tmp_path_factory.mktemp("subwords"), minn=minn, maxn=maxn) for minn, maxn in lengths]


def official_score(model: fasttext.FastText._FastText, text: str, label: str = "__label__1") -> float:
    predictions = model.f.predict(text.replace("\n", " ") + "\n", 2, 0.0, "strict")
    return {name: p for p, name in predictions}[label]


def one_score(classifier: FoldedClassifier, text: str) -> float:
    return float(classifier.score(pa.array([text]))[0])


MIXED = "ab_1=;'-> 人々がカーนี้ไ\u0301\u200d\ufe0f\u200b\u3000é"
pieces = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(ODD), st.text(max_size=12), st.text(MIXED, max_size=12)),
    max_size=12,
)
texts = st.one_of(
    st.text(),
    st.builds(
        lambda parts, spaces: "".join(part + space for part, space in zip(parts, spaces, strict=False)),
        pieces,
        st.lists(st.sampled_from(SPACES), min_size=12, max_size=12),
    ),
)


specs = st.builds(
    lambda ngrams, buckets, subwords, segmenter: FeatureSpec(
        ngrams, buckets if ngrams > 1 or subwords[1] else 0, "__label__", subwords[0], subwords[1], segmenter
    ),
    st.integers(1, 5),
    st.sampled_from([1, 7, 1000, 2_000_003]),
    st.sampled_from([(0, 0), (1, 1), (1, 3), (2, 4), (3, 6), (1, 32)]),
    st.sampled_from(SEGMENTERS),
)


@given(text=texts, spec=specs)
@settings(max_examples=400, deadline=None)
def test_margin_is_the_mean_weight_of_the_reference_features(text: str, spec: FeatureSpec) -> None:
    classifier = random_classifier([*WORDS, "</s>"], spec)
    words, found = reference_features(text, {word.encode(): i for i, word in enumerate([*WORDS, "</s>"])}, spec)
    weights = [*classifier.word_weights[words], *(classifier.bucket_weights[found] if found else [])]
    assert len(weights) > 0
    assert classifier.margins(pa.array([text]))[0] == pytest.approx(np.mean(weights, dtype=np.float64), abs=1e-12)


@given(text=texts)
@settings(max_examples=500, deadline=None)
def test_score_is_that_of_official_fasttext(official: Official, text: str) -> None:
    model, classifier = official
    assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


ODD_TEXTS = [
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
]


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_score_is_that_of_official_fasttext_on_odd_texts(official: Official, text: str) -> None:
    model, classifier = official
    assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_with_subwords_too_the_score_is_that_of_official_fasttext(with_subwords: list[Official], text: str) -> None:
    for model, classifier in with_subwords:
        assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


def test_with_subwords_too_odd_texts_score_as_with_official_fasttext(with_subwords: list[Official]) -> None:
    for text in (text[:10_000] for text in ODD_TEXTS):  # with 300,000 subwords single precision shows all the same
        for model, classifier in with_subwords:
            assert abs(one_score(classifier, text) - official_score(model, text)) < 1e-6


@given(text=texts)
@settings(max_examples=150, deadline=None)
def test_segmented_the_score_is_that_of_official_fasttext_for_the_tokens_joined_by_blanks(
    official: Official, with_subwords: list[Official], text: str
) -> None:
    joined = b" ".join(reference_segments(text)).decode()
    for model, classifier in (official, with_subwords[0]):
        segmented = replace(classifier, features=replace(classifier.features, segmenter="unicode14"))
        assert abs(one_score(segmented, text) - official_score(model, joined)) < 1e-6


def test_subwords_are_those_that_official_fasttext_lists(with_subwords: list[Official]) -> None:
    for model, classifier in with_subwords:
        spec = classifier.features
        for word in (*WORDS, "unknown", "x", "数", "é", "ab\u0301c", "👩\u200d🚀"):
            names, rows = model.get_subwords(word)
            known = word in classifier.words
            assert [name.encode() for name in names[known:]] == reference_subwords(word.encode(), spec.minn, spec.maxn)
            assert (rows[known:] - len(classifier.words)).tolist() == subword_buckets(word.encode(), spec)


# --- what a token is


@pytest.mark.skipif(unicodedata.unidata_version != "14.0.0", reason="the table is that of Unicode 14")
def test_the_table_of_classes_is_what_unicode_says_of_every_code_point() -> None:
    def expected(c: str) -> str:
        kind, unspaced = unicodedata.category(c), re.match(f"[{UNSPACED}]", c) is not None
        if kind[0] == "Z" or kind == "Cc" or c in "\u200b\ufeff":
            return "S"
        if kind[0] in "PS" and c != "_":
            return "P"
        if kind == "Cf" or (kind[0] == "M" and (unspaced or re.match("[\ufe00-\ufe0f\U000e0100-\U000e01ef]", c))):
            return "M"
        return "C" if unspaced and kind[0] == "L" else "W"

    found = point_classes()
    assert found.size == 0x110000
    wrong = [
        p for p in range(0x110000) if unicodedata.category(chr(p)) != "Cn" and CLASSES[found[p]] != expected(chr(p))
    ]
    assert wrong == []


@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_segments_are_those_of_the_pattern_and_leave_out_nothing_but_space(text: str) -> None:
    found = tokenize(text.encode(), FeatureSpec(1, 0, segmenter="unicode14"))
    assert found == [*reference_segments(text), b"</s>"]
    space = CLASSES.index("S")
    assert b"".join(found[:-1]).decode() == "".join(c for c in text if point_classes()[ord(c)] != space)


@given(parts=st.lists(st.sampled_from([*"abé한글กไ人ひ7_(=+) \u3000", "e\u0301", "นี้"]), max_size=20))
@settings(max_examples=300, deadline=None)
def test_segments_are_unicodes_words_where_its_exceptions_are_left_out(parts: list[str]) -> None:
    text = re.sub(r"([(=+)])\1+", r"\1", "".join(parts))
    words = [word.encode() for word in regex.split(r"\b", text, flags=regex.V1 | regex.WORD) if word.strip()]
    assert tokenize(text.encode(), FeatureSpec(1, 0, segmenter="unicode14"))[:-1] == words


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("def get_name(self):", "def|get_name|(|self|)|:"),
        ("a != b == c -- ----", "a|!|=|b|==|c|--|----"),
        ("x+=1;;y", "x|+|=|1|;;|y"),
        ("don't 3.14", "don|'|t|3|.|14"),
        ("東京タワーへ行く。", "東|京|タ|ワ|ー|へ|行|く|。"),
        ("ภาษาไทย ที่นี่", "ภ|า|ษ|า|ไ|ท|ย|ที่|นี่"),
        ("हिन्दी में। العَرَبِيَّة؟", "हिन्दी|में|।|العَرَبِيَّة|؟"),
        ("❤️❤️ 👩\u200d🚀", "❤️|❤️|👩\u200d|🚀"),
        ("GPT4模型v2", "GPT4|模|型|v2"),
        ("\u0301a \ufe0f人", "\u0301a|\ufe0f|人"),
        ("a\u200bb\ufeffc", "a|b|c"),
    ],
)
def test_segments_by_example(text: str, segments: str) -> None:
    assert b"|".join(tokenize(text.encode(), FeatureSpec(1, 0, segmenter="unicode14"))[:-1]).decode() == segments


def test_what_is_not_utf8_counts_as_letters() -> None:
    spec = FeatureSpec(1, 0, segmenter="unicode14")
    for text in (b"a\x80b", b"\xffa", b"\xe4\xba", b"\xf8\x80\x80\x80\x80a", b"\x80", b"\xf4\x90\x80\x80"):
        assert tokenize(b" " + text + b" (", spec) == [text, b"(", b"</s>"]


@given(many=st.lists(texts, max_size=8), at=st.integers(0, 8))
@settings(max_examples=100, deadline=None)
def test_neighbours_slices_chunks_and_string_width_change_no_score(
    official: Official, many: list[str], at: int
) -> None:
    classifier = official[1]
    alone = [one_score(classifier, text) for text in many]
    array = pa.array(many, pa.string())
    assert classifier.score(array).tolist() == alone
    assert classifier.score(array.cast(pa.large_string())).tolist() == alone
    assert classifier.score(array.slice(min(at, len(many)))).tolist() == alone[at:]
    assert classifier.score(pa.chunked_array([array.slice(0, at), array.slice(min(at, len(many)))])).tolist() == alone


def test_a_null_text_scores_null_and_leaves_its_neighbours_alone(official: Official) -> None:
    classifier = official[1]
    array = pa.array(["the rank", None, "a"])
    expected = [one_score(classifier, "the rank"), None, one_score(classifier, "a")]
    assert classifier.score_array(array).to_pylist() == expected
    assert classifier.score_array(array.slice(1)).to_pylist() == expected[1:]
    assert classifier.score(array).tolist() == [expected[0], 0.0, expected[2]]


def test_a_text_without_features_is_undecided() -> None:
    classifier = random_classifier(["word"], FeatureSpec(2, 10))
    assert one_score(classifier, "") == 0.5 + 1e-5  # no </s> in this vocabulary: fastText predicts nothing


@given(text=texts, spec=specs)
@settings(max_examples=150, deadline=None)
def test_contributions_sum_to_the_margin(text: str, spec: FeatureSpec) -> None:
    classifier = random_classifier([*WORDS, "</s>"], spec)
    total = sum(contribution for _, contribution in feature_contributions(text, classifier))
    assert total == pytest.approx(classifier.margins(pa.array([text]))[0], abs=1e-9)


def test_contributions_name_words_and_ngrams_up_to_the_end_of_the_text() -> None:
    classifier = random_classifier(["the", "rank"], FeatureSpec(2, 50))
    found = feature_contributions("the odd __label__x rank", classifier)
    assert sorted(name for name, _ in found) == ["odd rank", "rank", "rank </s>", "the", "the odd"]
    assert [abs(value) for _, value in found] == sorted((abs(value) for _, value in found), reverse=True)


def test_a_words_subwords_count_with_the_word_known_or_not() -> None:
    classifier = random_classifier(["the", "rank"], FeatureSpec(1, 50, minn=2, maxn=3))
    found = dict(feature_contributions("the odd the", classifier))
    assert sorted(found) == ["odd", "the"]
    parts = reference_subwords(b"odd", 2, 3)
    features = 2 * (1 + len(reference_subwords(b"the", 2, 3))) + len(parts)
    weight = sum(float(classifier.bucket_weights[fnv(part) % 50]) for part in parts)
    assert found["odd"] == pytest.approx(weight / features)


def test_words_alike_in_their_ends_are_told_apart() -> None:
    words = ["seventeen-letters", "seventeen+letters", "12345678", "123456789", "1234567890abcdef", "1234567890abcde"]
    classifier = random_classifier(words, FeatureSpec(1, 0))
    margins = classifier.margins(pa.array([*words, "seventeen_letters", "1234567"]))
    assert margins.tolist() == [*classifier.word_weights.astype(float).tolist(), 0.0, 0.0]


def test_a_vocabulary_with_a_word_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"the word b'ab' twice"):
        build_vocabulary(as_bytes("abab"), np.array([0, 2, 4], np.int64))


@pytest.mark.parametrize(
    "wrong",
    [
        {"word_ngrams": 0},
        {"word_ngrams": 6},
        {"buckets": 0},
        {"buckets": 0, "word_ngrams": 1, "minn": 1, "maxn": 2},
        {"label_prefix": ""},
        {"minn": 1},
        {"maxn": 3},
        {"minn": 4, "maxn": 3},
        {"maxn": 33, "minn": 1},
        {"minn": -1},
        {"segmenter": "icu"},
    ],
)
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
