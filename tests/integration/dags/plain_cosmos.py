"""A DAG as in Cosmos's documentation, with the classes of Cosmos and with those of the engine."""

import os
import sys
from datetime import datetime
from pathlib import Path

# Airflow skips files without the words "airflow" and "dag"; this comment contains both.
import cosmos
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode
from cosmos.profiles import PostgresUserPasswordProfileMapping

from include import dbt_build

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], "states")


def make_dag(dag_class, dag_id: str, mode=ExecutionMode.LOCAL, manifest: Path | None = None):
    return dag_class(
        dag_id=dag_id,
        schedule=None,
        start_date=datetime(2026, 1, 1),
        default_args={"owner": "tests", "retries": 0},
        project_config=ProjectConfig(dbt_project_path=PROJECT, manifest_path=manifest),
        profile_config=ProfileConfig(
            profile_name="states",
            target_name="dev",
            profile_mapping=PostgresUserPasswordProfileMapping(
                conn_id="warehouse", profile_args={"schema": "states"}
            ),
        ),
        execution_config=ExecutionConfig(
            execution_mode=mode, dbt_executable_path=Path(sys.executable).with_name("dbt")
        ),
        render_config=RenderConfig(select=["a", "b"]),
    )


drop_in = make_dag(dbt_build.DbtDag, "drop_in")
# With a manifest Cosmos does not run dbt each time that this file is parsed.
MANIFEST = drop_in.get_task("dbt_build").project.target / "manifest.json"
plain_local = make_dag(cosmos.DbtDag, "plain_local", manifest=MANIFEST)
plain_watcher = make_dag(cosmos.DbtDag, "plain_watcher", ExecutionMode.WATCHER, MANIFEST)
