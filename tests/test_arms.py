"""Arms at equal tokens: each is a selection like any, of the same pool, and none touches the main line."""

import contextlib
import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from betr import classifier, pipeline, show
from betr import export as exporting
from betr.config import RunConfig
from betr.run import Outcome, Run
from betr.selection import RESAMPLE, SelectionConfig, config_of
from betr.tables import (
    BENCHMARK_EXAMPLES,
    CLASSIFIERS,
    CORPUS_SAMPLE,
    CORPUS_SCORES,
    DOCUMENTS,
    SELECTION_RUNS,
    SELECTIONS,
    STAGE_RUNS,
)
from curation.errors import InputError
from curation.frames import driver_rows
from curation.progress import Terminal
from curation.sampling import hash_fraction
from curation.tables import Tables, TableSpec
from evaluation.arm_config import ArmConfig, ArmsConfig, parse_arm, repeated, shortfall
from evaluation.arms import Pool, explain, make_arms, selection_of
from evaluation.dsir import ImportanceWeights
from evaluation.labelled import check_counts, labelled, put_aside, quality_positives, quality_rows, thinned
from evaluation.tables import ARMS
from tests.helpers import RUN_COLUMNS, demo_documents, rows_hash, settings, write_lines
from tests.test_dsir import plain_bag

Finished = tuple[Path, dict[str, Any]]
MAKE = (
    "random",
    "betr",
    "direct",
    "quality",
    "dsir",
    "soft:0.5",
    "bare:0.1",
    "keep:0.3",
)  # a head's: tests/test_heads.py
TOKENS = 8_000
MADE = "hellaswag"  # half of the corpus stands for what a model wrote


