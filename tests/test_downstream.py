"""What made rows are worth to a model: rules of arms and tests, fine-tuning by LoRA and whole, figures, the page."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

torch = pytest.importorskip("torch")

from bare.tasks import load_task, parse_task  # noqa: E402
from curation import report  # noqa: E402
from curation.errors import InputError, MissingExtraError  # noqa: E402
from curation.overlap import words as words_of  # noqa: E402
from evaluation import cli, downstream_stages, models  # noqa: E402
from evaluation.compare import bits, points  # noqa: E402
from evaluation.downstream import (  # noqa: E402
    DUPLICATE,
    EQUAL_COST,
    EQUAL_ROWS,
    EVERY,
    MADE,
    REAL,
    REPEATED,
    SEED,
    TOP_UP,
    UNTRAINED,
    Arm,
    Row,
    asking_of,
    equal_rows,
    imbalanced,
    parse_imbalance,
    separate,
    top_up,
)
from evaluation.downstream_config import DownstreamConfig  # noqa: E402
from evaluation.downstream_figures import BITS, RIGHT, Found, as_table, judge, over_baseline, sentence, words  # noqa: E402
from evaluation.downstream_page import ALWAYS, downstream_page  # noqa: E402
from evaluation.downstream_stages import _Job, plan, run_one  # noqa: E402
from evaluation.measuring import Example, FinetuningConfig, finetune, measure  # noqa: E402
from evaluation.models import FULL, LORA, ModelTokenizer, TuningConfig, choose  # noqa: E402
from evaluation.tokenizer import ProxyTokenizer  # noqa: E402
from tests.test_bare_report import Reader as PageReader  # noqa: E402
from tests.test_bare_transformers import FAMILIES, tiny  # noqa: E402
from tests.test_bare_transformers import train_tokenizer as train_plain  # noqa: E402

TASK_YAML = """
name: notes
description: Short notes, each with its kind.
opening: "[note]"
closing: "[/note]"
fields:
  - {name: kind, marker: "Kind:", check: choice, choices: [animal, tool, tools]}
  - {name: text, marker: "Text:", min_chars: 3}
  - {name: extra, marker: "Extra:", optional: true}
