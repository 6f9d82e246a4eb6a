"""The transformers generator: a row's text is its own, over tiny random models of several families."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402

from bare.generators import transformers as ours  # noqa: E402
from bare.generators.decoding import SEGMENT, decode_bucket  # noqa: E402
from bare.generators.protocol import Completion, Message, Prompt, Sampling  # noqa: E402
from bare.generators.sampling import NOT_FINITE, choose, gumbel  # noqa: E402
from bare.generators.spec import TransformersSpec  # noqa: E402
from bare.generators.transformers import TransformersGenerator, check_role, find_model, load, model_license  # noqa: E402
from curation.errors import InputError, MissingExtraError  # noqa: E402

CORPUS = [
    "A baker sells 12 loaves in the morning and 30 in the afternoon. How many loaves does she sell?",
    "Working: 12 + 30 = 42\nResult: 42\n[/problem]", "[problem]\nQuestion: Tom has 3 boxes of 8 pens each.",
] * 3  # fmt: skip
END, TEMPLATE = "<end>", "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}<assistant>"
SMALL: dict[str, Any] = {
    "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "eos_token_id": 0, "bos_token_id": 0,
    "pad_token_id": 0, "initializer_range": 0.4,
}  # fmt: skip
FAMILIES = ("llama", "qwen3", "gemma3")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def train_tokenizer() -> Any:
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=END)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer()


def tiny(family: str, **changes: Any) -> Any:
    torch.manual_seed(3)
    settings = {**SMALL, **changes}
    if family == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    if family == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings)).eval()
    layers = ["sliding_attention", "full_attention"]
    settings["initializer_range"] = 0.12  # embeddings are scaled up, and the head is theirs
    # A window shorter than the prompts: what left padding must not move.
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(**settings, layer_types=layers, sliding_window=24, query_pre_attn_scalar=8)
    ).eval()


@pytest.fixture(scope="module")
def family_models() -> dict[str, Any]:
    return {family: tiny(family) for family in FAMILIES}


def rows(count: int, *, max_tokens: int = 40, **sampling: Any) -> list[Prompt]:
    """Prompts of many lengths, each with its own seed; every third shares its first 130 characters."""
    shared = " ".join(CORPUS[:2])[:130]
    return [
        Prompt(
            f"row{n}", 1000 + n, (shared if n % 3 == 0 else "") + f" {n} " + "loaves and pens " * (n * 7 % 19),
            sampling=Sampling(max_tokens=max_tokens, **{"stop": ("xy", "q", "j", "z"), **sampling}), prefix=130 * (n % 3 == 0),
        )
        for n in range(count)
    ]  # fmt: skip


def by_the_book(model: Any, tokenizer: Any, prompt: Prompt) -> tuple[str, str, int]:
    """One row at a time, the whole text through the model for each token, the law written out plainly."""
    ids = list(tokenizer(prompt.prompt)["input_ids"])
    out: list[int] = []
    sampling = prompt.sampling
    while len(out) < sampling.max_tokens:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids + out]), use_cache=False).logits[0, -1]
        tokens = np.arange(len(logits), dtype=np.uint64)
        noise = gumbel(np.full_like(tokens, prompt.seed), np.full_like(tokens, len(out)), tokens)
        scores = logits.double().numpy() / sampling.temperature + noise if sampling.temperature else logits.numpy()
        out.append(int(np.argmax(scores)))
        text = tokenizer.decode(out, skip_special_tokens=True)
        if out[-1] == 0:
            return text, "stop", len(out)
        if found := [text.find(stop) for stop in sampling.stop if stop in text]:
            return text[: min(found)], "stop", len(out)
    return text, "length", len(out)


def watch_shapes(generator: TransformersGenerator, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """What will have gone through the model: (rows, tokens) of each pass."""
    shapes: list[tuple[int, ...]] = []
    forward = generator.decoder._forward

    def watched(ids: Any, *rest: Any) -> Any:
        shapes.append(tuple(ids.shape))
        return forward(ids, *rest)

    monkeypatch.setattr(generator.decoder, "_forward", watched)
    return shapes


def told(completions: list[Completion]) -> list[tuple[Any, ...]]:
    return [(c.id, c.text, c.finish_reason, c.tokens_in, c.tokens_out, c.error) for c in completions]


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_says_what_one_row_at_a_time_without_a_cache_says(
    family: str, family_models: dict[str, Any], tokenizer: Any
) -> None:
    model = family_models[family]
    generator = TransformersGenerator(model, tokenizer)
    said = str(generator.generate(rows(1, max_tokens=12))[0].text)
    prompts = rows(15, max_tokens=SEGMENT + 6, stop=("no such words", said[4:6]))
    completions = generator.generate(prompts)
    expected = [by_the_book(model, tokenizer, prompt) for prompt in prompts]
    assert [(c.text, c.finish_reason, c.tokens_out) for c in completions] == expected
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    assert [c.tokens_in for c in completions] == [len(tokenizer(p.prompt)["input_ids"]) for p in prompts]
    assert all(c.seconds > 0 for c in completions)


@pytest.mark.parametrize(
    "family", [FAMILIES[0], *(pytest.param(each, marks=pytest.mark.night) for each in FAMILIES[1:])]
)
def test_batch_order_partition_and_width_change_no_row(
    family: str, family_models: dict[str, Any], tokenizer: Any
) -> None:
    model, prompts = family_models[family], rows(72, max_tokens=SEGMENT + 4)
    whole = told(TransformersGenerator(model, tokenizer).generate(prompts))
    assert len({text for _, text, *_ in whole}) > 60
    assert told(TransformersGenerator(model, tokenizer).generate(prompts[::-1])) == whole[::-1]
    for size, count in ((29, 72), (7, 14), (1, 3)):
        generator = TransformersGenerator(model, tokenizer)
        parts = [c for at in range(0, count, size) for c in generator.generate(prompts[at : min(count, at + size)])]
        assert told(parts) == whole[:count]
    changed: tuple[tuple[dict[str, Any], int], ...] = (
        ({"width": 7}, 72), ({"width": 32}, 24), ({"batch_tokens": 3000}, 24), ({"batch_tokens": 1}, 3),
    )
    for settings, count in changed:
        assert told(TransformersGenerator(model, tokenizer, **settings).generate(prompts[:count])) == whole[:count]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_logits_of_a_row_are_the_same_bits_whatever_stands_beside_it(
    dtype: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stronger than the texts: that no last bit moves is why no draw ever turns, in half precision neither."""
    seen: dict[tuple[int, int], bytes] = {}
    differ: list[tuple[int, int]] = []

    def watch(logits: Any, *, seeds: Any, steps: Any, samplings: Any) -> list[int]:
        for seed, step, line in zip(seeds, steps, logits, strict=True):
            bits = line.float().numpy().tobytes()
            if seen.setdefault((seed, step), bits) != bits:
                differ.append((seed, step))
        return choose(logits, seeds=seeds, steps=steps, samplings=samplings)

    monkeypatch.setattr("bare.generators.decoding.choose", watch)
    generator = TransformersGenerator(tiny("gemma3").to(getattr(torch, dtype)), tokenizer)
    prompts = rows(30, max_tokens=SEGMENT + 4)
    generator.generate(prompts)
    count = len(seen)
    for at in range(0, 30, 7):
        generator.generate(prompts[at : at + 7][::-1])
    assert len(seen) == count > 300 and not differ


