"""The results of dbt's nodes, from dbt's events while it works and from its artifacts."""

import glob
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.sdk.log import redact

from include.dbt_build.protocol import Outcome, Problem

SUCCEEDED = {"success", "pass", "warn", "no-op", "reused"}
# dbt skips a node because of another node, which has a failed status of its own.
NOT_FAILED = SUCCEEDED | {"skipped"}
# The last line of the log of a microbatch model of which dbt has built some batches.
NO_RETRY = (
    "There is no retry, because dbt would build only the newest batches. To build the missing "
    "ones, start a run with an event time range, or with a full refresh unless the model has "
    "`full_refresh: false`."
)
# The statuses of a batch that dbt did not build. The status of any other batch is the database's.
BATCH_NOT_BUILT = ("error", "skipped")
# Longer SQL is cut in the log of a failed task.
SQL_CHARACTERS = 20_000


@dataclass
class NodeResult:
    """The result of one node. Times are UTC in ISO 8601, `status` is dbt's own word."""

    status: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    # What dbt logged about the node, without the message with which the node ended.
    lines: list[str] = field(default_factory=list)
    message: str | None = None
    # The number of rows that a test found.
    failures: int | None = None
    # The SQL that failed, as dbt sent it to the warehouse.
    sql: str = ""
    is_ephemeral: bool = False
    # Starts without an end: a microbatch model and each of its batches share one unique ID.
    running: int = 0
    # The batches of a microbatch model: their number, and which of them dbt has built, from 1.
    batches: int = 0
    built_batches: set[int] = field(default_factory=set)

    @property
    def has_failed(self) -> bool:
        return self.status is not None and self.status not in NOT_FAILED


