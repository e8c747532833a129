"""What a run comes to when a process that it needs is killed in the middle of it.

Each test stops `dbt build` at one model, by a lock on that model's table, and lets it go on when
Airflow has noticed the loss.
"""

import json

import httpx
import psutil
import pytest

from tests.conftest import connect, wait_for_blocked, wait_until
from tests.integration.helpers import rows, tasks_of

pytestmark = pytest.mark.timeout(400)

PRODUCER = "dbt.dbt_producer_watcher"
RUNS = "/dags/flights_daily/dagRuns"


@pytest.fixture(scope="module")
def nothing_else_runs(api):
    """Keep the reports from starting: they read the locked table, and take places for tasks."""
    reporting = "/dags/flights_reporting"
    # Before the pause, which would leave a run where it is.
    wait_until(lambda: not api.all(f"{reporting}/dagRuns", "dag_runs", state=["running", "queued"]))
    api("PATCH", reporting, json={"is_paused": True})
    yield
    api("PATCH", reporting, json={"is_paused": False})


@pytest.fixture
def held(api, warehouse, nothing_else_runs):
    """A run of flights_daily whose `dbt build` waits at dim_carriers until `finish`."""
    from local import pipeline
    from local.settings import dbt_env

    class Held:
        before = rows(warehouse, "fct_flights")

        def task(self, task_id: str = PRODUCER) -> dict:
            return api("GET", f"{RUNS}/{self.run_id}/taskInstances/{task_id}")

        def finish(self) -> dict[str, str]:
            """Let dbt go on, follow the run to its end and return the tasks' states."""
            holder.rollback()
            pipeline.follow(api, "flights_daily", self.run_id)
            assert rows(warehouse, "fct_flights") == self.before
            tasks = tasks_of(api, "flights_daily", self.run_id)
            return {name: task["state"] for name, task in tasks.items()}

    held = Held()
    with connect(dbt_env(), autocommit=False) as holder:
        holder.execute("lock table marts.dim_carriers in access exclusive mode")
        held.run_id = api("POST", RUNS, json={"logical_date": None})["dag_run_id"]
        wait_until(lambda: held.task()["pid"])
        wait_for_blocked(warehouse, 1)
        yield held
        holder.rollback()
    # Of a DAG only one run is active: one that is stuck would hold up every other test.
    run = api("GET", f"{RUNS}/{held.run_id}")
    if run["state"] not in ("success", "failed"):
        api("PATCH", f"{RUNS}/{held.run_id}", json={"state": "failed"})


def is_up(port: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/api/v2/monitor/health").is_success
    except httpx.TransportError:
        return False


def only_the_producer_is_skipped(states: dict[str, str]) -> bool:
    return {task for task, state in states.items() if state != "success"} == {PRODUCER}


def test_a_killed_producer_is_made_up_for_by_the_models_tasks(held):
    psutil.Process(held.task()["pid"]).kill()
    # Its retry runs no dbt: see include/dbt_config.py.
    wait_until(lambda: held.task()["state"] == "skipped")
    assert only_the_producer_is_skipped(held.finish())


def test_a_killed_worker_is_made_up_for_as_well(held):
    process = psutil.Process(held.task()["pid"])
    worker = process.parent()
    assert "LocalExecutor" in " ".join(worker.cmdline())
    worker.kill()
    process.kill()
    # Nobody tells Airflow. It looks for tasks that no longer say that they are there.
    wait_until(lambda: held.task()["state"] == "skipped")
    assert only_the_producer_is_skipped(held.finish())


def test_a_run_goes_on_with_a_restarted_api_server(held):
    from local import airflow
    from local.settings import BIN, airflow_env

    state = json.loads(airflow.STATE.read_text())
    pid, _ = state["processes"]["api-server"]
    airflow.end([psutil.Process(pid)])
    command = [BIN / "airflow", *airflow.COMPONENTS["api-server"]]
    state["processes"]["api-server"] = airflow.launch(
        "api-server", command, airflow_env(state["port"])
    )
    airflow.STATE.write_text(json.dumps(state))
    wait_until(lambda: is_up(state["port"]))

    # A task that asks for something while the server is away soon gives up, and is retried.
    states = held.finish()
    assert set(states.values()) == {"success"} or only_the_producer_is_skipped(states)
