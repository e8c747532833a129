"""What a failing data test does to a run, and how clearing it mends the run."""

import pytest

from tests.integration.helpers import clear_with_downstream, impossible_rain, tasks_of

pytestmark = pytest.mark.timeout(600)

RUNS = "/dags/flights_daily/dagRuns"


def test_a_failing_data_test_is_mended_by_clearing_it(api, run_daily, warehouse):
    from local import pipeline

    behind = {
        "dbt.int_weather_hourly.run",
        "dbt.int_weather_hourly.test",
        "dbt.fct_flights.run",
        "dbt.fct_flights.test",
        "publish_figures",
    }
    with impossible_rain(warehouse) as mend:
        assert run_daily()[0] == "failed"
        run_id = api("GET", RUNS, params={"order_by": "-run_after", "limit": 1})["dag_runs"][0][
            "dag_run_id"
        ]
        before = tasks_of(api, "flights_daily", run_id)
        assert {name: t["state"] for name, t in before.items() if t["state"] != "success"} == {
            "dbt.stg_weather.test": "failed",
            **dict.fromkeys(behind, "upstream_failed"),
        }

        mend()
        clear_with_downstream(api, "flights_daily", run_id, "dbt.stg_weather.test")
    pipeline.follow(api, "flights_daily", run_id)
    after = tasks_of(api, "flights_daily", run_id)
    started_anew = {n for n in after if after[n]["start_date"] != before[n]["start_date"]}
    assert started_anew == {"dbt.stg_weather.test", *behind}
    assert {name: after[name]["state"] for name in started_anew} == dict.fromkeys(
        started_anew, "success"
    )
    # None had to fail once more first.
    assert {after[name]["try_number"] for name in behind} == {1}
