"""`evaluate loop` from a finished run: what it makes, what it leaves alone, killed at its writes, bad input."""

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import Row, SparkSession

from betr import pipeline as betr
from betr.config import RunConfig
from betr.tables import (
    CORPUS_SAMPLE,
    CORPUS_SCORES,
    COVERAGE,
    DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SELECTION_RUNS,
    SELECTIONS,
)
from curation.embedding import BENCHMARK_EMBEDDINGS
from curation.errors import InputError
from curation.export import ExportConfig
from curation.tables import Tables, TableSpec
from evaluation import gaps, pipeline
from evaluation.loop_config import LoopConfig
from evaluation.tables import LOOP_DOCUMENTS, LOOP_GAPS, LOOP_ROUNDS, PROXY_RUNS
from tests.helpers import rows_hash, write_lines
from tests.helpers import settings as betr_settings
from tests.loop_house import loop_house
from tests.loop_house import settings as loop_settings

MAIN = (DOCUMENTS, CORPUS_SAMPLE, CORPUS_SCORES, SELECTIONS, SELECTION_RUNS, COVERAGE)
OURS = (LOOP_DOCUMENTS, LOOP_GAPS, LOOP_ROUNDS)
UNLIKE = {  # where it lies, when it was, how long it took
    "loop_id", "bare_tables", "synthetic_tables", "synthetic_selection_id", "model_seconds", "seconds", "run_id", "created"
}  # fmt: skip

Made = tuple[LoopConfig, dict[str, Any]]


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.connect
def test_an_example_has_the_nearer_of_real_and_synthetic(spark: SparkSession) -> None:
    schema = "example_id string, benchmark string, real float, before float"
    before = [("a", "b", 0.2, 0.3), ("c", "b", 0.5, 0.5), ("d", "b", None, None), ("e", "b", 0.4, 0.4), ("f", "b", 0.5, 0.6)]
    covered = spark.createDataFrame(before, schema)
    nearest = spark.createDataFrame(
        [("a", "x", 0.75), ("c", "y", 0.25), ("d", "x", 0.125), ("f", "y", 0.5)],
        "example_id string, doc_id string, similarity float",
    )
    found = {row["example_id"]: (row["after"], row["doc_id"]) for row in gaps.cover_again(covered, nearest).collect()}
    four, half = float(np.float32(0.4)), 0.5
    # f: a document of an earlier round has left the selection, so the example is back at what real ones give it.
    assert found == {"a": (0.75, "x"), "c": (half, None), "d": (0.125, "x"), "e": (four, None), "f": (half, None)}


def test_a_document_is_nearest_to_one_of_those_its_draft_was_shown(spark: SparkSession) -> None:
    rng = np.random.default_rng(0)
    vectors = {f"e{i}": rng.normal(size=5) for i in range(6)}
    documents = {f"d{i}": ([f"e{j}" for j in rng.choice(6, size=i % 4, replace=False)], rng.normal(size=5)) for i in range(12)}
    found = gaps.nearest_shown(
        spark.createDataFrame(
            [(id_, of, v.tolist()) for id_, (of, v) in documents.items()],
            "doc_id string, example_ids array<string>, embedding array<float>",
        ),
        spark.createDataFrame([(i, v.tolist()) for i, v in vectors.items()], "example_id string, embedding array<float>"),
    ).collect()
    assert {row["doc_id"] for row in found} == {id_ for id_, (of, _) in documents.items() if of}
    for row in found:
        of, vector = documents[row["doc_id"]]
        cosines = {e: cosine(vectors[e], vector) for e in of}
        assert row["nearest_example_id"] == max(of, key=lambda e: cosines[e])
        assert row["similarity"] == pytest.approx(max(cosines.values()), abs=1e-6)


def cosine(a: Any, b: Any) -> float:
    x, y = np.asarray(a, float), np.asarray(b, float)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


# -- on the tables of a finished run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("looped")
    asked = [
        {"query": f"Question: what is number {i}?\nAnswer:", "choices": [f"it is {i}", "none"], "gold": 0, "split": "validation"}
        for i in range(8)
    ]
    held_out = write_lines(folder / "numbers.jsonl", asked)
    config = loop_house(
        folder, finished[0], held_out=(f"numbers={held_out}",), questions=None, sizes=("32x1x2",), models=2,
        train_tokens=3_000, vocabulary=400,
    )  # fmt: skip
    return config, pipeline.close_loop(config, spark=spark)


def frame(spark: SparkSession, config: LoopConfig, spec: TableSpec) -> list[Row]:
    return Tables(spark, config.tables).read(spec).collect()


