"""A DAG without dbt that fails and is late."""

from datetime import datetime, timedelta

from airflow.providers.apprise.notifications.apprise import AppriseNotifier
from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, task

from include.defaults import DAG_DEFAULTS

ARGS = {
    **DAG_DEFAULTS,
    "default_args": {"owner": "tests"},
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
}

# As in the docstring of include/dbt_build/alerts.py.
LATE = {
    "apprise_conn_id": "alerts",
    "title": "{{ dag_run.dag_id }} is late",
    "body": "Its run {{ dag_run.dag_run_id }} is {{ dag_run.state }}.",
    "notify_type": "warning",
}

with DAG(
    "late",
    **ARGS,
    deadline=DeadlineAlert(
        DeadlineReference.DAGRUN_QUEUED_AT,
        timedelta(seconds=1),
        AsyncCallback(AppriseNotifier, kwargs=LATE),
    ),
):

    @task
    def fails() -> None:
        raise ValueError("no source")

    fails()
