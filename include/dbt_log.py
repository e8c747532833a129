"""What dbt says about a node, gathered for the log of the node's own task."""

from collections import defaultdict
from collections.abc import Callable

# By these two Cosmos tells that dbt skipped a node because one before it failed.
SKIPS = {"SkippingDetails", "LogSkipBecauseError"}


def one_event_per_node() -> Callable:
    """Return a callback for dbt's events that leaves Cosmos one of them per node: the last.

    Of each event that names a node Cosmos makes XComs, up to eight for a model, one after another
    through the API server while dbt waits. Only the last ones count. So the last event gets all
    that dbt printed about the node, and the others no longer name it. plugins/task_logs.py logs
    it. dbt's own log lacks nothing: dbt writes it before it calls back.
    """
    lines = defaultdict(list)

    def gather(event) -> None:
        node = getattr(event.data, "node_info", None)
        if node is None or not node.unique_id:
            return
        printed = lines[node.unique_id]
        if event.info.name == "NodeFinished":
            result = event.data.run_result
            error = [result.message] if node.node_status in ("error", "fail") else []
            result.message = "\n".join([*printed, *error])
            return
        if event.info.level != "debug":
            printed.append(event.info.msg)
        if event.info.name not in SKIPS:
            event.data.ClearField("node_info")

    return gather
