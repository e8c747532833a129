"""The tasks of a `dbt build`: the build task, a task for each node, and the teardown."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
)

from include.dbt_build import artifacts
from include.dbt_build.arguments import UnsupportedArgumentError
from include.dbt_build.command import DbtCommandOperator
from include.dbt_build.lock import build_lock
from include.dbt_build.manifest import SlimManifest, nodes_downstream_of
from include.dbt_build.protocol import (
    BUILT_NODES,
    CHOSEN_NODES,
    NODE_RESULTS,
    PROBLEMS,
    StoredResult,
)
from include.dbt_build.reporting import ResultReporter, set_xcom, task_states
from include.dbt_build.results import BuildResults

# How long the build task waits for node tasks that are ending.
ENDING_SECONDS = 5


@dataclass
class BuildGroup:
    """The tasks of one build: what its operators know of each other.

    Args:
        slim_file: the slim manifest of the selection.
        command_args: the arguments with which any task of the build runs dbt.
        tests_last: whether all tests run when all other nodes were built.
    """

    slim_file: Path
    command_args: dict
    tests_last: bool
    build_id: str = ""
    teardown_id: str = ""
    # The order is that of the DAG.
    node_task_ids: tuple[str, ...] = ()

    @cached_property
    def slim(self) -> SlimManifest:
        return json.loads(self.slim_file.read_text())


class DbtBuildOperator(DbtCommandOperator):
    """Runs one `dbt build` and reports the result of each node to Airflow while dbt works.

    It is the setup task of the node tasks. It succeeds although nodes failed, if each of them has
    a task, which then fails. When tasks of the run are successful already, as in a retry or after
    a clear, it builds the nodes of the others only.
    """

    def __init__(self, *, group: BuildGroup, **kwargs):
        self.group = group
        super().__init__(**group.command_args, **kwargs)

    def execute(self, context, **_) -> None:
        # This is a copy of the operator, which shares its attributes with other runs.
        self.results = BuildResults()
        self.apply_run_options(context)
        with (
            stored_problems(self, context),
            build_lock(self.profile_config, context["ti"], exclusive=True),
        ):
            self._build_pending(context)

    def _build_pending(self, context) -> None:
        """Build the nodes whose tasks are not successful.

        Raises:
            AirflowException: a node without a task failed, or a hook.
        """
        ti = context["ti"]
        if (chosen := self._chosen_nodes(context)) is not None:
            ti.xcom_push(key=CHOSEN_NODES, value=sorted(chosen))
        all_tasks = [self.dag.get_task(task_id) for task_id in self.group.node_task_ids]
        states = self._states_of_ended_tasks(ti)
        pending = [task for task in all_tasks if not task.is_done(states, chosen)]
        # After a clear of all tasks, dbt gets the selection of the DAG as in the first try.
        is_new = is_first_try(ti, self) and len(pending) == len(all_tasks)
        built = self._built_nodes(ti, is_new=is_new)
        if not is_first_try(ti, self):
            # The asset events of a try that was killed are lost.
            done = [task for task in all_tasks if states.get(task.task_id) == "success"]
            self.built_by_earlier_tries = {node for task in done for node in task.nodes}
        self.results.add_succeeded(
            built, "An earlier try of the build task built it: see the log of that try."
        )
        with ResultReporter(ti, pending, self.results, self.group.teardown_id, chosen) as reporter:
            stale = self._check_sources(context, [task for task in pending if task.chosen(chosen)])
            # None stands for the selection of the DAG.
            nodes = None
            if stale or not is_new or chosen is not None:
                self.log.info("%s of %s tasks are pending", len(pending), len(all_tasks))
                nodes = self._pending_nodes(pending, built, stale, chosen)
            if self.group.tests_last:
                self._build_tests_last(context, nodes)
            elif nodes is None or nodes:
                self.build(context, nodes)
            failed = self.results.failed() - {node for task in pending for node in task.nodes}
            reporter.has_ended_well = not failed
        is_whole = nodes is None and not self.run_options.vars
        is_green = is_whole and not self.results.failed()
        artifacts.finish(self.profile_config, ti, succeeded=is_green)
        if failed:
            self._fail(failed, built)

    def _states_of_ended_tasks(self, ti) -> dict[str, str | None]:
        """Return the states of the run's tasks, by task ID.

        A node task that has run dbt releases the lock shortly before Airflow knows its state.
        """
        deadline = monotonic() + ENDING_SECONDS
        while True:
            states = task_states(ti)
            is_ending = "running" in [states.get(name) for name in self.group.node_task_ids]
            if not is_ending or monotonic() > deadline:
                return states
            sleep(1)

    def _chosen_nodes(self, context) -> set[str] | None:
        """Return the nodes that this run selects, or None if it builds all nodes of the DAG.

        The sources that a chosen node reads are among them, so that their age is checked.
        """
        if not self.run_options.is_partial:
            return None
        select, exclude = self.run_options.select, self.run_options.exclude
        ti, known = context["ti"], {*self.group.slim["nodes_to_run"]}
        # A retry keeps the selection of the first try, because `state:` may mean others by then.
        stored = ti.xcom_pull(task_ids=self.group.teardown_id, key=CHOSEN_NODES)
        if stored is not None:
            return {*stored}
        try:
            # Another command of this operator, whose templates are rendered.
            listed = copy(self).list_nodes(context, select, exclude)
        except AirflowException as error:
            # A retry would get the same answer.
            raise AirflowFailException(str(error)) from None
        chosen = listed & known
        self.log.info("The run builds %s nodes: %s", len(chosen), ", ".join(sorted(chosen)))
        builds = [task for task in self.dag.tasks if isinstance(task, DbtBuildOperator)]
        # If the DAG has several groups, another one may have the selected nodes.
        if not chosen and len(builds) == 1:
            raise AirflowFailException(
                f"dbt_select={select} with dbt_exclude={exclude} selects no node of this DAG: "
                "trigger a run with another selection."
            )
        tasks = [self.dag.get_task(task_id) for task_id in self.group.node_task_ids]
        used = {task.task_id for task in tasks if task.chosen(chosen)}
        for task in tasks:
            if task.checks_freshness and used & task.get_flat_relative_ids(upstream=False):
                chosen |= {*task.nodes}
        set_xcom(ti, self.group.teardown_id, CHOSEN_NODES, sorted(chosen))
        return chosen

    def _built_nodes(self, ti, *, is_new: bool) -> set[str]:
        """Return the nodes that an earlier try of the build task built.

        After a clear they are built again, except nodes without a task of their own.
        """
        stored = {*(ti.xcom_pull(task_ids=self.group.teardown_id, key=BUILT_NODES) or ())}
        if not is_first_try(ti, self):
            return stored
        built = set() if is_new else stored - self._nodes_with_task()
        if built != stored:
            # A retry of this try must not find the nodes from before the clear.
            set_xcom(ti, self.group.teardown_id, BUILT_NODES, sorted(built))
        return built

    def _nodes_with_task(self) -> set[str]:
        tasks = (self.dag.get_task(task_id) for task_id in self.group.node_task_ids)
        return {node for task in tasks for node in task.nodes}

    def _check_sources(self, context, pending: list["DbtNodeOperator"]) -> set[str]:
        """Check the sources among the pending tasks; return the nodes downstream of stale ones."""
        checks = [task for task in pending if task.checks_freshness]
        if checks:
            sources = [source for task in checks for source in task.nodes]
            # Another command of this operator, whose templates are rendered.
            copy(self).check_freshness(context, sources)
        stale = [task for task in checks if self.results.outcome(task.nodes) != "success"]
        return nodes_downstream_of(self.group.slim, {n for task in stale for n in task.nodes})

    def _pending_nodes(
        self,
        pending: list["DbtNodeOperator"],
        built: set[str],
        stale: set[str],
        chosen: set[str] | None,
    ) -> set[str]:
        """Return the nodes to build, those without a task included.

        Raises:
            AirflowFailException: only the project's hooks are missing, and no test can run them.
        """
        wanted = {
            node for task in pending if not task.checks_freshness for node in task.chosen(chosen)
        } - stale
        without_task = {*self.group.slim["nodes_to_run"]} - self._nodes_with_task()
        if chosen is not None:
            without_task &= chosen
        missing = (wanted | without_task) - built
        if missing or not wanted or not self.group.slim["has_end_hooks"]:
            return missing
        # An earlier try built everything and ended before the hooks, which dbt runs only with a
        # node. A test changes nothing.
        tests = {node for node in self._nodes_with_task() if node.startswith("test.")}
        if chosen is not None:
            tests &= chosen
        if not tests:
            raise AirflowFailException(
                "dbt has built all nodes, but its on-run-end hooks have not ended. Clear this task "
                "to build the last nodes again, with the hooks."
            )
        return (tests & wanted) or {min(tests)}

    def _build_tests_last(self, context, nodes: set[str] | None) -> None:
        """Build everything but the tests, then the tests if nothing failed."""
        chosen = {*self.group.slim["nodes_to_run"]} if nodes is None else nodes
        tests = {node for node in chosen if node.startswith("test.")}
        if others := chosen - tests:
            self.build(context, others)
        if tests and not self.results.failed():
            self.build(context, tests)

    def _fail(self, failed: set[str], built_before: set[str]) -> None:
        message = f"dbt nodes failed that have no Airflow task: {', '.join(sorted(failed))}"
        self.log.error("%s\n%s", message, self.results.message(failed))
        if self.results.succeeded() - built_before:
            # A retry would build again what was built, and add rows to a model without a key.
            raise AirflowFailException(f"{message}. Clear this task to run dbt again.")
        raise AirflowException(message)


class DbtNodeOperator(BaseOperator):
    """Stands for a dbt node with its unit tests, for the tests of a node, or for a source's age.

    Usually it becomes successful without a process: the build task reports it to Airflow. It
    starts a process when a node failed, to fail with dbt's message, and when the result could not
    be reported. A later try, or a try after a clear of this task alone, runs dbt for its nodes.

    Args:
        group: the build that it belongs to.
        nodes: the unique IDs of its nodes, in dbt's order.
    """

    def __init__(self, *, group: BuildGroup, nodes: Iterable[str], **kwargs):
        super().__init__(**kwargs)
        self.group = group
        self.nodes = tuple(nodes)
        # Whether no other node task of the group is downstream of it.
        self.is_leaf = True
        # The nearest node tasks upstream, over tasks without a node.
        self.upstream_node_tasks: tuple[str, ...] = ()

    def chosen(self, nodes: Set[str] | None) -> tuple[str, ...]:
        """Return those of its nodes that a run selects: all if it selects no part of the DAG."""
        return tuple(node for node in self.nodes if nodes is None or node in nodes)

    def is_done(self, states: Mapping[str, str | None], selected: Set[str] | None) -> bool:
        """Return whether the build task has nothing to do for this task.

        Airflow skips the tasks of a run that it stops. So a skipped task is done only if the run
        does not select its nodes.

        Args:
            states: the states of the run's tasks, by task ID.
            selected: the nodes that the run selects, or None for all.
        """
        state = states.get(self.task_id)
        return state == "success" or (state == "skipped" and not self.chosen(selected))

    def set_upstream(self, task_or_task_list, edge_modifier=None) -> None:
        self._refuse_upstream()
        super().set_upstream(task_or_task_list, edge_modifier)

    def update_relative(self, other, upstream: bool = True, edge_modifier=None) -> None:
        """Refuse `other >> self`: Airflow calls this for the second task of an edge."""
        if upstream:
            self._refuse_upstream()
        super().update_relative(other, upstream, edge_modifier)

    def _refuse_upstream(self) -> None:
        # The group is complete once it has its build task.
        if self.group.build_id:
            raise UnsupportedArgumentError(
                f"A task upstream of {self.task_id}",
                "one dbt builds all nodes: put it upstream of the group",
            )

    @property
    def checks_freshness(self) -> bool:
        return any(node.startswith("source.") for node in self.nodes)

    @property
    def needs_process(self) -> bool:
        """Whether something has to run in a process of the task when its nodes succeeded."""
        return bool(self.has_on_success_callback or self.has_on_execute_callback or self.outlets)

    def execute(self, context) -> None:
        ti = context["ti"]
        result = self._stored_result(ti)
        if result is None and ti.try_number == 1:
            raise AirflowException(
                f"The build task stored no result for {', '.join(self.nodes)}: see its log."
            )
        # The task of a skipped node is due: the task that failed upstream has succeeded in a later
        # try, or somebody has cleared this one.
        if result is None or result["outcome"] == "skipped":
            with build_lock(self.group.command_args["profile_config"], ti, exclusive=False):
                # A retry of the build task may have built the nodes in the meantime.
                stored = self._stored_result(ti) if result is None else None
                result = stored or self._run_dbt(context, result["built"] if result else ())
        self._end(result)

    def _stored_result(self, ti) -> StoredResult | None:
        """Return the result that the build task stored, unless an earlier try has read it.

        A node that dbt has built is not built again if the process of that try was killed.
        """
        results = ti.xcom_pull(task_ids=self.group.build_id, key=NODE_RESULTS) or {}
        if (result := results.get(self.task_id)) is None:
            return None
        key = f"{NODE_RESULTS}_read_{self.task_id}"
        reader = ti.xcom_pull(task_ids=self.group.build_id, key=key)
        if reader is None:
            set_xcom(ti, self.group.build_id, key, ti.try_number)
            return result
        is_retry = first_try(ti, self) <= reader < ti.try_number
        is_mine = reader == ti.try_number or (is_retry and result["outcome"] == "success")
        return result if is_mine else None

    def _run_dbt(self, context, built: Collection[str]) -> StoredResult:
        """Run dbt for the nodes of this task without those that are built."""
        command = DbtCommandOperator(task_id=self.task_id, **self.group.command_args)
        command.render_template_fields(context, self.get_template_env())
        command.apply_run_options(context)
        chosen = context["ti"].xcom_pull(task_ids=self.group.build_id, key=CHOSEN_NODES)
        if chosen is None and command.run_options.is_partial:
            raise AirflowFailException("What the run selects is not stored: clear the build task.")
        nodes = self.chosen(None if chosen is None else {*chosen})
        if not nodes:
            raise AirflowSkipException(f"This run does not select {', '.join(self.nodes)}.")
        nodes = [node for node in nodes if node not in built]
        with stored_problems(command, context):
            if self.checks_freshness:
                command.check_freshness(context, [*self.nodes])
            else:
                command.build(context, nodes)
        # A hook that failed is among the failed nodes.
        nodes = [*nodes, *sorted(command.results.failed() - {*nodes})]
        return StoredResult(
            outcome=command.results.outcome(nodes) or "not_run",
            message=command.results.message(nodes),
            sql=command.results.sql(nodes),
            built=[],
        )

    def _end(self, result: StoredResult) -> None:
        message = result["message"]
        if result["outcome"] == "success":
            self.log.info("%s", message)
            return
        if result["outcome"] == "left_out":
            raise AirflowSkipException(f"dbt left out {', '.join(self.nodes)} in this run.")
        self.log.error("%s", message or f"dbt did not run {', '.join(self.nodes)}.")
        if result["sql"]:
            self.log.info("The SQL that ran:\n%s", result["sql"])
        first_line = message.partition("\n")[0] or f"dbt did not run {', '.join(self.nodes)}"
        if result["outcome"] in ("fail", "not_run"):
            raise AirflowFailException(first_line)
        raise AirflowException(first_line)


class DbtBuildTeardown(BaseOperator):
    """The teardown of a build: fails, and with it the run, if a node task did not succeed.

    Usually it becomes successful without a process, together with the last node tasks.
    """

    def __init__(self, *, group: BuildGroup, **kwargs):
        super().__init__(**{**kwargs, "retries": 0})
        self.group = group

    def execute(self, context) -> None:
        ti = context["ti"]
        states = task_states(ti)
        selected = ti.xcom_pull(task_ids=self.group.build_id, key=CHOSEN_NODES)
        results = ti.xcom_pull(task_ids=self.group.build_id, key=NODE_RESULTS) or {}
        left_out = [name for name, result in results.items() if result["outcome"] == "left_out"]
        wrong = [
            name
            for name in self.group.node_task_ids
            if not self.dag.get_task(name).is_done(states, selected)
            and not (name in left_out and states.get(name) == "skipped")
        ]
        if wrong:
            failed = [name for name in wrong if states.get(name) == "failed"]
            raise AirflowFailException(
                f"{len(wrong)} dbt tasks did not succeed; failed: {', '.join(failed) or 'none'}."
            )


@contextmanager
def stored_problems(command: DbtCommandOperator, context) -> Iterator[None]:
    """Store for the alerts what failed or warned, and what stopped dbt outside of its nodes."""
    try:
        yield
    except Exception as error:
        command.results.dbt_error = str(error)
        raise
    finally:
        context["ti"].xcom_push(key=PROBLEMS, value=command.results.problems())


def first_try(ti, task: BaseOperator) -> int:
    """Return the number of a task instance's first try since the run began or it was cleared."""
    return ti.max_tries - task.retries + 1


def is_first_try(ti, task: BaseOperator) -> bool:
    return ti.try_number == first_try(ti, task)
