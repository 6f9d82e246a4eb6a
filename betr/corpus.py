"""The corpus of a tables root, as its imports left it: chunks with their sizes, its key, what was put aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from betr.run import Outcome, Run
from curation.hashing import content_id

WAVE_BYTES = 16 * 2**30  # of text in one commit of a stage that reads all of it: what a killed run loses at most


def imports(run: Run) -> list[Outcome]:
    """Every finished import, oldest first: together they are the corpus."""
    return run.all("import")


def key(run: Run) -> str:
    """What names the corpus as it is now: the imports that brought documents."""
    return content_id("corpus", sorted(outcome.key for outcome in imports(run) if outcome["chunks"]))


def chunks(run: Run) -> dict[str, tuple[int, int]]:
    """chunk -> (documents, bytes) of the whole corpus."""
    return {chunk: tuple(size) for outcome in imports(run) for chunk, size in outcome["chunks"].items()}  # type: ignore[misc]


def waves(chunks: dict[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Chunks in their order, as many at a time as hold about WAVE_BYTES."""
    wave, size = [], 0
    for chunk in sorted(chunks):
        wave.append(chunk)
        size += chunks[chunk][1]
        if size >= WAVE_BYTES:
            yield wave
            wave, size = [], 0
    if wave:
        yield wave


def rows_of(column: str, id_: str, wave: list[str]) -> str:
    """What SQL calls a wave's rows under an id, to be replaced together."""
    return f"{column} = '{id_}' AND chunk IN ({', '.join(repr(chunk) for chunk in wave)})"


def rejections(done: Iterable[Outcome]) -> dict[str, int]:
    """reason -> rows that these imports put aside, by reason."""
    counts: Counter[str] = Counter()
    for outcome in done:
        counts.update(outcome["rejected"])
    return dict(sorted(counts.items()))