def roots(spark: SparkSession, config: LoopConfig) -> tuple[Tables, Tables, Tables]:
    """The main line's, BARE's, and the synthetic documents'."""
    row = frame(spark, config, LOOP_ROUNDS)[0]
    return tuple(Tables(spark, root) for root in (config.tables, row["bare_tables"], row["synthetic_tables"]))  # type: ignore[return-value]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_the_main_line_is_left_as_it_was(
    made: Made, finished: tuple[Path, dict[str, Any]], spark: SparkSession
) -> None:
    config, _ = made
    before, after = Tables(spark, str(finished[0] / "tables")), Tables(spark, config.tables)
    for spec in MAIN:
        assert rows_hash(after, spec) == rows_hash(before, spec), spec.name
    again = betr.run(betr_settings(finished[0], tables=config.tables), spark=spark)
    assert {stage["state"] for stage in again["stages"]} == {"unchanged"}


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_every_synthetic_document_is_traced_to_gaps_that_it_was_shown(made: Made, spark: SparkSession) -> None:
    config, report = made
    tables, _, synthetic = roots(spark, config)
    documents, rows = frame(spark, config, LOOP_DOCUMENTS), frame(spark, config, LOOP_GAPS)
    texts = {row["doc_id"]: row for row in synthetic.read(DOCUMENTS).collect()}
    vectors = {row["doc_id"]: row["embedding"] for row in synthetic.read(SAMPLE_EMBEDDINGS).collect()}
    examples = {row["example_id"]: row["embedding"] for row in tables.read(BENCHMARK_EMBEDDINGS).collect()}
    assert len(documents) > 12 and {row["source"] for row in texts.values()} == {"synthetic"}
    for document in documents:
        marked = {row["example_id"]: row for row in rows if row["round"] == document["made_in"]}
        of = document["example_ids"]
        assert len(of) == 2 and all(marked[e]["gap"] and marked[e]["shown"] and not marked[e]["held_back"] for e in of)
        cosines = {e: cosine(examples[e], vectors[document["doc_id"]]) for e in of}
        assert document["similarity"] == pytest.approx(max(cosines.values()), abs=1e-6)
        assert document["doc_id"] in texts and texts[document["doc_id"]]["metadata"]["draft_id"] == document["draft_id"]
    for row in rows:  # what is nearest now: the selected documents beside the nearest real one
        chosen = [d["doc_id"] for d in documents if d["round"] == row["round"] and d["selected"]]
        near = max((cosine(examples[row["example_id"]], vectors[id_]) for id_ in chosen), default=-1.0)
        assert row["after"] == pytest.approx(max(row["real"], near), abs=1e-6)
        assert (row["doc_id"] is None) == (row["after"] == row["real"])
    by_round = {(row["round"], row["example_id"]): row for row in rows}
    for (round_, id_), row in by_round.items():
        assert row["before"] == (by_round[round_ - 1, id_]["after"] if round_ else row["real"])
    for round_ in (0, 1):
        mine = sorted((r for r in rows if r["round"] == round_), key=lambda r: (r["before"], r["example_id"]))
        assert [r["gap"] for r in mine] == [True] * config.count + [False] * (len(mine) - config.count)
    assert report["rounds"][-1]["documents"] == len(texts)


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_of_what_reaches_the_real_cut_the_best_are_selected_up_to_the_cap(
    made: Made, spark: SparkSession, tmp_path: Path
) -> None:
    config, _ = made
    (real,) = frame(spark, config, SELECTION_RUNS)
    for round_ in sorted(frame(spark, config, LOOP_ROUNDS), key=lambda row: int(row["round"])):
        mine = [d for d in frame(spark, config, LOOP_DOCUMENTS) if d["round"] == round_["round"]]
        left, out = int(round_["cap_tokens"]), False
        for d in sorted(mine, key=lambda d: (-d["score"], d["doc_id"])):
            reaches = (-d["score"], d["doc_id"]) <= (-real["threshold"], real["threshold_id"])
            out = out or not reaches or d["tokens"] > left
            left -= 0 if out else d["tokens"]
            assert d["reason"] == ("below_cut" if not reaches else "over_cap" if out else None)
            assert d["selected"] == (d["reason"] is None)
        tokens = sum(d["tokens"] for d in mine if d["selected"])
        assert tokens == round_["selected_tokens"] <= config.most_synthetic * (tokens + real["kept_tokens"])
        assert round_["selected"] + round_["below_cut"] + round_["over_cap"] == len(mine) == round_["documents"]
    assert {d["reason"] for d in frame(spark, config, LOOP_DOCUMENTS)} == {None, "below_cut", "over_cap"}
    # What was selected leaves the house as any selection does, beside the real one.
    synthetic = RunConfig(tables=roots(spark, config)[2].root)
    found = betr.export_selection(synthetic, ExportConfig(), str(tmp_path / "out"), selection="loop", spark=spark)
    assert found["records"] == round_["selected"]


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_models_with_and_without_are_compared_at_equal_tokens_and_the_page_says_it(made: Made, spark: SparkSession) -> None:
    config, report = made
    runs = frame(spark, config, PROXY_RUNS)
    assert sorted((run["arm"], run["seed"]) for run in runs) == [
        ("real", 0), ("real", 1), ("real+synthetic", 0), ("real+synthetic", 1),
    ]  # fmt: skip
    assert len({run["tokens"] for run in runs}) == 1
    page = Path(report["page"]).read_text()
    assert "real+synthetic" in page and "What models make of it" in page


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_a_second_loop_writes_nothing_and_says_the_same(made: Made, spark: SparkSession) -> None:
    config, report = made

    def versions() -> list[int | None]:
        return [t.version(spec) for t in roots(spark, config) for spec in (*MAIN, *OURS, PROXY_RUNS)]

    before = versions()
    again = pipeline.close_loop(config, spark=spark)
    assert versions() == before
    assert {k: v for k, v in again.items() if k != "warnings"} == {k: v for k, v in report.items() if k != "warnings"}


