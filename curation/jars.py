"""Delta's Java side: the few jars that Spark lacks, resolved once, kept in a folder, checked by hash.

Spark would resolve `spark.jars.packages` at every start: 33 jars, most of them in Spark already, and the network each
time. Here the same resolution runs once, without what Spark has, and every start reads the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path

from curation.errors import InputError

SCALA = "2.13"

# In Spark's own jars folder, or for storage that Spark brings along itself.
IN_SPARK = (
    "org.apache.*:*",
    "org.slf4j:*",
    "org.antlr:*",
    "org.xerial.snappy:*",
    "org.locationtech.jts:*",
    "com.fasterxml.*:*",
    "com.github.luben:*",
    "com.google.code.findbugs:*",
    "commons-*:*",
    "io.airlift:*",
    "javax.annotation:*",
)


SPARKS = ("4.0", "4.1", "4.2")
# The first and the last Spark that a Delta is built for. Spark 4.1.4 lacks a class that Delta 4.1.0 needs; those up to
# 4.3 say themselves that 4.1.1 is their last.
BUILT_FOR = {
    "4.0": ("4.0", "4.0"),
    "4.1": ("4.0", "4.1.1"),
    "4.2": ("4.0", "4.1.1"),
    "4.3": ("4.0", "4.1.1"),
    "4.4": ("4.0", "4.2"),
}


@cache
def committed_jars() -> dict[tuple[str, str], dict[str, str]]:
    """(Spark, Delta) -> file name -> sha256, of every pair that `make compat` runs: what delta-jars.sha256 says.

    A Delta has one jar for each Spark that was tried, and others for all of them.
    """
    deltas: dict[str, dict[str, str]] = {}
    for line in files("curation").joinpath("delta-jars.sha256").read_text(encoding="utf-8").splitlines():
        if line.startswith("# Delta "):
            jars = deltas.setdefault(line.removeprefix("# Delta "), {})
        else:
            sha256, name = line.split()
            jars[name] = sha256
    return {
        (spark, delta): {name: sha256 for name, sha256 in jars.items() if not name.startswith("delta-spark_")}
        | {own: jars[own]}
        for delta, jars in deltas.items()
        for spark in SPARKS
        if _is_built_for(spark, delta) and (own := f"{_artifact(spark, delta)}-{delta}.jar") in jars
    }


def delta_fits() -> bool:
    """Whether the installed Delta is built for the installed Spark, as far as we know: pip doesn't always see to it."""
    try:
        return _is_built_for(version("pyspark"), version("delta-spark"))
    except PackageNotFoundError:  # a platform may bring Delta without its Python package
        return True


def misfit() -> str:
    """Why the installed Delta doesn't fit, and what to do."""
    spark, delta = version("pyspark"), version("delta-spark")
    first, last = BUILT_FOR[_minor(delta)]
    tried = [its_delta for its_spark, its_delta in committed_jars() if its_spark == _minor(spark)]
    remedy = f"delta-spark=={tried[-1]}" if tried else f"pyspark=={last}.*"
    built = f"Spark {first}" if first == last else f"Spark {first} to {last}"
    return f"delta-spark {delta} is built for {built}, and the pyspark here is {spark}: pip install '{remedy}'"


def _is_built_for(spark: str, delta: str) -> bool:
    first, last = map(_order, BUILT_FOR.get(_minor(delta), (spark, spark)))  # of a newer Delta we know nothing
    return first <= _order(spark) and _order(spark)[: len(last)] <= last


def _minor(whole: str) -> str:
    return ".".join(whole.split(".")[:2])


