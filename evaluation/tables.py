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

ALL = (ARMS, TOKENIZERS, HELD_OUT_EXAMPLES, PROXY_RUNS, EVALUATIONS, DOWNSTREAM_RUNS, DOWNSTREAM_EVALUATIONS)
