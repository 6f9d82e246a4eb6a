"""Proxy models without Spark: the stream of tokens, training, checkpoints, bits per byte, fine-tuning."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betr.benchmarks import asked, example_text
from curation.errors import InputError
from curation.jsonlines import RowRejected
from evaluation.measuring import Example, FinetuningConfig, finetune, measure
from evaluation.packing import Stream, TokenDocuments, write_part
from evaluation.tokenizer import END, ProxyTokenizer, train_tokenizer
from evaluation.training import (
    DIVERGED,
    FINISHED,
    SIZES,
    ProxySize,
    TrainingConfig,
    cross_entropy,
    load_model,
    new_model,
    parse_size,
    save_model,
    train,
)

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.slow

TINY = ProxySize("tiny", 16, 1, 2)
TEXTS = [f"The {a} cat sat on the {b} mat, and {a} it stayed." for a in ("red", "old", "big") for b in ("new", "dry")]
CONFIG = TrainingConfig(tokens=40 * 64, sequence=16, batch=4, learning_rate=0.01, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def tokenizer() -> ProxyTokenizer:
    return ProxyTokenizer("t", train_tokenizer(TEXTS, vocabulary=300))


@pytest.fixture(scope="module")
def documents(tokenizer: ProxyTokenizer) -> TokenDocuments:
    return TokenDocuments.of(range(10, 10 + len(TEXTS)), [list(t) for t in tokenizer.encode(TEXTS)], end=tokenizer.end)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(model: Any) -> dict[str, Any]:
    return {name: each.detach().clone() for name, each in model.named_parameters()}


# -- tokenizer ---------------------------------------------------------------------------------------------------------


def test_the_same_texts_give_the_same_tokenizer_and_every_text_comes_back(tokenizer: ProxyTokenizer) -> None:
    assert train_tokenizer(TEXTS, vocabulary=300) == tokenizer.definition
    strange = ["", " a\n\nb\t", "naïve 東京 🙂", f"said {END} here"]
    found = tokenizer.encode(strange)
    assert [tokenizer.decode(each.tolist()) for each in found] == strange
    assert all(tokenizer.end not in each for each in found), "the end token stands only where we put it"
    assert tokenizer.vocabulary <= 300


# -- the stream --------------------------------------------------------------------------------------------------------

LISTS = [[1, 2, 3], [], [4], [5, 6, 7, 8, 9], [10, 11]]


def streamed(stream: Stream, epochs: int) -> list[list[list[int]]]:
    """Each epoch's documents in their order, found by reading one token at a time."""
    total = stream.documents.total
    found = []
    for epoch in range(epochs):
        flat = [int(stream.read(epoch * total + k, 1)[0]) for k in range(total)]
        rows: list[list[int]] = [[]]
        for token in flat:
            if token == 0:
                rows.append([])
            else:
                rows[-1].append(token)
        assert rows.pop() == [], "an epoch ends with an end token"
        found.append(rows)
    return found


def test_every_epoch_holds_each_document_once_in_an_order_of_its_own() -> None:
    stream = Stream(TokenDocuments.of(range(5), LISTS, end=0), seed=3)
    epochs = streamed(stream, 4)
    assert all(sorted(epoch) == sorted(LISTS) for epoch in epochs)
    assert len({json.dumps(epoch) for epoch in epochs}) > 1
    assert epochs != streamed(Stream(stream.documents, seed=4), 4)


def test_a_stream_is_the_same_from_any_place_and_for_any_order_of_the_documents() -> None:
    stream = Stream(TokenDocuments.of(range(5), LISTS, end=0), seed=3)
    whole = stream.read(0, 70)
    for start in range(0, 60, 7):
        assert stream.read(start, 10).tolist() == whole[start : start + 10].tolist()
    turned = Stream(TokenDocuments.of(range(4, -1, -1), LISTS[::-1], end=0), seed=3)
    assert turned.read(0, 70).tolist() == whole.tolist()


def test_files_give_the_stream_of_the_lists_however_they_are_cut(tmp_path: Path) -> None:
    ids = np.arange(5, dtype=np.uint64)
    tokens = write_part(tmp_path, "a", ids[:2], LISTS[:2]) + write_part(tmp_path, "b", ids[2:], LISTS[2:])
    read = TokenDocuments.open(tmp_path, ["b", "a"], end=0)
    assert read.total == tokens == sum(len(each) + 1 for each in LISTS)
    expected = Stream(TokenDocuments.of(range(5), LISTS, end=0), seed=1).read(0, 50)
    assert Stream(read, seed=1).read(0, 50).tolist() == expected.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.documents.npy", "a.tokens.npy", "b.documents.npy", "b.tokens.npy")
    ]
    with pytest.raises(InputError, match="--working"):
        TokenDocuments.open(tmp_path, ["c"], end=0)


