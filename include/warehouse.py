"""The folder, schemas and profile of the dbt projects. Yours to edit."""

import os
from pathlib import Path

from airflow.sdk.configuration import conf
from cosmos import ProfileConfig
from cosmos.profiles import PostgresUserPasswordProfileMapping

# A checkout and a DAG bundle have dbt/ beside include/. Without it, the copy of the image is used.
CANDIDATES = (Path(__file__).resolve().parents[1] / "dbt", Path("/usr/local/airflow/dbt"))
DBT_PROJECTS = Path(
    os.environ.get("DBT_PROJECTS_DIR") or next(filter(Path.is_dir, CANDIDATES), CANDIDATES[0])
)
# The worker queue of the tasks that run dbt: deploy/prod.yaml has one for them.
DBT_QUEUE = os.environ.get("DBT_QUEUE") or conf.get("operators", "default_queue")


def deployed_target() -> str:
    """Return dbt's target, DBT_TARGET, which has no default outside of the image."""
    if target := os.environ.get("DBT_TARGET"):
        return target
    raise RuntimeError(
        "DBT_TARGET is not set. The image sets it, and so does `make start`; for standalone mode "
        "run `make standalone`, then the command that it prints."
    )


def target_schema(name: str, target: str | None = None) -> str:
    """Return the schema of a project or source. The names of custom schemas begin with it.

    In prod it is the name, elsewhere `<target>_<name>`, so two deployments can share a database.
    """
    target = target or deployed_target()
    return (name if target == "prod" else f"{target}_{name}").replace("-", "_")


def warehouse_profile(
    name: str,
    *,
    target: str | None = None,
    schema: str | None = None,
    threads: int = 4,
    conn_id: str = "warehouse",
) -> ProfileConfig:
    """Return the dbt profile of a project, from an Airflow connection."""
    target = target or deployed_target()
    schema = schema or target_schema(name, target)
    return ProfileConfig(
        profile_name=name,
        target_name=target,
        profile_mapping=PostgresUserPasswordProfileMapping(
            conn_id=conn_id, profile_args={"schema": schema, "threads": threads}
        ),
    )
