"""Makes a clone a team's own repository: `make adopt`, `make add-project`, `make update`."""

import re
import subprocess
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from local.dbt import chosen_project
from local.findings import Findings, check, dag_file_of
from local.git import git, require_no_changes
from local.progress import console
from local.projects import bring_in, require_name, write_template
from local.settings import ROOT, Failure, Settings

TEMPLATE_NAME = "dbt-on-airflow"
# The files that contain the name of the template.
NAMED_FILES = ("pyproject.toml", ".astro/config.yaml", "deploy/prod.yaml")
# The files that `update` leaves as they are.
FORK_FILES = ("README.md", "local.toml", "include/defaults.py", "include/warehouse.py")
CI_FILES = {"github": [".github/workflows"], "gitlab": [".gitlab-ci.yml"]}


def adopt(
    settings: Settings, name: str, source: str, ci: str, load: bool, parse_only: bool
) -> None:
    own = settings.local_toml
    if "sample" not in own:
        raise Failure("This clone is adopted already: `make add-project` adds a dbt project.")
    require_name(name)
    if ci not in ("github", "gitlab", "none"):
        raise Failure(f"CI={ci} is not known: write CI=github, CI=gitlab or CI=none.")
    left_out = [path for kind, paths in CI_FILES.items() if ci != kind for path in paths]
    removed = [*own["sample"], *left_out]
    with new_tree() as tree:
        git("rm", "--quiet", "-r", "--ignore-unmatch", *removed, at=tree)
        remove_targets(tree / "Makefile", own["make_targets"])
        remove_group(tree / "pyproject.toml", "template")
        for path in NAMED_FILES:
            text = (tree / path).read_text()
            (tree / path).write_text(text.replace(TEMPLATE_NAME, name.replace("_", "-")))
        folder, findings = add(settings, tree, source, None if source else name, load, parse_only)
        values = {
            "name": name,
            "project": folder.name,
            "dag_id": folder.name.lower(),
            "left_out": "".join(f'\n    "{path}",' for path in left_out),
            "is_complete": str(not findings.missing and not findings.parse_error).lower(),
        }
        for path in ("README.md", "local.toml"):
            write_template(tree / path, f"{path}.txt", **values)
    # Python and dbt have generated files in the removed folders.
    git("clean", "--quiet", "-d", "-x", "--force", "--", *removed)
    report(folder, findings)


def add_project(settings: Settings, name: str, source: str, load: bool, parse_only: bool) -> None:
    require_name(name)
    with new_tree() as tree:
        folder, findings = add(settings, tree, source, name, load, parse_only)
    report(folder, findings)


def check_project(settings: Settings, name: str, parse_only: bool) -> None:
    project = chosen_project(settings, name)
    dag_file = dag_file_of(project)
    if dag_file is None:
        raise Failure(f"No file in dags/ contains {project.name!r}: write a DAG for it first.")
    check(settings, project.resolve(), dag_file, builds=not parse_only).print()


