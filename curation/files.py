"""Files that a command leaves for people: pages, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from curation.errors import InputError
from curation.tables import absolute, is_local


def write_whole(text: str, out: str | Path) -> Path:
    """The text as a local file, whole or not at all; its absolute path. InputError where it can't be written."""
    with whole(out) as part:
        part.write_text(text, encoding="utf-8")
    return Path(absolute(str(out)))


@contextmanager
def whole(out: str | Path) -> Iterator[Path]:
    """A file beside `out` for the body to write, which takes its place when the body ends well."""
    if not is_local(str(out)):
        raise InputError(f"{out}: this is written to a local file; give a path, and copy it where it is to go")
    path = Path(absolute(str(out)))
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except ConnectionError:
        raise  # of what the body reads
    except OSError as error:
        raise InputError(f"{out} can't be written ({error.strerror}); choose another file") from error
