"""From a generator's name to the generator: what the driver checks of it, and what an executor calls, loaded once."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Generator
from bare.generators.scripted import ScriptedGenerator
from bare.generators.spec import OpenAISpec, ScriptedSpec, TransformersSpec, VllmSpec, parse_generator
from curation.embedding import fast_precision
from curation.session import task_gpu

Role = Literal["base", "instruct"]


@dataclass(frozen=True)
class GeneratorSettings:
    """How a generator computes or asks: everything beside prompts, seeds and sampling.

    role: whether it is given raw text (base) or messages (instruct). precision, batch_tokens: of transformers: and
    vllm:. insist: on a base model with a chat template, or an instruct model without one. concurrency, timeout
    (seconds), key_variable: of openai:.
    """

    role: Role = "base"
    precision: str = "auto"
    batch_tokens: int | None = None
    insist: bool = False
    concurrency: int = 8
    timeout: float = 120.0
    key_variable: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class Described:
    """What a generator is, as far as its files say; precision: `auto` decided, once, where the driver runs."""

    revision: str | None
    license: str | None
    precision: str


def describe(name: str, settings: GeneratorSettings) -> Described:
    """Check on the driver what can be checked without weights: the files, the tokenizer, its role; no token is made.

    InputError: no such model or script, a model in a role that it isn't made for. MissingExtraError: no transformers.
    """
    spec, precision = parse_generator(name), settings.precision
    match spec:
        case ScriptedSpec():
            ScriptedGenerator.from_file(spec.path)
        case TransformersSpec():
            from bare.generators import transformers

            files = transformers.find_model(spec)
            transformers.check_role(transformers.load_tokenizer(spec), settings.role, insist=settings.insist)
            return Described(files.revision, files.license, fast_precision() if precision == "auto" else precision)
        case OpenAISpec() | VllmSpec():
            pass  # they are where the executors are
    return Described(None, None, precision)


@functools.lru_cache(maxsize=2)
def open_generator(name: str, settings: GeneratorSettings, device: str = "cpu", threads: int | None = 1) -> Generator:
    """The generator that `name` names; the last two are kept: a worker process loads what drafts and refines once.

    device, threads (PyTorch's, on a CPU): of transformers:.
    InputError: it can't be loaded. MissingExtraError: its packages aren't installed.
    """
    spec = parse_generator(name)
    match spec:
        case ScriptedSpec():
            return ScriptedGenerator.from_file(spec.path)
        case OpenAISpec():
            return OpenAIGenerator(
                spec.model,
                spec.base_url,
                settings.key_variable,
                concurrency=settings.concurrency,
                timeout=settings.timeout,
            )
        case TransformersSpec():
            from bare.generators import transformers

            return transformers.load(
                spec,
                precision=settings.precision,
                device=_local_device() if device == "local" else device,
                threads=threads,
                batch_tokens=settings.batch_tokens,
            )
        case VllmSpec():
            from bare.generators import vllm

            return vllm.load(spec, precision=settings.precision)


def task_device(local: bool) -> str:
    """The GPU that Spark gave this task; `local`: this machine's if it has one; else `cpu`. Loads no library."""
    given = task_gpu()
    if given is not None:
        return f"cuda:{given}"
    return "local" if local else "cpu"


def _local_device() -> str:
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"
