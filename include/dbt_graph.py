"""Shows each dbt test at one model: the one furthest downstream that it reads.

A test can read several models, as `relationships` does. Cosmos counts its result for all of them.
When a model fails, dbt skips the tests that read it, and the test tasks of healthy models turn
red, even of models before it: then the task that really failed is never reached.
"""

from functools import cache

import cosmos.converter
from cosmos.constants import DbtResourceType
from cosmos.dbt.graph import DbtGraph


class OneOwnerPerTest(DbtGraph):
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


# Cosmos has no setting for it.
cosmos.converter.DbtGraph = OneOwnerPerTest