def _order(whole: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", whole)[:3])


def _versions() -> dict[str, str]:
    return {"spark": _minor(version("pyspark")), "delta": version("delta-spark")}


def _package() -> str:
    versions = _versions()
    return f"io.delta:{_artifact(versions['spark'], versions['delta'])}:{versions['delta']}"


def _artifact(spark: str, delta: str) -> str:
    # Before 4.1, Delta's artifact named no Spark version.
    return f"delta-spark_{spark}_{SCALA}" if _order(delta) >= (4, 1) else f"delta-spark_{SCALA}"


def home_folder() -> Path:
    """Where local state is kept: BETR_HOME; in a checkout its .local; else a folder in the user's cache."""
    if home := os.environ.get("BETR_HOME"):
        return Path(home).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".local"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "betr-bare"


def jars_folder() -> Path:
    return home_folder() / "jars"


def find_jars() -> list[Path] | None:
    """The resolved jars for the installed Spark and Delta, or None where one is missing or cut short."""
    folder = jars_folder()
    try:
        manifest = json.loads((folder / "jars.json").read_text(encoding="utf-8"))
        jars = [folder / name for name in manifest["bytes"]]
        whole = all(jar.stat().st_size == manifest["bytes"][jar.name] for jar in jars)
    except (OSError, ValueError, KeyError):
        return None
    return jars if whole and manifest["versions"] == _versions() else None


def resolve_jars(target: Path | None = None) -> list[Path]:
    """Fetch the jars into `target` (default: `jars_folder()`) through Spark's own resolver, which honours its settings.

    The jars of the pairs in delta-jars.sha256 must have its hashes. Raises InputError, with nothing left in `target`
    that `find_jars` would take for whole, when Delta isn't for this Spark, the resolver finds no way or a hash differs.
    """
    if not delta_fits():
        raise InputError(misfit())
    target = target or jars_folder()
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="ivy-") as ivy:
            found = _resolve(Path(ivy))
            _check_hashes(found)
            return _keep(found, target)
    except OSError as error:
        raise InputError(
            f"Delta's jars can't be kept in {target} ({error}); set BETR_HOME to a folder that you can write to"
        ) from error


def _resolve(ivy: Path) -> dict[str, Path]:
    """Run spark-submit over an empty script: resolution is the first thing it does. Returns file name -> path."""
    import pyspark

    script = ivy / "empty.py"
    script.touch()
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [
        str(submit), "--master", "local[1]", "--packages", _package(), "--exclude-packages", ",".join(IN_SPARK),
        "--conf", f"spark.jars.ivy={ivy}", str(script),
    ]  # fmt: skip
    outcome = subprocess.run(
        command,
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    jars = sorted((ivy / "jars").glob("*.jar"))
    if outcome.returncode or not jars:
        log = Path(tempfile.gettempdir()) / "betr-delta-jars.log"
        log.write_text(outcome.stdout + outcome.stderr, encoding="utf-8")
        if "JAVA_HOME" in outcome.stderr:
            raise InputError("Spark needs Java 17 or newer, and there is none on PATH: install one or set JAVA_HOME")
        raise InputError(
            f"Spark could not fetch Delta's jars ({_package()}): the network, or Spark's spark.jars.ivySettings, must "
            f"reach a Maven repository that has them; the resolver's report is in {log}"
        )
    # The resolver names a file <organisation>_<artifact>-<version>.jar; an organisation has no underscore.
    return {jar.name.split("_", 1)[1]: jar for jar in jars}


def _check_hashes(found: dict[str, Path]) -> None:
    versions = _versions()
    expected = committed_jars().get((versions["spark"], versions["delta"]))
    if expected is None:
        return  # A pair that nobody has tried here: the resolver's own checksums have to do.
    if missing := sorted(expected.keys() - found.keys()):
        raise InputError(f"Delta's jars are incomplete: the resolver brought no {', '.join(missing)}; run it again")
    for name in sorted(found.keys() - expected.keys()):
        del found[name]
    for name, jar in found.items():
        sha256 = hashlib.sha256(jar.read_bytes()).hexdigest()
        if sha256 != expected[name]:
            raise InputError(
                f"{name} has sha256 {sha256}, where curation/delta-jars.sha256 says {expected[name]}: "
                "what was fetched is not what was published; check the repository that Spark resolves from"
            )


def _keep(found: dict[str, Path], target: Path) -> list[Path]:
    kept = []
    for name, jar in sorted(found.items()):
        part = target / f"{name}.{os.getpid()}.part"
        shutil.copyfile(jar, part)
        kept.append(part.replace(target / name))
    manifest = {"versions": _versions(), "bytes": {jar.name: jar.stat().st_size for jar in kept}}
    part = target / f"jars.json.{os.getpid()}.part"
    part.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    part.replace(target / "jars.json")  # last: a folder without it holds no jars
    return kept


def main() -> int:
    """`python -m curation.jars`: fetch the jars unless they are there."""
    try:
        if find_jars() is None:
            resolve_jars()
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
