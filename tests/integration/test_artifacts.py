"""What dbt writes about a run is kept, and the newest green build's apart."""

import json
from pathlib import Path

import pytest

from tests.conftest import HAS_POSTGRES, HOME, local

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.engine,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

PLACE = HOME / "artifacts" / "states" / "prod"


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


def kept(states: "States") -> dict[str, Path]:
    """The folders of a run, by task and try, in the order of their time."""
    found = sorted((PLACE / states.dag_id).glob(f"*@{states.run_id}@*"))
    return {path.name.rpartition("@")[2]: path for path in found}


def statuses(folder: Path) -> dict[str, str]:
    results = json.loads((folder / "run_results.json").read_text())["results"]
    return {result["unique_id"].split(".")[2]: result["status"] for result in results}


@pytest.mark.slow
def test_each_try_is_kept_and_green_is_the_newest_that_was(states):
    states.broken()
    assert states.run() == "success"
    green = (PLACE / "green" / "run_results.json").read_text()
    assert [*kept(states)] == ["dbt_build.1"]
    assert (kept(states)["dbt_build.1"] / "run_results.json").read_text() == green
    assert "model.states.a" in json.loads((PLACE / "green" / "manifest.json").read_text())["nodes"]

    states.broken("b")
    assert states.run() == "failed"
    assert (PLACE / "green" / "run_results.json").read_text() == green
    # The build, and the model's own second try.
    build, again = (statuses(folder) for folder in kept(states).values())
    assert (build["a"], build["b"], build["d"]) == ("success", "error", "skipped")
    assert again["b"] == "error"
    # But the project's hooks, nothing else.
    assert [name for name in again if not name.startswith("states-on-run")] == ["b"]
    states.broken()

    reported = local("report", "--project", "states", env={"COLUMNS": "160"})
    assert reported.returncode == 0, reported.stderr
    # Of the three tries of this test, or more of others, two failed for b.
    newest, _, rest = reported.stdout.partition("Slowest nodes")
    assert states.dag_id in newest
    worst = rest.partition("What fails or warns most")[2]
    [row] = [line for line in worst.splitlines() if "model b " in line]
    assert "division by zero" in row or "Database Error" in row
    assert "model b" in (HOME / "report.html").read_text()


def test_a_project_of_which_nothing_is_kept_is_said(tmp_path):
    done = local("report", "--project", "states", env={"DBT_ARTIFACTS": f"file://{tmp_path}"})
    nothing = (
        f"error: There are no artifacts of states in file://{tmp_path}: run a DAG that builds it.\n"
    )
    assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (1, nothing)
