"""The tables of BARE in the order in which they come to be: seeds -> drafts -> refined -> verdicts -> metrics.

A `generation` is what rows are made from: task, seeds, arm, models, sampling, seed of chance. Its id, a hash of these,
stands in every row. Work is committed in waves: a wave's drafts, then its refinements, then its verdicts.
"""

from __future__ import annotations

from curation.tables import TableSpec

GENERATIONS = TableSpec(
    "generations",
    key=("generation_id",),
    schema=(
        "generation_id string, task string, task_definition string, arm string, seeds_id string, "
        "base string, base_revision string, base_license string, "
        "instruct string, instruct_revision string, instruct_license string, "
        "encoder_id string, settings string, run_id string, created string"
    ),
)

# role: `shot` (may be shown to a model) or `real` (held out: what measures and the judge compare with).
SEEDS = TableSpec(
    "seeds",
    key=("seeds_id", "seed_id"),
    schema=(
        "seeds_id string, seed_id string, role string, task string, fields map<string,string>, label string, "
        "text string, source_id string, license string"
    ),
)
REJECTED_SEEDS = TableSpec(
    "rejected_seeds",
    key=("seeds_id", "row"),
    schema="seeds_id string, row bigint, reason string, detail string",
)

# One call of a model a row. shots: seed ids in the order shown. sampling: JSON. A count that nobody told is null.
_CALL = (
    "label string, shots array<string>, prompt_hash string, model string, revision string, license string, "
    "sampling string, seed bigint, text string, finish_reason string, error string, tokens_in bigint, "
    "tokens_out bigint, seconds double, cost double"
)
DRAFTS = TableSpec(
    "drafts",
    key=("generation_id", "draft_id"),
    schema=f"generation_id string, wave int, draft_id string, round int, item bigint, attempt int, {_CALL}",
    partition_by=("generation_id", "wave"),
)
REFINED = TableSpec(
    "refined",
    key=("generation_id", "row_id"),
    schema=f"generation_id string, wave int, row_id string, draft_id string, {_CALL}",
    partition_by=("generation_id", "wave"),
)

# Of rows that stand by themselves, before copies are looked for: the row's, and its draft's where that parses too.
ROW_EMBEDDINGS = TableSpec(
    "row_embeddings",
    key=("generation_id", "row_id"),
    schema=(
        "generation_id string, wave int, row_id string, encoder_id string, embedding array<float>, "
        "draft_embedding array<float>"
    ),
    partition_by=("generation_id", "wave"),
)

# text: the item without markers and label. reason is null where accepted; people may overrule automatic_reason.
VERDICTS = TableSpec(
    "verdicts",
    key=("generation_id", "row_id"),
    schema=(
        "generation_id string, wave int, row_id string, draft_id string, round int, item bigint, attempt int, "
        "label string, fields map<string,string>, text string, accepted boolean, reason string, detail string, "
        "matched_id string, matched_by string, overlap double, decided_by string, automatic_reason string"
    ),
    partition_by=("generation_id", "wave"),
)

# A question to the judge: three real rows, and this one in `place`. verdict: missed, found, abstained.
JUDGEMENTS = TableSpec(
    "judgements",
    key=("generation_id", "judge", "row_id"),
    schema=(
        "generation_id string, judge string, row_id string, round int, real array<string>, place int, text string, "
        "finish_reason string, answer int, verdict string, tokens_in bigint, tokens_out bigint, seconds double, "
        "cost double"
    ),
)

# round -1: all rounds together, -2: the real rows. histogram: of cosines from -1 to 1, or null.
METRICS = TableSpec(
    "metrics",
    key=("generation_id", "round", "measure"),
    schema=(
        "generation_id string, round int, measure string, value double, low double, high double, n bigint, "
        "histogram array<bigint>"
    ),
)

# A round's settings, and what its measures led to: `next_settings` are those of the following round.
ROUNDS = TableSpec(
    "rounds",
    key=("generation_id", "round"),
    schema=(
        "generation_id string, round int, settings string, action string, reason string, breaches string, "
        "skipped array<string>, applied boolean, halted boolean, next_settings string, accepted bigint, created string"
    ),
)

REVIEWS = TableSpec(
    "reviews",
    key=("generation_id", "row_id", "reviewer"),
    schema=(
        "generation_id string, row_id string, reviewer string, verdict string, reason string, sheet_sha256 string, "
        "imported string"
    ),
)

COMPARISONS = TableSpec(
    "comparisons",
    key=("comparison_id", "basis", "arm", "measure"),
    schema=(
        "comparison_id string, basis string, arm string, generation_id string, measure string, value double, "
        "low double, high double, n bigint, created string"
    ),
)

ALL = (
    GENERATIONS, SEEDS, REJECTED_SEEDS, DRAFTS, REFINED, ROW_EMBEDDINGS, VERDICTS, JUDGEMENTS, METRICS, ROUNDS,
    REVIEWS, COMPARISONS,
)  # fmt: skip
