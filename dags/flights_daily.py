"""
### Flights of one day, from the source to the marts

1. `load_day` replaces the day's flights and weather in the schema `raw`.
2. `dbt` builds and tests every model of `nyc_flights` but the reporting ones.
3. `publish_figures` reads the day's figures from `marts.fct_flights` and updates the asset
   `nyc_flights_marts`, which starts `flights_reporting`.

**A run** covers its data interval, one day in UTC. A manual run without a logical date covers
yesterday. Any run can be repeated: it replaces its day.

**full_refresh** in the trigger form rebuilds `fct_flights` from the first day in `raw`.

**When it fails**, open the log of the red model's or test's task: it has dbt's message, and the tab
Rendered Templates the compiled SQL. Mend the cause, then clear that task with its downstream tasks:
each runs dbt for its own node only.
"""

from datetime import datetime, timedelta

from airflow.sdk import CronDataIntervalTimetable, Metadata, Param, dag, task
from cosmos import DbtTaskGroup

from include.assets import FLIGHTS_MARTS
from include.dbt_config import (
    execution_config,
    operator_args,
    profile_config,
    project_config,
    render_config,
)

INTERVAL = "{{ ti.xcom_pull(task_ids='load_day')['%s'] }}"


@dag(
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2013, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"owner": "data-team", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "full_refresh": Param(
            False, type="boolean", description="Rebuild fct_flights from the first loaded day on."
        )
    },
    tags=["nyc_flights", "dbt"],
)
def flights_daily():
    @task
    def load_day(
        data_interval_start=None, data_interval_end=None, dag_run=None, params=None
    ) -> dict:
        """Load the interval into raw; return what was loaded and the interval for dbt."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        from include import warehouse

        if data_interval_start is None:
            data_interval_end = dag_run.run_after.replace(hour=0, minute=0, second=0, microsecond=0)
            data_interval_start = data_interval_end - timedelta(days=1)

        with PostgresHook(warehouse.CONN_ID).get_conn() as connection:
            loaded = warehouse.load(connection, data_interval_start, data_interval_end)

        first_day = loaded["first_flight_date"] if params["full_refresh"] else None
        return {
            **loaded,
            "start": first_day or data_interval_start.date().isoformat(),
            "end": data_interval_end.date().isoformat(),
        }

    project = project_config(
        "nyc_flights",
        # dbt's --event-time-start and --event-time-end as the variables that dbt reads them
        # from: a seed, a snapshot or a test that runs on its own has no such option.
        env_vars={
            "DBT_EVENT_TIME_START": INTERVAL % "start",
            "DBT_EVENT_TIME_END": INTERVAL % "end",
        },
    )
    dbt = DbtTaskGroup(
        group_id="dbt",
        project_config=project,
        profile_config=profile_config("nyc_flights"),
        render_config=render_config(project, exclude=["tag:reporting"]),
        execution_config=execution_config(),
        operator_args=operator_args(full_refresh="{{ params.full_refresh }}"),
    )

    @task(outlets=[FLIGHTS_MARTS])
    def publish_figures(loaded: dict):
        """Attach the figures of the interval's last day to the asset's event."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        from include import warehouse

        day = datetime.fromisoformat(loaded["end"]).date() - timedelta(days=1)
        with PostgresHook(warehouse.CONN_ID).get_conn() as connection:
            figures = warehouse.day_figures(connection, day)
        print(figures)
        yield Metadata(FLIGHTS_MARTS, extra=figures)

    loaded = load_day()
    loaded >> dbt >> publish_figures(loaded)


flights_daily()
