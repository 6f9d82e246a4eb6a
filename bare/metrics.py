"""How diverse rows are, how near to real data, and how sure that is: every measure with its interval.

A measure is taken on a sample of fixed size, drawn by hash of the id, because nearly all of them move with the number
of rows. Two kinds of interval, both at 95% and both from hashed draws, so that they come out the same again:

- means, shares and the mean cosine: percentiles of a bootstrap, where a row weighs as often as it was drawn; a row
  drawn twice makes no pair with itself;
- measures of a *set* (distinct n-grams, Vendi score, self-BLEU, compression, coverage), which a row drawn twice would
  bias: percentiles over random halves without replacement, whose spread is that of the whole sample's measure, moved to
  stand around the value.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bare.draws import Indices, half_samples, hash64, resampled_counts, sample_by_hash
from curation.errors import InputError
from curation.overlap import Words, nearest

Floats = npt.NDArray[np.float64]

LEVEL = 0.95
REPLICATES = 400  # of a bootstrap in closed form
HALVES = 60  # of a measure that is computed anew for each
SAMPLE = 1_000  # rows that measures are taken on
SELF_BLEU_SAMPLE = 500  # of these, for the dearest of them
EXACT_ROWS = 4_096  # up to here every pair is looked at: 8 million; beyond, those of a hashed sample of so many rows
HISTOGRAM_BINS = 40  # of cosines from -1 to 1
_CELLS = 1 << 22


@dataclass(frozen=True)
class Measure:
    """A figure, its 95% interval, and the rows it rests on; without enough rows value, low and high are None."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def __post_init__(self) -> None:
        there = [x is not None for x in (self.value, self.low, self.high)]
        if any(there) != all(there):
            raise InputError(f"measure {self.name}: value and interval are there or absent together; got {self}")
        if self.value is None or self.low is None or self.high is None:
            return
        if not self.low <= self.value <= self.high:
            raise InputError(f"measure {self.name}: the interval must hold the value; got {self}")


@dataclass(frozen=True)
class CosineDistribution:
    """Cosines over all pairs of rows: their 95th percentile and histogram over HISTOGRAM_BINS equal bins of [-1, 1].

    sampled: the pairs are those of a hashed sample of EXACT_ROWS rows.
    """

    p95: float
    counts: tuple[int, ...]
    pairs: int
    sampled: bool


def fixed_sample(ids: Sequence[str], *, size: int = SAMPLE, seed: int = 0) -> Indices:
    """Positions of the rows that measures are taken on, in the order of their hash: the same for any order of input."""
    return sample_by_hash(ids, size, seed=seed)


def unit(vectors: npt.ArrayLike) -> Floats:
    """Vectors at length 1; InputError for one that has no direction or isn't finite."""
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2:
        raise InputError(f"vectors must be a table, a row each; got shape {x.shape}")
    norms = np.linalg.norm(x, axis=1)
    wrong = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(wrong):
        raise InputError(
            f"vector {wrong[0]} of {len(x)} is zero or not finite, so it has no cosine; embed its text again"
        )
    return x / norms[:, None]


# -- cosines -----------------------------------------------------------------------------------------------------------


def mean_pairwise_cosine(vectors: npt.ArrayLike) -> float | None:
    """Mean over all pairs i < j in linear time: (||sum x||^2 - n) / (n (n - 1)) for unit vectors; None below 2 rows."""
    x = unit(vectors)
    n = len(x)
    return None if n < 2 else float((np.square(x.sum(axis=0)).sum() - n) / (n * (n - 1)))


def mean_cosine(vectors: npt.ArrayLike, *, seed: int = 0, name: str = "mean_cosine") -> Measure:
    """Mean pairwise cosine; the bootstrap is in closed form, pairs of a row with itself left out."""
    x = unit(vectors)
    if len(x) < 3:
        return _absent(name, len(x))
    drawn = _weighted_mean_cosines(x, resampled_counts(len(x), REPLICATES, seed=seed))
    return _measure(name, mean_pairwise_cosine(x), drawn, len(x), (-1.0, 1.0))