def test_the_shared_prefix_is_computed_once_a_batch_and_not_again_for_the_same_prompt(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = TransformersGenerator(tiny("llama"), tokenizer)
    shapes = watch_shapes(generator, monkeypatch)
    text = "A baker sells 12 loaves in the morning.\n" * 4
    same = [Prompt(str(n), n, text, sampling=Sampling(max_tokens=2), prefix=len(text)) for n in range(6)]
    tokens = len(tokenizer(text)["input_ids"])
    generator.generate(same)
    assert shapes == [(1, tokens - 1), (16, 1), (16, 1)]
    shapes.clear()
    generator.generate([Prompt(str(n), n, f"{text}loaf {n}", sampling=Sampling(max_tokens=1), prefix=len(text)) for n in range(8)])
    assert len([shape for shape in shapes if shape[0] == 1]) == 1 and (8, 16) in shapes
    plain = [Prompt(str(n), n, text, sampling=Sampling(max_tokens=20)) for n in range(6)]
    split = [Prompt(str(n), n, text, sampling=Sampling(max_tokens=20), prefix=100) for n in range(6)]
    assert told(generator.generate(plain)) == told(generator.generate(split))


def test_finished_rows_leave_and_the_others_are_gathered(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = TransformersGenerator(tiny("llama"), tokenizer, width=4)
    steps = watch_shapes(generator, monkeypatch)
    generator._ends = frozenset()
    # Of two passes one row each goes on; the two share the next segment's only pass.
    prompts = [
        Prompt(str(n), n, f"{n} loaves", sampling=Sampling(max_tokens=SEGMENT + 2 if n in (0, 5) else 1, temperature=2.0))
        for n in range(8)
    ]
    done = generator.generate(prompts)
    decoded = [shape for shape in steps if shape[1] == 1]
    assert decoded.count((4, 1)) == len(decoded) == 2 * SEGMENT + 2
    assert [c.tokens_out for c in done] == [SEGMENT + 2 if n in (0, 5) else 1 for n in range(8)]


def test_a_model_whose_rows_cannot_be_padded_is_run_row_by_row(tokenizer: Any) -> None:
    torch.manual_seed(1)
    config = transformers.MambaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.4, eos_token_id=0
    )
    model = transformers.MambaForCausalLM(config).eval()
    generator = TransformersGenerator(model, tokenizer)
    prompts = rows(4, max_tokens=12)
    assert not generator.decoder.batches
    expected = [by_the_book(model, tokenizer, prompt) for prompt in prompts]
    assert [(c.text, c.finish_reason, c.tokens_out) for c in generator.generate(prompts)] == expected


def test_lengths_end_at_the_context_and_longer_prompts_are_rows_with_an_error(tokenizer: Any) -> None:
    generator = TransformersGenerator(tiny("llama", max_position_embeddings=64), tokenizer)
    word = " loaves"
    fits, long, empty, other = generator.generate([
        Prompt("fits", 1, word * 50, sampling=Sampling(max_tokens=500, temperature=1.5)),
        Prompt("long", 2, "7 " * 200), Prompt("empty", 3, ""),
        Prompt("other", 4, "a", sampling=Sampling(max_tokens=3)),
    ])  # fmt: skip
    assert fits.tokens_in is not None and fits.tokens_out is not None
    assert fits.finish_reason == "stop" or fits.tokens_in + fits.tokens_out == 64
    assert long.finish_reason == "error" and "and the model reads fewer than 64; shorten it" in str(long.error)
    assert empty.error == "the prompt holds no token; write something into it"
    assert other.text is not None


def test_a_model_that_overflows_is_a_row_with_an_error(tokenizer: Any) -> None:
    model = tiny("llama")
    model.lm_head.weight.data[5] = float("nan")
    (row,) = TransformersGenerator(model, tokenizer).generate(rows(1))
    assert row.finish_reason == "error" and "try precision float32" in str(row.error)


def test_memory_that_runs_out_halves_the_batch_once_and_then_says_so(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompts = tiny("llama"), rows(20)
    whole = told(TransformersGenerator(model, tokenizer).generate(prompts))
    generator = TransformersGenerator(model, tokenizer, batch_tokens=2000)
    run, sizes = generator.decoder.run, []

    def small_machine(most: int) -> Any:
        def attempt(batch: list[Any]) -> None:
            sizes.append(len(batch))
            if len(batch) > most:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            run(batch)

        return attempt

    monkeypatch.setattr(generator.decoder, "run", small_machine(7))
    assert told(generator.generate(prompts)) == whole
    assert generator.decoder.batch_tokens == 1000 and max(sizes) > 7
    monkeypatch.setattr(generator.decoder, "run", small_machine(0))
    with pytest.raises(InputError, match=r"1,000 tokens in passes of 16 rows don't fit into memory, nor did twice as many"):
        generator.generate(prompts)


def test_text_behind_the_prompt_keeps_its_first_space_and_stops_across_tokens(tokenizer: Any) -> None:
    plain = Tokenizer(models.BPE({"▁": 0, "a": 1, "b": 2, "▁a": 3, "ab": 4}, [("▁", "a"), ("a", "b")]))
    plain.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    plain.decoder = decoders.Metaspace(prepend_scheme="always")
    spaced = transformers.PreTrainedTokenizerFast(tokenizer_object=plain)
    text = ours._Text(spaced, [3], Sampling(stop=("ba", "b a")))
    assert text.read([3, 2]) == (" ab", False)
    assert text.has_stopped([3, 2, 3]) and text.read([3, 2, 3]) == (" a", True)
    assert not text.has_stopped([3, 2])
    assert text.read([2, 1, 2, 3]) == ("", True)  # the first of all stop texts


# -- chat --------------------------------------------------------------------------------------------------------------


def test_messages_go_through_the_chat_template_alone(tokenizer: Any) -> None:
    chat = pickle.loads(pickle.dumps(tokenizer))
    chat.chat_template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE[len("{% for m in messages %}") :]
    model, sampling = tiny("llama"), Sampling(max_tokens=9)
    generator = TransformersGenerator(model, chat)
    said, raw, refused = generator.generate([
        Prompt("a", 5, messages=(Message("user", "12 loaves"),), sampling=sampling),
        Prompt("b", 5, "<user>12 loaves\n<assistant>", sampling=sampling),
        Prompt("c", 5, messages=(Message("system", "be kind"),), sampling=sampling),
    ])  # fmt: skip
    assert told([said])[0][1:] == told([raw])[0][1:]
    assert "chat template refuses the messages (no system)" in str(refused.error)
    insisted = TransformersGenerator(model, tokenizer).generate([Prompt("d", 5, messages=(Message("user", "12"),), sampling=sampling)])
    assert insisted[0].tokens_in == len(tokenizer("12\n")["input_ids"])


def test_a_model_in_the_wrong_role_is_refused_unless_insisted_on(tokenizer: Any) -> None:
    chat = pickle.loads(pickle.dumps(tokenizer))
    chat.chat_template = TEMPLATE
    check_role(tokenizer, "base")
    check_role(chat, "instruct")
    with pytest.raises(InputError, match=r"has a chat template.*insist with --insist-base"):
        check_role(chat, "base")
    with pytest.raises(InputError, match=r"has no chat template.*insist with --insist-instruct"):
        check_role(tokenizer, "instruct")
    check_role(chat, "base", insist=True)
    check_role(tokenizer, "instruct", insist=True)


# -- sampling ----------------------------------------------------------------------------------------------------------


def test_the_gumbel_maximum_draws_from_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -40.0])
    temperature, draws = 0.7, 40_000
    chosen = choose(
        logits.expand(draws, -1), seeds=range(draws), steps=[3] * draws, samplings=[Sampling(temperature)] * draws
    )
    expected = torch.softmax(logits / temperature, 0).numpy()
    seen = np.bincount(chosen, minlength=5) / draws
    assert np.abs(seen - expected).max() < 4.5 * np.sqrt(0.25 / draws)
    # The same for one seed over its steps.
    chosen = choose(
        logits.expand(draws, -1), seeds=[7] * draws, steps=range(draws), samplings=[Sampling(temperature)] * draws
    )
    assert np.abs(np.bincount(chosen, minlength=5) / draws - expected).max() < 4.5 * np.sqrt(0.25 / draws)


