"""What several test files need: a small made-up corpus with topics, its benchmarks, and the hash of a table's rows."""

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyspark.sql import functions as F

from curation.tables import Tables, TableSpec

TOPICS = {
    "chemistry": [
        "acid",
        "base",
        "molecule",
        "atom",
        "bond",
        "reaction",
        "salt",
        "solution",
        "electron",
        "oxide",
        "metal",
        "gas",
        "heat",
        "energy",
        "ion",
    ],
    "cooking": [
        "flour",
        "butter",
        "oven",
        "sugar",
        "bake",
        "stir",
        "pan",
        "onion",
        "garlic",
        "salt",
        "pepper",
        "soup",
        "dough",
        "knead",
        "simmer",
    ],
    "sailing": [
        "mast",
        "rudder",
        "harbour",
        "wind",
        "sail",
        "anchor",
        "deck",
        "tide",
        "keel",
        "rope",
        "captain",
        "crew",
        "voyage",
        "storm",
        "hull",
    ],
    "finance": [
        "bank",
        "loan",
        "interest",
        "stock",
        "bond",
        "market",
        "fund",
        "profit",
        "tax",
        "share",
        "dividend",
        "price",
        "risk",
        "credit",
        "asset",
    ],
}
COMMON = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "for",
    "it",
    "with",
    "as",
    "was",
    "on",
    "be",
    "by",
    "this",
    "which",
    "from",
    "or",
]


def sentence(rng: random.Random, topic: str, words: int) -> str:
    return " ".join(rng.choice(TOPICS[topic]) if rng.random() < 0.45 else rng.choice(COMMON) for _ in range(words))


def made_up_documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Documents that differ from each other, each on one topic; `topic` is theirs as metadata."""
    rng = random.Random(seed)
    topics = list(TOPICS)
    return [
        {
            "id": f"doc-{seed}-{i:05d}",
            "text": f"{sentence(rng, topics[i % 4], rng.randint(20, 60))} number {seed} {i}",
            "source": f"source-{i % 3}",
            "license": "CC0",
            "topic": topics[i % 4],
        }
        for i in range(count)
    ]


def made_up_examples(count: int, topic: str, seed: int = 100) -> list[dict[str, Any]]:
    rng = random.Random(f"{topic}-{seed}")
    return [
        {"question": f"{sentence(rng, topic, 12)} {i}?", "answer": sentence(rng, topic, 3), "split": "train"}
        for i in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_house(folder: Path, documents: int = 600, examples: int = 4) -> tuple[str, list[str]]:
    """(documents, benchmarks) as files: a corpus of four topics, and two benchmarks about chemistry and sailing."""
    write_lines(folder / "documents" / "part-0.jsonl", made_up_documents(documents))
    benchmarks = [
        write_lines(folder / "benchmarks" / f"{topic}_train.jsonl.gz", made_up_examples(examples, topic))
        for topic in ("chemistry", "sailing")
    ]
    return str(folder / "documents"), [str(path) for path in benchmarks]


# What a run says of itself, and not of the data.
RUN_COLUMNS = {"run_id", "started", "seconds", "created"}


def rows_hash(tables: Tables, spec: TableSpec, *, leave_out: frozenset[str] = frozenset()) -> tuple[int, int, int]:
    """(rows, xor, sum of the rows' hashes): equal for equal sets of rows in any order."""
    frame = tables.read(spec)
    columns = [c for c in frame.columns if c not in RUN_COLUMNS | leave_out]
    # A map has no hash of its own: as sorted entries it has.
    values = [
        F.to_json(F.array_sort(F.map_entries(c))) if dict(frame.dtypes)[c].startswith("map") else F.col(c)
        for c in columns
    ]
    hashed = frame.select(F.xxhash64(*(F.coalesce(v.cast("string"), F.lit("\0")) for v in values)).alias("h"))
    row = hashed.agg(
        F.count(F.lit(1)).alias("n"),
        F.expr("bit_xor(h)").alias("x"),
        F.expr("sum(cast(h as decimal(38, 0)))").alias("s"),
    ).first()
    assert row is not None
    return row["n"], row["x"] or 0, int(row["s"] or 0)


def betr_command(*arguments: str, module: str = "betr.cli") -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def run_betr(*arguments: str, timeout: float = 420, **env: str) -> "subprocess.CompletedProcess[str]":
    """The real command line in a process of its own."""
    return subprocess.run(
        betr_command(*arguments),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **env},
        cwd=Path(__file__).parent.parent,
    )


def last_json(result: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    lines = result.stdout.strip().splitlines()
    assert result.returncode == 0 and lines, result.stderr[-4000:]
    found: dict[str, Any] = json.loads(lines[-1])
    return found