class BuildResults:
    """The results of nodes, from all dbt commands in one try of a task.

    Args:
        repeated_batches: the number of batches that a later `dbt build` would build, by the unique
            ID of the microbatch model. A model is left out if all its batches would be built.
        never_refreshed: the unique IDs of the models with `full_refresh: false`.
    """

    def __init__(
        self,
        repeated_batches: Mapping[str, int] | None = None,
        never_refreshed: Collection[str] = (),
    ):
        self.repeated_batches = repeated_batches or {}
        self.never_refreshed = never_refreshed
        # Microbatch models that an external dbt may not have built completely when it was ended.
        self.possibly_incomplete: set[str] = set()
        self.nodes: dict[str, NodeResult] = defaultdict(NodeResult)
        # The exception that `receive` has caught. dbt would make it an error of the node.
        self.error: Exception | None = None
        # The message of an error outside of the nodes.
        self.dbt_error: str | None = None
        self.target: Path | None = None
        # The enabled nodes, if dbt has parsed the project in this run.
        self.parsed: set[str] | None = None
        # Whether dbt is interrupted. It then reports an error for each statement that it cancels,
        # but these nodes have not failed.
        self.is_interrupted = False

    def set_full_refresh(self) -> None:
        """Remove the models that a full refresh rebuilds from `repeated_batches`."""
        kept = self.repeated_batches.keys() & {*self.never_refreshed}
        self.repeated_batches = {node: self.repeated_batches[node] for node in kept}

    def interrupt(self) -> None:
        self.is_interrupted = True

    def add_succeeded(self, nodes: Iterable[str], line: str) -> None:
        """Set nodes to successful without dbt. The line is their log, and gives the reason."""
        now = datetime.now(UTC).isoformat()
        for node in nodes:
            self.nodes[node] = NodeResult("success", now, now, [line])

    def add_skipped(self, nodes: Iterable[str]) -> None:
        """Set nodes to skipped that dbt is not asked to build, because of a failure."""
        for node in nodes:
            self.nodes[node].status = "skipped"

    def receive(self, event) -> None:
        """Read an event of dbtRunner."""
        try:
            self._receive(event)
        except Exception as error:
            self.error = error

    def _receive(self, event) -> None:
        info = getattr(event.data, "node_info", None)
        if info is None or not info.unique_id:
            return
        node = self.nodes[info.unique_id]
        if info.unique_id.startswith("source."):
            # The age of a source is only in sources.json.
            if event.info.name == "NodeFinished" and event.data.run_result.message:
                node.message = event.data.run_result.message
        elif event.info.name == "NodeStart":
            node.running += 1
        elif event.info.name == "NodeFinished":
            node.running -= 1
            if event.data.run_result.status not in NOT_FAILED:
                # The newest file of a microbatch model is that of the batch that has just failed.
                node.sql = node.sql or self._sql(info)
            if not node.running:
                self._finish(node, info, event.data.run_result)
        # When all nodes have ended, dbt repeats the messages of those that failed.
        elif event.info.level != "debug" and node.status is None:
            node.lines.append(event.info.msg)
            if event.info.name == "LogBatchResult":
                node.batches = event.data.total_batches
                if event.data.status not in BATCH_NOT_BUILT:
                    node.built_batches.add(event.data.batch_index)

    def _finish(self, node: NodeResult, info, result) -> None:
        if self.is_interrupted and result.status not in SUCCEEDED:
            return
        node.message, node.failures = clean_message(result.message), result.num_failures
        node.is_ephemeral = info.materialized == "ephemeral"
        node.started_at, node.ended_at = info.node_started_at, info.node_finished_at
        if result.status not in NOT_FAILED:
            # The rows of a failed test stay in the warehouse, because they can be personal data.
            if result.status == "fail" and (stored := info.node_relation.relation_name):
                node.lines.append(f"The failing rows are in {stored}.")
            # With fail_fast dbt cancels the other nodes after a failure. Whether this node failed
            # or was cancelled is only in run_results.json.
            if _fails_fast() and self.failed():
                return
        # The reporting thread reads a node once it has a status, so the status is set last.
        node.status = result.status

    def _sql(self, info) -> str:
        """Return the SQL that dbt wrote for a node."""
        if self.target is None or not info.node_path:
            return ""
        package, path = info.unique_id.split(".")[1], Path(info.node_path)
        name, stem = glob.escape(path.name), glob.escape(path.stem)
        for folder in ("run", "compiled"):
            # In "run" the file of a model is the statement that creates it. Each batch of a
            # microbatch model has a file of its own, in a folder with the name of the model.
            root = self.target / folder / package
            files = [*root.rglob(name), *root.rglob(f"{stem}/{stem}_*")]
            if found := [file for file in files if file.is_file()]:
                return max(found, key=lambda file: file.stat().st_mtime).read_text()
        return ""

    def read_run_results(self, project_dir: str | Path) -> None:
        """Read run_results.json, the only source of results if dbt runs as a subprocess."""
        for result in _results(project_dir, "run_results.json"):
            node = self.nodes[result["unique_id"]]
            if not node.ended_at and result["timing"]:
                node.started_at = result["timing"][0]["started_at"]
                node.ended_at = result["timing"][-1]["completed_at"]
            node.message, node.failures = clean_message(result["message"]), result["failures"]
            if result["status"] not in NOT_FAILED:
                node.sql = node.sql or result.get("compiled_code") or ""
            if batches := result.get("batch_results"):
                every = sorted(batches["successful"] + batches["failed"])
                node.batches = len(every)
                node.built_batches = {every.index(b) + 1 for b in batches["successful"]}
            node.status = result["status"]

    def read_log_of_ended_dbt(self, project_dir: str | Path, selected: Iterable[str]) -> None:
        """Read from dbt.log which microbatch models may lack batches, if dbt was ended early.

        The log has the number of batches, but not the unique ID of their model.
        """
        file = Path(project_dir, "dbt.log")
        log = file.read_text() if file.exists() else ""
        most = max(map(int, re.findall(r"\bBatch \d+ of (\d+)\b", log)), default=0)
        selected = {*selected}
        self.possibly_incomplete |= {
            node
            for node, repeated in self.repeated_batches.items()
            if node in selected and most > repeated
        }

    def read_sources(self, project_dir: str | Path) -> None:
        """Read the ages of sources from sources.json, as far as dbt could read them."""
        for result in _results(project_dir, "sources.json"):
            if "max_loaded_at" in result:
                self._read_age(self.nodes[result["unique_id"]], result)

    def add_unread(self, sources: Iterable[str]) -> None:
        """Set enabled sources to failed if dbt has ended and could not read their age."""
        for source in sources if self.parsed is None else self.parsed.intersection(sources):
            node = self.nodes[source]
            if not node.status:
                node.message = node.message or (
                    "dbt could not read the age of the source: see the log of the build task."
                )
                node.status = "error"

    def _read_age(self, node: NodeResult, result: dict) -> None:
        # A source that is too old is reported like a failed test: another try finds the same rows.
        status = "fail" if result["status"] == "error" else result["status"]
        age = timedelta(seconds=int(result["max_loaded_at_time_ago_in_s"]))
        limits = ", ".join(
            f"{name} {limit['count']} {limit['period']}s"
            for name, limit in sorted(result["criteria"].items())
            if isinstance(limit, dict) and limit.get("count")
        )
        _, name = kind_and_name(result["unique_id"])
        newest = f"its newest row is of {result['max_loaded_at']} ({limits})"
        node.message = f"{status.upper()} {name} is {age} old, {newest}"
        node.started_at = result["timing"][0]["started_at"]
        node.ended_at = result["timing"][-1]["completed_at"]
        node.status = status

    def outcome(self, nodes: Iterable[str]) -> Outcome | None:
        """Return the common outcome of a task's nodes, or None while one of them is pending."""
        nodes = [*nodes]
        enabled = nodes_among(nodes, self.parsed)
        if nodes and not enabled:
            return "left_out"
        statuses = {self.nodes[node].status if node in self.nodes else None for node in enabled}
        if None in statuses:
            return None
        if failed := statuses - NOT_FAILED:
            return "fail" if failed == {"fail"} else "error"
        return "not_run" if "skipped" in statuses else "success"

    def ended(self) -> set[str]:
        """Return the nodes that have a result. dbt has one of each node that it selects."""
        return {*filter(self.has_ended, [*self.nodes])}

    def has_ended(self, unique_id: str | None) -> bool:
        return unique_id in self.nodes and self.nodes[unique_id].status is not None

    def failed(self) -> set[str]:
        """Return the nodes that failed, hooks included.

        For dbt, an ephemeral model fails only through the nodes that read it, which it then skips.
        """
        has_skipped = bool(self.skipped())
        return {
            node
            for node, result in [*self.nodes.items()]
            if result.has_failed and (has_skipped or not result.is_ephemeral)
        }

    def skipped(self) -> set[str]:
        """Return the nodes that dbt skipped."""
        return {node for node, result in [*self.nodes.items()] if result.status == "skipped"}

    def succeeded(self) -> set[str]:
        """Return the nodes that dbt built and the tests that passed, without hooks and sources."""
        return {
            node
            for node, result in [*self.nodes.items()]
            if result.status in SUCCEEDED and not node.startswith(("operation.", "source."))
        }

    def built(self) -> set[str]:
        """Return the nodes that succeeded, and the models of which dbt has built some batches."""
        return self.succeeded() | self.incomplete()

    def incomplete(self) -> set[str]:
        """Return the microbatch models that lack batches which a later `dbt build` would not build.

        Without an event time range, dbt builds only the newest batches of a table that exists.
        """
        lacking = {node for node in [*self.nodes] if self._lacks_batches(node)}
        return lacking | {node for node in self.possibly_incomplete if not self.has_ended(node)}

    def _lacks_batches(self, unique_id: str) -> bool:
        node = self.nodes[unique_id]
        older = node.batches - self.repeated_batches.get(unique_id, node.batches)
        return bool(node.built_batches) and not node.built_batches.issuperset(range(1, older + 1))

    def message(self, nodes: Iterable[str]) -> str:
        """Return what dbt logged about some nodes, without Airflow's secrets.

        If some of them failed, their lines come first, then only those of the nodes that warned.
        """
        found = [node for node in nodes if node in self.nodes]
        if failed := [node for node in found if self.nodes[node].has_failed]:
            found = failed + [node for node in found if self.nodes[node].status == "warn"]
        return redact("\n".join(line for node in found for line in self._log(node)))

    def _log(self, unique_id: str) -> list[str]:
        node = self.nodes[unique_id]
        lines = [*node.lines]
        # dbt logs no line about a hook, and an external dbt has no events at all. After a failure
        # with fail_fast, only the message has the reason why dbt stopped a node.
        if node.has_failed or (node.message and (node.status == "skipped" or not lines)):
            lines.insert(0, _first_line(unique_id, node.message or node.status))
        if node.status and self._lacks_batches(unique_id):
            lines.append(NO_RETRY)
        return lines

    def sql(self, nodes: Iterable[str]) -> str:
        """Return the SQL of those nodes that failed, without Airflow's secrets."""
        found = [self.nodes[node] for node in nodes if node in self.nodes]
        return redact("\n\n".join(node.sql.strip() for node in found if node.sql))[:SQL_CHARACTERS]

    def problems(self) -> list[Problem]:
        """Return every node that failed or warned, and an error outside of the nodes."""
        found = [
            Problem(
                node=unique_id,
                status=node.status,
                message=redact(node.message or ""),
                failures=node.failures,
            )
            for unique_id, node in [*self.nodes.items()]
            if node.status == "warn" or node.has_failed
        ]
        if self.dbt_error:
            message = redact(self.dbt_error)
            found.append(Problem(node=None, status="error", message=message, failures=None))
        return found


