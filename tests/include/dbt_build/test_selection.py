"""dbt decides which nodes have a task: by its own selection, variables, flags and selectors."""

import json
import os
from pathlib import Path

import pytest
from cosmos.constants import TestBehavior, TestIndirectSelection

from include.dbt_build.selection import split_options, write_state
from tests.include.dbt_build.conftest import (
    dbt_project,
    edges,
    names_with_task,
    node_tasks,
    render,
    write,
)
from tests.include.dbt_build.plain_dbt import PlainDbt, differences

UNIT_TESTED = {
    "models/m.sql": "{{ config(materialized='incremental') }} select 1 as id",
    "models/m.yml": """
        unit_tests:
          - {name: adds_up, model: m, given: [], expect: {rows: [{id: 1}]}}
    """,
}


def test_an_excluded_unit_test_is_not_a_node_of_its_models_task(small):
    dag = render(small(UNIT_TESTED), exclude=["resource_type:unit_test"])
    assert [task.nodes for task in node_tasks(dag).values()] == [("model.small.m",)]


@pytest.mark.parametrize("given", ["process", "dag"])
@pytest.mark.parametrize(
    ("variable", "value", "names"),
    [
        ("DBT_EXCLUDE_RESOURCE_TYPES", "unit_test", {"model m"}),
        ("DBT_ENGINE_EXCLUDE_RESOURCE_TYPES", "unit_test", {"model m"}),
        ("DBT_RESOURCE_TYPES", "model", {"model m"}),
        ("DBT_INDIRECT_SELECTION", "eager", {"model m", "unit_test m.adds_up"}),
    ],
)
def test_variables_of_dbt_count_as_in_dbt(small, monkeypatch, given, variable, value, names):
    path = small(UNIT_TESTED)
    if given == "process":
        monkeypatch.setenv(variable, value)
    env_vars = {variable: value} if given == "dag" else None
    assert names_with_task(render(path, env_vars=env_vars)) == names


def test_a_unit_test_without_its_model_has_no_task(small):
    path = small(UNIT_TESTED, other="select 1 as id")
    dag = render(path, select=["other", "adds_up"])
    assert names_with_task(dag) == {"model other"}


SLOW = {
    "models/models.yml": """
        models:
          - name: m
            columns: [{name: id, data_tests: [unique: {config: {tags: slow}}]}]
    """
}


def test_an_excluded_data_test_has_no_task(small):
    path = small(SLOW, m="select 1 as id", n="select * from {{ ref('m') }}")
    dag = render(path, exclude=["tag:slow"])
    assert edges(dag) == {("m_run", "n_run")}
    assert edges(render(path)) == {("m.run", "m.test"), ("m.test", "n_run")}


RELATIONSHIPS = {
    "models/models.yml": """
        models:
          - name: a
            columns:
              - {name: id, data_tests: [relationships: {arguments: {to: ref('b'), field: id}}]}
    """,
    "selectors.yml": """
        selectors:
          - name: cautious
            definition: {method: fqn, value: a, indirect_selection: cautious}
    """,
}
FLAGS = """
    name: small
    version: 1.0.0
    profile: any
    flags: {send_anonymous_usage_stats: false, indirect_selection: cautious}
"""


@pytest.mark.parametrize(
    "given",
    [
        {"select": ["a"], "operator_args": {"indirect_selection": "cautious"}},
        {"select": ["a"], "operator_args": {"dbt_cmd_flags": ["--indirect-selection", "cautious"]}},
        {"select": ["a"], "operator_args": {"dbt_cmd_flags": ["--indirect-selection=cautious"]}},
        {"select": ["a"], "test_indirect_selection": TestIndirectSelection.CAUTIOUS},
        {"select": ["a"], "env_vars": {"DBT_INDIRECT_SELECTION": "cautious"}},
        {"selector": "cautious"},
        {"select": ["a"]},
    ],
    ids=["argument", "two words", "one word", "execution", "variable", "selector", "flags"],
)
def test_indirect_selection_leaves_a_test_of_two_models_out(small, given):
    path = small(RELATIONSHIPS, a="select 1 as id", b="select 1 as id")
    if given == {"select": ["a"]}:
        assert len(node_tasks(render(path, **given))) == 2
        write(path, {"dbt_project.yml": FLAGS})
    assert names_with_task(render(path, **given)) == {"model a"}


