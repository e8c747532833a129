"""The task of a model together with its tests, for projects with many models."""

import cosmos.operators.watcher
from cosmos.constants import TestBehavior
from cosmos.operators._watcher import base
from cosmos.operators._watcher.aggregation import get_tests_status_xcom_key
from cosmos.operators._watcher.state import is_dbt_node_status_success
from cosmos.operators.watcher import DbtConsumerWatcherSensor


class DbtBuildWatcherOperator(DbtConsumerWatcherSensor):
    """Watches a model, a seed or a snapshot, and then its tests; retried, it runs both."""

    base_cmd = ["build"]  # noqa: RUF012  as in Cosmos's classes

    def _get_node_status(self, ti, context):
        status = super()._get_node_status(ti, context)
        producer = self.dag.get_task(self.producer_task_id)
        if self.model_unique_id in producer.tests_per_model and is_dbt_node_status_success(status):
            tests = get_tests_status_xcom_key(self.model_unique_id)
            return base.get_xcom_val(ti, self.producer_task_id, tests)
        return status


def covers_tests(producer) -> bool:
    """Return whether the tasks that watch this `dbt build` are of this kind."""
    graph = getattr(producer.dag, "dbt_graph", None) or producer.task_group.dbt_graph
    return graph.render_config.test_behavior is TestBehavior.BUILD


# Cosmos names this class for TestBehavior.BUILD, and has none of its own when it watches.
cosmos.operators.watcher.DbtBuildWatcherOperator = DbtBuildWatcherOperator
