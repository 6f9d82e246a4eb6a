"""The tables of BETR in the order in which they come to be; each is declared where it is made (docs/tables.md)."""

from betr.benchmarks import BENCHMARK_EXAMPLES
from betr.coverage import COVERAGE
from betr.drift import DRIFT
from betr.ranking import SAMPLE_LABELS, SAMPLE_RANKS, SAMPLE_RELEVANCE
from betr.selection import SELECTION_RUNS, SELECTIONS
from curation.decontamination import CONTAMINATED_DOCUMENTS, CONTAMINATION_HITS, DECONTAMINATED_CHUNKS
from curation.documents import DOCUMENTS, DUPLICATE_DOCUMENTS, REJECTED_DOCUMENTS
from curation.embedding import BENCHMARK_EMBEDDINGS, SAMPLE_EMBEDDINGS
from curation.near_duplicates import NEAR_DUPLICATES, PAIRS, SIGNATURES
from curation.sampling import CORPUS_SAMPLE
from curation.tables import TableSpec

IMPORTED_FILES = TableSpec(
    "imported_files",
    key=("import_id", "path"),
    schema="import_id string, path string, bytes bigint, fingerprint string",
)

CLASSIFIERS = TableSpec(
    "classifiers",
    key=("classifier_id", "head"),
    schema=(
        "classifier_id string, path string, sha256 string, origin string, labels_id string, "
        "encoder_id string, parameters string, positives bigint, training_documents bigint, "
        "validation_documents bigint, accuracy double, auc double, log_loss double, rank_correlation double, "
        "token_counter string, bytes_per_token double, trained_on string, head string, "
        "registered_as string, registry string"
    ),
    added=("head", "registered_as", "registry"),
)

CORPUS_SCORES = TableSpec(
    "corpus_scores",
    key=("classifier_id", "doc_id"),
    schema=(
        "classifier_id string, chunk string, doc_id string, score double, tokens bigint, source string, "
        "heads map<string,double>"
    ),
    partition_by=("classifier_id", "chunk"),
    added=("heads",),
)

STAGE_RUNS = TableSpec(
    "stage_runs",
    key=("stage", "key", "state", "run_id"),
    schema=(
        "stage string, key string, state string, run_id string, started timestamp, seconds double, rows_in bigint, "
        "rows_out bigint, settings string, outcome string, bytes_in bigint, bytes_out bigint, files bigint, "
        "seconds_reading double, seconds_compute double, seconds_writing double, seconds_commits double"
    ),
    added=(
        "bytes_in",
        "bytes_out",
        "files",
        "seconds_reading",
        "seconds_compute",
        "seconds_writing",
        "seconds_commits",
    ),
)

ALL = (
    DOCUMENTS,
    REJECTED_DOCUMENTS,
    DUPLICATE_DOCUMENTS,
    IMPORTED_FILES,
    SIGNATURES,
    PAIRS,
    NEAR_DUPLICATES,
    BENCHMARK_EXAMPLES,
    CORPUS_SAMPLE,
    SAMPLE_EMBEDDINGS,
    BENCHMARK_EMBEDDINGS,
    SAMPLE_RANKS,
    SAMPLE_RELEVANCE,
    SAMPLE_LABELS,
    CLASSIFIERS,
    CORPUS_SCORES,
    CONTAMINATION_HITS,
    DECONTAMINATED_CHUNKS,
    CONTAMINATED_DOCUMENTS,
    SELECTIONS,
    SELECTION_RUNS,
    COVERAGE,
    DRIFT,
    STAGE_RUNS,
)
