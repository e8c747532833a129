"""The steps of `astro dev start --standalone` after `make standalone`, without the CLI."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import yaml
from cryptography.fernet import Fernet

from tests.conftest import HAS_POSTGRES, HOME, ROOT, SETTINGS, free_port, running_in
from tests.fixtures import connect, listening, wait_until

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/ and the embedded Postgres"),
]

START_SECONDS = 180


def environment(shell: dict[str, str], clone: Path, port: str) -> dict[str, str]:
    """Return the environment that buildEnv in airflow/standalone.go of the Astro CLI 1.45 makes."""
    named = {}
    for line in map(str.strip, (clone / ".local" / "standalone.env").read_text().splitlines()):
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            named[name] = re.sub(r"""^(["'])(.*)\1$""", r"\2", value)
    project = yaml.safe_load((clone / ".astro" / "config.yaml").read_text())["project"]["name"]
    signing = f"{project}_{hashlib.md5(str(clone).encode()).hexdigest()[:6]}"  # noqa: S324
    return {
        **shell,
        **named,
        "PATH": f"{clone}/.venv/bin:{shell['PATH']}",
        "PYTHONPATH": str(clone),
        "AIRFLOW_HOME": str(clone / ".astro" / "standalone"),
        "ASTRONOMER_ENVIRONMENT": "local",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(clone / "dags"),
        # The key of the CLI is the same in every project.
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{port}/execution/",
        "AIRFLOW__API__SECRET_KEY": signing,
        "AIRFLOW__API_AUTH__JWT_SECRET": signing,
        # The CLI sets it if neither the shell nor the file names a proxy.
        "NO_PROXY": "*",
        "no_proxy": "*",
    }


def wait_until_airflow_answers(process: psutil.Popen, port: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://localhost:{port}/api/v2/monitor/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail(f"airflow standalone does not answer:\n{log.read_text()[-3000:]}")


def post_connections(api, clone: Path) -> None:
    """Create the connections of airflow_settings.yaml, as the CLI does when Airflow answers."""
    settings = yaml.safe_load((clone / "airflow_settings.yaml").read_text())
    for conn in settings["airflow"]["connections"]:
        body = {key.removeprefix("conn_"): value for key, value in conn.items()}
        body |= {"connection_id": body.pop("id"), "conn_type": body.pop("type")}
        api("POST", "/connections", json=body)


@pytest.fixture(scope="module")
def clone() -> Path:
    """Return a copy of the committed files, with a .env and the packages of the tests."""
    clone = HOME / "standalone" / "clone"
    # .astro is the only hidden folder that the project needs.
    generated = shutil.ignore_patterns(".[!a]*", "standalone", "target", "logs", "__pycache__")
    shutil.copytree(ROOT, clone, ignore=generated)
    (clone / ".env").write_text("AIRFLOW__CORE__PARALLELISM='3'\n")
    (clone / ".venv").symlink_to(sys.prefix)
    return clone


@pytest.fixture(scope="module")
def shell(clone):
    """Return a minimal environment, after `make standalone` has started its Postgres."""
    temporary = clone.with_name("tmp")
    temporary.mkdir()
    shell = {
        "HOME": os.environ["HOME"],
        "PATH": os.environ["PATH"],
        "TMPDIR": str(temporary),
        "WAREHOUSE_PORT": free_port(),
    }
    runner = [sys.executable, "-m", "local"]
    subprocess.run([*runner, "standalone"], cwd=clone, env=shell, check=True)
    yield shell
    subprocess.run([*runner, "stop"], cwd=clone, env=shell, check=True)


@pytest.fixture(scope="module")
def standalone(clone, shell):
    """Return the first process of the running Airflow, its port and its REST API."""
    from local.pipeline import Api

    port = free_port()
    log = clone / ".astro" / "standalone" / "airflow.log"
    log.parent.mkdir()
    with log.open("w") as output:
        process = psutil.Popen(
            [clone / ".venv" / "bin" / "airflow", "standalone"],
            cwd=clone,
            env=environment(shell, clone, port),
            stdout=output,
            stderr=output,
        )
    try:
        wait_until_airflow_answers(process, port, log)
        api = Api(port)
        post_connections(api, clone)
        yield SimpleNamespace(process=process, port=int(port), api=api)
    finally:
        everything = [process, *process.children(recursive=True)]
        for each in everything:
            each.terminate()
        for each in psutil.wait_procs(everything, timeout=10)[1]:
            each.kill()


def test_the_file_is_private_and_the_lines_of_the_user_have_priority(clone, shell):
    assert (clone / ".local" / "standalone.env").stat().st_mode & 0o077 == 0
    assert environment(shell, clone, "8080")["AIRFLOW__CORE__PARALLELISM"] == "3"


def test_the_runs_of_the_dags_succeed(standalone, shell):
    from include.warehouse import target_schema
    from local import pipeline, postgres

    toml = SETTINGS.local_toml
    pipeline.wait_for_dags(standalone.api, toml["dag"], *toml["then"])
    pipeline.run(standalone.api, toml["dag"], then=toml["then"])
    assert standalone.api("GET", "/importErrors")["import_errors"] == []
    with connect({**SETTINGS.dbt_env(), **shell}) as warehouse:
        postgres.look_in(warehouse, target_schema(toml["project"], "prod"))
        assert warehouse.execute(toml["show"]).fetchall()


def test_the_plugins_are_loaded(standalone):
    plugins = {plugin["name"] for plugin in standalone.api("GET", "/plugins")["plugins"]}
    assert plugins >= {"build_api", "cosmos"}


def test_only_this_machine_can_connect(standalone, shell, clone):
    airflow = [standalone.process, *standalone.process.children(recursive=True)]
    ports = (standalone.port, int(shell["WAREHOUSE_PORT"]))
    found = listening([*airflow, *running_in(clone / ".local")])
    assert found == {("127.0.0.1", port) for port in ports}


def test_the_log_of_a_running_task_is_shown_without_a_log_server(standalone):
    dag_id = SETTINGS.local_toml["dag"]
    runs = f"/dags/{dag_id}/dagRuns"
    run_id = standalone.api("POST", runs, json={"logical_date": None})["dag_run_id"]
    tasks = [task["task_id"] for task in standalone.api("GET", f"/dags/{dag_id}/tasks")["tasks"]]
    (build,) = [task_id for task_id in tasks if task_id.rpartition(".")[2] == "dbt_build"]
    task = f"{runs}/{run_id}/taskInstances/{build}"
    wait_until(lambda: standalone.api("GET", task)["state"] == "running", seconds=120)

    def has_lines_of_dbt() -> bool:
        events = [line["event"] for line in standalone.api("GET", f"{task}/logs/1")["content"]]
        return any("dbt" in event for event in events)

    wait_until(has_lines_of_dbt, seconds=30)