# -- training ----------------------------------------------------------------------------------------------------------


def test_a_model_learns_its_documents_and_every_token_and_flop_is_counted(
    tokenizer: ProxyTokenizer, documents: TokenDocuments
) -> None:
    losses: list[float] = []
    trained = train(
        documents, TINY, CONFIG, vocabulary=tokenizer.vocabulary, seed=0, on_step=lambda _, loss: losses.append(loss)
    )
    assert trained.status == FINISHED and trained.reason is None
    assert losses[0] == pytest.approx(math.log(tokenizer.vocabulary), abs=0.4), "an untrained model knows nothing"
    assert trained.loss == pytest.approx(sum(losses[-20:]) / 20) and trained.loss < losses[0] - 1
    assert trained.steps == 40 and trained.tokens == 40 * 64
    assert trained.epochs == pytest.approx(40 * 64 / documents.total) and trained.epochs > 5
    parameters = sum(each.numel() for each in trained.model.parameters())
    assert trained.parameters == parameters and trained.flops == 6 * parameters * 40 * 64


@pytest.mark.parametrize("at", [1, 17, 40])
def test_a_run_that_was_killed_goes_on_to_the_same_weights_bit_for_bit(
    tokenizer: ProxyTokenizer, documents: TokenDocuments, tmp_path: Path, at: int
) -> None:
    def kill(step: int, _: float) -> None:
        if step == at + 1 or step == CONFIG.steps:
            raise KeyboardInterrupt

    how: dict[str, Any] = {"vocabulary": tokenizer.vocabulary, "seed": 5}
    undisturbed = train(documents, TINY, CONFIG, **how)
    checkpoint = tmp_path / "deep" / "checkpoint.safetensors"
    if at < CONFIG.steps:
        with pytest.raises(KeyboardInterrupt):
            train(documents, TINY, CONFIG, checkpoint=checkpoint, on_step=kill, **how)
    else:  # killed after its last step, before its result was kept
        train(documents, TINY, CONFIG, checkpoint=checkpoint, **how)
    resumed = train(documents, TINY, CONFIG, checkpoint=checkpoint, **how)
    assert resumed.resumed_at == at and undisturbed.resumed_at == 0
    one, other = weights(undisturbed.model), weights(resumed.model)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.loss == undisturbed.loss and resumed.tokens == undisturbed.tokens
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name], "no half-written file stays"


