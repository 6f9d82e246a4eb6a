"""Hugging Face datasets: which files of a snapshot hold its rows, and how those of the hub get here.

A snapshot is a folder as the hub has it, with a card (README.md), or one that `save_to_disk` wrote. No code of a
dataset is run.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import yaml

from curation.errors import InputError, MissingExtraError

SCHEME = "hf://datasets/"
CARD = "README.md"
SAVED, SAVED_SPLITS, ABOUT = "state.json", "dataset_dict.json", "dataset_info.json"
NOT_ROWS = (CARD, SAVED, SAVED_SPLITS, ABOUT, "dataset_infos.json")
_NAME = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>refs/\w+/\w+|[^/:]+))?"
    r"(/(?P<path>[^:]+?))?/?(:(?P<split>[\w.-]+))?"
)


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset: its name there, where it lies here, and the hash and commit that the hub has it under."""

    name: str
    place: str
    bytes: int
    content: str
    revision: str


def fetch(name: str, kind_of: Callable[[str], str | None]) -> list[HubFile]:
    """The files behind hf://datasets/OWNER/NAME[@REVISION][/CONFIGURATION or /PATH][:SPLIT], in the hub's local cache.

    kind_of: a file's format by its name, None for one that can't be read.
    """
    match = _NAME.fullmatch(name)
    if not match:
        raise InputError(
            f"{name} names no dataset; write {SCHEME}OWNER/NAME[@REVISION][/CONFIGURATION or /PATH][:SPLIT]"
        )
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise MissingExtraError(f"reading {name} (there is no huggingface_hub)", "hub") from error
    repo = match["repo"]
    try:
        revision = unquote(match["revision"]) if match["revision"] else None
        found = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        there = {each.rfilename: each for each in found.siblings or []}

        def get(names: list[str]) -> str:
            patterns = [glob.escape(each) for each in names]
            return str(snapshot_download(repo, repo_type="dataset", revision=found.sha, allow_patterns=patterns))

        card = _read(os.path.join(get([CARD]), CARD)) if CARD in there else ""
        chosen = choose(there, card, kind_of, label=name, part=match["path"], split=match["split"])
        folder = get(chosen)
    except InputError:
        raise
    except Exception as error:  # of the hub's library, of its HTTP client, of the disk
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{name} can't be fetched ({reason[:300]}); check the name, the network and, for gated datasets, HF_TOKEN"
        ) from error
    files = []
    for each in chosen:
        place = os.path.join(folder, each)
        lfs = there[each].lfs
        content = str((lfs.sha256 if lfs else None) or there[each].blob_id or found.sha)
        files.append(HubFile(f"{SCHEME}{repo}/{each}", place, os.path.getsize(place), content, str(found.sha)))
    return files


