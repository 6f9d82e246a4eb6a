"""Errors that a person can act on: one sentence with the rule, the value and the remedy."""

import re


class InputError(Exception):
    """Bad input or configuration; its text is shown to the user as it is, without a stack."""


class SchemaError(InputError):
    """A table or file lacks a column, or a tables root holds another schema."""


class MissingExtraError(InputError):
    """An optional part of the package isn't installed; the text holds the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra {extra!r}, which isn't installed: pip install 'betr-bare[{extra}]'")


class TablesBusyError(InputError):
    """Another run holds the tables root."""


# Raised on an executor: its sentence comes back inside Java's and Python's stacks. The last one is the cause.
_ON_EXECUTOR = re.compile(r"^(?:curation\.errors\.)?(?:InputError|SchemaError|ValueError): (.+)$", re.MULTILINE)

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
    ("FAILED_READ_FILE", "a file vanished or can't be read"),
    ("SparkFileNotFoundException", "a file vanished while it was read"),
    ("Connection refused", "the cluster or the Connect server can't be reached"),
    ("ModuleNotFoundError", "an executor lacks this package; install the wheel there or pass it with --py-files"),
)


def explain(error: BaseException) -> str | None:
    """The sentence behind an error of Spark's, None for one that isn't Spark's (a bug of ours: its stack helps)."""
    if not type(error).__module__.startswith(("pyspark", "py4j", "grpc")):
        return None
    text = str(error)
    sentences = _ON_EXECUTOR.findall(text)
    if sentences:
        return str(sentences[-1])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    for mark, sentence in _CAUSES:
        if mark in text:
            where = next((line for line in lines if mark in line), first)
            return f"{sentence} ({where[:300]})"
    return f"Spark failed: {first[:500]} (BETR_DEBUG=1 shows the whole stack)"
