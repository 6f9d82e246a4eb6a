"""What a model knows of held-out examples: bits per byte of the gold answer, and whether it is the likeliest.

Bits per byte are the answer's nats given the question, over ln 2 and the answer's UTF-8 bytes: they don't hang on the
tokenizer, and tell small models apart where accuracy is chance (BETR, scaling fits). Knows no Spark, no table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from curation.errors import InputError
from curation.hashing import content_id

BATCH_TOKENS = 8192


class Tokenizer(Protocol):
    """What texts are read with: the token before each question, and each text's tokens without one."""

    @property
    def end(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> Sequence[npt.NDArray[Any]]: ...


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
    """Of one example: nats and UTF-8 bytes of its gold answer; chosen: the likeliest choice, correct: whether that is
    the gold one, both None where there is one alone.
    """

    example_id: str
    benchmark: str
    nats: float
    bytes: int
    bits_per_byte: float
    correct: bool | None
    chosen: int | None = None


@dataclass(frozen=True, eq=False)
class _Window:
    """Tokens that a model reads at once; from `first` on their loss counts for the text `owner`."""

    owner: int
    tokens: npt.NDArray[np.int64]
    first: int


def measure(
    model: Any, tokenizer: Tokenizer, examples: Sequence[Example], *, context: int, device: str = "cpu",
    batch_tokens: int = BATCH_TOKENS, by_byte: bool = True, read_once: bool = False,
) -> list[Measure]:  # fmt: skip
    """Every example's measure, in their order; of equally likely choices the first counts as the answer.

    context: tokens that the model reads at most. Of a longer question the end is read; a longer answer is read in
    pieces, each after what comes before it. by_byte: the likeliest choice has the fewest nats a byte, else the fewest.
    read_once: a question is read once for all of its choices, where they fit; the same but for the last digits.
    """
    texts = [(example, choice) for example in examples for choice in example.choices]
    windows = _windows(tokenizer, texts, context)
    nats = _shared(model, windows, texts, device, batch_tokens) if read_once else {}
    rest = [window for window in windows if window.owner not in nats]
    others = _nats(model, rest, len(texts), device, batch_tokens)
    every = [nats.get(owner, others[owner]) for owner in range(len(texts))]
    measures, at = [], 0
    for example in examples:
        mine = every[at : at + len(example.choices)]
        at += len(example.choices)
        sizes = [len(choice.encode()) for choice in example.choices]
        rates = [n / size for n, size in zip(mine, sizes, strict=True)]
        by = rates if by_byte else mine
        gold = example.gold
        chosen = min(range(len(by)), key=by.__getitem__) if len(by) > 1 else None
        correct = None if chosen is None else chosen == gold
        bits = rates[gold] / math.log(2)
        measures.append(Measure(example.example_id, example.benchmark, mine[gold], sizes[gold], bits, correct, chosen))
    return measures


def _windows(tokenizer: Tokenizer, texts: Sequence[tuple[Example, str]], context: int) -> list[_Window]:
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
    logits = _logits(model, counts, input_ids=inputs, use_cache=False)
    return _cross_entropy(logits, targets[counts])


def _cross_entropy(logits: Any, targets: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def _logits(model: Any, counts: Any, **given: Any) -> Any:
    """Logits (tokens that count, vocabulary), whatever the model does behind its head: the others never reach it."""
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, hidden: (hidden[0][counts],))
    try:
        return model(**given).logits
    finally:
        hook.remove()


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


def _shared(
    model: Any, windows: Sequence[_Window], texts: Sequence[tuple[Example, str]], device: str, batch_tokens: int
) -> dict[int, float]:
    """text -> nats, of the examples whose choices each are one window behind the whole question.

    What stands before a choice is read once for all of them: its keys and values are kept, a row an example, and
    repeated for its choices. Examples go together whose questions have equally many tokens.
    """
    import torch
    from transformers import DynamicCache

    by_owner: dict[int, list[_Window]] = {}
    for window in windows:
        by_owner.setdefault(window.owner, []).append(window)
    groups = [list(each) for _, each in groupby(range(len(texts)), key=lambda owner: id(texts[owner][0]))]
    able = [g for g in groups if len(g) > 1 and _are_behind_one(g, by_owner)]
    asked = {g[0]: by_owner[g[0]][0].tokens[: by_owner[g[0]][0].first] for g in able}
    found: dict[int, float] = {}
    with torch.inference_mode():
        for batch in _alike(able, by_owner, batch_tokens):
            question = np.stack([asked[g[0]] for g in batch])
            given = torch.from_numpy(question).to(device)
            kept = DynamicCache(config=model.config)
            nothing = torch.zeros(given[:, :-1].shape, dtype=torch.bool, device=device)
            _logits(model, nothing, input_ids=given[:, :-1], past_key_values=kept, use_cache=True)
            kept.batch_repeat_interleave(len(batch[0]))
            # The question's last token is read again with each choice: it foresees the choice's first one.
            tails = [_Window(owner, w.tokens[w.first - 1 :], 1) for g in batch for owner in g for w in by_owner[owner]]
            inputs, targets, counts = _padded(tails, device)
            logits = _logits(model, counts, input_ids=inputs, past_key_values=kept, use_cache=True)
            losses = _cross_entropy(logits, targets[counts]).double().cpu().numpy()
            owners = np.repeat([w.owner for w in tails], [len(w.tokens) - 1 for w in tails])
            for owner, loss in zip(owners.tolist(), losses.tolist(), strict=True):
                found[owner] = found.get(owner, 0.0) + loss
    return found


def _are_behind_one(group: Sequence[int], windows: dict[int, list[_Window]]) -> bool:
    """Whether each text of an example is one window, all behind the same tokens, of which one can be read before."""
    firsts = {window.first for owner in group for window in windows[owner]}
    return all(len(windows[owner]) == 1 for owner in group) and len(firsts) == 1 and min(firsts) > 1


def _alike(
    groups: Sequence[list[int]], windows: dict[int, list[_Window]], batch_tokens: int
) -> Iterator[list[list[int]]]:
    """Groups whose questions have as many tokens and which have as many choices, in batches; the longest first."""

    def shape(group: list[int]) -> tuple[int, int]:
        return -windows[group[0]][0].first, len(group)

    for (first, choices), alike in groupby(sorted(groups, key=shape), key=shape):
        mine = list(alike)
        longest = max(len(windows[owner][0].tokens) for g in mine for owner in g)
        step = max(1, batch_tokens // max(-first, choices * longest))
        yield from (mine[at : at + step] for at in range(0, len(mine), step))


# -- fine-tuning -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FinetuningConfig:
    """Examples are shown `epochs` times, `batch` a step; learning_rate falls to 0, None: a fifth of pretraining's.

    steps: so many in place of epochs, each of as many examples: the next epoch fills up what is left of one.
    """

    epochs: int = 2
    batch: int = 16
    learning_rate: float | None = None
    clip: float = 1.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1:
            raise InputError(f"fine-tuning: epochs and batch must be at least 1; got {self.epochs} and {self.batch}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise InputError(f"fine-tuning: learning_rate must be above 0; got {self.learning_rate!r}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"fine-tuning: steps must be at least 1; got {self.steps!r}")

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "steps" or value is not None}


@dataclass(frozen=True)
class Tuned:
    """loss, first_loss: nats a token over the last and the first examples' worth of steps; NaN where it became none.

    seen: examples (pieces, where one is longer than the context); tokens: read in all.
    """

    loss: float
    first_loss: float
    steps: int
    seen: int
    tokens: int


def finetune(
    model: Any, tokenizer: Tokenizer, examples: Sequence[Example], config: FinetuningConfig, *,
    peak: float, seed: int, context: int, device: str = "cpu",
    on_step: Callable[[int, float], None] | None = None, bfloat16: bool = False, batch_tokens: int = BATCH_TOKENS,
) -> Tuned:  # fmt: skip
    """Train the model further on gold answers given their questions.

    The order of an epoch is that of a hash of example, seed and epoch; only the answers' tokens count. peak: the
    learning rate of pretraining. Weights that want no gradient stay as they are. batch_tokens: a step of more is read
    in parts. on_step: called with step and loss. It ends where the loss becomes no number: the model is of no use then.
    """
    import torch

    if not examples:
        raise InputError("fine-tuning needs at least one example; name a training file")
    gold = [(example, example.choices[example.gold]) for example in examples]
    windows = _windows(tokenizer, gold, context)
    names = [examples[window.owner].example_id for window in windows]
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rate = config.learning_rate if config.learning_rate is not None else peak / 5
    an_epoch = -(-len(windows) // config.batch)
    steps = config.steps if config.steps is not None else config.epochs * an_epoch
    model.train()
    losses: list[tuple[float, int]] = []
    seen, tokens = 0, 0
    for step, batch in enumerate(_steps(windows, names, config, seed, steps)):
        seen, tokens = seen + len(batch), tokens + sum(len(w.tokens) - 1 for w in batch)
        counted = sum(len(w.tokens) - w.first for w in batch)
        value = 0.0
        for part in _parts(batch, batch_tokens):
            inputs, targets, counts = _padded(part, device)
            with torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bfloat16):
                found = _losses(model, inputs, targets, counts)
            (found.sum() / counted).backward()
            value += float(found.detach().sum())
        torch.nn.utils.clip_grad_norm_(trained, config.clip)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / steps)
        losses.append((value, counted))
        if on_step is not None:
            on_step(step + 1, value / counted)
        if not math.isfinite(value):
            return Tuned(math.nan, _mean(losses[:an_epoch]), step + 1, seen, tokens)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()
    return Tuned(_mean(losses[-an_epoch:]), _mean(losses[:an_epoch]), steps, seen, tokens)


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    return math.fsum(value for value, _ in losses) / sum(tokens for _, tokens in losses)


def _steps(
    windows: Sequence[_Window], names: Sequence[str], config: FinetuningConfig, seed: int, steps: int
) -> Iterator[list[_Window]]:
    """The windows of each step: epochs cut into steps, or, where steps are asked for, steps across their ends."""
    held: list[int] = []
    epoch = made = 0
    while made < steps:
        order = sorted(range(len(windows)), key=lambda k: (content_id(seed, epoch, names[k]), windows[k].first, k))
        epoch += 1
        held += order
        whole = len(held) if config.steps is None else len(held) - len(held) % config.batch
        for start in range(0, whole, config.batch):
            if made == steps:
                return
            made += 1
            yield [windows[k] for k in held[start : min(whole, start + config.batch)]]
        held = held[whole:]


def _parts(batch: Sequence[_Window], batch_tokens: int) -> Iterator[Sequence[_Window]]:
    """The windows of a step in their order, as many at a time as the tokens allow."""
    longest = max(len(window.tokens) for window in batch)
    step = max(1, batch_tokens // longest)
    yield from (batch[at : at + step] for at in range(0, len(batch), step))
