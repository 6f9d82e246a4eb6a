"""Decontamination: hits and pieces against a character-by-character reference, and what a selection makes of them."""

import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from betr import contamination, corpus, pipeline, show
from betr.config import RunConfig
from betr.export import records
from betr.run import Run
from betr.tables import CORPUS_SCORES, DECONTAMINATED_CHUNKS, DOCUMENTS, SELECTION_RUNS, SELECTIONS
from curation.decontamination import (
    CONTAMINATED_DOCUMENTS,
    CONTAMINATION_HITS,
    DecontaminationConfig,
    TestSet,
    contaminated_documents,
    find_hits,
    parse_decontamination,
    pieces_of,
)
from curation.errors import InputError
from curation.progress import Terminal
from curation.session import share
from curation.tables import Tables
from tests.helpers import commits, demo_documents, settings, write_lines

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

CONFIG = DecontaminationConfig(shortest=3, longest=4, margin=5, most_cuts=3, commonest=25, shortest_piece=4)
TESTS = {"t1": ("one two three four five", "arc"), "t2": ("six seven eight", "boolq"), "t3": ("a common run", "arc")}


def documents(count: int = 60) -> dict[str, str]:
    """Random words among which the tests' runs stand, some often."""
    random = np.random.default_rng(3)
    runs = [*(text for text, _ in TESTS.values()), "two three four", "five six seven"]
    made = {}
    for number in range(count):
        parts = ["".join(random.choice(list("xyz"), 4)) for _ in range(random.integers(2, 30))]
        for _ in range(random.integers(0, 4)):
            parts.insert(random.integers(len(parts) + 1), runs[random.integers(len(runs))])
        made[f"d{number:02d}"] = ", ".join(parts)
    made["many"] = " wwww ".join(["ppppp ppppp six seven eight qqqqq qqqqq"] * 5)
    made["short"] = "x six seven eight y"
    return made


def reference(texts: dict[str, str], config: DecontaminationConfig) -> dict[str, tuple[Any, ...]]:
    """doc_id -> (verdict, reason, hits, cuts, the texts that are left, test sets), one character at a time."""
    grams: dict[tuple[str, ...], str] = {}
    for _, (text, test_set) in sorted(TESTS.items()):
        test = text.split()
        n = min(len(test), config.longest)
        for at in range(len(test) - n + 1):
            grams.setdefault(tuple(test[at : at + n]), test_set)
    found: dict[str, list[tuple[int, int, tuple[str, ...]]]] = {}
    for doc_id, text in texts.items():
        spans = [(m.start(), m.end(), m[0]) for m in re.finditer(r"\w+", text)]
        for n in range(config.shortest, config.longest + 1):
            for at in range(len(spans) - n + 1):
                gram = tuple(word for *_, word in spans[at : at + n])
                if gram in grams:
                    found.setdefault(doc_id, []).append((spans[at][0], spans[at + n - 1][1], gram))
    often = Counter(gram for hits in found.values() for *_, gram in hits)
    judged = {}
    for doc_id, hits in found.items():
        counting = [hit for hit in hits if often[hit[2]] <= config.commonest]
        if not counting:
            continue
        text, cut = texts[doc_id], [False] * len(texts[doc_id])
        for start, end, _ in counting:
            for at in range(max(0, start - config.margin), min(len(text), end + config.margin)):
                cut[at] = True
        marks = "".join("x" if c else "." for c in cut)
        cuts = len(re.findall("x+", marks))
        left = [text[m.start() : m.end()] for m in re.finditer(r"\.+", marks) if len(m[0]) >= config.shortest_piece]
        reason = "too_many_cuts" if cuts > config.most_cuts else None if left else "nothing_left"
        sets = sorted({grams[gram] for *_, gram in counting})
        judged[doc_id] = ("dropped" if reason else "cut", reason, len(counting), cuts, [] if reason else left, sets)
    return judged


