"""Both DAGs as deploy/astro.yaml deploys them: with CeleryExecutor and a worker for each queue."""

import json
import re
import shutil
import socket
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import HAS_POSTGRES, HOME, ROOT, free_port, local
from tests.integration.helpers import broken_stg_flights

pytestmark = pytest.mark.timeout(600)

DEPLOYMENT = "deploy/astro.yaml"
ATTEMPT = re.compile(r"dag_id=(\w+)/run_id=[^/]+/task_id=([\w.]+)/attempt=(\d+)\.log")


@pytest.fixture(scope="module")
def celery(project) -> Path:
    """The folder of an Airflow that `make start DEPLOYMENT=deploy/astro.yaml` has started."""
    if not HAS_POSTGRES:
        pytest.skip("needs the embedded Postgres, which the image does not have: run `make test`")
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server: install it")
    folder = HOME / "celery"
    # The project too: the other integration tests may run an Airflow that reads theirs.
    shutil.copytree(project.parent, folder / "dbt")
    env = {
        "LOCAL_HOME": str(folder),
        "DBT_PROJECTS_DIR": str(folder / "dbt"),
        "DEPLOYMENT": DEPLOYMENT,
        **{port: free_port() for port in ("PORT", "WAREHOUSE_PORT", "REDIS_PORT")},
    }
    started = local("start", env=env)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield folder
    finally:
        stopped = local("stop", env=env)
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="module")
def queues(celery) -> dict[str, int]:
    """The deployment's queues with the concurrency of their workers: the default one, dbt's."""
    deployment = yaml.safe_load((ROOT / DEPLOYMENT).read_text())["deployment"]
    return {queue["name"]: queue["worker_concurrency"] for queue in deployment["worker_queues"]}


@pytest.fixture(scope="module")
def api(celery):
    from local.pipeline import Api

    return Api(json.loads((celery / "airflow.json").read_text())["port"])


@pytest.fixture(scope="module")
def processes(celery) -> dict[str, psutil.Process]:
    state = json.loads((celery / "airflow.json").read_text())
    return {name: psutil.Process(pid) for name, (pid, _) in state["processes"].items()}


def attempts_on(celery, queue: str) -> set[tuple[str, str, str]]:
    """Return what a queue's worker has executed, by DAG, task and try."""
    return set(ATTEMPT.findall((celery / "logs" / f"worker-{queue}.log").read_text()))


def attempts(celery, having: str = "") -> set[tuple[str, str, str]]:
    """Return the tries in whose logs a text is."""
    logs = (celery / "airflow" / "logs").rglob("attempt=*.log")
    return {ATTEMPT.search(str(log)).groups() for log in logs if having in log.read_text()}


def test_dbt_build_has_a_worker_of_its_own(celery, queues):
    default, dbt = queues
    builds = {
        ("flights_daily", "dbt.dbt_producer_watcher", "1"),
        ("flights_reporting", "dbt_producer_watcher", "1"),
    }
    assert attempts_on(celery, dbt) == builds
    assert attempts_on(celery, default) == attempts(celery) - builds


def test_a_worker_imports_dbt_before_it_forks(queues, processes):
    def has_dbt(process: psutil.Process) -> bool:
        # A library of dbt's parser.
        return any("dbt_extractor" in file.path for file in process.memory_maps())

    for queue, concurrency in queues.items():
        worker = processes[f"worker-{queue}"]
        assert has_dbt(worker)
        assert sum(map(has_dbt, worker.children())) == concurrency


def test_only_the_api_and_redis_listen_and_only_on_this_machine(celery, processes):
    listening = {
        (name, *connection.laddr)
        for name, component in processes.items()
        for process in [component, *component.children(recursive=True)]
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    config = (celery / "redis" / "redis.conf").read_text()
    redis = ("127.0.0.1", int(re.search(r"^port (\d+)", config, re.MULTILINE)[1]))
    api = ("127.0.0.1", json.loads((celery / "airflow.json").read_text())["port"])
    assert listening == {("redis", *redis), ("api-server", api[0], int(api[1]))}
    with socket.create_connection(redis) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100).startswith(b"-NOAUTH")


def test_a_broken_model_is_mended_by_clearing_it(celery, queues, api, run_daily):
    from local import pipeline

    default, dbt = queues
    # Nothing here needs its second run.
    api("PATCH", "/dags/flights_reporting", json={"is_paused": True})
    with broken_stg_flights(celery / "dbt" / "nyc_flights"):
        state, tasks = run_daily()
    assert state == "failed"
    assert [task for task, state in tasks.items() if state == "failed"] == ["dbt.stg_flights.run"]

    runs = api("GET", "/dags/flights_daily/dagRuns", params={"order_by": "-run_after", "limit": 1})
    run_id = runs["dag_runs"][0]["dag_run_id"]
    api(
        "POST",
        "/dags/flights_daily/clearTaskInstances",
        json={
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": ["dbt.stg_flights.run"],
            "include_downstream": True,
        },
    )
    pipeline.follow(api, "flights_daily", run_id)

    # In its log dbt says with how many threads it goes to work.
    ran_dbt = attempts(celery, having="Concurrency: ")
    retried = ("flights_daily", "dbt.stg_flights.run", "2")
    cleared = ("flights_daily", "dbt.stg_flights.run", "3")
    behind = ("flights_daily", "dbt.fct_flights.run", "1")
    assert {retried, cleared, behind} <= ran_dbt
    # A cleared task goes where `dbt build` goes. A retry stays: Airflow asks no policy about it.
    assert cleared in attempts_on(celery, dbt)
    assert {retried, behind} <= attempts_on(celery, default)
