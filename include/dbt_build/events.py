"""What dbt says about each node: while it builds, and in its run_results.json."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

GOOD = {"success", "pass", "warn"}
# Of nodes that dbt did not run; what stopped them is among the bad.
NOT_RUN = {"skipped", "no-op"}


@dataclass
class Node:
    """What is known of a node. Times are dbt's, in UTC, as ISO 8601; status is dbt's."""

    status: str | None = None
    started: str | None = None
    ended: str | None = None
    lines: list[str] = field(default_factory=list)
    message: str | None = None
    # Of a test, how many rows.
    failures: int | None = None
    # A microbatch model and each of its batches start and end under the same id.
    open: int = 0


class Events:
    """Hears dbt. The tasks of Airflow are copies of an operator: all share its Events."""

    def __init__(self):
        self.nodes: dict[str, Node] = defaultdict(Node)
        self.trouble: Exception | None = None
        # What stopped dbt apart from its nodes.
        self.stopped: str | None = None

    def hear(self, event) -> None:
        """Take an event of dbtRunner. What this raised would become an error of the node."""
        try:
            self._hear(event)
        except Exception as error:
            self.trouble = error

    def _hear(self, event) -> None:
        info = getattr(event.data, "node_info", None)
        if info is None or not info.unique_id:
            return
        node = self.nodes[info.unique_id]
        if info.unique_id.startswith("source."):
            # How old it is comes later: see read_sources.
            if event.info.name == "NodeFinished" and event.data.run_result.message:
                node.lines = [event.data.run_result.message]
            return
        if event.info.name == "NodeStart":
            node.open += 1
        elif event.info.name == "NodeFinished":
            node.open -= 1
            if not node.open:
                result = event.data.run_result
                if result.status not in GOOD | NOT_RUN:
                    node.lines.append(result.message)
                    # Of a test with store_failures. The rows themselves are not shown: they can
                    # hold personal data.
                    if result.status == "fail" and (stored := info.node_relation.relation_name):
                        node.lines.append(f"Its rows are in {stored}")
                node.started, node.ended = info.node_started_at, info.node_finished_at
                node.message, node.failures = result.message, result.num_failures
                # Last: it says that the rest is there.
                node.status = result.status
        # After its end dbt repeats what went wrong.
        elif event.info.level != "debug" and node.status is None:
            node.lines.append(event.info.msg)

    def read(self, project_dir: str, **_) -> None:
        """Take run_results.json, as Cosmos's callback after dbt: all that a dbt apart tells."""
        for result in _results(project_dir, "run_results.json"):
            node = self.nodes[result["unique_id"]]
            if not node.ended and result["timing"]:
                node.started = result["timing"][0]["started_at"]
                node.ended = result["timing"][-1]["completed_at"]
            if not node.lines and result["message"]:
                node.lines = [result["message"]]
            node.message, node.failures = result["message"], result["failures"]
            node.status = result["status"]

    def read_sources(self, sources, project_dir: str, **_) -> None:
        """Take sources.json, as Cosmos's callback after `dbt source freshness` for some sources."""
        for result in _results(project_dir, "sources.json"):
            node = self.nodes[result["unique_id"]]
            name = ".".join(result["unique_id"].split(".")[2:])
            # As tests: fail is an answer, another try would give it again.
            status = "fail" if result["status"] == "error" else result["status"]
            age = timedelta(seconds=int(result["max_loaded_at_time_ago_in_s"]))
            limits = ", ".join(
                f"{name} {limit['count']} {limit['period']}s"
                for name, limit in sorted(result["criteria"].items())
                if isinstance(limit, dict) and limit.get("count")
            )
            newest = f"its newest row is of {result['max_loaded_at']} ({limits})"
            node.message = f"{status.upper()} {name} is {age} old, {newest}"
            node.lines = [node.message]
            node.started = result["timing"][0]["started_at"]
            node.ended = result["timing"][-1]["completed_at"]
            node.status = status
        # dbt leaves out those that it could not ask.
        for node in (self.nodes[source] for source in sources):
            if not node.status:
                node.lines = node.lines or ["dbt could not tell its age, see the log of the build"]
                node.message = node.lines[0]
                node.status = "error"

    def pass_sources(self, sources, line: str) -> None:
        """Take sources as fresh that dbt is not asked for."""
        now = datetime.now(UTC).isoformat()
        for source in sources:
            self.nodes[source] = Node("pass", now, now, [line])

    def outcome(self, nodes) -> str | None:
        """Return what became of some nodes together.

        "success": dbt built all. "fail": of those that failed, each is a test, whose answer another
        try would not change. "error": one failed otherwise. None: dbt has not built all.
        """
        states = {self.nodes[node].status if node in self.nodes else None for node in nodes}
        if bad := states - GOOD - NOT_RUN - {None}:
            return "fail" if bad == {"fail"} else "error"
        return None if states - GOOD else "success"

    def bad(self) -> set[str]:
        """Return the nodes that failed, hooks among them."""
        return {node for node in [*self.nodes] if self.outcome([node]) in ("fail", "error")}

    def problems(self) -> list[dict]:
        """Return what failed or warned, for include/alerts.py.

        {"node": unique id, or None of dbt itself; "status": dbt's; "message"; "failures": rows}.
        """
        nodes = [(k, n.status, n.message, n.failures) for k, n in [*self.nodes.items()]]
        found = [n for n in nodes if n[1] == "warn" or n[1] not in GOOD | NOT_RUN | {None}]
        if self.stopped:
            found.append((None, "error", self.stopped, None))
        names = ("node", "status", "message", "failures")
        return [dict(zip(names, one, strict=True)) for one in found]

    def said(self, nodes) -> list[str]:
        return [line for node in nodes if node in self.nodes for line in self.nodes[node].lines]


def _results(project_dir: str, name: str) -> list[dict]:
    file = Path(project_dir, "target", name)
    return json.loads(file.read_text())["results"] if file.exists() else []
