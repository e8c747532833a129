"""Tells Airflow, while dbt builds, which tasks have ended: through plugins/dbt_build_api.py."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import httpx
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException
from jinja2 import Template

# XComs. What the plugin shall apply now, in JSON, of a DbtBuild
# {"green": {task id: {"start", "end", "note"}}, "failed": [task ids]},
# of any task that failed {"not_green": [task ids]};
# and what a DbtBuild leaves to the tasks: {task id: [outcome, lines]}.
TOLD, LEFT = "told", "left"
# Of every task that ran dbt, for include/alerts.py: what Events.problems returns.
PROBLEMS = "problems"
# Between two looks at what dbt has built. Each time it tells costs the API server two requests.
SECONDS = 1
# Characters that Airflow keeps of a note.
NOTE = 1000

log = logging.getLogger(__name__)


class Teller:
    """Works in a thread while it is entered; its end raises what kept it from leaving the rest."""

    def __init__(self, ti, tasks: list, events):
        self.ti, self.events = ti, events
        known = {task.task_id: task for task in tasks}
        order = {name: task.upstream_task_ids & known.keys() for name, task in known.items()}
        # In the order of the DAG: no task is green before those that it waits for.
        self.waiting = {name: known[name] for name in TopologicalSorter(order).static_order()}
        self.green: dict[str, dict] = {}
        self.failed: list[str] = []
        self.left: dict[str, list] = {}
        self.said: dict[str, list[str]] = {}
        self.url = _route(ti)
        # Then nobody can read a file that this process writes.
        self.notes = conf.getboolean("logging", "remote_logging", fallback=False)
        self._over, self._trouble = Event(), None
        self._thread = Thread(target=self._run)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()
        if self._trouble:
            raise self._trouble

    def _run(self) -> None:
        with httpx.Client(timeout=60) as api:
            while not self._over.wait(SECONDS):
                try:
                    self._look()
                    self._tell(api)
                except Exception as error:
                    log.warning("Airflow can't be told now: %s", error)
            try:
                self._look()
                self._tell(api)
                # Each accepts, in a process of its own, what could not be told.
                if self.left or self.green:
                    self._leave({name: ["success", self.said[name]] for name in self.green})
            except Exception as error:
                self._trouble = error

    def _look(self) -> None:
        """Move what has ended from `waiting` to `green` or `failed`."""
        failed = {}
        for name, task in [*self.waiting.items()]:
            if task.upstream_task_ids & (self.waiting.keys() | self.left.keys() | failed.keys()):
                continue
            if outcome := self.events.outcome(task.nodes):
                self.said[name] = self.events.said(task.nodes)
                if outcome == "success":
                    self.green[name] = self._green(name, task.nodes)
                else:
                    failed[name] = [outcome, self.said[name]]
                del self.waiting[name]
        if failed:
            # First: a task reads it as soon as the plugin has let it start.
            self._leave(failed)
            self.failed += failed

    def _green(self, name: str, nodes) -> dict:
        times = [self.events.nodes[node] for node in nodes]
        now = datetime.now(UTC).isoformat()
        return {
            "start": min((_utc(node.started) for node in times), default=now),
            "end": max((_utc(node.ended) for node in times), default=now),
            "note": "\n".join(self.said[name])[:NOTE] if self.notes else None,
        }

    def _leave(self, outcomes: dict[str, list]) -> None:
        self.left |= outcomes
        self.ti.xcom_push(key=LEFT, value=self.left)
        # Now, as a build that is killed says nothing in the end.
        self.ti.xcom_push(key=PROBLEMS, value=self.events.problems())

    def _tell(self, api: httpx.Client) -> None:
        if not (self.green or self.failed):
            return
        self.ti.xcom_push(key=TOLD, value=json.dumps({"green": self.green, "failed": self.failed}))
        try:
            tries = api.post(self.url).raise_for_status().json()
        except httpx.HTTPError as error:
            log.warning("Airflow can't be told now, so tasks start after dbt: %s", error)
            return
        for name, attempt in tries.items():
            self._write_log(name, attempt)
        self.green, self.failed = {}, []

    def _write_log(self, name: str, attempt: int) -> None:
        """Write what dbt said where Airflow looks for the log of a task's try."""
        ti = SimpleNamespace(
            dag_id=self.ti.dag_id, run_id=self.ti.run_id, task_id=name, map_index=-1
        )
        place = Template(conf.get("logging", "log_filename_template")).render(
            ti=ti, try_number=attempt
        )
        file = Path(conf.get("logging", "base_log_folder"), place)
        end = self.green[name]["end"]
        lines = [{"timestamp": end, "level": "info", "event": line} for line in self.said[name]]
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        except OSError as error:
            log.warning("The log of %s could not be written: %s", name, error)


@contextmanager
def no_green_behind(task, context) -> Iterator[None]:
    """If the task fails for good, let no task behind it stay green.

    Airflow judges a run by its last tasks. They are green already if the task was cleared alone.
    The nodes of a DbtBuild stay: they are green because they were built and passed.
    """
    ti = context["ti"]
    try:
        yield
    except BaseException as error:
        for_good = isinstance(error, AirflowFailException) or ti.try_number > ti.max_tries
        # In its first try nothing behind it has run.
        if for_good and ti.try_number > 1:
            behind = [
                name
                for name in task.get_flat_relative_ids(upstream=False)
                if getattr(task.dag.get_task(name), "build", None) != task.task_id
            ]
            try:
                ti.xcom_push(key=TOLD, value=json.dumps({"not_green": behind}))
                httpx.post(_route(ti), timeout=60).raise_for_status()
            except Exception as trouble:
                log.error(
                    "What is green behind this task stays so, as Airflow can't be told: "
                    "clear this task with its downstream tasks. %s",
                    trouble,
                )
        raise


def _route(ti) -> str:
    base = conf.get("api", "base_url", fallback=None) or "http://localhost:8080"
    server = conf.get("core", "execution_api_server_url", fallback=None) or base
    return f"{server.rstrip('/').removesuffix('/execution')}/dbt_build/{ti.id}"


def _utc(time: str) -> str:
    """Return one of dbt's times, which it gives with and without their zone, with it."""
    return datetime.fromisoformat(time).replace(tzinfo=UTC).isoformat()
