"""Each check in tests/dags/checks.py, which a fork keeps, can fail."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from cosmos import ProjectConfig, RenderConfig

from include.dbt_build import DbtDag
from include.dbt_build.alerts import alert
from include.warehouse import warehouse_profile
from tests.conftest import PROJECTS
from tests.dags.checks import built_twice, misnamed, problems, without_dag


def good_dag(**changes) -> DAG:
    arguments = {
        "dag_id": "good",
        "doc_md": "text",
        "tags": ["tag"],
        "start_date": datetime(2026, 1, 1),
        "default_args": {"owner": "team", "retries": 1},
        "on_failure_callback": alert,
        "dagrun_timeout": timedelta(hours=1),
        **changes,
    }
    with DAG(**arguments) as dag:
        task = EmptyOperator(task_id="task")
    task.conn_id = "warehouse"
    return dag


def test_a_good_dag_has_no_problem():
    assert list(problems(good_dag(), {"warehouse"})) == []


@pytest.mark.parametrize(
    ("changes", "known", "problem"),
    [
        ({"dag_id": "Not-Snake"}, {"warehouse"}, "snake_case"),
        ({"doc_md": " "}, {"warehouse"}, "no doc_md"),
        ({"tags": []}, {"warehouse"}, "no tags"),
        ({"catchup": True}, {"warehouse"}, "catchup"),
        ({"default_args": {"retries": 1}}, {"warehouse"}, "no owner"),
        ({"default_args": {"owner": "team"}}, {"warehouse"}, "no retries"),
        ({"on_failure_callback": None}, {"warehouse"}, "no on_failure_callback"),
        ({"dagrun_timeout": None}, {"warehouse"}, "no dagrun_timeout"),
        ({}, {"another"}, "no connection warehouse"),
    ],
)
def test_the_checks_can_fail(changes, known, problem):
    found = list(problems(good_dag(**changes), known))
    assert len(found) == 1
    assert problem in found[0]


def states(dag_id: str, **changes) -> DAG:
    return DbtDag(
        dag_id=dag_id,
        schedule=None,
        project_config=ProjectConfig(PROJECTS / "states"),
        render_config=RenderConfig(select=changes.pop("select")),
        profile_config=warehouse_profile("states", **changes),
    )


@pytest.mark.parametrize(
    ("changes", "twice"),
    [
        ({}, {'"states"."a"', '"states"."b"'}),
        ({"select": ["b", "c"]}, {'"states"."b"'}),
        ({"schema": "elsewhere"}, set()),
        ({"conn_id": "elsewhere"}, set()),
    ],
)
def test_a_table_that_two_dags_build_is_named(projects, changes, twice):
    dags = [states("one", select=["a", "b"]), states("two", **{"select": ["a", "b"], **changes})]
    lines = list(built_twice(dags))
    assert {line.split(" of warehouse is built by ")[0] for line in lines} == twice
    assert all("in one and by model.states." in line for line in lines)


@pytest.mark.parametrize(
    "source",
    [
        "from airflow.sdk import DAG\nimport there_is_no_such_module",
        "from airflow.sdk import DAG\nDAG('syntax'",
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator as Task\n"
        "with DAG('cycle'):\n    one, two = Task(task_id='one'), Task(task_id='two')\n"
        "    one >> two >> one",
    ],
    ids=["import", "syntax", "cycle"],
)
def test_a_broken_file_is_an_import_error(tmp_path, source):
    (tmp_path / "broken.py").write_text(source)
    assert len(DagBag(tmp_path, bundle_path=tmp_path).import_errors) == 1


def test_a_file_that_airflow_skips_is_named(tmp_path):
    team = tmp_path / "team"
    team.mkdir()
    (team / "__init__.py").touch()
    (team / "fine.py").write_text("from airflow.sdk import DAG\n\ndag = DAG('fine')\n")
    (team / "silent.py").write_text("from include import make\n\nmake()\n")
    bag = DagBag(tmp_path, bundle_path=tmp_path)
    assert bag.import_errors == {}
    (line,) = without_dag(tmp_path, bag.dags.values())
    assert line.startswith("team/silent.py: ")


def test_a_file_with_the_name_of_a_plugin_of_dbt_is_found():
    assert len(list(misnamed([Path("dags/dbt_daily.py"), Path("dags/daily.py")]))) == 1
