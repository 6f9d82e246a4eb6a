"""The core as executors need it: no Spark, nothing that can't be sent to a worker."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pandas as pd

import bare
from bare.collapse import CollapseConfig
from bare.generators.openai import OpenAIGenerator
from bare.generators.protocol import Message, Prompt
from bare.generators.scripted import ScriptedGenerator
from bare.tasks import draw_shots, load_task, read_seeds
from bare.verdicts import SeedIndex, VerdictConfig, check_rows
from curation.held_out import TestIndex

SPARK_FREE = (
    "agreement", "collapse", "cost", "draws", "judge", "metrics", "personas", "tasks", "verdicts",
    "generators.openai", "generators.protocol", "generators.scripted", "generators.spec",
)  # fmt: skip


def test_the_core_imports_no_spark_and_no_model_library() -> None:
    imports = "; ".join(f"import bare.{name}" for name in SPARK_FREE)
    heavy = "('pyspark', 'torch', 'transformers', 'pyarrow.dataset', 'scipy', 'sklearn')"
    code = f"import sys; {imports}; print([m for m in {heavy} if m in sys.modules])"
    root = str(Path(bare.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_what_goes_to_executors_survives_the_way() -> None:
    task = load_task("documents_on_a_theme")
    seeds = read_seeds(task, [{"text": f"A report on mill number {i}, " + "which stands by the river. " * 5} for i in range(4)])
    index = SeedIndex.of(task, seeds, VerdictConfig(), vectors=[[1.0, float(i)] for i in range(4)])
    tests = TestIndex.of(["how many eggs do nine hens lay in a week"])
    things = (
        task, seeds, tests, VerdictConfig(), CollapseConfig(), Prompt("a", 1, messages=(Message("user", "hi"),)),
        OpenAIGenerator("small", "http://host"), ScriptedGenerator.from_data(["an answer ${seed}"]),
    )  # fmt: skip
    for thing in things:
        copy = pickle.loads(pickle.dumps(thing))
        assert type(copy) is type(thing) and repr(copy) == repr(thing)
    sent, _, found, *_ = pickle.loads(pickle.dumps((task, seeds, index)))
    row = pd.DataFrame({"row_id": ["r"], "text": [task.render(seeds.seeds[2].fields)], "finish_reason": ["stop"]})
    pd.testing.assert_frame_equal(check_rows(row, task=sent, seeds=found), check_rows(row, task=task, seeds=index))
    drawn = draw_shots(sent, pickle.loads(pickle.dumps(seeds)), ["a", "b"], run_seed=3)
    assert drawn.tolist() == draw_shots(task, seeds, ["a", "b"], run_seed=3).tolist()
