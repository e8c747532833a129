"""Airflow keeps its logs in an S3 server: the log of every node task is there and in the UI."""

import json

import pytest

from tests.conftest import HAS_POSTGRES, free_port
from tests.fixtures import wait_until

if HAS_POSTGRES:
    import boto3
    from moto.server import ThreadedMotoServer

    from tests.integration.states import separate_airflow

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

BUCKET, REGION = "airflow-logs", "us-east-1"


@pytest.fixture(scope="module")
def endpoint():
    """The address of an S3 server with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=int(free_port()))
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        login = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
        boto3.client("s3", REGION, endpoint_url=url, **login).create_bucket(Bucket=BUCKET)
        yield url
    finally:
        server.stop()


@pytest.fixture(scope="module")
def states(projects, endpoint):
    server = {"endpoint_url": endpoint, "region_name": REGION}
    login = {"login": "any", "password": "any"}  # pragma: allowlist secret
    aws = {"conn_type": "aws", **login, "extra": server}
    env = {
        "AIRFLOW_CONN_LOGS": json.dumps(aws),
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{BUCKET}/logs",
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "logs",
        # The S3 server alone has the logs, as with pods.
        "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "True",
    }
    with separate_airflow(projects, "remote-logs", env) as states:
        yield states


def log_of(states, task_id: str, attempt: int = 1) -> str:
    """Return what the UI shows as the log of a try."""
    path = f"{states.path}/taskInstances/{task_id}/logs/{attempt}"
    lines = states.api("GET", path, params={"full_content": True})["content"]
    return "\n".join(json.dumps(line) for line in lines)


def test_every_node_task_has_its_log_in_the_store(states):
    states.broken("d", once=True)
    assert states.run() == "success"
    tasks = states.tasks()
    nodes = [name for name, t in tasks.items() if t["operator"] == "DbtNodeOperator"]
    assert nodes
    for task_id in nodes:
        path = f"s3://{BUCKET}/logs/dag_id={states.dag_id}/"
        # Airflow uploads the log of a process after it has set the state of its task.
        wait_until(lambda n=task_id, p=path: p in log_of(states, n, tasks[n]["try_number"]))
    without_process = [name for name in nodes if tasks[name]["pid"] is None]
    assert len(without_process) > 3
    assert all("OK created" in log_of(states, n) for n in without_process if n.endswith("run"))
    wait_until(lambda: "division by zero" in log_of(states, "dbt.d.run", 1))
    assert "Running with dbt" in log_of(states, "dbt.dbt_build")
    # The worker has no log file any more.
    wait_until(lambda: not [*states.home.glob(f"airflow/logs/dag_id={states.dag_id}/**/*.log")])
