"""What a failing data test does to a run, and how clearing it mends the run."""

import pytest

from tests.integration.helpers import clear_with_downstream

pytestmark = pytest.mark.timeout(600)

RUNS = "/dags/flights_daily/dagRuns"


def tasks_of(api, run_id: str) -> dict[str, dict]:
    found = api("GET", f"{RUNS}/{run_id}/taskInstances", params={"limit": 1000})
    return {task["task_id"]: task for task in found["task_instances"]}


@pytest.fixture
def impossible_rain(warehouse):
    """A reading that fails a test of stg_weather, on a day no run replaces. Call it to mend."""

    def mend():
        warehouse.execute("delete from raw.weather where precip < 0")

    warehouse.execute(
        """
        insert into raw.weather (observed_at, time_hour, origin, precip)
        values ('2020-02-29 12:00', '2020-02-29 17:00+00', 'JFK', -1)
        """
    )
    yield mend
    mend()


def test_a_failing_data_test_is_mended_by_clearing_it(api, run_daily, impossible_rain):
    from local import pipeline

    behind = {
        "dbt.int_weather_hourly.run",
        "dbt.int_weather_hourly.test",
        "dbt.fct_flights.run",
        "dbt.fct_flights.test",
        "publish_figures",
    }
    assert run_daily()[0] == "failed"
    run_id = api("GET", RUNS, params={"order_by": "-run_after", "limit": 1})["dag_runs"][0][
        "dag_run_id"
    ]
    before = tasks_of(api, run_id)
    assert {name: t["state"] for name, t in before.items() if t["state"] != "success"} == {
        "dbt.stg_weather.test": "failed",
        **dict.fromkeys(behind, "upstream_failed"),
        # Its one `dbt build` failed. Its retry builds nothing, it lets the models retry alone.
        "dbt.dbt_producer_watcher": "skipped",
    }

    impossible_rain()
    clear_with_downstream(api, "flights_daily", run_id, "dbt.stg_weather.test")
    pipeline.follow(api, "flights_daily", run_id)
    after = tasks_of(api, run_id)
    started_anew = {n for n in after if after[n]["start_date"] != before[n]["start_date"]}
    assert started_anew == {"dbt.stg_weather.test", *behind}
    assert {name: after[name]["state"] for name in started_anew} == dict.fromkeys(
        started_anew, "success"
    )
    # None had to fail once more first.
    assert {after[name]["try_number"] for name in behind} == {1}
