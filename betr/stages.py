"""The stages as steps on tables: what each reads, what it is made from (its key), what it commits. The only writers.

A stage's key is a hash of its settings and of the keys of the stages before it. A key that finished before is
unchanged; one that started is resumed from what its commits left.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from betr import (
    benchmarks,
    classifier,
    contamination,
    corpus,
    coverage,
    deduplication,
    drift,
    file_scoring,
    ranking,
    scoring,
    selection,
)
from betr.config import PAPER_SAMPLE, RunConfig
from betr.run import Outcome, Run, Work
from betr.tables import (
    BENCHMARK_EMBEDDINGS,
    BENCHMARK_EXAMPLES,
    CLASSIFIERS,
    CORPUS_SAMPLE,
    CORPUS_SCORES,
    COVERAGE,
    DOCUMENTS,
    DRIFT,
    DUPLICATE_DOCUMENTS,
    IMPORTED_FILES,
    REJECTED_DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SAMPLE_LABELS,
    SAMPLE_RANKS,
    SAMPLE_RELEVANCE,
    SELECTION_RUNS,
    SELECTIONS,
)
from curation import documents as reading
from curation import embedding, sampling, tracking
from curation.errors import InputError
from curation.hashing import content_id
from curation.session import default_parallelism, release, share
from curation.tables import Tables, TableSpec, absolute, is_local

VALIDATION_SHARE = 0.1
VALIDATION_MOST = 100_000  # the paper sets its threshold on as many (3.5)
CALIBRATION_DOCUMENTS = 2_000
BYTES_PER_TOKEN_WITHOUT_TOKENIZER = 4.0
REGISTERED_FILE = "classifier.safetensors"  # a registered version's classifier for all targets
CHUNKS_A_CLOCK = 16  # of so many chunks scoring clocks one: under 1% of its time, where clocking all takes up to 10%


def check_inputs(run: Run) -> None:
    """Look at every input that a run names, before the first stage: paths, columns, benchmarks, templates, encoder."""
    if run.config.documents:
        _columns(run), _inputs(run)
    if run.config.benchmarks:
        _sources(run), _templates(run)
    tests, near = contamination.named_sources(run), deduplication.place_of(run) != deduplication.NONE
    run.terminal.make_room([*(["deduplicate"] if near else []), *(["decontaminate"] if tests else [])])
    _encoder(run)
    classifier_folder(run)
    _given(run)
    for spec in (CLASSIFIERS, CORPUS_SCORES):
        run.tables.version(spec)  # of another version of betr: refused
    if run.config.selection.heads:
        selection.check_heads(run.config.selection, _benchmarks(run) if run.config.heads else ())


def _benchmarks(run: Run) -> set[str]:
    """The benchmarks that the targets are made from, or will be."""
    if run.config.benchmarks:
        return {source.name for source in _sources(run)}
    return set(run.needs("targets", "targets --benchmarks PATH...")["examples"])


def _columns(run: Run) -> reading.Columns:
    return run.once("columns", lambda: reading.parse_columns(run.config.columns))


def _inputs(run: Run) -> list[reading.InputFile]:
    return run.once("inputs", lambda: reading.list_inputs(run.spark, run.config.documents))


def _sources(run: Run) -> list[benchmarks.BenchmarkSource]:
    return run.once("sources", lambda: benchmarks.parse_sources(run.config.benchmarks))


def _templates(run: Run) -> dict[str, str]:
    return run.once("templates", lambda: benchmarks.parse_templates(run.config.template))


def _encoder(run: Run) -> embedding.Encoder:
    return run.once("encoder", lambda: embedding.resolve_encoder(run.config.encoding))


# -- import ------------------------------------------------------------------------------------------------------------


def import_documents(run: Run) -> Outcome:
    """Read new files into `documents`; what can't be used goes aside with a reason, copies with what they copy."""
    config, tables = run.config, run.tables
    if not config.documents:
        if not corpus.imports(run):
            raise InputError(f"{tables.root} holds no documents yet: name some with --documents PATH...")
        return run.unchanged(corpus.imports(run)[-1])
    columns, inputs = _columns(run), _inputs(run)
    # A file is known by its name, size and time, and by how it was read: read otherwise, it is imported again.
    prints = {each.path: reading.import_id([each], columns, max_bytes=config.max_bytes) for each in inputs}
    if run.result("import", reading.import_id(inputs, columns, max_bytes=config.max_bytes)) is None:
        known = {(row["path"], row["fingerprint"]) for row in tables.read(IMPORTED_FILES).collect()}
    else:  # together, as they are: none needs to be looked up
        known = set(prints.items())
    fresh = [each for each in inputs if (each.path, prints[each.path]) not in known]
    if not fresh:
        return run.unchanged(corpus.imports(run)[-1], f"{len(inputs)} file(s) imported before")

    key = reading.import_id(fresh, columns, max_bytes=config.max_bytes)
    with run.stage("import", key, unit="documents") as work:
        mine = f"chunk >= '{key}-' AND chunk < '{key}.'"
        existing = tables.read(DOCUMENTS).where(f"NOT ({mine})") if tables.exists(DOCUMENTS) else None
        rows = reading.read_rows(run.spark, fresh, columns, max_bytes=config.max_bytes)
        with tables.scratch(reading.IMPORT_ROWS, reading.IMPORT_VERDICTS):
            tables.append(
                reading.IMPORT_ROWS, reading.check_rows(rows, max_bytes=config.max_bytes), keys_are_unique=True
            )
            checked = tables.read(reading.IMPORT_ROWS)
            tables.append(reading.IMPORT_VERDICTS, reading.settle(checked, existing), keys_are_unique=True)
            verdicts = tables.read(reading.IMPORT_VERDICTS)
            # Mostly there are none, and then nothing is looked up and nothing written.
            aside = reading.put_aside(checked, verdicts)
            again = bool({each.path for each in fresh} & {path for path, _ in known})  # touched or changed since
            if aside - {"duplicate"}:
                rejected = reading.rejected_rows(checked, verdicts, import_id=key)
                if again:
                    rejected = _unless_recorded(run, REJECTED_DOCUMENTS, rejected, ["file", "row", "reason"], key)
                tables.replace(REJECTED_DOCUMENTS, rejected, where={"import_id": key}, keys_are_unique=True)
            if "duplicate" in aside:
                duplicates = reading.duplicate_rows(checked, verdicts, import_id=key)
                if again:
                    duplicates = _unless_recorded(run, DUPLICATE_DOCUMENTS, duplicates, ["file", "row", "doc_id"], key)
                tables.replace(DUPLICATE_DOCUMENTS, duplicates, where={"import_id": key}, keys_are_unique=True)
            parts = reading.n_chunks(fresh, config.chunk_bytes)
            kept = reading.new_documents(checked, verdicts, import_id=key, n_chunks=parts)
            tables.replace(DOCUMENTS, kept, where=mine, keys_are_unique=True)
        chunks = chunk_sizes(tables.read(DOCUMENTS).where(mine))
        this_one = F.col("import_id") == key
        reasons = _counts(tables.read(REJECTED_DOCUMENTS).where(this_one), "reason") if aside - {"duplicate"} else {}
        copies = tables.read(DUPLICATE_DOCUMENTS).where(this_one).count() if "duplicate" in aside else 0
        work.rows_out = sum(count for count, _ in chunks.values())
        work.rows_in = work.rows_out + sum(reasons.values()) + copies
        work.bytes_in = sum(each.bytes for each in fresh)
        if not chunks and not corpus.imports(run):
            raise InputError(
                f"--documents: not one document is left of {work.rows_in} rows; rejected: {_reasons(reasons)}; "
                f"each row's reason is in the table {REJECTED_DOCUMENTS.name}"
            )
        files = [(key, each.path, each.bytes, prints[each.path]) for each in fresh]
        known_now = IMPORTED_FILES.frame(run.spark, files)
        tables.replace(IMPORTED_FILES, known_now, where={"import_id": key}, keys_are_unique=True)
        work.values = {"chunks": chunks, "rejected": reasons, "duplicates": copies, "files": len(fresh)}
        if revisions := {each.dataset: each.revision for each in fresh if each.revision}:
            work.values["revisions"] = revisions
    if "cut_short" in reasons:
        _warn_of_cuts(run, key)
    if reasons or copies:
        run.terminal.line(f"  put aside: {_reasons({**reasons, **({'duplicate': copies} if copies else {})})}")
    return run.needs("import")


