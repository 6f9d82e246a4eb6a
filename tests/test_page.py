"""A selection's page: its figures against rows counted one by one, its words against its figures, and what is escaped."""

import dataclasses
import json
import math
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from betr import figures, pages, pipeline, stages
from betr.config import RunConfig
from betr.figures import CalibrationBin, ScoreBin, SelectionFigures, calibration, other_cuts, score_bins, strata
from betr.report import rebinned, selection_page
from betr.run import Run
from betr.tables import CORPUS_SCORES, COVERAGE, DOCUMENTS, SAMPLE_LABELS, SELECTIONS
from curation.frames import driver_rows
from curation.progress import Terminal
from curation.statistics import wilson
from curation.tables import Tables
from tests.helpers import settings
from tests.test_bare_report import Reader as PageReader

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

JUDGED = "by_score double, tokens bigint, kept boolean, source string"


class Reader(PageReader):
    """A page's text and its tags, and what it would load."""

    def __init__(self, page: str) -> None:
        self.loads: list[str] = []
        super().__init__(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]


@pytest.fixture(scope="module")
def run(finished: tuple[Path, dict[str, Any]], spark: SparkSession) -> Run:
    return Run(settings(finished[0]), spark, Terminal())


@pytest.fixture(scope="module")
def found(run: Run) -> SelectionFigures:
    return figures.gather(run, by=("metadata.domain",))


def test_every_count_of_the_page_is_that_of_the_rows(found: SelectionFigures, run: Run, finished: Any) -> None:
    read = run.tables.read
    selected = {row["doc_id"] for row in read(SELECTIONS).collect()}
    scores = {row["doc_id"]: row for row in read(CORPUS_SCORES).collect()}
    domains = {row["doc_id"]: row["metadata"]["domain"] for row in read(DOCUMENTS).select("doc_id", "metadata").collect()}
    kept_tokens = sum(scores[doc]["tokens"] for doc in selected)
    assert (found.selection["kept_documents"], found.selection["kept_tokens"]) == (len(selected), kept_tokens)
    assert sum(each.documents for each in found.bins) == len(scores)
    assert sum(each.kept_documents for each in found.bins) == len(selected)
    assert sum(each.kept_tokens for each in found.bins) == kept_tokens
    for name, value_of in (("source", lambda doc: scores[doc]["source"]), ("metadata.domain", domains.get)):
        expected, kept = Counter(map(value_of, scores)), Counter(map(value_of, selected))
        tokens = Counter()  # type: ignore[var-annotated]
        for doc, row in scores.items():
            tokens[value_of(doc)] += row["tokens"]
        assert {each.value: (each.documents, each.kept_documents, each.tokens) for each in found.by[name]} == {
            value: (count, kept[value], tokens[value]) for value, count in expected.items()
        }
        assert sum(each.share for each in found.by[name]) == pytest.approx(1)
        assert sum(each.kept_share for each in found.by[name]) == pytest.approx(1)
    assert found.imported["documents"] == len(domains) and found.sampled == read(SAMPLE_LABELS).count()
    assert found.classifier["classifier_id"] == finished[1]["classifier"]["classifier_id"]
    covered = read(COVERAGE).collect()
    assert sum(each.examples for each in found.coverage) == len(covered) == sum(found.benchmarks.values())
    assert [gap.similarity for gap in found.gaps] == sorted(row["similarity"] for row in covered)[: len(found.gaps)]
    assert {each["stage"] for each in found.costs} == set(pipeline.STAGES) - {"watch", "deduplicate", "decontaminate"}


def test_the_documents_shown_stand_at_their_places_with_their_tasks(found: SelectionFigures, run: Run) -> None:
    scores = {row["doc_id"]: row["score"] for row in run.tables.read(CORPUS_SCORES).collect()}
    selected = {row["doc_id"] for row in run.tables.read(SELECTIONS).collect()}
    nearest = {row["doc_id"]: row["similarity"] for row in run.tables.read(SAMPLE_LABELS).where("nearest_example_id is not null").collect()}
    by_place = {place: [each for each in found.documents if each.place == place] for place in figures.PLACES}
    assert all(len(shown) == figures.DOCUMENTS_SHOWN for shown in by_place.values())
    sampled = [doc for doc in sorted(scores, key=lambda doc: (-scores[doc], doc)) if doc in nearest]
    kept, dropped = [d for d in sampled if d in selected], [d for d in sampled if d not in selected]
    assert [each.doc_id for each in by_place["at the top"]] == kept[:5]
    assert [each.doc_id for each in by_place["at the cut"]] == kept[::-1][:5]
    assert [each.doc_id for each in by_place["just below the cut"]] == dropped[:5]
    for each in found.documents:
        assert each.score == scores[each.doc_id] and each.similarity == nearest[each.doc_id]
        assert each.benchmark in found.benchmarks and each.example
        assert list(each.words) == sorted(each.words, key=lambda word: -word[1]) and all(value > 0 for _, value in each.words)


