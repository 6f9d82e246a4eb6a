"""The kernels, numba and C with every set of instructions this machine has: the same bits, for any bytes."""

import os
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from betr import features as ft
from betr import kernel as module
from betr.classifier import FoldedClassifier, FoldedHeads
from betr.features import FeatureSpec
from betr.kernel import FeatureWeights, available_kernels, kernel_in_use, row_width, text_margins
from curation.errors import InputError

pytestmark = pytest.mark.processes  # it needs no session

KERNELS = available_kernels()
NATIVE = [name for name in KERNELS if name != "numba"]
native = pytest.mark.skipif(not NATIVE, reason="the native kernel was not built here: no C compiler")

WORDS = [
    b"a", b"the", b"rank", b"eightchr", b"ninechars", b"fifteen-letters", b"sixteen--letters", b"seventeen-letters",
    b"seventeen+letters", "naïve".encode(), "数学".encode(), b"\xff\xfe", b"\x80", b"x" * 300, b"</s>",
]  # fmt: skip
ODD = [b"</s", b"</s>x", b"__label__1", b"__label__", b"__label_", b"_", b"sixteen-+letters", b"x" * 299, b"x" * 301]
SPACE = b" \n\r\t\v\f\0"

token = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(ODD),
    st.binary(max_size=40),
    st.text(max_size=8).map(str.encode),
    st.text("ab_1=;'-> 人々がカーนี้ไ\u0301\u200d\ufe0f\u200b\u3000é", max_size=12).map(str.encode),
)
space = st.one_of(st.just(b" "), st.binary(min_size=1, max_size=3), st.lists(st.sampled_from(list(SPACE))).map(bytes))
text = st.one_of(
    st.binary(max_size=300),
    st.lists(st.tuples(token, space), max_size=40).map(lambda parts: b"".join(t + s for t, s in parts)),
    st.tuples(token, st.integers(0, 600)).map(lambda repeated: (repeated[0] + b" ") * repeated[1]),
    st.integers(0, 300).map(lambda n: b" " * n),
)
SUBWORDS = [(0, 0), (0, 0), (0, 0), (1, 1), (1, 3), (2, 4), (3, 6), (30, 32)]
spec = st.builds(
    lambda ngrams, buckets, prefix, subwords, segmenter: FeatureSpec(
        ngrams, buckets if ngrams > 1 or subwords[1] else 0, prefix, subwords[0], subwords[1], segmenter
    ),
    st.integers(1, 5),
    st.sampled_from([1, 2, 7, 1000, 1024]),
    st.sampled_from(["__label__", "_", "</"]),
    st.sampled_from(SUBWORDS),
    st.sampled_from(ft.SEGMENTERS),
)


def classifier(
    words: list[bytes], features: FeatureSpec, seed: int = 0, labels: tuple[str, str] = ("a0", "a1")
) -> FoldedClassifier:
    rng = np.random.default_rng(seed)
    word_weights = rng.normal(size=len(words)).astype(np.float32)
    word_weights[::3] = -0.0  # a weight like any other, not a word that is absent
    return FoldedClassifier(
        features,
        np.frombuffer(b"".join(words), np.uint8),
        np.cumsum([0, *map(len, words)]).astype(np.int64),
        word_weights,
        rng.normal(size=features.buckets).astype(np.float32),
        labels,
    )


def bits(margins: np.ndarray) -> list:
    return np.ascontiguousarray(margins).view(np.uint64).tolist()


def agreed(weights: FeatureWeights, texts: pa.Array) -> np.ndarray:
    """What every kernel makes of the texts, once they agree."""
    found = {name: text_margins(weights, texts, kernel=name) for name in KERNELS}
    expected = bits(found["numba"])
    for name in NATIVE:
        assert bits(found[name]) == expected, name
    return found["numba"]


