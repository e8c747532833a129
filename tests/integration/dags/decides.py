"""The project `decides`: DAGs in which dbt leaves nodes out, goes on, or stops."""

from datetime import datetime, timedelta

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException
from cosmos import ProjectConfig, RenderConfig
from cosmos.constants import TestBehavior

from include.dbt_build import DbtDag, DbtTaskGroup
from include.warehouse import DBT_PROJECTS, warehouse_profile

ARGS = {
    "schedule": None,
    "start_date": datetime(2026, 1, 1),
    "default_args": {"owner": "tests", "retries": 1, "retry_delay": timedelta(seconds=1)},
    "max_active_runs": 1,
}


def dbt_args(*select: str, project: str = "decides", **operator_args) -> dict:
    return {
        "project_config": ProjectConfig(DBT_PROJECTS / project),
        "profile_config": warehouse_profile(project),
        "render_config": RenderConfig(select=[*select], emit_datasets=False),
        "operator_args": operator_args,
    }


decides_chain = DbtDag(dag_id="decides_chain", **ARGS, **dbt_args("tag:chain"))
# No task is retried, so that the scheduler sets what is downstream to upstream_failed at once.
NO_RETRY = {**ARGS, "default_args": {"owner": "tests"}}
decides_continue = DbtDag(dag_id="decides_continue", **NO_RETRY, **dbt_args("continues+"))
decides_continue_retried = DbtDag(
    dag_id="decides_continue_retried", **ARGS, **dbt_args("continues+")
)
decides_fail_fast = DbtDag(
    dag_id="decides_fail_fast", **ARGS, **dbt_args("independent*", fail_fast=True)
)
# The flag is in the dbt_project.yml of this project.
decides_fail_fast_flag = DbtDag(
    dag_id="decides_fail_fast_flag", **ARGS, **dbt_args("independent*", project="fails_fast")
)
# The selection is a node, a name that no node has, and a pattern of tags.
decides_twice = DbtDag(
    dag_id="decides_twice", **ARGS, **dbt_args("independent_1", "missing", "tag:wip*")
)
decides_function = DbtDag(
    dag_id="decides_function", **ARGS, **dbt_args("+uses_twice"), run_options=True
)
decides_unused = DbtDag(
    dag_id="decides_unused", **ARGS, **dbt_args("chain_a", "largest", "appends")
)
decides_batches = DbtDag(dag_id="decides_batches", **ARGS, **dbt_args("batches"))
decides_enabled = DbtDag(
    dag_id="decides_enabled",
    **ARGS,
    **dbt_args("independent_1", "independent_2", "enabled"),
    run_options=True,
)
ENABLED = dbt_args("independent_1", "independent_2", "enabled", "warns")
ENABLED["project_config"] = ProjectConfig(DBT_PROJECTS / "decides", dbt_vars={"more": True})
decides_disabled = DbtDag(
    dag_id="decides_disabled", **ARGS, **ENABLED, run_options=True, source_freshness=True
)
# The model has a unit test, which the selection or a variable of dbt leaves out.
ONCE, ONCE_BY_VARIABLE = dbt_args("once"), dbt_args("once")
ONCE["render_config"].exclude = ["resource_type:unit_test"]
ONCE_BY_VARIABLE["project_config"] = ProjectConfig(
    DBT_PROJECTS / "decides", env_vars={"DBT_EXCLUDE_RESOURCE_TYPES": "unit_test"}
)
decides_once = DbtDag(dag_id="decides_once", **ARGS, **ONCE)
decides_once_by_variable = DbtDag(dag_id="decides_once_by_variable", **ARGS, **ONCE_BY_VARIABLE)
decides_hook = DbtDag(dag_id="decides_hook", **ARGS, **dbt_args("appends"))
CHECKED, COMPARED = dbt_args("checked", "independent_1"), dbt_args("compared", "against")
# A task builds a model and runs its tests.
for args in (CHECKED, COMPARED):
    args["render_config"].test_behavior = TestBehavior.BUILD
decides_checked = DbtDag(dag_id="decides_checked", **ARGS, **CHECKED)
decides_compared = DbtDag(dag_id="decides_compared", **ARGS, **COMPARED)


def warned(context) -> None:
    print("Warned:", *context["test_names"])


# All tests run after the model, in a second dbt command.
TESTS_LAST = dbt_args("warns", on_warning_callback=warned)
TESTS_LAST["render_config"].test_behavior = TestBehavior.AFTER_ALL
decides_last = DbtDag(dag_id="decides_last", **ARGS, **TESTS_LAST, source_freshness=True)

TAGGED = dbt_args("independent_1", "tag:chosen", "twice")
TAGGED["render_config"].test_behavior = TestBehavior.AFTER_ALL
decides_tagged = DbtDag(dag_id="decides_tagged", **ARGS, **TAGGED, run_options=True)

# A run with `leave_out` leaves out the model between the two others. dbt renders the template too,
# when it parses the project.
TEMPLATED = dbt_args("independent_1", "tag:chosen", "after_tagged", "twice")
IS_CHOSEN = "{{ '' if dag_run is defined and dag_run.conf.get('leave_out') else 'yes' }}"
TEMPLATED["project_config"] = ProjectConfig(
    DBT_PROJECTS / "decides", dbt_vars={"is_chosen": IS_CHOSEN}
)
decides_templated = DbtDag(dag_id="decides_templated", **ARGS, **TEMPLATED)

# The variable enables a model in the run only.
ENVIRONMENT = dbt_args("independent_1", "enabled_by_environment", "chain_a")
ENVIRONMENT["render_config"].test_behavior = TestBehavior.AFTER_ALL
ENVIRONMENT["project_config"] = ProjectConfig(
    DBT_PROJECTS / "decides", env_vars={"DECIDES_MORE": "{{ dag_run.conf.get('more', 'no') }}"}
)
decides_environment = DbtDag(dag_id="decides_environment", **ARGS, **ENVIRONMENT)

with DAG("decides_groups", params={"skip": False}, **ARGS):

    @task
    def perhaps_skip(number: int, params) -> None:
        if params["skip"]:
            raise AirflowSkipException(f"The run asks for it, also in task instance {number}.")

    groups = [
        DbtTaskGroup(group_id=f"group_{n}", **dbt_args(f"independent_{n}"), run_options=True)
        for n in (1, 2)
    ]

    @task
    def between(number: int) -> None: ...

    first, second = (
        between.override(task_id=f"{name}_between").expand(number=[1, 2])
        for name in ("first", "second")
    )
    perhaps_skip.expand(number=[1, 2]) >> groups[0] >> first >> second >> groups[1]
    groups[0] >> groups[1]

with DAG("decides_after", **ARGS):

    @task
    def after() -> None: ...

    DbtTaskGroup("dbt", **dbt_args("compared", "against", "after_compared")) >> after()

with DAG("decides_deployed", **ARGS):

    @task
    def after_deploy() -> None: ...

    # A test adds a model and the first test of the other one.
    DEPLOYED = dbt_args("independent_1", "added", project="fails_fast")
    DbtTaskGroup("dbt", **DEPLOYED) >> after_deploy()

with DAG("decides_always", **ARGS):

    @task(trigger_rule="all_done")
    def always() -> None: ...

    DbtTaskGroup(group_id="dbt", **dbt_args("independent*", "appends")) >> always()
