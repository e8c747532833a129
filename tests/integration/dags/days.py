"""One run for each day, which fails if the Variable `days_that_fail` names the day."""

import time

from airflow.sdk import CronDataIntervalTimetable, Variable, dag, task
from pendulum import datetime

ZONE = "Asia/Tokyo"


@dag(
    schedule=CronDataIntervalTimetable("@daily", timezone=ZONE),
    start_date=datetime(2026, 3, 1, tz=ZONE),
    # The scheduler starts no run, so every run is one of a backfill.
    end_date=datetime(2026, 3, 2, tz=ZONE),
    catchup=False,
)
def days():
    @task
    def day(data_interval_start=None) -> None:
        time.sleep(3)
        if f"{data_interval_start.in_tz(ZONE):%Y-%m-%d}" in Variable.get("days_that_fail", ""):
            raise ValueError("the Variable days_that_fail names this day")

    day()


days()
