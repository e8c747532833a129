"""Where dbt projects are found, when a manifest is used, and that any project fits."""

import os
import re

import pytest
from cosmos.constants import InvocationMode, LoadMode

from include import dbt_config
from tests.conftest import ROOT, dbt
from tests.include.conftest import render, write

TASKS = {
    "dbt_producer_watcher",
    "apart_run",
    "base.run",
    "base.test",
    "all_of_it.run",
    "all_of_it.test",
    "packed_run",
}


def test_the_named_folder_comes_before_the_one_beside_include(tmp_path, monkeypatch):
    beside = ROOT / "dbt" / "nyc_flights"
    monkeypatch.delenv("DBT_PROJECTS_DIR")
    assert dbt_config.project_path("nyc_flights") == beside
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(tmp_path))
    assert dbt_config.project_path("nyc_flights") == beside
    write(tmp_path, {"nyc_flights/dbt_project.yml": ""})
    assert dbt_config.project_path("nyc_flights") == tmp_path / "nyc_flights"


def test_a_project_that_is_nowhere_gets_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(tmp_path))
    message = f"No dbt project 'lost' in {tmp_path}/lost, {ROOT}/dbt/lost, "
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}.*set DBT_PROJECTS_DIR"):
        dbt_config.project_path("lost")


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        pytest.param(lambda p: None, True, id="nothing"),
        pytest.param(
            lambda p: write(p, {"target/run_results.json": "", "logs/dbt.log": ""}), True, id="runs"
        ),
        pytest.param(lambda p: (p / "models/base.sql").touch(), False, id="edit"),
        pytest.param(lambda p: (p / "dbt_project.yml").touch(), False, id="settings"),
        pytest.param(lambda p: (p / "models/base.sql").unlink(), False, id="delete"),
        pytest.param(
            lambda p: (p / "models/base.sql").rename(p / "models/new.sql"), False, id="rename"
        ),
        pytest.param(lambda p: write(p, {"models/deep/new.sql": ""}), False, id="add"),
        pytest.param(lambda p: (p / "target/manifest.json").unlink(), False, id="no manifest"),
    ],
)
def test_a_manifest_is_used_until_the_project_changes(second, change, fresh):
    manifest = write(second, {"target/manifest.json": ""}) / "target" / "manifest.json"
    for path in [second, *second.rglob("*")]:
        os.utime(path, (1, 1))
    os.utime(manifest, (2, 2))
    change(second)
    assert dbt_config.fresh_manifest(second) == (manifest if fresh else None)
    mode = LoadMode.DBT_MANIFEST if fresh else LoadMode.DBT_LS
    project = dbt_config.project_config("second")
    assert dbt_config.render_config(project).load_method is mode


def test_a_dbt_of_its_own_runs_as_a_subprocess(second, monkeypatch):
    def modes() -> set:
        project = dbt_config.project_config("second")
        configs = (dbt_config.execution_config(), dbt_config.render_config(project))
        return {(config.invocation_mode, str(config.dbt_executable_path)) for config in configs}

    assert InvocationMode.SUBPROCESS not in {mode for mode, _ in modes()}
    monkeypatch.setattr(dbt_config, "DBT_EXECUTABLE", "/opt/dbt/bin/dbt")
    assert modes() == {(InvocationMode.SUBPROCESS, "/opt/dbt/bin/dbt")}


def test_another_project_with_packages_needs_no_change(second):
    write(second, {"packages.yml": "packages: [{local: ../../package}]"})
    write(
        second.parents[1] / "package",
        {
            "dbt_project.yml": "{name: package, version: 1.0.0}",
            "models/packed.sql": "select 1 as id",
        },
    )
    assert dbt_config.project_config("second").install_dbt_deps
    for command in ("deps", "parse"):
        done = dbt(command, project=str(second))
        assert done.returncode == 0, done.stdout
    assert not dbt_config.project_config("second").install_dbt_deps
    dag = render("second")
    assert dag.dbt_graph.load_method is LoadMode.DBT_MANIFEST
    assert set(dag.task_ids) == TASKS

    (second / "models" / "base.sql").touch()
    dag = render("second")
    assert dag.dbt_graph.load_method is LoadMode.DBT_LS
    assert set(dag.task_ids) == TASKS
