"""A small dbt project in a folder of its own."""

import textwrap
from datetime import datetime
from pathlib import Path

import pytest
from cosmos import DbtDag

from include.dbt_build import add_dbt_build, cosmos_args

FILES = {
    "dbt_project.yml": "{name: second, version: 1.0.0, profile: any}",
    # By name `base` comes after `all_of_it`: the owner of a test is not the last one by name.
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


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def second(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DBT_PROJECTS_DIR", str(tmp_path / "dbt"))
    monkeypatch.setattr("cosmos.settings.cache_dir", tmp_path / "cosmos")
    return write(tmp_path / "dbt" / "second", FILES)


def prepare(name: str = "second", **args) -> Path:
    """Prepare a dbt project as a DAG file does; return where it is run from."""
    return cosmos_args(name, **args)["project_config"].dbt_project_path


def render(name: str) -> DbtDag:
    """A DAG of a dbt project, made as the project's own DAGs are."""
    dag = DbtDag(dag_id=name, start_date=datetime(2026, 1, 1), **cosmos_args(name))
    add_dbt_build(dag)
    return dag
