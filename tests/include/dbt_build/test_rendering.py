"""The tasks and edges of a DAG: what Cosmos renders, and what the engine adds."""

import sys
from datetime import datetime
from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, task_group
from cosmos import ProjectConfig, RenderConfig
from cosmos.constants import TestBehavior

from include.dbt_build import DbtTaskGroup
from include.dbt_build.arguments import UnsupportedArgumentError
from include.dbt_build.command import DbtCommandOperator
from include.dbt_build.manifest import nodes_downstream_of
from include.dbt_build.results import BuildResults
from tests.include.dbt_build.conftest import (
    FILES,
    arguments,
    edges,
    node_tasks,
    nodes_with_task,
    profile,
    render,
    write,
)


@pytest.fixture(scope="module")
def dag(projects) -> DAG:
    """A DAG with the project `states` in two groups, one of them in a group of its own."""
    with DAG("two_groups", start_date=datetime(2026, 1, 1)) as dag:
        common = {
            "project_config": ProjectConfig(projects / "states"),
            "profile_config": profile("states"),
        }
        DbtTaskGroup("dbt", **common, source_freshness=True)
        with TaskGroup("outer"):
            DbtTaskGroup("part", **common, render_config=RenderConfig(select=["a", "b"]))
    return dag


@pytest.mark.parametrize("name", ["dbt", "outer.part"])
def test_each_group_has_a_build_task_as_setup_and_a_teardown(dag, name):
    inside = {task.task_id: task for task in dag.task_group_dict[name].iter_tasks()}
    build, done = inside.pop(f"{name}.dbt_build"), inside.pop(f"{name}.dbt_build_done")
    assert (build.is_setup, done.is_teardown) == (True, True)
    assert done.on_failure_fail_dagrun
    # Its process can be killed too.
    assert done.retries == build.retries
    roots = {k for k, task in inside.items() if not task.upstream_task_ids & inside.keys()}
    leaves = {k for k, task in inside.items() if not task.downstream_task_ids & inside.keys()}
    assert build.downstream_task_ids == roots | {done.task_id}
    # The tests of d read f too, so dbt builds e although they fail.
    waits_for = leaves | ({"dbt.d.test"} & inside.keys())
    assert done.upstream_task_ids == waits_for | {build.task_id}
    assert {k for k in node_tasks(dag) if k.startswith(f"{name}.")} == set(inside) - {
        "dbt.part_run"
    }


def test_a_group_in_a_mapped_task_group_is_refused(unchanged):
    with DAG("mapped", start_date=datetime(2026, 1, 1)):

        @task_group
        def each(day):
            DbtTaskGroup("dbt", **arguments(unchanged))

        with pytest.raises(UnsupportedArgumentError, match=r"^expand\(\) of a task group is not"):
            each.expand(day=[1, 2])


def test_each_group_builds_its_own_selection(dag):
    assert dag.get_task("dbt.dbt_build").select is None
    assert dag.get_task("outer.part.dbt_build").select == "a b"
    assert "outer.part.c_run" not in dag.task_ids
    assert dag.get_task("dbt.a.run").group is not dag.get_task("outer.part.a.run").group


def test_a_test_of_a_source_comes_before_what_reads_the_source(dag):
    test = dag.get_task("dbt.raw_states_events_test")
    assert test.downstream_task_ids == {"dbt.c_run"}
    assert [node.split(".")[0] for node in test.nodes] == ["test"]


def test_what_reads_a_source_waits_for_the_check_of_its_freshness(dag):
    check = dag.get_task("dbt.raw_states_events_freshness")
    assert check.nodes == ("source.states.raw_states.events",)
    assert check.downstream_task_ids == {"dbt.c_run"}
    assert "outer.part.raw_states_events_freshness" not in dag.task_ids


def test_of_two_nodes_at_the_same_depth_the_one_whose_properties_have_the_test_runs_it(small):
    properties = """
        models:
          - name: a
            columns:
              - {name: id, data_tests: [relationships: {arguments: {to: ref('b'), field: id}}]}
    """
    dag = render(small({"models/m.yml": properties}, a="select 1 as id", b="select 1 as id"))
    assert {"a.run", "a.test", "b_run"} <= {*dag.task_ids}
    assert ("b_run", "a.test") in edges(dag)


