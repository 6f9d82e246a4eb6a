"""Small decoder models from scratch: packed tokens in, a trained model out. Knows no Spark, no table.

A run is made from documents, size, settings and seed alone. On one kind of CPU with the same threads, one that was
killed and went on from its checkpoint has the weights, bit for bit, of one that nothing disturbed.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from curation.embedding import fast_precision
from curation.errors import InputError, MissingExtraError
from evaluation.packing import Stream, TokenDocuments

WINDOW = 20  # steps that a loss is a mean of
FINISHED, DIVERGED = "finished", "diverged"
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class ProxySize:
    """A Llama's shape; each layer has 12 x hidden ** 2 parameters, about."""

    name: str
    hidden: int
    layers: int
    heads: int

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.heads) < 1 or self.hidden % (2 * self.heads):
            raise InputError(
                f"size {self.name}: hidden must be a multiple of 2 x heads, and all at least 1; got hidden "
                f"{self.hidden}, layers {self.layers}, heads {self.heads}"
            )

    @property
    def intermediate(self) -> int:
        return max(16, round(self.hidden * 8 / 3 / 16) * 16)

    @property
    def tied(self) -> bool:
        """Small models read and write words by the same weights, which would otherwise be most of them."""
        return self.hidden < 1024


# Named by their parameters with the 4,096 tokens of our tokenizer. Few wide layers rather than many narrow ones: what a
# core does between matrix products costs as much as they do.
SIZES = {
    size.name: size
    for size in (
        ProxySize("0.1m", 32, 2, 2),
        ProxySize("0.3m", 64, 2, 2),
        ProxySize("1m", 128, 3, 4),
        ProxySize("3m", 192, 6, 6),
        ProxySize("10m", 320, 8, 5),
        ProxySize("30m", 512, 9, 8),
        ProxySize("100m", 768, 14, 12),
        ProxySize("400m", 1024, 30, 16),
        ProxySize("1b", 2048, 20, 16),
    )
}


