"""Official fastText, called as its users call it but for NumPy 2, on which `predict` itself raises."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa
import pyarrow.compute as pc

from bench.documents import repeated
from bench.harness import Setup
from demo.documents import CAPTIONS, ENCYCLOPEDIA, HOW_TO

POSITIVE = "__label__1"
# fastText starts a tenth of its matrix in each thread: with fewer than ten the rest is whatever memory held.
TRAINING_THREADS = 10


def is_prose(table: pa.Table) -> pa.Array:
    """The label of the models that only have to score: encyclopedia and how-tos against docstrings and captions."""
    prose = (ENCYCLOPEDIA,) if CAPTIONS in pc.unique(table["domain"]).to_pylist() else (ENCYCLOPEDIA, HOW_TO)
    return pc.is_in(table["domain"], value_set=pa.array(prose, pa.large_string()))


def write_training(table: pa.Table, labels: list[int], path: Path) -> Path:
    lines = (f"__label__{label} {text}\n" for label, text in zip(labels, table["text"].to_pylist(), strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def model_file(setup: Setup, table: pa.Table, *, dim: int = 100) -> Path:
    """A two-label model as a .bin: word 2-grams, 2M buckets, fastText's own; trained once, kept beside the inputs."""
    settings: dict[str, Any] = {
        "dim": dim, "epoch": 1, "lr": 0.5, "wordNgrams": 2, "minCount": 5, "bucket": setup.pick(20_000, 2_000_000),
    }  # fmt: skip
    some = repeated(table, megabytes=setup.pick(0.5, 20))
    ids = hashlib.sha256("\n".join(some["doc_id"].to_pylist()).encode()).hexdigest()
    key = hashlib.sha256(json.dumps([settings, ids]).encode()).hexdigest()[:12]
    path = setup.folder / f"official-{key}.bin"
    if not path.is_file():
        labels = is_prose(some).cast(pa.int8()).to_pylist()
        training = write_training(some, labels, setup.scratch / "official.txt")
        model = fasttext.train_supervised(str(training), thread=TRAINING_THREADS, verbose=0, **settings)
        part = path.with_suffix(".part")
        model.save_model(str(part))
        part.replace(path)
        training.unlink()
    return path


@lru_cache(maxsize=1)
def load(path: str) -> Any:
    """The model, once a process."""
    return fasttext.load_model(path)


def predict(model: Any, texts: list[str]) -> list[list[tuple[float, str]]]:
    call = model.f.predict
    return [call(text + "\n", 1, 0.0, "strict") for text in texts]


def probabilities(model: Any, texts: list[str]) -> list[float]:
    """p(positive) of each text, to hold ours against."""
    call = model.f.predict
    found = [{name: p for p, name in call(text + "\n", 2, 0.0, "strict")} for text in texts]
    return [each.get(POSITIVE, 0.5) for each in found]
