"""Import Cosmos and dbt once, in the process that forks the tasks.

Every task is a fork. What its parent has imported costs it nothing; otherwise each one imports
Cosmos, and the one that runs dbt imports dbt too, which took seconds. The price is about 70 MB of
memory in the parent. An AirflowPlugin is not needed: the scheduler imports every file in plugins/.
A Celery worker imports none, its children do; deploy/astro.yaml makes it import this one.
"""

import sys

from airflow.configuration import conf


def forks_tasks(argv: list[str], executor: str) -> bool:
    """Return whether this process is the parent of tasks: a Celery worker, or the scheduler."""
    if "celery" in argv:
        from billiard import current_process

        return current_process().name == "MainProcess"
    return "scheduler" in argv and "LocalExecutor" in executor


if forks_tasks(sys.argv, conf.get("core", "executor")):
    # Airflow itself imports these when a DAG file is parsed.
    import dbt.adapters.postgres
    import dbt.cli.main  # noqa: F401
    import openlineage.common.provider.dbt.local  # noqa: F401  after each dbt
