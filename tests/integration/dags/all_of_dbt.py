"""The project `all-of-dbt`, which has one of everything: whole, and a part of it by a selector."""

from datetime import datetime

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag

from include.dbt_build import add_dbt_build, cosmos_args

DAYS = {"DBT_EVENT_TIME_START": "2026-01-01", "DBT_EVENT_TIME_END": "2026-01-04"}
ARGS = {"schedule": None, "start_date": datetime(2026, 1, 1)}

all_of_dbt = DbtDag(
    dag_id="all_of_dbt",
    **ARGS,
    **cosmos_args("all-of-dbt", vars={"smallest_order_cents": 1000}, env_vars=DAYS),
)
part_of_dbt = DbtDag(
    dag_id="part_of_dbt",
    **ARGS,
    **cosmos_args(
        "all-of-dbt", selector="sales", target="staging", schema="staging_of_dbt", env_vars=DAYS
    ),
)
for dag in (all_of_dbt, part_of_dbt):
    add_dbt_build(dag)
