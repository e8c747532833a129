"""
### Flights of one day, from the source to the marts

1. `load_day` replaces the flights and the weather of the day, and the whole register of aircraft,
   in the raw schema: `raw` for the target `prod`, `<target>_raw` for any other target.
2. `dbt` builds and tests every model of `nyc_flights` except the reporting ones. It checks the age
   of the sources first. The task of a source that is too old fails, and dbt does not build the
   nodes that depend on it.
3. `publish_figures` reads the figures of the day from the model `fct_flights` and updates the asset
   `nyc_flights`, which starts `flights_reporting`.

**A run** covers its data interval, one day in New York. A manual run without a logical date covers
yesterday. Every run can be repeated: it replaces its day.

**The trigger form** can select some of the nodes, as in `dbt build --select`. The tasks of all
other nodes are skipped, and so is `publish_figures` if a task upstream of it is skipped. With a
full refresh dbt rebuilds `fct_flights` for every day that the raw schema holds when dbt starts,
whichever day the run is for.

**When it fails**, open the log of the failed task: it begins with dbt's message. Fix the cause and
clear the task with its downstream tasks. One `dbt build` then builds all cleared nodes.
"""

from datetime import date, timedelta

from airflow.sdk import CronDataIntervalTimetable, Metadata, dag, task
from cosmos import ProjectConfig, RenderConfig
from pendulum import datetime

from include.dbt_build import DbtTaskGroup
from include.defaults import DAG_DEFAULTS
from include.nyc_flights.archive import TIMEZONE, local_date
from include.nyc_flights.assets import FLIGHTS_MARTS
from include.nyc_flights.warehouse import RAW
from include.warehouse import DBT_PROJECTS, DBT_QUEUE, warehouse_profile

CONN_ID = "warehouse"


def days_to_build(ti, params) -> dict[str, str]:
    """Return the start and the end of the interval that dbt builds.

    It is the interval that load_day loaded, or with a full refresh all days in raw. Each try reads
    these days from raw, because raw can have more days when an old run is cleared.
    """
    if not params.get("dbt_full_refresh"):
        return ti.xcom_pull(task_ids="load_day")
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from include.nyc_flights import warehouse

    with PostgresHook(CONN_ID).get_conn() as connection:
        return warehouse.loaded_days(connection)


@dag(
    doc_md=__doc__,
    # One data interval is one day in the time zone of the source, not in that of Airflow.
    schedule=CronDataIntervalTimetable("@daily", timezone=TIMEZONE),
    start_date=datetime(2013, 1, 1, tz=TIMEZONE),
    catchup=False,
    max_active_runs=1,
    **DAG_DEFAULTS,
    user_defined_macros={"days_to_build": days_to_build},
    tags=["nyc_flights", "dbt"],
)
def flights_daily():
    @task
    def load_day(data_interval_start=None, data_interval_end=None, dag_run=None) -> dict:
        """Load the interval into raw; return what was loaded and the interval for dbt."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        from include.nyc_flights import warehouse

        end = local_date(data_interval_end or dag_run.run_after)
        start = local_date(data_interval_start) if data_interval_start else end - timedelta(days=1)
        with PostgresHook(CONN_ID).get_conn() as connection:
            loaded = warehouse.load(connection, start, end)
        return {**loaded, "start": start.isoformat(), "end": end.isoformat()}

    dbt = DbtTaskGroup(
        group_id="dbt",
        project_config=ProjectConfig(
            DBT_PROJECTS / "nyc_flights",
            dbt_vars={"raw_schema": RAW},
            # The interval is passed in environment variables, because plain Cosmos also runs dbt
            # seed and dbt test, which have no option for it.
            env_vars={
                "DBT_EVENT_TIME_START": "{{ days_to_build(ti, params)['start'] }}",
                "DBT_EVENT_TIME_END": "{{ days_to_build(ti, params)['end'] }}",
            },
        ),
        profile_config=warehouse_profile("nyc_flights"),
        # No asset per relation is emitted, because the asset nyc_flights stands for all marts.
        render_config=RenderConfig(exclude=["tag:reporting"], emit_datasets=False),
        operator_args={"queue": DBT_QUEUE},
        source_freshness=True,
        run_options=True,
    )

    @task(outlets=[FLIGHTS_MARTS])
    def publish_figures(loaded: dict):
        """Attach the figures of the interval's last day to the asset's event."""
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        from include.nyc_flights import warehouse

        day = date.fromisoformat(loaded["end"]) - timedelta(days=1)
        with PostgresHook(CONN_ID).get_conn() as connection:
            figures = warehouse.day_figures(connection, day)
        print(figures)
        yield Metadata(FLIGHTS_MARTS, extra=figures)

    loaded = load_day()
    loaded >> dbt >> publish_figures(loaded)


flights_daily()
