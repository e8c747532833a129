"""The working directory of a dbt project: linked files, installed packages, dbt's parse.

It is created when a DAG file is parsed, and again when a file of the project, an environment
variable that the project reads, this package, or the version of dbt has changed. If several
processes need it at the same time, one process creates it and the others wait.
"""

import fcntl
import json
import os
import shutil
import sysconfig
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import yaml

from include.dbt_build.jinja import depends_on_connection, depends_on_run, environment_variables_of
from include.dbt_build.packages import has_shipped_packages, install_packages
from include.dbt_build.parsing import run_dbt
from include.dbt_build.project import (
    LOCK_FILE,
    PACKAGE_FILES,
    DbtProject,
    digest,
    fingerprint,
    packages_folder,
    read_yaml,
)
from include.dbt_build.task_names import short_hash

# dbt and Python write these into a project. Their changes are not changes of the project.
GENERATED = {"target", "logs", "__pycache__", ".user.yml"}
# After this time no process reads the slim manifest of an earlier parse.
SLIM_MANIFEST_SECONDS = 24 * 60 * 60


def prepare(project: DbtProject) -> None:
    """Make the working directory of a project, unless it is up to date.

    Raises:
        DbtError: dbt cannot parse the project or install its packages.
    """
    if is_up_to_date(project):
        return
    project.workdir.mkdir(parents=True, exist_ok=True)
    with (project.cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_up_to_date(project):
            _make(project)


def is_up_to_date(project: DbtProject) -> bool:
    """Return whether nothing has changed since the working directory was made."""
    if not project.inputs_file.exists():
        return False
    inputs = json.loads(project.inputs_file.read_text())
    if fingerprint(inputs["environment"], project.parse_environment) != inputs["environment"]:
        return False
    if inputs["links"] != _links(project):
        return False
    times = _times(project)
    # The digest also shows that a deploy has replaced a file by an older one.
    return _times_digest(times) == inputs["times"] and max(times.values()) <= inputs["made_at"]


def is_parse_valid(project: DbtProject, environment: Mapping[str, str]) -> bool:
    """Return whether dbt would parse the project to the same nodes in this environment."""
    try:
        inputs = json.loads(project.inputs_file.read_text())
    except FileNotFoundError:
        # Another process makes the working directory again, because a file has changed.
        return False
    recorded = inputs["environment"]
    depends = inputs["depends_on_connection"] or inputs["depends_on_run"]
    return not depends and fingerprint(recorded, environment) == recorded


def is_parsed_in_each_run(project: DbtProject) -> bool:
    """Return whether each run has to parse the project.

    dbt's partial parsing does not notice that a parse depends on the run.
    """
    try:
        return json.loads(project.inputs_file.read_text())["depends_on_run"]
    except FileNotFoundError:
        return True


def _times(project: DbtProject) -> dict[str, float]:
    """Return the modification time of each file that the working directory is made from.

    The names of the installed versions of dbt are among the files. Their times do not matter,
    because they differ in two images with the same versions.
    """
    versions = Path(sysconfig.get_path("purelib")).glob("dbt_*.dist-info")
    return {
        **{folder.name: 0 for folder in versions},
        **{str(file): file.stat().st_mtime for file in _files(project)},
    }


def _times_digest(times: Mapping[str, float]) -> str:
    """Return a hash of the names and times of files, which a deleted file changes too."""
    # The layers of an image keep whole seconds only.
    seconds = {file: int(changed_at) for file, changed_at in times.items()}
    return digest(seconds)


def _files(project: DbtProject) -> Iterator[Path]:
    yield from Path(__file__).parent.glob("*.py")
    for file in (project.profile.profiles_yml_filepath, project.manifest):
        if file:
            yield Path(file)
    packages = project.workdir / packages_folder(project.workdir)
    local = [path.resolve() for path in packages.glob("*") if path.is_symlink()]
    yield from _own_files(project)
    yield from _walk(project, local)


def _own_files(project: DbtProject) -> Iterator[Path]:
    """Yield the files of a project, without those of its local packages."""
    # os.walk follows no link except the one where it begins.
    links = [path for path in map(Path, _links(project).values()) if path.is_symlink()]
    yield from _walk(project, [project.path, *links, *_outside_folders(project.path).values()])


def _walk(project: DbtProject, roots: Iterable[Path]) -> Iterator[Path]:
    generated = _generated_names(project)
    for root in roots:
        for folder, subfolders, files in os.walk(root):
            # A folder of models can have the name of a folder that dbt generates in a project.
            ignored = generated if "dbt_project.yml" in files else {"__pycache__", ".user.yml"}
            subfolders[:] = [name for name in subfolders if name not in ignored]
            for name in {*files} - ignored:
                if (path := Path(folder, name)).exists():
                    yield path


def _make(project: DbtProject) -> None:
    # An edit that is made while dbt parses has to be newer than the working directory.
    started_at = time.time()
    # The inputs of dbt's last parse stay until a new parse succeeds.
    previous = project.inputs_file.with_suffix(".previous")
    if project.inputs_file.exists():
        project.inputs_file.replace(previous)
    environment = json.loads(previous.read_text())["environment"] if previous.exists() else {}
    if fingerprint(environment, project.parse_environment) != environment:
        # dbt's partial parsing does not notice a variable that the settings of a package read.
        (project.target / "partial_parse.msgpack").unlink(missing_ok=True)
    links = _links(project)
    for entry in project.workdir.iterdir():
        if entry.is_symlink():
            entry.unlink()
    for name, source in links.items():
        # Packages that were installed here can be part of the project now, as after `dbt deps`.
        shutil.rmtree(project.workdir / name, ignore_errors=True)
        (project.workdir / name).symlink_to(source)
    _write_project_file(project)
    install_packages(project)
    # Read before the parse, so that the next check notices a file that is deleted during the parse.
    times = _times_digest(_times(project))
    if project.manifest is None:
        run_dbt(project, "parse")
    else:
        project.target.mkdir(exist_ok=True)
    for old in project.target.glob("slim-*.json"):
        # Another process may be about to read a newer slim manifest.
        if old.stat().st_mtime < started_at - SLIM_MANIFEST_SECONDS:
            old.unlink()
    inputs = {
        "made_at": started_at,
        "links": links,
        "environment": fingerprint(environment_variables_of(project), project.parse_environment),
        "depends_on_connection": depends_on_connection(project, _own_files(project)),
        "depends_on_run": depends_on_run(_own_files(project)),
        "times": times,
    }
    partial = project.inputs_file.with_suffix(".partial")
    partial.write_text(json.dumps(inputs))
    partial.replace(project.inputs_file)


def _links(project: DbtProject) -> dict[str, str]:
    """Return the files and folders that are linked into the working directory, by name."""
    written = {"dbt_project.yml", *PACKAGE_FILES, LOCK_FILE}
    names = {*os.listdir(project.path)} - _generated_names(project) - written
    outside = _outside_folders(project.path).items()
    return {
        **{name: str(project.path / name) for name in sorted(names)},
        **{_link_name(path): str(folder) for path, folder in outside},
    }


def _generated_names(project: DbtProject) -> set[str]:
    """Return the names of files and folders that dbt and Python write into a project."""
    names = GENERATED | {_target_folder(project.path)}
    folder = packages_folder(project.path)
    if not has_shipped_packages(project) and len(folder.parts) == 1:
        names.add(folder.name)
    return names


def _project_yml(path: Path) -> dict:
    file = path / "dbt_project.yml"
    return {**_unchanged_yaml(file, file.stat().st_mtime_ns, file.stat().st_size)}


@lru_cache
def _unchanged_yaml(file: Path, *_) -> dict:
    """Return the content of a file that is read several times, until its time or size changes."""
    return read_yaml(file)


def _target_folder(path: Path) -> str:
    return Path(str(_project_yml(path).get("target-path", "target"))).parts[0]


def _outside_folders(path: Path) -> dict[str, Path]:
    """Return the folders outside of a project, and absolute ones, by their path in its settings."""
    paths = [
        str(value)
        for key, values in _project_yml(path).items()
        if key.endswith("-paths") and isinstance(values, list)
        for value in values
    ]
    return {
        value: (path / value).resolve()
        for value in paths
        if (os.path.isabs(value) or os.path.normpath(value).startswith(".."))
        and (path / value).is_dir()
    }


def _link_name(outside_path: str) -> str:
    # Two paths can end with the same name, and the project can have a folder of that name.
    return f"{Path(outside_path).name}_{short_hash(outside_path)}"


def _write_project_file(project: DbtProject) -> None:
    """Copy dbt_project.yml, with the name of a link for each folder outside of the project.

    dbt appends a model's path to the folder for compiled SQL, so with an absolute path it would
    write compiled SQL over the model. If dbt would install packages inside of a folder of the
    project, they get another folder.
    """
    text = (project.path / "dbt_project.yml").read_text()
    outside, content = _outside_folders(project.path), _project_yml(project.path)
    is_nested = len(packages_folder(project.path).parts) > 1
    if is_nested and not has_shipped_packages(project):
        content["packages-install-path"] = "dbt_build_packages"
    for key, values in content.items():
        if key.endswith("-paths") and isinstance(values, list):
            content[key] = [_link_name(v) if v in outside else v for v in map(str, values)]
    if content != _project_yml(project.path):
        text = yaml.safe_dump(content, sort_keys=False)
    (project.workdir / "dbt_project.yml").write_text(text)
