"""Scores -> a cut at a token budget: hard, soft, quotas. A new cut reads scores, never text.

    selected = select(scores, config, classifier_id=..., selection_id=selection_id(scored_key, config))
    selected.rows -> SELECTIONS            selected.run_row(...) -> SELECTION_RUNS
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import or_
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from betr.filter_rate import FilterRate, check_flops, check_keep, check_law, check_tokens, filter_rate
from curation.cutting import Cut, count_rows, is_kept, keep, keep_groups
from curation.errors import InputError, SchemaError
from curation.hashing import content_id
from curation.sampling import hash_fraction
from curation.tables import TableSpec

MODES = ("hard", "soft")  # what a person asks for
RESAMPLE = "resample"  # scores that are log importance weights and no probabilities: evaluation/dsir.py
VALUES_SHOWN = 20
# fastText reports p + 1e-5, so that a score may exceed 1; and the log-odds of 0 and 1 are infinite.
SCORE_FLOOR = 1e-5
# A histogram of scores goes by their log-odds, which tell apart what lies near 0 and near 1.
BIN = 0.05
EDGE = 11.5  # just below those of SCORE_FLOOR

SELECTIONS = TableSpec(
    "selections",
    key=("selection_id", "doc_id"),
    schema="selection_id string, doc_id string, weight double",
    partition_by=("selection_id",),
)

SELECTION_RUNS = TableSpec(
    "selection_runs",
    key=("selection_id",),
    schema=(
        "selection_id string, name string, version int, classifier_id string, mode string, keep double, "
        "budget_tokens bigint, threshold double, threshold_id string, documents bigint, tokens bigint, "
        "kept_documents bigint, kept_tokens bigint, parameters string, run_id string, created string"
    ),
)


@dataclass(frozen=True)
class SelectionConfig:
    """How to cut: exactly one of keep (share of tokens), tokens (number), flops (training compute, by a law) and
    threshold (the key where another cut ended, with threshold_id, its last document: the cut is carried on).

    mode: hard takes the highest scores. soft draws documents without replacement, each in proportion to its odds
    p / (1 - p) to the power 1 / temperature; resample does so in proportion to exp(score / temperature).
    quotas: `source=wiki:0.2` or `metadata.language=de:0.1`, all of one field: each value gets its share of the kept
    tokens, everything else shares the rest. Several fields at once are named with commas, and so are their values:
    `metadata.language,source=de,wiki:0.1`. head: the benchmark whose score is
    cut. Quotas of heads, `head=arc_easy:0.3`: a document belongs to the head that scores it highest (of equals the
    first by name) and goes by that score. decontamination_id, deduplication_id: whose
    verdicts on documents hold, None for none's.
    """

    keep: float | None = None
    tokens: int | None = None
    flops: float | None = None
    law: str = "nemotron"
    mode: str = "hard"
    temperature: float = 1.0
    seed: int = 0
    head: str | None = None
    quotas: tuple[str, ...] = ()
    name: str = "default"
    threshold: float | None = None
    threshold_id: str | None = None
    decontamination_id: str | None = None
    deduplication_id: str | None = None

    def __post_init__(self) -> None:
        given = {"keep": self.keep, "tokens": self.tokens, "flops": self.flops, "threshold": self.threshold}
        chosen = [way for way, value in given.items() if value is not None]
        if len(chosen) != 1:
            raise InputError(
                f"say how much to keep by exactly one of keep, tokens and flops; got {' and '.join(chosen) or 'none'}"
            )
        if self.threshold is not None and (self.threshold_id is None or self.quotas):
            raise InputError("a threshold goes with the document that it ended at, and not with quotas")
        if self.keep is not None:
            check_keep(self.keep)
        if self.tokens is not None:
            check_tokens(self.tokens)
        if self.flops is not None:
            check_flops(self.flops)
        check_law(self.law)
        if self.mode != RESAMPLE:
            check_mode(self.mode)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise InputError(f"temperature must be a number above 0; got {self.temperature!r}")
        if not self.name.strip():
            raise InputError(f"a selection needs a name; got {self.name!r}")
        _ = self.shares
        if self.head is not None and self.quota_field == "head":
            raise InputError(f"head {self.head} and quotas of heads exclude each other: both say whose score is cut")

    @property
    def quota_field(self) -> str | None:
        """The field that all quotas name: source, metadata.<key>, several of them with commas, or head; None without
        quotas.
        """
        return _parse_quota(self.quotas[0])[0] if self.quotas else None

    @property
    def quota_fields(self) -> list[str]:
        """The fields of `quota_field`, one by one."""
        return (self.quota_field or "").split(",") if self.quotas else []

    @property
    def heads(self) -> list[str]:
        """The heads that the cut goes by, as far as they are named."""
        return [self.head] if self.head is not None else list(self.shares) if self.quota_field == "head" else []

    @property
    def shares(self) -> dict[str, Fraction]:
        """Value of the quota field -> its share of the kept tokens."""
        shares: dict[str, Fraction] = {}
        for quota in self.quotas:
            field, value, share = _parse_quota(quota)
            if field != self.quota_field:
                raise InputError(f"quotas must all be of one field; got {self.quota_field} and {field}")
            if value in shares:
                raise InputError(f"the quota of {field}={value} is given twice; leave one out")
            shares[value] = share
        if sum(shares.values()) > 1:
            raise InputError(f"quotas must sum to at most 1; got {float(sum(shares.values())):g} of {self.quota_field}")
        return shares


@dataclass(frozen=True)
class Selection:
    """A cut and its rows (SELECTIONS, not yet computed).

    cuts: the cut of each quota value, "" for all that no quota names. threshold: the lowest key kept; the key is the
    score in hard mode and log-odds / temperature + Gumbel noise in soft mode. Warnings are for people.
    """

    selection_id: str
    classifier_id: str
    config: SelectionConfig
    rate: FilterRate
    cuts: Mapping[str, Cut]
    documents: int
    tokens: int
    rows: DataFrame
    warnings: tuple[str, ...] = ()

    @property
    def kept_documents(self) -> int:
        return sum(cut.kept_rows for cut in self.cuts.values())

    @property
    def kept_tokens(self) -> int:
        return sum(cut.kept_weight for cut in self.cuts.values())

    @property
    def threshold(self) -> float:
        return self._last[0]

    @property
    def threshold_id(self) -> str:
        return self._last[1]

    @property
    def _last(self) -> tuple[float, str]:
        lasts = [(cut.key, cut.id) for cut in self.cuts.values() if cut.key is not None and cut.id is not None]
        lowest = min(key for key, _ in lasts)
        return lowest, max(id_ for key, id_ in lasts if key == lowest)

    def run_row(self, *, version: int, run_id: str, created: str) -> dict[str, Any]:
        """The selection's row of SELECTION_RUNS; created: ISO 8601, UTC."""
        parameters = {
            **dataclasses.asdict(self.config),
            "cuts": {name: dataclasses.asdict(cut) for name, cut in self.cuts.items()},
            "filter_rate": dataclasses.asdict(self.rate),
            "warnings": list(self.warnings),
        }
        return {
            "selection_id": self.selection_id, "name": self.config.name, "version": version,
            "classifier_id": self.classifier_id, "mode": self.config.mode, "keep": self.rate.keep,
            "budget_tokens": self.rate.tokens, "threshold": self.threshold, "threshold_id": self.threshold_id,
            "documents": self.documents, "tokens": self.tokens, "kept_documents": self.kept_documents,
            "kept_tokens": self.kept_tokens, "parameters": json.dumps(parameters, sort_keys=True, ensure_ascii=False),
            "run_id": run_id, "created": created,
        }


