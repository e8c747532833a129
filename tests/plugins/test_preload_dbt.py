"""The process of a task imports nothing of Cosmos and dbt, because its parent has done it."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

# The imports of the scheduler before it forks, and then the first import of a task's process.
SCRIPT = """
import sys
sys.argv = ["airflow", "scheduler"]
from airflow.plugins_manager import ensure_plugins_loaded
ensure_plugins_loaded()
before = set(sys.modules)
from airflow.dag_processing.dagbag import DagBag
bag = DagBag("dags", bundle_path=".")
assert bag.dags, bag.import_errors
libraries = {"cosmos", "dbt", "openlineage"}
print("new:", *(name for name in set(sys.modules) - before if name.split(".")[0] in libraries))
assert "dbt.task.build" in before
"""


@pytest.mark.slow
def test_a_tasks_process_imports_nothing_of_cosmos_and_dbt(projects):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}
    # The build of the image parses the projects.
    subprocess.run([sys.executable, "-m", "include.dbt_build"], cwd=ROOT, env=env, check=True)
    parsed = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert parsed.returncode == 0, parsed.stderr
    # Airflow writes its warnings to stdout too.
    assert parsed.stdout.splitlines()[-1].split() == ["new:"]