@pytest.mark.parametrize("partitions", [1, 5])
def test_what_is_left_of_each_document_is_that_of_the_reference(spark: SparkSession, partitions: int) -> None:
    texts = documents()
    frame = spark.createDataFrame([("c", *item) for item in texts.items()], "chunk string, doc_id string, text string")
    shared = share(spark, TestSet.of(list(TESTS), [s for _, s in TESTS.values()], [t for t, _ in TESTS.values()], CONFIG))
    hits = find_hits(frame.repartition(partitions), tests=shared)
    judged = contaminated_documents(hits, CONFIG).join(frame, "doc_id")
    left = judged.withColumn("left", pieces_of("text", "pieces")).collect()
    found = {r["doc_id"]: (r["verdict"], r["reason"], r["hits"], r["cuts"], r["left"], r["test_sets"]) for r in left}
    assert found == reference(texts, CONFIG)
    assert {reason for _, reason, *_ in found.values()} == {None, "too_many_cuts", "nothing_left"}
    assert all(r["kept_characters"] == sum(map(len, r["left"])) and r["characters"] == len(r["text"]) for r in left)
    for row in hits.collect():
        assert texts[row["doc_id"]][row["start"] : row["end"]] == row["shared"]
        assert re.sub(r"\W+", " ", row["shared"]) in TESTS[row["test_id"]][0]