def test_calibration_is_that_of_the_documents_that_validated_the_classifier(found: SelectionFigures, run: Run) -> None:
    scores = {row["doc_id"]: row["score"] for row in run.tables.read(CORPUS_SCORES).collect()}
    labels = run.tables.read(SAMPLE_LABELS).where(stages.is_held_out(0)).collect()
    assert sum(each.documents for each in found.calibration) == len(labels) == found.classifier["validation_documents"]
    positives = sum(row["label"] for row in labels)
    weight = positives / (len(labels) - positives)
    bins: dict[int, list[Any]] = {}
    for row in labels:
        bins.setdefault(min(9, int(scores[row["doc_id"]] * 10)), []).append(row)
    for each, (_, rows) in zip(found.calibration, sorted(bins.items()), strict=True):
        good = sum(row["label"] for row in rows)
        assert each.documents == len(rows) and each.positives == good
        assert each.score == pytest.approx(sum(scores[row["doc_id"]] for row in rows) / len(rows))
        assert each.share == pytest.approx(good / (good + (len(rows) - good) * weight))
        assert each.low <= each.share <= each.high


def test_a_balanced_calibration_weighs_both_classes_alike(spark: SparkSession) -> None:
    rows = [(0.95, 1)] * 9 + [(0.95, 0)] * 9 + [(0.05, 1)] * 1 + [(0.05, 0)] * 81
    low, high = calibration(driver_rows(spark, rows, "score double, label int"))
    assert high.share == pytest.approx(9 / (9 + 9 / 9)) and low.share == pytest.approx(1 / (1 + 81 / 9))
    raw = wilson(9, 18)
    assert (high.low, high.high) == pytest.approx(tuple(share / (share + (1 - share) / 9) for share in raw))
    assert isinstance(low, CalibrationBin)
    assert calibration(driver_rows(spark, [(0.5, 1)], "score double, label int")) == ()


def test_scores_of_any_size_have_a_bin_and_other_cuts_come_near_the_exact_ones(spark: SparkSession) -> None:
    scores = [0.0, 1.0, 1.00001, 1e-9, 0.5, *(i / 5_000 for i in range(1, 5_000))]
    rows = [(score, 10 + i % 7, score > 0.8, "a") for i, score in enumerate(scores)]
    bins = score_bins(driver_rows(spark, rows, JUDGED))
    assert sum(each.documents for each in bins) == len(scores)
    assert sum(each.kept_tokens for each in bins) == sum(row[1] for row in rows if row[2])
    assert all(a.high <= b.low + 1e-9 for a, b in pairwise(bins))
    half = next(each for each in bins if each.low <= 0 < each.high)
    assert half.documents == sum(half.low <= math.log(s / (1 - s)) < half.high for s in scores if 0 < s < 1)
    total = sum(row[1] for row in rows)
    best_first = sorted(rows, reverse=True)
    for cut in other_cuts(bins):
        exact, tokens = 0, 0
        while tokens + best_first[exact][1] <= cut.keep * total:
            tokens += best_first[exact][1]
            exact += 1
        assert cut.documents == pytest.approx(exact, abs=0.012 * len(rows))
        assert cut.score == pytest.approx(best_first[exact][0], abs=0.013)
        assert cut.tokens == pytest.approx(cut.keep * total, abs=2)
    assert other_cuts(()) == ()


def test_the_largest_values_are_named_and_the_others_told_together(spark: SparkSession) -> None:
    rows = [(0.5, 100 - i, i % 2 == 0, f"s{i}" if i else None) for i in range(6)]
    kept = [row[1] for row in rows if row[2]]
    totals = (len(rows), sum(row[1] for row in rows), len(kept), sum(kept))
    found = strata(driver_rows(spark, rows, JUDGED), F.col("source"), totals=totals, most=3)
    assert [each.value for each in found] == ["(none)", "s1", "s2", "others"]
    assert found[-1].documents == 3 and found[-1].tokens == 97 + 96 + 95 and found[-1].kept_tokens == 96
    assert found[1].lift == 0 and found[0].lift == pytest.approx((100 / (100 + 98 + 96)) / (100 / sum(95 + i for i in range(6))))


