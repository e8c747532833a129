"""The tasks and edges that are added to what Cosmos renders, on the project `states`."""

from datetime import datetime

import pytest
from airflow.sdk import DAG
from cosmos import DbtDag, DbtTaskGroup

from include.dbt_build import add_dbt_build, cosmos_args

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def dag(projects) -> DAG:
    with DAG("two_groups", start_date=datetime(2026, 1, 1)) as dag:
        for name, chosen in {"dbt": {}, "part": {"select": ["a", "b"]}}.items():
            add_dbt_build(DbtTaskGroup(group_id=name, **cosmos_args("states", **chosen)))
    return dag


def test_each_group_has_a_build_of_its_own(dag):
    for name in ("dbt", "part"):
        build = dag.get_task(f"{name}_build")
        inside = {task.task_id for task in dag.task_group_dict[name].iter_tasks()}
        assert build.downstream_task_ids == inside
        assert f"{name}.dbt_build_ended" in inside
    assert dag.get_task("dbt_build").select is None
    assert dag.get_task("part_build").select == "a b"
    assert "part.c_run" not in dag.task_ids


def test_a_test_on_a_source_goes_before_what_reads_the_source(dag):
    test = dag.get_task("dbt.raw_states_events_test")
    assert test.downstream_task_ids == {"dbt.c_run"}
    assert [node.split(".")[0] for node in test.nodes] == ["test"]


def test_a_test_that_reads_nothing_has_a_task(dag):
    test = dag.get_task("dbt.reads_nothing_test")
    assert list(test.nodes) == ["test.states.reads_nothing"]
    assert test.upstream_task_ids == {"dbt_build"}
    assert test.downstream_task_ids == set()
    # Not where a selection leaves it out.
    assert "part.reads_nothing_test" not in dag.task_ids


def test_a_models_task_has_its_unit_tests_before_it(dag):
    nodes = list(dag.get_task("dbt.e_run").nodes)
    assert nodes == ["unit_test.states.e.e_adds_nothing", "model.states.e"]


def test_an_ephemeral_model_is_a_task_without_nodes(dag):
    assert dag.get_task("dbt.part_run").nodes == {}
    assert "dbt.g_run" in dag.get_task("dbt.part_run").downstream_task_ids


def test_what_every_operator_has_reaches_the_tasks(projects):
    args = cosmos_args("states", queue="large", pool="warehouse", full_refresh=True)
    dag = DbtDag(dag_id="operators", start_date=datetime(2026, 1, 1), **args)
    build = add_dbt_build(dag)
    assert build.full_refresh
    for task_id in ("dbt_build", "a.run", "a.test", "raw_states_events_test", "letters_seed"):
        task = dag.get_task(task_id)
        assert (task.queue, task.pool) == ("large", "warehouse")


def test_a_selection_without_nodes_is_said(projects):
    dag = DbtDag(
        dag_id="none",
        start_date=datetime(2026, 1, 1),
        **cosmos_args("states", select=["tag:no"]),
    )
    with pytest.raises(ValueError, match=r"^none: no node of states is selected$"):
        add_dbt_build(dag)
