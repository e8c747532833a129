"""Three things that Cosmos's graph of a dbt project lacks, and has no setting for.

Each dbt test is shown at one model: the one furthest downstream that it reads. A test can read
several models, as `relationships` does, and Cosmos counts its result for all of them. When a model
fails, dbt skips the tests that read it, and the test tasks of healthy models turn red, even of
models before it: then the task that really failed is never reached.

A task's process makes its own task only. Every task parses its DAG file again, which took 2.4 s
for 1,000 models. So the dag-processor keeps the graph, and a task takes from it its own node.

In a large project a model's tests have no task of their own: see TESTS_AS_TASKS.
"""

import os
import pickle
import re
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

import cosmos.converter
from airflow.configuration import AIRFLOW_HOME
from airflow.sdk import get_parsing_context
from cosmos import settings
from cosmos.constants import DbtResourceType, LoadMode, TestBehavior
from cosmos.dbt.graph import DbtGraph

from include import dbt_build  # noqa: F401  for TestBehavior.BUILD

# Up to so many models the tests of each have a task of their own. With more, a model's task ends
# after its tests and fails with them: that halves the tasks, and with them most of what a run
# costs besides dbt. Which of the two failed is then in the task's log, no longer in the grid.
TESTS_AS_TASKS = int(os.environ.get("DBT_TESTS_AS_TASKS", "100"))

# How Cosmos names the task of a node: dbt.stg_flights.run, dbt.airports_seed, m_model_build.
NODE_TASK = re.compile(
    r"(?:.*\.)?(?P<node>[^.]+?)(?:[._](?:run|test|seed|snapshot)|_(?:model|seed|snapshot)_build)"
)


class Graph(DbtGraph):
    def load(self, *args, **kwargs) -> None:
        # Without a fresh manifest Cosmos asks dbt, and keeps the answer itself.
        keeps = bool(self.project.manifest_path)
        if keeps and self._recall(get_parsing_context().task_id):
            return
        super().load(*args, **kwargs)
        if keeps:
            self._keep()

    def update_node_dependency(self) -> None:
        @cache
        def depth(unique_id: str) -> int:
            parents = self.nodes[unique_id].depends_on
            return 1 + max((depth(parent) for parent in parents if parent in self.nodes), default=0)

        for node in self.nodes.values():
            if node.resource_type is DbtResourceType.TEST and len(node.depends_on) > 1:
                known = [parent for parent in node.depends_on if parent in self.nodes]
                # By name where two are as deep, so that every parse gives the same DAG.
                node.depends_on = [max(known, key=lambda parent: (depth(parent), parent))]
        super().update_node_dependency()

        kinds = [node.resource_type for node in self.filtered_nodes.values()]
        if kinds.count(DbtResourceType.MODEL) > TESTS_AS_TASKS:
            self.render_config.test_behavior = TestBehavior.BUILD

    def _kept(self) -> Path:
        # Not in Cosmos's own folder in /tmp: whoever can write a pickle runs code as its reader.
        return Path(AIRFLOW_HOME, "dbt_graphs", f"{self.cache_key}.pickle")

    def _origin(self) -> tuple:
        """Return what the graph is made from: other files or other settings, another graph."""
        manifest = Path(self.project.manifest_path.path)
        files = [(str(file), file.stat().st_mtime_ns) for file in (manifest, Path(__file__))]
        chosen = (self.render_config.select, self.render_config.exclude, TESTS_AS_TASKS)
        return *files, *chosen, cosmos.__version__

    def _keep(self) -> None:
        kept = self._kept()
        kept.parent.mkdir(parents=True, exist_ok=True)
        graph = (self.filtered_nodes, self.tests_per_model, self.render_config.test_behavior)
        with NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            pickle.dump((self._origin(), graph), file)
        os.replace(file.name, kept)

    def _recall(self, task_id: str | None) -> bool:
        """Take a task's node, its parents and its tests, or all; return whether they are kept."""
        try:
            origin, graph = pickle.loads(self._kept().read_bytes())  # noqa: S301
        except FileNotFoundError:
            return False
        if origin != self._origin():
            return False
        nodes, self.tests_per_model, self.render_config.test_behavior = graph
        self.load_method = LoadMode.DBT_MANIFEST
        self.nodes = self.filtered_nodes = nodes
        if not task_id:
            return True
        # For the versions of a DAG, which the dag-processor makes: it hashes the whole project.
        settings.enable_dag_versioning = False
        self.nodes = self.filtered_nodes = {}
        named = NODE_TASK.fullmatch(task_id)
        if not named:
            return True
        for node in nodes.values():
            if node.name == named["node"]:
                tests = self.tests_per_model.get(node.unique_id, [])
                wanted = {node.unique_id, *node.depends_on, *tests}
                # In the graph's order, which Cosmos makes the tasks in.
                self.nodes = self.filtered_nodes = {k: n for k, n in nodes.items() if k in wanted}
                return True
        return False


cosmos.converter.DbtGraph = Graph
