"""Near-duplicates: documents that share most of their word n-grams, found by MinHash, each pair verified, in clusters.

Two documents are near where the exact Jaccard similarity of their sets of word n-grams reaches the threshold; clusters
are what near pairs connect. Text is read twice, once for a signature and once where two documents met: all between are
ids and hashes. The clusters depend on the documents alone: not on partitions, nor on which of them were there first.

A signature is a row of band hashes. Documents that have one in common meet in its bucket; `recall` tells how many of
the near pairs meet. Not all that meet are compared, since a bucket may hold a million copies of one page:
- First each member is compared with its bucket's centre, the lowest id. Those that are near to it are of one cluster.
- Then each member that isn't (an open one) is compared with the others of the bucket.
So what meets in a bucket of up to SMALL members is decided exactly. In a larger one an open member is compared with
LEADERS linked ones, as many open ones, and NEIGHBOURS on either side of it by size: linear in the members. A near pair
that meets is lost only if in all buckets where it meets, all of them large, one of the two is open, and nothing else
connects them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, LongType, StructField, StructType

from curation.command import parse_numbers
from curation.compiled import jit, mixed
from curation.errors import InputError
from curation.hashing import GOLDEN, content_id, mix
from curation.overlap import Hashes, Indices
from curation.tables import Tables, TableSpec
from curation.word_hashes import hashed_words

SIGNATURES = TableSpec(
    "near_duplicate_signatures",
    key=("config_id", "doc_id"),
    schema="config_id string, chunk string, doc_id string, ngrams int, bands array<bigint>",
    partition_by=("config_id", "chunk"),
)
# Every pair that was ever compared: the next run compares none again.
PAIRS = TableSpec(
    "near_duplicate_pairs",
    key=("config_id", "one", "other"),
    schema="config_id string, one string, other string, similarity double",
    partition_by=("config_id",),
)
NEAR_DUPLICATES = TableSpec(
    "near_duplicates",
    key=("deduplication_id", "doc_id"),
    schema="deduplication_id string, cluster_id string, doc_id string, kept_doc_id string, similarity double, "
    "documents bigint",
    partition_by=("deduplication_id",),
)

# While pairs are looked for: who met whom, and who is to be compared. While they are connected: edges, in turns.
BUCKETS = TableSpec(
    "near_duplicate_buckets",
    key=("band", "doc_id"),
    schema="band bigint, doc_id string, ngrams int, centre string, centre_ngrams int, members bigint",
)
STARS = TableSpec("near_duplicate_stars", key=("one", "other"), schema="one string, other string, similarity double")
FURTHER = replace(STARS, name="near_duplicate_further")
EDGES = tuple(
    TableSpec(f"near_duplicate_edges_{turn}", key=("one", "other"), schema="one string, other string")
    for turn in range(2)
)
SCRATCH = (BUCKETS, STARS, FURTHER, *EDGES)

FOUND, BEYOND = 0.99, 0.05  # share of the pairs that meet, from so far beyond the threshold on
MOST_BANDS, MOST_ROWS = 64, 32  # together 2,048 minima: their 4,096 turns fill the twelve bits above a value's 52
SMALL = 50  # members of a bucket in which all that isn't decided by the centre is compared
LEADERS = 8  # in a larger one: linked members, and open ones, that each open member is compared with
NEIGHBOURS = 4  # and those next to it by size, on either side
GROUP = 4096  # documents that one task compares with the same one
ONE_TASK = 5_000_000  # edges that one task connects: some 60 bytes and two ids each

Minima = npt.NDArray[np.uint64]

# Writes the rows as the table and returns the table as it is read: SCRATCH as these rows alone, PAIRS with them added.
Store = Callable[[TableSpec, DataFrame], DataFrame]


@dataclass(frozen=True)
class NearDuplicateConfig:
    """Which documents are near-duplicates, and how surely their pairs are found.

    threshold: of the Jaccard similarity of their distinct n-grams. ngram: words in one. bands: hashes of 8 bytes that
    are kept of each document; more of them find more pairs at the same number of vain comparisons.
    """

    threshold: float = 0.8
    ngram: int = 5
    bands: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"--near threshold must be in (0, 1]; got {self.threshold!r}")
        if self.ngram < 1:
            raise InputError(f"--near ngram must be at least 1; got {self.ngram!r}")
        if not 1 <= self.bands <= MOST_BANDS:
            raise InputError(f"--near bands must be in 1..{MOST_BANDS}; got {self.bands!r}")
        if self.rows < 1:
            raise InputError(
                f"--near: {self.bands} bands can't find {FOUND:.0%} of the pairs at {self._sure:.3g}; "
                "give more bands, or a higher threshold"
            )

    @property
    def _sure(self) -> float:
        """The similarity from which on pairs are to meet: beyond the threshold, below 1 where that is."""
        return min(self.threshold + BEYOND, (1 + self.threshold) / 2)

    @property
    def rows(self) -> int:
        """Minima in a band: as many as still let FOUND of the pairs BEYOND the threshold meet. More: fewer in vain."""
        if self._sure == 1:
            return MOST_ROWS
        each_band = 1 - (1 - FOUND) ** (1 / self.bands)
        return min(MOST_ROWS, math.floor(math.log(each_band) / math.log(self._sure)))

    @property
    def config_id(self) -> str:
        return content_id("near-duplicates", asdict(self))

    def recall(self, similarity: float) -> float:
        """The share of pairs of this similarity that meet: an S-curve, FOUND or more at threshold + BEYOND."""
        return 1 - (1 - similarity**self.rows) ** self.bands


def parse_near(given: Sequence[str]) -> NearDuplicateConfig:
    """The settings with `name=number` in place of their defaults."""
    kinds: dict[str, Any] = {"threshold": float, "ngram": int, "bands": int, "seed": int}
    values = parse_numbers(given, kinds, option="--near", number="a whole number, but for the threshold")
    return NearDuplicateConfig(**values)


# -- signatures --------------------------------------------------------------------------------------------------------


def signatures(documents: DataFrame, *, config: NearDuplicateConfig, keep: tuple[str, ...] = ()) -> DataFrame:
    """doc_id, the columns `keep`, ngrams (distinct ones) and bands of every document: doc_id, text and `keep`.

    A text without words has no n-gram and no band, and is near to none. A row depends on its text alone.
    """
    schema = StructType(
        [documents.schema[name] for name in ("doc_id", *keep)]
        + [StructField("ngrams", IntegerType()), StructField("bands", ArrayType(LongType()))]
    )

    def sign(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ngrams, bands = sign_texts(batch.column("text"), config)
            kept = [batch.column(name) for name in ("doc_id", *keep)]
            yield pa.RecordBatch.from_arrays([*kept, ngrams, bands], ["doc_id", *keep, "ngrams", "bands"])

    return documents.select("doc_id", *keep, "text").mapInArrow(sign, schema)


def sign_texts(texts: pa.Array | pa.ChunkedArray, config: NearDuplicateConfig) -> tuple[pa.Array, pa.Array]:
    """The number of distinct n-grams and the band hashes of each text, as Arrow columns."""
    words = hashed_words(texts)
    counts = np.empty(len(texts), np.int32)
    bands = np.empty((len(texts), config.bands), np.int64)
    _sign(words.hashes, words.offsets, config.ngram, _turns(config), config.rows, counts, bands)
    signed = counts > 0
    offsets = np.concatenate([[0], np.cumsum(signed * config.bands)]).astype(np.int32)
    return pa.array(counts), pa.ListArray.from_arrays(offsets, bands[signed].ravel())


def _turns(config: NearDuplicateConfig) -> Hashes:
    """A number for each turn of the sketch: each turn hashes anew."""
    minima = config.bands * config.rows
    first = np.uint64(int(content_id("near-duplicates", config.seed), 16))
    return mix(first + np.arange(2 * minima, dtype=np.uint64) * np.uint64(GOLDEN))


# -- who is compared with whom -----------------------------------------------------------------------------------------


def buckets(signatures: DataFrame) -> DataFrame:
    """BUCKETS: the members of every bucket that has two or more, each with its centre."""
    rows = signatures.select(F.explode("bands").alias("band"), "doc_id", "ngrams")
    bucket = Window.partitionBy("band")
    members = rows.withColumns({
        "centre": F.min(F.struct("doc_id", "ngrams")).over(bucket), "members": F.count(F.lit(1)).over(bucket),
    }).where("members > 1")  # fmt: skip
    return members.select(
        "band", "doc_id", "ngrams", F.col("centre.doc_id").alias("centre"),
        F.col("centre.ngrams").alias("centre_ngrams"), "members",
    )  # fmt: skip


def star_pairs(buckets: DataFrame, *, config: NearDuplicateConfig) -> DataFrame:
    """one, other: each member with its centre, where their sizes let them be near; one < other, each pair once."""
    fits = _fits(F.col("ngrams"), F.col("centre_ngrams"), config)
    pairs = buckets.where((F.col("doc_id") != F.col("centre")) & fits)
    return pairs.select(F.col("centre").alias("one"), F.col("doc_id").alias("other")).distinct()


def further_pairs(
    buckets: DataFrame,
    links: DataFrame,
    *,
    config: NearDuplicateConfig,
    small: int = SMALL,
    leaders: int = LEADERS,
    neighbours: int = NEIGHBOURS,
) -> DataFrame:
    """one, other: members that are near to no centre with the others of their buckets; one < other, each pair once.

    links: one, other: the star pairs that are near. In a bucket of up to `small` members these are all others; in a
    larger one the first `leaders` that are near to the centre and as many that aren't, and by size `neighbours` on
    either side. So there are fewer than `small`, or at most 2 * (leaders + neighbours), for each open member.
    """
    linked = links.select(F.col("one").alias("centre"), F.col("other").alias("doc_id"), F.lit(True).alias("linked"))
    others = buckets.where((F.col("members") > 2) & (F.col("doc_id") != F.col("centre")))
    others = others.join(linked, ["centre", "doc_id"], "left").select(
        "band", "doc_id", "ngrams", F.col("linked").isNull().alias("open"), (F.col("members") <= small).alias("small")
    )
    bucket = Window.partitionBy("band")
    others = others.withColumn("any", F.max("open").over(bucket)).where("any")
    rank = F.row_number().over(Window.partitionBy("band", "open").orderBy("doc_id"))
    leads = F.when(F.col("small") | (rank <= leaders), F.struct("doc_id", "ngrams", "open"))
    by_size, member = bucket.orderBy("ngrams", "doc_id"), F.struct("doc_id", "ngrams", "open")
    beside = [f(member, n).over(by_size) for n in range(1, neighbours + 1) for f in (F.lag, F.lead)]
    others = others.withColumns({"lead": leads, "beside": F.array(*beside)})
    others = others.withColumns({
        "leads": F.collect_list("lead").over(bucket),
        "beside": F.filter("beside", lambda each: each.isNotNull() & ~F.col("small")),
    })  # fmt: skip
    met = others.where("open").select("doc_id", "ngrams", F.explode(F.concat("leads", "beside")).alias("with"))
    fits = _fits(F.col("ngrams"), F.col("with.ngrams"), config)
    pairs = met.where((F.col("with.doc_id") != F.col("doc_id")) & fits)
    one, other = F.least("doc_id", "with.doc_id"), F.greatest("doc_id", "with.doc_id")
    return pairs.select(one.alias("one"), other.alias("other")).distinct()


def _fits(one: Column, other: Column, config: NearDuplicateConfig) -> Column:
    """Whether two sets of these sizes can be as similar as the threshold: the smaller one whole in the other."""
    return F.least(one, other) / F.greatest(one, other) >= config.threshold


# -- comparing ---------------------------------------------------------------------------------------------------------


def similarities(pairs: DataFrame, documents: DataFrame, *, config: NearDuplicateConfig) -> DataFrame:
    """one, other, similarity: the exact Jaccard similarity of each pair (one < other), by their n-grams' 64-bit hashes.

    Texts go to where the pairs are, sorted so that `one` comes before all that it is compared with: a task holds one
    batch and one document, however many pairs a document has. A pair of which a document isn't there gives no row.
    """
    number = F.row_number().over(Window.partitionBy("one").orderBy("other")) - 1
    grouped = pairs.select("one", "other", F.floor(number / GROUP).cast("int").alias("part"))
    heads = grouped.select("one", "part", F.col("one").alias("doc_id")).distinct()
    places = grouped.select("one", "part", F.col("other").alias("doc_id")).unionByName(heads)
    rows = documents.select("doc_id", "text").join(places, "doc_id").repartition("one", "part")
    rows = rows.sortWithinPartitions("one", "part", "doc_id").select("one", "part", "doc_id", "text")
    return rows.mapInArrow(partial(_compare_batches, ngram=config.ngram), "one string, other string, similarity double")


def _compare_batches(batches: Iterator[pa.RecordBatch], *, ngram: int) -> Iterator[pa.RecordBatch]:
    """one, part, doc_id, text, sorted -> one, other, similarity."""
    group: tuple[str, int] | None = None
    table, size = np.zeros(16, np.uint64), -1
    for batch in batches:
        if len(batch) == 0:
            continue
        one, part, other, text = batch.columns
        begins = np.ones(len(batch), bool)
        begins[0] = (one[0].as_py(), part[0].as_py()) != group
        changed = pc.or_(pc.not_equal(one[1:], one[:-1]), pc.not_equal(part[1:], part[:-1]))
        begins[1:] = changed.to_numpy(zero_copy_only=False)
        group = (one[-1].as_py(), part[-1].as_py())
        is_head = pc.equal(one, other).to_numpy(zero_copy_only=False)
        words, found = hashed_words(text), np.empty(len(batch))
        table, size = _compare(words.hashes, words.offsets, ngram, begins, is_head, table, size, found)
        compared = pa.RecordBatch.from_arrays([one, other, pa.array(found)], ["one", "other", "similarity"])
        yield compared.filter(pa.array(found >= 0))


def links_among(pairs: DataFrame, compared: DataFrame, *, config: NearDuplicateConfig) -> DataFrame:
    """one, other, similarity: of these pairs those that were compared and are near."""
    near = compared.where(F.col("similarity") >= config.threshold).select("one", "other", "similarity")
    return pairs.join(near, ["one", "other"])


def find_links(
    signatures: DataFrame, documents: DataFrame, compared: DataFrame, *, config: NearDuplicateConfig, store: Store
) -> DataFrame:
    """one, other, similarity: near pairs that connect all clusters. Every document of `signatures` has a text.

    compared: PAIRS of this configuration; with new documents only pairs that aren't among them are compared. The bands
    are joined again, so that the links are those of one run over all documents.
    """

    def compare(spec: TableSpec, pairs: DataFrame, compared: DataFrame) -> tuple[DataFrame, DataFrame]:
        known = pairs.join(compared.select("one", "other", "similarity"), ["one", "other"], "left")
        pairs = store(spec, known)  # small where little is new: Spark then takes the pairs to the texts
        rows = similarities(pairs.where("similarity IS NULL"), documents, config=config)
        return pairs.select("one", "other"), store(PAIRS, rows.withColumn("config_id", F.lit(config.config_id)))

    met = store(BUCKETS, buckets(signatures))
    stars, compared = compare(STARS, star_pairs(met, config=config), compared)
    links = links_among(stars, compared, config=config)
    further, compared = compare(FURTHER, further_pairs(met, links, config=config), compared)
    return links_among(stars.unionByName(further).distinct(), compared, config=config)


def store_in(tables: Tables, config: NearDuplicateConfig) -> Store:
    """A Store of tables; the caller holds SCRATCH (`with tables.scratch(*SCRATCH)`)."""

    def store(spec: TableSpec, rows: DataFrame) -> DataFrame:
        if spec in SCRATCH:
            tables.drop(spec)
        tables.append(spec, rows, keys_are_unique=True)
        found = tables.read(spec)
        return found if spec in SCRATCH else found.where(F.col("config_id") == config.config_id)

    return store


# -- clusters ----------------------------------------------------------------------------------------------------------


def clusters(links: DataFrame, *, store: Store, one_task: int = ONE_TASK) -> DataFrame:
    """cluster_id (its lowest doc_id), doc_id of every document that a link connects with another.

    Up to `one_task` links are connected by one task; more of them in rounds over all tasks, each of them stored. Both
    give the same.
    """
    edges = links.select("one", "other")
    if edges.limit(one_task + 1).count() <= one_task:
        return edges.repartition(1).mapInArrow(_connect, "cluster_id string, doc_id string")
    before: Row | None = None
    turn = 0
    while True:
        edges = store(EDGES[turn % 2], contract(edges))
        prints = edges.agg(F.count(F.lit(1)), F.sum(F.xxhash64("one", "other").cast("decimal(38,0)"))).first()
        if prints == before:
            break
        before, turn = prints, turn + 1
    stars = edges.select(F.col("one").alias("cluster_id"), F.col("other").alias("doc_id"))
    return stars.unionByName(stars.select("cluster_id", F.col("cluster_id").alias("doc_id")).distinct())


def contract(edges: DataFrame) -> DataFrame:
    """One round of large-star and small-star (Kiveris et al. 2014): the same components, closer to stars.

    What is a star around each component's least document stays as it is; rounds grow as the logarithm of the longest
    path.
    """
    turned = edges.select(F.col("other").alias("one"), F.col("one").alias("other"))
    both = edges.select("one", "other").unionByName(turned)
    least = F.least("one", F.min("other").over(Window.partitionBy("one")))
    large = both.withColumn("least", least).where(F.col("other") > F.col("one"))
    large = large.select(F.col("least").alias("one"), "other").distinct()
    small = large.withColumn("least", F.min("one").over(Window.partitionBy("other")))
    tied = small.select(F.col("least").alias("one"), F.explode(F.array("one", "other")).alias("other"))
    return tied.where(F.col("one") != F.col("other")).distinct()


def _connect(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Edges of one task -> cluster_id, doc_id."""
    edges = list(batches)
    if not edges:
        return
    ends = pa.chunked_array([batch.column(name) for name in ("one", "other") for batch in edges])
    ids = ends.unique()
    ids = ids.take(pc.sort_indices(ids))
    codes = pc.index_in(ends, value_set=ids).to_numpy().astype(np.int64)
    roots = np.arange(len(ids))
    _unite(codes[: len(codes) // 2], codes[len(codes) // 2 :], roots)
    for start in range(0, len(ids), 1 << 16):
        part = slice(start, start + (1 << 16))
        columns = [ids.take(pa.array(roots[part])), ids[part]]
        yield pa.RecordBatch.from_arrays(columns, ["cluster_id", "doc_id"])


def keep_one(clusters: DataFrame, preferences: DataFrame, compared: DataFrame, *, prefer: str) -> DataFrame:
    """NEAR_DUPLICATES without deduplication_id: the document of a cluster with the highest `prefer` is kept, of equals
    the one with the lowest id.

    preferences: doc_id, `prefer` (a number; a document without one comes last): bytes before the ranking, the score
    after it. similarity: to the kept one, null where the two were not compared. documents: of the cluster.
    """
    rows = clusters.join(preferences.select("doc_id", F.col(prefer).alias("prefer")), "doc_id", "left")
    cluster = Window.partitionBy("cluster_id")
    best = F.min(F.struct(F.col("prefer").isNull(), -F.col("prefer"), F.col("doc_id").alias("kept"))).over(cluster)
    rows = rows.select(
        "cluster_id", "doc_id", best["kept"].alias("kept_doc_id"), F.count(F.lit(1)).over(cluster).alias("documents")
    )
    ends = {"one": F.least("doc_id", "kept_doc_id"), "other": F.greatest("doc_id", "kept_doc_id")}
    rows = rows.withColumns(ends).join(compared.select("one", "other", "similarity"), ["one", "other"], "left")
    itself = F.when(F.col("doc_id") == F.col("kept_doc_id"), F.lit(1.0)).otherwise(F.col("similarity"))
    return rows.select("cluster_id", "doc_id", "kept_doc_id", itself.alias("similarity"), "documents")


# -- compiled ----------------------------------------------------------------------------------------------------------

_EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
_LOW = np.uint64((1 << 52) - 1)


@jit()
def _enter(table: Hashes, gram: Any) -> bool:
    """Whether the gram is new to the table, which it is in from now on."""
    mask = np.int64(table.size - 1)
    i = np.int64(gram) & mask
    while table[i] != 0:
        if table[i] == gram:
            return False
        i = (i + 1) & mask
    table[i] = gram
    return True


@jit()
def _distinct(words: Hashes, start: int, stop: int, ngram: int, table: Hashes, grams: Hashes) -> Any:
    """(table, grams, their number): the distinct n-grams of words[start:stop], hashed as `Words.ngrams` does.

    table, grams: memory of before, larger where that is too small; the table in use is its first power of two that has
    twice the room. An n-gram's hash is never 0, which marks a free place: 1 stands for it.
    """
    length = min(ngram, stop - start)
    most = stop - start - length + 1 if length > 0 else 0
    size = 16
    while size < 2 * most:
        size *= 2
    if size > table.size:
        table = np.empty(size, np.uint64)
    if most > grams.size:
        grams = np.empty(size, np.uint64)
    used = table[:size]
    used[:] = 0
    found = 0
    for first in range(start, start + most):
        gram = np.uint64(0)
        for k in range(length):
            gram = mixed(gram ^ words[first + k])
        gram = mixed(gram ^ np.uint64(length))
        gram |= np.uint64(gram == 0)
        if _enter(used, gram):
            grams[found] = gram
            found += 1
    return table, grams, found


@jit()
def _sketch(grams: Hashes, turns: Hashes, minima: Minima) -> None:
    """MinHash in near-linear time: Fast Similarity Sketching (Dahlgaard, Knudsen, Thorup 2017).

    In each turn every n-gram falls into one place by a new hash, and what stays is the least value of the first turn in
    which any fell there; after as many turns as there are places, one is filled a turn. As in the classical scheme, a
    place of two sets agrees with the probability of their Jaccard similarity; how many do is as concentrated.
    """
    places = np.uint64(minima.size)
    minima[:] = _EMPTY
    for turn in range(turns.size):
        high = np.uint64(turn) << np.uint64(52)
        for k in range(grams.size):
            value = mixed(grams[k] ^ turns[turn])
            place = np.int64((value >> np.uint64(32)) * places >> np.uint64(32))
            if turn >= minima.size:
                place = np.int64(turn - minima.size)
            minima[place] = min(minima[place], (value & _LOW) | high)  # no branch: none of them would be foretold
        empty = 0
        for k in range(minima.size):
            empty += minima[k] == _EMPTY
        if empty == 0:
            return


@jit()
def _sign(words: Hashes, offsets: Indices, ngram: int, turns: Hashes, rows: int, counts: Any, bands: Any) -> None:
    """Fill counts [n] and bands [n, bands]; the bands of a text without words are left as they are."""
    table, grams = np.empty(1024, np.uint64), np.empty(1024, np.uint64)
    minima = np.empty(bands.shape[1] * rows, np.uint64)
    for text in range(offsets.size - 1):
        table, grams, found = _distinct(words, offsets[text], offsets[text + 1], ngram, table, grams)
        counts[text] = found
        if found == 0:
            continue
        _sketch(grams[:found], turns, minima)
        for band in range(bands.shape[1]):
            value = np.uint64(band)
            for k in range(band * rows, (band + 1) * rows):
                value = mixed(value ^ minima[k])
            bands[text, band] = np.int64(value)


@jit()
def _compare(
    words: Hashes, offsets: Indices, ngram: int, begins: Any, heads: Any, table: Hashes, size: int, found: Any
) -> Any:
    """Fill found [n] with each text's similarity to its group's head; -1 for a head, and where its group has none.

    begins, heads: where a group begins, and which texts are heads; a head comes first. table, size: the n-grams of the
    head that came before the first text; those of the last one are returned. A size of -1: there is none.
    """
    memory, grams = np.empty(1024, np.uint64), np.empty(1024, np.uint64)
    for text in range(offsets.size - 1):
        memory, grams, count = _distinct(words, offsets[text], offsets[text + 1], ngram, memory, grams)
        if heads[text]:
            places = 16
            while places < 2 * count:
                places *= 2
            table, size = np.zeros(places, np.uint64), count
            for k in range(count):
                _enter(table, grams[k])
        elif begins[text]:
            size = -1
        if heads[text] or size < 0:
            found[text] = -1.0
            continue
        shared = 0
        mask = np.int64(table.size - 1)
        for k in range(count):
            i = np.int64(grams[k]) & mask
            while table[i] != 0 and table[i] != grams[k]:
                i = (i + 1) & mask
            shared += table[i] != 0
        whole = size + count - shared
        found[text] = shared / whole if whole > 0 else 0.0  # texts without words share nothing
    return table, size


@jit()
def _unite(one: Indices, other: Indices, roots: Indices) -> None:
    """roots[v]: the least vertex that edges connect with v; it comes in as v itself."""
    for k in range(one.size):
        a, b = one[k], other[k]
        while roots[a] != a:
            roots[a] = roots[roots[a]]
            a = roots[a]
        while roots[b] != b:
            roots[b] = roots[roots[b]]
            b = roots[b]
        if a < b:
            roots[b] = a
        else:
            roots[a] = b
    for v in range(roots.size):  # a root lies below all that hang on it: what it has come to is final
        roots[v] = roots[roots[v]]