def test_a_document_that_is_whole_is_one_piece(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("ä whole text",)], "text string")
    nothing = F.lit(None).cast("array<struct<start:int,end:int>>")
    assert frame.select(pieces_of("text", nothing)).first() == (["ä whole text"],)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["margins=3"], "reads NAME=NUMBER with a whole number; got 'margins=3'; names are shortest, longest, margin"),
        (["margin=-1"], "got 'margin=-1'"),
        (["shortest=14"], "--decontamination needs 1 <= shortest <= longest; got 14 and 13"),
        (["commonest=0"], "--decontamination commonest must be at least 1; got 0"),
    ],
)
def test_settings_that_say_nothing_are_refused(given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        parse_decontamination(given)


# -- in a run ----------------------------------------------------------------------------------------------------------

DECONTAMINATION = ("margin=40", "shortest_piece=50", "most_cuts=2")


def quotable() -> list[dict[str, Any]]:
    """Documents that are long enough for a test to quote them."""
    return [row for row in demo_documents(0, 30) if len(row["text"].split()) >= 30]


def test_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a test set that quote documents, long ones in their middle: as a question, or in a nested field."""
    texts = [row["text"].split() for row in rows]
    quoted = [" ".join(text[30:45] if len(text) >= 70 else text[10:30]) for text in texts]
    return [{"question": q} if i % 2 else {"id": "1", "doc": {"choices": ["no", q]}} for i, q in enumerate(quoted)]


test_rows.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def searched(finished: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, spark: SparkSession) -> Any:
    """The finished run's tables, searched for tests that quote some of its documents, and cut anew."""
    folder = tmp_path_factory.mktemp("searched")
    shutil.copytree(finished[0] / "tables", folder / "tables")
    tests = write_lines(folder / "held_out_test.jsonl", test_rows(quotable()))
    config = settings(
        finished[0], tables=str(folder / "tables"), tests=(str(tests),), decontamination=DECONTAMINATION, name="clean")
    return config, pipeline.run(config, spark=spark)


@pytest.mark.slow
def test_a_selection_holds_what_the_tests_leave(searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession) -> None:
    config, report = searched
    tables = Tables(spark, config.tables)
    judged = {row["doc_id"]: row for row in tables.read(CONTAMINATED_DOCUMENTS).collect()}
    assert {row["id"] for row in quotable()} <= set(judged)
    scores = {row["doc_id"]: row for row in tables.read(CORPUS_SCORES).collect()}
    share = {doc: row["kept_characters"] / row["characters"] for doc, row in judged.items()}
    left = {
        doc: int(row["tokens"] * share.get(doc, 1.0) + 0.5)
        for doc, row in scores.items() if doc not in judged or judged[doc]["verdict"] == "cut"
    }  # fmt: skip
    cut = report["selection"]
    assert (cut["documents"], cut["tokens"]) == (len(left), sum(left.values()))
    made = tables.read(SELECTION_RUNS).where(f"selection_id = '{cut['selection_id']}'").first()
    assert made is not None
    in_order = sorted(left, key=lambda doc: (-scores[doc]["score"], doc))
    kept, tokens = set(), 0
    for doc in in_order:
        if tokens + left[doc] > made["budget_tokens"]:
            break
        kept.add(doc)
        tokens += left[doc]
    rows = tables.read(SELECTIONS).where(f"selection_id = '{cut['selection_id']}'").collect()
    assert {row["doc_id"] for row in rows} == kept and cut["kept_tokens"] == tokens
    assert {row["verdict"] for row in judged.values()} == {"cut", "dropped"}


@pytest.mark.night
@pytest.mark.slow
def test_an_export_holds_the_pieces_and_the_tokens_that_the_selection_counts(
    searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession
) -> None:
    config, report = searched
    run = Run(config, spark, Terminal())
    judged = {row["doc_id"]: row for row in run.tables.read(CONTAMINATED_DOCUMENTS).collect()}
    texts: dict[str, str] = dict(run.tables.read(DOCUMENTS).select("doc_id", "text").collect())
    selected = run.tables.read(SELECTION_RUNS).where("name = 'clean'").first()
    assert selected is not None
    wanted = {}
    for row in run.tables.read(SELECTIONS).where(f"selection_id = '{selected['selection_id']}'").collect():
        doc, text = row["doc_id"], texts[row["doc_id"]]
        if doc not in judged:
            wanted[doc] = text
        else:
            pieces = [text[piece["start"] : piece["end"]] for piece in judged[doc]["pieces"]]
            wanted |= {f"{doc}#{number}": piece for number, piece in enumerate(pieces)}
    rows = records(run, selected).collect()
    assert {row["id"]: row["text"] for row in rows} == wanted and len(rows) == len(wanted)
    assert any(id_.endswith("#1") for id_ in wanted)
    assert sum(row["tokens"] for row in rows) == report["selection"]["kept_tokens"]
    whole = {row["id"]: row["bytes"] for row in rows if "#" not in row["id"]}
    assert whole == {id_: len(wanted[id_].encode()) for id_ in whole}


@pytest.mark.night
@pytest.mark.slow
def test_searched_once_it_holds_on_until_documents_come(
    searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession
) -> None:
    config, report = searched
    hits = Tables(spark, config.tables).version(CONTAMINATION_HITS)
    again = pipeline.run(dataclasses.replace(config, tests=(), decontamination=()), spark=spark)
    assert again["selection"]["selection_id"] == report["selection"]["selection_id"]
    assert {each["stage"]: each["state"] for each in again["stages"]}["decontaminate"] == "unchanged"
    assert Tables(spark, config.tables).version(CONTAMINATION_HITS) == hits
    without = pipeline.run_stage("select", dataclasses.replace(config, tests=("none",), name="all"), spark=spark)
    assert without["selection"]["tokens"] > report["selection"]["tokens"]
    with pytest.raises(InputError, match="other test sets than the corpus was searched for"):
        pipeline.run_stage("select", dataclasses.replace(config, tests=("other.jsonl",)), spark=spark)
    run = Run(config, spark, Terminal())
    with pytest.raises(InputError, match="documents came since"):
        contamination.applied(run, corpus.key(run) + "later")


@pytest.mark.night
@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_with_the_chunks_that_are_missing(
    searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = searched
    shutil.copytree(config.tables, tmp_path / "tables")
    # Another length of n-grams: nothing of it is there.
    other = dataclasses.replace(config, tables=str(tmp_path / "tables"), decontamination=("shortest=9", "margin=40"))
    monkeypatch.setattr(corpus, "WAVE_BYTES", 1)
    find = contamination.find_hits
    seen: list[int] = []

    def dies(*given: Any, **how: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return find(*given, **how)

    monkeypatch.setattr(contamination, "find_hits", dies)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_stage("decontaminate", other, spark=spark)
    tables = Tables(spark, other.tables)
    assert tables.read(CONTAMINATED_DOCUMENTS).select("decontamination_id").distinct().count() == 1
    report = pipeline.run_stage("decontaminate", other, spark=spark)
    assert [each["state"] for each in report["stages"]] == ["resumed"]
    chunks = Tables(spark, other.tables).read(DOCUMENTS).select("chunk").distinct().count()
    assert len(seen) == 1 + chunks and chunks >= 3  # one before it died, the second twice
    tables = Tables(spark, other.tables)
    read = tables.read(DECONTAMINATED_CHUNKS).groupBy("tests_id").agg(F.count("*"), F.sum("documents")).collect()
    assert sorted(tuple(row)[1:] for row in read) == [(chunks, 600)] * 2
    hits = tables.read(CONTAMINATION_HITS).groupBy("tests_id").agg(F.count("*"), F.count_distinct("doc_id")).collect()
    assert len({tuple(row)[1:] for row in hits}) == 1  # every quotation has 20 words: the same hits by either


@pytest.mark.night
@pytest.mark.slow
def test_why_a_document_is_cut_is_told(searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession) -> None:
    config, _ = searched
    rows = {r["verdict"]: r for r in Tables(spark, config.tables).read(CONTAMINATED_DOCUMENTS).orderBy("doc_id").collect()}
    for verdict, said in (("cut", "cut to "), ("dropped", "dropped: it shares")):
        told = show.explain(config, rows[verdict]["doc_id"], spark=spark, terminal=Terminal())
        by_name = {each["name"]: each["shared"] for each in told["selections"]}
        assert by_name["clean"].startswith(said) and "held_out_test" in by_name["clean"] and by_name["default"] == ""
    (found,) = show.show(config, "contamination", spark=spark, terminal=Terminal())
    # Of tests that share an n-gram the first is named.
    assert found["test_set"] == "held_out_test" and 20 < found["tests"] <= len(quotable()) <= found["documents"]


def test_a_test_row_that_cannot_be_read_stops_the_search(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, spark: SparkSession
) -> None:
    broken = tmp_path / "arc.jsonl"
    broken.write_text(json.dumps({"question": "fine"}) + "\n{\n")
    shutil.copytree(finished[0] / "tables", tmp_path / "tables")
    config = settings(finished[0], tables=str(tmp_path / "tables"), tests=(str(broken),))
    with pytest.raises(InputError, match=r"test file .*arc\.jsonl, line 2: .*; correct it"):
        pipeline.run_stage("decontaminate", config, spark=spark)
    with pytest.raises(InputError, match=r"--tests: the corpus wasn't searched for them yet: run `betr decontaminate"):
        pipeline.run_stage("select", config, spark=spark)


@pytest.mark.night
@pytest.mark.slow
def test_a_release_is_a_table_that_nothing_writes_again(
    searched: tuple[RunConfig, dict[str, Any]], spark: SparkSession
) -> None:
    config, report = searched
    done = pipeline.release_selection(config, "clean", name="monday", spark=spark)
    table = Path(config.tables) / "release_monday"
    rows = spark.read.format("delta").load(str(table))
    assert rows.agg(F.sum("tokens")).first() == (report["selection"]["kept_tokens"],)
    assert done["records"] == rows.count() and {row["selection_id"] for row in rows.collect()} == {done["selection_id"]}
    again = pipeline.release_selection(config, "clean", name="monday", spark=spark)
    assert again == {**done, "state": "unchanged"} and commits(table) == 1
    with pytest.raises(InputError, match=r"release monday holds the selection .* and is never written again"):
        pipeline.release_selection(config, "default", name="monday", spark=spark)
    with pytest.raises(InputError, match="small letters, digits and _; got 'On Monday'"):
        pipeline.release_selection(config, "clean", name="On Monday", spark=spark)
