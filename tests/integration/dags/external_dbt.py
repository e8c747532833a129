"""The project `states` with an external dbt, whose path is in the variable EXTERNAL_DBT.

Without the variable there is no DAG in this file. test_other_ways.py sets it.
"""

import os
from datetime import datetime, timedelta

# Airflow skips files without the words "airflow" and "dag"; this comment contains both.
from cosmos import ExecutionConfig, ProjectConfig
from cosmos.constants import InvocationMode

from include.dbt_build import DbtDag
from include.warehouse import DBT_PROJECTS, warehouse_profile

DAYS = {"DBT_EVENT_TIME_START": "2026-01-01", "DBT_EVENT_TIME_END": "2026-01-04"}

if executable := os.environ.get("EXTERNAL_DBT"):
    external_dbt = DbtDag(
        dag_id="external_dbt",
        schedule=None,
        start_date=datetime(2026, 1, 1),
        default_args={"owner": "tests", "retries": 1, "retry_delay": timedelta(seconds=1)},
        project_config=ProjectConfig(DBT_PROJECTS / "states", env_vars=DAYS),
        profile_config=warehouse_profile("states"),
        execution_config=ExecutionConfig(
            dbt_executable_path=executable, invocation_mode=InvocationMode.SUBPROCESS
        ),
    )
