"""What the GPU's questions share: the device or one sentence, texts that every Python has, a GPU's clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from typing import Any

import torch

from bench.harness import CannotRun, Setup
from demo import documents as demo


def device(setup: Setup) -> str:
    """`cuda:0`, or `cpu` where a smoke test asks for it."""
    if setup.device == "cpu":
        if setup.scale != "small":
            raise CannotRun("--device cpu is a smoke test: give --scale small with it")
        return "cpu"
    if not torch.cuda.is_available():
        raise CannotRun(f"PyTorch {torch.__version__} sees no GPU here; this question needs one")
    return "cuda:0"


def texts(count: int) -> list[str]:
    """Docstrings of the standard library, again and again up to `count`."""
    found = []
    for file in demo.source_files({"python library": (demo.STDLIB,)}):
        found += [str(row["text"]) for row in demo._docstrings_of(asdict(file), 200) if row["text"] is not None]
        if len(found) >= count:
            break
    return [found[i % len(found)] for i in range(count)]


def finished(where: str, run: Callable[[], Any]) -> Callable[[], Any]:
    """A run that ends when the GPU has: calls only queue its work."""

    @wraps(run)
    def waited() -> Any:
        found = run()
        if where != "cpu":
            torch.cuda.synchronize()
        return found

    return waited
