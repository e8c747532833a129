"""Runs of the DAGs: triggered and followed through Airflow's REST API."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from time import monotonic, sleep
from zoneinfo import ZoneInfo

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
            sleep(1)
            answer = self._client.request(method, path, **kwargs)
        if answer.status_code == httpx.codes.CONFLICT and path.endswith("/dagRuns"):
            raise Failure(
                "A run of this DAG has that logical date already: clear that one instead."
            )
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

    def exists(self, path: str) -> bool:
        return not self._client.get(path).is_error


def run(api: Api, dag_id: str, then: list[str]) -> None:
    """Run a DAG for the last interval of its schedule; follow it and the DAGs that it starts."""
    wait_for_dags(api, dag_id, *then)
    for follower in then:
        unpause(api, follower)
    run_id = run_last_interval(api, dag_id)
    # Not before: the scheduler would make that run too, and dies if ours comes first.
    unpause(api, dag_id)
    follow(api, dag_id, run_id)
    for follower in then:
        follow(api, follower, run_started_by(api, follower, dag_id, run_id))


def wait_for_dags(api: Api, *dag_ids: str) -> None:
    """Wait until the dag-processor has read the DAGs."""
    deadline = monotonic() + PARSE_SECONDS
    with live() as show:
        while missing := [dag_id for dag_id in dag_ids if not api.exists(f"/dags/{dag_id}")]:
            if errors := api("GET", "/importErrors")["import_errors"]:
                raise Failure(
                    f"{errors[0]['filename']} can't be imported: "
                    f"see {api.url}, or what was said above."
                )
            if monotonic() > deadline:
                raise Failure(f"Airflow did not find {missing[0]}: see `make logs`.")
            show(f"waiting for {', '.join(missing)}")
            sleep(0.5)


def unpause(api: Api, dag_id: str) -> None:
    api("PATCH", f"/dags/{dag_id}", json={"is_paused": False})


def run_last_interval(api: Api, dag_id: str) -> str:
    """Start a run for the last interval of a DAG's schedule that is over; return its id.

    The first takes the place of the scheduled run. Afterwards that logical date is taken, and a
    run without one shall cover the same: the DAG's tasks see to it.
    """
    dag = api("GET", f"/dags/{dag_id}")
    date, end = dag["next_dagrun_logical_date"], dag["next_dagrun_data_interval_end"]
    body = {"logical_date": None}
    if end and datetime.fromisoformat(end) <= datetime.now(UTC):
        dates = {"logical_date_gte": date, "logical_date_lte": date}
        if not api("GET", f"/dags/{dag_id}/dagRuns", params=dates)["total_entries"]:
            body = {
                "logical_date": date,
                "data_interval_start": dag["next_dagrun_data_interval_start"],
                "data_interval_end": end,
            }
    return api("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]


def run_started_by(api: Api, dag_id: str, source_dag_id: str, source_run_id: str) -> str:
    """Wait for the run of `dag_id` that an asset event of another DAG's run started."""
    deadline = monotonic() + FOLLOW_UP_SECONDS
    with live(f"waiting for {dag_id}"):
        while monotonic() < deadline:
            runs = api("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after"})
            for run in runs["dag_runs"]:
                path = f"/dags/{dag_id}/dagRuns/{run['dag_run_id']}/upstreamAssetEvents"
                for event in api("GET", path)["asset_events"]:
                    if (event["source_dag_id"], event["source_run_id"]) == (
                        source_dag_id,
                        source_run_id,
                    ):
                        return run["dag_run_id"]
            sleep(0.5)
    raise Failure(f"No run of {dag_id} followed from {source_dag_id} {source_run_id}.")


def follow(api: Api, dag_id: str, run_id: str) -> None:
    """Print each task as it ends.

    Raises:
        Failure: the run failed.
    """
    console.print(f"[bold]{dag_id}[/bold] {run_id}")
    run, failed = _until_ended(api, dag_id, run_id, _print_task)
    if run["state"] == "failed":
        raise Failure(
            f"{dag_id} failed in {', '.join(failed) or 'no task'}: read the task's log on "
            f"{api.url}/dags/{dag_id}/runs/{run_id}"
        )
    console.print(f"[green]success[/green]  {dag_id} in {run['duration']:.0f} s\n")


def _until_ended(
    api: Api, dag_id: str, run_id: str, told: Callable[[dict], None] = lambda task: None
) -> tuple[dict, list[str]]:
    """Wait for a run's end, and tell of each task as it ends; return the run and what failed."""
    path = f"/dags/{dag_id}/dagRuns/{run_id}"
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
                    told(task)
                    if task["state"] == "failed":
                        failed.append(task["task_id"])
            if run["state"] in ("success", "failed"):
                return run, failed
            active = [t["task_id"] for t in tasks if t["state"] in ("running", "deferred")]
            show(f"{len(shown)} of {len(tasks)} tasks done, now: {', '.join(active[:3]) or '-'}")
            sleep(0.5)


