"""A stale source is red in a task of its own, and stops what reads it and nothing else."""

import pytest

from tests.conftest import HAS_POSTGRES

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(300), pytest.mark.engine]

CHECK = "raw_states_events_freshness"
BEHIND = ("c_run", "d.run", "d.test", "e_run", "raw_states_events_test")
STOPPED = {CHECK: "failed", **dict.fromkeys(BEHIND, "upstream_failed")}


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse, "states_fresh")


@pytest.fixture
def age(states):
    """A function that makes the source's rows so old."""

    def update(interval: str) -> None:
        states.warehouse.execute("drop table if exists raw_states.events cascade")
        new = "create table raw_states.events as select 1 as id, now() - %s::interval as loaded_at"
        states.warehouse.execute(new, [interval])
        states.broken()

    yield update
    update("0")


def test_a_stale_source_stops_what_reads_it(states, age):
    age("1 day 2 hours")
    assert states.run() == "failed"
    assert states.not_green() == STOPPED
    assert set(states.built()) == {"a", "b", "f", "g", "by_day"}
    said = states.log(CHECK)
    assert "FAIL raw_states.events is 1 day, 2:0" in said
    assert "(error_after 12 hours, warn_after 1 hours)" in said
    # An answer: another try would give it again.
    assert states.tasks()[CHECK]["try_number"] == 1

    age("0")
    states.clear(CHECK)
    assert states.end() == "success"
    assert states.not_green() == {}
    assert set(states.built()) == {"c", "d", "e"}


@pytest.mark.slow
@pytest.mark.parametrize(("interval", "said"), [("5 minutes", "PASS"), ("2 hours", "WARN")])
def test_a_source_that_is_not_stale_stops_nothing(states, age, interval, said):
    age(interval)
    assert states.run() == "success"
    assert states.not_green() == {}
    assert f"{said} raw_states.events is " in states.log(CHECK)


@pytest.mark.slow
def test_a_source_that_is_not_there_is_tried_again_and_red(states, age):
    states.warehouse.execute("drop table raw_states.events cascade")
    assert states.run() == "failed"
    assert states.not_green() == STOPPED
    assert states.tasks()[CHECK]["try_number"] == 2
    assert 'relation "raw_states.events" does not exist' in states.log(CHECK, 2)


@pytest.mark.slow
def test_a_run_of_days_that_are_past_is_not_stopped(states, age):
    age("1 day")
    start, end = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    body = {"logical_date": start, "data_interval_start": start, "data_interval_end": end}
    path = f"/dags/{states.dag_id}/dagRuns"
    states.run_id = states.api("POST", path, json=body)["dag_run_id"]
    assert states.end() == "success"
    assert states.not_green() == {}
    assert "Not checked: the run is of the past, 2026-01-01" in states.log(CHECK)