def array(texts: list[bytes]) -> pa.Array:
    """A string column over any bytes: Arrow looks at none of them."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))


def test_the_machine_that_ci_has_runs_every_kernel() -> None:
    assert "numba" in KERNELS
    if sys.platform == "linux" and os.environ.get("CI"):
        assert NATIVE, "CI machines have a compiler: the native kernel must be built there"


@given(texts=st.lists(text, max_size=6), features=spec)
@settings(max_examples=400, deadline=None)
def test_all_kernels_give_the_same_bits_for_any_bytes(texts: list[bytes], features: FeatureSpec) -> None:
    agreed(classifier(WORDS, features)._weights, array(texts))


@given(texts=st.lists(text, max_size=4), features=spec, data=st.data())
@settings(max_examples=200, deadline=None)
def test_many_heads_score_as_each_alone(texts: list[bytes], features: FeatureSpec, data: st.DataObject) -> None:
    heads = data.draw(st.sampled_from([1, 2, 4, 5, 8, 9, 10, 17, 33]))
    classifiers = []
    for seed in range(heads):
        words = data.draw(st.lists(st.sampled_from([*WORDS, b"__label__2", b"_"]), unique=True))
        labels = data.draw(st.sampled_from([("__label__0", "__label__1"), ("rank+", "x" * 299)]))
        classifiers.append(classifier(words, features, seed, labels))
    together = FoldedHeads(tuple(classifiers))
    column = array(texts)
    assert sorted(i for columns, _ in together._passes for i in columns) == list(range(heads))
    found = np.empty((len(texts), heads))
    for columns, weights in together._passes:
        found[:, columns] = agreed(weights, column)
    for head, alone in enumerate(classifiers):
        assert bits(found[:, head]) == bits(agreed(alone._weights, column)[:, 0])


def test_heads_with_the_same_labels_share_one_pass() -> None:
    features = FeatureSpec(2, 100)
    some = [classifier(WORDS[i:], features, i) for i in range(10)]
    assert len(FoldedHeads(tuple(some))._passes) == 1
    other = classifier([*WORDS, b"__label__known"], features)
    assert [columns for columns, _ in FoldedHeads((*some, other))._passes] == [list(range(10)), [10]]
    texts = pa.array(["a rank", None, ""])
    scores = FoldedHeads((*some, other)).score(texts)
    assert scores.shape == (3, 11)
    for head, alone in enumerate([*some, other]):
        assert scores[:, head].tolist() == alone.score(texts).tolist()


def test_heads_that_do_not_share_their_features_are_refused() -> None:
    one, other = classifier(WORDS, FeatureSpec(2, 100)), classifier(WORDS, FeatureSpec(3, 100))
    with pytest.raises(InputError, match=r"number 1 has.*word_ngrams=3"):
        FoldedHeads((one, other))
    with pytest.raises(InputError, match="at least one"):
        FoldedHeads(())


@pytest.mark.parametrize("seed", range(4))
def test_fuzz_random_bytes_in_random_batches(seed: int) -> None:
    """Bytes of every mixture, texts that begin and end anywhere in the buffer and overlap: the same bits, no crash."""
    rng = np.random.default_rng(seed)
    specs = [FeatureSpec(*each) for each in ((1, 0), (2, 1000), (3, 7), (5, 1000))]
    ways = ((2, 4, "space"), (1, 3, "unicode14"), (0, 0, "unicode14"))
    specs += [FeatureSpec(2, 1000, "_", minn, maxn, segmenter) for minn, maxn, segmenter in ways]
    models = [classifier(WORDS, each, i)._weights for i, each in enumerate(specs)]
    alphabet = [*SPACE, *b"</s>_label-thx", 0x80, 0xFF]
    for _ in range(500):
        size = int(rng.choice([0, 1, 7, 63, 64, 65, 500, 5000]))
        kind = rng.integers(4)
        if kind == 0:
            data = rng.integers(0, 256, size, np.uint8)
        elif kind == 1:
            data = rng.choice(np.array(alphabet, np.uint8), size)
        elif kind == 2:
            data = np.where(rng.random(size) < 0.01, 32, rng.integers(33, 256, size)).astype(np.uint8)
        else:
            words = b"".join(WORDS[i] + bytes([SPACE[j]]) for i, j in rng.integers(0, 7, (size // 4, 2)))
            data = np.frombuffer(words, np.uint8)[:size]
        cuts = np.sort(rng.integers(0, len(data) + 1, (int(rng.integers(0, 20)), 2)), axis=1)
        data = data.copy()
        data.flags.writeable = False  # as Arrow's buffers: or other variants of the kernel would be compiled, and tested
        piece = ft.TextPiece(data, cuts[:, 0].copy(), cuts[:, 1].copy(), slice(0, len(cuts)))
        weights = models[rng.integers(len(models))]
        found = []
        for name in KERNELS:
            found.append(np.full((len(cuts), 1), np.nan))
            module._run(name, weights, piece, found[-1])
        for other in found[1:]:
            assert bits(other) == bits(found[0])


def test_a_text_of_50_megabytes() -> None:
    words = b" ".join(WORDS[:8]) + b"\n"
    small = FeatureSpec(1, 1000, minn=2, maxn=2, segmenter="unicode14")
    for size, features in ((50_000_000, FeatureSpec(3, 1000)), (5_000_000, small)):
        texts = [words * (size // len(words)), b"y" * size, b" " * size, b"rank"]
        weights = classifier(WORDS, features)._weights
        margins = agreed(weights, pa.array(texts, pa.large_binary()).cast(pa.large_string()))
        assert np.isfinite(margins).all()
        assert agreed(weights, array([b"rank"]))[0] == margins[3]


def test_a_batch_of_empty_texts() -> None:
    weights = classifier(WORDS, FeatureSpec(2, 1000))._weights
    margins = agreed(weights, pa.array([""] * 10_000))
    assert (margins == weights.words[WORDS.index(b"</s>")]).all()
    no_eos = classifier(WORDS[:4], FeatureSpec(2, 1000))._weights
    assert (agreed(no_eos, pa.array(["", " ", "\0"])) == 0).all()
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        assert agreed(weights, pa.array([], kind)).shape == (0, 1)
        assert agreed(weights, pa.nulls(3, kind)).tolist() == [margins[0].tolist()] * 3
    assert agreed(weights, pa.chunked_array([], pa.string())).shape == (0, 1)


@given(
    texts=st.lists(st.one_of(st.none(), st.text(max_size=11), st.text(min_size=12, max_size=60)), max_size=12),
    start=st.integers(0, 12),
    length=st.integers(0, 12),
)
@settings(max_examples=150, deadline=None)
def test_every_kind_of_column_slice_and_chunk_is_read_in_place(
    texts: list[str | None], start: int, length: int
) -> None:
    weights = classifier(WORDS, FeatureSpec(2, 1000))._weights
    alone = [agreed(weights, array([(t or "").encode()]))[0, 0] for t in texts]
    kinds = [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.binary_view(),
        pa.dictionary(pa.int32(), pa.string()),
    ]
    for kind in kinds:
        raw = kind in (pa.binary(), pa.binary_view())
        values = [t.encode() if raw and t is not None else t for t in texts]
        column = (
            pa.array(values, pa.string()).dictionary_encode()
            if pa.types.is_dictionary(kind)
            else pa.array(values, kind)
        )
        assert agreed(weights, column)[:, 0].tolist() == alone, kind
        assert agreed(weights, column.slice(start, length))[:, 0].tolist() == alone[start : start + length], kind
        chunks = pa.chunked_array([column.slice(0, start), column.slice(start)])
        assert agreed(weights, chunks)[:, 0].tolist() == alone, kind


def test_no_byte_of_text_is_copied() -> None:
    texts = ["long enough not to lie within its view", "short", "another text that is long enough"] * 10
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.string_view()):
        column = pa.array([t.encode() for t in texts], pa.binary()) if kind == pa.binary() else pa.array(texts, kind)
        held = [(b.address, b.address + b.size) for b in column.buffers() if b is not None]
        for piece in ft.text_pieces(column.slice(3)):
            at = piece.data.ctypes.data
            assert any(low <= at < high for low, high in held), kind


def test_what_a_nulls_slot_holds_is_not_read() -> None:
    weights = classifier(WORDS, FeatureSpec(2, 1000))._weights
    offsets, data = pa.py_buffer(np.array([0, 4, 8], np.int32)), pa.py_buffer(b"rankrank")
    column = pa.StringArray.from_buffers(2, offsets, data, pa.py_buffer(b"\x01"))
    assert column.to_pylist() == ["rank", None]
    assert agreed(weights, column).tolist() == agreed(weights, pa.array(["rank", ""])).tolist()
    views = np.array([[4, *np.frombuffer(b"rank\0\0\0\0\0\0\0\0", np.int32)], [10**9, 5, 77, 10**9]], np.int32)
    column = pa.Array.from_buffers(pa.string_view(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(views)])
    assert agreed(weights, column).tolist() == agreed(weights, pa.array(["rank", ""])).tolist()


def test_several_threads_score_at_once() -> None:
    weights = classifier(WORDS, FeatureSpec(2, 1000))._weights
    texts = pa.array([" ".join(word.decode(errors="replace") for word in WORDS) * 20] * 200)
    expected = bits(agreed(weights, texts))
    found: list[list] = []
    threads = [
        threading.Thread(target=lambda name=name: found.append(bits(text_margins(weights, texts, kernel=name))))
        for name in KERNELS
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * len(threads)


@native
def test_the_native_kernel_refuses_what_does_not_fit() -> None:
    weights = classifier(WORDS, FeatureSpec(2, 10))._weights
    data, at, stop, margins = ft.as_bytes("a rank"), np.array([0]), np.array([6]), np.empty((1, 1))

    def run(
        name: str = NATIVE[0],
        width: int = 1,
        words: int = len(WORDS),
        buckets: int = 10,
        ngrams: int = 2,
        minn: int = 0,
        maxn: int = 0,
        **other: np.ndarray,
    ) -> None:
        arrays = {
            "data": data,
            "starts": at,
            "stops": stop,
            "words": weights.words,
            "buckets": weights.buckets,
            "margins": margins,
        }
        arrays |= other
        slots, pool, offsets = weights.vocabulary
        module._kernel.score(
            name, arrays["data"], arrays["starts"], arrays["stops"], arrays.get("slots", slots), pool, offsets,
            arrays["words"], arrays["buckets"], words, buckets, width, ngrams, minn, maxn,
            arrays.get("classes", ft.as_bytes("")), ft.as_bytes("__label__"), arrays["margins"],
        )  # fmt: skip

    run()
    for message, wrong in (
        ("set of instructions", {"name": "sse9"}),
        ("outside its buffer", {"stops": np.array([7])}),
        ("outside its buffer", {"starts": np.array([-1])}),
        ("outside its buffer", {"starts": np.array([3]), "stops": np.array([2])}),
        ("different lengths", {"stops": np.array([1, 2])}),
        ("width", {"width": 3}),
        ("width", {"margins": np.empty((1, 2))}),
        ("too few weights", {"words": len(WORDS) + 1}),
        ("too few weights", {"buckets": 11}),
        ("out of range", {"ngrams": 6}),
        ("out of range", {"buckets": 0}),
        ("minn or maxn", {"minn": 0, "maxn": 3}),
        ("minn or maxn", {"minn": 4, "maxn": 3}),
        ("minn or maxn", {"minn": 1, "maxn": 33}),
        ("minn or maxn", {"minn": 1, "maxn": 2, "buckets": 0, "ngrams": 1}),
        ("class for each code point", {"classes": np.zeros(256, np.uint8)}),
        ("power of two", {"slots": np.zeros((3, 4), np.uint64)}),
        ("type of item", {"starts": np.array([0], np.int32)}),
    ):
        with pytest.raises(ValueError, match=message):
            run(**wrong)  # type: ignore[arg-type]
    margins.flags.writeable = False
    with pytest.raises((BufferError, ValueError)):
        run()


def test_rows_of_weights_have_room_for_the_heads() -> None:
    assert [row_width(n) for n in (1, 2, 4, 5, 8, 9, 10, 16, 17, 40)] == [1, 4, 4, 8, 8, 16, 16, 16, 32, 48]


# --- which one runs


def test_betr_kernel_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    best = f"native ({NATIVE[0]})" if NATIVE else "numba"
    for value, expected in (("", best), ("auto", best), ("numba", "numba")):
        monkeypatch.setenv("BETR_KERNEL", value)
        assert kernel_in_use() == expected
    monkeypatch.setenv("BETR_KERNEL", "fastest")
    with pytest.raises(InputError, match="must be auto, native or numba; got 'fastest'"):
        kernel_in_use()


def test_a_native_kernel_that_was_not_built_is_missed_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_native", None)
    monkeypatch.delenv("BETR_KERNEL", raising=False)
    module._chosen.cache_clear()
    try:
        assert kernel_in_use() == "numba"
        assert available_kernels() == ("numba",)
        monkeypatch.setenv("BETR_KERNEL", "native")
        with pytest.raises(InputError, match="was not built: install betr-bare again where a C compiler is"):
            kernel_in_use()
    finally:
        module._chosen.cache_clear()


@pytest.mark.slow
def test_without_the_compiled_module_betr_imports_and_scores_with_numba() -> None:
    code = (
        "import sys; sys.modules['betr._kernel'] = None\nfrom betr.kernel import kernel_in_use; print(kernel_in_use())"
    )
    env = {k: v for k, v in os.environ.items() if k != "BETR_KERNEL"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout == "numba\n", done.stderr


def test_scores_are_made_of_margins_in_one_place() -> None:
    features = FeatureSpec(1, 0)
    one = replace(classifier([b"down", b"up"], features), word_weights=np.array([-1000, 1000], np.float32))
    assert one.score(pa.array(["down", "up", "", None])).tolist() == [1e-5, 1 + 1e-5, 0.5 + 1e-5, 0.0]