SEVERAL_READ = {
    "models/m.yml": """
        sources:
          - name: raw
            tables:
              - name: x
                columns:
                  - name: id
                    data_tests:
                      - not_null
                      - relationships: {arguments: {to: "source('raw', 'y')", field: id}}
              - name: y
        models:
          - name: orders
            columns:
              - {name: id, data_tests: [relationships: {arguments: {to: ref('b'), field: id}}]}
          - name: continues
            config: {on_error: continue}
    """
}


def test_a_task_downstream_of_all_nodes_waits_for_those_with_whose_failure_dbt_continues(small):
    path = small(
        SEVERAL_READ,
        b="select 1 as id",
        orders="select 1 as id",
        revenue="select * from {{ ref('orders') }}",
        continues="select 1 as id",
        after_continues="select * from {{ ref('continues') }}",
        reads_x="select * from {{ source('raw', 'x') }}",
    )
    last = {"orders.test", "revenue_run", "continues_run", "after_continues_run"}
    last |= {"raw_x_test", "reads_x_run"}
    dag = render(path)
    with dag:
        dag.leaves >> (after := EmptyOperator(task_id="after"))
    assert after.upstream_task_ids == last
    # The teardown stays last, so that it can fail the run.
    assert dag.get_task("dbt_build_done").downstream_task_ids == set()
    with DAG("group", start_date=datetime(2026, 1, 1)):
        DbtTaskGroup("dbt", **arguments(path)) >> (after := EmptyOperator(task_id="after"))
    assert after.upstream_task_ids == {f"dbt.{name}" for name in last}


@pytest.mark.parametrize("is_second", [True, False])
def test_a_task_downstream_of_the_teardown_is_refused(unchanged, is_second):
    dag = render(unchanged)
    with dag:
        after = EmptyOperator(task_id="after", trigger_rule="all_done")
    done = dag.get_task("dbt_build_done")
    with pytest.raises(UnsupportedArgumentError, match=r"^A task downstream of dbt_build_done is"):
        after.set_upstream(done) if is_second else done >> after


@pytest.mark.parametrize("test_behavior", [TestBehavior.AFTER_EACH, TestBehavior.BUILD])
def test_a_stale_source_stops_only_what_depends_on_it(small, test_behavior):
    """One test of `orders` is not run, because it reads `late`. What reads `orders` is built.

    `late` and `base` use a function, which is built for `base`.
    """
    path = small(
        {
            "functions/twice.sql": "select value * 2",
            "models/m.yml": """
                functions:
                  - name: twice
                    arguments: [{name: value, data_type: int}]
                    returns: {data_type: int}
                sources:
                  - name: raw
                    tables:
                      - name: events
                        config:
                          loaded_at_field: at
                          freshness: {error_after: {count: 1, period: day}}
                models:
                  - name: orders
                    columns:
                      - name: id
                        data_tests:
                          - unique
                          - relationships: {arguments: {to: ref('late'), field: id}}
            """,
        },
        late="select {{ function('twice') }}(id) as id from {{ source('raw', 'events') }}",
        later="select id from {{ ref('late') }}",
        base="select {{ function('twice') }}(1) as id",
        orders="select id from {{ ref('base') }}",
        after_orders="select id from {{ ref('orders') }}",
    )
    dag = render(path, source_freshness=True, test_behavior=test_behavior)
    group = dag.get_task("dbt_build").group
    (check,) = group.slim["freshness"]
    found = {node.split(".")[2] for node in nodes_downstream_of(group.slim, check["nodes"])}
    assert {name for name in found if "relationships" not in name} == {"late", "later"}
    assert len(found) == 3


def test_a_test_that_reads_nothing_has_a_task(dag):
    test = dag.get_task("dbt.reads_nothing_test")
    assert test.nodes == ("test.states.reads_nothing",)
    assert test.upstream_task_ids == {"dbt.dbt_build"}
    assert test.downstream_task_ids == {"dbt.dbt_build_done"}
    assert "outer.part.reads_nothing_test" not in dag.task_ids


def test_the_task_of_a_model_has_its_unit_tests_before_it(dag):
    nodes = dag.get_task("dbt.e_run").nodes
    assert nodes == ("unit_test.states.e.e_adds_nothing", "model.states.e")


def test_an_ephemeral_model_is_an_empty_task(dag):
    part = dag.get_task("dbt.part_run")
    assert isinstance(part, EmptyOperator)
    assert part.downstream_task_ids == {"dbt.g_run"}
    # The nearest node task upstream of its reader is the one before it.
    assert dag.get_task("dbt.g_run").upstream_node_tasks == ("dbt.f_run",)


