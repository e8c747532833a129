"""When the working directory of a project is made again, and what dbt finds in it."""

import json
import os
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from subprocess import run

import pytest
import yaml

from include.dbt_build import workdir
from include.dbt_build.parsing import DbtError, run_dbt
from include.dbt_build.workdir import is_up_to_date, prepare
from tests.conftest import ROOT
from tests.include.dbt_build.conftest import (
    dbt_project,
    names_with_task,
    nodes_with_task,
    profile,
    render,
    write,
)


def redeploy(project: Path) -> None:
    """Replace a project as `astro dbt deploy` does: other files with old times, and a target/."""
    files = {str(f.relative_to(project)): f.read_text() for f in project.rglob("*") if f.is_file()}
    shutil.rmtree(project)
    write(project, files | {"models/base.sql": "select 2 as id", "target/manifest.json": "{}"})
    for file in project.rglob("*.*"):
        os.utime(file, (0, 0))


def replace_by_older(project: Path) -> None:
    """Replace a file as `rsync --archive` does: the folder has its old time too."""
    write(project, {"models/base.sql": "select 2 as id"})
    for path in (project / "models/base.sql", project / "models"):
        os.utime(path, (0, 0))


@pytest.mark.parametrize(
    ("change", "is_parsed_again"),
    [
        pytest.param(lambda p: None, False, id="nothing"),
        pytest.param(
            lambda p: write(p, {"target/run_results.json": "", "logs/dbt.log": ""}),
            False,
            id="run",
        ),
        pytest.param(lambda p: (p / "models/base.sql").touch(), True, id="edit"),
        pytest.param(lambda p: (p / "dbt_project.yml").touch(), True, id="settings"),
        pytest.param(lambda p: (p / "models/extra.sql").unlink(), True, id="delete"),
        pytest.param(
            lambda p: (p / "models/extra.sql").rename(p / "models/new.sql"), True, id="rename"
        ),
        pytest.param(lambda p: write(p, {"models/deep/new.sql": "select 1 as id"}), True, id="add"),
        pytest.param(
            lambda p: write(p, {"models/logs/new.sql": "select 1 as id"}), True, id="named logs"
        ),
        pytest.param(lambda p: write(p, {"selectors.yml": "selectors: []"}), True, id="new file"),
        pytest.param(redeploy, True, id="deploy"),
        pytest.param(replace_by_older, True, id="older file"),
    ],
)
def test_a_project_is_parsed_again_when_it_has_changed(second, commands, change, is_parsed_again):
    write(second, {"models/extra.sql": "select 1 as id"})
    project = dbt_project(second)
    prepare(project)
    change(second)
    assert is_up_to_date(project) != is_parsed_again
    prepare(project)
    parsed = ["parse", "parse"] if is_parsed_again else ["parse"]
    assert commands == parsed
    # The change is noticed only once.
    prepare(project)
    assert commands == parsed


def test_a_project_is_parsed_again_when_a_file_of_a_linked_folder_changes(second):
    shared = write(second.parent / "shared", {"m.sql": "{% macro m() %}{% endmacro %}"})
    (second / "macros").symlink_to(shared)
    project = dbt_project(second)
    prepare(project)
    assert is_up_to_date(project)
    (shared / "m.sql").touch()
    assert not is_up_to_date(project)


def test_a_project_is_parsed_again_with_another_version_of_dbt(second, tmp_path, monkeypatch):
    def installed(version: str) -> None:
        folder = tmp_path / f"with_{version}"
        (folder / f"dbt_core-{version}.dist-info").mkdir(parents=True)
        monkeypatch.setattr(workdir.sysconfig, "get_path", lambda _: str(folder))

    project = dbt_project(second)
    installed("1.12.6")
    prepare(project)
    assert is_up_to_date(project)
    installed("1.12.7")
    assert not is_up_to_date(project)


def test_parsing_writes_nothing_into_the_project(second):
    # Containers mount the project read-only.
    write(second, {".user.yml": "id: 6d2a6d5c-7a5c-4c0e-a3a6-5f3c0c3b7f0e"})
    before = {path: path.stat().st_mtime_ns for path in [second, *second.rglob("*")]}
    render(second)
    assert {path: path.stat().st_mtime_ns for path in [second, *second.rglob("*")]} == before


@pytest.mark.slow
def test_one_of_several_processes_parses(second, tmp_path):
    calls = tmp_path / "calls"
    dbt = tmp_path / "dbt.sh"
    dbt.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexec {Path(sys.executable).parent}/dbt "$@"')
    dbt.chmod(dbt.stat().st_mode | stat.S_IXUSR)
    code = (
        # Cosmos cannot be imported before Airflow.
        "import airflow;"
        "from pathlib import Path; from include.dbt_build.workdir import prepare;"
        "from tests.include.dbt_build.conftest import dbt_project;"
        f"prepare(dbt_project(Path({str(second)!r}), executable={str(dbt)!r}))"
    )
    env = {**os.environ, "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos")}
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(run, [sys.executable, "-c", code], cwd=ROOT, env=env) for _ in range(3)]
    assert [future.result().returncode for future in done] == [0, 0, 0]
    (call,) = calls.read_text().splitlines()
    assert " parse " in call


