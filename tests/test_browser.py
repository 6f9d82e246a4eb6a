"""Every page in a real browser, where there is one: nothing on its console, every chart drawn, light, dark, on a phone."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from bare.report import comparison_page, review_page, run_page
from betr import figures
from betr.report import selection_page
from betr.run import Run
from curation.progress import Terminal
from evaluation.compare import compare
from evaluation.downstream_page import downstream_page
from evaluation.report import comparison_page as arms_page
from evaluation.report import return_page
from tests import browser
from tests.helpers import settings
from tests.test_bare_report import COMPARED, RUN, comparison
from tests.test_compare import ARMS, MADE_FOR, tables
from tests.test_demo_nights import changes
from tests.test_downstream import SHARES, TASK, found_of, results
from tests.test_roi import whole

pytestmark = [
    pytest.mark.processes,  # beside the others
    pytest.mark.slow,
    pytest.mark.skipif(browser.find() is None, reason="no Chromium on this machine"),
]

PHONE, DESK = 390, 1200


@pytest.fixture(scope="module")
def pages(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    found = figures.gather(Run(settings(finished[0]), spark, Terminal()), by=("metadata.domain",))
    drawn = {
        "selection": selection_page(found),
        "night": selection_page(dataclasses.replace(found, changes=changes(20, breached=True))),
        "generation": run_page(dataclasses.replace(RUN, compared=COMPARED)),
        "comparison": comparison_page(comparison(), title="Arms", task_description="Maths problems."),
        "arms": arms_page(compare(*tables(ARMS, examples=20), targets=MADE_FOR, replicates=200)),
        "downstream": downstream_page(found_of(results(SHARES, tests=60)), task=TASK),
        "return": return_page(whole()),
        "review": review_page(RUN.rows, title="Review", task_description="Maths problems."),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, text in drawn.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in drawn}


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [
        ("selection", DESK, False), ("selection", DESK, True), ("selection", PHONE, False), ("generation", DESK, True), ("night", PHONE, True),
        ("generation", PHONE, False), ("comparison", PHONE, False), ("review", PHONE, False),
        ("arms", PHONE, True), ("arms", DESK, False), ("return", PHONE, False),
        ("downstream", PHONE, False), ("downstream", DESK, True),
    ],
)
def test_a_page_is_drawn_whole(pages: dict[str, Path], name: str, width: int, dark: bool, tmp_path: Path) -> None:
    seen = browser.look(pages[name], width=width, dark=dark, folder=tmp_path)
    assert seen.console == []
    told = seen.told
    assert len(told["charts"]) == pages[name].read_text().count("<svg ")
    for chart_width, chart_height, left, right, shapes in told["charts"]:
        assert chart_width > 200 and chart_height > 40 and shapes > 0
        assert left >= 0 and right <= width
    assert told["texts"] == []  # no label leaves its chart
    assert told["overflow"] <= 0  # nothing but a wide table scrolls sideways, and that by itself
    assert told["unnamed"] == 0
    assert told["headings"][0] == 1 and all(b <= a + 1 for a, b in zip(told["headings"], told["headings"][1:], strict=False))
    light = [sum(map(int, re.findall(r"\d+", told[what])[:3])) for what in ("paper", "ink")]
    assert (light[0] < light[1]) == dark
