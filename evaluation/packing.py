"""Documents as tokens, one after another without end: which document comes when hangs on hashes alone.

A stream is epoch after epoch of all documents, each followed by the end token; the order of an epoch is that of a hash
of document, seed and epoch. A place in the stream is a number, so that a run goes on from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curation.errors import InputError
from curation.hashing import mix

Tokens = npt.NDArray[np.uint16]
Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenDocuments:
    """An arm's documents: hashes of their ids [n], and where each one's tokens lie: shard, start, length [n]."""

    ids: Hashes
    shard: Indices
    start: Indices
    length: Indices
    shards: tuple[Tokens, ...]
    end: int

    @classmethod
    def of(cls, ids: Sequence[int], tokens: Sequence[Sequence[int]], *, end: int) -> TokenDocuments:
        """From token lists; ids are 64-bit hashes."""
        flat = np.array([token for each in tokens for token in each], np.uint16)
        return cls._joined([(np.array(ids, np.uint64), np.array([len(t) for t in tokens], np.int64), flat)], end)

    @classmethod
    def open(cls, folder: Path, parts: Sequence[str], *, end: int) -> TokenDocuments:
        """From the files that `write_part` left; tokens stay on the disk until they are read."""
        found = []
        for part in parts:
            try:
                ids, lengths = np.load(folder / f"{part}.documents.npy", allow_pickle=False)
                tokens = np.load(folder / f"{part}.tokens.npy", mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"the token file {folder / part} can't be read here ({error}); the working folder must be one that "
                    "the driver and every executor see, on a shared file system: name another with --working"
                ) from error
            found.append((ids, lengths.astype(np.int64), tokens))
        return cls._joined(found, end)

    @classmethod
    def _joined(cls, parts: Sequence[tuple[Hashes, Indices, Tokens]], end: int) -> TokenDocuments:
        starts = [np.cumsum(lengths) - lengths for _, lengths, _ in parts]
        shard = [np.full(len(ids), number, np.int64) for number, (ids, _, _) in enumerate(parts)]
        return cls(
            np.concatenate([ids for ids, _, _ in parts]), np.concatenate(shard), np.concatenate(starts),
            np.concatenate([lengths for _, lengths, _ in parts]), tuple(tokens for _, _, tokens in parts), end,
        )  # fmt: skip

    @property
    def total(self) -> int:
        """Tokens of one epoch, an end token for each document among them."""
        return int(self.length.sum()) + len(self.ids)


def write_part(folder: Path, name: str, ids: Hashes, tokens: Sequence[Sequence[int]]) -> int:
    """Documents as two files, each whole or not at all; how many tokens an epoch of them has."""
    order = np.argsort(ids, kind="stable")
    lengths = np.array([len(tokens[at]) for at in order.tolist()], np.uint64)
    flat = np.concatenate([np.empty(0, np.uint16), *(np.asarray(tokens[at], np.uint16) for at in order.tolist())])
    for kind, array in (("tokens", flat), ("documents", np.stack([ids[order], lengths]))):
        path = folder / f"{name}.{kind}.npy"
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with part.open("wb") as stream:
            np.save(stream, array, allow_pickle=False)
        part.replace(path)
    return len(flat) + len(ids)


@dataclass(frozen=True, eq=False)
class Stream:
    """The tokens that a run sees, in their order."""

    documents: TokenDocuments
    seed: int

    def __post_init__(self) -> None:
        if not self.documents.total:
            raise InputError("an arm without a document can't train a model; check its selection")
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self._place_epoch))

    def _place_epoch(self, epoch: int) -> tuple[Indices, Indices]:
        """An epoch's documents in their order, and where in the epoch each ends."""
        salt = mix(np.array([self.seed * 1_000_003 + epoch], np.uint64))
        order = np.argsort(mix(self.documents.ids ^ salt), kind="stable")
        return order, np.cumsum(self.documents.length[order] + 1)

    def read(self, start: int, count: int) -> Indices:
        """Tokens start, start + 1, ... of the stream, int64 [count]."""
        out = np.empty(count, np.int64)
        docs, filled = self.documents, 0
        while filled < count:
            epoch, inside = divmod(start + filled, docs.total)
            order, ends = self._epoch(epoch)  # type: ignore[attr-defined]
            at = int(np.searchsorted(ends, inside, "right"))
            while filled < count and at < len(order):
                doc = order[at]
                length, first = int(docs.length[doc]), int(docs.start[doc])
                skip = inside - (int(ends[at]) - length - 1)
                here = docs.shards[docs.shard[doc]][first + skip : first + min(length, skip + count - filled)]
                out[filled : filled + len(here)] = here
                filled, inside, at = filled + len(here), inside + len(here), at + 1
                if filled < count:
                    out[filled] = docs.end
                    filled, inside = filled + 1, inside + 1
        return out
