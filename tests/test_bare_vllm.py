"""The vLLM generator's side of the contract, against a stand-in for the package."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bare.generators.load import GeneratorSettings, open_generator
from bare.generators.protocol import Completion, Message, Prompt, Sampling
from bare.generators.spec import VllmSpec
from bare.generators.vllm import load
from curation.errors import InputError


class Tokenizer:
    """A token a word; chat is words in brackets."""

    chat_template: str | None = "a template"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [len(word) for word in text.split()]

    def apply_chat_template(self, turns: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize and add_generation_prompt
        if turns[0]["role"] == "system":
            raise ValueError("no system")
        return " ".join(f"[ {turn['content']} ]" for turn in turns)


class LLM:
    made: list[dict[str, Any]] = []  # noqa: RUF012
    asked: list[tuple[Any, Any, dict[str, Any]]] = []  # noqa: RUF012
    finish: str | None = "stop"

    def __init__(self, **settings: Any) -> None:
        if settings["model"] == "missing":
            raise OSError("no such model\nand a long story")
        self.made.append(settings)
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=12))

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def generate(self, prompts: Any, sampling_params: Any, **rest: Any) -> list[Any]:
        self.asked.append((prompts, sampling_params, rest))
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=f"said {p.seed}", token_ids=[4, 5, 6], finish_reason=self.finish)])
            for p in sampling_params
        ]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    package = ModuleType("vllm")
    package.__spec__ = importlib.machinery.ModuleSpec("vllm", None)
    vars(package).update(LLM=LLM, SamplingParams=lambda **settings: SimpleNamespace(**settings))
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setattr(LLM, "asked", [])
    return LLM


def test_rows_go_to_the_engine_in_one_call_each_with_its_own_sampling(engine: type[LLM]) -> None:
    generator = load(VllmSpec("org/base"), precision="bfloat16")
    assert engine.made == [{
        "model": "org/base", "dtype": "bfloat16", "seed": 0, "trust_remote_code": False, "gpu_memory_utilization": 0.9,
        "max_model_len": None, "tensor_parallel_size": 1, "enable_prefix_caching": True,
    }]  # fmt: skip
    raw = Prompt("a", 2**40, "once upon a time", sampling=Sampling(0.7, 0.9, 40, 5, ("[/x]",)))
    chat = Prompt("b", 3, messages=(Message("user", "hello"), Message("assistant", "hi")), sampling=Sampling(0.0, max_tokens=500))
    first, second = generator.generate([raw, chat])
    assert first == Completion("a", f"said {2**40}", "stop", 5, 3, first.seconds)
    assert second == Completion("b", "said 3", "stop", 6, 3, second.seconds)
    ((prompts, sampling, rest),) = engine.asked
    assert prompts == [{"prompt_token_ids": [1, 4, 4, 1, 4]}, {"prompt_token_ids": [1, 5, 1, 1, 2, 1]}]
    assert rest == {"use_tqdm": False}
    assert vars(sampling[0]) == {
        "n": 1, "seed": 2**40, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "max_tokens": 5, "stop": ["[/x]"],
        "skip_special_tokens": True,
    }  # fmt: skip
    assert (sampling[1].top_k, sampling[1].stop, sampling[1].max_tokens) == (-1, None, 6)  # 12 that the model reads, less 6


def test_a_row_that_the_engine_would_refuse_is_a_row_with_an_error(engine: type[LLM]) -> None:
    generator = load(VllmSpec("org/base"))
    long, system, good = generator.generate(
        [Prompt("a", 1, "word " * 12), Prompt("b", 1, messages=(Message("system", "be kind"),)), Prompt("c", 1, "word")]
    )
    assert long.error == "the prompt has 13 tokens, and the model reads fewer than 12; shorten it"
    assert "refuses the messages (no system)" in str(system.error)
    assert good.text == "said 1" and len(engine.asked[0][0]) == 1
    assert generator.generate([Prompt("a", 1, "word " * 12)])[0].finish_reason == "error" and len(engine.asked) == 1


@pytest.mark.parametrize(("said", "finish"), [("stop", "stop"), ("length", "length"), (None, "stop"), ("abort", "error")])
def test_finish_reasons_are_those_of_the_protocol(
    said: str | None, finish: str, engine: type[LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LLM, "finish", said)
    (row,) = load(VllmSpec("org/base")).generate([Prompt("a", 1, "word")])
    assert row.finish_reason == finish and (row.error is None) == (finish != "error") and row.tokens_out == 3


def test_messages_without_a_template_are_read_as_text(engine: type[LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tokenizer, "chat_template", None)
    load(VllmSpec("org/base")).generate([Prompt("a", 1, messages=(Message("user", "four five"),))])
    assert engine.asked[0][0] == [{"prompt_token_ids": [1, 4, 4]}]


def test_what_cannot_be_loaded_is_one_sentence(engine: type[LLM], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^vllm:missing: vLLM can't load it; .*: no such model$"):
        open_generator("vllm:missing", GeneratorSettings())
    with pytest.raises(InputError, match="precision must be one of"):
        load(VllmSpec("org/base"), precision="int4")
    monkeypatch.delitem(sys.modules, "vllm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the extra 'vllm', which isn't installed: pip install 'betr-bare\[vllm\]'$"):
        open_generator("vllm:org/base", GeneratorSettings())
