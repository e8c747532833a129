"""Runs of both DAGs, whose marts must agree with the archive."""

import contextlib
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from include.nyc_flights.archive import TIMEZONE, local_date
from tests.conftest import HAS_POSTGRES, local
from tests.fixtures import wait_until
from tests.nyc_flights.helpers import (
    BY_CARRIER,
    REPORTED,
    archived,
    broken_stg_flights,
    clear_with_downstream,
    figures_in,
    figures_of,
    reported,
    rows,
)

if HAS_POSTGRES:
    from tests.integration.states import tasks_of

pytestmark = pytest.mark.timeout(600)

MARTS = ["dim_aircraft", "dim_airports", "dim_carriers", "fct_flights"]


@pytest.fixture(scope="module")
def warehouse(running_warehouse):
    return running_warehouse


@pytest.fixture
def yesterday() -> date:
    return local_date(datetime.now(UTC)) - timedelta(days=1)


def midnight(day: date) -> str:
    return datetime.combine(day, time.min, ZoneInfo(TIMEZONE)).isoformat()


def ended_reporting_runs(api) -> list[dict]:
    """Wait until no asset event is queued for flights_reporting; return its runs, oldest first."""
    path = "/dags/flights_reporting"
    found = []

    def done() -> bool:
        # The queue is read first, because Airflow makes the run and empties the queue together.
        queued = api("GET", f"{path}/assets/queuedEvents")["total_entries"]
        found[:] = api.all(f"{path}/dagRuns", "dag_runs", order_by="start_date")
        return not queued and {run["state"] for run in found} <= {"success", "failed"}

    wait_until(done)
    return found


@pytest.fixture
def run_daily(api):
    """Return a function that runs flights_daily and returns the states of the run and its tasks."""

    def run(day: date | None = None, **conf) -> tuple[str, dict[str, str]]:
        from local import pipeline

        body = {"logical_date": None, "conf": conf}
        if day:
            body |= {
                "logical_date": midnight(day),
                "data_interval_start": midnight(day),
                "data_interval_end": midnight(day + timedelta(days=1)),
            }
        run_id = api("POST", "/dags/flights_daily/dagRuns", json=body)["dag_run_id"]
        with contextlib.suppress(pipeline.Failure):
            pipeline.follow(api, "flights_daily", run_id)
        path = f"/dags/flights_daily/dagRuns/{run_id}"
        tasks = tasks_of(api, "flights_daily", run_id)
        return api("GET", path)["state"], {name: task["state"] for name, task in tasks.items()}

    return run


def test_start_runs_both_dags_and_prints_a_mart(started, yesterday):
    assert started.returncode == 0, started.stdout + started.stderr
    for line in ("flights_daily in", "flights_reporting in", f"{yesterday} "):
        assert line in started.stdout


def test_yesterdays_marts_equal_the_archive(api, warehouse, yesterday):
    expected = figures_of(archived(yesterday))
    assert figures_in(warehouse, BY_CARRIER, yesterday) == expected
    assert figures_in(warehouse, REPORTED, yesterday) == reported(expected)


def test_the_asset_carries_the_days_figures(api, yesterday):
    events = api("GET", "/assets/events", params={"order_by": "timestamp"})["asset_events"]
    assert events[0]["extra"]["flights"] == len(archived(yesterday))
    assert events[0]["extra"]["flight_date"] == yesterday.isoformat()


def test_reporting_is_started_by_the_asset(api):
    runs = api.all("/dags/flights_reporting/dagRuns", "dag_runs")
    assert {run["run_type"] for run in runs} == {"asset_triggered"}


def test_the_same_day_twice_gives_the_same_rows(api, warehouse, run_daily):
    before = {table: rows(warehouse, table) for table in MARTS}
    assert run_daily()[0] == "success"
    assert {table: rows(warehouse, table) for table in MARTS} == before


@pytest.mark.slow
def test_the_run_of_a_day_without_flights_succeeds(warehouse, run_daily):
    state, tasks = run_daily(date(2024, 2, 29))
    assert state == "success"
    assert set(tasks.values()) == {"success"}
    assert figures_in(warehouse, BY_CARRIER, date(2024, 2, 29)) == {}


@pytest.mark.slow
def test_the_run_of_a_future_day_waits_for_the_day(api, yesterday):
    runs = "/dags/flights_daily/dagRuns"
    day = {"logical_date": midnight(yesterday + timedelta(days=30))}
    run = f"{runs}/{api('POST', runs, json=day)['dag_run_id']}"
    try:
        wait_until(lambda: api("GET", run)["state"] == "running")
        waits_for = api("GET", f"{run}/taskInstances/load_day/dependencies")["dependencies"]
        assert "in the future" in str(waits_for)
    finally:
        # max_active_runs is 1, so no other run starts while this run exists.
        # Airflow ends a run with a teardown only when the teardown has ended, which waits too.
        teardown = f"{run}/taskInstances/dbt.dbt_build_done"
        api("PATCH", teardown, json={"new_state": "failed"})
        api("PATCH", run, json={"state": "failed"})
        api("DELETE", run)


