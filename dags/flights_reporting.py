"""
### Reports on flights, whenever the marts have changed

Builds and tests the models of `nyc_flights` that carry the tag `reporting`, as a DAG made by
Cosmos alone. It is started by the asset `nyc_flights`, which `flights_daily` updates.

Where AIRFLOW__COSMOS__DBT_DOCS_PROJECTS names a folder or bucket for the docs of `nyc_flights`,
`make_docs` then puts them there, and Airflow shows them under Browse. If it fails, the run does
not, and the last docs stay.

**When it fails**, open the red task's log for dbt's message, mend the cause and clear the task
with its downstream tasks. Nothing else depends on this DAG.
"""

from datetime import datetime

# Airflow only parses files that name both airflow and dag.
from cosmos import DbtDag
from cosmos.operators.local import DbtDocsLocalOperator

from include.dbt_build import add_dbt_build, cosmos_args, docs_args, docs_place
from include.defaults import DAG_DEFAULTS
from include.nyc_flights.assets import FLIGHTS_MARTS
from include.nyc_flights.warehouse import RAW

DBT = cosmos_args("nyc_flights", select=["tag:reporting"], vars={"raw_schema": RAW})

flights_reporting = DbtDag(
    dag_id="flights_reporting",
    doc_md=__doc__,
    schedule=[FLIGHTS_MARTS],
    start_date=datetime(2013, 1, 1),
    catchup=False,
    # The marts of days that end while it runs wait for one more run, which builds all of them.
    max_active_runs=1,
    **DAG_DEFAULTS,
    tags=["nyc_flights", "dbt", "reporting"],
    **DBT,
)
add_dbt_build(flights_reporting)

if docs_place("nyc_flights"):
    built = flights_reporting.leaves
    make_docs = DbtDocsLocalOperator(task_id="make_docs", dag=flights_reporting, **docs_args(DBT))
    # As a teardown, whose failure does not fail the run.
    built >> make_docs.as_teardown()
