"""Measures against slow, obvious references, their laws, and intervals that hold what they should."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bare import metrics
from bare.draws import resampled_counts
from bare.metrics import Measure
from curation.errors import InputError
from curation.overlap import words


def points(count: int, dimension: int = 5, *, seed: int = 0, spread: float = 1.0) -> np.ndarray:
    """Unit vectors around one direction: the smaller the spread, the nearer."""
    x = np.random.default_rng(seed).normal(size=(count, dimension)) * spread
    x[:, 0] += 1
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosines_by_pairs(x: np.ndarray) -> list[float]:
    return [float(x[i] @ x[j]) for i in range(len(x)) for j in range(i + 1, len(x))]


def texts_of(count: int, vocabulary: int, *, seed: int = 0, length: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(vocabulary)}" for _ in range(rng.randint(length // 2, length))) for _ in range(count)]


# -- cosines -----------------------------------------------------------------------------------------------------------


def test_mean_cosine_by_the_linear_formula_is_that_of_all_pairs() -> None:
    x = points(60)
    assert metrics.mean_pairwise_cosine(x * 7) == pytest.approx(np.mean(cosines_by_pairs(x)), abs=1e-12)
    assert metrics.mean_pairwise_cosine(x[:1]) is None


def test_the_bootstraps_closed_form_is_that_of_pairs_of_distinct_rows() -> None:
    x, counts = points(9), resampled_counts(9, 20, seed=1)
    for row, value in zip(counts, metrics._weighted_mean_cosines(x, counts), strict=True):
        drawn = [i for i, times in enumerate(row) for _ in range(times)]
        pairs = [float(x[i] @ x[j]) for a, i in enumerate(drawn) for j in drawn[a + 1 :] if i != j]
        assert value == pytest.approx(np.mean(pairs), abs=1e-12)


def test_percentile_and_histogram_are_those_of_all_pairs() -> None:
    x = points(50)
    found = metrics.cosine_distribution(x, [str(i) for i in range(50)])
    pairs = cosines_by_pairs(x)
    assert found is not None and found.pairs == len(pairs) and not found.sampled
    assert found.p95 == pytest.approx(np.quantile(pairs, 0.95), abs=1e-12)
    assert list(found.counts) == np.histogram(pairs, bins=40, range=(-1, 1))[0].tolist()
    assert metrics.cosine_distribution(x[:1], ["a"]) is None


def test_beyond_the_exact_size_a_hashed_sample_stands_for_all_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = points(300), [f"d{i}" for i in range(300)]
    whole = metrics.cosine_distribution(x, ids)
    monkeypatch.setattr(metrics, "EXACT_ROWS", 150)
    monkeypatch.setattr(metrics, "_CELLS", 1_000)
    found = metrics.cosine_distribution(x, ids)
    assert whole is not None and found is not None
    assert found.sampled and found.pairs == 150 * 149 // 2 and sum(found.counts) == found.pairs
    assert found.p95 == pytest.approx(whole.p95, abs=0.05)
    other_way = metrics.cosine_distribution(x[::-1], ids[::-1])
    assert other_way is not None and other_way.counts == found.counts


def test_vendi_score_counts_what_is_different() -> None:
    assert metrics.vendi_score(np.eye(6)) == pytest.approx(6)
    assert metrics.vendi_score(np.repeat(np.eye(3), 4, axis=0)) == pytest.approx(3)
    assert metrics.vendi_score(np.ones((5, 2))) == pytest.approx(1)
    for count, dimension in ((8, 20), (20, 8)):  # either Gram matrix
        x = points(count, dimension)
        values = np.linalg.eigvals(x @ x.T / count).real
        expected = math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))
        assert metrics.vendi_score(x) == pytest.approx(expected, rel=1e-9)


def test_mean_cosine_within_classes_is_the_mean_of_the_classes_means() -> None:
    x = np.concatenate([points(10, seed=1, spread=0.1), points(20, seed=2)])
    labels = ["near"] * 10 + ["wide"] * 18 + ["few"] * 2
    found = metrics.mean_cosine_within(x, labels)
    expected = np.mean([np.mean(cosines_by_pairs(x[:10])), np.mean(cosines_by_pairs(x[10:28]))])
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert metrics.mean_cosine_within(x[:2], ["a", "b"]).value is None


def test_a_vector_without_a_direction_is_refused() -> None:
    for wrong in ([[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [math.nan, 1.0]]):
        with pytest.raises(InputError, match="vector 1 of 2 is zero or not finite"):
            metrics.mean_cosine(wrong)


# -- words -------------------------------------------------------------------------------------------------------------


def bleu_by_loops(texts: Sequence[str]) -> float:
    """The reference: each text against all others, n-gram by n-gram."""
    tokens = [words(t) for t in texts]

    def grams(w: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1))

    scores = []
    for i, mine in enumerate(tokens):
        others = tokens[:i] + tokens[i + 1 :]
        if not mine:
            scores.append(0.0)
            continue
        logs = 0.0
        for n in (1, 2, 3, 4):
            matches = sum(min(c, max(grams(o, n)[g] for o in others)) for g, c in grams(mine, n).items())
            logs += math.log((matches or 0.1) / max(1, len(mine) - n + 1)) / 4
        reference = min((len(o) for o in others), key=lambda length: (abs(length - len(mine)), length))
        scores.append((1.0 if len(mine) >= reference else math.exp(1 - reference / len(mine))) * math.exp(logs))
    return sum(scores) / len(scores)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8).map(" ".join), min_size=4, max_size=7))
@settings(max_examples=60, deadline=None)
def test_self_bleu_is_that_of_all_pairs(texts: list[str]) -> None:
    assert metrics.self_bleu(texts).value == pytest.approx(bleu_by_loops(texts), abs=1e-12)


def test_self_bleu_of_halves_sees_their_texts_alone() -> None:
    texts = texts_of(20, 30)
    rows = np.array([1, 4, 5, 9, 13])
    assert metrics._Counted.of(texts).mean_bleu(rows) == pytest.approx(bleu_by_loops([texts[i] for i in rows]), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_is_different_ngrams_by_all(n: int) -> None:
    texts = [*texts_of(30, 12), "", "one"]
    grams = [tuple(w[i : i + n]) for t in texts for w in [words(t)] for i in range(len(w) - n + 1)]
    assert metrics.distinct(texts, n).value == pytest.approx(len(set(grams)) / len(grams))
    assert metrics.distinct(["", "", "", ""], n).value is None


def test_compression_knows_no_order_and_sees_repetition() -> None:
    texts = texts_of(200, 50)
    ratio = metrics.compression_ratio(texts)
    assert ratio == metrics.compression_ratio(texts[::-1]) and ratio is not None
    size = sum(len(t) for t in texts) + 199
    assert size / len(zlib.compress("\n".join(texts).encode(), 6)) == pytest.approx(ratio, rel=0.05)
    repeated = metrics.compression_ratio(texts[:20] * 10)
    assert repeated is not None and repeated > 1.5 * ratio
    assert metrics.compression_ratio([]) is None


# -- against real data -------------------------------------------------------------------------------------------------


def three_themes(counts: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.eye(4)[[theme] * count] for theme, count in enumerate(counts)])
    x = x + rng.normal(size=x.shape) * 0.05
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_clusters_are_the_themes_and_the_rarest_is_the_tail() -> None:
    x = three_themes((60, 50, 8))
    ids = [f"d{i}" for i in range(len(x))]
    clusters = metrics.fit_clusters(x, ids, clusters=3)
    assert sorted(clusters.sizes.tolist()) == [8, 50, 60]
    assert clusters.sizes[clusters.tail].tolist() == [8]
    of = clusters.assign(x)
    assert [len(set(of[s])) for s in (slice(0, 60), slice(60, 110), slice(110, 118))] == [1, 1, 1]
    shuffled = np.random.default_rng(1).permutation(len(x))
    again = metrics.fit_clusters(x[shuffled], [ids[i] for i in shuffled], clusters=3)
    assert np.allclose(again.centres, clusters.centres) and np.array_equal(again.sizes, clusters.sizes)


def test_lost_tails_show_in_coverage_and_tail_mass() -> None:
    real = three_themes((60, 50, 8))
    clusters = metrics.fit_clusters(real, [f"d{i}" for i in range(118)], clusters=3)
    faithful, collapsed = three_themes((30, 25, 4), seed=1), three_themes((59, 0, 0), seed=2)
    assert metrics.coverage(clusters, faithful).value == 1
    assert metrics.tail_mass(clusters, faithful).value == pytest.approx(4 / 59)
    assert metrics.coverage(clusters, collapsed).value == pytest.approx(1 / 3)
    lost = metrics.tail_mass(clusters, collapsed)
    assert (lost.value, lost.low) == (0, 0) and lost.high == pytest.approx(3 / 59)


def test_as_many_clusters_as_rows_are_the_rows() -> None:
    x = points(5)
    assert metrics.fit_clusters(x, list("abcde"), clusters=9).sizes.tolist() == [1] * 5
    with pytest.raises(InputError, match="there are no real rows"):
        metrics.fit_clusters(np.empty((0, 3)), [])
    with pytest.raises(InputError, match="clusters: there must be at least 1; got 0"):
        metrics.fit_clusters(x, list("abcde"), clusters=0)


def test_copies_of_seeds_and_changes_of_drafts_are_row_by_row() -> None:
    x, y = points(30, seed=1), points(30, seed=2)
    seeds = np.concatenate([x[:6], y[:3]])
    copied = [max(float(row @ s) for s in seeds) >= 0.95 for row in x]
    assert metrics.seed_copies(x, seeds).value == pytest.approx(np.mean(copied))
    assert metrics.draft_to_refined(x, y).value == pytest.approx(np.mean([float(a @ b) for a, b in zip(x, y, strict=True)]))
    with pytest.raises(InputError, match="each draft needs its refinement"):
        metrics.draft_to_refined(x, y[:5])


# -- labels and rates --------------------------------------------------------------------------------------------------


def test_labels_and_rates_are_shares() -> None:
    labels = ["yes"] * 6 + ["no"] * 2
    assert metrics.label_histogram(labels, ["yes", "no", "maybe"]) == {"yes": 0.75, "no": 0.25, "maybe": 0.0}
    assert metrics.label_distance(labels, {"yes": 0.5, "no": 0.25, "maybe": 0.25}).value == pytest.approx(0.25)
    with pytest.raises(InputError, match="'perhaps' is none of the wanted ones"):
        metrics.label_distance(["perhaps"], {"yes": 1.0})
    reasons = ["not_parsed", None, "truncated", "field_missing", None]
    assert metrics.rate("parse_failures", reasons, ("not_parsed", "field_missing", "check_failed")).value == 0.4
    assert metrics.rate("truncation", [], ("truncated",)) == Measure("truncation", None, None, None, 0)


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_an_interval_of_95_percent_holds_the_truth_about_as_often() -> None:
    """200 samples of 80 rows from one law, whose figures a sample of 4,000 knows well (sets: at the same size of 80)."""
    many = points(4_000, seed=99)
    truth = metrics.mean_pairwise_cosine(many)
    held = held_p95 = held_mean = 0
    p95 = float(np.mean([np.quantile(metrics.pairwise_cosines(points(80, seed=s)), 0.95) for s in range(1000, 1100)]))
    for s in range(200):
        x = points(80, seed=s)
        one, mean = metrics.mean_cosine(x, seed=s), metrics.mean_of("m", x[:, 1], seed=s)
        assert truth is not None and one.low is not None and one.high is not None
        assert mean.low is not None and mean.high is not None
        held += one.low <= truth <= one.high
        held_mean += mean.low <= 0 <= mean.high
        if s < 60:
            other = metrics.p95_cosine(x, seed=s)
            assert other.low is not None and other.high is not None
            held_p95 += other.low <= p95 <= other.high
    assert 0.89 <= held / 200 <= 0.99
    assert 0.89 <= held_mean / 200 <= 0.99
    assert held_p95 / 60 >= 0.83


def test_intervals_are_the_same_again_and_narrow_with_more_rows() -> None:
    x = points(400)
    wide, narrow = metrics.mean_cosine(x[:50]), metrics.mean_cosine(x)
    assert narrow == metrics.mean_cosine(x)
    assert None not in (wide.high, wide.low, narrow.high, narrow.low)
    assert (wide.high or 0) - (wide.low or 0) > 2 * ((narrow.high or 0) - (narrow.low or 0))


def test_a_share_of_none_leaves_room_for_what_was_not_seen() -> None:
    assert metrics.rate("r", [None] * 60, ("truncated",)) == Measure("r", 0.0, 0.0, 0.05, 60)
    assert metrics.rate("r", ["truncated"] * 60, ("truncated",)) == Measure("r", 1.0, 0.95, 1.0, 60)


def test_too_few_rows_have_no_measure() -> None:
    for found in (metrics.mean_cosine(points(2)), metrics.vendi(points(3)), metrics.self_bleu(["a", "b"])):
        assert (found.value, found.low, found.high) == (None, None, None)


@pytest.mark.parametrize("wrong", [(None, 0.0, 1.0), (0.5, None, 1.0), (0.5, 0.6, 1.0), (0.5, 0.0, 0.4)])
def test_a_measure_and_its_interval_belong_together(wrong: tuple[float | None, float | None, float | None]) -> None:
    with pytest.raises(InputError, match="measure x"):
        Measure("x", *wrong, n=5)


def test_all_measures_of_some_rows_know_no_order() -> None:
    x, texts, ids = points(60), texts_of(60, 40), [f"d{i}" for i in range(60)]
    labels = ["yes" if i % 3 else "no" for i in range(60)]
    clusters = metrics.fit_clusters(points(40, seed=5), [str(i) for i in range(40)])

    def measured(order: Sequence[int]) -> tuple[Measure, ...]:
        pick = list(order)
        return metrics.measure_rows(
            [ids[i] for i in pick], [texts[i] for i in pick], x[pick], labels=[labels[i] for i in pick],
            wanted={"yes": 0.5, "no": 0.5}, drafts=points(60, seed=7)[pick], seeds=points(4, seed=8), clusters=clusters, size=50,
        )  # fmt: skip

    found = measured(range(60))
    assert found == measured(range(59, -1, -1))
    assert [m.name for m in found] == [
        "mean_cosine", "p95_cosine", "vendi", "distinct_1", "distinct_2", "distinct_3", "self_bleu", "compression", "coverage",
        "tail_mass", "seed_copies", "mean_cosine_within", "label_distance", "draft_to_refined",
    ]  # fmt: skip
    assert all(m.n == 50 and m.value is not None for m in found)
    with pytest.raises(InputError, match="60 rows need as many texts; got 59"):
        metrics.measure_rows(ids, texts[1:], x)


def test_collapsed_rows_are_worse_in_every_measure_and_beyond_its_interval() -> None:
    ids = [str(i) for i in range(150)]
    diverse = metrics.measure_rows(ids, texts_of(150, 500), points(150))
    collapsed = metrics.measure_rows(ids, texts_of(150, 20), points(150, spread=0.1))
    for one, other in zip(diverse, collapsed, strict=True):
        assert None not in (one.low, one.high, other.low, other.high)
        if one.name in ("vendi", "distinct_1", "distinct_2", "distinct_3"):
            assert (other.high or 0) < (one.low or 0)
        else:
            assert (other.low or 0) > (one.high or 0)
