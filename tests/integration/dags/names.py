"""The project `names`, whose files, models and sources have difficult names."""

from datetime import datetime, timedelta

# Airflow skips files without the words "airflow" and "dag"; this comment contains both.
from cosmos import ProjectConfig

from include.dbt_build import DbtDag
from include.warehouse import DBT_PROJECTS, warehouse_profile

names = DbtDag(
    dag_id="names",
    schedule=None,
    start_date=datetime(2026, 1, 1),
    default_args={"owner": "tests", "retries": 1, "retry_delay": timedelta(seconds=1)},
    max_active_runs=1,
    project_config=ProjectConfig(DBT_PROJECTS / "names"),
    profile_config=warehouse_profile("names"),
    source_freshness=True,
)
