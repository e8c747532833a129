"""The build task: runs one `dbt build` and reports the results to Airflow while dbt works."""

import json
import os
from collections.abc import Iterable
from time import monotonic, sleep

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include.dbt_build import artifacts
from include.dbt_build.command import DbtCommandOperator
from include.dbt_build.lock import build_lock
from include.dbt_build.manifest import NOTHING_TO_RUN, all_nodes, is_run, nodes_downstream_of
from include.dbt_build.operators import (
    BuildGroup,
    DbtNodeOperator,
    has_relation,
    stored_problems,
)
from include.dbt_build.protocol import BuildState
from include.dbt_build.reporting import ResultReporter, first_try, store_state, task_states
from include.dbt_build.results import NO_RETRY

# How long the build task waits for the final states of node tasks.
ENDING_SECONDS = 5
BUILD_WITH_HOOKS = "Clear this task with its downstream tasks to build the nodes with the hooks."


class DbtBuildOperator(DbtCommandOperator):
    """Runs one `dbt build` and reports the result of each node to Airflow while dbt works.

    It is the setup task of the node tasks. A failed node fails its own task and not the build task,
    unless it has no task. If some node tasks are already successful, as in a retry or after a
    clear, the build task builds only the nodes of all other tasks.
    """

    def __init__(self, *, group: BuildGroup, **kwargs):
        self.group = group
        # Airflow adds params and default_args to kwargs.
        super().__init__(**{**group.command_args, **kwargs})

    def execute(self, context, **_) -> None:
        # Airflow executes a shallow copy of the operator, which would share this object.
        self.results = self.group.new_results()
        self.apply_run_options(context)
        if self.has_run_options and self.upstream_task_ids:
            self._skip_with_upstream_tasks(context["ti"])
        with stored_problems(self, context), build_lock(self.profile_config, context["ti"]):
            self._build_pending(context)

    def _skip_with_upstream_tasks(self, ti) -> None:
        """Skip the group if a task upstream was skipped, except by a run that selects other nodes.

        The trigger rule of the build task does not skip it, because a run can select nodes of
        this group and leave out the nodes of a group upstream.
        """
        states = task_states(ti)
        skipped = [
            name
            for name in self.upstream_task_ids
            if _is_skipped(ti, name, states)
            and not (self.run_options.is_partial and self._is_left_out(ti, name, states))
        ]
        if skipped:
            raise AirflowSkipException(f"Skipped, because {skipped[0]} was skipped.")

    def _is_left_out(self, ti, name: str, states: dict[str, str | None]) -> bool:
        """Return whether a task was skipped only because the run does not select some nodes."""
        task = self.dag.get_task(name)
        if isinstance(task, DbtNodeOperator):
            return states.get(task.group.build_id) == "success"
        skipped = [above for above in task.upstream_task_ids if _is_skipped(ti, above, states)]
        return bool(skipped) and all(self._is_left_out(ti, above, states) for above in skipped)

    def _build_pending(self, context) -> None:
        """Build the nodes whose tasks are not successful.

        Raises:
            AirflowException: a hook failed, or a node without a task failed or was skipped.
            AirflowFailException: an earlier try has built some batches of a microbatch model, and a
                retry would leave batches out.
        """
        ti, teardown_id = context["ti"], self.group.teardown_id
        before = self.group.state(ti, teardown_id)
        selected = self._selection_of_run(context, before)
        states = self._settled_states(ti)
        pending = [task for task in self._node_tasks() if not task.is_done(states, selected)]
        done = nodes_of(
            task for task in self._node_tasks() if states.get(task.task_id) == "success"
        )
        state = BuildState(
            first_try=first_try(ti),
            clear_number=context["dag_run"].clear_number,
            run_start_of_unended_try=str(context["dag_run"].start_date),
            has_ended_well=False,
            selected=None if selected is None else sorted(selected),
            built=[],
            succeeded=[],
            incomplete=[],
            done_before=sorted(done),
            without_event=[],
        )
        if before is not None:
            state = self._extend_state(state, before, states, pending)
        incomplete = nodes_of(pending).intersection(state["incomplete"])
        if incomplete:
            # This try ends before dbt starts, so only the earlier try can have been interrupted.
            state["run_start_of_unended_try"] = before["run_start_of_unended_try"]
        store_state(ti, teardown_id, state)
        if incomplete:
            raise AirflowFailException(
                f"An earlier try built some batches of {', '.join(sorted(incomplete))}. {NO_RETRY} "
                "Clear this task to build the newest batches only."
            )
        self.without_event = {*state["without_event"]}
        built = {*state["built"]}
        self.results.add_succeeded(
            built, "An earlier try of the build task built this node: see the log of that try."
        )
        with ResultReporter(ti, pending, self.results, teardown_id, state) as reporter:
            downstream_of_stale = self._check_sources(context, pending, selected)
            nodes = self._nodes_to_build(context, pending, built, selected, downstream_of_stale)
            has_nodes = nodes is None or len(nodes) > 0
            if has_nodes and self.group.tests_last:
                self._build_tests_last(context, nodes)
            # If an earlier try built all nodes, dbt only warns that there is nothing to do. It runs
            # nevertheless, so that Cosmos calls the callbacks.
            elif has_nodes or ((built or self.without_event) and not self.fails_on_warnings):
                self.build(context, nodes)
            self.call_on_warning(context)
            # A function without a node that uses it counts as a node without a task.
            ended = self.results.ended()
            failed = self.results.failed() - nodes_of(pending, ended)
            failed |= self._skipped_without_task(ended)
            reporter.has_ended_well = not failed
        is_green = nodes is None and not self.run_options.vars and not self.results.failed()
        artifacts.finish(self.profile_config, ti, is_green=is_green)
        if failed:
            self._fail(failed, built)

    def build(self, context, nodes: set[str] | None = None) -> None:
        """Run `dbt build`.

        Raises:
            AirflowException: dbt failed outside of its nodes.
            AirflowFailException: dbt failed after its nodes, whose results its hooks need.
        """
        try:
            super().build(context, nodes)
        except AirflowException as error:
            with_task = nodes_of(self._node_tasks(), nodes)
            to_run = {node for node in with_task if not node.startswith("source.")}
            # In a retry, the on-run-end hooks would get the results of the tests only.
            if (
                self.group.slim["end_hooks_use_results"]
                and to_run <= self.results.ended()
                and has_relation(self.results.built() & to_run)
            ):
                raise AirflowFailException(f"{error}. {BUILD_WITH_HOOKS}") from error
            raise

    def _settled_states(self, ti) -> dict[str, str | None]:
        """Return the states of the run's tasks, by task ID. Wait first for running node tasks.

        A node task that has run dbt releases the lock shortly before Airflow has its final state.
        """
        deadline = monotonic() + ENDING_SECONDS
        while True:
            states = task_states(ti)
            is_running = "running" in [states.get(name) for name in self.group.node_task_ids]
            if not is_running or monotonic() > deadline:
                return states
            sleep(1)

    def _nodes_to_run(self, context) -> set[str]:
        """Return the nodes that the DAG's selection names with the variables of the run."""
        if self.has_nodes_of_dag({**os.environ, **self.get_env(context)}):
            return {*self.group.slim["nodes_to_run"]}
        listed = self.list_nodes(context, self.select, self.exclude, self.selector)
        file = self.project.manifest or self.project.target / "manifest.json"
        # Nodes that the run's variables enable are not in this manifest.
        nodes = all_nodes(json.loads(file.read_text()))
        return {
            unique_id
            for unique_id in listed
            if unique_id not in nodes or is_run(nodes[unique_id], listed)
        }

    def _skipped_without_task(self, ended: set[str]) -> set[str]:
        """Return what dbt skipped and no node task can build later.

        These are functions that no node of the run uses, and nodes that the run's variables enable.
        """
        to_run = {*self.group.slim["nodes_to_run"]}
        return {
            node
            for node in self.results.skipped() - nodes_of(self._node_tasks(), ended)
            if node.startswith("function.")
            or not (node in to_run or node.startswith(("operation.", *NOTHING_TO_RUN)))
        }

    def _selection_of_run(self, context, before: BuildState | None) -> set[str] | None:
        """Return the nodes that this run selects, or None if it builds all nodes of the DAG.

        Sources that a selected node reads are selected too, so that their age is checked.
        """
        if not self.run_options.is_partial:
            return None
        select, exclude = self.run_options.select, self.run_options.exclude
        selected_before: set[str] = set()
        if before is not None and before["selected"] is not None:
            selected_before = {*before["selected"]}
            # A retry keeps the selection of the first try: `state:` may select other nodes by then.
            if before["first_try"] == first_try(context["ti"]):
                return selected_before
        try:
            listed = self.list_nodes(context, select, exclude)
        except AirflowException as error:
            # dbt would refuse the selection in a retry too.
            raise AirflowFailException(str(error)) from None
        # After a clear the run builds what it selected before too.
        selected = (listed | selected_before) & self._nodes_to_run(context)
        self.log.info("The run builds %s nodes: %s", len(selected), ", ".join(sorted(selected)))
        builds = [task for task in self.dag.tasks if isinstance(task, DbtBuildOperator)]
        # If the DAG has several groups, another group may have the selected nodes.
        if not selected and len(builds) == 1:
            raise AirflowFailException(
                f"dbt_select={select} with dbt_exclude={exclude} selects no node of this DAG: "
                "trigger a run with another selection."
            )
        for task in self._node_tasks():
            if task.checks_freshness and selected & nodes_downstream_of(
                self.group.slim, task.nodes
            ):
                selected |= {*task.nodes}
        return selected

    def _extend_state(
        self,
        state: BuildState,
        before: BuildState,
        states: dict[str, str | None],
        pending: list[DbtNodeOperator],
    ) -> BuildState:
        """Return the state of a new try, extended by the state that an earlier try has stored.

        The new try does not build the nodes in `built`. After a clear of all tasks this list is
        empty. After any other clear it has the nodes without a task. If the clear interrupted dbt,
        it also has the nodes of the leaves that dbt had finished: the tasks of these nodes are
        pending, because leaves wait for dbt's end.
        """
        is_same_try = before["first_try"] == state["first_try"]
        if is_same_try or not before["has_ended_well"]:
            done = {*state["done_before"]}
            lost = {*before["without_event"]} | (done - {*before["done_before"]})
            state = {**state, "without_event": sorted(done & lost)}
        if is_same_try:
            state = {**state, **{key: before[key] for key in ("incomplete", "done_before")}}
            if before["clear_number"] == state["clear_number"]:
                return {**state, "built": before["built"]}
        # A task was cleared between the two tries. The new try can still be a retry: the first try
        # after the clear may have ended before it stored a state, or another task was cleared.
        all_ids, pending_ids = {*self.group.node_task_ids}, {task.task_id for task in pending}
        if pending_ids == all_ids:
            return state
        # Airflow gives a run another start if a clear continues it after its end.
        was_interrupted = before["run_start_of_unended_try"] == state["run_start_of_unended_try"]
        kept = {
            task.task_id
            for task in pending
            if was_interrupted
            and task.is_leaf
            and states.get(task.task_id) is None
            and not pending_ids & task.get_flat_relative_ids(upstream=True)
        }
        again = nodes_of(map(self.dag.get_task, all_ids - kept))
        return {**state, "built": sorted({*before["built"]} - again)}

    def _node_tasks(self) -> list[DbtNodeOperator]:
        return [self.dag.get_task(task_id) for task_id in self.group.node_task_ids]

    def _check_sources(
        self, context, pending: list[DbtNodeOperator], selected: set[str] | None
    ) -> set[str]:
        """Check the sources among the pending tasks; return the nodes downstream of stale ones."""
        checks = [task for task in pending if task.checks_freshness and task.nodes_in(selected)]
        if checks:
            self.check_freshness(context, [*nodes_of(checks)])
        # A source that this run disables is left out.
        fresh = ("success", "left_out")
        stale = [task for task in checks if self.results.outcome(task.nodes) not in fresh]
        return nodes_downstream_of(self.group.slim, nodes_of(stale))

    def _nodes_to_build(
        self,
        context,
        pending: list[DbtNodeOperator],
        built: set[str],
        selected: set[str] | None,
        downstream_of_stale: set[str],
    ) -> set[str] | None:
        """Return the nodes that this try builds, or None if it builds the selection of the DAG."""
        is_whole = len(pending) == len(self.group.node_task_ids) and not built
        if is_whole and selected is None and not downstream_of_stale:
            return None
        self.log.info("%s of %s tasks are pending", len(pending), len(self.group.node_task_ids))
        to_run = self._nodes_to_run(context) if selected is None else selected
        self.results.add_skipped((to_run & downstream_of_stale) - built)
        return self._pending_nodes(pending, built, to_run - downstream_of_stale)

    def _pending_nodes(
        self, pending: list[DbtNodeOperator], built: set[str], to_run: set[str]
    ) -> set[str]:
        """Return the nodes of `to_run` to build, nodes without a task included.

        Raises:
            AirflowFailException: only hooks have not run, and they need the results of the nodes,
                or there is no test to run them with.
        """
        to_run = {node for node in to_run if not node.startswith("source.")}
        with_task = nodes_of(self._node_tasks(), to_run)
        pending_nodes = nodes_of(pending, to_run)
        missing = (pending_nodes | (to_run - with_task)) - built
        if missing or not pending_nodes:
            return self.group.with_ephemeral(missing)
        # An earlier try built all nodes, but ended before hooks and callbacks. dbt runs hooks only
        # together with a node, and a test is a node that changes nothing.
        tests = {node for node in with_task if node.startswith("test.")}
        if tests and not self.group.slim["end_hooks_use_results"]:
            return (tests & pending_nodes) or {min(tests)}
        if self.group.slim["has_end_hooks"]:
            raise AirflowFailException(
                "An earlier try built all nodes, but its on-run-end hooks may not have ended. "
                + BUILD_WITH_HOOKS
            )
        return set()

    def _build_tests_last(self, context, nodes: set[str] | None) -> None:
        """Build everything but the tests, then the tests if nothing failed."""
        selected = self._nodes_to_run(context) if nodes is None else nodes
        tests = {node for node in selected if node.startswith("test.")}
        if others := selected - tests:
            self.build(context, others)
        if self.results.failed():
            self.results.add_skipped(tests)
        elif tests:
            self.build(context, tests)

    def _fail(self, failed: set[str], built_before: set[str]) -> None:
        message = f"dbt nodes did not succeed that have no task: {', '.join(sorted(failed))}"
        self.log.error("%s\n%s", message, self.results.message(failed))
        if self.results.succeeded() - built_before:
            # A retry would build these nodes again, and add rows to a model without a unique_key.
            raise AirflowFailException(f"{message}. Clear this task to run dbt again.")
        raise AirflowException(message)


def _is_skipped(ti, name: str, states: dict[str, str | None]) -> bool:
    """Return whether a task was skipped, or one of the task instances of a mapped task."""
    return "skipped" in ([states[name]] if name in states else task_states(ti, name).values())


def nodes_of(tasks: Iterable[DbtNodeOperator], selected: set[str] | None = None) -> set[str]:
    """Return the unique IDs of the nodes of some tasks, all or those that are selected."""
    return {node for task in tasks for node in task.nodes_in(selected)}
