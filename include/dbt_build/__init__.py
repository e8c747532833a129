"""One `dbt build` whose nodes are Airflow tasks: see, retry and alert on each, at dbt's own speed.

    dbt = DbtTaskGroup(group_id="dbt", **cosmos_args("my_project"))
    load() >> add_dbt_build(dbt) >> dbt >> publish()

Cosmos renders the project; `add_dbt_build` adds the task that runs `dbt build`, before all others:

    dbt_build ─┬─> stg_a.run ─> stg_a.test ─> mart.run ─> mart.test
               └─> every one of them, so that none is due while dbt runs

While dbt builds, each task whose nodes are built and tested is set green, with dbt's own times and
words: no process waits for dbt or starts, so there is no success callback, listener or asset event
of such a task either. What failed starts, and fails with what dbt said; its failure callbacks run.
A task that is retried or cleared runs `dbt build` for exactly its own nodes.

config.py     which project, selection, connection, schema: what a DAG file calls
graph.py      the tasks of a project's nodes, and the one build before them
operators.py  what those two kinds of tasks do
events.py     what dbt says about each node
artifacts.py  dbt's manifest and results of each run, kept
lineage.py    OpenLineage's events of each node
interrupt.py  a timeout ends dbt, and its statements
lock.py       no two of them in one schema at once
telling.py    how Airflow hears of it, through plugins/dbt_build_api.py
project.py    where a project is, and how it is prepared for Cosmos
__main__.py   prepares all of them, so that no DAG file waits for dbt
"""

from include.dbt_build.config import cosmos_args, docs_args, docs_place
from include.dbt_build.graph import add_dbt_build

__all__ = ["add_dbt_build", "cosmos_args", "docs_args", "docs_place"]
