"""Renders a dbt project through Cosmos, and adds the tasks that Cosmos does not make."""

from collections.abc import Iterable
from copy import copy
from graphlib import TopologicalSorter

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import BaseOperator, TaskGroup, TriggerRule
from cosmos import ProjectConfig
from cosmos.airflow.graph import calculate_detached_node_name
from cosmos.constants import DbtResourceType, LoadMode, TestBehavior

from include.dbt_build.arguments import (
    Arguments,
    UnsupportedArgumentError,
    check_default_args,
    check_node,
)
from include.dbt_build.build import DbtBuildOperator
from include.dbt_build.manifest import RENDERED, TaskNodes
from include.dbt_build.operators import BuildGroup, DbtBuildTeardown, DbtNodeOperator
from include.dbt_build.project import check_bundle
from include.dbt_build.run_options import PARAMS
from include.dbt_build.selection import select
from include.dbt_build.workdir import prepare


class Rendering:
    """The rendering of one DbtDag or DbtTaskGroup, whose docstrings explain the arguments."""

    def __init__(self, kwargs: dict, *, source_freshness: bool, run_options: bool):
        self.kwargs = kwargs
        self.source_freshness, self.run_options = source_freshness, run_options
        self.arguments = Arguments.check(kwargs)
        self.project = self.arguments.project
        check_bundle(self.project.path)
        prepare(self.project)
        self.group = BuildGroup(
            slim_file=select(self.project, self.arguments.selection),
            command_args={**self.arguments.command_args, "has_run_options": run_options},
            tests_last=self.arguments.render_config.test_behavior == TestBehavior.AFTER_ALL,
        )
        # The keys are those of the slim manifest's nodes.
        self.run_tasks: dict[str, BaseOperator] = {}
        self.test_tasks: dict[str, DbtNodeOperator] = {}

    def cosmos_kwargs(self) -> dict:
        """Return the arguments with which Cosmos's class renders the slim manifest."""
        arguments = self.arguments

        # Cosmos copies its configs deeply. With a bound method, it would copy this object too.
        def convert(**kwargs) -> BaseOperator:
            return self._convert(**kwargs)

        render, execution = copy(arguments.render_config), copy(arguments.execution_config)
        render.load_method = LoadMode.DBT_MANIFEST
        render.select, render.exclude, render.selector = [], [], None
        render.project_path = execution.project_path = self.project.workdir
        render.node_converters = {DbtResourceType(kind): convert for kind in (*RENDERED, "test")}
        # Cosmos keeps its groups and task IDs, and only makes other operators.
        render.node_conversion_by_task_group = False
        return {
            **self.kwargs,
            # With a path here, Cosmos would look for the folder `models` in it.
            "project_config": ProjectConfig(
                manifest_path=self.group.slim_file,
                project_name=self.project.path.name,
                install_dbt_deps=False,
            ),
            "render_config": render,
            "execution_config": execution,
            "operator_args": {},
        }

    def _convert(self, *, node, task_id, task_group, dag, **options) -> BaseOperator:
        """Make the task of a node or of its tests. Cosmos calls it as a node converter."""
        slim, task_args = self.group.slim, dict(self.arguments.task_args)
        # For the task of a detached test, Cosmos passes the node that it rendered last.
        detached = {
            calculate_detached_node_name(test): test
            for tests in options["detached_from_parent"].values()
            for test in tests
        }
        node = detached.get(task_id, node)
        key, runs_tests = node.unique_id, task_id == "test" or task_id in detached
        if self.group.tests_last and task_id == f"{options['dbt_project_name']}_test":
            # For the task of all tests, Cosmos passes the node that it rendered last too.
            key, runs_tests = task_id, True
            others = [other["nodes"] for other in slim["other_tests"]]
            nodes = [test for tests in [*slim["test"].values(), *others] for test in tests]
        else:
            nodes = slim["test" if runs_tests else "run"][key]
            if node.owner and options["enable_owner_inheritance"]:
                task_args["owner"] = node.owner
            task_args |= self._display_name(node, task_id, options)
            task_args |= check_node(key, node.meta)
            if task_id == "test":
                for test in nodes:
                    task_args |= check_node(test, slim["cosmos_meta"].get(test, {}))
        task_args |= {"task_id": task_id, "task_group": task_group, "dag": dag}
        if nodes:
            task = DbtNodeOperator(group=self.group, nodes=nodes, **task_args)
        else:
            task = EmptyOperator(**task_args)
        (self.test_tasks if runs_tests else self.run_tasks)[key] = task
        return task

    def _display_name(self, node, task_id: str, options: dict) -> dict:
        """Return the display name that Cosmos gives to a task with a normalized ID or name."""
        if task_id in ("run", "test", "seed", "snapshot"):
            return {}
        if normalize := options["normalize_task_display_name"]:
            return {"task_display_name": normalize(node)}
        if options["normalize_task_id"]:
            kind = node.resource_type.value
            suffix = "run" if kind == "model" else kind
            return {"task_display_name": f"{node.name}_{suffix}"}
        return {}

    def add_build(self, dag, task_group: TaskGroup) -> None:
        """Add the build task, its teardown, and tasks of tests and sources that Cosmos leaves out.

        Raises:
            ValueError: dbt selects no node.
        """
        slim = self.group.slim
        common = {"dag": dag, "task_group": task_group, **self.arguments.task_args}
        for key, upstream in slim["test_upstream"].items():
            [self.run_tasks[name] for name in upstream] >> self.test_tasks[key]
        if not self.group.tests_last:
            for key, downstream in slim["detached_downstream"].items():
                self.test_tasks[key] >> [self.run_tasks[name] for name in downstream]
            for tests in slim["other_tests"]:
                self._add_other(tests, "test", common)
        for source in slim["freshness"] if self.source_freshness else ():
            self._add_other(source, "freshness", common)

        tasks = {task.task_id: task for task in task_group.iter_tasks()}
        if not tasks:
            raise ValueError(
                f"{dag.dag_id}: dbt selects no node of {self.project.path}. Check select, exclude "
                "and selector of its RenderConfig."
            )
        _refuse_rules(tasks.values())
        # Airflow gives default_args to the build task only, and a node task can run dbt too.
        given = check_default_args({**dag.default_args, **task_group.default_args})
        self.group.command_args = {**given, **self.group.command_args}
        if self.run_options:
            self._add_run_options(dag)
        build = DbtBuildOperator(task_id="dbt_build", group=self.group, **common).as_setup()
        if self.run_options:
            # The build task itself decides whether the group is skipped.
            build.trigger_rule = TriggerRule.NONE_FAILED
        teardown = DbtBuildTeardown(task_id="dbt_build_done", group=self.group, **common)
        self._connect(tasks, build, teardown)

    def _add_run_options(self, dag) -> None:
        for word in self.arguments.selection.options:
            # dbt would add these nodes to those of `dbt_select`.
            if word.partition("=")[0] in ("-s", "--select", "--selector"):
                raise UnsupportedArgumentError(
                    f"operator_args['dbt_cmd_flags'] with {word} and run_options",
                    "set it in RenderConfig",
                )
        for name, param in PARAMS.items():
            dag.params.setdefault(name, param)

    def _add_other(self, other: TaskNodes, suffix: str, common: dict) -> None:
        task_args = dict(common)
        for unique_id in [other["tested"], *other["nodes"]]:
            task_args |= check_node(unique_id, self.group.slim["cosmos_meta"].get(unique_id, {}))
        task_id, task_group = f"{other['name']}_{suffix}", common["task_group"]
        # The group of a tested model can have this name.
        while task_group.child_id(task_id) in {*task_group.used_group_ids, *task_group.children}:
            task_id += "_2"
        task = DbtNodeOperator(task_id=task_id, group=self.group, nodes=other["nodes"], **task_args)
        [self.run_tasks[key] for key in other["upstream"]] >> task
        task >> [self.run_tasks[key] for key in other["downstream"]]

    def _connect(self, tasks: dict[str, BaseOperator], build, teardown) -> None:
        """Put all tasks between the build task and the teardown, and complete the group."""
        upstream = {name: task.upstream_task_ids & tasks.keys() for name, task in tasks.items()}
        order = [*TopologicalSorter(upstream).static_order()]
        nearest: dict[str, set[str]] = {}
        for name in order:
            task, nearest[name] = tasks[name], set()
            if upstream[name]:
                # The options or the variables of a run can leave out a node upstream. Its task is
                # skipped, and the setup alone decides whether the whole group is.
                task.trigger_rule = TriggerRule.NONE_FAILED
            for parent in upstream[name]:
                has_node = isinstance(tasks[parent], DbtNodeOperator)
                nearest[name] |= {parent} if has_node else nearest[parent]
            if isinstance(task, DbtNodeOperator):
                task.upstream_node_tasks = tuple(sorted(nearest[name]))
                for parent in nearest[name]:
                    tasks[parent].is_leaf = False
        build >> [tasks[name] for name in order if not upstream[name]]
        continuing = {*self.group.slim["continue_on_failure"]}
        last = [
            task
            for task in tasks.values()
            if not task.downstream_task_ids & tasks.keys()
            or not continuing.isdisjoint(getattr(task, "nodes", ()))
        ]
        last >> teardown
        teardown.as_teardown(setups=build, on_failure_fail_dagrun=True)
        self.group.build_id, self.group.teardown_id = build.task_id, teardown.task_id
        self.group.node_task_ids = tuple(
            name for name in order if isinstance(tasks[name], DbtNodeOperator)
        )


def _refuse_rules(tasks: Iterable[BaseOperator]) -> None:
    """Refuse a mapped task group, and arguments of default_args that one build cannot honour."""
    for task in tasks:
        if task.get_closest_mapped_task_group():
            raise UnsupportedArgumentError(
                "expand() of a task group", "one build cannot run for each mapped task group"
            )
        for name in ("wait_for_downstream", "depends_on_past"):
            if getattr(task, name):
                raise UnsupportedArgumentError(name, "dbt decides when a node is built")
        if task.trigger_rule != TriggerRule.ALL_SUCCESS:
            raise UnsupportedArgumentError("trigger_rule", "dbt decides when a node is built")
