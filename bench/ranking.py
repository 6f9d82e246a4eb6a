"""Ranking on one core: the k documents nearest to each example, exactly, as a Spark task computes it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.ranking import BLOCK, Examples, NearestDocuments, suggested_k

Matrix = npt.NDArray[np.float32]
DIMENSION = 384
NEAR = 4e-6  # two similarities closer than this may change places: faiss adds in float32


def build(setup: Setup) -> Question:
    import faiss  # here alone: a machine that only asks for a GPU's ranking has none

    n, m = setup.pick(4_000, 100_000), setup.pick(100, 2_000)
    rows = unit_rows(n + m)
    documents, queries = rows[:n], rows[n:]
    k = suggested_k(n, m)
    ids = pa.array([f"{number:08d}" for number in range(n)])
    examples = Examples([f"{number:08d}" for number in range(m)], queries)
    faiss.omp_set_num_threads(1)

    def ours() -> NearestDocuments:
        best = NearestDocuments(examples, k)
        for start in range(0, n, BLOCK):
            best.add(ids.slice(start, BLOCK), documents[start : start + BLOCK])
        for _ in best.pairs():
            pass
        return best

    def peer() -> tuple[Matrix, npt.NDArray[np.int64]]:
        index = faiss.IndexFlatIP(DIMENSION)
        index.add(documents)
        scores, found = index.search(queries, k)
        return scores, found

    def product() -> None:
        out = np.empty((m, BLOCK), np.float32)
        for start in range(0, n, BLOCK):
            part = documents[start : start + BLOCK]
            np.matmul(queries, part.T, out=out[:, : len(part)])

    def check() -> str:
        pairs = pa.Table.from_batches(ours().pairs()).sort_by(
            [("example_id", "ascending"), ("similarity", "descending"), ("doc_id", "ascending")]
        )
        found = np.array(pairs["doc_id"].to_pylist()).astype(np.int64).reshape(m, k)
        mine = pairs["similarity"].to_numpy().reshape(m, k)
        scores, theirs = peer()
        return compare_ranks(found, mine, theirs, scores)

    def targets(measured: Measured) -> list[Target]:
        return [Target("ranking, exact ranks", measured.x_peer("ours"), "x faiss flat", at_least=20)]

    return Question(
        "How fast are exact ranks on one core?",
        f"{n:,} documents x {m:,} examples of dimension {DIMENSION}, in clusters; the k = {k} nearest of each",
        [
            Case("ours", "ours", ours, "pairs", float(n * m)),
            Case("faiss flat", "peer", peer, "pairs", float(n * m)),
            Case("product alone", "limit", product, "pairs", float(n * m)),
        ],
        check,
        targets,
        note="The limit is NumPy's float32 product in blocks of as many documents as ours.",
        packages=("faiss-cpu", "numpy", "numba"),
        repeats=3,
        warm_up=0,
    )


def unit_rows(count: int, dimension: int = DIMENSION) -> Matrix:
    """Unit vectors in clusters, as embeddings lie."""
    draw = np.random.default_rng(0)
    centres = draw.standard_normal((max(8, count // 200), dimension), np.float32)
    rows = centres[draw.integers(0, len(centres), count)] + draw.standard_normal((count, dimension), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows, np.float32)


def compare_ranks(found: npt.NDArray[np.int64], mine: Matrix, theirs: npt.NDArray[np.int64], scores: Matrix) -> str:
    """Equal ids rank by rank; where they differ, the similarities are the same to float32's rounding."""
    differ = found != theirs
    gaps = np.abs(mine - scores)
    require(float(gaps.max()) < NEAR, f"the similarities of one rank differ by {gaps.max():.2g}")
    return f"{found.size:,} ranks, {int(differ.sum()):,} of them ties to {NEAR:g} in another order"
