"""Nodes can have any name: task IDs are unique, and dbt selects exactly one node."""

import json
import re

import pytest
from airflow.sdk import DAG, TaskGroup

from include.dbt_build import DbtTaskGroup
from include.dbt_build.parsing import load_manifest, run_dbt
from include.dbt_build.selection import SELECT_STATE, write_state
from include.dbt_build.task_names import safe_name, task_names
from tests.include.dbt_build.conftest import (
    arguments,
    dbt_project,
    edges,
    node_tasks,
    nodes_with_task,
    render,
    write,
)
from tests.include.dbt_build.plain_dbt import PlainDbt, differences

# A model name becomes the name of a table. dbt cuts the names of tests, but not those of models.
LONG, VERY_LONG = "l" + "o" * 68 + "ng", "very_l" + "o" * 260 + "ng"
DIFFICULT = {
    "dbt_project.yml": """
        name: small
        version: 1.0.0
        profile: any
        flags: {send_anonymous_usage_stats: false}
    """,
    "packages.yml": "packages: [{local: ../package}]",
    "../package/dbt_project.yml": "{name: package, version: 1.0.0}",
    "../package/models/plain.sql": "{{ config(schema='other') }} select 1 as id",
    # A package with the name of a folder of the project, and with models of the same names.
    "../package/models/package/deep.sql": "{{ config(schema='other', alias='d') }} select 1 as id",
    # Models with the name of the project, a folder, a test, and the start of another model.
    "models/small.sql": "select 1 as id",
    "models/plain.sql": "select 1 as id",
    "models/plain_2.sql": "select 1 as id",
    "models/plain/in_folder.sql": "select 1 as id",
    "models/plain/plain_3.sql": "select 1 as id",
    "models/stg/b.sql": "select 1 as id",
    "models/stg old/a.sql": "select 1 as id",
    "models/stg,old/comma.sql": "select 1 as id",
    "models/package/first.sql": "select 1 as id",
    "models/[x]/brackets.sql": "select 1 as id",
    "models/(x)/round.sql": "select 1 as id",
    "models/{x}/curly.sql": "select 1 as id",
    "models/a&b='c'/signs.sql": "select 1 as id",
    "models/#1 100%/hash.sql": "select 1 as id",
    "models/a:b/colon.sql": "select 1 as id",
    "models/tag:x/method.sql": "select 1 as id",
    "models/+up/plus.sql": "select 1 as id",
    "models/@all/at.sql": "select 1 as id",
    "models/what?/question.sql": "select 1 as id",
    "models/a*b/star.sql": "select 1 as id",
    "models/v1.2/dotted.folder.sql": "select 1 as id",
    "models/v1.2/dotted.sql": "select 1 as id",
    "models/v1/2.sql": "select 1 as id",
    "models/größe/maß.sql": "select 1 as id",
    "models/größe/データ.sql": "select 1 as id",
    "models/größe/mit-strich.sql": "select 1 as id",
    "models/größe/[y].sql": "select 1 as id",
    "models/größe/y.sql": "select 1 as id",
    f"models/{LONG}.sql": "select 1 as id",
    "models/many_v1.sql": "select 1 as id",
    "models/many_v2.sql": "select 1 as id",
    "seeds/grown up/letters.csv": "id\n1\n",
    "tests/plain.sql": "select * from {{ ref('small', 'plain') }} where id > 1",
    "tests/reads_nothing.sql": "select 1 where false",
    "functions/twice.sql": "n * 2",
    "models/more.yml": """
        sources:
          - {name: raw, tables: [{name: events}]}
        models:
          - {name: many, latest_version: 2, versions: [{v: 1}, {v: 2}]}
          - {name: small, columns: [{name: id, data_tests: [unique, not_null]}]}
          - {name: plain, columns: [{name: id, data_tests: [unique]}]}
        unit_tests:
          - {name: plain, model: small, given: [], expect: {rows: [{id: 1}]}}
          - {name: many, model: many, given: [], expect: {rows: [{id: 1}]}}
        functions:
          - name: twice
            arguments: [{name: n, data_type: integer}]
            returns: {data_type: integer}
        exposures:
          - {name: plain, type: dashboard, owner: {name: me}, depends_on: [ref('many')]}
    """,
    "snapshots/kept.yml": """
        snapshots:
          - name: kept
            relation: ref('small')
            config: {strategy: check, unique_key: id, check_cols: all}
    """,
}


