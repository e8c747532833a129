"""The sample's two DAGs build all of its project, and one starts the other."""

import json
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def dags(dag_bag) -> list:
    return [dag_bag.dags["flights_daily"], dag_bag.dags["flights_reporting"]]


def test_every_node_is_in_one_of_the_two(dags):
    project = dags[0].get_task("dbt_build").project_dir
    manifest = json.loads(Path(project, "target", "manifest.json").read_text())
    run = Counter(node for dag in dags for task in dag.tasks for node in getattr(task, "nodes", []))
    # Each DAG could check sources; one does.
    assert run == Counter([*manifest["nodes"], *manifest["unit_tests"], *manifest["sources"]])


def test_both_run_from_one_parse_of_the_project(dags):
    assert len({dag.get_task("dbt_build").project_dir for dag in dags}) == 1


def test_the_rest_of_flights_daily(dags):
    daily, _ = dags
    dbt_tasks = {task.task_id for task in daily.tasks if task.task_id.startswith("dbt.")}
    own = {"load_day", "dbt_build", "publish_figures"}
    assert {task.task_id for task in daily.tasks} - dbt_tasks == own
    assert "dbt_build" in daily.get_task("load_day").downstream_task_ids
    upstream = daily.get_task("publish_figures").get_flat_relative_ids(upstream=True)
    assert upstream == dbt_tasks | {"load_day", "dbt_build"}


def test_reporting_runs_on_the_asset_that_daily_updates(dags):
    daily, reporting = dags
    updated = {asset.name for asset in daily.get_task("publish_figures").outlets}
    scheduled_on = {asset.name for asset in reporting.timetable.asset_condition.objects}
    assert scheduled_on == updated != set()
