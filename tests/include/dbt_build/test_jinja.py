"""A run uses dbt's parse, unless the Jinja of the project depends on something that has changed."""

import json
import os

import pytest
from cosmos import ProfileConfig
from cosmos.profiles import (
    DatabricksTokenProfileMapping,
    DuckDBUserPasswordProfileMapping,
    PostgresUserPasswordProfileMapping,
    SnowflakeUserPasswordProfileMapping,
)

from include.dbt_build.jinja import depends_on_connection, depends_on_run
from include.dbt_build.parsing import load_manifest
from include.dbt_build.workdir import is_parse_valid, prepare
from tests.include.dbt_build.conftest import dbt_project, names_with_task, render, write


@pytest.mark.parametrize(
    ("jinja", "is_used"),
    [
        ("select '{{ target.name }}' as id", False),
        ("select '{{ target.schema }}', '{{ target.type }}' as id", False),
        ("select * from {{ target.dbname }}.raw.events", False),
        ("{% set db = target.dbname %} {{ config(enabled=(db == 'prod')) }} select 1 as id", True),
        ("{% set t = target %} {{ config(enabled=(t.dbname == 'prod')) }} select 1 as id", True),
        ("{{ config(meta={'a': 1}, enabled=(target.dbname == 'prod')) }} select 1 as id", True),
        ("{{ config(meta={'a': {}}, enabled=(target.dbname == 'prod')) }} select 1 as id", True),
        ("{% if target.dbname == 'prod' %} select 1 as id {% endif %}", True),
        ("select '{{ target.dbname | upper }}' as id", True),
        ("select '{{ target.port }}' as id", True),
        ("select '{{ target['host'] }}' as id", True),
        ("select '{{ target.get('host') }}' as id", True),
        ("{% if target.name == 'prod' %} select 1 as id {% endif %}", False),
        ("{{ config(alias='a_' ~ run_started_at.strftime('%Y')) }} select 1 as id", True),
        ("{{ config(materialized=('table' if flags.FULL_REFRESH else 'view')) }} select 1", True),
        ("{{ config(post_hook=\"select '{{ invocation_id }}'\") }} select 1 as id", False),
        ('{{ config(post_hook="select \'" ~ invocation_id ~ "\'") }} select 1 as id', True),
        ("{{ config(alias='a_' ~ modules.datetime.date.today().year) }} select 1 as id", True),
        ("select '{{ run_started_at }}' as id", False),
        ("{% set y = run_started_at.year %} {{ config(alias='a_' ~ y) }} select 1 as id", True),
        ("{% if flags.FULL_REFRESH %}{{ config(tags='x') }}{% endif %} select 1 as id", True),
        ("{{ config(alias='a') }} {% if flags.FULL_REFRESH %} select 1 as id {% endif %}", False),
    ],
)
def test_a_project_that_decides_by_its_connection_is_parsed_in_each_run(second, jinja, is_used):
    write(second, {"models/base.sql": jinja})
    project = dbt_project(second)
    files = [*second.rglob("*")]
    assert (depends_on_connection(project, files) or depends_on_run(files)) == is_used
    if not is_used:
        prepare(project)
        assert is_parse_valid(project, os.environ)


@pytest.mark.parametrize(
    ("file", "text", "is_used"),
    [
        ("models/base.yml", "{enabled: '{{ run_started_at.year > 1 }}'}", True),
        ("models/base.yml", "{description: '{{ run_started_at }}'}", False),
        ("models/base.yml", "{pre_hook: ['{{ run_started_at }}']}", False),
        ("models/base.yml", "{alias: '{{ run_started_at }}', meta: {a: 2024-02-30}}", True),
        ("macros/names.sql", "generate_alias_name(a, node) %}{{ flags.WHICH }}", True),
        ("macros/names.sql", "postgres__generate_schema_name(a, node) %}{{ invocation_id }}", True),
        ("macros/names.sql", "year() %}{{ return(run_started_at.year) }}", True),
        ("macros/names.sql", "default__year() %}{{ return(invocation_id) }}", True),
        ("macros/names.sql", "other() %}{{ return(run_started_at.year) }}", False),
    ],
)
def test_yaml_and_macros_can_decide_by_the_run(second, file, text, is_used):
    if file.endswith("yml"):
        content = f"models: [{{name: base, config: {text}}}]"
    else:
        content = f"{{# This macro returns a name. #}}{{% macro {text}{{% endmacro %}}"
    write(second, {"models/base.sql": "{{ config(alias=year()) }} select 1", file: content})
    assert depends_on_run(second.rglob("*")) == is_used


