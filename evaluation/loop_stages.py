"""The loop's steps on tables: what each reads, what it is made from (its key), what it commits.

The main line's tables stay as they are, but for rows of the loop's own tables (`loop_*`) and of `stage_runs`. What the
loop makes lies in its working folder: BARE's tables, and for each loop a root of its own that holds the synthetic
documents with their embeddings, scores and selection, in the tables that `betr` has for them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from bare import pipeline as bare
from bare import publish
from bare import stages as bare_stages
from bare.config import BareConfig
from bare.generators.load import GeneratorSettings, Role, describe
from bare.generators.spec import parse_generator
from bare.run import opened as bare_opened
from bare.tables import DRAFTS, GENERATIONS, SEEDS
from bare.tasks import parse_task, task_text
from betr import benchmarks, corpus, coverage, ranking, selection
from betr import stages as betr
from betr.config import RunConfig
from betr.filter_rate import from_tokens
from betr.pipeline import opened
from betr.run import Outcome, Run
from betr.tables import (
    CORPUS_SCORES,
    COVERAGE,
    DOCUMENTS,
    DUPLICATE_DOCUMENTS,
    SAMPLE_EMBEDDINGS,
    SELECTION_RUNS,
    SELECTIONS,
)
from curation import documents as reading
from curation import embedding
from curation.cutting import count_rows, keep
from curation.embedding import EncoderConfig
from curation.errors import InputError
from curation.frames import driver_rows
from curation.hashing import content_id
from curation.session import release, share
from curation.tables import Tables
from evaluation import arms, compare, gaps, proxy, stages
from evaluation.arms import Pool
from evaluation.loop_config import LoopConfig
from evaluation.loop_figures import (
    OTHERS,
    LoopFigures,
    Round,
    ShownDocument,
    ShownGap,
    closing_level,
    groups,
    over_all_rounds,
    parts,
)
from evaluation.proxy import Arm
from evaluation.tables import LOOP_DOCUMENTS, LOOP_GAPS, LOOP_ROUNDS

NAME = "loop"  # of the synthetic documents' selection
REAL, MIXED = "real", "real+synthetic"  # arms
BELOW_CUT, OVER_CAP = "below_cut", "over_cap"


@dataclass(frozen=True)
class Gaps:
    """A round's gaps: rows of COVERAGE with `held_back`, the least covered first; key: what the round is made from."""

    round: int
    rows: Sequence[Row]
    key: str
    began: float

    @property
    def ids(self) -> list[str]:
        return [row["example_id"] for row in self.rows]


@dataclass(frozen=True)
class Loop:
    """What all rounds share. run: the main line's root; synthetic: that of the documents that are made."""

    run: Run
    config: LoopConfig
    pool: Pool
    selected: Row
    covered: Outcome
    encoding: EncoderConfig
    tests: tuple[str, ...]
    loop_id: str
    home: Path
    synthetic: Run

    @cached_property
    def bare_tables(self) -> str:
        """BARE's tables: of all loops here that make rows in the same way, whatever they then do with them."""
        how = vars(self.making(0, "")).items()
        same = {name: value for name, value in how if name not in ("tables", "seeds", "budget_seconds")}
        return str(self.home.parent / f"bare-{content_id(same, length=8)}")

    def making(self, round_: int, tables: str, *seeds: str) -> BareConfig:
        """BARE's settings in a round."""
        return self.config.making(round_, tables=tables or "-", seeds=seeds, tests=self.tests, encoder=self.encoding)

    @property
    def coverage(self) -> DataFrame:
        mine = F.col("selection_id") == self.covered["selection_id"]
        return self.run.tables.read(COVERAGE).where(mine)

    @cached_property
    def encoder(self) -> embedding.Encoder:
        return embedding.resolve_encoder(self.encoding)

    def rows(self, spec: Any, round_: int) -> DataFrame:
        """A round's rows of one of the loop's tables."""
        mine = (F.col("loop_id") == self.loop_id) & (F.col("round") == round_)
        return self.run.tables.read(spec).where(mine)

    def write(self, spec: Any, rows: DataFrame, round_: int) -> None:
        """Make `rows` a round's rows of one of the loop's tables, in one commit."""
        marked = rows.withColumns({"loop_id": F.lit(self.loop_id), "round": F.lit(round_)})
        where = f"loop_id = '{self.loop_id}' AND round = {round_}"
        # An example, a document and a round come once each.
        self.run.tables.replace(spec, marked, where=where, keys_are_unique=True)


