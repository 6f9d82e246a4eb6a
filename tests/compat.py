"""`make compat`: the main line of both methods on each pair of Spark and Delta, and on each Python that this machine has.

A pair is a lock, requirements/compat-NAME.txt. It runs in an environment of its own, all of it under .local/compat/NAME.
`make compat PAIRS=spark4.0-delta4.0 PYTHONS="3.12 3.13"` runs some of them.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".local" / "compat"
PYTHONS = ("3.11", "3.12", "3.13")
LOCKED = ("--require-hashes", "--only-binary", ":all:", "--no-binary", "pyspark")

# Sessions and errors, tables in a folder and in a schema, `betr doctor`; BETR from documents to a selection and BARE from
# seeds to verdicts, each twice.
TESTS = (
    "tests/test_session.py::test_an_active_session_is_used_as_it_is",
    "tests/test_session.py::test_a_shared_value_reaches_every_task",
    "tests/test_session.py::test_what_an_executor_refuses_comes_back_as_its_sentence",
    "tests/test_session.py::test_errors_of_spark_become_sentences_and_others_stay",
    "tests/test_session.py::test_finished_tasks_are_seen_while_a_job_runs",
    "tests/test_tables.py::test_inserting_twice_changes_nothing_and_keeps_what_is_there",
    "tests/test_tables.py::test_a_version_reads_as_it_was_and_a_read_frame_is_pinned",
    "tests/test_tables.py::test_a_retention_is_set_once_where_tables_are_and_keeps_what_it_says",
    "tests/test_tables.py::test_tables_in_a_schema_work_as_those_in_a_folder",
    "tests/test_tables.py::test_a_table_that_is_not_there_reads_as_empty",
    "tests/test_doctor.py::test_a_healthy_machine_passes_and_keeps_nothing",
    "tests/test_pipeline.py::test_a_first_run_does_every_stage_and_reports_it",
    "tests/test_pipeline.py::test_a_second_run_writes_no_row",
    "tests/test_pipeline.py::test_both_ways_of_reading_leave_the_same_scores",
    "tests/test_bare_pipeline.py::test_a_run_accepts_as_many_rows_as_were_asked_for_and_explains_the_others",
    "tests/test_bare_pipeline.py::test_a_second_run_makes_no_row_and_no_token",
)

# A session that lives for two minutes is over before Java's second compiler has earned what it takes.
JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"


@dataclass(frozen=True)
class Outcome:
    """What one pair did on one Python: tests passed of those that ran, seconds of them; `said` where there is more."""

    pair: str
    python: str
    passed: int = 0
    ran: int = 0
    seconds: float = 0.0
    said: str = ""

    @property
    def good(self) -> bool:
        """Nothing failed; a Python that isn't here fails nothing."""
        return self.passed == self.ran


def lock_of(pair: str) -> Path:
    return ROOT / "requirements" / f"compat-{pair}.txt"


def pairs() -> list[str]:
    """The names of all pairs, oldest Spark first."""
    return sorted(path.stem.removeprefix("compat-") for path in lock_of("").parent.glob("compat-spark*.txt"))


def pins(lock: Path) -> dict[str, str]:
    """Package -> version of a lock, whatever machine it is for."""
    found = (
        re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line) for line in lock.read_text(encoding="utf-8").splitlines()
    )
    return {match[1]: match[2] for match in found if match}


