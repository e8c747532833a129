"""The sample's two DAGs build all of its project, and one starts the other."""

import json
from collections import Counter

import pytest

from include.dbt_build.operators import DbtBuildOperator, DbtBuildTeardown


@pytest.fixture(scope="module")
def dags(dag_bag) -> list:
    return [dag_bag.dags["flights_daily"], dag_bag.dags["flights_reporting"]]


def build_of(dag) -> DbtBuildOperator:
    (build,) = (task for task in dag.tasks if isinstance(task, DbtBuildOperator))
    return build


def test_every_node_is_in_one_of_the_two(dags):
    project = build_of(dags[0]).project
    manifest = json.loads((project.target / "manifest.json").read_text())
    run = Counter(node for dag in dags for task in dag.tasks for node in getattr(task, "nodes", []))
    # Each DAG could check sources, and one of them does.
    assert run == Counter([*manifest["nodes"], *manifest["unit_tests"], *manifest["sources"]])


def test_both_use_one_parse_of_the_project(dags):
    daily, reporting = (build_of(dag).project for dag in dags)
    assert daily.path == reporting.path
    # The variables of flights_daily make it another parse.
    assert daily.variables == reporting.variables


def test_flights_daily_loads_before_dbt_and_publishes_after_it(dags):
    daily, _ = dags
    dbt_tasks = {task.task_id for task in daily.tasks if task.task_id.startswith("dbt.")}
    own = {"load_day", "publish_figures"}
    assert {task.task_id for task in daily.tasks} - dbt_tasks == own
    assert build_of(daily).task_id in daily.get_task("load_day").downstream_task_ids
    published = daily.get_task("publish_figures")
    assert published.get_flat_relative_ids(upstream=True) == dbt_tasks | {"load_day"} - {
        task.task_id for task in daily.tasks if isinstance(task, DbtBuildTeardown)
    }


def test_reporting_runs_on_the_asset_that_daily_updates(dags):
    daily, reporting = dags
    updated = {asset.name for asset in daily.get_task("publish_figures").outlets}
    scheduled_on = {asset.name for asset in reporting.timetable.asset_condition.objects}
    assert scheduled_on == updated != set()
