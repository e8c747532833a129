"""A clone becomes a team's own repository, takes a second project, and a newer template."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, ROOT, free_port
from tests.fixtures import TEMPLATE_SETTINGS, commit, git, write

if not (HAS_POSTGRES and (ROOT / ".git").exists()):
    pytest.skip("needs a clone, which the image is not", allow_module_level=True)

from local.projects import POSTGRES_MACROS, add_postgres_macros, copy_files
from local.settings import Failure

NO_NEW_COMMITS = "The template has no new commits.\n"


def run(clone: Path, command: str, *options: str, **env: str) -> subprocess.CompletedProcess:
    """Run a command of the runner in a clone, on a Postgres of its own."""
    own = {
        "LOCAL_HOME": str(clone / ".local"),
        "WAREHOUSE_PORT": free_port(),
        "GIT_AUTHOR_NAME": "team",
        "GIT_AUTHOR_EMAIL": "team@example.com",
        "GIT_COMMITTER_NAME": "team",
        "GIT_COMMITTER_EMAIL": "team@example.com",
    }
    inherited = {n: v for n, v in os.environ.items() if n != "DBT_PROJECTS_DIR"}
    return subprocess.run(
        [sys.executable, "-m", "local", command, *options],
        cwd=clone,
        env={**inherited, **own, **env},
        capture_output=True,
        text=True,
    )


def check(clone: Path, *tests: str) -> None:
    """Run some of a clone's own tests."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTEST") and name not in TEMPLATE_SETTINGS
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=clone,
        env={**inherited, "DBT_PROJECTS_DIR": "", "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def two_projects(folder: Path) -> Path:
    # A virtual environment has the projects that are a part of dbt.
    for name in ("one", "two", ".venv/lib/dbt/include/starter_project"):
        write(folder, {f"{name}/dbt_project.yml": f"name: {name}\n"})
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--name=", "NAME= is not a name"),
        ("--name=Acme Inc", "NAME=Acme Inc is not a name"),
        ("--name=acme --source=nowhere", "FROM=nowhere is not a folder, and git clone failed"),
        ("--name=acme --source=two", "FROM=two has one, two: name the folder of one dbt project"),
        ("--name=acme --source=docs", "FROM=docs has no dbt_project.yml"),
        ("--name=acme --source=unnamed", "{clone}/unnamed/dbt_project.yml has no name"),
        ("--name=acme --ci=jenkins", "CI=jenkins is not known"),
    ],
)
def test_an_error_is_one_line_and_leaves_the_clone_unchanged(clone, options, message):
    two_projects(clone / "two")
    write(clone, {"unnamed/dbt_project.yml": "version: 2"})
    commit(clone, "Projects to choose from")
    words = re.split(r" (?=--)", options)
    done = run(clone, "adopt", *words, *([] if "--ci" in options else ["--ci=github"]))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message.format(clone=clone)}")
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "worktree", "list").count("\n") == 0


def test_changes_that_are_not_committed_are_not_touched(clone):
    (clone / "README.md").write_text("mine")
    done = run(clone, "adopt", "--name=acme", "--ci=github")
    assert done.stderr == (
        "error: There are changes that are not committed: commit or stash them first.\n"
    )
    assert git(clone, "status", "--porcelain") == "M README.md"


@pytest.mark.slow
def test_without_a_project_a_small_one_is_made(clone):
    write(clone, {"dbt/nyc_flights/target/manifest.json": "{}", ".local/venv/installed": ""})
    done = run(clone, "adopt", "--name=acme", "--ci=github")
    assert done.returncode == 0, done.stderr
    # The next make target removes the packages that only the template needs.
    assert not (clone / ".local" / "venv" / "installed").exists()
    assert not (clone / "dbt" / "nyc_flights").exists()
    assert "Next, run make start, make test and make lint." in done.stdout
    makefile = (clone / "Makefile").read_text()
    assert "check-project:" in makefile
    for target in ("adopt", "canary", "test-all"):
        assert f" {target} " not in makefile
        assert f"\n{target}:" not in makefile
    assert not (clone / ".gitlab-ci.yml").exists()
    assert (clone / ".github" / "workflows" / "check.yml").exists()
    assert git(clone, "grep", "-il", "-e", "flight", "-e", "nyc", "HEAD", "--", "README.md")
    commit(clone, "Adopt")
    files = git(clone, "ls-files").splitlines()
    assert len(files) <= 120
    assert len({name.partition("/")[0] for name in files}) <= 30
    found = subprocess.run(
        ["git", "grep", "-il", "-e", "flight", "-e", "nyc"], cwd=clone, capture_output=True
    )
    assert found.stdout == b""
    assert 'name = "acme"' in (clone / "pyproject.toml").read_text()
    assert [path.name for path in (clone / "dags").glob("*.py")] == ["acme.py"]
    again = run(clone, "adopt", "--name=acme", "--ci=github")
    assert "invalid choice: 'adopt'" in again.stderr
    check(clone, "tests/dags/test_integrity.py")


