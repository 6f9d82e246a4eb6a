"""Proxy models of arms: runs (arm x size x seed) spread over executors, each resumed where it was killed.

    tokenizer = train_on_pool(tables, pool)
    held_out = hold_out(tables, asking, config, documents=pool, training_texts=...)
    done = train_proxies(tables, arms(tables), config, tokenizer=tokenizer, held_out=held_out, working=folder)

An arm's text goes from Spark into token files in the working folder, and from there into the tasks: never by way of the
driver. A run keeps its checkpoint, its weights and its result there too, so that nothing that was finished is lost when
the driver is killed. PROXY_RUNS and EVALUATIONS get finished runs in waves; what they hold is never trained again.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from betr.selection import SELECTION_RUNS, SELECTIONS, config_of
from curation.decontamination import CONTAMINATED_DOCUMENTS, CUT, pieces_of
from curation.documents import DOCUMENTS
from curation.errors import InputError, input_errors
from curation.files import write_whole
from curation.hashing import content_id
from curation.sampling import hash_fraction
from curation.session import is_local_session
from curation.tables import Tables, absolute, is_local
from evaluation import runs
from evaluation.held_out import HeldOut
from evaluation.measuring import Example, FinetuningConfig, Measure, finetune, measure
from evaluation.packing import TokenDocuments, write_part
from evaluation.tables import ARMS, EVALUATIONS, PROXY_RUNS
from evaluation.tokenizer import ProxyTokenizer
from evaluation.training import DIVERGED, FINISHED, ProxySize, TrainingConfig, parse_size, save_model, train

PRETRAINED, FINETUNED = "pretrained", "finetuned"  # phases
WARN_EPOCHS = 4  # up to so many repetitions are worth nearly as much as new tokens (Muennighoff et al. 2023)
SPARE = 4  # an arm much larger than what is trained on: so many times as many of its tokens are kept, by hash of the id
PART_TOKENS = 1 << 24
_EVALUATION = pa.schema([
    ("proxy_id", pa.string()), ("phase", pa.string()), ("benchmark", pa.string()), ("example_id", pa.string()),
    ("nats", pa.float64()), ("bytes", pa.int32()), ("bits_per_byte", pa.float64()), ("correct", pa.bool_()),
])  # fmt: skip


@dataclass(frozen=True)
class ProxyConfig:
    """Which runs there are. sizes: names or HIDDENxLAYERSxHEADS; seeds: 0, 1, ... so many for each arm and size.

    finetuning: None leaves it out. gpus_per_task: as for embedding; 0: a core each, or the GPU of a local session.
    """

    sizes: tuple[str, ...] = ("0.3m", "1m")
    seeds: int = 3
    training: TrainingConfig = field(default_factory=TrainingConfig)
    finetuning: FinetuningConfig | None = field(default_factory=FinetuningConfig)
    gpus_per_task: float = 0

    def __post_init__(self) -> None:
        if not self.sizes or len(set(self.sizes)) < len(self.sizes):
            raise InputError(f"proxies need sizes, each once; got {', '.join(self.sizes) or 'none'}")
        for each in self.sizes:
            parse_size(each)
        if self.seeds < 1:
            raise InputError(f"proxies need at least 1 seed; got {self.seeds}")


@dataclass(frozen=True)
class Arm:
    """What is compared. texts: (doc_id, text), each id once; contents: names what they are; tokens: about, if known.

    Any table is an arm whose frame has these two columns.
    """

    arm_id: str
    arm: str
    contents: str
    texts: DataFrame
    tokens: int | None = None


@dataclass(frozen=True)
class TokenFiles:
    """An arm's tokens in the working folder. tokens: of an epoch of these; share: of the arm's documents in them."""

    folder: str
    parts: tuple[str, ...]
    documents: int
    tokens: int
    share: float


@dataclass(frozen=True)
class ProxyRun:
    """One model to train: all that a task needs to know of it."""

    proxy_id: str
    arm_id: str
    arm: str
    size: ProxySize
    seed: int
    files: TokenFiles | None = None

    def cost(self) -> int:
        """What orders runs: the dear ones first."""
        return self.size.hidden**2 * self.size.layers


@dataclass(frozen=True)
class Proxies:
    """What `train_proxies` leaves. trained: runs of this call; proxy_ids: all that were asked for."""

    proxy_ids: tuple[str, ...]
    trained: int
    diverged: int
    flops: float
    seconds: float
    warnings: tuple[str, ...]


# -- arms --------------------------------------------------------------------------------------------------------------


def arms(tables: Tables, names: Sequence[str] | None = None) -> list[Arm]:
    """The arms of the table, or those of these names, by name; of two of one name the one made last."""
    rows = sorted(tables.read(ARMS).collect(), key=lambda row: (row["created"] or "", row["arm_id"]))
    latest = {row["arm"]: row for row in rows}
    if not latest:
        raise InputError(f"{tables.root} holds no arm to train proxies on: make some with `evaluate arms`")
    if unknown := sorted(set(names or ()) - set(latest)):
        raise InputError(f"arm {', '.join(unknown)}: there is none in {tables.root}; there are {', '.join(latest)}")
    return [arm_of(tables, row) for name, row in sorted(latest.items()) if names is None or name in names]


def arm_of(tables: Tables, row: Row) -> Arm:
    """The arm that a row of ARMS stands for."""
    texts = selected_texts(tables, row["selection_id"])
    return Arm(row["arm_id"], row["arm"], row["selection_id"], texts, row["tokens"])


def selected_texts(tables: Tables, selection_id: str) -> DataFrame:
    """A selection's documents (doc_id, text), each once whatever its weight; one that is cut for tests a row a piece.

    The text is null where the tables have lost it.
    """
    kept = tables.read(SELECTIONS).where(F.col("selection_id") == selection_id).select("doc_id")
    rows = kept.join(tables.read(DOCUMENTS).select("doc_id", "text"), "doc_id", "left")
    cut_at = tables.read(SELECTION_RUNS).where(F.col("selection_id") == selection_id).select("parameters").first()
    decontamination_id = None if cut_at is None else config_of(cut_at["parameters"]).decontamination_id
    if decontamination_id is None:
        return rows
    verdicts = tables.read(CONTAMINATED_DOCUMENTS).where(F.col("decontamination_id") == decontamination_id)
    cut = rows.join(verdicts.where(F.col("verdict") == CUT).select("doc_id", "pieces"), "doc_id", "left")
    split = cut.select("doc_id", "pieces", F.posexplode(pieces_of("text", "pieces")).alias("number", "text"))
    piece = F.concat("doc_id", F.lit("#"), F.col("number").cast("string"))
    return split.select(F.when(F.col("pieces").isNull(), F.col("doc_id")).otherwise(piece).alias("doc_id"), "text")


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokenise(arm: Arm, tokenizer: ProxyTokenizer, working: Path, *, tokens: int) -> TokenFiles:
    """An arm's documents as token files in the working folder, once; enough of them to train on `tokens`.

    InputError: an arm without documents, a document without text.
    """
    of_all = 1.0 if not arm.tokens else min(1.0, SPARE * tokens / arm.tokens)
    folder = working / "tokens" / content_id("tokens", arm.contents, tokenizer.tokenizer_id, of_all)
    manifest = folder / "manifest.json"
    if not manifest.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chosen = arm.texts if of_all == 1 else arm.texts.where(hash_fraction("doc_id", 0, "proxy") < of_all)
        with input_errors():
            written = _write_tokens(chosen, tokenizer, folder).collect()  # a row a file
        found = {
            "parts": sorted(row["part"] for row in written),
            "documents": sum(row["documents"] for row in written),
            "tokens": sum(row["tokens"] for row in written),
        }
        write_whole(json.dumps(found, indent=1), manifest)
    kept = json.loads(manifest.read_text(encoding="utf-8"))
    if not kept["documents"]:
        raise InputError(f"arm {arm.arm} holds no documents; make it anew, or leave it out")
    return TokenFiles(str(folder), tuple(kept["parts"]), kept["documents"], kept["tokens"], of_all)


def _write_tokens(texts: DataFrame, tokenizer: ProxyTokenizer, folder: Path) -> DataFrame:
    """Each task writes its documents, some millions of tokens a part: part (a name), documents, tokens."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as many tasks run as there are cores
        ids: list[Any] = []
        tokens: list[Any] = []
        for batch in batches:
            found = batch.column("text").to_pylist()
            if None in found:
                lost = batch.column("doc_id")[found.index(None)].as_py()
                raise InputError(f"document {lost!r} of a selection has no text any more; make the selection anew")
            ids.append(batch.column("hash").to_numpy().view(np.uint64))
            tokens += tokenizer.encode(found)
            if sum(map(len, tokens)) >= PART_TOKENS:
                yield _part(folder, ids, tokens)
                ids, tokens = [], []
        if tokens:
            yield _part(folder, ids, tokens)

    hashed = texts.select("doc_id", F.xxhash64("doc_id").alias("hash"), "text")
    return hashed.mapInArrow(task, "part string, documents bigint, tokens bigint")


