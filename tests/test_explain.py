"""Explanations: rank against a plain sort, verdicts against the selections, and what a person reads."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from rich.console import Console

from betr.explain import Explanation, as_json, explain_document, rank_of, render_explanation
from betr.selection import SELECTION_RUNS, SELECTIONS, SelectionConfig, select, selection_id
from curation.errors import InputError

ROWS = [(f"d{i:02d}", ((i * 7) % 5) / 5, 10, "wiki" if i % 4 else "web") for i in range(30)]
CONFIGS = [
    SelectionConfig(keep=0.2, name="hard"),
    SelectionConfig(keep=0.2, name="soft", mode="soft", seed=5),
    SelectionConfig(keep=0.4, name="quota", quotas=("source=web:0.5",)),
    SelectionConfig(keep=0.3, name="share", quotas=("head=arc:0.5", "head=boolq:0.2")),
]
HEADS = {d: {"arc": (i % 4) / 4, "boolq": (i % 3) / 4} for i, (d, *_) in enumerate(ROWS)}


@pytest.fixture(scope="module")
def tables(spark: SparkSession) -> dict[str, DataFrame]:
    scores = spark.createDataFrame(
        [(*row, HEADS[row[0]]) for row in ROWS],
        "doc_id string, score double, tokens bigint, source string, heads map<string,double>")
    selected, runs = [], []
    for config in CONFIGS:
        selection = select(
            scores, config, classifier_id="c", selection_id=selection_id("s", config), heads=("arc", "boolq"))
        selected += [tuple(r) for r in selection.rows.collect()]
        row = selection.run_row(version=1, run_id="r", created="2025-01-01T00:00:00Z")
        runs.append(tuple(row[name] for name in SELECTION_RUNS.struct(spark).names))
    documents = [(d, f"text of {d}", source, {"k": "v"}) for d, _, _, source in ROWS]
    return {
        "documents": spark.createDataFrame(
            documents, "doc_id string, text string, source string, metadata map<string,string>"),
        "scores": scores,
        "selection_runs": spark.createDataFrame(runs, SELECTION_RUNS.schema),
        "selections": spark.createDataFrame(selected, SELECTIONS.schema),
        "labels": spark.createDataFrame(
            [("d04", 3, "e1", 0.75, 1), ("d05", None, None, None, 0)],
            "doc_id string, best_rank int, nearest_example_id string, similarity float, label int"),
        "examples": spark.createDataFrame(
            [("e1", "arc_easy", "Why is the sky blue?")], "example_id string, benchmark string, text string"),
        "duplicates": spark.createDataFrame(
            [("copy", "d04", "b.jsonl", 9)], "doc_id string, duplicate_of string, file string, row bigint"),
        "rejected": spark.createDataFrame(
            [("a.jsonl", 7, "empty", "the id 'gone' has an empty text")],
            "file string, row bigint, reason string, detail string"),
    }


def contributions(text: str) -> list[tuple[str, float]]:
    return [("of", -0.1), ("text", 0.4), (text, 0.2)]


def explained(tables: dict[str, DataFrame], doc_id: str) -> Explanation:
    return explain_document(doc_id, **tables, contributions=contributions)  # type: ignore[arg-type]


@pytest.mark.connect
def test_rank_is_the_place_in_a_plain_sort(tables: dict[str, DataFrame]) -> None:
    order = [d for d, *_ in sorted(ROWS, key=lambda r: (-r[1], r[0]))]
    for place in (0, 7, 29):
        assert rank_of(tables["scores"], order[place]) == (place + 1, 30)


@pytest.fixture(scope="module")
def d04(tables: dict[str, DataFrame]) -> Explanation:
    return explained(tables, "d04")


@pytest.mark.connect
@pytest.mark.parametrize("doc_id", ["d04", "d02"])
def test_verdicts_agree_with_the_selections(tables: dict[str, DataFrame], d04: Explanation, doc_id: str) -> None:
    """A document's key stands on the side of its threshold that the selection put it on."""
    found = d04 if doc_id == "d04" else explained(tables, doc_id)
    chosen = {r["selection_id"] for r in tables["selections"].where(f"doc_id = '{doc_id}'").collect()}
    assert [v.name for v in found.selections] == ["hard", "quota", "share", "soft"]
    for verdict in found.selections:
        assert verdict.selected == (verdict.selection_id in chosen)
        assert verdict.threshold is not None
        assert verdict.key >= verdict.threshold if verdict.selected else verdict.key <= verdict.threshold
    quota, share = found.selections[1].quota, found.selections[2].quota
    assert quota == ("source=web" if int(doc_id[1:]) % 4 == 0 else "")
    assert share == {"d04": "head=boolq", "d02": "head=arc"}[doc_id]  # 0 against 1/4, and two halves


def test_sampled_document_names_its_nearest_example(d04: Explanation) -> None:
    found = d04
    assert found.sampled is not None
    assert (found.sampled.best_rank, found.sampled.example_id, found.sampled.benchmark) == (3, "e1", "arc_easy")
    assert found.sampled.text == "Why is the sky blue?"
    assert found.contributions == (("text", 0.4), ("text of d04", 0.2), ("of", -0.1))
    shown = text_of(found)
    for piece in ("document d04", "rank 3 for the example e1 of arc_easy, similarity 0.7500", "Why is the sky blue?",
                  f"rank {found.rank} of 30", "+0.4000", "-0.1000", "by head: boolq 0.250000, arc 0.000000"):
        assert piece in shown


@pytest.mark.connect
def test_document_beyond_k_or_outside_the_sample_says_so(tables: dict[str, DataFrame], d04: Explanation) -> None:
    assert "no task example ranks it among its nearest" in text_of(explained(tables, "d05"))
    assert "not in the sample" in text_of(dataclasses.replace(d04, sampled=None))


def test_json_holds_the_whole_explanation(d04: Explanation) -> None:
    told: dict[str, Any] = json.loads(json.dumps(as_json(d04)))
    assert told["doc_id"] == "d04"
    assert told["sampled"]["benchmark"] == "arc_easy"
    assert len(told["selections"]) == 4
    assert told["heads"] == {"arc": 0.0, "boolq": 0.25}


def test_id_that_is_not_there_is_refused_with_what_became_of_it(tables: dict[str, DataFrame]) -> None:
    with pytest.raises(InputError, match=r"'copy' \(b.jsonl row 9\) is a duplicate of 'd04'"):
        explained(tables, "copy")
    with pytest.raises(InputError, match=r"no document 'gone'; a.jsonl row 7 was rejected: empty"):
        explained(tables, "gone")
    with pytest.raises(InputError, match=r"no document 'nowhere' in the table documents"):
        explained(tables, "nowhere")
    unscored = {**tables, "scores": tables["scores"].where("doc_id <> 'd01'")}
    with pytest.raises(InputError, match=r"'d01' has no score by this classifier yet: run `betr score` first"):
        explained(unscored, "d01")


def text_of(explanation: Explanation) -> str:
    file = io.StringIO()
    Console(file=file, width=160).print(render_explanation(explanation))
    return file.getvalue()
