"""DSIR's weights against the paper's formula, word by word."""

import hashlib
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.errors import InputError
from curation.hashing import mix
from curation.overlap import Words
from evaluation.dsir import SMOOTHING, ImportanceWeights, add_counts

BUCKETS = 97
TEXTS = ["Plants make sugar from light.", "light, light; LIGHT", "", "Straße 7 — naïve café", "one"]
texts = st.lists(st.text("abc de,.É7ß\u0301", max_size=40), max_size=6)


def plain_bag(text: str, buckets: int = BUCKETS) -> Counter[int]:
    """The buckets of a text's words and of its pairs of neighbours, one by one."""
    hashes = [np.uint64(each) for each in Words.of([text]).hashes]
    bag = Counter(int(each % np.uint64(buckets)) for each in hashes)
    for one, other in pairwise(hashes):
        with np.errstate(over="ignore"):
            pair = mix(mix(np.array([one])) + other)[0]
        bag[int(pair % np.uint64(buckets))] += 1
    return bag


def plain_weight(text: str, target: list[str], raw: list[str]) -> float:
    """log of the product over the bag of p(bucket | target) / p(bucket | raw), smoothed as the paper's code does."""
    bags = [sum((plain_bag(each) for each in side), Counter()) for side in (target, raw)]
    p, q = ([bag[b] / bag.total() + SMOOTHING for b in range(BUCKETS)] for bag in bags)
    return math.fsum(n * (math.log(p[b]) - math.log(q[b])) for b, n in plain_bag(text).items())


def counts_of(side: list[str]) -> np.ndarray:
    counts = np.zeros(BUCKETS, np.int64)
    add_counts(pa.array(side, pa.string()), counts)
    return counts


@settings(deadline=None, max_examples=50)
@given(texts)
def test_buckets_are_counted_as_one_by_one(side: list[str]) -> None:
    bag = sum((plain_bag(text) for text in side), Counter())
    assert counts_of(side).tolist() == [bag[b] for b in range(BUCKETS)]


@settings(deadline=None, max_examples=50)
@given(texts)
def test_a_log_weight_is_the_sum_of_log_ratios_over_the_bag(scored: list[str]) -> None:
    target, raw = TEXTS[:2], TEXTS
    weights = ImportanceWeights.fit(counts_of(target), counts_of(raw))
    found = weights.score_array(pa.array(scored, pa.string())).to_pylist()
    assert found == pytest.approx([plain_weight(text, target, raw) for text in scored], abs=1e-9)


def test_no_batch_changes_a_bit_and_a_null_stays_null() -> None:
    weights = ImportanceWeights.fit(counts_of(TEXTS[:1]), counts_of(TEXTS))
    whole = weights.score_array(pa.array([*TEXTS, None] * 3)).to_pylist()
    assert whole == [weights.score_array(pa.array([text], pa.string()))[0].as_py() for text in [*TEXTS, None] * 3]
    assert whole[TEXTS.index("")] == 0 and whole[-1] is None


def test_counts_of_parts_add_up() -> None:
    counts = counts_of(TEXTS[:2])
    add_counts(pa.array(TEXTS[2:]), counts)
    assert counts.tolist() == counts_of(TEXTS).tolist()


def test_equal_distributions_weigh_nothing_and_targets_weigh_more() -> None:
    same = ImportanceWeights.fit(counts_of(TEXTS), 3 * counts_of(TEXTS))
    assert same.score_array(pa.array(TEXTS)).to_pylist() == pytest.approx([0.0] * len(TEXTS))
    towards = ImportanceWeights.fit(counts_of(TEXTS[:1]), counts_of(TEXTS)).score_array(pa.array(TEXTS)).to_pylist()
    assert towards[0] > 0 > towards[3]


def test_pairs_depend_on_their_order() -> None:
    one, other = plain_bag("red green"), plain_bag("green red")
    assert one != other and counts_of(["red green"]).tolist() != counts_of(["green red"]).tolist()


def test_a_file_gives_the_same_weights_and_an_altered_one_is_refused(tmp_path: Path) -> None:
    weights = ImportanceWeights.fit(counts_of(TEXTS[:1]), counts_of(TEXTS))
    path = tmp_path / "folder" / "weights.safetensors"
    sha256 = weights.save(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert ImportanceWeights.load(path, sha256).log_ratio.tolist() == weights.log_ratio.tolist()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="cut short or altered"):
        ImportanceWeights.load(path, sha256)
    with pytest.raises(InputError, match="can't be read"):
        ImportanceWeights.load(tmp_path / "gone", sha256)


def test_a_side_without_words_is_refused() -> None:
    with pytest.raises(InputError, match="the target texts hold none"):
        ImportanceWeights.fit(counts_of([""]), counts_of(TEXTS))
