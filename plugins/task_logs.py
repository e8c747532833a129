"""Make the logs of dbt's tasks say what dbt said, and little else."""

import logging

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

# What Cosmos says at every parse of a DAG file, which every task does first, and at every look at
# the running dbt. Airflow's own setting for it, namespace_levels, does not reach these loggers.
for name in (
    "config",
    "converter",
    "dbt.graph",
    "dbt.project",
    "operators._watcher.state",
    "operators._watcher.triggerer",
    "profiles",
):
    logging.getLogger(f"cosmos.{name}").setLevel(logging.WARNING)
# These warn of what is right: exposures and unit tests have no task, a snapshot can have tests.
for name in ("cosmos.airflow.graph", "openlineage.common"):
    logging.getLogger(name).setLevel(logging.ERROR)

LEVELS = {"success": logging.INFO, "pass": logging.INFO, "warn": logging.WARNING}


def log_nodes(ti, failed: bool = False) -> None:
    """Log what dbt said about each node of a watching task."""
    task = ti.task
    # From the second try on, the task runs dbt itself.
    if not hasattr(task, "is_test_sensor") or ti.try_number > 1:
        return
    from cosmos.operators._watcher.base import get_dbt_event_xcom_key, get_xcom_val

    nodes = []
    # Cosmos logs a model's error itself.
    if not task.is_test_sensor and not failed:
        nodes += [task.model_unique_id]
    if task.is_test_sensor or task.base_cmd == ["build"]:
        producer = task.dag.get_task(task.producer_task_id)
        nodes += producer.tests_per_model.get(task.model_unique_id, [])
    # Listeners run in a group of the log that Airflow's UI shows folded: leave it.
    if nodes:
        task.log.info("::endgroup::")
    for node in nodes:
        event = get_xcom_val(ti, task.producer_task_id, get_dbt_event_xcom_key(node))
        # With dbt in a process of its own, Cosmos hears of failures only.
        if event:
            task.log.log(LEVELS.get(event["status"], logging.ERROR), "%s", event["msg"])


class TaskLogs:
    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        log_nodes(task_instance)

    @hookimpl
    def on_task_instance_failed(self, previous_state, task_instance, error):
        log_nodes(task_instance, failed=True)


class TaskLogsPlugin(AirflowPlugin):
    name = "task_logs"
    listeners = (TaskLogs(),)