label: {field: kind, balance: equal, shots: any}
refine: Write it better.
judge: Which is the worst?
"""
TASK = parse_task(TASK_YAML)
FREE = dataclasses.replace(load_task("instruction_and_answer"))


def rows(label: str, count: int, start: int = 0, text: str = "a {label} called {k}") -> list[Row]:
    made = [text.format(label=label, k=k) for k in range(start, start + count)]
    return [Row(f"{label}{k}", {"kind": label, "text": each}, label) for k, each in enumerate(made, start)]


# -- how a row is asked ------------------------------------------------------------------------------------------------


def test_a_row_is_asked_up_to_its_answers_marker_and_no_answer_is_the_beginning_of_another() -> None:
    asking = asking_of(TASK)
    found = asking.example(rows("tool", 1)[0])
    assert found.question == "[note]\nText: a tool called 0\nKind:"
    assert found.choices == (" animal\n", " tool\n", " tools\n") and found.gold == 1 and found.benchmark == "tool"
    assert not any(a != b and b.startswith(a) for a in found.choices for b in found.choices)
    free = asking_of(FREE)
    row = Row("r", {"instruction": "Add 2 and 3.", "answer": "5"})
    assert free.example(row) == Example("r", FREE.name, "[task]\nInstruction: Add 2 and 3.\nAnswer:", (" 5\n",), 0)
    both = asking_of(TASK, answer=("kind", "text"), prompt=("extra",))
    assert both.choices == () and both.example(rows("tool", 1)[0]).choices == (" tool\nText: a tool called 0\n",)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"answer": ("mood",)}, "--answer: the task notes has no field 'mood'; it has kind, text, extra"),
        ({"prompt": ("mood",)}, "--prompt: the task notes has no field 'mood'"),
        ({"prompt": ("kind",)}, "--answer kind: a model needs another field of notes to answer from"),
        ({"answer": ("extra",)}, "the field 'extra' of notes may be absent; name required ones"),
    ],
)
def test_fields_that_make_no_question_are_refused(named: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        asking_of(TASK, **named)


# -- arms --------------------------------------------------------------------------------------------------------------


def test_every_arm_gives_its_first_rows_as_many_as_the_shortest_has() -> None:
    made = {"real": rows("tool", 7), "bare": rows("animal", 4), "base": rows("tools", 9)}
    arms = equal_rows(made, generations={"bare": "g"})
    assert [(a.arm, [r.row_id for r in a.rows], a.generation_id) for a in arms] == [
        (name, [r.row_id for r in each[:4]], "g" if name == "bare" else None) for name, each in made.items()
    ]
    with pytest.raises(InputError, match="arm base has no accepted row to train on; leave it out with --arms"):
        equal_rows({**made, "base": []}, generations={})


def test_rare_labels_are_filled_to_the_largest_by_repeating_and_by_made_rows_equally() -> None:
    real = [*rows("tool", 6), *rows("animal", 2), *rows("tools", 4)]
    made = {
        "bare": [*rows("animal", 3, 50), *rows("tools", 9, 50), *rows("tool", 2, 50)],
        "base": [*rows("tools", 1, 70), *rows("animal", 8, 70)],
    }
    found = top_up(real, made, ("animal", "tool", "tools"), generations={"bare": "g", "base": "h"})
    # animal lacks 4, of which both made 3; tools lacks 2, of which base made 1.
    assert found.filled == {"animal": 3, "tools": 1} and found.lacking == {"animal": 1, "tools": 1}
    assert [(a.experiment, a.arm) for a in found.arms] == [(TOP_UP, n) for n in (REAL, DUPLICATE, "bare", "base")]
    assert [a.labels for a in found.arms] == [{"animal": 2, "tool": 6, "tools": 4}] + [{"animal": 5, "tool": 6, "tools": 5}] * 3
    assert all(a.rows[: len(real)] == tuple(real) for a in found.arms)
    again = found.arms[1].rows[len(real) :]
    assert [r.row_id for r in again] == ["animal0#2", "animal1#2", "animal0#3", "tools0#2"], "in turn, each by its own name"
    assert [r.fields["text"] for r in found.arms[2].rows[len(real) :]] == ["a animal called 50", "a animal called 51", "a animal called 52", "a tools called 50"]
    assert len({r.row_id for r in found.arms[1].rows}) == len(found.arms[1].rows)


def test_nothing_is_filled_where_no_label_is_rare_or_nobody_made_any_or_there_is_no_real_row() -> None:
    labels = ("animal", "tool", "tools")
    even = [row for label in labels for row in rows(label, 2)]
    assert top_up(even, {"bare": rows("tool", 5, 9)}, labels, generations={}) == type(top_up(even, {}, labels, generations={}))((), {}, {})
    lone = [*rows("tool", 3), *rows("animal", 1)]
    nobody = top_up(lone, {"bare": rows("tool", 5, 9)}, labels, generations={})
    assert nobody.arms == () and nobody.lacking == {"animal": 2}, "a label that nobody has isn't missed"
    without = top_up(lone, {"bare": [*rows("tools", 5, 9), *rows("animal", 1, 9)]}, labels, generations={})
    assert without.filled == {"animal": 1} and without.lacking == {"animal": 1, "tools": 3}, "what isn't there can't be repeated"


def test_imbalance_keeps_the_first_real_rows_of_each_label_that_it_names() -> None:
    real = [row for k in range(4) for label in ("animal", "tool") for row in rows(label, 1, k)]
    assert parse_imbalance("animal=1, tool=3", TASK) == {"animal": 1, "tool": 3}
    kept = imbalanced(real, {"animal": 1})
    assert [r.row_id for r in kept] == ["animal0", "tool0", "tool1", "tool2", "tool3"]
    for text, message in (
        ("bird=1", "--imbalance: 'bird' is no label of notes; there are animal, tool, tools"),
        ("animal", "--imbalance wants LABEL=ROWS,...; got 'animal'"),
        ("animal=few", "--imbalance wants LABEL=ROWS,...; got 'animal=few'"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            parse_imbalance(text, TASK)
    with pytest.raises(InputError, match="--imbalance: the task instruction_and_answer has no label"):
        parse_imbalance("a=1", FREE)
    with pytest.raises(InputError, match="--imbalance animal=5: there are 4 real rows of it; ask for fewer"):
        imbalanced(real, {"animal": 5})


# -- test rows ---------------------------------------------------------------------------------------------------------


def test_a_test_row_that_equals_or_shares_a_run_with_a_seed_or_a_made_row_is_removed() -> None:
    """Against the obvious: all n-grams of 13 words, and of shorter texts of 8 words on the whole text."""
    rng = np.random.default_rng(0)

    def text() -> str:
        return " ".join(rng.choice(["a", "b"], int(rng.integers(1, 22))))

    def grams(text: str) -> set[tuple[str, ...]]:
        mine = words_of(text)
        n = min(13, len(mine))
        return {tuple(mine[i : i + n]) for i in range(len(mine) - n + 1)} if n >= 8 else set()

    def holds(text: str, run: tuple[str, ...]) -> bool:
        mine = words_of(text)
        return any(tuple(mine[i : i + len(run)]) == run for i in range(len(mine)))

    seen: set[str] = set()
    for _ in range(40):
        groups = [[Row(f"{name}{k}", {"text": text()}) for k in range(8)] for name in ("t", "s", "m")]
        tests, seeds, made = groups
        expected: dict[str, str] = {}
        first: set[tuple[str, ...]] = set()
        for test in tests:
            mine = test.fields["text"]
            for reason, others in ((SEED, seeds), (MADE, made)):
                theirs = [o.fields["text"] for o in others]
                if any(
                    words_of(o) == words_of(mine) or any(holds(mine, g) for g in grams(o)) or any(holds(o, g) for g in grams(mine))
                    for o in theirs
                ):
                    expected.setdefault(test.row_id, reason)
            if tuple(words_of(mine)) in first:
                expected.setdefault(test.row_id, REPEATED)
            first.add(tuple(words_of(mine)))
        task = dataclasses.replace(TASK, label=None)
        assert separate(task, tests, seeds, made) == expected
        seen.update(expected.values())
    assert seen == {SEED, MADE, REPEATED}
    assert separate(TASK, [Row("t", {"kind": "tool", "text": "One two."})], [Row("s", {"kind": "animal", "text": "one TWO"})], []) == {"t": SEED}, "whatever its label"


# -- measuring and fine-tuning -----------------------------------------------------------------------------------------

EXAMPLES = [
    Example(f"e{k}", "x", "How many loaves" * (k % 3) + f" {k} and 3 loaves?", (" 12\n", " 30 loaves\n", " 4\n")[: 1 + k % 3], 0)
    for k in range(12)
]  # fmt: skip
LONG = Example("long", "x", "A baker sells 12 loaves in the morning. " * 12, (" she does\n", " no\n"), 1)


@pytest.fixture(scope="module")
def plain() -> ModelTokenizer:
    return ModelTokenizer(train_plain(), "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_read_once_for_all_of_its_choices_measures_what_reading_it_again_does(
    family: str, plain: ModelTokenizer
) -> None:
    model = tiny(family)
    examples = [*EXAMPLES, LONG]
    expected = measure(model, plain, examples, context=48)
    for batch_tokens in (1, 64, 4096):
        found = measure(model, plain, examples, context=48, read_once=True, batch_tokens=batch_tokens)
        for one, other in zip(found, expected, strict=True):
            assert one.nats == pytest.approx(other.nats, rel=1e-4)
            assert (one.example_id, one.bytes, one.chosen) == (other.example_id, other.bytes, other.chosen)


@pytest.mark.slow
def test_the_likeliest_choice_is_by_the_byte_or_by_the_whole(plain: ModelTokenizer) -> None:
    model = tiny("llama")
    for example in EXAMPLES[2::3]:
        alone = [
            measure(model, plain, [dataclasses.replace(example, choices=(c,), gold=0)], context=48)[0]
            for c in example.choices
        ]
        [whole] = measure(model, plain, [example], context=48, by_byte=False)
        [rate] = measure(model, plain, [example], context=48)
        assert whole.chosen == min(range(3), key=lambda k: alone[k].nats)
        assert rate.chosen == min(range(3), key=lambda k: alone[k].nats / alone[k].bytes)
        assert whole.correct == (whole.chosen == 0) and alone[0].chosen is None and alone[0].correct is None


@pytest.mark.slow
def test_steps_cross_the_ends_of_epochs_and_each_shows_as_many_examples(plain: ModelTokenizer) -> None:
    told: list[int] = []
    config = FinetuningConfig(batch=5, learning_rate=0.01, steps=7)
    tuned = finetune(
        tiny("llama"), plain, EXAMPLES, config, peak=0, seed=0, context=48, on_step=lambda step, _: told.append(step)
    )
    assert (tuned.steps, tuned.seen, told) == (7, 35, [1, 2, 3, 4, 5, 6, 7])
    assert tuned.loss < tuned.first_loss
    with pytest.raises(InputError, match="fine-tuning: steps must be at least 1; got 0"):
        FinetuningConfig(steps=0)


@pytest.mark.slow
def test_a_step_read_in_parts_is_the_same_step(plain: ModelTokenizer) -> None:
    found = []
    for batch_tokens in (8192, 40):
        model = tiny("llama")
        config = FinetuningConfig(batch=6, learning_rate=0.01, steps=3)
        finetune(model, plain, EXAMPLES, config, peak=0, seed=0, context=48, batch_tokens=batch_tokens)
        found.append(measure(model, plain, EXAMPLES, context=48))
    assert [m.nats for m in found[1]] == pytest.approx([m.nats for m in found[0]], rel=1e-4)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(str(path))
    train_plain().save_pretrained(str(path))
    return path


NOTES = [*rows("tool", 6, text="we saw with the {label} number {k}"), *rows("animal", 6, text="the {label} eats and sleeps {k}")]


def job(choice: models.ModelChoice, tuning: TuningConfig, working: Path, tokenizer: ProxyTokenizer | None = None) -> _Job:
    asking = asking_of(TASK)
    tests = tuple(asking.example(r) for r in (*rows("tool", 4, 90, "we saw with the {label} number {k}"), *rows("animal", 4, 90, "the {label} eats and sleeps {k}")))
    return _Job(choice, tuning, tokenizer, tests, asking.choices, str(working), local=True)


@pytest.mark.slow
@pytest.mark.parametrize("method", [LORA, FULL])
def test_a_named_model_learns_and_the_next_run_begins_with_the_same_weights(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == LORA:
        pytest.importorskip("peft")
    tuning = TuningConfig(method=method, rank=4, learning_rate=0.02, epochs=6, batch=4, sequence=64)
    choice = choose(str(folder), tuning)
    arms = [Arm(EVERY, UNTRAINED, ()), Arm(EQUAL_ROWS, "bare", tuple(NOTES), "g")]
    before = torch.get_num_threads()
    asking = asking_of(TASK)
    wanted = plan(arms, asking, choice, tuning, seeds=2, held_out_id="h")
    assert [(r.arm.arm, r.seed, r.steps) for r in wanted] == [("bare", 0, 18), ("bare", 1, 18), (UNTRAINED, 0, 0)]
    one = [run_one(run, job(choice, tuning, tmp_path / "a")) for run in wanted]
    other = [run_one(run, job(choice, tuning, tmp_path / "b")) for run in reversed(wanted)]
    torch.set_num_threads(before)
    unlike = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in unlike} for r in one] == [
        {k: v for k, v in r.items() if k not in unlike} for r in reversed(other)
    ], "in whatever order a worker takes them"
    for run in wanted:
        paths = [tmp_path / name / "runs" / run.downstream_id / "evaluations.parquet" for name in "ab"]
        tables = [pd.read_parquet(path) for path in paths]
        pd.testing.assert_frame_equal(*tables)
        assert set(tables[0]["answer"]) <= {"animal", "tool", "tools"}
    assert one[0]["loss"] < 0.5 * one[0]["first_loss"] and one[0]["loss"] != one[1]["loss"]
    assert one[0]["seen"] == 72 and one[0]["labels"] == {"animal": 6, "tool": 6} and one[2]["trained_parameters"] == 0
    assert (one[0]["trained_parameters"] < one[0]["parameters"]) == (method == LORA)
    right = [pd.read_parquet(tmp_path / "a" / "runs" / r.downstream_id / "evaluations.parquet")["correct"].mean() for r in wanted]
    assert min(right[:2]) > right[2]
    monkeypatch.setattr(downstream_stages, "finetune", lambda *_, **__: pytest.fail("trained again"))
    assert run_one(wanted[0], job(choice, tuning, tmp_path / "a")) == one[0], "what is through is only read"


@pytest.mark.slow
def test_a_diverged_run_is_recorded_and_measures_nothing(folder: Path, tmp_path: Path) -> None:
    tuning = TuningConfig(method=FULL, learning_rate=50.0, epochs=4, batch=4, sequence=64)
    choice = choose(str(folder), tuning)
    [run] = plan([Arm(EQUAL_ROWS, "bare", tuple(NOTES))], asking_of(TASK), choice, tuning, seeds=1, held_out_id="h")
    before = torch.get_num_threads()
    found = run_one(run, job(choice, tuning, tmp_path))
    torch.set_num_threads(before)
    assert found["status"] == "diverged" and found["reason"].startswith("the loss")
    assert not (tmp_path / "runs" / run.downstream_id / "evaluations.parquet").exists()
    assert downstream_stages._diverged(1.0, math.nan) == "the loss is no number"
    assert downstream_stages._diverged(1.0, 1.9) is None


def test_a_proxy_starts_from_scratch_and_takes_no_lora(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    with pytest.raises(InputError, match=r"--model 0\.3m starts from scratch, and LoRA adapts .*; say --method full"):
        choose("0.3m", TuningConfig())
    full = TuningConfig(method=FULL)
    assert choose("16x1x2", full).rate(full) == 0.5 / 16 and choose("16x1x2", full).revision is None
    assert choose(str(folder), full).rate(full) == 5e-5
    assert str(choose(str(folder), full).revision).startswith("sha256:")
    with pytest.raises(InputError, match="there is no folder /nowhere/at/all"):
        choose("/nowhere/at/all", full)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"fine-tuning by LoRA needs the extra 'lora', which isn't installed: pip install 'betr-bare\[lora\]'"):
        choose(str(folder), TuningConfig())


def test_a_text_begins_behind_what_the_tokenizer_puts_there_or_an_end() -> None:
    class Fake:
        eos_token_id, bos_token_id = None, None

        def __init__(self, adds: list[int], **known: int) -> None:
            self.adds = adds
            vars(self).update(known)

        def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
            return {"input_ids": [*(self.adds if add_special_tokens else []), 5]}

    assert ModelTokenizer(Fake([2], eos_token_id=9), "m").end == 2
    assert ModelTokenizer(Fake([], eos_token_id=9, bos_token_id=1), "m").end == 9
    assert ModelTokenizer(Fake([], bos_token_id=1), "m").end == 1
    with pytest.raises(InputError, match="model m: its tokenizer knows neither a beginning nor an end of a text"):
        ModelTokenizer(Fake([]), "m")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "qlora"}, "--method must be one of lora, full; got 'qlora'"),
        ({"rank": 0}, "--rank must be at least 1; got 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be a number above 0; got 0.0"),
        ({"precision": "int8"}, "--precision must be one of auto, float32, bfloat16; got 'int8'"),
        ({"seeds": 0}, "--seeds must be at least 1; got 0"),
        ({"level": 1.0}, "--level must be at least 0.5 and below 1; got 1.0"),
        ({"tables": ""}, "--tables is missing: name the folder or catalog.schema of a `bare compare`"),
        ({"model": ""}, "--model is missing: name a model's folder or name, or a proxy's size such as 0.3m"),
    ],
)
def test_settings_that_train_nothing_are_refused_at_birth(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        DownstreamConfig(**{"tables": "there", "model": "0.3m", **changed})


def test_the_command_line_is_the_configuration() -> None:
    argv = ["downstream", "--tables", "there", "--model", "0.3m", "--method", "full", "--imbalance", "a=1"]
    parsed = cli.build_parser().parse_args(argv)
    given = cli.read_config(DownstreamConfig, parsed.downstream)
    assert given == DownstreamConfig(tables="there", model="0.3m", method="full", imbalance="a=1")
    assert given.top_up == ("bare",) and given.tuning.rank == 8 and given.tuning.alpha == 16


def test_a_runs_id_hangs_on_all_that_its_result_hangs_on() -> None:
    arm, asking, tuning = Arm(EQUAL_ROWS, "bare", tuple(NOTES[:3])), asking_of(TASK), TuningConfig(method=FULL)
    choice = models.ModelChoice("m", "r")

    def ids(**changed: Any) -> tuple[str, ...]:
        given = {"arms": [arm], "asking": asking, "choice": choice, "tuning": tuning, "seeds": 1, "held_out_id": "h", **changed}
        found = plan(given.pop("arms"), given.pop("asking"), given.pop("choice"), given.pop("tuning"), **given)
        return tuple(each.downstream_id for each in found)

    assert ids() == ids(arms=[dataclasses.replace(arm, generation_id="g")]) == ids(seeds=2)[:1]
    assert ids() == ids(tuning=dataclasses.replace(tuning, rank=2)), "no adapters, no rank"
    other = Row("tool0", {"kind": "tool", "text": "other words"}, "tool")
    others = [
        ids(arms=[dataclasses.replace(arm, rows=(other, *arm.rows[1:]))]), ids(held_out_id="i"),
        ids(choice=models.ModelChoice("m", "s")), ids(tuning=TuningConfig(method=FULL, epochs=3)),
        ids(tuning=TuningConfig(method=LORA)), ids(asking=asking_of(TASK, answer=("text",))),
        ids(arms=[arm, Arm(EQUAL_ROWS, "base", tuple(NOTES))]),  # more steps for all
    ]  # fmt: skip
    assert len({ids()[0], *(each[0] for each in others)}) == 8


# -- figures -----------------------------------------------------------------------------------------------------------


def results(
    right: dict[str, dict[str, float]], *, seeds: int = 3, tests: int = 20, experiment: str = TOP_UP, free: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs and evaluations of arms with about these shares of right answers by label."""
    rng = np.random.default_rng(1)
    runs, evaluations = [], []
    for arm, by_label in right.items():
        for seed in range(1 if arm == UNTRAINED else seeds):
            name = f"{arm}-{seed}"
            runs.append({
                "downstream_id": name, "experiment": EVERY if arm == UNTRAINED else experiment, "arm": arm, "rows": 0 if arm == UNTRAINED else 12,
                "labels": {} if arm == UNTRAINED else {"animal": 4, "tool": 8}, "seed": seed, "model": "folder/m", "method": "lora",
                "parameters": 1000, "trained_parameters": 0 if arm == UNTRAINED else 10, "steps": 6, "seen": 48,
                "first_loss": 2.0, "loss": 1.0, "status": "finished", "reason": None, "flops": 1e9, "seconds": 2.0, "device": "cpu",
            })  # fmt: skip
            for label, share in by_label.items():
                for k in range(tests):
                    # Some tests are harder than others, for every arm.
                    correct = bool(rng.random() < 0.3 * share + 0.7 * (k < share * tests))
                    evaluations.append({
                        "downstream_id": name, "example_id": f"{label}{k}", "benchmark": label, "nats": 1.0, "bytes": 4,
                        "bits_per_byte": 2 - share + 0.1 * rng.random(), "answer": None if free else label if correct else "other",
                        "correct": None if free else correct,
                    })  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(evaluations)


