"""vLLM in the worker process: raw completion and chat on a GPU that it fills by itself.

Each row gets its own seed, but vLLM batches as it likes: the same row may say something else beside other rows. Where
rows must come out the same in any batch, take `transformers:`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

from bare.generators.protocol import Completion, FinishReason, Prompt, Sampling
from bare.generators.spec import VllmSpec
from curation.embedding import PRECISIONS
from curation.errors import InputError, MissingExtraError

FINISHED: dict[str | None, FinishReason] = {None: "stop", "stop": "stop", "length": "length"}


def require_vllm() -> None:
    """MissingExtraError, with the command that installs it, where vLLM isn't there."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtraError("a vllm: generator", "vllm")


def load(
    spec: VllmSpec,
    *,
    precision: str = "auto",
    memory: float = 0.9,
    max_tokens: int | None = None,
    seed: int = 0,
    devices: int = 1,
) -> VllmGenerator:
    """The model in vLLM's engine, once a worker process, on the GPUs that the process sees.

    precision: auto (what the model was saved in), float32, bfloat16 or float16. memory: share of the GPU's memory that
    the engine takes. max_tokens: of prompt and completion together; None for what the model reads. seed: the engine's
    own; rows have theirs. devices: GPUs among which the model is split.
    InputError: vLLM isn't installed, or can't load the model.
    """
    require_vllm()
    if precision not in PRECISIONS:
        raise InputError(f"{spec}: precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    import vllm

    try:
        engine = vllm.LLM(
            model=spec.model, dtype=precision, seed=seed, trust_remote_code=False, gpu_memory_utilization=memory,
            max_model_len=max_tokens, tensor_parallel_size=devices, enable_prefix_caching=True,
        )  # fmt: skip
    except Exception as error:  # the engine raises what its parts raise
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{spec}: vLLM can't load it; check the name and the GPU's memory: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    return VllmGenerator(engine, max_tokens=max_tokens, name=str(spec))


class VllmGenerator:
    """A Generator over a vLLM engine (`load` makes it from a name).

    max_tokens: what the engine reads and writes together, None for what the engine says.
    """

    def __init__(self, engine: Any, *, max_tokens: int | None = None, name: str = "vllm") -> None:
        self.engine, self.name = engine, name
        self.tokenizer = engine.get_tokenizer()
        if max_tokens is None:
            max_tokens = getattr(getattr(engine.llm_engine, "model_config", None), "max_model_len", None)
        self.max_tokens = max_tokens

    def generate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion a prompt, in their order; seconds: the call's, shared among its rows by their tokens.

        A prompt that is too long, or that the chat template refuses, is a row with an error: vLLM would refuse all.
        """
        done: dict[int, Completion] = {}
        asked: dict[int, list[int]] = {}
        for at, prompt in enumerate(prompts):
            try:
                ids = self._tokens(prompt)
            except Exception as error:  # a chat template is a program, and raises what it likes
                done[at] = _failed(prompt, f"the model's chat template refuses the messages ({error})")
                continue
            if not ids:
                done[at] = _failed(prompt, "the prompt holds no token; write something into it")
            elif self.max_tokens is not None and len(ids) >= self.max_tokens:
                most = self.max_tokens
                done[at] = _failed(
                    prompt, f"the prompt has {len(ids):,} tokens, and the model reads fewer than {most:,}; shorten it"
                )
            else:
                asked[at] = ids
        if asked:
            start = time.monotonic()
            outputs = self.engine.generate(
                [{"prompt_token_ids": ids} for ids in asked.values()],
                [self._sampling(prompts[at], len(ids)) for at, ids in asked.items()],
                use_tqdm=False,
            )
            seconds = time.monotonic() - start
            sizes = [len(ids) + len(out.outputs[0].token_ids) for ids, out in zip(asked.values(), outputs, strict=True)]
            for (at, ids), output, size in zip(asked.items(), outputs, sizes, strict=True):
                done[at] = _completion(prompts[at], len(ids), output.outputs[0], seconds * size / sum(sizes))
        return [done[at] for at in range(len(prompts))]

    def _tokens(self, prompt: Prompt) -> list[int]:
        if prompt.messages is None:
            return list(self.tokenizer.encode(prompt.prompt))
        if not getattr(self.tokenizer, "chat_template", None):
            return list(self.tokenizer.encode(prompt.text + "\n"))
        turns = [{"role": m.role, "content": m.content} for m in prompt.messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _sampling(self, prompt: Prompt, tokens: int) -> Any:
        import vllm

        sampling: Sampling = prompt.sampling
        most = sampling.max_tokens if self.max_tokens is None else min(sampling.max_tokens, self.max_tokens - tokens)
        return vllm.SamplingParams(
            n=1, seed=prompt.seed, temperature=sampling.temperature, top_p=sampling.top_p,
            top_k=sampling.top_k or -1,  # every token: -1 in every version, 0 in newer ones only
            max_tokens=most, stop=list(sampling.stop) or None, skip_special_tokens=True,
        )  # fmt: skip


def _failed(prompt: Prompt, why: str) -> Completion:
    return Completion(prompt.id, None, "error", error=why)


def _completion(prompt: Prompt, tokens_in: int, output: Any, seconds: float) -> Completion:
    tokens_out = len(output.token_ids)
    if output.finish_reason not in FINISHED:
        why = f"vLLM ended with the finish reason {output.finish_reason!r}, which is none of text's"
        return Completion(prompt.id, None, "error", tokens_in, tokens_out, seconds, why)
    return Completion(prompt.id, output.text, FINISHED[output.finish_reason], tokens_in, tokens_out, seconds)