def find_python(minor: str) -> str | None:
    """A Python of this version that runs: on PATH, pyenv's, uv's own."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    uvs = subprocess.run(
        [_uv(), "python", "find", "--managed-python", minor], capture_output=True, text=True, check=False
    )
    candidates = [f"python{minor}", *map(str, sorted(pyenv.glob(f"versions/{minor}.*/bin/python{minor}")))]
    for candidate in [*candidates, *uvs.stdout.split()]:
        told = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:  # a name on PATH may be a version manager's stub
            done = subprocess.run(told, capture_output=True, text=True, check=False)
        except OSError:
            continue
        if done.returncode == 0 and done.stdout.strip() == minor:
            return candidate
    return None


def prepare(pair: str, minor: str, python: str) -> Path:
    """The pair's packages in an environment for this Python, and its jars; the environment's own Python."""
    folder = FOLDER / pair
    venv = folder / f"python{minor}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "demo-data").exists():
        (folder / "demo-data").symlink_to(ROOT / ".local" / "demo-data")
    if not (venv / "bin" / "python").exists():
        _call(_uv(), "venv", "--quiet", "--python", python, str(venv))
    install = [_uv(), "pip", "sync", "--quiet", "--python", str(venv / "bin" / "python"), *LOCKED]
    _call(*install, "--build-constraints", "requirements/tools.txt", str(lock_of(pair)))
    _call(_uv(), "pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), "--no-deps", str(wheel()))
    _call(str(venv / "bin" / "python"), "-m", "curation.jars", home=folder)
    return venv / "bin" / "python"


@cache
def wheel() -> Path:
    """This project's own: the tests read the sources where they lie, and it tells what a distribution says of itself."""
    shutil.rmtree(FOLDER / "wheel", ignore_errors=True)
    _call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(FOLDER / "wheel"))
    (built,) = (FOLDER / "wheel").glob("*.whl")
    return built


def run(pair: str, minor: str) -> Outcome:
    python = find_python(minor)
    if python is None:
        return Outcome(pair, minor, said=f"skipped: no Python {minor} here")
    try:
        own = prepare(pair, minor, python)
    except subprocess.CalledProcessError as error:
        return Outcome(pair, minor, ran=1, said=f"not set up: {(error.stderr or error.stdout).strip()[-300:]}")
    folder = FOLDER / pair
    report, log = folder / f"python{minor}.xml", folder / f"python{minor}.log"
    report.unlink(missing_ok=True)
    begun = time.monotonic()
    command = [str(own), "-m", "pytest", "-q", f"--junitxml={report}", f"--basetemp={folder / 'scratch'}", *TESTS]
    with open(log, "w", encoding="utf-8") as out:
        subprocess.run(command, cwd=ROOT, env=_environment(folder), stdout=out, stderr=subprocess.STDOUT, check=False)
    seconds = time.monotonic() - begun
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    if not report.is_file():
        return Outcome(pair, minor, ran=1, seconds=seconds, said=f"no test ran: {log.relative_to(ROOT)}")
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")
    ran, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    said = f"see {log.relative_to(ROOT)}" if failed else ""
    return Outcome(pair, minor, ran - skipped - failed, ran - skipped, seconds, said)


def _uv() -> str:
    return str(Path(sys.executable).with_name("uv"))


def _environment(home: Path) -> dict[str, str]:
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "SPARK_HOME", "SPARK_REMOTE", "PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    caches = {"BETR_HOME": str(home), "NUMBA_CACHE_DIR": str(home / "cache" / "numba")}
    return {**kept, **caches, "JAVA_TOOL_OPTIONS": JAVA}


def _call(*command: str, home: Path = FOLDER) -> None:
    subprocess.run(command, cwd=ROOT, env=_environment(home), check=True, capture_output=True, text=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compat", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", nargs="*", default=[], choices=pairs(), metavar="PAIR")
    parser.add_argument("--pythons", nargs="*", default=[], metavar="3.N")
    options = parser.parse_args(argv)
    console = Console()
    table = Table("pyspark", "delta-spark", "Python", "passed", "seconds", "", box=None, pad_edge=False)
    outcomes = []
    for pair in options.pairs or pairs():
        locked = pins(lock_of(pair))
        for minor in options.pythons or PYTHONS:
            console.print(f"compat: {pair} on Python {minor}")
            found = run(pair, minor)
            outcomes.append(found)
            passed = f"{found.passed} of {found.ran}" if found.ran else ""
            seconds = f"{found.seconds:.0f}" if found.seconds else ""
            table.add_row(locked["pyspark"], locked["delta-spark"], minor, passed, seconds, found.said)
    console.print(table)
    return 0 if all(found.good for found in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
