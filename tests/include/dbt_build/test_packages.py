"""When dbt installs the packages of a project, and how it finds local packages."""

import shutil
from subprocess import run

import pytest

from include.dbt_build.parsing import DbtError, run_dbt
from include.dbt_build.workdir import prepare
from tests.include.dbt_build.conftest import dbt_project, names_with_task, render, write

# Each test parses a project several times.
pytestmark = pytest.mark.slow

AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.com")
PACKAGE = {
    "dbt_project.yml": "{name: package, version: 1.0.0}",
    "models/packed.sql": "select 1 as id",
}


def test_packages_are_installed_once_and_not_into_the_project(second, tmp_path, commands):
    package = write(tmp_path / "package", PACKAGE)
    write(second, {"packages.yml": "packages: [{local: ../../package}]"})
    assert "model packed" in names_with_task(render(second))
    assert commands == ["deps", "parse"]
    assert not (second / "dbt_packages").exists()

    # A change in a local package needs another parse, and no other installation.
    write(package, {"models/more.sql": "select 1 as id"})
    assert {"model packed", "model more"} < names_with_task(render(second))
    assert commands == ["deps", "parse", "parse"]

    (second / "packages.yml").unlink()
    assert not {"model packed", "model more"} & names_with_task(render(second))


def test_the_packages_of_packages_are_found_again_after_an_edit(second, tmp_path, commands):
    inner = write(tmp_path / "inner", {**PACKAGE, "dbt_project.yml": "{name: inner}"})
    write(tmp_path / "outer", {"dbt_project.yml": "{name: outer}"})
    write(tmp_path / "outer", {"packages.yml": f"packages: [{{local: {inner}}}]"})
    write(second, {"packages.yml": f"packages: [{{local: {tmp_path}/outer}}]"})
    for sql in ("select 1 as id", "select 2 as id"):
        write(second, {"models/base.sql": sql})
        assert "model packed" in names_with_task(render(second))
    assert commands == ["deps", "parse", "parse"]


def test_a_local_package_that_dbt_has_installed_elsewhere_is_installed_again(second, tmp_path):
    package = write(tmp_path / "package", PACKAGE)
    write(second, {"packages.yml": f"packages: [{{local: {package}}}]"})
    # `dbt deps` makes a link, which leads nowhere in a container that mounts the project.
    (second / "dbt_packages").mkdir()
    (second / "dbt_packages" / "package").symlink_to("/nowhere")
    (second / "dbt_packages" / ".gitkeep").touch()
    assert "model packed" in names_with_task(render(second))


def test_packages_are_installed_again_after_an_installation_that_failed(second, tmp_path):
    valid = write(tmp_path / "valid", PACKAGE)
    broken = write(tmp_path / "broken", {"models/m.sql": "select 1 as id"})
    for package in (valid, broken, valid):
        write(second, {"packages.yml": f"packages: [{{local: {package}}}]"})
        if package == broken:
            with pytest.raises(DbtError, match="dbt deps failed"):
                render(second)
        else:
            assert "model packed" in names_with_task(render(second))


def test_a_variable_decides_which_package_is_installed(second, tmp_path, monkeypatch):
    for name in ("one", "two"):
        package = write(tmp_path / name, {**PACKAGE, f"models/packed_{name}.sql": "select 1 as id"})
        for words in (["init", "-q"], ["add", "."], [*AUTHOR, "commit", "-q", "-m", "Add"]):
            run(["git", "-C", package, *words], check=True)
    write(
        second,
        {
            "packages.yml": "packages: [{git: \"{{ env_var('PACKAGE') }}\", revision: HEAD}]",
            "dbt_project.yml": "{name: second, version: 1.0.0, profile: any}",
        },
    )
    for name in ("one", "two"):
        monkeypatch.setenv("PACKAGE", str(tmp_path / name))
        assert f"model packed_{name}" in names_with_task(render(second))


@pytest.mark.parametrize(
    "files",
    [
        pytest.param({"../../parent/dbt_project.yml": "../../parent"}, id="beside"),
        pytest.param({"inside/dbt_project.yml": "inside"}, id="inside"),
        pytest.param({"../dbt_project.yml": "../"}, id="above"),
    ],
)
def test_a_local_package_can_be_anywhere(second, files):
    ((file, path),) = files.items()
    write(
        second,
        {
            file: "{name: package, version: 1.0.0, model-paths: [pkg_models]}",
            f"{path}/pkg_models/packed.sql": "select 1 as id",
            "packages.yml": f"packages: [{{local: {path}}}]",
        },
    )
    assert "model packed" in names_with_task(render(second))


