"""Of two runs that build in the same schemas, one waits for the other."""

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(300), pytest.mark.engine, pytest.mark.slow]

BUILD = "dbt_build"


@pytest.fixture
def two(api, warehouse) -> "tuple[States, States]":
    """Two DAGs of one project, whose model g takes 8 s."""
    first, second = (States(api, warehouse, dag) for dag in ("states_between", "states_alone"))
    first.broken("g", fails=False, seconds=8)
    yield first, second
    first.broken()


def build_of(states: "States") -> dict:
    return states.tasks()[BUILD]


def start_while_the_first_builds(first: "States", second: "States") -> None:
    first.trigger()
    wait_until(lambda: first.states().get("dbt.f_run") == "success")
    second.trigger()
    wait_until(lambda: build_of(second)["state"] == "running")
    waiting = f"Waiting for {first.dag_id} {first.run_id}"[:63]
    wait_until(lambda: waiting in second.log(BUILD))


def test_a_second_build_waits_and_says_for_whom(two):
    first, second = two
    start_while_the_first_builds(first, second)
    assert first.states()["dbt.g_run"] is None
    assert set(second.built().values()) == {1}
    assert [states.end() for states in two] == ["success", "success"]
    assert set(second.built().values()) == {2}
    started = min(task["start_date"] for name, task in second.tasks().items() if name != BUILD)
    assert build_of(first)["end_date"] < started


def test_a_killed_build_is_waited_for_no_longer(two):
    first, second = two
    start_while_the_first_builds(first, second)
    psutil.Process(build_of(first)["pid"]).kill()
    assert [states.end() for states in two] == ["success", "success"]
    assert build_of(first)["try_number"] == 2
    assert [states.not_green() for states in two] == [{}, {}]


def test_a_task_that_builds_its_node_again_waits_too(two):
    first, second = two
    second.broken()
    assert second.run() == "success"
    first.broken("g", fails=False, seconds=8)
    first.trigger()
    wait_until(lambda: first.states().get("dbt.f_run") == "success")
    second.clear("e_run")
    wait_until(lambda: f"Waiting for {first.dag_id}" in second.log("e_run", 2))
    assert [states.end() for states in two] == ["success", "success"]
    assert second.tasks()["e_run"]["start_date"] < build_of(first)["end_date"]
    assert second.built()["e"] == 2
