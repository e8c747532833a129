"""What the plugin owns of Airflow is as it expects, told part by part after an upgrade; what the
route does is tested on a running Airflow, in tests/integration/test_states.py."""

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.plugins_manager import get_fastapi_plugins
from airflow.utils.state import TaskInstanceState
from sqlalchemy import inspect

USED = {
    TaskInstance: {
        *("id", "dag_id", "run_id", "task_id", "operator", "state", "try_number", "hostname"),
        *("start_date", "end_date", "duration", "scheduled_dttm"),
    },
    XComModel: {"dag_id", "run_id", "task_id", "key", "value"},
}


@pytest.mark.parametrize(
    ("model", "column"), [(model, name) for model, names in USED.items() for name in sorted(names)]
)
def test_airflow_has_the_column(model, column):
    assert column in inspect(model).columns


def test_a_note_is_set_as_before():
    task = TaskInstance.__mapper__
    assert "task_instance_note" in task.relationships
    assert "note" in task.all_orm_descriptors


@pytest.mark.parametrize("state", ["RUNNING", "SUCCESS", "SCHEDULED", "UPSTREAM_FAILED"])
def test_airflow_has_the_state(state):
    assert TaskInstanceState[state] == state.lower()


def test_the_plugin_is_loaded_and_mounted():
    apps, _ = get_fastapi_plugins()
    (app,) = (app for app in apps if app["name"] == "dbt build")
    assert app["url_prefix"] == "/dbt_build"
    assert [route.path for route in app["app"].routes if "POST" in route.methods] == ["/{build_id}"]
