"""Chance by hash: a draw depends on its own key alone, never on batch, order or partition, and is the same anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from curation.errors import InputError
from curation.hashing import GOLDEN, mix

Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def hash64(*parts: Any) -> int:
    """64 hashed bits of JSON-serialisable parts, the same on any machine: 0 <= hash < 2**64."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def row_seed(run_seed: int, item_id: str, stage: str, attempt: int) -> int:
    """A row's own seed, 0 <= seed < 2**63: what its text depends on besides prompt and sampling."""
    return hash64("row", run_seed, item_id, stage, attempt) >> 1


def draw_distinct(keys: Words, population: int, count: int) -> Indices:
    """For each key `count` distinct numbers below `population` in random order: shape (keys, count).

    Every ordered choice is equally likely (up to 2**-64 x population), and a row depends on its own key alone.
    """
    if not 0 <= count <= population:
        raise InputError(f"{count} things can't be drawn from {population} without drawing one twice; draw fewer")
    drawn = np.empty((len(keys), count), np.int64)
    for position in range(count):
        left = population - position
        number = (mix(keys + np.uint64(position * GOLDEN % 2**64)) % np.uint64(left)).astype(np.int64)
        # The number counts among those not yet drawn: step over each drawn one, the smallest first.
        for taken in np.sort(drawn[:, :position], axis=1).T:
            number += number >= taken
        drawn[:, position] = number
    return drawn


def sample_by_hash(ids: Sequence[str], size: int, *, seed: int = 0) -> Indices:
    """Positions of the `size` ids with the smallest hashes (all, where there are fewer), in the order of the hash.

    The same ids are chosen for any order of input, and a larger sample begins with every smaller one.
    """
    hashes = np.fromiter((hash64("sample", seed, i) for i in ids), np.uint64, len(ids))
    # Ids that agree in their hash (or are the same id twice) are ordered by the id itself.
    order = sorted(range(len(ids)), key=lambda i: (int(hashes[i]), ids[i]))
    return np.array(order[:size], np.int64)


def resampled_counts(rows: int, replicates: int, *, seed: int) -> Indices:
    """How often each row is drawn in each bootstrap replicate: shape (replicates, rows), each sums to rows."""
    stream = np.arange(replicates * rows, dtype=np.uint64) + np.uint64(hash64("bootstrap", seed, rows))
    chosen = (mix(stream) % np.uint64(max(1, rows))).astype(np.int64).reshape(replicates, rows)
    flat = chosen + np.arange(replicates, dtype=np.int64)[:, None] * rows
    return np.bincount(flat.ravel(), minlength=replicates * rows).reshape(replicates, rows)


def half_samples(rows: int, replicates: int, *, seed: int) -> Indices:
    """Half of the rows without replacement for each replicate: shape (replicates, rows // 2), ascending."""
    stream = np.arange(replicates * rows, dtype=np.uint64) + np.uint64(hash64("half", seed, rows))
    order = np.argsort(mix(stream).reshape(replicates, rows), axis=1, kind="stable")
    return np.sort(order[:, : rows // 2], axis=1)
