"""A broken plugin in a folder with an unusual name, and an external dbt of an older version."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS
from tests.fixtures import connect, started_apart

if HAS_POSTGRES:
    from local.pipeline import Api
    from tests.integration.states import States

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]


def states_of(env: dict[str, str], folder: Path, dag_id: str = "states_between") -> "States":
    # The connection ends with its Postgres.
    warehouse = connect({**SETTINGS.dbt_env(), "WAREHOUSE_PORT": env["WAREHOUSE_PORT"]})
    return States(Api(env["PORT"]), warehouse, dag_id, home=folder)


def test_with_a_broken_plugin_each_task_starts_and_takes_its_stored_result(
    projects, tmp_path, monkeypatch
):
    # The path has a space, a comma and a letter outside of ASCII, and HOME is not set.
    root, folder = (parent / "für uns, 2. Stock" for parent in (tmp_path, HOME))
    for name in ("dags", "include", "local", "plugins"):
        shutil.copytree(ROOT / name, root / name)
    for name in ("airflow_settings.yaml", "Dockerfile", "local.toml"):
        shutil.copy(ROOT / name, root)
    (root / "plugins" / "build_api.py").write_text("raise ImportError('broken')")
    monkeypatch.delenv("HOME")
    broken = {"AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins")}
    with started_apart(projects, folder, root=root, **broken) as env:
        states = states_of(env, folder)
        assert states.run() == "success"
        assert states.not_successful() == {}
        tasks = states.tasks()
        nodes = [task for task in tasks.values() if task["operator"] == "DbtNodeOperator"]
        assert all(task["pid"] for task in (*nodes, tasks["dbt.dbt_build_done"]))
        # No node task runs dbt.
        log = states.log("dbt.a.test")
        assert "PASS unique_a_id" in log
        assert "Running with dbt" not in log
        assert "Airflow shows the results later" in states.log("dbt.dbt_build")
        assert set(states.built().values()) == {1}

        # If a node fails, no other task builds the nodes that dbt skipped.
        states.broken("d")
        assert states.run() == "failed"
        assert states.not_successful() == {
            "dbt.d.run": "failed",
            "dbt.d.test": "upstream_failed",
            "dbt.e_run": "upstream_failed",
            "dbt.dbt_build_done": "failed",
            "after": "upstream_failed",
        }
        names = states.tasks().keys() - {"dbt.dbt_build"}
        assert [name for name in names if "Running with dbt" in states.log(name)] == []


@pytest.fixture(scope="module")
def older_dbt() -> Path:
    venv = HOME / "dbt-1.11"
    uv = [Path(sys.executable).with_name("uv"), "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, venv], check=True)
    pins = ["dbt-core==1.11.16", "dbt-postgres==1.11.0"]
    subprocess.run([*uv, "pip", "install", "--python", venv / "bin" / "python", *pins], check=True)
    return venv / "bin" / "dbt"


def test_an_external_dbt_gives_the_same_states(projects, older_dbt):
    folder = HOME / "external-dbt"
    with started_apart(projects, folder, EXTERNAL_DBT=str(older_dbt)) as env:
        states = states_of(env, folder, "external_dbt")
        states.broken("d")
        assert states.run() == "failed"
        assert states.not_successful() == {
            "d.run": "failed",
            "d.test": "upstream_failed",
            "e_run": "upstream_failed",
            "dbt_build_done": "failed",
        }
        assert "division by zero" in states.log("d.run")
        assert "Running with dbt=1.11.16" in states.log("dbt_build")
        # The retry of the node runs the external dbt too.
        assert "Running with dbt=1.11.16" in states.log("d.run", 2)
        states.broken()
        states.clear("d.run")
        assert states.end() == "success"
        assert states.not_successful() == {}
        assert states.built() == {"d": 1, "e": 1}
        # The DAGs with dbt of Airflow's environment have a working directory of their own.
        manifests = folder.glob("cosmos/dbt_projects/*/**/states/target/manifest.json")
        versions = [json.loads(file.read_text())["metadata"]["dbt_version"] for file in manifests]
        assert versions.count("1.11.16") == 1