LABELS = {"animal": 0.5, "tool": 0.9}
SHARES = {
    REAL: LABELS, DUPLICATE: {"animal": 0.5, "tool": 0.85}, "bare": {"animal": 0.95, "tool": 0.85},
    UNTRAINED: {"animal": 0.1, "tool": 0.6},
}  # fmt: skip


def found_of(frames: tuple[pd.DataFrame, pd.DataFrame], **more: Any) -> Found:
    return judge(*frames, removed={SEED: 2}, of_seeds=False, replicates=400, **more)


@pytest.fixture(scope="module")
def found() -> Found:
    return found_of(results(SHARES, tests=60))


def test_scores_and_gains_are_plain_means_and_each_label_counts_the_same(found: Found) -> None:
    frames = results(SHARES, tests=60)
    joined = frames[1].merge(frames[0][["downstream_id", "arm"]], on="downstream_id")
    by_label = joined.groupby(["arm", "benchmark"])[["correct", "bits_per_byte"]].mean()
    [experiment] = found.experiments
    assert experiment.baseline == REAL and experiment.labels == {"animal": 60, "tool": 60} and experiment.measure == RIGHT
    values = {(s.arm, s.measure, s.label): s.value for s in experiment.scores}
    for kind, column in ((RIGHT, "correct"), (BITS, "bits_per_byte")):
        for arm in SHARES:
            mine = by_label.loc[arm][column]
            assert values[arm, kind, "tool"] == pytest.approx(mine["tool"])
            assert values[arm, kind, None] == pytest.approx(mine.mean())
        sign = 1 if kind == RIGHT else -1
        for g in over_baseline(experiment, kind):
            assert g.gain == pytest.approx(sign * (values[g.arm, kind, None] - values[REAL, kind, None]))
            assert g.joint_low <= g.low <= g.gain <= g.high <= g.joint_high
        for g in (g for g in experiment.by_label if g.size == kind):
            assert g.gain == pytest.approx(sign * (values[g.arm, kind, g.benchmark] - values[REAL, kind, g.benchmark]))
    assert len(experiment.by_label) == 2 * 3 * 2 and len(experiment.pairs) == 2 * 6
    # Macro F1 by hand: the made-up answers are the gold label or one that is none of the test's.
    for arm in SHARES:
        scores = [
            np.mean([2 * r / (r + 1) for r in each.groupby("benchmark")["correct"].mean()])
            for _, each in joined[joined["arm"] == arm].groupby("downstream_id")
        ]
        assert experiment.f1[arm] == pytest.approx(np.mean(scores))