@contextmanager
def begin(run: Run, config: LoopConfig) -> Iterator[Loop]:
    """Look at all that the loop names before any token is made, and open the root of its documents."""
    pool = arms.find_pool(run)
    covered = betr.cover(run)
    if config.benchmark is not None and config.benchmark not in covered["examples"]:
        raise InputError(f"--benchmark {config.benchmark}: there is none; there are {', '.join(covered['examples'])}")
    task = parse_task(task_text(config.task)[0], where=config.task)
    models = [_described(config, role) for role in get_args(Role)]
    encoding = _encoding(run, pool)
    tests = _tests(run, config, pool)
    if config.held_out:
        proxy.working_folder(run.tables, None if config.working is None else f"{config.working}/proxies")
    working = proxy.working_folder(run.tables, config.working, name="loop")
    selected = run.needs("select")
    made_from = [
        selected.key, covered.key, pool.made_from.embedded["encoder_id"], config.settings(), task.task_id,
        models, [benchmarks.fingerprint(run.spark, each) for each in tests],
    ]  # fmt: skip
    loop_id = content_id("loop", *made_from)
    row = run.tables.read(SELECTION_RUNS).where(F.col("selection_id") == selected.key).collect()[0]
    with opened(RunConfig(tables=str(working / loop_id)), run.spark, run.terminal) as synthetic:
        yield Loop(
            run, config, pool, row, covered, encoding, tuple(each.path for each in tests), loop_id, working / loop_id,
            synthetic,
        )  # fmt: skip


def _described(config: LoopConfig, role: Role) -> str | None:
    """The revision of one of BARE's models; InputError where there is none, or one that isn't made for its role."""
    settings = GeneratorSettings(role=role, insist=bool(config.told.get(f"insist_{role}")))
    return describe(str(parse_generator(str(getattr(config, role)))), settings).revision


def _encoding(run: Run, pool: Pool) -> EncoderConfig:
    """The encoder that the examples were embedded with; InputError where its name leads to another one by now."""
    embedded = pool.made_from.embedded
    found = run.settings_of(embedded)
    names = ("encoder", "encoder_revision", "precision", "max_tokens")
    encoding = dataclasses.replace(run.config, **{name: found[name] for name in names}).encoding
    now = embedding.resolve_encoder(encoding).encoder_id
    if now != embedded["encoder_id"]:
        raise InputError(
            f"the examples were embedded by {embedded['encoder_id']}, and {found['encoder']} is {now} by now: "
            "synthetic documents can't be held against them; put it back, or run `betr run` again"
        )
    return encoding


def _tests(run: Run, config: LoopConfig, pool: Pool) -> list[benchmarks.BenchmarkSource]:
    """Test sets that no synthetic row may share words with: those named, and those the real selection was held to."""
    found = benchmarks.parse_sources(config.held_out, option="--held-out") if config.held_out else []
    named = list(config.tests)
    if pool.settings.decontamination_id is not None:
        searched = run.result("decontaminate", pool.settings.decontamination_id)
        named += searched["named"] if searched is not None else []
    return [*found, *(benchmarks.parse_sources(named, option="--tests") if named else [])]


# -- a round -----------------------------------------------------------------------------------------------------------


def find_gaps(loop: Loop, round_: int) -> Gaps:
    """The examples with the least near them, in the real sample and in what the rounds before have added to it."""
    began, config = time.monotonic(), loop.config
    before = loop.rows(LOOP_GAPS, round_ - 1) if round_ else None
    now = gaps.still_open(loop.coverage, before).withColumn(
        "held_back", gaps.is_held_back(config.hold_back, config.seed)
    )
    rows = coverage.least_covered(now, count=config.count, benchmark=config.benchmark).collect()
    return Gaps(round_, rows, content_id("round", loop.loop_id, round_, [row["example_id"] for row in rows]), began)


