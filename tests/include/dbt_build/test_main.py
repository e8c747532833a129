"""`python -m include.dbt_build` parses all projects and prints the errors of DAG files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.include.dbt_build.conftest import FILES, write

DAG = """
    from datetime import datetime
    from pathlib import Path

    # Airflow skips files without the words "airflow" and "dag"; this comment contains both.
    from cosmos import ProfileConfig, ProjectConfig
    from cosmos.profiles import PostgresUserPasswordProfileMapping

    from {package} import DbtDag

    mapping = PostgresUserPasswordProfileMapping("warehouse", {{"schema": "{name}"}})
    dag = DbtDag(
        dag_id=Path(__file__).stem,
        start_date=datetime(2026, 1, 1),
        project_config=ProjectConfig("{folder}/{name}"),
        profile_config=ProfileConfig("any", "prod", profile_mapping=mapping),
    )
"""


@pytest.mark.slow
def test_a_broken_project_is_an_error_and_all_others_are_parsed(tmp_path):
    for name in ("broken", "second"):
        write(tmp_path / "dbt" / name, FILES)
        dag = DAG.format(package="include.dbt_build", folder=tmp_path / "dbt", name=name)
        write(tmp_path / "dags", {f"{name}.py": dag})
    write(tmp_path / "dbt" / "broken", {"models/base.sql": "select * from {{ ref('gone') }}"})
    done = subprocess.run(
        [sys.executable, "-m", "include.dbt_build"],
        cwd=ROOT,
        env={
            **os.environ,
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    first, second, third, *_ = done.stderr[done.stderr.index("broken.py cannot") :].splitlines()
    assert first == "broken.py cannot be imported:"
    assert re.search(r"DbtError: dbt parse failed in .*/broken: Compilation Error", second)
    assert "(models/base.sql) depends on a node named 'gone' which was not found" in third
    assert "Traceback" not in done.stderr
    assert "second.py" not in done.stderr
    slim = [path.parents[1].name for path in (tmp_path / "cosmos").rglob("slim-*.json")]
    assert slim == ["second"]


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "Dockerfile").exists(), reason="the image has no Dockerfile")
def test_an_image_with_dags_of_both_kinds_is_built_without_a_database(tmp_path):
    folder = write(tmp_path / "dbt" / "second", FILES).parent
    for name, package in (("plain", "cosmos"), ("drop_in", "include.dbt_build")):
        dag = DAG.format(package=package, folder=folder, name="second")
        write(tmp_path / "dags", {f"{name}.py": dag})
    command = re.search("^RUN (.*) &&", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[1]
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        env={
            # dbt is in the path. The settings of the tests are not there.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DBT_TARGET": "prod",
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(tmp_path / "cosmos"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
