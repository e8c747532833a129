"""The project `states`, as a task group between two tasks and as a DAG of its own."""

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, task
from cosmos import ProjectConfig, RenderConfig

from include.dbt_build import DbtDag, DbtTaskGroup
from include.defaults import DAG_DEFAULTS
from include.warehouse import DBT_PROJECTS, warehouse_profile

PROJECT = DBT_PROJECTS / "states"
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
    },
}


def states(conn_id: str = "warehouse") -> dict:
    """Return Cosmos's arguments for the whole project."""
    env_vars = {
        "DBT_EVENT_TIME_START": "{{ params.start }}",
        "DBT_EVENT_TIME_END": "{{ params.end }}",
    }
    return {
        "project_config": ProjectConfig(PROJECT, env_vars=env_vars),
        "profile_config": warehouse_profile("states", conn_id=conn_id),
        "operator_args": {"full_refresh": "{{ params.full_refresh }}"},
    }


def part_of_states(
    *select: str, conn_id: str = "warehouse", env_vars: dict | None = None, **dag_args
) -> dict:
    """Return the arguments of a DbtDag for a few nodes, with some arguments of the DAG replaced."""
    return {
        **ARGS,
        **dag_args,
        "project_config": ProjectConfig(PROJECT, env_vars=env_vars),
        "profile_config": warehouse_profile("states", conn_id=conn_id),
        "render_config": RenderConfig(select=[*select]),
    }


with DAG("states_between", **ARGS):

    @task
    def before() -> None: ...

    @task
    def after() -> None: ...

    @task(trigger_rule="all_done")
    def always() -> None: ...

    before() >> (dbt := DbtTaskGroup("dbt", **states())) >> after()
    dbt >> always()

with DAG("states_chosen", **ARGS):

    @task
    def after_all() -> None: ...

    @task(trigger_rule="none_failed")
    def after_any() -> None: ...

    dbt = DbtTaskGroup("dbt", **states(), source_freshness=True, run_options=True)
    dbt >> [after_all(), after_any()]

states_alone = DbtDag(dag_id="states_alone", **ARGS, **states())
states_fresh = DbtDag(dag_id="states_fresh", **ARGS, **states(), source_freshness=True)

# test_security.py makes this connection.
states_secret = DbtDag(dag_id="states_secret", **ARGS, **states(conn_id="secret"))

# test_connection.py makes and breaks this connection.
RETRIED = {"owner": "tests", "retries": 3, "retry_delay": timedelta(seconds=10)}
elsewhere = DbtDag(
    dag_id="elsewhere", **part_of_states("a", "b", conn_id="elsewhere", default_args=RETRIED)
)
elsewhere_once = DbtDag(
    dag_id="elsewhere_once",
    **part_of_states("a", "b", conn_id="elsewhere", default_args={"owner": "tests"}),
)

# The timeout of its tasks ends the first one, the timeout of its run the second one.
LIMIT = timedelta(seconds=30)
task_hangs = DbtDag(
    dag_id="task_hangs", **part_of_states("a", default_args={"execution_timeout": LIMIT})
)
run_hangs = DbtDag(dag_id="run_hangs", **part_of_states("a", dagrun_timeout=LIMIT))


def called(context) -> None: ...


# Each of its tasks starts a process for its callback.
states_called = DbtDag(
    dag_id="states_called",
    **part_of_states("a", "b", default_args={"owner": "tests", "on_success_callback": called}),
)

# dbt fails in a run with the parameter parse=fails when it parses the model f.
parse_fails = DbtDag(
    dag_id="parse_fails",
    **part_of_states(
        "letters",
        env_vars={"STATES_PARSE": "{{ params.parse }}"},
        params={"parse": Param("succeeds", type="string")},
    ),
)
