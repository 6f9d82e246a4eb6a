"""The laws of embedding: a vector depends on its text and the encoder alone, and the encoder_id says which encoder."""

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from curation import embedding
from curation.embedding import (
    Encoder,
    EncoderConfig,
    SentenceTransformerEncode,
    check_dimension,
    embed,
    embed_batches,
    embedding_profile,
    resolve_encoder,
)
from curation.errors import InputError, MissingExtraError, SchemaError, explain

WORDS = ["the", "moon", "turns", "round", "earth", "a", "cell", "divides", "water", "boils", "and", "light", "bends"]
CONFIG = "config_sentence_transformers.json"


def make_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 60))) for _ in range(count)]
    return [*texts, "", " ", "the " * 400, " " * 3000 + "moon", "x" * 3000, "water\n\n" * 50]


def bits(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors, np.float32).view(np.uint32)


def make_model(
    folder: Path, *, pooling: str = "mean", left: bool = False, dense: bool = False,
    prompts: dict[str, str] | None = None, include_prompt: bool = True,
) -> Path:
    """A random transformer of two narrow layers that reads 48 tokens, saved as sentence-transformers saves it."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789:"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *("##" + c for c in letters)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    raw = folder.with_name(folder.name + "-raw")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=48, padding_side="left" if left else "right",
    ).save_pretrained(raw)
    torch.manual_seed(7)
    BertModel(
        BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=64, max_position_embeddings=64)
    ).save_pretrained(raw)
    transformer = parts.Transformer(str(raw), max_seq_length=48)
    modules: list[Any] = [transformer, parts.Pooling(32, pooling_mode=pooling, include_prompt=include_prompt)]
    if dense:
        modules.append(parts.Dense(32, 24))
    model = SentenceTransformer(modules=[*modules, parts.Normalize()], prompts=prompts, device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="module")
def tiny_encoder(tiny: Path) -> Encoder:
    return resolve_encoder(EncoderConfig(str(tiny), precision="float32"))


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "tiny")


def set_json(path: Path, **values: Any) -> None:
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **values}))


# -- the stand-in ----------------------------------------------------------------------------------------------------


def hashed_slowly(text: str, dimension: int) -> np.ndarray:
    def add(word: str) -> None:
        number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        vector[number % dimension] += -1 if number >= 2**63 else 1

    vector = np.zeros(dimension)
    for word in re.findall(r"\w+", text.lower()):
        add(word)
    if not vector.any():
        add("")
    return vector / np.sqrt((vector**2).sum())


@pytest.mark.parametrize("dimension", [1, 7, 64])
def test_hashing_equals_its_slow_reference(dimension: int) -> None:
    texts = [*make_texts(50), "Ünïcode ÇA va", "日本語 テキスト", "?!"]
    vectors = resolve_encoder(EncoderConfig(f"hashing:{dimension}")).load().encode(texts, "document")
    expected = np.stack([hashed_slowly(text, dimension) for text in texts]).astype(np.float32)
    assert vectors.dtype == np.float32
    assert np.array_equal(bits(vectors), bits(expected))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


# -- the description -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": " "}, "the model is empty"),
        ({"model": "m", "precision": "int8"}, "got 'int8'"),
        ({"model": "m", "max_tokens": 2}, "max_tokens must be at least 4; got 2"),
        ({"model": "m", "batch_tokens": 0}, "batch_tokens must be at least 1; got 0"),
        ({"model": "hashing:x"}, "hashing:DIMENSION"),
    ],
)
def test_configuration_is_checked_at_birth(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EncoderConfig(**values)


def test_describing_an_encoder_loads_no_weights(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_load_model", lambda *_: pytest.fail("loaded"))
    encoder = resolve_encoder(EncoderConfig(str(tiny)))
    assert encoder.dimension == 32
    assert re.fullmatch(r"tiny-[0-9a-f]{12}", encoder.encoder_id)
    assert pickle.loads(pickle.dumps(encoder)) == encoder


def test_moving_a_folder_or_another_batch_size_keeps_the_encoder_id(copy: Path, tmp_path: Path) -> None:
    before = resolve_encoder(EncoderConfig(str(copy)))
    moved = shutil.move(copy, tmp_path / "elsewhere" / "tiny")
    assert resolve_encoder(EncoderConfig(str(moved), batch_tokens=64)).encoder_id == before.encoder_id


def test_encoder_id_covers_files_precision_tokens_and_prompts(copy: Path) -> None:
    def name(**settings: Any) -> str:
        return resolve_encoder(EncoderConfig(str(copy), **{"precision": "float32", **settings})).encoder_id

    names = [name(), name(precision="bfloat16"), name(max_tokens=16)]
    set_json(copy / CONFIG, prompts={"query": "query: "})
    names.append(name())
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    names.append(name())
    assert len(set(names)) == len(names)


def test_a_name_is_looked_for_offline_first_and_pinned_to_its_commit(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    snapshot = copy.rename(copy.with_name("c0ffee"))
    calls = []

    def download(name: str, *, revision: str | None, local_files_only: bool, **_: Any) -> str:
        calls.append((name, revision, local_files_only))
        if local_files_only:
            raise FileNotFoundError("not in the cache")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    encoder = resolve_encoder(EncoderConfig("house/tiny", revision="main"))
    assert calls == [("house/tiny", "main", True), ("house/tiny", "main", False)]
    assert (encoder.model, encoder.revision, encoder.dimension) == ("house/tiny", "c0ffee", 32)
    assert encoder.encoder_id == resolve_encoder(EncoderConfig("house/tiny")).encoder_id

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"house/tiny is not in the local cache.*Give the folder"):
        resolve_encoder(EncoderConfig("house/tiny"))
    assert calls[-1] == ("house/tiny", None, True)


def test_unknown_encoders_are_refused_with_a_remedy(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        resolve_encoder(EncoderConfig(str(tmp_path / "none")))
    with pytest.raises(InputError, match=r"neither modules\.json nor config\.json; give the folder"):
        resolve_encoder(EncoderConfig(str(tmp_path)))
    with pytest.raises(InputError, match="leave the revision out"):
        resolve_encoder(EncoderConfig(str(tiny), revision="main"))
    with pytest.raises(InputError, match="reads at most 64 tokens; max_tokens is 65"):
        resolve_encoder(EncoderConfig(str(tiny), max_tokens=65))


def test_no_code_of_a_model_is_ever_run(copy: Path) -> None:
    trap = copy / "modeling_trap.py"
    trap.write_text("raise SystemExit('ran')")
    modules = json.loads((copy / "modules.json").read_text())
    changed = [{**modules[0], "type": "modeling_trap.Trap"}, *modules[1:]]
    (copy / "modules.json").write_text(json.dumps(changed))
    with pytest.raises(InputError, match=r"needs its own code \(modeling_trap.Trap\)"):
        resolve_encoder(EncoderConfig(str(copy)))

    (copy / "modules.json").write_text(json.dumps(modules))
    set_json(copy / "config.json", model_type="trap", auto_map={"AutoModel": "modeling_trap.Trap"})
    with pytest.raises(InputError, match="needs its own code"):
        resolve_encoder(EncoderConfig(str(copy)))


def test_a_missing_extra_is_named_with_its_command(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'betr-bare\[embedding\]'"):
        resolve_encoder(EncoderConfig(str(tiny)))
    assert resolve_encoder(EncoderConfig("hashing:8")).dimension == 8


# -- the vectors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [{}, {"pooling": "cls"}, {"pooling": "lasttoken", "left": True}, {"dense": True}, {"pooling": "max"},
     {"prompts": {"query": "the moon: ", "passage": "water: "}},
     {"prompts": {"query": "the moon: ", "document": ""}, "include_prompt": False}],
    ids=lambda shape: "-".join(map(str, shape)) or "mean",
)
def test_vectors_are_those_of_sentence_transformers(shape: dict[str, Any], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = make_model(tmp_path / "model", **shape)
    encoder = resolve_encoder(EncoderConfig(str(folder), precision="float32"))
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = make_texts(40)
    for kind in ("query", "document"):
        ours = encoder.load().encode(texts, kind)  # type: ignore[arg-type]
        prompt = encoder.prompt(kind)  # type: ignore[arg-type]
        # One text a batch: theirs, padded on the left, depend on what stands beside a text.
        expected = theirs.encode(texts, prompt=prompt or None, normalize_embeddings=True, batch_size=1)
        assert ours.shape == (len(texts), encoder.dimension)
        assert (ours * expected).sum(axis=1).min() >= 0.9999
        assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
        assert np.abs(ours - expected).max() < 1e-5
    given = shape.get("prompts", {})
    assert encoder.query_prompt == given.get("query", "")
    assert encoder.document_prompt == given.get("passage", "")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_order_and_company_change_no_bit(tiny: Path, precision: str) -> None:
    encode = resolve_encoder(EncoderConfig(str(tiny), precision=precision, batch_tokens=200)).load()
    texts = make_texts(60)
    vectors = encode.encode(texts, "document")
    rng = np.random.default_rng(1)
    for size in (len(texts), 40, 7, 2):
        chosen = rng.permutation(len(texts))[:size]
        again = encode.encode([texts[i] for i in chosen], "document")
        assert np.array_equal(bits(again), bits(vectors[chosen]))
    for i in range(0, len(texts), 5):
        assert np.array_equal(bits(encode.encode([texts[i]], "document")[0]), bits(vectors[i]))


def test_each_bucket_has_one_shape_and_full_texts_stay_apart(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, set[bool]]] = []
    real = SentenceTransformerEncode._forward

    def forward(self: Any, batch: list[dict[str, Any]], length: int, extra: dict[str, int]) -> Any:
        seen.append((length, len(batch), {len(row["input_ids"]) == length for row in batch}))
        return real(self, batch, length, extra)

    monkeypatch.setattr(SentenceTransformerEncode, "_forward", forward)
    tiny_encoder.load().encode(make_texts(200), "document")
    assert {length for length, _, _ in seen} == {16, 32, 48}
    assert all(rows == 512 // length for length, rows, _ in seen)
    assert all(len(full) == 1 for _, _, full in seen)


def test_pieces_of_tokenising_change_no_bit(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, texts = tiny_encoder.load(), make_texts(200)
    whole = encode.encode(texts, "document")
    monkeypatch.setattr(embedding, "TOKENISED_AT_ONCE", 7)
    assert np.array_equal(bits(encode.encode(texts, "document")), bits(whole))


def test_what_is_tokenised_ahead_of_a_gpu_is_what_a_cpu_reads(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode: Any = tiny_encoder.load()
    monkeypatch.setattr(embedding, "TOKENISED_AT_ONCE", 30)
    for count in (1, 30, 61, 200):
        texts = make_texts(200)[:count]
        read = []
        for on_gpu in (False, True):
            monkeypatch.setattr(encode, "_on_gpu", on_gpu)
            pieces = [(at, [row["input_ids"].tolist() for row in rows]) for at, rows in encode._tokenised(texts, "a ")]
            read.append(pieces)
        assert read[0] == read[1]
        assert [at for at, _ in read[0]] == list(range(0, count, 30))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_too_large_a_batch_is_halved_once(tiny: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose memory holds 6 texts of 48 tokens: batches of 10 don't fit, of 5 they do, of 20 never."""
    real = SentenceTransformerEncode._forward

    def forward(self: Any, batch: list[Any], length: int, extra: dict[str, int]) -> Any:
        if len(batch) * length > 6 * 48:
            raise error
        return real(self, batch, length, extra)

    texts = make_texts(60)
    expected = resolve_encoder(EncoderConfig(str(tiny), batch_tokens=240)).load().encode(texts, "document")
    monkeypatch.setattr(SentenceTransformerEncode, "_forward", forward)
    model = embedding._load_model(tiny, "float32", "cpu")

    def with_batches(tokens: int) -> SentenceTransformerEncode:
        return SentenceTransformerEncode(resolve_encoder(EncoderConfig(str(tiny), batch_tokens=tokens)), model)

    encode = with_batches(480)
    assert np.array_equal(bits(encode.encode(texts, "document")), bits(expected))
    assert encode._batch_tokens == 240
    with pytest.raises(InputError, match=r"embedding: 480 tokens of .* don't fit into the memory of cpu"):
        with_batches(960).encode(texts, "document")


