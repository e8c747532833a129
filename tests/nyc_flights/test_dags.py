"""The two DAGs of the sample build its whole project, and one starts the other."""

import json
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dags(dag_bag) -> list:
    return [dag_bag.dags["flights_daily"], dag_bag.dags["flights_reporting"]]


def test_every_node_is_in_one_of_the_two_dags(dags):
    project = dags[0].get_task("dbt.dbt_build").project_dir
    manifest = json.loads(Path(project, "target", "manifest.json").read_text())
    run = Counter(node for dag in dags for task in dag.tasks for node in getattr(task, "nodes", []))
    # One of the DAGs checks the sources.
    assert run == Counter([*manifest["nodes"], *manifest["unit_tests"], *manifest["sources"]])


def test_flights_daily_loads_before_the_group_and_publishes_after_it(dags):
    daily, _ = dags
    dbt_tasks = {task.task_id for task in daily.tasks if task.task_id.startswith("dbt.")}
    others = {task.task_id for task in daily.tasks} - dbt_tasks
    assert others == {"load_day", "publish_figures"}
    assert "dbt.dbt_build" in daily.get_task("load_day").downstream_task_ids
    upstream = daily.get_task("publish_figures").get_flat_relative_ids(upstream=True)
    # Airflow does not wait for a teardown.
    assert upstream == dbt_tasks - {"dbt.dbt_build_done"} | {"load_day"}


def test_reporting_runs_on_the_asset_that_daily_updates(dags):
    daily, reporting = dags
    updated = {asset.name for asset in daily.get_task("publish_figures").outlets}
    scheduled_on = {asset.name for asset in reporting.timetable.asset_condition.objects}
    assert scheduled_on == updated != set()