def test_the_unit_tests_of_an_ephemeral_model_run_with_the_model(small, monkeypatch):
    unit_test = "unit_tests: [{name: t, model: part, given: [], expect: {rows: [{id: 1}]}}]"
    part = "{{ config(materialized='ephemeral') }} select 1 as id"
    dag = render(small({"models/m.yml": unit_test}, part=part))
    task, nodes = dag.get_task("part_run"), {"unit_test.small.part.t", "model.small.part"}
    assert task.nodes == ("unit_test.small.part.t",)
    # The build task of an earlier try has the model among the nodes that it built.
    pending = dag.get_task("dbt_build")._pending_nodes
    assert pending([task], {"model.small.part"}, to_run=nodes) == nodes
    built = set()
    monkeypatch.setattr(DbtCommandOperator, "build", lambda self, _, nodes: built.update(nodes))
    ti = SimpleNamespace(xcom_pull=lambda **_: None, xcom_push=lambda **_: None)
    task._run_dbt({"ti": ti}, built=())
    assert built == nodes


def test_a_node_task_stores_whether_a_model_lacks_batches(unchanged, monkeypatch):
    stored, errors = [], [OSError("Airflow does not answer")]

    def set_xcom(ti, task_id: str, key: str, value: int) -> None:
        if errors:
            raise errors.pop()
        stored.append(value)

    monkeypatch.setattr("include.dbt_build.operators.set_xcom", set_xcom)
    command = SimpleNamespace(results=BuildResults({"model.second.base": 1}), runner_callbacks=[])
    ti = SimpleNamespace(try_number=2, xcom_pull=lambda **_: None)
    render(unchanged).get_task("base.run")._watch_batches(ti, command)
    (store,) = command.runner_callbacks
    node = command.results.nodes["model.second.base"]
    node.batches = 3
    # The second call fails. A later dbt would build the third batch.
    for node.built_batches in (set(), {1}, {1}, {1, 2}):
        store(None)
    assert stored == [2, 0]


def test_a_node_is_a_leaf_although_an_ephemeral_model_reads_it(small):
    """Tasks downstream of the group wait for dbt's hooks, and so does the task of a leaf."""
    dag = render(
        small(
            {},
            first="select 1 as id",
            last="select * from {{ ref('first') }}",
            part="{{ config(materialized='ephemeral') }} select * from {{ ref('last') }}",
        )
    )
    assert {name: task.is_leaf for name, task in node_tasks(dag).items()} == {
        "first_run": False,
        "last_run": True,
    }


def test_a_task_upstream_of_a_node_task_is_refused(unchanged):
    dag = render(unchanged)
    node, sensor = dag.get_task("base.run"), EmptyOperator(task_id="sensor", dag=dag)
    with pytest.raises(UnsupportedArgumentError, match=r"^A task upstream of base\.run is not"):
        sensor >> node
    with pytest.raises(UnsupportedArgumentError, match=r"put it upstream of the whole group"):
        node << sensor
    assert "sensor" not in node.upstream_task_ids
    node >> sensor


def test_a_test_of_two_models_is_shown_at_the_last_one_and_waits_for_both(unchanged):
    dag = render(unchanged)
    tests = {
        name: sorted(node.split(".")[2].split("_")[0] for node in node_tasks(dag)[name].nodes)
        for name in ("base.test", "all_of_it.test")
    }
    assert tests == {"base.test": ["unique"], "all_of_it.test": ["relationships"] * 2}
    assert {before for before, after in edges(dag) if after == "all_of_it.test"} == {
        "all_of_it.run",
        "base.run",
        "apart_run",
    }


# The test reads `left_out`, which is not selected and descends from `child`.
OVER_A_LEFT_OUT_NODE = {
    "models/child.sql": "select id from {{ ref('base') }}",
    "models/left_out.sql": "select id from {{ ref('child') }}",
}
RELATIONSHIP = "relationships: {arguments: {to: ref('left_out'), field: id}}"


def test_a_test_waits_for_what_it_reads_over_a_node_that_is_not_selected(small):
    models = f"models: [{{name: base, columns: [{{name: id, data_tests: [{RELATIONSHIP}]}}]}}]"
    path = small({**OVER_A_LEFT_OUT_NODE, "models/m.yml": models}, base="select 1 as id")
    dag = render(path, select=["base", "child", "test_type:generic"])
    assert edges(dag) == {
        ("base_run", "child.run"),
        ("base_run", "child.test"),
        ("child.run", "child.test"),
    }


