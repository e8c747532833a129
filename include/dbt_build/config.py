"""How Cosmos finds, renders and runs the dbt projects in dbt/: the one place for it."""

import json
import os

from airflow.sdk import ObjectStoragePath
from airflow.sdk.configuration import conf
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import (
    ExecutionMode,
    InvocationMode,
    LoadMode,
    SourceRenderingBehavior,
)
from cosmos.profiles import PostgresUserPasswordProfileMapping

from include.dbt_build.graph import node_converters
from include.dbt_build.project import (
    DBT_EXECUTABLE,
    cache_path,
    manifest,
    project_names,
    project_path,
)

# The Airflow connection to the warehouse.
CONN_ID = "warehouse"
TARGET = "prod"
SCHEMA = "analytics"
THREADS = 4
# The worker queue of every task that may run dbt: deploy/astro.yaml has one for them.
QUEUE = os.environ.get("DBT_QUEUE") or conf.get("operators", "default_queue")


def cosmos_args(
    name: str,
    select: list[str] | None = None,
    exclude: list[str] | None = None,
    env_vars: dict[str, str] | None = None,
    **operator_args,
) -> dict:
    """Return the arguments of a DbtDag or DbtTaskGroup of a project, named as its folder.

    select and exclude are dbt's. env_vars are what dbt finds in its environment; Airflow renders
    their templates, as those of operator_args, such as full_refresh and vars.
    """
    project = project_path(name)
    made = manifest(name, TARGET)
    apart = {"dbt_executable_path": DBT_EXECUTABLE, "invocation_mode": InvocationMode.SUBPROCESS}
    return {
        "project_config": ProjectConfig(
            dbt_project_path=project,
            manifest_path=made,
            env_vars=env_vars,
            # They are: project.py has seen to it.
            install_dbt_deps=False,
        ),
        "profile_config": profile_config(name),
        "render_config": RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            select=select or [],
            exclude=exclude or [],
            node_converters=node_converters(made),
            node_conversion_by_task_group=False,
            source_rendering_behavior=SourceRenderingBehavior.NONE,
            # Told tasks run no process that could emit them: see include/assets.py.
            emit_datasets=False,
        ),
        "execution_config": ExecutionConfig(
            execution_mode=ExecutionMode.LOCAL,
            # Cosmos ignores the path as long as it can import dbt, unless told to use a subprocess.
            **(apart if DBT_EXECUTABLE else {}),
        ),
        "operator_args": {"queue": QUEUE, **operator_args},
    }


def profile_config(name: str) -> ProfileConfig:
    """Return the dbt profile made from the Airflow connection to the warehouse."""
    return ProfileConfig(
        profile_name=name,
        target_name=TARGET,
        profile_mapping=PostgresUserPasswordProfileMapping(
            conn_id=CONN_ID, profile_args={"schema": SCHEMA, "threads": THREADS}
        ),
    )


def docs_place(name: str) -> dict | None:
    """Return where the project's docs go: where Cosmos's plugin shows them from, if it does."""
    return json.loads(conf.get("cosmos", "dbt_docs_projects", fallback="{}")).get(name)


def docs_args(name: str) -> dict:
    """Return the arguments of a DbtDocsLocalOperator that makes a project's docs."""
    return {
        "project_dir": project_path(name),
        "profile_config": profile_config(name),
        "install_deps": False,
        "cache_dir": cache_path(name),
        # All in one file, which needs nothing from the network.
        "dbt_cmd_flags": ["--static"],
        "callback": _keep_docs,
        "callback_args": {"place": docs_place(name)},
        # Both would be of the whole project.
        "emit_datasets": False,
        "should_store_compiled_sql": False,
    }


def _keep_docs(project_dir: str, place: dict, **_) -> None:
    folder = ObjectStoragePath(place["dir"], conn_id=place.get("conn_id"))
    folder.mkdir(parents=True, exist_ok=True)
    made = ObjectStoragePath(f"file://{project_dir}/target/static_index.html")
    (folder / place["index"]).write_bytes(made.read_bytes())


if __name__ == "__main__":
    # What the image and `make start` run, so that no DAG file has to wait for dbt.
    for name in project_names():
        manifest(name, TARGET)