def selection_id(scored: str, config: SelectionConfig) -> str:
    """Names a selection by what it is made from: the state of the scores (with their classifier), and the settings."""
    # Settings that came later, and change no id where they aren't used.
    later = ("threshold", "threshold_id", "decontamination_id", "deduplication_id")
    every = dataclasses.asdict(config).items()
    settings = {name: value for name, value in every if value is not None or name not in later}
    return content_id("selection", scored, settings)


def config_of(parameters: str) -> SelectionConfig:
    """The settings in a row of SELECTION_RUNS."""
    found = json.loads(parameters)
    values = {field.name: found[field.name] for field in dataclasses.fields(SelectionConfig) if field.name in found}
    return SelectionConfig(**{**values, "quotas": tuple(values["quotas"])})


def cuts_of(parameters: str) -> dict[str, Cut]:
    """The cuts in a row of SELECTION_RUNS, by quota value."""
    return {name: Cut(**cut) for name, cut in json.loads(parameters)["cuts"].items()}


def find_selection(runs: Sequence[Row], wanted: str, *, root: str) -> Row:
    """The row of SELECTION_RUNS that is meant: an id or its beginning, NAME (its latest version) or NAME@VERSION."""
    name, at, version = wanted.rpartition("@")
    by_name = [row for row in runs if row["name"] == (name if at else wanted)]
    found = [row for row in by_name if not at or str(row["version"]) == version]
    if found:
        return max(found, key=lambda row: row["version"])
    found = [row for row in runs if row["selection_id"].startswith(wanted)]
    if len(found) == 1:
        return found[0]
    in_order = sorted(runs, key=lambda row: (row["name"], row["version"]))
    there = ", ".join(f"{row['name']}@{row['version']}" for row in in_order)
    problem = f"is how {len(found)} ids begin" if found else "is no selection"
    raise InputError(f"{wanted!r} {problem} in {root}; there are {there or 'none'} (`betr show selections`: their ids)")


