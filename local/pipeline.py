"""Runs of the DAGs: triggered and followed through Airflow's REST API."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import httpx
from rich.console import Console

from local.settings import Failure

console = Console(highlight=False)

PARSE_SECONDS = 120
FOLLOW_UP_SECONDS = 60
FINISHED = {"success", "failed", "skipped", "upstream_failed", "removed"}
COLOURS = {"success": "green", "skipped": "yellow"}


class Api:
    """Airflow's REST API on one port of this machine."""

    def __init__(self, port: str):
        self.url = f"http://127.0.0.1:{port}"
        token = httpx.get(f"{self.url}/auth/token").json()["access_token"]
        self._client = httpx.Client(
            base_url=f"{self.url}/api/v2",
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )

    def __call__(self, method: str, path: str, **kwargs) -> dict:
        answer = self._client.request(method, path, **kwargs)
        if answer.is_error:
            raise Failure(f"Airflow refused {method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def exists(self, path: str) -> bool:
        return not self._client.get(path).is_error


def wait_for_dags(api: Api, *dag_ids: str) -> None:
    """Wait until the dag-processor has read the DAGs, and unpause them."""
    deadline = time.monotonic() + PARSE_SECONDS
    while missing := [dag_id for dag_id in dag_ids if not api.exists(f"/dags/{dag_id}")]:
        if errors := api("GET", "/importErrors")["import_errors"]:
            last = errors[0]["stack_trace"].strip().splitlines()[-1]
            raise Failure(f"{errors[0]['filename']} can't be imported: {last}")
        if time.monotonic() > deadline:
            raise Failure(f"Airflow did not find {missing[0]}: see `make logs`.")
        time.sleep(0.5)


def unpause(api: Api, dag_id: str) -> None:
    api("PATCH", f"/dags/{dag_id}", json={"is_paused": False})


def run_for_yesterday(api: Api, dag_id: str) -> str:
    """Start a run for yesterday and return its id.

    The first takes the place of the scheduled run. Afterwards that logical date is taken, and
    a run without one covers yesterday too.
    """
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = end - timedelta(days=1)
    taken = api(
        "GET",
        f"/dags/{dag_id}/dagRuns",
        params={"logical_date_gte": start.isoformat(), "logical_date_lte": start.isoformat()},
    )["total_entries"]
    body = {"logical_date": None}
    if not taken:
        body = {
            "logical_date": start.isoformat(),
            "data_interval_start": start.isoformat(),
            "data_interval_end": end.isoformat(),
        }
    return api("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]


def run_started_by(api: Api, dag_id: str, source_dag_id: str, source_run_id: str) -> str:
    """Wait for the run of `dag_id` that an asset event of another DAG's run started."""
    deadline = time.monotonic() + FOLLOW_UP_SECONDS
    while time.monotonic() < deadline:
        runs = api("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after"})
        for run in runs["dag_runs"]:
            path = f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}/upstreamAssetEvents"
            for event in api("GET", path)["asset_events"]:
                if (event["source_dag_id"], event["source_run_id"]) == (
                    source_dag_id,
                    source_run_id,
                ):
                    return run["dag_run_id"]
        time.sleep(0.5)
    raise Failure(f"No run of {dag_id} followed from {source_dag_id} {source_run_id}.")


def follow(api: Api, dag_id: str, run_id: str) -> None:
    """Print each task as it ends, and what runs now where the output is a terminal.

    Raises:
        Failure: the run failed.
    """
    path = f"/dags/{dag_id}/dagRuns/{run_id}"
    console.print(f"[bold]{dag_id}[/bold] {run_id}")
    shown, failed = set(), []
    with _status() as status:
        while True:
            # The run first: when it has ended, so have all its tasks.
            run = api("GET", path)
            tasks = api("GET", f"{path}/taskInstances", params={"limit": 1000})["task_instances"]
            for task in sorted(tasks, key=lambda task: task["end_date"] or ""):
                key = (task["task_id"], task["map_index"])
                if task["state"] in FINISHED and key not in shown:
                    shown.add(key)
                    _print_task(task)
                    if task["state"] == "failed":
                        failed.append(task["task_id"])
            if run["state"] in ("success", "failed"):
                break
            active = [t["task_id"] for t in tasks if t["state"] in ("running", "deferred")]
            status(f"{len(shown)} of {len(tasks)} tasks done, now: {', '.join(active[:3]) or '-'}")
            time.sleep(0.5)
    if run["state"] == "failed":
        raise Failure(
            f"{dag_id} failed in {', '.join(failed) or 'no task'}: read the task's log on "
            f"{api.url}/dags/{dag_id}/runs/{run_id}"
        )
    console.print(f"[green]success[/green]  {dag_id} in {run['duration']:.0f} s\n")


def backfill_runs(api: Api, dag_id: str, first: date, last: date) -> list[str]:
    """Return the ids of the runs whose logical dates lie in [first, last], in their order."""
    runs = api(
        "GET",
        f"/dags/{dag_id}/dagRuns",
        params={
            "logical_date_gte": f"{first}T00:00:00Z",
            "logical_date_lte": f"{last}T00:00:00Z",
            "order_by": "logical_date",
            "limit": 1000,
        },
    )
    return [run["dag_run_id"] for run in runs["dag_runs"]]


@contextmanager
def _status() -> Iterator:
    if console.is_terminal:
        with console.status("") as status:
            yield status.update
    else:
        yield lambda text: None


def _print_task(task: dict) -> None:
    state = task["state"]
    seconds = f"{task['duration']:6.1f} s" if task["duration"] is not None else " " * 8
    console.print(f"[{COLOURS.get(state, 'red')}]{state:16}[/]{seconds}  {task['task_id']}")