def test_noise_is_standard_gumbel_and_its_rows_are_independent() -> None:
    tokens = np.arange(100_000, dtype=np.uint64)
    zero = np.zeros_like(tokens)
    noise, other = gumbel(zero, zero, tokens), gumbel(zero, zero + np.uint64(1), tokens)
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.var() - np.pi**2 / 6) < 0.04
    assert abs(np.corrcoef(noise, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(noise, gumbel(zero + np.uint64(1), zero, tokens))[0, 1]) < 0.02
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.02
    assert np.array_equal(gumbel(zero[:3], zero[:3], tokens[5:8]), noise[5:8])


@pytest.mark.parametrize("spread", [0.1, 3.0, 20.0])
def test_only_tokens_that_cannot_win_get_no_noise(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((300, 500), generator=generator) * spread
    chosen = choose(logits, seeds=range(300), steps=range(300), samplings=[Sampling(1.3)] * 300)
    for n, line in enumerate(logits):
        tokens = np.arange(500, dtype=np.uint64)
        noise = gumbel(np.full_like(tokens, n), np.full_like(tokens, n), tokens)
        assert chosen[n] == int(np.argmax((line / torch.tensor(1.3)).double().numpy() + noise))


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.8), (7, 0.5), (0, 0.001), (1, 1.0), (1000, 0.9)])
def test_top_k_and_top_p_let_in_what_transformers_own_warpers_let_in(top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn((1, 60), generator=generator) * 2
    warped = logits / 0.9
    if top_k:
        warped = transformers.TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = transformers.TopPLogitsWarper(top_p)(None, warped)
    expected = torch.softmax(warped, 1)[0].numpy()
    draws = 4_000
    chosen = choose(
        logits.expand(draws, -1), seeds=range(draws), steps=[0] * draws,
        samplings=[Sampling(0.9, top_p=top_p, top_k=top_k)] * draws,
    )  # fmt: skip
    seen = np.bincount(chosen, minlength=60) / draws
    assert not seen[expected == 0].any()
    assert np.abs(seen - expected).max() < 4.5 * np.sqrt(0.25 / draws)


def test_temperature_zero_takes_the_first_of_the_most_likely_and_rows_keep_their_own_sampling() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [0.0, 0.0, 9.0], [float("nan"), 1.0, 2.0], [1.0, 3.0, 2.0]])
    samplings = [Sampling(0.0), Sampling(0.0, top_k=1, top_p=0.5), Sampling(0.0), Sampling(2.0, top_k=1)]
    assert choose(logits, seeds=[1, 2, 3, 4], steps=[0] * 4, samplings=samplings) == [1, 2, NOT_FINITE, 1]