def is_closed(loop: Loop, found: Gaps) -> bool:
    """Whether an earlier run went through this round."""
    earlier = loop.run.result(f"loop/{found.round}", found.key)
    if earlier is not None:
        loop.run.unchanged(earlier)
    return earlier is not None


def write_rows(loop: Loop, found: Gaps) -> Outcome:
    """BARE's drafts, refinements and verdicts, with the gaps as seeds; what a killed run left is gone on from there."""
    run, stage = loop.run, f"loop/{found.round}/rows"
    key = content_id("loop/rows", found.key)
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    shown = [row for row in found.rows if not row["held_back"]]
    if not shown:
        raise InputError(
            f"--hold-back {loop.config.hold_back:g} leaves none of the {len(found.rows):,} gaps to show to a model; "
            "lower it, or raise --count"
        )
    seeds = str(loop.home / f"seeds-{found.round}.jsonl")
    wanted = loop.pool.made_from.wanted
    betr.write_seeds(run, wanted, betr.with_texts(run, wanted, shown), seeds)
    run.terminal.line(f"round {found.round + 1}: {len(found.rows):,} gaps, {len(shown):,} of them seeds for BARE")
    made = bare.run(loop.making(found.round, loop.bare_tables, seeds), spark=run.spark, terminal=run.terminal)
    with run.stage(stage, key, unit="rows") as work:
        names = ("generation_id", "drafts", "accepted", "rejected", "stopped_by", "tokens_in", "tokens_out", "cost")
        work.values = {**{name: made[name] for name in names}, "model_seconds": made["seconds"]}
        work.rows_in, work.rows_out = made["drafts"], made["accepted"]
    return run.needs(stage)


def import_rows(loop: Loop, found: Gaps, rows: Outcome) -> Outcome | None:
    """Accepted rows as documents, each with the gaps that its draft was shown; None where there are none.

    A row that says what a document of the corpus or another row says is a duplicate, as in any import.
    """
    run = loop.synthetic
    if not rows["accepted"]:
        loop.run.warn(f"round {found.round + 1}: BARE accepted none of {rows['drafts']:,} drafts, so nothing is added")
        return None
    key = content_id("import", rows.key)
    if (earlier := run.result("import", key)) is not None:
        return run.unchanged(earlier)
    tables, mine = run.tables, f"chunk >= '{key}-' AND chunk < '{key}.'"
    known = [loop.run.tables.read(DOCUMENTS), tables.read(DOCUMENTS).where(f"NOT ({mine})")]
    real, earlier_rounds = (each.select("doc_id", "text_hash", "file") for each in known)
    asked = BareConfig(tables=loop.bare_tables, generation=rows["generation_id"])
    with run.stage("import", key, unit="documents") as work, bare_opened(asked, run.spark, run.terminal) as made:
        bare_stages.reopen(made)
        in_order = F.sort_array(F.collect_list(F.struct("place", "example_id")))
        shots = _shots(made.tables, rows["generation_id"]).groupBy("draft_id")
        drafted = shots.agg(F.transform(in_order, lambda each: each["example_id"]).alias("of"))
        texts = publish.accepted_rows(made).join(drafted, "draft_id", "left").select(
            F.lit(f"bare/{rows['generation_id']}").alias("file"),
            F.col("attempt").cast("bigint").alias("block"), F.col("item").alias("ordinal"), F.col("row_id").alias("id"),
            "text", F.lit(loop.config.synthetic).alias("source"), F.lit(None).cast("string").alias("license"),
            F.create_map(
                F.lit("round"), F.lit(str(found.round)), F.lit("loop_id"), F.lit(loop.loop_id),
                F.lit("generation_id"), F.lit(rows["generation_id"]), F.lit("row_id"), F.col("row_id"),
                F.lit("draft_id"), F.col("draft_id"),
                F.lit("gaps"), F.to_json(F.coalesce("of", F.array().cast("array<string>"))),
            ).alias("metadata"),
            F.lit(None).cast("string").alias("reason"), F.lit(None).cast("string").alias("detail"),
        )  # fmt: skip
        documents, _, copies = reading.to_documents(texts, real.unionByName(earlier_rounds), import_id=key, n_chunks=1)
        tables.replace(DUPLICATE_DOCUMENTS, copies, where={"import_id": key}, keys_are_unique=True)
        tables.replace(DOCUMENTS, documents, where=mine, keys_are_unique=True)
        chunks = betr.chunk_sizes(tables.read(DOCUMENTS).where(mine))
        work.rows_in, work.rows_out = rows["accepted"], sum(count for count, _ in chunks.values())
        twice = tables.read(DUPLICATE_DOCUMENTS).where(F.col("import_id") == key).count()
        work.values = {"chunks": chunks, "rejected": {}, "duplicates": twice, "files": 1}
    return run.needs("import")


