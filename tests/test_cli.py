"""The command line's manners: help, exit codes, one sentence for bad input, JSON alone on stdout."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from betr import cli
from betr.config import RunConfig, options
from betr.trial import EstimateConfig
from curation.command import read_config
from curation.errors import InputError
from curation.export import ExportConfig
from tests.helpers import run_command


def config(**changed: Any) -> RunConfig:
    return RunConfig(**{"tables": "/t", **changed})


@pytest.mark.parametrize("command", ["run", "estimate", *cli.STAGE_COMMANDS, "export", "explain", "show", "doctor"])
def test_every_command_tells_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.build_parser().parse_args([command, "--help"])
    assert exit_.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    special = {
        "run": options(), "estimate": dataclasses.fields(EstimateConfig), "export": dataclasses.fields(ExportConfig),
        "explain": [], "show": [], "doctor": [],
    }  # fmt: skip
    expected = special.get(command, options(command))
    for option in expected:
        assert f"--{option.name.replace('_', '-')}" in shown


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nonsense"], ["run", "--no-such-option"], ["select", "--keep", "much"], ["show", "moon"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(arguments)
        assert exit_.value.code == 2, arguments
    assert "usage: betr" in capsys.readouterr().err


def test_yaml_and_flags_say_the_same_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "betr.yaml"
    file.write_text("tables: /t\nsample: 0.2\nper_benchmark: 40\nkeep: 0.3\ndocuments: [a, b]\nretrain: true\n")
    parsed = cli.build_parser().parse_args(["run", "--config", str(file), "--keep", "0.1"])
    assert read_config(RunConfig, parsed.run) == config(
        sample="0.2", per_benchmark="40", keep=0.1, documents=("a", "b"), retrain=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tables": ""}, "--tables is missing"),
        ({"keep": 0.0}, r"keep must .*\(0, 1\]; got 0"),
        ({"keep": 1.5}, r"keep must .*\(0, 1\]; got 1.5"),
        ({"keep": 0.1, "tokens": 5}, "--keep and --tokens exclude each other"),
        ({"sample": "many"}, r"--sample must be a number of documents, a share .* got 'many'"),
        ({"sample": "0"}, "--sample must be"),
        ({"per_benchmark": "0"}, "--per-benchmark must be"),
        ({"positive_fraction": 1.0}, r"--positive-fraction must lie in \(0, 1\); got 1.0"),
        ({"aggregation": "median"}, "--aggregation must be one of max, mean_reciprocal, mean_log; got 'median'"),
        ({"heads": True, "aggregation": "mean_log"}, "--heads goes by best ranks, so by --aggregation max; got 'mean_log'"),
        ({"heads": True, "import_fasttext": "a.bin"}, "--heads and --import-fasttext exclude each other"),
        ({"head": "arc", "quota": ("head=arc:0.5",)}, "head arc and quotas of heads exclude each other"),
        ({"features": "letters"}, "--features must be one of words, subwords, segments; got 'letters'"),
        ({"maxn": 3}, "--minn and --maxn are for subwords: give --features subwords or segments with them"),
        ({"features": "segments", "minn": 1}, "--features segments has subwords only with --maxn: give it beside --minn"),
        ({"features": "subwords", "minn": 5}, "minn and maxn must be 0, or 1 <= minn <= maxn <= 32; got 5 and 4"),
        ({"features": "subwords", "import_fasttext": "a.bin"}, "a .bin brings its own features"),
        ({"wave_rows": 0}, "--wave-rows must be at least 1; got 0"),
        ({"epochs": 0}, "epochs must be in 1..1000; got 0"),
        ({"mode": "medium"}, "got 'medium'"),
        ({"near_duplicates": "both"}, "--near-duplicates must be before, after or none; got 'both'"),
        ({"retention_days": 0}, "--retention-days must be at least 1; got 0"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_at_birth(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config(**change)


@pytest.mark.parametrize(
    ("given", "minn", "maxn", "segmenter"),
    [
        ({}, 0, 0, "space"),
        ({"features": "subwords"}, 2, 4, "space"),
        ({"features": "subwords", "minn": 3, "maxn": 6}, 3, 6, "space"),
        ({"features": "segments"}, 0, 0, "unicode14"),
        ({"features": "segments", "maxn": 3}, 1, 3, "unicode14"),
    ],
)
def test_features_are_named_and_subwords_have_fasttexts_names(
    given: dict[str, Any], minn: int, maxn: int, segmenter: str
) -> None:
    training = config(**given).training(100)
    assert (training.minn, training.maxn, training.segmenter) == (minn, maxn, segmenter)
    assert training.learning_rate == (0.5 if maxn else 0.03)
    assert config(**given, learning_rate=0.1).training(100).learning_rate == 0.1
    spec = training.features()
    assert (spec.minn, spec.maxn, spec.segmenter, spec.buckets) == (minn, maxn, segmenter, 2_000_000)


@pytest.mark.parametrize(
    ("text", "value"), [("auto", None), ("0.2", 0.2), ("12000", 12000), ("1", 1), ("1.0", 1.0), ("1e4", 10_000)]
)
def test_a_sample_is_a_number_a_share_or_auto(text: str, value: float | None) -> None:
    assert config(sample=text).sample_request == value
    assert type(config(sample=text).sample_request) is type(value)


def test_bad_input_exits_with_1_and_one_sentence_without_starting_spark() -> None:
    result = run_command("run", "--tables", "/tmp/none", "--keep", "2")
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("betr run: ") and "(0, 1]" in result.stderr


@pytest.mark.slow
def test_a_finished_run_can_be_shown_and_explained(
    finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = finished
    tables = ["--tables", str(folder / "tables"), "--json"]

    def said(*command: str) -> Any:
        assert cli.main([*command, *tables]) == 0
        return json.loads(capsys.readouterr().out)

    explained = said("explain", "boolq/0")
    assert explained["doc_id"] == "boolq/0" and 1 <= explained["rank"] <= 600
    assert [row["selection_id"] for row in said("show", "selections")] == [report["selection"]["selection_id"]]
    shown = said("show", "run", report["run_id"][:15])
    assert shown["run_id"] == report["run_id"] and len(shown["stages"]) == 9
    assert cli.main(["show", "run", "yesterday", *tables]) == 1
    assert f"the latest are {report['run_id']}" in capsys.readouterr().err
    assert cli.main(["show", "runs", "latest", *tables]) == 1
    assert "`betr show runs` takes no id" in capsys.readouterr().err
    assert cli.main(["explain", "no-such-document", *tables]) == 1
    assert "no-such-document" in capsys.readouterr().err
