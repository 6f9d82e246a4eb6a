"""From a generator's name to the generator: what an executor calls, and what loads its libraries only then."""

from __future__ import annotations

import functools

from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Generator
from bare.generators.scripted import ScriptedGenerator
from bare.generators.spec import GeneratorSpec, OpenAISpec, ScriptedSpec, TransformersSpec, VllmSpec


@functools.lru_cache(maxsize=2)
def build(
    spec: GeneratorSpec,
    *,
    precision: str = "auto",
    device: str = "cpu",
    threads: int | None = 1,
    width: int | None = None,
    batch_tokens: int | None = None,
) -> Generator:
    """The generator that `spec` names; the last two are kept, so that a worker process loads a model once.

    precision: of transformers: and vllm:. device, threads, width, batch_tokens: of transformers: alone (its `load`).
    InputError: it can't be loaded. MissingExtraError: its packages aren't installed.
    """
    match spec:
        case ScriptedSpec():
            return ScriptedGenerator.from_file(spec.path)
        case OpenAISpec():
            return OpenAIGenerator(spec.model, spec.base_url)
        case TransformersSpec():
            from bare.generators import transformers

            return transformers.load(
                spec, precision=precision, device=device, threads=threads, width=width, batch_tokens=batch_tokens
            )
        case VllmSpec():
            from bare.generators import vllm

            return vllm.load(spec, precision=precision)
