"""A small dbt project in a folder of its own, and its DAG."""

import textwrap
from collections.abc import Mapping
from datetime import datetime
from inspect import signature
from pathlib import Path

import pytest
from cosmos import ExecutionConfig, ProfileConfig, ProjectConfig, RenderConfig
from cosmos.profiles import PostgresUserPasswordProfileMapping

from include.dbt_build import DbtDag, packages, parsing, workdir
from include.dbt_build.operators import DbtNodeOperator
from include.dbt_build.project import DbtProject

FILES = {
    "dbt_project.yml": "{name: second, version: 1.0.0, profile: any}",
    # By name `base` comes after `all_of_it`, so a test is not attached to the last node by name.
    "models/base.sql": "select 1 as id",
    "models/all_of_it.sql": "select * from {{ ref('base') }}",
    "models/apart.sql": "select 1 as id",
    "models/models.yml": """
        models:
          - name: all_of_it
            columns:
              - name: id
                data_tests:
                  - relationships: {arguments: {to: ref('apart'), field: id}}
          - name: base
            columns:
              - name: id
                data_tests:
                  - unique
                  - relationships: {arguments: {to: ref('all_of_it'), field: id}}
    """,
}
PROJECT_FILE = (
    "{name: small, version: 1.0.0, profile: any, flags: {send_anonymous_usage_stats: false}}"
)


# Subprocesses of a test import this module. tests/fixtures.py would change their environment.
def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Cosmos's cache, which holds the working directories, in a folder of this test."""
    monkeypatch.setattr("cosmos.settings.cache_dir", tmp_path / "cosmos")
    return tmp_path / "cosmos"


@pytest.fixture
def commands(monkeypatch) -> list[str]:
    """The commands of dbt that the working directory needed."""
    called = []
    run_dbt = parsing.run_dbt

    def recorded(project, command, *words):
        called.append(command)
        return run_dbt(project, command, *words)

    for module in (packages, workdir):
        monkeypatch.setattr(module, "run_dbt", recorded)
    return called


@pytest.fixture
def second(tmp_path, cache) -> Path:
    return write(tmp_path / "dbt" / "second", FILES)


@pytest.fixture(scope="session")
def second_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("unchanged")


@pytest.fixture
def unchanged(second_folder, monkeypatch) -> Path:
    """The same project for tests that do not change it, so that dbt parses it only once."""
    monkeypatch.setattr("cosmos.settings.cache_dir", second_folder / "cosmos")
    if not (second_folder / "second").exists():
        write(second_folder / "second", FILES)
    return second_folder / "second"


@pytest.fixture
def small(tmp_path, cache):
    """A function that writes a project with some files and returns its folder."""

    def make(files: Mapping[str, str], **models: str) -> Path:
        """Write files, and a model for each keyword argument."""
        models = {f"models/{name}.sql": sql for name, sql in models.items()}
        return write(tmp_path / "small", {"dbt_project.yml": PROJECT_FILE, **models, **files})

    return make


def profile(schema: str = "small", *, target: str = "dev", conn_id: str = "warehouse"):
    return ProfileConfig(
        profile_name="any",
        target_name=target,
        profile_mapping=PostgresUserPasswordProfileMapping(
            conn_id=conn_id, profile_args={"schema": schema, "threads": 4}
        ),
    )


def dbt_project(path: Path, **changes) -> DbtProject:
    return DbtProject(**{"path": path, "profile": profile(), **changes})


def arguments(path: Path, **changes) -> dict:
    """Return Cosmos's arguments for a project.

    Args:
        path: the project.
        changes: arguments of DbtDag, or of Cosmos's configs, which are made from them.
    """
    classes = {
        "project_config": ProjectConfig,
        "render_config": RenderConfig,
        "execution_config": ExecutionConfig,
    }
    values = {name: {} for name in classes} | {"project_config": {"dbt_project_path": path}}
    given = {}
    for name, value in changes.items():
        owner = next((k for k, c in classes.items() if name in signature(c).parameters), None)
        (values[owner] if owner else given)[name] = value
    configs = {name: classes[name](**values[name]) for name in classes}
    return {**configs, "profile_config": profile(), **given}


def render(path: Path, dag_id: str = "small", **changes) -> DbtDag:
    """Return the DAG of a project. The changes are those of `arguments`."""
    return DbtDag(
        dag_id=dag_id,
        schedule=None,
        start_date=datetime(2026, 1, 1),
        **arguments(path, **changes),
    )


def node_tasks(dag) -> dict[str, DbtNodeOperator]:
    return {task.task_id: task for task in dag.tasks if isinstance(task, DbtNodeOperator)}


def nodes_with_task(dag) -> set[str]:
    """Return the unique IDs of all nodes that have a task, without sources."""
    return {
        node
        for task in node_tasks(dag).values()
        if not task.checks_freshness
        for node in task.nodes
    }


def names_with_task(dag) -> set[str]:
    """Return the names of all nodes that have a task, as `model a` or `test unique_a_id`."""
    parts = [node.split(".") for node in nodes_with_task(dag)]
    return {f"{kind} {'.'.join(rest[:1] if kind == 'test' else rest)}" for kind, _, *rest in parts}


def edges(dag) -> set[tuple[str, str]]:
    """Return the edges between node tasks."""
    tasks = node_tasks(dag)
    return {
        (name, child) for name, t in tasks.items() for child in t.downstream_task_ids & tasks.keys()
    }
