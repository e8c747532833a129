"""Airflow shows what dbt would build: every node once, with dbt's own dependencies.

test_selection_like_dbt.py compares generated projects in the same way.
"""

import json
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from include.dbt_build.build import DbtBuildOperator
from include.dbt_build.operators import DbtNodeOperator
from tests.conftest import HOME, ROOT
from tests.include.dbt_build.plain_dbt import TASKLESS, PlainDbt, Selected

# dbt parses the project of each DAG once more, to compare its nodes.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def builds(dag_bag) -> list[tuple[DAG, DbtBuildOperator]]:
    dags = dag_bag.dags.values()
    return [(dag, t) for dag in dags for t in dag.tasks if isinstance(t, DbtBuildOperator)]


@pytest.fixture(scope="module")
def selected(builds, tmp_path_factory) -> dict[str, Selected]:
    """What a `dbt build` with the arguments of each build would run, by the ID of its DAG."""
    parsed, found = {}, {}
    for dag, build in builds:
        project = build.project
        words = ["--vars", json.dumps(dict(project.variables))]
        if project.workdir not in parsed:
            folder = tmp_path_factory.mktemp("plain")
            # Airflow renders the templates only in a run.
            fixed = {k: v for k, v in project.environment.items() if "{{" not in v}
            dbt = PlainDbt(project.workdir, folder, fixed)
            dbt.manifest = dbt("parse", *words)
            parsed[project.workdir] = dbt
        for option in ("select", "exclude", "selector"):
            if value := getattr(build, option):
                words += [f"--{option}", value]
        words += build.selecting_options
        found[dag.dag_id] = parsed[project.workdir].build_selects(*words)
    return found


def tasks_of(dag: DAG, build: DbtBuildOperator) -> list[DbtNodeOperator]:
    return [dag.get_task(task_id) for task_id in build.group.node_task_ids]


def test_every_selected_node_is_run_by_one_task(builds, selected):
    assert builds
    for dag, build in builds:
        tasks = [task for task in tasks_of(dag, build) if not task.checks_freshness]
        run = [node for task in tasks for node in task.nodes if not node.startswith(TASKLESS)]
        wanted = [n for n in selected[dag.dag_id].nodes if not n.startswith(TASKLESS)]
        assert sorted(run) == sorted(wanted), dag.dag_id


def test_every_task_waits_for_those_that_dbt_waits_for(builds, selected):
    for dag, build in builds:
        task_of = {node: task for task in tasks_of(dag, build) for node in task.nodes}
        for before, after in selected[dag.dag_id].edges:
            if before in task_of and after in task_of:
                first, second = task_of[before].task_id, task_of[after]
                upstream = {second.task_id, *second.get_flat_relative_ids(upstream=True)}
                assert first in upstream, f"{dag.dag_id}: {after} waits for {before}"


def test_no_task_waits_for_more_than_the_nodes_upstream_and_their_tests(builds):
    for dag, build in builds:
        manifest = json.loads((build.project.target / "manifest.json").read_text())
        tasks = {task.task_id: task for task in tasks_of(dag, build)}
        for task in tasks.values():
            upstream = {name for node in task.nodes for name in ancestors(manifest, node)}
            for name in task.upstream_node_tasks:
                nodes = {n for node in tasks[name].nodes for n in read_by(manifest, node)}
                assert nodes & upstream, f"{dag.dag_id}: {task.task_id} waits for {name}"


def test_what_reads_a_source_waits_for_the_check_of_its_freshness(builds):
    checks = [
        (dag, build, task)
        for dag, build in builds
        for task in tasks_of(dag, build)
        if task.checks_freshness
    ]
    assert checks
    for dag, build, check in checks:
        manifest = json.loads((build.project.target / "manifest.json").read_text())
        reading = {node for source in check.nodes for node in manifest["child_map"][source]}
        readers = {
            task.task_id
            for task in tasks_of(dag, build)
            if not reading.isdisjoint(task.nodes) and "test." not in task.nodes[-1]
        }
        assert check.downstream_task_ids >= readers != set(), check.task_id


def test_the_build_task_precedes_first_tasks_and_the_teardown_follows_every_task(builds):
    for dag, build in builds:
        inside = {task.task_id for task in tasks_of(dag, build)}
        first = {n for n in inside if not dag.get_task(n).upstream_task_ids & inside}
        teardown = dag.get_task(build.group.teardown_id)
        # An ephemeral model is a task without a node, which can be first too.
        assert build.downstream_task_ids & inside <= first, dag.dag_id
        for task_id in inside:
            task = dag.get_task(task_id)
            assert build.task_id in task.get_flat_relative_ids(upstream=True)
            assert teardown.task_id in task.get_flat_relative_ids(upstream=False)


def ancestors(manifest: dict, node: str) -> set[str]:
    found, pending = set(), [*manifest["parent_map"][node]]
    while pending:
        if (parent := pending.pop()) not in found:
            found.add(parent)
            pending += manifest["parent_map"][parent]
    return found


def read_by(manifest: dict, node: str) -> set[str]:
    """Return a node, and if it is a test, the nodes that it reads."""
    return {node, *manifest["parent_map"][node]} if node.startswith("test.") else {node}


def test_no_dbt_and_no_process_runs_while_a_file_is_parsed(dag_bag):
    seen = []
    watching = True

    def watch(event, args):
        if watching and event == "subprocess.Popen":
            seen.append(args[1])

    def parsed() -> dict[Path, float]:
        # Cosmos runs dbt for a DAG with its own classes.
        made = HOME.glob("cosmos/dbt_projects/**/manifest.json")
        return {file: file.stat().st_mtime for file in made}

    before = parsed()
    sys.addaudithook(watch)
    try:
        assert DagBag(ROOT / "dags", bundle_path=ROOT).import_errors == {}
    finally:
        watching = False
    assert seen == []
    assert parsed() == before != {}
