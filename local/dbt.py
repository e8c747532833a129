"""The commands of dbt: `make dbt`, `make docs`, and their project and environment."""

import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from local import postgres
from local.progress import console
from local.settings import BIN, ROOT, Failure, Settings


def dbt(settings: Settings, project: str, words: list[str]) -> None:
    """Run dbt as a developer."""
    if not words:
        raise Failure('ARGS= is missing: make dbt ARGS="build --select my_model"')
    folder = chosen_project(settings, project)
    env = command_env(settings, folder)
    install_packages(folder, env)
    os.chdir(folder)
    # Ctrl-C would kill a subprocess before dbt has cancelled its statements.
    os.execve(BIN / "dbt", [str(BIN / "dbt"), *words], without_target(env))  # noqa: S606


def docs(settings: Settings) -> None:
    """Write the docs of all dbt projects with the names of prod, each in one page to publish."""
    words = ["docs", "generate", "--static", "--target", "prod"]
    if not settings.environment.get("WAREHOUSE_URL") and not postgres.port_in_use(settings):
        # There are no columns and sizes if there is no warehouse.
        words += ["--empty-catalog", "--no-populate-cache"]
    site, links = settings.home / "site", ""
    shutil.rmtree(site, ignore_errors=True)
    for project in sorted(file.parent for file in settings.dbt_projects.glob("*/dbt_project.yml")):
        name, page = project.name, site / project.name / "index.html"
        page.parent.mkdir(parents=True)
        with tempfile.TemporaryDirectory(prefix="docs-") as folder:
            env = command_env(settings, project) | local_profile(project)
            env |= {"DBT_TARGET_PATH": folder, "WAREHOUSE_PROD_SCHEMA": name.replace("-", "_")}
            install_packages(project, env)
            run_dbt(project, env, *words)
            shutil.move(Path(folder, "static_index.html"), page)
        links += f'<li><a href="{name}/">{name}</a></li>'
    (site / "index.html").write_text(f"<!doctype html><title>dbt docs</title><ul>{links}</ul>\n")
    console.print(f"The docs are in {site}.")


def chosen_project(settings: Settings, name: str) -> Path:
    """Return the folder of the project with this name, by default of the one in local.toml."""
    project = settings.dbt_projects / (name or settings.local_toml["project"])
    if not (project / "dbt_project.yml").is_file():
        raise Failure(f"There is no dbt project {project.name}: {project} has no dbt_project.yml.")
    return project


def project_yml(project: Path) -> dict:
    # The parser names the file in its errors only if it reads the file itself.
    with (project / "dbt_project.yml").open() as file:
        content = yaml.safe_load(file)
    if not (isinstance(content, dict) and content.get("name")):
        raise Failure(f"{project / 'dbt_project.yml'} has no name: give it one.")
    return content


def install_packages(project: Path, env: dict[str, str]) -> None:
    """Run `dbt deps` if a project names packages and it was not run yet."""
    folder = project / project_yml(project).get("packages-install-path", "dbt_packages")
    has_file = any((project / name).is_file() for name in ("packages.yml", "dependencies.yml"))
    if has_file and not folder.is_dir():
        run_dbt(project, env, "deps")


def run_dbt(project: Path, env: dict[str, str], *words: str) -> None:
    """Run a dbt command in the folder of a project."""
    if subprocess.run([BIN / "dbt", *words], env=without_target(env), cwd=project).returncode:
        raise Failure(f"dbt {words[0]} failed in {project}: see above.")


def without_target(env: dict[str, str]) -> dict[str, str]:
    """Return an environment without DBT_TARGET and DBT_PROJECT_DIR, which dbt reads too."""
    # DBT_TARGET is the target of the DAGs. DBT_PROJECT_DIR may be the folder of another project.
    return {k: v for k, v in env.items() if k not in ("DBT_TARGET", "DBT_PROJECT_DIR")}


def local_profile(project: Path) -> dict[str, str]:
    """Return the variables with which dbt uses local/profiles.yml for a project."""
    folder = str(ROOT / "local")
    return {"DBT_PROFILES_DIR": folder, "DBT_PROFILE": "local", "WAREHOUSE_PROJECT": project.name}


def command_env(settings: Settings, project: Path) -> dict[str, str]:
    """Return the environment of dbt commands in a project, also for `make ci-dbt`."""
    today = datetime.now(UTC).date()
    own = settings.environment.get("DBT_PROFILES_DIR")
    return {
        # Microbatch models build the last month. Without an interval the first build goes back to
        # `begin`.
        "DBT_EVENT_TIME_START": str(today - timedelta(days=31)),
        "DBT_EVENT_TIME_END": str(today),
        # dbt 1.12 would read the .env of the Astro CLI, and with it the DBT_TARGET of the DAGs.
        "PYTHON_DOTENV_DISABLED": "1",
        **settings.environment,
        **settings.dbt_env(),
        **({"DBT_PROFILES_DIR": str(project / own)} if own else local_profile(project)),
    }
