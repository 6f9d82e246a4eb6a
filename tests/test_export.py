"""Exports against a slow reference of order, repetition and cut, read by the readers that trainers use."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.dataset as arrow_datasets
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from betr import cli
from betr.tables import CORPUS_SCORES, DOCUMENTS, SELECTIONS
from curation import export as exporting
from curation.errors import InputError
from curation.export import MANIFEST, PARTS, STARTED, ExportConfig, check_shared, export
from curation.frames import driver_rows
from curation.shards import FORMATS, Shard
from curation.tables import Tables
from tests.helpers import interpreting_environment
from tests.test_shards import read_back

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

SCHEMA = "id string, text string, tokens bigint, weight double, source string, metadata map<string,string>"
SMALL: dict[str, Any] = {"shard_bytes": 4000, "epochs": 1.6}
ORIGIN = {"selection_id": "s1"}


def record(i: int) -> dict[str, Any]:
    text = f"{i} naïve 漢字\n" + "abc " * (i * 37 % 60)
    metadata = None if i % 9 == 8 else {"b": str(i), "a": 'x"\\'}
    return {"id": f"d{i}", "text": text, "tokens": i % 11, "weight": (i % 5) / 2, "source": ("web", None)[i % 2], "metadata": metadata}


def frame(spark: SparkSession, rows: Iterable[dict[str, Any]]) -> DataFrame:
    return driver_rows(spark, [tuple(row.values()) for row in rows], SCHEMA)


ROWS = [record(i) for i in range(200)]


# -- the reference -----------------------------------------------------------------------------------------------------


PRIMES = 11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261
MASK = 2**64 - 1


def turned(value: int, bits: int) -> int:
    value &= MASK
    return (value << bits | value >> (64 - bits)) & MASK


def xxh64(data: bytes, seed: int) -> int:
    """XXH64 of up to 31 bytes, as its specification has it."""
    assert len(data) < 32
    one, two, three, four, five = PRIMES
    found, at = seed + five + len(data), 0
    while len(data) - at >= 8:
        lane = int.from_bytes(data[at : at + 8], "little")
        found, at = turned(found ^ turned(lane * two, 31) * one & MASK, 27) * one + four, at + 8
    if len(data) - at >= 4:
        found, at = turned(found ^ int.from_bytes(data[at : at + 4], "little") * one & MASK, 23) * two + three, at + 4
    for byte in data[at:]:
        found = turned(found ^ byte * five & MASK, 11) * one
    found &= MASK
    found = (found ^ found >> 33) * two & MASK
    found = (found ^ found >> 29) * three & MASK
    return found ^ found >> 32


def fraction(salt: str, seed: int, name: str) -> float:
    """`hash_fraction`: Spark hashes one value after the other, each seeded with the hash so far."""
    return (xxh64(name.encode(), xxh64(f"{salt}/{seed}".encode(), 42)) >> 11) * 2**-53


def reference(rows: Iterable[dict[str, Any]], config: ExportConfig) -> list[list[dict[str, Any]]]:
    """The shards' records in their order."""
    placed = []
    for row in rows:
        times = row["weight"] * config.epochs if config.weights == "repeat" else config.epochs
        more = fraction("export once more", config.order_seed, row["id"]) < times - math.floor(times)
        for repetition in range(math.floor(times) + more):
            placed.append((fraction("export", config.order_seed, f"{row['id']}/{repetition}"), row))
    placed.sort(key=lambda each: each[0])
    size = {row["id"]: len(row["text"].encode()) for row in rows}
    cuts = math.ceil(sum(size[row["id"]] for _, row in placed) / config.shard_bytes)
    while True:
        shards: dict[int, list[dict[str, Any]]] = {}
        for place, row in placed:
            shards.setdefault(int(place * cuts), []).append(row)
        held = [[size[row["id"]] for row in shard] for shard in shards.values()]
        if all(sum(sizes) - max(sizes) <= 2 * config.shard_bytes for sizes in held):
            return [shards[range_] for range_ in sorted(shards)]
        cuts *= 2


