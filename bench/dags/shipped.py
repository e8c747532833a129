"""This project's engine: the only file of bench/ that depends on its API."""

import json
import os
from datetime import timedelta

from cosmos import ProjectConfig, RenderConfig

# Airflow skips files without the words airflow and dag; this comment contains both.
from include.dbt_build import DbtDag
from include.warehouse import DBT_PROJECTS, DBT_QUEUE, warehouse_profile

PROJECT = os.environ["BENCH_PROJECT"]
EVENT_TIME = {n: os.environ[n] for n in ("DBT_EVENT_TIME_START", "DBT_EVENT_TIME_END")}

for dag_id, selection in json.loads(os.environ["BENCH_DAGS"]).items():
    globals()[dag_id] = DbtDag(
        dag_id=dag_id,
        schedule=None,
        default_args={"retries": 1, "retry_delay": timedelta(seconds=1)},
        project_config=ProjectConfig(DBT_PROJECTS / PROJECT, env_vars=EVENT_TIME),
        profile_config=warehouse_profile(PROJECT),
        render_config=RenderConfig(select=[selection] if selection else []),
        operator_args={"queue": DBT_QUEUE},
    )
