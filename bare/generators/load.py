"""From a GENERATOR of the command line to a model that answers, loaded once a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyspark import TaskContext

from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Generator
from bare.generators.scripted import ScriptedGenerator
from bare.generators.spec import OpenAISpec, ScriptedSpec, parse_generator
from curation.errors import InputError


@dataclass(frozen=True)
class GeneratorSettings:
    """How a generator computes or asks: everything beside prompts, seeds and sampling."""

    role: Literal["base", "instruct"] = "base"
    precision: str = "auto"
    batch_tokens: int | None = None
    insist: bool = False
    concurrency: int = 8
    timeout: float = 120.0
    key_variable: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Described:
    """What a generator is, as far as its files say: known on the driver before any token is made."""

    revision: str | None = None
    license: str | None = None


MOST_MODELS = 2  # held by one worker at once: the one that drafts and the one that refines
_open: dict[tuple[str, GeneratorSettings, str], Generator] = {}


def open_generator(name: str, settings: GeneratorSettings, device: str = "cpu") -> Generator:
    """The generator, loaded at first use; a worker keeps the last two."""
    key = (name, settings, device)
    if key not in _open:
        while len(_open) >= MOST_MODELS:
            _open.pop(next(iter(_open)))
        _open[key] = _build(name, settings, device)
    return _open[key]


def _build(name: str, settings: GeneratorSettings, device: str) -> Generator:
    spec = parse_generator(name)
    if isinstance(spec, ScriptedSpec):
        return ScriptedGenerator.from_file(spec.path)
    if isinstance(spec, OpenAISpec):
        return OpenAIGenerator(
            spec.model, spec.base_url, settings.key_variable, concurrency=settings.concurrency, timeout=settings.timeout
        )
    raise InputError(f"{name}: not here yet")


def describe(name: str, settings: GeneratorSettings) -> Described:
    """Check on the driver what can be checked without weights, and say what the model is."""
    spec = parse_generator(name)
    if isinstance(spec, ScriptedSpec):
        ScriptedGenerator.from_file(spec.path)
    return Described()


def task_device(local: bool) -> str:
    """The GPU that Spark gave this task; in a local session the machine's; else the CPU. Loads no library for it."""
    context = TaskContext.get()
    given = (context.resources() if context is not None else {}).get("gpu")
    if given is not None:
        return f"cuda:{given.addresses[0]}"
    return "auto" if local else "cpu"
