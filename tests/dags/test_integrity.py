"""Every DAG file can be imported, and has what a DAG of this project needs."""

import pytest
import yaml

from tests.conftest import ROOT
from tests.dags.checks import built_twice, misnamed, problems, without_dag

SETTINGS = ROOT / "airflow_settings.yaml"


@pytest.fixture(scope="module")
def connections() -> set[str]:
    if not SETTINGS.exists():
        pytest.skip("airflow_settings.yaml is not part of the image: run `make test`")
    settings = yaml.safe_load(SETTINGS.read_text())
    return {conn["conn_id"] for conn in settings["airflow"]["connections"]}


def test_every_file_imports_and_defines_a_dag(dag_bag):
    assert dag_bag.import_errors == {}
    assert list(without_dag(ROOT / "dags", dag_bag.dags.values())) == []


def test_every_dag_passes_the_checks(dag_bag, connections):
    assert [line for dag in dag_bag.dags.values() for line in problems(dag, connections)] == []


def test_no_table_is_built_twice(dag_bag):
    assert list(built_twice(dag_bag.dags.values())) == []


def test_no_file_has_the_name_of_a_plugin_of_dbt():
    assert list(misnamed((ROOT / "dags").glob("*.py"))) == []
