"""What all DAGs share. Yours to edit."""

from datetime import timedelta

from include.dbt_build.alerts import alert

# Arguments of a DAG: DAG(**DAG_DEFAULTS, ...).
DAG_DEFAULTS = {
    "default_args": {
        "owner": "data-team",
        # Retries of the build task, of each model and of your own tasks. A failed dbt test is not
        # retried, because another try would find the same rows.
        "retries": 1,
        "retry_delay": timedelta(seconds=30),
        # dbt cancels the statements of a task that takes longer, and Airflow retries the task.
        "execution_timeout": timedelta(hours=2),
    },
    # The time is counted from the start of the run, or from a clear after the run has ended.
    "dagrun_timeout": timedelta(hours=6),
    "on_failure_callback": alert,
    "on_success_callback": alert,
}
