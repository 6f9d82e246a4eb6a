"""Coverage against a slow, obvious reference; gaps as seeds that BARE reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from bare.tasks import load_task, read_seeds
from betr import coverage
from betr.benchmarks import example_text
from betr.coverage import COVERAGE, by_benchmark, cover, least_covered, seed_rows, write_seeds
from curation.errors import InputError
from curation.frames import driver_rows
from tests.helpers import write_lines

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

RANKS = "example_id string, doc_id string, rank int, similarity float"


def house(
    seed: int = 0, *, examples: int = 9, documents: int = 40, k: int = 6
) -> tuple[dict[str, str], dict[str, list[tuple[int, str, float]]], dict[str, str | None], set[str]]:
    """Examples by benchmark, each one's k best documents, each document's best example, and a selection."""
    random = np.random.default_rng(seed)
    similarity = random.permutation(examples * documents).reshape(examples, documents) / (examples * documents)
    ids = [f"d{i:02d}" for i in range(documents)]
    wanted = {f"e{i}": ("arc", "piqa", "siqa")[i % 3] for i in range(examples)}
    ranks = {
        f"e{i}": [(r + 1, ids[j], float(np.float32(similarity[i, j]))) for r, j in enumerate(np.argsort(-similarity[i])[:k])]
        for i in range(examples)
    }
    nearest: dict[str, str | None] = {}
    for doc in ids:
        places = [(rank, example) for example, best in ranks.items() for rank, d, _ in best if d == doc]
        nearest[doc] = min(places)[1] if places else None
    selected = {doc for doc in ids if random.random() < 0.3} | {"not sampled 1", "not sampled 2"}
    return wanted, ranks, nearest, selected


def reference(
    wanted: dict[str, str], ranks: dict[str, list[tuple[int, str, float]]], nearest: dict[str, str | None], selected: set[str]
) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for example, benchmark in wanted.items():
        best = sorted(ranks.get(example, []))
        kept = [each for each in best if each[1] in selected]
        mine = [doc for doc, chooser in nearest.items() if chooser == example]
        found[example] = (
            benchmark, *(best[0][1:] if best else (None, None)),
            *((kept[0][1], kept[0][0], kept[0][2]) if kept else (None, None, None)),
            len(mine), len([doc for doc in mine if doc in selected]),
        )  # fmt: skip
    return found


def frames(spark: SparkSession, parts: Any, partitions: int = 2) -> Any:
    wanted, ranks, nearest, selected = parts
    rows = [(example, doc, rank, s) for example, best in ranks.items() for rank, doc, s in best]
    made = (
        driver_rows(spark, list(wanted.items()), "example_id string, benchmark string"),
        driver_rows(spark, rows, RANKS),
        driver_rows(spark, list(nearest.items()), "doc_id string, nearest_example_id string"),
        driver_rows(spark, [(doc,) for doc in sorted(selected)], "doc_id string"),
    )
    return tuple(frame.repartition(partitions) for frame in made)


COLUMNS = (
    "benchmark", "nearest_doc_id", "similarity", "selected_doc_id", "selected_rank", "selected_similarity", "sampled",
    "selected",
)  # fmt: skip


@pytest.mark.parametrize(("seed", "partitions"), [(0, 1), (1, 3), (2, 7)])
def test_coverage_is_the_references_for_any_partitioning(spark: SparkSession, seed: int, partitions: int) -> None:
    parts = house(seed)
    found = {row["example_id"]: tuple(row[c] for c in COLUMNS) for row in cover(*frames(spark, parts, partitions)).collect()}
    assert found == reference(*parts)
    assert set(cover(*frames(spark, parts)).columns) == set(COVERAGE.struct(spark).names) - {"selection_id"}


def test_examples_that_rank_nothing_and_a_selection_without_sampled_documents_are_covered_by_nothing(
    spark: SparkSession,
) -> None:
    wanted, ranks, nearest, _ = house()
    alone = {**wanted, "e99": "arc"}
    rows = {row["example_id"]: row for row in cover(*frames(spark, (alone, ranks, nearest, {"elsewhere"}))).collect()}
    assert rows["e99"]["similarity"] is None and rows["e99"]["sampled"] == 0
    assert all(row["selected_rank"] is None and row["selected"] == 0 for row in rows.values())


@pytest.fixture
def covered(spark: SparkSession) -> Any:
    return cover(*frames(spark, house())).localCheckpoint()


def test_each_benchmark_has_its_share_of_the_selection_and_its_quantiles(covered: Any) -> None:
    expected = reference(*house())
    found = by_benchmark(covered)
    assert [each.benchmark for each in found] == ["arc", "piqa", "siqa"]
    total = sum(row[7] for row in expected.values())
    for each in found:
        mine = [row for row in expected.values() if row[0] == each.benchmark]
        assert each.examples == len(mine) and each.selected == sum(row[7] for row in mine)
        assert each.chose == sum(row[7] > 0 for row in mine)
        assert each.share == pytest.approx(each.selected / total)
        assert each.without_selected == sum(row[4] is None for row in mine)
        assert each.quantiles == pytest.approx(np.quantile([row[2] for row in mine], coverage.QUANTILES))
    assert sum(each.share or 0 for each in found) == pytest.approx(1)


def test_gaps_come_by_what_is_nearest_and_of_the_selection_first_those_without_any(covered: Any) -> None:
    expected = reference(*house())
    of_corpus = [row["example_id"] for row in least_covered(covered, count=4).collect()]
    assert of_corpus == sorted(expected, key=lambda e: (expected[e][2], e))[:4]
    of_selection = [row["example_id"] for row in least_covered(covered, count=9, of="selection").collect()]
    by_selected = sorted(expected, key=lambda e: (expected[e][5] is not None, expected[e][5] or 0.0, expected[e][2], e))
    assert of_selection == by_selected
    mine = least_covered(covered, count=9, benchmark="piqa").collect()
    assert {row["benchmark"] for row in mine} == {"piqa"} and len(mine) == 3


@pytest.mark.parametrize(
    ("change", "message"), [({"count": 0}, "--count must be at least 1"), ({"of": "moon"}, "--of must be one of")]
)
def test_what_cannot_be_listed_is_one_sentence(covered: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        least_covered(covered, **{"count": 1, **change})


def test_gaps_are_the_benchmarks_own_rows_and_bare_reads_them_as_seeds(spark: SparkSession, tmp_path: Path) -> None:
    rows = [{"question": f"Tom has {n} apples and gets {n} more. How many has he?", "answer": f"{n} and {n} are {2 * n}.\n#### {2 * n}", "split": "train"} for n in range(5)]
    file = str(write_lines(tmp_path / "sums.jsonl", rows))
    gone = str(tmp_path / "gone.jsonl")

    def gap(number: int, text: str, where: str = file) -> dict[str, Any]:
        return {"example_id": f"e{number}", "benchmark": "sums", "text": text, "file": where, "row": number,
                "similarity": 0.25, "selected_similarity": None, "selected": 0}  # fmt: skip

    texts = [example_text(row) for row in rows]
    gaps = [gap(3, texts[2]), gap(1, texts[0]), gap(4, "said otherwise when it was read"), gap(9, "of a file that is gone", gone)]
    seeds, lost = seed_rows(spark, gaps, templates={}, root="/tables")
    assert [seed["example_id"] for seed in seeds] == ["e3", "e1", "e4", "e9"]
    assert seeds[0]["question"] == rows[2]["question"] and "question" not in seeds[2]
    assert seeds[0]["gap"] == {"similarity": 0.25, "selected_similarity": None, "selected": 0, "tables": "/tables"}
    assert seeds[3]["text"] == "of a file that is gone" and lost == sorted([file, gone])

    write_seeds(seeds, str(tmp_path / "out" / "seeds.jsonl"))
    written = [json.loads(line) for line in (tmp_path / "out" / "seeds.jsonl").read_text().splitlines()]
    assert written == seeds
    pool = read_seeds(load_task("grade_school_maths"), written[:2])
    assert {seed.source_id for seed in pool.seeds} == {"e1", "e3"} and not pool.rejected

    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="can't be written"):
        write_seeds(seeds, str(blocked / "seeds.jsonl"))
