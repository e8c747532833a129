"""A dbt project as a file that Cosmos renders: found, parsed when it has changed, reduced."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from functools import cache
from pathlib import Path

from cosmos import settings

# A dbt in an environment of its own, for a dbt that conflicts with Airflow.
DBT_EXECUTABLE = os.environ.get("DBT_EXECUTABLE")

# What dbt or an editor writes into a project; it says nothing about the age of what was parsed.
GENERATED = {"target", "logs", "dbt_packages", "__pycache__", ".user.yml"}
PACKAGES = ("packages.yml", "dependencies.yml")
BUILT = ("model", "seed", "snapshot")
# What Cosmos reads of a node. Without the rest the file is a tenth of dbt's.
READ = (
    "resource_type",
    "package_name",
    "original_file_path",
    "depends_on",
    "tags",
    "config",
    "fqn",
)


def project_path(name: str) -> Path:
    """Return the folder of a dbt project.

    The folder differs between a clone, a container, `astro dev start --standalone` and a
    deployment whose dags/ come from a DAG bundle: only the last has no dbt/ beside include/.

    Raises:
        FileNotFoundError: no candidate holds a dbt_project.yml.
    """
    candidates = [root / name for root in _roots()]
    for candidate in candidates:
        if (candidate / "dbt_project.yml").is_file():
            return candidate
    raise FileNotFoundError(
        f"No dbt project '{name}' in {', '.join(map(str, candidates))}: "
        "set DBT_PROJECTS_DIR to the folder that holds it."
    )


def project_names() -> list[str]:
    """Return the folder names of all dbt projects."""
    return sorted(
        {file.parent.name for root in _roots() for file in root.glob("*/dbt_project.yml")}
    )


def _roots() -> list[Path]:
    roots = (
        os.environ.get("DBT_PROJECTS_DIR"),
        Path(__file__).resolve().parents[2] / "dbt",
        "/usr/local/airflow/dbt",
    )
    return [Path(root) for root in roots if root]


def cache_path(name: str) -> Path:
    """Return the folder of what is made from a project; in target/ is what dbt knows of it."""
    return settings.cache_dir / "dbt_projects" / name


def manifest(name: str, target: str) -> Path:
    """Return the reduced manifest of a project, made anew if a file of it is younger.

    Of several processes that find it old at once, one parses and the others wait for it.

    Raises:
        RuntimeError: dbt can't parse the project; it says what dbt said.
    """
    project, folder = project_path(name), cache_path(name)
    made = folder / "manifest.json"
    if not _is_older(made, project):
        return made
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_older(made, project):
            _parse(project, target, made)
    return made


def _is_older(made: Path, project: Path) -> bool:
    if not made.exists():
        return True
    age = made.stat().st_mtime
    # The code that makes it, and what the project is written in. A folder's own time tells of files
    # that were deleted or renamed; the root is left out, as dbt makes target/ and logs/ there.
    if Path(__file__).stat().st_mtime > age:
        return True
    for folder, subfolders, files in os.walk(project):
        subfolders[:] = [name for name in subfolders if name not in GENERATED]
        written = {*files, *subfolders} - GENERATED
        if any(Path(folder, name).stat().st_mtime > age for name in written):
            return True
    return False


def needs_packages(project: Path) -> bool:
    """Return whether a project names dbt packages that are not installed in it."""
    named = any((project / name).is_file() for name in PACKAGES)
    return named and not (project / "dbt_packages").is_dir()


def _parse(project: Path, target: str, made: Path) -> None:
    where = ["--profiles-dir", str(project), "--profile", project.name, "--target", target]
    # dbt makes the folder of its log even where it writes none; the project may be read-only.
    where += ["--log-path", str(made.parent / "logs")]
    if needs_packages(project):
        _dbt(["deps", *where], project)
    # An edit while dbt parses must count as younger.
    begun = time.time()
    _dbt(["parse", *where, "--target-path", str(made.parent / "target")], project)
    known = json.loads((made.parent / "target" / "manifest.json").read_text())
    partial = made.with_suffix(".partial")
    partial.write_text(json.dumps(reduce(known)))
    os.utime(partial, (begun, begun))
    partial.replace(made)


def _dbt(words: list[str], project: Path) -> None:
    near = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    dbt = DBT_EXECUTABLE or shutil.which("dbt", path=near) or "dbt"
    done = subprocess.run(
        [dbt, "--quiet", "--no-use-colors", "--log-level-file", "none", *words],
        cwd=project,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip() or f"it ended with code {done.returncode}"
        raise RuntimeError(f"dbt {words[0]} failed in {project}:\n{said}")


def reduce(known: dict) -> dict:
    """Return what Cosmos reads of a manifest, and under `tasks` what the task of each node runs.

    A test that reads several nodes is shown at one, the furthest downstream: Cosmos would run it at
    each of them, before the others are there.

    `tasks` has, by unique id, `run`: {a model's, seed's or snapshot's own node and unit tests:
    selector}, and `test`: {its tests: selector}. A test on sources alone is under its first source,
    one that reads nothing under itself. `reads` has all that the tests under an id read.
    """
    tests = {k: n for k, n in known["nodes"].items() if n["resource_type"] == "test"}
    built = {k: n for k, n in known["nodes"].items() if n["resource_type"] in BUILT}

    @cache
    def depth(unique_id: str) -> int:
        parents = built[unique_id]["depends_on"].get("nodes", [])
        return 1 + max((depth(parent) for parent in parents if parent in built), default=0)

    tasks = {"run": {unique_id: {} for unique_id in built}, "test": defaultdict(dict)}
    reads = defaultdict(set)
    # In dbt's order: a model after its unit tests.
    for unique_id, node in known.get("unit_tests", {}).items():
        tasks["run"][node["depends_on"]["nodes"][0]][unique_id] = _selector(node)
    for unique_id, node in built.items():
        # dbt runs no ephemeral model: it is a part of those that read it.
        if node["config"].get("materialized") != "ephemeral":
            tasks["run"][unique_id][unique_id] = _selector(node)
    owners = {}
    for unique_id, node in tests.items():
        parents = node["depends_on"].get("nodes", [])
        # By name where two are as deep, so that every parse gives the same DAG.
        deepest = max((p for p in parents if p in built), key=lambda p: (depth(p), p), default=None)
        owner = deepest or min(parents, default=unique_id)
        owners[unique_id] = [owner] if parents else []
        tasks["test"][owner][unique_id] = _selector(node)
        reads[owner] |= set(parents)

    resources = {**built, **tests, **known["sources"]}
    small = {k: {key: n[key] for key in READ if key in n} for k, n in resources.items()}
    for unique_id, owner in owners.items():
        small[unique_id]["depends_on"] = {"nodes": owner}
    return {
        "metadata": known["metadata"],
        "nodes": small,
        "selectors": known.get("selectors", {}),
        "tasks": {**tasks, "reads": {owner: sorted(parents) for owner, parents in reads.items()}},
    }


def _selector(node: dict) -> str:
    # The three together name one node. A name alone is also that of a folder or of a package.
    file = Path(node["original_file_path"]).name
    return f"fqn:{'.'.join(node['fqn'])},resource_type:{node['resource_type']},file:{file}"
