"""Where documents share runs of words with held-out tests, on one core: text in memory -> hits."""

from __future__ import annotations

import itertools

import numpy as np

from bench import documents
from bench.harness import Case, Measured, Question, Setup, Target, require
from betr.benchmarks import example_text
from betr.features import text_buffers
from curation.held_out import LONGEST, SHORTEST, TestIndex
from curation.overlap import words
from demo.prepare import first_choices

TASKS = ("arc_easy", "openbookqa", "piqa", "socialiqa")
QUOTED = 200  # documents whose words 20 to 40 stand among the tests: without them nearly nothing would be found
Hit = tuple[int, int, int]


def build(setup: Setup) -> Question:
    table = documents.repeated(documents.corpus(setup), megabytes=setup.pick(1, 20))
    texts, size = table["text"].combine_chunks(), documents.megabytes(table)
    strings = texts.to_pylist()
    tests = [
        example_text(row["doc"])
        for task in TASKS
        for row in itertools.islice(first_choices(documents.wheel(), task, "train_mc_5shot"), setup.pick(100, 5_000))
    ]
    tests += [" ".join(words(text)[20:40]) for text in strings[:QUOTED]]
    index, grams = TestIndex.of(tests), grams_of(tests)
    data, _ = text_buffers(texts)
    whole = data[: data.size // 8 * 8].view(np.uint64)

    def check() -> str:
        found = index.find(texts)
        ours = list(zip(found.text.tolist(), found.word.tolist(), found.length.tolist(), strict=True))
        require(ours == look_up(strings, grams), "the index and the sets of strings find other hits")
        return f"{len(ours):,} hits in {len(set(found.text.tolist())):,} documents: the same by both"

    def targets(measured: Measured) -> list[Target]:
        value = measured.x_peer("compiled index")
        return [Target("test n-grams found in text, a core", value, "x sets of strings", at_least=10)]

    return Question(
        "How fast are held-out tests found in a corpus?",
        f"{documents.told(table)}; {len(tests):,} tests: {len(index.grams):,} n-grams of {SHORTEST} to {LONGEST} words",
        [
            Case("compiled index", "ours", lambda: index.find(texts), "MB", size),
            Case("sets of strings", "peer", lambda: look_up(strings, grams), "MB", size),
            Case("memory read", "limit", lambda: int(whole.sum()), "MB", size),
        ],
        check,
        targets,
        note="The peer looks each run of words up in a Python set, as decontamination filters in Python do, with the "
        "same words. The limit reads the text's bytes once, eight at a time.",
        packages=("numba", "numpy", "pyarrow"),
    )


def grams_of(tests: list[str]) -> dict[int, set[str]]:
    """Length -> the n-grams of that length, as `TestIndex` chooses them."""
    grams: dict[int, set[str]] = {}
    for test in tests:
        found = words(test)
        n = min(len(found), LONGEST)
        if n >= SHORTEST:
            grams.setdefault(n, set()).update(" ".join(found[k : k + n]) for k in range(len(found) - n + 1))
    return dict(sorted(grams.items()))


def look_up(texts: list[str], grams: dict[int, set[str]]) -> list[Hit]:
    hits = []
    for number, text in enumerate(texts):
        found = words(text)
        mine = [
            (number, at, n)
            for n, known in grams.items()
            for at in range(len(found) - n + 1)
            if " ".join(found[at : at + n]) in known
        ]
        hits += sorted(mine)
    return hits
