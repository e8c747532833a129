"""A run in which a process that it needs is killed while dbt builds."""

import json
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from include.dbt_build.protocol import BUILD_STATE
from tests.conftest import HAS_POSTGRES, HOME, SETTINGS, local
from tests.fixtures import connect, is_alive, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]

BUILD, DONE = "dbt.dbt_build", "dbt.dbt_build_done"


@pytest.fixture
def states(api):
    # Each test has its own connection, because one of them kills Postgres.
    states = States(api, connect(SETTINGS.dbt_env()))
    yield states
    states.warehouse.close()


@pytest.fixture
def running(states) -> psutil.Process:
    """Return the process of a `dbt build` that has built all models except a slow one."""
    states.broken("g", fails=False, seconds=20)
    states.trigger()
    wait_until(lambda: has_reported_all_but_g(states))
    yield psutil.Process(states.tasks()[BUILD]["pid"])
    states.broken()


def has_reported_all_but_g(states) -> bool:
    """Return whether Airflow shows all other models, or has stored them for a retry if leaves."""
    found = states.states()
    if {found[task] for task in ("dbt.d.run", "dbt.f_run")} != {"success"}:
        return False
    state = states.xcom(DONE, BUILD_STATE) or {"built": []}
    return {"model.states.e", "model.states.by_day"} <= {*state["built"]}


def assert_success_with_each_model_built_once(states) -> None:
    assert (states.end(), states.not_successful()) == ("success", {})
    built = states.built()
    assert set(built.values()) == {1}, built


def replace(name: str, kill: bool) -> None:
    """End one of Airflow's processes and its children, and start it again."""
    from local import airflow

    file = airflow.state_file(SETTINGS)
    state = json.loads(file.read_text())
    process = psutil.Process(state["pids"][name])
    if kill:
        processes = [*process.children(recursive=True), process]
        for each in processes:
            each.kill()
        psutil.wait_procs(processes)
    else:
        process.terminate()
        process.wait()
    command, env = airflow.COMPONENTS[name], SETTINGS.airflow_env()
    state["pids"][name] = airflow.launch(SETTINGS, name, command, env)
    file.write_text(json.dumps(state))


def test_killed_worker_is_replaced_and_each_model_is_built_once(states, running):
    worker = running.parent()
    assert "LocalExecutor" in " ".join(worker.cmdline())
    worker.kill()
    running.kill()
    # The scheduler retries a task that no longer sends heartbeats.
    assert_success_with_each_model_built_once(states)
    assert states.tasks()[BUILD]["try_number"] == 2


def components() -> dict[str, psutil.Process]:
    state = json.loads(Path(HOME, "airflow.json").read_text())
    return {name: psutil.Process(pid) for name, pid in state["pids"].items()}


@pytest.mark.parametrize("component", ["scheduler", "dag-processor", "triggerer"])
def test_start_after_a_killed_component_completes_the_run(states, running, component):
    workers = components()["scheduler"].children()
    components()[component].kill()
    started = local("start")
    assert started.returncode == 0, started.stdout + started.stderr
    assert [process for process in [*workers, running] if is_alive(process)] == []
    assert_success_with_each_model_built_once(states)


def test_start_after_all_processes_were_killed_completes_the_run(states, running):
    postmaster = int(Path(HOME, "postgres", "postmaster.pid").read_text().split()[0])
    tops = [*components().values(), psutil.Process(postmaster)]
    everything = [*tops, *(child for top in tops for child in top.children(recursive=True))]
    # The processes of the Postgres server end by themselves, when their statement has ended.
    for process in everything:
        with suppress(psutil.NoSuchProcess):
            if process.ppid() != postmaster:
                process.kill()
    started = local("start")
    assert started.returncode == 0, started.stdout + started.stderr
    assert [process for process in everything if is_alive(process)] == []
    states.warehouse = connect(SETTINGS.dbt_env())
    assert_success_with_each_model_built_once(states)


def test_run_that_is_cleared_while_dbt_builds_is_built_again(states, running):
    states.clear()
    assert states.end() == "success"
    assert states.not_successful() == {}
    # A clear is an order to build everything again, also what the first dbt had built.
    assert {states.built()[model] for model in ("a", "d", "e", "by_day")} == {2}
    assert not running.is_running()


def test_node_that_is_cleared_while_dbt_builds_is_built_again_and_no_finished_leaf(states, running):
    states.clear("dbt.f_run")
    assert states.end() == "success"
    assert states.not_successful() == {}
    # The model e is downstream of a test that reads f.
    once = dict.fromkeys(("a", "b", "c", "d", "g", "by_day"), 1)
    assert states.built() == once | {"e": 2, "f": 2}


@pytest.mark.parametrize("kill", [False, True], ids=["restarted", "killed"])
def test_run_succeeds_although_the_api_server_is_replaced(states, running, kill):
    replace("api-server", kill)
    wait_until(is_up)
    assert states.end() == "success"
    assert states.not_successful() == {}


def is_up() -> bool:
    from local import airflow

    url = f"http://127.0.0.1:{airflow.port_in_use(SETTINGS)}/api/v2/monitor/health"
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False
