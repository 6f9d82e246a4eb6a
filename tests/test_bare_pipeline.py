"""BARE's whole line with scripted models: waves, verdicts on executors, resume, rounds, review, card, comparison."""

import csv
import dataclasses
import html
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from bare import checking, comparison, pipeline, publish, show, stages
from bare.cli import build_parser
from bare.config import BareConfig
from bare.run import Run
from bare.tables import (
    DRAFTS,
    GENERATIONS,
    JUDGEMENTS,
    METRICS,
    REFINED,
    REVIEWS,
    ROUNDS,
    ROW_EMBEDDINGS,
    SEEDS,
    VERDICTS,
)
from bare.tasks import load_task, read_seeds, task_text
from bare.verdicts import COLUMNS, SeedIndex, VerdictConfig, check_rows, reject_copies
from curation.command import read_config
from curation.embedding import EncoderConfig, resolve_encoder
from curation.errors import InputError
from curation.export import ExportConfig
from curation.hashing import content_id
from curation.progress import Terminal
from curation.session import share
from curation.tables import Tables
from tests.bare_house import QUESTION, SCRIPT, config, house, seed_rows
from tests.helpers import rows_hash, write_lines

pytestmark = [pytest.mark.slow]

ROWS_TO_JUDGE = (
    "row_id string, draft_id string, wave int, round int, item bigint, attempt int, label string, text string, "
    "finish_reason string, error string, draft_text string, draft_finish string"
)