def _shots(tables: Tables, generation_id: str) -> DataFrame:
    """draft_id, place, example_id: which gaps each draft of a generation was shown, in their order."""
    mine = F.col("generation_id") == generation_id
    of = tables.read(GENERATIONS).where(mine).select("seeds_id")
    seeds = (
        tables.read(SEEDS).join(of, "seeds_id", "left_semi").select("seed_id", F.col("source_id").alias("example_id"))
    )
    drafts = tables.read(DRAFTS).where(mine).select("draft_id", F.posexplode("shots").alias("place", "seed_id"))
    return drafts.join(seeds, "seed_id").select("draft_id", "place", "example_id")


def embed(loop: Loop) -> None:
    """Embed the synthetic documents as the sample was, by the same encoder."""
    run, key = loop.synthetic, content_id("embed", corpus.key(loop.synthetic), loop.encoder.encoder_id)
    if (earlier := run.result("embed", key)) is not None:
        run.unchanged(earlier)
        return
    with run.stage("embed", key, unit="texts") as work:
        by_encoder = F.col("encoder_id") == loop.encoder.encoder_id
        there = run.tables.read(SAMPLE_EMBEDDINGS).where(by_encoder).select("doc_id")
        texts = run.tables.read(DOCUMENTS).select("doc_id", "text").join(there, "doc_id", "left_anti")
        work.rows_in = count = texts.count()
        if count:
            tasks = betr.embedding_tasks(run, count)
            vectors = embedding.embed(
                texts.repartition(tasks), id_column="doc_id", encoder=loop.encoder, kind="document", tasks=tasks,
                profile=embedding.embedding_profile(loop.config.gpus_per_task),
            )  # fmt: skip
            run.tables.append(SAMPLE_EMBEDDINGS, vectors, keys_are_unique=True)  # a document has one, and had none
        work.rows_out = count


def score(loop: Loop) -> None:
    """Score the synthetic documents by the main line's classifier, heads and all; nothing is trained."""
    run, trained = loop.synthetic, loop.pool.made_from.trained
    key = content_id("score", trained.key, corpus.key(run))
    if (earlier := run.result("score", key)) is not None:
        run.unchanged(earlier)
        return
    models = betr.load_heads(loop.run, trained)
    heads = tuple(models)[1:]
    payloads = tuple(model.to_bytes() for model in models.values())
    with run.stage("score", key, unit="documents", in_parts=True) as work:
        betr.score_chunks(run, work, trained.key, payloads if heads else payloads[0], trained, heads=heads)
        documents, tokens = betr.scored_totals(run, trained.key)
        work.values = {
            "classifier_id": trained.key, "corpus": corpus.key(run), "documents": documents, "tokens": tokens or 0,
            "heads": heads,
        }  # fmt: skip


