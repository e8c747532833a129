"""The packages of a dbt project: what `dbt deps` installs, and links to local packages."""

import json
import os
import shutil
from pathlib import Path

import yaml

from include.dbt_build.jinja import variables_in
from include.dbt_build.parsing import run_dbt
from include.dbt_build.project import (
    LOCK_FILE,
    PACKAGE_FILES,
    DbtProject,
    fingerprint,
    packages_folder,
    read_yaml,
)


def install_packages(project: DbtProject) -> None:
    """Install the packages that the project names, unless they are installed already."""
    texts = {
        name: _packages_for_workdir(project, file)
        for name in (*PACKAGE_FILES, LOCK_FILE)
        if (file := project.path / name).is_file()
    }
    variables = sorted(variables_in("".join(texts.values()), secrets=False))
    folder = packages_folder(project.workdir)
    environment = fingerprint(variables, project.parse_environment)
    wanted = {"files": texts, "folder": str(folder), "environment": environment}
    installed = project.cache / "packages.json"
    is_needed = project.installs_packages and not has_shipped_packages(project)
    if is_needed and installed.exists() and json.loads(installed.read_text()) == wanted:
        # The lock file of the working directory, which dbt reads too, belongs to these packages.
        return
    # If `dbt deps` fails, the next parse calls it again.
    installed.unlink(missing_ok=True)
    for name in (*PACKAGE_FILES, LOCK_FILE):
        (project.workdir / name).unlink(missing_ok=True)
    for name, text in texts.items():
        (project.workdir / name).write_text(text)
    if not is_needed:
        return
    shutil.rmtree(project.workdir / folder, ignore_errors=True)
    if any(name in texts for name in PACKAGE_FILES):
        run_dbt(project, "deps")
    installed.write_text(json.dumps(wanted))


def _packages_for_workdir(project: DbtProject, file: Path) -> str:
    """Return the text of a packages.yml whose local paths are valid in the working directory.

    dbt resolves the local packages of a local package against the root project, so their relative
    paths must stay. A link is made where such a path leads to from the working directory. If the
    link cannot be made, the path is made absolute.
    """
    content = read_yaml(file)
    local = [package for package in content.get("packages") or [] if "local" in package]
    for package in local:
        folder = (project.path / package["local"]).resolve()
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{file} names the local package {package['local']}, but there is no folder "
                f"{folder}: copy the package to this folder, or correct the path."
            )
        if not _link(project, str(package["local"]), folder):
            package["local"] = str(folder)
        _link_packages_of(project, folder, seen=set())
    return yaml.safe_dump(content) if local else file.read_text()


def _link_packages_of(project: DbtProject, package: Path, seen: set[Path]) -> None:
    seen.add(package)
    for name in PACKAGE_FILES:
        file = package / name
        for nested in (read_yaml(file) if file.is_file() else {}).get("packages") or []:
            path = str(nested.get("local", ""))
            source = (project.path / path).resolve()
            if source.is_dir() and source not in seen and _link(project, path, source):
                _link_packages_of(project, source, seen)


def _link(project: DbtProject, path: str, source: Path) -> bool:
    """Link a relative path of the working directory to a folder; return whether it leads there."""
    link = Path(os.path.normpath(project.workdir / path))
    if not path.startswith(".") or not link.is_relative_to(project.cache):
        return False
    if link.is_symlink() and link.resolve() != source:
        # An earlier parse found the project in another folder.
        link.unlink()
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source)
    return link.resolve() == source


def has_shipped_packages(project: DbtProject) -> bool:
    """Return whether the packages are part of the project, so that dbt needs no network.

    dbt installs a local package as a link, which leads nowhere on another machine.
    """
    folder = project.path / packages_folder(project.path)
    paths = [*folder.iterdir()] if folder.is_dir() else []
    # dbt ignores files and the other folders.
    packages = [path for path in paths if not (path.is_file() or path.name.startswith("__"))]
    return bool(packages) and all((path / "dbt_project.yml").is_file() for path in packages)
