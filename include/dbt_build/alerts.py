"""One message for each run that failed, warned, recovered, or is late.

    DAG(..., on_failure_callback=alert, on_success_callback=alert,
        # A run is queued at midnight; its marts are late if they are not there by 07:00.
        deadline=DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=7),
                               AsyncCallback(deadline_passed)))

Airflow's Apprise provider sends it to the services of the connection `alerts`. Without that
connection nothing is sent. The state of a run does not depend on its message.

The dag-processor calls `alert` and logs its errors in the log of the DAG file. The triggerer calls
`deadline_passed`. No DAG here has a deadline, because in Airflow 3.3 `airflow dags test` of such a
DAG ends with an error after the last task.
"""

import asyncio
import logging
import os
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from airflow.sdk import BaseOperator, Variable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from include.dbt_build.protocol import PROBLEMS, Problem
from include.dbt_build.results import kind_and_name
from include.dbt_build.run_options import RunOptions

CONN_ID = "alerts"
# Errors of a database can contain values of rows. Unless this is set, the values are left out.
WITH_ROWS = bool(os.environ.get("ALERTS_WITH_ROWS"))
# A message names this many failed nodes, each with this many characters of dbt's message.
NAMED_NODES, MESSAGE_CHARACTERS = 10, 500

# A quoted text after one of these words is a name, or a part of the project's SQL.
NAMED = (
    "relation|column|reference|constraint|schema|table|view|function|type|role|user|database|index"
    "|sequence|extension|language|parameter|name|at|near"
)
# Texts in the first line of a database's error that can be values, and their replacements. The
# order matters, because a value can contain quotes.
VALUES = (
    # A value after a colon can continue in the next line, so its last quote can be missing.
    (r': ".*', ': "...'),
    # The first quoted text that is not a name, and everything up to the last quote.
    (rf'^((?:\b(?:{NAMED}) "[^"]*"|[^"])*+)"(?:.*"|.*)', r'\1"..."'),
    # Databases other than Postgres use single quotes, or no quotes as in `Bad int64 value: 5`.
    (r"'.*'", "'...'"),
    (r"value: .*", "value: ..."),
)

log = logging.getLogger(__name__)


@dataclass
class RunSummary:
    """The nodes and tasks of a run that a message names."""

    failed: list[str] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)
    not_run: int = 0

    def lines(self) -> list[str]:
        lines = []
        for word, entries in (("FAILED", self.failed), ("WARNED", self.warned)):
            lines += [f"\n{word} {entry}" for entry in entries[:NAMED_NODES]]
            if len(entries) > NAMED_NODES:
                lines.append(f"\n{word}: {len(entries) - NAMED_NODES} more")
        if self.not_run:
            lines.append(f"\n{self.not_run} tasks did not run, because tasks upstream failed.")
        return lines


def alert(context) -> None:
    """Send a message about the end of a run, unless it succeeded like the run before.

    A DAG has this function as its on_failure_callback and its on_success_callback.
    """
    if (services := _services()) is None:
        return
    dag, run_id, reason = context["dag"], context["run_id"], context["reason"]
    # The context has neither of these keys if no single task decided the state of the run.
    ti, run = context.get("ti"), context.get("dag_run")
    summary = _summary(dag, ti) if ti else RunSummary()
    is_partial = bool(run) and RunOptions.of_run(run.conf or {}).is_partial
    # This Variable has the ID of the last failed run until a run of all nodes succeeds.
    variable = f"alerts_failed_run_of_{dag.dag_id}"
    if reason != "success":
        title, kind = "failed", "failure"
    elif not is_partial and (before := Variable.get(variable, default=None)):
        title, kind = f"succeeded again after {before}", "success"
    elif summary.failed or summary.warned:
        title, kind = "succeeded, with warnings", "warning"
    else:
        return

    if run:
        interval = run.data_interval_start, run.data_interval_end, run.run_after
        title = f"({_day(*interval, dag.timezone)}) {title}"
    lines = summary.lines()
    if reason not in ("success", "task_failure"):
        lines.insert(0, f"Airflow's reason: {reason}")
    if _send(services, dag.dag_id, run_id, title, lines, kind):
        if reason != "success":
            Variable.set(variable, run_id)
        elif kind == "success":
            Variable.delete(variable)


async def deadline_passed(context: dict) -> None:
    """Send a message that a run has not succeeded by its deadline.

    A DeadlineAlert needs an AsyncCallback: a SyncCallback of Airflow 3.3 cannot read a connection.
    """
    await asyncio.to_thread(_send_late, context)


def _send_late(context: dict) -> None:
    if (services := _services()) is None:
        return
    run, deadline = context["dag_run"], context["deadline"]["deadline_time"]
    interval = run["data_interval_start"], run["data_interval_end"], run["run_after"]
    day = _day(*(edge and datetime.fromisoformat(edge) for edge in interval), UTC)
    by = f"{datetime.fromisoformat(str(deadline)):%Y-%m-%d %H:%M %Z}"
    line = f"\nIt has not succeeded by {by}: its state is {run['state']}."
    _send(services, run["dag_id"], run["dag_run_id"], f"({day}) is late", [line], "warning")


def _services():
    """Return the Apprise services of the connection, or None if it is missing or invalid."""
    # Imported here, because each task imports this module when it starts.
    from airflow.providers.apprise.hooks.apprise import AppriseHook
    from apprise import Apprise

    hook, services = AppriseHook(CONN_ID), Apprise()
    try:
        hook.set_config_from_conn(hook.get_connection(CONN_ID), services)
    except AirflowNotFoundException:
        return None
    except (KeyError, TypeError, ValueError):
        log.error(
            'No message is sent: the connection %s needs the extra {"config": {"path": "<URL>"}}',
            CONN_ID,
        )
        return None
    return services


