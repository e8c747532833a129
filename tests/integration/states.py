"""Runs of the test projects on a running Airflow, whose nodes break by rows of a table."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from local import airflow
from local.pipeline import Api, unpause, wait_for_dags
from local.settings import BIN, Failure, Settings
from tests.conftest import HOME, SETTINGS, free_port, local
from tests.fixtures import connect, wait_until

TABLES = """
    drop schema if exists raw_states cascade;
    drop schema if exists states cascade;
    create schema raw_states;
    create table raw_states.broken (
        node text, fails boolean not null default true, seconds float not null default 0,
        failures regclass
    );
    create table raw_states.built (node text);
    create table raw_states.events as select 1 as id, now() as loaded_at;
    create table raw_states.days as
        select day::date, n from generate_series(1, 3) as n,
            generate_series('2026-01-01'::date, '2026-01-05', interval '1 day') as day;
"""
# The models of the project `states`, but for the ephemeral one.
MODELS = {"a", "b", "c", "d", "e", "f", "g", "by_day"}


def tasks_of(api: Api, dag_id: str, run_id: str) -> dict[str, dict]:
    """Return the task instances of a run, by task ID."""
    found = api.all(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
    return {task["task_id"]: task for task in found}


@contextmanager
def connection(api: Api, conn_id: str, **values) -> Iterator[None]:
    """Have a connection in Airflow until the block ends. The values have the REST API's names."""
    api("POST", "/connections", json={"connection_id": conn_id, **values})
    try:
        yield
    finally:
        api("DELETE", f"/connections/{conn_id}")


@contextmanager
def separate_airflow(
    projects: Path,
    name: str,
    env: dict[str, str],
    *,
    prefix: str = "",
    servers: Mapping[str, list] | None = None,
) -> Iterator[States]:
    """Run the test projects on an Airflow and a Postgres of their own, with other settings.

    Args:
        projects: the folder of the test projects.
        name: the name of the folder of this Airflow.
        env: settings that differ from those of `make start`.
        prefix: the path prefix of the API server.
        servers: more API servers: the arguments of each, by port.
    """
    folder = HOME / name
    shutil.copytree(projects, folder / "dbt")
    own = {
        "LOCAL_HOME": str(folder),
        "DBT_PROJECTS_DIR": str(folder / "dbt"),
        "AIRFLOW__COSMOS__CACHE_DIR": str(folder / "cosmos"),
        **{port: free_port() for port in ("PORT", "WAREHOUSE_PORT")},
    }
    settings = Settings.from_environment(os.environ | own)
    env = settings.airflow_env() | env
    env["AIRFLOW__API__BASE_URL"] += prefix
    assert local("warehouse", env=own).returncode == 0
    try:
        airflow.start(settings, env)
        for port, words in (servers or {}).items():
            command = [BIN / "airflow", "api-server", "--port", port, *words]
            airflow.launch(settings, f"api-server-{port}", command, env)
            wait_until(lambda port=port: is_open(port))
        with connect({**SETTINGS.dbt_env(), **settings.dbt_env()}) as warehouse:
            yield States(Api(settings.port + prefix), warehouse, home=folder)
    finally:
        stopped = local("stop", env=own)
    assert stopped.returncode == 0, stopped.stderr


def is_open(port: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


class States:
    def __init__(self, api: Api, warehouse, dag_id: str = "states_between", home: Path = HOME):
        self.api, self.warehouse, self.dag_id, self.home = api, warehouse, dag_id, home
        warehouse.execute(TABLES)
        wait_for_dags(api, dag_id, seconds=240)
        unpause(api, dag_id)

    def broken(
        self, *nodes: str, fails: bool = True, seconds: float = 0, once: bool = False
    ) -> None:
        """Break only these nodes, each time or once, and delete the record of what was built."""
        self.warehouse.execute("truncate raw_states.broken, raw_states.built")
        for number, node in enumerate(nodes):
            failures = f"raw_states.failures_{number}" if once else None
            if once:
                # A sequence is not rolled back with the statement that fails.
                self.warehouse.execute(f"drop sequence if exists {failures}")
                self.warehouse.execute(f"create sequence {failures}")
            row = "insert into raw_states.broken values (%s, %s, %s, %s)"
            self.warehouse.execute(row, [node, fails, seconds, failures])

    def stop_sleeping(self) -> None:
        """Let nodes that start from now on not sleep. A statement that has begun continues."""
        self.warehouse.execute("update raw_states.broken set seconds = 0")

    def built(self) -> Counter:
        """Return how often each model was built since the last call of `broken`."""
        return Counter(n for (n,) in self.warehouse.execute("select node from raw_states.built"))

    def trigger(self, **conf) -> str:
        return self.post_run(logical_date=None, conf=conf)

    def post_run(self, **body) -> str:
        """Start a run with the values that Airflow's REST API takes."""
        path = f"/dags/{self.dag_id}/dagRuns"
        self.run_id = self.api("POST", path, json=body)["dag_run_id"]
        return self.run_id

    @property
    def path(self) -> str:
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"

    def end(self) -> str:
        """Wait for the end of the run and return its state."""
        ended = ("success", "failed")
        wait_until(lambda: self.api("GET", self.path)["state"] in ended)
        return self.api("GET", self.path)["state"]

    def run(self, **conf) -> str:
        self.trigger(**conf)
        return self.end()

    def tasks(self) -> dict[str, dict]:
        return tasks_of(self.api, self.dag_id, self.run_id)

    def states(self) -> dict[str, str]:
        return {name: task["state"] for name, task in self.tasks().items()}

    def not_successful(self) -> dict[str, str]:
        return {name: state for name, state in self.states().items() if state != "success"}

    def wait_for_state(self, task_id: str, state: str) -> None:
        wait_until(lambda: self.states()[task_id] == state)

    def xcom(self, task_id: str, key: str):
        """Return a value that a task has pushed, or an empty list."""
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/{key}"
        try:
            return self.api("GET", path, params={"deserialize": True})["value"]
        except Failure as failure:
            # A task that starts deletes its values.
            if ": 404 " not in str(failure):
                raise
            return []

    def clear(self, *task_ids: str, downstream: bool = True, only_failed: bool = False) -> None:
        """Clear some tasks of the run, or all of it, with the request that the UI sends."""
        chosen = {"task_ids": list(task_ids)} if task_ids else {}
        self.api(
            "POST",
            f"/dags/{self.dag_id}/clearTaskInstances",
            json={
                "dry_run": False,
                "dag_run_id": self.run_id,
                "include_downstream": downstream,
                "only_failed": only_failed,
                **chosen,
            },
        )

    def mark(self, task_id: str, state: str) -> None:
        path = f"{self.path}/taskInstances/{task_id}"
        self.api("PATCH", path, json={"new_state": state})

    def log_lines(self, task_id: str, attempt: int = 1) -> list[dict]:
        """Return the lines that a try of a task logged, as Airflow writes them."""
        folder = Path(
            self.home, "airflow", "logs", f"dag_id={self.dag_id}", f"run_id={self.run_id}"
        )
        file = folder / f"task_id={task_id}" / f"attempt={attempt}.log"
        # A task that has only just started has none, and a line may not be complete yet.
        lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        return [json.loads(line) for line in lines]

    def log(self, task_id: str, attempt: int = 1) -> str:
        """Return what a try of a task logged, with the message of its exception."""
        events = []
        for line in self.log_lines(task_id, attempt):
            events.append(line["event"])
            events += [error["exc_value"] for error in line.get("error_detail", [])]
        return "\n".join(events)
