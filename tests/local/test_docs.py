"""The docs of all dbt projects are made without a warehouse."""

import json
import re

import pytest

from tests.conftest import HAS_POSTGRES, free_port, local
from tests.fixtures import write

if not HAS_POSTGRES:
    pytest.skip("the image has no runner", allow_module_level=True)

FILES = {
    "dbt_project.yml": "{name: second, profile: second}",
    # `make docs` does not use the profile of the project.
    "profiles.yml": "second: {target: prod, outputs: {prod: {type: snowflake}}}",
    "models/base.sql": "select 1 as id",
    "models/all_of_it.sql": "select * from {{ ref('base') }}",
}


@pytest.mark.slow
def test_each_project_has_a_page_with_the_names_that_prod_has(tmp_path):
    write(tmp_path / "dbt" / "second", FILES)
    own = {"LOCAL_HOME": str(tmp_path), "WAREHOUSE_PORT": free_port()}
    done = local("docs", env={**own, "DBT_PROJECTS_DIR": str(tmp_path / "dbt")})
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    assert re.findall('href="(.*?)"', (site / "index.html").read_text()) == ["second/"]
    page = (site / "second" / "index.html").read_text()
    assert json.dumps('"warehouse"."second"."all_of_it"') in page
    # Nothing is left in the project but what dbt logs.
    assert not (tmp_path / "dbt" / "second" / "target").exists()


@pytest.mark.slow
def test_a_project_that_dbt_cannot_parse_is_named(tmp_path):
    second = write(tmp_path / "dbt" / "second", {**FILES, "models/base.sql": "{{ ref('none') }}"})
    own = {"LOCAL_HOME": str(tmp_path), "WAREHOUSE_PORT": free_port()}
    done = local("docs", env={**own, "DBT_PROJECTS_DIR": str(tmp_path / "dbt")})
    assert done.returncode == 1
    assert done.stderr == f"error: dbt docs failed in {second}: see above.\n"
