"""A broken plugin in a folder of an odd name, and a dbt of an older version, installed apart."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, connect, started_apart

if HAS_POSTGRES:
    from local.pipeline import Api
    from local.settings import dbt_env
    from tests.integration.states import States

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]


def states_of(env: dict[str, str], folder: Path) -> "States":
    # Its connection ends with its Postgres.
    warehouse = connect({**dbt_env(), "WAREHOUSE_PORT": env["WAREHOUSE_PORT"]})
    return States(Api(env["PORT"]), warehouse, home=folder)


def test_with_a_broken_plugin_every_task_accepts_what_dbt_built(projects, tmp_path, monkeypatch):
    # In a folder of an odd name, without a HOME.
    root, folder = (place / "für uns, 2. Stock" for place in (tmp_path, HOME))
    for name in ("dags", "include", "local", "plugins"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("airflow_settings.yaml", "Dockerfile", "local.toml"):
        shutil.copy(ROOT / name, root)
    (root / "plugins" / "dbt_build_api.py").write_text("raise ImportError('broken')")
    monkeypatch.delenv("HOME")
    off = {"AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins")}
    with started_apart(projects, folder, root=root, **off) as env:
        states = states_of(env, folder)
        assert states.run() == "success"
        nodes = [task for task in states.tasks().values() if task["operator"] == "DbtNode"]
        assert all(task["pid"] and task["state"] == "success" for task in nodes)
        # Each accepts what the one dbt said, and runs none of its own.
        said = states.log("dbt.a.test")
        assert "PASS unique_a_id" in said
        assert "Running with dbt" not in said
        assert "Airflow can't be told now" in states.log("dbt_build")


@pytest.fixture(scope="module")
def older_dbt() -> Path:
    venv = HOME / "dbt-1.11"
    uv = [Path(sys.executable).with_name("uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, venv], check=True)
    pins = ["dbt-core==1.11.16", "dbt-postgres==1.11.0"]
    subprocess.run([*uv, "pip", "install", "--python", venv / "bin" / "python", *pins], check=True)
    return venv / "bin" / "dbt"


def test_a_dbt_of_its_own_is_as_right(projects, older_dbt):
    folder = HOME / "dbt-apart"
    # `make start` has parsed with it, and run the DAGs of local.toml.
    with started_apart(projects, folder, DBT_EXECUTABLE=str(older_dbt)) as env:
        states = states_of(env, folder)
        states.broken("d")
        assert states.run() == "failed"
        found = states.states()
        assert found["dbt.d.run"] == "failed"
        assert found["dbt.e_run"] == "upstream_failed"
        assert found["dbt.c_run"] == "success"
        assert "division by zero" in states.log("dbt.d.run")
        assert "Running with dbt=1.11.16" in states.log("dbt_build")
        # One for each schema that a DAG builds the project in.
        manifests = [*folder.glob("cosmos/dbt_projects/*/states/target/manifest.json")]
        versions = {json.loads(file.read_text())["metadata"]["dbt_version"] for file in manifests}
        assert versions == {"1.11.16"}
