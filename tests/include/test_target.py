"""Where a deployment writes, by its variable DBT_TARGET."""

import pytest
from airflow.dag_processing.dagbag import DagBag
from include.target import target_schema


@pytest.mark.parametrize(
    ("target", "schema"), [("prod", "my_project"), ("staging", "staging_my_project")]
)
def test_only_prod_writes_to_the_plain_names(monkeypatch, target, schema):
    monkeypatch.setenv("DBT_TARGET", target)
    assert target_schema("my-project") == schema
    assert target_schema("my-project", "ci_1") == "ci_1_my_project"


def test_nothing_is_prod_by_mistake(monkeypatch, tmp_path):
    """Airflow shows it as the import error of each DAG, as in standalone mode without its file."""
    (tmp_path / "daily.py").write_text(
        "from include.dbt_build import cosmos_args  # airflow, dag\ncosmos_args('any')\n"
    )
    monkeypatch.delenv("DBT_TARGET")
    (error,) = DagBag(tmp_path).import_errors.values()
    cause = error.splitlines()[-1]
    assert cause.startswith("RuntimeError: DBT_TARGET is not set.")
    assert cause.endswith("run `make standalone`, then the command that it prints.")
