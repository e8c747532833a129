"""The operators of a group's node tasks and of its teardown."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include.dbt_build.arguments import UnsupportedArgumentError
from include.dbt_build.command import DbtCommandOperator
from include.dbt_build.lock import build_lock
from include.dbt_build.manifest import SlimManifest, nodes_downstream_of
from include.dbt_build.protocol import BUILD_STATE, NODE_RESULTS, PROBLEMS, BuildState, StoredResult
from include.dbt_build.reporting import first_try, set_xcom, task_states
from include.dbt_build.results import NO_RETRY, BuildResults, nodes_among


@dataclass
class BuildGroup:
    """What the operators of one build share.

    Args:
        slim_file: the slim manifest of the selection.
        command_args: the arguments with which any task of the build runs dbt.
        tests_last: whether all data tests run after all other nodes.
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

    def new_results(self) -> BuildResults:
        """Return empty results for a command that builds nodes of the group."""
        return BuildResults(self.slim["repeated_batches"], self.slim["never_refreshed"])

    def state(self, ti, task_id: str = "") -> BuildState | None:
        """Return the state that the build task has stored at itself or at its teardown, or None."""
        stored = ti.xcom_pull(task_ids=task_id or self.build_id, key=BUILD_STATE)
        # Earlier versions of the engine have not stored these fields.
        defaults = {"has_ended_well": True, "succeeded": [], "without_event": []}
        return stored and {**defaults, **stored}

    def selected_nodes(self, ti) -> set[str] | None:
        """Return the nodes that a run selects, or None if it builds all nodes of the DAG."""
        selected = (self.state(ti) or {}).get("selected")
        return None if selected is None else {*selected}

    def with_ephemeral(self, nodes: Collection[str]) -> set[str]:
        """Return some nodes, and the ephemeral models that their unit tests need.

        dbt runs the unit tests of a model only if it selects the model.
        """
        return {*nodes, *map(self.slim["ephemeral"].get, nodes)} - {None}


