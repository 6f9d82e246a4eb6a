"""The two small real models of `make demo-bare`, which fetches them: skipped where it hasn't run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bare.generators.load import GeneratorSettings, describe, open_generator
from bare.generators.protocol import Message, Prompt, Sampling
from bare.generators.transformers import TransformersGenerator
from curation.errors import InputError

MODELS = Path(os.environ["BETR_HOME"]) / "demo-models"
GEMMA, SMOLLM2 = (MODELS / name for name in ("gemma-3-270m", "smollm2-135m-instruct"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((folder / "manifest.json").exists() for folder in (GEMMA, SMOLLM2)),
        reason="`make demo-bare` fetches the real models",
    ),
]

FACTS = "The capital of Italy is Rome.\nThe capital of Spain is Madrid.\nThe capital of Japan is Tokyo.\n"


def loaded(folder: Path) -> TransformersGenerator:
    found = open_generator(f"transformers:{folder}", GeneratorSettings(precision="float32"))
    assert isinstance(found, TransformersGenerator)
    return found


def questions(sampling: Sampling) -> tuple[list[Prompt], list[Prompt]]:
    """Rows for the base model, most of them with a beginning in common, and rows for the instruct model."""
    raw = [
        Prompt(f"raw{n}", 50 + n, f"{FACTS}The capital of {country} is", sampling=sampling, prefix=len(FACTS))
        for n, country in enumerate(("France", "Greece", "Portugal", "the country of the pharaohs, the pyramids and the Nile,"))
    ]
    raw.append(Prompt("alone", 60, "Once upon a time", sampling=sampling))
    chat = [
        Prompt(f"chat{n}", 70 + n, messages=(Message("user", text),), sampling=sampling)
        for n, text in enumerate(("What is the capital of France?", "Say hello.", "Name three fruits, in one short line."))
    ]
    return raw, chat


def test_each_role_is_the_models_own() -> None:
    assert describe(f"transformers:{GEMMA}", GeneratorSettings(role="base")).license == "gemma"
    assert describe(f"transformers:{SMOLLM2}", GeneratorSettings(role="instruct")).license == "apache-2.0"
    with pytest.raises(InputError, match="chat template"):
        describe(f"transformers:{GEMMA}", GeneratorSettings(role="instruct"))
    with pytest.raises(InputError, match="chat template"):
        describe(f"transformers:{SMOLLM2}", GeneratorSettings(role="base"))


def test_they_know_what_they_learned_and_end_at_the_stop() -> None:
    raw, chat = questions(Sampling(temperature=0, max_tokens=24, stop=("\n",)))
    base = {c.id: c for c in loaded(GEMMA).generate(raw)}
    assert "Paris" in str(base["raw0"].text) and "Athens" in str(base["raw1"].text) and "Lisbon" in str(base["raw2"].text)
    assert base["raw0"].finish_reason == "stop" and "\n" not in str(base["raw0"].text)
    instruct = {c.id: c for c in loaded(SMOLLM2).generate(chat)}
    assert "Paris" in str(instruct["chat0"].text)


def test_a_rows_text_is_the_same_in_any_batch() -> None:
    raw, chat = questions(Sampling(temperature=1.0, top_p=0.95, max_tokens=16))
    for folder, prompts in ((GEMMA, raw), (SMOLLM2, chat)):
        generator = loaded(folder)
        together = {c.id: (c.text, c.tokens_out) for c in generator.generate(prompts)}
        alone = {c.id: (c.text, c.tokens_out) for p in reversed(prompts) for c in generator.generate([p])}
        assert together == alone
