"""How Cosmos finds, renders and runs the dbt projects in dbt/: the one place for it.

Every function takes a project's folder name, so a second project needs no change here.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import ObjectStoragePath
from airflow.sdk.configuration import conf
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, SourceRenderingBehavior
from cosmos.operators._watcher.state import DBT_SUCCESS_STATUSES
from cosmos.profiles import PostgresUserPasswordProfileMapping

from include import dbt_graph, warehouse  # noqa: F401  dbt_graph sets Cosmos up
from include.dbt_log import one_xcom_per_task

# A dbt in an environment of its own, for a dbt that conflicts with Airflow. Unset: the dbt
# next to Airflow runs inside the task's process, which saves its start-up at every task.
DBT_EXECUTABLE = os.environ.get("DBT_EXECUTABLE")

THREADS = 4

# Seconds between two looks of a model's task at the running `dbt build`. Cosmos's default of 10
# makes a model that takes one second look as if it took ten.
POKE_INTERVAL = 1

# What dbt or an editor writes into a project; it says nothing about the manifest's age.
GENERATED = {"target", "logs", "dbt_packages"}


def project_path(name: str) -> Path:
    """Return the folder of a dbt project.

    The folder differs between a clone, a container, `astro dev start --standalone` and a
    deployment whose dags/ come from a DAG bundle: only the last has no dbt/ beside include/.

    Raises:
        FileNotFoundError: no candidate holds a dbt_project.yml.
    """
    candidates = [
        Path(root) / name
        for root in (
            os.environ.get("DBT_PROJECTS_DIR"),
            Path(__file__).resolve().parents[1] / "dbt",
            "/usr/local/airflow/dbt",
        )
        if root
    ]
    for candidate in candidates:
        if (candidate / "dbt_project.yml").is_file():
            return candidate
    raise FileNotFoundError(
        f"No dbt project '{name}' in {', '.join(map(str, candidates))}: "
        "set DBT_PROJECTS_DIR to the folder that holds it."
    )


def fresh_manifest(project: Path) -> Path | None:
    """Return a manifest of the project that is younger than its files and folders, if any."""
    manifests = [
        path
        for path in (
            project / "target" / "manifest.json",
            # The image's own, which a mounted dbt/ does not hide.
            Path("/usr/local/airflow/manifests") / f"{project.name}.json",
        )
        if path.is_file()
    ]
    if not manifests:
        return None
    newest = max(manifests, key=_mtime)
    made = _mtime(newest)
    for folder, subfolders, files in os.walk(project):
        subfolders[:] = [name for name in subfolders if name not in GENERATED]
        # A folder's own time tells of files that were deleted or renamed. The project's
        # root is left out: dbt makes target/ and logs/ there.
        if any(_mtime(Path(folder, name)) > made for name in (*files, *subfolders)):
            return None
    return newest


def _mtime(path: Path) -> float:
    return path.stat().st_mtime


def project_config(name: str, env_vars: dict[str, str] | None = None) -> ProjectConfig:
    """Return where the project is, with its manifest if that is fresh.

    env_vars are what dbt finds in its environment; Airflow renders their templates.
    """
    project = project_path(name)
    return ProjectConfig(
        dbt_project_path=project,
        manifest_path=fresh_manifest(project),
        env_vars=env_vars,
        # Installed when the image was built; every task would install them again.
        install_dbt_deps=not (project / "dbt_packages").is_dir(),
    )


def profile_config(name: str) -> ProfileConfig:
    """Return the dbt profile made from the Airflow connection to the warehouse."""
    return ProfileConfig(
        profile_name=name,
        target_name="prod",
        profile_mapping=PostgresUserPasswordProfileMapping(
            conn_id=warehouse.CONN_ID,
            profile_args={"schema": "analytics", "threads": THREADS},
        ),
    )


def render_config(
    project: ProjectConfig, select: list[str] | None = None, exclude: list[str] | None = None
) -> RenderConfig:
    """Return which nodes become tasks, and how Cosmos learns about them.

    With a fresh manifest no dbt runs while a DAG file is parsed. After an edit it is stale,
    and Cosmos asks `dbt ls`, whose answer it caches until the next edit.
    """
    return RenderConfig(
        load_method=LoadMode.DBT_MANIFEST if project.manifest_path else LoadMode.DBT_LS,
        select=select or [],
        exclude=exclude or [],
        source_rendering_behavior=SourceRenderingBehavior.NONE,
        # See include/assets.py for the asset that takes their place.
        emit_datasets=False,
        **_dbt_executable(),
    )


def execution_config() -> ExecutionConfig:
    """Return how dbt runs: one `dbt build` that every model's and test's task watches."""
    return ExecutionConfig(
        execution_mode=ExecutionMode.WATCHER,
        setup_operator_args={
            "dbt_runner_callbacks": [one_xcom_per_task()],
            # Its retry runs no dbt, and until then the retry of a model's task only reads the
            # same failure again. After it that task runs dbt.
            "retry_delay": timedelta(0),
            "on_retry_callback": _forget_failures,
        },
        **_dbt_executable(),
    )


def _forget_failures(context) -> None:
    """Let a task that is cleared after the cause was mended run dbt, at once.

    What one `dbt build` said about each node outlives that build's own task. A task behind the
    failure would still read that dbt had skipped its node, and fail once more.
    """
    # Not there after a killed worker, for which the dag-processor calls this.
    kept = getattr(context["ti"], "_cosmos_xcom_backup_buffer", {})
    for key, value in list(kept.items()):
        told = value["value"] if "along" in value else value
        status = told.get("status") if isinstance(told, dict) else told
        about_a_node = key.endswith(("_status", "_dbt_event")) and key != "task_status"
        if about_a_node and status not in DBT_SUCCESS_STATUSES:
            del kept[key]


def operator_args(**more) -> dict:
    """Return the arguments of every dbt task of a DAG, with those of this DAG added."""
    return {
        "poke_interval": POKE_INTERVAL,
        **more,
        # Always: Cosmos's trigger knows nothing of the XComs that include/dbt_log.py writes. And a
        # deferred task that resumes within a second or two can count as killed, since Airflow hears
        # late that its first process has ended (apache/airflow#67287); and it starts twice. The
        # price is a worker slot for each model whose turn it is.
        "deferrable": False,
    }


def docs_place(name: str) -> dict | None:
    """Return where the project's docs go: where Cosmos's plugin shows them from, if it does."""
    return json.loads(conf.get("cosmos", "dbt_docs_projects", fallback="{}")).get(name)


def docs_args(name: str) -> dict:
    """Return the arguments of the task that makes a project's docs."""
    project = project_config(name)
    return {
        "project_dir": project.dbt_project_path,
        "profile_config": profile_config(name),
        "install_deps": project.install_dbt_deps,
        # All in one file, which needs nothing from the network.
        "dbt_cmd_flags": ["--static"],
        "callback": _keep_docs,
        "callback_args": {"place": docs_place(name)},
        # Both would be of the whole project.
        "emit_datasets": False,
        "should_store_compiled_sql": False,
        **_dbt_executable(),
    }


def _keep_docs(project_dir: str, place: dict, **_) -> None:
    folder = ObjectStoragePath(place["dir"], conn_id=place.get("conn_id"))
    folder.mkdir(parents=True, exist_ok=True)
    made = Path(project_dir) / "target" / "static_index.html"
    (folder / place["index"]).write_bytes(made.read_bytes())


def _dbt_executable() -> dict:
    if not DBT_EXECUTABLE:
        return {}
    # Cosmos ignores the path as long as it can import dbt, unless told to use a subprocess.
    return {"dbt_executable_path": DBT_EXECUTABLE, "invocation_mode": InvocationMode.SUBPROCESS}
