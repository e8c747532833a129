"""What a failing data test does to a run, and how clearing it mends the run."""

import pytest

pytestmark = pytest.mark.timeout(600)

RUNS = "/dags/flights_daily/dagRuns"


def tasks_of(api, run_id: str) -> dict[str, dict]:
    found = api("GET", f"{RUNS}/{run_id}/taskInstances", params={"limit": 1000})
    return {task["task_id"]: task for task in found["task_instances"]}


@pytest.fixture
def unknown_carrier(warehouse):
    """A flight that fails a test of fct_flights, on a day that no run replaces. Call it to mend."""

    def mend():
        warehouse.execute("delete from marts.fct_flights where flight_id = 'unknown carrier'")

    warehouse.execute(
        """
        insert into marts.fct_flights
            (flight_id, flight_date, carrier_code, status, weather_condition)
        values ('unknown carrier', '2020-02-29', '??', 'cancelled', 'unknown')
        """
    )
    yield mend
    mend()


def test_a_failing_data_test_is_mended_by_clearing_it(api, run_daily, unknown_carrier):
    from local import pipeline

    assert run_daily()[0] == "failed"
    run_id = api("GET", RUNS, params={"order_by": "-run_after", "limit": 1})["dag_runs"][0][
        "dag_run_id"
    ]
    before = tasks_of(api, run_id)
    assert {name: t["state"] for name, t in before.items() if t["state"] != "success"} == {
        "dbt.fct_flights.test": "failed",
        "publish_figures": "upstream_failed",
        # Its one `dbt build` failed. Its retry builds nothing, it lets the models retry alone.
        "dbt.dbt_producer_watcher": "skipped",
    }

    unknown_carrier()
    api(
        "POST",
        "/dags/flights_daily/clearTaskInstances",
        json={
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": ["dbt.fct_flights.test"],
            "include_downstream": True,
        },
    )
    pipeline.follow(api, "flights_daily", run_id)
    after = tasks_of(api, run_id)
    assert {name for name in after if after[name]["start_date"] != before[name]["start_date"]} == {
        "dbt.fct_flights.test",
        "publish_figures",
    }
    assert {t["state"] for name, t in after.items() if name != "dbt.dbt_producer_watcher"} == {
        "success"
    }
