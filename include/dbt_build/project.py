"""A dbt project as Cosmos renders and runs it: found, prepared when it has changed, reduced."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections import defaultdict
from functools import cache
from hashlib import sha256
from pathlib import Path

import yaml
from cosmos import ProfileConfig, settings

# A dbt in an environment of its own, for a dbt that conflicts with Airflow.
DBT_EXECUTABLE = os.environ.get("DBT_EXECUTABLE")

# What dbt or an editor writes into a project; it says nothing about the age of what was parsed.
GENERATED = {"target", "logs", "dbt_packages", "__pycache__", ".user.yml"}
PACKAGES = ("packages.yml", "dependencies.yml", "package-lock.yml")
BUILT = ("model", "seed", "snapshot")
# What Cosmos reads of a node, and the relation that it makes. Without the rest the file is a tenth
# of dbt's.
READ = (
    "resource_type",
    "package_name",
    "original_file_path",
    "depends_on",
    "tags",
    "config",
    "fqn",
    "relation_name",
)


def project_path(name: str) -> Path:
    """Return the folder of a dbt project.

    The folder differs between a clone, a container, `astro dev start --standalone` and a
    deployment whose dags/ come from a DAG bundle: only the last has no dbt/ beside include/.

    Raises:
        FileNotFoundError: no candidate holds a dbt_project.yml.
    """
    roots = (
        os.environ.get("DBT_PROJECTS_DIR"),
        Path(__file__).resolve().parents[2] / "dbt",
        "/usr/local/airflow/dbt",
    )
    candidates = [Path(root, name) for root in roots if root]
    for candidate in candidates:
        if (candidate / "dbt_project.yml").is_file():
            return candidate
    raise FileNotFoundError(
        f"No dbt project '{name}' in {', '.join(map(str, candidates))}: "
        "set DBT_PROJECTS_DIR to the folder that holds it."
    )


def prepared(name: str, profile: ProfileConfig, dbt_vars: dict) -> Path:
    """Return the folder that a project is run from, prepared anew if a file of it is younger.

    It has the project's files, as links, the dbt packages it names, and in target/ what dbt knows
    of it. The project itself, which may be read-only, stays as it is. Two DAGs share it if they
    have the same target, schema and vars. Of several processes that find it old at once, one works
    and the others wait for it.

    Raises:
        RuntimeError: dbt can't parse the project, or install its packages; its cause says why.
    """
    project = project_path(name)
    told = [DBT_EXECUTABLE, profile.profile_mapping.profile_args["schema"], dbt_vars]
    digest = sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
    place = settings.cache_dir / "dbt_projects" / f"{profile.target_name}-{digest}" / name
    if _is_older(place, project):
        place.mkdir(parents=True, exist_ok=True)
        with (place.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_older(place, project):
                _prepare(place, project, profile, dbt_vars)
    return place


def manifest_path(place: Path) -> Path:
    """Return the reduced manifest in a prepared folder."""
    return place / "target" / "cosmos.json"


def _is_older(place: Path, project: Path) -> bool:
    made = manifest_path(place)
    if not made.exists():
        return True
    age = made.stat().st_mtime
    # The code that makes it, and what the project is written in. A folder's own time tells of files
    # that were deleted or renamed; the root is left out, as dbt makes target/ and logs/ there.
    if Path(__file__).stat().st_mtime > age or _gone(place, project):
        return True
    packages = place / "dbt_packages"
    local = [path.resolve() for path in packages.glob("*") if path.is_symlink()]
    for root in (project, *local):
        for folder, subfolders, files in os.walk(root):
            subfolders[:] = [name for name in subfolders if name not in GENERATED]
            written = {*files, *subfolders} - GENERATED
            if any(Path(folder, name).stat().st_mtime > age for name in written):
                return True
    return False


def _prepare(place: Path, project: Path, profile: ProfileConfig, dbt_vars: dict) -> None:
    # An edit while dbt parses must count as younger.
    begun = time.time()
    named = _link(place, project)
    installed = place.parent / f"{place.name}.packages"
    # What it parses is the same whatever the connection: parsing needs no database.
    with profile.ensure_profile(use_mock_values=True) as (profiles_yml, _):
        where = ["--profiles-dir", str(profiles_yml.parent)]
        where += ["--profile", profile.profile_name, "--target", profile.target_name]
        if not (installed.exists() and json.loads(installed.read_text()) == named):
            shutil.rmtree(place / "dbt_packages", ignore_errors=True)
            if "package-lock.yml" not in named:
                (place / "package-lock.yml").unlink(missing_ok=True)
            if named:
                _dbt("deps", where, place, project)
            installed.write_text(json.dumps(named))
        given = ["--vars", json.dumps(dbt_vars)] if dbt_vars else []
        _dbt("parse", [*where, *given, "--target-path", str(place / "target")], place, project)
    known = json.loads((place / "target" / "manifest.json").read_text())
    partial = manifest_path(place).with_suffix(".partial")
    partial.write_text(json.dumps(reduce(known)))
    os.utime(partial, (begun, begun))
    partial.replace(manifest_path(place))


def _link(place: Path, project: Path) -> dict[str, str]:
    """Link what is in a project to where it is run; return the files that name its packages."""
    for entry in _gone(place, project):
        entry.unlink()
    named = {}
    for name in sorted({*os.listdir(project)} - GENERATED):
        if name in PACKAGES:
            named[name] = _with_absolute_paths(project / name)
            (place / name).write_text(named[name])
        elif not (place / name).is_symlink():
            (place / name).symlink_to(project / name)
    return named


def _gone(place: Path, project: Path) -> list[Path]:
    """Return what was linked and is no longer there, as after a move of the project."""
    there = {project / name for name in os.listdir(project)}
    links = [path for path in place.iterdir() if path.is_symlink()]
    # Of these there are copies. A package-lock.yml can be dbt's own.
    copies = [place / name for name in PACKAGES[:2] if (place / name).exists()]
    return [
        *(path for path in links if path.readlink() not in there),
        *(path for path in copies if project / path.name not in there),
    ]


def _with_absolute_paths(packages_yml: Path) -> str:
    """Return a file of packages whose local ones are found from another folder too."""
    text = packages_yml.read_text()
    known = yaml.safe_load(text) or {}
    local = [package for package in known.get("packages") or [] if "local" in package]
    for package in local:
        package["local"] = str((packages_yml.parent / package["local"]).resolve())
    return yaml.safe_dump(known) if local else text


def _dbt(command: str, words: list[str], place: Path, project: Path) -> None:
    words = ["--quiet", "--no-use-colors", "--log-level-file", "none", command, *words]
    words += ["--project-dir", str(place)]
    if DBT_EXECUTABLE:
        done = subprocess.run([DBT_EXECUTABLE, *words], capture_output=True, text=True)
        said = done.stdout + done.stderr if done.returncode else None
    else:
        # Here, as nothing needs it where a project has not changed.
        from dbt.cli.main import dbtRunner

        done = dbtRunner().invoke(words)
        said = None if done.success else str(done.exception)
    if said is not None:
        # Of the two the cause comes first where Airflow shows an import error.
        cause = DbtError(said.rpartition("Encountered an error:")[2].strip())
        raise RuntimeError(f"dbt {command} failed in {project}") from cause


class DbtError(Exception):
    """What dbt said."""


def reduce(known: dict) -> dict:
    """Return what Cosmos reads of a manifest, and under `tasks` what the task of each node runs.

    A test that reads several nodes is shown at one, the furthest downstream: Cosmos would run it at
    each of them, before the others are there.

    `tasks` has, by unique id, `run`: {a model's, seed's or snapshot's own node and unit tests:
    selector}, and `test`: {its tests: selector}. A test on sources alone is under its first source,
    one that reads nothing under itself. `reads` has all that the tests under an id read, and
    `freshness` each source that has thresholds for it, by its id, as {itself: selector}.

    `owners` has, by unique id, who owns a node: its meta.owner, else its group's or exposures'
    owner. A test has that of what it is shown at.
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
        "owners": _owners(known, owners),
        "tasks": {
            **tasks,
            "reads": {owner: sorted(parents) for owner, parents in reads.items()},
            "freshness": {
                unique_id: {unique_id: f"source:{unique_id.removeprefix('source.')}"}
                for unique_id, source in known["sources"].items()
                if _has_thresholds(source.get("freshness") or {})
            },
        },
    }


