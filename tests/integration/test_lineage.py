"""The build task emits an OpenLineage event for each node, through Airflow's provider."""

import json
import os
import subprocess

import pytest

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS

if HAS_POSTGRES:
    from local.settings import BIN
    from tests.integration.states import States

pytestmark = pytest.mark.slow


def test_each_model_has_an_event_with_its_inputs_and_outputs(api, warehouse, tmp_path):
    """`airflow dags test` runs the DAG in one process, with another metadata database."""
    States(api, warehouse).broken()
    events = tmp_path / "events"
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
    command = [BIN / "airflow", "dags", "test", "states_alone"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

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
