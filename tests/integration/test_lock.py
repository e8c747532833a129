"""Of two runs that build in the same schemas, one waits for the other."""

import psutil
import pytest

from include.dbt_build.lock import KEY
from tests.conftest import HAS_POSTGRES
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

BUILDS = {"states_between": "dbt.dbt_build", "states_alone": "dbt_build"}


@pytest.fixture
def two(api, warehouse) -> "tuple[States, States]":
    """Return two DAGs of one project, whose model g takes 8 s."""
    first, second = (States(api, warehouse, dag_id) for dag_id in BUILDS)
    first.broken("g", fails=False, seconds=8)
    yield first, second
    first.broken()


def build_of(states: "States") -> dict:
    return states.tasks()[BUILDS[states.dag_id]]


def is_waiting_for(states: "States", task_id: str, other: "States", attempt: int = 1) -> bool:
    # Postgres cuts the name of a session, which the log line repeats.
    name = f"{other.dag_id} {other.run_id}"[:63]
    return f"Waiting for {name}" in states.log(task_id, attempt)


def start_while_the_first_builds(first: "States", second: "States") -> None:
    first.trigger()
    wait_until(lambda: first.built()["f"])
    second.trigger()
    wait_until(lambda: build_of(second)["state"] == "running")
    wait_until(lambda: is_waiting_for(second, BUILDS[second.dag_id], first))


def test_a_second_build_waits_and_logs_for_which_run(two):
    first, second = two
    start_while_the_first_builds(first, second)
    assert first.states()["dbt.g_run"] is None
    assert set(second.built().values()) == {1}
    assert [states.end() for states in two] == ["success", "success"]
    assert set(second.built().values()) == {2}
    build = BUILDS[second.dag_id]
    started = min(task["start_date"] for name, task in second.tasks().items() if name != build)
    assert build_of(first)["end_date"] < started


def test_a_killed_build_gives_its_lock_back(two):
    first, second = two
    start_while_the_first_builds(first, second)
    psutil.Process(build_of(first)["pid"]).kill()
    assert [states.end() for states in two] == ["success", "success"]
    assert build_of(first)["try_number"] == 2
    assert [states.not_successful() for states in two] == [{}, {}]


def test_the_build_of_a_cleared_node_waits_too(two):
    first, second = two
    second.broken()
    assert second.run() == "success"
    first.broken("g", fails=False, seconds=8)
    first.trigger()
    wait_until(lambda: first.built()["f"])
    second.clear("e_run")
    wait_until(lambda: is_waiting_for(second, "dbt_build", first, attempt=2))
    assert [states.end() for states in two] == ["success", "success"]
    assert build_of(second)["start_date"] < build_of(first)["end_date"]
    assert second.built()["e"] == 2


def test_node_tasks_run_dbt_one_after_the_other(api, warehouse):
    states = States(api, warehouse, "states_alone")
    states.broken("e")
    assert states.run() == "failed"
    states.broken()
    with warehouse.transaction():
        warehouse.execute("set local application_name = 'another node task'")
        # An exclusive lock has to wait for this shared one, and a shared lock does not.
        warehouse.execute(f"select pg_advisory_xact_lock_shared({KEY})", ["states"])
        attempt = states.tasks()["e_run"]["try_number"] + 1
        states.clear("e_run", only_failed=True)
        wait_until(lambda: "Waiting for another node task" in states.log("e_run", attempt))
    assert states.end() == "success"
    assert states.not_successful() == {}