def test_a_default_selector_counts_without_a_selection(small):
    selectors = """
        selectors:
          - name: most
            default: true
            definition: {union: [{method: fqn, value: '*'}, {exclude: [huge]}]}
    """
    path = small({"selectors.yml": selectors}, huge="select 1 as id", a="select 1 as id")
    assert names_with_task(render(path)) == {"model a"}
    assert names_with_task(render(path, select=["huge"])) == {"model huge"}


MANY = {
    "dbt_project.yml": """
        name: small
        version: 1.0.0
        profile: any
        flags: {send_anonymous_usage_stats: false}
    """,
    "models/models.yml": """
        sources: [{name: raw, tables: [{name: events, data_tests: [has_row]}, {name: days}]}]
        groups: [{name: finance, owner: {name: Finance}}]
        models:
          - {name: stg_events, config: {tags: [wip_a]}, data_tests: [has_row]}
          - {name: stg_days, config: {tags: [wip_b], meta: {owner: me}}}
          - name: total
            config: {group: finance, access: public, tags: [slow]}
            columns: [{name: id, data_tests: [unique, {not_null: {config: {severity: warn}}}]}]
          - {name: many, latest_version: 2, versions: [{v: 1}, {v: 2}]}
        unit_tests:
          - name: adds_up
            model: total
            given: [{input: ref('stg_events'), rows: [{id: 1}]}]
            expect: {rows: [{id: 1}]}
        exposures:
          - {name: report, type: dashboard, owner: {name: Sales}, depends_on: [ref('total')]}
    """,
    "macros/has_row.sql": "{% test has_row(model) %}select * from {{ model }}{% endtest %}",
    "models/stg/stg_events.sql": "select id from {{ source('raw', 'events') }}",
    "models/stg/stg_days.sql": "select id from {{ source('raw', 'days') }}",
    "models/mart/gtfs/total.sql": "select id from {{ ref('stg_events') }}",
    "models/mart/gtfs_audit/audit.sql": "select id from {{ ref('total') }}",
    "models/many_v1.sql": "select 1 as id",
    "models/many_v2.sql": "select id from {{ ref('letters') }}",
    "seeds/letters.csv": "id\n1\n",
    "tests/singular.sql": "select * from {{ ref('total') }} join {{ ref('stg_days') }} using (id)",
}
SELECTIONS = [
    *({"exclude": [word]} for word in ("source:raw+", "tag:wip*", "stg*", "path:models/stg")),
    {"exclude": ["unit_test:adds_up"]},
    {"select": ["+path:models/mart/gtfs"]},
    {"select": ["path:models/**/gtfs"]},
    {"select": ["path:models/mart/*"]},
    *(
        {"select": [word]}
        for word in (
            *("group:finance", "access:public", "test_name:unique", "test_type:singular"),
            *(
                "file:total.sql",
                "version:old",
                "version:latest",
                "package:this,resource_type:model",
                "fqn:small.stg",
            ),
            *("config.group:finance", "config.meta.owner:me", "config.severity:warn"),
            *("state:modified", "state:new+", "exposure:report", "+exposure:report"),
            *("resource_type:seed", "1+total", "@stg_events", "many.v2"),
            *("source:raw.events+1", "stg_events+,tag:slow", "total.sql", "small.mart.*"),
            *("models/mart/gtfs/total.sql", "*_days", "config.materialized:view"),
        )
    ),
    {"select": ["tag:wip*", "seed_that_is_not_there"], "exclude": ["+total", "test_type:unit"]},
]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The project MANY, plain dbt on it, and the manifest of an older project."""
    folder = tmp_path_factory.mktemp("many")
    path = write(folder / "small", MANY)
    dbt = PlainDbt(path, folder / "plain")
    manifest = dbt.parse()
    manifest["nodes"]["model.small.stg_days"]["checksum"]["checksum"] = "another"
    del manifest["nodes"]["model.small.total"]
    write(folder / "state", {"manifest.json": json.dumps(manifest)})
    return path, dbt, folder


@pytest.mark.parametrize("given", SELECTIONS, ids=lambda given: json.dumps(given))
def test_a_selection_means_what_it_means_in_dbt(many, monkeypatch, given):
    path, dbt, folder = many
    # All selections use one parse.
    monkeypatch.setattr("cosmos.settings.cache_dir", folder / "cosmos")
    state = ["--state", str(folder / "state")]
    words = [word for name, value in given.items() for word in (f"--{name}", " ".join(value))]
    selected = dbt.build_selects(*words, *state)
    assert selected.nodes
    assert selected.nodes < dbt.build_selects().nodes
    if not any(node.startswith(("model", "seed", "test")) for node in selected.nodes):
        with pytest.raises(ValueError, match="dbt selects no node"):
            render(path, operator_args={"dbt_cmd_flags": state}, **given)
        return
    dag = render(path, operator_args={"dbt_cmd_flags": state}, **given)
    assert [*differences(dag, selected)] == []


def test_a_node_waits_for_selected_nodes_over_others(small):
    tests = """
        models:
          - {name: a, config: {tags: x}, columns: [{name: id, data_tests: [unique]}]}
          - {name: b, config: {materialized: view}}
          - {name: c, config: {tags: x}}
    """
    path = small(
        {"models/models.yml": tests},
        a="select 1 as id",
        b="select * from {{ ref('a') }}",
        c="select * from {{ ref('b') }}",
    )
    dag = render(path, select=["tag:x"])
    assert edges(dag) == {("a.run", "a.test"), ("a.test", "c_run")}


@pytest.mark.parametrize("disabled", ["relationships", "own"])
def test_a_disabled_test_or_model_has_no_task(small, disabled):
    if disabled == "relationships":
        # dbt keeps a test of a model that does not exist as disabled.
        tests = """
            models:
              - name: gone
                columns:
                  - name: id
                    data_tests: [relationships: {arguments: {to: ref('a'), field: id}}]
        """
    else:
        tests = """
            models:
              - name: a
                columns: [{name: id, data_tests: [unique: {config: {enabled: false}}]}]
              - {name: idle, config: {enabled: false}, columns: [{name: id, data_tests: [unique]}]}
        """
    path = small(
        {"models/models.yml": tests, "models/idle.sql": "select 1 as id"},
        a="select 1 as id",
        n="select * from {{ ref('a') }}",
    )
    names = {"model a", "model n"} | ({"model idle"} if disabled == "relationships" else set())
    dag = render(path)
    assert names_with_task(dag) == names
    assert edges(dag) == {("a_run", "n_run")}


FUNCTION = {
    "functions/twice.sql": "n * 2",
    "functions/functions.yml": """
        functions:
          - name: twice
            arguments: [{name: n, data_type: integer}]
            returns: {data_type: integer}
    """,
}


def test_a_function_is_built_with_each_model_that_uses_it(small):
    path = small(
        FUNCTION,
        m="select {{ function('twice') }}(1) as id",
        n="select {{ function('twice') }}(id) as id from {{ ref('m') }}",
        other="select 1 as id",
    )
    dag = render(path)
    nodes = {task_id: task.nodes for task_id, task in node_tasks(dag).items()}
    assert nodes == {
        "m_run": ("function.small.twice", "model.small.m"),
        "n_run": ("function.small.twice", "model.small.n"),
        "other_run": ("model.small.other",),
    }
    assert node_tasks(render(path, exclude=["twice"]))["m_run"].nodes == ("model.small.m",)


@pytest.mark.parametrize("behavior", TestBehavior)
def test_each_behavior_of_tests_runs_the_nodes_of_dbt(small, behavior):
    path = small(SLOW | UNIT_TESTED, n="select * from {{ ref('m') }}")
    dag = render(path, test_behavior=behavior)
    tests = {"unit_test m.adds_up", "test unique_m_id"} if behavior != TestBehavior.NONE else set()
    assert names_with_task(dag) == {"model m", "model n"} | tests


def test_a_variable_excludes_resource_types_also_without_tests(small, monkeypatch):
    monkeypatch.setenv("DBT_EXCLUDE_RESOURCE_TYPES", "seed")
    path = small({**UNIT_TESTED, "seeds/s.csv": "id\n1\n"})
    dag = render(path, test_behavior=TestBehavior.NONE)
    assert names_with_task(dag) == {"model m"}
    # The option of the build replaces the variable.
    assert "seed" in dag.get_task("dbt_build").selecting_options


def test_a_selection_that_dbt_refuses_is_an_error_with_the_message_of_dbt(small):
    path = small({}, a="select 1 as id")
    with pytest.raises(RuntimeError, match=r"(?s)dbt ls failed in .*small: .*nowhere"):
        render(path, selector="nowhere")


def test_a_selection_without_a_node_is_an_error(small):
    path = small({}, a="select 1 as id")
    with pytest.raises(ValueError, match=r"^small: dbt selects no node of .*small\. Check"):
        render(path, select=["tag:none"])


def test_another_dag_with_another_selection_needs_no_new_parse(small):
    path = small({}, a="select 1 as id", b="select 1 as id")
    render(path, select=["a"])
    manifest = dbt_project(path).target / "manifest.json"
    before = manifest.stat()
    assert names_with_task(render(path, "another", select=["b"])) == {"model b"}
    assert manifest.stat() == before


def test_a_variable_that_selects_no_nodes_needs_no_new_selection(small, monkeypatch):
    path = small({}, a="select 1 as id")
    render(path)
    monkeypatch.setenv("DBT_QUEUE", "large")
    render(path)
    assert len([*dbt_project(path).target.glob("slim-*.json")]) == 1


@pytest.mark.parametrize("given", ["option", "variable"])
def test_a_changed_state_changes_the_selection(small, tmp_path, monkeypatch, given):
    path = small({}, a="select 1 as id", b="select 1 as id")
    dbt = PlainDbt(path, tmp_path / "plain")
    manifest = dbt.parse()
    state = tmp_path / "state" / "manifest.json"
    state.parent.mkdir()
    arguments = {"select": ["state:new"]}
    if given == "option":
        arguments["operator_args"] = {"dbt_cmd_flags": ["--state", str(state.parent)]}
    else:
        monkeypatch.setenv("DBT_STATE", str(state.parent))

    def without(name: str) -> None:
        nodes = {key: node for key, node in manifest["nodes"].items() if not key.endswith(name)}
        state.write_text(json.dumps({**manifest, "nodes": nodes}))

    without(".a")
    os.utime(state, (0, 0))
    assert names_with_task(render(path, **arguments)) == {"model a"}
    without(".b")
    assert names_with_task(render(path, **arguments)) == {"model b"}


def test_changed_results_in_a_state_change_the_selection(small, tmp_path):
    path, state = small({}, a="select 1 as id", b="select 1 as id"), tmp_path / "state"
    flags = {"dbt_cmd_flags": ["--state", str(state)]}
    for seconds, name in enumerate("ab"):
        write_state(state, [f"model.small.{name}"])
        os.utime(state / "run_results.json", (seconds, seconds))
        dag = render(path, select=["result:error"], operator_args=flags)
        assert names_with_task(dag) == {f"model {name}"}


@pytest.mark.parametrize(
    ("words", "selecting", "others"),
    [
        (["--full-refresh"], [], ["--full-refresh"]),
        (["-s", "a", "b", "--empty"], ["-s", "a", "b"], ["--empty"]),
        (["--models=a", "--threads", "2"], ["--select=a"], ["--threads", "2"]),
        (["-m", "a"], ["--select", "a"], []),
        (["-sa", "b", "--empty"], ["--select=a", "b"], ["--empty"]),
        (["--threads", 2, "--state", Path("x")], ["--state", "x"], ["--threads", "2"]),
        (
            ["--exclude-resource-types", "test", "--resource-type=model", "--defer"],
            ["--exclude-resource-types", "test", "--resource-type=model"],
            ["--defer"],
        ),
    ],
)
def test_options_that_select_nodes_are_separated_from_all_others(words, selecting, others):
    assert split_options(words) == (selecting, others)
