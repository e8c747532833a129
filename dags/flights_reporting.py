"""
### Reports on flights, whenever the marts have changed

Builds and tests the models of `nyc_flights` with the tag `reporting`. The asset `nyc_flights`,
which `flights_daily` updates, starts it.

If AIRFLOW__COSMOS__DBT_DOCS_PROJECTS names a folder or bucket for the dbt docs of `nyc_flights`,
`make_docs` writes them there, and Airflow shows them under Browse. If this task fails, the run does
not fail, and the previous docs stay.

**When it fails**, open the log of the failed task for dbt's message, fix the cause and clear the
task with its downstream tasks. No other DAG depends on this one.
"""

from datetime import datetime

# Airflow skips files without the words "airflow" and "dag"; this comment contains both.
from cosmos import ProjectConfig, RenderConfig
from cosmos.operators.local import DbtDocsLocalOperator

from include.dbt_build import DbtDag
from include.dbt_build.docs import docs_folder, publish_docs
from include.defaults import DAG_DEFAULTS
from include.nyc_flights.assets import FLIGHTS_MARTS
from include.nyc_flights.warehouse import RAW
from include.warehouse import DBT_PROJECTS, DBT_QUEUE, warehouse_profile

PROJECT = DBT_PROJECTS / "nyc_flights"
VARS = {"raw_schema": RAW}

flights_reporting = DbtDag(
    dag_id="flights_reporting",
    doc_md=__doc__,
    schedule=[FLIGHTS_MARTS],
    start_date=datetime(2013, 1, 1),
    catchup=False,
    # All asset events that arrive during a run start one more run, which builds all of their days.
    max_active_runs=1,
    **DAG_DEFAULTS,
    tags=["nyc_flights", "dbt", "reporting"],
    project_config=ProjectConfig(PROJECT, dbt_vars=VARS),
    profile_config=warehouse_profile("nyc_flights"),
    render_config=RenderConfig(select=["tag:reporting"]),
    operator_args={"queue": DBT_QUEUE},
)

if folder := docs_folder("nyc_flights"):
    last_tasks = flights_reporting.leaves
    make_docs = DbtDocsLocalOperator(
        task_id="make_docs",
        dag=flights_reporting,
        project_dir=PROJECT,
        profile_config=warehouse_profile("nyc_flights"),
        vars=VARS,
        dbt_cmd_flags=["--static"],
        callback=publish_docs,
        callback_args={"folder": folder},
        queue=DBT_QUEUE,
    )
    # The failure of a teardown does not fail the run, unless on_failure_fail_dagrun is set.
    last_tasks >> make_docs.as_teardown()
