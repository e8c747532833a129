"""The two classes that replace those of Cosmos."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import cosmos

from include.dbt_build.operators import DbtBuildTeardown
from include.dbt_build.rendering import Rendering


class DbtDag(cosmos.DbtDag):
    """A dbt project as a DAG.

    Args:
        source_freshness: whether each source that has freshness thresholds and that a node reads
            gets a task. If the source is older than error_after, the task fails, and dbt does not
            build the nodes that depend on the source.
        run_options: whether the trigger form gets fields to build a part of the nodes, with a full
            refresh, an event time range or other variables: see run_options.PARAMS. The build task
            then has the trigger rule none_failed, so Airflow refuses to put it directly downstream
            of another setup task.
        args, kwargs: the arguments of cosmos.DbtDag.
    """

    def __init__(
        self, *args: Any, source_freshness: bool = False, run_options: bool = False, **kwargs: Any
    ):
        rendering = Rendering(kwargs, source_freshness=source_freshness, run_options=run_options)
        with _garbage_collection_paused():
            super().__init__(*args, **rendering.cosmos_kwargs())
            rendering.add_build(self, self.task_group)

    @property
    def leaves(self) -> list:
        """Return the tasks that a task downstream of all nodes has to wait for.

        The teardown is not among them, because it has to stay last to fail the run.
        """
        return _last_tasks(self.tasks)

    def __hash__(self) -> int:
        """Return a hash of the DAG's ID, because Airflow computes the hash for each edge.

        Airflow's own method reads all task IDs. With thousands of tasks that takes longer than all
        other work of a parse.
        """
        return hash(self.dag_id)


class DbtTaskGroup(cosmos.DbtTaskGroup):
    """A dbt project as a task group.

    Args:
        source_freshness, run_options: as in DbtDag.
        args, kwargs: the arguments of cosmos.DbtTaskGroup.
    """

    def __init__(
        self, *args: Any, source_freshness: bool = False, run_options: bool = False, **kwargs: Any
    ):
        rendering = Rendering(kwargs, source_freshness=source_freshness, run_options=run_options)
        with _garbage_collection_paused():
            super().__init__(*args, **rendering.cosmos_kwargs())
            rendering.add_build(self.dag, self)

    def get_leaves(self) -> Iterator:
        """Yield the tasks that a task downstream of the group has to wait for."""
        yield from dict.fromkeys([*super().get_leaves(), *_last_tasks(self.iter_tasks())])


def _last_tasks(tasks: Iterable) -> list:
    """Return the tasks that are directly upstream of a teardown.

    They are the last tasks, and tasks after whose failure dbt still builds nodes downstream.
    """
    teardowns = [task for task in tasks if isinstance(task, DbtBuildTeardown)]
    return [task for teardown in teardowns for task in teardown.upstream_list if not task.is_setup]


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause Python's garbage collection, which finds nothing while thousands of tasks are made."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
