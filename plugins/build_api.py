"""Sets the states of node tasks as the build task reports them: an endpoint of the API server.

A report needs no login, because it is signed with a key that only workers and API server have. Its
length and its signature are checked before it is parsed. A report changes only node tasks and the
teardown of the running build task that sent it. Each change writes a row to Airflow's audit log.

The name of the file does not begin with `dbt_`, because dbt imports each such module.

This file uses internals of Airflow: the models of the task instances, of the DAG versions and of
the audit log. In the repository of the template, tests/plugins/test_build_api.py names what an
upgrade of Airflow has changed.
"""

import hmac
import json
import logging
from datetime import UTC, datetime, timedelta
from threading import Lock
from uuid import UUID

from airflow.configuration import conf
from airflow.models.dag_version import DagVersion
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.plugins_manager import AirflowPlugin
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState as State
from cachetools import LRUCache, cached
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from sqlalchemy import Select, select

from include.dbt_build.protocol import Answer, Report, Times, sign, signing_key

BUILD, NODE, TEARDOWN = "DbtBuildOperator", "DbtNodeOperator", "DbtBuildTeardown"
# The longest body of a request: the report of a build with 50,000 tasks.
MAX_BYTES = 32 * 2**20
NOT_RUNNING = "no such build task is running"
# How much the clocks of two machines may differ, and how old a report may be.
SKEW = timedelta(minutes=5)

log = logging.getLogger(__name__)
# FastAPI's own pages would describe the endpoint to everybody.
app = FastAPI(title="dbt build", docs_url=None, redoc_url=None, openapi_url=None)
key = signing_key(conf)
if key is None:
    log.warning(
        "plugins/build_api.py is off: node tasks become successful only after dbt has ended. "
        "Set [dbt_build] signing_key or [core] fernet_key for workers and API server."
    )


@app.post("/{build_id}")
async def receive_report(build_id: UUID, request: Request) -> Answer:
    """Set the states of a report; return the try numbers of the tasks."""
    # The signature covers the bytes of the body, so FastAPI must not parse it.
    length = request.headers.get("content-length", "")
    if not (length.isdecimal() and 0 < int(length) <= MAX_BYTES):
        raise HTTPException(413, "the report has no length, or is too long")
    body = await request.body()
    report = _verified(str(build_id), body, request.headers.get("x-dbt-build-signature", ""))
    # The database driver would block the event loop.
    return await run_in_threadpool(_apply_report, build_id, report)


def _apply_report(build_id: UUID, report: Report) -> Answer:
    with create_session() as session:
        build = session.get(TaskInstance, build_id)
        if build is None or build.state != State.RUNNING or build.operator != BUILD:
            raise HTTPException(409, NOT_RUNNING)
        tasks = _tasks_of(session, build)
        _check_times(report, build)
        return _apply(session, build, report, tasks)


def _verified(build_id: str, body: bytes, signature: str) -> Report:
    """Check the signature, the format and the age of a report, and return it."""
    if key is None:
        raise HTTPException(403, "the endpoint is off: no signing key is set")
    if not hmac.compare_digest(sign(key, build_id, body).encode(), signature.encode()):
        raise HTTPException(403, "the signature is wrong")
    try:
        report = Report.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise HTTPException(422, details) from None
    if abs(datetime.now(UTC) - report.sent_at) > SKEW:
        raise HTTPException(403, "the report is too old")
    return report


class BuildTasks:
    """The task IDs of one build, from the serialized DAG."""

    def __init__(self, dag, build_id: str):
        build = dag.get_task(build_id)
        (teardown,) = (task for task in build.downstream_list if task.task_type == TEARDOWN)
        self.teardown = teardown.task_id
        # Tasks that follow the group are downstream of the build task too, but not upstream of its
        # teardown.
        upstream = teardown.get_flat_relative_ids(upstream=True)
        self.nodes = {
            name
            for name in build.get_flat_relative_ids(upstream=False) & upstream
            if dag.get_task(name).task_type == NODE
        }
        self.upstream = {name: dag.get_task(name).upstream_task_ids for name in self.nodes}
        self.retries = {name: dag.get_task(name).retries for name in self.nodes}


# A DAG of thousands of tasks is slow to read.
@cached(LRUCache(64), key=lambda _, build: (build.dag_version_id, build.task_id), lock=Lock())
def _tasks_of(session, build: TaskInstance) -> BuildTasks:
    dag = session.get(DagVersion, build.dag_version_id).serialized_dag.dag
    return BuildTasks(dag, build.task_id)


def _check_times(report: Report, build: TaskInstance) -> None:
    earliest, latest = build.start_date - SKEW, datetime.now(UTC) + SKEW
    for task_id, times in report.succeeded.items():
        if not earliest <= times.start <= times.end <= latest:
            raise HTTPException(422, f"the times of {task_id} are outside of the build task's try")