def test_a_prompt_always_leaves_a_place_empty() -> None:
    for tokens in (*range(1, 2000), 4096, 5000, 131_072):
        assert tokens <= decode_bucket(tokens) <= max(128 + tokens, tokens * 1.15)


# -- loading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n", encoding="utf-8")
    return path


def test_a_model_is_loaded_from_its_folder_and_says_what_it_is(folder: Path, tokenizer: Any) -> None:
    spec = TransformersSpec(str(folder))
    files = find_model(spec)
    assert files.license == "apache-2.0" and files.revision.startswith("sha256:") and len(files.revision) == 23
    prompts = rows(5)
    expected = told(TransformersGenerator(tiny("llama"), tokenizer).generate(prompts))
    assert told(load(spec, precision="float32").generate(prompts)) == expected
    half = load(spec, precision="bfloat16")
    assert half.decoder.model.dtype == torch.bfloat16 and len(half.generate(prompts)) == 5
    with (folder / "generation_config.json").open(encoding="utf-8") as file:
        config = json.load(file)
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [0, 17]}), encoding="utf-8")
    assert load(spec, precision="float32")._ends == {0, 17}
    assert find_model(spec).revision != files.revision


def out_of_memory(*_: Any, **__: Any) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def test_what_cannot_be_loaded_is_one_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    wrong = [
        (TransformersSpec(str(tmp_path)), "holds no config.json"),
        (TransformersSpec(str(folder), "main"), "is a folder and has no revisions; leave @main out"),
        (TransformersSpec("/nowhere/at/all"), "there is no folder /nowhere/at/all"),
        (TransformersSpec("./nowhere"), "there is no folder"),
        (TransformersSpec("nobody/no-such-model", "v1"), r"is not in the local cache \(HF_HUB_OFFLINE is set\)"),
    ]
    for spec, message in wrong:
        with pytest.raises(InputError, match=message):
            find_model(spec)
    spec = TransformersSpec(str(folder))
    with pytest.raises(InputError, match="precision must be one of auto, float32"):
        load(spec, precision="int4")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"was given cuda:0, but PyTorch .* sees no CUDA there"):
            load(spec, device="cuda:0")
    with monkeypatch.context() as small:
        small.setattr(transformers.AutoModelForCausalLM, "from_pretrained", out_of_memory)
        with pytest.raises(InputError, match=r"the model doesn't fit into memory; choose a smaller one, or --precision bfloat16"):
            load(spec)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(InputError, match="can't be loaded by transformers; check its files"):
        load(TransformersSpec(str(broken)))
    (broken / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"needs its own code \(model_type 'mine'\); code from a model is never run"):
        load(TransformersSpec(str(broken)))
    (broken / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="can't be read"):
        find_model(TransformersSpec(str(broken)))