def select(loop: Loop) -> Outcome:
    """The best synthetic documents of all rounds that reach the real cut, up to the cap: a selection of their own.

    They come on top: the real selection is neither read anew nor written. In it are those that the real cut itself, by
    its key and threshold, would have taken.
    """
    run, pool, cap = loop.synthetic, loop.pool, cap_tokens(loop.selected["kept_tokens"], loop.config.most_synthetic)
    key = content_id("loop/select", corpus.key(run), loop.selected["selection_id"], loop.config.most_synthetic)
    if (earlier := run.result("select", key)) is not None:
        return run.unchanged(earlier)
    with run.stage("select", key, unit="documents") as work:
        judged = _judged(loop)
        reach = judged.where("kept")
        with work.clock.counting("compute"):
            counted = count_rows(reach, key="key", id="doc_id", weight="tokens")
            cut = counted.cuts({"": cap})[""]
        rows, tokens = counted.totals.get("", (0, 0))
        work.rows_in, work.rows_out = judged.count(), cut.kept_rows
        written: dict[str, Any] = {}
        if cut.kept_rows:
            config = dataclasses.replace(
                pool.settings, keep=None, flops=None, threshold=None, threshold_id=None, decontamination_id=None,
                deduplication_id=None, tokens=cap, quotas=(), name=NAME,
            )  # fmt: skip
            kept = keep(reach, cut, key="key", id="doc_id")
            weighed = kept.select(F.lit(key).alias("selection_id"), "doc_id", F.lit(1.0).alias("weight"))
            chosen = selection.Selection(
                key, pool.scored["classifier_id"], config, from_tokens(min(cap, tokens), tokens), {"": cut}, rows,
                tokens, weighed,
            )  # fmt: skip
            documents = work.rows_in
            written = betr.write_selection(run, work, chosen)
            work.rows_in = documents
        work.values = {
            **written, "below_cut": work.rows_in - rows, "over_cap": rows - cut.kept_rows, "selected": cut.kept_rows,
            "selected_tokens": cut.kept_weight, "cap_tokens": cap,
        }  # fmt: skip
    return run.needs("select")


def cap_tokens(real: int, share: float) -> int:
    """The most synthetic tokens beside so many real ones, for their share of both together to be at most this."""
    wanted = Fraction(repr(float(share)))
    return int(wanted / (1 - wanted) * real)


def _judged(loop: Loop) -> DataFrame:
    """Scores of the synthetic documents with `key` and `kept`: whether the real cut would have taken them."""
    run = loop.synthetic
    scores = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == loop.pool.scored["classifier_id"])
    cuts = selection.cuts_of(loop.selected["parameters"])
    documents = run.tables.read(DOCUMENTS).select("doc_id", "metadata")
    return selection.with_verdict(scores, loop.pool.settings, cuts, documents=documents)


def cover(loop: Loop, found: Gaps, rows: Outcome, imported: Outcome | None, cut: Outcome) -> None:
    """Coverage again: every example's nearest document before and after, what each document was made for, the cost."""
    run, made, round_ = loop.run, loop.synthetic, found.round
    with run.stage(f"loop/{round_}", found.key, unit="examples") as work:
        embedded = loop.pool.made_from.embedded
        _, examples = betr.embeddings(run, embedded)
        vectors = made.tables.read(SAMPLE_EMBEDDINGS).where(F.col("encoder_id") == embedded["encoder_id"])
        chosen = made.tables.read(SELECTIONS).where(F.col("selection_id") == cut.key).select("doc_id")
        with work.clock.counting("reading"):
            shared = share(run.spark, ranking.collect_examples(examples))
        nearest = ranking.rank_documents(vectors.join(chosen, "doc_id", "left_semi"), shared, k=1)
        shown = {row["example_id"] for row in _shown(loop, rows).collect()}
        loop.write(LOOP_GAPS, gaps.cover_again(_before(loop, found, shown), nearest), round_)
        release(shared)
        loop.write(LOOP_DOCUMENTS, _traced(loop, vectors, examples, chosen), round_)
        work.rows_in = work.rows_out = loop.rows(LOOP_GAPS, round_).count()
        loop.write(LOOP_ROUNDS, _told(loop, found, rows, imported, cut, len(shown)), round_)


def _shown(loop: Loop, rows: Outcome) -> DataFrame:
    tables = Tables(loop.run.spark, loop.bare_tables)
    return _shots(tables, rows["generation_id"]).select("example_id").distinct()


