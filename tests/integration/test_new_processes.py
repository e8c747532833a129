"""Each task in a new process that shares nothing with the others but the database, as in a pod.

XCom values are in an object store, whatever their size.
"""

import pytest

from tests.conftest import HAS_POSTGRES, HOME
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import MODELS, separate_airflow

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

BUILD = "dbt.dbt_build"


@pytest.fixture(scope="module")
def states(projects):
    env = {
        "AIRFLOW__CORE__EXECUTOR": "bench.executor.NewProcessExecutor",
        "AIRFLOW__CORE__XCOM_BACKEND": (
            "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
        ),
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{HOME}/new-processes/xcom",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
    }
    with separate_airflow(projects, "new-processes", env) as states:
        yield states


def test_dbt_uses_the_parse_and_reports_while_it_works(states):
    states.broken("g", fails=False, seconds=15)
    states.trigger()
    states.wait_for_state("dbt.a.run", "success")
    assert states.tasks()[BUILD]["state"] == "running"
    assert states.end() == "success"
    assert states.not_successful() == {}
    nodes = [t for t in states.tasks().values() if t["operator"] == "DbtNodeOperator"]
    assert {task["pid"] for task in nodes} == {None}
    log = states.log(BUILD)
    assert "Running with dbt" in log
    assert "Unable to do partial parsing" not in log
    assert "full parse" not in log


def test_a_failed_node_has_the_message_of_dbt_and_downstream_nodes_follow_its_retry(states):
    states.broken("d", once=True)
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert "division by zero" in states.log("dbt.d.run")
    assert states.tasks()["dbt.d.run"]["try_number"] == 2
    assert states.built() == dict.fromkeys(MODELS, 1)


def test_a_clear_runs_one_dbt(states):
    states.broken()
    assert states.run() == "success"
    states.broken()
    states.clear("dbt.d.run")
    assert states.end() == "success"
    assert states.built() == {"d": 1, "e": 1}
    assert states.tasks()["dbt.d.run"]["pid"] is None


def test_a_run_that_is_cleared_while_dbt_builds_is_built_again(states):
    """The scheduler treats a pod that ends after a clear as one that failed."""
    states.broken("g", fails=False, seconds=15)
    states.trigger()
    wait_until(lambda: states.built()["e"])
    states.broken()
    states.clear()
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert {states.built()[model] for model in ("a", "d", "e", "g", "by_day")} == {1}
