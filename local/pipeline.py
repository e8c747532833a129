"""Runs of the DAGs: triggered and followed through Airflow's REST API."""

import time
from datetime import UTC, date, datetime, timedelta

import httpx

from local.progress import console, live
from local.settings import Failure

PARSE_SECONDS = 120
FOLLOW_UP_SECONDS = 60
# Entries in an answer: Airflow gives no more, whatever one asks for.
PAGE = 100
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
        if method == "GET" and answer.is_server_error:
            # A run that is being made can't be read yet.
            time.sleep(1)
            answer = self._client.request(method, path, **kwargs)
        if answer.is_error:
            raise Failure(f"Airflow refused {method} {path}: {answer.status_code} {answer.text}")
        return answer.json()

    def all(self, path: str, entries: str, **params) -> list[dict]:
        """Return a whole list, page by page."""
        found, total = [], 1
        while len(found) < total:
            page = self("GET", path, params={**params, "limit": PAGE, "offset": len(found)})
            found += page[entries]
            total = page["total_entries"]
        return found

    def exists(self, path: str) -> bool:
        return not self._client.get(path).is_error


def run_both_dags(api: Api) -> None:
    """Run flights_daily for yesterday, and follow it and the flights_reporting that it starts."""
    wait_for_dags(api, "flights_daily", "flights_reporting")
    unpause(api, "flights_reporting")
    daily = run_for_yesterday(api, "flights_daily")
    # Not before: the scheduler would make a run for yesterday too, and dies if ours comes first.
    unpause(api, "flights_daily")
    follow(api, "flights_daily", daily)
    reporting = run_started_by(api, "flights_reporting", "flights_daily", daily)
    follow(api, "flights_reporting", reporting)


def wait_for_dags(api: Api, *dag_ids: str) -> None:
    """Wait until the dag-processor has read the DAGs."""
    deadline = time.monotonic() + PARSE_SECONDS
    with live() as show:
        while missing := [dag_id for dag_id in dag_ids if not api.exists(f"/dags/{dag_id}")]:
            if errors := api("GET", "/importErrors")["import_errors"]:
                last = errors[0]["stack_trace"].strip().splitlines()[-1]
                raise Failure(f"{errors[0]['filename']} can't be imported: {last}")
            if time.monotonic() > deadline:
                raise Failure(f"Airflow did not find {missing[0]}: see `make logs`.")
            show(f"waiting for {', '.join(missing)}")
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
    with live(f"waiting for {dag_id}"):
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
    """Print each task as it ends.

    Raises:
        Failure: the run failed.
    """
    path = f"/dags/{dag_id}/dagRuns/{run_id}"
    console.print(f"[bold]{dag_id}[/bold] {run_id}")
    shown, failed = set(), []
    with live() as show:
        while True:
            # The run first: when it has ended, so have all its tasks.
            run = api("GET", path)
            tasks = api.all(f"{path}/taskInstances", "task_instances")
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
            show(f"{len(shown)} of {len(tasks)} tasks done, now: {', '.join(active[:3]) or '-'}")
            time.sleep(0.5)
    if run["state"] == "failed":
        raise Failure(
            f"{dag_id} failed in {', '.join(failed) or 'no task'}: read the task's log on "
            f"{api.url}/dags/{dag_id}/runs/{run_id}"
        )
    console.print(f"[green]success[/green]  {dag_id} in {run['duration']:.0f} s\n")


def backfill(api: Api, dag_id: str, first: date, last: date) -> list[str]:
    """Start a run for each day in [first, last], and return their ids in the days' order."""
    interval = {"from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z"}
    api(
        "POST",
        "/backfills",
        json={
            "dag_id": dag_id,
            **interval,
            "reprocess_behavior": "completed",
            "max_active_runs": 1,
        },
    )
    runs = api.all(
        f"/dags/{dag_id}/dagRuns",
        "dag_runs",
        logical_date_gte=interval["from_date"],
        logical_date_lte=interval["to_date"],
        order_by="logical_date",
    )
    return [run["dag_run_id"] for run in runs]


def _print_task(task: dict) -> None:
    state = task["state"]
    seconds = f"{task['duration']:6.1f} s" if task["duration"] is not None else " " * 8
    console.print(f"[{COLOURS.get(state, 'red')}]{state:16}[/]{seconds}  {task['task_id']}")
