"""Cosmos as most people write it: a dbt process for each task, in an environment of its own."""

import os
from pathlib import Path

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import InvocationMode, LoadMode, TestIndirectSelection

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], os.environ["BENCH_PROJECT"])
DBT = {
    "dbt_executable_path": os.environ["BENCH_DBT"],
    "invocation_mode": InvocationMode.SUBPROCESS,
}

local = DbtDag(
    dag_id="local",
    schedule=None,
    project_config=ProjectConfig(PROJECT),
    profile_config=ProfileConfig(
        profile_name=PROJECT.name,
        target_name="prod",
        profiles_yml_filepath=PROJECT / "profiles.yml",
    ),
    render_config=RenderConfig(load_method=LoadMode.DBT_LS, **DBT),
    execution_config=ExecutionConfig(
        # Without it a test that reads two models runs after the first of them, and fails on a fresh
        # warehouse. With it no task runs that test.
        test_indirect_selection=TestIndirectSelection.CAUTIOUS,
        **DBT,
    ),
)
