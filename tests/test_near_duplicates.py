"""curation/near_duplicates.py: clusters are those of all pairs compared, whatever the partitions and who came first."""

import itertools
import math
import random
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from curation import near_duplicates as near
from curation.errors import InputError
from curation.near_duplicates import NearDuplicateConfig
from curation.overlap import Grams, words
from curation.tables import Tables, TableSpec

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

Pair = tuple[str, str]
CONFIG = NearDuplicateConfig()
DOCUMENTS = "doc_id string, text string"


class Memory:
    """A Store that keeps the rows on the driver, and notes how many there were."""

    def __init__(self, spark: SparkSession) -> None:
        self.spark, self.written = spark, list[tuple[str, int]]()
        self.pairs = near.PAIRS.frame(spark).toArrow()

    def __call__(self, spec: TableSpec, rows: DataFrame) -> DataFrame:
        found = rows.toArrow()
        self.written.append((spec.name, found.num_rows))
        if spec is near.PAIRS:
            self.pairs = pa.concat_tables([self.pairs, found.select(self.pairs.column_names).cast(self.pairs.schema)])
            return self.compared
        schema = spec.struct(self.spark)
        assert set(found.column_names) == set(schema.names)
        return self.spark.createDataFrame(found.select(schema.names), schema)

    @property
    def compared(self) -> DataFrame:
        return self.spark.createDataFrame(self.pairs, near.PAIRS.struct(self.spark))

    def rows(self, name: str) -> int:
        return sum(count for spec, count in self.written if spec == name)


def frame(spark: SparkSession, texts: dict[str, str]) -> DataFrame:
    return spark.createDataFrame(pa.table({"doc_id": pa.array(texts, pa.string()), "text": pa.array(texts.values(), pa.string())}))


def find(documents: DataFrame, store: Memory, config: NearDuplicateConfig = CONFIG) -> DataFrame:
    signed = near.signatures(documents, config=config)
    return near.find_links(signed, documents, store.compared, config=config, store=store)


def clustered(links: DataFrame, store: Memory, **given: int) -> set[frozenset[str]]:
    found: dict[str, set[str]] = {}
    for row in near.clusters(links, store=store, **given).collect():
        found.setdefault(row["cluster_id"], set()).add(row["doc_id"])
    assert all(cluster_id == min(members) for cluster_id, members in found.items())
    return {frozenset(members) for members in found.values()}


# -- the reference -----------------------------------------------------------------------------------------------------


def ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + n]) for i in range(max(1, len(found) - n + 1))} if found else set()


def jaccard(one: str, other: str, n: int = 5) -> float:
    a, b = ngrams(one, n), ngrams(other, n)
    return len(a & b) / len(a | b) if a | b else 0.0


def near_pairs(texts: dict[str, str], threshold: float) -> dict[Pair, float]:
    sets = {doc_id: ngrams(text, 5) for doc_id, text in texts.items()}
    found = {}
    for a, b in itertools.combinations(sorted(texts), 2):
        shared = len(sets[a] & sets[b])
        if shared and (similarity := shared / len(sets[a] | sets[b])) >= threshold:
            found[a, b] = similarity
    return found


def connected(pairs: Iterable[Pair]) -> set[frozenset[str]]:
    of: dict[str, frozenset[str]] = {}
    for a, b in pairs:
        whole = of.get(a, frozenset([a])) | of.get(b, frozenset([b]))
        of |= dict.fromkeys(whole, whole)
    return set(of.values())


# -- texts -------------------------------------------------------------------------------------------------------------


def perturbed(text: str, share: float, salt: int) -> str:
    """The text with this share of its words replaced, at places that the salt says."""
    rng = random.Random(salt)
    return " ".join(f"w{rng.random():.9f}"[:8] if rng.random() < share else word for word in text.split())


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """numpy's docstrings, many of them alike by themselves, and copies of some with more and more words replaced."""
    documents = sorted({doc[:1500] for name in dir(np) if (doc := getattr(getattr(np, name), "__doc__", None)) and len(doc) > 300})
    found = documents[::2]
    copies = [perturbed(text, 0.005 * k, salt) for salt, (k, text) in enumerate(itertools.product(range(8), documents[:150:5]))]
    rng = random.Random(7)
    return {f"{rng.getrandbits(64):016x}": text for text in [*found, *copies]}


# -- configuration -----------------------------------------------------------------------------------------------------


