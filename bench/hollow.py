"""Our modules on a machine without Spark: what they import of it is hollow, and nothing there calls it."""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PACKAGES = ("pyspark", "delta", "py4j", "jsonargparse", "zstandard")


class _Hollow(type):
    """A class whose every attribute is another one: enough for annotations, bases and names that are imported."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Hollow(name, (), {})

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{cls.__name__} was called, and there is no Spark on this machine")


class _Module(ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - a package: what lies below it is found by the same finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Hollow(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self.packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def without_spark() -> list[str]:
    """Make importable what isn't installed of PACKAGES; returns those that now are hollow."""
    missing = {name for name in PACKAGES if name not in sys.modules and find_spec(name) is None}
    if missing:
        sys.meta_path.append(_Finder(missing))
    return sorted(missing)
