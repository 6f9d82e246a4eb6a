"""Any causal language model that transformers loads, on the task's GPU or its core: raw completion and chat.

What a row says depends on its prompt, its own seed and sampling: bit for bit on one kind of hardware, whatever rows
stand beside it, in whatever order, batch or partition (generators/decoding.py). Another `width`, another kind of
hardware or number of threads moves the last bits of the logits: in float32 the text stays the same but where two tokens
tie to six digits, in half precision it may be another.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from bare.generators.protocol import Completion, Prompt, Sampling
from bare.generators.spec import TransformersSpec
from curation.embedding import PRECISIONS, digest_folder, fast_precision
from curation.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from bare.generators.decoding import Row

Role = Literal["base", "instruct"]

# A CPU reads the weights as fast for sixteen rows as for one; a GPU for as many as it has room for.
CPU_WIDTH, GPU_WIDTH = 16, 64
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 1 << 15, 1 << 18
# Tokens of the prompt that are decoded in front of a completion: what a word's first token means may depend on them.
CONTEXT = 8


@dataclass(frozen=True)
class ModelFiles:
    """A model as the driver knows it before anything is loaded.

    revision: the hub's commit, or for a folder `sha256:` and the beginning of the hash of its files' contents.
    license: what its model card or config says, None where they don't.
    """

    folder: Path
    revision: str
    license: str | None


def find_model(spec: TransformersSpec) -> ModelFiles:
    """A folder, else a name in the local cache, else on the hub (never where HF_HUB_OFFLINE is set): files only.

    InputError: no such model, a folder with a revision, a model that needs code of its own.
    MissingExtraError: without transformers.
    """
    require_extra()
    folder = Path(spec.model).expanduser()
    if folder.is_dir():
        if spec.revision is not None:
            raise InputError(f"{spec}: {spec.model} is a folder and has no revisions; leave @{spec.revision} out")
        if not (folder / "config.json").is_file():
            raise InputError(f"{spec}: {folder} holds no config.json; give the folder that a model was saved to")
        revision = f"sha256:{digest_folder(folder)[:16]}"
    elif folder.is_absolute() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", spec.model):
        raise InputError(f"{spec}: there is no folder {spec.model}; give a model's folder or its name on the hub")
    else:
        folder = _from_hub(spec)
        revision = folder.name
    _refuse_remote_code(spec, folder)
    return ModelFiles(folder, revision, model_license(folder))


def require_extra() -> None:
    """MissingExtraError, with the command that installs it, where PyTorch or transformers isn't there."""
    for package, name in (("torch", "PyTorch"), ("transformers", "transformers")):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(f"a transformers: generator (there is no {name})", "generation")


def _from_hub(spec: TransformersSpec) -> Path:
    from huggingface_hub import snapshot_download

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    reason = ""
    for local_only in (True,) if offline else (True, False):
        try:
            found = Path(
                snapshot_download(
                    spec.model, revision=spec.revision, local_files_only=local_only, max_workers=4,
                    ignore_patterns=[
                        "onnx/*", "openvino/*", "original/*", "*.onnx", "*.h5", "*.msgpack", "*.gguf", "*.py",
                    ],
                )
            )  # fmt: skip
        except Exception as error:  # not found, gated, no network: the hub has a class for each
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        else:
            if (found / "config.json").is_file():
                return found
            reason = "its files are incomplete"
    where = "in the local cache (HF_HUB_OFFLINE is set)" if offline else "in the local cache or on the hub"
    raise InputError(
        f"{spec}: {spec.model} is not {where}: {reason.rstrip('.')}. Give a model's folder or its name on the hub"
    )


def _refuse_remote_code(spec: TransformersSpec, folder: Path) -> None:
    config = _read_json(spec, folder / "config.json")
    if "auto_map" in config:
        from transformers.models.auto import configuration_auto

        known: Any = configuration_auto
        if config.get("model_type") not in known.CONFIG_MAPPING_NAMES:
            raise InputError(
                f"{spec} needs its own code (model_type {config.get('model_type')!r}); code from a model is never run "
                "here: choose a model that transformers knows itself"
            )


