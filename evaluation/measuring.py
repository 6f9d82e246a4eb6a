"""What a model knows of held-out examples: bits per byte of the gold answer, and whether it is the likeliest.

Bits per byte are the answer's nats given the question, over ln 2 and the answer's UTF-8 bytes: they don't hang on the
tokenizer, and tell small models apart where accuracy is chance (BETR, scaling fits). Knows no Spark, no table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.errors import InputError
from curation.hashing import content_id
from evaluation.tokenizer import ProxyTokenizer

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Example:
    """question + choices[gold] is the whole text; one choice alone is an answer without alternatives."""

    example_id: str
    benchmark: str
    question: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Measure:
    """Of one example: nats and UTF-8 bytes of its gold answer; correct: it is the likeliest by the byte, None alone."""

    example_id: str
    benchmark: str
    nats: float
    bytes: int
    bits_per_byte: float
    correct: bool | None


@dataclass(frozen=True, eq=False)
class _Window:
    """Tokens that a model reads at once; from `first` on their loss counts for the text `owner`."""

    owner: int
    tokens: npt.NDArray[np.int64]
    first: int


def measure(
    model: Any, tokenizer: ProxyTokenizer, examples: Sequence[Example], *, context: int, device: str = "cpu",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Measure]:  # fmt: skip
    """Every example's measure, in their order; of equally likely choices the first counts as the answer.

    context: tokens that the model reads at most. Of a longer question the end is read; a longer answer is read in
    pieces, each after what comes before it.
    """
    texts = [(example, choice) for example in examples for choice in example.choices]
    nats = _nats(model, _windows(tokenizer, texts, context), len(texts), device, batch_tokens)
    measures, at = [], 0
    for example in examples:
        mine = nats[at : at + len(example.choices)]
        at += len(example.choices)
        sizes = [len(choice.encode()) for choice in example.choices]
        rates = [n / size for n, size in zip(mine, sizes, strict=True)]
        gold = example.gold
        correct = min(range(len(rates)), key=rates.__getitem__) == gold if len(rates) > 1 else None
        bits = rates[gold] / math.log(2)
        measures.append(Measure(example.example_id, example.benchmark, mine[gold], sizes[gold], bits, correct))
    return measures


def _windows(tokenizer: ProxyTokenizer, texts: Sequence[tuple[Example, str]], context: int) -> list[_Window]:
    """Each (example, answer) as windows of at most context + 1 tokens; every token of the answer counts once."""
    if context < 2:
        raise InputError(f"a model's context must be at least 2 tokens; got {context}")
    asked = list(dict.fromkeys(example.question for example, _ in texts))
    questions = dict(zip(asked, tokenizer.encode(asked), strict=True))
    answers = tokenizer.encode([choice for _, choice in texts])
    windows = []
    for owner, ((example, _), answer) in enumerate(zip(texts, answers, strict=True)):
        question = np.concatenate([[tokenizer.end], questions[example.question]]).astype(np.int64)
        whole = np.concatenate([question, answer.astype(np.int64)])
        start = len(question)
        while start < len(whole):
            # All of it where it fits; else pieces of half a context.
            last = len(whole) - start <= context // 2 or len(whole) <= context + 1
            end = len(whole) if last else start + context // 2
            begin = max(0, end - context - 1)
            windows.append(_Window(owner, whole[begin:end], start - begin))
            start = end
    return windows


def _batches(windows: Sequence[_Window], batch_tokens: int) -> Iterator[list[_Window]]:
    """Windows of like length together, the longest first."""
    batch: list[_Window] = []
    for window in sorted(windows, key=lambda w: -len(w.tokens)):
        if batch and (len(batch) + 1) * len(batch[0].tokens) > batch_tokens:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _padded(batch: Sequence[_Window], device: str) -> tuple[Any, Any, Any]:
    """Tokens in, tokens that follow, and which of these count, each (windows, longest - 1).

    Filled up behind, where nothing that counts looks.
    """
    import torch

    longest = max(len(window.tokens) for window in batch)
    tokens, counts = np.zeros((len(batch), longest), np.int64), np.zeros((len(batch), longest - 1), bool)
    for row, window in enumerate(batch):
        tokens[row, : len(window.tokens)] = window.tokens
        counts[row, window.first - 1 : len(window.tokens) - 1] = True
    given = torch.from_numpy(tokens).to(device)
    return given[:, :-1], given[:, 1:], torch.from_numpy(counts).to(device)


def _losses(model: Any, inputs: Any, targets: Any, counts: Any) -> Any:
    """Nats of each token that counts, in the order of rows; logits are made for these alone."""
    import torch

    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[counts])
    return torch.nn.functional.cross_entropy(logits.float(), targets[counts], reduction="none")


def _nats(model: Any, windows: Sequence[_Window], texts: int, device: str, batch_tokens: int) -> list[float]:
    import torch

    found = np.zeros(texts)
    with torch.inference_mode():
        for batch in _batches(windows, batch_tokens):
            inputs, targets, counts = _padded(batch, device)
            losses = _losses(model, inputs, targets, counts).double().cpu().numpy()
            owners = np.repeat([w.owner for w in batch], [len(w.tokens) - w.first for w in batch])
            np.add.at(found, owners, losses)
    return [float(value) for value in found]


# -- fine-tuning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinetuningConfig:
    """Examples are shown `epochs` times, `batch` a step; learning_rate falls to 0, None: a fifth of pretraining's."""

    epochs: int = 2
    batch: int = 16
    learning_rate: float | None = None
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise InputError(f"fine-tuning: epochs and batch must be at least 1; got {self.epochs} and {self.batch}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"fine-tuning: learning_rate must be above 0; got {self.learning_rate!r}")

    def settings(self) -> dict[str, Any]:
        return asdict(self)


def finetune(
    model: Any, tokenizer: ProxyTokenizer, examples: Sequence[Example], config: FinetuningConfig, *,
    peak: float, seed: int, context: int, device: str = "cpu",
) -> float:  # fmt: skip
    """Train the model further on gold answers given their questions; the loss of the last epoch, nats a token.

    The order of an epoch is that of a hash of example, seed and epoch; only the answers' tokens count. peak: the
    learning rate of pretraining. The loss comes back as NaN where it became none: the model is of no use then.
    """
    import torch

    if not examples:
        raise InputError("fine-tuning needs at least one example; name a training file")
    gold = [(example, example.choices[example.gold]) for example in examples]
    windows = _windows(tokenizer, gold, context)
    names = [examples[window.owner].example_id for window in windows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rate = config.learning_rate if config.learning_rate is not None else peak / 5
    steps = config.epochs * -(-len(windows) // config.batch)
    model.train()
    step, total, tokens = 0, 0.0, 0
    for epoch in range(config.epochs):
        order = sorted(range(len(windows)), key=lambda k: (content_id(seed, epoch, names[k]), windows[k].first, k))
        total, tokens = 0.0, 0
        for start in range(0, len(order), config.batch):
            inputs, targets, counts = _padded([windows[k] for k in order[start : start + config.batch]], device)
            losses = _losses(model, inputs, targets, counts)
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            value = float(losses.detach().sum())
            if not math.isfinite(value):
                return math.nan
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, total, tokens = step + 1, total + value, tokens + len(losses)
    model.eval()
    return total / tokens
