"""A dbt project on the command line: which one, and what it is told."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from local.settings import OWN, PROJECTS, Failure, dbt_env


def chosen_project() -> Path:
    """Return the folder of the project that PROJECT= or local.toml names."""
    project = PROJECTS / (os.environ.get("PROJECT") or OWN["project"])
    if not (project / "dbt_project.yml").is_file():
        raise Failure(f"PROJECT={project.name} is no dbt project: there is no {project}.")
    return project


def lacks_packages(project: Path) -> bool:
    return (project / "packages.yml").is_file() and not (project / "dbt_packages").is_dir()


def last_month() -> dict[str, str]:
    """Return the days that microbatch models build, as the variables that dbt reads.

    Without an interval a first build goes back to `begin`.
    """
    today = datetime.now(UTC).date()
    return {
        "DBT_EVENT_TIME_START": str(today - timedelta(days=31)),
        "DBT_EVENT_TIME_END": str(today),
    }


def warehouse() -> dict[str, str]:
    """Return which warehouse: that of the variables, else the local one."""
    return {name: os.environ.get(name) or value for name, value in dbt_env().items()}