def _warn_of_cuts(run: Run, import_id: str, *, most: int = 10) -> None:
    """Name the files that could be read in part only: what they held after that isn't known, not even how much."""
    mine = (F.col("import_id") == import_id) & (F.col("reason") == "cut_short")
    rows = run.tables.read(REJECTED_DOCUMENTS).where(mine).orderBy("file").limit(most + 1).collect()
    for row in rows[:most]:
        run.warn(f"{row['file']} is kept up to its record {row['row']}: {row['detail']}; fetch it again")
    if len(rows) > most:
        run.warn(f"more files are cut short; all of them are in the table {REJECTED_DOCUMENTS.name}")


def _unless_recorded(run: Run, spec: TableSpec, rows: DataFrame, columns: list[str], import_id: str) -> DataFrame:
    """Rows that no other import put aside before: a file that is read again isn't counted twice."""
    there = run.tables.read(spec).where(F.col("import_id") != import_id).select(*columns)
    return rows.join(there, columns, "left_anti")


def chunk_sizes(documents: DataFrame) -> dict[str, tuple[int, int]]:
    """chunk -> (documents, bytes), as an import's outcome holds them."""
    sizes = documents.groupBy("chunk").agg(F.count(F.lit(1)).alias("n"), F.sum("bytes").alias("b"))
    return {row["chunk"]: (row["n"], row["b"]) for row in sorted(sizes.collect())}


# -- deduplicate -------------------------------------------------------------------------------------------------------


def deduplicate(run: Run, place: str | None = None) -> Outcome | None:
    """One document of each cluster of near-duplicates stays; None where that isn't asked for at this place of a run."""
    return deduplication.deduplicate(run, place)


# -- targets -----------------------------------------------------------------------------------------------------------


