"""The ways that do not use this project's engine."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from cosmos import DbtTaskGroup, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, InvocationMode, LoadMode, TestIndirectSelection

from include.warehouse import warehouse_profile

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], os.environ["BENCH_PROJECT"])
PROFILES_YML = ProfileConfig(PROJECT.name, "prod", profiles_yml_filepath=PROJECT / "profiles.yml")
DBT = shutil.which("dbt")
NEW_PROCESS = {"dbt_executable_path": DBT, "invocation_mode": InvocationMode.SUBPROCESS}
# With the default a test that reads two models runs after the first of them, and fails on an empty
# warehouse. With this no task runs that test.
CAUTIOUS = {"test_indirect_selection": TestIndirectSelection.CAUTIOUS}

COSMOS = {
    "cosmos_subprocess": {
        "render_config": RenderConfig(load_method=LoadMode.DBT_LS, **NEW_PROCESS),
        "execution_config": ExecutionConfig(**CAUTIOUS, **NEW_PROCESS),
    },
    # The arguments of shipped.py, with a manifest.
    "cosmos_in_process": {
        "project_config": ProjectConfig(PROJECT, manifest_path=PROJECT / "target/manifest.json"),
        "profile_config": warehouse_profile(PROJECT.name),
        "execution_config": ExecutionConfig(**CAUTIOUS),
    },
    "watcher": {"execution_config": ExecutionConfig(execution_mode=ExecutionMode.WATCHER)},
}

(way,) = json.loads(os.environ["BENCH_DAGS"])
with DAG(way, schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}):
    if way == "bash":
        BashOperator(task_id="dbt_build", bash_command="dbt build", cwd=str(PROJECT))
    else:
        common = {"project_config": ProjectConfig(PROJECT), "profile_config": PROFILES_YML}
        DbtTaskGroup(group_id="dbt", **common | COSMOS[way])