def update(settings: Settings, source: str) -> None:
    """Merge the template without its own development, and with the fork's own files unchanged."""
    require_no_changes()
    # local.toml is read before the merge, which can write marks of a conflict into it.
    left_out = settings.local_toml.get("left_out", [])
    if not source:
        raise Failure("FROM= is missing: make update FROM=<the git address of the template>")
    git("fetch", "--quiet", source, "HEAD")
    before = git("rev-parse", "HEAD")
    merge = ["git", "merge", "--quiet", "--no-ff", "--no-commit", "FETCH_HEAD"]
    merged = subprocess.run(merge, cwd=ROOT, capture_output=True, text=True)
    if not (ROOT / git("rev-parse", "--git-path", "MERGE_HEAD")).exists():
        if merged.returncode:
            raise Failure(f"git merge failed: {merged.stderr.strip()}")
        console.print("The template has no new commits.")
        return
    template = tomllib.loads(git("show", "FETCH_HEAD:local.toml"))
    removed = [*template.get("sample", []), *left_out]
    base = git("merge-base", before, "FETCH_HEAD")
    own = git("ls-tree", "--name-only", before, "--", *FORK_FILES).splitlines()
    # The fork may have files of its own at the paths that are removed. They are restored below.
    changed = ("diff", "--name-only", "--no-renames", "--diff-filter=AM", base, before)
    own += git(*changed, "--", *removed).splitlines()
    git("rm", "--quiet", "-r", "--force", "--ignore-unmatch", "--", *removed)
    targets = template.get("make_targets", [])
    merge_file("Makefile", before, base, lambda file: remove_targets(file, targets))
    merge_file("pyproject.toml", before, base, lambda file: remove_group(file, "template"))
    git("checkout", before, "--", *own)
    # What the fork deleted and the template changed stays deleted.
    unmerged = {line.split("\t")[1] for line in git("ls-files", "--unmerged").splitlines()}
    ours = {*git("ls-tree", "-r", "--name-only", before, "--", *unmerged).splitlines()}
    if deleted := unmerged - ours:
        git("rm", "--quiet", "--force", *deleted)
    if conflicts := sorted(unmerged & ours):
        raise Failure(
            f"You and the template have both changed {', '.join(conflicts)}. The merge is in "
            "progress: resolve the conflicts, then `git add` and `git commit`; or undo it with "
            "`git merge --abort`."
        )
    git("commit", "--quiet", "--no-verify", "--message", f"Update the template from {source}")
    console.print('Merged. Follow "Update a fork" in CHANGELOG.md, then run `make test`.')


@contextmanager
def new_tree() -> Iterator[Path]:
    """Yield a copy of the work tree. When the block ends, the work tree becomes like the copy.

    An error in the block leaves the work tree unchanged.
    """
    require_no_changes()
    with tempfile.TemporaryDirectory(prefix="adopt-") as folder:
        tree = Path(folder, "tree")
        git("worktree", "add", "--quiet", "--detach", tree)
        try:
            yield tree
            git("add", "--all", at=tree)
            content = git("write-tree", at=tree)
        finally:
            git("worktree", "remove", "--force", tree)
    git("read-tree", "-m", "-u", "HEAD", content)


def add(
    settings: Settings, tree: Path, source: str, name: str | None, load: bool, parse_only: bool
) -> tuple[Path, Findings]:
    """Bring in a project, write its DAG file, and look for what it needs."""
    folder, dag_file = bring_in(tree, source, name)
    values = {"project": folder.name, "dag_id": folder.name.lower()}
    write_template(dag_file, "dag_with_load.py.txt" if load else "dag.py.txt", **values)
    findings = check(settings, folder, dag_file, builds=False if parse_only else None)
    if findings.has_seeds_as_sources and not load:
        write_template(dag_file, "dag_with_seeds.py.txt", **values)
        findings.has_seeds_as_sources = False
    return folder, findings


def report(folder: Path, findings: Findings) -> None:
    console.print(f"dbt/{folder.name} is added. `git diff --cached` shows the change.")
    findings.print()


def remove_targets(makefile: Path, names: list[str]) -> None:
    """Delete targets from a Makefile, with the recipe of each."""
    text = makefile.read_text()
    for name in names:
        text = re.sub(rf"^{name}:.*\n(\t.*\n)*\n?", "", text, flags=re.MULTILINE)
        text = re.sub(rf"^(\.PHONY:.*?) {name}\b(?!-)", r"\1", text, flags=re.MULTILINE)
    makefile.write_text(text.rstrip("\n") + "\n")


def merge_file(name: str, before: str, base: str, strip: Callable[[Path], None]) -> None:
    """Merge a file without what adopt removes from it. A conflict stays as it is."""
    with tempfile.TemporaryDirectory(prefix="update-") as folder:
        files = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for file, revision in zip(files, (before, base, "FETCH_HEAD"), strict=True):
            file.write_text(git("show", f"{revision}:{name}") + "\n")
            strip(file)
        if subprocess.run(["git", "merge-file", "--quiet", *files]).returncode == 0:
            (ROOT / name).write_text(files[0].read_text())
            git("add", name)


def remove_group(pyproject: Path, name: str) -> None:
    """Delete a dependency group from pyproject.toml, with the comment above it."""
    group = re.compile(rf"(^#.*\n)*^{name} = \[\n(^ .*\n)*^\]\n", flags=re.MULTILINE)
    pyproject.write_text(group.sub("", pyproject.read_text()))