# -- what a person writes, without Spark -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arm"),
    [("random", ArmConfig("random")), ("betr", ArmConfig("betr")), ("betr:arc_easy", ArmConfig("betr", "arc_easy")),
     ("direct", ArmConfig("direct")), ("quality", ArmConfig("quality")), ("dsir", ArmConfig("dsir")),
     ("keep:0.30", ArmConfig("keep", "0.3")), ("keep:1", ArmConfig("keep", "1")), ("soft", ArmConfig("soft", "1")), ("soft:0.50", ArmConfig("soft", "0.5")), (" bare:0.1 ", ArmConfig("bare", "0.1"))],
)  # fmt: skip
def test_an_arm_is_read_from_how_it_is_written(text: str, arm: ArmConfig) -> None:
    assert parse_arm(text) == arm == parse_arm(arm.name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "there is no arm 'best'; there are random, betr or betr:HEAD, direct"),
        ("random:3", "takes nothing behind a colon; got '3'"),
        ("betr:", "a colon with nothing behind it"),
        ("bare", r"needs a share of the tokens in \(0, 1\); got ''"),
        ("bare:1", r"needs a share of the tokens in \(0, 1\); got '1'"),
        ("keep", r"arm keep:SHARE needs a share of the pool's tokens in \(0, 1\]; got ''"),
        ("keep:1.1", r"arm keep:SHARE needs a share of the pool's tokens in \(0, 1\]; got '1.1'"),
        ("soft:cold", "needs a number above 0; got 'cold'"),
        ("soft:0", "needs a number above 0; got '0'"),
    ],
)
def test_an_arm_that_is_none_is_a_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_arm(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"arms": ()}, "a comparison needs arms"),
        ({"arms": ("soft", "soft:1.0")}, "the arm soft:1 is named twice; leave one out"),
        ({"arms": ("quality",)}, "needs text to call good"),
        ({"tokens": 0}, "an arm's tokens must be a whole number of at least 1; got 0"),
        ({"tolerance": 1.0}, r"--tolerance must be a share in \[0, 1\); got 1.0"),
        ({"on_short": "cry"}, "--on-short must be repeat or refuse; got 'cry'"),
        ({"buckets": 0}, "--buckets must be at least 1; got 0"),
        ({"quality_positives": ("source=",)}, "reads source=NAME, metadata.KEY=VALUE or a path; got 'source='"),
        ({"quality_positives": ("metadata.x",)}, "reads source=NAME, metadata.KEY=VALUE or a path"),
        ({"synthetic": " "}, "--synthetic names a source"),
    ],
)
def test_settings_that_make_no_comparison_are_refused_at_birth(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ArmsConfig(**given)


def test_the_mode_of_log_weights_is_none_that_a_run_can_ask_for() -> None:
    assert SelectionConfig(keep=0.1, mode=RESAMPLE).mode == RESAMPLE
    with pytest.raises(InputError, match="mode must be one of hard, soft; got 'resample'"):
        RunConfig(tables="/tables", mode=RESAMPLE)


def test_an_arm_falls_short_beyond_the_tolerance_and_says_how_often_it_is_read() -> None:
    assert shortfall("betr", 1000, 990, 0.01) is None
    assert shortfall("betr", 1000, 989, 0.01) == (
        "the arm betr holds 989 of the 1,000 tokens asked for: equal tokens repeat it 1.01 times"
    )
    assert shortfall("betr", 1000, 1000, 0.0) is None and shortfall("betr", 1000, 999, 0.0) is not None
    assert (repeated(1000, 250), repeated(1000, 1000), repeated(1000, 1001)) == (4.0, 1.0, 1.0)


def test_betr_keeps_the_main_lines_way_and_every_arm_what_it_leaves_out() -> None:
    main = SelectionConfig(
        keep=0.2, mode="soft", temperature=2.0, seed=9, quotas=("source=synthetic:0.1", "source=wiki:0.3"), name="mine",
        decontamination_id="tests", deduplication_id="copies",
    )  # fmt: skip
    pool = Pool(Outcome("score", "", {}), None, main, 500)  # type: ignore[arg-type]
    ways = {arm.name: selection_of(pool, ArmsConfig(seed=3), arm) for arm in map(parse_arm, (*MAKE, "betr:arc_easy"))}
    common: dict[str, Any] = {"tokens": 500, "decontamination_id": "tests", "deduplication_id": "copies"}
    plain = {name: SelectionConfig(name=f"arm/{name}", **common) for name in ways}
    assert ways == {
        **plain,
        "betr": dataclasses.replace(plain["betr"], mode="soft", temperature=2.0, seed=9, quotas=("source=wiki:0.3",)),
        "keep:0.3": dataclasses.replace(
            plain["keep:0.3"], tokens=None, keep=0.3, mode="soft", temperature=2.0, seed=9, quotas=("source=wiki:0.3",)
        ),
        "betr:arc_easy": dataclasses.replace(plain["betr:arc_easy"], head="arc_easy"),
        "soft:0.5": dataclasses.replace(plain["soft:0.5"], mode="soft", temperature=0.5, seed=3),
        "bare:0.1": dataclasses.replace(plain["bare:0.1"], quotas=("source=synthetic:0.1",)),
        "dsir": dataclasses.replace(plain["dsir"], mode=RESAMPLE, seed=3),
    }


def test_a_side_without_text_is_refused_by_name() -> None:
    with pytest.raises(
        InputError, match="the arm direct has no positive text to train on; name others or draw a larger"
    ):
        check_counts("direct", {0: 5})
    with pytest.raises(InputError, match="the arm quality has no negative text to train on"):
        check_counts("quality", {1: 5})


# -- what the classifiers are taught -----------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.processes  # under Spark Connect, which allows less
def test_good_text_is_named_by_source_metadata_and_file_and_is_never_a_negative(
    spark: SparkSession, tmp_path: Path
) -> None:
    schema = "doc_id string, text string, source string, metadata map<string,string>"
    rows = [("a", "A", "wiki", {}), ("b", "B", None, {"kind": "howto"}), ("c", "C", "web", {}), ("d", "D", None, None)]
    corpus = driver_rows(spark, rows, schema)
    sample = corpus.where("doc_id <> 'd'").select("doc_id", "text")
    file = write_lines(tmp_path / "good.jsonl", [{"text": "good"}, {"text": "good"}, {"text": " "}, {"text": "C"}])
    named = ("source=wiki", "metadata.kind=howto", str(file))
    found = quality_rows(quality_positives(spark, corpus, named), corpus, sample).collect()
    assert sorted((row["text"], row["label"]) for row in found) == [("A", 1), ("B", 1), ("C", 0), ("C", 1), ("good", 1)]
    assert len({row["doc_id"] for row in found}) == len(found)
    assert put_aside(spark, named) == {"empty": 1} and put_aside(spark, named[:2]) == {}
    every = labelled(sample.withColumn("doc_id", F.concat(F.lit("p"), "doc_id")), sample)
    none, whole = (
        {row["doc_id"] for row in thinned(every, share, seed=1, salt="most").collect()} for share in (0.0, 1.0)
    )
    assert (none, whole) == ({"a", "b", "c"}, {"a", "b", "c", "pa", "pb", "pc"})


# -- on the tables of a finished run -----------------------------------------------------------------------------------


@dataclasses.dataclass
class House:
    """A copy of the finished tables, and the arms that were made on it.

    before: hashes of the main line's tables as they were before the arms.
    """

    given: Any
    config: ArmsConfig
    arms: dict[str, Row]
    said: str
    before: dict[str, Any]
    spark: SparkSession

    def open(self, **changed: Any) -> Run:
        return Run(dataclasses.replace(self.given, **changed), self.spark, Terminal(io.StringIO()))

    @property
    def tables(self) -> Tables:
        return Tables(self.spark, self.given.tables)

    def kept(self, arm: str) -> set[str]:
        mine = F.col("selection_id") == self.arms[arm]["selection_id"]
        return {row["doc_id"] for row in self.tables.read(SELECTIONS).where(mine).select("doc_id").collect()}

    def scores(self, arm: str) -> dict[str, Row]:
        classifier_id = json.loads(self.arms[arm]["parameters"])["classifier_id"]
        rows = self.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == classifier_id).collect()
        return {row["doc_id"]: row for row in rows}