def test_a_broken_checkpoint_is_named(tokenizer: ProxyTokenizer, documents: TokenDocuments, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(InputError, match="can't be read"):
        train(documents, TINY, CONFIG, vocabulary=tokenizer.vocabulary, seed=0, checkpoint=tmp_path / "c")


def test_the_loss_and_its_slope_are_those_of_pytorch() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 11) * 5, torch.randint(0, 11, (7,))
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (2 * cross_entropy(ours, targets)).backward()
    expected = torch.nn.functional.cross_entropy(theirs, targets)
    (2 * expected).backward()
    assert cross_entropy(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_seeds_differ_and_the_same_seed_does_not(tokenizer: ProxyTokenizer, documents: TokenDocuments) -> None:
    short = replace(CONFIG, tokens=3 * 64)
    first, again, other = (
        train(documents, TINY, short, vocabulary=tokenizer.vocabulary, seed=seed).loss for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_run_whose_loss_rises_is_stopped_and_said_to_have_diverged(
    tokenizer: ProxyTokenizer, documents: TokenDocuments, tmp_path: Path
) -> None:
    wild = replace(CONFIG, tokens=400 * 64, learning_rate=50.0, warmup=0.3, clip=1e9)
    trained = train(documents, TINY, wild, vocabulary=tokenizer.vocabulary, seed=0)
    assert trained.status == DIVERGED and trained.steps < 400 and trained.tokens == trained.steps * 64
    assert trained.reason is not None and ("rose" in trained.reason or "no number" in trained.reason)


def test_a_loss_that_is_no_number_ends_a_run_and_leaves_the_checkpoint_of_before(
    tokenizer: ProxyTokenizer, documents: TokenDocuments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation import training

    plain, kept = training._note, tmp_path / "c.safetensors"

    def broken(state: Any, value: float, config: TrainingConfig) -> str | None:
        return plain(state, math.nan if state.step == 6 else value, config)

    monkeypatch.setattr(training, "_note", broken)
    for _ in range(2):  # what diverged once does so again
        trained = train(documents, TINY, CONFIG, vocabulary=tokenizer.vocabulary, seed=0, checkpoint=kept)
        assert (trained.status, trained.steps) == (DIVERGED, 7) and trained.reason is not None
        assert "no number at step 7 of 40" in trained.reason
    assert trained.resumed_at == 6


def test_a_run_whose_loss_did_not_fall_is_no_result(tokenizer: ProxyTokenizer) -> None:
    chance = np.random.default_rng(0).integers(1, 300, 5000)
    noise = TokenDocuments.of([1], [chance.tolist()], end=tokenizer.end)
    still = replace(CONFIG, learning_rate=1e-12, tokens=10 * 64)
    statuses = set()
    for seed in range(6):
        trained = train(noise, TINY, still, vocabulary=300, seed=seed)
        assert (trained.status == DIVERGED) == (trained.loss >= trained.first_loss) == ("fall" in str(trained.reason))
        statuses.add(trained.status)
    assert statuses == {FINISHED, DIVERGED}, "by chance it falls for some seeds and rises for others"


def test_more_repetitions_than_allowed_are_refused(tokenizer: ProxyTokenizer, documents: TokenDocuments) -> None:
    with pytest.raises(InputError, match=r"would repeat them \d+\.\d times"):
        train(documents, TINY, replace(CONFIG, most_epochs=2.0), vocabulary=tokenizer.vocabulary, seed=0)


def test_the_learning_rate_rises_and_falls_as_half_a_cosine() -> None:
    config = replace(CONFIG, tokens=100 * 64, warmup=0.1, final=0.2)
    rates = [config.rate(step, 1.0) for step in range(100)]
    assert rates[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert all(a >= b for a, b in pairwise(rates[9:])) and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.6) and rates[99] == pytest.approx(0.2, abs=1e-3)


def test_sizes_are_what_their_names_say() -> None:
    for name in ("0.1m", "0.3m", "1m", "3m", "10m"):
        model = new_model(SIZES[name], vocabulary=4096, context=16, seed=0)
        millions = sum(each.numel() for each in model.parameters()) / 1e6
        assert 0.7 < millions / float(name.rstrip("m")) < 1.7, (name, millions)
    assert parse_size("96x4x6") == ProxySize("96x4x6", 96, 4, 6)


# -- measuring ---------------------------------------------------------------------------------------------------------

EXAMPLES = [
    Example("a", "cats", "Where did the red cat sit?\n", ("on the mat", "on the naïve moon", "in"), 0),
    Example("b", "cats", "The old cat", (" sat on the dry mat, and old it stayed.", " flew"), 1),
    Example("c", "sums", "", ("two",), 0),
    Example("d", "cats", "The big cat " * 12, ("sat", "on"), 0),
    Example("e", "cats", "Say it: ", ("The red cat sat on the new mat. " * 6, "no"), 0),
]


def nats_of(model: Any, tokenizer: ProxyTokenizer, question: str, answer: str, context: int) -> float:
    """The obvious way: the model's distribution for one token after the other."""
    asked_ = [tokenizer.end, *tokenizer.encode([question])[0].tolist()]
    answered = tokenizer.encode([answer])[0].tolist()
    total = 0.0
    for k, token in enumerate(answered):
        seen = (asked_ + answered[:k])[-context:]
        logits = model(input_ids=torch.tensor([seen])).logits[0, -1]
        total -= float(torch.log_softmax(logits.double(), -1)[token])
    return total


@pytest.mark.parametrize("batch_tokens", [1, 70, 100_000])
def test_bits_per_byte_are_those_of_a_slow_loop_for_any_batch(
    tokenizer: ProxyTokenizer, documents: TokenDocuments, batch_tokens: int
) -> None:
    model = train(documents, TINY, CONFIG, vocabulary=tokenizer.vocabulary, seed=0).model
    context = 512
    found = measure(model, tokenizer, EXAMPLES, context=context, batch_tokens=batch_tokens)
    with torch.no_grad():
        for example, each in zip(EXAMPLES, found, strict=True):
            nats = [nats_of(model, tokenizer, example.question, choice, context) for choice in example.choices]
            sizes = [len(choice.encode()) for choice in example.choices]
            assert each.nats == pytest.approx(nats[example.gold], rel=1e-4) and each.bytes == sizes[example.gold]
            assert each.bits_per_byte == pytest.approx(nats[example.gold] / math.log(2) / sizes[example.gold], rel=1e-4)
            rates = [n / size for n, size in zip(nats, sizes, strict=True)]
            expected = rates.index(min(rates)) == example.gold if len(rates) > 1 else None
            assert each.correct is expected
            assert (each.example_id, each.benchmark) == (example.example_id, example.benchmark)
    assert {each.correct for each in found} == {True, False, None}, "the examples tell the cases apart"


def test_of_a_long_question_the_end_is_read_and_of_a_long_answer_every_token_counts_once(
    tokenizer: ProxyTokenizer,
) -> None:
    from evaluation.measuring import _windows

    context = 20
    model = new_model(TINY, vocabulary=tokenizer.vocabulary, context=context, seed=0).eval()
    for example in EXAMPLES:
        answer = tokenizer.encode([example.choices[0]])[0].tolist()
        windows = _windows(tokenizer, [(example, example.choices[0])], context)
        assert [t for w in windows for t in w.tokens[w.first :].tolist()] == answer
        assert all(len(w.tokens) <= context + 1 and w.first >= 1 for w in windows)
    short = EXAMPLES[3]
    with torch.no_grad():
        [found] = measure(model, tokenizer, [short], context=context)
        asked_ = [tokenizer.end, *tokenizer.encode([short.question])[0].tolist()]
        answer = tokenizer.encode([short.choices[0]])[0].tolist()
        seen = (asked_ + answer)[-context - 1 :]
        logits = torch.log_softmax(model(input_ids=torch.tensor([seen[:-1]])).logits[0].double(), -1)
        nats = -sum(float(logits[len(seen) - 2 - k, seen[len(seen) - 1 - k]]) for k in range(len(answer)))
    assert found.nats == pytest.approx(nats, rel=1e-4)


def test_fine_tuning_teaches_the_answers_and_is_the_same_again(
    tokenizer: ProxyTokenizer, documents: TokenDocuments, tmp_path: Path
) -> None:
    trained = train(documents, TINY, CONFIG, vocabulary=tokenizer.vocabulary, seed=0)
    save_model(tmp_path / "m.safetensors", trained.model)
    tuned = [e for e in EXAMPLES if e.benchmark == "cats"]
    before = measure(trained.model, tokenizer, tuned, context=64)
    found = []
    for _ in range(2):
        model = load_model(tmp_path / "m.safetensors", TINY, vocabulary=tokenizer.vocabulary, context=16)
        assert all(torch.equal(weights(model)[k], v) for k, v in weights(trained.model).items())
        config = FinetuningConfig(epochs=10, batch=2, learning_rate=0.01)
        loss = finetune(model, tokenizer, tuned, config, peak=1.0, seed=0, context=64)
        found.append((loss, measure(model, tokenizer, tuned, context=64)))
    assert found[0] == found[1]
    assert sum(m.nats for m in found[0][1]) < 0.8 * sum(m.nats for m in before)
    with pytest.raises(InputError, match="at least one example"):
        finetune(trained.model, tokenizer, [], FinetuningConfig(), peak=1.0, seed=0, context=64)


# -- questions of benchmark files --------------------------------------------------------------------------------------


def listed(question: str, *choices: str, gold: int = 0) -> dict[str, Any]:
    lines = "".join(f"\n {letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=False))
    return {"query": f"Question: {question}{lines}\nAnswer:", "choices": list("ABCD"[: len(choices)]), "gold": gold}


ROWS: list[tuple[dict[str, Any], str, tuple[str, ...], int]] = [
    (listed("Which is wet?", "sand", "water", gold=1), "Which is wet?\n", ("sand", "water"), 1),
    ({"question": "2 + 2?", "answer": "<<2+2=4>>4"}, "2 + 2?\n", ("4",), 0),
    ({"ctx": "He opens the box and", "endings": ["sings.", ", well, leaves."], "label": "1"},
     "He opens the box and", (" sings.", ", well, leaves."), 1),
    ({"sentence": "Ian fed Al because _ was kind.", "option1": "Ian", "option2": "Al", "answer": "1"},
     "Ian fed Al because", (" Ian was kind.", " Al was kind."), 0),
    ({"question": "how tall", "passage": "It is 3 m tall.", "answer": True}, "It is 3 m tall.\nhow tall\n", ("yes",), 0),
    ({"text": "Write add.", "code": "def add(a, b): return a + b"}, "Write add.\n", ("def add(a, b): return a + b",), 0),
]  # fmt: skip


@pytest.mark.parametrize(("row", "context", "choices", "gold"), ROWS)
def test_a_row_is_asked_as_its_target_reads(
    row: dict[str, Any], context: str, choices: tuple[str, ...], gold: int
) -> None:
    found = asked(row)
    assert (found.context, found.choices, found.gold) == (context, choices, gold)
    assert found.text == example_text(row)
    if "passage" not in row:
        assert found.context + found.choices[found.gold] == found.text


@pytest.mark.parametrize(
    ("row", "reason"),
    [({"a": 1}, "unknown_shape"), ({"text": "no question"}, "unknown_shape"), ({"question": "why?"}, "no_answer"),
     ({"question": "why?", "choices": ["", "b"], "answer": 1}, "no_answer")],
)  # fmt: skip
def test_a_row_without_question_or_answer_is_no_example(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowRejected) as verdict:
        asked(row)
    assert verdict.value.reason == reason