def _has_thresholds(freshness: dict) -> bool:
    limits = (freshness.get("warn_after"), freshness.get("error_after"))
    return any(limit and limit["count"] is not None for limit in limits)


def _owners(known: dict, shown_at: dict[str, list[str]]) -> dict[str, str]:
    def name(owner: dict) -> str:
        return owner.get("name") or owner["email"]

    groups = {group["name"]: name(group["owner"]) for group in known["groups"].values()}
    exposed = defaultdict(set)
    for exposure in known["exposures"].values():
        for node in exposure["depends_on"]["nodes"]:
            exposed[node].add(name(exposure["owner"]))
    owners = {}
    for unique_id, node in {**known["sources"], **known["nodes"]}.items():
        found = [
            (node["config"].get("meta") or node.get("meta") or {}).get("owner"),
            groups.get(node["config"].get("group")),
            ", ".join(sorted(exposed[unique_id])),
        ]
        if owner := next(filter(None, found), None):
            owners[unique_id] = str(owner)
    for test, shown in shown_at.items():
        if test not in owners and (owner := owners.get(next(iter(shown), None))):
            owners[test] = owner
    return owners


def _selector(node: dict) -> str:
    # The three together name one node. A name alone is also that of a folder or of a package.
    file = Path(node["original_file_path"]).name
    return f"fqn:{'.'.join(node['fqn'])},resource_type:{node['resource_type']},file:{file}"