def snapshot_files(folder: str, kind_of: Callable[[str], str | None]) -> list[str] | None:
    """The files with rows of a local snapshot; None if the folder is none."""
    there = set(os.listdir(folder))
    if {SAVED, ABOUT} <= there:
        saved = _json(os.path.join(folder, SAVED)).get("_data_files")
        if isinstance(saved, list):
            files = [os.path.join(folder, str(each["filename"])) for each in saved]
            if missing := next((file for file in files if not os.path.isfile(file)), None):
                raise InputError(f"{missing} isn't there, though {SAVED} beside it names it; copy the dataset again")
            return files
    if SAVED_SPLITS in there:
        splits = _json(os.path.join(folder, SAVED_SPLITS)).get("splits")
        if isinstance(splits, list):
            folders = [os.path.join(folder, str(split)) for split in splits]
            return [file for each in folders for file in snapshot_files(each, kind_of) or []]
    if CARD not in there or front_matter(_read(os.path.join(folder, CARD))) is None:
        return None
    names = []
    for place, below, files in os.walk(folder):
        below[:] = [name for name in below if not name.startswith((".", "_"))]
        names += [os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/") for name in files]
    if not any(_holds_rows(name, kind_of) for name in names):
        return None  # a folder of texts, of which one begins like a card
    chosen = choose(names, _read(os.path.join(folder, CARD)), kind_of, label=folder)
    return [os.path.join(folder, name) for name in chosen]


def choose(
    names: Iterable[str], card: str, kind_of: Callable[[str], str | None], *, label: str, part: str | None = None,
    split: str | None = None,
) -> list[str]:  # fmt: skip
    """Of a dataset's files those with its rows, sorted: of a configuration of its card, of a path or glob, of a split.

    Without either those of the only or the default configuration, else all whose format holds rows.
    """
    names = sorted(name for name in names if not _hidden(name) and name.rsplit("/", 1)[-1] not in NOT_ROWS)
    configurations = _configurations(card)
    if part is not None and part not in configurations:
        inside = _matching(names, [part])
        found = [name for name in inside if kind_of(name) is not None]
        if split is not None:
            found = [name for name in found if _of_split(name, split)]
        if not found:
            raise InputError(
                f"{label}: no file that can be read is at {part!r}{_or_split(split)}; "
                f"its configurations: {sorted(configurations) or 'none'}, its files: {_some(names)}"
            )
        return found
    if part is None and len(configurations) > 1:
        part = next((each for each, (_, default) in configurations.items() if default), None)
        if part is None:
            raise InputError(
                f"{label} has the configurations {sorted(configurations)}; name one behind it, or the path of its files"
            )
    part = part if part is not None else next(iter(configurations), None)
    if part is None:
        found = [name for name in names if _holds_rows(name, kind_of) and (split is None or _of_split(name, split))]
    else:
        splits, _ = configurations[part]
        if split is not None and split not in splits:
            raise InputError(f"{label}: the configuration {part!r} has the splits {sorted(splits)}; name one of them")
        patterns = splits[split] if split is not None else [each for some in splits.values() for each in some]
        found = _matching(names, patterns)
        if unknown := [name for name in found if kind_of(name) is None]:
            raise InputError(f"{label}: the format of {unknown[0]} can't be read; name the path of its other files")
    if not found:
        raise InputError(f"{label} holds no file that can be read{_or_split(split)}; its files: {_some(names)}")
    return found


def front_matter(card: str) -> dict[str, Any] | None:
    """What a card says of its dataset to machines, between two lines `---` at its beginning."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", card, re.DOTALL | re.MULTILINE)
    if not match:
        return None
    try:
        said = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return None
    return said if isinstance(said, dict) else None


def _configurations(card: str) -> dict[str, tuple[dict[str, list[str]], bool]]:
    """name -> (split -> patterns of its files, whether it is the default one)."""
    said = (front_matter(card) or {}).get("configs")
    found = {}
    for each in said if isinstance(said, list) else []:
        splits = _splits(each) if isinstance(each, dict) else {}
        if splits:
            name = str(each.get("config_name", "default"))
            found[name] = (splits, name == "default" or each.get("default") is True)
    return found


def _splits(configuration: dict[str, Any]) -> dict[str, list[str]]:
    files, folder = configuration.get("data_files"), str(configuration.get("data_dir") or "")
    if files is None:
        return {"train": [f"{folder}/**"]} if folder else {}
    if isinstance(files, dict):
        files = [{"split": split, "path": path} for split, path in files.items()]
    splits: dict[str, list[str]] = {}
    for each in files if isinstance(files, list) else [files]:
        split, path = (each.get("split"), each.get("path")) if isinstance(each, dict) else ("train", each)
        for pattern in path if isinstance(path, list) else [path]:
            splits.setdefault(str(split or "train"), []).append(os.path.join(folder, str(pattern)))
    return splits


def _matching(names: list[str], patterns: Iterable[str]) -> list[str]:
    expressions = [_expression(pattern) for pattern in patterns]
    return [name for name in names if any(expression.fullmatch(name) for expression in expressions)]


def _expression(pattern: str) -> re.Pattern[str]:
    """A glob over paths: `*` stays within a folder, `**` doesn't; a folder means all below it."""
    written = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern.strip("/"))
    text = "".join(
        written.get(p) or (p.replace("[!", "[^", 1) if p.startswith("[") and p.endswith("]") else re.escape(p))
        for p in parts
    )
    return re.compile(f"{text}(?:/.*)?")


def _holds_rows(name: str, kind_of: Callable[[str], str | None]) -> bool:
    return name.rsplit("/", 1)[-1] not in NOT_ROWS and kind_of(name) not in (None, "text")


def _of_split(name: str, split: str) -> bool:
    return re.search(rf"(?:^|[/._-]){re.escape(split)}(?:[/._-]|$)", name) is not None


def _or_split(split: str | None) -> str:
    return f" of the split {split!r}" if split is not None else ""


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _some(names: list[str]) -> str:
    return f"{names[:5]} and {len(names) - 5:,} more" if len(names) > 5 else str(names)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _json(path: str) -> dict[str, Any]:
    try:
        said = json.loads(_read(path))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); save the dataset again") from error
    return said if isinstance(said, dict) else {}
