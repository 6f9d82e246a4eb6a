"""Generation on a GPU, without Spark: our generator beside transformers a prompt at a time."""

from __future__ import annotations

from dataclasses import replace

from bench import gpu, models
from bench.generation import BIG, SHOTS, compare
from bench.harness import Measured, Question, Setup, Target


def build(setup: Setup) -> Question:
    where = gpu.device(setup)
    models.quiet()
    texts = gpu.texts(setup.pick(50, 1_000))
    folder = models.llama(setup.scratch / "llama", texts, **setup.pick({}, BIG))
    count, new = setup.pick(4, 64), setup.pick(8, 128)
    head = "".join(f"Text {number}: {text[:300]}\n\n" for number, text in enumerate(texts[:SHOTS]))
    prompts = [f"{head}Text: {text[:40]}" for text in texts[SHOTS : SHOTS + count]]

    def targets(measured: Measured) -> list[Target]:
        return [Target("generation on GPU, same rows", measured.x_peer("ours"), "x one by one", at_least=6)]

    said = "a Llama with random weights" + setup.pick("", " of SmolLM2 135M's sizes")
    found = compare(folder, said, prompts, len(head), new, device=where, precision="float32", targets=targets)
    return replace(found, question="How fast does a model write rows on a GPU?")