def main_line(run: Run) -> dict[str, Any]:
    return {stage: run.needs(stage).key for stage in ("train", "score", "select", "cover")}


@pytest.fixture(scope="module")
def house(finished: Finished, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> House:
    folder = tmp_path_factory.mktemp("arms")
    shutil.copytree(finished[0] / "tables", folder / "tables")
    good = [{"text": row["text"]} for row in demo_documents(640, 700)] + [{"text": ""}]
    positives = str(write_lines(folder / "good.jsonl", good))
    given = settings(finished[0], tables=str(folder / "tables"))
    config = ArmsConfig(
        arms=MAKE, tokens=TOKENS, seed=3, quality_positives=(positives,), synthetic=MADE, tolerance=0.05
    )
    out = io.StringIO()
    run = Run(given, spark, Terminal(out))
    before = main_line(run)
    rows = make_arms(run, config)
    assert [row["arm"] for row in rows] == list(MAKE)
    return House(given, config, {row["arm"]: row for row in rows}, out.getvalue(), before, spark)


def plain_cut(keyed: list[tuple[float, str, int]], budget: int) -> set[str]:
    kept: set[str] = set()
    for _, doc_id, tokens in sorted(keyed, key=lambda row: (-row[0], row[1])):
        if tokens > budget:
            break
        budget -= tokens
        kept.add(doc_id)
    return kept


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_every_arm_is_a_selection_of_equal_tokens_by_the_same_count(house: House) -> None:
    runs = {row["selection_id"]: row for row in house.tables.read(SELECTION_RUNS).collect()}
    scored = house.scores("betr")
    tokens = {doc_id: row["tokens"] for doc_id, row in scored.items()}
    for name, arm in house.arms.items():
        run, kept = runs[arm["selection_id"]], house.kept(name)
        if name == "keep:0.3":  # of the pool without what a model wrote, and no shortfall
            whole = sum(n for doc_id, n in tokens.items() if scored[doc_id]["source"] != MADE)
            assert run["keep"] == 0.3 and 0 <= 0.3 * whole - arm["tokens"] <= 0.05 * whole
            assert json.loads(arm["parameters"])["tokens_asked"] == arm["tokens"]
            continue
        assert (run["name"], run["budget_tokens"]) == (f"arm/{name}", TOKENS)
        assert arm["tokens"] == run["kept_tokens"] == sum(tokens[doc_id] for doc_id in kept)
        assert arm["documents"] == run["kept_documents"] == len(kept)
        assert 0 <= TOKENS - arm["tokens"] <= 0.05 * TOKENS
        assert {doc_id: row["tokens"] for doc_id, row in house.scores(name).items()} == tokens
        parameters = json.loads(arm["parameters"])
        assert parameters["tokens_asked"] == TOKENS and parameters["epochs"] == TOKENS / arm["tokens"]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_each_arm_keeps_what_a_plain_sort_of_its_own_scores_keeps(house: House) -> None:
    for name in ("random", "betr", "direct", "quality"):
        scores = [row for row in house.scores(name).values() if row["source"] != MADE]
        keyed = [(row["score"], row["doc_id"], row["tokens"]) for row in scores]
        assert house.kept(name) == plain_cut(keyed, TOKENS), name


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_synthetic_documents_are_in_the_arm_of_bare_alone_at_their_share(house: House) -> None:
    scores = house.scores("betr")
    made = {doc_id for doc_id, row in scores.items() if row["source"] == MADE}
    for name in house.arms:
        assert bool(house.kept(name) & made) == (name == "bare:0.1")
    kept = house.kept("bare:0.1")
    for side, budget in ((made, int(0.1 * TOKENS)), (scores.keys() - made, int(0.9 * TOKENS))):
        keyed = [(scores[doc_id]["score"], doc_id, scores[doc_id]["tokens"]) for doc_id in side]
        assert kept & side == plain_cut(keyed, budget)
    share = sum(scores[doc_id]["tokens"] for doc_id in kept & made) / house.arms["bare:0.1"]["tokens"]
    assert json.loads(house.arms["bare:0.1"]["parameters"])["shares"] == {MADE: share}


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_random_scores_are_spread_evenly_and_know_nothing_of_the_classifier(house: House) -> None:
    random, main = house.scores("random"), house.scores("betr")
    values = np.array([random[doc_id]["score"] for doc_id in sorted(random)])
    theirs = np.array([main[doc_id]["score"] for doc_id in sorted(random)])
    assert np.abs(np.sort(values) - np.linspace(0, 1, len(values))).max() < 1.95 / np.sqrt(len(values))  # p < 0.001
    assert abs(np.corrcoef(values, theirs)[0, 1]) < 3.3 / np.sqrt(len(values))


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_dsir_weighs_by_the_targets_words_against_the_samples_and_draws_with_gumbel_noise(house: House) -> None:
    tables, scores = house.tables, house.scores("dsir")
    trained = house.open().needs("arm/dsir/train")
    weights = ImportanceWeights.load(Path(house.given.tables) / trained["path"], trained["sha256"])
    examples = [row["text"] for row in tables.read(BENCHMARK_EXAMPLES).select("text").collect()]
    sample = [row["text"] for row in tables.read(CORPUS_SAMPLE).select("text").collect()]
    bags = [[plain_bag(text, 10_000) for text in side] for side in (examples, sample)]
    counts = [sum(side, type(side[0])()) for side in bags]
    ratio = [np.log(c[b] / c.total() + 1e-8) for c in counts for b in range(10_000)]
    assert weights.log_ratio == pytest.approx(np.subtract(ratio[:10_000], ratio[10_000:]))
    texts = {row["doc_id"]: row["text"] for row in tables.read(DOCUMENTS).select("doc_id", "text").collect()}
    for doc_id in sorted(texts)[::40]:
        exact = sum(n * weights.log_ratio[b] for b, n in plain_bag(texts[doc_id], 10_000).items())
        assert scores[doc_id]["score"] == pytest.approx(exact)
    row = next(r for r in tables.read(SELECTION_RUNS).collect() if r["name"] == "arm/dsir")
    assert (row["mode"], config_of(row["parameters"]).seed) == (RESAMPLE, 3)
    chance = tables.read(DOCUMENTS).select("doc_id", hash_fraction("doc_id", 3, "soft selection").alias("u")).collect()
    noise = {each["doc_id"]: -np.log(-np.log(each["u"])) for each in chance}
    real = [each for each in scores.values() if each["source"] != MADE]
    keyed = [(each["score"] + noise[each["doc_id"]], each["doc_id"], each["tokens"]) for each in real]
    assert house.kept("dsir") == plain_cut(keyed, TOKENS)
    mine = F.col("selection_id") == row["selection_id"]
    assert {each["weight"] for each in tables.read(SELECTIONS).where(mine).collect()} == {1.0}


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_classifiers_of_arms_are_kept_and_score_as_their_files_do(house: House) -> None:
    texts = {row["doc_id"]: row["text"] for row in house.tables.read(DOCUMENTS).select("doc_id", "text").collect()}
    rows = {row["origin"]: row for row in house.tables.read(CLASSIFIERS).collect() if row["origin"].startswith("arm ")}
    assert set(rows) == {"arm direct", "arm quality", "arm dsir"}
    ids = sorted(texts)
    for name in ("direct", "quality"):
        row, scores = rows[f"arm {name}"], house.scores(name)
        model = classifier.load_classifier(Path(house.given.tables) / row["path"], row["sha256"])
        expected = model.score(pa.array([texts[i] for i in ids]))
        assert [scores[i]["score"] for i in ids] == expected.tolist()
        assert 0 < row["positives"] <= (6 if name == "direct" else 60) and row["labels_id"] is None
    assert "1 empty" in house.said  # of the positives' file


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_the_main_line_stays_the_latest_and_its_commands_take_an_arm_by_name(house: House, tmp_path: Path) -> None:
    run = house.open()
    assert main_line(run) == house.before
    assert {row["name"] for row in show.VIEWS["selections"](run.tables)} >= {f"arm/{name}" for name in MAKE}
    found = exporting.records(run, exporting.chosen(run, "arm/dsir")).collect()
    assert {row["id"] for row in found} == house.kept("dsir")
    scores = house.scores("dsir")
    assert all(row["text"] and row["score"] == scores[row["id"]]["score"] for row in found)
    moved = pipeline.compare_selections(house.given, "arm/random@1", "arm/direct", spark=house.spark)
    assert moved["both"]["documents"] == len(house.kept("random") & house.kept("direct"))
    doc_id = min(house.kept("betr"))
    explained = show.explain(house.given, doc_id, spark=house.spark, terminal=Terminal(io.StringIO()))
    by_name = {each["name"]: each for each in explained["selections"]}
    assert set(by_name) >= {"arm/betr", "arm/soft:0.5", "arm/bare:0.1"}
    assert by_name["arm/betr"]["selected"] and by_name["arm/betr"]["key"] >= by_name["arm/betr"]["threshold"]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_every_arm_says_why_a_document_is_in_it(house: House) -> None:
    doc_id = max(house.kept("dsir") - house.kept("betr"))
    found = {verdict.name: verdict for verdict in explain(house.open(), doc_id)}
    assert set(found) == {f"arm/{name}" for name in MAKE}
    for name in MAKE:
        verdict = found[f"arm/{name}"]
        assert verdict.selected == (doc_id in house.kept(name)), name
        assert verdict.threshold is not None and (verdict.key > verdict.threshold) == verdict.selected, name
    with pytest.raises(InputError, match="there is no document 'nobody' in the table documents"):
        explain(house.open(), "nobody")


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_second_run_writes_no_row(house: House) -> None:
    before = {p: p.stat().st_mtime_ns for p in Path(house.given.tables).rglob("*.json")}
    run = house.open()
    again = make_arms(run, house.config)
    assert again == list(house.arms.values())
    assert {report.state for report in run.reports} == {"unchanged"}
    assert {p: p.stat().st_mtime_ns for p in Path(house.given.tables).rglob("*.json")} == before


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_killed_between_any_two_tables_the_same_rows_come_to_be(
    house: House, finished: Finished, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class KilledError(Exception):
        """What a kill is to the driver: nothing more is written."""

    root = Path(shutil.copytree(finished[0] / "tables", tmp_path / "tables"))
    given, config = (
        dataclasses.replace(house.given, tables=str(root)),
        dataclasses.replace(house.config, arms=("direct",)),
    )
    seen, limit = 0, 0

    def until_killed(write: Callable[..., None]) -> Callable[..., None]:
        def until(self: Tables, spec: TableSpec, *args: Any, **named: Any) -> None:
            nonlocal seen
            if spec is not STAGE_RUNS:  # what a run says of itself
                if seen == limit:
                    killed.append(spec.name)
                    raise KilledError
                seen += 1
            write(self, spec, *args, **named)

        return until

    killed: list[str] = []
    with monkeypatch.context() as patched:
        for name in ("append", "replace"):
            patched.setattr(Tables, name, until_killed(getattr(Tables, name)))
        for limit in (1, 2, 2, 2, 99):  # noqa: B007 - `until` reads it: commits before the kill, run after run
            seen = 0
            with contextlib.suppress(KilledError):
                (arm,) = make_arms(Run(given, house.spark, Terminal(io.StringIO())), config)
    assert killed == [CORPUS_SCORES.name, CORPUS_SCORES.name, SELECTION_RUNS.name, ARMS.name]
    again = dataclasses.replace(house, given=given, arms={"direct": arm})

    def told(spec: TableSpec, of: House, where: str) -> list[dict[str, Any]]:
        rows = of.tables.read(spec).where(where).collect()
        return [{name: row[name] for name in row.asDict() if name not in RUN_COLUMNS} for row in rows]

    for spec, where in (
        (ARMS, "arm = 'direct'"),
        (SELECTION_RUNS, "name = 'arm/direct'"),
        (CLASSIFIERS, "origin = 'arm direct'"),
    ):
        assert told(spec, again, where) == told(spec, house, where), spec.name
    assert again.kept("direct") == house.kept("direct") and again.scores("direct") == house.scores("direct")


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_an_arm_without_enough_tokens_is_said_or_refused_and_refused_it_leaves_no_selection(house: House) -> None:
    pool = sum(row["tokens"] for row in house.scores("betr").values() if row["source"] != MADE)
    asked = dataclasses.replace(house.config, arms=("betr",), tokens=2 * pool, on_short="refuse")
    before = rows_hash(house.tables, SELECTION_RUNS)
    with pytest.raises(
        InputError, match="repeat it 2 times; ask for fewer with --tokens, or allow it with --on-short repeat"
    ):
        make_arms(house.open(), asked)
    assert rows_hash(house.tables, SELECTION_RUNS) == before
    run = house.open()
    (row,) = make_arms(run, dataclasses.replace(asked, on_short="repeat"))
    assert row["tokens"] == pool and json.loads(row["parameters"])["epochs"] == 2
    assert any("repeat it 2 times" in warning for warning in run.warnings)


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_what_can_not_be_made_is_refused_before_any_work(house: House) -> None:
    def refuse(**changed: Any) -> None:
        make_arms(house.open(), dataclasses.replace(house.config, **{"arms": ("random",), **changed}))

    stages = house.tables.read(STAGE_RUNS).count()
    without_heads = "by the head 'arc_easy', but the scores are for all targets only: run `betr run --heads`"
    with pytest.raises(InputError, match=without_heads):
        refuse(arms=("betr:arc_easy",))
    with pytest.raises(InputError, match="documents of the source 'nowhere', and the corpus has none"):
        refuse(arms=("bare:0.1",), synthetic="nowhere")
    with pytest.raises(InputError, match=r"/nowhere/good.jsonl"):
        refuse(arms=("quality",), quality_positives=("/nowhere/good.jsonl",))
    assert house.tables.read(STAGE_RUNS).count() == stages


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_documents_that_came_since_the_latest_selection_are_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("betr.corpus.key", lambda run: "another")
    with pytest.raises(InputError, match="documents or scores came since: run `betr run`"):
        make_arms(house.open(), house.config)
