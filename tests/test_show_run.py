"""`betr show run`: which run is meant, what its stages did, where their seconds went."""

from datetime import datetime
from typing import Any

import pytest
from pyspark.sql import Row

from betr.show import find_run
from betr.tables import STAGE_RUNS
from curation.errors import InputError

COLUMNS = [column.split()[0] for column in STAGE_RUNS.schema.split(", ")]


def row(run_id: str, stage: str, key: str, at: int, state: str = "done", **told: Any) -> Row:
    given = dict.fromkeys(COLUMNS) | {
        "run_id": run_id, "stage": stage, "key": key, "state": state, "rows_in": 10, "rows_out": 10, "seconds": 2.0,
        "started": datetime(2026, 1, 1, 0, at),
    }  # fmt: skip
    return Row(**{**given, **told})


def states(found: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: stage["state"] for stage in found["stages"]}


MEMORY = [
    row("20260101T0000-aa", "import", "k1", 0),
    row("20260101T0000-aa", "embed", "k2", 1, "started", seconds=0.0),  # killed
    row("20260101T0100-ab", "embed", "k2", 2, seconds=8.0, seconds_reading=1.0, seconds_compute=5.0, seconds_writing=1.5),
    row("20260101T0100-ab", "score", "k3", 3),
    row("20260101T0100-ab", "score", "k3", 3, "started", seconds=0.0),
    row("20260102T0000-ba", "embed", "k2", 4, seconds=8.0, seconds_compute=5.0),  # wanted again: nothing was done
]


def test_a_runs_stages_tell_what_they_did_and_where_their_seconds_went() -> None:
    found = find_run(MEMORY, "20260101T0100-ab", root="/t")
    assert states(found) == {"embed": "resumed", "score": "done"}
    embed, score = found["stages"]
    assert embed["share"] == 0.8 and embed["rows_per_second"] == 1.25 and found["seconds"] == 10.0
    assert embed["seconds_other"] == pytest.approx(0.5)
    assert score["seconds_reading"] is None and score["seconds_other"] is None


def test_what_is_there_already_is_no_cost_of_this_run_and_a_killed_stage_is_only_started() -> None:
    again = find_run(MEMORY, "latest", root="/t")
    assert again["run_id"] == "20260102T0000-ba" and states(again) == {"embed": "unchanged"}
    assert again["seconds"] == 0.0 and again["stages"][0]["seconds_compute"] is None
    assert states(find_run(MEMORY[::-1], "20260101T0000", root="/t")) == {"import": "done", "embed": "started"}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("2027", "'2027' is no run that changed anything in /t; the latest are 20260101T0000-aa, .*-ba: give one, or"),
        ("20260101", "'20260101' is how 2 runs begin in /t; the latest are 20260101T0000-aa, 20260101T0100-ab: give"),
    ],
)
def test_an_id_that_is_not_one_run_is_refused_with_the_latest(asked: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_run(MEMORY, asked, root="/t")
