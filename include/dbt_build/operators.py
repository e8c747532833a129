"""The two kinds of tasks: the one `dbt build`, and a node of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from cosmos.operators.local import DbtBuildLocalOperator

from include.dbt_build import artifacts
from include.dbt_build.events import Events
from include.dbt_build.interrupt import interruptible
from include.dbt_build.lineage import emit_lineage
from include.dbt_build.lock import build_lock
from include.dbt_build.telling import LEFT, PROBLEMS, Teller, no_green_behind


class DbtBuild(DbtBuildLocalOperator):
    """Runs one `dbt build`, and lets each node's task end as its node has ended.

    Succeeds although nodes failed, if each has a task of its own: that one starts and fails. Where
    tasks of this run are green already, as after a retry or a clear, it builds the others only.
    Sources whose freshness is a task come first: what stands behind a stale one is not built.
    """

    def __init__(self, **kwargs):
        # Airflow executes a copy of this operator, which must hear what dbt tells this one.
        self.events = Events()
        super().__init__(
            dbt_runner_callbacks=[self.events.hear],
            callback=[self.events.read, self._keep_artifacts],
            **kwargs,
        )

    def execute(self, context, **_):
        with no_green_behind(self, context):
            with (
                self.leaving_problems(context),
                build_lock(self.profile_config, context["ti"], alone=True),
            ):
                alone = self._build(context)
            if alone:
                said = "\n".join([*alone, *self.events.said(alone)])
                raise AirflowException(f"failed, and no task of its own is to fail with it: {said}")

    def _build(self, context) -> set[str]:
        """Build what is not green; return the nodes that failed and have no task to fail with."""
        ti = context["ti"]
        tasks = [task for task in self.dag.tasks if getattr(task, "build", None) == self.task_id]
        states = ti.get_task_states(ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
        left = [task for task in tasks if states.get(task.task_id) != "success"]
        if green := len(tasks) - len(left):
            self.log.info("%s tasks are green and stay so", green)
        with Teller(ti, left, self.events):
            build = self._behind_fresh_sources(context, left)
            if build and len(build) < sum(not task.checks_freshness for task in tasks):
                self.only({node: one for task in build for node, one in task.nodes.items()})
            # All are green when a hook after them failed: dbt runs its hooks with nodes only.
            if build or not left:
                self.run_dbt(context)
        artifacts.end(self.profile_config, ti, green=not self.events.bad())
        return self.events.bad() - {node for task in left for node in task.nodes}

    @contextmanager
    def leaving_problems(self, context) -> Iterator[None]:
        """Leave what failed or warned for include/alerts.py, whatever stops dbt included."""
        # Where one process runs several tasks, as dag.test() does, another may have filled them.
        self.events.nodes.clear()
        self.events.stopped = None
        try:
            yield
        except Exception as error:
            self.events.stopped = str(error)
            raise
        finally:
            context["ti"].xcom_push(key=PROBLEMS, value=self.events.problems())

    def _keep_artifacts(self, project_dir: str, context, **_) -> None:
        artifacts.keep(project_dir, self.profile_config, context["ti"])

    def _behind_fresh_sources(self, context, tasks: list) -> list:
        """Check the sources among some tasks; return the others without those behind stale ones."""
        sources = [task for task in tasks if task.checks_freshness]
        if sources:
            self.check_freshness(context, {k: v for task in sources for k, v in task.nodes.items()})
        stale = [task for task in sources if self.events.outcome(task.nodes) != "success"]
        behind = {name for task in stale for name in task.get_flat_relative_ids(upstream=False)}
        return [t for t in tasks if not t.checks_freshness and t.task_id not in behind]

    def check_freshness(self, context, sources: dict[str, str]) -> None:
        """Run `dbt source freshness` for some sources, which fills `events`.

        Not in a run for days that are past, as of a backfill: how old the rows are by now says
        nothing about it.
        """
        run = context["dag_run"]
        start, end = run.data_interval_start, run.data_interval_end
        if end and end > start and datetime.now(UTC) - end > end - start:
            self.events.pass_sources(sources, f"Not checked: the run is of the past, {start}")
            return
        dbt = self.prepare_for_execution()
        dbt.base_cmd = ["source", "freshness"]
        dbt.select, dbt.exclude, dbt.selector = " ".join(sources.values()), None, None
        dbt.indirect_selection = None
        dbt.callback = [partial(self.events.read_sources, sources), self._keep_artifacts]
        dbt.build_and_run_cmd(context)

    def only(self, nodes: dict[str, str]) -> None:
        """Let dbt build just these nodes, given with their selectors."""
        self.select, self.exclude, self.selector = " ".join(nodes.values()), None, None
        self.indirect_selection = "empty"

    def run_dbt(self, context) -> None:
        """Run dbt, which fills `events`.

        Raises:
            AirflowException: dbt failed, and not at a node.
        """
        try:
            self.build_and_run_cmd(context, cmd_flags=self.add_cmd_flags())
        finally:
            # Cosmos has them unless dbt did not come so far.
            emit_lineage(context["ti"], getattr(self, "openlineage_events_completes", []))
        if self.events.trouble:
            raise self.events.trouble

    def build_and_run_cmd(self, context, cmd_flags=None, **kwargs):
        with interruptible(self.on_kill):
            return super().build_and_run_cmd(context, cmd_flags, **kwargs)

    def handle_exception_dbt_runner(self, result) -> None:
        if not result.success and (result.exception or not self.events.bad()):
            raise AirflowException(f"dbt failed: {result.exception}")

    def handle_exception_subprocess(self, result) -> None:
        # 1: a node failed. 2: dbt did. Otherwise it was killed.
        if result.exit_code and (result.exit_code != 1 or not self.events.bad()):
            said = "\n".join(result.full_output[-20:])
            raise AirflowException(f"dbt ended with code {result.exit_code}: {said}")


class DbtNode(BaseOperator):
    """A node of dbt, with its unit tests; or the tests of one; or the freshness of a source.

    Mostly green without a process of its own: DbtBuild says so to Airflow. Its first try starts
    when dbt failed here, and fails with dbt's words, or when Airflow could not be told, and ends.
    Any other try was cleared or retried: it runs `dbt build` for exactly its nodes.
    """

    def __init__(self, *, nodes: dict[str, str], **kwargs):
        super().__init__(**kwargs)
        self.nodes = nodes
        # By `dbt source freshness`, for which its nodes are sources.
        self.checks_freshness = any(node.startswith("source.") for node in nodes)
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
        with no_green_behind(self, context):
            self._run_again(context)
        return True

    def _run_again(self, context) -> None:
        dbt = self.dag.get_task(self.build).prepare_for_execution()
        dbt.render_template_fields(context)
        with (
            dbt.leaving_problems(context),
            build_lock(dbt.profile_config, context["ti"], alone=False),
        ):
            if self.checks_freshness:
                dbt.check_freshness(context, self.nodes)
            else:
                dbt.only(self.nodes)
                dbt.run_dbt(context)
        # A hook that failed is among the bad, and what dbt printed is in this log already.
        nodes = [*self.nodes, *dbt.events.bad() - self.nodes.keys()]
        if (outcome := dbt.events.outcome(nodes)) != "success":
            self._end(outcome, dbt.events.said(nodes))

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