def test_bins_of_the_chart_hold_all_tokens() -> None:
    fine = tuple(ScoreBin(k * 0.05, (k + 1) * 0.05, 1, k, 0, k % 2) for k in range(-100, 150) if k % 3)
    edges, everything, kept = rebinned(fine, most=60)
    assert len(edges) - 1 <= 60 and sum(everything) == sum(each.tokens for each in fine)
    assert sum(kept) == sum(each.kept_tokens for each in fine)
    assert edges[0] <= fine[0].low and edges[-1] >= fine[-1].high - 1e-9
    assert rebinned(()) == ([0.0, 1.0], [], [])


def test_the_page_says_the_answer_first_and_needs_nothing_else(found: SelectionFigures) -> None:
    page = selection_page(found)
    read = Reader(page)
    assert len(page.encode()) < 3_000_000
    assert all(where.startswith("#") for where in read.loads) and "script" not in read.tags
    assert read.tags.count("svg") >= 8
    kept, there = found.selection["kept_tokens"], found.selection["tokens"]
    assert f"Kept {kept:,} of {there:,} tokens" in read.text and "25.00% of the tokens were asked for" in read.text
    for place in figures.PLACES:
        assert place.capitalize() in read.text
    for gap in found.gaps:
        assert " ".join(gap.text.split()) in read.text
    assert found.selection["selection_id"] in read.text and found.classifier["sha256"] in read.text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"keep": None, "tokens": 1234}, "because 1,234 tokens were asked for"),
        ({"keep": None, "flops": 1e19}, "because for a training compute of 1e+19 FLOPs the paper's law (nemotron) keeps"),
        ({"mode": "soft", "temperature": 2.0}, "drawn at random in proportion to their odds (temperature 2)"),
    ],
)
def test_why_so_much_was_kept_is_said_as_it_was_asked_for(found: SelectionFigures, config: dict[str, Any], said: str) -> None:
    asked = dataclasses.replace(found.config, **config)
    assert said in Reader(selection_page(dataclasses.replace(found, config=asked))).text


def test_a_documents_markup_is_shown_and_not_run(found: SelectionFigures) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\ud800"
    shown = [dataclasses.replace(each, text=evil, example=evil, source=evil, words=((evil, 1.0),)) for each in found.documents]
    gaps = [dataclasses.replace(each, text=evil, nearest=evil) for each in found.gaps]
    by = {evil: tuple(dataclasses.replace(each, value=evil) for each in found.by["source"])}
    page = selection_page(dataclasses.replace(
        found, documents=tuple(shown), gaps=tuple(gaps), by={**by, "source": by[evil]}, benchmarks={evil: 1}
    ))  # fmt: skip
    read = Reader(page)
    assert not {"script", "img"} & set(read.tags) and "<script>alert(1)</script>" in read.text
    assert page.encode()


@pytest.mark.night
def test_a_run_ends_with_its_page_and_one_that_changes_nothing_leaves_it(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path
) -> None:
    shutil.copytree(finished[0] / "tables", tmp_path / "tables")
    given: RunConfig = dataclasses.replace(settings(finished[0]), tables=str(tmp_path / "tables"), page=None, by=("metadata.domain",))
    report = pipeline.run(given, spark=spark)
    page = Path(report["page"])
    assert page == tmp_path / "tables" / "pages" / f"selection-{report['selection']['selection_id']}.html"
    assert "metadata.domain" in page.read_text()
    page.write_text("as it was")
    assert pipeline.run(given, spark=spark)["page"] == str(page) and page.read_text() == "as it was"

    drawn = pipeline.draw_page(given, str(tmp_path / "elsewhere" / "page.html"), spark=spark)
    assert "In short" in (tmp_path / "elsewhere" / "page.html").read_text()
    assert json.loads(json.dumps(drawn))["selection"]["selection_id"] == report["selection"]["selection_id"]
    listed = pipeline.list_gaps(given, count=3, out=str(tmp_path / "seeds.jsonl"), spark=spark)
    seeds = [json.loads(line) for line in (tmp_path / "seeds.jsonl").read_text().splitlines()]
    assert [seed["example_id"] for seed in seeds] == [gap["example_id"] for gap in listed["gaps"]]
    assert all(seed["query"] for seed in seeds)  # the benchmark's own fields
    assert Tables(spark, given.tables).version(COVERAGE) == 0
    assert pages.place(Run(dataclasses.replace(given, page="none"), spark, Terminal())) is None