def test_an_error_that_is_no_lack_of_memory_is_told(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(*_: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SentenceTransformerEncode, "_forward", forward)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        tiny_encoder.load().encode(make_texts(3), "document")


def test_cutting_a_text_first_changes_no_token(tiny_encoder: Encoder) -> None:
    encode: Any = tiny_encoder.load()
    rng = np.random.default_rng(3)
    gaps = [" ", "  ", "\n", "\n\n", " " * 50, "\t", "", ","]
    texts = ["".join(w + str(g) for w, g in zip(rng.choice(WORDS, n), rng.choice(gaps, n), strict=True))
             for n in rng.integers(1, 900, 200)]
    texts += [" " * 5000 + "moon", "moon" + " " * 5000 + "water", "moon," * 900, "é" * 2000, "\n" * 900 + "a b " * 300]
    whole = encode._tokenizer(texts, truncation=True, max_length=48)["input_ids"]
    assert [row["input_ids"].tolist() for row in encode._tokens(texts)] == whole


def test_buckets_waste_less_than_an_eighth_beyond_their_first_steps() -> None:
    lengths = np.arange(1, 9000)
    buckets = np.array([embedding.bucket(int(n)) for n in lengths])
    assert (buckets >= lengths).all()
    assert (np.diff(buckets) >= 0).all()
    assert (buckets - lengths <= np.maximum(15, lengths / 8)).all()
    assert len(set(buckets.tolist())) < 64


def test_windows_and_arrow_batches_change_no_bit(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_texts(80)
    ids = [f"d{i}" for i in range(len(texts))]

    def run(rows_per_batch: int, window: int) -> dict[str, bytes]:
        monkeypatch.setattr(embedding, "CPU_WINDOW", window)
        monkeypatch.setattr(embedding, "OUTPUT_ROWS", rows_per_batch + 3)
        table = pa.table({"doc_id": ids, "text": texts})
        batches = embed_batches(table.to_batches(rows_per_batch), encoder=tiny_encoder, kind="document")
        return {
            row["doc_id"]: np.array(row["embedding"], np.float32).tobytes() for b in batches for row in b.to_pylist()
        }

    expected = run(1000, 4 << 20)
    assert len(expected) == len(texts)
    assert run(7, 500) == expected
    assert run(1, 1) == expected


def test_models_without_a_transformer_are_read_one_text_at_a_time(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as parts
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(len(WORDS) + 1, 12)).astype(np.float32)
    static = parts.StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"), create_model_card=False)
    encoder = resolve_encoder(EncoderConfig(str(tmp_path / "static"), precision="float32"))
    texts = [text for text in make_texts(20) if text.strip()]
    expected = SentenceTransformer(str(tmp_path / "static"), device="cpu").encode(texts, normalize_embeddings=True)
    assert encoder.dimension == 12
    assert np.allclose(encoder.load().encode(texts, "document"), expected, atol=1e-6)


def test_a_worker_with_other_files_than_the_driver_is_refused(copy: Path) -> None:
    encoder = resolve_encoder(EncoderConfig(str(copy), precision="float32"))
    set_json(copy / "config.json", hidden_dropout_prob=0.5)
    with pytest.raises(InputError, match="other files on this worker"):
        encoder.load()


def test_a_model_whose_files_are_wrong_is_one_sentence(copy: Path) -> None:
    set_json(copy / "1_Pooling" / "config.json", embedding_dimension=24)
    texts = pa.record_batch({"doc_id": ["a", "b"], "text": ["the moon", "water"]})
    encoder = resolve_encoder(EncoderConfig(str(copy), precision="float32"))
    with pytest.raises(InputError, match=r"^embedding: tiny-.* makes 32 dimensions, and its files say 24; fetch the model again"):
        list(embed_batches([texts], encoder=encoder, kind="document", local=True))
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    encoder = resolve_encoder(EncoderConfig(str(copy), precision="float32"))
    with pytest.raises(InputError, match=rf"^encoder: {copy} can't be loaded by sentence-transformers; check the model's files"):
        encoder.load()


# -- the stage -------------------------------------------------------------------------------------------------------


def frame(spark: SparkSession, texts: list[str | None], id_column: str = "doc_id") -> DataFrame:
    rows = [(f"d{i:03}", text) for i, text in enumerate(texts)]
    return spark.createDataFrame(rows, f"{id_column} string, text string")


def collected(embedded: DataFrame) -> dict[str, bytes]:
    return {row[0]: np.array(row[2], np.float32).tobytes() for row in embedded.collect()}


@pytest.fixture
def small_arrow_batches(spark: SparkSession) -> Iterator[None]:
    name = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(name)
    spark.conf.set(name, "5")
    yield
    spark.conf.set(name, before or "10000")


def test_partitions_order_arrow_batches_and_resume_change_no_vector(
    spark: SparkSession, tiny_encoder: Encoder, small_arrow_batches: None
) -> None:
    texts: list[str | None] = [*make_texts(60)]
    rows = frame(spark, texts)

    def run(rows: DataFrame) -> dict[str, bytes]:
        return collected(embed(rows, id_column="doc_id", encoder=tiny_encoder, kind="document"))

    vectors = tiny_encoder.load().encode([str(text) for text in texts], "document")
    expected = {f"d{i:03}": vector.tobytes() for i, vector in enumerate(vectors)}
    assert run(rows.coalesce(1)) == expected
    assert run(rows.repartition(5).sortWithinPartitions(F.desc("doc_id"))) == expected
    rest = rows.where(F.crc32("doc_id") % 3 == 0)
    resumed = run(rest)
    assert resumed.items() < expected.items()
    assert resumed


@pytest.mark.connect
def test_embed_has_the_declared_columns_and_refuses_others(spark: SparkSession) -> None:
    encoder = resolve_encoder(EncoderConfig("hashing:16"))
    embedded = embed(frame(spark, ["a b", ""], "example_id"), id_column="example_id", encoder=encoder, kind="query")
    assert dict(embedded.dtypes) == {"example_id": "string", "encoder_id": "string", "embedding": "array<float>"}
    found = sorted(embedded.collect())
    assert [row.example_id for row in found] == ["d000", "d001"]
    assert all(row.encoder_id == encoder.encoder_id and len(row.embedding) == 16 for row in found)
    with pytest.raises(SchemaError, match=r"rows lack \['doc_id'\]"):
        embed(frame(spark, ["a"], "id"), id_column="doc_id", encoder=encoder, kind="query")
    with pytest.raises(InputError, match="kind must be query or document; got 'passage'"):
        embed(frame(spark, ["a"]), id_column="doc_id", encoder=encoder, kind="passage")  # type: ignore[arg-type]


@pytest.mark.connect
def test_a_worker_names_the_row_without_text(spark: SparkSession) -> None:
    encoder = resolve_encoder(EncoderConfig("hashing:16"))
    with pytest.raises(Exception) as caught:
        embed(frame(spark, ["a", None]), id_column="doc_id", encoder=encoder, kind="document").collect()
    assert explain(caught.value) == "embedding: doc_id d001 has no text (null); leave such rows out"


def test_an_embedding_that_is_not_finite_names_its_row(copy: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5] = torch.nan  # "the"
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    encoder = resolve_encoder(EncoderConfig(str(copy), precision="float32"))
    texts = pa.record_batch({"doc_id": ["d000", "d001"], "text": ["a moon", "the moon"]})
    with pytest.raises(InputError, match=r"^embedding: doc_id d001 has no finite embedding \(1 such among 2 texts\)"):
        list(embed_batches([texts], encoder=encoder, kind="document", local=True))


@pytest.mark.connect
def test_a_table_with_another_dimension_is_refused(spark: SparkSession) -> None:
    encoder = resolve_encoder(EncoderConfig("hashing:16"))
    embedded = embed(frame(spark, ["a b"]), id_column="doc_id", encoder=encoder, kind="document")
    check_dimension(embedded, encoder=encoder, table="sample_embeddings")
    other = dataclasses.replace(encoder, dimension=8)
    with pytest.raises(InputError, match=r"hashing-16-.* with 16 dimensions.*makes 8"):
        check_dimension(embedded, encoder=other, table="sample_embeddings")


def test_a_task_computes_on_the_gpu_that_it_was_given_and_says_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(embedding, "task_gpu", lambda: "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert embedding._device(local=True) == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"the task was given GPU 1, but PyTorch .* sees no CUDA there"):
        embedding._device(local=True)


def test_a_profile_asks_for_gpus_where_there_are_some() -> None:
    assert embedding_profile(0) is None
    profile = embedding_profile(0.5)
    assert profile is not None
    assert profile.taskResources["gpu"].amount == 0.5
    with pytest.raises(InputError, match="0 or more; got -1"):
        embedding_profile(-1)
