"""Two tasks that run before anything is measured, so that Airflow has imported what it needs."""

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("warm_up", schedule=None):
    first, second = (BashOperator(task_id=name, bash_command="true") for name in ("one", "two"))
    first >> second