def as_read(format: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a format makes of a record: JSON of its map, parsed where the reader does; no null in a string of MDS."""
    text = None if row["metadata"] is None else dict(sorted(row["metadata"].items()))
    metadata = text if format in ("jsonl", "mds") or text is None else json.dumps(text, ensure_ascii=False, separators=(",", ":"))
    return row | {"metadata": metadata, "source": row["source"] or ""} if format == "mds" else row | {"metadata": metadata}


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
    return found


def held(folder: Path) -> list[list[dict[str, Any]]]:
    found = manifest_of(folder)
    return [read_back(found["settings"]["format"], folder / each["name"]) for each in found["shards"]]


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder, and when it was written."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in sorted(folder.rglob("*")) if file.is_file()}


# -- what lies in the shards -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The same records in each format, exported when first asked for; tests only read them."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def in_format(format: str) -> Path:
        export(frame(spark, ROWS), ExportConfig(format=format, **SMALL), str(folder / format), origin=ORIGIN)
        return folder / format

    return in_format


@pytest.mark.parametrize("format", FORMATS)
def test_shards_hold_what_the_slow_reference_says(exported: Callable[[str], Path], format: str) -> None:
    config, folder = ExportConfig(format=format, **SMALL), exported(format)
    expected, found = reference(ROWS, config), manifest_of(folder)
    assert held(folder) == [[as_read(format, row) for row in shard] for shard in expected] and len(expected) > 5
    assert [each["records"] for each in found["shards"]] == [len(shard) for shard in expected]
    assert [each["tokens"] for each in found["shards"]] == [sum(row["tokens"] for row in shard) for shard in expected]
    assert found["totals"] == {
        "shards": len(expected), "records": sum(map(len, expected)), "tokens": sum(row["tokens"] for s in expected for row in s),
        "text_bytes": sum(len(row["text"].encode()) for s in expected for row in s),
        "bytes": sum((folder / each["name"]).stat().st_size for each in found["shards"]),
    }  # fmt: skip
    beside = {"mds": {"index.json"}, "hf": {"README.md"}}.get(format, set())
    assert set(files(folder)) == {MANIFEST, *beside, *(each["name"] for each in found["shards"])}


def test_spark_and_arrow_read_a_folder_of_parquet_as_it_is(exported: Callable[[str], Path], spark: SparkSession) -> None:
    expected = [as_read("parquet", row) for shard in reference(ROWS, ExportConfig(**SMALL)) for row in shard]
    assert arrow_datasets.dataset(exported("parquet"), format="parquet").to_table().to_pylist() == expected
    read = spark.read.parquet(str(exported("parquet")))
    assert sorted(row["id"] for row in read.select("id").collect()) == sorted(row["id"] for row in expected)


def test_hugging_faces_datasets_reads_equal_rows(
    exported: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", cache := str(tmp_path))
    import datasets

    expected = [row for shard in reference(ROWS, ExportConfig(**SMALL)) for row in shard]
    found = datasets.load_dataset(str(exported("hf")), cache_dir=cache)
    assert list(found) == ["train"] and found["train"].to_list() == [as_read("hf", row) for row in expected]
    lines = datasets.load_dataset("json", data_files=str(exported("jsonl") / "*.jsonl.zst"), cache_dir=cache, split="train")
    assert [(row["id"], row["text"], row["tokens"]) for row in lines] == [(r["id"], r["text"], r["tokens"]) for r in expected]


def test_mosaicmls_streaming_reads_equal_rows(exported: Callable[[str], Path]) -> None:
    streaming = pytest.importorskip("streaming")  # asks for older numpy and transformers than ours: docs/export.md
    expected = [as_read("mds", row) for shard in reference(ROWS, ExportConfig(**SMALL)) for row in shard]
    local = streaming.LocalDataset(str(exported("mds")))
    assert [local[i] for i in range(len(local))] == expected
    dataset = streaming.StreamingDataset(
        local=str(exported("mds")), shuffle=False, batch_size=1, num_canonical_nodes=1, validate_hash="sha256"
    )
    assert [dataset[i] for i in range(len(dataset))] == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs": 1.0, "order_seed": 3},
        {"epochs": 1.5, "weights": "repeat"},
        {"shard_bytes": 150},  # less than many a record: ranges are halved, and some stay empty
    ],
)
def test_seeds_weights_and_small_shards_do_what_the_reference_says(
    spark: SparkSession, tmp_path: Path, changed: dict[str, Any]
) -> None:
    config, rows = ExportConfig(**{**SMALL, **changed}), ROWS[:60]
    said = export(frame(spark, rows), config, str(tmp_path / "out"), origin=ORIGIN)
    expected = reference(rows, config)
    assert held(tmp_path / "out") == [[as_read("parquet", row) for row in shard] for shard in expected]
    there = {row["id"] for shard in expected for row in shard}
    assert said["distinct"] == 60 and said["left_out"] == 60 - len(there)
    assert (said["left_out"] > 0) == (config.weights == "repeat")


def test_partitions_change_no_byte_and_the_size_of_shards_no_order(
    exported: Callable[[str], Path], spark: SparkSession, tmp_path: Path
) -> None:
    turned = frame(spark, reversed(ROWS)).repartition(5, "text")
    export(turned, ExportConfig(**SMALL), str(tmp_path / "same"), origin=ORIGIN)
    assert (tmp_path / "same" / MANIFEST).read_bytes() == (exported("parquet") / MANIFEST).read_bytes()
    assert list(files(tmp_path / "same")) == list(files(exported("parquet")))
    export(turned, ExportConfig(**{**SMALL, "shard_bytes": 9000}), str(tmp_path / "larger"), origin=ORIGIN)
    larger, smaller = held(tmp_path / "larger"), held(exported("parquet"))
    assert len(larger) < len(smaller) and [*chain(*larger)] == [*chain(*smaller)]


# -- again, and after what went wrong ----------------------------------------------------------------------------------


def test_a_second_export_writes_nothing(exported: Callable[[str], Path], spark: SparkSession) -> None:
    for format in FORMATS:
        folder = exported(format)
        before = files(folder)
        said = export(frame(spark, ROWS), ExportConfig(format=format, **SMALL), str(folder), origin=ORIGIN)
        assert said["state"] == "unchanged" and files(folder) == before
        assert {name: said[name] for name in ("shards", "records", "bytes")}.items() <= manifest_of(folder)["totals"].items()


def test_what_a_kill_after_the_manifest_left_is_cleared_away(
    exported: Callable[[str], Path], spark: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(exported("hf"), folder)
    before = list(files(folder))
    (folder / PARTS).mkdir()
    orphan = FORMATS["hf"].name.format(number=0, of=2, hash="0" * 16)
    for left in (f"{PARTS}/0.part", STARTED, orphan):
        (folder / left).write_text("{}")
    said = export(frame(spark, ROWS), ExportConfig(format="hf", **SMALL), str(folder), origin=ORIGIN)
    assert said["state"] == "unchanged" and list(files(folder)) == before and not (folder / PARTS).exists()


def test_an_export_whose_task_dies_in_the_middle_goes_on_and_leaves_no_orphan(
    exported: Callable[[str], Path], spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real, config = tmp_path / "out", exporting.write_shard, ExportConfig(format="jsonl", **SMALL)

    def dying(batches: Iterable[Any], *, number: int, **given: Any) -> Shard:
        def halfway() -> Iterable[Any]:
            for batch in batches:
                yield batch.slice(0, 1)
                os._exit(1)

        return real(halfway() if number == 5 else batches, number=number, **given)

    monkeypatch.setattr(exporting, "write_shard", dying)
    with pytest.raises(Exception, match=r"(?i)python worker|crashed|EOF"):
        export(frame(spark, ROWS), config, str(folder), origin=ORIGIN)
    monkeypatch.undo()
    assert not (folder / MANIFEST).exists() and (folder / STARTED).exists() and list((folder / PARTS).glob("*.part"))
    finished = {name: when for name, when in files(folder).items() if name.startswith("shard-")}
    orphan = folder / FORMATS["jsonl"].name.format(number=5, of=99, hash="0" * 16)
    orphan.write_text("of a task with other libraries, whose answer never came")
    said = export(frame(spark, ROWS), config, str(folder), origin=ORIGIN)
    assert said["state"] == "resumed" and finished and finished.items() <= files(folder).items()
    assert (folder / MANIFEST).read_bytes() == (exported("jsonl") / MANIFEST).read_bytes()
    assert list(files(folder)) == list(files(exported("jsonl"))) and not (folder / PARTS).exists()

    broken, gone = sorted(file for file in folder.iterdir() if file.name.startswith("shard-"))[:2]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-1] + b"?")
    gone.unlink()
    assert export(frame(spark, ROWS), config, str(folder), origin=ORIGIN)["state"] == "resumed"
    assert broken.read_bytes() == whole and list(files(folder)) == list(files(exported("jsonl")))


RETRIED = """
import os
import sys
from pathlib import Path

from curation import export as exporting
from curation.session import get_session
from tests.test_export import ORIGIN, ROWS, SMALL, frame

spark, out, flag, real = get_session(master="local[2,3]"), sys.argv[1], Path(sys.argv[2]), exporting.write_shard

def dying(batches, *, number, **given):
    def halfway():
        for batch in batches:
            yield batch.slice(0, 1)
            flag.touch()
            os._exit(1)
    return real(halfway() if number == 5 and not flag.exists() else batches, number=number, **given)

exporting.write_shard = dying
said = exporting.export(frame(spark, ROWS), exporting.ExportConfig(format="mds", **SMALL), out, origin=ORIGIN)
assert flag.exists() and said["state"] == "done", said
"""


@pytest.mark.night
@pytest.mark.slow
def test_a_task_that_spark_tries_again_leaves_no_orphan(exported: Callable[[str], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", RETRIED, str(tmp_path / "out"), str(tmp_path / "died")]
    root, env = Path(__file__).parent.parent, interpreting_environment()
    result = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert list(files(tmp_path / "out")) == list(files(exported("mds")))
    assert (tmp_path / "out" / MANIFEST).read_bytes() == (exported("mds") / MANIFEST).read_bytes()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": "csv"}, "--format must be one of parquet, jsonl, mds, hf; got 'csv'"),
        ({"weights": "twice"}, "--weights must be one of column, repeat; got 'twice'"),
        ({"shard_bytes": 0}, r"--shard-bytes must be in 1\.\..* got 0"),
        ({"format": "mds", "shard_bytes": 2**32}, r"--shard-bytes must be in 1\.\.1,073,741,824 \(mds\)"),
        ({"epochs": 0.0}, "--epochs must be above 0 and at most 100; got 0"),
        ({"epochs": math.nan}, "--epochs must be above 0 and at most 100; got nan"),
    ],
)
def test_a_setting_out_of_its_range_is_refused_at_birth(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ExportConfig(**changed)


def test_a_folder_that_is_not_empty_is_refused_and_stays_as_it_is(
    exported: Callable[[str], Path], spark: SparkSession, tmp_path: Path
) -> None:
    records, config = frame(spark, ROWS), ExportConfig(**SMALL)
    (tmp_path / "mine.txt").write_text("mine")
    before = files(exported("jsonl"))
    for out, message in [
        (tmp_path, r"isn't empty \(mine.txt\), and holds no export; choose another folder, or empty it"),
        (tmp_path / "mine.txt", r"is no folder that can be read \(Not a directory\); choose another folder"),
        (exported("jsonl"), r"holds another export \(selection_id s1, format jsonl, .*choose another folder, or empty it"),
        ("s3://bucket/out", "--out s3://bucket/out: shards are written as files; give a path, as of a mounted volume"),
    ]:
        with pytest.raises(InputError, match=message):
            export(records, config, str(out), origin=ORIGIN)
    with pytest.raises(InputError, match="holds another export"):  # the same settings, of another selection
        export(records, config, str(exported("parquet")), origin={"selection_id": "s2"})
    assert list(files(tmp_path)) == ["mine.txt"] and files(exported("jsonl")) == before
    (tmp_path / "mine.txt").unlink()
    (tmp_path / PARTS).mkdir()  # all that a try that was killed at once may leave
    assert exporting.Folder(str(tmp_path), "e1").look() is None
    (tmp_path / STARTED).write_text('{"export_id": "e1", "plan"')
    with pytest.raises(InputError, match="is cut short"):
        exporting.Folder(str(tmp_path), "e1").look()


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"text": None}, {}, "3 of 9 records have no text; nothing was written"),
        ({"tokens": None}, {}, "3 of 9 records have no tokens"),
        ({"weight": None}, {"weights": "repeat"}, "3 of 9 records have no weight"),
        ({"weight": -1.0}, {"weights": "repeat"}, "3 records have a weight that is no number from 0 on"),
        ({"weight": math.nan}, {"weights": "repeat"}, "3 records have a weight that is no number from 0 on"),
        ({"weight": 1e30}, {"weights": "repeat"}, "would be there 1,000,.* times, and 100 is the most"),
        ({"id": "d1"}, {}, "the id 'd1' stands for two records"),
        ({}, {"epochs": 0.001}, "--epochs 0.001 leaves out all 9 records; raise it"),
    ],
)
def test_records_that_cannot_be_placed_are_refused(
    spark: SparkSession, tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    rows = [record(i) | (change if i % 3 == 0 else {}) for i in range(9)]
    with pytest.raises(InputError, match=message):
        export(frame(spark, rows), ExportConfig(**settings), str(tmp_path / "out"), origin=ORIGIN)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_what_goes_wrong_while_shards_are_written_is_said(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, plan, write = frame(spark, [record(i) for i in range(4)]).coalesce(1), exporting.make_plan, exporting.write_shard

    def before_one_came(records: DataFrame, config: ExportConfig) -> Any:
        return plan(records.where("id != 'd0'"), config)

    def out_of_sight(*given: Any, out: Path, **how: Any) -> Shard:
        shard = write(*given, out=out, **how)
        (out / shard.name).unlink()
        return shard

    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / PARTS).touch()  # a file in the place of a folder
    for out, changed, message in [
        ("taken", dict[str, Any](), r"taken can't be written \(File exists\); choose another folder"),
        ("out", dict[str, Any](make_plan=before_one_came), "out: the records changed while they were written; empty this folder"),
        ("out", dict[str, Any](), "out was begun with other records; choose another folder, or empty it"),
        ("else", dict[str, Any](write_shard=out_of_sight), r"the driver doesn't see .*\.parquet, which an executor wrote; name a folder"),
    ]:
        with monkeypatch.context() as here:
            for name, value in changed.items():
                here.setattr(exporting, name, value)
            with pytest.raises(InputError, match=message):
                export(rows, ExportConfig(), str(tmp_path / out), origin=ORIGIN)
        assert not (tmp_path / out / MANIFEST).exists()


def test_an_executor_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the executor on .* doesn't see the driver's folder; name one that both share"):
        check_shared(tmp_path / "elsewhere", "e1")


# -- betr export -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_selection_is_exported_whole_and_the_second_time_not_at_all(
    finished: tuple[Path, dict[str, Any]], spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = finished
    kept = report["selection"]
    out = tmp_path / "out"
    command = ["export", "--tables", str(folder / "tables"), "--out", str(out), "--format", "hf", "--shard-bytes", "20000", "--json"]
    assert cli.main(command) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert said["state"] == "done" and said["manifest"] == str(out / MANIFEST) and "export   done: " in captured.err
    assert (said["records"], said["tokens"]) == (kept["kept_documents"], kept["kept_tokens"])
    tables = Tables(spark, str(folder / "tables"))
    mine = tables.read(SELECTIONS).where(F.col("selection_id") == kept["selection_id"])
    expected = {
        row["doc_id"]: row.asDict() for row in mine.join(tables.read(DOCUMENTS), "doc_id").join(
            tables.read(CORPUS_SCORES).drop("source", "chunk"), "doc_id").collect()
    }  # fmt: skip
    found = [*chain(*held(out))]
    assert len(found) == len(expected) and {row["id"] for row in found} == set(expected)
    for row in found:
        mine_ = expected[row["id"]]
        assert all(row[name] == mine_[name] for name in ("text", "source", "license", "tokens", "score", "weight"))
        assert json.loads(row["metadata"]) == mine_["metadata"]
    manifest = manifest_of(out)
    assert manifest["plan"]["text_bytes"] == manifest["totals"]["text_bytes"]
    assert manifest["origin"] == {"selection_id": kept["selection_id"]} and manifest["read"]["selection"] == "default@1"
    assert manifest["read"]["versions"].keys() >= {"selections", "documents", "corpus_scores"}
    card = (out / "README.md").read_text()
    assert card.startswith("---\n") and "data/train-*.parquet" in card and f"{kept['kept_tokens']:,} tokens" in card
    before = files(out)
    assert cli.main([*command, "--selection", "default@1"]) == 0
    assert json.loads(capsys.readouterr().out) == {**said, "state": "unchanged"} and files(out) == before
    assert cli.main([*command, "--selection", "wiki"]) == 1
    assert "'wiki' is no selection in" in capsys.readouterr().err
