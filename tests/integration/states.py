"""The project `states` on a running Airflow: broken and mended by rows, run, cleared, looked at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local.pipeline import Api, unpause, wait_for_dags
from tests.conftest import HOME, wait_until

TABLES = """
    drop schema if exists raw_states cascade;
    drop schema if exists states cascade;
    create schema raw_states;
    create table raw_states.broken (
        node text, fails boolean not null default true, seconds float not null default 0
    );
    create table raw_states.built (node text);
    create table raw_states.events as select 1 as id, now() as loaded_at;
    create table raw_states.days as
        select day::date, n from generate_series(1, 3) as n,
            generate_series('2026-01-01'::date, '2026-01-05', interval '1 day') as day;
"""


def tasks_of(api: Api, dag_id: str, run_id: str) -> dict[str, dict]:
    """The task instances of a run, by their task's id."""
    found = api.all(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances")
    return {task["task_id"]: task for task in found}


@contextmanager
def connection(api: Api, conn_id: str, **values) -> Iterator[None]:
    """A connection in Airflow, by the names of its REST API, as long as it is entered."""
    api("POST", "/connections", json={"connection_id": conn_id, **values})
    try:
        yield
    finally:
        api("DELETE", f"/connections/{conn_id}")


class States:
    def __init__(self, api: Api, warehouse, dag_id: str = "states_between", home: Path = HOME):
        self.api, self.warehouse, self.dag_id, self.home = api, warehouse, dag_id, home
        warehouse.execute(TABLES)
        wait_for_dags(api, dag_id)
        unpause(api, dag_id)

    def broken(self, *nodes: str, fails: bool = True, seconds: float = 0) -> None:
        """Break just these nodes, and forget what was built so far."""
        self.warehouse.execute("truncate raw_states.broken, raw_states.built")
        for node in nodes:
            row = "insert into raw_states.broken values (%s, %s, %s)"
            self.warehouse.execute(row, [node, fails, seconds])

    def built(self) -> Counter:
        """How often each model was built since the last `broken`."""
        return Counter(n for (n,) in self.warehouse.execute("select node from raw_states.built"))

    def trigger(self, **conf) -> str:
        path = f"/dags/{self.dag_id}/dagRuns"
        body = {"logical_date": None, "conf": conf}
        self.run_id = self.api("POST", path, json=body)["dag_run_id"]
        return self.run_id

    @property
    def path(self) -> str:
        return f"/dags/{self.dag_id}/dagRuns/{self.run_id}"

    def end(self) -> str:
        """Wait for the run's end; return its state."""
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

    def not_green(self) -> dict[str, str]:
        return {name: state for name, state in self.states().items() if state != "success"}

    def clear(self, *task_ids: str, downstream: bool = True) -> None:
        """Clear some tasks of the run, or all of it."""
        chosen = {"task_ids": list(task_ids)} if task_ids else {}
        self.api(
            "POST",
            f"/dags/{self.dag_id}/clearTaskInstances",
            json={
                "dry_run": False,
                "dag_run_id": self.run_id,
                "include_downstream": downstream,
                "only_failed": False,
                **chosen,
            },
        )

    def mark(self, task_id: str, state: str) -> None:
        path = f"{self.path}/taskInstances/{task_id}"
        self.api("PATCH", path, json={"new_state": state})

    def log(self, task_id: str, attempt: int = 1) -> str:
        """What a try of a task has logged, with the message of what it raised."""
        folder = Path(
            self.home, "airflow", "logs", f"dag_id={self.dag_id}", f"run_id={self.run_id}"
        )
        file = folder / f"task_id={task_id}" / f"attempt={attempt}.log"
        said = []
        # A task that has only just started has none.
        for line in map(json.loads, file.read_text().splitlines() if file.exists() else []):
            said.append(line["event"])
            said += [error["exc_value"] for error in line.get("error_detail", [])]
        return "\n".join(said)
