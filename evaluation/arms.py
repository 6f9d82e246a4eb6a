"""Arms at equal tokens: other ways to choose from the corpus that a BETR run has scored, each a selection like any.

    arms = make_arms(run, ArmsConfig(arms=("random", "direct", "dsir", "betr"), tokens=10**9))       -> rows of ARMS

An arm is up to three stages of its own: `arm/NAME/train` (its classifier, or DSIR's weights), `arm/NAME/score` (rows of
`corpus_scores` under an id of its own) and `arm/NAME` (the cut: rows of `selections`, `selection_runs` and `arms`). No
other stage takes them for the main line's. All arms cut the pool of the latest selection, count tokens as its scores do
and leave out what it leaves out: near-duplicates, held-out tests. What nobody wrote for the corpus, documents of the
source `synthetic`, only the arms bare:SHARE use.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from betr import corpus, selection, stages
from betr.classifier import load_classifier
from betr.config import RunConfig
from betr.explain import SelectionVerdict, verdicts_on
from betr.run import Outcome, Run, Work
from betr.scoring import Scorer
from betr.selection import RESAMPLE, SelectionConfig
from betr.tables import CLASSIFIERS, CORPUS_SCORES, DOCUMENTS, SELECTION_RUNS, SELECTIONS
from curation.errors import InputError
from curation.hashing import content_id
from curation.sampling import hash_fraction
from evaluation import labelled
from evaluation.arm_config import REFUSE, ArmConfig, ArmsConfig, repeated, shortfall
from evaluation.dsir import ImportanceWeights, bucket_counts
from evaluation.tables import ARMS

TRAINING = ("dim", "epochs", "learning_rate", "min_count", "word_ngrams", "buckets", "seed", "features", "minn", "maxn")


@dataclass(frozen=True)
class Pool:
    """What all arms choose from, and how they count it: the state of the scores that the latest selection cut.

    settings: that selection's. tokens: of every arm.
    """

    scored: Outcome
    made_from: stages.Origins
    settings: SelectionConfig
    tokens: int

    @property
    def counter(self) -> tuple[str, float | None]:
        """What the tokens are counted by: a part of the id of every arm's scores."""
        trained = self.made_from.trained
        return trained["token_counter"], trained["bytes_per_token"]


def make_arms(run: Run, config: ArmsConfig) -> list[Row]:
    """Make every arm that isn't there yet: rows of ARMS, in the order of the arms.

    InputError, before any work: no selection of the corpus as it is now, a head that isn't there, synthetic documents
    that an arm asks for and nobody imported, positives that can't be found.
    """
    pool = find_pool(run, config.tokens)
    _check(run, pool, config)
    run.terminal.make_room(f"arm/{arm.name}" + ("/score" if arm.kind in SCORES else "") for arm in config.parsed)
    ids = [make_arm(run, pool, config, arm).key for arm in config.parsed]
    rows = {row["arm_id"]: row for row in run.tables.read(ARMS).where(F.col("arm_id").isin(*ids)).collect()}
    return [rows[id_] for id_ in ids]


def find_pool(run: Run, tokens: int | None = None) -> Pool:
    """The pool of the latest selection, and so many tokens of it; None: as many as that kept.

    InputError where that was cut from other scores than the corpus has now.
    """
    selected, scored = run.needs("select"), run.needs("score")
    row = run.tables.read(SELECTION_RUNS).where(F.col("selection_id") == selected.key).collect()[0]
    settings = selection.config_of(row["parameters"])
    if scored["corpus"] != corpus.key(run) or selection.selection_id(scored.key, settings) != selected.key:
        raise InputError(
            "the latest selection isn't of the corpus as it is now, documents or scores came since: run `betr run`"
        )
    made_from = stages.origins(run, scored["classifier_id"])
    return Pool(scored, made_from, settings, row["kept_tokens"] if tokens is None else tokens)


