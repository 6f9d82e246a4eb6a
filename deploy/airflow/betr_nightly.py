"""BETR every night in Airflow 3: what is new is read, scored, and kept above the threshold that is there.

`betr` is on the worker's PATH. The first run, which embeds and trains, is `betr run`, by hand; docs/clusters.md.
"""

from datetime import datetime, timedelta
from itertools import pairwise

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

STAGES = {
    "import": 'betr import --master "$MASTER" --tables "$TABLES" --documents "$DOCUMENTS"',
    "score": 'betr score --master "$MASTER" --tables "$TABLES"',
    "deduplicate": 'betr deduplicate --master "$MASTER" --tables "$TABLES"',
    "decontaminate": 'betr decontaminate --master "$MASTER" --tables "$TABLES"',
    "select": 'betr select --master "$MASTER" --tables "$TABLES" --carry default',
    "cover": 'betr cover --master "$MASTER" --tables "$TABLES"',
    "watch": 'betr watch --master "$MASTER" --tables "$TABLES" --on-drift fail',
}

with DAG(
    "betr_nightly",
    description="New documents: import, score, select, and what has moved since the night before",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,  # a night that comes too early waits
    # Tables in a catalog are held for five minutes by a task that died.
    default_args={"retries": 2, "retry_delay": timedelta(minutes=6)},
    params={
        "master": Param("local[*]", type="string", description="Spark master, or a Connect address"),
        "tables": Param("/data/betr", type="string", description="where the tables are: a folder, or catalog.schema"),
        "documents": Param("/data/documents", type="string", description="folder that new documents come into"),
    },
) as dag:
    tasks = [
        BashOperator(
            task_id=stage,
            bash_command=command,
            env={name.upper(): f"{{{{ params.{name} }}}}" for name in ("master", "tables", "documents")},
            append_env=True,
        )
        for stage, command in STAGES.items()
    ]
    tasks[-1].retries = 0  # exit code 3: what moved has moved, and a second try would say the same
    for before, after in pairwise(tasks):
        before >> after