def read_targets(run: Run) -> Outcome:
    """Benchmark examples -> one text each, an equal count a benchmark, training splits only (3.1)."""
    config, tables = run.config, run.tables
    if not config.benchmarks:
        return run.unchanged(run.needs("targets", "targets --benchmarks PATH..."))
    sources = _sources(run)
    settings = config.settings("targets")
    key = content_id(
        "targets",
        [(s.name, benchmarks.fingerprint(run.spark, s)) for s in sources],
        {name: value for name, value in settings.items() if name != "benchmarks"},
    )
    if (earlier := run.result("targets", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("targets", key, unit="examples") as work:
        with work.clock.counting("reading"):
            found = find_examples(run)
        examples = found.to_frame(run.spark, targets_id=key)
        tables.replace(BENCHMARK_EXAMPLES, examples, where={"targets_id": key}, keys_are_unique=True)
        rejected = Counter(f"{each.benchmark}: {each.reason}" for each in found.rejected)
        work.rows_out = len(found.examples)
        work.rows_in = sum(found.available.values()) + sum(found.duplicates.values()) + len(found.rejected)
        work.values = {"examples": found.counts, "rejected": dict(rejected)}
    for warning in found.warnings:
        run.warn(warning)
    run.terminal.line("  " + ", ".join(f"{name} {count:,}" for name, count in found.counts.items()))
    if rejected:
        run.warn(f"benchmark rows that gave no example: {_reasons(rejected)}")
    return run.needs("targets")


def find_examples(run: Run) -> benchmarks.BenchmarkExamples:
    """The examples that the configuration asks for, read on the driver."""
    config, sources = run.config, _sources(run)
    how: dict[str, Any] = {"seed": config.seed, "templates": _templates(run), "allow_splits": set(config.allow_test)}
    asked = int(config.per_benchmark) if config.per_benchmark.isdigit() else None
    found = benchmarks.read_benchmarks(run.spark, sources, per_benchmark=asked, **how)
    if config.per_benchmark != "equal":
        return found
    return benchmarks.read_benchmarks(run.spark, sources, per_benchmark=min(found.available.values()), **how)


def targets(run: Run, outcome: Outcome) -> DataFrame:
    return run.tables.read(BENCHMARK_EXAMPLES).where(F.col("targets_id") == outcome.key)


# -- sample ------------------------------------------------------------------------------------------------------------


def draw_sample(run: Run) -> Outcome:
    """Draw the documents to rank by hash of their ids (3.2).

    A sample drawn before stays while the corpus grows, and with it ranks, labels and classifier: new documents are only
    scored. --retrain draws anew from the corpus as it is.
    """
    config, tables = run.config, run.tables
    run.needs("import", "import --documents PATH...")
    request: dict[str, Any] = {"seed": config.seed, "sample": config.sample}
    now = corpus.key(run)
    unique = deduplication.applied(run, now, before_the_ranking=True)
    if unique is not None:
        request["near_duplicates"] = unique["settings"]
    earlier = run.before(
        "sample", where=lambda o: o["request"] == request and (not config.retrain or o["corpus"] == now)
    )
    if earlier is not None:
        grown = "the corpus has grown since; --retrain draws anew" if earlier["corpus"] != now else ""
        return run.unchanged(earlier, grown)
    drawn_from = [request, now] if unique is None else [request, now, unique.key]
    with run.stage("sample", content_id("sample", *drawn_from), unit="documents") as work:
        documents = tables.read(DOCUMENTS)
        available = work.rows_in = sum(count for count, _ in corpus.chunks(run).values())
        if unique is not None:
            documents = deduplication.leave_out(run, documents, unique.key)
            available -= unique["copies"]
        with work.clock.counting("compute"):
            below, last = _sample_bound(run, documents, available)
        drawn = sampling.sample_documents(documents, seed=config.seed, below=below, last_id=last)
        there = tables.read(CORPUS_SAMPLE).where(F.col("seed") == config.seed).select("doc_id")
        new = drawn.join(there, "doc_id", "left_anti")
        # Sorted by position, so that a wave of the embedding, a range of positions, reads few files.
        parts = default_parallelism(run.spark)
        new = new.repartition(parts, F.floor(F.col("position") / below * parts)).sortWithinPartitions(
            "position", "doc_id"
        )
        tables.append(CORPUS_SAMPLE, new, keys_are_unique=True)  # the documents' key is, and what is there is left out
        work.values = {"request": request, "corpus": now, "seed": config.seed, "below": below, "last": last}
        if unique is not None:
            work.values["deduplication_id"] = unique.key
        work.rows_out = sample(run, Outcome("sample", "", work.values)).count()
        if work.rows_out == 0:
            raise InputError(
                f"--sample {config.sample} of {available:,} documents draws none; ask for a larger share or a number"
            )
    return run.needs("sample")


def sample(run: Run, outcome: Outcome) -> DataFrame:
    """seed, doc_id, position, text of the sampled documents."""
    rows = run.tables.read(CORPUS_SAMPLE).where(F.col("seed") == outcome["seed"])
    rows = rows.where(_within(outcome["below"], outcome["last"]))
    if (unique := outcome.values.get("deduplication_id")) is not None:  # another sample may have drawn its copies
        rows = deduplication.leave_out(run, rows, unique)
    return rows


def _sample_bound(run: Run, documents: DataFrame, available: int) -> tuple[float, str]:
    """Documents below this position are in, and at it those up to this id; a share has no last id."""
    request = run.config.sample_request
    if isinstance(request, float):
        return request, ""
    count = request or min(PAPER_SAMPLE, max(1, available // 5))
    return sampling.share_for_count(documents, seed=run.config.seed, count=count)


def _within(below: float, last: str) -> Column:
    return (F.col("position") < below) | ((F.col("position") == below) & (F.col("doc_id") <= last))


# -- embed -------------------------------------------------------------------------------------------------------------


def embed(run: Run) -> Outcome:
    """Embed the examples as queries and the sample as documents (3.2), in waves: a killed run loses at most one."""
    config, tables = run.config, run.tables
    drawn, wanted = run.needs("sample"), run.needs("targets")
    settings = {k: v for k, v in config.settings("embed").items() if k not in ("wave_rows", "gpus_per_task")}
    made_from = content_id(drawn.key, wanted.key, settings)
    if (earlier := run.before("embed", where=lambda outcome: outcome["made_from"] == made_from)) is not None:
        return run.unchanged(earlier)
    encoder = _encoder(run)
    key = content_id("embed", drawn.key, wanted.key, encoder.encoder_id)
    with run.stage("embed", key, unit="texts", in_parts=True) as work:
        run.terminal.line(f"  encoder {encoder.encoder_id}: {encoder.dimension} dimensions, {encoder.precision}")
        examples = targets(run, wanted).select("example_id", "text")
        examples = examples.withColumn("position", sampling.hash_fraction("example_id", config.seed))
        texts = sample(run, drawn).select("doc_id", "text", "position")
        parts = [
            _Missing(tables, BENCHMARK_EMBEDDINGS, "example_id", examples, "query", wanted["rows"], 1.0, encoder),
            _Missing(tables, SAMPLE_EMBEDDINGS, "doc_id", texts, "document", drawn["rows"], drawn["below"], encoder),
        ]
        waves = [(part, wave, count) for part in parts for wave, count in part.waves(config.wave_rows)]
        work.rows_in = wanted["rows"] + drawn["rows"]
        work.progress.expect(sum(count for _, _, count in waves))
        profile = embedding.embedding_profile(config.gpus_per_task)
        for part, wave, count in waves:
            tasks = embedding_tasks(run, count)
            work.progress.batch(count, tasks=tasks)
            texts = part.rows_of(wave).repartition(tasks)
            # How many tasks share the GPUs of a cluster isn't known here, and without it their seconds say nothing.
            clock = work.clock if profile is None else None
            embedded = embedding.embed(
                texts, id_column=part.id, encoder=encoder, kind=part.kind, profile=profile, clock=clock, tasks=tasks
            )
            # The key of the texts is unique, those that are there are left out, and each gives one row.
            tables.append(part.spec, embedded, keys_are_unique=True)
            work.progress.advance(count)
            work.rows_out += count
        work.values = {
            "made_from": made_from,
            "encoder_id": encoder.encoder_id,
            "dimension": encoder.dimension,
            "sample": drawn.key,
            "targets": wanted.key,
            "tokenizer": embedding.tokenizer_of(encoder),
        }
    return run.needs("embed")


def embedding_tasks(run: Run, texts: int) -> int:
    """Tasks of a wave: enough that all cores work and progress shows, few enough that their batches are full."""
    return min(texts, max(2 * default_parallelism(run.spark), texts // (20_000 if run.config.gpus_per_task else 500)))


@dataclasses.dataclass
class _Missing:
    """Texts of one kind that lack an embedding by this encoder, cut into waves by position (a hash in [0, below))."""

    tables: Tables
    spec: TableSpec
    id: str
    rows: DataFrame
    kind: embedding.Kind
    count: int
    below: float
    encoder: embedding.Encoder
    number: int = 1

    def waves(self, wave_rows: int) -> list[tuple[int, int]]:
        """(wave, texts missing in it). Where the waves lie doesn't depend on what is there already."""
        there = self.tables.read(self.spec)
        embedding.check_dimension(there, encoder=self.encoder, table=self.spec.name)
        self.number = max(1, math.ceil(self.count / wave_rows))
        wave = F.least(F.floor(F.col("position") / self.below * self.number), F.lit(self.number - 1))
        there = there.where(F.col("encoder_id") == self.encoder.encoder_id).select(self.id)
        # What is missing now: the waves share no text, so what they add needn't be looked up by the next ones.
        self.rows = self.rows.withColumn("wave", wave).join(there, self.id, "left_anti")
        return sorted((wave, count) for wave, count in self.rows.groupBy("wave").count().collect())

    def rows_of(self, wave: int) -> DataFrame:
        # The plain range lets Delta skip files (the sample is sorted by position); the wave itself decides.
        low, high = wave * self.below / self.number, (wave + 1) * self.below / self.number
        near = F.col("position").between(low - 1e-9, high + 1e-9)
        return self.rows.where(near & (F.col("wave") == wave)).select(self.id, "text")


def embeddings(run: Run, outcome: Outcome) -> tuple[DataFrame, DataFrame]:
    """(doc_id, embedding) of the sample and (example_id, embedding) of the targets that `embed` left."""
    drawn, wanted = run.result("sample", outcome["sample"]), run.result("targets", outcome["targets"])
    assert drawn is not None and wanted is not None
    by_encoder = F.col("encoder_id") == outcome["encoder_id"]
    documents = run.tables.read(SAMPLE_EMBEDDINGS).where(by_encoder).select("doc_id", "embedding")
    examples = run.tables.read(BENCHMARK_EMBEDDINGS).where(by_encoder).select("example_id", "embedding")
    return (
        documents.join(sample(run, drawn).select("doc_id"), "doc_id", "left_semi"),
        examples.join(targets(run, wanted).select("example_id"), "example_id", "left_semi"),
    )


# -- rank --------------------------------------------------------------------------------------------------------------


def rank(run: Run) -> Outcome:
    """Every example ranks every sampled document; the best rank orders them; the top share is positive (3.3).

    --heads: the best rank over the examples of each benchmark labels the sample once more, for that benchmark's head.
    Each set of labels is the one that ranking for these examples alone gives.
    """
    config, tables = run.config, run.tables
    embedded = run.needs("embed")
    labels_id = content_id("rank", embedded.key, config.positive_fraction, config.aggregation)
    key = content_id(labels_id, "heads") if config.heads else labels_id
    if (earlier := run.result("rank", key)) is not None:
        return run.unchanged(earlier)
    drawn = run.result("sample", embedded["sample"])
    assert drawn is not None
    with run.stage("rank", key, unit="documents") as work:
        documents, example_rows = embeddings(run, embedded)
        with work.clock.counting("reading"):
            examples = ranking.collect_examples(example_rows)
            n, m = drawn["rows"], len(examples.ids)
        work.rows_in = n * m
        work.progress.expect(n)
        work.progress.batch(n)
        if (warning := ranking.warn_if_dense(n, m)) is not None:
            run.warn(warning)
        shared = share(run.spark, examples)
        wanted = [_Labels("", labels_id, m), *(_heads(run, embedded, labels_id) if config.heads else ())]
        for each in wanted:
            each.k = min(n, config.k or ranking.suggested_k(n, each.examples, config.positive_fraction))
        relevance = None
        if config.aggregation != "max":
            means = ranking.mean_relevance(documents, shared, n_documents=n, aggregation=config.aggregation)
            tables.replace(SAMPLE_RELEVANCE, means.withColumn("ranking_id", F.lit(key)), where={"ranking_id": key})
            relevance = tables.read(SAMPLE_RELEVANCE).where(F.col("ranking_id") == key).drop("ranking_id")
            wanted[0].cutoff = ranking.find_relevance_cutoff(relevance, positive_fraction=config.positive_fraction)
        k = 0
        while (deepest := max(each.k for each in wanted)) > k:
            k = deepest
            if default_parallelism(run.spark) >= ranking.FLOOR_FROM:
                release(shared)
                shared = share(run.spark, ranking.with_sampled_floor(documents, examples, k=k))
            ranked = ranking.rank_documents(documents, shared, k=k, clock=work.clock)
            ranked = ranked.withColumn("ranking_id", F.lit(key))
            tables.replace(SAMPLE_RANKS, ranked, where={"ranking_id": key}, keys_are_unique=True)
            ranks = tables.read(SAMPLE_RANKS).where(F.col("ranking_id") == key)
            with work.clock.counting("compute"):
                for each in wanted:
                    _find_cutoff(run, each, ranks, n, k)
        release(shared)
        sampled = sample(run, drawn).select("doc_id")
        labels = [
            ranking.label_documents(
                sampled, each.ranks_of(ranks), cutoff=each.found, relevance=relevance
            ).withColumn("labels_id", F.lit(each.labels_id))
            for each in wanted
        ]
        mine = ", ".join(f"'{each.labels_id}'" for each in wanted)
        every = reduce(lambda some, more: some.unionByName(more), labels)
        tables.replace(SAMPLE_LABELS, every, where=f"labels_id IN ({mine})", keys_are_unique=True)
        work.rows_out = n
        work.values = {
            **wanted[0].values(),
            "embed": embedded.key,
            "sample": embedded["sample"],
            "encoder_id": embedded["encoder_id"],
            "tokenizer": embedded["tokenizer"],
            "heads": {each.head: each.values() for each in wanted[1:]},
        }
    cutoff, k = wanted[0].found, wanted[0].k
    how = (
        f"best rank up to {cutoff.rank} (k = {k:,})" if relevance is None else f"relevance from {cutoff.relevance:.4g}"
    )
    run.terminal.line(f"  top {config.positive_fraction:.0%} positive, {cutoff.positives:,} documents: {how}")
    for each in wanted[1:]:
        run.terminal.line(
            f"  head {each.head}, {each.examples:,} examples: best rank up to {each.found.rank} (k = {each.k:,})"
        )
    return run.needs("rank")


@dataclasses.dataclass
class _Labels:
    """Labels of the sample, by the ranks up to k of some examples: those of one head's benchmark, or all of them.

    rows: [example_id] of the head's. cutoff: None until it is found within k.
    """

    head: str
    labels_id: str
    examples: int
    rows: DataFrame | None = None
    k: int = 0
    cutoff: ranking.Cutoff | None = None

    @property
    def found(self) -> ranking.Cutoff:
        assert self.cutoff is not None
        return self.cutoff

    def ranks_of(self, ranks: DataFrame) -> DataFrame:
        """Of ranks that reach deeper, for more examples, those that ranking for these examples alone keeps."""
        mine = ranks.where(F.col("rank") <= self.k)
        return mine if self.rows is None else mine.join(self.rows, "example_id", "left_semi")

    def values(self) -> dict[str, Any]:
        found = self.found
        return {
            "k": self.k,
            "cutoff_rank": found.rank,
            "positives": found.positives,
            "examples": self.examples,
            "labels_id": self.labels_id,
        }


def _heads(run: Run, embedded: Outcome, labels_id: str) -> list[_Labels]:
    """A head for each benchmark of the targets, by name."""
    wanted = run.result("targets", embedded["targets"])
    assert wanted is not None
    examples = targets(run, wanted)
    return [
        _Labels(
            name,
            content_id(labels_id, "head", name),
            count,
            examples.where(F.col("benchmark") == name).select("example_id"),
        )
        for name, count in sorted(wanted["examples"].items())
    ]


def _find_cutoff(run: Run, labels: _Labels, ranks: DataFrame, documents: int, k: int) -> None:
    """Find the cutoff of these labels; where it lies beyond their k, that is raised, until it is beyond the ranks'."""
    while labels.cutoff is None and labels.k <= k:
        try:
            labels.cutoff = ranking.find_cutoff(
                documents, labels.ranks_of(ranks), k=labels.k, positive_fraction=run.config.positive_fraction
            )
        except ranking.CutoffBeyondK as beyond:
            head = f"head {labels.head}: " if labels.head else ""
            run.terminal.line(
                f"  {head}the k = {labels.k:,} best of each example are too few; again with {beyond.next_k:,}"
            )
            labels.k = beyond.next_k


# -- train -------------------------------------------------------------------------------------------------------------


def train(run: Run) -> Outcome:
    """Train fastText's two-label model on the labels (3.4) or fold an official one; validate it, keep it.

    Labels with heads give a classifier each, all with the same settings; each is one commit. A classifier is named by
    its labels and settings: one that is there already is kept, whatever it stood beside.
    """
    config, tables = run.config, run.tables
    ranked = run.needs("rank")
    given = _given(run)
    heads = {} if config.import_fasttext or given else ranked.values.get("heads", {})
    if config.heads and not heads:
        raise InputError("--heads: the labels are for all targets only: run `betr rank --heads` first")
    aside = {"heads", "classifier"}
    if config.features == "words":  # classifiers of before there were others keep their names
        aside |= {"features", "minn", "maxn"}
    settings = {name: value for name, value in config.settings("train").items() if name not in aside}
    settings["learning_rate"] = config.learning_rate_in_use
    if given is not None:
        settings["classifier"] = given.sha256  # what it is, not where an alias led
    if config.import_fasttext:
        settings["import_fasttext"] = _file_digest(config.import_fasttext)
    labels = {"": ranked.values.get("labels_id", ranked.key)}
    labels |= {name: each["labels_id"] for name, each in heads.items()}
    made_from = {head: content_id("train", labels_id, settings) for head, labels_id in labels.items()}
    key = content_id("train", "heads", made_from) if heads else made_from[""]
    if (earlier := run.result("train", key)) is not None:
        load_heads(run, earlier)  # a file that was lost or altered since is said now, not at three in the morning
        if given is not None and given.version is not None:
            record_version(run, key, given.version)
        return run.unchanged(earlier)
    drawn = run.result("sample", ranked["sample"])
    assert drawn is not None
    with run.stage("train", key, unit="documents", in_parts=bool(heads)) as work:
        paths = {head: f"{classifier_folder(run)}/{name}.safetensors" for head, name in made_from.items()}
        found = tables.read(CLASSIFIERS).where(F.col("path").isin(*paths.values())).collect()
        there = {row["path"]: row.asDict() for row in found}
        written = {(row["classifier_id"], row["head"]) for row in found}
        left = sum(path not in there for path in paths.values())
        columns, records = _names(run, CLASSIFIERS), {}
        for head, path in paths.items():
            if path in there:
                record = there[path]
                _load(run, record)
            else:
                record = _train(run, work, ranked, drawn, labels[head], path, left)
                record["parameters"] = json.dumps(settings, sort_keys=True, default=str)
                left -= 1
            record |= {"classifier_id": key, "head": head}
            records[head] = {column: record[column] for column in columns}
            if (key, head) not in written:
                row = CLASSIFIERS.frame(run.spark, [tuple(records[head].values())])
                tables.replace(CLASSIFIERS, row, where={"classifier_id": key, "head": head}, keys_are_unique=True)
        work.rows_in = drawn["rows"]
        work.rows_out = sum(record["training_documents"] for record in records.values())
        main = {column: value for column, value in records.pop("").items() if column != "head"}
        work.values = {**main, "heads": {head: _figures(record) for head, record in records.items()}}
    trained = run.needs("train")
    for head, figures in {"": trained.values, **trained["heads"]}.items():
        _tell_validation(run, head, figures)
    return trained


def _figures(record: dict[str, Any]) -> dict[str, Any]:
    """Of a head's classifier what later stages and reports need."""
    names = ("path", "sha256", "labels_id", "positives", "training_documents", "accuracy", "auc", "log_loss")
    return {name: record[name] for name in names}


def _tell_validation(run: Run, head: str, figures: Mapping[str, Any]) -> None:
    accuracy, auc = figures["accuracy"], figures["auc"]
    if accuracy is None or auc is None:
        return
    of = f"head {head}" if head else "validation"
    run.terminal.line(f"  {of}: accuracy {accuracy:.3f}, AUC {auc:.3f}, log-loss {figures['log_loss']:.3f}")
    if accuracy > 0.98:
        run.warn(
            f"{of + ': ' if head else ''}validation accuracy {accuracy:.3f}: near 0.75 is normal (BETR 3.4); so high, "
            "the classifier may have learned to tell sources apart"
        )


def _train(
    run: Run, work: Work, ranked: Outcome, drawn: Outcome, labels_id: str, path: str, left: int
) -> dict[str, Any]:
    """A classifier by these labels, in its file; all that CLASSIFIERS holds of it but its name and its settings."""
    config = run.config
    labels = run.tables.read(SAMPLE_LABELS).where(F.col("labels_id") == labels_id)
    labelled = labels.join(sample(run, drawn).select("doc_id", "text"), "doc_id")
    held_out = is_held_out(config.seed)
    log = {"documents": 0, "positives": ranked["positives"]}
    version = None
    if (given := _given(run)) is not None:
        model, origin, version = given.load(), given.origin, given.version
    elif config.import_fasttext:
        model = classifier.import_fasttext(config.import_fasttext, config.positive_label)
        origin = f"imported from {Path(config.import_fasttext).name}"
    else:
        counts = _counts(labels.where(~held_out), "label")
        model, fitted = fit_classifier(config, work, labelled.where(~held_out), counts, left)
        log, origin = dataclasses.asdict(fitted), "trained"
    counter, ratio = run.once("token counter", lambda: _token_counter(run, drawn, ranked["tokenizer"]))
    with work.clock.counting("writing"):
        sha256 = model.save(classifier_path(run, path))
    with work.clock.counting("compute"):
        figures = validate_classifier(run, labelled.where(held_out), model)
    return {
        "path": path,
        "sha256": sha256,
        "origin": origin,
        "labels_id": labels_id,
        "encoder_id": ranked["encoder_id"],
        "positives": int(log["positives"]),
        "training_documents": int(log["documents"]),
        "validation_documents": int(figures["documents"]),
        "accuracy": figures["accuracy"],
        "auc": figures["auc"],
        "log_loss": figures["log_loss"],
        "rank_correlation": figures["rank_correlation"],
        "token_counter": counter,
        "bytes_per_token": ratio,
        "trained_on": drawn["corpus"],
        "registered_as": version.uri if version else None,
        "registry": version.registry if version else None,
    }


@dataclasses.dataclass(frozen=True)
class GivenClassifier:
    """A classifier that is taken as it is: a file, or a version that an alias led to when this run began."""

    sha256: str
    path: str | None = None
    version: tracking.Registered | None = None

    @property
    def origin(self) -> str:
        return self.version.uri if self.version is not None else f"taken from {Path(str(self.path)).name}"

    def load(self) -> classifier.FoldedClassifier:
        """Checked against the sha256; a registered one is fetched for it."""
        if self.version is None:
            return classifier.load_classifier(str(self.path), self.sha256)
        with tempfile.TemporaryDirectory(prefix="betr-classifier-") as folder:
            return classifier.load_classifier(tracking.download(self.version, folder) / REGISTERED_FILE, self.sha256)


def _given(run: Run) -> GivenClassifier | None:
    return run.once("given classifier", lambda: given_classifier(run.config.classifier))


def given_classifier(given: str | None) -> GivenClassifier | None:
    """What --classifier names, if anything: an alias is looked up now, and what it led to is what holds."""
    if given is None:
        return None
    if not tracking.is_model_uri(given):
        sha256 = _file_digest(given, "--classifier", "a .safetensors file of betr's")
        return GivenClassifier(sha256, path=absolute(given))
    version = tracking.resolve(given)
    if "sha256" not in version.tags:
        raise InputError(f"--classifier {given}: {version.uri} has no tag sha256, so betr didn't register it")
    return GivenClassifier(version.tags["sha256"], version=version)


def record_version(run: Run, classifier_id: str, version: tracking.Registered) -> None:
    """Write down as which version of a registered model a classifier, with its heads, is known."""
    known = {"registered_as": version.uri, "registry": version.registry}
    mine = run.tables.read(CLASSIFIERS).where(F.col("classifier_id") == classifier_id)
    rows = [row.asDict() for row in mine.collect()]
    if all(known.items() <= row.items() for row in rows):
        return
    columns = _names(run, CLASSIFIERS)
    frame = CLASSIFIERS.frame(run.spark, [tuple((row | known)[column] for column in columns) for row in rows])
    run.tables.replace(CLASSIFIERS, frame, where={"classifier_id": classifier_id}, keys_are_unique=True)


def is_held_out(seed: int) -> Column:
    """Whether a row's doc_id is kept from the training, for validation."""
    return sampling.hash_fraction("doc_id", seed, "validation") < VALIDATION_SHARE


def fit_classifier(
    config: RunConfig, work: Work, labelled: DataFrame, counts: Mapping[int, int], left: int = 1
) -> tuple[classifier.FoldedClassifier, classifier.TrainingLog]:
    """Positives and as many negatives (by hash), in hashed order, streamed to the driver's compiled trainer.

    labelled: doc_id, text, label. counts: label -> documents. left: classifiers still to train, this one among them;
    about as many documents each.
    """
    share_kept = min(1.0, counts.get(1, 0) / max(1, counts.get(0, 0)))
    settings = config.training(2 * counts.get(1, 0))
    kept = (F.col("label") == 1) | (sampling.hash_fraction("doc_id", config.seed, "negatives") < share_kept)
    order = sampling.hash_fraction("doc_id", config.seed, "training order")
    rows = labelled.where(kept).select("text", "label", order.alias("order"), "doc_id").orderBy("order", "doc_id")

    def documents() -> Iterator[tuple[str, int]]:
        for row in rows.select("text", "label").toLocalIterator():
            yield row["text"], row["label"]

    before = work.progress.done

    def shown(done: int, total: int) -> None:
        if work.progress.total != before + left * total:
            work.progress.expect(before + left * total, unit="documents x epochs")
        work.progress.advance(before + done - work.progress.done)

    with work.clock.counting("compute"):
        return classifier.train_classifier(work.clock.waiting(documents()), settings, progress=shown)


def validate_classifier(run: Run, held_out: DataFrame, model: classifier.FoldedClassifier) -> dict[str, Any]:
    """Accuracy, AUC, log-loss and rank correlation on held-out documents, at most 100 thousand, as the paper (3.4)."""
    shared = share(run.spark, model.to_bytes())
    scored = scoring.score_documents(
        held_out, classifier=shared, tokens=scoring.BytesPerToken(1.0), keep=("label", "best_rank")
    )
    order = sampling.hash_fraction("doc_id", run.config.seed, "validation order")
    rows = scored.select("score", "label", "best_rank").orderBy(order, "doc_id").limit(VALIDATION_MOST).collect()
    release(shared)
    if not rows:
        return dict.fromkeys(("accuracy", "auc", "log_loss", "rank_correlation")) | {"documents": 0}
    return classifier.validate([r["score"] for r in rows], [r["label"] for r in rows], [r["best_rank"] for r in rows])


def _token_counter(run: Run, drawn: Outcome, encoders: str | None) -> tuple[str, float | None]:
    """(tokenizer, bytes per token): calibrated on the sample with a real tokenizer; None: counted exactly."""
    tokenizer = run.config.tokenizer or encoders
    if tokenizer is None:
        if run.config.exact_tokens:
            raise InputError("--exact-tokens: this encoder has no tokenizer; name one with --tokenizer")
        run.warn(
            f"no tokenizer at hand: tokens are bytes / {BYTES_PER_TOKEN_WITHOUT_TOKENIZER:g}; name one with --tokenizer"
        )
        return "none", BYTES_PER_TOKEN_WITHOUT_TOKENIZER
    if run.config.exact_tokens:
        return scoring.ExactTokens.load(tokenizer).tokenizer, None
    some = sample(run, drawn).orderBy("position", "doc_id").limit(CALIBRATION_DOCUMENTS).select("text").collect()
    return tokenizer, scoring.calibrate_bytes_per_token([row["text"] for row in some], tokenizer)


def classifier_folder(run: Run) -> str:
    root = run.tables.root
    if run.config.classifier_dir:
        return absolute(run.config.classifier_dir)
    if run.tables.is_catalog or not is_local(root):
        raise InputError(
            f"--tables {root} is no local folder: name one for the classifiers' files with --classifier-dir (a Volume)"
        )
    return "classifier_files"


def classifier_path(run: Run, path: str) -> str:
    """Files under the root are recorded relative to it: a root that is moved or copied stays whole."""
    return path if Path(path).is_absolute() else f"{run.tables.root}/{path}"


def load_trained(run: Run, trained: Outcome) -> classifier.FoldedClassifier:
    """The classifier of a `train` outcome, checked against the sha256 that was recorded with it."""
    return _load(run, trained.values)


def load_heads(run: Run, trained: Outcome) -> dict[str, classifier.FoldedClassifier]:
    """Every classifier of a `train` outcome by its head, "" for all targets, in order of names; each checked."""
    heads = {"": trained.values, **trained.values.get("heads", {})}
    return {head: _load(run, heads[head]) for head in sorted(heads)}


def _load(run: Run, record: Mapping[str, Any]) -> classifier.FoldedClassifier:
    return classifier.load_classifier(classifier_path(run, record["path"]), record["sha256"])


# -- score -------------------------------------------------------------------------------------------------------------


def score(run: Run) -> Outcome:
    """Score every document that this classifier hasn't scored yet (3.4), chunk by chunk; each chunk is one commit.

    A classifier with heads scores by all of them in the same pass, under an id of its own: no row is half filled.
    """
    config, trained = run.config, run.needs("train")
    if config.heads and not trained.values.get("heads"):
        raise InputError("--heads: the classifier is for all targets only: run `betr train --heads` first")
    key = content_id("score", trained.key, corpus.key(run))
    if (earlier := run.result("score", key)) is not None:
        return run.unchanged(earlier)
    models = load_heads(run, trained)
    heads = tuple(models)[1:]
    payloads = tuple(model.to_bytes() for model in models.values())
    with run.stage("score", key, unit="documents", in_parts=True) as work:
        way, reason = score_chunks(run, work, trained.key, payloads if heads else payloads[0], trained, heads=heads)
        documents, tokens = scored_totals(run, trained.key)
        work.values = {
            "classifier_id": trained.key,
            "corpus": corpus.key(run),
            "documents": documents,
            "tokens": tokens,
            "heads": heads,
            "read": way,
            "read_because": reason,
        }
    return run.needs("score")


def counter_of(trained: Outcome) -> scoring.TokenCounter:
    """What counts the tokens of the scores by a classifier, and of all that is to be compared with them."""
    if trained["bytes_per_token"] is None:
        return scoring.ExactTokens.load(trained["token_counter"])
    return scoring.BytesPerToken(trained["bytes_per_token"])


def scored_chunks(run: Run, classifier_id: str) -> set[str]:
    """The chunks that have scores by a classifier: a chunk has all of them or none."""
    mine = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == classifier_id)
    return {row["chunk"] for row in mine.select("chunk").distinct().collect()}


def scored_totals(run: Run, classifier_id: str) -> tuple[int, int]:
    """(documents, tokens) of the scores by a classifier."""
    mine = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == classifier_id)
    documents, tokens = mine.agg(F.count(F.lit(1)), F.sum("tokens")).collect()[0]
    return documents, tokens


def score_chunks(
    run: Run, work: Work, classifier_id: str, model: scoring.Scorer, trained: Outcome, *, heads: tuple[str, ...] = ()
) -> tuple[str, str]:
    """Score the chunks that have no scores under this id yet, each one commit; how they were read, and why so.

    model: what `scoring.score_batches` takes. trained: whose tokens are counted.
    """
    config, tables = run.config, run.tables
    chunks = corpus.missing(run, work, scored_chunks(run, classifier_id))
    counter, shared = counter_of(trained), share(run.spark, model)
    documents, way, reason = tables.read(DOCUMENTS), "", ""
    files: dict[str, list[file_scoring.DataFile]] = {}
    if chunks:
        way, reason = file_scoring.choose_way(tables, DOCUMENTS, config.read)
        how = "reads files in the task" if way == "files" else "reads through Spark"
        run.terminal.line(f"  score {how}: {reason}")
        # Through Spark they are only needed to name one that is gone.
        if way == "files" or (not tables.is_catalog and is_local(tables.root)):
            unscored = documents.where(F.col("chunk").isin(*chunks))
            files = _files_by_chunk(file_scoring.list_files(unscored, ("chunk",)))
    for number, (chunk, (count, _)) in enumerate(sorted(chunks.items())):
        clock = work.clock if number % CHUNKS_A_CLOCK == 0 else None
        work.progress.batch(count)
        with _files_named(files.get(chunk, [])):
            if way == "files":
                shares = file_scoring.plan(
                    files.get(chunk, []), ("doc_id", "source", "text"), tasks=default_parallelism(run.spark)
                )
                scores = file_scoring.score_files(
                    run.spark, shares, documents.schema, classifier=shared, tokens=counter, keep=("source",),
                    heads=heads, clock=clock,
                )  # fmt: skip
            else:
                texts = documents.where(F.col("chunk") == chunk)
                scores = scoring.score_documents(
                    texts, classifier=shared, tokens=counter, keep=("source",), heads=heads, clock=clock
                )
            # Sorted by score, so that a cut skips the row groups below it.
            scores = scores.sortWithinPartitions("score", "doc_id")
            if not heads:
                scores = scores.withColumn("heads", F.lit(None))
            # What a chunk has in common needn't travel to Python and back.
            rows = scores.withColumns({"classifier_id": F.lit(classifier_id), "chunk": F.lit(chunk)})
            # The documents' key is unique, and scoring keeps every row. A chunk without scores has none to replace: for
            # that Delta would look through all files of the table at each chunk.
            tables.append(CORPUS_SCORES, rows, keys_are_unique=True)
        work.progress.advance(count)
        work.rows_out += count
    release(shared)
    watched = sum(chunks[chunk][1] for chunk in sorted(chunks)[::CHUNKS_A_CLOCK])
    work.clock.watched = watched / max(1, work.bytes_in or 0)
    work.rows_in = work.rows_out
    return way, reason


def _files_by_chunk(files: list[file_scoring.DataFile]) -> dict[str, list[file_scoring.DataFile]]:
    by_chunk: dict[str, list[file_scoring.DataFile]] = {}
    for file in files:
        by_chunk.setdefault(file.partition["chunk"], []).append(file)
    return by_chunk


@contextmanager
def _files_named(files: list[file_scoring.DataFile]) -> Iterator[None]:
    """However a chunk is read: where it fails because a file of it has vanished or changed, say which."""
    try:
        yield
    except InputError:
        raise
    except Exception:
        file_scoring.check_files(files)
        raise


# -- decontaminate -----------------------------------------------------------------------------------------------------


def decontaminate(run: Run) -> Outcome | None:
    """What the corpus shares with held-out test sets, new chunks alone; None where no test set is named (3.1)."""
    return contamination.decontaminate(run)


# -- select ------------------------------------------------------------------------------------------------------------


def select(run: Run) -> Outcome:
    """Cut the scores at a token budget (3.5): a new cut reads scores, no text."""
    config, tables = run.config, run.tables
    scored = run.needs("score")
    wanted = config.selection
    if config.carry is not None:
        made = tables.read(SELECTION_RUNS).collect()
        carried = selection.find_selection(made, config.carry, root=tables.root)
        wanted = selection.carry(carried, name=config.name)
    cleaned = contamination.applied(run, scored["corpus"])
    unique = deduplication.applied(run, scored["corpus"])
    wanted = dataclasses.replace(
        wanted,
        decontamination_id=cleaned.key if cleaned else None,
        deduplication_id=unique.key if unique else None,
    )
    key = selection.selection_id(scored.key, wanted)
    if (earlier := run.result("select", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("select", key, unit="documents") as work:
        scores = scores_to_cut(run, scored["classifier_id"], wanted)
        cut = cut_scores(run, work, scores, wanted, scored, selection_id=key)
        work.values = write_selection(run, work, cut)
    for warning in cut.warnings:
        run.warn(warning)
    return run.needs("select")


def cut_scores(
    run: Run, work: Work, scores: DataFrame, wanted: selection.SelectionConfig, scored: Outcome, *, selection_id: str
) -> selection.Selection:
    """The cut of these scores, of a `score` outcome; nothing is written."""
    by_metadata = any(field.startswith("metadata.") for field in wanted.quota_fields)
    with work.clock.counting("compute"):
        return selection.select(
            scores,
            wanted,
            classifier_id=scored["classifier_id"],
            selection_id=selection_id,
            documents=run.tables.read(DOCUMENTS).select("doc_id", "metadata") if by_metadata else None,
            heads=scored.values.get("heads", ()),
        )


def write_selection(run: Run, work: Work, cut: selection.Selection) -> dict[str, Any]:
    """Write a selection's documents, then its row, the next version under its name; what later stages need of it."""
    tables, key = run.tables, cut.selection_id
    work.progress.expect(cut.kept_documents)
    work.progress.batch(cut.kept_documents)
    # The scores' key is unique, and a cut only leaves rows out.
    tables.replace(SELECTIONS, cut.rows, where={"selection_id": key}, keys_are_unique=True)
    version, is_there = selection.next_version(tables.read(SELECTION_RUNS), name=cut.config.name, selection_id=key)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    row = cut.run_row(version=version, run_id=run.run_id, created=created)
    columns = _names(run, SELECTION_RUNS)
    frame = SELECTION_RUNS.frame(run.spark, [[row[c] for c in columns]])
    if is_there:  # of a run that was killed after this
        tables.replace(SELECTION_RUNS, frame, where={"selection_id": key}, keys_are_unique=True)
    else:
        tables.append(SELECTION_RUNS, frame, keys_are_unique=True)
    work.rows_in, work.rows_out = cut.documents, cut.kept_documents
    return {name: row[name] for name in columns if name not in ("parameters", "run_id", "created")}


def scores_to_cut(run: Run, classifier_id: str, config: selection.SelectionConfig) -> DataFrame:
    """A classifier's scores without the documents that these settings drop, and with the tokens that they leave."""
    scores = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == classifier_id)
    if config.deduplication_id is not None:
        scores = deduplication.leave_out(run, scores, config.deduplication_id)
    if config.decontamination_id is not None:
        scores = contamination.leave_out(run, scores, config.decontamination_id)
    return scores


# -- cover -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Origins:
    """The outcomes that a selection was made from."""

    trained: Outcome
    ranked: Outcome
    embedded: Outcome
    wanted: Outcome
    drawn: Outcome

    @property
    def labels_id(self) -> str:
        return str(self.trained["labels_id"])


def origins(run: Run, classifier_id: str) -> Origins:
    """What stands behind a classifier: its labels, their ranks, embeddings, targets and sample."""
    trained = run.result("train", classifier_id)
    assert trained is not None
    ranked = run.before("rank", where=lambda o: o.values.get("labels_id", o.key) == trained["labels_id"])
    assert ranked is not None
    embedded = run.result("embed", ranked["embed"])
    assert embedded is not None
    wanted, drawn = run.result("targets", embedded["targets"]), run.result("sample", embedded["sample"])
    assert wanted is not None and drawn is not None
    return Origins(trained, ranked, embedded, wanted, drawn)


def cover(run: Run) -> Outcome:
    """Which examples chose documents of the selection, and which have nothing near them; reads no text."""
    tables, selected = run.tables, run.needs("select")
    made_from = origins(run, selected["classifier_id"])
    key = content_id("cover", selected.key, made_from.ranked.key)
    if (earlier := run.result("cover", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("cover", key, unit="examples") as work:
        covered = coverage.cover(
            targets(run, made_from.wanted),
            tables.read(SAMPLE_RANKS).where(F.col("ranking_id") == made_from.ranked.key),
            tables.read(SAMPLE_LABELS).where(F.col("labels_id") == made_from.labels_id),
            tables.read(SELECTIONS).where(F.col("selection_id") == selected.key),
        )
        mine = {"selection_id": selected.key}
        rows = covered.withColumn("selection_id", F.lit(selected.key))
        tables.replace(COVERAGE, rows, where=mine, keys_are_unique=True)  # the examples' key is
        there = tables.read(COVERAGE).where(F.col("selection_id") == selected.key)
        with work.clock.counting("compute"):
            found = coverage.by_benchmark(there)
        work.rows_in = made_from.drawn["rows"]
        work.rows_out = sum(each.examples for each in found)
        work.values = {
            "selection_id": selected.key,
            "examples": {each.benchmark: dataclasses.asdict(each) for each in found},
        }
    return run.needs("cover")


def with_texts(run: Run, wanted: Outcome, covered: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of COVERAGE as dicts, with the text of their examples and with the row of a file that each was read from."""
    mine = targets(run, wanted).where(F.col("example_id").isin([row["example_id"] for row in covered]))
    texts = {row["example_id"]: row.asDict() for row in mine.select("example_id", "text", "file", "row").collect()}
    return [{**row.asDict(), **texts[row["example_id"]]} for row in covered]


def write_seeds(run: Run, wanted: Outcome, gaps: Sequence[Mapping[str, Any]], out: str) -> list[dict[str, Any]]:
    """Write gaps, rows of `with_texts`, into a JSON lines file as seeds for BARE; returns what was written."""
    templates = benchmarks.parse_templates(run.settings_of(wanted)["template"])
    seeds, lost = coverage.seed_rows(run.spark, gaps, templates=templates, root=run.tables.root)
    coverage.write_seeds(seeds, out)
    if lost:
        run.warn(f"no longer as they were read, so of their examples the text alone is known: {', '.join(lost)}")
    return seeds


# -- watch -------------------------------------------------------------------------------------------------------------


def watch(run: Run) -> Outcome | None:
    """What has moved since the last selection by the same settings; None where there is none, or nothing came since.

    The documents of the imports since then are compared with those before, and the coverage with the coverage then.
    """
    selected, limits = run.needs("select"), drift.parse_limits(run.config.drift)
    last = _last_selection(run, selected)
    if last is None or not _since(run, last):
        return None
    key = content_id("watch", selected.key, last.key, limits)
    if (earlier := run.result("watch", key)) is not None:
        run.unchanged(earlier)
    else:
        with run.stage("watch", key, unit="measures") as work:
            with work.clock.counting("compute"):
                found = _measures(run, selected, last, limits)
            rows = [
                (selected.key, last.key, m.measure, m.value, m.at_most, m.n, m.n_before, m.breached, m.said, run.run_id)
                for m in found
            ]
            frame, mine = DRIFT.frame(run.spark, rows), {"selection_id": selected.key}
            run.tables.replace(DRIFT, frame, where=mine, keys_are_unique=True)
            work.rows_in = work.rows_out = len(rows)
            measures = [dataclasses.asdict(m) | {"breached": m.breached} for m in found]
            work.values = {"selection_id": selected.key, "compared_with": last.key, "measures": measures}
    outcome = run.needs("watch")
    for measure in outcome["measures"]:
        if measure["breached"] and run.config.on_drift != "ignore":
            limit = f"limit of {measure['measure']}: {measure['at_most']:g}"
            run.warn(f"moved since the last run: {measure['said']} ({limit})")
    return outcome


def _last_selection(run: Run, selected: Outcome) -> Outcome | None:
    """The latest selection before this one that was cut by the same settings, or that this one carries on."""

    def settings(outcome: Outcome) -> dict[str, Any]:
        return {name: value for name, value in run.settings_of(outcome).items() if name != "tables"}

    def comparable(outcome: Outcome) -> bool:
        mine, other = settings(selected), settings(outcome)
        return mine == other or (mine.get("carry") is not None and mine["name"] == other["name"])

    made = run.all("select")
    before = made[: [outcome.key for outcome in made].index(selected.key)]
    return next(filter(comparable, reversed(before)), None)


def _since(run: Run, last: Outcome) -> list[Outcome]:
    """The imports after a selection."""
    return [each for each in corpus.imports(run) if run.began(each) > run.began(last)]


def _measures(run: Run, selected: Outcome, last: Outcome, limits: Mapping[str, float]) -> list[drift.Measure]:
    fresh = _since(run, last)
    known = [each for each in corpus.imports(run) if each not in fresh]
    found = []
    if any(each["chunks"] for each in fresh):
        before, new, kept = _new_and_before(run, selected, [chunk for each in fresh for chunk in each["chunks"]])
        found += drift.of_scores(before, new, limits)
        found += drift.of_kept((kept[False], sum(before)), (kept[True], sum(new)), limits)
    found += drift.of_rejections(_put_aside(known), _put_aside(fresh), limits)
    covered, then = cover_of(run, selected), cover_of(run, last)
    if covered is not None and then is not None:
        found += drift.of_coverage(_medians(then), _medians(covered), limits)
    return found


def cover_of(run: Run, selected: Outcome) -> Outcome | None:
    """What `cover` left of a selection."""
    return run.before("cover", where=lambda each: each["selection_id"] == selected.key)


def _new_and_before(run: Run, selected: Outcome, chunks: list[str]) -> tuple[list[int], list[int], dict[bool, int]]:
    """Histograms over the same bins of the scores before and of those in new chunks, and how many of each are kept."""
    tables = run.tables
    row = tables.read(SELECTION_RUNS).where(F.col("selection_id") == selected.key).first()
    assert row is not None
    config, cuts = selection.config_of(row["parameters"]), selection.cuts_of(row["parameters"])
    scores = scores_to_cut(run, selected["classifier_id"], config)
    documents = tables.read(DOCUMENTS).select("doc_id", "metadata")
    judged = selection.with_verdict(scores, config, cuts, documents=documents)
    bin_, new = selection.log_odds_bin(selection.score_of(config)), F.col("chunk").isin(*chunks)
    counted = judged.groupBy(bin_.alias("bin"), new.alias("new")).agg(
        F.count(F.lit(1)).alias("documents"), F.count_if("kept").alias("kept")
    )
    rows = counted.collect()
    bins = sorted({row["bin"] for row in rows})
    counts = {(row["bin"], row["new"]): row["documents"] for row in rows}
    kept = {side: sum(row["kept"] for row in rows if row["new"] == side) for side in (False, True)}
    return [counts.get((b, False), 0) for b in bins], [counts.get((b, True), 0) for b in bins], kept


def _put_aside(done: list[Outcome]) -> tuple[int, int]:
    """(rows rejected, rows read) of some imports; a copy of a known text isn't a rejection."""
    rejected = sum(corpus.rejections(done).values())
    kept = sum(count for each in done for count, _ in each["chunks"].values())
    return rejected, rejected + kept + sum(each["duplicates"] for each in done)


def _medians(covered: Outcome) -> dict[str, tuple[int, float | None]]:
    """benchmark -> (examples, median similarity of their nearest documents)."""
    at = coverage.QUANTILES.index(0.5)
    return {
        name: (each["examples"], each["quantiles"][at] if each["quantiles"] else None)
        for name, each in covered["examples"].items()
    }


def _names(run: Run, spec: TableSpec) -> list[str]:
    return list(spec.struct(run.spark).names)


def _counts(rows: DataFrame, column: str) -> dict[Any, int]:
    return dict(sorted((value, count) for value, count in rows.groupBy(column).count().collect()))


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"


def _file_digest(path: str, option: str = "--import-fasttext", wanted: str = "a fastText .bin") -> str:
    import hashlib

    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{option} {path} can't be read ({error.strerror}); give {wanted}") from error
