"""The build task emits an OpenLineage event for each node, through Airflow's provider."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS

if HAS_POSTGRES:
    from local.settings import BIN
    from tests.integration.states import States

pytestmark = pytest.mark.slow


def run_with_lineage(dag_id: str, events: Path) -> str:
    """Run a DAG in one process, with another metadata database, and return the logs of its tasks.

    Args:
        dag_id: the ID of the DAG.
        events: the file that gets the OpenLineage events.
    """
    env = {
        **os.environ,
        **SETTINGS.machine_env(),
        "AIRFLOW_HOME": str(HOME / "lineage"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/lineage.db",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(events), "append": True}
        ),
        "PYTHONPATH": str(ROOT),
    }
    subprocess.run([BIN / "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    command = [BIN / "airflow", "dags", "test", dag_id]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_model_has_an_event_with_its_inputs_and_outputs(api, warehouse, tmp_path):
    States(api, warehouse).broken()
    events = tmp_path / "events"
    run_with_lineage("states_alone", events)
    emitted = [json.loads(line) for line in events.read_text().splitlines()]
    edges = {
        (output["name"], frozenset(source["name"] for source in event["inputs"]))
        for event in emitted
        for output in event["outputs"]
        if event["run"]["facets"].get("parent", {}).get("job", {}).get("name")
        == "states_alone.dbt_build"
    }
    models = "warehouse.states"
    assert (f"{models}.d", frozenset({f"{models}.b", f"{models}.c"})) in edges
    assert (f"{models}.c", frozenset({"warehouse.raw_states.events"})) in edges
    assert {output for output, _ in edges} >= {f"{models}.{name}" for name in "abcdefg"}


def test_the_log_of_a_build_has_no_line_for_each_tested_snapshot(api, warehouse, tmp_path):
    events = tmp_path / "events"
    logged = run_with_lineage("all_of_dbt", events)
    assert "PASS unique_customers_snapshot_id" in logged
    assert "all_of_dbt.customers_snapshot" in events.read_text()
    assert "Model node connected to test" not in logged
