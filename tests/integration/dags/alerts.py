"""A DAG without dbt that fails and is late."""

from datetime import datetime, timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, task

from include.dbt_build.alerts import deadline_passed
from include.defaults import DAG_DEFAULTS

ARGS = {
    **DAG_DEFAULTS,
    "default_args": {"owner": "tests"},
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
}

with DAG(
    "late",
    **ARGS,
    deadline=DeadlineAlert(
        DeadlineReference.DAGRUN_QUEUED_AT, timedelta(seconds=1), AsyncCallback(deadline_passed)
    ),
):

    @task
    def fails() -> None:
        raise ValueError("no source")

    fails()
