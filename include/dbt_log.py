"""What dbt says about each node, on its way to the task of that node."""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cosmos.operators._watcher import aggregation, base
from cosmos.operators._watcher.state import safe_xcom_push

# By these two Cosmos tells that dbt skipped a node because one before it failed.
SKIPS = {"SkippingDetails", "LogSkipBecauseError"}


def one_event_per_node() -> Callable:
    """Return a callback for dbt's events that leaves Cosmos one of them per node: the last.

    Of each event that names a node Cosmos makes XComs, up to eight for a model. Only the last ones
    count. So the last event gets all that dbt printed about the node, and the others no longer
    name it. plugins/task_logs.py logs it. dbt's own log lacks nothing: dbt writes it before it
    calls back.

    What remains is written in a thread of its own. Each write goes through the API server, and
    dbt would wait for it: of a build that takes 3 s by itself that made 8.
    """
    lines = defaultdict(list)
    # One, so that a node's status is there no earlier than the words to it.
    writer = ThreadPoolExecutor(max_workers=1)
    writes = []

    def write_later(**xcom) -> None:
        writes.append(writer.submit(safe_xcom_push, **xcom))

    def gather(event) -> None:
        # Set here, in the process that runs dbt. Cosmos has no setting for it.
        base.safe_xcom_push = aggregation.safe_xcom_push = write_later
        if event.info.name == "CommandCompleted":
            for write in writes:
                write.result()
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
