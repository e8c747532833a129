"""An API server with two processes and a path prefix, and an execution API of its own with TLS."""

import pytest

from tests.conftest import HAS_POSTGRES, free_port
from tests.include.dbt_build.certificates import write_certificate

if HAS_POSTGRES:
    from tests.integration.states import separate_airflow

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]


@pytest.fixture
def states(projects, tmp_path):
    certificate, port = write_certificate(tmp_path), free_port()
    env = {
        "AIRFLOW__API__WORKERS": "2",
        "AIRFLOW__API__SSL_CA_FILE": str(certificate),
        # It loads no plugins, so the build task has to find the other server.
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"https://127.0.0.1:{port}/team/execution/",
    }
    tls = ["--ssl-cert", certificate, "--ssl-key", certificate.with_suffix(".key")]
    servers = {port: ["--apps", "execution", *tls]}
    with separate_airflow(projects, "networks", env, prefix="/team", servers=servers) as states:
        yield states


def test_the_build_task_reports_to_the_server_with_the_plugin_while_dbt_works(states):
    states.broken("g", fails=False, seconds=15)
    states.trigger()
    states.wait_for_state("dbt.a.run", "success")
    assert states.tasks()["dbt.dbt_build"]["state"] == "running"
    assert states.end() == "success"
    nodes = [t for t in states.tasks().values() if t["operator"] == "DbtNodeOperator"]
    assert {task["pid"] for task in nodes} == {None}

    states.broken("d")
    assert states.run() == "failed"
    assert states.states()["dbt.d.run"] == "failed"
    assert "division by zero" in states.log("dbt.d.run")