def test_tests_of_one_node_without_a_task_have_two_tasks_if_they_wait_for_different_nodes(small):
    tests = f"[not_null, {RELATIONSHIP}]"
    models = f"models: [{{name: base, columns: [{{name: id, data_tests: {tests}}}]}}]"
    path = small({**OVER_A_LEFT_OUT_NODE, "models/m.yml": models}, base="select 1 as id")
    dag = render(path, select=["child", "test_type:generic"])
    before, after = sorted(edges(dag), key=lambda edge: edge[0] == "child_run")
    assert (before[1], after[0]) == ("child_run", "child_run")
    assert "not_null" in str(node_tasks(dag)[before[0]].nodes)
    assert "relationships" in str(node_tasks(dag)[after[1]].nodes)


def test_a_test_of_several_models_can_have_a_task_of_its_own(unchanged):
    dag = render(unchanged, should_detach_multiple_parents_tests=True)
    tests = {
        name: [node.split(".")[2] for node in task.nodes]
        for name, task in node_tasks(dag).items()
        if name.startswith("relationships")
    }
    assert tests == {f"{node}_test": [node] for (node,) in tests.values()}
    assert len(nodes_with_task(dag)) == 6


def test_a_node_waits_for_a_test_with_a_task_of_its_own_as_in_dbt(small):
    test = "relationships: {name: related, arguments: {to: ref('b'), field: id}}"
    properties = f"models: [{{name: a, columns: [{{name: id, data_tests: [{{{test}}}]}}]}}]"
    models = {
        "a": "select 1 as id",
        "b": "select 1 as id",
        "after_a": "select * from {{ ref('a') }}",
    }
    both = "select a.id from {{ ref('a') }} as a inner join {{ ref('b') }} as b using (id)"
    path = small({"models/m.yml": properties}, **models, both=both)
    dag = render(path, should_detach_multiple_parents_tests=True)
    downstream = dag.get_task("related_test").downstream_task_ids
    assert downstream - {"dbt_build_done"} == {"both_run"}


# Cosmos names the task of all tests after the folder of the project.
@pytest.mark.parametrize("given", [{}, {"project_name": "another"}])
def test_all_tests_can_be_last(unchanged, given):
    dag = render(unchanged, test_behavior=TestBehavior.AFTER_ALL, **given)
    last = dag.get_task("second_test")
    assert len(last.nodes) == 3
    assert last.downstream_task_ids == {"dbt_build_done"}
    assert last.get_flat_relative_ids(upstream=True) > {"base_run", "all_of_it_run", "apart_run"}


def test_tests_that_are_last_have_a_task_whatever_they_read(projects):
    dag = render(projects / "states", test_behavior=TestBehavior.AFTER_ALL)
    run = dag.get_task("dbt_build").group.slim["nodes_to_run"]
    assert {*dag.get_task("states_test").nodes} == {n for n in run if n.startswith("test.")}


def test_a_task_can_build_a_node_with_its_tests(unchanged):
    dag = render(unchanged, test_behavior=TestBehavior.BUILD)
    nodes = {name: len(task.nodes) for name, task in node_tasks(dag).items()}
    assert sorted(nodes.values()) == [1, 2, 3]
    assert len(nodes_with_task(dag)) == 6


def test_models_whose_tests_read_each_other_can_be_built_with_their_tests(small):
    relation = "{relationships: {arguments: {to: ref('%s'), field: id}}}"
    columns = "{name: %s, columns: [{name: id, data_tests: [%s]}]}"
    models = ", ".join(columns % (k, relation % other) for k, other in ("ab", "ba"))
    path = small({"models/m.yml": f"models: [{models}]"}, a="select 1 as id", b="select 1 as id")
    tasks = node_tasks(render(path, test_behavior=TestBehavior.BUILD))
    assert sorted(len(task.nodes) for task in tasks.values()) == [1, 3]


def test_folders_can_be_groups(second):
    write(second, {"models/deep/er old/inside.sql": "select * from {{ ref('base') }}"})
    dag = render(second, group_nodes_by_folder=True)
    (inside,) = (name for name in dag.task_ids if name.endswith("inside_run"))
    assert inside.endswith("deep.er_old.inside_run")
    assert len(nodes_with_task(dag)) == 7


