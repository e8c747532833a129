"""The sample where the plugin is off, and with a dbt of an older version in its own environment."""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT
from tests.integration.helpers import broken_stg_flights, started_apart, tasks_of

if HAS_POSTGRES:
    from local import pipeline

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

RUNS = "/dags/flights_daily/dagRuns"


def run(api) -> tuple[str, dict[str, dict]]:
    run_id = api("POST", RUNS, json={"logical_date": None})["dag_run_id"]
    with contextlib.suppress(pipeline.Failure):
        pipeline.follow(api, "flights_daily", run_id)
    return api("GET", f"{RUNS}/{run_id}")["state"], tasks_of(api, "flights_daily", run_id)


def test_without_the_plugin_every_task_accepts_what_dbt_built(project, tmp_path):
    for name in ("include", "local", "plugins"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("airflow_settings.yaml", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "plugins" / "dbt_build_api.py").unlink()
    folder = HOME / "unplugged"
    with started_apart(project, folder, root=tmp_path) as env:
        state, tasks = run(pipeline.Api(env["PORT"]))
        nodes = {name: task for name, task in tasks.items() if task["operator"] == "DbtNode"}
        logs = (
            folder
            / "airflow/logs/dag_id=flights_daily"
            / f"run_id={nodes['dbt.fct_flights.test']['dag_run_id']}"
        )
        said = (logs / "task_id=dbt.fct_flights.test" / "attempt=1.log").read_text()
        build = (logs / "task_id=dbt_build" / "attempt=1.log").read_text()
    assert state == "success"
    assert all(task["pid"] and task["state"] == "success" for task in nodes.values())
    # It accepts what the one dbt said, and runs none of its own.
    assert "PASS fct_flights_matches_source" in said
    assert "Running with dbt" not in said
    assert "Airflow can't be told now" in build


@pytest.fixture(scope="module")
def older_dbt() -> Path:
    venv = HOME / "dbt-1.11"
    uv = [Path(sys.executable).with_name("uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, venv], check=True)
    pins = ["dbt-core==1.11.16", "dbt-postgres==1.11.0"]
    subprocess.run([*uv, "pip", "install", "--python", venv / "bin" / "python", *pins], check=True)
    return venv / "bin" / "dbt"


def test_a_dbt_of_its_own_is_as_right(project, older_dbt):
    folder = HOME / "dbt-apart"
    with started_apart(project, folder, DBT_EXECUTABLE=str(older_dbt)) as env:
        api = pipeline.Api(env["PORT"])
        with broken_stg_flights(folder / "dbt" / "nyc_flights"):
            state, tasks = run(api)
        assert state == "failed"
        assert tasks["dbt.stg_flights.run"]["state"] == "failed"
        assert tasks["dbt.fct_flights.run"]["state"] == "upstream_failed"
        assert tasks["dbt.stg_weather.test"]["state"] == "success"
        log = (
            folder
            / "airflow/logs/dag_id=flights_daily"
            / f"run_id={tasks['dbt_build']['dag_run_id']}"
        )
        said = (log / "task_id=dbt.stg_flights.run" / "attempt=1.log").read_text()
        assert "no_such_column" in said
        build = (log / "task_id=dbt_build" / "attempt=1.log").read_text()
        assert "Running with dbt=1.11.16" in build
