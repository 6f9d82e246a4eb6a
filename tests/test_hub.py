"""Hugging Face datasets: of a snapshot the files with its rows are read, wherever it lies, and known by their content."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha1
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from betr import pipeline
from betr.stages import import_documents
from betr.tables import DOCUMENTS
from curation import hub
from curation.documents import Columns, InputFile, _format, list_inputs, read_rows
from curation.errors import InputError, MissingExtraError, SchemaError, input_errors
from curation.hub import HubFile, choose, front_matter
from curation.progress import Terminal
from curation.slices import cut_slices
from tests.helpers import settings

pytestmark = pytest.mark.processes  # beside the others, under Spark Connect

NO_SPARK: Any = None  # local files are listed without it

CARD = """---
license: cc0-1.0
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: [data/test-*.parquet]
- config_name: german
  data_dir: de
---
# A dataset
"""
FILES = [
    ".gitattributes", "README.md", "data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet",
    "data/extra/train-9.parquet", "de/a.jsonl", "de/more/b.jsonl.gz", "dataset_infos.json", "logo.png", "load.py",
]  # fmt: skip


def chosen(card: str = CARD, part: str | None = None, split: str | None = None, names: list[str] = FILES) -> list[str]:
    return choose(names, card, _format, label="a dataset", part=part, split=split)


def table(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table({"id": [str(n) for n in numbers], "text": [f"text number {n}" for n in numbers]})


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def parquet(rows: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out)
    return out.getvalue()


def arrow(rows: pa.Table, new: Callable[..., Any] = pa.ipc.new_stream) -> bytes:
    out = io.BytesIO()
    with new(out, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=3)
    return out.getvalue()


def saved(splits: dict[str, list[pa.Table]]) -> dict[str, bytes]:
    """The files of `DatasetDict.save_to_disk`."""
    files = {"dataset_dict.json": json.dumps({"splits": list(splits)}).encode()}
    for split, parts in splits.items():
        names = [f"data-{n:05}-of-{len(parts):05}.arrow" for n in range(len(parts))]
        files |= {f"{split}/{name}": arrow(part) for name, part in zip(names, parts, strict=True)}
        state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": split}
        files |= {f"{split}/state.json": json.dumps(state).encode(), f"{split}/dataset_info.json": b"{}"}
    return files


# -- which files -------------------------------------------------------------------------------------------------------


def test_the_card_says_which_files_hold_the_rows() -> None:
    both = ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]
    assert chosen() == both == chosen(part="default")
    assert chosen(split="test") == both[:1]
    assert chosen(part="german") == ["de/a.jsonl", "de/more/b.jsonl.gz"]


def test_without_a_card_all_files_with_rows_are_taken() -> None:
    rows = ["data/extra/train-9.parquet", "data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]
    assert chosen(card="") == [*rows, "de/a.jsonl", "de/more/b.jsonl.gz"]
    assert chosen(card="", split="test") == rows[1:2]


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("data/train-1.parquet", ["data/train-1.parquet"]),
        ("data/*.parquet", ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]),
        ("data/**/train-[!0].parquet", ["data/extra/train-9.parquet", "data/train-1.parquet"]),
        ("de", ["de/a.jsonl", "de/more/b.jsonl.gz"]),
        ("**/*.jsonl*", ["de/a.jsonl", "de/more/b.jsonl.gz"]),
    ],
)
def test_a_path_or_a_glob_names_files(part: str, files: list[str]) -> None:
    assert chosen(part=part) == files


def test_what_names_no_file_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no file that can be read is at 'fr'.*\['default', 'german'\]"):
        chosen(part="fr")
    with pytest.raises(InputError, match=r"'default' has the splits \['test', 'train'\]"):
        chosen(split="validation")
    with pytest.raises(InputError, match=r"has the configurations \['german', 'normal'\]; name one"):
        chosen(card=CARD.replace("config_name: default", "config_name: normal"))
    with pytest.raises(InputError, match="holds no file that can be read"):
        chosen(card="", names=["README.md", "a.csv"])
    with pytest.raises(InputError, match=r"the format of a\.csv can't be read"):
        chosen(card="---\nconfigs:\n- data_files: '*.csv'\n---\n", names=["README.md", "a.csv", "b.jsonl"])


def test_only_a_mapping_between_two_lines_is_front_matter() -> None:
    assert front_matter("---\na: 1\n---\ntext") == {"a": 1} == front_matter("---\r\na: 1\r\n---\r\n")
    assert all(front_matter(text) is None for text in ("", "a: 1", "---\n- a\n---\n", "---\na: [\n---\n", "---\na: 1\n"))


# -- local snapshots ---------------------------------------------------------------------------------------------------


def listed(folder: Path) -> list[str]:
    return [os.path.relpath(file.path, folder) for file in list_inputs(NO_SPARK, [str(folder)])]


def test_of_a_local_snapshot_the_card_and_other_files_are_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "corpora" / "one", dict.fromkeys(FILES, b"x") | {"README.md": CARD.encode()})
    write(tmp_path / "corpora", {"notes.txt": b"a document"})
    there = ["data/test-0.parquet", "data/train-0.parquet", "data/train-1.parquet"]
    assert listed(tmp_path / "corpora") == ["notes.txt", *(f"one/{name}" for name in there)]


def test_a_folder_of_texts_that_looks_like_a_card_stays_one(tmp_path: Path) -> None:
    write(tmp_path, {"README.md": b"---\ntitle: a page\n---\ntext", "b.md": b"text"})
    assert listed(tmp_path) == ["README.md", "b.md"]


def test_of_a_saved_dataset_its_own_list_counts(tmp_path: Path) -> None:
    write(tmp_path, saved({"train": [table(0, 5), table(5, 5)], "test": [table(10, 2)]}))
    write(tmp_path, {"train/cache-1.arrow": b"left over"})
    files = ["train/data-00000-of-00002.arrow", "train/data-00001-of-00002.arrow"]
    assert listed(tmp_path) == ["test/data-00000-of-00001.arrow", *files]
    assert listed(tmp_path / "train") == [name.removeprefix("train/") for name in files]
    (tmp_path / files[1]).unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002.arrow isn't there, though state.json"):
        listed(tmp_path)
    (tmp_path / "train" / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"train/state\.json is no JSON \(.*; save the dataset again$"):
        listed(tmp_path)


# -- Arrow files -------------------------------------------------------------------------------------------------------


def test_arrow_and_parquet_give_the_same_rows(spark: SparkSession, tmp_path: Path) -> None:
    rows = table(0, 20)
    more = {
        "n": pa.array(range(20), pa.uint8()), "when": [datetime(2026, 1, 2, 3, 4, n, tzinfo=UTC) for n in range(20)],
        "none": pa.nulls(20), "nested": [{"a": [n, None], "b": "x"} for n in range(20)],
        "kind": pa.array(["p", "q"] * 10).dictionary_encode(), "large": pa.array(["ö"] * 20, pa.large_string()),
        "bytes": pa.array([b"\xff\x00"] * 20), "half": pa.array([0.5] * 20),
    }  # fmt: skip
    for name, column in more.items():
        rows = rows.append_column(name, column if isinstance(column, pa.Array) else pa.array(column))
    other = table(20, 3).rename_columns(["id", "body"])
    files = {
        "stream.arrow": arrow(rows), "file.arrow": arrow(rows, pa.ipc.new_file),
        "rows.parquet": parquet(rows.drop_columns("none")),
    }  # fmt: skip
    write(tmp_path, files)
    found: dict[str, list[Any]] = {}
    for row in read_rows(spark, list_inputs(spark, [str(tmp_path)]), Columns()).collect():
        values = [row[name] for name in ("block", "ordinal", "id", "text", "license", "reason")]
        found.setdefault(os.path.basename(row["file"]), []).append([*values, sorted(row["metadata"].items())])
        assert row["source"] == os.path.basename(row["file"]).split(".")[0]
    expected = sorted(found["rows.parquet"])
    assert len(expected) == 20 and dict(expected[0][-1])["when"] == "2026-01-02T03:04:00.000000Z"
    assert sorted(found["stream.arrow"]) == expected and sorted(found["file.arrow"]) == expected
    (tmp_path / "other.arrow").write_bytes(arrow(other))
    with pytest.raises(SchemaError, match=r"other.arrow: no column 'text'; it has \['id', 'body'\]"):
        read_rows(spark, list_inputs(spark, [str(tmp_path / "other.arrow")]), Columns())


@pytest.mark.parametrize("cut", [3, 200, -300])
def test_an_arrow_file_that_is_cut_short_is_named(spark: SparkSession, tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.arrow").write_bytes(arrow(table(0, 50))[:cut])
    with pytest.raises(InputError, match=r"a\.arrow is cut short or no Arrow file \(.*; fetch it again$"), input_errors():
        read_rows(spark, list_inputs(spark, [str(tmp_path)]), Columns()).collect()


def test_slices_go_on_through_an_arrow_file(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(arrow(table(0, 100)))
    file = InputFile(str(tmp_path / "a.arrow"), "arrow", 1_000, 0)
    parts = cut_slices(NO_SPARK, [file], [30, 60, 60], tmp_path / "slices")
    assert [(part.rows, part.bytes) for part in parts] == [(30, 300.0), (60, 600.0), (60, 600.0)]
    second = pa.ipc.open_stream((Path(parts[1].path) / "0-a.arrow").read_bytes()).read_all()
    assert second["id"].to_pylist() == [str(n) for n in range(30, 90)]


# -- the hub -----------------------------------------------------------------------------------------------------------


class Hub:
    """What the hub's library does, without the hub: lists a dataset's files, and copies some into a cache of links."""

    def __init__(self, cache: Path, files: dict[str, bytes], commit: str = "c" * 40) -> None:
        self.cache, self.files, self.commit = cache, files, commit
        self.asked: list[tuple[str, str | None]] = []
        self.copied: set[str] = set()

    def dataset_info(self, repo: str, *, revision: str | None, files_metadata: bool) -> Any:
        self.asked.append((repo, revision))
        if repo != "house/pages":
            raise OSError(f"404: no dataset {repo}\nand more")  # what HfHubHTTPError is
        siblings = [
            SimpleNamespace(rfilename=name, size=len(data), blob_id=sha1(data).hexdigest(), lfs=None)
            for name, data in self.files.items()
        ]
        return SimpleNamespace(sha=self.commit, siblings=siblings)

    def snapshot_download(self, repo: str, *, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (repo_type, revision) == ("dataset", self.commit)
        folder = self.cache / "datasets--house--pages"
        for name, data in self.files.items():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                self.copied.add(name)
                blob, link = folder / "blobs" / sha1(data).hexdigest(), folder / "snapshots" / revision / name
                write(blob.parent, {blob.name: data})
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(blob)
        return str(folder / "snapshots" / revision)


def served(monkeypatch: pytest.MonkeyPatch, fake: Hub) -> Hub:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def pages() -> dict[str, bytes]:
    return {
        "README.md": CARD.encode(), "data/train-0.parquet": parquet(table(0, 4)),
        "data/train-1.parquet": parquet(table(4, 4)), "data/test-0.parquet": parquet(table(8, 2)),
        "de/a b+c.jsonl.gz": gzip.compress(b'{"id": "g", "text": "ein Text"}\n', mtime=0),
        "de/b.arrow": arrow(table(20, 2)), "video.mp4": b"x" * 100,
    }  # fmt: skip


def test_only_the_files_that_are_read_are_fetched_and_known_by_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_hub = served(monkeypatch, Hub(tmp_path / "one", pages()))
    first = list_inputs(NO_SPARK, ["hf://datasets/house/pages@v1.2:train"])
    assert first_hub.asked == [("house/pages", "v1.2")]
    assert first_hub.copied == {"README.md", "data/train-0.parquet", "data/train-1.parquet"}
    assert [file.path for file in first] == [f"hf://datasets/house/pages/data/train-{n}.parquet" for n in (0, 1)]
    assert {file.revision for file in first} == {"c" * 40} and {file.dataset for file in first} == {"house/pages"}

    # Another machine, another day, a commit that changed one file: the other is the same.
    changed = pages() | {"data/train-1.parquet": parquet(table(4, 5))}
    served(monkeypatch, Hub(tmp_path / "two", changed, commit="d" * 40))
    second = list_inputs(NO_SPARK, ["hf://datasets/house/pages:train"])
    same = [(a.path, a.bytes, a.modified) == (b.path, b.bytes, b.modified) for a, b in zip(first, second, strict=True)]
    assert same == [True, False]


def test_of_two_commits_files_that_differ_are_refused_and_equal_ones_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, _: object) -> list[HubFile]:
        path, commit = "hf://datasets/house/pages/a.parquet", name.rpartition("@")[2]
        return [HubFile(path, "/cache/a.parquet", 5, "same" if commit in ("old", "new") else commit, commit)]

    monkeypatch.setattr(hub, "fetch", fetch)
    (file,) = list_inputs(NO_SPARK, ["hf://datasets/house/pages@old", "hf://datasets/house/pages@new"])
    assert file.place == "/cache/a.parquet"
    with pytest.raises(InputError, match=r"pages/a\.parquet is named in two versions of one dataset"):
        list_inputs(NO_SPARK, ["hf://datasets/house/pages@old", "hf://datasets/house/pages@other"])


@pytest.mark.parametrize("name", ["hf://datasets/house", "hf://models/a/b", "hf://datasets/a/b/c:d:e", "hf://"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="names no dataset; write hf://datasets/OWNER/NAME"):
        list_inputs(NO_SPARK, [name])


def test_a_dataset_that_cannot_be_had_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, Hub(tmp_path, pages()))
    with pytest.raises(InputError, match=r"house/none can't be fetched \(.*no dataset.*HF_TOKEN$"):
        list_inputs(NO_SPARK, ["hf://datasets/house/none"])
    with pytest.raises(InputError, match=r"splits \['test', 'train'\]"):
        list_inputs(NO_SPARK, ["hf://datasets/house/pages:dev"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"^reading .*/pages \(there is no huggingface_hub\) needs the extra 'hub', which"):
        list_inputs(NO_SPARK, ["hf://datasets/house/pages"])


@pytest.mark.night
def test_a_dataset_of_the_hub_is_imported_once(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("hf://datasets/house/pages", "hf://datasets/house/pages/german")
    config = settings(tmp_path, documents=names, benchmarks=())
    served(monkeypatch, Hub(tmp_path / "one", pages()))
    with pipeline.opened(config, spark, Terminal(io.StringIO())) as run:
        outcome = import_documents(run)
        documents = {row["doc_id"]: row for row in run.tables.read(DOCUMENTS).collect()}
    assert set(documents) == {*map(str, range(10)), "20", "21", "g"}
    assert outcome["revisions"] == {"house/pages": "c" * 40}
    places = {row["file"].removeprefix("hf://datasets/house/pages/") for row in documents.values()}
    assert places == set(pages()) - {"README.md", "video.mp4"}
    assert documents["g"]["source"] == "a b+c" and documents["0"]["source"] == "train-0"

    changed = pages() | {"data/train-1.parquet": parquet(table(4, 5)), "README.md": CARD.encode() + b"more"}
    served(monkeypatch, Hub(tmp_path / "two", changed, commit="d" * 40))
    with pipeline.opened(config, spark, Terminal(io.StringIO())) as run:
        outcome = import_documents(run)
        assert (outcome["files"], outcome["rejected"], outcome["duplicates"]) == (1, {}, 1)
        assert run.tables.read(DOCUMENTS).count() == len(documents)
