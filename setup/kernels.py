"""`python setup/kernels.py`: compile every kernel once and keep it on disk, so that no later start waits for it.

numba compiles a kernel where it is first called; each process of a run would wait for its own. So each kernel is used
once here, on a few texts, with the types that the stages call it with. Nothing depends on it but time.
"""

import sys
from typing import Any

import numpy as np
import pyarrow as pa

from betr.classifier import TrainingConfig, feature_contributions, train_classifier
from betr.ranking import Examples, NearestDocuments, _every_similarity, _margin, _nearest_rows, _normalise
from curation.held_out import TestIndex
from curation.near_duplicates import NearDuplicateConfig, _compare_batches, _connect, sign_texts
from evaluation.dsir import ImportanceWeights, add_counts
from evaluation.scaling import fit_loss

# The last has an accent that belongs to the letter before it: such words are read by another kernel.
TEXTS = [f"Text {i} tells of rivers, of stones and of the sea; 川は海へ流れる {i}." for i in range(8)]
TEXTS.append("cafe\u0301 and tea")
KINDS: tuple[dict[str, Any], ...] = (
    {}, {"minn": 2, "maxn": 3}, {"segmenter": "unicode14"}, {"segmenter": "unicode14", "minn": 1, "maxn": 2}
)  # fmt: skip


def classify(texts: pa.Array) -> None:
    for kind in KINDS:
        config = TrainingConfig(dim=4, epochs=1, min_count=1, buckets=50, **kind)
        classifier, _ = train_classifier([(text, i % 2) for i, text in enumerate(TEXTS)], config)
        classifier.margins(texts, kernel="numba")
        feature_contributions(TEXTS[0], classifier)


def rank() -> None:
    rows, _ = _normalise(np.arange(1, 65, dtype=np.float32).reshape(8, 8) % 7)
    nearest = NearestDocuments(Examples(["a", "b"], rows[:2]), 2)
    nearest.add(pa.array([str(i) for i in range(8)]), rows)
    list(nearest.pairs())
    _every_similarity(rows[:2], rows)
    _nearest_rows(rows @ rows[:2].T, rows, rows[:2], _margin(8))


def find_copies(texts: pa.Array) -> None:
    config = NearDuplicateConfig()
    sign_texts(texts, config)
    pairs = {"one": ["a", "a"], "part": [0, 0], "doc_id": ["a", "b"], "text": TEXTS[:2]}
    list(_compare_batches(iter([pa.RecordBatch.from_pydict(pairs)]), ngram=config.ngram))
    list(_connect(iter([pa.RecordBatch.from_pydict({"one": ["a"], "other": ["b"]})])))
    TestIndex.of(TEXTS, shortest=3, longest=5).find(texts)


def evaluate(texts: pa.Array) -> None:
    counts = np.zeros(50, np.int64)
    add_counts(texts, counts)
    ImportanceWeights.fit(counts, counts).score_array(texts)
    sizes, tokens = (grid.ravel() for grid in np.meshgrid([1e6, 3e6, 1e7], [1e7, 4e7, 1e8]))
    fit_loss(sizes, tokens, 1 + 40 / sizes**0.3 + 90 / tokens**0.3, replicates=2)


def main() -> int:
    texts = pa.array(TEXTS, pa.large_string())
    classify(texts)
    rank()
    find_copies(texts)
    evaluate(texts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
