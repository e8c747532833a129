"""The docs of all dbt projects, as pages to publish: `make docs`."""

import os
import shutil
import subprocess
import tempfile
from html import escape
from pathlib import Path

from local import postgres
from local.adopt import profile
from local.dbt import lacks_packages, last_month, warehouse
from local.findings import PROFILES_YML
from local.progress import console
from local.settings import BIN, HOME, PROJECTS, Failure

SITE = HOME / "site"


def docs(args) -> None:
    shutil.rmtree(SITE, ignore_errors=True)
    names = sorted(path.parent.name for path in PROJECTS.glob("*/dbt_project.yml"))
    for name in names:
        (SITE / name).mkdir(parents=True)
        (SITE / name / "index.html").write_bytes(made(PROJECTS / name))
    links = "".join(f'<li><a href="{escape(name)}/">{escape(name)}</a></li>' for name in names)
    (SITE / "index.html").write_text(f"<!doctype html><title>dbt docs</title><ul>{links}</ul>\n")
    console.print(f"The docs are in {SITE}", soft_wrap=True)


def made(project: Path) -> bytes:
    """Return the docs of a project in prod, all in one page."""
    words = ["docs", "generate", "--static"]
    if not (os.environ.get("WAREHOUSE_HOST") or postgres.is_running()):
        # Without the columns and sizes that a warehouse knows.
        words += ["--empty-catalog", "--no-populate-cache"]
    with tempfile.TemporaryDirectory(prefix="docs-") as folder:
        schema = project.name.replace("-", "_")
        profiles = PROFILES_YML.format(name=profile(project), schema=schema)
        Path(folder, "profiles.yml").write_text(profiles)
        for command in ([["deps"]] if lacks_packages(project) else []) + [words]:
            done = subprocess.run(
                [BIN / "dbt", *command, "--profiles-dir", folder],
                cwd=project,
                env={**last_month(), **os.environ, **warehouse(), "DBT_TARGET_PATH": folder},
            )
            if done.returncode:
                raise Failure(f"dbt {command[0]} failed in {project}: see above.")
        return Path(folder, "static_index.html").read_bytes()