def test_a_local_package_that_is_not_there_is_named(second):
    write(second, {"packages.yml": "packages: [{local: ../gone}]"})
    message = rf"names the local package \.\./gone, but there is no folder {second.parent}/gone"
    with pytest.raises(FileNotFoundError, match=message):
        render(second)


def test_a_local_package_can_have_local_packages(second, tmp_path):
    # dbt resolves their paths against the root project.
    settings = "{{name: {name}, version: 1.0.0}}"
    for name, nested in (("x", "y"), ("y", "z"), ("z", None)):
        write(
            tmp_path / "dbt" / "packages" / name,
            {
                "dbt_project.yml": settings.format(name=name),
                f"models/packed_{name}.sql": "select 1 as id",
                **(
                    {"packages.yml": f"packages: [{{local: ../packages/{nested}}}]"}
                    if nested
                    else {}
                ),
            },
        )
    # The root project uses `y` too, which dbt must recognize as the same package.
    write(second, {"packages.yml": "packages: [{local: ../packages/x}, {local: ../packages/y}]"})
    assert {f"model packed_{name}" for name in "xyz"} < names_with_task(render(second))


@pytest.mark.parametrize("folder", ["dbt_packages", "vendored/deep"])
def test_packages_that_ship_with_the_project_need_no_installation(second, commands, folder):
    # No such package exists, so an installation would fail.
    write(
        second,
        {
            "packages.yml": "packages: [{package: nobody/nothing, version: 1.0.0}]",
            "dbt_project.yml": "{name: second, version: 1.0.0, profile: any, "
            f"packages-install-path: {folder}}}",
            **{f"{folder}/package/{name}": text for name, text in PACKAGE.items()},
        },
    )
    assert "model packed" in names_with_task(render(second))
    assert commands == ["parse"]
    write(
        second, {f"{folder}/package/models/packed.sql": "{{ config(tags='new') }} select 1 as id"}
    )
    assert names_with_task(render(second, select=["tag:new"])) == {"model packed"}


@pytest.mark.parametrize("is_shipped", [True, False])
def test_a_run_with_a_manifest_made_elsewhere_has_its_packages(second, tmp_path, is_shipped):
    write(tmp_path / "package", PACKAGE)
    write(second, {"packages.yml": "packages: [{local: ../../package}]"})
    if is_shipped:
        shutil.copytree(tmp_path / "package", second / "dbt_packages" / "package")
    prepare(dbt_project(second))
    manifest = tmp_path / "manifest.json"
    shutil.copy(dbt_project(second).target / "manifest.json", manifest)
    assert "model packed" in names_with_task(render(second, manifest_path=manifest))
    # dbt parses the working directory in each run.
    run_dbt(dbt_project(second, manifest=manifest), "parse")


def test_packages_can_be_installed_inside_of_a_folder_of_the_project(second, commands, tmp_path):
    write(tmp_path / "package", PACKAGE)
    write(
        second,
        {
            "packages.yml": "packages: [{local: ../../package}]",
            "dbt_project.yml": "{name: second, version: 1.0.0, profile: any, "
            "packages-install-path: vendor/packages, macro-paths: [vendor/macros]}",
            "vendor/macros/m.sql": "{% macro m() %}select 1 as id{% endmacro %}",
            "models/uses.sql": "{{ m() }}",
        },
    )
    assert {"model packed", "model uses"} < names_with_task(render(second))
    assert commands == ["deps", "parse"]
    (second / "vendor" / "macros" / "m.sql").touch()
    render(second)
    assert commands == ["deps", "parse", "parse"]


def test_packages_that_become_part_of_the_project_replace_the_installed_ones(second, tmp_path):
    package = write(tmp_path / "package", PACKAGE)
    write(second, {"packages.yml": "packages: [{local: ../../package}]"})
    assert "model packed" in names_with_task(render(second))
    # `dbt deps` in the folder of the project makes such a copy too.
    shutil.copytree(package, second / "dbt_packages" / "package")
    write(second, {"dbt_packages/package/models/more.sql": "select 1 as id"})
    assert {"model packed", "model more"} < names_with_task(render(second))


def test_packages_are_not_installed_if_the_dag_file_forbids_it(second, commands):
    write(second, {"packages.yml": "packages: [{package: nobody/nothing, version: 1.0.0}]"})
    with pytest.raises(DbtError, match="dbt deps"):
        render(second, install_dbt_deps=False)
    assert "deps" not in commands