def _before(loop: Loop, found: Gaps, shown: set[str]) -> DataFrame:
    """Every example as the round found it: its benchmark, whether it is a gap, whether a model was shown it."""
    marks = [(id_, id_ in shown) for id_ in found.ids]
    marked = driver_rows(loop.run.spark, marks, "example_id string, shown boolean").withColumn("gap", F.lit(True))
    examples = loop.coverage.select("example_id", "benchmark", F.col("similarity").alias("real"))
    if found.round:
        earlier = loop.rows(LOOP_GAPS, found.round - 1).select("example_id", F.col("after").alias("before"))
        examples = examples.join(earlier, "example_id")
    else:
        examples = examples.withColumn("before", F.col("real"))
    every = examples.join(marked, "example_id", "left").fillna(False, ["gap", "shown"])
    return every.withColumn("held_back", gaps.is_held_back(loop.config.hold_back, loop.config.seed))


def _traced(loop: Loop, vectors: DataFrame, examples: DataFrame, chosen: DataFrame) -> DataFrame:
    """LOOP_DOCUMENTS, a row a synthetic document of any round so far."""
    told = F.col("metadata")
    documents = loop.synthetic.tables.read(DOCUMENTS).select(
        "doc_id", told["round"].cast("int").alias("made_in"), told["generation_id"].alias("generation_id"),
        told["draft_id"].alias("draft_id"), F.from_json(told["gaps"], "array<string>").alias("example_ids"),
    )  # fmt: skip
    score = selection.score_of(loop.pool.settings).alias("score")
    judged = _judged(loop).select("doc_id", score, "tokens", "kept")
    near = gaps.nearest_shown(documents.join(vectors, "doc_id"), examples)
    every = documents.join(judged, "doc_id").join(near, "doc_id", "left").join(
        chosen.withColumn("selected", F.lit(True)), "doc_id", "left"
    ).fillna(False, ["selected"])  # fmt: skip
    reason = F.when(~F.col("kept"), F.lit(BELOW_CUT)).when(~F.col("selected"), F.lit(OVER_CAP))
    return every.withColumn("reason", reason).drop("kept")


def _told(loop: Loop, found: Gaps, rows: Outcome, imported: Outcome | None, cut: Outcome, shown: int) -> DataFrame:
    run = loop.run
    values = {
        "loop_id": loop.loop_id, "round": found.round, "selection_id": loop.selected["selection_id"],
        "generation_id": rows["generation_id"], "bare_tables": loop.bare_tables,
        "synthetic_tables": loop.synthetic.tables.root,
        "synthetic_selection_id": cut.key if cut["selected"] else None, "gaps": len(found.rows), "shown": shown,
        "copies": imported["duplicates"] if imported is not None else 0,
        "documents": sum(count for count, _ in corpus.chunks(loop.synthetic).values()),
        "real_tokens": loop.selected["kept_tokens"], "seconds": time.monotonic() - found.began, "run_id": run.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: cut[name] for name in ("below_cut", "over_cap", "selected", "selected_tokens", "cap_tokens")},
        **{name: rows[name] for name in (
            "drafts", "accepted", "stopped_by", "tokens_in", "tokens_out", "cost", "model_seconds"
        )},
    }  # fmt: skip
    return LOOP_ROUNDS.frame(run.spark, [[values[name] for name in LOOP_ROUNDS.struct(run.spark).names]])


# -- the proxies' word -------------------------------------------------------------------------------------------------


def judge(loop: Loop) -> Outcome | None:
    """Small models trained on the real selection, and on it with the synthetic documents, at equal tokens.

    None where no held-out split is named, or nothing synthetic is selected.
    """
    run, config = loop.run, loop.config.judging
    last = loop.rows(LOOP_ROUNDS, loop.config.rounds - 1).collect()[0]
    if not config.held_out or last["synthetic_selection_id"] is None:
        return None
    working = None if loop.config.working is None else f"{loop.config.working}/proxies"
    config = dataclasses.replace(config, working=working)
    found = stages.hold_out(run, config)
    real_id, made_id = last["selection_id"], last["synthetic_selection_id"]
    real = proxy.selected_texts(run.tables, real_id)
    made = proxy.selected_texts(loop.synthetic.tables, made_id)
    tokens = last["real_tokens"]
    compared = [
        Arm(content_id("loop", REAL, real_id), REAL, real_id, real, tokens),
        Arm(
            content_id("loop", MIXED, real_id, made_id), MIXED, content_id(real_id, made_id), real.unionByName(made),
            tokens + last["selected_tokens"],
        ),
    ]  # fmt: skip
    return stages.train(run, config, compared, found, stage="loop/proxies")


