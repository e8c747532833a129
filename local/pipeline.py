"""Runs of the DAGs: triggered and followed through Airflow's REST API."""

from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime
from time import monotonic, sleep

import httpx

from local.progress import console, live
from local.settings import Failure

FOLLOW_UP_SECONDS = 60
READ_TRIES = 5
# Airflow returns at most this number of entries, whatever limit is asked for.
PAGE = 100
SLOWEST_NODES = 3
# Failed tasks whose messages are printed, and the lines of each.
PRINTED_FAILURES, PRINTED_LINES = 5, 30


class Api:
    """Airflow's REST API on one port of this machine."""

    def __init__(self, port: str):
        self.url = f"http://127.0.0.1:{port}"
        # trust_env=False: a proxy of the network cannot reach this machine.
        self._client = httpx.Client(base_url=f"{self.url}/api/v2", timeout=60, trust_env=False)
        token = self("GET", f"{self.url}/auth/token")["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, method: str, path: str, **kwargs) -> dict:
        # Airflow cannot read a run that it is still creating, and its SQLite can be locked.
        for _ in range(READ_TRIES if method == "GET" else 1):
            answer = self._client.request(method, path, **kwargs)
            if not answer.is_server_error:
                break
            sleep(1)
        if answer.is_error:
            raise Failure(f"Airflow refused {method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else {}

    def all(self, path: str, entries: str, **params) -> list[dict]:
        """Return a whole list, page by page."""
        found, total = [], 1
        while len(found) < total:
            page = self("GET", path, params={**params, "limit": PAGE, "offset": len(found)})
            found += page[entries]
            total = page["total_entries"]
        return found

    def is_imported(self, dag_id: str) -> bool:
        """Return whether Airflow knows a DAG, and has found no error in its file."""
        answer = self._client.get(f"/dags/{dag_id}")
        return not (answer.is_error or answer.json().get("has_import_errors"))


def run(api: Api, dag_id: str, conf: dict | None = None, then: Collection[str] = ()) -> None:
    """Run a DAG for the last interval of its schedule; follow it and the DAGs that it starts."""
    for follower in then:
        unpause(api, follower)
    run_id = run_last_interval(api, dag_id, conf)
    # The DAG is unpaused after its run exists. Otherwise the scheduler could create the same run at
    # the same time, and would end with an error.
    unpause(api, dag_id)
    follow(api, dag_id, run_id)
    for follower in then:
        follow(api, follower, run_started_by(api, follower, dag_id, run_id))


def wait_for_dags(api: Api, *dag_ids: str, seconds: float = 120) -> None:
    """Wait until the dag-processor has imported the DAGs."""
    deadline = monotonic() + seconds
    with live("waiting for the dag-processor") as show:
        while missing := [dag_id for dag_id in dag_ids if not api.is_imported(dag_id)]:
            if monotonic() > deadline:
                raise Failure(
                    f"No DAG file defines {missing[0]}, or the file cannot be imported: see "
                    f"local.toml, and the import errors on {api.url}"
                )
            show(f"waiting for {', '.join(missing)}")
            sleep(0.5)


def unpause(api: Api, dag_id: str) -> None:
    api("PATCH", f"/dags/{dag_id}", json={"is_paused": False})


def run_last_interval(api: Api, dag_id: str, conf: dict | None) -> str:
    """Start a run for the last complete interval of a DAG's schedule; return its ID.

    `conf` has values for the DAG's params. The first run without them has the logical date of the
    scheduled run, which it replaces. Any other run has no logical date, because it is an extra run
    or may build only some nodes. The tasks of the DAG must treat it as a run for the same interval.
    """
    dag = api("GET", f"/dags/{dag_id}")
    date, end = dag["next_dagrun_logical_date"], dag["next_dagrun_data_interval_end"]
    body = {"logical_date": None}
    if not conf and end and datetime.fromisoformat(end) <= datetime.now(UTC):
        dates = {"logical_date_gte": date, "logical_date_lte": date}
        if not api("GET", f"/dags/{dag_id}/dagRuns", params=dates)["total_entries"]:
            body = {
                "logical_date": date,
                "data_interval_start": dag["next_dagrun_data_interval_start"],
                "data_interval_end": end,
            }
    return api("POST", f"/dags/{dag_id}/dagRuns", json={**body, "conf": conf or {}})["dag_run_id"]


def run_started_by(api: Api, dag_id: str, source_dag_id: str, source_run_id: str) -> str:
    """Wait for the run of `dag_id` that an asset event of another DAG's run started."""
    source = {"source_dag_id": source_dag_id, "source_run_id": source_run_id}
    deadline = monotonic() + FOLLOW_UP_SECONDS
    with live(f"waiting for {dag_id}"):
        while monotonic() < deadline:
            for event in api.all("/assets/events", "asset_events", **source):
                for run in event["created_dagruns"]:
                    if run["dag_id"] == dag_id:
                        return run["run_id"]
            sleep(0.5)
    raise Failure(f"{source_dag_id} {source_run_id} did not start a run of {dag_id}.")


def follow(api: Api, dag_id: str, run_id: str) -> None:
    """Wait for the end of a run; print one line about it, and the messages of its failed tasks."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}"
    with live(f"running {dag_id}") as show:
        while (run := api("GET", path))["state"] not in ("success", "failed"):
            params = {"state": "running", "limit": 3}
            running = api("GET", f"{path}/taskInstances", params=params)["task_instances"]
            show(f"running {dag_id}: {', '.join(task['task_id'] for task in running)}")
            sleep(0.5)
    tasks = api.all(f"{path}/taskInstances", "task_instances")
    counts = Counter(task["state"] or "none" for task in tasks)
    summary = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    nodes = [t for t in tasks if t["operator_name"] == "DbtNodeOperator" and t["duration"]]
    nodes.sort(key=lambda task: -task["duration"])
    slowest = ", ".join(f"{t['task_id']} {t['duration']:.1f} s" for t in nodes[:SLOWEST_NODES])
    colour = "green" if run["state"] == "success" else "red"
    console.print(
        f"[{colour}]{run['state']:8}[/] {dag_id} in {run['duration'] or 0:.0f} s: {summary}."
        + (f" Slowest: {slowest}." if slowest else ""),
        markup=True,
    )
    if run["state"] == "failed":
        print_failures(api, tasks)
        raise Failure(f"{dag_id} failed: see {api.url}/dags/{dag_id}/runs/{run_id}")


def print_failures(api: Api, tasks: list[dict]) -> None:
    failed = [task for task in tasks if task["state"] == "failed"]
    # The teardown of a build only repeats that other tasks failed.
    causes = [task for task in failed if task["operator_name"] != "DbtBuildTeardown"] or failed
    for task in causes[:PRINTED_FAILURES]:
        console.print(f"\n{task['task_id']}", style="red")
        lines = failure_message(api, task).splitlines()
        if len(lines) > PRINTED_LINES:
            lines[PRINTED_LINES:] = [f"({len(lines) - PRINTED_LINES} more lines in its log)"]
        console.print("\n".join(lines))
    if (hidden := len(causes) - PRINTED_FAILURES) > 0:
        console.print(f"\n{hidden} more tasks failed.")
    console.print()


def failure_message(api: Api, task: dict) -> str:
    """Return the first error in the log of a task's last try."""
    path = f"/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
    params = {"map_index": task["map_index"], "full_content": True}
    log = api("GET", f"{path}/logs/{max(task['try_number'], 1)}", params=params)["content"]
    for entry in log:
        if isinstance(entry, dict) and entry.get("level") in ("error", "critical"):
            if details := entry.get("error_detail"):
                return f"{details[0]['exc_type']}: {details[0]['exc_value']}"
            return entry["event"]
    return "Its log has no error: the task may have been killed."
