"""Import Cosmos and dbt once, in the process that forks the tasks.

Every task is a fork. What its parent has imported costs it nothing; otherwise `dbt build` would
import dbt first, in 3 s of CPU time. The price is about 70 MB of memory in the parent. An
AirflowPlugin is not needed: the scheduler imports every file in plugins/. A Celery worker imports
none, its children do; deploy/prod.yaml makes it import this one.
"""

# ruff: noqa: F401

import sys

from airflow.configuration import conf


def forks_tasks(argv: list[str], executor: str) -> bool:
    """Return whether this process is the parent of tasks: a Celery worker, or the scheduler."""
    if "celery" in argv:
        from billiard import current_process

        return current_process().name == "MainProcess"
    return "scheduler" in argv and "LocalExecutor" in executor


if forks_tasks(sys.argv, conf.get("core", "executor")):
    # Airflow needs these when it looks for a task's DAG file and parses it.
    import airflow.dag_processing.bundles.local
    import airflow.providers.postgres.hooks.postgres
    import cosmos.airflow.dag
    import cosmos.airflow.task_group
    import cosmos.operators.local
    import cosmos.profiles

    # dbt needs these when it builds.
    import dbt.adapters.postgres
    import dbt.cli.main
    import dbt.task.build
    import openlineage.common.provider.dbt.local
    import upath.implementations.local
