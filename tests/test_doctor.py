"""`betr doctor`: a healthy machine passes; each thing that is wrong is named with its remedy and fails the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from betr import cli, doctor
from betr.classifier import FoldedClassifier
from betr.kernel import available_kernels, kernel_in_use
from curation import jars
from curation.errors import ChecksFailedError, InputError
from curation.progress import Terminal


def by_name(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {check["check"]: check for check in result["checks"]}


def no_session() -> SparkSession:
    raise InputError("there is no Spark here")


def examined_without_session() -> dict[str, dict[str, str]]:
    with pytest.raises(ChecksFailedError) as failed:
        doctor.examine(no_session, terminal=Terminal())
    assert isinstance(failed.value.result, dict)
    return by_name(failed.value.result)


@pytest.mark.connect
def test_a_healthy_machine_passes_and_keeps_nothing(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "tables"
    result = doctor.examine(lambda: spark, tables=str(root), terminal=Terminal())
    found = by_name(result)
    assert result["ok"] and not root.exists()
    assert found["kernel"]["found"].startswith(f"{kernel_in_use()} scores")
    assert all(kernel in found["kernel"]["found"] for kernel in available_kernels())
    assert "1 host(s) answered" in found["executors"]["found"] and kernel_in_use() in found["executors"]["found"]
    assert found["tables"]["found"] == f"Delta writes, merges and reads in {root}"


def test_kernels_that_disagree_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FoldedClassifier.margins

    def margins(self: FoldedClassifier, texts: Any, *, kernel: str | None = None) -> Any:
        found = real(self, texts, kernel="numba")
        return np.nextafter(found, np.inf) if kernel == "avx2" else found

    monkeypatch.setattr(doctor, "available_kernels", lambda: ("avx2", "numba"))
    monkeypatch.setattr(FoldedClassifier, "margins", margins)
    kernel = examined_without_session()["kernel"]
    assert (kernel["state"], kernel["found"]) == ("failed", "avx2 and numba disagree")
    assert "BETR_KERNEL=numba" in kernel["remedy"]


def test_numba_alone_is_said_with_what_would_be_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_kernels", lambda: ("numba",))
    kernel = examined_without_session()["kernel"]
    assert kernel["state"] == "warning" and "C compiler" in kernel["remedy"]


@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('openjdk version "11.0.2" 2019-01-15', 'openjdk version "11.0.2"'),
        ('java version "1.8.0_392"', 'java version "1.8.0_392"'),
        (None, "there is no "),
    ],
)
def test_java_that_is_missing_or_too_old_fails(
    says: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if says is not None:
        java = tmp_path / "bin" / "java"
        java.parent.mkdir()
        java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
        java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    java_check = examined_without_session()["java"]
    assert java_check["state"] == "failed" and found in java_check["found"]
    assert "Java 17 or newer" in java_check["remedy"]


def test_a_delta_of_another_spark_fails_with_the_one_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPARK_REMOTE", raising=False)
    monkeypatch.setattr(jars, "version", lambda name: "4.0.1" if name == "delta-spark" else "4.2.0")
    found = examined_without_session()["delta's jars"]
    assert found["state"] == "failed" and found["found"].startswith("delta-spark 4.0.1 is built for Spark 4.0, ")
    assert found["remedy"] == "pip install 'delta-spark==4.4.0'"


def test_a_missing_extra_says_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "embedding", ("json", "no_such_package"))
    extra = examined_without_session()["extra embedding"]
    assert (extra["state"], extra["found"]) == ("warning", "lacks no_such_package")
    assert "pip install 'betr-bare[embedding]'" in extra["remedy"]


def test_no_session_fails_the_command_and_json_tells_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "open_session", lambda _: no_session())
    assert cli.main(["doctor", "--json"]) == 1
    said = capsys.readouterr()
    result = json.loads(said.out.splitlines()[-1])
    assert result["ok"] is False
    assert by_name(result)["session"] == {
        "check": "session", "state": "failed", "found": "there is no Spark here", "remedy": ""
    }
    assert "executors" not in by_name(result)  # nothing to ask
    assert "not in order: session" in said.err