def test_the_settings_of_a_project_can_decide_by_the_run(second):
    settings = "{name: second, version: 1.0.0, profile: any, %s: '{{ run_started_at }}'}"
    write(second, {"dbt_project.yml": settings % "on-run-end"})
    assert not depends_on_run(second.rglob("*"))
    write(second, {"dbt_project.yml": settings % "models"})
    assert depends_on_run(second.rglob("*"))


def test_a_macro_in_a_folder_outside_of_the_project_can_decide_by_the_connection(second):
    settings = "{name: second, version: 1.0.0, profile: any, macro-paths: [../shared]}"
    macro = "{% macro is_prod() %}{{ return(target.dbname == 'prod') }}{% endmacro %}"
    write(second, {"dbt_project.yml": settings, "../shared/is_prod.sql": macro})
    project = dbt_project(second)
    prepare(project)
    assert not is_parse_valid(project, os.environ)


def test_a_macro_in_a_linked_folder_can_decide_by_the_connection(second):
    macro = "{% macro is_prod() %}{{ return(target.dbname == 'prod') }}{% endmacro %}"
    shared = write(second.parent / "shared", {"is_prod.sql": macro})
    (second / "macros").symlink_to(shared)
    project = dbt_project(second)
    prepare(project)
    assert not is_parse_valid(project, os.environ)


@pytest.mark.parametrize("given", [{}, {"schema": "prod"}])
def test_the_schema_can_be_a_value_of_the_connection(second, given):
    write(second, {"models/base.sql": "{{ config(enabled=(target.schema == 'prod')) }} select 1"})
    mapping = SnowflakeUserPasswordProfileMapping("warehouse", given)
    project = dbt_project(second, profile=ProfileConfig("any", "dev", profile_mapping=mapping))
    assert depends_on_connection(project, second.rglob("*")) == (not given)


@pytest.mark.parametrize("given", [{}, {"path": "warehouse.duckdb"}])
def test_the_database_of_duckdb_is_made_from_the_path_of_the_connection(second, given):
    mapping = DuckDBUserPasswordProfileMapping("warehouse", given)
    project = dbt_project(second, profile=ProfileConfig("any", "dev", profile_mapping=mapping))
    assert depends_on_connection(project, []) == (not given)


@pytest.mark.parametrize("given", [{}, {"catalog": "main"}])
def test_the_database_can_be_an_argument_that_a_parse_does_not_know(second, given):
    mapping = DatabricksTokenProfileMapping("warehouse", {"schema": "analytics", **given})
    project = dbt_project(second, profile=ProfileConfig("any", "dev", profile_mapping=mapping))
    assert depends_on_connection(project, []) == bool(given)


@pytest.mark.parametrize(("field", "depends"), [("port", True), ("schema", False)])
def test_an_argument_of_the_profile_that_a_parse_does_not_know_can_be_printed(
    second, field, depends
):
    write(second, {"models/base.sql": f"select '{{{{ target.{field} }}}}' as id"})
    given = {"port": 6543, "schema": "analytics"}
    mapping = PostgresUserPasswordProfileMapping("warehouse", given)
    project = dbt_project(second, profile=ProfileConfig("any", "dev", profile_mapping=mapping))
    assert depends_on_connection(project, second.rglob("*")) == depends


