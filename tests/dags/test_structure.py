"""What Airflow shows is what dbt would build: every node once, with dbt's own dependencies."""

import json
from collections import defaultdict

import pytest

from include.dbt_build.operators import DbtBuild, DbtNode
from include.dbt_build.project import BUILT, cache_path
from tests.conftest import dbt


@pytest.fixture(scope="module")
def manifest(project) -> dict:
    return json.loads((cache_path(project.name) / "target" / "manifest.json").read_text())


@pytest.fixture(scope="module")
def selections(dag_bag) -> dict[str, list[str]]:
    """By DAG, the unique ids that its one `dbt build` builds, tests and unit tests included."""
    found = {}
    for dag in dag_bag.dags.values():
        for task in dag.tasks:
            if not isinstance(task, DbtBuild):
                continue
            words = ["--select", task.select] if task.select else []
            words += ["--exclude", task.exclude] if task.exclude else []
            listed = dbt(
                *("--quiet", "ls", "--target", "prod", "--output", "json"),
                *("--output-keys", "unique_id", "--resource-type", "all"),
                *words,
            )
            assert listed.returncode == 0, listed.stdout
            nodes = [json.loads(line)["unique_id"] for line in listed.stdout.splitlines()]
            found[dag.dag_id] = [
                node for node in nodes if node.split(".")[0] in (*BUILT, "test", "unit_test")
            ]
    return found


def test_every_node_is_built_by_exactly_one_dag(manifest, selections):
    owners = defaultdict(list)
    for dag_id, nodes in selections.items():
        for node in nodes:
            owners[node].append(dag_id)
    everything = {*manifest["nodes"], *manifest["unit_tests"]}
    assert {node: dags for node, dags in owners.items() if len(dags) > 1} == {}
    assert everything - owners.keys() == set()


def test_no_data_test_spans_two_dags(manifest, selections):
    """Its result would arrive in one DAG only, and the other's task would wait for it."""
    owner = {node: dag_id for dag_id, nodes in selections.items() for node in nodes}
    spanning = {}
    for unique_id, node in manifest["nodes"].items():
        parents = {owner[p] for p in node["depends_on"].get("nodes", []) if p in owner}
        if node["resource_type"] == "test" and parents - {owner[unique_id]}:
            spanning[unique_id] = parents
    assert spanning == {}


@pytest.mark.parametrize("dag_id", ["flights_daily", "flights_reporting"])
def test_tasks_and_edges_are_those_of_the_manifest(dag_bag, manifest, selections, dag_id):
    dag = dag_bag.dags[dag_id]
    prefix = "dbt." if dag_id == "flights_daily" else ""
    tasks, edges = expected(manifest, selections[dag_id], prefix)

    ours = {task.task_id for task in dag.tasks} & tasks
    assert ours == tasks
    rendered = {
        (task.task_id, child)
        for task in dag.tasks
        for child in task.downstream_task_ids
        if task.task_id in tasks and child in tasks
    }
    assert rendered == edges


def test_the_rest_of_flights_daily(dag_bag):
    dag = dag_bag.dags["flights_daily"]
    dbt_tasks = {task.task_id for task in dag.tasks if task.task_id.startswith("dbt.")}
    own = {"load_day", "dbt_build", "publish_figures"}
    assert {task.task_id for task in dag.tasks} - dbt_tasks == own
    assert "dbt_build" in dag.get_task("load_day").downstream_task_ids
    upstream = dag.get_task("publish_figures").get_flat_relative_ids(upstream=True)
    assert upstream == dbt_tasks | {"load_day", "dbt_build"}


@pytest.mark.parametrize("dag_id", ["flights_daily", "flights_reporting"])
def test_every_node_waits_for_the_one_build(dag_bag, dag_id):
    tasks = dag_bag.dags[dag_id].tasks
    (build,) = (task for task in tasks if isinstance(task, DbtBuild))
    nodes = {task.task_id for task in tasks if isinstance(task, DbtNode)}
    (ended,) = build.downstream_task_ids - nodes
    assert ended.split(".")[-1] == "dbt_build_ended"
    assert build.downstream_task_ids >= nodes != set()


def test_every_node_is_run_by_one_task(dag_bag, manifest):
    run = [
        node for dag in dag_bag.dags.values() for t in dag.tasks for node in getattr(t, "nodes", [])
    ]
    assert sorted(run) == sorted({*manifest["nodes"], *manifest["unit_tests"]})


def test_reporting_runs_on_the_asset_that_daily_updates(dag_bag):
    daily, reporting = dag_bag.dags["flights_daily"], dag_bag.dags["flights_reporting"]
    updated = {asset.name for asset in daily.get_task("publish_figures").outlets}
    scheduled_on = {asset.name for asset in reporting.timetable.asset_condition.objects}
    assert scheduled_on == updated != set()


def expected(manifest: dict, selected: list[str], prefix: str) -> tuple[set, set]:
    """Return the task ids, and the edges between them, that the manifest calls for.

    A node with tests is a group of two tasks. Its children wait for its tests. A test that reads
    several nodes is shown at the one furthest downstream, and waits for all. One on a source has a
    task that what reads the source waits for.
    """
    nodes = {n: manifest["nodes"][n] for n in selected if n.split(".")[0] != "unit_test"}
    tested = defaultdict(set)
    for node in nodes.values():
        if node["resource_type"] == "test":
            reads = node["depends_on"]["nodes"]
            tested[max(reads, key=lambda n: (depth(manifest, n), n))] |= {*reads}
    first, last, edges = {}, {}, set()
    for unique_id, node in nodes.items():
        kind = {"model": "run"}.get(node["resource_type"], node["resource_type"])
        if kind == "test":
            continue
        name = prefix + node["name"]
        first[unique_id] = last[unique_id] = f"{name}_{kind}"
        if unique_id in tested:
            first[unique_id], last[unique_id] = f"{name}.{kind}", f"{name}.test"
            edges.add((first[unique_id], last[unique_id]))
    for owner, reads in tested.items():
        if owner in first:
            edges |= {(first[read], last[owner]) for read in reads if read in first}
        else:
            _, _, source, table = owner.split(".")
            last[owner] = f"{prefix}{source}_{table}_test"
    for unique_id in first:
        # A seed depends on nothing and has no list of nodes.
        for parent in nodes[unique_id]["depends_on"].get("nodes", []):
            if parent in last:
                edges.add((last[parent], first[unique_id]))
    return {*first.values(), *last.values()}, edges


def depth(manifest: dict, unique_id: str) -> int:
    parents = manifest["parent_map"][unique_id]
    return 1 + max((depth(manifest, parent) for parent in parents), default=0)
