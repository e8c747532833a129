"""This project as shipped: what dags/flights_reporting.py does, for all of a dbt project."""

import os
from datetime import timedelta

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag

from include.dbt_config import (
    execution_config,
    operator_args,
    profile_config,
    project_config,
    render_config,
)

PROJECT = os.environ["BENCH_PROJECT"]
project = project_config(PROJECT)

shipped = DbtDag(
    dag_id="shipped",
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    project_config=project,
    profile_config=profile_config(PROJECT),
    render_config=render_config(project),
    execution_config=execution_config(),
    operator_args=operator_args(),
)
