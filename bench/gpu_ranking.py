"""Ranking on a GPU, without Spark: would a GPU rank faster than a core, and stay exact?

betr ranks on cores. `filtered` is what it could do on a GPU, kept here until that pays: the product in half precision
proposes more documents than are wanted, and those get their similarity in float32; where the last one proposed isn't
clearly worse than the last one kept, the block is ranked again in float32.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch

from bench import gpu
from bench.harness import Case, Measured, Question, Setup, Target
from bench.ranking import DIMENSION, compare_ranks, unit_rows
from betr.ranking import BLOCK, Examples, NearestDocuments, suggested_k

SPARE = 32  # documents proposed beyond the k wanted
HALF_MARGIN = 3.1 * 2.0**-8  # bfloat16 rounds by 2**-8 at most: both unit vectors, and what comes of them
ROWS = 32_768  # documents of one product


def build(setup: Setup) -> Question:
    where = gpu.device(setup)
    n, m = setup.pick(3_000, 1_000_000), setup.pick(50, 2_000)
    k = suggested_k(n, m) if setup.scale == "small" else 100
    rows = unit_rows(n + m)
    documents, examples = torch.from_numpy(rows[:n]).to(where), torch.from_numpy(rows[n:]).to(where)
    few = min(n, 100_000)
    again: list[int] = []
    # A CPU multiplies in half precision by emulation on many machines: the smoke test proposes in float32.
    half = torch.float32 if where == "cpu" else torch.bfloat16
    proposed, wanted = documents.to(half), examples.to(half)

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        return _ranked(documents, examples, k)

    def filtered() -> tuple[torch.Tensor, torch.Tensor]:
        best, at = _nothing(m, k, documents)
        again.clear()
        for start in range(0, n, ROWS):
            block = documents[start : start + ROWS]
            close, which = torch.topk(wanted @ proposed[start : start + ROWS].T, min(k + SPARE, len(block)), dim=1)
            exact = torch.einsum("md,mcd->mc", examples, block[which])
            merged, places = _merged(best, at, exact, which + start, k)
            # What wasn't proposed is below the last proposed one, in exact figures by the margin at most.
            unsure = (close[:, -1].float() + HALF_MARGIN >= merged[:, -1]) & (len(block) > close.shape[1])
            if bool(unsure.any()):
                some = unsure.nonzero()[:, 0]
                again.append(len(some))
                full, every = torch.topk(examples[some] @ block.T, min(k, len(block)), dim=1)
                merged[some], places[some] = _merged(best[some], at[some], full, every + start, k)
            best, at = merged, places
        return best, at

    def product() -> None:
        for start in range(0, n, ROWS):
            wanted @ proposed[start : start + ROWS].T

    def on_a_core() -> NearestDocuments:
        ids = pa.array([f"{number:08d}" for number in range(few)])
        found = NearestDocuments(Examples([f"{i:08d}" for i in range(m)], rows[n:]), k)
        for start in range(0, few, BLOCK):
            found.add(ids.slice(start, min(BLOCK, few - start)), rows[start : min(start + BLOCK, few)])
        return found

    def check() -> str:
        (a, at), (b, bt) = filtered(), whole()
        return compare_ranks(at.cpu().numpy(), a.cpu().numpy(), bt.cpu().numpy(), b.cpu().numpy())

    def targets(measured: Measured) -> list[Target]:
        return []

    return Question(
        "Would a GPU rank faster?",
        f"{n:,} documents x {m:,} examples of dimension {DIMENSION}, k = {k}; the core ranks {few:,} of them; {where}",
        [
            Case("GPU, filtered", "ours", gpu.finished(where, filtered), "pairs", float(n) * m),
            Case("betr on a core", "ours", on_a_core, "pairs", float(few) * m, repeats=1),
            Case("GPU float32, topk", "peer", gpu.finished(where, whole), "pairs", float(n) * m),
            Case("product alone", "limit", gpu.finished(where, product), "pairs", float(n) * m),
        ],
        check,
        targets,
        note="The filtered product is a prototype of the bench: betr ranks on cores. The peer is a float32 product and "
        "torch.topk in blocks, the vectors on the device from the start.",
        packages=("torch", "numpy", "numba"),
        repeats=5,
    )


def _ranked(documents: torch.Tensor, examples: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    best, at = _nothing(len(examples), k, documents)
    for start in range(0, len(documents), ROWS):
        block = documents[start : start + ROWS]
        found, which = torch.topk(examples @ block.T, min(k, len(block)), dim=1)
        best, at = _merged(best, at, found, which + start, k)
    return best, at


def _nothing(m: int, k: int, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (m, k)
    return torch.full(shape, -np.inf, device=like.device), torch.full(shape, -1, dtype=torch.long, device=like.device)


def _merged(
    best: torch.Tensor, at: torch.Tensor, found: torch.Tensor, which: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    scores, places = torch.cat([best, found], dim=1), torch.cat([at, which], dim=1)
    kept, order = torch.topk(scores, k, dim=1)
    return kept, places.gather(1, order)
