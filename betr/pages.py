"""The page of a selection, written where it is asked for: figures from the tables, drawn, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from betr import figures
from betr.report import selection_page
from betr.run import UNCHANGED, Run
from curation.files import write_whole
from curation.tables import Tables, is_local

NONE = "none"


def place(run: Run) -> str | None:
    """Where a run's page goes; None where there is no such place."""
    return where(run.config.page, run.tables, name_of(run.needs("select").key))


def name_of(selection_id: str) -> str:
    """The name of a selection's page among others."""
    return f"selection-{selection_id}.html"


def where(given: str | None, tables: Tables, name: str) -> str | None:
    """A page's file: as `given` (--page) says, else under a local tables root; None where there is no such place."""
    if given is not None:
        return None if given == NONE else given
    if tables.is_catalog or not is_local(tables.root):
        return None
    return str(Path(tables.root, "pages", name))


def draw(run: Run) -> str | None:
    """The page at the end of a run; it stays as it is where nothing has changed. Returns where it lies."""
    out = place(run)
    if out is not None and not (Path(out).is_file() and all(each.state == UNCHANGED for each in run.reports)):
        write(run, out)
    return out


def write(run: Run, out: str) -> dict[str, Any]:
    """Draw the latest selection's page into a file; returns its figures as plain objects."""
    found = figures.gather(run, by=run.config.by)
    run.terminal.line(f"the page: {write_whole(selection_page(found), out)}")
    return figures.as_json(found)
