"""The project `all-of-dbt`, which has one of everything: all of it, and the part of a selector."""

from datetime import datetime

# Airflow skips files without the words "airflow" and "dag"; this comment contains both.
from cosmos import ProjectConfig, RenderConfig

from include.dbt_build import DbtDag
from include.warehouse import DBT_PROJECTS, warehouse_profile

PROJECT = DBT_PROJECTS / "all-of-dbt"
DAYS = {"DBT_EVENT_TIME_START": "2026-01-01", "DBT_EVENT_TIME_END": "2026-01-04"}
ARGS = {"schedule": None, "start_date": datetime(2026, 1, 1)}

all_of_dbt = DbtDag(
    dag_id="all_of_dbt",
    **ARGS,
    project_config=ProjectConfig(PROJECT, dbt_vars={"smallest_order_cents": 1000}, env_vars=DAYS),
    profile_config=warehouse_profile("all-of-dbt"),
)

part_of_dbt = DbtDag(
    dag_id="part_of_dbt",
    **ARGS,
    project_config=ProjectConfig(PROJECT, env_vars=DAYS),
    profile_config=warehouse_profile("all-of-dbt", target="staging", schema="staging_of_dbt"),
    render_config=RenderConfig(selector="sales"),
)
