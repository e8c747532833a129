"""What dbt says about each node, on its way from `dbt build` to the task of that node.

Each value that a task writes or reads goes through the API server, which takes about 10 ms of CPU
time for it. Cosmos writes five for a model with a test, and reads seven. Here it is one for each
task: a status, with all that Cosmos keeps about the task's nodes beside it.
"""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cosmos.operators._watcher import aggregation, base
from cosmos.operators._watcher.aggregation import get_tests_status_xcom_key
from cosmos.operators._watcher.base import BaseConsumerSensor
from cosmos.operators._watcher.state import (
    get_compiled_sql_xcom_key,
    get_dbt_event_xcom_key,
    get_status_xcom_key,
    safe_xcom_push,
)

from include import dbt_build

# By these two Cosmos tells that dbt skipped a node because one before it failed.
SKIPS = {"SkippingDetails", "LogSkipBecauseError"}

# Every so many looks a waiting task asks whether `dbt build` still runs.
LOOKS = 5


def one_xcom_per_task() -> Callable:
    """Return a callback for dbt's events that makes Cosmos tell each task in one XCom.

    Of each event that names a node Cosmos makes XComs. Only the last ones count. So the last event
    gets all that dbt printed about the node, and the others no longer name it. plugins/task_logs.py
    logs it. dbt's own log lacks nothing: dbt writes it before it calls back.

    The XComs are written in a thread of their own, for which dbt does not wait.
    """
    lines = defaultdict(list)
    # One, so that they are written in dbt's order.
    writer = ThreadPoolExecutor(max_workers=1)
    writes = []
    # What Cosmos has to say, by the key of its XCom, until the task's status is there too.
    told: dict[str, Any] = {}

    def tell(task_instance, key: str, value) -> None:
        told[key] = value

    def node_is_done(task_instance, project_dir, unique_id, node_path, resource_type) -> None:
        # No task waits for it. If it fails, dbt skips the model, whose task fails.
        if resource_type == "unit_test":
            return
        tests_per_model = task_instance.task.tests_per_model
        together = dbt_build.covers_tests(task_instance.task)
        if resource_type != "test":
            compiled = base._extract_compiled_sql(project_dir, unique_id, node_path, resource_type)
            told[get_compiled_sql_xcom_key(unique_id)] = compiled
            if not (together and unique_id in tests_per_model):
                write(task_instance, *keys_of(unique_id))
            return
        for model, tests in tests_per_model.items():
            result = get_tests_status_xcom_key(model)
            # There after the last of the model's tests.
            if unique_id in tests and result in told:
                events = map(get_dbt_event_xcom_key, tests)
                first = keys_of(model) if together else []
                write(task_instance, *first, result, *events)

    def keys_of(unique_id: str) -> list[str]:
        keys = get_status_xcom_key, get_dbt_event_xcom_key, get_compiled_sql_xcom_key
        return [key(unique_id) for key in keys]

    def write(task_instance, key: str, *along: str) -> None:
        # Of several threads of dbt only one takes it.
        if (status := told.pop(key, None)) is None:
            return
        value = {"value": status, "along": {key: told.pop(key, None) for key in along}}
        writes.append(writer.submit(safe_xcom_push, task_instance, key, value))

    def gather(event) -> None:
        # Set here, in the process that runs dbt. Cosmos has no setting for it.
        base.safe_xcom_push = aggregation.safe_xcom_push = tell
        # The last that Cosmos does about a node.
        base.store_compiled_sql_for_model = node_is_done
        if event.info.name == "CommandCompleted":
            for written in writes:
                written.result()
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


def read(task_instance, task_ids: str, key: str):
    """Return the value of an XCom, or of one that was written along with another."""
    known = vars(task_instance).setdefault("_told_by_dbt", {})
    if key not in known:
        value = task_instance.xcom_pull(task_ids, key=key)
        if not isinstance(value, dict) or "along" not in value:
            return value
        known |= value["along"] | {key: value["value"]}
    return known[key]


def producer_state(self, context):
    """Ask for the state of `dbt build` only where it matters: before the node's status."""
    ti = context["ti"]
    if ti.try_number == 1 and (
        self.poke_retry_number % LOOKS or self._get_node_status(ti, context) is not None
    ):
        return None
    return _producer_state(self, context)


_producer_state = BaseConsumerSensor._get_producer_task_status
BaseConsumerSensor._get_producer_task_status = producer_state
# It reads what it then logs as debug only.
BaseConsumerSensor._log_startup_events = lambda self, ti: None
base.get_xcom_val = read
