"""`python -m include.dbt_build`: every project is prepared, and a broken one is said."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "Dockerfile").exists(), reason="the image has no Dockerfile")
def test_the_image_is_built_without_a_database_whatever_kinds_of_dags_there_are(tmp_path):
    write(tmp_path / "dbt" / "second", FILES)
    plain = """
        from cosmos import DbtDag, ProfileConfig, ProjectConfig
        from cosmos.profiles import PostgresUserPasswordProfileMapping

        # Airflow only parses files that name it.
        mapping = PostgresUserPasswordProfileMapping("warehouse", {{"schema": "plain"}})
        dag = DbtDag(
            dag_id="plain",
            project_config=ProjectConfig("{project}"),
            profile_config=ProfileConfig("any", "prod", profile_mapping=mapping),
        )
    """.format(project=tmp_path / "dbt" / "second")
    write(tmp_path / "dags", {"plain.py": plain, "second.py": DAG.format(name="second")})
    command = re.search("^RUN (.*) &&", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={
            # With dbt, and without what the tests tell Airflow.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DBT_TARGET": "prod",
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos"),
            "DBT_PROJECTS_DIR": str(tmp_path / "dbt"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
