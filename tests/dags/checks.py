"""What every DAG of the project has to have, as functions that name what is missing."""

from collections.abc import Iterator

from airflow.sdk import DAG


def problems(dag: DAG, connections: set[str]) -> Iterator[str]:
    """Yield a line for each thing that is wrong with a DAG."""
    if dag.dag_id != dag.dag_id.lower() or not dag.dag_id.isidentifier():
        yield f"{dag.dag_id}: the id is not snake_case"
    if not (dag.doc_md or "").strip():
        yield f"{dag.dag_id}: no doc_md"
    if not dag.tags:
        yield f"{dag.dag_id}: no tags"
    if dag.catchup:
        yield f"{dag.dag_id}: catchup is on, a deployment would run each day since start_date"
    for task in dag.tasks:
        if task.owner in ("", "airflow"):
            yield f"{dag.dag_id}.{task.task_id}: no owner"
        if task.retries < 1:
            yield f"{dag.dag_id}.{task.task_id}: no retries"
        for conn_id in connection_ids(task) - connections:
            yield f"{dag.dag_id}.{task.task_id}: airflow_settings.yaml has no connection {conn_id}"


def connection_ids(task) -> set[str]:
    """Return the connections that an operator names, in its arguments or in its dbt profile."""
    named = {value for name, value in vars(task).items() if name.endswith("conn_id") and value}
    profile = getattr(task, "profile_config", None)
    if profile and profile.profile_mapping:
        named.add(profile.profile_mapping.conn_id)
    return named