def test_rows_are_as_many_as_still_find_the_pairs_beyond_the_threshold() -> None:
    for threshold, bands in itertools.product((0.5, 0.7, 0.8, 0.9, 0.95, 0.99), (8, 16, 32)):
        config = NearDuplicateConfig(threshold=threshold, bands=bands)
        sure = min(threshold + 0.05, (1 + threshold) / 2)
        assert config.recall(sure) >= near.FOUND
        if config.rows < near.MOST_ROWS:
            assert 1 - (1 - sure ** (config.rows + 1)) ** bands < near.FOUND
    assert (CONFIG.bands, CONFIG.rows) == (16, 8)
    assert CONFIG.recall(0.8) > 0.94 and CONFIG.recall(0.5) < 0.07


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"threshold": 0.0}, r"threshold must be in \(0, 1\]; got 0.0"),
        ({"threshold": 1.01}, "threshold must be"),
        ({"ngram": 0}, "--near ngram must be at least 1; got 0"),
        ({"bands": 65}, "bands must be in 1..64; got 65"),
        ({"bands": 0}, "bands must be in 1..64; got 0"),
        ({"bands": 1, "threshold": 0.5}, "1 bands can't find 99% of the pairs at 0.55; give more bands"),
    ],
)
def test_what_can_find_nothing_is_refused(wrong: dict[str, float], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        NearDuplicateConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["words=3", "bands=1.5", "threshold", "ngram="])
def test_a_setting_that_is_no_name_and_number_is_refused(given: str) -> None:
    with pytest.raises(InputError, match=f"--near reads NAME=NUMBER with a whole number, but for the threshold; got '{given}'; names are threshold, ngram, bands, seed"):
        near.parse_near([given])


# -- signatures --------------------------------------------------------------------------------------------------------


