"""Errors that a person can act on: one sentence with the rule, the value and the remedy."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote


class InputError(Exception):
    """Bad input or configuration; its text is shown to the user as it is, without a stack."""

    exit_code = 1


class SchemaError(InputError):
    """A table or file lacks a column, or a tables root holds another schema."""


class MissingExtraError(InputError):
    """An optional part of the package isn't installed; the text holds the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}, which isn't installed: pip install 'betr-bare[{extra}]'")


class TablesBusyError(InputError):
    """Another run holds the tables root."""


class ChecksFailedError(InputError):
    """Checks ran and didn't all hold; `result` is what `--json` prints all the same."""

    def __init__(self, sentence: str, result: object) -> None:
        super().__init__(sentence)
        self.result = result


class DriftError(ChecksFailedError):
    """All is written and as it should be, but something moved further than the settings allow."""

    exit_code = 3


# Raised on an executor: its sentence comes back inside Java's and Python's stacks. The last one is the cause.
_OURS = re.compile(r"^\s*(?:\S+: )??curation\.errors\.\w+: (.+)$", re.MULTILINE)
_VALUE_ERROR = re.compile(r"^(?:InputError|SchemaError|ValueError): (.+)$", re.MULTILINE)
_UNREADABLE = re.compile(r"(?:FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER).*? file:? (\S+?)\.? ")
# Unity Catalog: ... User does not have USE SCHEMA on Schema 'main.betr'. SQLSTATE: 42501
_NO_RIGHT = re.compile(r"does not have ([A-Z][A-Z ]*[A-Z]) on ([A-Z]\w+(?: \w+)?) '([^']+)'")

_CAUSES = (
    (
        "No space left on device",
        "the disk is full; free some space (or set --spark spark.local.dir=FOLDER) and run again",
    ),
    (
        "OutOfMemoryError",
        "Java ran out of memory; give it more with --spark spark.driver.memory=8g (executor: spark.executor.memory)",
    ),
    ("MemoryError", "a Python worker ran out of memory; use fewer cores (--master local[1]) or smaller --chunk-bytes"),
    (
        "SparkFileNotFoundException",
        "a file vanished while it was read; let nothing else write the input, and run again",
    ),
    (
        "Connection refused",
        "the cluster or the Connect server can't be reached; see that it runs, and what --master says",
    ),
    ("ModuleNotFoundError", "an executor lacks this package; install the wheel there or pass it with --py-files"),
)


def explain(error: BaseException) -> str | None:
    """The sentence behind an error of Spark's, None for one that isn't Spark's (a bug of ours: its stack helps)."""
    if (known := _known_cause(error)) is not None:
        return known
    if not _is_sparks(error):
        return None
    return f"Spark failed: {_lines(error)[0][:500]} (BETR_DEBUG=1 shows the whole stack)"


@contextmanager
def input_errors() -> Iterator[None]:
    """Turn an error of Spark's whose cause is known (an executor's InputError, a broken file) into that InputError.

    Spark is lazy: put it around actions.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        sentence = _known_cause(error)
        if sentence is None:
            raise
        raise InputError(sentence) from error


def _known_cause(error: BaseException) -> str | None:
    if not _is_sparks(error):
        return None
    text = str(error)
    if sentences := _OURS.findall(text) or _VALUE_ERROR.findall(text):
        return str(sentences[-1]).strip()
    if file := _UNREADABLE.search(text):
        path = re.sub("^file:/+", "/", unquote(file[1]))
        return f"{path} is cut short or not what its name says; fetch it again"
    if right := _NO_RIGHT.search(text):
        missing, kind, name = right.groups()
        return (
            f"you have no right {missing} on the {kind.lower()} {name}; ask its owner: "
            f"GRANT {missing} ON {kind.upper()} {name} TO `you`"
        )
    for mark, sentence in _CAUSES:
        if mark in text:
            where = next(line for line in _lines(error) if mark in line)
            return f"{sentence} ({where[:300]})"
    return None


def _is_sparks(error: BaseException) -> bool:
    return type(error).__module__.startswith(("pyspark", "py4j", "grpc"))


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