@pytest.fixture(scope="module")
def difficult(tmp_path_factory):
    """A project full of difficult names."""
    return write(tmp_path_factory.mktemp("difficult") / "small", DIFFICULT)


def test_a_run_can_name_nodes_and_nothing_but_these(difficult, tmp_path, cache):
    slim = render(difficult).get_task("dbt_build").group.slim
    project = dbt_project(difficult)
    manifest = json.loads((project.target / "manifest.json").read_text())
    parts = ("nodes", "unit_tests", "functions")
    assert slim["nodes_to_run"] == sorted(k for part in parts for k in manifest[part])
    loaded = load_manifest(project)
    for chosen in (slim["nodes_to_run"][::2], slim["nodes_to_run"][1::2]):
        write_state(tmp_path / "state", chosen)
        words = ["--select", SELECT_STATE, "--indirect-selection", "empty"]
        words += ["--state", str(tmp_path / "state")]
        words += ["--output", "json", "--output-keys", "unique_id"]
        listed = run_dbt(project, "ls", *words, manifest=loaded)
        assert sorted(json.loads(line)["unique_id"] for line in listed) == chosen


def test_difficult_names_have_readable_tasks(difficult, tmp_path, cache):
    dag = render(difficult)
    dbt = PlainDbt(difficult, tmp_path / "plain")
    dbt("deps")
    dbt.parse()
    assert [*differences(dag, dbt.build_selects())] == []
    for task_id in ("small.run", "package__plain_run", "a_run", "maß_run", "データ_run"):
        assert task_id in dag.task_ids
    assert "dotted_folder_run" in dag.task_ids
    assert "many_v1.run" in dag.task_ids or "many_v1_run" in dag.task_ids


@pytest.mark.parametrize("same", ["model and package", "model and seed of package"])
def test_equal_names_in_packages_have_tasks_of_their_own(small, same):
    kind = "models/a.sql" if same == "model and package" else "seeds/a.csv"
    content = "{{ config(schema='other') }} select 1 as id"
    package = {
        "../package/dbt_project.yml": "{name: package, version: 1.0.0}",
        "../package/seeds/s.yml": "seeds: [{name: a, config: {schema: other}}]",
        f"../package/{kind}": content if kind.endswith("sql") else "id\n1\n",
    }
    tests = "models: [{name: a, columns: [{name: id, data_tests: [unique]}]}]"
    if kind == "models/a.sql":
        package["../package/models/a.yml"] = tests
        package["../package/tests/own.sql"] = "select * from {{ ref('package', 'a') }} where id > 1"
    path = small(
        {"packages.yml": "packages: [{local: ../package}]", "models/a.yml": tests, **package},
        a="select 1 as id",
    )
    dag = render(path)
    tasks = node_tasks(dag)
    assert tasks["a.run"].nodes == ("model.small.a",)
    # dbt resolves the ref of a test to the root project first.
    assert len(tasks["a.test"].nodes) == (2 if "models/" in kind else 1)
    other = {task_id for task_id in tasks if task_id.startswith("package__a")}
    assert other == (
        {"package__a.run", "package__a.test"} if "models/" in kind else {"package__a_seed"}
    )


def test_names_that_become_equal_get_a_hash():
    nodes = {
        f"model.small.{name}": {"package_name": "small"} for name in ("a.b", "a_b", "a b", "ab")
    }
    names = task_names(nodes, root="small")
    assert names["model.small.ab"] == "ab"
    assert len({*names.values()}) == 4
    assert all(re.fullmatch(r"a_b_[0-9a-f]{8}|ab", name) for name in names.values())


