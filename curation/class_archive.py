"""Java's classes as they lie in memory, loaded and verified: kept in a file, so that sessions start faster.

A driver loads some twenty thousand classes from Spark's and Delta's jars before its first result, and verifies each of
them at every start. Java can write them out when it ends and map that file at the next start (application class-data
sharing, JDK 13 and newer). Java itself checks that the file fits its version and its class path, and does without it
where it doesn't; so nothing depends on it but time. `make setup` makes it; by hand: `python -m curation.class_archive`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from curation.errors import InputError
from curation.jars import find_jars, home_folder

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession


def archive_file() -> Path | None:
    """Where the archive for this Java, Spark and Delta lies or would lie; None where no telling which Java runs."""
    home = os.environ.get("JAVA_HOME")
    java = Path(home, "bin", "java") if home else Path(shutil.which("java") or "")
    release = java.resolve().parent.parent / "release"  # every JDK and JRE since 9 describes itself there
    try:
        described = release.read_bytes()
    except OSError:
        return None
    jars = [f"{jar.name} {jar.stat().st_size}" for jar in find_jars() or ()]
    made_from = "\n".join([str(release), version("pyspark"), *jars]).encode() + described
    return home_folder() / "jars" / f"classes-{hashlib.sha256(made_from).hexdigest()[:12]}.jsa"


def java_options() -> str:
    """What tells Java to use the archive: empty where there is none."""
    file = archive_file()
    return f"-XX:SharedArchiveFile={file} -Xlog:cds*=off" if file is not None and file.is_file() else ""


def make_archive() -> Path | None:
    """Run every kind of step once in a session of its own and keep what Java loaded for it; the file, or None where
    Java wrote none.
    """
    from curation import session

    file = archive_file()
    if file is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    java = f"-XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit={part}"
    options = {
        "spark.driver.extraJavaOptions": f"{session.quiet_logs()} {java}",
        "spark.driver.memory": "1g",
    }
    spark = session.get_session("class-archive", master="local[2]", conf=options)
    with tempfile.TemporaryDirectory(prefix="class-archive-") as folder:
        _every_kind_of_step(spark, folder)
    process = session.java_process(spark)
    spark.stop()
    assert process.stdin is not None
    process.stdin.close()  # the driver's Java ends with its input, and writes the archive when it ends
    process.wait(timeout=300)
    if not part.is_file():
        return None
    for old in file.parent.glob("classes-*.jsa"):  # of another Java or Spark
        old.unlink()
    return part.replace(file)


def _every_kind_of_step(spark: SparkSession, folder: str) -> None:
    from pyspark.sql import functions as F

    from curation.tables import Tables, TableSpec

    def unchanged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    spec = TableSpec("steps", ("id",), "id bigint, name string, part string", partition_by=("part",))
    tables = Tables(spark, folder)
    rows = spark.range(100).select("id", F.sha2(F.col("id").cast("string"), 256).alias("name"))
    rows = rows.withColumn("part", F.lit("a"))
    tables.append(spec, rows.mapInArrow(unchanged, spec.struct(spark)))
    tables.upsert(spec, rows.withColumn("name", F.lit("again")))
    tables.replace(spec, rows.sortWithinPartitions("name", "id"), where={"part": "a"})
    there = tables.read(spec)
    there.join(rows.select("id"), "id", "left_anti").count()
    there.groupBy("part").agg(F.count(F.lit(1)), F.sum("id"), F.max("name")).orderBy("part").collect()
    there.repartition(2, "id").where("id > 3").toArrow()
    there.write.mode("overwrite").json(f"{folder}/lines")
    spark.read.text(f"{folder}/lines").count()
    tables.history(spec)


def main() -> int:
    """`python -m curation.class_archive`: make the archive unless it is there; never a reason to fail a set-up."""
    file = archive_file()
    if file is not None and file.is_file():
        return 0
    try:
        if make_archive() is None:
            print("this Java keeps no archive of its classes; sessions start all the same, slower", file=sys.stderr)
    except (InputError, OSError) as error:
        print(f"no archive of Java's classes was made ({error}); sessions start all the same", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
