"""Every setting of a BETR run: frozen, checked at birth, with default and unit. The command line is made from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from betr.classifier import TrainingConfig
from betr.drift import ACTIONS, parse_limits
from betr.file_scoring import READS
from betr.filter_rate import LAWS
from betr.ranking import AGGREGATIONS
from betr.selection import SelectionConfig, check_mode
from curation import command, tracking
from curation.command import option
from curation.decontamination import parse_decontamination
from curation.embedding import EncoderConfig
from curation.errors import InputError
from curation.near_duplicates import parse_near

PAPER_SAMPLE = 10_000_000
PAPER_EPOCHS = 5
PAPER_RATE, SUBWORDS_RATE = 0.03, 0.5
LEAST_STEPS = 150_000
MOST_EPOCHS = 1_000
FEATURES = ("words", "subwords", "segments")
PAPER_ENCODER = "Snowflake/snowflake-arctic-embed-l-v2.0"


@dataclass(frozen=True)
class RunConfig:
    """One run of BETR. A field's metadata says what it means, in which unit, and which stages read it."""

    tables: str = option("", "where the tables are: a folder, or catalog.schema", stages="all")
    documents: tuple[str, ...] = option(
        [], "files, folders, globs, Delta tables or hf://datasets/OWNER/NAME with documents", stages="import", many=True
    )
    columns: str = option(
        "", "your column names: id=...,text=...,source=...,license=... (other columns go to metadata)", stages="import"
    )
    max_bytes: int = option(
        10_000_000, "longest document, in bytes of text; longer ones are rejected", stages="import"
    )
    chunk_bytes: int = option(
        256 * 2**20,
        "bytes of documents in one chunk: the unit of work, and of loss when a run is killed",
        stages="import",
    )
    benchmarks: tuple[str, ...] = option(
        [], "training splits as JSON lines: name=path, or a path whose stem is the name", stages="targets", many=True
    )
    per_benchmark: str = option(
        "equal",
        "examples of each benchmark: a number, 'equal' (as many as the smallest has) or 'all'",
        stages="targets",
    )
    template: tuple[str, ...] = option(
        [], "how an unusual benchmark reads as one text: name='{title}: {body}'", stages="targets", many=True
    )
    allow_test: tuple[str, ...] = option(
        [], "benchmarks whose test or validation rows may be targets all the same", stages="targets", many=True
    )
    sample: str = option(
        "auto",
        "documents to rank: a number, a share below 1, or 'auto' (10 million, at most a fifth of the corpus)",
        stages="sample",
    )
    encoder: str = option(
        PAPER_ENCODER,
        "sentence-transformers model: folder or name (hashing:64 is a stand-in without a model)",
        stages="embed",
    )
    encoder_revision: str | None = option(None, "revision of a named encoder", stages="embed")
    precision: str = option("auto", "encoder's arithmetic: auto, float32, bfloat16 or float16", stages="embed")
    max_tokens: int | None = option(
        None, "tokens of a text that the encoder reads; default: what it can", stages="embed"
    )
    wave_rows: int = option(10_000, "texts embedded in one commit: what a killed run loses at most", stages="embed")
    gpus_per_task: float = option(
        0.0, "GPUs that each embedding task asks for (stage-level resource profile)", stages="embed"
    )
    positive_fraction: float = option(0.10, "share of the sample labelled positive", stages="rank")
    aggregation: str = option(
        "max", "how ranks make a score: max (best rank), mean_reciprocal, mean_log", stages="rank"
    )
    k: int | None = option(
        None, "documents kept per example while ranking; default: from the sizes, raised if too few", stages="rank"
    )
    heads: bool = option(
        False,
        "beside the classifier for all targets one for each benchmark, a head, scored in the same pass",
        stages="rank train score",
    )
    dim: int = option(128, "classifier: length of a feature's vector", stages="train")
    epochs: int | None = option(
        None, "classifier: passes over the training documents; default: the paper's 5, more for a small sample",
        stages="train")
    learning_rate: float | None = option(
        None, "classifier: learning rate at the start; default: the paper's 0.03, with subwords 0.5", stages="train"
    )
    min_count: int = option(5, "classifier: occurrences that make a word a feature", stages="train")
    word_ngrams: int = option(2, "classifier: longest run of words that is a feature", stages="train")
    buckets: int = option(2_000_000, "classifier: hash buckets for runs of words and subwords", stages="train")
    features: str = option(
        "words",
        "classifier: what a text is cut into: words (at white space), subwords (these and their runs of characters), "
        "segments (Unicode's words: for text without spaces and for code; with --maxn their runs of characters too)",
        stages="train",
    )
    minn: int | None = option(
        None, "classifier: shortest subword, in characters; default: 2 with subwords, 1 with segments and --maxn",
        stages="train")
    maxn: int | None = option(
        None, "classifier: longest subword, in characters; default: 4 with subwords, none with segments", stages="train"
    )
    tokenizer: str | None = option(
        None,
        "tokenizer (folder, tokenizer.json or name) that tokens are counted by; default: the encoder's own",
        stages="train",
    )
    exact_tokens: bool = option(
        False, "count each document's tokens with the tokenizer instead of bytes / calibrated ratio", stages="train"
    )
    import_fasttext: str | None = option(None, "fold this official fastText .bin instead of training", stages="train")
    positive_label: str | None = option(None, "which label of that .bin means 'keep'", stages="train")
    classifier: str | None = option(
        None,
        "take this classifier instead of training: models:/NAME@ALIAS or models:/NAME/VERSION from MLflow's registry, "
        "or a .safetensors file of betr's",
        stages="train",
    )
    classifier_dir: str | None = option(
        None, "folder for the classifiers' files; default: under the tables root", stages="train"
    )
    retrain: bool = option(
        False,
        "draw the sample anew from the corpus as it is now, and train on it (default: new documents are only scored)",
        stages="sample",
    )
    read: str = option(
        "auto",
        "how scoring reads documents: spark (works everywhere), files (tasks read the Parquet files: faster) "
        "or auto (files where they lie on the machine that Spark runs on)",
        stages="score",
    )
    near_duplicates: str | None = option(
        None,
        "which of a cluster of near-duplicates stays: before (the ranking: the longest, and only it is sampled), after "
        "(the one with the highest score), none (all do); default: as the last time, at first none",
        stages="deduplicate sample select",
    )
    near: tuple[str, ...] = option(
        [],
        "what near is, NAME=NUMBER; of threshold (Jaccard), ngram (words), bands, seed (docs/method.md)",
        stages="deduplicate",
        many=True,
    )
    tests: tuple[str, ...] = option(
        [],
        "held-out test sets as JSON lines, NAME=path or a path: what the corpus shares with them is cut out of the "
        "selection; none: nothing is, whatever earlier runs looked for",
        stages="decontaminate select",
        many=True,
    )
    decontamination: tuple[str, ...] = option(
        [],
        "what is a hit and what it costs, NAME=NUMBER; of shortest, longest, margin, most_cuts, commonest, "
        "shortest_piece (docs/method.md)",
        stages="decontaminate",
        many=True,
    )
    keep: float | None = option(None, "share of the corpus's tokens to keep, in (0, 1]; default 0.1", stages="select")
    tokens: int | None = option(None, "tokens to keep", stages="select")
    flops: float | None = option(None, "training compute C in FLOPs: the paper's law gives the share", stages="select")
    carry: str | None = option(
        None,
        "selection (NAME, NAME@VERSION or id) whose threshold holds on: what lies above it is kept, however much it is",
        stages="select",
    )
    law: str = option("nemotron", f"which of the paper's laws --flops uses: {', '.join(LAWS)}", stages="select")
    mode: str = option("hard", "hard (the highest scores) or soft (importance resampling)", stages="select")
    temperature: float = option(1.0, "soft: above 1 flattens, below 1 sharpens the preference", stages="select")
    head: str | None = option(None, "benchmark whose head's score is cut, not the one for all targets", stages="select")
    quota: tuple[str, ...] = option(
        [],
        "share of the kept tokens for a source, a metadata value, or the documents that a head scores highest: "
        "source=wiki:0.2, metadata.language=de:0.1, both as metadata.language,source=de,wiki:0.1, or head=arc_easy:0.3",
        stages="select",
        many=True,
    )
    name: str = option(
        "default", "name of the selection; a new cut under the same name is its next version", stages="select"
    )
    drift: tuple[str, ...] = option(
        [],
        "how far a measure may move from the last run's: NAME=NUMBER; of psi, ks, rejected, coverage, kept "
        "(docs/method.md)",
        stages="watch",
        many=True,
    )
    on_drift: str = option(
        "warn", "what a measure beyond its limit does: warn, fail (exit code 3, once all is written) or ignore",
        stages="watch")
    retention_days: int | None = option(
        None,
        "days that the tables keep what they replaced, and their log, so that earlier versions can be read; default: "
        "as they are (Delta's own: 7 and 30)",
        stages="retention",
    )
    page: str | None = option(
        None,
        "HTML file for the page that a run ends with; default: in `pages` under a local tables root; none: no page",
        stages="page",
    )
    by: tuple[str, ...] = option(
        [],
        "metadata that the page tells the corpus and the selection apart by, beside the source: metadata.domain",
        stages="page report",
        many=True,
    )
    mlflow: str | None = option(
        None,
        "log the run in this experiment of MLflow: settings, figures, page, classifier (where: MLFLOW_TRACKING_URI)",
        stages="mlflow",
    )
    mlflow_model: str | None = option(
        None, "register the classifier with MLflow as a version of this model (catalog.schema.name)", stages="mlflow"
    )
    mlflow_alias: str = option(
        tracking.CHALLENGER, "alias that leads to that version from then on; none: no alias", stages="mlflow"
    )
    seed: int = option(0, "seed of every hash that stands for chance", stages="targets sample train select")

    def __post_init__(self) -> None:
        if not self.tables:
            raise InputError("--tables is missing: name a folder or catalog.schema to keep the tables in")
        if not 0 < self.positive_fraction < 1:
            raise InputError(f"--positive-fraction must lie in (0, 1); got {self.positive_fraction!r}")
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"--aggregation must be one of {', '.join(AGGREGATIONS)}; got {self.aggregation!r}")
        if self.heads and self.aggregation != "max":
            raise InputError(f"--heads goes by best ranks, so by --aggregation max; got {self.aggregation!r}")
        if self.heads and self.import_fasttext:
            raise InputError("--heads and --import-fasttext exclude each other: an imported classifier has no heads")
        self._check_given_classifier()
        tracking.check_settings(self.mlflow, self.mlflow_model, self.mlflow_alias)
        if self.features not in FEATURES:
            raise InputError(f"--features must be one of {', '.join(FEATURES)}; got {self.features!r}")
        if self.features == "words" and (self.minn is not None or self.maxn is not None):
            raise InputError("--minn and --maxn are for subwords: give --features subwords or segments with them")
        if self.features == "segments" and self.minn is not None and self.maxn is None:
            raise InputError("--features segments has subwords only with --maxn: give it beside --minn")
        if self.features != "words" and self.import_fasttext:
            raise InputError("--features and --import-fasttext exclude each other: a .bin brings its own features")
        if self.per_benchmark not in ("equal", "all") and not (
            self.per_benchmark.isdigit() and int(self.per_benchmark) > 0
        ):
            raise InputError(f"--per-benchmark must be a number above 0, 'equal' or 'all'; got {self.per_benchmark!r}")
        if self.read not in READS:
            raise InputError(f"--read must be one of {', '.join(READS)}; got {self.read!r}")
        for name in ("wave_rows", "chunk_bytes", "max_bytes"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)!r}")
        if self.on_drift not in ACTIONS:
            raise InputError(f"--on-drift must be one of {', '.join(ACTIONS)}; got {self.on_drift!r}")
        parse_limits(self.drift)
        parse_decontamination(self.decontamination)
        parse_near(self.near)
        if self.near_duplicates not in (None, "before", "after", "none"):
            raise InputError(f"--near-duplicates must be before, after or none; got {self.near_duplicates!r}")
        for field in self.by:
            if not field.removeprefix("metadata.") or not field.startswith("metadata."):
                raise InputError(f"--by names metadata as metadata.KEY; got {field!r}")
        if self.retention_days is not None and self.retention_days < 1:
            raise InputError(f"--retention-days must be at least 1; got {self.retention_days!r}")
        if self.k is not None and self.k < 1:
            raise InputError(f"--k must be at least 1; got {self.k!r}")
        _ = self.sample_request, self.training(1), self.encoding, self.selection

    def _check_given_classifier(self) -> None:
        if self.classifier is None:
            return
        other = next((name for name in ("import_fasttext", "heads") if getattr(self, name)), None)
        if other is not None:
            raise InputError(
                f"--classifier and --{other.replace('_', '-')} exclude each other: what is given is one classifier"
            )
        if tracking.is_model_uri(self.classifier):
            tracking.check_model_uri(self.classifier)
            if self.mlflow_model is not None:
                raise InputError(f"--mlflow-model: {self.classifier} is registered already; leave one of the two out")

    @property
    def sample_request(self) -> int | float | None:
        """Documents (int), a share of the corpus (float), or None: as the paper, at most a fifth."""
        if self.sample == "auto":
            return None
        try:
            value = float(self.sample)
        except ValueError:
            value = -1.0
        whole = value >= 1 and value.is_integer() and self.sample.strip() != "1.0"
        if not whole and not 0 < value <= 1:
            raise InputError(
                f"--sample must be a number of documents, a share in (0, 1] or 'auto'; got {self.sample!r}"
            )
        return int(value) if whole else value

    @property
    def encoding(self) -> EncoderConfig:
        return EncoderConfig(
            model=self.encoder, revision=self.encoder_revision, precision=self.precision, max_tokens=self.max_tokens
        )

    def training(self, documents: int) -> TrainingConfig:
        """The trainer's settings for so many training documents.

        The paper's 5 epochs at lr 0.03 are meant for two million documents. A few thousand leave the model where it
        started (log-loss 0.693), so a small sample is read until 150,000 documents have passed.
        """
        minn, maxn = self._subwords
        enough = min(MOST_EPOCHS, max(PAPER_EPOCHS, -(-LEAST_STEPS // max(1, documents))))
        return TrainingConfig(
            dim=self.dim,
            epochs=enough if self.epochs is None else self.epochs,
            learning_rate=self.learning_rate_in_use,
            min_count=self.min_count,
            word_ngrams=self.word_ngrams,
            buckets=self.buckets,
            seed=self.seed,
            minn=minn,
            maxn=maxn,
            segmenter="unicode14" if self.features == "segments" else "space",
        )

    @property
    def learning_rate_in_use(self) -> float:
        """The paper's moves the mean of a thousand subwords too little: it leaves the model where it started."""
        if self.learning_rate is not None:
            return self.learning_rate
        return SUBWORDS_RATE if self._subwords[1] else PAPER_RATE

    @property
    def _subwords(self) -> tuple[int, int]:
        """minn and maxn; (0, 0): none."""
        if self.features == "words" or (self.features == "segments" and self.maxn is None):
            return 0, 0
        least, most = (2, 4) if self.features == "subwords" else (1, 0)
        return least if self.minn is None else self.minn, most if self.maxn is None else self.maxn

    @property
    def selection(self) -> SelectionConfig:
        ways = ("keep", "tokens", "flops", "carry")
        chosen = [name for name in ways if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise InputError(f"--{' and --'.join(chosen)} exclude each other: say how much to keep in one way")
        if self.carry is not None and self.quota:
            raise InputError("--carry and --quota exclude each other: what is carried on has one threshold")
        check_mode(self.mode)
        return SelectionConfig(
            keep=0.1 if not chosen or self.carry is not None else self.keep,
            tokens=self.tokens,
            flops=self.flops,
            law=self.law,
            mode=self.mode,
            temperature=self.temperature,
            seed=self.seed,
            head=self.head,
            quotas=tuple(self.quota),
            name=self.name,
        )

    def settings(self, stage: str | None) -> dict[str, Any]:
        """The settings that a stage reads: what makes it run anew when it changes."""
        return {f.name: getattr(self, f.name) for f in options(stage)}


def options(stage: str | None = None) -> list[dataclasses.Field[Any]]:
    """The options of one stage, or all of them."""
    return command.options(RunConfig, stage)
