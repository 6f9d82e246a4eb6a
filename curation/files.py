"""Files that a command leaves for people: pages, seeds."""

from __future__ import annotations

from pathlib import Path

from curation.errors import InputError
from curation.tables import absolute, is_local


def write_whole(text: str, out: str | Path) -> Path:
    """The text as a local file, whole or not at all; its absolute path. InputError where it can't be written."""
    if not is_local(str(out)):
        raise InputError(f"{out}: this is written to a local file; give a path, and copy it where it is to go")
    path = Path(absolute(str(out)))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror}); choose another file") from error
    return path