def test_an_error_of_dbt_names_the_project_and_has_the_message_of_dbt(second):
    write(second, {"models/base.sql": "select * from {{ ref('nowhere') }}"})
    with pytest.raises(
        DbtError, match=r"^dbt parse failed in .*second: Compilation Error"
    ) as error:
        render(second)
    message = "'model.second.base' (models/base.sql) depends on a node named 'nowhere'"
    assert message in str(error.value)
    # The error is repaired as soon as the file is.
    write(second, {"models/base.sql": "select 1 as id"})
    assert len(names_with_task(render(second))) == 6


@pytest.mark.parametrize("name", ["dbt_project.yml", "packages.yml"])
def test_an_error_in_a_yaml_file_names_the_file(second, name):
    write(second, {name: "a: [1\nb: 2"})
    with pytest.raises(yaml.YAMLError, match=f'in "{second / name}"'):
        prepare(dbt_project(second))


def test_dbt_reads_no_dotenv_file(small, monkeypatch):
    alias = "{{ config(alias='a_' ~ env_var('SUFFIX', 'none')) }} select 1 as id"
    path = small({".env": "SUFFIX=of_the_file"}, base=alias)
    monkeypatch.chdir(path)
    project = dbt_project(path)
    prepare(project)
    assert "SUFFIX" not in os.environ
    assert is_up_to_date(project)
    manifest = json.loads((project.target / "manifest.json").read_text())
    assert manifest["nodes"]["model.small.base"]["alias"] == "a_none"


def test_each_way_to_parse_a_project_has_a_working_directory(second):
    write(second, {"models/base.sql": "{{ config(schema=target.name ~ var('v', '')) }} select 1"})

    def prepared(**changes) -> tuple[Path, str]:
        project = dbt_project(second, **changes)
        prepare(project)
        manifest = json.loads((project.target / "manifest.json").read_text())
        return project.workdir, manifest["nodes"]["model.second.base"]["schema"]

    ways = [
        {},
        {"profile": profile(target="staging")},
        {"profile": profile("other")},
        {"variables": {"v": "x"}},
    ]
    workdirs, schemas = zip(*(prepared(**way) for way in ways), strict=True)
    assert len({*workdirs}) == len(ways)
    assert schemas == ("small_dev", "small_staging", "other_dev", "small_devx")


def test_two_dags_with_different_intervals_share_a_parse(second, commands):
    daily = {"DBT_EVENT_TIME_START": "{{ ds }}", "DBT_EVENT_TIME_END": "{{ ds }}"}
    projects = [dbt_project(second, environment=daily), dbt_project(second)]
    for project in projects * 2:
        prepare(project)
    assert len({project.workdir for project in projects}) == 1
    assert commands == ["parse"]


def test_a_project_is_parsed_with_the_variables_of_the_dag(small, monkeypatch):
    monkeypatch.delenv("RAW", raising=False)
    files = {
        "models/s.yml": """
            sources: [{name: raw, schema: "{{ env_var('RAW') }}", tables: [{name: events}]}]
        """,
        "dbt_project.yml": """
            name: small
            version: 1.0.0
            profile: any
            models: {+enabled: "{{ var('on', false) }}"}
        """,
    }
    path = small(files, a="select * from {{ source('raw', 'events') }}")
    dag = render(path, env_vars={"RAW": "y"}, dbt_vars={"on": True})
    assert names_with_task(dag) == {"model a"}
    project = dag.get_task("dbt_build").project
    manifest = json.loads((project.target / "manifest.json").read_text())
    (source,) = manifest["sources"].values()
    assert source["schema"] == "y"
    with pytest.raises(DbtError, match="Env var required but not provided: 'RAW'"):
        render(path, dbt_vars={"on": True})


def test_a_variable_can_be_a_date(small):
    # The run passes variables to dbt as YAML too, which has dates.
    path = small({}, a="{{ config(enabled=var('day').year == 2026) }} select 1 as id")
    dag = render(path, dbt_vars={"day": date(2026, 1, 1)})
    assert names_with_task(dag) == {"model a"}


def test_a_value_of_a_variable_is_not_written_down(small, monkeypatch):
    monkeypatch.setenv("SECRET_OF_X", "a very secret value")
    path = small({}, a="select '{{ env_var('SECRET_OF_X') }}' as id")
    render(path)
    inputs = (dbt_project(path).target / "dbt_build_inputs.json").read_text()
    assert "SECRET_OF_X" in inputs
    assert "a very secret value" not in inputs


