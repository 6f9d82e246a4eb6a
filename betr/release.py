"""A selection as a Delta table of its own, with its text (`betr release`): what no VACUUM and no later run can take."""

from __future__ import annotations

import re
from typing import Any

from pyspark.sql import functions as F

from betr.export import chosen, records
from betr.run import Run
from curation.errors import InputError
from curation.tables import TableSpec

SCHEMA = (
    "selection_id string, id string, text string, source string, license string, tokens bigint, score double, "
    "weight double, metadata map<string,string>"
)


def release(run: Run, wanted: str | None, *, name: str | None = None) -> dict[str, Any]:
    """Write a selection, as `find_selection` takes it (None: the latest), as the table `release_NAME`, in one commit.

    name: of the release; by default the selection's with its version. The same selection again changes nothing;
    InputError where the name holds another one.
    """
    tables = run.tables
    selected = chosen(run, wanted)
    called = name or re.sub(r"\W", "_", f"{selected['name']}_{selected['version']}").lower()
    if not re.fullmatch(r"[a-z0-9_]+", called):
        raise InputError(f"--name: a release's name is small letters, digits and _; got {called!r}")
    spec = TableSpec(f"release_{called}", key=("id",), schema=SCHEMA)
    there = tables.read(spec).select("selection_id").first()
    where = {"release": called, "table": tables.location(spec), "selection_id": selected["selection_id"]}
    if there is not None and there["selection_id"] != selected["selection_id"]:
        raise InputError(
            f"the release {called} holds the selection {there['selection_id']}, and is never written again; give "
            "another name with --name"
        )
    state = "unchanged" if there is not None else "done"
    if there is None:
        rows = records(run, selected).drop("bytes").withColumn("selection_id", F.lit(selected["selection_id"]))
        tables.append(spec, rows, keys_are_unique=True)  # documents' ids are, and so are those of their pieces
    totals = tables.read(spec).agg(F.count(F.lit(1)).alias("records"), F.sum("tokens").alias("tokens")).first()
    assert totals is not None
    run.terminal.line(f"release {called} {state}: {totals['records']:,} records, {totals['tokens']:,} tokens")
    return {"state": state, **where, **totals.asDict()}
