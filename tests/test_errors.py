"""Sentences that no other test provokes, a call each: what is wrong, the rule, the remedy, word by word."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonargparse import Namespace
from pyspark.sql import SparkSession

from bare import agreement, comparison, draws, metrics, publish
from bare import pipeline as bare_pipeline
from bare.collapse import Monitor
from bare.config import BareConfig
from bare.cost import load_prices
from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Completion, Prompt, Sampling
from bare.generators.scripted import Rule, ScriptedGenerator
from bare.generators.spec import checked_base_url
from bare.tasks import parse_task
from bare.verdicts import VerdictConfig
from betr import estimate, file_scoring, filter_rate, ranking, show, stages
from betr import pipeline as betr
from betr.benchmarks import parse_templates
from betr.classifier import FoldedClassifier, FoldedHeads, TrainingConfig, _positive
from betr.config import RunConfig
from betr.estimate import Machines
from betr.features import FeatureSpec
from betr.trial import EstimateConfig
from curation import documents, files, held_out, jars, jsonlines, overlap, sampling
from curation.command import open_session
from curation.embedding import EncoderConfig, _read_json, resolve_encoder
from curation.errors import InputError, explain
from curation.progress import Terminal
from curation.session import _start_failure
from curation.statistics import wilson
from curation.tables import _hold_folder
from tests.helpers import settings
from tests.test_bare_tasks import SUMS, changed

Call = Callable[[Path], object]
LABELS = ["__label__a", "__label__b"]
NO_FOLDER = Namespace(tables=Namespace(root="main.betr", is_catalog=True), config=Namespace(classifier_dir=None))
NO_TOKENIZER = Namespace(config=Namespace(tokenizer=None, exact_tokens=True))


def run(**settings: Any) -> Call:
    return lambda _: RunConfig(tables="t", **settings)


def bare(**settings: Any) -> Call:
    return lambda _: BareConfig(tables="t", **settings)


def trial(**settings: Any) -> Call:
    return lambda _: EstimateConfig(tables="t", **settings)


def task(old: str, new: str) -> Call:
    assert old in SUMS
    return lambda _: parse_task(SUMS.replace(old, new, 1), where="t.yaml")


def with_file(make: Callable[[str], object], text: str) -> Call:
    """The call with a file that holds the text."""

    def call(folder: Path) -> object:
        (folder / "file.yaml").write_text(text)
        return make(str(folder / "file.yaml"))

    return call


def payload() -> bytes:
    """A classifier that knows one word."""
    ends, weights = np.array([0, 1]), np.ones(1, np.float32)
    return FoldedClassifier(FeatureSpec(1, 0), np.array([97], np.uint8), ends, weights, weights[:0]).to_bytes()


def raised(sentence: str) -> None:
    raise InputError(sentence)


def hold(root: Path) -> None:
    with _hold_folder(root):
        pass


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        # -- betr ------------------------------------------------------------------------------------------------------
        (lambda _: RunConfig(), "--tables is missing: name a folder or catalog.schema to keep the tables in"),
        (run(per_benchmark="some"), "--per-benchmark must be a number above 0, 'equal' or 'all'; got 'some'"),
        (run(features="letters"), "--features must be one of words, subwords, segments; got 'letters'"),
        (run(maxn=3), "--minn and --maxn are for subwords: give --features subwords or segments with them"),
        (run(features="segments", minn=1), "--features segments has subwords only with --maxn: give it beside --minn"),
        (run(features="segments", import_fasttext="a.bin"), "--features and --import-fasttext exclude each other: a .bin brings its own features"),
        (run(read="stream"), "--read must be one of auto, spark, files; got 'stream'"),
        (run(wave_rows=0), "--wave-rows must be at least 1; got 0"),
        (run(on_drift="stop"), "--on-drift must be one of warn, fail, ignore; got 'stop'"),
        (run(by=("domain",)), "--by names metadata as metadata.KEY; got 'domain'"),
        (run(k=0), "--k must be at least 1; got 0"),
        (run(keep=0.1, tokens=5), "--keep and --tokens exclude each other: say how much to keep in one way"),
        (run(carry="default", quota=("source=a:0.1",)), "--carry and --quota exclude each other: what is carried on has one threshold"),
        (trial(), "--documents is missing: an estimate tries the whole line on what a run will read; name it as for `run`"),
        (trial(trial=1), "--trial must be at least 40; got 1"),
        (lambda _: Machines(0, 1), "--executors must be at least 1; got 0"),
        (with_file(estimate.load_prices, "machines: {core_hour: -1}"), "--prices FOLDER/file.yaml: core_hour must be a number of 0 or more; got -1"),
        (lambda _: FeatureSpec(word_ngrams=9), "word_ngrams must be in 1..5; got 9"),
        (lambda _: FeatureSpec(minn=3), "minn and maxn must be 0, or 1 <= minn <= maxn <= 32; got 3 and 0"),
        (lambda _: FeatureSpec(segmenter="icu"), "segmenter must be one of space, unicode14; got 'icu'"),
        (lambda _: FeatureSpec(buckets=0), "buckets must be in 1..2^31-1 when word_ngrams > 1 or maxn > 0; got 0"),
        (lambda _: TrainingConfig(dim=0), "dim must be in 1..4096; got 0"),
        (lambda _: TrainingConfig(learning_rate=0.0), "learning_rate must be a positive number; got 0.0"),
        (lambda _: FoldedHeads(()), "there are no classifiers to score with; give at least one"),
        (lambda _: FoldedClassifier.from_bytes(payload() + b"x", name="c"), "c was cut short or extended: … bytes, not …; copy or train it again"),
        (lambda _: FoldedClassifier.from_bytes(payload()[:-1] + b"x", name="c"), "c: its content doesn't match the checksum inside, so it was altered; train it again"),
        (lambda _: FoldedClassifier.from_bytes(payload().replace(b'"F32"', b'"F16"'), name="c"), "c: its header was altered; copy or train it again"),
        (lambda folder: _positive(LABELS, "c", folder), "FOLDER has the labels '__label__a' and '__label__b', not 'c'; correct --positive-label"),
        (lambda folder: _positive(LABELS, None, folder), "FOLDER has the labels '__label__a' and '__label__b'; say which one to keep with --positive-label"),
        (lambda _: filter_rate.check_flops(0.0), "flops must be a number above 0, such as 1e21; got 0.0"),
        (lambda _: parse_templates(["a={x.y}"]), "--template a='{x.y}' must hold field names only, at least one, as {field}"),
        (lambda _: parse_templates(["a={x"]), "--template a='{x' is malformed (…); write fields as {field}"),
        (lambda folder: file_scoring.check_files([file_scoring.DataFile(str(folder / "gone"), 1, 1, {})]),
         "FOLDER/gone has vanished; put it back, or import the documents again, and run again"),
        (with_file(lambda path: file_scoring.check_files([file_scoring.DataFile(path, 1, 1, {})]), "longer"),
         "FOLDER/file.yaml has changed since it was written; put it back, or import the documents again, and run again"),
        (lambda _: estimate.fit_line([1.0], []), "a line needs as many amounts as seconds; got 1 and 0"),
        (lambda folder: stages._file_digest(str(folder / "gone")), "--import-fasttext FOLDER/gone can't be read (No such file or directory); give a fastText .bin"),
        (lambda _: stages.classifier_folder(NO_FOLDER), "--tables main.betr is no local folder: name one for the classifiers' files with --classifier-dir (a Volume)"),  # type: ignore[arg-type]
        (lambda _: stages._token_counter(NO_TOKENIZER, None, None), "--exact-tokens: this encoder has no tokenizer; name one with --tokenizer"),  # type: ignore[arg-type]
        # -- bare ------------------------------------------------------------------------------------------------------
        (lambda _: BareConfig(), "--tables is missing: name a folder or catalog.schema to keep the tables in"),
        (bare(arm="best"), "--arm must be one of bare, base, instruct, instruct_refined, persona; got 'best'"),
        (bare(trial=0), "--trial must be at least 1; got 0"),
        (bare(budget_rows=0), "--budget-rows must be above 0; got 0"),
        (with_file(load_prices, "models: {a: {per_hour: -1}}"), "price table FOLDER/file.yaml: a: price: per_hour must be a number of 0 or more; got -1"),
        (lambda _: agreement.stratified_sample([], [], 0), "review: the sample needs at least 1 row; got 0"),
        (lambda _: Monitor("m", 2, 0.1, None), "monitor m: harm must be 1 (a rise) or -1 (a fall); got 2"),  # type: ignore[arg-type]
        (lambda _: Monitor("m", 1, -0.1, None), "monitor m: limits must be 0 or more; got -0.1 and None"),
        (lambda _: draws.draw_distinct([], 2, 3), "3 things can't be drawn from 2 without drawing one twice; draw fewer"),  # type: ignore[arg-type]
        (lambda _: OpenAIGenerator("", "http://a/v1"), "openai: the model's name is empty; give the name that the server knows it by"),
        (lambda _: OpenAIGenerator("m", "http://a/v1", concurrency=0), "openai: concurrency must be at least 1; got 0"),
        (lambda _: OpenAIGenerator("m", "http://a/v1", retries=-1), "openai: retries must be 0 or more; got -1"),
        (lambda _: OpenAIGenerator("m", "http://a/v1", timeout=0), "openai: timeout must be above 0 seconds; got 0"),
        (lambda _: checked_base_url("http://a/b c"), "the base URL of a holds a space; remove it"),
        (lambda _: Sampling(top_p=0), "sampling: top_p must lie in (0, 1]; got 0 (1 leaves every token in)"),
        (lambda _: Sampling(top_k=-1), "sampling: top_k must be 0 (every token) or more; got -1"),
        (lambda _: Sampling(stop=("",)), "sampling: a stop text must not be empty; got ('',)"),
        (lambda _: Prompt("p", 1, messages=()), "prompt p: there are no messages; give at least one"),
        (lambda _: Completion("c", "t", "late"), "completion c: finish_reason must be one of stop, length, refusal, error; got 'late'"),  # type: ignore[arg-type]
        (lambda _: Rule(("a",), finish_reason="late"), "script: finish_reason must be one of stop, length, refusal, error; got 'late'"),  # type: ignore[arg-type]
        (lambda folder: ScriptedGenerator.from_file(str(folder / "gone")), "script FOLDER/gone can't be read (…); give a JSON or YAML file in UTF-8"),
        (with_file(ScriptedGenerator.from_file, "["), "script FOLDER/file.yaml is malformed (while parsing a flow node …); correct it"),
        (lambda _: metrics.Measure("m", 1.0, None, None, 1), "measure m: value and interval are there or absent together; got Measure(…)"),
        (lambda _: metrics.Measure("m", 1.0, 2.0, 3.0, 1), "measure m: the interval must hold the value; got Measure(…)"),
        (lambda _: metrics.unit([1.0]), "vectors must be a table, a row each; got shape (1,)"),
        (lambda _: overlap.Grams.of(["a"], 0), "an n-gram has at least 1 word; got n = 0"),
        (lambda _: overlap.share_of([], [], [], "best"), "overlap: measure must be one of …; got 'best'"),  # type: ignore[arg-type]
        (lambda _: held_out.TestIndex.of([], shortest=3, longest=2), "test overlap: n-grams need 1 <= shortest <= longest; got 3 and 2"),
        (lambda folder: publish._sheet_text(str(folder / "gone")), "--sheet FOLDER/gone can't be read (…); save it as CSV in UTF-8"),
        (lambda _: publish.export(BareConfig(tables="t"), "rows.csv"), "--out rows.csv: name a file that ends in .jsonl or .jsonl.gz, or say --format for shards"),
        (lambda _: publish._ids_in("", "sheet.csv"), "sheet.csv names no row; export it again with `bare review export`"),
        (lambda _: VerdictConfig(ngram=0), "verdicts: ngram must be at least 1 word; got 0"),
        (lambda _: VerdictConfig(measure="best"), "verdicts: measure must be containment or jaccard; got 'best'"),
        (lambda _: VerdictConfig(overlap=0), "verdicts: overlap must lie in (0, 1]; got 0"),
        (task("name: kind", "name: Kind"), "…: a field's name is of a-z, 0-9 and _, a letter first; rename it"),
        (task('marker: "Q:"', r'marker: "Q\nA:"'), r"…: a marker is one line without spaces around it; got 'Q\nA:'"),
        (task("'[a-z ]+'", "'['"), "…: pattern '[' is no regular expression (…); correct it"),
        (task('opening: "[sum]"', r'opening: "[sum\n]"'), r"t.yaml: task sums: the opening marker is one line without spaces around it; got '[sum\n]'"),
        (task("shots: 2", "sampling: {draft: {temperature: warm}}"), "…: temperature must be a number; got 'warm'"),
        (task("optional: true", "optional: 1"), "…: optional must be true or false; got 1"),
        (task("refine: Correct it.", "refine: yes"), "… must be a text; got True; YAML reads yes, no, on and off as truth: put quotes around them"),
        (lambda _: parse_task(changed(seeds={"patterns": [{"column": "text", "pattern": "("}]})), "task sums: seed pattern '(' is no regular expression (…); correct it"),
        # -- curation --------------------------------------------------------------------------------------------------
        (lambda _: open_session(Namespace(spark=["x"], master=None)), "--spark wants KEY=VALUE; got 'x'"),
        (lambda _: documents.parse_columns("body=text"), "--columns 'body=text' is not ROLE=COLUMN; write id=...,text=..., with roles among …"),
        (lambda folder: documents._input_file(str(folder / "_a.jsonl"), 1, 1), "FOLDER/_a.jsonl is hidden (its name starts with _ or .) and Spark passes it over; rename it"),
        (lambda _: EncoderConfig("m", precision="int8"), "encoder: precision must be one of auto, float32, bfloat16, float16; got 'int8'"),
        (with_file(lambda path: _read_json(Path(path)), "{"), "encoder: FOLDER/file.yaml is not JSON (…); fetch the model again"),
        (lambda _: resolve_encoder(EncoderConfig("hashing:64", revision="v1")), "encoder: … has no revisions; leave --revision out"),
        (lambda _: files.write_whole("", "s3://bucket/page.html"), "s3://bucket/page.html: this is written to a local file; give a path, and copy it where it is to go"),
        (with_file(lambda path: files.write_whole("", f"{path}/page.html"), ""), "FOLDER/file.yaml/page.html can't be written (File exists); choose another file"),
        (lambda folder: jsonlines.list_files(str(folder / "gone"), what="seeds file"), "seeds file FOLDER/gone does not exist; check the path"),
        (lambda folder: jsonlines.list_files(str(folder), what="seeds file"), "FOLDER holds no seeds file; known files: …"),
        (with_file(lambda path: jsonlines.list_files(path, what="seeds file"), ""), "seeds file FOLDER/file.yaml is no JSON lines file by its name; known: …"),
        (lambda folder: jsonlines.read_bytes(None, str(folder / "gone.jsonl"), what="seeds file"), "seeds file FOLDER/gone.jsonl can't be read (…); fetch it again"),  # type: ignore[arg-type]
        (with_file(lambda path: jars.resolve_jars(Path(path, "jars")), ""), "Delta's jars can't be kept in FOLDER/file.yaml/jars (…); set BETR_HOME to a folder that you can write to"),
        (lambda _: sampling.sample_documents(None, seed=0, below=2.0), "a sample's share must be in (0, 1]; got 2.0. Give a share or a whole number"),  # type: ignore[arg-type]
        (lambda _: raised(_start_failure(OSError("no Java\nand more"), None)), "Spark could not start on this machine: no Java. Check that Java 17 or newer is on PATH or JAVA_HOME, and that the master can be reached"),
        (lambda _: jars._check_hashes({}), "Delta's jars are incomplete: the resolver brought no …; run it again"),
        (lambda _: wilson(3, 2), "a share needs 0 <= successes <= trials and a trial; got 3 of 2"),
        (with_file(lambda path: hold(Path(path, "tables")), ""), "--tables FOLDER/file.yaml/tables can't be written (Not a directory); choose another root"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_word_by_word(call: Call, sentence: str, tmp_path: Path) -> None:
    with pytest.raises((InputError, ValueError)) as error:
        call(tmp_path)
    said = str(error.value).replace(str(tmp_path), "FOLDER")
    assert re.fullmatch(re.escape(sentence).replace("…", ".+"), said), said


def test_what_tables_lack_is_said_word_by_word(spark: SparkSession, finished: Any, generated: Any, tmp_path: Path) -> None:
    house, made = settings(finished[0]), generated[0]["tables"]
    (tmp_path / "torn" / "_delta_log").mkdir(parents=True)
    none = spark.createDataFrame([], "example_id string, embedding array<float>")
    for call, sentence in [
        (lambda: betr.run_stage("rank", RunConfig(tables=str(tmp_path / "a")), spark=spark), "FOLDER/a has no result of the stage 'embed' yet: run `betr embed` first"),
        (lambda: show.show(RunConfig(tables=str(tmp_path)), "runs", spark=spark, terminal=Terminal()), "FOLDER holds no tables of betr; `betr run` makes them, or name another --tables root"),
        (lambda: betr.list_gaps(house, count=1, benchmark="x", spark=spark), "--benchmark x: there is none; there are arc_easy, openbookqa"),
        (lambda: ranking.collect_examples(none), "benchmark_embeddings: no rows for this encoder; embed the benchmark examples first"),
        (lambda: documents.list_inputs(spark, [str(tmp_path / "torn")]), "FOLDER/torn is no readable Delta table (…); name another"),
        (lambda: bare_pipeline.view(BareConfig(tables=str(tmp_path / "b")), "rows", spark=spark), "FOLDER/b holds no generation yet: make one with `bare run`"),
        (lambda: bare_pipeline.view(BareConfig(tables=made, generation="x"), "rows", spark=spark), "--generation x: there is none in MADE; there are …"),
        (lambda: comparison.run_arms(BareConfig(tables=str(tmp_path / "c"), arms=("real",)), spark=spark), "--arms: there is nothing to compare with real rows; name one arm at least"),
    ]:  # fmt: skip
        with pytest.raises(InputError) as error:
            call()
        said = str(error.value).replace(str(tmp_path), "FOLDER").replace(made, "MADE")
        assert re.fullmatch(re.escape(sentence).replace("…", ".+"), said), said


class SparkError(Exception):
    """What an error of Spark's looks like from here."""

    __module__ = "pyspark.errors"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("java.io.IOException: No space left on device", "the disk is full; free some space (or set --spark spark.local.dir=FOLDER) and run again (java.io"),
        ("java.lang.OutOfMemoryError: Java heap space", "Java ran out of memory; give it more with --spark spark.driver.memory=8g (executor: spark.executor.memory) (java.lang"),
        ("  MemoryError", "a Python worker ran out of memory; use fewer cores (--master local[1]) or smaller --chunk-bytes (MemoryError)"),
        ("o.a.s.SparkFileNotFoundException: File gone", "a file vanished while it was read; let nothing else write the input, and run again (o.a.s."),
        ("java.net.ConnectException: Connection refused", "the cluster or the Connect server can't be reached; see that it runs, and what --master says (java.net"),
        ("ModuleNotFoundError: No module named 'betr'", "an executor lacks this package; install the wheel there or pass it with --py-files (Module"),
        ("[FAILED_READ_FILE.NO_HINT] Encountered error while reading file file:///data/a%20b.parquet. SQLSTATE", "/data/a b.parquet is cut short or not what its name says; fetch it again"),
        ("[INSUFFICIENT_PERMISSIONS] Insufficient privileges:\nUser does not have USE SCHEMA on Schema 'main.betr'. SQLSTATE: 42501", "you have no right USE SCHEMA on the schema main.betr; ask its owner: GRANT USE SCHEMA ON SCHEMA main.betr TO `you`"),
        ("[SOMETHING_NEW] nobody knows\nat java.lang", "Spark failed: [SOMETHING_NEW] nobody knows (BETR_DEBUG=1 shows the whole stack)"),
    ],
)  # fmt: skip
def test_the_cause_behind_an_error_of_sparks_is_said(text: str, sentence: str) -> None:
    said = explain(SparkError(text))
    assert said is not None and sentence in said
    assert explain(ValueError(text)) is None  # not Spark's: a bug of ours, whose stack helps