def _part(folder: Path, ids: Sequence[Any], tokens: Sequence[Any]) -> pa.RecordBatch:
    every = np.concatenate(ids)
    name = content_id(np.sort(every).tolist())
    folder.mkdir(parents=True, exist_ok=True)
    count = write_part(folder, name, every, tokens)
    return pa.RecordBatch.from_pydict({"part": [name], "documents": [len(every)], "tokens": [count]})


# -- runs --------------------------------------------------------------------------------------------------------------


def working_folder(tables: Tables, working: str | None = None, *, name: str = "proxies") -> Path:
    """Where token files, checkpoints and weights lie: `name` under a local tables root, else a folder to be named.

    It must be one that the driver and all executors see.
    """
    if working is None:
        if tables.is_catalog or not is_local(tables.root):
            raise InputError(
                f"{tables.root} is no folder of a file system: name one that the driver and all executors see, with "
                "--working"
            )
        return Path(tables.root) / name
    if not is_local(working):
        raise InputError(f"--working {working}: checkpoints need a folder of a file system that all machines see")
    return Path(absolute(working))


def plan(
    arms: Sequence[Arm], config: ProxyConfig, *, tokenizer: ProxyTokenizer, held_out: HeldOut,
    finetuning: Sequence[Example] = (),
) -> list[ProxyRun]:  # fmt: skip
    """Every run that is asked for, the dear ones first. Its id is a hash of all that its result hangs on."""
    tuned = None
    if config.finetuning is not None and finetuning:
        tuned = [config.finetuning.settings(), [e.example_id for e in finetuning]]
    found = []
    for arm in arms:
        for size in map(parse_size, config.sizes):
            for seed in range(config.seeds):
                made_from = (
                    arm.arm_id, arm.contents, vars(size), seed, config.training.settings(), tokenizer.tokenizer_id,
                    held_out.held_out_id, tuned,
                )  # fmt: skip
                found.append(ProxyRun(content_id("proxy", *made_from), arm.arm_id, arm.arm, size, seed))
    return sorted(found, key=lambda run: (-run.cost(), run.seed, run.arm, run.proxy_id))


