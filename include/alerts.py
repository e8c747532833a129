"""What a team hears of its runs: one message for each that failed, warned, recovered or is late.

    DAG(..., on_failure_callback=alert, on_success_callback=alert,
        # A day's run is queued at midnight; its marts are late if they are not there by 07:00.
        deadline=DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=7),
                               AsyncCallback(deadline_passed)))

It goes to whatever the connection `alerts` names, by Airflow's Apprise provider. Without that
connection nothing is sent. A run stays what it is, whether or not its message could be sent.
Airflow's dag-processor calls `alert`, in a process that parses the DAG's file, and its triggerer
calls `deadline_passed`: what they log is in the dag-processor's log of that file, or in the
triggerer's. Airflow 3.3 ends `airflow dags test` of a DAG with a deadline with an error, after all
its tasks: so no DAG here has one.
"""

import asyncio
import json
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

from airflow.sdk import Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

CONN_ID = "alerts"
# A database can name values of a row in its errors. They are left out, unless this is set.
WITH_ROWS = bool(os.environ.get("ALERTS_WITH_ROWS"))
# What failed or warned is named up to this many, each with so much of what dbt said.
NAMED, CHARACTERS = 10, 500

log = logging.getLogger(__name__)


def alert(context) -> None:
    """Say how a run has ended, if that is news: a DAG's on_failure and on_success_callback."""
    if (services := _services()) is None:
        return
    dag, run_id, reason = context["dag"], context["run_id"], context["reason"]
    url = _url(dag.dag_id, run_id)
    # Both are missing where Airflow knows of no task that decided over the run.
    ti, run = context.get("ti"), context.get("dag_run")
    failed, warned, not_run = _found(dag, ti, url) if ti else ([], [], 0)
    # The run that failed, and was said to, since when no other one was green.
    red = f"alerts_red_run_of_{dag.dag_id}"
    if reason != "success":
        title, kind = "failed", "failure"
    elif before := Variable.get(red, default=None):
        title, kind = f"is green again after {before}", "success"
    elif failed or warned:
        title, kind = "is green, with warnings", "warning"
    else:
        return

    lines = [f"Run {run_id}", url]
    if reason not in ("success", "task_failure"):
        lines.append(f"Airflow's reason: {reason}")
    for word, entries in (("FAILED", failed), ("WARNED", warned)):
        lines += [f"\n{word} {entry}" for entry in entries[:NAMED]]
        if len(entries) > NAMED:
            lines.append(f"\n{word} too: {len(entries) - NAMED} more")
    if not_run:
        lines.append(f"\n{not_run} tasks did not run because of that.")
    if run:
        edges = run.data_interval_start, run.data_interval_end, run.run_after
        title = f"({_day(*edges, dag.timezone)}) {title}"
    if _send(services, f"{dag.dag_id} {title}", lines, kind):
        if reason != "success":
            Variable.set(red, run_id)
        elif kind == "success":
            Variable.delete(red)


async def deadline_passed(context: dict) -> None:
    """Say that a run has not been green by its deadline: what a DeadlineAlert calls.

    As an AsyncCallback: to a SyncCallback Airflow 3.3 refuses every connection.
    """
    await asyncio.to_thread(_say_late, context)


def _say_late(context: dict) -> None:
    if (services := _services()) is None:
        return
    run, late = context["dag_run"], context["deadline"]["deadline_time"]
    edges = run["data_interval_start"], run["data_interval_end"], run["run_after"]
    day = _day(*(edge and datetime.fromisoformat(edge) for edge in edges), UTC)
    title = f"{run['dag_id']} ({day}) is late"
    lines = [
        f"Run {run['dag_run_id']}",
        _url(run["dag_id"], run["dag_run_id"]),
        f"\nNot green by {datetime.fromisoformat(str(late)):%Y-%m-%d %H:%M %Z}: {run['state']}.",
    ]
    _send(services, title, lines, "warning")


def _services():
    """Return what the connection names, or None if there is no connection."""
    # Here, as every start of a task imports this file.
    from airflow.providers.apprise.hooks.apprise import AppriseHook
    from apprise import Apprise

    hook, services = AppriseHook(CONN_ID), Apprise()
    try:
        hook.set_config_from_conn(hook.get_connection(CONN_ID), services)
    except AirflowNotFoundException:
        return None
    except (KeyError, TypeError, ValueError):
        log.error('Not sent, %s needs the extra {"config": {"path": "<an address>"}}', CONN_ID)
        return None
    return services


def _send(services, title: str, lines: list[str], kind: str) -> bool:
    # Not by the hook's own notify, which does not tell whether the message was taken.
    sent = bool(services.notify("\n".join(lines), title=title, notify_type=kind))
    if not sent:
        log.error("Not sent, look at the connection %s: %s", CONN_ID, title)
    return sent