@pytest.mark.parametrize("name", [LONG, VERY_LONG, "größe", "a b", "x/y", "a.b", "[a]", "データ"])
def test_a_name_is_made_fit_for_task_ids(name):
    safe = safe_name(name)
    assert re.fullmatch(r"[\w-]+", safe)
    assert len(safe) <= 130
    assert safe_name(name + "_") != safe


def test_long_names_fit_into_the_ids_of_groups(small):
    # The name of a test contains that of its model. Postgres cuts names at 63 characters.
    tests = f"models: [{{name: {LONG}, columns: [{{name: id, data_tests: [unique]}}]}}]"
    path = small({"models/m.yml": tests}, **{LONG: "select 1 as id"})
    assert {f"{LONG}.run", f"{LONG}.test"} < set(render(path).task_ids)

    # A file system takes 255 characters, with the suffix.
    longest = VERY_LONG[:250]
    write(path, {f"models/{longest}.sql": "select 1 as id"})
    with DAG("long") as dag, TaskGroup("outer"):
        DbtTaskGroup("dbt", **arguments(path))
    (task,) = (t for t in node_tasks(dag).values() if t.nodes == (f"model.small.{longest}",))
    assert len(task.task_id) <= 250
    assert task.task_id.startswith("outer.dbt.very_looo")


SOURCES = {
    "models/sources.yml": """
        sources:
          - name: raw data
            config: &age
              loaded_at_field: loaded_at
              freshness: {warn_after: {count: 1, period: day}}
            tables: [{name: odd name}, {name: "a.b"}, {name: größe}]
          - {name: raw, config: *age, tables: [{name: events}, {name: unread}]}
          - name: unchecked
            config: {loaded_at_field: at, freshness: {warn_after: {period: hour}}}
            tables: [{name: events}]
    """,
    "models/m.sql": """
        select 1 as id from {{ source('raw data', 'odd name') }}, {{ source('raw', 'events') }}
    """,
    "models/n.sql": """
        select 1 as id from {{ source('raw data', 'a.b') }}, {{ source('raw data', 'größe') }},
            {{ source('unchecked', 'events') }}
    """,
}


def test_sources_can_have_difficult_names(small):
    dag = render(small(SOURCES), source_freshness=True)
    checks = {name: task.nodes for name, task in node_tasks(dag).items() if task.checks_freshness}
    assert checks == {
        "raw_data_odd_name_freshness": ("source.small.raw data.odd name",),
        "raw_data_a_b_freshness": ("source.small.raw data.a.b",),
        "raw_data_größe_freshness": ("source.small.raw data.größe",),
        # Nothing reads raw.unread, and dbt does not check thresholds without a count.
        "raw_events_freshness": ("source.small.raw.events",),
    }
    assert edges(dag) == {
        ("raw_data_odd_name_freshness", "m_run"),
        ("raw_events_freshness", "m_run"),
        ("raw_data_a_b_freshness", "n_run"),
        ("raw_data_größe_freshness", "n_run"),
    }


def test_a_tested_model_can_have_the_name_of_the_task_of_another_node(small):
    models = "models: [{name: days_seed, columns: [{name: id, data_tests: [unique]}]}]"
    files = {"seeds/days.csv": "id\n1\n", "models/models.yml": models}
    names = ("days_seed", "other", "other_run")
    dag = render(small(files, **dict.fromkeys(names, "select 1 as id")))
    # Only a name that is taken is changed.
    assert {"days_seed", "other_run", "other_run_run"} < {*dag.task_ids}
    assert len(nodes_with_task(dag)) == 5


def test_a_tested_model_can_have_the_name_of_a_task_of_source_tests(small):
    path = small(
        {
            "models/raw.yml": """
                sources: [{name: raw, tables: [{name: ev, columns: [{name: id, tests: [unique]}]}]}]
            """,
            "models/m.yml": "models: [{name: raw_ev_test, columns: [{name: id, tests: [unique]}]}]",
        },
        raw_ev_test="select id from {{ source('raw', 'ev') }}",
    )
    assert edges(render(path)) == {
        ("raw_ev_test_2", "raw_ev_test.run"),
        ("raw_ev_test.run", "raw_ev_test.test"),
    }