def test_what_is_surely_better_is_said_and_what_is_not_goes_against_it(found: Found) -> None:
    said = words(found)
    [experiment] = found.experiments
    gain = next(g for g in over_baseline(experiment, RIGHT) if g.arm == "bare")
    assert gain.verdict == "better" and said.told[0] == f"With 12 imbalanced real rows: {sentence(gain)}"
    assert any("untrained gives" in line and "fewer right answers than real" in line for line in said.told)
    assert not any("untrained" in line for line in said.against)
    lost = found_of(results({REAL: LABELS, "bare": {"animal": 0.1, "tool": 0.9}}))
    against = words(lost).against
    assert any(line.startswith("With 12 imbalanced real rows: bare gives") and "fewer right answers than real." in line for line in against)
    assert any(line.endswith("fewer right answers than real on animal.") for line in against)
    same = found_of(results({REAL: LABELS, "bare": LABELS}))
    assert any("bare can't be told from real:" in line for line in words(same).against)
    assert not words(found_of(results({REAL: {"animal": 0.1, "tool": 0.1}, "bare": {"animal": 0.9, "tool": 0.9}}))).against


def test_answers_that_all_agree_leave_an_interval_and_one_seed_leaves_no_verdict() -> None:
    [agreed] = found_of(results({REAL: {"animal": 1.0, "tool": 1.0}, "bare": {"animal": 1.0, "tool": 1.0}}, tests=5)).experiments
    for g in (*agreed.pairs, *agreed.by_label):
        if g.size == RIGHT:
            assert g.gain == 0 and g.joint_low < -0.2 and g.joint_high > 0.2 and g.verdict == "open"
    assert all(s.low < 0.8 and s.high == 1.0 for s in agreed.scores if s.measure == RIGHT and s.label == "tool")
    [alone] = found_of(results({REAL: LABELS, "bare": LABELS}, seeds=1)).experiments
    assert {g.verdict for g in alone.pairs} == {"alone"} and "no verdict" in sentence(alone.pairs[0])


