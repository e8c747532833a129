"""The project `states`, as a task group between two tasks and as a DAG of its own."""

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, task
from cosmos import DbtDag, DbtTaskGroup

from include.dbt_build import add_dbt_build, cosmos_args
from include.defaults import DAG_DEFAULTS

ARGS = {
    **DAG_DEFAULTS,
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
    "default_args": {"owner": "tests", "retries": 1, "retry_delay": timedelta(seconds=1)},
    "max_active_runs": 1,
    "params": {
        "start": Param("2026-01-01", type="string"),
        "end": Param("2026-01-04", type="string"),
        "full_refresh": Param(False, type="boolean"),
        "parse": Param("good", type="string"),
    },
}
GIVEN = {
    "env_vars": {
        "DBT_EVENT_TIME_START": "{{ params.start }}",
        "DBT_EVENT_TIME_END": "{{ params.end }}",
        "STATES_PARSE": "{{ params.parse }}",
    },
    "full_refresh": "{{ params.full_refresh }}",
}
STATES = cosmos_args("states", **GIVEN)

with DAG("states_between", **ARGS):

    @task
    def before() -> None: ...

    @task
    def after() -> None: ...

    dbt = DbtTaskGroup(group_id="dbt", **STATES)
    before() >> add_dbt_build(dbt) >> dbt >> after()

states_alone = DbtDag(dag_id="states_alone", **ARGS, **STATES)
add_dbt_build(states_alone)

states_fresh = DbtDag(dag_id="states_fresh", **ARGS, **STATES)
add_dbt_build(states_fresh, freshness=True)

# For tests/integration/test_security.py, which makes the connection.
states_secret = DbtDag(
    dag_id="states_secret", **ARGS, **cosmos_args("states", conn_id="secret", **GIVEN)
)
add_dbt_build(states_secret)
