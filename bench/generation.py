"""Generation on a CPU: the same rows, greedily, one prompt at a time with transformers and by our generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from bare.generators import transformers as generator
from bare.generators.protocol import Prompt, Sampling
from bare.generators.spec import TransformersSpec
from bench import documents, models
from bench.harness import Case, Measured, Question, Setup, Target, require
from curation.jars import home_folder

SHOTS = 4


def build(setup: Setup) -> Question:
    models.quiet()
    corpus = documents.corpus(setup)
    folder, said = _model(setup, corpus["text"].slice(0, 500).to_pylist())
    count, new = setup.pick(4, 16), setup.pick(8, 32)
    prompts, prefix = _prompts(corpus, count)
    return compare(
        folder, said, prompts, prefix, new, device="cpu", precision="float32",
        targets=_targets,
    )  # fmt: skip


def _targets(measured: Measured) -> list[Target]:
    alone, ours = measured.median("products alone"), measured.median("ours")
    note = f"the model's products alone, in the same shapes, take {alone:.1f} of {ours:.1f} s"
    return [Target("generation, CPU, same rows", measured.x_peer("ours"), "x one by one", at_least=6, note=note)]


def compare(
    folder: Path, said: str, texts: list[str], prefix: int, new: int, *, device: str, precision: str,
    targets: Callable[[Measured], list[Target]],
) -> Question:  # fmt: skip
    """Our generator beside `generate()` a prompt at a time, and beside the reading of the weights."""
    torch.set_num_threads(1)
    spec, sampling = TransformersSpec(str(folder)), Sampling(temperature=0.0, max_tokens=new)
    ours = generator.load(spec, precision=precision, device=device)
    tokenizer = ours.tokenizer
    model = ours.decoder.model
    shared = [Prompt(str(i), i, text, sampling=sampling, prefix=prefix) for i, text in enumerate(texts)]
    alone = [Prompt(str(i), i, text, sampling=sampling) for i, text in enumerate(texts)]
    plain = transformers.GenerationConfig(
        do_sample=False, max_new_tokens=new, eos_token_id=sorted(ours._ends), pad_token_id=min(ours._ends)
    )
    made: dict[str, Any] = {}

    def run_ours() -> None:
        made["ours"] = ours.generate(shared)
        _wait(device)

    def run_alone() -> None:
        made["alone"] = ours.generate(alone)
        _wait(device)

    def one_by_one() -> None:
        made["peer"] = []
        with torch.inference_mode():
            for text in texts:
                ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False).to(device)
                out = model.generate(**ids, generation_config=plain)[0, ids["input_ids"].shape[1] :]
                made["peer"].append(tokenizer.decode(out, skip_special_tokens=True))
        _wait(device)

    def check() -> str:
        with _recorded(model, seen):
            run_ours()
        run_alone()
        one_by_one()
        differ = [i for i, (a, b) in enumerate(zip(made["ours"], made["peer"], strict=True)) if a.text != b]
        if precision == "float32":
            first = differ and (made["ours"][differ[0]].text, made["peer"][differ[0]])
            require(not differ, f"{len(differ)} of {len(texts)} rows differ, the first: {first}")
            return f"{len(texts)} rows, letter by letter, greedily in float32"
        return f"{len(texts) - len(differ)} of {len(texts)} rows are equal in {precision}, where ties turn words"

    tokens = new * len(texts)
    passes = new * -(-len(texts) // ours.decoder.width)
    # As float32 whatever they are: that is what PyTorch adds up fastest.
    weights = [each.detach().reshape(-1) for each in model.parameters()]
    weights = [each.view(torch.float32) if each.numel() % 2 == 0 else each for each in weights]

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []  # of one run of ours: each matrix, what was multiplied with it

    def products() -> None:
        with torch.inference_mode():
            for weight, rows in seen:
                torch.nn.functional.linear(rows, weight)
        _wait(device)

    def read_weights() -> None:
        for _ in range(passes):
            for each in weights:
                each.sum()
        _wait(device)

    return Question(
        "How fast does a model write rows?",
        f"{said} in {precision}; {len(texts)} prompts that share their first {prefix:,} characters, {new} new tokens "
        f"each at most; {'one thread' if device == 'cpu' else device}",
        [
            Case("ours", "ours", run_ours, "tokens", tokens),
            Case("ours, nothing shared", "ours", run_alone, "tokens", tokens, repeats=2),
            Case("one by one", "peer", one_by_one, "tokens", tokens, repeats=2),
            Case("products alone", "limit", products, "tokens", tokens),
            Case("weights read", "limit", read_weights, "tokens", tokens),
        ],
        check,
        targets,
        note="Products alone multiplies what one run of ours multiplies, in the same shapes and order, and no more. "
        f"Weights read reads every weight once for each step of {ours.decoder.width} rows. Tokens count as if no row "
        "ended early: the rows are the same.",
        packages=("transformers", "torch"),
        repeats=3,
        warm_up=0,
    )  # fmt: skip


@contextmanager
def _recorded(model: Any, seen: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Keep each product of a weight matrix that the body makes: the weight, and rows of its input's shape."""
    of_shape: dict[tuple[int, ...], torch.Tensor] = {}

    def keep(module: Any, inputs: tuple[torch.Tensor, ...], _: Any) -> None:
        rows = of_shape.setdefault(tuple(inputs[0].shape), torch.ones_like(inputs[0]))
        seen.append((module.weight, rows))

    hooks = [each.register_forward_hook(keep) for each in model.modules() if isinstance(each, torch.nn.Linear)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _model(setup: Setup, texts: list[str]) -> tuple[Path, str]:
    folder = home_folder() / "demo-models" / "smollm2-135m-instruct"
    if setup.scale == "full" and (folder / "config.json").is_file():
        return folder, "SmolLM2 135M Instruct"
    made = models.llama(setup.scratch / "llama", texts, **setup.pick({}, BIG))
    return made, "a Llama with random weights" + setup.pick("", " of SmolLM2's sizes")


BIG = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3,
}  # fmt: skip


def _prompts(corpus: Any, count: int) -> tuple[list[str], int]:
    """As BARE's prompts are: a few real texts that all share, then a beginning of each prompt's own."""
    texts = [text[:300] for text in corpus["text"].slice(0, SHOTS + count).to_pylist()]
    head = "".join(f"Text {number}: {text}\n\n" for number, text in enumerate(texts[:SHOTS]))
    return [f"{head}Text: {text[:40]}" for text in texts[SHOTS:]], len(head)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