def train_proxies(
    tables: Tables, arms: Sequence[Arm], config: ProxyConfig, *, tokenizer: ProxyTokenizer, held_out: HeldOut,
    working: Path, finetuning: Sequence[Example] = (), on_progress: Callable[[int, int], None] | None = None,
    run_id: str = "",
) -> Proxies:  # fmt: skip
    """Train and measure every run that PROXY_RUNS doesn't hold yet; finished ones are appended in waves.

    finetuning: the examples that every model is fine-tuned on in the end, none of them held out; none: no such phase.
    on_progress: called with tokens seen and tokens wanted. Weights stay in the working folder, `runs/<proxy_id>`.
    """
    start = time.monotonic()
    wanted = plan(arms, config, tokenizer=tokenizer, held_out=held_out, finetuning=finetuning)
    ids = [run.proxy_id for run in wanted]
    there = {row["proxy_id"] for row in tables.read(PROXY_RUNS).select("proxy_id").collect()}
    missing = [run for run in wanted if run.proxy_id not in there]
    files = {
        arm.arm_id: tokenise(arm, tokenizer, working, tokens=config.training.tokens)
        for arm in arms
        if any(run.arm_id == arm.arm_id for run in missing)
    }
    warnings = _repetitions(arms, files, config.training)
    missing = [replace(run, files=files[run.arm_id]) for run in missing]
    job = _Job(
        config.training, config.finetuning if finetuning else None, tokenizer, held_out.examples, tuple(finetuning),
        str(working), is_local_session(tables.spark),
    )  # fmt: skip
    results: list[dict[str, Any]] = []
    each = config.training.steps * config.training.step_tokens
    with runs.Watched(working, {run.proxy_id: each for run in missing}, on_progress):
        for made in runs.in_waves(tables.spark, missing, job, run_one, gpus_per_task=config.gpus_per_task):
            _commit(tables, made, working, held_out, tokenizer, config, run_id)
            results += made
    return Proxies(
        tuple(ids), len(results), sum(row["status"] == DIVERGED for row in results),
        sum(row["flops"] for row in results), time.monotonic() - start, tuple(warnings),
    )  # fmt: skip