def mixed(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def slow_bands(grams: set[int], config: NearDuplicateConfig) -> list[int]:
    """The paper's sketch as it is told there, in Python's integers, then the bands."""
    minima: dict[int, int] = {}
    places = config.bands * config.rows
    for turn, number in enumerate(near._turns(config).tolist()):
        if len(minima) == places:
            break
        this_turn: dict[int, list[int]] = {}
        for gram in grams:
            value = mixed(gram ^ number)
            place = (value >> 32) * places >> 32 if turn < places else turn - places
            this_turn.setdefault(place, []).append(turn << 52 | value % 2**52)
        minima = {place: min(values) for place, values in this_turn.items()} | minima
    bands = []
    for band in range(config.bands):
        value = band
        for place in range(band * config.rows, (band + 1) * config.rows):
            value = mixed(value ^ minima[place])
        bands.append(value - 2**64 if value >= 2**63 else value)
    return bands


@pytest.mark.parametrize("config", [CONFIG, NearDuplicateConfig(threshold=0.6, ngram=3, bands=9, seed=5)])
def test_signatures_are_those_of_the_slow_reference(texts: dict[str, str], config: NearDuplicateConfig) -> None:
    some = [*itertools.islice(texts.values(), 8), "one word", "x", "", "?!", "a b " * 900, "日本語の文章です。もう一つ"]
    counts, bands = near.sign_texts(pa.array(some), config)
    grams = Grams.of(some, config.ngram)
    assert counts.to_pylist() == grams.sizes.tolist()
    for i, found in enumerate(bands.to_pylist()):
        own = set(grams.values[grams.owners == i].tolist())
        assert found == (slow_bands(own, config) if own else [])


@pytest.mark.parametrize("size", [12, 60, 1_000])
def test_the_share_of_pairs_that_meet_is_the_s_curve(size: int) -> None:
    """Sets of words with a known similarity: measured recall lies within the binomial error, for small sets too."""
    config, trials = NearDuplicateConfig(ngram=1), 400
    for shared in {round(size * s) for s in (0.6, 0.75, 0.85, 0.92)}:
        sides = ([], [])  # type: tuple[list[str], list[str]]
        for trial in range(trials):
            tokens = [f"w{trial}x{i}" for i in range(size)]
            middle = shared + (size - shared) // 2
            sides[0].append(" ".join(tokens[:middle]))
            sides[1].append(" ".join(tokens[:shared] + tokens[middle:]))
        bands = [np.array(near.sign_texts(pa.array(side), config)[1].to_pylist()) for side in sides]
        met = (bands[0] == bands[1]).any(axis=1).mean()
        expected = config.recall(shared / size)
        error = math.sqrt(expected * (1 - expected) / trials) + 1 / trials
        assert abs(met - expected) < 4 * error, (size, shared, met, expected)


# -- similarities ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some(texts: dict[str, str]) -> dict[str, str]:
    odd = {"0": "five words and no more", "00": "Five words, and no more!", "z": "...", "zz": "!"}
    return dict(itertools.islice(texts.items(), 40)) | odd


@pytest.fixture(scope="module")
def exact(some: dict[str, str]) -> dict[Pair, float]:
    found = {(a, b): jaccard(some[a], some[b]) for a, b in itertools.combinations(sorted(some), 2)}
    assert found["0", "00"] == 1.0 and found["z", "zz"] == 0.0
    return found


def test_similarities_are_exact_and_of_documents_that_are_there(
    some: dict[str, str], exact: dict[Pair, float], spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "GROUP", 3)
    pairs = spark.createDataFrame([*exact, ("0", "gone"), ("gone", "z")], "one string, other string")
    rows = near.similarities(pairs, frame(spark, some), config=CONFIG).collect()
    assert {(row["one"], row["other"]): row["similarity"] for row in rows} == exact


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_batches_and_groups_change_no_similarity(size: int, some: dict[str, str], exact: dict[Pair, float]) -> None:
    rows = []
    for one, pairs in itertools.groupby(exact, lambda pair: pair[0]):
        for number, (_, other) in enumerate(pairs):
            head = [(one, number // 5, one)] if number % 5 == 0 and one != "00" else []  # one whose text is gone
            rows += [*head, (one, number // 5, other)]
    ones, parts, ids = zip(*rows, strict=True)
    table = pa.table({"one": ones, "part": pa.array(parts, pa.int32()), "doc_id": ids, "text": [some[i] for i in ids]})
    found = pa.Table.from_batches(near._compare_batches(iter(table.to_batches(size)), ngram=5)).to_pylist()
    left = {pair: similarity for pair, similarity in exact.items() if pair[0] != "00"}
    assert {(row["one"], row["other"]): row["similarity"] for row in found} == left


# -- clusters ----------------------------------------------------------------------------------------------------------


def test_clusters_are_those_of_all_pairs_compared(texts: dict[str, str], spark: SparkSession) -> None:
    expected = near_pairs(texts, CONFIG.threshold)
    store = Memory(spark)
    links = find(frame(spark, texts), store)
    found = {(row["one"], row["other"]): row["similarity"] for row in links.collect()}
    assert found.items() <= expected.items()  # nothing below the threshold, and each similarity exact
    assert len(expected) > 300 and max(map(len, connected(expected))) > 5
    sure = {pair for pair, similarity in expected.items() if similarity >= CONFIG.threshold + near.BEYOND}
    together = {doc_id: members for members in connected(found) for doc_id in members}
    lost = [pair for pair in sure if pair[1] not in together.get(pair[0], ())]
    assert len(lost) <= 0.01 * len(sure)
    assert store.rows(near.PAIRS.name) < 0.01 * math.comb(len(texts), 2)

    again = Memory(spark)
    moved = frame(spark, dict(reversed(texts.items()))).repartition(5, "text")
    assert clustered(find(moved, again), again) == connected(found)


@pytest.mark.night
def test_new_documents_give_the_clusters_of_one_run_over_all(texts: dict[str, str], spark: SparkSession) -> None:
    store, fresh = Memory(spark), Memory(spark)
    ids = list(texts)
    first = {doc_id: texts[doc_id] for doc_id in ids[: len(ids) * 2 // 3]}
    find(frame(spark, first), store)
    compared = store.rows(near.PAIRS.name)
    links = find(frame(spark, texts), store)
    whole = find(frame(spark, texts), fresh)
    assert sorted(links.collect()) == sorted(whole.collect())
    assert store.pairs.num_rows == len({(row["one"], row["other"]) for row in store.pairs.to_pylist()})
    assert store.rows(near.PAIRS.name) - compared < fresh.rows(near.PAIRS.name)  # and what is known isn't compared


def bucket_rows(spark: SparkSession, members: int, band: int = 1) -> DataFrame:
    ids = spark.range(members).select(F.format_string("%08d", "id").alias("doc_id"), (F.col("id") % 7 + 100).cast("int").alias("ngrams"))
    return near.buckets(ids.withColumn("bands", F.array(F.lit(band).cast("bigint"))))


def test_a_bucket_of_many_stays_linear(spark: SparkSession) -> None:
    members = 20_000
    buckets = spark.createDataFrame(bucket_rows(spark, members).toArrow())
    stars = near.star_pairs(buckets, config=CONFIG)
    assert stars.count() == members - 1
    assert near.further_pairs(buckets, stars, config=CONFIG).count() == 0
    few = stars.where("other > '00000100'")  # a hundred are near to each other, perhaps, but not to the centre
    pairs = near.further_pairs(buckets, few, config=CONFIG).count()
    assert 100 * near.LEADERS < pairs <= 100 * 2 * (near.LEADERS + near.NEIGHBOURS)
    none = near.further_pairs(bucket_rows(spark, 1_000), stars.where("false"), config=CONFIG).count()
    assert none <= 1_000 * (near.LEADERS + near.NEIGHBOURS)


def test_in_a_small_bucket_all_that_the_centre_does_not_decide_is_compared(spark: SparkSession) -> None:
    buckets = bucket_rows(spark, 6)
    linked = spark.createDataFrame([("00000000", "00000001"), ("00000000", "00000002")], "one string, other string")
    found = {tuple(row) for row in near.further_pairs(buckets, linked, config=CONFIG).collect()}
    open_, rest = ["00000003", "00000004", "00000005"], ["00000001", "00000002"]
    assert found == {*itertools.combinations(open_, 2), *itertools.product(rest, open_)}


def test_what_sizes_rule_out_is_not_compared(spark: SparkSession) -> None:
    rows = [("a", 100, [1]), ("b", 80, [1]), ("c", 79, [1]), ("d", 64, [1])]
    buckets = near.buckets(spark.createDataFrame(rows, "doc_id string, ngrams int, bands array<bigint>"))
    stars = near.star_pairs(buckets, config=CONFIG)
    assert [tuple(row) for row in stars.collect()] == [("a", "b")]
    further = near.further_pairs(buckets, stars.where("false"), config=CONFIG).collect()
    assert sorted(tuple(row) for row in further) == [("b", "c"), ("b", "d"), ("c", "d")]


def path(length: int) -> list[Pair]:
    names = [f"p{i:03d}" for i in range(length)]
    random.Random(3).shuffle(names)
    return [(min(pair), max(pair)) for pair in itertools.pairwise(names)]


EDGES: dict[str, list[Pair]] = {
    "none": [],
    "a path, a star and a pair": [*path(40), *((f"s{0}", f"s{i}") for i in range(1, 9)), ("x", "y")],
    "at random": [(f"r{min(p):02d}", f"r{max(p):02d}") for p in (random.Random(i).sample(range(90), 2) for i in range(70))],
}


@pytest.mark.parametrize("name", EDGES)
def test_one_task_and_rounds_over_all_tasks_connect_the_same(name: str, spark: SparkSession) -> None:
    edges = EDGES[name]
    rows = spark.createDataFrame(edges, "one string, other string")
    store = Memory(spark)
    assert clustered(rows, store) == connected(edges)
    assert not store.written
    if edges:
        assert clustered(rows, store, one_task=0) == connected(edges)
        assert len(store.written) <= 8  # rounds, of which the last changes nothing


# -- one kept ----------------------------------------------------------------------------------------------------------


def test_the_highest_is_kept_of_equals_the_lowest_id_and_what_has_no_value_last(spark: SparkSession) -> None:
    members = [("a", "a"), ("a", "b"), ("a", "c"), ("d", "d"), ("d", "e"), ("f", "f"), ("f", "g")]
    clusters = spark.createDataFrame(members, "cluster_id string, doc_id string")
    sizes = spark.createDataFrame([("a", 5), ("b", 9), ("c", 9), ("d", None), ("e", -1), ("h", 99)], "doc_id string, bytes bigint")
    compared = spark.createDataFrame([("a", "b", 0.9), ("a", "c", 0.85), ("b", "d", 0.1)], "one string, other string, similarity double")
    kept = near.keep_one(clusters, sizes, compared, prefer="bytes").withColumn("deduplication_id", F.lit("x"))
    assert set(kept.columns) == set(near.NEAR_DUPLICATES.struct(spark).names)
    rows = kept.select("cluster_id", "doc_id", "kept_doc_id", "similarity", "documents").collect()
    assert sorted(tuple(row) for row in rows) == [
        ("a", "a", "b", 0.9, 3), ("a", "b", "b", 1.0, 3), ("a", "c", "b", None, 3),
        ("d", "d", "e", None, 2), ("d", "e", "e", 1.0, 2), ("f", "f", "f", 1.0, 2), ("f", "g", "f", None, 2),
    ]  # fmt: skip


def test_tables_take_scratch_anew_and_add_pairs(spark: SparkSession, tables_root: str) -> None:
    tables = Tables(spark, tables_root)
    store = near.store_in(tables, CONFIG)
    mine, others = (F.lit(config_id).alias("config_id") for config_id in (CONFIG.config_id, "another"))
    first, second = (near.STARS.frame(spark, [(one, "z", 0.5)]) for one in "ab")
    with tables.scratch(near.STARS):
        store(near.STARS, first)
        assert [row["one"] for row in store(near.STARS, second).collect()] == ["b"]
    assert not tables.exists(near.STARS)
    store(near.PAIRS, first.select("*", mine))
    tables.append(near.PAIRS, first.select("*", others))
    assert sorted(row["one"] for row in store(near.PAIRS, second.select("*", mine)).collect()) == ["a", "b"]
