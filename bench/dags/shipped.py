"""This project as shipped: what dags/ does, for all of a dbt project."""

import os
from datetime import timedelta

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag

from include.dbt_build import add_dbt_build, cosmos_args

shipped = DbtDag(
    dag_id="shipped",
    schedule=None,
    # Where a model is to fail, its retry would only be waited for.
    default_args={
        "retries": 0 if os.environ["BENCH_PROJECT"].startswith("failing") else 1,
        "retry_delay": timedelta(seconds=30),
    },
    **cosmos_args(
        os.environ["BENCH_PROJECT"],
        # As the sample's DAG gives them.
        env_vars={
            "DBT_EVENT_TIME_START": os.environ["DBT_EVENT_TIME_START"],
            "DBT_EVENT_TIME_END": os.environ["DBT_EVENT_TIME_END"],
        },
        dbt_cmd_flags=os.environ["BENCH_FLAGS"].split(),
    ),
)
add_dbt_build(shipped)
