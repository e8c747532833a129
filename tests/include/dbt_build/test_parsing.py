"""dbt parses without the connection, and a run uses that parse with the connection's values."""

import json
import os
import shutil

import pytest
from cosmos import ExecutionConfig, ProfileConfig
from cosmos.constants import InvocationMode
from cosmos.dbt.project import environ
from dbt.cli.main import dbtRunner

from include.dbt_build.parsing import (
    PLACEHOLDER,
    DbtError,
    connection_values,
    load_manifest,
    parse_profile,
    run_dbt,
)
from include.dbt_build.workdir import is_parse_valid, prepare
from tests.include.dbt_build.conftest import dbt_project, names_with_task, render, write

CONNECTION = {
    "conn_type": "postgres",
    "host": "db.example.com",
    "port": 5432,
    "login": "ada",
    "password": "a secret",  # pragma: allowlist secret
    "schema": 'dab"s',
}
PROFILES = """
    any:
      target: dev
      outputs:
        dev: {type: postgres, host: h, port: 1, user: u, password: p, dbname: real, schema: s}
"""


@pytest.fixture
def connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(CONNECTION))


def test_a_parse_needs_no_connection_and_has_placeholders_for_its_values(unchanged, monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE", raising=False)
    project = dbt_project(unchanged)
    prepare(project)
    manifest = json.loads((project.target / "manifest.json").read_text())
    assert {node["database"] for node in manifest["nodes"].values()} == {f"{PLACEHOLDER}dbname"}


def test_a_run_gets_the_parse_with_the_values_of_the_connection(unchanged, connection):
    project = dbt_project(unchanged)
    prepare(project)
    values = connection_values(project)
    assert values[f"{PLACEHOLDER}dbname"] == 'dab"s'
    # A password is not part of a parse.
    assert "a secret" not in values.values()
    manifest = load_manifest(project, values)
    assert {node.database for node in manifest.nodes.values()} == {'dab"s'}
    assert PLACEHOLDER not in json.dumps(manifest.writable_manifest().to_dict())


def test_a_run_does_not_parse_again(unchanged, connection, tmp_path):
    project = dbt_project(unchanged)
    prepare(project)
    manifest = load_manifest(project, connection_values(project))
    events = []
    runner = dbtRunner(manifest=manifest, callbacks=[lambda event: events.append(event.info.name)])
    with parse_profile(project) as (folder, environment), environ(environment):
        done = runner.invoke(
            [
                *("ls", "--project-dir", str(project.workdir), "--profiles-dir", str(folder)),
                *("--profile", "any", "--target", "dev", "--target-path", str(tmp_path / "t")),
            ]
        )
    assert len(done.result) == 6
    assert not {name for name in events if "Pars" in name}


def test_a_changed_placeholder_is_not_used(second, connection):
    # The name of a database in another form, as in an upper-case identifier.
    write(second, {"models/base.sql": "{{ config(alias=(database | upper)) }} select 1 as id"})
    project = dbt_project(second)
    prepare(project)
    assert load_manifest(project, connection_values(project)) is None


def test_a_profile_file_is_used_as_it_is(unchanged, tmp_path):
    file = write(tmp_path, {"profiles.yml": PROFILES}) / "profiles.yml"
    project = dbt_project(unchanged, profile=ProfileConfig("any", "dev", file))
    prepare(project)
    manifest = load_manifest(project, connection_values(project))
    assert {node.database for node in manifest.nodes.values()} == {"real"}
    with parse_profile(project) as (folder, _):
        assert folder == tmp_path


def test_a_parse_can_use_the_connection(unchanged, connection):
    project = dbt_project(unchanged, uses_mock_profile=False)
    prepare(project)
    assert connection_values(project) == {}
    manifest = load_manifest(project, {})
    assert {node.database for node in manifest.nodes.values()} == {'dab"s'}
    # The connection can have changed since the parse.
    assert not is_parse_valid(project, os.environ)
    dag = render(unchanged, enable_mock_profile=False)
    assert len(names_with_task(dag)) == 6


@pytest.mark.parametrize(
    "mode", [None, pytest.param(InvocationMode.SUBPROCESS, marks=pytest.mark.slow)]
)
def test_the_settings_of_a_developers_dbt_do_not_disturb_a_parse(
    second, monkeypatch, tmp_path, mode
):
    for name, value in {
        "DBT_TARGET_PATH": str(tmp_path / "elsewhere"),
        "DBT_LOG_PATH": str(tmp_path / "logs"),
        "DBT_LOG_LEVEL": "debug",
        "DBT_LOG_FORMAT": "json",
        "DBT_WRITE_JSON": "false",
        "DBT_QUIET": "false",
        "DBT_PROFILES_DIR": str(tmp_path / "none"),
        "DBT_PROJECT_DIR": str(tmp_path / "none"),
        "DBT_PROFILE": "none",
        "DBT_TARGET": "none",
    }.items():
        monkeypatch.setenv(name, value)
    execution = ExecutionConfig(dbt_executable_path=shutil.which("dbt"), invocation_mode=mode)
    assert len(names_with_task(render(second, execution_config=execution))) == 6
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "logs").exists()


def test_a_parse_prints_nothing_and_leaves_no_variable(second, capsys):
    before = dict(os.environ)
    prepare(dbt_project(second, environment={"OF_THE_DAG": "x"}))
    assert capsys.readouterr().out == ""
    assert dict(os.environ) == before


@pytest.mark.parametrize("executable", [None, pytest.param("dbt", marks=pytest.mark.slow)])
def test_an_error_of_dbt_is_the_error_of_its_command(unchanged, executable):
    project = dbt_project(unchanged, executable=executable and shutil.which(executable))
    prepare(project)
    with pytest.raises(DbtError, match=r"(?s)^dbt ls failed in .*second: .*nowhere"):
        run_dbt(project, "ls", "--selector", "nowhere")


@pytest.mark.slow
def test_an_external_dbt_gives_the_same_tasks_and_lists_them_once(unchanged):
    external = ExecutionConfig(
        dbt_executable_path=shutil.which("dbt"), invocation_mode=InvocationMode.SUBPROCESS
    )
    for select in ([], ["base+"]):
        dag = render(unchanged, select=select, execution_config=external)
        assert names_with_task(dag) == names_with_task(render(unchanged, select=select))
    target = dag.get_task("dbt_build").project.target
    listed = {*target.glob("slim-*.json")}
    render(unchanged, select=select, execution_config=external)
    assert {*target.glob("slim-*.json")} == listed
