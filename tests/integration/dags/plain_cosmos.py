"""Cosmos as its documentation has it, beside the DAGs that go by include/dbt_build."""

from datetime import datetime

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag, ExecutionConfig, RenderConfig
from cosmos.constants import ExecutionMode, LoadMode

from include.dbt_build import cosmos_args

PREPARED = cosmos_args("states")


def plain(mode: ExecutionMode) -> DbtDag:
    return DbtDag(
        dag_id=f"plain_{mode.value}",
        schedule=None,
        start_date=datetime(2026, 1, 1),
        project_config=PREPARED["project_config"],
        profile_config=PREPARED["profile_config"],
        execution_config=ExecutionConfig(execution_mode=mode),
        render_config=RenderConfig(
            load_method=LoadMode.DBT_MANIFEST, select=["a", "b"], emit_datasets=False
        ),
    )


plain_local, plain_watcher = plain(ExecutionMode.LOCAL), plain(ExecutionMode.WATCHER)
