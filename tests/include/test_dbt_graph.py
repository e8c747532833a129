"""What include/dbt_graph.py adds to Cosmos's graph: see its docstring."""

from collections.abc import Iterator
from contextlib import contextmanager

import cosmos.converter
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.context import (
    _AIRFLOW_PARSING_CONTEXT_DAG_ID,
    _AIRFLOW_PARSING_CONTEXT_TASK_ID,
)
from cosmos import settings
from cosmos.dbt.graph import DbtGraph

from include import dbt_graph
from tests.conftest import ROOT, dbt
from tests.include.conftest import render

# Of these a task's process knows only some. The scheduler and the pages read them, it does not.
EDGES = {"downstream_task_ids", "upstream_task_ids"}
# The whole they belong to.
OWNERS = {"_dag", "_task_group", "dag", "task_group", "_BaseOperator__init_kwargs"}


@contextmanager
def in_the_process_of(dag_id: str, task_id: str) -> Iterator[None]:
    """Let Airflow say which task is about to run. Its own context manager forgets to stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_AIRFLOW_PARSING_CONTEXT_DAG_ID, dag_id)
        patch.setenv(_AIRFLOW_PARSING_CONTEXT_TASK_ID, task_id)
        # Turned off there, for this process.
        patch.setattr(settings, "enable_dag_versioning", settings.enable_dag_versioning)
        yield


@pytest.fixture
def parsed(second):
    done = dbt("parse", project=str(second))
    assert done.returncode == 0, done.stdout
    return second


def kinds_of_tests(dag) -> dict[str, list[str]]:
    graph = dag.dbt_graph
    return {
        graph.nodes[model].name: sorted(graph.nodes[test].name.split("_")[0] for test in tests)
        for model, tests in graph.tests_per_model.items()
    }


def state(value):
    """Return a value so that two of the same content are equal, whatever their classes do."""
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [state(item) for item in value]
    if callable(value):
        return value.__qualname__
    if hasattr(value, "__dict__"):
        return type(value).__name__, state(vars(value))
    return value


def attributes(task) -> dict:
    return {k: state(v) for k, v in vars(task).items() if k not in OWNERS | EDGES}


def test_a_test_of_two_models_has_one_owner(parsed, monkeypatch):
    assert kinds_of_tests(render("second")) == {
        "base": ["unique"],
        "all_of_it": ["relationships", "relationships"],
    }
    # If this fails, Cosmos has changed, and include/dbt_graph.py may no longer be needed.
    monkeypatch.setattr(cosmos.converter, "DbtGraph", DbtGraph)
    assert kinds_of_tests(render("second")) == {
        "base": ["relationships", "unique"],
        "all_of_it": ["relationships", "relationships"],
        "apart": ["relationships"],
    }


@pytest.mark.parametrize("dag_id", ["flights_daily", "flights_reporting"])
def test_a_tasks_process_makes_its_own_task_as_the_dag_processor_does(project, dag_id):
    # Other tests edit the project, after which Cosmos asks dbt.
    (project / "target" / "manifest.json").touch()
    whole = DagBag(ROOT / "dags" / f"{dag_id}.py", bundle_path=ROOT).dags[dag_id]
    for task_id in whole.task_ids:
        with in_the_process_of(dag_id, task_id):
            part = DagBag(ROOT / "dags" / f"{dag_id}.py", bundle_path=ROOT).dags[dag_id]
        assert attributes(part.get_task(task_id)) == attributes(whole.get_task(task_id))
        assert len(part.task_ids) < len(whole.task_ids) / 2


def test_the_other_nodes_are_its_parents(parsed):
    render("second")
    with in_the_process_of("second", "all_of_it.test"):
        assert set(render("second").task_ids) == {
            "dbt_producer_watcher",
            "base.run",
            "base.test",
            "all_of_it.run",
            "all_of_it.test",
        }
    with in_the_process_of("second", "apart_run"):
        assert set(render("second").task_ids) == {"dbt_producer_watcher", "apart_run"}


def test_a_task_that_is_not_in_the_kept_graph_is_still_found(parsed):
    render("second")
    (parsed / "models" / "late.sql").write_text("select 1 as id")
    assert dbt("parse", project=str(parsed)).returncode == 0
    with in_the_process_of("second", "late_run"):
        assert render("second").get_task("late_run").model_unique_id == "model.second.late"


def test_the_graph_of_an_older_manifest_is_forgotten(parsed):
    assert "apart_run" in render("second").task_ids
    (parsed / "models" / "more.yml").write_text(
        "models: [{name: apart, columns: [{name: id, data_tests: [unique]}]}]"
    )
    assert dbt("parse", project=str(parsed)).returncode == 0
    with in_the_process_of("second", "apart.test"):
        assert render("second").get_task("apart.test").is_test_sensor


def test_in_a_large_project_a_models_task_covers_its_tests(parsed, monkeypatch):
    monkeypatch.setattr(dbt_graph, "TESTS_AS_TASKS", 2)
    dag = render("second")
    builds = {"base_model_build", "all_of_it_model_build", "apart_model_build"}
    assert set(dag.task_ids) == builds | {"dbt_producer_watcher"}
    with in_the_process_of("second", "base_model_build"):
        part = render("second").get_task("base_model_build")
    assert attributes(part) == attributes(dag.get_task("base_model_build"))
    assert part.base_cmd == ["build"]
