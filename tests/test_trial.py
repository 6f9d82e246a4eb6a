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
from betr.trial import EstimateConfig, Observed
from curation.errors import InputError
from curation.progress import Terminal
from curation.slices import Slice
from tests.helpers import settings

AMOUNTS = ("documents", "text_bytes", "tokens", "sample", "kept")


def planned(folder: Path, **changed: Any) -> EstimateConfig:
    run = settings(folder)
    given = {field.name: getattr(run, field.name) for field in dataclasses.fields(RunConfig)}
    return EstimateConfig(**{**given, "trial": 200, "trial_sample": 40, "epochs": None, **changed})


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
            assert {path.name for path in root.with_name("tables-5").iterdir()} > {"documents", "stage_runs"}
        grown = 1.0 if how["small"] else 4.0
        amounts = {name: n * (grown if name in AMOUNTS else 1.0) for name, n in first[0].amounts.items()}
        seconds = {name: s + 0.1 * grown for name, s in first[0].seconds.items()}
        return dataclasses.replace(first[0], amounts=amounts, seconds=seconds)

    monkeypatch.setattr(trial, "_observe", observe)
    monkeypatch.setattr(trial, "STEPS", 40)
    (tmp_path / "scratch").mkdir()
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: EUR\nmachines: {core_hour: 0.5, gb_month: 10}\n")
    config = planned(
        finished[0], tables=str(tmp_path / "tables"), scratch=str(tmp_path / "scratch"), prices=str(prices),
        executors=2, cores_per_executor=4,
    )  # fmt: skip
    found = trial.estimate(config, spark=spark, terminal=Terminal(), start=3.0)
    json.dumps(found)

    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert set(stages) == {*pipeline.STAGES, trial.LAST, "start of Spark"} - {"watch", "deduplicate", "decontaminate"} and stages["start of Spark"]["seconds"] == 3
    assert all(stage["low"] <= stage["seconds"] <= stage["high"] for stage in [*found["stages"], found["total"]])
    assert found["total"]["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["total"]["cost"] == pytest.approx(0.5 * found["total"]["core_hours"])
    assert found["corpus"]["examples"] == 6 and found["machines"]["cores"] == 8
    assert {"documents", "corpus_scores", "sample_embeddings", "classifier_files"} <= set(found["stored_bytes"])
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


def observed(documents: float, sample: float, seconds: float) -> Observed:
    amounts = {"documents": documents, "text_bytes": 1e3 * documents, "tokens": 250 * documents, "sample": sample,
               "examples": 60.0, "k": 16.0, "kept": documents / 10, "dimension": 384.0}  # fmt: skip
    every = dict.fromkeys((*pipeline.STAGES, trial.LAST), seconds)
    every["embed"] = 2 + 0.02 * (sample + 60)
    writes = {"sample_embeddings": 1 + 0.02 * (sample + 60), "corpus_scores": 0.5 + 1e-5 * documents}
    return Observed(every, amounts, {"documents": 900 * documents}, writes, 2e-6 * 1e3 * documents, 8e6)


def plan(**changed: Any) -> trial.Plan:
    given: dict[str, Any] = {
        "files": 4, "bytes": 10**8, "documents": 1e5, "spread": 0.0, "text_bytes": 1e8, "tokens": 2.5e7,
        "sample": 20_000, "examples": 1_000, "chunks": 5, "waves": 10, "k": 16, "positives": 2_000, "steps": 1e5,
        "keep": 0.1,
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