def carry(row: Row, *, name: str) -> SelectionConfig:
    """The settings that cut where the selection of this row ended, under a name; InputError where it had quotas."""
    config = config_of(row["parameters"])
    if config.quotas:
        raise InputError(f"--carry {row['name']}: a selection by quotas has a threshold each; cut by the same shares")
    last = {"threshold": row["threshold"], "threshold_id": row["threshold_id"]}
    return dataclasses.replace(config, keep=None, tokens=None, flops=None, name=name, **last)


def next_version(runs: DataFrame, *, name: str, selection_id: str) -> tuple[int, bool]:
    """(version, whether it is there already) of a selection under its name: its own, else one above the highest."""
    mine = F.max(F.when(F.col("selection_id") == F.lit(selection_id), F.col("version")))
    own, highest = runs.where(F.col("name") == F.lit(name)).agg(mine, F.max("version")).collect()[0]
    return (int(own), True) if own is not None else (int(highest or 0) + 1, False)


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise InputError(f"mode must be one of {', '.join(MODES)}; got {mode!r}")


def check_heads(config: SelectionConfig, heads: Collection[str]) -> None:
    """InputError where the cut goes by a head that isn't among these, of which there may be none."""
    if config.heads and not heads:
        raise InputError(
            f"the cut goes by the head {config.heads[0]!r}, but the scores are for all targets only: "
            "run `betr run --heads` first"
        )
    for head in config.heads:
        if head not in heads:
            raise InputError(f"there is no head {head!r}; there are {', '.join(sorted(heads))}")


def with_key(scores: DataFrame, config: SelectionConfig) -> DataFrame:
    """Scores with the column `key` that the cut goes by, higher is better."""
    return scores.withColumn("key", key_of(config))


def key_of(config: SelectionConfig) -> Column:
    """The key of a row with doc_id, score and heads (where a head's score is cut): the score itself in hard mode.

    Soft: log-odds / temperature + Gumbel(0, 1) noise, hashed from seed and doc_id. The k highest of such keys are a
    draw of k without replacement in proportion to exp(log-odds / temperature) (Gumbel top-k, as in DSIR). Resample: the
    score itself is the log weight.
    """
    return score_of(config) if config.mode == "hard" else _log_weight(config) + _gumbel(config.seed)


def score_of(config: SelectionConfig) -> Column:
    """The score that is cut: for all targets, of one head, or of a row's highest head."""
    if config.head is not None:
        return F.try_element_at(F.col("heads"), F.lit(config.head))
    return _highest() if config.quota_field == "head" else F.col("score")


def log_odds_bin(score: Column) -> Column:
    """The bin of a score in a histogram over log-odds, int: bin b holds [b * BIN - EDGE, (b + 1) * BIN - EDGE)."""
    p = F.least(F.greatest(score, F.lit(SCORE_FLOOR)), F.lit(1 - SCORE_FLOOR))
    return F.floor((F.log(p / (1 - p)) + EDGE) / BIN).cast("int")


def highest_head(heads: Mapping[str, float]) -> str:
    """The head that a document belongs to: the highest score, of equals the first by name."""
    return min(heads, key=lambda head: (-heads[head], head))


def _highest() -> Column:
    return F.array_max(F.map_values("heads"))


def _highest_head() -> Column:
    """`highest_head` of a row, in whatever order its map holds the heads."""
    by_name = F.sort_array(F.map_entries("heads"))
    place = F.array_position(by_name.getField("value"), _highest()).cast("int")
    return F.try_element_at(by_name.getField("key"), place)


def with_verdict(
    scores: DataFrame, config: SelectionConfig, cuts: Mapping[str, Cut], *, documents: DataFrame | None = None
) -> DataFrame:
    """Scores with `key`, and `kept`: whether a selection by these cuts holds the row; no join but with `documents`.

    The same rows are kept as `select` wrote; documents (doc_id, metadata) is wanted by quotas of metadata only.
    """
    keyed = with_key(_with_group(scores, config.quota_field, config.shares, documents), config)
    verdicts = [is_kept(cut, key="key", id="doc_id") for cut in cuts.values()]
    if config.shares:
        named = zip(cuts, verdicts, strict=True)
        verdicts = [(F.col("group") == F.lit(name)) & verdict for name, verdict in named]
    return keyed.withColumn("kept", reduce(or_, verdicts)).drop("group")


