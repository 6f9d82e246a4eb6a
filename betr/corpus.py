"""The corpus of a tables root, as its imports left it: chunks with their sizes, its key, what was put aside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from betr.run import Outcome, Run, Work
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


def missing(run: Run, work: Work, done: Collection[str]) -> dict[str, tuple[int, int]]:
    """The chunks that aren't done yet; the work expects their documents, and reads their bytes."""
    left = {chunk: size for chunk, size in chunks(run).items() if chunk not in done}
    work.progress.expect(sum(count for count, _ in left.values()))
    work.bytes_in = sum(size for _, size in left.values())
    return left


def waves(work: Work, left: Mapping[str, tuple[int, int]]) -> Iterator[list[str]]:
    """Chunks in their order, as many at a time as hold about WAVE_BYTES; asked for the next, a wave is done."""
    wave: list[str] = []
    size = 0
    for number, chunk in enumerate(sorted(left), 1):
        wave.append(chunk)
        size += left[chunk][1]
        if size >= WAVE_BYTES or number == len(left):
            count = sum(left[each][0] for each in wave)
            work.progress.batch(count)
            yield wave
            work.progress.advance(count)
            work.rows_out += count
            wave, size = [], 0


def rows_of(column: str, id_: str, wave: list[str]) -> str:
    """What SQL calls a wave's rows under an id, to be replaced together."""
    return f"{column} = '{id_}' AND chunk IN ({', '.join(repr(chunk) for chunk in wave)})"


def rejections(done: Iterable[Outcome]) -> dict[str, int]:
    """reason -> rows that these imports put aside, by reason."""
    counts: Counter[str] = Counter()
    for outcome in done:
        counts.update(outcome["rejected"])
    return dict(sorted(counts.items()))
