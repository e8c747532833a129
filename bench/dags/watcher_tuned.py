"""Cosmos's watcher with every public setting that helps here: a short poke interval, tasks that are
not deferred, no tests of uploads; with the settings of `tuned` in bench/ways.py."""

import os
from pathlib import Path

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag, ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.constants import ExecutionMode, LoadMode

PROJECT = Path(os.environ["DBT_PROJECTS_DIR"], os.environ["BENCH_PROJECT"])

watcher_tuned = DbtDag(
    dag_id="watcher_tuned",
    schedule=None,
    project_config=ProjectConfig(
        PROJECT,
        manifest_path=PROJECT / "target" / "manifest.json",
        install_dbt_deps=False,
    ),
    profile_config=ProfileConfig(
        profile_name=PROJECT.name,
        target_name="prod",
        profiles_yml_filepath=PROJECT / "profiles.yml",
    ),
    render_config=RenderConfig(load_method=LoadMode.DBT_MANIFEST, emit_datasets=False),
    execution_config=ExecutionConfig(execution_mode=ExecutionMode.WATCHER),
    operator_args={
        "poke_interval": 1,
        "deferrable": False,
        "dbt_cmd_flags": os.environ["BENCH_FLAGS"].split(),
    },
)