def make_arm(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """One arm: its scores where it has its own, and the cut at the pool's tokens."""
    scored = SCORES[arm.kind](run, pool, config, arm) if arm.kind in SCORES else pool.scored
    return _cut(run, pool, config, arm, scored)


def selection_of(pool: Pool, config: ArmsConfig, arm: ArmConfig) -> SelectionConfig:
    """How an arm's scores are cut; betr and keep have the main line's mode, head and quotas, but for synthetic
    documents.
    """
    main = pool.settings
    common: dict[str, Any] = {
        "tokens": pool.tokens,
        "name": f"arm/{arm.name}",
        "decontamination_id": main.decontamination_id,
        "deduplication_id": main.deduplication_id,
    }
    if arm.kind == "keep" or (arm.kind == "betr" and arm.head is None):
        ours = f"source={config.synthetic}:"
        quotas = tuple(quota for quota in main.quotas if not quota.startswith(ours))
        main_way = dict.fromkeys(("keep", "flops", "threshold", "threshold_id"))
        much = {"tokens": None, "keep": arm.number} if arm.kind == "keep" else {}
        return dataclasses.replace(main, **{**main_way, **common, "quotas": quotas, **much})
    if arm.kind == "betr":
        return SelectionConfig(**common, head=arm.head)
    if arm.kind == "soft":
        return SelectionConfig(**common, mode="soft", temperature=arm.number, seed=config.seed)
    if arm.kind == "bare":
        return SelectionConfig(**common, quotas=(f"source={config.synthetic}:{arm.argument}",))
    if arm.kind == "dsir":
        return SelectionConfig(**common, mode=RESAMPLE, seed=config.seed)
    return SelectionConfig(**common)


def _check(run: Run, pool: Pool, config: ArmsConfig) -> None:
    """Refuse what can be refused before hours of work."""
    heads = pool.scored.values.get("heads", ())
    for arm in config.parsed:
        selection.check_heads(selection_of(pool, config, arm), heads)
        if arm.kind == "quality":
            labelled.files_key(run.spark, config.quality_positives)
    if any(arm.kind == "bare" for arm in config.parsed):
        scores = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == pool.scored["classifier_id"])
        if not scores.where(_is_synthetic(config)).limit(1).collect():
            raise InputError(
                f"the arms bare:SHARE need documents of the source {config.synthetic!r}, and the corpus has none: "
                "import what `bare export` wrote, or name their source with --synthetic"
            )


def _is_synthetic(config: ArmsConfig) -> Column:
    return F.col("source").eqNullSafe(F.lit(config.synthetic))


def explain(run: Run, doc_id: str) -> list[SelectionVerdict]:
    """What every arm did with a document, by the arm's name: in or out, its key against the arm's threshold."""
    tables, mine = run.tables, F.col("doc_id") == F.lit(doc_id)
    arms = tables.read(ARMS).select("selection_id").distinct()
    runs = tables.read(SELECTION_RUNS).join(arms, "selection_id", "left_semi")
    document = tables.read(DOCUMENTS).where(mine).select("source", "metadata").first()
    if document is None:
        raise InputError(f"there is no document {doc_id!r} in the table documents; `betr explain` says more")
    selected = tables.read(SELECTIONS).where(mine)
    found: list[SelectionVerdict] = []
    for row in tables.read(CORPUS_SCORES).where(mine).collect():  # one a classifier
        same = runs.where(F.col("classifier_id") == row["classifier_id"])
        scored = CORPUS_SCORES.frame(run.spark, [row])
        found += verdicts_on(scored, same, selected, document, row["heads"], {}, {})
    return sorted(found, key=lambda verdict: (verdict.name, verdict.version))


# -- the cut -----------------------------------------------------------------------------------------------------------


