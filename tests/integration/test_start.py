"""`make start`, whichever DAG it runs."""

import os

import pytest

from tests.conftest import SETTINGS, free_port, local
from tests.integration.pages import first_run

pytestmark = pytest.mark.timeout(600)


def test_start_runs_the_dags_of_local_toml(started):
    assert started.returncode == 0, started.stdout + started.stderr
    for dag_id in (SETTINGS.local_toml["dag"], *SETTINGS.local_toml["then"]):
        assert f"success  {dag_id} in" in started.stdout


def test_start_prints_plain_lines_into_a_pipe(started):
    # A step that takes longer than usual prints lines in between.
    lines = [line for line in started.stdout.splitlines() if not line.startswith("... ")]
    assert lines[:3] == [
        f"Starting Postgres on 127.0.0.1:{os.environ['WAREHOUSE_PORT']}",
        "Parsing the dbt projects",
        "Preparing Airflow's metadata database",
    ]
    assert started.stdout.replace("\n", "").isprintable()


def test_another_port_for_postgres_is_refused_while_both_run(api):
    again = local("start", env={"WAREHOUSE_PORT": free_port()})
    assert again.returncode != 0
    assert again.stdout == ""
    assert again.stderr.startswith("error: Postgres already runs on port ")
    assert len(again.stderr.splitlines()) == 1


def test_a_list_of_several_pages_is_read_completely(api, monkeypatch):
    dag_id = SETTINGS.local_toml["dag"]
    run_id = first_run(api, dag_id)
    path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
    whole = api("GET", path, params={"limit": 100})["task_instances"]
    monkeypatch.setattr("local.pipeline.PAGE", max(1, len(whole) // 2))
    assert [task["id"] for task in api.all(path, "task_instances")] == [t["id"] for t in whole]