@pytest.mark.slow
def test_what_a_project_lacks_is_listed_with_what_to_do(clone, tmp_path):
    theirs = write(
        tmp_path / "theirs",
        {
            "dbt_project.yml": "{name: theirs, profile: snow}",
            "profiles.yml": "snow: {target: prod, outputs: {prod: {type: snowflake}}}",
            "seeds/letters.csv": "id\n1\n",
            "models/sources.yml": """
                sources:
                  - name: raw
                    tables: [{name: letters}, {name: days}, {name: fine}, {name: unread}]
            """,
            "models/fine.sql": "select 1 as id",
            "models/of_sources.sql": """
                select * from {{ source('raw', 'letters') }}, {{ source('raw', 'fine') }}
            """,
            "models/of_days.sql": "select * from {{ source('raw', 'days') }}",
            "models/elsewhere.sql": "select safe_cast('1' as int64) as id",
        },
    )
    done = run(clone, "adopt", "--name=acme", f"--source={theirs}", "--load", "--ci=github")
    assert done.returncode == 0, done.stderr
    for line in (
        "Tables that must be loaded before dbt runs, by schema:\n  raw: days, fine, letters\n",
        "Cannot run on Postgres:\n  elsewhere: Database Error",
        "Only parsed: 2 of 5 nodes",
    ):
        assert line in done.stdout
    # Nodes that depend on these, and sources that no node reads, are not reported.
    assert "of_" not in done.stdout
    assert "unread" not in done.stdout
    assert "load() >> dbt >> publish()" in (clone / "dags" / "theirs.py").read_text()
    # No hook reads the files of the project. The hooks read the DAG file, which is the team's.
    excluded = (clone / ".pre-commit-config.yaml").read_text()
    assert excluded.count("theirs") == excluded.count("    dbt/(theirs|packages)/.*|\n") == 1


def test_a_project_that_dbt_cannot_parse_is_reported(clone, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "dbt_project.yml").write_text('{name: older, require-dbt-version: "<1.5.0"}')
    done = run(clone, "adopt", "--name=acme", f"--source={theirs}", "--ci=gitlab")
    assert done.returncode == 0, done.stderr
    assert "dbt cannot parse the project:" in done.stdout
    assert "version of dbt is not supported" in done.stdout
    assert (clone / ".gitlab-ci.yml").exists()
    assert not (clone / ".github" / "workflows").exists()


def test_a_project_gets_the_macros_for_postgres_that_it_does_not_define(tmp_path):
    macro = "{%- macro postgres__create_schema(relation) -%}{%- endmacro -%}"
    files = {"dbt_project.yml": "{name: own, macro-paths: [sql]}", "sql/schemas.sql": macro}
    add_postgres_macros(write(tmp_path, files))
    assert {path.name for path in (tmp_path / "sql" / "postgres").iterdir()} == {
        "postgres__can_clone_table.sql",
        "postgres__create_or_replace_clone.sql",
        "postgres__get_incremental_microbatch_sql.sql",
    }


def test_a_git_repository_inside_of_a_project_is_copied_as_plain_files(tmp_path):
    ignored = {"packages/two/.gitignore": "key.json", "packages/two/key.json": "secret"}
    files = {"dbt_project.yml": "", "packages/two/dbt_project.yml": "", **ignored}
    project = write(tmp_path / "one", files)
    for folder in (project / "packages" / "two", project):
        git(folder, "init", "--quiet")
    commit(project / "packages" / "two", "A package")
    copy_files(project, tmp_path / "copy")
    copied = {path.name for path in (tmp_path / "copy" / "packages" / "two").iterdir()}
    assert copied == {"dbt_project.yml", ".gitignore"}


