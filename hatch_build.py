"""hatchling's build hook: compiles betr/_kernel.c where a C compiler is. Without one betr scores with numba alone.

The kernel needs no more of Python than its stable ABI, and chooses its instructions at run time: one wheel serves every
Python from 3.11 on and every machine of its architecture. A wheel without it is pure Python.
"""

import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# FP_CONTRACT: a fused multiply-add would round once where numba rounds twice.
FLAGS = ["-O3", "-g0", "-std=gnu11", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-psabi"]


class CompiledKernel(BuildHookInterface[Any]):
    """Puts the compiled kernel into the wheel, or, for an editable installation, beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or sysconfig.get_config_var("Py_GIL_DISABLED"):  # that one has no stable ABI yet
            return
        self.scratch = tempfile.TemporaryDirectory(prefix="betr-build-")
        built = _compile(Path(self.root), Path(self.scratch.name))
        if built is None:
            return
        if version == "editable":
            target = Path(self.root, "betr", built.name)
            part = target.with_name(f".{built.name}.part")
            part.write_bytes(built.read_bytes())
            part.chmod(0o755)
            part.replace(target)  # a process that runs the old one keeps it
        else:
            build_data["force_include"][str(built)] = f"betr/{built.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "scratch"):
            self.scratch.cleanup()


def _compile(root: Path, scratch: Path) -> Path | None:
    """The compiled module, or None where there is no compiler or it fails: setuptools says which, and goes on."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(
        "betr._kernel", ["betr/_kernel.c"], extra_compile_args=FLAGS, py_limited_api=True, optional=True
    )
    command = build_ext(Distribution({"name": "betr-bare", "ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(scratch / "lib"), str(scratch / "temp")
    command.ensure_finalized()
    command.run()
    built = Path(command.get_ext_fullpath("betr._kernel"))
    if not built.is_file():
        print("betr: the native kernel was not built; numba does its work", file=sys.stderr)
        return None
    return built
