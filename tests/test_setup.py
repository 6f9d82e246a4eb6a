"""What a machine must have, and the jars that set-up fetches: without a network and without Spark."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from numba.core.dispatcher import Dispatcher

from curation import jars
from curation.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def check(what: str, *, path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run setup/check with only `path` and the system's own tools to find programs in."""
    return subprocess.run(
        ["/bin/bash", str(ROOT / "setup" / "check"), what],
        env={"PATH": f"{path}:/usr/bin:/bin" if what == "python" else f"{path}:{tools(path)}", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def tools(path: Path) -> str:
    """sed, head and cut, without what else lies beside them: the machine's own Java isn't to be found."""
    folder = path / "tools"
    folder.mkdir(exist_ok=True)
    for name in ("sed", "head", "cut", "bash"):
        if not (folder / name).exists():
            (folder / name).symlink_to(next(p for p in (Path("/usr/bin", name), Path("/bin", name)) if p.exists()))
    return str(folder)


def program(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["17", "17.0.15", "21.0.2", "25"])
def test_java_17_or_newer_is_enough(tmp_path: Path, version: str) -> None:
    program(tmp_path / "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")
    done = check("java", path=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("version", ["1.8.0_392", "11.0.22", "16"])
def test_an_older_java_is_named_in_one_sentence(tmp_path: Path, version: str) -> None:
    program(tmp_path / "java", f"echo 'java version \"{version}\"' >&2; echo 'Java(TM) SE' >&2")
    done = check("java", path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: Spark needs Java 17 or newer, and the one on PATH is ")
    assert done.stderr.count("\n") == 1


def test_a_missing_java_is_said_and_java_home_goes_before_path(tmp_path: Path) -> None:
    assert "there is none on PATH" in check("java", path=tmp_path).stderr
    program(tmp_path / "java", "echo 'openjdk version \"17\"' >&2")
    program(tmp_path / "old" / "bin" / "java", "echo 'openjdk version \"11\"' >&2")
    done = check("java", path=tmp_path, JAVA_HOME=str(tmp_path / "old"))
    assert done.returncode == 1
    assert f"the one in JAVA_HOME ({tmp_path / 'old'}) is 11" in done.stderr


def test_a_python_that_does_not_run_or_is_too_old_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "python3.11", "exit 127")  # a version manager's stub
    program(tmp_path / "python3.12", "exit 1")
    program(tmp_path / "python3.13", f'exec {sys.executable} "$@"')
    done = check("python", path=tmp_path)
    assert (done.returncode, done.stdout) == (0, "python3.13\n")


def test_python_is_asked_for_by_name_and_refused_where_too_old(tmp_path: Path) -> None:
    old = program(tmp_path / "old", 'case "$2" in *exit*) exit 1 ;; *) echo 3.9 ;; esac')
    done = check("python", path=tmp_path, PYTHON=str(old))
    assert done.returncode == 1
    assert (
        done.stderr == f"setup: Python 3.11 or newer is needed, and PYTHON={old} is 3.9: set PYTHON to a newer one.\n"
    )


def test_the_locks_name_no_host_and_every_requirement_has_a_hash() -> None:
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        lines = lock.read_text().splitlines()
        assert not [line for line in lines if "://" in line or line.lstrip().startswith("--index")]
        pinned = [i for i, line in enumerate(lines) if "==" in line and not line.startswith((" ", "#"))]
        assert pinned
        assert all(lines[i + 1].strip().startswith("--hash=sha256:") for i in pinned)


# -- jars --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BETR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def resolved(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """Let the resolver bring files of these names, with content that no repository has."""

    def resolve(ivy: Path) -> dict[str, Path]:
        (ivy / "jars").mkdir()
        for name in names:
            (ivy / "jars" / name).write_bytes(name.encode())
        return {name: ivy / "jars" / name for name in names}

    monkeypatch.setattr(jars, "_resolve", resolve)


LOCKED = tuple(jars.committed_jars()["4.2", "4.4.0"])


def test_nine_jars_are_named_for_the_locked_spark_and_delta() -> None:
    assert (jars._versions()["spark"], jars._versions()["delta"]) in jars.committed_jars()
    assert len(LOCKED) == 9 and "delta-spark_4.2_2.13-4.4.0.jar" in LOCKED


@pytest.mark.parametrize(("spark", "delta"), jars.committed_jars())
def test_each_pair_that_is_tried_has_the_jars_of_its_spark_and_delta(
    spark: str, delta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "version", {"pyspark": f"{spark}.1", "delta-spark": delta}.__getitem__)
    assert jars._package().replace("io.delta:", "").replace(":", "-") + ".jar" in jars.committed_jars()[spark, delta]
    assert jars.delta_fits()


def test_a_jar_with_another_hash_is_refused_and_nothing_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, LOCKED)
    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.2", "delta": "4.4.0"})
    with pytest.raises(InputError, match=r"has sha256 .* where curation/delta-jars.sha256 says"):
        jars.resolve_jars()
    assert jars.find_jars() is None
    assert os.listdir(home) == ["jars"], "the resolver's cache is gone"
    assert os.listdir(home / "jars") == []


def test_a_resolution_without_one_of_the_nine_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, LOCKED[1:])
    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.2", "delta": "4.4.0"})
    with pytest.raises(InputError, match=LOCKED[0]):
        jars.resolve_jars()


def test_a_resolver_that_finds_no_way_is_one_sentence_with_its_report(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(jars.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "asked", " in vain"))
    assert jars.main() == 1
    assert "Spark could not fetch Delta's jars (io.delta:delta-spark_" in (said := capsys.readouterr().err)
    assert Path(said.strip().rpartition(" ")[2]).read_text() == "asked in vain"
    assert jars.find_jars() is None


def test_what_a_resolution_brings_beyond_a_pairs_own_jars_is_left_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, ("a.jar", "b.jar"))
    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.0", "delta": "4.0.1"})
    monkeypatch.setattr(
        jars, "committed_jars", lambda: {("4.0", "4.0.1"): {"a.jar": hashlib.sha256(b"a.jar").hexdigest()}}
    )
    assert jars.resolve_jars() == [home / "jars" / "a.jar"]


