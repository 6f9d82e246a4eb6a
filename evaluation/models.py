"""Which model is fine-tuned: a proxy from scratch, or any causal model that transformers loads, by LoRA or whole.

A named model is found offline first and runs no code of its own (bare/generators/transformers.py); a worker process
loads it once. LoRA (arXiv 2106.09685) by the library peft: its adapters are put in for a run and taken out again, so
that the next run begins with the same weights, bit for bit.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bare.generators import transformers
from bare.generators.spec import TransformersSpec, parse_generator
from curation.errors import InputError, MissingExtraError
from evaluation.measuring import BATCH_TOKENS, Tokenizer
from evaluation.tokenizer import ProxyTokenizer
from evaluation.training import PRECISIONS, SIZES, ProxySize, new_model, parse_size

LORA, FULL = "lora", "full"
METHODS = (LORA, FULL)
_LOGITS = 1 << 28  # of one pass: a gigabyte of them in float32
_RATES = {LORA: 1e-3, FULL: 5e-5}  # LoRA: BARE's own (facts of the paper's downstream runs)


@dataclass(frozen=True)
class TuningConfig:
    """How a model is fine-tuned. rank, alpha: of LoRA. learning_rate: at first, falls to 0; None: 1e-3 with LoRA, 5e-5
    for all weights of a named model, 0.5 / hidden for a proxy from scratch. epochs: of the arm with the most rows; all
    arms of an experiment make as many steps, of `batch` rows each. sequence: tokens of a context.
    """

    method: str = LORA
    rank: int = 8
    alpha: int = 16
    learning_rate: float | None = None
    epochs: int = 4
    batch: int = 8
    sequence: int = 512
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"--method must be one of {', '.join(METHODS)}; got {self.method!r}")
        for name, least in (("rank", 1), ("alpha", 1), ("epochs", 1), ("batch", 1), ("sequence", 16)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} must be at least {least}; got {getattr(self, name)!r}")
        if self.learning_rate is not None and not 0 < self.learning_rate < np.inf:
            raise InputError(f"--learning-rate must be a number above 0; got {self.learning_rate!r}")
        if self.precision not in PRECISIONS:
            raise InputError(f"--precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")

    def settings(self) -> dict[str, Any]:
        """What a run is made from; without what its method doesn't read."""
        aside = ("rank", "alpha") if self.method == FULL else ()
        return {name: value for name, value in asdict(self).items() if name not in aside}


@dataclass(frozen=True)
class ModelChoice:
    """A model by name. size: of a proxy from scratch, whose tokenizer goes with it; spec: of a named one."""

    name: str
    revision: str | None
    size: ProxySize | None = None
    spec: TransformersSpec | None = None

    def rate(self, tuning: TuningConfig) -> float:
        if tuning.learning_rate is not None:
            return tuning.learning_rate
        return 0.5 / self.size.hidden if self.size is not None else _RATES[tuning.method]


def choose(name: str, tuning: TuningConfig) -> ModelChoice:
    """The model that a person names: a proxy's size, or a folder or name that transformers knows; loads no weights.

    InputError: there is no such model, or a method that it can't take. MissingExtraError: without what LoRA needs.
    """
    if name in SIZES or re.fullmatch(r"\d+x\d+x\d+", name):
        if tuning.method != FULL:
            raise InputError(
                f"--model {name} starts from scratch, and LoRA adapts what a model has learnt; say --method {FULL}"
            )
        return ModelChoice(name, None, size=parse_size(name))
    spec = parse_generator(name if name.startswith("transformers:") else f"transformers:{name}")
    assert isinstance(spec, TransformersSpec)
    files = transformers.find_model(spec)
    if tuning.method == LORA:
        _peft()
    return ModelChoice(spec.model, files.revision, spec=spec)


class ModelTokenizer:
    """A named model's own tokenizer, as measuring asks for it."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self.end = _beginning(tokenizer, name)

    def encode(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        found = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [np.array(each, np.int64) for each in found]


def _beginning(tokenizer: Any, name: str) -> int:
    """The token that a text begins behind: what the tokenizer itself puts there, else the end of a text before it."""
    alone, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    if len(whole) > len(alone) and whole[0] != alone[0]:
        return int(whole[0])
    for known in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        if known is not None:
            return int(known)
    raise InputError(
        f"model {name}: its tokenizer knows neither a beginning nor an end of a text; choose another model"
    )


@dataclass(frozen=True, eq=False)
class Ready:
    """A model to be fine-tuned and measured. context: tokens it reads; batch_tokens: of one pass, by its vocabulary."""

    model: Any
    tokenizer: Tokenizer
    context: int
    batch_tokens: int
    parameters: int
    trained: int


@contextmanager
def ready(
    choice: ModelChoice, tuning: TuningConfig, *, seed: int, device: str, tokenizer: ProxyTokenizer | None = None
) -> Iterator[Ready]:
    """The model as a run begins with it, by its seed alone; tokenizer: of a proxy. The body may train it."""
    import torch

    if choice.size is not None:
        assert tokenizer is not None
        made = new_model(choice.size, vocabulary=tokenizer.vocabulary, context=tuning.sequence, seed=seed).to(device)
        yield _ready(made.eval(), tokenizer, tuning.sequence, tokenizer.vocabulary)
        return
    assert choice.spec is not None
    loaded, reader = _loaded(choice.spec, choice.revision, device)
    text = loaded.config.get_text_config()
    context = min(tuning.sequence, getattr(text, "max_position_embeddings", None) or tuning.sequence)
    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):  # what the adapters begin with, and dropout
        torch.manual_seed(seed)
        if tuning.method == FULL:
            yield _ready(copy.deepcopy(loaded).requires_grad_(True), reader, context, text.vocab_size)
            return
        peft = _peft()
        settings = peft.LoraConfig(
            r=tuning.rank, lora_alpha=tuning.alpha, lora_dropout=0.0, bias="none", target_modules="all-linear",
            task_type="CAUSAL_LM",
        )  # fmt: skip
        adapted = peft.get_peft_model(loaded, settings)
        try:
            yield _ready(loaded.eval(), reader, context, text.vocab_size)
        finally:
            adapted.unload()


def _ready(model: Any, tokenizer: Tokenizer, context: int, vocabulary: int) -> Ready:
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    batch_tokens = max(context + 1, min(BATCH_TOKENS, _LOGITS // vocabulary))
    return Ready(
        model, tokenizer, context, batch_tokens, sum(n for n, _ in sizes), sum(n for n, learns in sizes if learns)
    )


@lru_cache(maxsize=1)
def _loaded(spec: TransformersSpec, revision: str | None, device: str) -> tuple[Any, ModelTokenizer]:
    """The model in this process, in float32: matrices may be multiplied in bfloat16, weights are kept whole."""
    model, tokenizer = transformers.load_model(spec, precision="float32", device=device, threads=None)
    return model, ModelTokenizer(tokenizer, spec.model)


def _peft() -> Any:
    try:
        import peft
    except ModuleNotFoundError:
        raise MissingExtraError("fine-tuning by LoRA", "lora") from None
    return peft