@pytest.fixture
def copied(generated: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """The finished tables again, to be changed."""
    shutil.copytree(generated[0]["tables"], tmp_path / "tables")
    return {**generated[0], "tables": str(tmp_path / "tables")}


def rows(spark: SparkSession, settings: dict[str, Any], spec: Any, *columns: str) -> list[Any]:
    frame = Tables(spark, settings["tables"]).read(spec)
    return frame.select(*columns).collect() if columns else frame.collect()


def test_a_run_accepts_as_many_rows_as_were_asked_for_and_explains_the_others(
    generated: tuple[dict[str, Any], dict[str, Any]], spark: SparkSession
) -> None:
    settings, report = generated
    assert report["accepted"] == 16 and report["stopped_by"] == "accepted"
    assert report["drafts"] == report["refined"] == 16 + sum(report["rejected"].values())
    assert {"check_failed", "refused"} <= set(report["rejected"])
    verdicts = rows(spark, settings, VERDICTS)
    assert Counter(v["reason"] for v in verdicts) == {None: 16, **report["rejected"]}
    accepted = [v for v in verdicts if v["accepted"]]
    assert sorted(v["item"] for v in accepted) == list(range(16))  # one row an item: the wanted balance holds
    drafts, refined = (rows(spark, settings, spec) for spec in (DRAFTS, REFINED))
    assert len({d["draft_id"] for d in drafts}) == len({r["row_id"] for r in refined}) == len(verdicts)
    assert {d["draft_id"] for d in drafts} == {v["draft_id"] for v in verdicts}
    seeds = {s["seed_id"]: s for s in rows(spark, settings, SEEDS)}
    assert all(len(set(d["shots"])) == 3 and all(seeds[s]["role"] == "shot" for s in d["shots"]) for d in drafts)
    assert {s["role"] for s in seeds.values()} == {"shot", "real"}
    for call in (*drafts, *refined):
        assert call["prompt_hash"] and call["model"].startswith("scripted:") and call["tokens_in"] > 0
    generation = report["generation_id"]
    assert all(d["draft_id"] == content_id(generation, str(d["item"]), "draft", d["attempt"]) for d in drafts)
    assert report["tokens_in"] == sum(c["tokens_in"] for c in (*drafts, *refined))
    measures = {m["measure"]: m for m in rows(spark, settings, METRICS) if m["round"] == -1}
    assert measures["mean_cosine"]["n"] == 16 and measures["mean_cosine"]["low"] < measures["mean_cosine"]["value"]
    assert sum(measures["mean_cosine"]["histogram"]) == 16 * 15 // 2
    of_round = {m["measure"]: m for m in rows(spark, settings, METRICS) if m["round"] == 0}
    told = ("value", "low", "high", "n", "histogram")
    assert {n: [m[t] for t in told] for n, m in of_round.items()} == {n: [m[t] for t in told] for n, m in measures.items()}
    assert report["indistinguishability"]["chance"] == 0.75
    judged = rows(spark, settings, JUDGEMENTS)
    assert len(judged) == 16 and report["indistinguishability"]["abstained"] == sum(j["answer"] is None for j in judged)
    assert all(seeds[i]["role"] == "real" for j in judged for i in j["real"])


def test_a_second_run_makes_no_row_and_no_token(generated: tuple[dict[str, Any], dict[str, Any]], spark: SparkSession) -> None:
    settings, first = generated

    def versions() -> dict[str, int | None]:
        tables = Tables(spark, settings["tables"])
        return {spec.name: tables.version(spec) for spec in (DRAFTS, REFINED, VERDICTS, JUDGEMENTS, GENERATIONS, SEEDS)}

    before = versions()
    again = pipeline.run(config(settings), spark=spark)
    same = ("generation_id", "drafts", "accepted", "rejected", "tokens_in", "measures", "indistinguishability")
    assert {k: again[k] for k in same} == {k: first[k] for k in same}
    assert versions() == before and None not in before.values()
    assert pipeline.view(config(settings), "generations", spark=spark)
    reopened = Run(config(settings), spark, Terminal())
    stages.reopen(reopened)
    for view in ("summary", "reasons", "rows", "measures", "rounds"):
        assert show.show(reopened, view), view


@pytest.mark.night
def test_waves_partitions_and_single_stages_change_no_row(
    generated: Any, spark: SparkSession, tmp_path: Path
) -> None:
    settings = {**generated[0], "tables": str(tmp_path / "tables"), "wave_rows": 9, "partitions": 5}
    drafted = pipeline.draft(config(settings), spark=spark)
    assert drafted["drafts"] == 16 and drafted["accepted"] == 0
    with pytest.raises(InputError, match=r"^generation \w+ has no rows to review yet; make some with `bare run`"):
        publish.review_export(config(settings), str(tmp_path / "review"), 5, spark=spark)
    assert pipeline.draft(config(settings), spark=spark)["drafts"] == 16  # what waits for its verdict isn't drafted again
    refined = pipeline.refine(config(settings), spark=spark)
    assert refined["refined"] == 16 and 0 < refined["accepted"] < 16
    pipeline.run(config({**settings, "wave_rows": 2}), spark=spark)
    ours, theirs = Tables(spark, settings["tables"]), Tables(spark, generated[0]["tables"])
    for spec in (DRAFTS, REFINED, VERDICTS, ROW_EMBEDDINGS):
        leave_out = frozenset({"wave", "seconds"})
        assert rows_hash(ours, spec, leave_out=leave_out) == rows_hash(theirs, spec, leave_out=leave_out), spec.name


@pytest.mark.night
def test_more_rows_go_on_from_those_that_are_there(copied: dict[str, Any], generated: Any, spark: SparkSession) -> None:
    more = pipeline.run(config(copied, accepted=18), spark=spark)
    assert more["generation_id"] == generated[1]["generation_id"] and more["accepted"] == 18
    before = {r["row_id"] for r in rows(spark, generated[0], VERDICTS, "row_id")}
    assert before < {r["row_id"] for r in rows(spark, copied, VERDICTS, "row_id")}


@pytest.mark.night
@pytest.mark.parametrize(("limit", "value"), [("budget_rows", 12), ("attempts", 1), ("budget_cost", 0.001)])
def test_a_budget_ends_a_run_and_what_is_there_is_usable(
    generated: Any, spark: SparkSession, tmp_path: Path, limit: str, value: float
) -> None:
    script = generated[0]["base"].removeprefix("scripted:")
    (tmp_path / "prices.yaml").write_text(f"models:\n  {script}: {{output_per_million: 100}}\n")
    changed = {"tables": str(tmp_path / "tables"), limit: value, "prices": str(tmp_path / "prices.yaml"), "judge": None}
    report = pipeline.run(config(generated[0], **changed), spark=spark)
    assert report["stopped_by"] == limit
    assert 0 < report["accepted"] < 16
    assert report["measures"]["mean_cosine"] is not None
    assert report["cost"] == pytest.approx(report["tokens_out"] * 100 / 1e6)
    if limit == "budget_rows":
        assert report["drafts"] == 12


def test_verdicts_on_executors_are_those_of_one_pass(spark: SparkSession) -> None:
    task = load_task("grade_school_maths")
    seeds = read_seeds(task, seed_rows(20))
    random = np.random.default_rng(3)
    texts = []
    for _ in range(120):  # many copies: exact ones, and near ones by a word or two
        i, j = random.integers(0, 25, 2)
        words = f"A shop in street {i} sells {i + 2} loaves each hour of the day number {i} and keeps {'few' if j % 5 else 'some'}"
        texts.append(f"[problem]\nQuestion: {words}.\nWorking: {i} * 2\nResult: {i}\n[/problem]" if j else "nothing")
    texts[7] = task.render(seeds.seeds[0].fields)
    encoder = resolve_encoder(EncoderConfig("hashing:64"))
    rules_config = VerdictConfig(cosine=0.9)
    vectors = encoder.load().encode([task.text_of(s.fields) for s in seeds.seeds], "document")
    index = SeedIndex.of(task, seeds, rules_config, vectors=vectors)
    frame = pd.DataFrame(
        {
            "row_id": [content_id("row", i) for i in range(120)], "draft_id": [f"d{i}" for i in range(120)], "wave": 0,
            "round": 0, "item": range(120), "attempt": 0, "label": None, "text": texts, "finish_reason": "stop",
            "error": None, "draft_text": texts, "draft_finish": "stop",
        }
    )  # fmt: skip
    # The reference: one pass over all rows in the order of their items.
    checked = check_rows(frame.assign(row_id=[f"{i:04d}" for i in range(120)]), task=task, seeds=index, config=rules_config)
    items = checked["item"].fillna("").tolist()
    expected = reject_copies(checked, seeds=index, config=rules_config, vectors=encoder.load().encode(items, "document"))
    assert set(expected.columns) >= set(COLUMNS)
    assert Counter(expected["reason"].dropna())["copy_of_row"] > 40 and expected["reason"].isna().sum() > 10

    rules = share(spark, checking.Rules(task, index, None, rules_config, drafts=False))
    done: DataFrame | None = None
    vectors_done: DataFrame | None = None
    for start in range(0, 120, 50):  # three waves, the accepted rows before in three buckets
        wave = spark.createDataFrame(frame.iloc[start : start + 50], ROWS_TO_JUDGE).repartition(3)
        alone = checking.check(wave, rules=rules)
        embedded = checking.embed_rows(alone, encoder=encoder, tasks=2).localCheckpoint()
        matches = None
        if done is not None and vectors_done is not None:
            earlier = done.where("accepted").join(vectors_done, "row_id")
            mine = alone.where("accepted").join(embedded, "row_id")
            matches = checking.match(mine, earlier, config=rules_config, buckets=3)
        settled = checking.settle(alone, embedded, matches, rules=rules).localCheckpoint()
        done = settled if done is None else done.union(settled)
        vectors_done = embedded if vectors_done is None else vectors_done.union(embedded)
    assert done is not None
    found = {r["item"]: r["reason"] for r in done.collect()}
    assert found == {i: reason if isinstance(reason, str) else None for i, reason in enumerate(expected["reason"])}


def test_no_task_holds_two_python_functions_so_no_worker_too_many_loads_a_model(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task("grade_school_maths")
    seeds = read_seeds(task, seed_rows(20))
    encoder = resolve_encoder(EncoderConfig("hashing:64"))
    vectors = encoder.load().encode([task.text_of(s.fields) for s in seeds.seeds], "document")
    rules = share(spark, checking.Rules(
        task, SeedIndex.of(task, seeds, VerdictConfig(), vectors=vectors), None, VerdictConfig(), drafts=False
    ))  # fmt: skip
    rows = spark.range(5).select(
        *(F.lit(None).cast(each.split()[1]).alias(each.split()[0]) for each in ROWS_TO_JUDGE.split(", "))
    )
    checking.embed_rows(checking.check(rows, rules=rules), encoder=encoder, tasks=2).explain()
    steps = re.findall(r"MapInArrow|MapInPandas|Exchange", capsys.readouterr().out)
    assert steps.index("MapInArrow") < steps.index("MapInPandas")  # the plan is read from its end
    assert "Exchange" in steps[steps.index("MapInArrow") : steps.index("MapInPandas")]


@pytest.mark.night
def test_ten_thousand_rows_bring_no_row_to_the_driver(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "\nQuestion: " + " ".join("${pick:one|two|three|four|five|six|seven|eight|nine|ten}" for _ in range(14))
    script = [{"answers": [f"{answer}\nWorking: so it is\nResult: ${{number:1-999}}"]}]
    settings = house(tmp_path, script)
    brought: list[int] = []
    collect, to_pandas = type(spark.range(1)).collect, type(spark.range(1)).toPandas
    monkeypatch.setattr(type(spark.range(1)), "collect", lambda self: _counted(brought, collect(self)))
    monkeypatch.setattr(type(spark.range(1)), "toPandas", lambda self: _counted(brought, to_pandas(self)))
    changed = {"arm": "base", "accepted": 10_000, "wave_rows": 5_000, "attempts": 1, "judge": None}
    report = pipeline.run(config(settings, **changed), spark=spark)
    assert report["drafts"] == 10_000 and report["accepted"] > 8_000
    assert max(brought) <= 1_000  # the fixed sample that measures are taken on


def _counted(brought: list[int], found: Any) -> Any:
    brought.append(len(found))
    return found


@pytest.mark.night
def test_rounds_see_a_collapse_act_and_halt(spark: SparkSession, tmp_path: Path) -> None:
    # What a collapsing model does: as soon as its own rows are among the examples, it says little else.
    fresh = f"\nQuestion: {QUESTION}\nWorking: count ${{number:2-900}}\nResult: ${{number:1-999}}"
    same = "\nQuestion: Anna counts ${number:2-900} lamps near the river and asks how many lamps remain near the river now.\n"
    script = [
        {"match": "asks how many", "answers": [same + "Working: count ${number:2-900}\nResult: ${number:1-999}"]},
        {"answers": [fresh]},
    ]
    settings = house(tmp_path, script, seeds=60)
    changed = {
        "arm": "base", "accepted": 90, "rounds": 3, "control": "adapt", "pool": "replace", "judge": None,
        "temperature": 1.0, "overlap": 1.0, "cosine": 1.0, "wave_rows": 40, "attempts": 30,
    }  # fmt: skip
    report = pipeline.run(config(settings, **changed), spark=spark)
    rounds = sorted(rows(spark, settings, ROUNDS), key=lambda r: r["round"])
    actions = [r["action"] for r in rounds]
    assert "rotate_shots" in actions and actions[-1] == "halt" and rounds[-1]["halted"]
    assert json.loads(rounds[-1]["breaches"]) and "halted" in report["stopped_by"]
    assert [json.loads(r["next_settings"]) for r in rounds[:-1]] == [json.loads(r["settings"]) for r in rounds[1:]]
    again = pipeline.run(config(settings, **changed), spark=spark)  # a halted run stays halted
    assert again["accepted"] == report["accepted"] and "halted" in again["stopped_by"]


Fill = Callable[[str, dict[str, str]], str]


def reviewers_sheet(settings: dict[str, Any], folder: Path, spark: SparkSession) -> tuple[list[str], str, Fill]:
    """Twelve rows as reviewers get them: those accepted, one that is not, and what writes a sheet with verdicts on them."""
    publish.review_export(config(settings), str(folder / "out"), 12, spark=spark)
    assert "<html" in (folder / "out" / "page.html").read_text()
    with (folder / "out" / "sheet.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and {line["automatic"] for line in lines} >= {"accepted", "check_failed"}

    def fill(name: str, verdicts: dict[str, str]) -> str:
        path = folder / name
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, lines[0].keys())
            writer.writeheader()
            for line in lines:
                said = verdicts.get(line["row_id"], "")
                reason = "dull" if said == "reject" else ""
                writer.writerow({**line, "verdict": said, "reason": reason, "reviewer": "ann" if said else ""})
        return str(path)

    good = [line["row_id"] for line in lines if line["automatic"] == "accepted"]
    return good, next(line["row_id"] for line in lines if line["automatic"] != "accepted"), fill


@pytest.mark.night
def test_reviewers_overrule_verdicts_and_bad_sheets_are_refused_whole(
    copied: dict[str, Any], spark: SparkSession, tmp_path: Path
) -> None:
    this = config(copied)
    good, failed, fill = reviewers_sheet(copied, tmp_path, spark)
    with pytest.raises(InputError, match="is accepted, but it holds no item"):
        publish.review_import(this, [fill("bad.csv", {failed: "accept"})], spark=spark)
    with pytest.raises(InputError, match=r"/empty\.csv: no row has a verdict yet; fill in verdict, reason and reviewer"):
        publish.review_import(this, [fill("empty.csv", {})], spark=spark)
    assert not rows(spark, copied, REVIEWS)

    sheet_in = fill("good.csv", {good[0]: "reject", good[1]: "accept", failed: "reject"})
    report = publish.review_import(this, [sheet_in], spark=spark)
    assert (report["reviews"], report["changed"], report["accepted"]) == (3, 1, 15)
    assert report["agreements"][0]["rows"] == 3 and report["agreements"][0]["observed"] == pytest.approx(2 / 3)
    verdicts = {v["row_id"]: v for v in rows(spark, copied, VERDICTS)}
    assert verdicts[good[0]]["reason"] == "rejected_in_review" and "dull" in verdicts[good[0]]["detail"]
    assert verdicts[good[0]]["automatic_reason"] is None and verdicts[good[0]]["decided_by"] == "review"
    assert verdicts[failed]["reason"] == verdicts[failed]["automatic_reason"]


@pytest.mark.night
@pytest.mark.processes  # under Spark Connect
def test_rows_are_made_anew_for_those_rejected_and_published_with_their_reviews(
    copied: dict[str, Any], spark: SparkSession, tmp_path: Path
) -> None:
    this = config(copied)
    good, failed, fill = reviewers_sheet(copied, tmp_path, spark)
    sheet_in = fill("good.csv", {good[0]: "reject", good[1]: "accept", failed: "reject"})
    assert publish.review_import(this, [sheet_in], spark=spark)["changed"] == 1
    assert publish.review_import(this, [sheet_in], spark=spark)["changed"] == 0
    topped = pipeline.run(this, spark=spark)  # what people rejected is made anew
    assert topped["accepted"] == 16 and topped["rejected"]["rejected_in_review"] == 1

    publish.card(this, str(tmp_path / "card" / "README.md"), spark=spark)
    card = (tmp_path / "card" / "README.md").read_text()
    assert card.startswith("---\n") and "kappa" in card and "16" in card
    exported = publish.export(this, str(tmp_path / "rows.jsonl"), spark=spark)
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert exported["rows"] == len(found) == 16
    assert all(row["question"] and row["origin"]["draft"] and len(row["origin"]["shots"]) == 3 for row in found)

    how, out = ExportConfig(format="hf", shard_bytes=500), tmp_path / "shards"
    said = publish.export(this, str(out), how=how, spark=spark)
    held = [row for file in sorted(out.glob("data/*.parquet")) for row in pq.read_table(file).to_pylist()]
    assert said["records"] == len(held) == 16 and said["shards"] > 3 and said["tokens"] is None
    expected = {row["origin"]["row_id"]: row for row in found}
    for row in held:
        fields = dict(expected[row["id"]])
        origin = {name: value for name, value in fields.pop("origin").items() if name not in ("row_id", "label")}
        assert json.loads(row["fields"]) == fields and json.loads(row["origin"]) == origin and row["text"]
    card = (out / "README.md").read_text()
    assert card.startswith("---\n") and "data/train-*.parquet" in card and "kappa" in card
    assert publish.export(this, str(out), how=how, spark=spark)["state"] == "unchanged"


@pytest.mark.night
def test_an_estimate_makes_a_trial_wave_that_the_run_goes_on_from(generated: Any, spark: SparkSession, tmp_path: Path) -> None:
    settings = {**generated[0], "tables": str(tmp_path / "tables"), "trial": 10}
    estimate = pipeline.estimate(config(settings), spark=spark)
    assert estimate["trial"] == 10 and estimate["generation_id"] == generated[1]["generation_id"]
    assert estimate["low"] <= estimate["cost"] and estimate["drafts"] >= 16
    report = pipeline.run(config(settings), spark=spark)
    assert {k: report[k] for k in ("drafts", "accepted", "rejected")} == {
        k: generated[1][k] for k in ("drafts", "accepted", "rejected")
    }


@pytest.mark.night
def test_arms_are_compared_on_the_same_seeds(generated: Any, spark: SparkSession, tmp_path: Path) -> None:
    settings = {**generated[0], "tables": str(tmp_path / "tables"), "accepted": 10, "wave_rows": 16, "arms": ("real", "bare", "persona")}
    instruct = {"match": "Write one more", "answers": [
        f"[problem]\nQuestion: {QUESTION}\nWorking: count ${{number:2-900}}\nResult: ${{number:1-999}}\n[/problem]"]}  # fmt: skip
    script = tmp_path / "script.json"
    script.write_text(json.dumps([instruct, *SCRIPT]))
    settings |= {"instruct": f"scripted:{script}"}
    report = comparison.run_arms(config(settings), spark=spark)
    assert set(report["arms"]) == {"bare", "persona"}
    figures = {(f["basis"], f["arm"], f["measure"]): f for f in report["figures"]}
    for arm in report["arms"]:
        assert figures["equal_rows", arm, "accepted_rows"]["value"] == figures["equal_rows", "real", "accepted_rows"]["value"]
        assert figures["equal_rows", arm, "mean_cosine"]["low"] is not None
        assert figures["equal_tokens", arm, "tokens_per_accepted"]["value"] > 0
        assert figures["equal_rows", arm, "indistinguishability"]["n"] > 0
    assert Path(report["page"]).read_text().count("<svg") > 5
    # Each arm's own page shows the comparison that it is of; a generation of no comparison, how one is made.
    persona = {"tables": settings["tables"], "generation": report["arms"]["persona"]}
    publish.report(config(persona), str(tmp_path / "page.html"), spark=spark)
    page = (tmp_path / "page.html").read_text()
    assert report["comparison_id"] in page and "is the arm persona of comparison" in page
    assert Path(report["page"]).name in page and "Mean cosine" in page
    publish.report(config({"tables": generated[0]["tables"]}), str(tmp_path / "page.html"), spark=spark)
    page = html.unescape((tmp_path / "page.html").read_text())
    told = f"bare compare --tables {generated[0]['tables']} --task grade_school_maths --seeds {generated[0]['seeds'][0]}"
    assert told in page and f"--judge {generated[0]['judge']}" in page
    parsed = build_parser().parse_args(shlex.split(page[page.index("bare compare --tables") :].split("<")[0])[1:])
    again = read_config(BareConfig, parsed["compare"])
    assert again == config(generated[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ""}, "--task is missing"),
        ({"task": "no_such_task"}, "there is no task and no file 'no_such_task'"),
        ({"seeds": ()}, "--seeds is missing"),
        ({"seeds": ("{folder}/few.jsonl",)}, "shows 3 examples a prompt; there are 2 seeds"),
        ({"seeds": ("{folder}/odd.jsonl",)}, "none of the 1 rows is an example of task grade_school_maths"),
        ({"seeds": ("{folder}/torn.jsonl",)}, "torn.jsonl, line 2: the line is no JSON"),
        ({"seeds": ("{tables}/seeds",)}, "--seeds .*/seeds holds over 50 rows; seeds are a few good examples: take a part"),
        ({"benchmark": "arc"}, "--benchmark arc: no row of the seeds is of it; name another, or leave it out"),
        ({"task": "{folder}/two.yaml", "seeds": ("{folder}/few.jsonl",)}, "--judge compares with 3 real rows, but there are 2"),
        ({"base": None}, "--base is missing: arm bare needs it"),
        ({"instruct": "scripted:{folder}/none.json"}, "none.json can't be read"),
        ({"allow_licenses": ("MIT",)}, r"model scripted:.* \(unknown\).* not among those allowed"),
        ({"prices": "{folder}/prices.yaml"}, "the price table has no price for model"),
        pytest.param(
            {"base": "openai:m@http://127.0.0.1:9/v1", "timeout": 1.0}, "can't be reached after", marks=pytest.mark.night
        ),
    ],
)
def test_bad_input_is_one_sentence_and_makes_no_row(
    generated: Any, spark: SparkSession, tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "MOST_SEEDS", 50)
    write_lines(tmp_path / "few.jsonl", seed_rows(2))
    (tmp_path / "two.yaml").write_text(task_text("grade_school_maths")[0] + "shots: 2\n")
    write_lines(tmp_path / "odd.jsonl", [{"title": "x"}])
    (tmp_path / "torn.jsonl").write_text('{"a": 1}\n{"b"\n')
    (tmp_path / "prices.yaml").write_text("models:\n  other: {per_hour: 1}\n")
    places = {"{folder}": str(tmp_path), "{tables}": generated[0]["tables"]}
    given = json.loads(re.sub(r"\{\w+\}", lambda place: places[place[0]], json.dumps(change)))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    settings = {**generated[0], "tables": str(tmp_path / "tables"), **given}
    with pytest.raises(InputError, match=message):
        pipeline.run(dataclasses.replace(config(settings)), spark=spark)
    assert not Tables(spark, settings["tables"]).exists(DRAFTS)


@pytest.mark.night
def test_a_model_that_no_executor_can_load_is_one_sentence_and_makes_no_row(
    generated: Any, spark: SparkSession, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    from tests.test_bare_transformers import tiny, train_tokenizer

    folder = tmp_path / "cut short"
    tiny("llama").save_pretrained(folder)
    train_tokenizer().save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    settings = {**generated[0], "tables": str(tmp_path / "tables"), "base": f"transformers:{folder}"}
    with pytest.raises(InputError, match="cut short") as caught:
        pipeline.run(config(settings), spark=spark)
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    assert not Tables(spark, settings["tables"]).exists(DRAFTS)
