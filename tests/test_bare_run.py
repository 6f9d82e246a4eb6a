"""What BARE's runs rest on, without Spark: settings, the command line, windows of prompts, held-out seeds, budgets, Ctrl-C."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from bare import cli, pipeline
from bare.config import ARMS, BareConfig
from bare.cost import Price
from bare.generation import COMPLETION, Model, complete_frame
from bare.generators.protocol import Prompt
from bare.run import Run, Totals
from bare.stages import hold_out
from bare.tasks import load_task, parse_task, read_seeds
from curation.command import options, read_config
from curation.errors import InputError


def config(**changed: Any) -> BareConfig:
    return BareConfig(**{"tables": "/t", **changed})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": ""}, "--tables is missing"),
        ({"arm": "best"}, "--arm must be one of bare, base, instruct.* got 'best'"),
        ({"control": "on"}, "--control must be one of watch, adapt, off; got 'on'"),
        ({"pool": "synthetic"}, "--pool must be one of real, accumulate, replace"),
        ({"accepted": 0}, "--accepted must be at least 1; got 0"),
        ({"rounds": 5, "accepted": 4}, "--rounds 5 need a row each at least, but --accepted is 4"),
        ({"hold_out": 1.0}, r"--hold-out must be a share in \[0, 1\)"),
        ({"budget_cost": 1.0}, "--budget-cost needs prices"),
        ({"budget_tokens": 0}, "--budget-tokens must be above 0"),
        ({"base": "gpt"}, "generator 'gpt' is of no known kind"),
        ({"arms": ("bare", "magic")}, "'magic' is no arm; there are bare, base, instruct, instruct_refined, persona, real"),
        ({"cosine": 0.0}, r"cosine must lie in \(0, 1\]"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_at_birth(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**change)


@pytest.mark.parametrize(("accepted", "rounds"), [(10, 3), (48, 1), (7, 7), (100, 9)])
def test_every_item_is_of_one_round_and_rounds_differ_by_a_row_at_most(accepted: int, rounds: int) -> None:
    this = config(accepted=accepted, rounds=rounds)
    items = [this.items_of(r) for r in range(rounds)]
    assert [i for some in items for i in some] == list(range(accepted))
    assert all(this.round_of(i) == r for r, some in enumerate(items) for i in some)
    assert max(map(len, items)) - min(map(len, items)) <= 1


@pytest.mark.parametrize("command", [*cli.COMMANDS, "show", "card", "export", "review export", "review import"])
def test_every_command_tells_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.build_parser().parse_args([*command.split(), "--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in options(BareConfig, command.split()[0]):
        assert f"--{option.name.replace('_', '-')}" in shown, option.name


def test_wrong_usage_exits_with_2_and_bad_input_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nonsense"], ["run", "--no-such"], ["review", "export", "--tables", "/t"], ["show", "moon"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 2, arguments
    assert cli.main(["run", "--tables", "/t", "--arm", "best"]) == 1
    assert "bare run: --arm must be one of" in capsys.readouterr().err
    assert cli.main(["export", "--tables", "/t", "--out", "rows.jsonl", "--epochs", "2"]) == 1
    assert "--shard-bytes, --epochs and --order-seed say how shards are written; add --format" in capsys.readouterr().err


def test_yaml_and_flags_say_the_same_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "bare.yaml"
    file.write_text("tables: /t\ntask: grade_school_maths\naccepted: 7\nseeds: [a, b]\nrefine_shots: true\n")
    parsed = cli.build_parser().parse_args(["run", "--config", str(file), "--accepted", "9"])
    assert read_config(BareConfig, parsed.run) == config(
        task="grade_school_maths", accepted=9, seeds=("a", "b"), refine_shots=True
    )


def test_a_window_of_rows_is_asked_priced_and_kept_in_order(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps([{"match": "fail", "answers": ["no"], "finish_reason": "error"}, {"answers": ["two words"]}]))
    frame = pd.DataFrame({"row_id": list("abc")})

    def ask(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Prompt | None]]:
        return rows, [Prompt("a", 5, "x y z"), None, Prompt("c", 6, "fail now")]

    price = Price(input_per_million=1e6, output_per_million=1e7)
    found = complete_frame(frame, ask=ask, model=Model(f"scripted:{script}", price=price))
    assert list(found) == ["row_id", *(part.split()[0] for part in COMPLETION.split(", "))]
    assert found["text"].tolist() == ["two words", None, None]
    assert found["finish_reason"].tolist() == ["stop", "error", "error"]
    assert found["error"].tolist() == [None, "there was nothing to ask", "no"]
    assert found["cost"].tolist() == [3.0 + 2 * 10, 0.0, 2.0]
    assert found["seed"].tolist() == [5, 0, 6] and found["prompt_hash"].notna().tolist() == [True, False, True]
    assert complete_frame(frame, ask=ask, model=Model(f"scripted:{script}"))["cost"].isna().all()


def test_seeds_are_held_out_by_hash_unless_too_few_are_left() -> None:
    task = load_task("grade_school_maths")
    seeds = read_seeds(task, [
        {"question": f"How many pens are {i} pens and {i + 1} pens together?", "working": f"{i} + {i + 1}", "result": str(2 * i + 1)}
        for i in range(200)
    ])  # fmt: skip
    shown, real, held_out = hold_out(task, seeds, share=0.2, seed=1)
    assert held_out and len(shown) + len(real) == 200 and 20 < len(real) < 60
    assert not {s.seed_id for s in shown.seeds} & {s.seed_id for s in real.seeds}
    assert hold_out(task, seeds, share=0.2, seed=2)[1] != real
    few = read_seeds(task, [{**s.fields} for s in seeds.seeds[:20]])
    assert hold_out(task, few, share=0.2, seed=1) == (few, few, False)


def test_choices_that_the_balance_leaves_out_are_wanted_never() -> None:
    task = parse_task(
        "name: t\ndescription: d\nopening: '[a]'\nclosing: '[/a]'\nrefine: r\njudge: j\nlabel: {field: kind, balance: {x: 0.5, y: 0.5}}\n"
        "fields: [{name: kind, marker: 'K:', check: choice, choices: [x, y, z]}, {name: text, marker: 'T:'}]\n"
    )
    assert task.wanted_shares == {"x": 0.5, "y": 0.5, "z": 0.0}
    assert load_task("grade_school_maths").wanted_shares is None


def run_with(totals: Totals, **changed: Any) -> Any:
    return SimpleNamespace(
        config=config(**changed), totals=totals, interrupted=False, started=time.monotonic() - 10, stopped_by="",
        terminal=SimpleNamespace(line=lambda text: None),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accepted": 5}, "accepted"),
        ({"budget_rows": 9}, "budget_rows"),
        ({"budget_tokens": 30}, "budget_tokens"),
        ({"budget_cost": 0.5, "prices": "p.yaml"}, "budget_cost"),
        ({"budget_seconds": 9.0}, "budget_seconds"),
        ({"budget_tokens": 31, "budget_rows": 10, "accepted": 6, "budget_seconds": 60.0}, ""),
    ],
)
def test_whichever_limit_is_reached_is_said(changed: dict[str, Any], said: str) -> None:
    run = run_with(Totals(drafts=9, accepted=5, tokens_in=10, tokens_out=20, cost=0.5), **changed)
    assert pipeline.spent(run) == bool(said) and run.stopped_by == said


def test_the_first_ctrl_c_ends_the_run_after_the_wave_and_the_second_at_once() -> None:
    run = run_with(Totals())
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), pipeline.waits_for_wave(run):  # noqa: PT012
        assert not pipeline.spent(run)
        os.kill(os.getpid(), signal.SIGINT)
        assert pipeline.spent(run) and run.stopped_by == "interrupted"
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def test_every_arm_names_a_drafter() -> None:
    assert {role for role, _ in ARMS.values()} == {"base", "instruct"}
    assert ARMS["bare"] == ("base", True)


@pytest.mark.parametrize(
    ("change", "made", "reason"),
    [
        ({"accepted": 4}, {"accepted": 4}, "accepted"),
        ({"budget_rows": 12}, {"drafts": 12}, "budget_rows"),
        ({"budget_tokens": 90}, {"tokens_in": 60, "tokens_out": 30}, "budget_tokens"),
        ({"budget_cost": 0.5, "prices": "p.yaml"}, {"cost": 0.5}, "budget_cost"),
        ({"budget_seconds": 1.0}, {}, "budget_seconds"),
    ],
)
def test_a_run_is_spent_when_a_limit_is_reached_and_not_before(
    change: dict[str, Any], made: dict[str, Any], reason: str
) -> None:
    def run(made: dict[str, Any], seconds: float) -> Run:
        totals = Totals(**made)
        found = SimpleNamespace(
            config=config(**change), totals=totals, interrupted=False, stopped_by="", started=time.monotonic() - seconds)
        return cast(Run, found)

    before = run({name: value * 0.9 for name, value in made.items()}, 0.0)
    assert not pipeline.spent(before) and before.stopped_by == ""
    reached = run(made, 2.0 if reason == "budget_seconds" else 0.0)
    assert pipeline.spent(reached) and reached.stopped_by == reason
    reached.interrupted = True
    assert pipeline.spent(reached) and reached.stopped_by == "interrupted"
