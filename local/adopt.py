"""Makes a clone a team's own repository: `make adopt`, `make add-project`, `make update`."""

import os
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

import yaml

from local.findings import findings
from local.progress import console, live
from local.settings import OWN, ROOT, Failure

TEMPLATES = Path(__file__).parent / "adopted"
POSTGRES_MACROS = TEMPLATES / "project" / "macros" / "postgres"
# Where the template's own name stands.
NAMED = ("pyproject.toml", ".astro/config.yaml", "deploy/prod.yaml", "deploy/staging.yaml")
NAME = "dbt-on-airflow"
# What `update` leaves as the fork has it.
OF_THE_FORK = ("README.md", "local.toml", "include/defaults.py", "include/warehouse.py")
# Of a dbt project: what tools have made, and what would be a repository within this one.
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".user.yml", "target", "logs", "dbt_packages", "dbt_modules"),
    *(".venv", "venv", "env", "__pycache__", "*.pyc", ".DS_Store", "*.duckdb"),
)


def adopt(args) -> None:
    if not OWN.get("sample"):
        raise Failure("This clone is adopted already: `make add-project` adds a dbt project.")
    name = wanted_name()
    with changed() as tree:
        git("rm", "--quiet", "-r", "--ignore-unmatch", *OWN["sample"], at=tree)
        project, dag_file = bring_in(tree, name, folder_of=project_name)
        for path in NAMED:
            text = (tree / path).read_text()
            (tree / path).write_text(text.replace(NAME, name.replace("_", "-")))
        for path in ("README.md", "local.toml"):
            write(tree / path, f"{path}.txt", name=name, project=project, dag_id=project.lower())
        found = look(tree, project, dag_file)
    # What Python and dbt have made there.
    git("clean", "--quiet", "-d", "-x", "--force", "--", *OWN["sample"])
    report(project, found)


def add_project(args) -> None:
    name = wanted_name()
    with changed() as tree:
        project, dag_file = bring_in(tree, name, folder_of=lambda source: name)
        found = look(tree, project, dag_file)
    report(project, found)


def update(args) -> None:
    """Merge the template, without its sample, and with what is the fork's own as it is."""
    require_clean()
    if not (source := os.environ.get("FROM")):
        raise Failure("Say where the template is: make update FROM=<its git address>")
    git("fetch", "--quiet", source, "HEAD")
    before = git("rev-parse", "HEAD")
    merge = ["git", "merge", "--quiet", "--no-ff", "--no-commit", "FETCH_HEAD"]
    merged = subprocess.run(merge, cwd=ROOT, capture_output=True, text=True)
    if not (ROOT / git("rev-parse", "--git-path", "MERGE_HEAD")).exists():
        if merged.returncode:
            raise Failure(f"git merge failed: {merged.stderr.strip()}")
        console.print("There is nothing new.")
        return
    try:
        sample = tomllib.loads(git("show", "FETCH_HEAD:local.toml"))["sample"]
        git("rm", "--quiet", "-r", "--force", "--ignore-unmatch", *sample)
        had = git("ls-tree", "--name-only", before, "--", *OF_THE_FORK).splitlines()
        git("checkout", before, "--", *had)
        if conflicts := git("diff", "--name-only", "--diff-filter=U"):
            raise Failure(f"You and the template have both changed {', '.join(conflicts.split())}.")
        git("commit", "--quiet", "--message", f"Update the template from {source}")
    except BaseException:
        git("merge", "--abort")
        raise
    console.print("Merged. CHANGELOG.md says what to do; then `make test`.")


def wanted_name() -> str:
    name = os.environ.get("NAME") or ""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise Failure(f"NAME={name} is no name: write NAME=acme, of a-z, 0-9 and _.")
    return name


def require_clean() -> None:
    if git("status", "--porcelain"):
        raise Failure("There are changes that are not committed: commit or stash them first.")


@contextmanager
def changed() -> Iterator[Path]:
    """Yield a copy of the work tree. What it is when the block ends, the work tree becomes.

    An error in the block leaves the work tree as it was.
    """
    require_clean()
    with tempfile.TemporaryDirectory(prefix="adopt-") as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--quiet", "--detach", tree)
        try:
            yield tree
            git("add", "--all", at=tree)
            made = git("write-tree", at=tree)
        finally:
            git("worktree", "remove", "--force", tree)
    git("read-tree", "-m", "-u", "HEAD", made)


