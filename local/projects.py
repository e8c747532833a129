"""Brings a dbt project into the repository, with its local packages: `make add-project`."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

import yaml

from local.dbt import project_yml
from local.findings import Findings, check
from local.git import git, require_no_changes
from local.progress import console, step
from local.settings import Failure, Settings

TEMPLATES = Path(__file__).parent / "adopted"
POSTGRES_MACROS = TEMPLATES / "project" / "macros" / "postgres"
# Files that tools generate: IGNORED in any folder, IGNORED_ON_TOP only in the project's folder.
IGNORED = {".git", ".DS_Store", "__pycache__", ".env", ".venv", "venv", ".user.yml"}
IGNORED_ON_TOP = {"target", "logs", "dbt_modules", "env"}
# A dbt_project.yml in these folders belongs to another project.
NOT_THE_PROJECT = {*IGNORED, *IGNORED_ON_TOP, "dbt_packages", "integration_tests"}


def require_name(name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise Failure(f"NAME={name} is not a name: write NAME=acme, with a-z, 0-9 and _.")


def add_project(settings: Settings, name: str, source: str, load: bool, parse_only: bool) -> None:
    require_name(name)
    with new_tree() as tree:
        folder, findings = add(settings, tree, source, name, load, parse_only)
    report(folder, findings)


def add(
    settings: Settings, tree: Path, source: str, name: str | None, load: bool, parse_only: bool
) -> tuple[Path, Findings]:
    """Bring in a project, write its DAG file, and look for what it needs."""
    folder, dag_file = bring_in(tree, source, name)
    write_template(dag_file, "dag_with_load.py.txt" if load else "dag.py.txt", folder.name)
    findings = check(settings, folder, dag_file, builds=False if parse_only else None)
    if findings.seeds_as_sources and not load:
        write_template(dag_file, "dag_with_seeds.py.txt", folder.name)
        findings.seeds_as_sources = []
    return folder, findings


def report(folder: Path, findings: Findings) -> None:
    console.print(f"dbt/{folder.name} is added. `git diff --cached` shows the change.")
    findings.print()


@contextmanager
def new_tree() -> Iterator[Path]:
    """Yield a copy of the work tree, which replaces it if the block ends without an error."""
    require_no_changes()
    # Somebody can commit while the block works.
    head = git("rev-parse", "HEAD").strip()
    with TemporaryDirectory(prefix="adopt-") as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--quiet", "--detach", tree, head)
        try:
            yield tree
            git("add", "--all", at=tree)
            content = git("write-tree", at=tree)
        finally:
            git("worktree", "remove", "--force", tree)
    git("read-tree", "-m", "-u", head, content)


def bring_in(tree: Path, source: str, name: str | None) -> tuple[Path, Path]:
    """Copy a dbt project to dbt/; return its folder, and the path of its future DAG file.

    Without a source, `make adopt` copies a small new project. By default the folder has the
    project's name.
    """
    with step("Bringing in the dbt project"), TemporaryDirectory(prefix="adopt-") as scratch:
        found = found_project(source, Path(scratch)) if source else TEMPLATES / "project"
        # A fork does not keep the small project.
        if not (found / "dbt_project.yml").exists():
            raise Failure("FROM= is missing: name the folder or the git URL of a dbt project.")
        name = name or project_yml(found)["name"]
        folder = tree / "dbt" / name
        dag_file = tree / "dags" / f"{name.removeprefix('dbt_')}.py"
        for path in (folder, dag_file):
            if path.exists():
                raise Failure(f"{path.relative_to(tree)} exists already: choose another NAME=.")
        if source:
            copy_files(found, folder)
            bring_packages_along(tree, found, folder)
            # The hooks of `make lint` skip the files of the project and of its local packages.
            config, start = tree / ".pre-commit-config.yaml", "\n  (?x)^(\n"
            line = f"{start}    dbt/({name}|packages)/.*|\n"
            config.write_text(config.read_text().replace(start, line, 1))
            add_postgres_macros(folder)
            if (folder / "dbt_packages").is_dir():
                # The project ships its packages. Those of other projects stay out of the image.
                for file in (".gitignore", ".dockerignore"):
                    with (tree / file).open("a") as text:
                        text.write(f"!dbt/{name}/dbt_packages\n")
        else:
            shutil.copytree(found, folder)
            for path in folder.rglob("*.yml"):
                path.write_text(Template(path.read_text()).safe_substitute(project=name))
        # --force adds files that the project's .gitignore names. No file here is generated yet.
        git("add", "--all", "--force", at=tree)
    return folder, dag_file


def found_project(source: str, scratch: Path) -> Path:
    """Return the folder of the one dbt project in a folder or git repository."""
    root = Path(source).expanduser().resolve()
    if not root.is_dir():
        root = scratch / "clone"
        try:
            git("clone", "--quiet", "--depth", "1", "--recurse-submodules", "--", source, root)
        except Failure as failure:
            raise Failure(f"FROM={source} is not a folder, and {failure}") from None
    if (root / "dbt_project.yml").is_file():
        return root
    found = [
        path.parent
        for path in sorted(root.rglob("dbt_project.yml"))
        if not NOT_THE_PROJECT & {*path.relative_to(root).parts}
    ]
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in found)
        raise Failure(
            f"FROM={source} has {names or 'no dbt_project.yml'}: name the folder of one dbt "
            "project."
        )
    return found[0]


def copy_files(source: Path, folder: Path, without: Path | None = None) -> None:
    """Copy a dbt project, without generated files and without files that git ignores."""
    words = ("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    # If git fails, as in a repository of another user, the command fails too. A copy without git's
    # list would contain files that git ignores, such as files with passwords.
    has_git = any((path / ".git").exists() for path in (source, *source.parents))
    # git does not list what a submodule or another repository inside of the project ignores.
    nested = sorted(path.parent for path in source.rglob(".git") if path.parent != source)
    ignored: set[Path] = set()
    for root in [source, *nested] if has_git else nested:
        if ignored.isdisjoint((root, *root.parents)):
            ignored |= {root / name for name in git(*words, at=root).split("\0") if name}
    left_out = {without, *ignored, *(source / name for name in IGNORED_ON_TOP)}
    # Such a repository is copied without .git, so that git takes its files.
    generated = shutil.ignore_patterns(*IGNORED, "*.pyc", "*.duckdb")

    def ignore(parent: str, names: list[str]) -> set[str]:
        return generated(parent, names) | {n for n in names if Path(parent, n) in left_out}

    shutil.copytree(
        source, folder, ignore=ignore, ignore_dangling_symlinks=True, dirs_exist_ok=True
    )


def bring_packages_along(tree: Path, source: Path, folder: Path) -> None:
    """Copy folders outside of a project to dbt/packages/<project>/, and change its paths to them.

    Another project can need another version of the same folder, so each project has its own copy.
    """
    copies = tree / "dbt" / "packages" / folder.name
    _bring_packages(copies, source, folder)
    file = folder / "dbt_project.yml"
    outside = {
        value
        for key, values in project_yml(folder).items()
        if key.endswith("-paths") and isinstance(values, list)
        for value in map(str, values)
        if value.startswith("..")
    }
    for value in sorted(outside):
        origin = _existing(source / value, file, value)
        copy = copies / origin.name
        while copy.exists():
            copy = copy.with_name(f"{copy.name}_2")
        copy_files(origin, copy)
        _replace_path(file, value, f"../packages/{folder.name}/{copy.name}")


def _bring_packages(copies: Path, source: Path, folder: Path) -> None:
    for file in filter(Path.is_file, (folder / "packages.yml", folder / "dependencies.yml")):
        for package in (yaml.safe_load(file.read_text()) or {}).get("packages") or []:
            path = package.get("local")
            # dbt resolves the path of a package's package against the root project, as here.
            origin = (source / path).resolve() if path else source
            if origin != source and (not origin.is_relative_to(source) or ".." in Path(path).parts):
                name = project_yml(_existing(origin, file, path))["name"]
                copy = copies / name
                if not copy.exists():
                    copy_files(origin, copy, without=source)
                    _bring_packages(copies, source, copy)
                _replace_path(file, path, f"../packages/{copies.name}/{name}")


def _existing(folder: Path, file: Path, path: str) -> Path:
    if not folder.is_dir():
        raise Failure(
            f"{file.name} names {path}, but there is no folder {folder.resolve()}: FROM= must be "
            "a project with that folder beside it."
        )
    return folder.resolve()


def _replace_path(file: Path, old: str, new: str) -> None:
    pattern = rf"(?<![\w./])(['\"]?){re.escape(str(old))}\1(?=[\s,\]}}]|$)"
    file.write_text(re.sub(pattern, new, file.read_text()))


def add_postgres_macros(project: Path) -> None:
    """Copy the macros for Postgres that a project does not define itself."""
    paths = project_yml(project).get("macro-paths") or ["macros"]
    files = [file for path in paths for file in (project / path).rglob("*.sql")]
    texts = [file.read_text(errors="ignore") for file in files]
    defined = {name for text in texts for name in re.findall(r"macro\s+(\w+)", text)}
    # A folder outside of the project can belong to other projects too.
    inside = next((path for path in paths if not path.startswith("..")), paths[0])
    folder = project / inside / POSTGRES_MACROS.name
    folder.mkdir(parents=True, exist_ok=True)
    for macro in POSTGRES_MACROS.glob("*.sql"):
        if macro.stem not in defined:
            shutil.copy(macro, folder)


def write_template(path: Path, template: str, project: str, **values: str) -> None:
    """Write a file from a template in local/adopted/. The DAG has the name of the project."""
    # git has removed the folder together with the DAGs of the sample.
    path.parent.mkdir(exist_ok=True)
    values |= {"project": project, "dag_id": project.lower()}
    path.write_text(Template((TEMPLATES / template).read_text()).substitute(values))