def test_a_project_whose_files_git_cannot_list_is_not_copied(tmp_path):
    files = {"dbt_project.yml": "", ".gitignore": "key.json", "key.json": "", ".git": "broken"}
    with pytest.raises(Failure, match=r"^git ls-files failed: "):
        copy_files(write(tmp_path / "one", files), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_sample_has_the_macros_that_an_adopted_project_gets():
    """The sample has copies, because `make adopt` deletes the sample."""
    sample, adopted = (
        {path.name: path.read_text() for path in folder.iterdir()}
        for folder in (ROOT / "dbt" / "nyc_flights" / "macros" / "postgres", POSTGRES_MACROS)
    )
    assert sample == adopted


@pytest.mark.slow
def test_two_projects_that_share_names_are_side_by_side(clone):
    assert run(clone, "adopt", "--name=acme", "--ci=github", "--parse-only").returncode == 0
    broken = clone / "dags" / "broken.py"
    broken.write_text("from airflow.sdk import no_dag\n")
    commit(clone, "Adopt")
    added = run(clone, "add-project", "--name=other", f"--source={clone}/dbt/acme", "--parse-only")
    assert added.returncode == 0, added.stderr
    # An error in another DAG file is not one of the project.
    assert "Nothing is missing." in added.stdout
    broken.unlink()
    assert sorted(path.name for path in (clone / "dags").glob("*.py")) == ["acme.py", "other.py"]
    twice = run(clone, "add-project", "--name=other")
    assert twice.stderr.startswith("error: There are changes that are not committed")
    commit(clone, "Add")
    without_source = run(clone, "add-project", "--name=third")
    assert without_source.stderr.startswith("error: FROM= is missing")
    twice = run(clone, "add-project", "--name=other", f"--source={clone}/dbt/acme")
    assert twice.stderr.startswith("error: dbt/other exists already: choose another NAME=.")
    check(clone, "tests/dags")


@pytest.mark.slow
def test_a_newer_template_is_merged_without_the_sample(clone, tmp_path):
    template = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", clone, template)
    assert run(clone, "adopt", "--name=acme", "--ci=github", "--parse-only").returncode == 0
    commit(clone, "Adopt")
    (clone / "local.toml").write_text((clone / "local.toml").read_text() + "# ours\n")
    # adopt has removed the template's file at the second path.
    write(clone, {"tests/nyc_flights/test_ours.py": "", ".editorconfig": "# ours\n"})
    # adopt has removed the template's target of this name.
    makefile = (clone / "Makefile").read_text()
    (clone / "Makefile").write_text(makefile.replace("help: ##", "bench:\n\techo ours\n\nhelp: ##"))
    # git takes a copy of a file that adopt has removed for the renamed file.
    sample = "dbt/nyc_flights/models/intermediate/int_flights_timed.sql"
    copied = clone / "docs" / "ours.sql"
    shutil.copy(template / sample, copied)
    commit(clone, "What a fork edits")

    def append(name: str, text: str) -> None:
        with (template / name).open("a") as file:
            file.write(text)

    append("include/dbt_build/project.py", "\n\nNEWER = True\n")
    append("Makefile", "\n# newer\n")
    pyproject = (template / "pyproject.toml").read_text()
    newer = re.sub('\nversion = ".*"', '\nversion = "99.0.0"', pyproject)
    (template / "pyproject.toml").write_text(newer)
    # The fork does not have this file.
    append(".ci/pyproject.toml", "# newer\n")
    append("README.md", "\nNEWER\n")
    append("local.toml", "\n# newer\n")
    append("dags/flights_daily.py", "\n# newer\n")
    append(sample, "\n-- newer\n")
    (template / "include" / "nyc_flights" / "newer.py").write_text("")
    commit(template, "Newer")

    address = "https://ann@example.com/template"
    git(clone, "config", f"url.{template}.insteadOf", address)
    done = run(clone, "update", f"--source={address}")
    assert done.returncode == 0, done.stderr
    assert git(clone, "status", "--porcelain") == ""
    title = git(clone, "log", "-1", "--format=%s")
    assert title == "Update the template from https://example.com/template"
    assert "bench:\n\techo ours" in (clone / "Makefile").read_text()
    assert "NEWER" in (clone / "include" / "dbt_build" / "project.py").read_text()
    assert "# newer" in (clone / "Makefile").read_text()
    pyproject = (clone / "pyproject.toml").read_text()
    assert 'name = "acme"' in pyproject
    assert 'version = "99.0.0"' in pyproject
    assert not (clone / ".ci" / "pyproject.toml").exists()
    assert (clone / ".editorconfig").read_text() == "# ours\n"
    assert "NEWER" not in (clone / "README.md").read_text()
    assert (clone / "local.toml").read_text().endswith("# ours\n")
    assert "newer" not in copied.read_text()
    assert not (clone / "include" / "nyc_flights").exists()
    assert git(clone, "ls-files", "tests/nyc_flights") == "tests/nyc_flights/test_ours.py"
    assert [path.name for path in (clone / "dags").glob("*.py")] == ["acme.py"]
    check(clone, "tests/dags/test_integrity.py")
    assert run(clone, "update", f"--source={template}").stdout == NO_NEW_COMMITS

    # A conflict leaves the merge in progress, as git does.
    with (clone / "Makefile").open("a") as file:
        file.write("\n# ours\n")
    commit(clone, "What a fork should not edit")
    append("Makefile", "\n# newest\n")
    commit(template, "Newest")
    done = run(clone, "update", f"--source={template}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: You and the template have both changed Makefile. ")
    assert git(clone, "diff", "--name-only", "--diff-filter=U") == "Makefile"
    git(clone, "checkout", "--ours", "Makefile")
    commit(clone, "Resolve the conflict")
    assert run(clone, "update", f"--source={template}").stdout == NO_NEW_COMMITS

    # After an error there is no merge that somebody could commit.
    git(template, "rm", "--quiet", "local.toml")
    commit(template, "Not a template")
    done = run(clone, "update", f"--source={template}")
    assert done.stderr.startswith("error: git show failed: ")
    assert git(clone, "status", "--porcelain") == ""