def nodes_among(nodes: Iterable[str], wanted: Set[str] | None) -> tuple[str, ...]:
    """Return the nodes of a task that are in `wanted`, or all of them if `wanted` is None.

    The result is empty if it would have only functions. A function is built with each node that
    uses it, so it does not decide alone about a task.
    """
    found = tuple(node for node in nodes if wanted is None or node in wanted)
    return () if all(node.startswith("function.") for node in found) else found


def _fails_fast() -> bool:
    # Imported here, because a DAG file needs no dbt.
    from dbt.flags import get_flags

    return bool(getattr(get_flags(), "FAIL_FAST", False))


def kind_and_name(unique_id: str) -> tuple[str, str]:
    """Return the resource type of a node, and its name as dbt prints it."""
    kind, _, *names = unique_id.split(".")
    # The unique ID of a generic test ends with a hash.
    return kind, names[0] if kind == "test" else ".".join(names)


def _first_line(unique_id: str, message: str) -> str:
    """Return the message of a node for its log, with the name of a failed test.

    dbt's message has this name only if the test could not run.
    """
    kind, name = kind_and_name(unique_id)
    # The message of a unit test has its name without the name of the model.
    is_missing = kind in ("test", "unit_test") and name.rpartition(".")[2] not in message
    return f"{name}: {message}" if is_missing else message


def clean_message(message: str | None) -> str | None:
    """Return a message of dbt without the path of the compiled code, which Cosmos removes."""
    return message and re.sub(r"\n *compiled code at .*", "", message)


def _results(project_dir: str | Path, name: str) -> list[dict]:
    file = Path(project_dir, "target", name)
    return json.loads(file.read_text())["results"] if file.exists() else []
