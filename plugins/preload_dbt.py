"""Import Cosmos and dbt once, in the process that forks the tasks.

Each task is a fork of this process, and does not import again what this process has imported.
Without this file, each `dbt build` would first import dbt, in 3 s of CPU time. With it, the process
needs about 70 MB more memory.

The scheduler imports every file in plugins/, so no AirflowPlugin is needed. A Celery worker does
not import these files before it forks: the setting in deploy/prod.yaml makes it import this one.
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
