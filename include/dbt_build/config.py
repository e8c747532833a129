"""How Cosmos renders and runs a dbt project: what a DAG file calls."""

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
from include.dbt_build.project import DBT_EXECUTABLE, manifest_path, prepared
from include.target import deployed_target, target_schema

# The worker queue of every task that may run dbt: deploy/prod.yaml has one for them.
QUEUE = os.environ.get("DBT_QUEUE") or conf.get("operators", "default_queue")


def cosmos_args(
    name: str,
    *,
    select: list[str] | None = None,
    exclude: list[str] | None = None,
    selector: str | None = None,
    vars: dict | None = None,
    env_vars: dict[str, str] | None = None,
    conn_id: str = "warehouse",
    target: str | None = None,
    schema: str | None = None,
    threads: int = 4,
    **operator_args,
) -> dict:
    """Return the arguments of a DbtDag or DbtTaskGroup of the dbt project in dbt/<name>.

    Args:
        select, exclude, selector: which nodes, as dbt takes them.
        vars: dbt's, the same in every run. Others would make dbt parse the project in each.
        env_vars: what dbt finds in its environment. Airflow renders their templates.
        conn_id: the Airflow connection to the warehouse.
        target: dbt's target, for what the project does by `target.name`; by default DBT_TARGET.
        schema: where dbt builds, `target.schema`; by default `target_schema` of the project's name,
            so that two projects, or two deployments, never build the same table.
        threads: how many nodes dbt builds at once, each on a connection of its own.
        operator_args: of Cosmos's operators, such as full_refresh. Airflow renders their templates.
    """
    target = target or deployed_target()
    profile = ProfileConfig(
        profile_name=name,
        target_name=target,
        profile_mapping=PostgresUserPasswordProfileMapping(
            conn_id=conn_id,
            profile_args={"schema": schema or target_schema(name, target), "threads": threads},
        ),
    )
    place = prepared(name, profile, vars or {})
    apart = {"dbt_executable_path": DBT_EXECUTABLE, "invocation_mode": InvocationMode.SUBPROCESS}
    return {
        "project_config": ProjectConfig(
            dbt_project_path=place,
            manifest_path=manifest_path(place),
            env_vars=env_vars,
            # They are: project.py has seen to it.
            install_dbt_deps=False,
        ),
        "profile_config": profile,
        "render_config": RenderConfig(
            load_method=LoadMode.DBT_MANIFEST,
            select=select or [],
            exclude=exclude or [],
            selector=selector,
            node_converters=node_converters(manifest_path(place)),
            node_conversion_by_task_group=False,
            source_rendering_behavior=SourceRenderingBehavior.NONE,
            # Told tasks run no process that could emit them.
            emit_datasets=False,
        ),
        "execution_config": ExecutionConfig(
            execution_mode=ExecutionMode.LOCAL,
            # Cosmos ignores the path as long as it can import dbt, unless told to use a subprocess.
            **(apart if DBT_EXECUTABLE else {}),
        ),
        "operator_args": {
            "queue": QUEUE,
            **({"vars": vars} if vars else {}),
            **operator_args,
        },
    }


def docs_place(name: str) -> dict | None:
    """Return where the project's docs go: where Cosmos's plugin shows them from, if it does.

    [cosmos] dbt_docs_projects names that by project, or under `dbt` for the only one.
    """
    places = json.loads(conf.get("cosmos", "dbt_docs_projects", fallback="{}"))
    return places.get(name) or places.get("dbt")


def docs_args(args: dict) -> dict:
    """Return the arguments of a DbtDocsLocalOperator that makes the docs of a project.

    args are what `cosmos_args` has returned for it.
    """
    place = args["project_config"].dbt_project_path
    return {
        "project_dir": place,
        "profile_config": args["profile_config"],
        "install_deps": False,
        "cache_dir": place,
        # All in one file, which needs nothing from the network.
        "dbt_cmd_flags": ["--static"],
        "callback": _keep_docs,
        "callback_args": {"place": docs_place(place.name)},
        # Both would be of the whole project.
        "emit_datasets": False,
        "should_store_compiled_sql": False,
    }


def _keep_docs(project_dir: str, place: dict, **_) -> None:
    folder = ObjectStoragePath(place["dir"], conn_id=place.get("conn_id"))
    folder.mkdir(parents=True, exist_ok=True)
    made = ObjectStoragePath(f"file://{project_dir}/target/static_index.html")
    (folder / place["index"]).write_bytes(made.read_bytes())