def _cut(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig, scored: Outcome) -> Outcome:
    tables, wanted, stage = run.tables, selection_of(pool, config, arm), f"arm/{arm.name}"
    left_out = None if arm.kind == "bare" else config.synthetic
    selection_id = selection.selection_id(content_id(scored.key, {"left_out": left_out}), wanted)
    key = content_id("arm", arm.name, selection_id)
    if (earlier := run.result(stage, key)) is not None:
        outcome = run.unchanged(earlier)
        _tell(run, config, arm, _asked(pool, arm, outcome["kept_tokens"]), outcome["kept_tokens"])
        return outcome
    with run.stage(stage, key, unit="documents") as work:
        scores = stages.scores_to_cut(run, scored["classifier_id"], wanted)
        if left_out is not None:
            scores = scores.where(~_is_synthetic(config))
        cut = stages.cut_scores(run, work, scores, wanted, scored, selection_id=selection_id)
        asked = _asked(pool, arm, cut.kept_tokens)
        _tell(run, config, arm, asked, cut.kept_tokens)
        written = stages.write_selection(run, work, cut)
        parameters = {
            "tokens_asked": asked,
            "epochs": repeated(asked, cut.kept_tokens),
            "classifier_id": scored["classifier_id"],
            "left_out_source": left_out,
            "shares": {value: each.kept_weight / cut.kept_tokens for value, each in cut.cuts.items() if value},
            "warnings": list(cut.warnings),
            **{name: value for name, value in scored.values.items() if name in ("seed", "positives", "negatives")},
        }
        row = {
            "arm_id": key, "arm": arm.name, "kind": arm.kind, "selection_id": selection_id,
            "documents": cut.kept_documents, "tokens": cut.kept_tokens,
            "parameters": json.dumps(parameters, sort_keys=True, ensure_ascii=False), "run_id": run.run_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        frame = ARMS.frame(run.spark, [[row[name] for name in ARMS.struct(run.spark).names]])
        tables.replace(ARMS, frame, where={"arm_id": key}, keys_are_unique=True)
        work.values = {**written, "arm_id": key, "arm": arm.name}
    for warning in cut.warnings:
        run.warn(f"arm {arm.name}: {warning}")
    return run.needs(stage)


def _asked(pool: Pool, arm: ArmConfig, kept: int) -> int:
    """An arm's tokens as asked for: keep's are a share of the pool, and never too few."""
    return kept if arm.kind == "keep" else pool.tokens


def _tell(run: Run, config: ArmsConfig, arm: ArmConfig, asked: int, there: int) -> None:
    """Say that an arm falls short, or refuse it."""
    if (short := shortfall(arm.name, asked, there, config.tolerance)) is None:
        return
    if config.on_short == REFUSE:
        raise InputError(f"{short}; ask for fewer with --tokens, or allow it with --on-short repeat")
    run.warn(short)


# -- scores of an arm's own --------------------------------------------------------------------------------------------


def _random(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """Scores by hash of doc_id and seed, with the main line's tokens and sources: no text is read."""
    classifier_id = content_id("arm/random", config.seed, pool.counter)
    stage, key = _score_key(run, arm, classifier_id)
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    with run.stage(stage, key, unit="documents", in_parts=True) as work:
        scores = run.tables.read(CORPUS_SCORES).where(F.col("classifier_id") == pool.scored["classifier_id"])
        left = corpus.missing(run, work, stages.scored_chunks(run, classifier_id))
        for wave in corpus.waves(work, left):
            rows = scores.where(F.col("chunk").isin(*wave)).withColumns({
                "classifier_id": F.lit(classifier_id),
                "score": hash_fraction("doc_id", config.seed, "random arm"),
                "heads": F.lit(None),
            }).repartition("chunk").sortWithinPartitions("classifier_id", "chunk", "score", "doc_id")  # fmt: skip
            # The scores' key is unique, and these chunks had none.
            run.tables.append(CORPUS_SCORES, rows, keys_are_unique=True)
        work.rows_in = work.rows_out
        work.values = {**_scored(run, classifier_id), "seed": config.seed}
    return run.needs(stage)


def _trained(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """Scores by a fastText classifier of the arm's own, trained as the main line's was."""
    trained = _train(run, pool, config, arm)
    path = stages.classifier_path(run, trained["path"])
    return _score(run, pool, arm, trained, lambda: load_classifier(path, trained["sha256"]).to_bytes())


def _dsir(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """Scores that are log importance weights."""
    trained = _weigh(run, pool, config, arm)
    path = stages.classifier_path(run, trained["path"])
    return _score(run, pool, arm, trained, lambda: ImportanceWeights.load(path, trained["sha256"]))


SCORES: dict[str, Callable[[Run, Pool, ArmsConfig, ArmConfig], Outcome]] = {
    "random": _random,
    "direct": _trained,
    "quality": _trained,
    "dsir": _dsir,
}


def _score_key(run: Run, arm: ArmConfig, classifier_id: str) -> tuple[str, str]:
    return f"arm/{arm.name}/score", content_id("arm/score", classifier_id, corpus.key(run))


def _scored(run: Run, classifier_id: str) -> dict[str, Any]:
    documents, tokens = stages.scored_totals(run, classifier_id)
    return {
        "classifier_id": classifier_id, "corpus": corpus.key(run), "documents": documents, "tokens": tokens, "heads": ()
    }  # fmt: skip


def _score(run: Run, pool: Pool, arm: ArmConfig, trained: Outcome, model: Callable[[], Scorer]) -> Outcome:
    """Score the chunks that this arm hasn't scored yet, each one commit; only then the model's file is needed."""
    stage, key = _score_key(run, arm, trained.key)
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    with run.stage(stage, key, unit="documents", in_parts=True) as work:
        way, reason = stages.score_chunks(run, work, trained.key, model(), pool.made_from.trained)
        found = {name: trained[name] for name in ("positives", "negatives")}
        work.values = {**_scored(run, trained.key), "read": way, "read_because": reason, **found}
    return run.needs(stage)


# -- what scores them --------------------------------------------------------------------------------------------------


def training_settings(run: Run, trained: Outcome) -> RunConfig:
    """The run's configuration with the settings that the main line's classifier was trained with."""
    found = run.settings_of(trained)
    return dataclasses.replace(run.config, **{name: found[name] for name in TRAINING if name in found})


def _train(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """fastText on the arm's positives and as many sampled documents (by hash); validated on a tenth, kept in a file."""
    made_from, how = pool.made_from, training_settings(run, pool.made_from.trained)
    settings = {name: getattr(how, name) for name in TRAINING}
    taught: list[Any] = [made_from.drawn.key, settings, pool.counter]
    if arm.kind == "direct":
        taught.append(made_from.wanted.key)
    else:
        named = config.quality_positives
        taught += [labelled.files_key(run.spark, named), config.most_positives]
        taught += [corpus.key(run)] if labelled.of_corpus(named) else []
    stage, key = f"arm/{arm.name}/train", content_id("arm/train", arm.kind, taught)
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    with run.stage(stage, key, unit="documents") as work:
        rows = _labelled(run, pool, config, arm, how.seed)
        held_out = stages.is_held_out(how.seed)
        with work.clock.counting("compute"):
            counts = _label_counts(rows.where(~held_out))
        labelled.check_counts(arm.name, counts)
        # Where positives are more, as many of them as there are negatives: fit_classifier balances the other way.
        share = counts[0] / counts[1]
        rows = labelled.thinned(rows, share, seed=how.seed, salt="balance")
        if share < 1:
            counts = _label_counts(rows.where(~held_out))
            labelled.check_counts(arm.name, counts)
        model, log = stages.fit_classifier(how, work, rows.where(~held_out), counts)
        with work.clock.counting("compute"):
            figures = stages.validate_classifier(
                run, rows.where(held_out).withColumn("best_rank", F.lit(None).cast("int")), model
            )
        negatives = log.documents - log.positives
        _keep(run, pool, work, arm, key, model.save, settings, log.positives, negatives, figures)
    if (accuracy := figures["accuracy"]) is not None:
        run.terminal.line(f"  validation of {arm.name}: accuracy {accuracy:.3f}, {figures['documents']:,} documents")
    return run.needs(stage)


def _label_counts(rows: DataFrame) -> dict[int, int]:
    return {row["label"]: row["count"] for row in rows.groupBy("label").count().collect()}


def _labelled(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig, seed: int) -> DataFrame:
    sample = stages.sample(run, pool.made_from.drawn).select("doc_id", "text")
    if arm.kind == "direct":
        return labelled.direct_rows(stages.targets(run, pool.made_from.wanted), sample)
    documents, limit = run.tables.read(DOCUMENTS), run.config.max_bytes
    if aside := labelled.put_aside(run.spark, config.quality_positives, max_bytes=limit):
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in aside.items())
        run.warn(f"--quality-positives: rows that can't be used: {reasons}")
    found = labelled.quality_positives(run.spark, documents, config.quality_positives, max_bytes=limit)
    rows, count = labelled.quality_rows(found, documents, sample), found.rows.count()
    return labelled.thinned(rows, config.most_positives / max(1, count), seed=seed, salt="most")


def _weigh(run: Run, pool: Pool, config: ArmsConfig, arm: ArmConfig) -> Outcome:
    """DSIR's weights: the targets' words against those of the sample, which stands for the corpus."""
    made_from = pool.made_from
    settings = {"buckets": config.buckets}
    key = content_id("arm/train", arm.kind, [made_from.drawn.key, made_from.wanted.key, settings, pool.counter])
    stage = f"arm/{arm.name}/train"
    if (earlier := run.result(stage, key)) is not None:
        return run.unchanged(earlier)
    with run.stage(stage, key, unit="documents") as work:
        examples, sample = stages.targets(run, made_from.wanted), stages.sample(run, made_from.drawn)
        with work.clock.counting("compute"):
            target, raw = (bucket_counts(texts, buckets=config.buckets) for texts in (examples, sample))
            weights = ImportanceWeights.fit(target, raw)
        positives, negatives = made_from.wanted["rows"], made_from.drawn["rows"]
        _keep(run, pool, work, arm, key, weights.save, settings, positives, negatives, {})
    return run.needs(stage)


def _keep(
    run: Run, pool: Pool, work: Work, arm: ArmConfig, key: str, save: Callable[[str], str], settings: dict[str, Any],
    positives: int, negatives: int, figures: dict[str, Any],
) -> None:
    """Write what scores an arm to its file, and its row of CLASSIFIERS, without labels: nobody ranked for it."""
    path = f"{stages.classifier_folder(run)}/{key}.safetensors"
    with work.clock.counting("writing"):
        sha256 = save(stages.classifier_path(run, path))
    counter, ratio = pool.counter
    row: dict[str, Any] = dict.fromkeys(CLASSIFIERS.struct(run.spark).names)
    row |= {
        "classifier_id": key, "path": path, "sha256": sha256, "origin": f"arm {arm.name}", "head": "",
        "parameters": json.dumps(settings, sort_keys=True, default=str), "positives": positives,
        "training_documents": positives + negatives, "validation_documents": figures.get("documents", 0),
        **{name: figures.get(name) for name in ("accuracy", "auc", "log_loss")},
        "token_counter": counter, "bytes_per_token": ratio, "trained_on": pool.made_from.drawn["corpus"],
    }  # fmt: skip
    frame = CLASSIFIERS.frame(run.spark, [tuple(row.values())])
    run.tables.replace(CLASSIFIERS, frame, where={"classifier_id": key, "head": ""}, keys_are_unique=True)
    work.rows_in = work.rows_out = positives + negatives
    work.values = {"path": path, "sha256": sha256, "positives": positives, "negatives": negatives, **figures}
