"""The two kinds of tasks: the one `dbt build`, and a node of it."""

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from cosmos.operators.local import DbtBuildLocalOperator

from include.dbt_build.events import Events
from include.dbt_build.telling import LEFT, PROBLEMS, Teller


class DbtBuild(DbtBuildLocalOperator):
    """Runs one `dbt build`, and lets each node's task end as its node has ended.

    Succeeds although nodes failed, if each has a task of its own: that one starts and fails. Where
    tasks of this run are green already, as after a retry or a clear, it builds the others only.
    """

    def __init__(self, **kwargs):
        # Airflow executes a copy of this operator, which must hear what dbt tells this one.
        self.events = Events()
        super().__init__(
            dbt_runner_callbacks=[self.events.hear], callback=self.events.read, **kwargs
        )

    def execute(self, context, **_):
        ti = context["ti"]
        tasks = [task for task in self.dag.tasks if getattr(task, "build", None) == self.task_id]
        states = ti.get_task_states(ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        left = [task for task in tasks if states.get(task.task_id) != "success"]
        # All are green when a hook after them failed: dbt runs its hooks with nodes only.
        if left and len(left) < len(tasks):
            self.log.info("%s tasks are green and stay so", len(tasks) - len(left))
            self.only({node: one for task in left for node, one in task.nodes.items()})
        with Teller(ti, left, self.events):
            self.run_dbt(context)
        if alone := self.events.bad() - {node for task in left for node in task.nodes}:
            said = "\n".join([*alone, *self.events.said(alone)])
            raise AirflowException(f"failed, and no task of its own is to fail with it: {said}")

    def only(self, nodes: dict[str, str]) -> None:
        """Let dbt build just these nodes, given with their selectors."""
        self.select, self.exclude, self.selector = " ".join(nodes.values()), None, None
        self.indirect_selection = "empty"

    def run_dbt(self, context) -> None:
        """Run dbt, which fills `events`.

        Raises:
            AirflowException: dbt failed, and not at a node.
        """
        # Where one process runs several tasks, as dag.test() does, another may have filled them.
        self.events.nodes.clear()
        self.events.stopped = None
        try:
            self.build_and_run_cmd(context, cmd_flags=self.add_cmd_flags())
        except Exception as error:
            self.events.stopped = str(error)
            raise
        finally:
            context["ti"].xcom_push(key=PROBLEMS, value=self.events.problems())
        if self.events.trouble:
            raise self.events.trouble

    def handle_exception_dbt_runner(self, result) -> None:
        if not result.success and (result.exception or not self.events.bad()):
            raise AirflowException(f"dbt failed: {result.exception}")

    def handle_exception_subprocess(self, result) -> None:
        # 1: a node failed. 2: dbt did. Otherwise it was killed.
        if result.exit_code and (result.exit_code != 1 or not self.events.bad()):
            said = "\n".join(result.full_output[-20:])
            raise AirflowException(f"dbt ended with code {result.exit_code}: {said}")


class DbtNode(BaseOperator):
    """A node of dbt, with its unit tests; or the tests of one.

    Mostly green without a process of its own: DbtBuild says so to Airflow. Its first try starts
    when dbt failed here, and fails with dbt's words, or when Airflow could not be told, and ends.
    Any other try was cleared or retried: it runs `dbt build` for exactly its nodes.
    """

    def __init__(self, *, nodes: dict[str, str], **kwargs):
        super().__init__(**kwargs)
        self.nodes = nodes
        # The task id of its DbtBuild, once that is there.
        self.build = None

    def execute(self, context) -> bool | None:
        ti = context["ti"]
        left = (ti.xcom_pull(task_ids=self.build, key=LEFT) or {}) if ti.try_number == 1 else {}
        if self.task_id in left and not self._stands_behind_a_rebuilt_one(ti):
            self._end(*left[self.task_id])
            return None
        if not self.nodes:
            return None
        dbt = self.dag.get_task(self.build).prepare_for_execution()
        dbt.render_template_fields(context)
        dbt.only(self.nodes)
        dbt.run_dbt(context)
        # A hook that failed is among the bad, and what dbt printed is in this log already.
        nodes = [*self.nodes, *dbt.events.bad() - self.nodes.keys()]
        if (outcome := dbt.events.outcome(nodes)) != "success":
            self._end(outcome, dbt.events.said(nodes))
        return True

    def _stands_behind_a_rebuilt_one(self, ti) -> bool:
        """Return whether a task that this one waits for has run dbt after the one build."""
        before = [name for name in self.upstream_task_ids if name != self.build]
        return any(ti.xcom_pull(task_ids=before) or []) if before else False

    def _end(self, outcome: str | None, lines: list[str]) -> None:
        said = "\n".join(lines)
        if outcome == "success":
            self.log.info("%s", said)
        elif outcome == "fail":
            raise AirflowFailException(said)
        else:
            raise AirflowException(said or f"dbt did not build {', '.join(self.nodes)}")
