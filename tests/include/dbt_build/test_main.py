"""`python -m include.dbt_build`: every project is prepared, and a broken one is said."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.include.dbt_build.conftest import FILES, write

pytestmark = pytest.mark.engine

DAG = """
    from datetime import datetime
    from cosmos import DbtDag
    from include.dbt_build import add_dbt_build, cosmos_args

    # Airflow only parses files that name it.
    dag = DbtDag(dag_id="{name}", start_date=datetime(2026, 1, 1), **cosmos_args("{name}"))
    add_dbt_build(dag)
"""


def test_a_broken_project_is_said_and_takes_no_other_down(tmp_path):
    for name in ("broken", "second"):
        write(tmp_path / "dbt" / name, FILES)
        write(tmp_path / "dags", {f"{name}.py": DAG.format(name=name)})
    write(tmp_path / "dbt" / "broken", {"models/base.sql": "select * from {{ ref('gone') }}"})
    done = subprocess.run(
        [sys.executable, "-m", "include.dbt_build"],
        cwd=ROOT,
        env={
            **os.environ,
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos"),
            "DBT_PROJECTS_DIR": str(tmp_path / "dbt"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()
    assert said[0].endswith("broken.py can't be imported:")
    assert said[1].endswith("DbtError: Compilation Error")
    assert "(models/base.sql) depends on a node named 'gone' which was not found" in said[2]
    assert "Traceback" not in done.stderr
    made = {path.parents[1].name for path in (tmp_path / "cosmos").rglob("cosmos.json")}
    assert made == {"second"}