class DbtNodeOperator(BaseOperator):
    """Stands for a node with its unit tests, the tests of a node, or the freshness of a source.

    Usually the task becomes successful without a process, because the build task reports its result
    to Airflow. It starts a process if a node failed, to fail with dbt's message, or if its result
    could not be reported. It runs dbt itself in a retry after an error, after a clear of this task
    alone, if dbt skipped its nodes because of a task that has succeeded in a later try, and if a
    deploy has added the task since dbt started.

    Args:
        group: the build that the task belongs to.
        nodes: the unique IDs of the task's nodes, in the order in which dbt runs them.
    """

    def __init__(self, *, group: BuildGroup, nodes: Iterable[str], **kwargs):
        super().__init__(**kwargs)
        self.group = group
        self.nodes = tuple(nodes)
        # Whether no other node task of the group is downstream of this task.
        self.is_leaf = True
        # The nearest node tasks upstream, directly or through tasks without a node.
        self.upstream_node_tasks: tuple[str, ...] = ()

    def nodes_in(self, selected: Set[str] | None) -> tuple[str, ...]:
        """Return the nodes of this task that a run selects, or all if `selected` is None.

        If a run selects only functions of the task, the result is empty.
        """
        return nodes_among(self.nodes, selected)

    def is_done(self, states: Mapping[str, str | None], selected: Set[str] | None) -> bool:
        """Return whether the build task has nothing to do for this task.

        Airflow skips the tasks of a run that it stops. So a skipped task is done only if the run
        does not select its nodes.

        Args:
            states: the states of the run's tasks, by task ID.
            selected: the nodes that the run selects, or None for all.
        """
        state = states.get(self.task_id)
        return state == "success" or (state == "skipped" and not self.nodes_in(selected))

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
                "one `dbt build` builds all nodes: create the task outside of the group's with "
                "block, and put it upstream of the whole group. Write `setup >> group >> teardown` "
                "instead of creating the group in the with block of a teardown",
            )

    @property
    def checks_freshness(self) -> bool:
        return any(node.startswith("source.") for node in self.nodes)

    @property
    def needs_process(self) -> bool:
        """Return whether a successful task needs a process too, for its callbacks or outlets."""
        return bool(self.has_on_success_callback or self.has_on_execute_callback or self.outlets)

    @property
    def dbt_continues(self) -> bool:
        """Return whether dbt builds nodes of other tasks although a model of this task failed."""
        # A function of the task is not built again for other models that use it.
        relations = [node for node in self.nodes if has_relation([node])]
        continuing = {*self.group.slim["continue_on_failure"]}.intersection(relations)
        return not nodes_downstream_of(self.group.slim, continuing) <= {*self.nodes}

    @property
    def reader_key(self) -> str:
        """Return the XCom key of the number of the first try that read the stored result."""
        return f"{NODE_RESULTS}_read_{self.task_id}"

    @property
    def batches_key(self) -> str:
        """Return the XCom key of the number of the try that has built some batches of a model."""
        return f"{NODE_RESULTS}_batches_{self.task_id}"

    def execute(self, context) -> None:
        ti = context["ti"]
        result, is_reported = self._stored_result(ti), True
        # The task of a skipped node starts only if the failed task upstream has succeeded in a
        # later try, or if somebody has cleared this task.
        if result is None or result["outcome"] == "skipped":
            with build_lock(self.group.command_args["profile_config"], ti):
                # A build that held the lock in the meantime has stored a newer result.
                stored = self._stored_result(ti)
                if stored is None and self._lacks_result(ti):
                    stored = result = self._unreported_result(ti)
                if stored is None or (stored == result and stored["outcome"] == "skipped"):
                    stored = self._run_dbt(context, stored["built"] if stored else ())
                    is_reported = False
                result = stored
        self._end(result, is_reported=is_reported)

    def _stored_result(self, ti) -> StoredResult | None:
        """Return the result that the build task stored, unless an earlier try has read it.

        A retry reads the result again, because the process of the earlier try may have been killed.
        After an error it does not, unless dbt has built a model of the task nevertheless, such as
        the model whose test had the error, or builds downstream nodes from the old rows.
        """
        results = ti.xcom_pull(task_ids=self.group.build_id, key=NODE_RESULTS) or {}
        if (result := results.get(self.task_id)) is None:
            return None
        reader = ti.xcom_pull(task_ids=self.group.build_id, key=self.reader_key)
        if reader is None:
            set_xcom(ti, self.group.build_id, self.reader_key, ti.try_number)
            return result
        is_retry = first_try(ti) <= reader < ti.try_number
        is_final = has_relation(result["built"]) or self.dbt_continues
        may_build_again = result["outcome"] == "error" and not is_final
        is_mine = reader == ti.try_number or (is_retry and not may_build_again)
        return result if is_mine else None

    def _lacks_result(self, ti) -> bool:
        """Return whether the newest build has stored no result for this task.

        It has stored none if it has failed, or if a deploy has added this task since dbt started.
        It stores none of a task that becomes successful: such a task starts only after a clear.
        """
        if ti.xcom_pull(task_ids=self.group.build_id, key=self.reader_key) is not None:
            return False
        state = self.group.state(ti)
        return state is None or not state["has_ended_well"] or first_try(ti) == 1

    def _unreported_result(self, ti) -> StoredResult:
        """Return the result of nodes for whose task the build task has stored none.

        This happens if somebody marks a failed build task as successful, or if a deploy has added
        or renamed this task since dbt started. The outcome of nodes that dbt did not build is
        `skipped`, so that this task builds them.

        Raises:
            AirflowFailException: the build task has failed, or has built some batches of a node.
                There is no retry, because it would build the nodes although the build task may have
                failed in a hook, or would leave batches out.
            AirflowException: the build task has not ended. A retry can read its result.
        """
        nodes = self.nodes_in(self.group.selected_nodes(ti))
        state = self.group.state(ti)
        built = {*nodes}.intersection(state["built"] + state["succeeded"]) if state else set()
        if has_relation(built):
            # dbt runs a unit test, and builds a function, only together with a model.
            built |= {node for node in nodes if node.startswith(("unit_test.", "function."))}
        names = ", ".join(nodes)
        if len(built) == len(nodes):
            message = f"dbt built {names}: see the log of the build task."
            outcome = "success" if nodes else "left_out"
            return StoredResult(outcome=outcome, message=message, sql="", built=[])
        if state and state["has_ended_well"] and not {*nodes} & {*state["incomplete"]}:
            self.log.info("A deploy has added this task since dbt started, so it runs dbt itself.")
            return StoredResult(outcome="skipped", message="", sql="", built=sorted(built))
        is_over = task_states(ti).get(self.group.build_id) == "success"
        raise (AirflowFailException if is_over else AirflowException)(
            f"The build task stored no result for {names}: see its log, and clear it."
        )

    def _run_dbt(self, context, built: Collection[str]) -> StoredResult:
        """Run dbt for the nodes of this task that are not in `built`, and return their result."""
        command = DbtCommandOperator(task_id=self.task_id, **self.group.command_args)
        command.results = self.group.new_results()
        command.render_template_fields(context, self.get_template_env())
        command.apply_run_options(context)
        selected = self.group.selected_nodes(context["ti"])
        if selected is None and command.run_options.is_partial:
            raise AirflowFailException(
                "The build task has not stored which nodes the run selects: clear the build task."
            )
        nodes = self.nodes_in(selected)
        if not nodes:
            raise AirflowSkipException(f"This run does not select {', '.join(self.nodes)}.")
        nodes = [node for node in nodes if node not in built]
        with stored_problems(command, context):
            self._watch_batches(context["ti"], command)
            try:
                if self.checks_freshness:
                    command.check_freshness(context, [*self.nodes])
                else:
                    command.build(context, self.group.with_ephemeral(nodes))
                command.call_on_warning(context)
            except Exception as error:
                if has_relation(command.results.built()):
                    raise AirflowFailException(str(error)) from error
                raise
        # A hook that failed is among the failed nodes.
        nodes += sorted(command.results.failed() - {*nodes})
        outcome = command.results.outcome(nodes) or "not_run"
        # The run disables the node, but not a function that the node uses.
        if outcome == "left_out" and command.results.failed():
            outcome = "error"
        return StoredResult(
            outcome=outcome,
            message=command.results.message(nodes),
            sql=command.results.sql(nodes),
            built=[node for node in nodes if node in command.results.built()],
        )

    def _watch_batches(self, ti, command: DbtCommandOperator) -> None:
        """Store while dbt works whether a microbatch model lacks batches, in case dbt is killed.

        Raises:
            AirflowFailException: an earlier try was killed, and this one would leave batches out.
        """
        number = ti.xcom_pull(task_ids=self.group.build_id, key=self.batches_key)
        if number and first_try(ti) <= number < ti.try_number:
            raise AirflowFailException(f"An earlier try built some batches. {NO_RETRY}")
        stored = 0

        def store(_event) -> None:
            nonlocal stored
            number = ti.try_number if command.results.incomplete() else 0
            if number != stored:
                try:
                    set_xcom(ti, self.group.build_id, self.batches_key, number)
                    stored = number
                except Exception as error:
                    # dbt would make it an error of the node. The next event stores it.
                    self.log.warning("Airflow could not store the state of batches: %s", error)

        command.runner_callbacks = [*command.runner_callbacks, store]

    def _end(self, result: StoredResult, *, is_reported: bool) -> None:
        """End the task with a result that the build task has reported, or that of its own dbt."""
        if result["outcome"] == "success":
            self.log.info("%s", result["message"])
            return
        if result["outcome"] == "left_out":
            raise AirflowSkipException(f"dbt left out {', '.join(self.nodes)} in this run.")
        message = result["message"] or f"dbt did not run {', '.join(self.nodes)}."
        self.log.error("%s", message)
        if result["sql"]:
            self.log.info("The SQL that ran:\n%s", result["sql"])
        is_final = result["outcome"] in ("fail", "not_run") or has_relation(result["built"])
        if result["outcome"] == "error" and is_reported and self.dbt_continues:
            self.log.info(
                "There is no retry, because dbt builds downstream nodes from the old rows "
                "(on_error: continue): clear this task with its downstream tasks."
            )
            is_final = True
        raise (AirflowFailException if is_final else AirflowException)(message.partition("\n")[0])


