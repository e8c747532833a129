"""Reports the results of nodes to Airflow while dbt works."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING

from airflow.sdk.execution_time.xcom import XCom

from include.dbt_build.channel import BuildEndedError, PluginClient, ReportError, TaskLogs
from include.dbt_build.protocol import (
    BUILD_STATE,
    NODE_RESULTS,
    PROBLEMS,
    BuildState,
    Outcome,
    Report,
    StoredResult,
    Times,
)
from include.dbt_build.results import BuildResults

if TYPE_CHECKING:
    from include.dbt_build.operators import DbtNodeOperator

# A report costs the API server one request.
POLL_SECONDS = 1
# After a report that failed, the time until the next one doubles up to this.
MAX_RETRY_SECONDS = 30

log = logging.getLogger(__name__)


class ResultReporter:
    """Reports results in a thread of its own until the block ends.

    A task whose nodes succeeded becomes successful at once. A leaf of the group waits for dbt's
    end, because tasks downstream of the group must not start before dbt's hooks have succeeded. A
    task with a failed node is scheduled at once: it starts and fails with dbt's message.

    At the end it stores the results that Airflow does not show, because the plugin could not be
    reached or the task has callbacks. Such a task starts a process, reads its result and ends.

    Args:
        ti: the task instance of the build task.
        tasks: the node tasks that are not successful yet, in the order of the DAG.
        results: filled by dbt.
        teardown_id: the task ID of the build's teardown.
        state: the state with which this try begins.
    """

    def __init__(
        self,
        ti,
        tasks: Iterable[DbtNodeOperator],
        results: BuildResults,
        teardown_id: str,
        state: BuildState,
    ):
        self.ti, self.results, self.teardown_id, self.state = ti, results, teardown_id, state
        self.tasks = {task.task_id: task for task in tasks}
        selected = None if state["selected"] is None else {*state["selected"]}
        # The nodes of each task that the run selects.
        self.nodes = {task_id: task.nodes_in(selected) for task_id, task in self.tasks.items()}
        # The outcome of each task. A leaf has none before dbt's end.
        self.outcomes: dict[str, Outcome] = {}
        # Tasks downstream of a failed node, also tasks whose nodes the run does not select.
        self.blocked: set[str] = set()
        # Outcomes that the plugin has not confirmed.
        self.unsent: dict[str, Outcome] = {}
        self.has_ended_well = False
        self._stored: dict[str, StoredResult] = {}
        self._client, self._logs = PluginClient(ti), TaskLogs(ti)
        # The seconds from a failed report to the next one, and when the next report may be sent.
        self._retry_seconds, self._next_report = POLL_SECONDS, 0.0
        self._stop = Event()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dbt-results")

    def __enter__(self) -> ResultReporter:
        self._future = self._executor.submit(self._run)
        return self

    def __exit__(self, kind, *_) -> None:
        self._stop.set()
        error = self._future.exception()
        self._logs.close()
        if error and kind is None:
            raise error

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._report()
        if self.results.is_interrupted:
            # Stored first, because Airflow may be about to kill this process. The plugin accepts a
            # report unless Airflow itself has ended the build task.
            self._store_state()
            self._report()
        else:
            self._end()

    def _report(self) -> None:
        """Report what dbt has ended by now. What fails here is done by the next call."""
        try:
            self._collect()
            if self._retry_seconds > POLL_SECONDS:
                # If Airflow did not answer, the next report can take a minute too.
                self._store_state()
            if monotonic() > self._next_report:
                self._send_unsent()
            self._store_state()
        except Exception as error:
            log.warning("The results could not be passed to Airflow yet: %s", error)

    def _collect(self) -> None:
        """Set the outcomes of the tasks whose nodes have ended."""
        failed: dict[str, Outcome] = {}
        for task_id in self._pending():
            outcome = self._outcome(task_id)
            if outcome in ("fail", "error"):
                failed[task_id] = outcome
            elif outcome == "success" and not self.tasks[task_id].is_leaf:
                self.outcomes[task_id] = self.unsent[task_id] = outcome
        if failed:
            # Results are stored before the report, because a task reads its result as soon as it is
            # scheduled. If they cannot be stored, the tasks stay pending.
            self._store(failed)
            self.outcomes |= failed
            self.unsent |= failed

    def _outcome(self, task_id: str) -> Outcome | None:
        nodes = self.nodes[task_id]
        if self.has_ended_well:
            # dbt has a result of each node that it selects, also of a node that it skips. With
            # fail_fast it has none of the unit tests of an ephemeral model that it skips.
            ephemeral = self.tasks[task_id].group.slim["ephemeral"]
            has_ended = self.results.has_ended
            nodes = [n for n in nodes if has_ended(n) or has_ended(ephemeral.get(n))]
        # The run may select none of a task's nodes.
        return self.results.outcome(nodes) if nodes else "left_out"

    def _pending(self) -> list[str]:
        return [task_id for task_id in self.tasks if task_id not in self.outcomes]

    def _end(self) -> None:
        """Report what is only known when dbt has ended."""
        self._store_state(
            run_start_of_unended_try=None,
            has_ended_well=self.has_ended_well,
            succeeded=sorted(
                self.results.succeeded().union(
                    self.state["done_before"], self.state["without_event"]
                )
            ),
        )
        self._collect()
        if self.has_ended_well:
            for task_id in self._pending():
                self.outcomes[task_id] = self.unsent[task_id] = self._last_outcome(task_id)
        self._send_unsent(has_ended=self.has_ended_well)
        self._store_state()
        if self.has_ended_well:
            confirmed = self.outcomes.keys() - self.unsent.keys()
            # Airflow shows these tasks as upstream_failed. The outcome `skipped` is stored, so that
            # such a task runs dbt if it is cleared later.
            not_run = [task_id for task_id in confirmed if self.outcomes[task_id] == "not_run"]
            self.outcomes |= dict.fromkeys(not_run, "skipped")
            # The teardown distinguishes these tasks from those that Airflow skips in a stopped run.
            left_out = [
                task_id
                for task_id in confirmed
                if self.outcomes[task_id] == "left_out" and self.nodes[task_id]
            ]
            if stored := [*self.unsent, *not_run, *left_out]:
                self._store({task_id: self.outcomes[task_id] for task_id in stored})

    def _last_outcome(self, task_id: str) -> Outcome:
        outcome = self._outcome(task_id)
        if outcome == "success":
            return "success"
        # The tasks are in the order of the DAG, so all tasks upstream have their outcomes.
        for name in self.tasks[task_id].upstream_node_tasks:
            if name in self.blocked or self.outcomes.get(name) in ("fail", "error"):
                self.blocked.add(task_id)
        if outcome == "left_out":
            return "left_out"
        if task_id in self.blocked:
            return "skipped"
        return "not_run" if self.results.failed() else "left_out"

    def _send_unsent(self, *, has_ended: bool = False) -> None:
        report = Report()
        for task_id, outcome in self.unsent.items():
            if outcome in ("fail", "error"):
                report.others[task_id] = "scheduled"
            elif outcome == "success" and not self.tasks[task_id].needs_process:
                report.succeeded[task_id] = self._times(task_id)
            elif outcome == "success" and has_ended:
                report.others[task_id] = "due"
            elif outcome == "not_run":
                report.others[task_id] = "upstream_failed"
            # A task downstream of a failed task has to wait for the retry of that task.
            elif outcome == "left_out" and task_id not in self.blocked:
                report.others[task_id] = "skipped"
        if has_ended and {*self.outcomes.values()} <= {"success", "left_out"}:
            now = datetime.now(UTC)
            report.succeeded[self.teardown_id] = Times(start=now, end=now)
        if report.succeeded or report.others:
            self._send(report)

    def _send(self, report: Report) -> None:
        try:
            answer = self._client.send(report)
        except ReportError as error:
            # Airflow then interrupts this task too, for a reason that is in the log.
            is_expected = isinstance(error, BuildEndedError)
            if self._retry_seconds == POLL_SECONDS and not is_expected:
                log.warning("Airflow shows the results later, when dbt has ended: %s", error)
            self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)
            self._next_report = monotonic() + self._retry_seconds
            return
        self._retry_seconds = POLL_SECONDS
        for task_id, try_number in answer.failed.items():
            self.unsent.pop(task_id, None)
            # No process will read the result, and a try after a clear must run dbt.
            self._stored.pop(task_id, None)
            nodes = self.nodes[task_id]
            message = f"{self.results.message(nodes)}\n{self.results.sql(nodes)}"
            self._logs.write(task_id, try_number, message, datetime.now(UTC).isoformat())
        for task_id, try_number in answer.applied.items():
            if self.unsent.pop(task_id, None) == "success":
                message = self.results.message(self.nodes[task_id])
                self._logs.write(
                    task_id, try_number, message, report.succeeded[task_id].end.isoformat()
                )
        if answer.failed:
            self._store({})

    def _times(self, task_id: str) -> Times:
        results = [self.results.nodes[node] for node in self.nodes[task_id]]
        now = datetime.now(UTC)
        start = min((_utc(node.started_at) for node in results if node.started_at), default=now)
        end = max((_utc(node.ended_at) for node in results if node.ended_at), default=now)
        # If the clock was set back while dbt worked, the node ended before it started.
        return Times(start=start, end=max(start, end))

    def _store(self, outcomes: Mapping[str, Outcome]) -> None:
        """Store the results that tasks read when they start."""
        built = self.results.built()
        for task_id, outcome in outcomes.items():
            nodes = self.nodes[task_id]
            self._stored[task_id] = StoredResult(
                outcome=outcome,
                message=self.results.message(nodes),
                sql=self.results.sql(nodes),
                built=[node for node in nodes if node in built],
            )
        self.ti.xcom_push(key=NODE_RESULTS, value=self._stored)
        # A build task that is killed stores nothing at its end.
        self.ti.xcom_push(key=PROBLEMS, value=self.results.problems())

    def _store_state(self, **changes) -> None:
        """Store the state of this try if it has changed."""
        successful = {
            node
            for task_id in self.outcomes.keys() - self.unsent.keys()
            # The model of a task whose test failed is not among these nodes, so it is stored.
            if self.outcomes[task_id] == "success"
            for node in self.nodes[task_id]
        }
        succeeded = self.results.succeeded()
        built = {*self.state["built"]} | (succeeded - successful)
        # A poll between two batches finds a model incomplete that is complete later.
        incomplete = ({*self.state["incomplete"]} | self.results.incomplete()) - succeeded
        nodes = {"built": sorted(built), "incomplete": sorted(incomplete)}
        state = BuildState(**{**self.state, **nodes, **changes})
        if state != self.state:
            store_state(self.ti, self.teardown_id, state)
            # Set last, so that the next call stores the state again if this call fails.
            self.state = state


def task_states(ti, task_id: str | None = None) -> dict[str, str | None]:
    """Return the states of all tasks of a task instance's run, or of one task, by task ID.

    Airflow adds the map index to the task ID of a mapped task.
    """
    task_ids = [task_id] if task_id else None
    return ti.get_task_states(ti.dag_id, task_ids=task_ids, run_ids=[ti.run_id]).get(ti.run_id, {})


def set_xcom(ti, task_id: str, key: str, value) -> None:
    """Set an XCom of another task of the run."""
    XCom.set(key=key, value=value, dag_id=ti.dag_id, task_id=task_id, run_id=ti.run_id)


def store_state(ti, teardown_id: str, state: BuildState) -> None:
    """Store the state of a build for its node tasks and for the next try of the build task."""
    set_xcom(ti, teardown_id, BUILD_STATE, state)
    ti.xcom_push(key=BUILD_STATE, value=state)


def first_try(ti) -> int:
    """Return the number of a task instance's first try since the run began or it was cleared."""
    return ti.max_tries - ti.task.retries + 1


def _utc(time: str) -> datetime:
    """Return a time of dbt as a datetime. It is UTC, whether or not it has an offset."""
    return datetime.fromisoformat(time).replace(tzinfo=UTC)