def _apply(session, build: TaskInstance, report: Report, tasks: BuildTasks) -> Answer:
    changes = dict.fromkeys(report.succeeded, State.SUCCESS)
    changes |= {k: None if v == "due" else State(v) for k, v in report.others.items()}
    # A deploy while dbt works can remove or rename tasks. Airflow then moves the running build task
    # to the new version of the DAG. Only tasks that the build has in that version are changed.
    named = changes.keys() & (tasks.nodes | {tasks.teardown})
    of_run = select(TaskInstance).filter_by(dag_id=build.dag_id, run_id=build.run_id)
    # Loading all tasks of a large DAG would take longer than changing the named ones.
    found = session.scalars(
        of_run.where(TaskInstance.task_id.in_(named))
        .order_by(TaskInstance.task_id)
        .with_for_update(of=TaskInstance)
    ).all()
    # A clear of the run can have locked these rows before. It gives the build task another ID, and
    # the cleared tasks have to be built again.
    if session.scalar(select(TaskInstance.state).filter_by(id=build.id)) != State.RUNNING:
        raise HTTPException(409, NOT_RUNNING)
    answer = Answer(applied={})
    changes |= dict.fromkeys(_without_process(session, of_run, report, tasks), State.FAILED)
    # The teardown comes last, because it depends on the states of the node tasks.
    for ti in sorted(found, key=lambda ti: ti.task_id == tasks.teardown):
        task_id, state = ti.task_id, changes[ti.task_id]
        times = report.succeeded.get(task_id)
        if ti.state == state and times and ti.end_date == times.end:
            # The build task did not get the answer to the report that set this state.
            answer.applied[task_id] = ti.try_number
        if ti.state == state or not _is_replaceable(ti, state, build):
            continue
        if task_id == tasks.teardown:
            session.flush()
            nodes = of_run.where(TaskInstance.task_id.in_(tasks.nodes))
            states = session.scalars(nodes.with_only_columns(TaskInstance.state))
            if not {*states} <= {State.SUCCESS, State.SKIPPED}:
                continue
        if is_failed := ti.state == State.FAILED:
            # The log of the failed try stays in the UI, as it does after a clear. In Airflow 3.4
            # the next try has a row of its own.
            ti = ti.prepare_db_for_next_try(session) or ti
        first = next_try(ti)
        _set_state(ti, state, times, build)
        if is_failed and state in (State.SCHEDULED, None):
            # The task has all its retries, as after a clear.
            ti.max_tries = first - 1 + tasks.retries[task_id]
        session.add(
            Log(
                event=state.value if state else "due",
                task_instance=ti,
                owner="dbt_build",
                owner_display_name="dbt_build",
                extra=json.dumps({"reported_by": build.task_id, "try_number": ti.try_number}),
            )
        )
        if state:
            try_numbers = answer.failed if state == State.FAILED else answer.applied
            try_numbers[task_id] = ti.try_number
    return answer


def _without_process(session, of_run: Select, report: Report, tasks: BuildTasks) -> set[str]:
    """Return the tasks of failed nodes that must fail without a process: a task upstream failed.

    If such a task were scheduled, the scheduler would replace its state with upstream_failed.
    """
    upstream = {
        name: tasks.upstream[name]
        for name, state in report.others.items()
        if state == "scheduled" and name in tasks.nodes
    }
    if not upstream:
        return set()
    failed = of_run.where(
        TaskInstance.task_id.in_(set().union(*upstream.values())),
        TaskInstance.state.in_((State.FAILED, State.UPSTREAM_FAILED)),
    )
    # This report replaces the states of the tasks that it names.
    named = report.succeeded.keys() | report.others.keys()
    failed_ids = {*session.scalars(failed.with_only_columns(TaskInstance.task_id))} - named
    return {name for name, upstream_ids in upstream.items() if upstream_ids & failed_ids}


def _is_replaceable(ti: TaskInstance, state: State | None, build: TaskInstance) -> bool:
    """Return whether a reported state replaces the one of a task instance.

    It does not replace the state of a task that has begun, or a state that somebody sets while dbt
    works. It can replace upstream_failed, which the scheduler may set before dbt's result arrives,
    and skipped, which Airflow sets when a run is stopped. It can also replace a failure from before
    this try of the build task, because dbt has a newer result.
    """
    if ti.state in (None, State.UPSTREAM_FAILED, State.SKIPPED):
        return True
    # Neither a clear nor a mark by hand changes end_date, so updated_at is compared.
    is_old_failure = ti.state == State.FAILED and ti.updated_at < build.start_date
    return is_old_failure and state not in (State.UPSTREAM_FAILED, State.SKIPPED)


def _set_state(
    ti: TaskInstance, state: State | None, times: Times | None, build: TaskInstance
) -> None:
    ti.state = state
    if state in (State.SUCCESS, State.SCHEDULED, State.FAILED):
        ti.try_number = next_try(ti)
    if state == State.SCHEDULED:
        ti.scheduled_dttm = datetime.now(UTC)
    if times:
        ti.start_date, ti.end_date = times.start, times.end
        ti.duration = (times.end - times.start).total_seconds()
    elif state in (State.FAILED, State.UPSTREAM_FAILED, State.SKIPPED):
        ti.start_date = ti.end_date = datetime.now(UTC)
        ti.duration = 0
    if times or state == State.FAILED:
        # The log of the task is on the worker of the build task.
        ti.hostname = build.hostname


def next_try(ti: TaskInstance) -> int:
    """Return the number of a task instance's next try.

    Airflow 3.3 increases the number when it schedules a try, Airflow 3.4 when the last try ended.
    """
    if hasattr(TaskInstance, "working_set"):
        return max(1, ti.try_number)
    return ti.try_number + 1


class BuildApi(AirflowPlugin):
    name = "build_api"
    fastapi_apps = [{"app": app, "url_prefix": "/dbt_build", "name": "dbt build"}]  # noqa: RUF012
