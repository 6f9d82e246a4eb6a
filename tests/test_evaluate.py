"""`evaluate`: a comparison from a finished run to its page, made once, told again from the tables; its bad input."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bare.tables import DRAFTS, GENERATIONS, JUDGEMENTS, REFINED
from curation.errors import InputError
from curation.tables import Tables, TableSpec
from demo.prepare import first_choices
from evaluation import after_finetuning, cli, compare, pipeline
from evaluation.config import EvaluationConfig, RoiConfig
from evaluation.tables import ALL, ARMS, EVALUATIONS, HELD_OUT_EXAMPLES, PROXY_RUNS
from tests.helpers import WHEEL, demo_examples, rows_hash, write_lines

Made = tuple[EvaluationConfig, dict[str, Any]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sizes": ("5x",)}, "or HIDDENxLAYERSxHEADS (96x4x6)"),
        ({"seeds": 0}, "proxies need at least 1 seed; got 0"),
        ({"questions": 0}, "held-out examples: at least 1 of each benchmark; got 0"),
        ({"vocabulary": 0}, "--vocabulary must be at least 1"),
        ({"level": 1.0}, "--level must be at least 0.5 and below 1"),
        ({"on_contamination": "keep"}, "--on-contamination must be one of remove, refuse; got 'keep'"),
        ({"arms": ("best",)}, "there is no arm 'best'"),
        ({"train_tokens": 0}, "training: tokens must be at least 1; got 0"),
    ],
)
def test_settings_that_make_no_comparison_are_refused_at_birth(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        EvaluationConfig(tables="there", **changed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a return needs prices: name a YAML file with --prices"),
        ({"prices": "p.yaml", "cores": 0}, "--cores must be at least 1 and --gpus 0 or more; got 0 and 0"),
        ({"prices": "p.yaml", "level": 0.3}, "--level must be at least 0.5 and below 1; got 0.3"),
        ({"prices": "p.yaml", "repeated": ("score",)}, "--repeated wants STAGE=SHARE; got 'score'"),
    ],
)
def test_a_return_without_what_it_needs_is_refused_at_birth(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        RoiConfig(tables="there", **given)


def test_the_command_line_is_the_configuration() -> None:
    parsed = cli.build_parser().parse_args(["compare", "--tables", "there", "--held-out", "a=b", "--seeds", "2"])
    given = cli.read_config(EvaluationConfig, parsed.compare)
    assert given == EvaluationConfig(tables="there", held_out=("a=b",), seeds=2)
    several = cli.build_parser().parse_args(["compare", "--tables", "there", "--train-tokens", "500", "1000"])
    assert cli.read_config(EvaluationConfig, several.compare).token_counts == (500, 1000)
    assert given.token_counts == (1_200_000,)
    assert given.arms == ("random", "direct", "dsir", "betr") and given.proxies.sizes == ("0.3m", "1m")


def gain(value: float, verdict: compare.Verdict, benchmark: str | None = None) -> compare.Gain:
    return compare.Gain("betr", "random", "1m", benchmark, value, 0.0, 0.0, value - 0.1, value + 0.1, verdict)


@pytest.mark.parametrize(
    ("before", "after", "share", "said"),
    [
        (gain(0.4, "better"), gain(0.2, "better"), 0.5, "50.0% of its gain is left after fine-tuning"),
        (gain(0.4, "better"), gain(0.05, "open"), 0.125, "after fine-tuning (0.050 [−0.050, 0.150]) it isn't surely one"),
        (gain(0.05, "open"), gain(0.3, "better"), None, "no sure gain before fine-tuning"),
        (gain(-0.4, "worse"), gain(-0.2, "worse"), None, "no sure gain before fine-tuning"),
    ],
)
def test_only_of_a_sure_gain_a_share_is_left(
    before: compare.Gain, after: compare.Gain, share: float | None, said: str
) -> None:
    size = compare.Size("1m", 10, 10, 2, 1)
    empty = {f.name: () for f in dataclasses.fields(compare.Comparison)}
    made = [
        compare.Comparison(**{**empty, "sizes": (size,), "gains": (each,), "examples": {}})  # type: ignore[arg-type]
        for each in (before, after)
    ]
    (left,) = after_finetuning.what_is_left(*made)
    assert left.share == (pytest.approx(share) if share is not None else None)
    (sentence,) = after_finetuning.words([left], "1m")
    assert said in sentence


# -- on the tables of a finished run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(finished[0] / "tables", folder / "tables")
    for task in ("arc_easy", "openbookqa"):
        rows = [each for each, _ in zip(first_choices(WHEEL, task, "val_mc_5shot"), range(12), strict=False)]
        asked = [{**{k: row["doc"][k] for k in ("query", "choices", "gold")}, "split": "validation"} for row in rows]
        # And one that was a target: it is not measured.
        write_lines(folder / "held-out" / f"{task}.jsonl", [*asked, *demo_examples(task, 1)])
    tune = write_lines(folder / "tune" / "arc_easy.jsonl", demo_examples("arc_easy", 12)[4:])
    config = EvaluationConfig(
        tables=str(folder / "tables"), arms=("random", "betr"), held_out=(str(folder / "held-out"),),
        finetune=(str(tune),), questions=None, sizes=("32x1x2",), seeds=2, train_tokens=(6_000, 3_000), sequence=64, batch=8,
        vocabulary=400,
    )  # fmt: skip
    return config, pipeline.run_comparison(config, spark=spark)


def versions(spark: SparkSession, config: EvaluationConfig) -> list[int | None]:
    return [Tables(spark, config.tables).version(spec) for spec in ALL]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_comparison_has_a_model_for_each_arm_and_seed_and_a_page_that_says_what_json_says(
    made: Made, spark: SparkSession
) -> None:
    config, report = made
    tables = Tables(spark, config.tables)
    runs = tables.read(PROXY_RUNS).collect()
    counts = (3_072, 6_144)  # whole steps of 512
    assert sorted((run["arm"], run["tokens"], run["seed"]) for run in runs) == [
        (arm, tokens, seed) for arm in ("betr", "random") for tokens in counts for seed in (0, 1)
    ]
    assert {run["status"] for run in runs} == {"finished"}
    assert len(report["arms"]) == tables.read(ARMS).count() == 2
    held_out = report["held_out"]
    assert held_out["measured"] == {"arc_easy": 12, "openbookqa": 12}
    assert held_out["removed"] == {name: {"training_example": 1} for name in ("arc_easy", "openbookqa")}
    assert tables.read(HELD_OUT_EXAMPLES).where("removed is null").count() == 24
    assert tables.read(EVALUATIONS).count() == 8 * 24 * 2  # models, examples, before and after fine-tuning
    page = Path(report["page"]).read_text()
    (average,) = (g for g in report["pretrained"]["gains"] if g["benchmark"] is None)
    assert f"{abs(average['gain']):.3f}" in page and "After fine-tuning" in page
    assert report["finetuned"]["phase"] == "finetuned" and json.dumps(report, default=str)
    assert all(law["reason"] for law in report["laws"]["arms"])  # eight runs of one size make no law, and that is said
    assert [size["tokens"] for size in report["pretrained"]["sizes"]] == [6_144]
    assert [each["tokens"] for each in report["by_tokens"]] == list(counts) and report["filter_law"] is None
    assert "Told at 6,144 tokens a model, the most of 3,072 and 6,144" in page and "Gain by tokens" in page


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_second_comparison_trains_and_writes_nothing(made: Made, spark: SparkSession) -> None:
    config, report = made
    before = versions(spark, config)
    again = pipeline.run_comparison(config, spark=spark)
    assert versions(spark, config) == before
    assert {k: again[k] for k in ("arms", "pretrained", "finetuned")} == {
        k: report[k] for k in ("arms", "pretrained", "finetuned")
    }


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_one_number_of_tokens_of_several_is_there_already_and_tells_the_same(made: Made, spark: SparkSession) -> None:
    config, report = made
    before = Tables(spark, config.tables).version(PROXY_RUNS)
    alone = pipeline.run_comparison(dataclasses.replace(config, train_tokens=6_000), spark=spark)
    assert Tables(spark, config.tables).version(PROXY_RUNS) == before
    assert alone["pretrained"] == report["pretrained"] and len(alone["by_tokens"]) == 1


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_killed_before_its_models_are_recorded_a_comparison_ends_with_the_same_tables(
    made: Made, spark: SparkSession, tmp_path: Path
) -> None:
    """As a kill between the commits of EVALUATIONS and PROXY_RUNS leaves it: what the models told is there, not they."""
    config, report = made
    shutil.copytree(config.tables, tmp_path / "tables")
    there = dataclasses.replace(config, tables=str(tmp_path / "tables"))
    tables = Tables(spark, there.tables)
    spark.sql(f"DELETE FROM {tables.location(PROXY_RUNS)}")
    spark.sql(f"DELETE FROM delta.`{tmp_path / 'tables' / 'stage_runs'}` WHERE stage = 'proxies' AND state != 'started'")
    again = pipeline.run_comparison(there, spark=spark)
    assert again["pretrained"] == report["pretrained"]
    for spec in (PROXY_RUNS, EVALUATIONS):
        unlike = frozenset({"seconds", "run_id"})
        ours, theirs = (rows_hash(Tables(spark, each.tables), spec, leave_out=unlike) for each in (there, config))
        assert ours == theirs, spec.name


def written_rows(spark: SparkSession, root: Path, *, counted: bool = True) -> str:
    """A BARE root of one generation: 3 drafts, one of them failed, 2 refinements and 2 judgements."""
    tables, model = Tables(spark, str(root)), "openai:big@http://localhost:1/v1"
    tables.replace(GENERATIONS, GENERATIONS.frame(spark, [_row(GENERATIONS, spark, generation_id="g")]), where={"generation_id": "g"}, keys_are_unique=True)
    told: dict[str, Any] = {"generation_id": "g", "model": model, "finish_reason": "stop", "tokens_in": 1000 if counted else None, "tokens_out": 100, "seconds": 2.0}
    failed = {**told, "finish_reason": "error", "tokens_in": None, "tokens_out": None}
    for spec, rows in (
        (DRAFTS, [{**told, "draft_id": "a"}, {**told, "draft_id": "b"}, {**failed, "draft_id": "c"}]),
        (REFINED, [{**told, "row_id": "a"}, {**told, "row_id": "b"}]),
        (JUDGEMENTS, [{**told, "judge": model, "row_id": row} for row in "ab"]),
    ):
        tables.append(spec, spec.frame(spark, [_row(spec, spark, **row) for row in rows]), keys_are_unique=True)
    return str(root)


def _row(spec: TableSpec, spark: SparkSession, **values: Any) -> list[Any]:
    return [values.get(name) for name in spec.struct(spark).names]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_return_counts_all_tables_at_the_prices_given(made: Made, spark: SparkSession, tmp_path: Path) -> None:
    config, report = made
    prices = tmp_path / "prices.yaml"
    machines = "currency: EUR\nmachines: {core_hour: 3600}\n"  # a second of a core is 1 EUR
    prices.write_text(machines + "models: {big: {input_per_million: 1000000, output_per_million: 0, per_hour: 3600}}\n")
    asked = RoiConfig(tables=config.tables, prices=str(prices), cores=1, times_a_year=12, repeated=("score=0.5",))
    found = pipeline.run_roi(asked, spark=spark)
    seconds = {each["stage"]: each["core_hours"] * 3600 for each in found["stages"]}
    assert {"import", "embed", "train", "score", "select", "held-out", "proxies", "arm/random"} <= set(seconds)
    runs = Tables(spark, config.tables).read(PROXY_RUNS).collect()
    assert seconds["proxies"] == pytest.approx(sum(run["seconds"] for run in runs))
    assert found["total"] == pytest.approx(sum(seconds.values()))
    assert found["running"]["a_year"] == pytest.approx(12 * 0.5 * seconds["score"])
    (gained,) = found["gains"]
    assert gained["cost"] == pytest.approx(sum(seconds[stage] for stage, _ in gained["stages"]))
    assert gained["cost"] < found["total"]
    (average,) = (g for g in report["pretrained"]["gains"] if g["benchmark"] is None)
    assert gained["unit"] == "bits" and gained["gain"]["value"] == pytest.approx(average["gain"])
    assert "EUR" in Path(found["page"]).read_text()
    root = written_rows(spark, tmp_path / "bare")
    more = pipeline.run_roi(dataclasses.replace(asked, bare=root), spark=spark)
    calls = {each["stage"]: each["cost"] for each in more["stages"] if each["part"] == "writing"}
    # Tokens in at 1 EUR each, seconds at 1 EUR; of a call that failed its seconds alone.
    assert calls == {"bare/draft": pytest.approx(2006), "bare/refine": pytest.approx(2004), "bare/judge": pytest.approx(2004)}
    assert more["total"] == pytest.approx(found["total"] + 6014)
    with pytest.raises(InputError, match="2 of 3 calls of the model 'big' told no tokens, and it is priced by tokens"):
        pipeline.run_roi(dataclasses.replace(asked, bare=written_rows(spark, tmp_path / "untold", counted=False)), spark=spark)
    with pytest.raises(InputError, match="none holds no generation; name the tables of `bare run`, or leave it out"):
        pipeline.run_roi(dataclasses.replace(asked, bare=str(tmp_path / "none")), spark=spark)
    prices.write_text(machines)
    with pytest.raises(InputError, match="the price table has no price for model 'big'"):
        pipeline.run_roi(dataclasses.replace(asked, bare=root), spark=spark)
    with pytest.raises(InputError, match="the price table has no gpu_hour, which the stage embed needs"):
        pipeline.run_roi(dataclasses.replace(asked, gpus=1), spark=spark)
    with pytest.raises(InputError, match="has no such arm at size"):
        pipeline.run_roi(dataclasses.replace(asked, arm="dsir"), spark=spark)


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_comparison_without_questions_or_a_main_line_is_one_sentence(
    made: Made, spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="name held-out splits with --held-out"):
        pipeline.run_comparison(dataclasses.replace(made[0], held_out=()), spark=spark)
    with pytest.raises(InputError, match="betr"):
        pipeline.run_comparison(dataclasses.replace(made[0], tables=str(tmp_path / "none")), spark=spark)