def select(
    scores: DataFrame,
    config: SelectionConfig,
    *,
    classifier_id: str,
    selection_id: str,
    documents: DataFrame | None = None,
    heads: Collection[str] = (),
) -> Selection:
    """Cut the scores of one classifier at the budget that the settings ask for; runs a few jobs over them.

    scores: doc_id, score, tokens, source, one row a document; and heads, where there are any, as named in `heads`.
    documents (doc_id, metadata) is wanted by quotas of metadata only, and no other column of it is read. Kept tokens
    are within one document of the budget, with quotas within one document of each value's. Weights are 1 in hard mode.
    In soft mode they are the importance weights (p / (1 - p)) ** (1 / temperature) that the draw was in proportion to:
    a record, not to weigh the training with, for the draw has already favoured the heavy documents. They are 1 in mode
    resample, where the score is their logarithm.
    """
    check_heads(config, heads)
    shares, field = config.shares, config.quota_field
    grouped = _with_group(scores, field, shares, documents)
    keyed = with_key(grouped, config)
    columns: dict[str, Any] = {"key": "key", "id": "doc_id", "weight": "tokens"}
    counted = count_rows(keyed, **columns, group="group" if shares else None)
    totals = counted.totals
    if field != "head" and (unknown := [value for value in shares if value not in totals]):
        raise InputError(_unknown(scores, field or "", unknown, documents))
    counts, tokens = sum(n for n, _ in totals.values()), sum(t for _, t in totals.values())
    carried = counted.cut_at(config.threshold, config.threshold_id or "") if config.threshold is not None else None
    if carried is not None:
        rate = FilterRate(carried.kept_weight / max(1, tokens), carried.kept_weight)
    else:
        rate = filter_rate(
            pool_tokens=tokens, keep=config.keep, tokens=config.tokens, flops=config.flops, law=config.law
        )
    warnings = list(rate.warnings)
    if shares:
        there = {name: there for name, (_, there) in totals.items()}
        budgets, notes = share_out(rate.tokens, shares, there)
        warnings += [f"quota of {field}: {note}" for note in notes]
        cuts = counted.cuts(budgets)
        kept = keep_groups(keyed, cuts, group="group", key="key", id="doc_id")
    else:
        cuts = {"": carried} if carried is not None else counted.cuts({"": rate.tokens})
        kept = keep(keyed, cuts[""], key="key", id="doc_id")
    if carried is not None and not carried.kept_rows:
        raise InputError(f"no document reaches the threshold {config.threshold:g} that is carried on; cut by a share")
    if not any(cut.kept_rows for cut in cuts.values()):
        raise InputError(
            f"the budget of {rate.tokens:,} tokens is less than the first document holds, so nothing would be kept; "
            f"raise it (the pool: {counts:,} documents, {tokens:,} tokens)"
        )
    weight = F.exp(_log_weight(config)) if config.mode == "soft" else F.lit(1.0)
    rows = kept.select(F.lit(selection_id).alias("selection_id"), "doc_id", weight.alias("weight"))
    return Selection(selection_id, classifier_id, config, rate, cuts, counts, tokens, rows, tuple(warnings))


