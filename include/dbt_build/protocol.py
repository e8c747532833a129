"""What the build task, the node tasks and the plugin exchange: XCom keys and signed reports.

The build task sends a `Report` to plugins/build_api.py while dbt works and gets an `Answer`.
Both processes derive the key of the signature from the same setting, so a report needs no login.
"""

import hmac
from datetime import UTC, datetime
from typing import Annotated, Literal, TypedDict

from pydantic import AwareDatetime, BaseModel, Field

# XCom of a build task: {task ID: StoredResult} for the node tasks that start a process.
NODE_RESULTS = "dbt_node_results"
# XCom of the build task, for the node tasks: BuildState. The teardown has a copy for the next try
# of the build task, because Airflow deletes the XComs of a task that starts.
BUILD_STATE = "dbt_build_state"
# XCom of every task that ran dbt: a list of Problem, read by the alerts.
PROBLEMS = "dbt_problems"

# The outcome of the nodes of a task:
# success  all nodes succeeded.
# fail     a test failed, or a source is too old. Another try would find the same rows.
# error    a node failed in another way.
# skipped  dbt skipped a node. If its task starts later, because a retry of the failed task upstream
#          has succeeded, or because of a clear, this task builds the node.
# not_run  dbt did not run a node for another reason, such as fail_fast.
# left_out dbt did not run a node although nothing failed, such as a node that the run does not
#          select.
Outcome = Literal["success", "fail", "error", "skipped", "not_run", "left_out"]


class StoredResult(TypedDict):
    """The result of a node task's nodes."""

    outcome: Outcome
    message: str
    sql: str
    # The nodes of the task that succeeded, and microbatch models of which dbt built some batches.
    built: list[str]


class BuildState(TypedDict):
    """What the next try of a build task has to know. All nodes are unique IDs."""

    # The number of the first try since the run began or since the build task was cleared.
    first_try: int
    # The number of clears in the run. An executor such as KubernetesExecutor reports a task that is
    # cleared while it runs as failed. Such a clear changes only this number.
    clear_number: int
    # The start date of the run while a try works, and None after the try. The date stays if Airflow
    # interrupts the try, as it does when a task is cleared while dbt works.
    run_start_of_unended_try: str | None
    # Whether dbt, its hooks and the nodes without a task have ended well.
    has_ended_well: bool
    # The nodes and sources that the run selects, or None if it builds all nodes of the DAG.
    selected: list[str] | None
    # The nodes that dbt has built and whose tasks were not yet successful in Airflow.
    built: list[str]
    # All nodes that have succeeded in this run. The list is empty until dbt has ended.
    succeeded: list[str]
    # The microbatch models that lack batches which no retry would build.
    incomplete: list[str]
    # The nodes of the tasks that were successful before the first try.
    done_before: list[str]
    # The nodes whose tasks have become successful in earlier tries that failed. Airflow emits no
    # asset event for such a try.
    without_event: list[str]


class Problem(TypedDict):
    """A node that failed or warned. `node` is None if dbt failed outside of its nodes."""

    node: str | None
    status: str
    message: str
    failures: int | None


TaskId = Annotated[str, Field(min_length=1, max_length=250)]
OtherState = Literal["scheduled", "upstream_failed", "skipped", "due"]


class Times(BaseModel, extra="forbid"):
    """When dbt started and ended the nodes of a task."""

    start: AwareDatetime
    end: AwareDatetime


class Report(BaseModel, extra="forbid"):
    """New states of the node tasks of one build."""

    sent_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    succeeded: dict[TaskId, Times] = {}
    # A task that becomes scheduled starts at once, and fails with dbt's message. The state of a
    # task that is due is removed, so that Airflow schedules it.
    others: dict[TaskId, OtherState] = {}


class Answer(BaseModel, extra="forbid"):
    """The try number of each task whose state was set, by task ID."""

    applied: dict[TaskId, int]
    # Tasks that failed without a process, because a task upstream of them had failed.
    failed: dict[TaskId, int] = {}


def signing_key(conf) -> bytes | None:
    """Return the key of the signatures, or None if Airflow's configuration has no secret for it.

    It is derived from [dbt_build] signing_key, by default from [core] fernet_key.

    Args:
        conf: Airflow's configuration, as the worker or the API server reads it.
    """
    secret = conf.get("dbt_build", "signing_key", fallback=None) or conf.get(
        "core", "fernet_key", fallback=None
    )
    return hmac.digest(secret.encode(), b"dbt_build report", "sha256") if secret else None


def sign(key: bytes, build_id: str, body: bytes) -> str:
    """Return the signature of a report of the build task instance with this ID."""
    return hmac.new(key, build_id.encode() + b"\n" + body, "sha256").hexdigest()