def _weighted_mean_cosines(x: Floats, counts: Indices) -> Floats:
    """Mean over pairs of distinct rows, a pair weighing the product of its rows' counts, for each replicate."""
    weights = counts.astype(float)
    n, squares = weights.sum(axis=1), np.square(weights).sum(axis=1)
    sums = np.square(weights @ x).sum(axis=1)
    pairs = n**2 - squares
    return np.divide(sums - squares, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


def mean_cosine_within(
    vectors: npt.ArrayLike, labels: Sequence[str], *, seed: int = 0, name: str = "mean_cosine_within"
) -> Measure:
    """Mean of the classes' mean pairwise cosines, each class with 3 rows or more weighing the same."""
    x, of = unit(vectors), np.array(labels, dtype=object)
    values, drawn = [], []
    for label in sorted(set(labels)):
        mine = x[of == label]
        if len(mine) >= 3:
            values.append(mean_pairwise_cosine(mine))
            counts = resampled_counts(len(mine), REPLICATES, seed=hash64("class", seed, label) >> 1)
            drawn.append(_weighted_mean_cosines(mine, counts))
    if not values:
        return _absent(name, len(x))
    return _measure(
        name, float(np.mean([v for v in values if v is not None])), np.mean(drawn, axis=0), len(x), (-1.0, 1.0)
    )


def cosine_distribution(vectors: npt.ArrayLike, ids: Sequence[str], *, seed: int = 0) -> CosineDistribution | None:
    """Percentile and histogram over all pairs up to EXACT_ROWS rows, beyond over a hashed sample of so many."""
    x = unit(vectors)
    sampled = len(x) > EXACT_ROWS
    if sampled:
        x = x[sample_by_hash(ids, EXACT_ROWS, seed=seed)]
    if len(x) < 2:
        return None
    cosines = pairwise_cosines(x)
    counts = np.histogram(np.clip(cosines, -1, 1), bins=HISTOGRAM_BINS, range=(-1, 1))[0]
    return CosineDistribution(float(np.quantile(cosines, 0.95)), tuple(counts.tolist()), len(cosines), sampled)


def pairwise_cosines(x: Floats) -> Floats:
    """Cosines of all pairs i < j of unit vectors, by blocks of matrix products."""
    n = len(x)
    out = np.empty(n * (n - 1) // 2)
    block, filled = max(1, _CELLS // max(1, n)), 0
    for start in range(0, n, block):
        cosines = x[start : start + block] @ x[start:].T
        rows = np.arange(len(cosines))
        above = np.arange(n - start)[None, :] > rows[:, None]
        part = cosines[above]
        out[filled : filled + len(part)] = part
        filled += len(part)
    return out


def p95_cosine(vectors: npt.ArrayLike, *, seed: int = 0, name: str = "p95_cosine") -> Measure:
    """95th percentile of the cosines over all pairs of the sample."""
    x = unit(vectors)
    return _of_set(name, lambda rows: float(np.quantile(pairwise_cosines(x[rows]), 0.95)), len(x), seed, (-1.0, 1.0))


def vendi_score(vectors: npt.ArrayLike) -> float | None:
    """Effective number of different rows: exp of the entropy of K/n's eigenvalues, K the cosines of all pairs.

    The d x d matrix of the same eigenvalues is taken where it is the smaller one. From 1 (all the same) to n (all
    orthogonal).
    """
    x = unit(vectors)
    if not len(x):
        return None
    gram = x.T @ x if x.shape[1] < len(x) else x @ x.T
    values = np.linalg.eigvalsh(gram / len(x))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def vendi(vectors: npt.ArrayLike, *, seed: int = 0, name: str = "vendi") -> Measure:
    """The Vendi score of the sample."""
    x = unit(vectors)
    return _of_set(name, lambda rows: vendi_score(x[rows]), len(x), seed, (1.0, float(max(1, len(x)))))


# -- words -------------------------------------------------------------------------------------------------------------


def distinct(texts: Sequence[str], n: int, *, seed: int = 0) -> Measure:
    """Different n-grams of words as a share of all n-grams (texts shorter than n words have none)."""
    grams, owners = Words.of(texts).ngrams(n, whole_if_shorter=False)
    codes = np.unique(grams, return_inverse=True)[1]

    def share(rows: Indices) -> float | None:
        inside = np.zeros(len(texts), bool)
        inside[rows] = True
        mine = codes[inside[owners]]
        return np.count_nonzero(np.bincount(mine)) / len(mine) if len(mine) else None

    return _of_set(f"distinct_{n}", share, len(texts), seed, (0.0, 1.0))


def self_bleu(texts: Sequence[str], *, seed: int = 0, name: str = "self_bleu") -> Measure:
    """Mean BLEU-4 of each text against all others of the sample as references: high where texts repeat each other."""
    counted = _Counted.of(texts)
    return _of_set(name, lambda rows: counted.mean_bleu(rows), len(texts), seed, (0.0, 1.0))


_SMALLEST = 0.1  # what an order without any match counts for (Chen and Cherry's first smoothing)


@dataclass(frozen=True)
class _Counted:
    """Each text's n-grams with their counts for n from 1 to 4: (grams, owners, counts) for each order."""

    orders: tuple[tuple[npt.NDArray[np.uint64], Indices, Indices], ...]
    lengths: Indices

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Counted:
        read = Words.of(texts)
        orders = []
        for n in (1, 2, 3, 4):
            grams, owners = read.ngrams(n, whole_if_shorter=False)
            codes = np.unique(grams, return_inverse=True)[1].astype(np.int64)
            keys, counts = np.unique(codes * len(texts) + owners, return_counts=True)
            orders.append((keys // len(texts), keys % len(texts), counts))
        return cls(tuple(orders), read.lengths)  # type: ignore[arg-type]

    def mean_bleu(self, rows: Indices) -> float | None:
        """Linear in n-grams: for each, the highest and second highest count of any text serve every other text.

        Geometric mean of the clipped precisions of n = 1 to 4, the smoothing above, brevity penalty by the nearest
        reference length (of two, the shorter). Texts without words count 0.
        """
        if len(rows) < 2:
            return None
        place = np.full(len(self.lengths), -1, np.int64)
        place[rows] = np.arange(len(rows))
        lengths = self.lengths[rows].astype(float)
        logs = np.zeros(len(rows))
        for n, (grams, owners, counts) in enumerate(self.orders, start=1):
            mine = place[owners] >= 0
            gram, owner, count = grams[mine], place[owners[mine]], counts[mine]
            # Ascending by gram, then by count: a gram's last entry is its highest count, the one before the second.
            order = np.lexsort((count, gram))
            gram, owner, count = gram[order], owner[order], count[order]
            last = np.searchsorted(gram, gram, "right") - 1
            first = np.searchsorted(gram, gram, "left")
            at = np.arange(len(gram))
            other = np.where(at == last, last - 1, last)
            elsewhere = np.where(other >= first, count[np.maximum(other, 0)], 0)
            matches = np.bincount(owner, np.minimum(count, elsewhere), minlength=len(rows))
            total = np.maximum(lengths - n + 1, 1)
            logs += np.log(np.where(matches > 0, matches, _SMALLEST) / total) / 4
        return float(np.where(lengths > 0, _brevity(lengths) * np.exp(logs), 0.0).mean())


def _brevity(lengths: Floats) -> Floats:
    """Each text's penalty, by the length nearest to its own among the others (of two, the shorter)."""
    ordered = np.sort(lengths)
    left, right = np.searchsorted(ordered, lengths, "left"), np.searchsorted(ordered, lengths, "right")
    below = np.where(left > 0, ordered[np.maximum(left - 1, 0)], -np.inf)
    above = np.where(right < len(ordered), ordered[np.minimum(right, len(ordered) - 1)], np.inf)
    reference = np.where(lengths - below <= above - lengths, below, above)
    reference = np.where(right - left > 1, lengths, reference)  # another text is as long
    return np.exp(np.minimum(0.0, 1 - reference / np.maximum(lengths, 1)))


def compression_ratio(texts: Sequence[str]) -> float | None:
    """Bytes before / after zlib: high where texts repeat each other. Texts lie by hash, so their order is nothing."""
    encoded = sorted((t.encode("utf-8", "surrogatepass") for t in texts), key=lambda b: (hashlib.sha256(b).digest(), b))
    joined = b"\n".join(encoded)
    return len(joined) / len(zlib.compress(joined, 6)) if joined else None


def compression(texts: Sequence[str], *, seed: int = 0, name: str = "compression") -> Measure:
    """The compression ratio of the sample."""
    return _of_set(name, lambda rows: compression_ratio([texts[i] for i in rows]), len(texts), seed, (0.0, np.inf))


# -- against real data -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clusters:
    """Clusters of held-out real data: unit centres, real rows in each, and which of them make the tail.

    The tail: the smallest clusters, by rising size, as long as they hold at most a fifth of the real rows together (one
    at least).
    """

    centres: Floats
    sizes: Indices
    tail: npt.NDArray[np.bool_]

    def assign(self, vectors: npt.ArrayLike) -> Indices:
        """Each row's cluster: the centre with the highest cosine, of equals the first."""
        return nearest(unit(vectors), self.centres).other


def fit_clusters(vectors: npt.ArrayLike, ids: Sequence[str], *, clusters: int | None = None, seed: int = 0) -> Clusters:
    """Spherical k-means of real vectors: about the root of their number of clusters, 64 at most.

    Deterministic and the same for any order of rows: they are put in the order of their hash; the first is the first
    centre, each further one is the row farthest from all centres so far (so that the tail gets clusters of its own,
    which a random start would miss); at most 50 rounds; a cluster that runs empty keeps its centre.
    """
    x = unit(vectors)
    if not len(x):
        raise InputError("clusters: there are no real rows; give some that are held out from the seeds")
    x = x[sample_by_hash(ids, len(x), seed=seed)]
    k = min(len(x), clusters if clusters is not None else min(64, max(2, round(len(x) ** 0.5))))
    if k < 1:
        raise InputError(f"clusters: there must be at least 1; got {clusters!r}")
    chosen, best = [0], x @ x[0]
    while len(chosen) < k:
        farthest = int(np.argmin(np.round(best, 9)))
        chosen.append(farthest)
        best = np.maximum(best, x @ x[farthest])
    centres = x[chosen]
    assigned = np.full(len(x), -1)
    for _ in range(50):
        now = nearest(x, centres).other
        if np.array_equal(now, assigned):
            break
        assigned = now
        sums = np.zeros_like(centres)
        np.add.at(sums, assigned, x)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 1e-12, sums / np.maximum(norms, 1e-12), centres)
    sizes = np.bincount(nearest(x, centres).other, minlength=k)
    order = np.argsort(sizes, kind="stable")
    in_tail = np.cumsum(sizes[order]) <= len(x) / 5
    in_tail[0] = True
    tail = np.zeros(k, bool)
    tail[order[in_tail]] = True
    return Clusters(centres, sizes, tail)


def coverage(clusters: Clusters, vectors: npt.ArrayLike, *, seed: int = 0, name: str = "coverage") -> Measure:
    """Share of the real data's clusters that hold at least one row of the sample."""
    of = clusters.assign(vectors)
    total = int((clusters.sizes > 0).sum())

    def share(rows: Indices) -> float:
        return len(np.unique(of[rows][clusters.sizes[of[rows]] > 0])) / total

    return _of_set(name, share, len(of), seed, (0.0, 1.0))


def tail_mass(clusters: Clusters, vectors: npt.ArrayLike, *, seed: int = 0, name: str = "tail_mass") -> Measure:
    """Share of rows in the real data's tail clusters: near a fifth in real data, less where rare things are lost."""
    return mean_of(name, clusters.tail[clusters.assign(vectors)], seed=seed, bounds=(0.0, 1.0))


def seed_copies(
    vectors: npt.ArrayLike, seeds: npt.ArrayLike, *, threshold: float = 0.95, seed: int = 0, name: str = "seed_copies"
) -> Measure:
    """Share of rows whose nearest seed has a cosine of at least `threshold`."""
    return mean_of(name, nearest(unit(vectors), unit(seeds)).share >= threshold, seed=seed, bounds=(0.0, 1.0))


def draft_to_refined(
    drafts: npt.ArrayLike, refined: npt.ArrayLike, *, seed: int = 0, name: str = "draft_to_refined"
) -> Measure:
    """Mean cosine between each draft and its refinement: 1 where nothing changes, low where the theme is lost."""
    x, y = unit(drafts), unit(refined)
    if x.shape != y.shape:
        raise InputError(f"draft_to_refined: each draft needs its refinement; got shapes {x.shape} and {y.shape}")
    return mean_of(name, (x * y).sum(axis=1), seed=seed, bounds=(-1.0, 1.0))


def measure_rows(
    ids: Sequence[str],
    texts: Sequence[str],
    vectors: npt.ArrayLike,
    *,
    labels: Sequence[str] | None = None,
    wanted: Mapping[str, float] | None = None,
    drafts: npt.ArrayLike | None = None,
    seeds: npt.ArrayLike | None = None,
    clusters: Clusters | None = None,
    size: int = SAMPLE,
    seed: int = 0,
) -> tuple[Measure, ...]:
    """Every measure of these rows that the given data allows, on one fixed sample; the order of input changes none.

    labels, wanted shares: cosine within classes, distance of the labels. drafts: the rows' drafts' vectors.
    seeds: the seeds' vectors. clusters: of held-out real data.
    """
    x = np.asarray(vectors, np.float64)
    for what, given in (("texts", texts), ("vectors", x), ("labels", labels), ("drafts", drafts)):
        if given is not None and len(given) != len(ids):  # type: ignore[arg-type]
            raise InputError(f"measures: {len(ids)} rows need as many {what}; got {len(given)}")  # type: ignore[arg-type]
    rows = fixed_sample(ids, size=size, seed=seed)
    words, mine = [texts[i] for i in rows], x[rows]
    found = [
        mean_cosine(mine, seed=seed), p95_cosine(mine, seed=seed), vendi(mine, seed=seed),
        *(distinct(words, n, seed=seed) for n in (1, 2, 3)),
        self_bleu(words[:SELF_BLEU_SAMPLE], seed=seed), compression(words, seed=seed),
    ]  # fmt: skip
    if clusters is not None:
        found += [coverage(clusters, mine, seed=seed), tail_mass(clusters, mine, seed=seed)]
    if seeds is not None:
        found.append(seed_copies(mine, seeds, seed=seed))
    if labels is not None:
        of = [labels[i] for i in rows]
        found.append(mean_cosine_within(mine, of, seed=seed))
        if wanted is not None:
            found.append(label_distance(of, wanted, seed=seed))
    if drafts is not None:
        found.append(draft_to_refined(np.asarray(drafts, np.float64)[rows], mine, seed=seed))
    return tuple(found)


# -- labels and rates --------------------------------------------------------------------------------------------------


def label_histogram(labels: Sequence[str], choices: Sequence[str]) -> dict[str, float]:
    """Each choice's share of the rows, in the order of the choices."""
    if not labels:
        return dict.fromkeys(choices, 0.0)
    return {choice: sum(label == choice for label in labels) / len(labels) for choice in choices}


def label_distance(
    labels: Sequence[str], wanted: Mapping[str, float], *, seed: int = 0, name: str = "label_distance"
) -> Measure:
    """Total variation between the labels' shares and the wanted ones: 0 (the same) to 1 (nothing in common)."""
    choices = list(wanted)
    unknown = sorted(set(labels) - set(choices))
    if unknown:
        raise InputError(f"label_distance: the label {unknown[0]!r} is none of the wanted ones, {', '.join(choices)}")
    hot = np.array([[label == choice for choice in choices] for label in labels], float).reshape(-1, len(choices))
    target = np.array([float(share) for share in wanted.values()])

    def distance(rows: Indices) -> float:
        return float(np.abs(hot[rows].mean(axis=0) - target).sum() / 2)

    return _of_set(name, distance, len(labels), seed, (0.0, 1.0))


def rate(name: str, reasons: Sequence[str | None], counted: Sequence[str], *, seed: int = 0) -> Measure:
    """Share of rows rejected for one of the `counted` reasons: parse failures, truncation."""
    return mean_of(name, np.array([r in counted for r in reasons], bool), seed=seed, bounds=(0.0, 1.0))


def mean_of(
    name: str, values: npt.ArrayLike, *, seed: int = 0, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Measure:
    """Mean of one number a row, with its bootstrap interval; for a share of 0 or 1, by the rule of three.

    A bootstrap of rows that all agree has no spread, yet n rows of one kind leave room for 3/n of another.
    """
    x = np.asarray(values, np.float64)
    if not len(x):
        return _absent(name, 0)
    drawn = resampled_counts(len(x), REPLICATES, seed=seed) @ x / len(x)
    measure = _measure(name, float(x.mean()), drawn, len(x), bounds)
    if bounds == (0.0, 1.0) and measure.value in (0.0, 1.0):
        room = min(1.0, 3 / len(x))
        return Measure(name, measure.value, 1 - room if measure.value else 0.0, 1.0 if measure.value else room, len(x))
    return measure


# -- intervals ---------------------------------------------------------------------------------------------------------


def _of_set(
    name: str, statistic: Callable[[Indices], float | None], n: int, seed: int, bounds: tuple[float, float]
) -> Measure:
    """A set's measure: the interval is that of random halves, moved to stand around the value.

    A half without replacement varies by (1 - 1/2) / (n/2) = 1/n of a row's variance: as the whole sample does.
    """
    value = statistic(np.arange(n)) if n >= 4 else None
    if value is None:
        return _absent(name, n)
    found = [statistic(rows) for rows in half_samples(n, HALVES, seed=seed)]
    drawn = np.array([f for f in found if f is not None], float)
    return _measure(name, value, drawn - drawn.mean() + value if len(drawn) else drawn, n, bounds)


def _measure(name: str, value: float | None, drawn: Floats, n: int, bounds: tuple[float, float]) -> Measure:
    drawn = drawn[np.isfinite(drawn)]
    if value is None or not len(drawn):
        return _absent(name, n)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = min(max(value, bounds[0]), bounds[1])  # rounding may step over a bound
    low, high = max(bounds[0], min(float(low), value)), min(bounds[1], max(float(high), value))
    return Measure(name, float(value), float(low), float(high), n)


def _absent(name: str, n: int) -> Measure:
    return Measure(name, None, None, None, n)
