"""A DAG without dbt that is late and fails, and one whose warehouse can't be reached."""

from datetime import datetime, timedelta

from airflow.sdk import DAG, AsyncCallback, DeadlineAlert, DeadlineReference, task
from cosmos import DbtDag

from include.alerts import deadline_passed
from include.dbt_build import add_dbt_build, cosmos_args
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

warehouse_down = DbtDag(
    dag_id="warehouse_down",
    **ARGS,
    **cosmos_args("states", select=["a"], conn_id="warehouse_down", schema="never_built"),
)
add_dbt_build(warehouse_down)
