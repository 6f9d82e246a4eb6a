"""`make compat`, without running it: its locks differ in Spark and Delta alone, and what it runs is there."""

import ast
import sys
from pathlib import Path

import pytest

from curation import jars
from tests import compat
from tests.compat import ROOT, TESTS, Outcome, pins

SPARK = {"pyspark", "delta-spark", "py4j"}


@pytest.mark.parametrize("pair", compat.pairs())
def test_a_pairs_lock_differs_from_the_lock_in_spark_and_delta_alone(pair: str) -> None:
    locked, ours = pins(ROOT / "requirements" / "lock.txt"), pins(compat.lock_of(pair))
    assert ours.keys() > SPARK
    assert {name for name, version in ours.items() if locked.get(name) != version} <= SPARK
    minors = [ours[name].rpartition(".")[0] for name in ("pyspark", "delta-spark")]
    assert pair == "spark{}-delta{}".format(*minors)


def test_every_pair_has_its_jars_hashes_and_no_other_has() -> None:
    locks = [pins(compat.lock_of(pair)) for pair in compat.pairs()]
    pairs = [(each["pyspark"].rpartition(".")[0], each["delta-spark"]) for each in locks]
    assert sorted(pairs) == sorted(jars.committed_jars())
    assert {spark for spark, _ in pairs} == {"4.0", "4.1", "4.2"}
    locked = pins(ROOT / "requirements" / "lock.txt")
    assert {"pyspark": locked["pyspark"], "delta-spark": locked["delta-spark"]}.items() <= locks[-1].items()


def test_every_test_that_is_run_is_there() -> None:
    for file, _, test in (each.partition("::") for each in TESTS):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert not test or test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def test_a_python_is_taken_only_if_it_runs_and_is_of_that_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compat, "_uv", lambda: "true")  # which finds nothing
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    stub = tmp_path / "python3.99"
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    other = tmp_path / "versions" / "3.99.1" / "bin" / "python3.99"
    other.parent.mkdir(parents=True)
    other.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert compat.find_python("3.99") is None, "one that doesn't run, one of another version"
    found = Outcome("spark4.2-delta4.4", "3.99", said="skipped: no Python 3.99 here")
    assert compat.run("spark4.2-delta4.4", "3.99") == found and found.good
    minor = f"3.{sys.version_info.minor}"
    ours = tmp_path / "versions" / f"{minor}.0" / "bin" / f"python{minor}"
    ours.parent.mkdir(parents=True)
    ours.symlink_to(other)
    (tmp_path / f"python{minor}").symlink_to(stub)
    assert compat.find_python(minor) == str(ours), "the stub on PATH is passed over"


@pytest.mark.parametrize(("passed", "ran", "good"), [(3, 3, True), (2, 3, False), (0, 1, False)])
def test_a_pair_is_good_where_all_that_ran_passed(passed: int, ran: int, good: bool) -> None:
    assert Outcome("spark4.0-delta4.0", "3.11", passed, ran).good is good
