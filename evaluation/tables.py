"""The tables of the evaluation, in the order in which they come to be (docs/tables.md)."""

from curation.tables import TableSpec

# An arm is a selection under a name of the comparison: kind tells how it was made, parameters with which settings.
ARMS = TableSpec(
    "arms",
    key=("arm_id",),
    schema=(
        "arm_id string, arm string, kind string, selection_id string, documents bigint, tokens bigint, "
        "parameters string, run_id string, created string"
    ),
)

# One tokenizer for all arms, trained on a sample of the pool; definition is the library's own JSON.
TOKENIZERS = TableSpec(
    "tokenizers",
    key=("tokenizer_id",),
    schema="tokenizer_id string, vocabulary int, documents bigint, bytes bigint, parameters string, definition string",
)

# What models are measured on: question, then one of the choices. removed: why an example isn't measured (in_pool,
# training_example; of `evaluate downstream`: seed, made_row, duplicate).
HELD_OUT_EXAMPLES = TableSpec(
    "held_out_examples",
    key=("held_out_id", "example_id"),
    schema=(
        "held_out_id string, example_id string, benchmark string, question string, choices array<string>, gold int, "
        "removed string"
    ),
)

# A run of one arm, size and seed; status: finished or diverged (reason says how), which no mean takes in. seconds: of
# all of it; tokens_per_second: of training. reason of a finished run: why it was not fine-tuned. settings: JSON.
PROXY_RUNS = TableSpec(
    "proxy_runs",
    key=("proxy_id",),
    schema=(
        "proxy_id string, arm_id string, arm string, size string, parameters bigint, seed int, tokens bigint, "
        "epochs double, steps int, loss double, status string, reason string, flops double, seconds double, "
        "tokens_per_second double, device string, tokenizer_id string, held_out_id string, settings string, "
        "run_id string"
    ),
)

# phase: pretrained, or finetuned on the same small task set. bits_per_byte: of the gold answer given the question.
# correct: the gold answer is the likeliest by the byte; null where an example has no choices.
EVALUATIONS = TableSpec(
    "evaluations",
    key=("proxy_id", "phase", "benchmark", "example_id"),
    schema=(
        "proxy_id string, phase string, benchmark string, example_id string, nats double, bytes int, "
        "bits_per_byte double, correct boolean"
    ),
)

# A model fine-tuned on one arm's rows (`evaluate downstream`); no rows: the model as it is. labels: rows by label.
# loss: nats a token of the last epoch, first_loss: of the first. settings: JSON.
DOWNSTREAM_RUNS = TableSpec(
    "downstream_runs",
    key=("downstream_id",),
    schema=(
        "downstream_id string, comparison_id string, experiment string, arm string, generation_id string, rows int, "
        "labels map<string,int>, seed int, model string, revision string, method string, parameters bigint, "
        "trained_parameters bigint, steps int, seen bigint, tokens bigint, first_loss double, loss double, "
        "status string, reason string, flops double, seconds double, device string, held_out_id string, "
        "settings string, run_id string"
    ),
)

# A row a model and test row, which HELD_OUT_EXAMPLES holds. answer: the likeliest label; null, as correct is, where the
# answer is free text.
DOWNSTREAM_EVALUATIONS = TableSpec(
    "downstream_evaluations",
    key=("downstream_id", "example_id"),
    schema=(
        "downstream_id string, example_id string, benchmark string, nats double, bytes int, bits_per_byte double, "
        "answer string, correct boolean"
    ),
)

# A synthetic document as it stands after a round: made in which one, from drafts that were shown which gaps, and which
# of them it is nearest to. reason: why it isn't selected (below_cut, over_cap).
LOOP_DOCUMENTS = TableSpec(
    "loop_documents",
    key=("loop_id", "round", "doc_id"),
    schema=(
        "loop_id string, round int, doc_id string, made_in int, generation_id string, draft_id string, "
        "example_ids array<string>, nearest_example_id string, similarity float, score double, tokens bigint, "
        "selected boolean, reason string"
    ),
)

# Every task example after a round. gap: it was one of the round's; shown: to a model in it; held_back: in no round.
# real: similarity of the nearest real document; before, after: of the nearest of these and the selected synthetic ones.
# doc_id: the synthetic document that is nearest, null where a real one is as near.
LOOP_GAPS = TableSpec(
    "loop_gaps",
    key=("loop_id", "round", "example_id"),
    schema=(
        "loop_id string, round int, example_id string, benchmark string, gap boolean, shown boolean, "
        "held_back boolean, real float, before float, after float, doc_id string"
    ),
)

# What a round was made from, what it took and what became of it; bare_tables, synthetic_tables: the roots that hold
# BARE's rows, and the documents with their scores and their selection. copies: rows that say what a document says.
LOOP_ROUNDS = TableSpec(
    "loop_rounds",
    key=("loop_id", "round"),
    schema=(
        "loop_id string, round int, selection_id string, generation_id string, bare_tables string, "
        "synthetic_tables string, synthetic_selection_id string, gaps bigint, shown bigint, drafts bigint, "
        "accepted bigint, stopped_by string, copies bigint, documents bigint, below_cut bigint, over_cap bigint, "
        "selected bigint, selected_tokens bigint, real_tokens bigint, cap_tokens bigint, tokens_in bigint, "
        "tokens_out bigint, cost double, model_seconds double, seconds double, run_id string, created string"
    ),
)

ALL = (
    ARMS, TOKENIZERS, HELD_OUT_EXAMPLES, PROXY_RUNS, EVALUATIONS, DOWNSTREAM_RUNS, DOWNSTREAM_EVALUATIONS,
    LOOP_DOCUMENTS, LOOP_GAPS, LOOP_ROUNDS,
)  # fmt: skip
