"""Where a deployment writes, by its variable DBT_TARGET."""

import pytest

from include.target import deployed_target, target_schema


@pytest.mark.parametrize(
    ("target", "schema"), [("prod", "my_project"), ("staging", "staging_my_project")]
)
def test_only_prod_writes_to_the_plain_names(monkeypatch, target, schema):
    monkeypatch.setenv("DBT_TARGET", target)
    assert target_schema("my-project") == schema
    assert target_schema("my-project", "ci_1") == "ci_1_my_project"


def test_nothing_is_prod_by_mistake(monkeypatch):
    monkeypatch.delenv("DBT_TARGET")
    with pytest.raises(RuntimeError, match=r"^DBT_TARGET is not set"):
        deployed_target()
