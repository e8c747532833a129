"""Checks of every DAG, as functions that name what is missing."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from airflow.sdk import DAG

from include.dbt_build.build import DbtBuildOperator


def problems(dag: DAG, connections: set[str]) -> Iterator[str]:
    """Yield a line for each thing that is wrong with a DAG."""
    if dag.dag_id != dag.dag_id.lower() or not dag.dag_id.isidentifier():
        yield f"{dag.dag_id}: the ID is not snake_case"
    if not (dag.doc_md or "").strip():
        yield f"{dag.dag_id}: no doc_md"
    if not dag.tags:
        yield f"{dag.dag_id}: no tags"
    if dag.catchup:
        yield f"{dag.dag_id}: catchup is on, so a deployment would run each day since start_date"
    if not dag.on_failure_callback:
        yield f"{dag.dag_id}: no on_failure_callback: use DAG_DEFAULTS"
    if not dag.dagrun_timeout:
        yield f"{dag.dag_id}: no dagrun_timeout, so a run could hang for ever: use DAG_DEFAULTS"
    for task in dag.tasks:
        if task.owner in ("", "airflow"):
            yield f"{dag.dag_id}.{task.task_id}: no owner"
        if task.retries < 1:
            yield f"{dag.dag_id}.{task.task_id}: no retries"
        for conn_id in connection_ids(task) - connections:
            yield f"{dag.dag_id}.{task.task_id}: airflow_settings.yaml has no connection {conn_id}"


def without_dag(folder: Path, dags: Iterable[DAG]) -> Iterator[str]:
    """Yield a line for each file in which Airflow finds no DAG."""
    found = {Path(dag.fileloc) for dag in dags}
    for file in sorted(folder.rglob("*.py")):
        if file not in found and file.name != "__init__.py":
            yield (
                f"{file.relative_to(folder)}: Airflow finds no DAG in it. It skips a file that "
                "lacks the words airflow and dag, and reports no error"
            )


def misnamed(files: Iterable[Path]) -> Iterator[str]:
    """Yield a line for each file that dbt would import as a plugin of its own."""
    for file in files:
        if file.name.startswith("dbt_"):
            yield f"{file.name}: dbt imports every module dbt_* as a plugin: choose another name"


def built_twice(dags: Iterable[DAG]) -> Iterator[str]:
    """Yield a line for each table or view that two nodes build, or one node in two DAGs."""
    builders = defaultdict(set)
    for dag in dags:
        for build in (task for task in dag.tasks if isinstance(task, DbtBuildOperator)):
            manifest = json.loads((build.project.target / "manifest.json").read_text())
            for node in build.group.slim["nodes_to_run"]:
                relation = manifest["nodes"].get(node, {}).get("relation_name") or ""
                # Without the database, which is that of the connection.
                _, _, name = relation.partition(".")
                if name and not node.startswith("test."):
                    builders[min(connection_ids(build)), name].add(f"{node} in {dag.dag_id}")
    for (conn_id, name), found in sorted(builders.items()):
        if len(found) > 1:
            yield f"{name} of {conn_id} is built by {' and by '.join(sorted(found))}"


def connection_ids(task) -> set[str]:
    """Return the connections that an operator names, in its arguments or in its dbt profile."""
    named = {value for name, value in vars(task).items() if name.endswith("conn_id") and value}
    profile = getattr(task, "profile_config", None)
    if profile and profile.profile_mapping:
        named.add(profile.profile_mapping.conn_id)
    return named
