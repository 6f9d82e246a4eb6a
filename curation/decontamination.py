"""What a corpus shares with held-out tests, beside the text: every hit, and what is left of each document (BETR 3.1).

    hits = find_hits(documents, tests=share(spark, TestSet.of(ids, names, texts)))         -> CONTAMINATION_HITS
    contaminated_documents(hits, config)                                                   -> CONTAMINATED_DOCUMENTS

A document is never rewritten: it is cut around each hit, and what is left of it are pieces, by their places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from curation.command import parse_numbers, whole_number
from curation.errors import InputError
from curation.held_out import LONGEST, SHORTEST, TestIndex
from curation.session import Shared
from curation.tables import TableSpec

CUT, DROPPED = "cut", "dropped"  # verdicts
TOO_MANY_CUTS, NOTHING_LEFT = "too_many_cuts", "nothing_left"  # why a document is dropped
_BATCH_TEXTS = 256

CONTAMINATION_HITS = TableSpec(
    "contamination_hits",
    key=("tests_id", "doc_id", "start", "words"),
    schema=(
        "tests_id string, chunk string, doc_id string, start int, end int, words int, characters int, gram bigint, "
        "test_id string, test_set string, shared string"
    ),
    partition_by=("tests_id", "chunk"),
)

# Which chunks are read: one without a hit leaves no other trace.
DECONTAMINATED_CHUNKS = TableSpec(
    "decontaminated_chunks",
    key=("tests_id", "chunk"),
    schema="tests_id string, chunk string, documents bigint",
    partition_by=("tests_id",),
)

CONTAMINATED_DOCUMENTS = TableSpec(
    "contaminated_documents",
    key=("decontamination_id", "doc_id"),
    schema=(
        "decontamination_id string, doc_id string, verdict string, reason string, hits int, cuts int, "
        "pieces array<struct<start:int,end:int>>, characters int, kept_characters int, test_sets array<string>"
    ),
    partition_by=("decontamination_id",),
)


@dataclass(frozen=True)
class DecontaminationConfig:
    """What is a hit, and what it costs a document; the defaults are BETR's, those of pieces GPT-3's.

    shortest, longest: words of an n-gram; margin: characters cut on either side of a hit; most_cuts: a document cut in
    more places is dropped; commonest: an n-gram with more hits in the corpus says nothing and is ignored;
    shortest_piece: characters, what is shorter is dropped with the cut.
    """

    shortest: int = SHORTEST
    longest: int = LONGEST
    margin: int = 200
    most_cuts: int = 10
    commonest: int = 10_000
    shortest_piece: int = 200

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"--decontamination needs 1 <= shortest <= longest; got {self.shortest} and {self.longest}"
            )
        for name, least in (("margin", 0), ("most_cuts", 0), ("commonest", 1), ("shortest_piece", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--decontamination {name} must be at least {least}; got {getattr(self, name)!r}")


def parse_decontamination(given: Sequence[str]) -> DecontaminationConfig:
    """The settings with `name=number` in place of their defaults."""
    kinds = {field.name: whole_number for field in fields(DecontaminationConfig)}
    values = parse_numbers(given, kinds, option="--decontamination", number="a whole number")
    return DecontaminationConfig(**values)


@dataclass(frozen=True)
class TestSet:
    """Test texts, each with its id and the name of the set that it is of, and the index of their n-grams."""

    __test__ = False

    ids: tuple[str, ...]
    sets: tuple[str, ...]
    index: TestIndex

    @classmethod
    def of(
        cls, ids: Sequence[str], sets: Sequence[str], texts: Sequence[str], config: DecontaminationConfig
    ) -> TestSet:
        """In the order of ids: of texts that hold the same n-gram, the one with the lowest id is named."""
        order = sorted(range(len(ids)), key=lambda k: ids[k])
        index = TestIndex.of([texts[k] for k in order], shortest=config.shortest, longest=config.longest)
        return cls(tuple(ids[k] for k in order), tuple(sets[k] for k in order), index)


def find_hits(documents: DataFrame, *, tests: Shared[TestSet]) -> DataFrame:
    """Every run of words that documents (chunk, doc_id, text) share with tests: CONTAMINATION_HITS without tests_id.

    start, end: in characters of the text; characters: of the whole text; gram: the n-gram's hash; shared: what the
    text says there.
    """
    columns = CONTAMINATION_HITS.schema.removeprefix("tests_id string, ")

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_TEXTS):
                yield _hits_of(batch.slice(start, _BATCH_TEXTS), tests.value)

    return documents.select("chunk", "doc_id", "text").mapInArrow(task, columns)


def _hits_of(batch: pa.RecordBatch, tests: TestSet) -> pa.RecordBatch:
    texts = batch.column("text")
    hits = tests.index.find(texts)
    whole = {int(number): texts[int(number)].as_py() for number in np.unique(hits.text)}
    rows = list(zip(hits.text.tolist(), hits.start.tolist(), hits.end.tolist(), strict=True))
    owners = tests.index.owners[hits.gram].tolist()
    at = pa.array(hits.text)
    columns = {
        "chunk": batch.column("chunk").take(at).cast(pa.string()),
        "doc_id": batch.column("doc_id").take(at).cast(pa.string()),
        "start": pa.array(hits.start, pa.int32()),
        "end": pa.array(hits.end, pa.int32()),
        "words": pa.array(hits.length, pa.int32()),
        "characters": pa.array([len(whole[text]) for text, _, _ in rows], pa.int32()),
        "gram": pa.array(tests.index.grams[hits.gram].view(np.int64), pa.int64()),
        "test_id": pa.array([tests.ids[owner] for owner in owners], pa.string()),
        "test_set": pa.array([tests.sets[owner] for owner in owners], pa.string()),
        "shared": pa.array([whole[text][start:end] for text, start, end in rows], pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns)


def contaminated_documents(hits: DataFrame, config: DecontaminationConfig) -> DataFrame:
    """What is left of each document that has a hit: CONTAMINATED_DOCUMENTS without decontamination_id.

    A document whose n-grams are all too common isn't there.
    """
    said = hits.groupBy("gram").count().where(F.col("count") <= config.commonest)
    grouped = hits.join(said, "gram", "left_semi").groupBy("doc_id").agg(
        F.sort_array(F.collect_list(F.struct("start", "end"))).alias("places"),
        F.max("characters").alias("characters"),
        F.count(F.lit(1)).cast("int").alias("hits"),
        F.sort_array(F.collect_set("test_set")).alias("test_sets"),
    )
    columns = CONTAMINATED_DOCUMENTS.schema.removeprefix("decontamination_id string, ")

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _cut_batch(batch, config)

    return grouped.mapInArrow(task, columns)


def _cut_batch(batch: pa.RecordBatch, config: DecontaminationConfig) -> pa.RecordBatch:
    lengths = batch.column("characters").to_pylist()
    cut = [
        _judge(np.array([[place["start"], place["end"]] for place in places], np.int64), length, config)
        for places, length in zip(batch.column("places").to_pylist(), lengths, strict=True)
    ]
    pieces = [[{"start": start, "end": end} for start, end in kept] for _, _, kept in cut]
    columns = {
        "doc_id": batch.column("doc_id"),
        "verdict": pa.array([DROPPED if reason else CUT for reason, _, _ in cut], pa.string()),
        "reason": pa.array([reason for reason, _, _ in cut], pa.string()),
        "hits": batch.column("hits"),
        "cuts": pa.array([cuts for _, cuts, _ in cut], pa.int32()),
        "pieces": pa.array(pieces, pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))),
        "characters": batch.column("characters"),
        "kept_characters": pa.array([sum(end - start for start, end in kept) for _, _, kept in cut], pa.int32()),
        "test_sets": batch.column("test_sets"),
    }
    return pa.RecordBatch.from_pydict(columns)


def _judge(
    places: npt.NDArray[np.int64], characters: int, config: DecontaminationConfig
) -> tuple[str | None, int, list[tuple[int, int]]]:
    """(why it is dropped, its cuts, its pieces) of a document with hits at these places, (n, 2), by their start."""
    starts, ends = places[:, 0] - config.margin, np.maximum.accumulate(places[:, 1] + config.margin)
    first = np.ones(len(places), bool)
    first[1:] = starts[1:] > ends[:-1]  # windows that touch are one cut
    last = np.append(first[1:], True)
    cut_from, cut_to = np.maximum(starts[first], 0), np.minimum(ends[last], characters)
    if len(cut_from) > config.most_cuts:
        return TOO_MANY_CUTS, len(cut_from), []
    between = zip([0, *cut_to.tolist()], [*cut_from.tolist(), characters], strict=True)
    kept = [(start, end) for start, end in between if end - start >= config.shortest_piece]
    return (None if kept else NOTHING_LEFT), len(cut_from), kept


def kept_share() -> Column:
    """Of a row of CONTAMINATED_DOCUMENTS: the share of its characters that is left, in [0, 1]."""
    return F.col("kept_characters") / F.col("characters")


def pieces_of(text: str | Column, pieces: str | Column) -> Column:
    """What is left of a document as texts, array<string>, by the places of its pieces; null pieces: the whole text."""
    text_, pieces_ = (F.col(c) if isinstance(c, str) else c for c in (text, pieces))
    cut = F.transform(pieces_, lambda p: F.substring(text_, p["start"] + 1, p["end"] - p["start"]))
    return F.when(pieces_.isNull(), F.array(text_)).otherwise(cut)