@pytest.mark.slow
def test_a_backfill_builds_the_marts_and_reports_of_each_day(api, warehouse, yesterday):
    before = len(ended_reporting_runs(api))
    days = [yesterday - timedelta(days=n) for n in (6, 5, 4, 3, 2)]
    backfill = {"from_date": midnight(days[0]), "to_date": midnight(days[-1])}
    backfill |= {"dag_id": "flights_daily", "max_active_runs": 1}
    api("POST", "/backfills", json=backfill)
    runs = []

    def all_days_ended() -> bool:
        runs[:] = api.all("/dags/flights_daily/dagRuns", "dag_runs", run_type="backfill")
        return [run["state"] in ("success", "failed") for run in runs] == [True] * len(days)

    wait_until(all_days_ended, seconds=480)
    assert [(run["logical_date"][:10], run["state"]) for run in runs] == [
        (str(day), "success") for day in days
    ]
    reports = ended_reporting_runs(api)[before:]
    assert {run["state"] for run in reports} == {"success"}
    # They start with the first day and follow each other. Days that end meanwhile share a run.
    starts, ends = (
        [datetime.fromisoformat(run[key]) for run in reports] for key in ("start_date", "end_date")
    )
    assert starts[0] < datetime.fromisoformat(runs[-1]["start_date"])
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert len(reports) <= len(days)
    for day in days:
        expected = figures_of(archived(day))
        assert figures_in(warehouse, BY_CARRIER, day) == expected
        assert figures_in(warehouse, REPORTED, day) == reported(expected)


@pytest.mark.slow
def test_full_refresh_of_any_day_rebuilds_all_loaded_days(api, warehouse, run_daily, yesterday):
    from local import pipeline

    # raw holds newer days than the oldest one, which this run is for.
    oldest = yesterday - timedelta(days=7)
    assert run_daily(oldest, dbt_full_refresh=True)[0] == "success"
    expected = rows(warehouse, "fct_flights")
    assert figures_in(warehouse, BY_CARRIER, yesterday) == figures_of(archived(yesterday))
    assert figures_in(warehouse, BY_CARRIER, oldest) == figures_of(archived(oldest))

    # The dbt tasks of that run are cleared later, when raw holds one more day.
    later = yesterday - timedelta(days=8)
    assert run_daily(later)[0] == "success"
    dates = {"logical_date_gte": midnight(oldest), "logical_date_lte": midnight(oldest)}
    (run,) = api.all("/dags/flights_daily/dagRuns", "dag_runs", **dates)
    run_id = run["dag_run_id"]
    clear_with_downstream(api, "flights_daily", run_id, "dbt.dbt_build")
    with contextlib.suppress(pipeline.Failure):
        pipeline.follow(api, "flights_daily", run_id)
    assert set(expected) < set(rows(warehouse, "fct_flights"))
    assert figures_in(warehouse, BY_CARRIER, later) == figures_of(archived(later))


@pytest.mark.slow
def test_make_run_builds_only_the_nodes_that_it_selects(api, run_daily):
    assert run_daily()[0] == "success"
    done = local("run", "--select=fct_flights dim_carriers", "--exclude=dim_carriers")
    assert done.returncode == 0, done.stdout + done.stderr
    run = api("GET", "/dags/flights_daily/dagRuns", params={"order_by": "-run_after", "limit": 1})
    tasks = tasks_of(api, "flights_daily", run["dag_runs"][0]["dag_run_id"])
    nodes = {t: v["state"] for t, v in tasks.items() if v["operator"] == "DbtNodeOperator"}
    built = {task for task, state in nodes.items() if state == "success"}
    assert {"dbt.fct_flights.run", "dbt.fct_flights.test"} <= built
    assert {state for task, state in nodes.items() if task not in built} == {"skipped"}
    assert nodes["dbt.stg_flights.run"] == "skipped"
    refused = local("run", "--dag=flights_reporting", "--select=fct_flights")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: flights_reporting has no fields for dbt: ")


@pytest.mark.slow
def test_a_broken_model_fails_the_run_and_changes_no_mart(
    warehouse, projects, run_daily, yesterday
):
    before = {table: rows(warehouse, table) for table in MARTS}
    with broken_stg_flights(projects):
        state, tasks = run_daily(yesterday - timedelta(days=9))
    assert state == "failed"
    assert {task: state for task, state in tasks.items() if state != "success"} == {
        "dbt.stg_flights.run": "failed",
        "dbt.stg_flights.test": "upstream_failed",
        "dbt.int_flights_timed.run": "upstream_failed",
        "dbt.int_flights_timed.test": "upstream_failed",
        "dbt.dim_aircraft_run": "upstream_failed",
        "dbt.fct_flights.run": "upstream_failed",
        "dbt.fct_flights.test": "upstream_failed",
        "dbt.dbt_build_done": "failed",
        "publish_figures": "upstream_failed",
    }
    assert {table: rows(warehouse, table) for table in MARTS} == before
