"""`betr estimate`: the main line on slices of the user's own documents, in a folder that goes, and what it says of all.

A run of a small slice in a process that has just begun shows what starting costs; then runs of two sizes, each twice on
other documents, part what is fixed from what grows. Ranking's pairs, training's steps and the pairs of documents that
are compared for near-duplicates, which a slice has too few of, are measured by themselves, on as many as the whole will
have or on thousands.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F
from rich.table import Table

from betr import classifier, corpus, pipeline, ranking, stages
from betr.config import PAPER_SAMPLE, RunConfig
from betr.estimate import (
    RATES,
    Machines,
    Prices,
    StageEstimate,
    Term,
    documents_of,
    estimate_stages,
    fit_line,
    load_prices,
    pairs_of,
    recuts,
    stored,
)
from betr.filter_rate import filter_rate
from betr.run import STAGE_ORDER, Run
from betr.tables import (
    BENCHMARK_EMBEDDINGS,
    BENCHMARK_EXAMPLES,
    CONTAMINATED_DOCUMENTS,
    CONTAMINATION_HITS,
    CORPUS_SAMPLE,
    CORPUS_SCORES,
    DOCUMENTS,
    DUPLICATE_DOCUMENTS,
    NEAR_DUPLICATES,
    REJECTED_DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SAMPLE_LABELS,
    SAMPLE_RANKS,
    SAMPLE_RELEVANCE,
    SELECTIONS,
)
from curation import documents as reading
from curation.command import option
from curation.errors import InputError, input_errors
from curation.near_duplicates import PAIRS, SIGNATURES, parse_near, similarities
from curation.progress import Terminal, clock
from curation.sampling import hash_fraction
from curation.session import default_parallelism, get_session, is_local_session
from curation.slices import Slice, cut_slices
from curation.tables import Tables, is_local

SMALL = 4  # the larger slice is so many times the smaller
REPEATS = 2
CPU_SAMPLE, GPU_SAMPLE = 400, 8_000
EXAMPLES = 60
LEAST_TRIAL = 40
STEPS = 5_000
COMPARED = 20_000
BLOCKS = 4
ONE_CHUNK = 2**40
LAST = "between stages"


@dataclass(frozen=True)
class EstimateConfig(RunConfig):
    """A run as it is planned, the trial that it is estimated from, and the machines that it is planned for."""

    trial: int = option(10_000, "documents of the trial's larger slice; the smaller has a quarter", stages="estimate")
    trial_sample: int | None = option(
        None, "documents of that slice that are embedded; default: 400, with a GPU 8,000", stages="estimate"
    )
    executors: int | None = option(None, "machines: executors; default: this session's cores", stages="estimate")
    cores_per_executor: int | None = option(None, "machines: cores of each executor", stages="estimate")
    gpus: int | None = option(None, "machines: GPUs in all, for embedding; default: this session's", stages="estimate")
    gpu_texts_per_second: float | None = option(
        None, "texts that one GPU embeds in a second, where the trial's machine has none", stages="estimate"
    )
    prices: str | None = option(
        None, "price table (YAML): machines with core_hour, gpu_hour, gb_month", stages="estimate"
    )
    scratch: str | None = option(
        None, "folder for the trial's files, which every executor sees; default: this machine's temporary folder",
        stages="estimate",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("trial", LEAST_TRIAL), ("trial_sample", 10)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} must be at least {least}; got {value!r}")
        if (self.executors is None) != (self.cores_per_executor is None):
            raise InputError("--executors and --cores-per-executor go together: give both, or neither for this machine")
        if self.gpu_texts_per_second is not None and not 0 < self.gpu_texts_per_second < math.inf:
            raise InputError(f"--gpu-texts-per-second must be above 0; got {self.gpu_texts_per_second!r}")
        if not self.documents or not self.benchmarks:
            missing = "--documents" if not self.documents else "--benchmarks"
            raise InputError(
                f"{missing} is missing: an estimate tries the whole line on what a run will read; name it as for `run`"
            )
        if self.executors is not None:
            self.machines(1, 0)
        if self.prices is not None:
            load_prices(self.prices)

    def machines(self, cores: int, gpus: int) -> Machines:
        """Those that are named, else a session's."""
        executors = 1 if self.executors is None else self.executors
        each = cores if self.cores_per_executor is None else self.cores_per_executor
        return Machines(executors, each, gpus if self.gpus is None else self.gpus)

    def run_config(self, **changed: Any) -> RunConfig:
        """The planned run, with some settings changed."""
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(RunConfig)}
        return RunConfig(**{**given, **changed})


