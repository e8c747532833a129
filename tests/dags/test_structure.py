"""What Airflow shows is what dbt would build: every node once, with dbt's own dependencies."""

import json
from collections import defaultdict
from itertools import chain
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from dbt.cli.main import dbtRunner

from include.dbt_build.operators import DbtBuild, DbtNode
from include.dbt_build.project import BUILT
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def builds(dag_bag) -> list[tuple[DAG, DbtBuild]]:
    """Each `dbt build` of the DAGs in dags/, and of those that only tests run."""
    bag = DagBag(ROOT / "tests" / "integration" / "dags", bundle_path=ROOT)
    assert bag.import_errors == {}
    dags = chain(dag_bag.dags.values(), bag.dags.values())
    return [(dag, task) for dag in dags for task in dag.tasks if isinstance(task, DbtBuild)]


def of_build(dag: DAG, build: DbtBuild) -> list[DbtNode]:
    return [task for task in dag.tasks if getattr(task, "build", None) == build.task_id]


def built(dag: DAG, build: DbtBuild) -> list[DbtNode]:
    return [task for task in of_build(dag, build) if not task.checks_freshness]


def selected(build: DbtBuild) -> list[str]:
    """The unique ids that a `dbt build` builds, tests and unit tests included."""
    words = ["--quiet", "ls", "--output", "json", "--output-keys", "unique_id"]
    words += ["--resource-type", "all", "--project-dir", build.project_dir]
    if build.vars:
        words += ["--vars", json.dumps(build.vars)]
    for option in ("select", "exclude", "selector"):
        if value := getattr(build, option):
            words += [f"--{option}", value]
    with build.profile_config.ensure_profile(use_mock_values=True) as (profiles_yml, _):
        words += ["--profiles-dir", str(profiles_yml.parent)]
        words += ["--profile", build.profile_config.profile_name]
        words += ["--target", build.profile_config.target_name]
        listed = dbtRunner().invoke([*map(str, words)])
    nodes = [json.loads(line)["unique_id"] for line in listed.result]
    return [node for node in nodes if node.split(".")[0] in (*BUILT, "test", "unit_test")]


def known(build: DbtBuild) -> dict:
    return json.loads(Path(build.project_dir, "target", "manifest.json").read_text())


def test_every_selected_node_is_run_by_one_task(builds):
    assert builds
    for dag, build in builds:
        nodes = known(build)["nodes"]
        wanted = {
            node
            for node in selected(build)
            if nodes.get(node, {}).get("config", {}).get("materialized") != "ephemeral"
        }
        run = [node for task in built(dag, build) for node in task.nodes]
        assert sorted(run) == sorted(wanted), dag.dag_id


def test_tasks_and_edges_are_those_of_the_manifest(builds):
    for dag, build in builds:
        group = build.task_id.removesuffix("_build")
        prefix = f"{group}." if group in dag.task_group_dict else ""
        tasks, edges = expected(known(build), selected(build), prefix)
        ours = {task.task_id: task for task in built(dag, build)}
        assert set(ours) == tasks, dag.dag_id
        rendered = {
            (name, child)
            for name, task in ours.items()
            for child in task.downstream_task_ids & ours.keys()
        }
        assert rendered == edges, dag.dag_id


def test_what_reads_a_source_waits_for_the_check_of_its_freshness(builds):
    for dag, build in builds:
        nodes = known(build)["nodes"]
        tasks = of_build(dag, build)
        for check in (task for task in tasks if task.checks_freshness):
            reading = {
                n
                for n, node in nodes.items()
                if {*check.nodes} & {*node["depends_on"].get("nodes", ())}
            }
            readers = {task.task_id for task in built(dag, build) if reading & task.nodes.keys()}
            assert check.downstream_task_ids >= readers != set(), check.task_id


def test_every_node_waits_for_the_one_build(builds):
    for dag, build in builds:
        nodes = {task.task_id for task in of_build(dag, build)}
        assert build.downstream_task_ids >= nodes != set(), dag.dag_id
        others = build.downstream_task_ids - nodes
        assert [name.split(".")[-1] for name in others] == ["dbt_build_ended"], dag.dag_id


def expected(manifest: dict, selected: list[str], prefix: str) -> tuple[set, set]:
    """Return the task ids, and the edges between them, that the manifest calls for.

    A node with tests is a group of two tasks. Its children wait for its tests. A test that reads
    several nodes is shown at the one furthest downstream, and waits for all. One on a source has a
    task that what reads the source waits for; one that reads nothing has a task too.
    """
    nodes = {n: manifest["nodes"][n] for n in selected if n.split(".")[0] != "unit_test"}
    tested = defaultdict(set)
    for unique_id, node in nodes.items():
        if node["resource_type"] == "test":
            reads = node["depends_on"]["nodes"]
            owner = max(reads, key=lambda n: (depth(manifest, n), n), default=unique_id)
            tested[owner] |= {*reads}
    first, last, edges = {}, {}, set()
    for unique_id, node in nodes.items():
        kind = {"model": "run"}.get(node["resource_type"], node["resource_type"])
        if kind == "test":
            continue
        name = prefix + unique_id.split(".", 2)[2].replace(".", "_")
        first[unique_id] = last[unique_id] = f"{name}_{kind}"
        if unique_id in tested:
            first[unique_id], last[unique_id] = f"{name}.{kind}", f"{name}.test"
            edges.add((first[unique_id], last[unique_id]))
    for owner, reads in tested.items():
        if owner in first:
            edges |= {(first[read], last[owner]) for read in reads if read in first}
        elif owner in nodes:
            last[owner] = f"{prefix}{nodes[owner]['name']}_test"
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