def backfill(api: Api, dag_id: str, first: date, last: date, zone: ZoneInfo) -> None:
    """Run each day in [first, last] anew, and print a line for each as it ends.

    Of days whose last backfill was cut off or had failures, only what is missing runs.

    Raises:
        Failure: a day failed, or the backfill was interrupted; or another one runs.
    """
    days = (first, last)
    try:
        active = _active_backfill(api, dag_id, zone)
        if active and _days(active, zone) != days:
            raise Failure(
                f"A backfill of {' to '.join(map(str, _days(active, zone)))} goes on: "
                "the same dates follow it, and Ctrl-C then ends it."
            )
        if active:
            console.print("This backfill runs already")
        else:
            _start_backfill(api, dag_id, days, zone)
        _follow_days(api, dag_id, days, zone)
    except KeyboardInterrupt:
        if active := _active_backfill(api, dag_id, zone):
            api("PUT", f"/backfills/{active['id']}/cancel")
        raise Failure(
            "Interrupted, and so the backfill has ended: a day that runs already goes on. "
            "The same command runs what is missing."
        ) from None


def _active_backfill(api: Api, dag_id: str, zone: ZoneInfo) -> dict | None:
    with live("waiting for the end of the last backfill"):
        while True:
            known = api.all("/backfills", "backfills", dag_id=dag_id)
            # Airflow allows one of a DAG.
            active = next((one for one in known if not one["completed_at"]), None)
            if active is None or _unfinished(_runs(api, dag_id, _days(active, zone), zone)):
                return active
            # The scheduler looks every half minute whether one has ended.
            sleep(1)


def _start_backfill(api: Api, dag_id: str, days: tuple[date, date], zone: ZoneInfo) -> None:
    known = api.all("/backfills", "backfills", dag_id=dag_id)
    again = any(_days(one, zone) == days for one in known) and any(
        run["state"] == "failed" for run in _runs(api, dag_id, days, zone)
    )
    if again:
        console.print("Only what the last backfill of these days lacks")
    first, last = _midnights(days, zone)
    api(
        "POST",
        "/backfills",
        json={
            "dag_id": dag_id,
            "from_date": first,
            "to_date": last,
            "reprocess_behavior": "failed" if again else "completed",
            "max_active_runs": 1,
        },
    )


def _midnights(days: tuple[date, date], zone: ZoneInfo) -> list[str]:
    return [datetime.combine(day, time.min, zone).isoformat() for day in days]


def _day(text: str, zone: ZoneInfo) -> date:
    return datetime.fromisoformat(text).astimezone(zone).date()


def _days(backfill: dict, zone: ZoneInfo) -> tuple[date, date]:
    return _day(backfill["from_date"], zone), _day(backfill["to_date"], zone)


def _runs(api: Api, dag_id: str, days: tuple[date, date], zone: ZoneInfo) -> list[dict]:
    first, last = _midnights(days, zone)
    dates = {"logical_date_gte": first, "logical_date_lte": last}
    return api.all(f"/dags/{dag_id}/dagRuns", "dag_runs", **dates, order_by="logical_date")


def _unfinished(runs: list[dict]) -> list[dict]:
    return [run for run in runs if run["state"] not in ("success", "failed")]


def _follow_days(api: Api, dag_id: str, days: tuple[date, date], zone: ZoneInfo) -> None:
    waiting = _unfinished(_runs(api, dag_id, days, zone))
    failed, begun = [], monotonic()
    for number, run in enumerate(waiting, start=1):
        run, _ = _until_ended(api, dag_id, run["dag_run_id"])
        # Its id names the end of the day, when the run was due.
        day = _day(run["logical_date"], zone)
        if run["state"] == "failed":
            failed.append(str(day))
        left = (monotonic() - begun) / number * (len(waiting) - number)
        console.print(
            f"[{COLOURS.get(run['state'], 'red')}]{run['state']:8}[/]  {day}"
            f"{run['duration']:7.0f} s  {run['dag_run_id']}  "
            f"{number} of {len(waiting)}, {timedelta(seconds=round(left))} left",
            soft_wrap=True,
        )
    if failed:
        raise Failure(
            f"{dag_id} failed for {', '.join(failed)}: read the tasks' logs on "
            f"{api.url}/dags/{dag_id}/runs; the same command again runs only these."
        )


def _print_task(task: dict) -> None:
    state = task["state"]
    seconds = f"{task['duration']:6.1f} s" if task["duration"] is not None else " " * 8
    console.print(f"[{COLOURS.get(state, 'red')}]{state:16}[/]{seconds}  {task['task_id']}")
