"""The wheel for Databricks: ours, but it asks for neither pyspark nor delta-spark, which the platform brings itself.

Installed over the platform's own they would stop a serverless session. `databricks bundle deploy` calls this.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BROUGHT = re.compile(r"Requires-Dist: (pyspark|delta-spark)(?![\w.-])")


def without_spark(wheel: Path, folder: Path) -> Path:
    """A copy of the wheel in `folder` that lacks these two requirements; its RECORD says so."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        metadata, record = (_named(source, f".dist-info/{name}") for name in ("METADATA", "RECORD"))
        lines = source.read(metadata).decode().splitlines(keepends=True)
        lighter = "".join(line for line in lines if not BROUGHT.match(line)).encode()
        for entry in source.infolist():
            if entry.filename == metadata:
                target.writestr(entry, lighter)
            elif entry.filename == record:
                target.writestr(entry, _recorded(source.read(record).decode(), metadata, lighter))
            else:
                target.writestr(entry, source.read(entry))
    return copy


def _named(source: zipfile.ZipFile, ending: str) -> str:
    return next(name for name in source.namelist() if name.endswith(ending))


def _recorded(record: str, name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    rows = [[name, f"sha256={digest}", len(data)] if row[0] == name else row for row in csv.reader(io.StringIO(record))]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def main() -> int:
    """Build the repository's wheel and leave its lighter copy, alone, in `dist` beside this file."""
    env = dict(os.environ)
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        env["CC"] = "false"  # a kernel of this machine's kind is none of theirs: the wheel without one runs everywhere
    dist = HERE / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    with tempfile.TemporaryDirectory() as built:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built]
        subprocess.run(build, cwd=REPOSITORY, env=env, check=True, stdout=sys.stderr)
        print(without_spark(next(Path(built).glob("*.whl")), dist))
    return 0


if __name__ == "__main__":
    sys.exit(main())
