"""The archive of Java's classes: named by what it was made from, used where it is there, never needed."""

from importlib.metadata import version
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from curation import class_archive, session
from curation.errors import InputError


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "jdk" / "bin").mkdir(parents=True)
    (tmp_path / "jdk" / "release").write_text('JAVA_VERSION="17.0.1"\n')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("BETR_HOME", str(tmp_path / "home"))
    return tmp_path / "jdk"


def test_another_java_has_another_archive(java: Path) -> None:
    first = class_archive.archive_file()
    assert first is not None and first == class_archive.archive_file()
    (java / "release").write_text('JAVA_VERSION="21.0.2"\n')
    assert class_archive.archive_file() != first


def test_another_spark_has_another_archive(java: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = class_archive.archive_file()
    monkeypatch.setattr(class_archive, "version", lambda name: version(name) + ".1")
    assert class_archive.archive_file() != first


def test_without_an_archive_java_is_told_nothing(java: Path) -> None:
    assert class_archive.java_options() == ""
    file = class_archive.archive_file()
    assert file is not None
    file.parent.mkdir(parents=True)
    file.touch()
    assert f"-XX:SharedArchiveFile={file}" in class_archive.java_options()


def test_a_java_that_does_not_describe_itself_goes_without(java: Path) -> None:
    (java / "release").unlink()
    assert class_archive.archive_file() is None
    assert class_archive.java_options() == ""
    assert class_archive.make_archive() is None


@pytest.mark.parametrize("outcome", [lambda: None, lambda: (_ for _ in ()).throw(InputError("no Java"))])
def test_a_set_up_goes_on_without_an_archive(
    java: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], outcome: object
) -> None:
    monkeypatch.setattr(class_archive, "make_archive", outcome)
    assert class_archive.main() == 0
    assert "sessions start all the same" in capsys.readouterr().err


def test_sessions_use_the_archive_that_set_up_made(spark: SparkSession) -> None:
    if not class_archive.java_options():
        pytest.skip("this Java keeps no archive of its classes")
    assert class_archive.java_options() in str(spark.conf.get("spark.driver.extraJavaOptions"))
    assert class_archive.java_options() in session._laptop_defaults("local[2]")["spark.driver.extraJavaOptions"]
