"""Every DAG file can be imported without running dbt, and has what a DAG of this project needs."""

import sys
from pathlib import Path

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag

from tests.conftest import HOME, ROOT
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
    assert len(list(misnamed([ROOT / "dags" / "dbt_daily.py"]))) == 1


def test_no_dbt_and_no_process_runs_while_a_file_is_parsed(dag_bag):
    seen = []
    watching = True

    def watch(event, args):
        if watching and event == "subprocess.Popen":
            seen.append(args[1])

    def parsed() -> dict[Path, float]:
        # Cosmos runs dbt for a DAG with its own classes.
        made = HOME.glob("cosmos/dbt_projects/**/manifest.json")
        return {file: file.stat().st_mtime for file in made}

    before = parsed()
    sys.addaudithook(watch)
    try:
        assert DagBag(ROOT / "dags", bundle_path=ROOT).import_errors == {}
    finally:
        watching = False
    assert seen == []
    assert parsed() == before != {}