def bring_in(tree: Path, name: str, folder_of) -> tuple[str, Path]:
    """Write a dbt project and its DAG file; return the name of its folder, and that file."""
    console.print("Bringing in the dbt project")
    source = os.environ.get("FROM")
    with tempfile.TemporaryDirectory(prefix="adopt-") as scratch:
        if source:
            found = dbt_project(source, Path(scratch))
            project = folder_of(found)
        else:
            found, project = None, name
        folder = tree / "dbt" / project
        dag_file = tree / "dags" / f"{project.removeprefix('dbt_')}.py"
        for path in (folder, dag_file):
            if path.exists():
                raise Failure(f"{path.relative_to(tree)} exists already: take another name.")
        if found:
            shutil.copytree(found, folder, ignore=LEFT_OUT, ignore_dangling_symlinks=True)
            leave_unjudged(tree, folder)
            add_postgres_macros(folder)
        else:
            shutil.copytree(TEMPLATES / "project", folder)
            for path in folder.rglob("*.yml"):
                path.write_text(Template(path.read_text()).safe_substitute(project=project))
    if not has_postgres(folder):
        write(folder / "profiles.yml", "profiles.yml.txt", project=project, profile=profile(folder))
    template = "dag_with_load.py.txt" if os.environ.get("LOAD") else "dag.py.txt"
    # Without the sample's DAGs git has taken the folder away.
    dag_file.parent.mkdir(exist_ok=True)
    write(dag_file, template, project=project, dag_id=project.lower())
    return project, dag_file


def dbt_project(source: str, scratch: Path) -> Path:
    """Return the folder of the one dbt project that a folder or a git repository holds."""
    root = Path(source).expanduser()
    if not root.is_dir():
        root = scratch / "clone"
        with live(f"cloning {source}"):
            cloned = subprocess.run(
                ["git", "clone", "--quiet", "--depth", "1", "--", source, root],
                capture_output=True,
                text=True,
                env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            )
        if cloned.returncode:
            said = (cloned.stderr.strip().splitlines() or [""])[-1]
            raise Failure(f"FROM={source} is no folder, and git can't clone it: {said}")
    if (root / "dbt_project.yml").is_file():
        return root
    found = [
        path.parent
        for path in sorted(root.rglob("dbt_project.yml"))
        if not {"dbt_packages", "dbt_modules", "integration_tests"} & {*path.parts}
    ]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found) or "no dbt_project.yml"
        raise Failure(f"FROM={source} holds {names}: name the folder of one dbt project.")
    return found[0]


def described(project: Path) -> dict:
    known = yaml.safe_load((project / "dbt_project.yml").read_text())
    if not (isinstance(known, dict) and known.get("name")):
        raise Failure(f"{project / 'dbt_project.yml'} has no name: give it one.")
    return known


def project_name(project: Path) -> str:
    return described(project)["name"]


def profile(project: Path) -> str:
    known = described(project)
    return known.get("profile") or known["name"]


def has_postgres(project: Path) -> bool:
    """Return whether dbt finds a Postgres by the project's own profile."""
    file = project / "profiles.yml"
    known = (yaml.safe_load(file.read_text()) or {}) if file.is_file() else {}
    outputs = (known.get(profile(project)) or {}).get("outputs") or {}
    return any(output.get("type") == "postgres" for output in outputs.values())


def add_postgres_macros(project: Path) -> None:
    """Copy the macros for Postgres into a project, except those that the project itself defines."""
    paths = described(project).get("macro-paths") or ["macros"]
    files = [file for path in paths for file in (project / path).rglob("*.sql")]
    defined = {name for file in files for name in re.findall(r"macro\s+(\w+)", file.read_text())}
    folder = project / paths[0] / POSTGRES_MACROS.name
    folder.mkdir(parents=True, exist_ok=True)
    for macro in POSTGRES_MACROS.glob("*.sql"):
        if macro.stem not in defined:
            shutil.copy(macro, folder)


def leave_unjudged(tree: Path, folder: Path) -> None:
    """Let no hook of `make lint` look at the files of a folder. One that comes later is judged."""
    files = [str(path.relative_to(tree)) for path in sorted(folder.rglob("*")) if path.is_file()]
    config = tree / ".pre-commit-config.yaml"
    before, start, rest = config.read_text().partition("\n  (?x)^(\n")
    listed = "".join(f"    {re.escape(file)}|\n" for file in files)
    config.write_text(f"{before}{start}{listed}{rest}")


def write(path: Path, template: str, **values: str) -> None:
    path.write_text(Template((TEMPLATES / template).read_text()).substitute(values))


def look(tree: Path, project: str, dag_file: Path) -> list[str]:
    console.print("Looking for what the project lacks")
    with live():
        return findings(tree, project, dag_file)


def report(project: str, found: list[str]) -> None:
    console.print(f"dbt/{project} is in. `git diff --cached` shows the change, which is yours.")
    if found:
        console.print(f"\nWhat {project} needs before its DAG can be green:")
    for finding in found:
        console.print(f"- {finding}", markup=False, soft_wrap=True)
    if not found:
        console.print("Now: make start, make test, make lint.")


def git(*words, at: Path = ROOT) -> str:
    done = subprocess.run(
        ["git", *map(str, words)], cwd=at, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Failure(f"git {words[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()
