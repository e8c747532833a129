"""Cosmos's watcher with its defaults: one `dbt build`, which every model's task watches."""

import os
from pathlib import Path

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag, ExecutionConfig, ProfileConfig, ProjectConfig
from cosmos.constants import ExecutionMode

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], os.environ["BENCH_PROJECT"])

watcher = DbtDag(
    dag_id="watcher",
    schedule=None,
    project_config=ProjectConfig(PROJECT),
    profile_config=ProfileConfig(
        profile_name=PROJECT.name,
        target_name="prod",
        profiles_yml_filepath=PROJECT / "profiles.yml",
    ),
    execution_config=ExecutionConfig(execution_mode=ExecutionMode.WATCHER),
)