def test_a_model_measured_once_is_the_same_for_every_seed(found: Found) -> None:
    frames = results(SHARES, tests=60)
    twice = []
    for seed in range(3):
        runs, rows = (f[f["downstream_id"] == f"{UNTRAINED}-0"].assign(downstream_id=f"{UNTRAINED}-{seed}") for f in frames)
        twice.append((runs.assign(seed=seed), rows))
    rest = [f[f["downstream_id"] != f"{UNTRAINED}-0"] for f in frames]
    again = found_of(tuple(pd.concat([rest[k], *(t[k] for t in twice)], ignore_index=True) for k in (0, 1)))  # type: ignore[arg-type]
    assert again.experiments[0].pairs == found.experiments[0].pairs


def test_diverged_runs_are_in_no_mean_and_an_experiment_without_any_is_refused() -> None:
    runs, rows_ = results(SHARES)
    lost = runs["downstream_id"].isin(["bare-1", "duplicate-0", "duplicate-1", "duplicate-2"])
    runs = runs.assign(status=np.where(lost, "diverged", "finished"), reason=["the loss is no number" if each else None for each in lost])
    found = found_of((runs, rows_[~rows_["downstream_id"].isin(runs["downstream_id"][lost])]))
    [experiment] = found.experiments
    assert {a.arm: (a.finished, a.diverged) for a in experiment.arms}["bare"] == (2, 1)
    assert experiment.left_out == ("duplicate finished no run and isn't compared",)
    said = words(found).against
    assert any("1 of 3 runs of bare diverged (the loss is no number)" in line for line in said)
    assert any("duplicate finished no run" in line for line in said)
    with pytest.raises(InputError, match="topped up: bare and duplicate and real finished no run, so nothing is compared; look at the runs' reasons"):
        found_of((runs.assign(status=np.where(runs["arm"] == UNTRAINED, "finished", "diverged")), rows_))


