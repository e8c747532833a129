"""dbt's artifacts of each try are kept, and those of the newest successful build."""

import json
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

FOLDER = HOME / "artifacts" / "states" / "prod"


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


def kept(states: "States") -> dict[str, Path]:
    """Return the folders of a run, by task and try, oldest first."""
    found = sorted((FOLDER / states.dag_id).glob(f"*@{states.run_id}@*"))
    return {path.name.rpartition("@")[2]: path for path in found}


def statuses(folder: Path) -> dict[str, str]:
    results = json.loads((folder / "run_results.json").read_text())["results"]
    return {result["unique_id"].split(".")[2]: result["status"] for result in results}


@pytest.mark.slow
def test_each_try_is_kept_and_green_is_the_newest_successful_build(states):
    states.broken()
    assert states.run() == "success"
    green = (FOLDER / "green" / "run_results.json").read_text()
    assert [*kept(states)] == ["dbt.dbt_build.1"]
    assert (kept(states)["dbt.dbt_build.1"] / "run_results.json").read_text() == green
    assert "model.states.a" in json.loads((FOLDER / "green" / "manifest.json").read_text())["nodes"]

    states.clear("dbt.g_run", downstream=False)
    assert states.end() == "success"
    assert (FOLDER / "green" / "run_results.json").read_text() == green

    states.broken("b")
    assert states.run() == "failed"
    assert (FOLDER / "green" / "run_results.json").read_text() == green
    # The build task, and the second try of the model's task.
    build, rerun = (statuses(folder) for folder in kept(states).values())
    assert (build["a"], build["b"], build["d"]) == ("success", "error", "skipped")
    assert rerun["b"] == "error"
    # It runs the hooks of the project, and no other node.
    assert [name for name in rerun if not name.startswith("states-on-run")] == ["b"]
    states.broken()
