"""Rows of prompts -> rows of completions, on executors: a frame in, a frame out, one model load a worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pyspark.resource.profile import ResourceProfile
from pyspark.sql import DataFrame

from bare.cost import Price, row_costs
from bare.generators.load import GeneratorSettings, open_generator, task_device
from bare.generators.protocol import Completion, Prompt
from curation.hashing import content_id

WINDOW = 4096  # prompts handed to a generator at once: enough to sort by length and to fill its batches

COMPLETION = (
    "prompt_hash string, seed bigint, text string, finish_reason string, error string, tokens_in bigint, "
    "tokens_out bigint, seconds double, cost double"
)

_TOKENS = ("tokens_in", "tokens_out")

# What a task asks for the rows of a frame: the rows with what was drawn for them, and their prompts (None: nothing).
Asking = Callable[[pd.DataFrame], tuple[pd.DataFrame, Sequence[Prompt | None]]]


@dataclass(frozen=True)
class Model:
    """A generator as rows name it: what was asked for, what it is, what it costs."""

    name: str
    revision: str | None = None
    license: str | None = None
    price: Price | None = None
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)


def complete(
    rows: DataFrame, *, ask: Asking, asked: str, model: Model, local: bool, profile: ResourceProfile | None = None
) -> DataFrame:
    """The rows as `ask` returns them (their schema is `asked`), with the columns of COMPLETION behind.

    A completion depends on its prompt, seed and sampling alone, so partitions and batches change no row (transformers:
    in float32). A row that fails is a row with finish_reason `error`; what no row can survive fails the job with
    InputError: a model that can't be loaded, a server that is down.
    """

    def task(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        for frame in _windows(frames):
            yield complete_frame(frame, ask=ask, model=model, device=task_device(local))

    schema = f"{asked}, {COMPLETION}"
    if profile is None:
        return rows.mapInPandas(task, schema)
    return rows.mapInPandas(task, schema, profile=profile)


def complete_frame(frame: pd.DataFrame, *, ask: Asking, model: Model, device: str = "cpu") -> pd.DataFrame:
    """What a task does with one window of rows."""
    rows, asked = ask(frame)
    wanted = [prompt for prompt in asked if prompt is not None]
    generator = open_generator(model.name, model.settings, device) if wanted else None
    answers: Iterator[Completion] = iter(generator.generate(wanted) if generator is not None else [])
    nothing = Completion("", None, "error", 0, 0, error="there was nothing to ask")
    answered = [next(answers) if prompt is not None else nothing for prompt in asked]
    columns = {
        "prompt_hash": [None if p is None else content_id(p.text) for p in asked],
        "seed": [0 if p is None else p.seed for p in asked],
        "text": [a.text for a in answered],
        "finish_reason": [a.finish_reason for a in answered],
        "error": [a.error for a in answered],
        "tokens_in": pd.array([a.tokens_in for a in answered], dtype="Int64"),
        "tokens_out": pd.array([a.tokens_out for a in answered], dtype="Int64"),
        "seconds": [a.seconds for a in answered],
    }
    out = rows.assign(**columns)
    if model.price is None:
        return out.assign(cost=None)
    tokens_in, tokens_out = (out[name].astype("Float64").to_numpy(float, na_value=np.nan) for name in _TOKENS)
    return out.assign(cost=row_costs(model.price, tokens_in, tokens_out, out["seconds"].to_numpy(float)))


def _windows(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    held: list[pd.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(map(len, held)) >= WINDOW:
            yield pd.concat(held, ignore_index=True)
            held = []
    if held and sum(map(len, held)):
        yield pd.concat(held, ignore_index=True)