def test_task_ids_can_be_normalized(unchanged):
    dag = render(unchanged, normalize_task_id=lambda node: f"n_{node.name}")
    assert dag.get_task("n_apart").task_display_name == "apart_run"
    dag = render(unchanged, normalize_task_display_name=lambda node: f"the {node.name}")
    assert dag.get_task("apart_run").task_display_name == "the apart"


def test_arguments_of_every_operator_reach_all_tasks(projects):
    given = {"queue": "large", "full_refresh": True, "params": {"day": 1}}
    given["default_args"] = {"pool": "warehouse"}
    dag = render(projects / "states", "operators", operator_args=given, source_freshness=True)
    assert dag.get_task("dbt_build").full_refresh
    for task in dag.tasks:
        assert (task.queue, task.pool) == ("large", "warehouse"), task.task_id
        assert task.params["day"] == 1


def test_default_args_for_dbt_reach_the_commands_of_node_tasks(unchanged):
    dag = render(unchanged, default_args={"fail_fast": True, "vars": {"x": 1}, "queue": "large"})
    (group,) = {id(task.group): task.group for task in node_tasks(dag).values()}.values()
    assert group.command_args["fail_fast"] is dag.get_task("dbt_build").fail_fast is True
    # dbt parses with the variables of the project_config.
    assert group.command_args["vars"] == dag.get_task("dbt_build").vars
    assert "queue" not in group.command_args
    for refused in ({"dbt_cmd_flags": ["--empty"]}, {"dbt_cmd_global_flags": ["--target", "x"]}):
        with pytest.raises(UnsupportedArgumentError, match=next(iter(refused))):
            render(unchanged, default_args=refused)


def test_a_node_can_have_arguments_and_an_owner_of_its_own(small):
    properties = """
        models:
          - name: a
            config:
              meta: {owner: ada, cosmos: {operator_kwargs: {pool: narrow, retries: 7}}}
            columns:
              - name: id
                data_tests:
                  - unique:
                      config: {meta: {cosmos: {operator_kwargs: {queue: tests}}}}
          - {name: b}
        sources:
          - name: raw
            config: {meta: {cosmos: {operator_kwargs: {pool: narrow}}}}
            tables:
              - name: events
                config:
                  loaded_at_field: at
                  freshness: {warn_after: {count: 1, period: day}}
                columns:
                  - name: id
                    data_tests:
                      - unique:
                          config: {meta: {cosmos: {operator_kwargs: {queue: tests}}}}
    """
    c = "select * from {{ source('raw', 'events') }}"
    path = small({"models/m.yml": properties}, a="select 1 as id", b="select 1 as id", c=c)
    dag = render(path, default_args={"owner": "team"}, source_freshness=True)
    run, test = dag.get_task("a.run"), dag.get_task("a.test")
    assert (run.pool, run.retries, run.owner) == ("narrow", 7, "ada")
    assert (test.queue, test.owner) == ("tests", "ada")
    assert run.queue == "default"
    assert dag.get_task("b_run").owner == "team"
    check, test = dag.get_task("raw_events_freshness"), dag.get_task("raw_events_test")
    assert (check.pool, check.queue, test.pool, test.queue) == (
        *("narrow", "default"),
        *("narrow", "tests"),
    )
    dag = render(path, default_args={"owner": "team"}, enable_owner_inheritance=False)
    assert dag.get_task("a.run").owner == "team"


def test_a_test_with_a_task_of_its_own_has_arguments_of_its_own(small):
    properties = """
        models:
          - name: a
            columns:
              - name: id
                data_tests:
                  - unique
                  - relationships:
                      name: related
                      arguments: {to: ref('b'), field: id}
                      config: {meta: {cosmos: {operator_kwargs: {pool: narrow}}}}
    """
    path = small({"models/m.yml": properties}, a="select 1 as id", b="select 1 as id")
    dag = render(path, should_detach_multiple_parents_tests=True)
    assert dag.get_task("related_test").pool == "narrow"
    assert dag.get_task("a.test").pool == "default_pool"


@pytest.mark.parametrize("given", ["operator_args", "default_args"])
def test_a_success_callback_makes_tasks_start_a_process(unchanged, given):
    dag = render(unchanged, **{given: {"on_success_callback": print}})
    assert {task.needs_process for task in node_tasks(dag).values()} == {True}
    assert not any(task.needs_process for task in node_tasks(render(unchanged)).values())


