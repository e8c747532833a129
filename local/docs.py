"""The docs of all dbt projects, as pages to publish: `make docs`."""

import shutil
import tempfile
from html import escape
from pathlib import Path

from local import postgres
from local.dbt import last_month, profile_name, profiles_yml, run_dbt
from local.progress import console
from local.settings import Settings


def docs(settings: Settings) -> None:
    site = settings.home / "site"
    shutil.rmtree(site, ignore_errors=True)
    projects = sorted(path.parent for path in settings.dbt_projects.glob("*/dbt_project.yml"))
    for project in projects:
        (site / project.name).mkdir(parents=True)
        (site / project.name / "index.html").write_bytes(page(settings, project))
    names = [escape(project.name) for project in projects]
    links = "".join(f'<li><a href="{name}/">{name}</a></li>' for name in names)
    (site / "index.html").write_text(f"<!doctype html><title>dbt docs</title><ul>{links}</ul>\n")
    console.print(f"The docs are in {site}.")


def page(settings: Settings, project: Path) -> bytes:
    """Return the docs of a project with the names of prod, all in one page."""
    words = ["docs", "generate", "--static"]
    if not settings.environment.get("WAREHOUSE_URL") and not postgres.port_in_use(settings):
        # There are no columns and sizes if there is no warehouse.
        words += ["--empty-catalog", "--no-populate-cache"]
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        profile = profiles_yml(profile_name(project), prod=project.name.replace("-", "_"))
        Path(folder, "profiles.yml").write_text(profile)
        paths = {"DBT_TARGET_PATH": folder, "DBT_PROFILES_DIR": folder}
        env = {**last_month(), **settings.environment, **settings.dbt_env(), **paths}
        run_dbt(project, env, *words)
        return Path(folder, "static_index.html").read_bytes()