# -- what it tells -----------------------------------------------------------------------------------------------------


def figures(loop: Loop, judged: Outcome | None) -> LoopFigures:
    """The figures of all rounds asked for, from the tables alone."""
    tables, config, wanted = loop.run.tables, loop.config, F.col("round") < loop.config.rounds
    mine = (F.col("loop_id") == loop.loop_id) & wanted
    names = [field.name for field in dataclasses.fields(Round)]
    rounds = [
        Round(**{n: row[n] for n in names}) for row in tables.read(LOOP_ROUNDS).where(mine).orderBy("round").collect()
    ]
    rows: pd.DataFrame = tables.read(LOOP_GAPS).where(mine).orderBy("round", "example_id").toPandas()
    asked = rows if config.benchmark is None else rows[rows["benchmark"] == config.benchmark]
    level = closing_level(asked[asked["round"] == 0]["real"], config.closed_at)
    compared, why = None, None
    if judged is not None:
        there = stages.measured(loop.run, judged)
        compared = compare.compare(
            there.runs, there.evaluations, baseline=REAL, chance=compare.chance_of(there.held_out), level=config.level
        )
    else:
        why = "no held-out split was named (--held-out)" if not config.held_out else "nothing synthetic is selected"
    return LoopFigures(
        loop.loop_id, config.closed_at, level, config.benchmark, config.most_synthetic, tuple(rounds),
        tuple(groups(rows, level, seed=config.seed)),
        {name: (tuple(part["real"]), tuple(part["after"])) for name, part in parts(over_all_rounds(rows)).items()},
        tuple(_shown_gaps(loop, rows)), tuple(_shown_documents(loop)), compared, why,
        {"bare": loop.bare_tables, "synthetic": loop.synthetic.tables.root},
    )  # fmt: skip


def _shown_gaps(loop: Loop, rows: pd.DataFrame, most: int = 16) -> list[ShownGap]:
    """The gaps that real documents cover least, of those shown to a model and of the others, with their texts."""
    every = over_all_rounds(rows).reset_index().sort_values(["real", "example_id"])
    mine = [part.head(most) for name, part in parts(every).items() if name != OTHERS]
    chosen = pd.concat(mine)
    wanted = F.col("example_id").isin(chosen["example_id"].tolist())
    found = betr.targets(loop.run, loop.pool.made_from.wanted).where(wanted).select("example_id", "text").collect()
    texts = {row["example_id"]: row["text"] for row in found}
    return [
        ShownGap(texts[id_], bool(shown), float(real), float(after))
        for id_, shown, real, after in chosen[["example_id", "shown", "real", "after"]].itertuples(index=False)
    ]


def _shown_documents(loop: Loop, most: int = 24) -> list[ShownDocument]:
    """Some documents as they stand after the last round, by id, with their texts and the gap nearest to each."""
    rows = loop.rows(LOOP_DOCUMENTS, loop.config.rounds - 1).orderBy("doc_id").limit(most)
    texts = loop.synthetic.tables.read(DOCUMENTS).select("doc_id", "text")
    examples = betr.targets(loop.run, loop.pool.made_from.wanted).select(
        F.col("example_id").alias("nearest_example_id"), F.col("text").alias("gap")
    )
    found = rows.join(texts, "doc_id").join(examples, "nearest_example_id", "left").orderBy("doc_id").collect()
    names = [field.name for field in dataclasses.fields(ShownDocument)]
    return [ShownDocument(**{name: row[name] for name in names}) for row in found]
