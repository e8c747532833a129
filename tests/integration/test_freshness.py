"""The task of a stale source fails, and only what reads the source is not built."""

from datetime import UTC, datetime

import pytest

from tests.conftest import HAS_POSTGRES

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

CHECK = "raw_states_events_freshness"
DOWNSTREAM = ("c_run", "d.run", "d.test", "e_run")
STOPPED = {
    CHECK: "failed",
    **dict.fromkeys(DOWNSTREAM, "upstream_failed"),
    "dbt_build_done": "failed",
}


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse, "states_fresh")


@pytest.fixture
def age(states):
    """Return a function that sets the age of the rows of the source."""

    def update(interval: str) -> None:
        states.warehouse.execute("drop table if exists raw_states.events cascade")
        new = "create table raw_states.events as select 1 as id, now() - %s::interval as loaded_at"
        states.warehouse.execute(new, [interval])
        states.broken()

    yield update
    update("0")


def test_what_reads_a_stale_source_is_not_built(states, age):
    age("1 day 2 hours")
    assert states.run() == "failed"
    assert states.not_successful() == STOPPED
    assert set(states.built()) == {"a", "b", "f", "g", "by_day"}
    log = states.log(CHECK)
    assert "FAIL raw_states.events is 1 day, 2:0" in log
    assert "(error_after 12 hours, warn_after 1 hours)" in log
    # It is not retried, because another try would find the same rows.
    assert states.tasks()[CHECK]["try_number"] == 1

    age("0")
    states.clear(CHECK)
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert set(states.built()) == {"c", "d", "e"}


@pytest.mark.parametrize(("interval", "status"), [("5 minutes", "PASS"), ("2 hours", "WARN")])
def test_everything_is_built_if_no_source_is_stale(states, age, interval, status):
    age(interval)
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert f"{status} raw_states.events is " in states.log(CHECK)


def test_the_check_of_a_missing_source_is_retried_and_fails(states, age):
    states.warehouse.execute("drop table raw_states.events cascade")
    assert states.run() == "failed"
    # The tests of the source fail too.
    assert states.not_successful() == {**STOPPED, "raw_states_events_test": "failed"}
    assert states.tasks()[CHECK]["try_number"] == 2
    assert 'relation "raw_states.events" does not exist' in states.log(CHECK, 2)


def test_a_failed_hook_of_the_check_fails_the_build_task_and_no_source(states, age):
    states.broken("start_hook")
    assert states.run() == "failed"
    assert states.states()["dbt_build"] == "failed"
    assert states.states()[CHECK] == "upstream_failed"
    assert "division by zero" in states.log("dbt_build", 2)


def test_a_manual_run_checks_sources_however_long_ago_its_interval_ended(states, age):
    age("1 day 2 hours")
    now, past = datetime.now(UTC).isoformat(), "2026-01-01T00:00:00Z"
    states.post_run(logical_date=now, data_interval_start=past, data_interval_end=past)
    assert states.end() == "failed"
    assert states.not_successful() == STOPPED


# With a cron schedule such as @daily the interval is empty.
@pytest.mark.parametrize(("first", "last"), [("2026-01-01", "2026-01-02"), ("2026-01-03",) * 2])
def test_a_run_for_a_past_interval_checks_no_source(states, age, first, last):
    age("1 day")
    start, end = f"{first}T00:00:00Z", f"{last}T00:00:00Z"
    states.post_run(logical_date=start, data_interval_start=start, data_interval_end=end)
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert f"Not checked, because the run is for {first}" in states.log(CHECK)