def test_a_pair_that_nobody_has_tried_keeps_all_that_its_resolution_brings(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved(monkeypatch, ("b.jar", "a.jar"))
    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.0", "delta": "4.0.0"})
    assert jars._package() == "io.delta:delta-spark_2.13:4.0.0"
    kept = [home / "jars" / name for name in ("a.jar", "b.jar")]
    assert jars.resolve_jars() == kept
    assert jars.find_jars() == kept


@pytest.mark.parametrize(
    ("spark", "delta", "said"),
    [
        ("4.2.0", "4.0.1", r"delta-spark 4.0.1 is built for Spark 4.0, and the pyspark here is 4.2.0: pip install 'delta-spark==4.4.0'"),
        ("4.1.0", "4.0.1", r"delta-spark 4.0.1 is built for Spark 4.0, and the pyspark here is 4.1.0: pip install 'delta-spark==4.4.0'"),
        ("4.1.4", "4.1.0", r"delta-spark 4.1.0 is built for Spark 4.0 to 4.1.1, and the pyspark here is 4.1.4: pip install 'delta-spark==4.4.0'"),
        ("4.2.0", "4.3.1", r"delta-spark 4.3.1 is built for Spark 4.0 to 4.1.1, and the pyspark here is 4.2.0: pip install 'delta-spark==4.4.0'"),
        ("4.3.0", "4.4.0", r"delta-spark 4.4.0 is built for Spark 4.0 to 4.2, and the pyspark here is 4.3.0: pip install 'pyspark==4.2.\*'"),
    ],
)
def test_a_delta_that_is_not_built_for_this_spark_is_refused_before_anything_is_fetched(
    spark: str, delta: str, said: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jars, "_resolve", lambda _: pytest.fail("something was fetched"))
    monkeypatch.setattr(jars, "version", {"pyspark": spark, "delta-spark": delta}.__getitem__)
    with pytest.raises(InputError, match=said):
        jars.resolve_jars()
    assert not home.exists()


def test_jars_are_found_only_whole_and_for_the_installed_versions(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved(monkeypatch, ("a.jar", "b.jar"))
    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.0", "delta": "4.0.0"})
    assert jars.find_jars() is None
    first, _ = jars.resolve_jars()

    first.write_bytes(b"cut")
    assert jars.find_jars() is None, "a jar that was cut short"
    jars.resolve_jars()
    assert jars.find_jars() is not None

    monkeypatch.setattr(jars, "_versions", lambda: {"spark": "4.1", "delta": "4.1.0"})
    assert jars.find_jars() is None, "jars of another version"
    monkeypatch.undo()
    monkeypatch.setenv("BETR_HOME", str(home))
    (home / "jars" / "jars.json").write_text(json.dumps({"versions": jars._versions()}))
    assert jars.find_jars() is None, "a manifest of another shape"


def called_from_python() -> dict[str, Dispatcher]:
    """Name -> kernel, of those that no other kernel calls: with these numba compiles all the others."""
    found: dict[str, Dispatcher] = {}
    inner: set[str] = set()
    for path in sorted(path for package in ("curation", "betr", "bare", "evaluation") for path in (ROOT / package).glob("*.py")):
        if not re.search(r"^@[\w.]*(jit|_compiled)", path.read_text(encoding="utf-8"), re.MULTILINE):
            continue
        name = f"{path.parent.name}.{path.stem}"
        for what, value in vars(importlib.import_module(name)).items():
            if isinstance(value, Dispatcher) and value.__module__ == name:
                found[f"{name}.{what}"] = value
                inner |= {called for called in value.py_func.__code__.co_names if called != what}
    return {name: kernel for name, kernel in found.items() if name.rpartition(".")[2] not in inner}


def test_set_up_compiles_every_kernel_with_the_types_of_the_stages() -> None:
    spec = importlib.util.spec_from_file_location("kernels", ROOT / "setup" / "kernels.py")
    assert spec is not None and spec.loader is not None
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    assert kernels.main() == 0
    kept = called_from_python()
    assert len({name.rpartition(".")[0] for name in kept}) == 8  # segments' are called by features' alone
    unused = [name for name, kernel in kept.items() if not kernel.signatures]
    assert not unused and len(kept) > 20
