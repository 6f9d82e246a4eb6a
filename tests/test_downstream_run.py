"""`evaluate downstream` on tables: from a comparison to a page, killed and gone on with, a second time unchanged."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from bare.config import ARMS as WAYS
from bare.tables import COMPARISONS, DRAFTS, GENERATIONS, REFINED, ROW_EMBEDDINGS, SEEDS, VERDICTS
from betr.config import RunConfig
from betr.pipeline import opened
from curation.errors import InputError
from curation.tables import Tables
from evaluation import downstream_stages, runs
from evaluation.downstream import DUPLICATE, EQUAL_COST, EQUAL_ROWS, REAL, TOP_UP, UNTRAINED
from evaluation.downstream_config import DownstreamConfig
from evaluation.downstream_pipeline import run_downstream
from evaluation.tables import DOWNSTREAM_EVALUATIONS, DOWNSTREAM_RUNS, HELD_OUT_EXAMPLES
from tests.helpers import commits, rows_hash, write_lines
from tests.test_downstream import TASK_YAML

pytestmark = [pytest.mark.night, pytest.mark.slow, pytest.mark.processes]

SEEDS_ID, COMPARISON = "seeds", "compared"
TEXTS = {
    "animal": "the {who} runs, eats and sleeps at {k}", "tool": "we cut wood with a {who} of size {k}",
    "tools": "these {who} hang on wall {k}",
}  # fmt: skip
ACCEPTED = {"bare": 9, "base": 12}
DOWNSTREAM = (DOWNSTREAM_RUNS, DOWNSTREAM_EVALUATIONS)


def item(label: str, k: int, who: str) -> dict[str, str]:
    return {"kind": label, "text": TEXTS[label].format(who=who, k=k)}


def fill(tables: Tables) -> None:
    """What a `bare compare` leaves: 18 seeds shown, 12 held out; bare accepted 9 rows of 12 drafts, base all 12."""
    spark = tables.spark
    labels = list(TEXTS)
    seeds = []
    for k in range(30):
        fields = item(labels[k % 3], k, "otter")
        role = "shot" if k < 18 else "real"
        seeds.append((SEEDS_ID, f"s{k:02}", role, "notes", fields, fields["kind"], fields["text"], None, None))
    tables.append(SEEDS, SEEDS.frame(spark, seeds), keys_are_unique=True)
    names = {spec.name: spec.struct(spark).names for spec in (GENERATIONS, DRAFTS, REFINED, VERDICTS)}
    made: dict[str, list[Any]] = {name: [] for name in names}
    vectors: list[Any] = []
    compared: list[Any] = []
    for arm, accepted in ACCEPTED.items():
        values = {"generation_id": f"g-{arm}", "task": "notes", "task_definition": TASK_YAML, "arm": arm, "seeds_id": SEEDS_ID}
        made["generations"].append([values.get(name) for name in names["generations"]])
        for k in range(12):
            fields, ok = item(labels[k % 3], 100 + k, arm), k < accepted
            call = {
                "generation_id": f"g-{arm}", "wave": k // 6, "draft_id": f"{arm}-d{k}", "row_id": f"{arm}-r{k}", "item": k,
                "attempt": 0, "round": 0, "tokens_in": 10, "tokens_out": 20 if arm == "bare" else 10, "seconds": 1.0,
                "accepted": ok, "reason": None if ok else "copy", "fields": fields, "label": fields["kind"],
                "text": fields["text"],
            }  # fmt: skip
            for name in ("drafts", "verdicts", *(["refined"] if WAYS[arm][1] else [])):
                made[name].append([call.get(column) for column in names[name]])
            vectors.append((f"g-{arm}", k // 6, f"{arm}-r{k}", "e", [1.0], None))
        compared.append((COMPARISON, "equal_rows", arm, f"g-{arm}", "accepted_rows", 9.0, None, None, 12, "2026"))
    compared.append((COMPARISON, "equal_rows", REAL, None, "accepted_rows", 9.0, None, None, 12, "2026"))
    compared.append(("earlier", "equal_rows", "bare", "g-bare", "accepted_rows", 9.0, None, None, 12, "2025"))
    for spec in (GENERATIONS, DRAFTS, REFINED, VERDICTS):
        tables.append(spec, spec.frame(spark, made[spec.name]), keys_are_unique=True)
    tables.append(ROW_EMBEDDINGS, ROW_EMBEDDINGS.frame(spark, vectors), keys_are_unique=True)
    tables.append(COMPARISONS, COMPARISONS.frame(spark, compared), keys_are_unique=True)


def write_tests(folder: Path) -> Path:
    """24 rows that nobody saw, one that repeats another, two seeds, a made row, two that are none."""
    rows = [item(list(TEXTS)[k % 3], 500 + k, "lynx") for k in range(24)]
    odd = [{"kind": "bird", "text": "it sings"}, {"text": "no label"}]
    known = [item("animal", 0, "otter"), item("tool", 1, "otter"), item("animal", 100, "bare")]
    return write_lines(folder / "test.jsonl", [*rows, rows[0], *known, *odd])


Made = tuple[DownstreamConfig, dict[str, Any]]


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("downstream")
    fill(Tables(spark, str(folder / "tables")))
    config = DownstreamConfig(
        tables=str(folder / "tables"), test=(str(write_tests(folder)),), model="16x1x2", method="full", seeds=2,
        epochs=3, batch=4, sequence=48, vocabulary=300, imbalance="animal=2", equal_cost=True,
    )  # fmt: skip
    return config, run_downstream(config, spark=spark)


def test_every_arm_has_its_models_and_the_page_says_what_json_says(made: Made, spark: SparkSession) -> None:
    config, told = made
    tables = Tables(spark, config.tables)
    rows: pd.DataFrame = tables.read(DOWNSTREAM_RUNS).toPandas()
    by_arm = rows.groupby(["experiment", "arm"]).agg({"rows": "first", "seed": "count", "steps": "first", "seen": "first"})
    # What 12 x 20 tokens of base buy: 4 of bare's drafts, which take 60 each.
    expected = {
        (EQUAL_ROWS, REAL): 9, (EQUAL_ROWS, "bare"): 9, (EQUAL_ROWS, "base"): 9, (EQUAL_COST, "bare"): 4,
        (EQUAL_COST, "base"): 12, (TOP_UP, REAL): 22, (TOP_UP, DUPLICATE): 25, (TOP_UP, "bare"): 25, ("every", UNTRAINED): 0,
    }  # fmt: skip
    assert dict(by_arm["rows"]) == expected and set(by_arm["seed"]) == {2}
    for (experiment, arm), each in by_arm.iterrows():
        most = max(n for (e, _), n in expected.items() if e == experiment)
        assert each["steps"] == (-(-3 * most // 4) if arm != UNTRAINED else 0) and each["seen"] == 4 * each["steps"]
    topped = rows[(rows["experiment"] == TOP_UP) & (rows["seed"] == 0)].set_index("arm")["labels"]
    assert topped[REAL] == {"animal": 2, "tool": 10, "tools": 10}
    assert topped[DUPLICATE] == topped["bare"] == {"animal": 5, "tool": 10, "tools": 10}
    assert any("5 of animal are lacking: bare made no more" in warning for warning in told["warnings"])
    assert any("--test: 1 check failed, 1 duplicate, 1 field missing" in warning for warning in told["warnings"])
    assert told["removed"] == {"seed": 2, "made_row": 1} and told["tests"] == 24
    assert tables.read(HELD_OUT_EXAMPLES).where("removed is not null").count() == 3
    assert rows["comparison_id"].unique().tolist() == [COMPARISON], "the latest"
    found = tables.read(DOWNSTREAM_EVALUATIONS)
    assert found.count() == 24 * len(rows)
    assert found.where("abs(bits_per_byte - nats / ln(2) / bytes) > 1e-9 or correct != (answer = benchmark)").isEmpty()
    page = Path(told["page"]).read_text()
    assert [e["name"] for e in told["experiments"]] == [EQUAL_ROWS, EQUAL_COST, TOP_UP]
    for line in (*told["told"], *told["against"]):
        assert line.replace("'", "&#x27;") in page
    assert json.dumps(told)


def test_a_second_run_trains_nothing_and_writes_nothing(made: Made, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    config, told = made
    tables = Tables(spark, config.tables)
    before = [commits(Path(tables.path(spec))) for spec in (*DOWNSTREAM, HELD_OUT_EXAMPLES)]
    monkeypatch.setattr(runs, "in_waves", lambda *_, **__: pytest.fail("trained again"))
    again = run_downstream(config, spark=spark)
    assert {k: again[k] for k in ("experiments", "told", "against")} == {k: told[k] for k in ("experiments", "told", "against")}
    assert [commits(Path(tables.path(spec))) for spec in (*DOWNSTREAM, HELD_OUT_EXAMPLES)] == before


def test_killed_between_waves_it_goes_on_to_the_same_tables(
    made: Made, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a wave's tasks, before its commit, in smaller waves: what is through is read, the rest is made."""
    config, _ = made
    undisturbed = Tables(spark, config.tables)
    again = DownstreamConfig(**{**vars(config), "tables": str(tmp_path / "tables")})
    shutil.copytree(config.tables, again.tables, ignore=shutil.ignore_patterns("downstream_*", "proxies", "pages", "stage_runs"))
    tables = Tables(spark, again.tables)
    waves = 0

    def killed(*given: Any, **more: Any) -> None:
        nonlocal waves
        waves += 1
        if waves == 2:
            raise KeyboardInterrupt
        committed(*given, **more)

    committed = runs.commit
    with monkeypatch.context() as patch:
        patch.setattr(runs, "WAVES", 3)
        patch.setattr(runs, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            run_downstream(again, spark=spark)
        assert tables.read(DOWNSTREAM_RUNS).count() == 6
        through = list((tmp_path / "tables" / "proxies" / "runs").glob("*/result.json"))
        assert len(through) == 12
    told = run_downstream(again, spark=spark)
    assert all(path.stat().st_mtime < (tmp_path / "tables" / "pages").stat().st_mtime for path in through)
    tables = Tables(spark, again.tables)
    assert rows_hash(tables, DOWNSTREAM_EVALUATIONS) == rows_hash(undisturbed, DOWNSTREAM_EVALUATIONS)
    assert rows_hash(tables, DOWNSTREAM_RUNS) == rows_hash(undisturbed, DOWNSTREAM_RUNS)
    assert told["told"] == made[1]["told"]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"comparison": "no"}, "--comparison no: there is none in {root}; there are earlier, compared"),
        ({"arms": ("best",)}, "--arms: the comparison compared has no arm 'best'; it has bare, base, real"),
        ({"top_up": ("persona",)}, "--top-up: the comparison has no arm 'persona' to top up with; it has bare, base"),
        ({"imbalance": "bird=1"}, "--imbalance: 'bird' is no label of notes"),
        ({"tests": 9}, "9 test rows are too few to tell arms apart (1 made row, 2 seed removed): give at least 10 with --test"),
        ({"test": ("{root}/../seeds.jsonl",)}, "seeds.jsonl holds the seeds themselves: all 30 rows equal a seed or share a run of words"),
        ({"test": ("{root}/nothing.jsonl",)}, "test rows {root}/nothing.jsonl does not exist; check the path"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_trained(
    made: Made, spark: SparkSession, changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = made
    root = Path(config.tables)
    write_lines(root.parent / "seeds.jsonl", [item(list(TEXTS)[k % 3], k, "otter") for k in range(30)])
    placed = {k: tuple(each.format(root=root) for each in v) if k == "test" else v for k, v in changed.items()}
    monkeypatch.setattr(runs, "in_waves", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(InputError, match=re.escape(message.format(root=root))):
        run_downstream(DownstreamConfig(**{**vars(config), **placed}), spark=spark)


def test_tables_without_a_comparison_and_an_arm_without_a_row_are_refused(
    made: Made, spark: SparkSession, tmp_path: Path
) -> None:
    config, _ = made
    empty = DownstreamConfig(**{**vars(config), "tables": str(tmp_path / "empty")})
    with pytest.raises(InputError, match="holds no comparison of ways to make rows: make one with `bare compare`"):
        run_downstream(empty, spark=spark)
    tables = Tables(spark, str(tmp_path / "tables"))
    shutil.copytree(config.tables, tables.root, ignore=shutil.ignore_patterns("downstream_*", "proxies", "pages", "stage_runs"))
    rows = tables.read(VERDICTS)
    none = rows.withColumn("accepted", F.col("accepted") & (F.col("generation_id") != "g-base")).localCheckpoint()
    tables.replace(VERDICTS, none, where="true", keys_are_unique=True)
    with pytest.raises(InputError, match="arm base has no accepted row to train on; leave it out with --arms"):
        run_downstream(DownstreamConfig(**{**vars(config), "tables": tables.root, "equal_cost": False}), spark=spark)


def test_seeds_that_no_model_was_shown_serve_where_no_test_is_named(made: Made, spark: SparkSession, tmp_path: Path) -> None:
    config, _ = made
    own = DownstreamConfig(**{**vars(config), "test": ()})
    with opened(RunConfig(tables=config.tables), spark) as run:
        compared = downstream_stages.read_comparison(run, own)
        asking = downstream_stages.downstream.asking_of(compared.task)
        tests = downstream_stages.read_tests(run, own, compared, asking)
        assert tests.of_seeds and {e.example_id for e in tests.examples} == {f"s{k}" for k in range(18, 30)}
        arms = downstream_stages.arms_of(run, own, compared, tests)
        real = next(a for a in arms if (a.experiment, a.arm) == (EQUAL_ROWS, REAL))
        assert [r.row_id for r in real.rows] == [f"s{k:02}" for k in range(9)], "none that is a test row"
        with pytest.raises(InputError, match="holds no seed that models weren't shown: name real test rows with --test FILE"):
            downstream_stages.read_tests(run, own, dataclasses.replace(compared, held_out=[]), asking)
