"""Where a deployment writes, by its variable DBT_TARGET."""

import pytest
from airflow.dag_processing.dagbag import DagBag

from include.warehouse import target_schema, warehouse_profile


@pytest.mark.parametrize(
    ("target", "schema"), [("prod", "my_project"), ("staging", "staging_my_project")]
)
def test_only_prod_has_schemas_without_a_prefix(monkeypatch, target, schema):
    monkeypatch.setenv("DBT_TARGET", target)
    assert target_schema("my-project") == schema
    assert target_schema("my-project", "ci_1") == "ci_1_my_project"
    profile = warehouse_profile("my-project")
    assert (profile.profile_name, profile.target_name) == ("my-project", target)
    assert profile.profile_mapping.profile_args == {"schema": schema, "threads": 4}


def test_a_profile_can_have_another_target_schema_and_connection(monkeypatch):
    monkeypatch.setenv("DBT_TARGET", "prod")
    profile = warehouse_profile("p", target="staging", conn_id="other", threads=8)
    assert profile.target_name == "staging"
    assert profile.profile_mapping.conn_id == "other"
    assert profile.profile_mapping.profile_args == {"schema": "staging_p", "threads": 8}
    assert warehouse_profile("p", schema="s").profile_mapping.profile_args["schema"] == "s"


def test_a_deployment_without_a_target_is_an_import_error(monkeypatch, tmp_path):
    (tmp_path / "daily.py").write_text(
        "from include.warehouse import warehouse_profile  # airflow, dag\nwarehouse_profile('any')"
    )
    monkeypatch.delenv("DBT_TARGET")
    (error,) = DagBag(tmp_path).import_errors.values()
    message = error.splitlines()[-1]
    assert message.startswith("RuntimeError: DBT_TARGET is not set.")
    assert message.endswith("run `make standalone`, then the command that it prints.")