def _repetitions(arms: Sequence[Arm], files: dict[str, TokenFiles], training: TrainingConfig) -> list[str]:
    """What is to be said of arms that are repeated; InputError where the configuration refuses it."""
    said = []
    for arm in arms:
        if (mine := files.get(arm.arm_id)) is None:
            continue
        epochs = training.check_epochs(f"arm {arm.arm}", mine.tokens)
        if epochs > 1:
            late = f"; after {WARN_EPOCHS} repetitions tokens are worth less" if epochs > WARN_EPOCHS else ""
            said.append(f"arm {arm.arm} holds {mine.tokens:,} tokens: each is seen {epochs:.1f} times{late}")
    return said


@dataclass(frozen=True)
class _Job:
    """What all runs of a call share: it goes to every executor once."""

    training: TrainingConfig
    finetuning: FinetuningConfig | None
    tokenizer: ProxyTokenizer
    held_out: tuple[Example, ...]
    finetuning_examples: tuple[Example, ...]
    working: str
    local: bool


def run_one(run: ProxyRun, job: _Job) -> dict[str, Any]:
    """Train, measure, fine-tune, measure: what a task does with a run; a result that is there is only read.

    Evaluations are written before the result, and both whole: a result stands for all of a run.
    """
    folder = runs.folder_of(job.working, run.proxy_id)
    if (there := runs.result(folder)) is not None:
        return there
    device = runs.hardware(job.local)
    assert run.files is not None
    tokenizer, training = job.tokenizer, job.training
    documents = TokenDocuments.open(Path(run.files.folder), run.files.parts, end=tokenizer.end)
    checkpoint = folder / "checkpoint.safetensors"
    trained = train(
        documents, run.size, training, vocabulary=tokenizer.vocabulary, seed=run.seed, device=device,
        checkpoint=checkpoint, on_step=runs.Told(folder, training.step_tokens),
    )  # fmt: skip
    began, status, reason = time.monotonic(), trained.status, trained.reason
    if status == FINISHED:
        save_model(folder / "model.safetensors", trained.model)
        measures = {PRETRAINED: _measured(trained.model, job, job.held_out, device)}
        if job.finetuning is not None:
            tuned = finetune(
                trained.model, tokenizer, job.finetuning_examples, job.finetuning, peak=training.peak(run.size),
                seed=run.seed, context=training.sequence, device=device,
            )  # fmt: skip
            if math.isfinite(tuned.loss):
                measures[FINETUNED] = _measured(trained.model, job, job.held_out, device)
            else:
                reason = "fine-tuning diverged: its loss is no number"
        rows = [(phase, each) for phase, found in measures.items() for each in found]
        runs.write_evaluations(folder, _EVALUATION, {
            "proxy_id": [run.proxy_id] * len(rows), "phase": [phase for phase, _ in rows],
            **{
                name: [getattr(each, name) for _, each in rows]
                for name in ("benchmark", "example_id", "nats", "bytes", "bits_per_byte", "correct")
            },
        })  # fmt: skip
    row = {
        "proxy_id": run.proxy_id, "arm_id": run.arm_id, "arm": run.arm, "size": run.size.name,
        "parameters": trained.parameters, "seed": run.seed, "tokens": trained.tokens,
        "epochs": trained.epochs * run.files.share, "steps": trained.steps,
        "loss": trained.loss if math.isfinite(trained.loss) else None, "status": status, "reason": reason,
        "flops": trained.flops, "seconds": trained.seconds + time.monotonic() - began,
        "tokens_per_second": trained.tokens / max(1e-9, trained.seconds), "device": trained.device,
        "resumed_at": trained.resumed_at,
    }  # fmt: skip
    runs.write_result(folder, row)
    checkpoint.unlink(missing_ok=True)
    return row


def _measured(model: Any, job: _Job, examples: Sequence[Example], device: str) -> list[Measure]:
    return measure(model, job.tokenizer, examples, context=job.training.sequence, device=device)


def _commit(
    tables: Tables, results: Sequence[dict[str, Any]], working: Path, held_out: HeldOut, tokenizer: ProxyTokenizer,
    config: ProxyConfig, run_id: str,
) -> None:  # fmt: skip
    """A wave's evaluations, then its runs: a run that PROXY_RUNS holds has all of its evaluations."""
    settings = {"training": config.training.settings()}
    if config.finetuning is not None:
        settings["finetuning"] = config.finetuning.settings()
    shared = {
        "tokenizer_id": tokenizer.tokenizer_id, "held_out_id": held_out.held_out_id,
        "settings": json.dumps(settings, sort_keys=True), "run_id": run_id or tables.run_id,
    }  # fmt: skip
    runs.commit(tables, results, working, key="proxy_id", evaluations=EVALUATIONS, runs=PROXY_RUNS, shared=shared)