def test_an_argument_of_the_profile_can_read_a_variable(second, monkeypatch):
    given = {"schema": "{{ env_var('DBT_SCHEMA', 'analytics') }}"}
    mapping = PostgresUserPasswordProfileMapping("warehouse", given)
    project = dbt_project(second, profile=ProfileConfig("any", "dev", profile_mapping=mapping))
    prepare(project)
    assert is_parse_valid(project, os.environ)
    monkeypatch.setenv("DBT_SCHEMA", "prod")
    assert not is_parse_valid(project, os.environ)
    prepare(project)
    schemas = {node.schema for node in load_manifest(project).nodes.values()}
    assert schemas == {"prod", "prod_dbt_test__audit"}


@pytest.mark.parametrize(
    "files",
    [
        pytest.param(
            {"models/a.sql": "{{ config(enabled=env_var('X', '0') == '1') }} select 1 as id"},
            id="model",
        ),
        pytest.param(
            {
                "models/a.yml": """
                    models:
                      - {name: a, config: {enabled: "{{ env_var('X', '0') == '1' }}"}}
                """
            },
            id="properties",
        ),
        pytest.param(
            {
                "dbt_project.yml": """
                    name: small
                    version: 1.0.0
                    profile: any
                    models: {small: {a: {+enabled: "{{ env_var('X', '0') == '1' }}"}}}
                """
            },
            id="settings",
        ),
        pytest.param(
            {
                "macros/is_on.sql": "{% macro is_on() %}{{ return(env_var('X', '0') == '1') }}"
                "{% endmacro %}",
                "models/a.sql": "{{ config(enabled=is_on()) }} select 1 as id",
            },
            id="macro",
        ),
    ],
)
def test_a_project_is_parsed_again_when_a_variable_that_it_reads_changes(small, monkeypatch, files):
    monkeypatch.delenv("X", raising=False)
    path = small({"models/a.sql": "select 1 as id", "models/b.sql": "select 1 as id", **files})
    assert names_with_task(render(path)) == {"model b"}
    monkeypatch.setenv("X", "1")
    assert names_with_task(render(path)) == {"model a", "model b"}
    project = dbt_project(path)
    assert is_parse_valid(project, {"X": "1"})
    assert not is_parse_valid(project, {"X": "0"})
    assert not is_parse_valid(project, {})
    # A variable that the project does not read changes nothing.
    assert is_parse_valid(project, {"X": "1", "Y": "1"})
    monkeypatch.setenv("X", "0")
    assert names_with_task(render(path)) == {"model b"}


def test_the_settings_of_a_package_can_read_a_variable(second, monkeypatch):
    settings = "{name: package, models: {+enabled: \"{{ env_var('X', '0') == '1' }}\"}}"
    package = {"dbt_project.yml": settings, "models/packed.sql": "select 1 as id"}
    write(second.parent / "package", package)
    write(second, {"packages.yml": "packages: [{local: ../package}]"})
    for value in ("0", "1", "0"):
        monkeypatch.setenv("X", value)
        assert ("model packed" in names_with_task(render(second))) == (value == "1")
        assert not is_parse_valid(dbt_project(second), {"X": "2"})


def test_a_variable_that_a_profile_file_reads_decides_about_a_parse(small, monkeypatch):
    monkeypatch.setenv("SCHEMA_OF_X", "one")
    profiles = """
        any:
          target: dev
          outputs:
            dev:
              {type: postgres, host: h, port: 1, user: u, password: p, dbname: d,
               schema: "{{ env_var('SCHEMA_OF_X') }}"}
    """
    path = small({"../profiles/profiles.yml": profiles}, a="select 1 as id")
    file = path.parent / "profiles" / "profiles.yml"
    project = dbt_project(path, profile=ProfileConfig("any", "dev", file))
    prepare(project)
    assert is_parse_valid(project, {"SCHEMA_OF_X": "one"})
    # The run would build the nodes in another schema than the profile has.
    assert not is_parse_valid(project, {"SCHEMA_OF_X": "two"})
    monkeypatch.setenv("SCHEMA_OF_X", "two")
    prepare(project)
    manifest = json.loads((project.target / "manifest.json").read_text())
    assert manifest["nodes"]["model.small.a"]["schema"] == "two"