def _found(dag, ti, url: str) -> tuple[list[str], list[str], int]:
    """Return an entry for each thing that failed, one for each that warned, and what did not run.

    Nodes of dbt are named if they failed and their task is not green by now; of other tasks only
    their names are known here.
    """
    from include.dbt_build.operators import DbtBuild, DbtNode
    from include.dbt_build.telling import PROBLEMS

    states = ti.get_task_states(ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    builds = [task for task in dag.tasks if isinstance(task, DbtBuild)]
    shown_at = {n: task for task in dag.tasks if isinstance(task, DbtNode) for n in task.nodes}
    said = {}

    def ask(task) -> None:
        problems = ti.xcom_pull(task_ids=task.task_id, key=PROBLEMS)
        if problems is not None:
            # It ran dbt for its own nodes, after the one build.
            for node in getattr(task, "nodes", ()):
                said.pop(node, None)
            for problem in problems:
                said[problem["node"] or task.task_id] = task, problem

    for task in builds:
        ask(task)
    # Then those that have run dbt since, as far as they follow from a failure. Not all: each is a
    # request, and there can be thousands of tasks.
    ran = {name for name, state in states.items() if state == "failed"}
    for _, problem in [*said.values()]:
        if problem["status"] != "warn" and (task := shown_at.get(problem["node"])):
            ran |= {task.task_id, *task.get_flat_relative_ids()}
    for name in sorted(ran & dag.task_dict.keys() - {task.task_id for task in builds}):
        if states.get(name) in ("success", "failed"):
            ask(dag.get_task(name))

    owners = _owners(builds)
    failed, warned = [], []
    unnamed = {name for name, state in states.items() if state == "failed"}
    for node, (task, problem) in said.items():
        task = shown_at.get(node, task)
        owner = owners.get(node) or task.owner
        link = f"{url}/tasks/{task.task_id}"
        if problem["node"]:
            entry = _entry(*_kind_and_name(node), owner, link, **problem)
        else:
            entry = _entry("task", node, owner, link, **problem)
        if problem["status"] == "warn":
            warned.append(entry)
        elif states.get(task.task_id) != "success":
            failed.append(entry)
            unnamed.discard(task.task_id)
    for name in sorted(unnamed):
        # A mapped task has no such name.
        owner = dag.get_task(name).owner if dag.has_task(name) else dag.owner
        failed.append(_entry("task", name, owner, f"{url}/tasks/{name}"))
    not_run = [state for state in states.values() if state == "upstream_failed"]
    return failed, warned, len(not_run)


def _kind_and_name(unique_id: str) -> tuple[str, str]:
    kind, _, *names = unique_id.split(".")
    # The id of a test ends with a hash.
    return kind, names[0] if kind == "test" else ".".join(names)


def _entry(kind, name, owner, link, message=None, failures=None, **_) -> str:
    rows = f", {failures} failing rows" if failures and kind == "test" else ""
    lines = [f"{kind} {name}{rows}, owner {owner}"]
    said = (message or "") if WITH_ROWS else without_rows(message or "")
    lines += [f"  {line.strip()}" for line in said[:CHARACTERS].splitlines() if line.strip()]
    return "\n".join([*lines, f"  {link}"])


def without_rows(message: str) -> str:
    """Return what dbt said, without what a database says of the values in a row.

    Postgres does so in lines that follow its first, as DETAIL, and at that one's end, as in
    `invalid input syntax for type integer: "..."`; others in single quotes.
    """
    # Up to dbt's own line, and the first of the database.
    if found := re.search(r"(Database|Runtime) Error.*\n", message):
        first = message[found.end() :].partition("\n")[0]
        first = re.sub(r': ".*', ': "..."', first)
        message = message[: found.end()] + re.sub("'.*'", "'...'", first)
    return re.split(r"\n\s*(?:DETAIL|CONTEXT): ", message)[0]


def _owners(builds) -> dict[str, str]:
    from include.dbt_build.project import manifest_path

    owners = {}
    for build in builds:
        owners |= json.loads(manifest_path(Path(build.project_dir)).read_text())["owners"]
    return owners


def _day(start: datetime | None, end: datetime | None, after: datetime, zone) -> str:
    """Return a run's data interval, which is mostly a day, or else when the run was due."""
    if not start or not end:
        return f"{after.astimezone(zone):%Y-%m-%d %H:%M %Z}"
    start, end = start.astimezone(zone), end.astimezone(zone)
    if start.time() == end.time() == datetime.min.time() and end - start <= timedelta(hours=25):
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M %Z}"


def _url(dag_id: str, run_id: str) -> str:
    base = conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
    return f"{base}/dags/{dag_id}/runs/{quote(run_id)}"