def has_relation(built: Iterable[str]) -> bool:
    """Return whether one of the nodes that dbt built is a model, a seed or a snapshot.

    A retry would build this node again, and add rows to a model without a unique_key.
    """
    return any(node.startswith(("model.", "seed.", "snapshot.")) for node in built)


class DbtBuildTeardown(BaseOperator):
    """The teardown of a build. It fails, and so does the run, if a node task did not succeed.

    Usually it becomes successful without a process, in the same report as the last node tasks.
    """

    def __init__(self, *, group: BuildGroup, **kwargs):
        super().__init__(**kwargs)
        self.group = group

    def set_downstream(self, task_or_task_list, edge_modifier=None) -> None:
        super().set_downstream(task_or_task_list, edge_modifier)
        self._refuse_downstream(self.downstream_list)

    def update_relative(self, other, upstream: bool = True, edge_modifier=None) -> None:
        """Refuse `self >> other`: Airflow calls this for the second task of an edge."""
        if not upstream:
            self._refuse_downstream([other])
        super().update_relative(other, upstream, edge_modifier)

    def _refuse_downstream(self, tasks: Iterable) -> None:
        # A teardown can fail the run only if no task downstream of it can.
        for task in tasks:
            if not task.is_teardown or task.on_failure_fail_dagrun:
                raise UnsupportedArgumentError(
                    f"A task downstream of {self.task_id}",
                    "it would hide a failure of dbt: put the task downstream of the task group, or "
                    "of the `leaves` of a DbtDag",
                )

    def execute(self, context) -> None:
        ti = context["ti"]
        states, selected = task_states(ti), self.group.selected_nodes(ti)
        if selected is not None:
            # Airflow has deleted the state, and the build task reads the selection after a clear.
            state = {**self.group.state(ti), "first_try": 0, "built": []}
            ti.xcom_push(key=BUILD_STATE, value=state)
        results = ti.xcom_pull(task_ids=self.group.build_id, key=NODE_RESULTS) or {}
        left_out = [name for name, result in results.items() if result["outcome"] == "left_out"]
        not_done = [
            name
            for name in self.group.node_task_ids
            if not self.dag.get_task(name).is_done(states, selected)
            and not (name in left_out and states.get(name) == "skipped")
        ]
        if not_done:
            named = [name for name in not_done if states.get(name) in ("failed", "skipped")]
            raise AirflowFailException(
                f"{len(not_done)} dbt tasks did not succeed. "
                f"Failed or skipped: {', '.join(named) or 'none'}."
            )


@contextmanager
def stored_problems(command: DbtCommandOperator, context) -> Iterator[None]:
    """Store the nodes that failed or warned, and an error outside of the nodes, for the alerts."""
    try:
        yield
    except Exception as error:
        command.results.dbt_error = str(error)
        raise
    finally:
        context["ti"].xcom_push(key=PROBLEMS, value=command.results.problems())
