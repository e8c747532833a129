"""What all DAGs share. Yours to edit."""

from datetime import timedelta

from include.dbt_build.alerts import alert

# Arguments of a DAG: DAG(**DAG_DEFAULTS, ...).
DAG_DEFAULTS = {
    "default_args": {
        "owner": "data-team",
        # Of a model, or of a task of your own. A dbt test that fails is not tried again: it is an
        # answer.
        "retries": 1,
        "retry_delay": timedelta(seconds=30),
        # No statement hangs for ever: then the task is tried again.
        "execution_timeout": timedelta(hours=2),
    },
    # From the start of a run, or of what was cleared of it.
    "dagrun_timeout": timedelta(hours=6),
    "on_failure_callback": alert,
    "on_success_callback": alert,
}
