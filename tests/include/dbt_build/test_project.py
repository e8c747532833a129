"""Where dbt projects are found, when they are parsed, and what the reduced manifest says."""

import os
import re
import shutil
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from traceback import format_exception

import pytest
from dbt.cli.main import dbtRunner

from include.dbt_build import project
from include.dbt_build.project import manifest_path
from tests.conftest import ROOT
from tests.include.dbt_build.conftest import prepare, render, write

pytestmark = pytest.mark.engine

TASKS = {
    "dbt_build",
    "dbt_build_ended",
    "apart_run",
    "base.run",
    "base.test",
    "all_of_it.run",
    "all_of_it.test",
}


def test_the_named_folder_comes_before_the_one_beside_include(tmp_path, monkeypatch):
    name = min(file.parent.name for file in (ROOT / "dbt").glob("*/dbt_project.yml"))
    beside = ROOT / "dbt" / name
    monkeypatch.delenv("DBT_PROJECTS_DIR")
    assert project.project_path(name) == beside
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(tmp_path))
    assert project.project_path(name) == beside
    write(tmp_path, {f"{name}/dbt_project.yml": ""})
    assert project.project_path(name) == tmp_path / name


def test_a_project_that_is_nowhere_gets_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(tmp_path))
    message = f"No dbt project 'lost' in {tmp_path}/lost, {ROOT}/dbt/lost, "
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}.*set DBT_PROJECTS_DIR"):
        project.project_path("lost")


def unpack(project: Path) -> None:
    """Replace it as `astro dbt deploy` does, by other files with old times and a target/."""
    files = {str(f.relative_to(project)): f.read_text() for f in project.rglob("*") if f.is_file()}
    shutil.rmtree(project)
    write(project, files | {"models/base.sql": "select 2 as id", "target/manifest.json": "{}"})
    for file in project.rglob("*.*"):
        os.utime(file, (0, 0))


@pytest.mark.parametrize(
    ("change", "parsed_anew"),
    [
        pytest.param(lambda p: None, False, id="nothing"),
        pytest.param(
            lambda p: write(p, {"target/run_results.json": "", "logs/dbt.log": ""}),
            False,
            id="runs",
        ),
        pytest.param(lambda p: (p / "models/base.sql").touch(), True, id="edit"),
        pytest.param(lambda p: (p / "dbt_project.yml").touch(), True, id="settings"),
        pytest.param(lambda p: (p / "models/extra.sql").unlink(), True, id="delete"),
        pytest.param(
            lambda p: (p / "models/extra.sql").rename(p / "models/new.sql"), True, id="rename"
        ),
        pytest.param(lambda p: write(p, {"models/deep/new.sql": "select 1 as id"}), True, id="add"),
        pytest.param(unpack, True, id="deploy"),
    ],
)
def test_a_project_is_parsed_when_it_has_changed(second, change, parsed_anew):
    write(second, {"models/extra.sql": "select 1 as id"})
    made = manifest_path(prepare())
    before = made.stat()
    change(second)
    assert manifest_path(prepare()) == made
    assert (made.stat().st_ino != before.st_ino) == parsed_anew
    # Once.
    after = made.stat().st_ino
    prepare()
    assert made.stat().st_ino == after


def test_a_project_that_has_moved_is_found_where_it_is(second, monkeypatch):
    place = prepare()
    moved = second.parent.rename(second.parents[1] / "elsewhere")
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(moved))
    assert prepare() == place
    assert (place / "models").readlink() == moved / "second" / "models"
    assert (place / "dbt_project.yml").is_file()


def test_parsing_writes_nothing_into_the_project(second):
    # In containers it is mounted read-only.
    write(second, {".user.yml": "id: 6d2a6d5c-7a5c-4c0e-a3a6-5f3c0c3b7f0e"})
    before = {path: path.stat().st_mtime_ns for path in [second, *second.rglob("*")]}
    prepare()
    assert {path: path.stat().st_mtime_ns for path in [second, *second.rglob("*")]} == before


@pytest.mark.slow
def test_of_several_processes_one_parses(second, tmp_path, monkeypatch):
    counted = tmp_path / "calls"
    dbt = tmp_path / "dbt.sh"
    dbt.write_text(f'#!/bin/sh\necho x >> {counted}\nexec {Path(sys.executable).parent}/dbt "$@"\n')
    dbt.chmod(dbt.stat().st_mode | stat.S_IXUSR)
    code = "from include.dbt_build import cosmos_args; cosmos_args('second')"
    env = {
        **os.environ,
        "DBT_EXECUTABLE": str(dbt),
        "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos"),
    }
    with ThreadPoolExecutor() as pool:
        calls = [
            pool.submit(run, [sys.executable, "-c", code], cwd=ROOT, env=env) for _ in range(3)
        ]
    assert [call.result().returncode for call in calls] == [0, 0, 0]
    assert counted.read_text().split() == ["x"]


def test_what_dbt_says_of_a_broken_project_is_the_error(second):
    write(second, {"models/base.sql": "select * from {{ ref('nowhere') }}"})
    with pytest.raises(RuntimeError, match=r"dbt parse failed in .*second$") as raised:
        prepare()
    said = str(raised.value.__cause__)
    assert "'model.second.base' (models/base.sql) depends on a node named 'nowhere'" in said
    # Where Airflow shows it, that comes first.
    shown = "".join(format_exception(raised.value))
    assert shown.startswith("include.dbt_build.project.DbtError: Compilation Error")


PACKAGE = {
    "dbt_project.yml": "{name: package, version: 1.0.0}",
    "models/packed.sql": "select 1 as id",
}


