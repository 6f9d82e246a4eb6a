"""`bare compare`: the arms of the honest A/B on the same seeds, each a generation of its own, and their figures."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from bare import measuring, pipeline, publish
from bare.arms import arm_of, real_arm
from bare.compare import Arm, ComparisonRow, Unit, as_table, compare
from bare.config import ARMS, BareConfig
from bare.cost import load_prices
from bare.report import comparison_page
from bare.run import Run, opened
from bare.tables import COMPARISONS
from curation.errors import InputError
from curation.files import write_whole
from curation.hashing import content_id
from curation.progress import Terminal

MOST_ROWS = 20_000  # accepted rows of an arm: their figures are computed together


def run_arms(
    config: BareConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None
) -> dict[str, Any]:
    """Make every arm's rows, and compare them at equal accepted rows and at equal cost; one table and one page."""
    if config.accepted > MOST_ROWS:
        raise InputError(f"compare: --accepted must be at most {MOST_ROWS:,}; got {config.accepted:,}")
    chosen = config.arms or ("real", *(arm for arm in ARMS if config.base is not None or ARMS[arm][0] == "instruct"))
    with opened(config, spark, terminal) as outer:
        arms: list[Arm] = []
        made: dict[str, str] = {}
        last: Run | None = None
        for name in (arm for arm in ARMS if arm in chosen):
            outer.terminal.line(f"arm {name}")
            run = Run(dataclasses.replace(config, arm=name), outer.spark, outer.terminal)
            pipeline.bare(run)
            arms.append(arm_of(run))
            made[name] = run.generation_id
            outer.warnings += [f"arm {name}: {warning}" for warning in run.warnings]
            last = run
        if last is None:
            raise InputError("--arms: there is nothing to compare with real rows; name one arm at least")
        if "real" in chosen:
            arms.insert(0, real_arm(last))
        return _compare(outer, last, arms, made)


def _compare(run: Run, last: Run, arms: list[Arm], made: dict[str, str]) -> dict[str, Any]:
    config, task = run.config, last.making.task
    units: list[Unit] = ["cost"] if config.prices else ["tokens"]
    if any(np.isnan(arm.spent(units[0])).any() for arm in arms if not arm.real):
        units = ["seconds"]  # a server that tells no tokens
    rows = compare(
        arms, units=units, clusters=measuring.real_clusters(last), seeds=last.shown_vectors(),
        wanted=task.wanted_shares, seed=config.seed,
    )  # fmt: skip
    comparison_id = content_id("comparison", made, config.accepted, config.judge)
    _write(run, rows, comparison_id, made)
    run.terminal.console.print()
    run.terminal.console.print(as_table(rows))
    notes = list(run.warnings)
    if last.making.real is last.making.shots:
        notes.append("No seeds are held out: the real rows are those that the models were shown.")
    page = comparison_page(
        rows, title=f"{task.name}: ways of making rows", task_description=task.description, notes=notes,
        currency=load_prices(config.prices).currency if config.prices else "USD",
    )  # fmt: skip
    path = write_whole(page, _page_path(run, comparison_id))
    run.terminal.line(f"the page: {path}")
    return {
        "run_id": run.run_id,
        "tables": run.tables.root,
        "comparison_id": comparison_id,
        "arms": made,
        "figures": [dataclasses.asdict(row) for row in rows],
        "page": str(path),
        "warnings": run.warnings,
    }


def _write(run: Run, rows: list[ComparisonRow], comparison_id: str, made: dict[str, str]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    values = [
        (comparison_id, r.basis, r.arm, made.get(r.arm), r.measure, r.value, r.low, r.high, r.n, now) for r in rows
    ]
    run.tables.replace(
        COMPARISONS,
        COMPARISONS.frame(run.spark, values),
        where={"comparison_id": comparison_id},
        keys_are_unique=True,
    )


def _page_path(run: Run, comparison_id: str) -> Path:
    """Beside the tables where they are a folder here, else where the command runs."""
    root = Path(run.tables.root)
    folder = root / "pages" if root.is_dir() else Path.cwd()
    return folder / publish.page_of(comparison_id)
