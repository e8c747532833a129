"""Plain dbt on a project, to compare with the tasks that the engine makes."""

import gc
import json
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from cosmos.dbt.project import environ
from dbt.adapters.factory import reset_adapters
from dbt.cli.main import dbtRunner
from dbt.contracts.graph.manifest import Manifest
from dbt.task.build import BuildTask

from tests.include.dbt_build.conftest import node_tasks, nodes_with_task

# The placeholders of the engine do not matter here, because nothing connects.
PROFILE = """
    any:
      target: dev
      outputs:
        dev: {type: postgres, host: h, port: 1, user: u, password: p, dbname: d, schema: small}
"""


# Resource types that `dbt build` runs or counts, and for which Cosmos renders no task.
TASKLESS = ("exposure", "saved_query", "function")


@dataclass
class Selected:
    """What a `dbt build` runs.

    Args:
        nodes: the unique IDs, without ephemeral models, which dbt builds into their readers.
        edges: a node and a node that waits for it, also through nodes that are not selected.
    """

    nodes: set[str]
    edges: set[tuple[str, str]]


class PlainDbt:
    """dbt on the project itself, with a profile and a target folder of its own.

    Args:
        path: the project.
        folder: where dbt writes.
        environment: variables that dbt gets beside those of this process.
    """

    def __init__(self, path: Path, folder: Path, environment: dict[str, str] | None = None):
        self.path, self.environment = path, environment or {}
        self.target = folder / "target"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "profiles.yml").write_text(textwrap.dedent(PROFILE))
        self.words = [
            *("--project-dir", str(path), "--profiles-dir", str(folder), "--profile", "any"),
            *("--target", "dev", "--log-path", str(folder)),
        ]
        self.manifest: Manifest | None = None

    def __call__(self, command: str, *words: str, environment: dict[str, str] | None = None):
        """Run a command in this process and return its result."""
        with environ({**self.environment, **(environment or {})}):
            runner = dbtRunner(manifest=self.manifest)
            target = () if command == "deps" else ("--target-path", str(self.target))
            done = runner.invoke(["--quiet", command, *words, *self.words, *target])
            reset_adapters()
        # Python reports the semaphores of adapters that remain when the process ends.
        del runner
        gc.collect()
        assert done.success, done.exception or words
        return done.result

    def parse(self) -> dict:
        """Parse the project once for all commands; return its manifest.json."""
        self.manifest = self("parse")
        return json.loads((self.target / "manifest.json").read_text())

    def build_selects(self, *words: str, environment: dict[str, str] | None = None) -> Selected:
        """Return what `dbt build` runs with some options and variables.

        Everything before the first connection to the warehouse happens as in `dbt build`.
        """
        found = Selected(set(), set())

        def select(task: BuildTask, selected_uids: Iterable[str]):
            # dbt runs unit tests only together with their model.
            models = task.model_to_unit_test_map
            unit_tests = {test for model in selected_uids for test in models.get(model, ())}
            found.nodes.update(unit_tests, selected_uids)
            found.edges.update(task.job_queue.graph.edges)
            return task.get_result([], 0, datetime.now(UTC).replace(tzinfo=None))

        with mock.patch.object(BuildTask, "execute_with_hooks", select):
            self("build", "--no-write-json", *words, environment=environment)
        found.nodes -= {k for k, node in self.manifest.nodes.items() if node.is_ephemeral_model}
        return found


def differences(dag, selected: Selected) -> Iterator[str]:
    """Yield a line for each difference between the tasks of a DAG and what dbt runs."""
    with_task = nodes_with_task(dag)
    to_run = set(dag.get_task("dbt_build").group.slim["nodes_to_run"])
    for node in sorted(with_task - selected.nodes):
        yield f"{node} has a task, but dbt does not run it"
    for node in sorted(selected.nodes - with_task):
        if node.split(".")[0] == "function":
            if node not in to_run:
                yield f"the build task does not run {node}"
        elif not node.startswith(TASKLESS):
            yield f"{node} has no task, but dbt runs it"
    upstream = {task.task_id: task.get_flat_relative_ids(upstream=True) for task in dag.tasks}
    # A function is built by the task of each model that uses it.
    tasks_of = defaultdict(set)
    for task in node_tasks(dag).values():
        for node in task.nodes:
            tasks_of[node].add(task.task_id)
    for before, after in sorted(selected.edges):
        # In dbt a test can wait for other tests, through nodes that are not selected.
        if before.startswith("test.") and after.startswith("test."):
            continue
        for task_id in tasks_of[after]:
            if tasks_of[before] and not tasks_of[before] & {task_id, *upstream[task_id]}:
                yield f"{task_id} does not wait for {tasks_of[before]}, but {after} for {before}"