def _send(services, dag_id: str, run_id: str, title: str, lines: list[str], kind: str) -> bool:
    title = f"{dag_id} {title}"
    body = "\n".join([f"Run {run_id}", _url(dag_id, run_id), *lines])
    # The hook's own notify does not return whether the message was accepted.
    sent = bool(services.notify(body, title=title, notify_type=kind))
    if not sent:
        log.error('The message "%s" was not sent: check the connection %s.', title, CONN_ID)
    return sent


def _summary(dag, ti) -> RunSummary:
    """Return the nodes that failed or warned, and the tasks that failed without such a node."""
    from include.dbt_build.build import DbtBuildOperator
    from include.dbt_build.reporting import task_states

    states, url = task_states(ti), _url(dag.dag_id, ti.run_id)
    builds = [task for task in dag.tasks if isinstance(task, DbtBuildOperator)]
    summary = RunSummary(not_run=[*states.values()].count("upstream_failed"))
    unnamed = {name for name, state in states.items() if state == "failed"}
    # A teardown fails only because node tasks failed.
    unnamed -= {build.group.teardown_id for build in builds}
    for build in builds:
        for task, problem in _problems(ti, build, states):
            owner = build.group.slim["owners"].get(problem["node"]) or task.owner
            entry = _entry(task.task_id, owner, url, problem)
            if problem["status"] == "warn":
                summary.warned.append(entry)
            elif states.get(task.task_id) != "success":
                summary.failed.append(entry)
                unnamed.discard(task.task_id)
    unknown = Problem(node=None, status="error", message="", failures=None)
    for name in sorted(unnamed):
        # The states name a mapped task instance by its task ID and map index.
        owner = dag.get_task(name).owner if dag.has_task(name) else dag.owner
        summary.failed.append(_entry(name, owner, url, unknown))
    return summary


def _problems(ti, build, states: dict) -> list[tuple[BaseOperator, Problem]]:
    """Return the newest problem of each node of a build, each with the task that shows it."""
    node_tasks = [build.dag.get_task(name) for name in build.group.node_task_ids]
    task_of = {node: task for task in node_tasks for node in task.nodes}
    problems = _stored_problems(ti, build) or {}
    # Only these node tasks can have run dbt after the build task. The problems of each task cost a
    # request, and a DAG can have thousands of tasks.
    reruns = {name for name, state in states.items() if state == "failed"}
    for node, (_, problem) in problems.items():
        if problem["status"] != "warn" and (task := task_of.get(node)):
            reruns |= {task.task_id, *task.get_flat_relative_ids()}
    for task in node_tasks:
        if task.task_id in reruns and states.get(task.task_id) in ("success", "failed"):
            newer = _stored_problems(ti, task)
            if newer is not None:
                older = {node: old for node, old in problems.items() if node not in task.nodes}
                problems = older | newer
    return [(task_of.get(node, task), problem) for node, (task, problem) in problems.items()]


def _stored_problems(ti, task) -> dict[str, tuple[BaseOperator, Problem]] | None:
    """Return the problems that a task stored, by node, or None if the task did not run dbt."""
    stored: list[Problem] | None = ti.xcom_pull(task_ids=task.task_id, key=PROBLEMS)
    if stored is None:
        return None
    return {problem["node"] or task.task_id: (task, problem) for problem in stored}


def _entry(task_id: str, owner: str, url: str, problem: Problem) -> str:
    """Return the lines about a node, or about a task if its problem belongs to no node."""
    node, failures = problem["node"], problem["failures"]
    kind, name = kind_and_name(node) if node else ("task", task_id)
    rows = f", {failures} failing rows" if failures and kind == "test" else ""
    message = problem["message"] if WITH_ROWS else without_rows(problem["message"])
    lines = [line.strip() for line in message[:MESSAGE_CHARACTERS].splitlines() if line.strip()]
    return "\n  ".join([f"{kind} {name}{rows}, owner {owner}", *lines, f"{url}/tasks/{task_id}"])


def without_rows(message: str) -> str:
    """Return a message of dbt without the values of rows that a database puts into its errors.

    Postgres puts them into lines after the first one, such as DETAIL, and into the quoted texts of
    the first line, as in `invalid input syntax for type integer: "..."`.
    """
    message = re.split(r"\n\s*(?:DETAIL|CONTEXT): ", message)[0]
    # The first line is dbt's own, and the second one begins the message of the database.
    if not (found := re.search(r"(?:Database|Runtime) Error.*\n(.*)", message)):
        return message
    line = found[1]
    for pattern, replacement in VALUES:
        line = re.sub(pattern, replacement, line)
    return message[: found.start(1)] + line


def _day(start: datetime | None, end: datetime | None, after: datetime, zone) -> str:
    """Return the data interval of a run, usually a day, or when it was due if it has none."""
    if not start or not end:
        return f"{after.astimezone(zone):%Y-%m-%d %H:%M %Z}"
    start, end = start.astimezone(zone), end.astimezone(zone)
    if start.time() == end.time() == datetime.min.time() and end - start <= timedelta(hours=25):
        return f"{start:%Y-%m-%d}"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M %Z}"


def _url(dag_id: str, run_id: str) -> str:
    base = conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
    return f"{base}/dags/{dag_id}/runs/{quote(run_id)}"