def test_a_manifest_made_elsewhere_replaces_the_parse(second, tmp_path, commands):
    prepare(dbt_project(second))
    commands.clear()
    manifest = tmp_path / "manifest.json"
    shutil.copy(dbt_project(second).target / "manifest.json", manifest)
    assert len(names_with_task(render(second, manifest_path=manifest))) == 6
    assert commands == []
    content = json.loads(manifest.read_text())
    del content["nodes"]["model.second.apart"]
    content["nodes"] = {
        key: node
        for key, node in content["nodes"].items()
        if "model.second.apart" not in node["depends_on"]["nodes"]
    }
    manifest.write_text(json.dumps(content))
    assert "model apart" not in names_with_task(render(second, manifest_path=manifest))


@pytest.mark.parametrize("kind", ["other model-paths", "seeds only", "snapshots only", "outside"])
def test_a_project_needs_no_folder_of_models(small, tmp_path, kind):
    settings = "{name: small, version: 1.0.0, profile: any"
    files = {
        "other model-paths": {
            "dbt_project.yml": settings + ", model-paths: [transform, 'more models']}",
            "transform/a.sql": "select 1 as id",
            "more models/b.sql": "select 1 as id",
        },
        "seeds only": {"seeds/a.csv": "id\n1\n"},
        "snapshots only": {
            "snapshots/s.yml": """
                sources: [{name: raw, tables: [{name: events}]}]
                snapshots:
                  - name: kept
                    relation: source('raw', 'events')
                    config: {strategy: check, unique_key: id, check_cols: all}
            """
        },
        "outside": {
            "dbt_project.yml": settings + ", model-paths: [models, ../shared/models]}",
            "../shared/models/shared.sql": "select 1 as id",
        },
    }
    path = small(files[kind])
    assert (
        names_with_task(render(path))
        == {
            "other model-paths": {"model a", "model b"},
            "seeds only": {"seed a"},
            "snapshots only": {"snapshot kept"},
            "outside": {"model shared"},
        }[kind]
    )


@pytest.mark.parametrize("folder", ["../shared", "models/../../shared", "{path}/shared"])
def test_dbt_writes_nothing_into_a_folder_outside_of_the_project(small, tmp_path, folder):
    model, test = "select {{ 1 }} as id", "models: [{name: shared, columns: [{name: id, %s}]}]"
    path = small(
        {
            "dbt_project.yml": f"""
                name: small
                version: 1.0.0
                profile: any
                model-paths: [{folder.format(path=tmp_path)}]
            """,
            "../shared/shared.sql": model,
            "../shared/shared.yml": test % "data_tests: [not_null]",
        },
        own="select 1 as id",
    )
    assert "model shared" in names_with_task(render(path))
    # It writes compiled SQL, as `dbt build` does, and needs no connection.
    run_dbt(dbt_project(path), "compile", "--no-populate-cache")
    shared = tmp_path / "shared"
    assert {file.name for file in shared.rglob("*")} == {"shared.sql", "shared.yml"}
    assert (shared / "shared.sql").read_text() == model


def test_the_path_of_a_project_can_lead_through_other_folders_and_links(small, tmp_path):
    settings = "{name: small, version: 1.0.0, profile: any, model-paths: [models, ../shared]}"
    files = {"dbt_project.yml": settings, "../shared/shared.sql": "select 1 as id"}
    path = small(files, own="select 1 as id")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(path)
    for other in (path / "models" / "..", tmp_path / "elsewhere" / "link"):
        assert names_with_task(render(other)) == {"model own", "model shared"}
        assert names_with_task(render(other, select=["path:models"])) == {"model own"}


def test_the_target_folder_of_a_project_can_have_another_name(small):
    settings = "{name: small, version: 1.0.0, profile: any, target-path: build, log-path: l}"
    path = small({"dbt_project.yml": settings}, a="select 1 as id")
    assert names_with_task(render(path)) == {"model a"}
    manifest = dbt_project(path).target / "manifest.json"
    before = manifest.stat()
    # Files that a developer's own dbt writes there are no change of the project.
    write(path, {"build/manifest.json": "{}", "build/new/x.sql": "select 1"})
    render(path)
    assert manifest.stat() == before
    assert not (path / "target").exists()


def test_the_path_of_a_project_can_have_difficult_names(tmp_path, cache):
    path = tmp_path / "für uns, [2. Stock]" / "a b=c"
    write(path, {"dbt_project.yml": "{name: small, version: 1.0.0, profile: any}"})
    write(path, {"models/a.sql": "select 1 as id"})
    assert names_with_task(render(path)) == {"model a"}
    prepare(dbt_project(path))
    assert nodes_with_task(render(path, select=["path:models"])) == {"model.small.a"}
