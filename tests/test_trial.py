"""The trial behind `betr estimate`: one real run of a slice, and what is made of several."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from betr import pipeline, trial
from betr.config import RunConfig
from betr.estimate import Machines
from betr.run import STAGE_ORDER
from betr.tables import CONTAMINATION_HITS, DECONTAMINATED_CHUNKS, DOCUMENTS
from betr.trial import EstimateConfig, Observed
from curation.errors import InputError
from curation.near_duplicates import NEAR_DUPLICATES, PAIRS, SIGNATURES
from curation.progress import Terminal
from curation.slices import Slice
from curation.tables import Tables
from tests.helpers import demo_documents, settings, write_lines
from tests.test_deduplication import clusters_of_all_pairs, copies

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

SEARCHES = {"deduplicate": 2e-6, "decontaminate": 1e-6}  # seconds a byte of text
AMOUNTS = ("documents", "text_bytes", "tokens", "sample", "kept")


def planned(folder: Path, **changed: Any) -> EstimateConfig:
    run = settings(folder)
    given = {field.name: getattr(run, field.name) for field in dataclasses.fields(RunConfig)}
    return EstimateConfig(**{**given, "trial": 200, "trial_sample": 40, "epochs": None, **changed})


def cleaned_as_a_run_does(tables: Tables, seen: Observed) -> None:
    """The trial's tables against every pair and every run of words of the slice's own documents."""
    rows = {row["doc_id"]: row for row in tables.read(DOCUMENTS).collect()}
    assert len(rows) == seen.amounts["documents"] > 50
    assert {row["doc_id"] for row in tables.read(SIGNATURES).collect()} == set(rows)
    wanted = clusters_of_all_pairs({doc: row["text"] for doc, row in rows.items()})
    found = {row["doc_id"]: row["cluster_id"] for row in tables.read(NEAR_DUPLICATES).collect()}
    assert found == {doc: min(members) for doc, members in wanted.items()} and len(found) > 4
    pairs = [(row["one"], row["other"]) for row in tables.read(PAIRS).collect()]
    assert len(pairs) == len(set(pairs)) == seen.amounts["compared"] >= len(found) - len(set(found.values()))
    assert {row["chunk"] for row in tables.read(DECONTAMINATED_CHUNKS).collect()} == {row["chunk"] for row in rows.values()}
    hit = {row["doc_id"] for row in tables.read(CONTAMINATION_HITS).collect()}
    assert hit >= rows.keys() & {row["id"] for row in demo_documents(0, 20)} != set()
    assert {"deduplicate", "decontaminate"} < set(seen.seconds)
    assert seen.write_seconds[SIGNATURES.name] > 0 and seen.write_seconds[CONTAMINATION_HITS.name] > 0


@pytest.mark.night
@pytest.mark.slow
def test_an_estimate_tells_every_stage_and_leaves_nothing_behind(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    real = trial._observe
    first: list[Observed] = []

    def observe(config: EstimateConfig, part: Slice, spark_: SparkSession, root: Path, **how: Any) -> Observed:
        if not first:  # one run stands for all; training reads the texts of the last
            first.append(real(config, part, spark_, root.with_name("tables-5"), **how))
            cleaned_as_a_run_does(Tables(spark_, str(root.with_name("tables-5"))), first[0])
        grown = 1.0 if how["small"] else 4.0
        amounts = {name: n * (grown if name in AMOUNTS else 1.0) for name, n in first[0].amounts.items()}
        seconds = {name: s + 0.1 * grown for name, s in first[0].seconds.items()}
        return dataclasses.replace(first[0], amounts=amounts, seconds=seconds)

    monkeypatch.setattr(trial, "_observe", observe)
    monkeypatch.setattr(trial, "STEPS", 40)
    (tmp_path / "scratch").mkdir()
    more = write_lines(tmp_path / "copies.jsonl", copies())
    tests = write_lines(tmp_path / "tests.jsonl", [{"text": row["text"]} for row in demo_documents(0, 20)])
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nmachines: {core_hour: 0.5, gb_month: 10}\n")
    config = planned(
        finished[0], tables=str(tmp_path / "tables"), scratch=str(tmp_path / "scratch"), prices=str(prices),
        executors=2, cores_per_executor=4, documents=(str(more), str(finished[0] / "documents")), trial=400,
        near_duplicates="after", tests=(str(tests),),
    )  # fmt: skip
    found = trial.estimate(config, spark=spark, terminal=Terminal(), start=3.0)
    json.dumps(found)

    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages)[1:] == [stage for stage in STAGE_ORDER if stage != "watch"] + [trial.LAST]
    assert stages["start of Spark"]["seconds"] == 3
    assert all(stages[name]["unit"] == "documents" and stages[name]["seconds"] > 0 for name in ("deduplicate", "decontaminate"))
    assert found["corpus"]["compared"] > 0 and any("one chance all over the corpus" in note for note in found["notes"])
    assert all(stage["low"] <= stage["seconds"] <= stage["high"] for stage in [*found["stages"], found["total"]])
    assert found["total"]["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["total"]["cost"] == pytest.approx(0.5 * found["total"]["core_hours"])
    assert found["corpus"]["examples"] == 6 and found["machines"]["cores"] == 8
    assert {"documents", "corpus_scores", "sample_embeddings", "classifier_files"} <= set(found["stored_bytes"])
    assert {"near_duplicate_signatures", "near_duplicate_pairs", "near_duplicates", "contamination_hits"} <= set(found["stored_bytes"])
    assert not {"near_duplicate_stars", "near_duplicate_buckets"} & set(found["stored_bytes"])
    assert "import_rows" not in found["stored_bytes"]
    assert [round(cut["keep"], 2) for cut in found["next_filter_rates"]] == [0.03, 0.1, 0.25, 0.3]
    said = capsys.readouterr().err
    assert "the next filter rate" in said and "EUR" in said and "6 examples" in said
    # Nothing of the user's is made, and nothing of the trial stays.
    assert not (tmp_path / "tables").exists() and list((tmp_path / "scratch").iterdir()) == []

    with pytest.raises(InputError, match="--gpus 4: the trial's machine has none"):
        trial.estimate(dataclasses.replace(config, gpus=4), spark=spark)
    with pytest.raises(InputError, match="nowhere is no folder on this machine"):
        trial.estimate(dataclasses.replace(config, scratch=str(tmp_path / "nowhere")), spark=spark)
    assert not (tmp_path / "tables").exists()


def observed(documents: float, sample: float, seconds: float, *, cleaned: bool = False) -> Observed:
    amounts = {"documents": documents, "text_bytes": 1e3 * documents, "tokens": 250 * documents, "sample": sample,
               "examples": 60.0, "k": 16.0, "kept": documents / 10, "dimension": 384.0, "compared": documents / 50}  # fmt: skip
    every = dict.fromkeys((*pipeline.STAGES, trial.LAST), seconds)
    if not cleaned:
        del every["deduplicate"], every["decontaminate"]
    every |= {name: 1 + byte * 1e3 * documents for name, byte in SEARCHES.items() if name in every}
    every["embed"] = 2 + 0.02 * (sample + 60)
    near, tests = (0.2 + byte * 1e3 * documents for byte in SEARCHES.values())
    searches = {"near_duplicate_signatures": near, "contamination_hits": tests}
    writes = {"sample_embeddings": 1 + 0.02 * (sample + 60), "corpus_scores": 0.5 + 1e-5 * documents, **searches}
    return Observed(every, amounts, {"documents": 900 * documents}, writes, 2e-6 * 1e3 * documents, 8e6)


def plan(**changed: Any) -> trial.Plan:
    given: dict[str, Any] = {
        "files": 4, "bytes": 10**8, "documents": 1e5, "spread": 0.0, "text_bytes": 1e8, "tokens": 2.5e7,
        "sample": 20_000, "examples": 1_000, "chunks": 5, "waves": 10, "k": 16, "positives": 2_000, "steps": 1e5,
        "keep": 0.1, "text_waves": 1, "compared": 0.0, "compared_spread": 0.0,
    }  # fmt: skip
    return trial.Plan(**{**given, **changed})


def embed_seconds(machines: Machines, **how: Any) -> float:
    config = EstimateConfig(tables="/t", documents=("d",), benchmarks=("b",), gpu_texts_per_second=1_000.0)
    runs = [observed(2_500, 100, 1.0), observed(10_000, 400, 1.0)] * 2
    terms = trial._terms(config, plan(), runs, machines, cores=2, **how)
    stages, _ = trial.estimate_stages(terms, {}, machines=machines, prices=trial.Prices())
    return next(stage.seconds for stage in stages if stage.stage == "embed")


def test_embedding_is_paid_by_the_text_and_by_the_wave_and_shared_by_what_embeds() -> None:
    # 1 s beside the writes, half a second a wave (a trial has two), 0.02 s a text on two cores.
    assert embed_seconds(Machines(1, 2), gpu=0) == pytest.approx(1 + 5 + 0.02 * 21_000)
    assert embed_seconds(Machines(5, 4), gpu=0) == pytest.approx(1 + 5 + 0.02 * 21_000 / 10)
    assert embed_seconds(Machines(1, 2, gpus=4), gpu=1) == pytest.approx(1 + 5 + 0.02 * 21_000 / 4)
    assert embed_seconds(Machines(1, 2, gpus=3), gpu=0) == pytest.approx(1 + 5 + 21_000 / 3_000)


def search_seconds(stage: str, machines: Machines, **planned: Any) -> trial.StageEstimate:
    config = EstimateConfig(tables="/t", documents=("d",), benchmarks=("b",))
    runs = [observed(2_500, 100, 1.0, cleaned=True), observed(10_000, 400, 1.0, cleaned=True)] * 2
    terms = trial._terms(config, plan(**planned), runs, machines, cores=2, gpu=0)
    stages, _ = trial.estimate_stages(terms, {}, machines=machines, prices=trial.Prices())
    return next(each for each in stages if each.stage == stage)


def test_searches_of_all_text_are_paid_by_its_bytes_and_by_the_wave() -> None:
    # Of the second that a search takes beside the text 0.2 are a wave's commit.
    for stage, byte in SEARCHES.items():
        found = search_seconds(stage, Machines(1, 2))
        assert (found.fixed, found.linear, found.amount) == pytest.approx((1, byte * 1e8, 1e5))
        assert search_seconds(stage, Machines(1, 2), text_waves=6).fixed == pytest.approx(2)
        assert search_seconds(stage, Machines(4, 2)).linear == pytest.approx(found.linear / 4)


def test_what_the_first_run_took_longer_is_the_start() -> None:
    config = EstimateConfig(tables="/t", documents=("d",), benchmarks=("b",))
    warm = [observed(2_500, 100, 1.0), observed(10_000, 400, 1.0)] * 2
    cold = dataclasses.replace(observed(2_500, 100, 5.0))
    terms, first = (trial._terms(config, plan(), runs, Machines(1, 2), cores=2, gpu=0) for runs in (warm, [cold]))
    starts = trial._starts(cold, terms, first)
    assert starts["import"] == pytest.approx(4.0) and starts["embed"] == pytest.approx(0, abs=1e-9)


def test_executors_elsewhere_need_a_folder_that_all_of_them_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "default_parallelism", lambda _: 8)
    monkeypatch.setattr(trial, "is_local_session", lambda _: False)
    cluster: Any = object()
    with pytest.raises(InputError, match="--scratch is missing: executors on other machines need a folder that all of them"):
        trial.estimate(EstimateConfig(tables="/t", documents=("d",), benchmarks=("b",)), spark=cluster, terminal=Terminal())