def test_a_dag_can_be_copied_and_serialized(unchanged):
    from airflow.serialization.serialized_objects import DagSerialization

    dag = render(unchanged)
    assert set(DagSerialization.from_dict(DagSerialization.to_dict(dag)).task_ids) == set(
        dag.task_ids
    )
    copied = dag.partial_subset("base.run", include_downstream=True)
    assert copied.get_task("base.run").nodes == ("model.second.base",)


MACROS = """
    {% macro given(what) %}select 1{% endmacro %}
    {% macro outer() %}{{ inner() }}{% endmacro %}
    {% macro inner() %}{% for result in results %}{% endfor %}{% endmacro %}
"""


@pytest.mark.parametrize(
    ("hook", "uses_results"),
    [
        ("{{ given(1) }}", False),
        ("grant usage on all schemas in database x to y", False),
        ("{{ given(schemas) }}", True),
        ("{{ outer() }}", True),
    ],
)
def test_a_hook_that_uses_the_results_of_nodes_is_recognized(small, hook, uses_results):
    project = f"{{name: small, version: 1.0.0, profile: any, on-run-end: '{hook}'}}"
    path = small({"macros/m.sql": MACROS, "dbt_project.yml": project}, a="select 1 as id")
    slim = render(path).get_task("dbt_build").group.slim
    assert slim["has_end_hooks"]
    assert slim["end_hooks_use_results"] == uses_results


def test_a_dag_has_another_version_if_and_only_if_the_project_has_changed(
    second, tmp_path, monkeypatch
):
    documentation = render(second).doc_md
    assert "dbt project hash" in documentation
    # Another dag-processor parses the project in a cache of its own.
    monkeypatch.setattr("cosmos.settings.cache_dir", tmp_path / "other")
    assert render(second).doc_md == documentation
    write(second, {"macros/m.sql": "{% macro m() %}1{% endmacro %}"})
    changed = render(second).doc_md
    assert changed != documentation
    write(second, {"macros/m.sql": "{% macro m() %}2{% endmacro %}"})
    assert render(second).doc_md != changed


def test_a_project_without_a_profile_is_an_error(unchanged):
    given = {**arguments(unchanged), "profile_config": None}
    with pytest.raises(ValueError, match=r"^profile_config is missing"), DAG("none"):
        DbtTaskGroup("dbt", **given)


def test_a_folder_without_a_project_is_an_error(tmp_path, cache):
    with pytest.raises(FileNotFoundError, match=rf"^There is no dbt_project.yml in {tmp_path}"):
        render(tmp_path)


DAG_OF_A_BUNDLE = """
# Airflow only looks at files that contain the words airflow and dag.
from datetime import datetime
from pathlib import Path

from cosmos import ProjectConfig

from include.dbt_build import DbtDag
from tests.include.dbt_build.conftest import profile

project = {path}
dag = DbtDag(
    dag_id="of_a_bundle",
    start_date=datetime(2026, 1, 1),
    project_config=ProjectConfig(project),
    profile_config=profile("any"),
)
"""


@pytest.mark.parametrize("subfolder", ["", "dags"])
@pytest.mark.parametrize("is_own", [True, False])
def test_a_dag_of_a_bundle_builds_the_project_of_its_own_version(
    second, tmp_path, monkeypatch, is_own, subfolder
):
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    bundle = tmp_path / "bundles" / "git" / "versions" / "1a2b"
    own = write(bundle / "dbt" / "second", FILES)
    path = "Path(__file__).parents[1] / 'dbt' / 'second'" if is_own else repr(str(second))
    write(bundle, {"dags/of_a_bundle.py": DAG_OF_A_BUNDLE.replace("{path}", path)})
    # For a bundle with a `subdir`, Airflow adds only this folder to the Python path.
    bag = BundleDagBag(bundle / "dags", bundle_path=bundle / subfolder, bundle_name="git")
    if is_own:
        assert bag.import_errors == {}
        assert bag.dags["of_a_bundle"].get_task("dbt_build").group.slim_file.is_file()
    else:
        (error,) = bag.import_errors.values()
        assert f"The DAG builds {second}, but its DAG bundle has a dbt/second of its own" in error
        assert f"remove {own}." in error