@dataclass(frozen=True)
class Observed:
    """One run of the line on a slice: seconds by stage, what each had to do, what was written."""

    seconds: Mapping[str, float]
    amounts: Mapping[str, float]
    written: Mapping[str, float]  # table -> bytes
    write_seconds: Mapping[str, float]  # table -> seconds of its writes
    clocked: float  # seconds that scoring's own tasks count
    file_bytes: float  # of the classifier's file


@dataclass(frozen=True)
class Plan:
    """What the whole run will have to do."""

    files: int
    bytes: int
    documents: float
    spread: float
    text_bytes: float
    tokens: float
    sample: int
    examples: int
    chunks: int
    waves: int
    k: int
    positives: int
    steps: float
    keep: float
    text_waves: int  # of stages that read all text, a commit each
    compared: float  # pairs of documents, for near-duplicates; 0 where nobody asks for them
    compared_spread: float


def estimate(
    config: EstimateConfig, *, spark: SparkSession | None = None, terminal: Terminal | None = None, start: float = 0.0
) -> dict[str, Any]:
    """Try slices, and say what the whole run will take; the object that `--json` prints.

    start: seconds that starting Spark took. Nothing is read from or written to `config.tables`.
    """
    spark, terminal = spark or get_session(), terminal or Terminal()
    began = time.monotonic()
    cores, gpu = default_parallelism(spark), _gpus(spark)
    machines = config.machines(cores, gpu)
    prices = load_prices(config.prices) if config.prices else None
    if machines.gpus and not gpu and config.gpu_texts_per_second is None:
        raise InputError(
            f"--gpus {machines.gpus}: the trial's machine has none and can't tell how fast they embed; give "
            "--gpu-texts-per-second, or run the estimate where a GPU is"
        )
    with input_errors(), _scratch(config, spark) as folder:
        planned = Run(config.run_config(tables=str(folder / "planned")), spark, Terminal(_nowhere()))
        stages.check_inputs(planned)
        examples = len(stages.find_examples(planned).examples)
        inputs = reading.list_inputs(spark, config.documents)
        (largest,) = cut_slices(spark, inputs, [config.trial], folder / "largest")
        large = max(1, largest.rows)  # a corpus may be smaller than the trial that is asked for
        sizes = [-(-large // SMALL), *[-(-large // SMALL), large] * REPEATS]
        slices = cut_slices(spark, inputs, sizes, folder)
        observed: list[Observed] = []
        for number, (size, part) in enumerate(zip(sizes, slices, strict=True), 1):
            small = size < large
            terminal.line(f"trial {number} of {len(sizes)}: the line on {part.rows:,} rows")
            observed.append(_observe(config, part, spark, folder / f"tables-{number}", gpu=gpu, small=small))
            if number < len(sizes):
                shutil.rmtree(folder / f"tables-{number}", ignore_errors=True)
        plan = _plan(config, planned, inputs, slices, observed, examples)
        terminal.line("trial: what a slice has too little of by itself: ranking's pairs, training's steps")
        last = Tables(spark, str(folder / f"tables-{len(sizes)}"))
        extra = [
            *_pair_terms(spark, plan, observed[-1], cores=cores, machines=machines),
            *_step_terms(config, plan, last),
            *_compared_terms(config, plan, observed[-1], last, cores=cores, machines=machines),
        ]
    return _report(config, plan, observed, extra, machines, prices, cores=cores, gpu=gpu, start=start,
                   trial_seconds=time.monotonic() - began, terminal=terminal)  # fmt: skip


# -- the trial ---------------------------------------------------------------------------------------------------------


@contextmanager
def _scratch(config: EstimateConfig, spark: SparkSession) -> Iterator[Path]:
    if config.scratch is None and not is_local_session(spark):
        raise InputError("--scratch is missing: executors on other machines need a folder that all of them see")
    if config.scratch is not None and not (is_local(config.scratch) and Path(config.scratch).is_dir()):
        raise InputError(f"--scratch {config.scratch} is no folder on this machine; name one that is mounted here")
    with tempfile.TemporaryDirectory(prefix="betr-estimate-", dir=config.scratch, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _nowhere() -> Any:
    return open(os.devnull, "w", encoding="utf-8")  # as long as its terminal lives


def _gpus(spark: SparkSession) -> int:
    """GPUs that this session's tasks find by themselves."""
    if not is_local_session(spark) or not any(Path(d).exists() for d in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd")):
        return 0
    try:
        import torch
    except ImportError:
        return 0
    return 1 if torch.cuda.is_available() else 0  # a local session's tasks share the first


def _observe(
    config: EstimateConfig, part: Slice, spark: SparkSession, root: Path, *, gpu: int, small: bool
) -> Observed:
    sample = config.trial_sample or (GPU_SAMPLE if gpu else CPU_SAMPLE)
    sample = max(1, min(max(10, sample // SMALL) if small else sample, part.rows // 2))
    per_benchmark = max(1, EXAMPLES // len(config.benchmarks))
    if config.per_benchmark.isdigit():
        per_benchmark = min(per_benchmark, int(config.per_benchmark))
    trial = config.run_config(
        tables=str(root), documents=(part.path,), sample=str(sample),
        per_benchmark=str(per_benchmark), chunk_bytes=ONE_CHUNK, wave_rows=max(config.wave_rows, sample, EXAMPLES),
        epochs=1, classifier_dir=None, retrain=False, k=None,
        keep=_share(config), tokens=None, flops=None, carry=None, quota=(), classifier=None,
    )  # fmt: skip
    began = time.monotonic()
    with pipeline.opened(trial, spark, Terminal(_nowhere())) as run:
        pipeline.betr(run)
        wall = time.monotonic() - began
        records = {name: run.record(name) for name in pipeline.STAGES}
        seconds = {name: row["seconds"] for name, row in records.items() if row is not None}
        written = {name: float(size) for name, (size, _) in run.tables.written(run.tables.writes).items()}
        by_write: dict[str, float] = {}
        for each in run.tables.writes:
            by_write[each.spec.name] = by_write.get(each.spec.name, 0.0) + each.seconds
        imported, drawn, ranked = run.needs("import"), run.needs("sample"), run.needs("rank")
        trained, scored, cut = run.needs("train"), run.needs("score"), run.needs("select")
        score = records["score"]
        assert score is not None
        parts = [score[name] for name in ("seconds_reading", "seconds_compute") if score[name] is not None]
        amounts = {
            "documents": float(imported["rows"]), "text_bytes": float(score["bytes_in"]),
            "tokens": float(scored["tokens"]), "sample": float(drawn["rows"]), "examples": float(ranked["examples"]),
            "k": float(ranked["k"]), "kept": float(cut["kept_documents"]),
            "dimension": float(run.needs("embed")["dimension"]),
            "compared": float(run.tables.read(PAIRS).count()) if records["deduplicate"] is not None else 0.0,
        }  # fmt: skip
        size = Path(stages.classifier_path(run, trained["path"])).stat().st_size
    return Observed(
        {**seconds, LAST: max(0.0, wall - sum(seconds.values()))}, amounts, written, by_write,
        sum(parts), float(size),
    )  # fmt: skip


def _share(config: RunConfig) -> float:
    """What a slice is cut at: the share where one is asked for; a number of tokens says nothing of a slice."""
    return config.keep if config.keep is not None else 0.1


def _plan(
    config: EstimateConfig, planned: Run, inputs: Sequence[reading.InputFile], slices: Sequence[Slice],
    observed: Sequence[Observed], examples: int,
) -> Plan:  # fmt: skip
    total = sum(file.bytes for file in inputs)
    pairs = [(int(o.amounts["documents"]), round(s.bytes)) for o, s in zip(observed, slices, strict=True)]
    documents, spread = documents_of(total, pairs)
    each = {name: _sum_of(observed, name) / _sum_of(observed, "documents") for name in ("text_bytes", "tokens")}
    request = config.sample_request
    if isinstance(request, float):
        sample = request * documents
    else:
        sample = min(documents, request or min(PAPER_SAMPLE, max(1, documents // 5)))
    n = max(1, round(sample))
    positives = ranking.count_positives(n, config.positive_fraction)
    trained = 2 * positives * (1 - stages.VALIDATION_SHARE)
    tokens = each["tokens"] * documents
    compared, compared_spread = 0.0, 0.0
    if _asks(observed, "deduplicate"):
        met = [(int(o.amounts["documents"]), int(o.amounts["compared"])) for o in observed]
        compared, compared_spread = pairs_of(documents, met)
    rate = filter_rate(
        pool_tokens=max(1, round(tokens)), keep=config.selection.keep, tokens=config.tokens, flops=config.flops,
        law=config.law,
    )  # fmt: skip
    return Plan(
        files=len(inputs), bytes=total, documents=documents, spread=spread, text_bytes=each["text_bytes"] * documents,
        tokens=tokens, sample=n, examples=examples, chunks=reading.n_chunks(inputs, config.chunk_bytes),
        waves=math.ceil(n / config.wave_rows) + math.ceil(examples / config.wave_rows),
        k=min(n, config.k or ranking.suggested_k(n, examples, config.positive_fraction)), positives=positives,
        steps=trained * config.training(max(1, round(trained))).epochs, keep=rate.keep,
        text_waves=max(1, math.ceil(each["text_bytes"] * documents / corpus.WAVE_BYTES)),
        compared=compared, compared_spread=compared_spread,
    )  # fmt: skip


def _asks(observed: Sequence[Observed], stage: str) -> bool:
    """Whether the trial's runs had the stage, which is there only where the configuration asks for it."""
    return all(stage in each.seconds for each in observed)


def _sum_of(observed: Sequence[Observed], name: str) -> float:
    return sum(each.amounts[name] for each in observed)


# -- what a slice has too little of ------------------------------------------------------------------------------------


def _pair_terms(
    spark: SparkSession, plan: Plan, observed: Observed, *, cores: int, machines: Machines
) -> list[Term]:
    """Seconds of a task for pairs of an example and a document, on made-up vectors, one task on each core."""
    dimension = round(observed.amounts["dimension"])
    m, k = min(plan.examples, 4096), min(plan.k, 1024)

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                chance = np.random.default_rng(number)
                matrix = _unit(chance, m, dimension)
                best = ranking.NearestDocuments(ranking.Examples([f"{i:06}" for i in range(m)], matrix), k)
                ids = pa.array([f"{i:06}" for i in range(ranking.BLOCK)], pa.string())
                blocks = [_unit(chance, ranking.BLOCK, dimension) for _ in range(BLOCKS)]
                best.add(ids, blocks[0])  # heaps fill, libraries load
                for upto in (1, 2, BLOCKS - 1):
                    start = time.perf_counter()
                    for block in blocks[1 : 1 + upto]:
                        best.add(ids, block)
                    taken = time.perf_counter() - start
                    yield pa.RecordBatch.from_pydict({"pairs": [float(upto * ranking.BLOCK * m)], "seconds": [taken]})

    found = spark.range(0, cores, 1, numPartitions=cores).mapInArrow(measure, "pairs double, seconds double").collect()
    wanted, speedup = float(plan.sample) * plan.examples, float(machines.cores)
    pairs, seconds = [row["pairs"] for row in found], [row["seconds"] for row in found]
    # A task's own seconds, with a task on each core; what a call costs beside its pairs isn't paid again (times 0).
    return [Term("rank", "pairs", pairs, seconds, wanted, times=0.0, speedup=speedup)]


def _unit(chance: np.random.Generator, rows: int, dimension: int) -> np.ndarray:
    found = chance.standard_normal((rows, dimension)).astype(np.float32)
    return np.ascontiguousarray(found / np.linalg.norm(found, axis=1, keepdims=True))


def _step_terms(config: EstimateConfig, plan: Plan, tables: Tables) -> list[Term]:
    """Training by itself, on the driver: on texts of the last slice, as many as the whole run trains on, or 5,000."""
    if config.import_fasttext or config.classifier:
        return []
    wanted = max(2, round(2 * plan.positives * (1 - stages.VALIDATION_SHARE)))
    documents = tables.read(DOCUMENTS)
    texts = [row["text"] for row in documents.select("text").limit(min(wanted, STEPS)).collect()]
    fewer = max(1, STEPS // len(texts))
    x, seconds = [], []
    for epochs in (fewer, *[fewer, fewer * SMALL] * REPEATS):  # the first also loads what is compiled
        settings = dataclasses.replace(config.training(len(texts)), epochs=min(1_000, epochs))
        start = time.perf_counter()
        classifier.train_classifier(zip(texts, cycle((0, 1)), strict=False), settings)
        x.append(float(settings.epochs * len(texts)))
        seconds.append(time.perf_counter() - start)
    times = wanted / len(texts)  # reading features is paid by the document, before the first step
    return [Term("train", "steps", x[1:], seconds[1:], plan.steps, times=times)]


def _compared_terms(
    config: EstimateConfig, plan: Plan, observed: Observed, tables: Tables, *, cores: int, machines: Machines
) -> list[Term]:
    """Seconds for pairs of documents that are compared word by word: pairs of the last slice by chance, two numbers."""
    if not plan.compared:
        return []
    near, documents = parse_near(config.near), tables.read(DOCUMENTS)
    few = max(1, round(min(plan.compared, COMPARED, observed.amounts["documents"]) / SMALL))
    ids = documents.select("doc_id")
    order = Window.partitionBy(F.lit(0)).orderBy(hash_fraction("doc_id", config.seed, "trial's pairs"), "doc_id")
    numbered = ids.select("doc_id", F.row_number().over(order).alias("place"))
    x, seconds = [], []
    for wanted in (few, *[few, few * SMALL] * REPEATS):  # the first also loads what is compiled
        ones = numbered.where(F.col("place") <= wanted + 1)
        following = ones.select(F.col("doc_id").alias("next"), (F.col("place") - 1).alias("place"))
        met = ones.join(following, "place")
        pairs = met.select(F.least("doc_id", "next").alias("one"), F.greatest("doc_id", "next").alias("other"))
        start = time.perf_counter()
        row = similarities(pairs, documents, config=near).agg(F.count(F.lit(1)), F.avg("similarity")).collect()[0]
        seconds.append(time.perf_counter() - start)
        x.append(float(row[0]))
    # What a search costs beside its pairs is in the stage's own runs: it isn't paid again (times 0).
    speedup = machines.cores / cores
    return [Term(
        "deduplicate", "pairs compared", x[1:], seconds[1:], plan.compared, times=0.0, speedup=speedup,
        spread=plan.compared_spread,
    )]  # fmt: skip


# -- what it says of the whole -----------------------------------------------------------------------------------------


def _terms(
    config: EstimateConfig, plan: Plan, observed: Sequence[Observed], machines: Machines, *, cores: int, gpu: int
) -> list[Term]:
    """Each stage's seconds of the warm runs over what it grows with, and how much of that the whole run has."""
    speedup = machines.cores / cores

    def amounts(*names: str) -> list[float]:
        return [sum(each.amounts[name] for name in names) for each in observed]

    def seconds(stage: str) -> list[float]:
        return [each.seconds[stage] for each in observed]

    def writes(*tables: str) -> list[float]:
        return [sum(each.write_seconds.get(table, 0.0) for table in tables) for each in observed]

    none = [0.0] * len(observed)
    texts, kept = amounts("sample", "examples"), plan.keep * plan.documents
    embedding = writes(SAMPLE_EMBEDDINGS.name, BENCHMARK_EMBEDDINGS.name)
    scoring = writes(CORPUS_SCORES.name)
    clocked = [each.clocked for each in observed]
    terms = [
        Term("import", "documents", amounts("documents"), seconds("import"), plan.documents, 1, speedup, True),
        Term("targets", "examples", none, seconds("targets"), plan.examples),
        Term(
            "sample", "documents read and drawn", amounts("documents", "sample"), seconds("sample"),
            plan.documents + plan.sample, 1, speedup, True,
        ),
        *_embed_terms(config, plan, texts, embedding, seconds("embed"), machines, speedup=speedup, gpu=gpu),
        Term("rank", "documents", amounts("sample"), seconds("rank"), plan.sample, 1, speedup),
        Term("train", "documents", amounts("sample"), seconds("train"), plan.sample),
        Term("score", "bytes of text", amounts("text_bytes"), clocked, plan.text_bytes, 1, speedup, True),
        Term(
            "score", "documents written", amounts("documents"), _less(scoring, clocked), plan.documents, plan.chunks,
            speedup, True,
        ),
        Term("score", "", none, _less(seconds("score"), scoring), 0.0),
        Term(
            "select", "documents read and kept", amounts("documents", "kept"), seconds("select"),
            plan.documents + kept, 1, speedup, True,
        ),
        Term(
            "cover", "documents sampled and kept", amounts("sample", "kept"), seconds("cover"), plan.sample + kept, 1,
            speedup, True,
        ),
        Term(LAST, "", none, seconds(LAST), 0.0),
    ]  # fmt: skip
    if _asks(observed, "deduplicate"):
        terms += _text_terms("deduplicate", plan, observed, SIGNATURES.name, amounts("documents"), speedup=speedup)
    if _asks(observed, "decontaminate"):
        name = CONTAMINATION_HITS.name
        terms += _text_terms("decontaminate", plan, observed, name, amounts("documents"), speedup=speedup)
    return sorted(terms, key=lambda term: (*STAGE_ORDER, LAST).index(term.stage))


def _text_terms(
    stage: str, plan: Plan, observed: Sequence[Observed], table: str, documents: list[float], *, speedup: float
) -> list[Term]:
    """A stage that reads all text in waves, a commit each, into `table`; then joins and writes what it found once."""
    reading_ = [each.write_seconds.get(table, 0.0) for each in observed]
    bytes_ = [each.amounts["text_bytes"] for each in observed]
    rest = _less([each.seconds[stage] for each in observed], reading_)
    return [
        Term(stage, "documents", documents, rest, plan.documents, 1, speedup, True),
        Term(stage, "bytes of text", bytes_, reading_, plan.text_bytes, plan.text_waves, speedup, True),
    ]


def _embed_terms(
    config: EstimateConfig, plan: Plan, texts: list[float], writes: list[float], whole: list[float],
    machines: Machines, *, speedup: float, gpu: int,
) -> list[Term]:  # fmt: skip
    wanted, waves = float(plan.sample + plan.examples), plan.waves / 2  # a trial has two: examples, documents
    rest = Term("embed", "texts", [0.0] * len(texts), _less(whole, writes), wanted)
    if machines.gpus and not gpu:
        assert config.gpu_texts_per_second is not None
        line, rate = fit_line(texts, writes), machines.gpus * config.gpu_texts_per_second
        x = [0.0, 1.0, 2.0, 3.0]
        return [rest, Term("embed", "texts", x, [line.fixed + each / rate for each in x], wanted, waves)]
    by = machines.gpus / gpu if gpu and machines.gpus else speedup
    return [rest, Term("embed", "texts", texts, writes, wanted, waves, by)]


def _less(all_: Sequence[float], part: Sequence[float]) -> list[float]:
    return [max(0.0, a - b) for a, b in zip(all_, part, strict=True)]


def _starts(first: Observed, terms: Sequence[Term], first_terms: Sequence[Term]) -> dict[str, float]:
    """What each stage of the first run took longer than the later runs' lines say for as much work."""
    expected: dict[str, float] = {}
    for term, cold in zip(terms, first_terms, strict=True):
        line = fit_line(term.x, term.seconds)
        expected[term.stage] = expected.get(term.stage, 0.0) + line.fixed + line.slope * cold.x[0]
    return {stage: max(0.0, seconds - expected.get(stage, 0.0)) for stage, seconds in first.seconds.items()}


def _stored(plan: Plan, observed: Sequence[Observed]) -> dict[str, float]:
    """Bytes by table, by what each grows with; the classifier's file among them."""
    kept, ranked = plan.keep * plan.documents, float(plan.examples * plan.k)
    grows: dict[str, tuple[str, float]] = {
        DOCUMENTS.name: ("documents", plan.documents),
        REJECTED_DOCUMENTS.name: ("documents", plan.documents),
        DUPLICATE_DOCUMENTS.name: ("documents", plan.documents),
        CORPUS_SCORES.name: ("documents", plan.documents),
        CORPUS_SAMPLE.name: ("sample", plan.sample),
        SAMPLE_EMBEDDINGS.name: ("sample", plan.sample),
        SAMPLE_LABELS.name: ("sample", plan.sample),
        SAMPLE_RELEVANCE.name: ("sample", plan.sample),
        BENCHMARK_EXAMPLES.name: ("examples", plan.examples),
        BENCHMARK_EMBEDDINGS.name: ("examples", plan.examples),
        SAMPLE_RANKS.name: ("ranked", ranked),
        SIGNATURES.name: ("documents", plan.documents),
        PAIRS.name: ("compared", plan.compared),
        NEAR_DUPLICATES.name: ("compared", plan.compared),
        CONTAMINATION_HITS.name: ("documents", plan.documents),
        CONTAMINATED_DOCUMENTS.name: ("documents", plan.documents),
        SELECTIONS.name: ("kept", kept),
    }
    written: dict[str, list[tuple[float, float]]] = {}
    for each in observed:
        there = {**each.amounts, "ranked": each.amounts["examples"] * min(each.amounts["k"], each.amounts["sample"])}
        for table, size in {**each.written, "classifier_files": each.file_bytes}.items():
            written.setdefault(table, []).append((there[grows[table][0]] if table in grows else 0.0, size))
    return stored(written, {table: amount for table, (_, amount) in grows.items()})


def _report(
    config: EstimateConfig, plan: Plan, observed: Sequence[Observed], extra: Sequence[Term], machines: Machines,
    prices: Prices | None, *, cores: int, gpu: int, start: float, trial_seconds: float, terminal: Terminal,
) -> dict[str, Any]:  # fmt: skip
    warm, first = observed[1:], observed[:1]
    terms = _terms(config, plan, warm, machines, cores=cores, gpu=gpu)
    own = Machines(1, cores, gpu)
    starts = _starts(first[0], *(_terms(config, plan, each, own, cores=cores, gpu=gpu) for each in (warm, first)))
    money = prices or Prices()
    found, total = estimate_stages(
        [*terms, *extra], {"start of Spark": start, **starts}, machines=machines, prices=money,
        documents_spread=plan.spread,
    )  # fmt: skip
    tables = _stored(plan, warm)
    select = next(term for term in terms if term.stage == "select")
    cuts = recuts(
        select, (*RATES, plan.keep), documents=plan.documents, tokens=plan.tokens,
        bytes_per_kept=tables.get(SELECTIONS.name, 0.0) / max(1.0, plan.keep * plan.documents),
        machines=machines, prices=money,
    )  # fmt: skip
    notes = _notes(config, machines, cores=cores, gpu=gpu)
    result = {
        "corpus": {**dataclasses.asdict(plan)},
        "machines": {**dataclasses.asdict(machines), "cores": machines.cores, "trial_cores": cores, "trial_gpus": gpu},
        "stages": [dataclasses.asdict(stage) for stage in found],
        "total": dataclasses.asdict(total),
        "stored_bytes": tables,
        "stored_per_month": sum(tables.values()) / 1e9 * money.gb_month,
        "next_filter_rates": cuts,
        "currency": prices.currency if prices else None,
        "trial": {
            "runs": len(observed), "seconds": trial_seconds,
            "documents": [round(each.amounts["documents"]) for each in observed],
        },
        "notes": notes,
    }  # fmt: skip
    _print(result, found, total, plan, machines, prices, terminal)
    return result


def _notes(config: EstimateConfig, machines: Machines, *, cores: int, gpu: int) -> list[str]:
    notes = ["the interval covers the trial's spread and the number of documents"]
    if machines.cores != cores or machines.gpus != gpu:
        notes.append(
            f"the trial ran on {cores} cores and {gpu} GPUs: that more divide the linear parts is assumed, not measured"
        )
    if config.near_duplicates not in (None, "none"):
        notes.append(
            "near-duplicates: documents are taken to meet with one chance all over the corpus, and to be compared once "
            "at most; what is left out of the sample and the cut isn't taken off them"
        )
    if config.quota:
        notes.append("quotas are left out of the trial's cuts: a slice may lack their values")
    if config.retrain:
        notes.append("a first run on empty tables is estimated, whatever --tables holds")
    return notes


def _print(
    result: Mapping[str, Any], found: Sequence[StageEstimate], total: StageEstimate, plan: Plan, machines: Machines,
    prices: Prices | None, terminal: Terminal,
) -> None:  # fmt: skip
    around = 1.96 * plan.spread * plan.documents
    terminal.line(
        f"the corpus: {plan.files:,} file(s), {plan.bytes / 1e9:,.3g} GB, about {plan.documents:,.0f} documents "
        f"(±{around:,.0f}), {plan.tokens:,.0f} tokens; {plan.sample:,} sampled, {plan.examples:,} examples"
    )
    terminal.line(f"on {machines.executors} x {machines.cores_per_executor} cores, {machines.gpus} GPUs; from "
                  f"{result['trial']['runs']} trial runs in {clock(result['trial']['seconds'])}")  # fmt: skip
    money = [prices.currency] if prices else []
    times = ("start", "fixed", "linear", "time", "95%")
    table = _table(("stage", "grows with", *times, "core-hours", "GPU-hours", *money))
    for each in (*found, total):
        grows = f"{each.amount:,.0f} {each.unit}" if each.unit else ""
        cost = [f"{each.cost:,.2f}"] if prices else []
        table.add_row(
            each.stage, grows, *(_time(s) for s in (each.start, each.fixed, each.linear, each.seconds)),
            f"{_time(each.low)} to {_time(each.high)}", f"{each.core_hours:,.2f}", f"{each.gpu_hours:,.2f}", *cost,
        )  # fmt: skip
    terminal.console.print(table)
    sizes = sorted(result["stored_bytes"].items(), key=lambda item: -item[1])
    month = f", {result['stored_per_month']:,.2f} {prices.currency} a month" if prices else ""
    terminal.line(f"stored: {sum(s for _, s in sizes) / 1e9:,.3g} GB{month}: "
                  + ", ".join(f"{name} {size / 1e9:,.3g}" for name, size in sizes[:6]))  # fmt: skip
    rates = _table(("the next filter rate", "tokens kept", "documents", "time", "core-hours", *money))
    for cut in result["next_filter_rates"]:
        cost = [f"{cut['cost']:,.2f}"] if prices else []
        rates.add_row(
            f"{cut['keep']:.2%}", f"{cut['kept_tokens']:,}", f"{cut['kept_documents']:,}", _time(cut["seconds"]),
            f"{cut['core_hours']:,.3f}", *cost,
        )  # fmt: skip
    terminal.console.print(rates)
    for note in result["notes"]:
        terminal.line(f"  {note}")


def _table(names: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 or name == "grows with" else "right")
    return table


def _time(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 60 else clock(seconds)