def parse_size(text: str) -> ProxySize:
    """A named size, or hidden x layers x heads as `96x4x6`."""
    if text in SIZES:
        return SIZES[text]
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if found is None:
        raise InputError(f"size {text!r} is unknown; there are {', '.join(SIZES)}, or HIDDENxLAYERSxHEADS (96x4x6)")
    return ProxySize(text, *(int(number) for number in found.groups()))


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained; all of it, but most_epochs and checkpoint_seconds, is part of what a run is.

    tokens: seen in all, rounded up to whole steps. sequence: tokens of a context; batch: sequences of a step.
    learning_rate: at its highest, None: 0.5 / hidden. warmup: share of the steps in which it rises; final: of it that
    the cosine ends at. most_epochs: an arm that would be repeated more often is refused, None: none is. most_rise: nats
    by which the loss may lie above its lowest. precision: auto is bfloat16 where the hardware multiplies in it.
    """

    tokens: int = 1_200_000
    sequence: int = 128
    batch: int = 8
    learning_rate: float | None = None
    warmup: float = 0.05
    final: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    precision: str = "auto"
    most_epochs: float | None = None
    most_rise: float = 1.0
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("sequence", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"training: {name} must be at least {least}; got {getattr(self, name)!r}")
        for name in ("learning_rate", "clip", "most_rise", "most_epochs"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"training: {name} must be a number above 0; got {value!r}")
        for name in ("warmup", "final"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"training: {name} must be in [0, 1]; got {getattr(self, name)!r}")
        if self.weight_decay < 0 or self.checkpoint_seconds < 0:
            raise InputError("training: weight_decay and checkpoint_seconds must be 0 or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"training: precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}")

    @property
    def step_tokens(self) -> int:
        return self.batch * self.sequence

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.step_tokens)

    def settings(self) -> dict[str, Any]:
        """What a run is made from."""
        aside = ("checkpoint_seconds", "most_epochs")
        return {name: value for name, value in asdict(self).items() if name not in aside}

    def check_epochs(self, arm: str, tokens: int) -> float:
        """How often `tokens` are repeated; InputError where that is oftener than is allowed."""
        epochs = self.steps * self.step_tokens / max(1, tokens)
        if self.most_epochs is not None and epochs > self.most_epochs:
            raise InputError(
                f"{arm} holds {tokens:,} tokens, and {self.tokens:,} would repeat them {epochs:.1f} times; allow it "
                "with a higher most_epochs, ask for fewer tokens, or keep more documents"
            )
        return epochs

    def peak(self, size: ProxySize) -> float:
        """The highest learning rate of a size."""
        return self.learning_rate if self.learning_rate is not None else 0.5 / size.hidden

    def rate(self, step: int, peak: float) -> float:
        """The learning rate of a step, from 0: a straight rise, then half a cosine."""
        rise = max(1, round(self.warmup * self.steps))
        if step < rise:
            return peak * (step + 1) / rise
        share = (step - rise) / max(1, self.steps - rise)
        return peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * share)))


@dataclass
class Trained:
    """A run's model and figures. loss: nats a token, mean of the last steps. flops: 6 x parameters x tokens.

    seconds: of all of its sittings; resumed_at: the step of the checkpoint that it went on from.
    """

    model: Any
    parameters: int
    steps: int
    tokens: int
    epochs: float
    loss: float
    first_loss: float
    status: str
    reason: str | None
    seconds: float
    device: str
    resumed_at: int = 0

    @property
    def flops(self) -> float:
        return 6.0 * self.parameters * self.tokens


@dataclass
class _State:
    """What a checkpoint keeps beside the tensors."""

    step: int = 0
    seconds: float = 0.0
    first: float = math.nan
    lowest: float = math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def loss(self) -> float:
        return math.fsum(self.recent) / len(self.recent) if self.recent else math.nan

    def packed(self) -> dict[str, str]:
        return {"state": json.dumps({**vars(self), "recent": list(self.recent)})}

    @classmethod
    def unpacked(cls, metadata: dict[str, str]) -> _State:
        kept = json.loads(metadata["state"])
        return cls(**{**kept, "recent": deque(kept["recent"], maxlen=WINDOW)})


def train(
    documents: TokenDocuments,
    size: ProxySize,
    config: TrainingConfig,
    *,
    vocabulary: int,
    seed: int,
    device: str = "cpu",
    checkpoint: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train on `config.tokens` tokens of the documents' stream, by next-token loss over packed sequences.

    checkpoint: a file, kept every so many seconds and at the end, and gone on from. A diverged run comes back as such:
    its loss is no number, or lies far above its lowest, or did not fall at all. on_step: called with step and loss.
    InputError: no document, or more repetitions than `most_epochs`.
    """
    torch = _torch()
    stream = Stream(documents, seed)
    config.check_epochs("the arm", documents.total)
    model = new_model(size, vocabulary=vocabulary, context=config.sequence, seed=seed).to(device)
    parameters = sum(each.numel() for each in model.parameters())
    optimizer = _optimizer(model, config.weight_decay)
    peak = config.peak(size)
    low = uses_bfloat16(config.precision, device)
    state, reason = _State(), None
    if checkpoint is not None and checkpoint.exists():
        state = _load(checkpoint, model, optimizer)
    resumed_at, began, saved = state.step, time.monotonic() - state.seconds, time.monotonic()
    model.train()
    while state.step < config.steps and reason is None:
        packed = stream.read(state.step * config.step_tokens, config.step_tokens + 1)
        tokens = torch.from_numpy(packed).to(device)
        for group in optimizer.param_groups:
            group["lr"] = config.rate(state.step, peak)
        with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=low):
            logits = model(input_ids=tokens[:-1].view(config.batch, -1), use_cache=False).logits
        loss = cross_entropy(logits.view(-1, vocabulary).float(), tokens[1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        value = float(loss.detach())
        reason = _note(state, value, config)
        if reason is None:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        if on_step is not None:
            on_step(state.step, value)
        last = state.step == config.steps
        if checkpoint is not None and reason is None and (
            last or time.monotonic() - saved >= config.checkpoint_seconds
        ):  # fmt: skip
            state.seconds = time.monotonic() - began
            _save(checkpoint, model, optimizer, state)
            saved = time.monotonic()
    if reason is None and config.steps > 1 and not state.loss < state.first:
        reason = f"the loss did not fall: {state.first:.3f} at first, {state.loss:.3f} at the end"
    tokens_seen = state.step * config.step_tokens
    return Trained(
        model.eval(), parameters, state.step, tokens_seen, tokens_seen / documents.total, state.loss, state.first,
        FINISHED if reason is None else DIVERGED, reason, time.monotonic() - began,
        describe_device(device, low), resumed_at,
    )  # fmt: skip


def _note(state: _State, value: float, config: TrainingConfig) -> str | None:
    """Take a step's loss in; why the run has diverged, None where it hasn't."""
    if not math.isfinite(value):
        return f"the loss is no number at step {state.step + 1} of {config.steps}"
    if not state.step:
        state.first = value
    state.recent.append(value)
    if len(state.recent) == WINDOW:
        state.lowest = min(state.lowest, state.loss)
        if state.loss > state.lowest + config.most_rise:
            return (
                f"the loss rose: {state.loss:.3f} at step {state.step + 1} of {config.steps}, after {state.lowest:.3f}"
            )
    return None


def new_model(size: ProxySize, *, vocabulary: int, context: int, seed: int) -> Any:
    """An untrained Llama of this shape; its weights hang on the seed alone."""
    torch = _torch()
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.heads,
        max_position_embeddings=context, tie_word_embeddings=size.tied, attn_implementation="sdpa",
        initializer_range=0.5 / math.sqrt(size.hidden), bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(shape)


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean nats of the targets [n] by logits [n, vocabulary], with their gradient.

    Of a small model's time a third went into three more passes over the logits that PyTorch's own makes.
    """
    return _cross_entropy().apply(logits, targets)


@lru_cache(maxsize=1)
def _cross_entropy() -> Any:
    torch = _torch()
    function: Any = torch.autograd.Function

    class CrossEntropy(function):
        @staticmethod
        def forward(ctx: Any, logits: Any, targets: Any) -> Any:
            log_shares = torch.log_softmax(logits, -1)
            at = targets[:, None]
            loss = -log_shares.gather(1, at).mean()
            slope = log_shares.exp_()
            slope.scatter_add_(1, at, torch.full_like(at, -1, dtype=slope.dtype))
            ctx.slope = slope
            return loss

        @staticmethod
        def backward(ctx: Any, above: Any) -> Any:
            return ctx.slope.mul_(above / len(ctx.slope)), None

    return CrossEntropy


def _optimizer(model: Any, weight_decay: float) -> Any:
    torch = _torch()
    matrices = [each for each in model.parameters() if each.dim() > 1]
    others = [each for each in model.parameters() if each.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)


# -- checkpoints -------------------------------------------------------------------------------------------------------

_KEPT = ("exp_avg", "exp_avg_sq", "step")


def _save(path: Path, model: Any, optimizer: Any, state: _State) -> None:
    """Weights, the optimizer's state and the run's in one file, whole or not at all."""
    tensors = {}
    for name, weight in model.named_parameters():
        tensors[f"model/{name}"] = weight.detach()
        for kind in _KEPT:
            tensors[f"{kind}/{name}"] = optimizer.state[weight][kind]
    _write(path, tensors, state.packed())


def _load(path: Path, model: Any, optimizer: Any) -> _State:
    torch = _torch()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as kept, torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(kept.get_tensor(f"model/{name}"))
                optimizer.state[weight] = {
                    kind: kept.get_tensor(f"{kind}/{name}").to(weight.device) for kind in _KEPT
                }  # fmt: skip
            return _State.unpacked(kept.metadata())
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise InputError(f"the checkpoint {path} can't be read ({error}); remove it to start the run anew") from error


def save_model(path: Path, model: Any) -> None:
    """The weights alone, whole or not at all."""
    _write(path, {name: weight.detach() for name, weight in model.named_parameters()}, {})


def load_model(path: Path, size: ProxySize, *, vocabulary: int, context: int, device: str = "cpu") -> Any:
    """The model whose weights `save_model` kept."""
    torch = _torch()
    from safetensors.torch import load_file

    model = new_model(size, vocabulary=vocabulary, context=context, seed=0).to(device)
    kept = load_file(str(path))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(kept[name])
    return model.eval()


def _write(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file({name: each.cpu().contiguous() for name, each in tensors.items()}, str(part), metadata=metadata)
    part.replace(path)


# -- hardware ----------------------------------------------------------------------------------------------------------


def uses_bfloat16(precision: str, device: str) -> bool:
    """Whether matrices are multiplied in bfloat16: as asked, or where that is the faster (GPUs, CPUs with AMX)."""
    torch = _torch()
    if precision != "auto":
        return precision == "bfloat16"
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return fast_precision() == "bfloat16"


def describe_device(device: str, bfloat16: bool) -> str:
    """`cpu, 1 thread, float32`, or the GPU's name and precision."""
    torch = _torch()
    precision = "bfloat16" if bfloat16 else "float32"
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'s' if threads > 1 else ''}, {precision}"


def _torch() -> Any:
    try:
        import torch
        import transformers
    except ModuleNotFoundError:
        raise MissingExtraError("training proxy models", "evaluation") from None
    transformers.utils.logging.set_verbosity_error()
    return torch