def share_out(
    budget: int, shares: Mapping[str, Fraction], there: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """Budget of each quota value, and of "" for all that no quota names; with notes on what fell short.

    A value with fewer tokens than its share is kept whole, and the others divide what it leaves in proportion to their
    shares, until all fit. What nobody may take stays unused. Budgets are rounded down to whole tokens.
    """
    wanted = {**shares, "": 1 - sum(shares.values(), Fraction(0))}
    budgets, left = dict.fromkeys(wanted, 0), Fraction(budget)
    takers = {name: share for name, share in wanted.items() if share > 0}
    while takers:
        per_share = left / sum(takers.values())
        short = {name for name, share in takers.items() if there.get(name, 0) <= share * per_share}
        for name in short or takers:
            budgets[name] = there.get(name, 0) if short else int(takers[name] * per_share)
        if not short:
            left = Fraction(0)
            break
        left -= sum(budgets[name] for name in short)
        takers = {name: share for name, share in takers.items() if name not in short}
    notes = [
        f"{name!r} holds {there.get(name, 0):,} tokens of the {int(share * budget):,} that its share asks for; "
        "all are kept and the others divide the rest"
        for name, share in shares.items()
        if there.get(name, 0) < int(share * budget)
    ]
    if left >= 1:
        notes.append(f"{int(left):,} tokens of the budget stay unused; lower the quotas, or leave the others a share")
    return budgets, notes


def _log_weight(config: SelectionConfig) -> Column:
    given = score_of(config)
    if config.mode == RESAMPLE:
        return given / F.lit(float(config.temperature))
    score = F.least(F.greatest(given, F.lit(SCORE_FLOOR)), F.lit(1 - SCORE_FLOOR))
    log_weight = F.log(score / (1 - score)) / F.lit(float(config.temperature))
    # greatest and least would make numbers of null and NaN; the cut refuses them.
    return F.when(given.isNotNull() & ~F.isnan(given), log_weight)


def _gumbel(seed: int) -> Column:
    u = F.greatest(hash_fraction("doc_id", seed, "soft selection"), F.lit(2.0**-54))  # never 0
    return -F.log(-F.log(u))


def _with_group(
    scores: DataFrame, field: str | None, shares: Mapping[str, Fraction], documents: DataFrame | None
) -> DataFrame:
    """Scores with the column `group`: the quota's value, or "" where no quota names it."""
    if field is None:
        return scores.withColumn("group", F.lit(""))
    valued = _with_quota_value(scores, field, documents)
    named = F.col("value").isin(*shares)
    return valued.withColumn("group", F.when(named, F.col("value")).otherwise(F.lit(""))).drop("value")


def _with_quota_value(scores: DataFrame, field: str, documents: DataFrame | None) -> DataFrame:
    """`with_value` of a quota's field; of several the values with commas, null where one of them is."""
    parts = field.split(",")
    if len(parts) == 1:
        return with_value(scores, field, documents)
    names = [f"value_{number}" for number in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        scores = with_value(scores, part, documents).withColumnRenamed("value", name)
    joined = [each for name in names for each in (F.lit(","), F.col(name))][1:]
    return scores.withColumn("value", F.concat(*joined)).drop(*names)


def with_value(scores: DataFrame, field: str, documents: DataFrame | None) -> DataFrame:
    """Scores with the column `value`: source, highest head, or a metadata value (of documents: doc_id, metadata)."""
    if field == "source":
        return scores.withColumn("value", F.col("source"))
    if field == "head":
        return scores.withColumn("value", _highest_head())
    if documents is None:
        raise SchemaError(f"quotas of {field} need the table documents with its column metadata; none was given")
    value = F.try_element_at(F.col("metadata"), F.lit(field.removeprefix("metadata.")))
    return scores.join(documents.select("doc_id", value.alias("value")), "doc_id", "left")


def _unknown(scores: DataFrame, field: str, unknown: list[str], documents: DataFrame | None) -> str:
    valued = _with_quota_value(scores, field, documents).groupBy("value").agg(F.sum("tokens").alias("tokens"))
    largest = valued.where(F.col("value").isNotNull()).orderBy(F.desc("tokens"), "value").limit(VALUES_SHOWN + 1)
    values = [r["value"] for r in largest.collect()]
    more = ", ..." if len(values) > VALUES_SHOWN else ""
    there = f"there are {', '.join(values[:VALUES_SHOWN])}{more}" if values else "no document has one"
    return f"quotas: no document has {field}={', '.join(unknown)}; {there}"


def _parse_quota(quota: str) -> tuple[str, str, Fraction]:
    field, equals, rest = quota.partition("=")
    value, colon, digits = rest.rpartition(":")
    fields, values = ([part.strip() for part in each.split(",")] for each in (field, value))
    if len(fields) == 1:  # a value by itself may hold commas
        values = [value.strip()]
    known = fields == ["head"] or all(
        part == "source" or (part.startswith("metadata.") and part != "metadata.") for part in fields
    )
    if len(values) != len(fields) or len(set(fields)) != len(fields):
        raise InputError(
            f"a quota of several fields names each once, and as many values: metadata.KEY,source=VALUE,VALUE:SHARE; "
            f"got {quota!r}"
        )
    field, value = ",".join(fields), ",".join(values)
    if not (equals and colon and all(values) and known):
        raise InputError(
            f"a quota reads source=VALUE:SHARE, metadata.KEY=VALUE:SHARE or head=NAME:SHARE; got {quota!r}"
        )
    try:
        share = Fraction(digits.strip())
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise InputError(f"a quota's share must be in (0, 1]; got {digits!r} in {quota!r}")
    return field, value, share
