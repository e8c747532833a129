"""A project with more models than DBT_TESTS_AS_TASKS: a model and its tests are one task."""

import json

import pytest

from tests.conftest import HOME, connect
from tests.integration.helpers import (
    clear_with_downstream,
    impossible_rain,
    started_apart,
    tasks_of,
    told_about_nodes,
)

pytestmark = pytest.mark.timeout(600)

FOLDER = HOME / "large"
RUNS = "/dags/flights_daily/dagRuns"


@pytest.fixture(scope="module")
def started(project):
    with started_apart(project, FOLDER, DBT_TESTS_AS_TASKS="0") as env:
        yield env


@pytest.fixture(scope="module")
def api(started):
    from local.pipeline import Api

    return Api(started["PORT"])


def latest(api, dag_id: str) -> str:
    runs = api("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after", "limit": 1})
    return runs["dag_runs"][0]["dag_run_id"]


def log(run_id: str, task_id: str, attempt: int) -> str:
    folder = FOLDER / "airflow" / "logs" / "dag_id=flights_daily" / f"run_id={run_id}"
    lines = (folder / f"task_id={task_id}" / f"attempt={attempt}.log").read_text().splitlines()
    return "\n".join(json.loads(line)["event"] for line in lines)


def test_every_node_is_one_task_whose_log_has_its_tests(api):
    run_id = latest(api, "flights_reporting")
    reports = tasks_of(api, "flights_reporting", run_id)
    built = [name for name in reports if name.endswith("_model_build")]
    assert len(built) == 4
    assert set(reports) - set(built) == {"dbt_producer_watcher", "make_docs"}
    told = told_about_nodes(api, "flights_reporting", run_id, "dbt_producer_watcher")
    assert len(told) == len(built)
    said = log(latest(api, "flights_daily"), "dbt.stg_weather_model_build", 1)
    assert "OK created sql" in said
    assert "PASS stg_weather_readings_are_plausible" in said


def test_a_failing_data_test_fails_the_task_of_its_model(started, api):
    from local import pipeline

    model = "dbt.stg_weather_model_build"
    with connect(warehouse_of(started)) as warehouse, impossible_rain(warehouse) as mend:
        run_id = api("POST", RUNS, json={"logical_date": None})["dag_run_id"]
        with pytest.raises(pipeline.Failure):
            pipeline.follow(api, "flights_daily", run_id)
        tasks = tasks_of(api, "flights_daily", run_id)
        failed = {name: t["state"] for name, t in tasks.items() if t["state"] != "success"}
        assert failed == {
            model: "failed",
            "dbt.int_weather_hourly_model_build": "upstream_failed",
            "dbt.fct_flights_model_build": "upstream_failed",
            "publish_figures": "upstream_failed",
            "dbt.dbt_producer_watcher": "skipped",
        }
        # The first try says what the run's `dbt build` said, the second ran dbt itself.
        for attempt in (1, 2):
            assert "FAIL 1 stg_weather_readings_are_plausible" in log(run_id, model, attempt)
        mend()
        clear_with_downstream(api, "flights_daily", run_id, model)
        pipeline.follow(api, "flights_daily", run_id)
    assert "PASS stg_weather_readings_are_plausible" in log(run_id, model, 3)


def warehouse_of(env: dict[str, str]) -> dict[str, str]:
    from local.settings import dbt_env

    return {**dbt_env(), "WAREHOUSE_PORT": env["WAREHOUSE_PORT"]}
