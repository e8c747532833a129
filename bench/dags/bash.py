"""What people call the dbt operator: one task that runs `dbt build`."""

import os
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], os.environ["BENCH_PROJECT"])

with DAG("bash", schedule=None):
    BashOperator(
        task_id="dbt_build",
        bash_command=f"{os.environ['BENCH_DBT']} build --profile {PROJECT.name} --target prod",
        cwd=str(PROJECT),
    )
