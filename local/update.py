"""Merges a newer version of the template: `make update`."""

import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

from local.git import git, require_no_changes
from local.progress import console
from local.settings import ROOT, Failure, Settings

# The files that `update` leaves as they are.
FORK_FILES = ("README.md", "local.toml", "include/defaults.py", "include/warehouse.py")


def update(settings: Settings, source: str) -> None:
    """Merge the template without the files that a fork lacks, and keep the fork's own files."""
    require_no_changes()
    # local.toml is read before the merge, which can write conflict markers into it.
    left_out = settings.local_toml.get("left_out", [])
    if not source:
        raise Failure("FROM= is missing: make update FROM=<git URL of the template>")
    git("fetch", "--quiet", source, "HEAD")
    before = git("rev-parse", "HEAD")
    merge = ["git", "merge", "--quiet", "--no-ff", "--no-commit", "FETCH_HEAD"]
    merged = subprocess.run(merge, cwd=ROOT, capture_output=True, text=True)
    if not (ROOT / git("rev-parse", "--git-path", "MERGE_HEAD")).exists():
        if merged.returncode:
            raise Failure(f"git merge failed: {merged.stderr.strip()}")
        console.print("The template has no new commits.")
        return
    try:
        conflicts = _take_out_what_the_fork_lacks(before, left_out)
        if not conflicts:
            # The URL can contain a password.
            address = re.sub(r"//[^/]*@", "//", source)
            message = f"Update the template from {address}"
            git("commit", "--quiet", "--no-verify", "--message", message)
    except BaseException:
        # The next commit must not contain files of the template that a fork lacks.
        git("reset", "--quiet", "--hard", before)
        raise
    if conflicts:
        raise Failure(
            f"You and the template have both changed {', '.join(conflicts)}. The merge is in "
            "progress: resolve the conflicts, then `git add` and `git commit`; or undo it with "
            "`git merge --abort`."
        )
    console.print('Merged. Follow "Update a fork" in CHANGELOG.md, then run `make test`.')


def _take_out_what_the_fork_lacks(before: str, left_out: list[str]) -> list[str]:
    """Remove from a merge what `make adopt` removes; return the files that have conflicts."""
    template = tomllib.loads(git("show", "FETCH_HEAD:local.toml"))
    removed = [*template.get("sample", []), *left_out]
    base = git("merge-base", before, "FETCH_HEAD")
    own = git("ls-tree", "--name-only", before, "--", *FORK_FILES).splitlines()
    # The fork may have files of its own at the paths that are removed. They are restored below.
    changed = ("diff", "--name-only", "--no-renames", base, before)
    own += git(*changed, "--diff-filter=d", "--", *removed).splitlines()
    # git takes a new file of the fork for a renamed file of the sample, if the two are similar.
    added = {*git(*changed, "--diff-filter=A").splitlines()}
    own += added - {*git("ls-tree", "-r", "--name-only", "FETCH_HEAD").splitlines()}
    git("rm", "--quiet", "-r", "--force", "--ignore-unmatch", "--", *removed)
    merge_makefile(before, base, template.get("make_targets", []))
    git("checkout", before, "--", *own)
    # What the fork deleted and the template changed stays deleted.
    unmerged = {*git("diff", "--name-only", "--diff-filter=U").splitlines()}
    ours = {*git("ls-tree", "-r", "--name-only", before, "--", *unmerged).splitlines()}
    if deleted := unmerged - ours:
        git("rm", "--quiet", "--force", *deleted)
    return sorted(unmerged & ours)


def remove_targets(makefile: Path, names: list[str], template: str | None = None) -> None:
    """Delete targets from a Makefile, with the recipe of each.

    With the text of the template's Makefile, a target stays if it is not the template's.
    """
    text = makefile.read_text()
    for name in names:
        rule = re.compile(rf"^{name}:.*\n(\t.*\n)*\n?", re.MULTILINE)
        own = rule.search(text)
        if template is None or (own and own[0].strip() in template):
            text = rule.sub("", text)
            text = re.sub(rf"^(\.PHONY:.*?) {name}\b(?!-)", r"\1", text, flags=re.MULTILINE)
    makefile.write_text(text.rstrip("\n") + "\n")


def merge_makefile(before: str, base: str, removed: list[str]) -> None:
    """Merge the Makefile without the targets that a fork lacks. A conflict stays in the file."""
    with tempfile.TemporaryDirectory(prefix="update-") as folder:
        files = [Path(folder, name) for name in ("ours", "base", "theirs")]
        for file, revision in zip(files, (before, base, "FETCH_HEAD"), strict=True):
            file.write_text(git("show", f"{revision}:Makefile") + "\n")
        remove_targets(files[0], removed, template=files[1].read_text())
        for file in files[1:]:
            remove_targets(file, removed)
        if subprocess.run(["git", "merge-file", "--quiet", *files]).returncode == 0:
            (ROOT / "Makefile").write_text(files[0].read_text())
            git("add", "Makefile")
