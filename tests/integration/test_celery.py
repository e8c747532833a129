"""The DAGs with the CeleryExecutor and a worker for each queue, as in deploy/prod.yaml."""

import json
import os
import re
import shutil
import socket

import psutil
import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from cosmos.operators.local import DbtDocsLocalOperator

from include.dbt_build.build import DbtBuildOperator
from include.dbt_build.operators import DbtBuildTeardown, DbtNodeOperator
from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS, free_port, local, running_in
from tests.fixtures import listening

if HAS_POSTGRES:
    from bench.celery import celery
    from local import airflow, pipeline
    from local.settings import Settings

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

DEPLOYMENT = "deploy/prod.yaml"
FOLDER = HOME / "celery"
ATTEMPT = re.compile(r"dag_id=(\w+)/run_id=[^/]+/task_id=([\w.]+)/attempt=(\d+)\.log")


@pytest.fixture(scope="module")
def started(projects):
    """An Airflow with Celery, on which the DAGs of local.toml have run; its environment."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server: install it")
    shutil.copytree(projects, FOLDER / "dbt")
    own = {
        "LOCAL_HOME": str(FOLDER),
        "DBT_PROJECTS_DIR": str(FOLDER / "dbt"),
        "AIRFLOW__COSMOS__CACHE_DIR": str(FOLDER / "cosmos"),
        **{name: free_port() for name in ("PORT", "WAREHOUSE_PORT", "REDIS_PORT")},
    }
    settings = Settings.from_environment(os.environ | own)
    more, others = celery(settings, DEPLOYMENT, own["REDIS_PORT"])
    assert local("warehouse", env=own).returncode == 0
    try:
        airflow.start(settings, settings.airflow_env() | more, others)
        api, then = pipeline.Api(settings.port), settings.local_toml["then"]
        pipeline.wait_for_dags(api, settings.local_toml["dag"], *then)
        pipeline.run(api, settings.local_toml["dag"], then=then)
        yield own
    finally:
        stopped = local("stop", env=own)
    assert stopped.returncode == 0, stopped.stderr
    assert running_in(FOLDER) == []


@pytest.fixture(scope="module")
def processes(started) -> dict[str, psutil.Process]:
    state = json.loads((FOLDER / "airflow.json").read_text())
    return {name: psutil.Process(pid) for name, pid in state["pids"].items()}


@pytest.fixture(scope="module")
def queues() -> dict[str, int]:
    """Return the concurrency of the workers of each queue: the default queue and dbt's."""
    deployment = yaml.safe_load((ROOT / DEPLOYMENT).read_text())["deployment"]
    return {queue["name"]: queue["worker_concurrency"] for queue in deployment["worker_queues"]}


def attempts_on(queue: str) -> set[tuple[str, str, str]]:
    """Return what the worker of a queue has executed: DAG, task and number of the try."""
    return set(ATTEMPT.findall((FOLDER / "logs" / f"worker-{queue}.log").read_text()))


def attempts() -> set[tuple[str, str, str]]:
    """Return the tries that have a log."""
    logs = (FOLDER / "airflow" / "logs").rglob("attempt=*.log")
    return {ATTEMPT.search(str(log)).groups() for log in logs}


def test_the_tasks_that_run_dbt_have_their_own_worker(started, queues):
    default, dbt = queues
    bag = DagBag(ROOT / "dags", bundle_path=ROOT)
    tasks = {
        (dag_id, task.task_id): type(task)
        for dag_id in (SETTINGS.local_toml["dag"], *SETTINGS.local_toml["then"])
        for task in bag.dags[dag_id].tasks
    }
    on_dbt = {(dag_id, task_id) for dag_id, task_id, _ in attempts_on(dbt)}
    assert on_dbt == {
        key for key, kind in tasks.items() if kind in (DbtBuildOperator, DbtDocsLocalOperator)
    }
    # No node task and no teardown started a process, and each node task has a log.
    nodes = {key for key, kind in tasks.items() if kind is DbtNodeOperator}
    teardowns = {key for key, kind in tasks.items() if kind is DbtBuildTeardown}
    on_default = {(dag_id, task_id) for dag_id, task_id, _ in attempts_on(default)}
    assert not (nodes | teardowns) & on_default
    assert nodes <= {(dag_id, task_id) for dag_id, task_id, _ in attempts()}


def test_a_worker_imports_dbt_before_it_forks(processes, queues):
    def has_dbt(process: psutil.Process) -> bool:
        # A library of dbt's parser.
        return any("dbt_extractor" in file.path for file in process.memory_maps())

    for queue, concurrency in queues.items():
        worker = processes[f"worker-{queue}"]
        assert has_dbt(worker)
        assert sum(map(has_dbt, worker.children())) == concurrency


def test_only_this_machine_can_connect(started):
    ports = (started[name] for name in ("PORT", "WAREHOUSE_PORT", "REDIS_PORT"))
    assert listening(running_in(FOLDER)) == {("127.0.0.1", int(port)) for port in ports}


def test_redis_requires_a_password_that_is_in_no_log(started):
    with socket.create_connection(("127.0.0.1", int(started["REDIS_PORT"]))) as client:
        client.sendall(b"PING\r\n")
        assert client.recv(100).startswith(b"-NOAUTH")
    config = FOLDER / "redis" / "redis.conf"
    assert config.stat().st_mode & 0o077 == 0
    password = re.search(r"requirepass (\w+)", config.read_text())[1]
    assert [log for log in FOLDER.rglob("*.log") if password in log.read_text()] == []
