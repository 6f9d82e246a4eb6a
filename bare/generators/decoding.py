"""Tokens in, tokens out: a causal language model over rows in passes of fixed shape.

What a pass computes for a row depends on the shapes of its matrices, in the last bits, and a last bit can turn a draw.
So every shape depends on the row alone: `width` rows in every step, lengths padded up to buckets, a row's prompt split
where the row itself says. Rows that finish leave at the next of a few fixed steps, where those that go on are gathered
anew; a pass that isn't full is filled up with a row it has. Then no batch, order, partition or resumed run shows in
what a row says: bit for bit, in any precision, on one kind of hardware.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from bare.generators.protocol import Sampling
from bare.generators.sampling import NOT_FINITE, choose
from curation.embedding import bucket

# Steps after which rows that finished leave: a gathering copies the caches once.
SEGMENT = 32
# Attention over what is left empty costs little, and rows of one length bucket share their passes.
LEAST_LENGTH = 128

# Tokens of one pass over prompts: from here on a pass is bound by arithmetic, and lanes filled up cost like rows.
CPU_READ_TOKENS, GPU_READ_TOKENS = 128, 8192

States = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer keys and values, (rows, heads, tokens, size)


@dataclass(eq=False)
class Row:
    """What a row reads and what came of it.

    ids: the prompt's tokens, one at least. prefix: how many of them it shares with other rows, fewer than all.
    limit: tokens at most. is_over: told all tokens so far, after each one, whether the row ends here.
    """

    ids: list[int]
    seed: int
    sampling: Sampling
    limit: int
    is_over: Callable[[list[int]], bool]
    prefix: int = 0
    out: list[int] = field(default_factory=list)
    error: str | None = None
    states: States = field(default_factory=list)

    @property
    def length(self) -> int:
        """Places for the prompt in the cache: one at least stays empty, for a mask that hides nothing is dropped and
        another kernel taken.
        """
        return decode_bucket(len(self.ids))

    @property
    def rest(self) -> list[int]:
        """Tokens that are the row's own, but for the last: that is the first step's."""
        return self.ids[self.prefix : -1]

    def take(self, token: int) -> bool:
        """Add a token; whether the row goes on."""
        if token == NOT_FINITE:
            self.error = "the model's logits aren't finite; try precision float32"
            return False
        self.out.append(token)
        return not self.is_over(self.out) and len(self.out) < self.limit


def decode_bucket(tokens: int) -> int:
    """The places that so many tokens of a prompt get: steps of 128 up to 1,024, then eight steps to each doubling."""
    return max(LEAST_LENGTH, -(-tokens // LEAST_LENGTH) * LEAST_LENGTH) if tokens <= 1024 else bucket(tokens)


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with room for more tokens: a step writes its own instead of copying all that came before."""

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room = room
        self.used = 0
        self.held: list[torch.Tensor] = []

    def begin(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.lazy_initialization(keys, values)
        self.held = [self._roomy(keys), self._roomy(values)]
        self._show(keys.shape[-2])

    def _roomy(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, _, size = states.shape
        return states.new_empty((rows, heads, self.room, size))

    def _show(self, used: int) -> None:
        self.used = used
        self.keys, self.values = self.shown()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.begin(key_states[:, :, :0], value_states[:, :, :0])
        end = self.used + key_states.shape[-2]
        for held, new in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, self.used : end] = new
        self._show(end)
        return self.shown()

    def shown(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (held[:, :, : self.used] for held in self.held)
        return keys, values


def _cache(layers: int, room: int, lanes: Sequence[States] = ()) -> DynamicCache:
    """A cache of one lane a row that begins with these states. Windows of attention are left to the mask."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    own = [_Layer(room) for _ in range(layers)]
    cache.layers = [*own]
    for number, layer in enumerate(own if lanes else ()):
        keys, values = lanes[0][number]
        shape = (len(lanes), keys.shape[1], keys.shape[2], keys.shape[3])
        layer.begin(keys.expand(shape), values.expand((*shape[:3], values.shape[3])))
        for at, lane in enumerate(lanes):
            for held, states in zip(layer.held, lane[number], strict=True):
                held[at, :, : layer.used] = states[0]
    return cache


def _states(cache: Any) -> States:
    return [layer.shown() for layer in cache.layers]


class Decoder:
    """A causal language model of transformers' on its device.

    width: rows of one pass; another width can move the last bits. batch_tokens: tokens, prompts' and new ones, whose
    keys and values are held at once; `width` rows of the longest kind must fit for it not to show in the text.
    """

    def __init__(self, model: Any, *, width: int, batch_tokens: int) -> None:
        self.model, self.width, self.batch_tokens = model, width, batch_tokens
        self.read_tokens = CPU_READ_TOKENS if model.device.type == "cpu" else GPU_READ_TOKENS
        config = model.config.get_text_config()
        self.layers: int = config.num_hidden_layers
        self.context: int | None = getattr(config, "max_position_embeddings", None)
        parameters = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        kinds = set(getattr(config, "layer_types", None) or ())
        # Padding shows in a recurrent state, and in positions that are no argument.
        self.batches = (
            {"position_ids", "past_key_values", "attention_mask"} <= set(parameters)
            and kinds <= {"full_attention", "sliding_attention"}
            and not getattr(model, "_is_stateful", False)
            and not getattr(config, "alibi", False)
            and not getattr(config, "num_kv_shared_layers", 0)
        )

    def batch_of(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        """Rows whose caches are held at once, the longest first; rows of one batch have one shape in every pass."""
        ordered = sorted(rows, key=self._shape, reverse=True)
        for (_, width), members in groupby(ordered, key=self._shape):
            together = sorted(members, key=lambda row: (row.ids[: row.prefix], bucket(len(row.rest)), len(row.ids)))
            size = max(1, min(map(self._held, together)) // width) * width
            yield from (together[start : start + size] for start in range(0, len(together), size))

    def _held(self, row: Row) -> int:
        """Rows of this kind whose keys and values are held at once."""
        return max(1, self.batch_tokens // (row.length + row.limit))

    def _shape(self, row: Row) -> tuple[int, int]:
        return row.length, min(self.width, self._held(row))

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> None:
        """Fill `out` (or `error`) of the rows of one batch (`batch_of`); what they had is begun anew."""
        for row in rows:
            row.out, row.error, row.states = [], None, []
        try:
            if not self.batches:
                for row in rows:
                    self._alone(row)
                return
            width = self._shape(rows[0])[1]
            self._read(rows, width)
            step, going = 0, list(rows)
            while going:
                going = [
                    row
                    for start in range(0, len(going), width)
                    for row in self._segment(going[start : start + width], width, step)
                ]
                step += SEGMENT
        finally:
            for row in rows:
                row.states = []

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _read(self, rows: Sequence[Row], width: int) -> None:
        """Every row's keys and values but the last token's, moved to the right end of `length` places."""
        for prefix, sharing in groupby(rows, key=lambda row: tuple(row.ids[: row.prefix])):
            shared = self._read_prefix(list(prefix)) if prefix else []
            for size, members in groupby(sharing, key=lambda row: bucket(len(row.rest))):
                together = list(members)
                lanes = max(1, min(width, self.read_tokens // max(size, 1)))
                for start in range(0, len(together), lanes):
                    self._read_rest(together[start : start + lanes], shared, len(prefix), size, lanes)

    def _read_prefix(self, ids: list[int]) -> States:
        cache = _cache(self.layers, len(ids))
        self._forward(torch.tensor([ids]), torch.arange(len(ids))[None], None, cache)
        return _states(cache)

    def _read_rest(self, rows: Sequence[Row], shared: States, prefix: int, size: int, width: int) -> None:
        if size == 0 and shared:
            for row in rows:
                row.states = _move(shared, 0, prefix, row.length)
            return
        size = max(16, size)
        ids = torch.zeros((width, size), dtype=torch.long)
        for lane in range(width):
            rest = rows[lane if lane < len(rows) else 0].rest
            ids[lane, : len(rest)] = torch.tensor(rest, dtype=torch.long)
        # Padded behind: no token sees what isn't its row's.
        positions = (prefix + torch.arange(size)).expand(width, size)
        cache = _cache(self.layers, prefix + size, [shared] * width if shared else ())
        self._forward(ids, positions, None, cache)
        for lane, row in enumerate(rows):
            row.states = _move(_states(cache), lane, prefix + len(row.rest), row.length)

    # -- tokens --------------------------------------------------------------------------------------------------------

    def _segment(self, rows: Sequence[Row], width: int, step: int) -> list[Row]:
        """Steps `step` to step + SEGMENT of one pass's rows; those that go on."""
        lanes = [rows[lane if lane < len(rows) else 0] for lane in range(width)]
        places = rows[0].length + step
        cache = _cache(self.layers, places + SEGMENT, [row.states for row in lanes])
        for row in rows:
            row.states = []
        mask = torch.ones((width, places + SEGMENT), dtype=torch.bool)
        for lane, row in enumerate(lanes):
            mask[lane, : row.length - len(row.ids) + 1] = False
        mask = mask.to(self.model.device)
        first = torch.tensor([[len(row.ids) - 1] for row in lanes])
        going = set(range(len(rows)))
        for now in range(step, step + SEGMENT):
            ids = torch.tensor([[row.out[-1] if row.out else row.ids[-1]] for row in lanes])
            logits = self._forward(ids, first + now, mask[:, : rows[0].length + now + 1], cache)
            # A row that is over computes along to the end of the segment, and says nothing.
            alive = sorted(going)
            chosen = choose(
                logits[alive], seeds=[rows[i].seed for i in alive], steps=[now] * len(alive),
                samplings=[rows[i].sampling for i in alive],
            )  # fmt: skip
            going = {i for i, token in zip(alive, chosen, strict=True) if rows[i].take(token)}
            if not going:
                return []
        states = _states(cache)
        for lane in going:
            rows[lane].states = [(keys[lane : lane + 1], values[lane : lane + 1]) for keys, values in states]
        return [rows[lane] for lane in sorted(going)]

    def _alone(self, row: Row) -> None:
        """A row by itself, for models whose rows can't be padded."""
        device = self.model.device
        ids, past = torch.tensor([row.ids], device=device), None
        while True:
            extra: dict[str, Any] = {"past_key_values": past} if past is not None else {}
            found = self.model(input_ids=ids, use_cache=True, **extra)
            (token,) = choose(
                found.logits[:, -1], seeds=[row.seed], steps=[len(row.out)], samplings=[row.sampling]
            )
            if not row.take(token):
                return
            past = getattr(found, "past_key_values", None)
            ids = torch.tensor([[token] if past is not None else [*row.ids, *row.out]], device=device)

    def _forward(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: DynamicCache
    ) -> torch.Tensor:
        device = self.model.device
        # Positions of padding, and of rows that are over, only have to exist.
        positions = positions.clamp(max=self.context - 1) if self.context else positions
        logits: torch.Tensor = self.model(
            input_ids=ids.to(device), position_ids=positions.to(device), attention_mask=mask, past_key_values=cache,
            use_cache=True, **self._last,
        ).logits  # fmt: skip
        return logits[:, -1]


def _move(states: States, lane: int, used: int, length: int) -> States:
    """A lane's first `used` places, at the right end of `length`; what is in front is zero, and hidden."""

    def moved(held: torch.Tensor) -> torch.Tensor:
        place = held.new_zeros((1, held.shape[1], length, held.shape[3]))
        place[0, :, length - used :] = held[lane, :, :used]
        return place

    return [(moved(keys), moved(values)) for keys, values in states]
