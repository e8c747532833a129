"""What a run comes to when a process that it needs is killed in the middle of it."""

import json

import httpx
import psutil
import pytest

from tests.conftest import HAS_POSTGRES, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

BUILD = "dbt_build"


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture
def running(states) -> psutil.Process:
    """The process of a `dbt build` that has built all but one slow model."""
    states.broken("g", fails=False, seconds=20)
    states.trigger()
    wait_until(lambda: states.states()["dbt.e_run"] == "success")
    yield psutil.Process(states.tasks()[BUILD]["pid"])
    states.broken()


def ends_green_with_each_model_built_once(states) -> bool:
    state = states.end()
    return state == "success" and states.not_green() == {} and set(states.built().values()) == {1}


def replace(name: str, kill: bool) -> None:
    """End one of Airflow's processes, with all that it started, and start it again."""
    from local import airflow
    from local.settings import BIN, airflow_env

    state = json.loads(airflow.STATE.read_text())
    process = psutil.Process(state["processes"][name][0])
    if kill:
        everything = [*process.children(recursive=True), process]
        for one in everything:
            one.kill()
        psutil.wait_procs(everything)
    else:
        airflow.end([process])
    command = [BIN / "airflow", *airflow.COMPONENTS[name]]
    state["processes"][name] = airflow.launch(name, command, airflow_env(state["port"]))
    airflow.STATE.write_text(json.dumps(state))


def test_a_killed_worker_with_its_task(states, running):
    worker = running.parent()
    assert "LocalExecutor" in " ".join(worker.cmdline())
    worker.kill()
    running.kill()
    # Nobody tells Airflow: it looks for tasks that no longer say that they are there.
    assert ends_green_with_each_model_built_once(states)
    assert states.tasks()[BUILD]["try_number"] == 2


def test_a_killed_scheduler(states, running):
    replace("scheduler", kill=True)
    assert ends_green_with_each_model_built_once(states)


def test_a_run_that_is_cleared_while_dbt_builds(states, running):
    states.clear()
    assert states.end() == "success"
    assert states.not_green() == {}
    # All of it, after what the first dbt had built.
    assert states.built()["e"] == 2
    assert not running.is_running()


@pytest.mark.parametrize("kill", [False, True], ids=["restarted", "killed"])
def test_an_api_server_that_goes_away(states, running, kill):
    replace("api-server", kill)
    wait_until(lambda: is_up())
    assert states.end() == "success"
    assert states.not_green() == {}


def is_up() -> bool:
    from local import airflow

    url = f"http://127.0.0.1:{airflow.port_in_use()}/api/v2/monitor/health"
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