class Killed(BaseException):
    """What nobody catches, as a process that is gone."""


def dying(write: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """A table write that dies, before it or after, when so many have been."""

    def written(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        done = write(*args, **kwargs)
        if left[0] == -1:
            raise Killed
        return done

    return written


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_killed_at_any_of_its_writes_a_loop_ends_with_the_same_tables(
    made: Made, finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = made
    same = {name: getattr(config, name) for name in ("task", "base", "instruct")}
    questions = config.held_out[0].partition("=")[2]
    there = loop_house(tmp_path, finished[0], **same, tests=(questions,), rounds=1)  # so that BARE's rows are the same
    write, kills = Tables._write, 0
    for step in kinds():
        monkeypatch.setattr(Tables, "_write", dying(write, [step]))
        try:
            pipeline.close_loop(there, spark=spark)
            break
        except Killed:
            kills += 1
    monkeypatch.setattr(Tables, "_write", write)
    pipeline.close_loop(there, spark=spark)
    assert kills >= 3
    for spec in OURS:
        ours, theirs = (told(spark, each, spec) for each in (there, config))
        assert ours == theirs, spec.name


def told(spark: SparkSession, config: LoopConfig, spec: TableSpec) -> list[str]:
    """The first round's rows of a table, without what a run says of itself."""
    rows = (row.asDict() for row in frame(spark, config, spec) if row["round"] == 0)
    return sorted(str({name: value for name, value in row.items() if name not in UNLIKE}) for row in rows)


def kinds() -> Iterator[int]:
    """After how many writes each run dies: some in every step."""
    yield from (3, 9, 12, 14, 40)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_what_a_loop_can_not_start_from_is_one_sentence(
    made: Made, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = made
    other = tmp_path / "maths.yaml"
    other.write_text(Path(config.task).read_text().replace("{name: text,", "{name: proof, columns: [proof],"))
    for changed, message in (
        ({"tables": str(tmp_path / "none")}, "has no result of the stage 'select' yet: run `betr select` first"),
        ({"benchmark": "none"}, "--benchmark none: there is none; there are arc_easy, openbookqa"),
        ({"base": "scripted:nowhere.json"}, "script nowhere.json can't be read"),
        ({"tests": ("nowhere.jsonl",)}, "nowhere.jsonl does not exist; check the path"),
        ({"count": 1, "hold_back": 0.99}, "leaves none of the 1 gaps to show to a model; lower it, or raise --count"),
        ({"task": str(other)}, "none of the 3 rows is an example of task statements"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            pipeline.close_loop(dataclasses.replace(config, **changed), spark=spark)
    from curation import embedding

    resolve = embedding.resolve_encoder
    monkeypatch.setattr(embedding, "resolve_encoder", lambda c: dataclasses.replace(resolve(c), encoder_id="other"))
    with pytest.raises(InputError, match="synthetic documents can't be held against them; put it back, or run `betr run`"):
        pipeline.close_loop(config, spark=spark)


@pytest.mark.night
@pytest.mark.slow
@pytest.mark.processes
def test_where_bare_accepts_nothing_the_loop_goes_on_and_says_so(made: Made, spark: SparkSession, tmp_path: Path) -> None:
    config, _ = made
    shutil.copytree(Path(config.tables), tmp_path / "tables", ignore=shutil.ignore_patterns("loop*", "proxies", "pages"))
    there = loop_settings(tmp_path, rounds=1, bare=("attempts=1",), accepted=2, base=config.base, instruct="scripted:no")
    (tmp_path / "no.json").write_text('["no item"]')
    there = dataclasses.replace(there, instruct=f"scripted:{tmp_path / 'no.json'}")
    found = pipeline.close_loop(there, spark=spark)
    assert found["rounds"][0]["documents"] == found["rounds"][0]["selected"] == 0 and found["judged"] is None
    assert any("BARE accepted none of" in warning for warning in found["warnings"])
    assert "No synthetic document is in the selection" in Path(found["page"]).read_text()
