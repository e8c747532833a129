"""Cosmos as its documentation has it, beside the DAGs that go by include/dbt_build."""

from datetime import datetime

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag, ExecutionConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, LoadMode

from include.dbt_build.config import TARGET, profile_config
from include.dbt_build.project import manifest, project_path


def plain(mode: ExecutionMode) -> DbtDag:
    return DbtDag(
        dag_id=f"plain_{mode.value}",
        schedule=None,
        start_date=datetime(2026, 1, 1),
        project_config=ProjectConfig(
            project_path("states"),
            manifest_path=manifest("states", TARGET),
            install_dbt_deps=False,
        ),
        profile_config=profile_config("states"),
        execution_config=ExecutionConfig(execution_mode=mode),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST, select=["a", "b"], emit_datasets=False
        ),
    )


plain_local, plain_watcher = plain(ExecutionMode.LOCAL), plain(ExecutionMode.WATCHER)