def test_packages_are_installed_once_and_not_into_the_project(second, tmp_path, monkeypatch):
    package = write(tmp_path / "package", PACKAGE)
    write(second, {"packages.yml": "packages: [{local: ../../package}]"})
    called = []
    dbt = project._dbt
    monkeypatch.setattr(project, "_dbt", lambda *a: (called.append(a[0]), dbt(*a)))
    assert set(render("second").task_ids) == {*TASKS, "packed_run"}
    assert called == ["deps", "parse"]
    assert not (second / "dbt_packages").exists()

    # What changes in a local package is seen, and needs no installation.
    write(package, {"models/more.sql": "select 1 as id"})
    assert set(render("second").task_ids) == {*TASKS, "packed_run", "more_run"}
    assert called == ["deps", "parse", "parse"]

    (second / "packages.yml").unlink()
    assert set(render("second").task_ids) == TASKS


def test_what_is_told_differently_is_prepared_apart(second):
    write(
        second, {"models/base.sql": "{{ config(schema=target.name ~ var('told', '')) }} select 1"}
    )

    def prepared(**args) -> tuple[Path, str]:
        place = prepare(**args)
        known = project.json.loads((place / "target" / "manifest.json").read_text())
        return place, known["nodes"]["model.second.base"]["schema"]

    ways = [{}, {"target": "staging"}, {"schema": "other"}, {"vars": {"told": "x"}}]
    places, schemas = zip(*(prepared(**way) for way in ways), strict=True)
    assert len({*places}) == len(ways)
    assert schemas == ("second_prod", "staging_second_staging", "other_prod", "second_prodx")
    # A connection says nothing about the project.
    assert prepared(conn_id="another")[0] == places[0]


def test_a_test_of_two_models_is_shown_at_the_last_and_waits_for_both(second):
    dag = render("second")
    assert set(dag.task_ids) == TASKS
    names = {
        t: sorted(n.split(".")[2].split("_")[0] for n in dag.get_task(t).nodes)
        for t in ("base.test", "all_of_it.test")
    }
    assert names == {"base.test": ["unique"], "all_of_it.test": ["relationships"] * 2}
    waits = dag.get_task("all_of_it.test").upstream_task_ids
    assert waits == {"dbt_build", "all_of_it.run", "base.run", "apart_run"}


OWNED = {
    "models/owners.yml": """
        groups:
          - {name: finance, owner: {name: Finance, email: finance@example.com}}
        models:
          - {name: by_meta, config: {meta: {owner: me}, group: finance}}
          - name: by_group
            config: {group: finance}
            columns: [{name: id, data_tests: [unique]}]
          - {name: by_exposures}
        exposures:
          - {name: one, type: dashboard, owner: {name: Sales}, depends_on: [ref('by_exposures')]}
          - name: two
            type: dashboard
            owner: {email: ads@example.com}
            depends_on: [ref('by_exposures'), ref('by_meta')]
    """,
    **{f"models/by_{what}.sql": "select 1 as id" for what in ("meta", "group", "exposures")},
    "tests/one_of_a_group.sql": "select * from {{ ref('by_group') }} where id > 1",
}


def test_each_node_has_its_owner(second):
    write(second, OWNED)
    owners = project.json.loads(manifest_path(prepare()).read_text())["owners"]
    known = {unique_id.split(".")[2]: owner for unique_id, owner in owners.items()}
    assert known == {
        "by_meta": "me",
        "by_group": "Finance",
        "unique_by_group_id": "Finance",
        "one_of_a_group": "Finance",
        "by_exposures": "Sales, ads@example.com",
    }


TRAPS = {
    # A model named as its project, as a folder beside it, as a test and as a part of another name.
    "models/second.sql": "select 1 as id",
    "models/base/deep.sql": "select 1 as id",
    "models/base/base_of.sql": "select 1 as id",
    "tests/apart.sql": "select * from {{ ref('apart') }} where id > 1",
    "seeds/grown.csv": "id\n1\n",
    "snapshots/kept.yml": """
        snapshots:
          - name: kept
            relation: ref('base')
            config: {strategy: check, unique_key: id, check_cols: all}
    """,
    "models/more.yml": """
        models:
          - {name: many, latest_version: 2, versions: [{v: 1}, {v: 2}]}
        unit_tests:
          - name: base
            model: all_of_it
            given: [{input: ref('base'), rows: [{id: 1}]}]
            expect: {rows: [{id: 1}]}
    """,
    "models/many_v1.sql": "select 1 as id",
    "models/many_v2.sql": "select 2 as id",
}


PROFILES = """
    any:
      target: prod
      outputs:
        prod: {type: postgres, host: h, port: 1, user: u, password: p, dbname: d, schema: s}
"""


@pytest.mark.slow
def test_a_selector_names_exactly_its_node(second):
    write(second, TRAPS)
    place = prepare()
    tasks = project.json.loads(manifest_path(place).read_text())["tasks"]
    selectors = {
        n: s for kind in ("run", "test") for t in tasks[kind].values() for n, s in t.items()
    }
    assert len(selectors) == 15
    profile = write(second.parent, {"profiles.yml": PROFILES})
    where = ["--quiet", "--project-dir", str(place), "--profiles-dir", str(profile)]
    dbt = dbtRunner(manifest=dbtRunner().invoke(["parse", *where]).result)
    words = ["ls", *where, "--output", "json", "--output-keys", "unique_id"]
    for unique_id, selector in selectors.items():
        found = dbt.invoke([*words, "--indirect-selection", "empty", "--select", selector]).result
        assert [project.json.loads(line)["unique_id"] for line in found] == [unique_id]