def test_free_text_is_compared_by_bits_alone() -> None:
    frames = results({"instruct": {"notes": 0.3}, "bare": {"notes": 0.8}}, experiment=EQUAL_COST, free=True)
    found = found_of(frames)
    [experiment] = found.experiments
    assert experiment.measure == BITS and experiment.baseline == "instruct" and not experiment.f1
    assert words(found).told[0].startswith("At equal cost: bare needs 0.")
    assert "At equal cost: bare surely beats every other arm." in words(found).told
    page = downstream_page(found, task=TASK)
    assert "Right answers, mean" not in page and "What equal spending buys" in page


def test_the_page_says_all_that_the_words_say_and_holds_every_overall_figure(found: Found) -> None:
    page = downstream_page(found, task=TASK, notes=["top-up: 1 of animal are lacking"])
    read, said = PageReader(page), words(found)
    for line in (*said.told, *said.against, *said.limits, *ALWAYS, "top-up: 1 of animal are lacking"):
        assert line in read.text
    assert re.findall(r"<h2>(.*?)</h2>", page)[:2] == ["In short", "What goes against BARE"]
    [experiment] = found.experiments
    for s in experiment.scores:
        assert (report.percent(s.value) if s.measure == RIGHT else bits(s.value, s.low, s.high)) in read.text
    for g in experiment.pairs:
        if "bare" in (g.arm, g.over):
            ends = (g.gain, g.joint_low, g.joint_high) if g.arm == "bare" else (-g.gain, -g.joint_high, -g.joint_low)
            assert (points if g.size == RIGHT else bits)(*ends) in read.text
    evil = "<script>alert(1)</script>"
    runs, rows_ = results({REAL: LABELS, evil: LABELS})
    assert "<script" not in downstream_page(found_of((runs.assign(device=evil), rows_)), task=TASK, notes=[evil])


def test_the_terminals_table_has_a_line_an_arm(found: Found) -> None:
    console = Console(width=160, record=True, file=__import__("io").StringIO())
    console.print(as_table(found.experiments[0]))
    text = console.export_text()
    for arm in SHARES:
        assert arm in text
    assert "macro F1" in text and "over real" in text
    assert json.dumps(dataclasses.asdict(found))


