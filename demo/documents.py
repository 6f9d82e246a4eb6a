"""The demo's corpus: docstrings of installed packages, encyclopedia passages, how-tos, captions, each with a domain.

The domain is the answer sheet: it goes into a document's metadata, and the method never reads it.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import metadata, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

DOCUMENT_SCHEMA = "id string, domain string, source string, license string, text string"
FILE_SCHEMA = "path string, name string, domain string, source string, license string"

Packages = Mapping[str, tuple[str, ...]]  # domain -> the names that its packages are imported by

STDLIB = "python"
PACKAGES: Packages = {
    "python library": (STDLIB,),
    "machine learning": ("torch", "transformers", "sklearn", "sentence_transformers", "huggingface_hub", "tokenizers"),
    "scientific computing": ("numpy", "scipy", "pandas", "numba"),
    "mathematics": ("sympy", "networkx", "mpmath"),
    "data engineering": ("pyspark", "delta", "pyarrow", "narwhals", "fsspec", "py4j", "grpc"),
    "developer tools": (
        "_pytest", "hypothesis", "mypy", "setuptools", "pydantic", "pygments", "rich", "click", "jinja2",
        "jsonargparse", "packaging", "anyio", "joblib", "hatchling", "requests", "urllib3",
    ),
}  # fmt: skip
# Where a package is installed under another name than it is imported by.
_DISTRIBUTIONS = {"_pytest": "pytest", "delta": "delta-spark", "grpc": "grpcio", "sklearn": "scikit-learn"}
ENCYCLOPEDIA, HOW_TO, CAPTIONS = "encyclopedia", "how-to", "captions"

FILES_PER_PACKAGE = 400
MAX_FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class SourceFile:
    """A Python file to read docstrings from; `name` is its path below the folder that packages are imported from."""

    path: str
    name: str
    domain: str
    source: str
    license: str


def source_files(packages: Packages) -> list[SourceFile]:
    """The Python files of the installed ones among `packages`, tests left out; of a large package, a choice by hash."""
    files = []
    for domain, names in packages.items():
        for package in names:
            if (place := _folder(package)) is None:
                continue
            root, folder = place
            paths = [path for path in _python_files(folder) if path.stat().st_size <= MAX_FILE_BYTES]
            by_hash = sorted(paths, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())
            license_ = _license(package)
            files += [
                SourceFile(str(path), _name(path, root, package), domain, package, license_)
                for path in by_hash[:FILES_PER_PACKAGE]
            ]
    return sorted(files, key=lambda file: file.name)


def installed(packages: Packages) -> dict[str, str]:
    """The version of each package that the docstrings come from."""
    names = [name for group in packages.values() for name in group if _folder(name) is not None]
    return {name: sys.version if name == STDLIB else version(_DISTRIBUTIONS.get(name, name)) for name in names}


def docstrings(files: DataFrame, *, min_characters: int = 200) -> DataFrame:
    """Docstrings of modules, classes and functions in `files` (FILE_SCHEMA): DOCUMENT_SCHEMA and `error`.

    A file that can't be read or parsed gives one row with the reason in `error` and no text.
    """

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for file in batch.to_pylist():
                if rows := list(_docstrings_of(file, min_characters)):
                    yield pa.RecordBatch.from_pylist(rows, schema=_READ)

    return files.mapInArrow(read, f"{DOCUMENT_SCHEMA}, error string")


def distinct_texts(documents: DataFrame) -> DataFrame:
    """One document a text: the one with the smallest id, for any partitioning."""
    first = F.min(F.struct("id", "domain", "source", "license")).alias("first")
    return documents.groupBy("text").agg(first).select("first.*", "text")


def passages(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """BoolQ rows -> their passages, an encyclopedia's paragraphs; the question about them is left out."""
    for row in rows:
        text = row["doc"]["query"].split("\nQuestion:")[0].strip()
        yield _document(f"boolq/{row['doc_id']}", ENCYCLOPEDIA, "boolq", "CC-BY-SA-3.0", text)


def how_tos(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, str]]:
    """HellaSwag rows -> the texts with their true ending: how-tos from WikiHow, captions of ActivityNet's videos."""
    for row in rows:
        doc = row["doc"]
        beginning, ending = doc["query"].strip(), doc["choices"][doc["gold"]].strip()
        space = "" if ending[:1] in {",", ".", ";", ":"} else " "
        domain = HOW_TO if ": How to " in beginning else CAPTIONS
        yield _document(f"hellaswag/{row['doc_id']}", domain, "hellaswag", "MIT", beginning + space + ending)


_READ = pa.schema([(name, pa.string()) for name in ("id", "domain", "source", "license", "text", "error")])


def _document(id_: str, domain: str, source: str, license_: str, text: str) -> dict[str, str]:
    return {"id": id_, "domain": domain, "source": source, "license": license_, "text": text}


def _docstrings_of(file: dict[str, str], min_characters: int) -> Iterator[dict[str, str | None]]:
    origin = {key: file[key] for key in ("domain", "source", "license")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            module = ast.parse(Path(file["path"]).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield {"id": file["name"], **origin, "text": None, "error": f"{type(error).__name__}: {error}"}
        return
    seen: dict[str, int] = {}
    for name, definition in (("", module), *_definitions(module)):
        # A name is defined again by overloads, property setters and branches: the second one is name:2.
        seen[name] = seen.get(name, 0) + 1
        text = ast.get_docstring(definition)
        if text and len(text) >= min_characters and _is_utf8(text):
            again = f":{seen[name]}" if seen[name] > 1 else ""
            id_ = f"docstring/{file['name']}" + (f"#{name}{again}" if name else "")
            yield {"id": id_, **origin, "text": text, "error": None}


Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _definitions(node: ast.AST, outer: str = "") -> Iterator[tuple[str, Definition]]:
    """Every class and function below `node` with its qualified name; expressions, which hold none, are passed over."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{outer}.{child.name}" if outer else child.name
            yield name, child
            yield from _definitions(child, name)
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _definitions(child, outer)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which an escape can write
        return False
    return True


def _folder(package: str) -> tuple[Path, Path] | None:
    """The folder that a package is imported from and the package's own folder; None where it isn't installed."""
    if package == STDLIB:
        root = Path(sysconfig.get_path("stdlib"))
        return root, root
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    return folder.parent, folder


def _python_files(folder: Path) -> Iterator[Path]:
    passed_over = {"tests", "test", "site-packages", "idlelib", "lib2to3", "__pycache__"}
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in passed_over)
        yield from (Path(here, name) for name in sorted(names) if name.endswith(".py"))


def _name(path: Path, root: Path, package: str) -> str:
    name = path.relative_to(root).as_posix()
    return f"{STDLIB}/{name}" if package == STDLIB else name


def _license(package: str) -> str:
    """The licence that an installed package declares: an SPDX expression, a short text, or a classifier's words."""
    if package == STDLIB:
        return "PSF-2.0"
    about = cast(Message, metadata(_DISTRIBUTIONS.get(package, package)))
    short = str(about.get("License") or "")
    classifiers = [c.rsplit(" :: ", 1)[1] for c in about.get_all("Classifier") or () if c.startswith("License :: ")]
    brief = short if len(short) <= 60 and "\n" not in short else ""
    return str(about.get("License-Expression") or brief or (classifiers[0] if classifiers else "unknown"))