def _read_json(spec: TransformersSpec, path: Path) -> dict[str, Any]:
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{spec}: {path} can't be read ({error}); fetch the model again") from error
    return found if isinstance(found, dict) else {}


def model_license(folder: Path) -> str | None:
    """The licence that a model's folder states: README.md's front matter, else config.json; None where neither does.

    A licence `other` with a `license_name` is that name.
    """
    said: Any = {}
    card = folder / "README.md"
    if card.is_file():
        found = re.match(r"\ufeff?---\s*\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        try:
            said = yaml.safe_load(found[1]) if found else {}
        except yaml.YAMLError:
            said = {}
    if not isinstance(said, dict) or not said.get("license"):
        try:
            said = _read_json(TransformersSpec(str(folder)), folder / "config.json")
        except InputError:
            return None
    license_ = said.get("license")
    if license_ == "other" and said.get("license_name"):
        license_ = said["license_name"]
    return str(license_[0] if isinstance(license_, list) and license_ else license_) if license_ else None


def check_role(tokenizer: Any, role: Role, *, insist: bool = False) -> None:
    """InputError where a base model has a chat template or an instruct model none, unless the person insists."""
    has_template = bool(getattr(tokenizer, "chat_template", None))
    if insist or has_template == (role == "instruct"):
        return
    name = getattr(tokenizer, "name_or_path", "") or "the model"
    if role == "base":
        raise InputError(
            f"{name} is to draft as a base model, but it has a chat template, as instruct models have; "
            "give a base model, or insist with --insist-base"
        )
    raise InputError(
        f"{name} is to refine as an instruct model, but it has no chat template; "
        "give an instruct model, or insist with --insist-instruct (it then gets the messages as plain text)"
    )


def load_tokenizer(spec: TransformersSpec) -> Any:
    """The model's tokenizer alone, enough for check_role on the driver. InputError where it can't be loaded."""
    files = find_model(spec)
    return _loaded(spec, files.folder, "tokenizer", lambda auto: auto.AutoTokenizer.from_pretrained(
        str(files.folder), local_files_only=True, trust_remote_code=False
    ))  # fmt: skip


def load(
    spec: TransformersSpec,
    *,
    precision: str = "auto",
    device: str = "cpu",
    threads: int | None = 1,
    width: int | None = None,
    batch_tokens: int | None = None,
) -> TransformersGenerator:
    """The model in memory: once a worker process; nothing of it goes through a pickle.

    precision: auto, float32, bfloat16 or float16; auto is half precision where this machine computes it fast. device:
    `cpu`, or `cuda:0` (the task's address). threads: of PyTorch on a CPU; None leaves them. width, batch_tokens: rows
    of one pass and tokens held at once (Decoder); None for 16 and 32,768 on a CPU, 64 and 262,144 on a GPU.
    InputError: the model can't be loaded, or the device isn't there.
    """
    model, tokenizer = load_model(spec, precision=precision, device=device, threads=threads)
    return TransformersGenerator(model, tokenizer, width=width, batch_tokens=batch_tokens, name=str(spec))


def load_model(
    spec: TransformersSpec, *, precision: str = "auto", device: str = "cpu", threads: int | None = 1
) -> tuple[Any, Any]:
    """(model, tokenizer) in memory on the device, as `load` has them."""
    if precision not in PRECISIONS:
        raise InputError(f"{spec}: precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    files = find_model(spec)
    if device == "cpu":
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many tasks run as there are cores
    import torch

    if device == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            f"{spec}: the task was given {device}, but PyTorch {torch.__version__} sees no CUDA there; install a build "
            "with CUDA on the executors"
        )
    dtype = getattr(torch, fast_precision() if precision == "auto" else precision)
    tokenizer = load_tokenizer(spec)
    model = _loaded(spec, files.folder, "model", lambda auto: auto.AutoModelForCausalLM.from_pretrained(
        str(files.folder), local_files_only=True, trust_remote_code=False, dtype=dtype
    ).to(device).eval())  # fmt: skip
    return model, tokenizer


def _loaded(spec: TransformersSpec, folder: Path, what: str, load_it: Callable[[Any], Any]) -> Any:
    import transformers

    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load_it(transformers)
    except Exception as error:  # a model's files can be wrong in any way
        reason = str(error).strip().splitlines()
        if _is_out_of_memory(error):
            raise InputError(
                f"{spec}: the model doesn't fit into memory; choose a smaller one, or --precision bfloat16"
            ) from error
        raise InputError(
            f"{spec}: the {what} in {folder} can't be loaded by transformers; check its files: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error


class TransformersGenerator:
    """A Generator over a model and its tokenizer in memory (`load` makes it from a name).

    width, batch_tokens: as in `load`. Where memory runs out the batch is halved, once.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        width: int | None = None,
        batch_tokens: int | None = None,
        name: str = "model",
    ) -> None:
        from bare.generators.decoding import Decoder

        on_cpu = model.device.type == "cpu"
        width = (CPU_WIDTH if on_cpu else GPU_WIDTH) if width is None else width
        batch_tokens = (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS) if batch_tokens is None else batch_tokens
        for setting, value in (("width", width), ("batch_tokens", batch_tokens)):
            if value < 1:
                raise InputError(f"{name}: {setting} must be at least 1; got {value!r}")
        self.name, self.tokenizer = name, tokenizer
        self.decoder = Decoder(model, width=width, batch_tokens=batch_tokens)
        self._ends = _end_tokens(model, tokenizer)
        self._tokens_of = functools.lru_cache(maxsize=64)(lambda text: list(tokenizer(text)["input_ids"]))
        self._may_halve = True

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion a prompt, in their order, each the same in any batch; tokens_out counts an end token too.

        A prompt that the model can't read (longer than its context, messages that its chat template refuses) is a row
        with an error. seconds: a batch's time, shared among its rows by their tokens.
        InputError: a batch of half the size doesn't fit into memory either.
        """
        done: dict[int, Completion] = {}
        waiting: dict[int, Row] = {}
        for at, prompt in enumerate(prompts):
            row = self._row(prompt)
            if isinstance(row, str):
                done[at] = Completion(prompt.id, None, "error", error=row)
            else:
                waiting[at] = row
        while waiting:
            places = {id(row): at for at, row in waiting.items()}
            for batch in list(self.decoder.batch_of(waiting.values())):
                start = time.monotonic()
                try:
                    self.decoder.run(batch)
                except Exception as error:
                    if not _is_out_of_memory(error):
                        raise
                    self._halve()
                    break
                seconds = time.monotonic() - start
                tokens = sum(len(row.ids) + len(row.out) for row in batch)
                for row in batch:
                    at = places[id(row)]
                    share = seconds * (len(row.ids) + len(row.out)) / tokens
                    done[at] = self._completion(prompts[at], waiting.pop(at), share)
        return [done[at] for at in range(len(prompts))]

    def _halve(self) -> None:
        decoder = self.decoder
        if not self._may_halve:
            raise InputError(
                f"{self.name}: {decoder.batch_tokens:,} tokens in passes of {decoder.width} rows don't fit into "
                "memory, nor did twice as many; set batch_tokens or width lower, or choose a smaller model"
            ) from None
        self._may_halve = False
        # Fewer rows held at once show in no text; where one pass alone was too large, its width shrinks with them.
        decoder.batch_tokens = max(1, decoder.batch_tokens // 2)
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _row(self, prompt: Prompt) -> Row | str:
        """The prompt in tokens, or why it has none."""
        from bare.generators.decoding import Row

        try:
            ids = self._tokens(prompt)
        except _Refused as refused:
            return str(refused)
        context = self.decoder.context
        if not ids:
            return "the prompt holds no token; write something into it"
        if context is not None and len(ids) >= context:
            return f"the prompt has {len(ids):,} tokens, and the model reads fewer than {context:,}; shorten it"
        most = prompt.sampling.max_tokens
        limit = most if context is None else min(most, context - len(ids))
        text = _Text(self.tokenizer, ids[-CONTEXT:], prompt.sampling)
        is_over = functools.partial(_is_over, ends=self._ends, text=text)
        return Row(ids, prompt.seed, prompt.sampling, limit, is_over, self._prefix(prompt, ids))

    def _tokens(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return list(self.tokenizer(prompt.prompt)["input_ids"])
        if not getattr(self.tokenizer, "chat_template", None):
            return list(self.tokenizer(prompt.text + "\n")["input_ids"])
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program, and raises what it likes
            raise _Refused(f"the model's chat template refuses the messages ({error})") from None
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _prefix(self, prompt: Prompt, ids: list[int]) -> int:
        """Tokens that the shared characters have alone and in the prompt alike; the last one is the row's own."""
        if not prompt.prefix:
            return 0
        alone = self._tokens_of((prompt.prompt or "")[: prompt.prefix])
        same = next((n for n, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), min(len(alone), len(ids)))
        return min(same, len(ids) - 1)

    # -- completions ---------------------------------------------------------------------------------------------------

    def _completion(self, prompt: Prompt, row: Row, seconds: float) -> Completion:
        tokens_in, tokens_out = len(row.ids), len(row.out)
        if row.error is not None:
            return Completion(prompt.id, None, "error", tokens_in, tokens_out, seconds, row.error)
        text = _Text(self.tokenizer, row.ids[-CONTEXT:], prompt.sampling)
        ended = row.out[-1] in self._ends
        words, stopped = text.read(row.out[:-1] if ended else row.out)
        return Completion(prompt.id, words, "stop" if ended or stopped else "length", tokens_in, tokens_out, seconds)


class _Refused(Exception):  # noqa: N818 - a row's verdict, not a failure of the batch
    pass


class _Text:
    """What a row's tokens say, behind the prompt's last ones: some decoders drop a space at the beginning."""

    def __init__(self, tokenizer: Any, before: list[int], sampling: Sampling) -> None:
        self.tokenizer, self.before, self.stop = tokenizer, before, sampling.stop
        self.prompt = self._decode(before)
        # A token is one byte at least, special ones aside: a stop text that has just ended lies within so many.
        self.longest = 8 + 2 * max((len(stop.encode()) for stop in self.stop), default=0)

    def read(self, out: list[int]) -> tuple[str, bool]:
        """The text up to its first stop text, and whether there was one."""
        whole = self._decode(self.before + out)
        text = whole[len(self.prompt) :] if whole.startswith(self.prompt) else self._decode(out)
        at = min((at for stop in self.stop if (at := text.find(stop)) >= 0), default=None)
        return (text, False) if at is None else (text[:at], True)

    def has_stopped(self, out: list[int]) -> bool:
        if not self.stop:
            return False
        tail = self._decode(out[-self.longest :])
        return any(stop in tail for stop in self.stop) and self.read(out)[1]

    def _decode(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _is_over(out: list[int], *, ends: frozenset[int], text: _Text) -> bool:
    return out[-1] in ends or text.has_stopped(out)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text: the model's generation config, its config and the tokenizer each know some."""
    found: set[int] = set()
    configs = (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer)
    for said in (getattr(config, "eos_token_id", None) for config in configs):
        found.update(said if isinstance(said, list | tuple) else [] if said is None else [said])
    return frozenset(found)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # On a CPU PyTorch has no class for it.
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