def test_without_the_extra_the_command_that_installs_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"there is no PyTorch.*pip install 'betr-bare\[generation\]'"):
        find_model(TransformersSpec(str(folder)))


@pytest.mark.parametrize(
    ("card", "config", "license_"),
    [
        ("---\nlicense: gemma\n---\n", "{}", "gemma"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", "{}", "mit"),
        ("---\nlicense: other\nlicense_name: llama3.1\n---\n", "{}", "llama3.1"),
        ("no front matter", '{"license": "mit"}', "mit"),
        ("---\n: [\n---\n", "{}", None),
        (None, "{}", None),
    ],
)
def test_the_licence_is_the_model_cards_or_the_configs(
    card: str | None, config: str, license_: str | None, tmp_path: Path
) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert model_license(tmp_path) == license_


def test_settings_are_checked_at_birth(tokenizer: Any) -> None:
    for setting in ("width", "batch_tokens"):
        with pytest.raises(InputError, match=f"{setting} must be at least 1; got 0"):
            TransformersGenerator(tiny("llama"), tokenizer, **{setting: 0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"prefix must lie in \[0, 4\]"):
        Prompt("a", 0, "text", prefix=5)
    with pytest.raises(InputError, match="prefix must lie in"):
        Prompt("a", 0, messages=(Message("user", "text"),), prefix=1)
