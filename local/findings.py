"""What a dbt project needs and does not have here: told by dbt and by the local Postgres."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from local import postgres
from local.settings import BIN, dbt_env, machine_settings, shared_settings

SCHEMA = "looked_at"
PROFILES_YML = """
{name}:
  target: prod
  outputs:
    prod:
      type: postgres
      host: "{{{{ env_var('WAREHOUSE_HOST') }}}}"
      port: "{{{{ env_var('WAREHOUSE_PORT') | as_number }}}}"
      user: "{{{{ env_var('WAREHOUSE_USER') }}}}"
      password: "{{{{ env_var('WAREHOUSE_PASSWORD') }}}}"
      dbname: "{{{{ env_var('WAREHOUSE_DB') }}}}"
      schema: {schema}
      threads: 4
"""


def findings(tree: Path, project: str, dag_file: Path) -> list[str]:
    """Return a line for each thing that a project of a clone lacks, with what to do.

    It is parsed as its DAG does, whatever other DAGs lack, then built without rows, in schemas that
    are dropped again.
    """
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        env = {
            **{name: v for name, v in os.environ.items() if name != "DBT_PROJECTS_DIR"},
            **shared_settings(),
            **machine_settings(),
            **dbt_env(),
            "AIRFLOW_HOME": folder,
            "AIRFLOW__CORE__DAGS_FOLDER": str(dag_file),
            "AIRFLOW__COSMOS__CACHE_DIR": folder,
            # One batch of each microbatch model.
            "DBT_EVENT_TIME_START": "2026-01-01",
            "DBT_EVENT_TIME_END": "2026-01-02",
        }
        done = subprocess.run(
            [sys.executable, "-m", "include.dbt_build"],
            cwd=tree,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode:
            _, _, said = done.stderr.partition("cannot be imported:\n")
            return [f"dbt must be able to parse it. {said.strip()}"]
        # The working directory repeats the last four folders of the project's path.
        (manifest,) = Path(folder).glob("dbt_projects/*/*/*/*/*/target/manifest.json")
        place = manifest.parent.parent
        return [*_in_postgres(place, env)]


def _in_postgres(place: Path, env: dict[str, str]) -> Iterator[str]:
    manifest = json.loads((place / "target" / "manifest.json").read_text())
    seeds = _names(manifest, "seed")
    models = _names(manifest, "model")
    running = postgres.is_running()
    if not running:
        postgres.start()
    try:
        with postgres.connect() as connection:
            before = _schemas(connection)
            for unique_id, source in manifest["sources"].items():
                if not manifest["child_map"][unique_id]:
                    continue
                name = f"{source['schema']}.{source['identifier']}"
                (there,) = connection.execute("select to_regclass(%s)", [name]).fetchone()
                if source["identifier"] in seeds:
                    yield f"source {name} is a seed of its own: read it by ref()."
                elif source["identifier"] in models:
                    yield f"source {name} is a model of its own: read it by ref()."
                elif there is None:
                    yield f"source {name} is not in the warehouse: a task before dbt must load it."
            failed = _build(place, env)
            for schema in _schemas(connection) - before:
                connection.execute(f'drop schema "{schema}" cascade')
    finally:
        if not running:
            postgres.stop()
    missing = {f'"{s["schema"]}"."{s["identifier"]}"' for s in manifest["sources"].values()}
    for node, message in failed.items():
        # Of those there is a line already.
        if not any(name.replace('"', "") in message for name in missing):
            yield f"{node.split('.', 2)[2]} fails on Postgres: {' '.join(message.split())}"


def _build(place: Path, env: dict[str, str]) -> dict[str, str]:
    """Build all without rows; return the message of each node that fails."""
    (place / "profiles.yml").unlink(missing_ok=True)
    (place / "profiles.yml").write_text(PROFILES_YML.format(name=place.name, schema=SCHEMA))
    words = ["build", "--empty", "--profile", place.name, "--profiles-dir", place]
    words += ["--exclude-resource-type", "test"]
    subprocess.run(
        [BIN / "dbt", "--quiet", *words], cwd=place, env=env, stdout=subprocess.DEVNULL, check=False
    )
    results = json.loads((place / "target" / "run_results.json").read_text())["results"]
    return {r["unique_id"]: r["message"] for r in results if r["status"] == "error"}


def _names(manifest: dict, kind: str) -> set[str]:
    return {n["alias"] for n in manifest["nodes"].values() if n["resource_type"] == kind}


def _schemas(connection) -> set[str]:
    owned = "select nspname from pg_namespace where nspowner = current_user::regrole"
    return {name for (name,) in connection.execute(owned)}
