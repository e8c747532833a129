"""What the artifacts that dbt's runs have left say about them over time."""

import io
import json
import os
from collections import defaultdict
from statistics import median

from rich.console import Console
from rich.table import Table

from local.dbt import chosen_project
from local.progress import console
from local.settings import HOME, Failure, machine_settings

# Of each table.
ROWS = 15
# Statuses of a node, as they are counted.
GOOD, WARN, NOT_RUN = {"success", "pass"}, {"warn"}, {"skipped", "no-op"}


def report(args) -> None:
    """Print the newest tries of dbt, its slowest nodes, and the tests that fail or warn most.

    The same stands in report.html then.

    Raises:
        Failure: nothing is kept of the project.
    """
    # Here, as it takes seconds, which no other command has to wait.
    from airflow.sdk import ObjectStoragePath

    project = chosen_project().name
    root = os.environ.get("DBT_ARTIFACTS") or machine_settings()["DBT_ARTIFACTS"]
    tries = _tries(ObjectStoragePath(root) / project)
    if not tries:
        raise Failure(f"Nothing is kept of {project} in {root}: run a DAG that builds it.")
    page = Console(record=True, width=160, file=io.StringIO())
    for table in (_newest(tries), _slowest(tries), _worst(tries)):
        console.print(table)
        page.print(table)
    page.save_html(str(HOME / "report.html"))
    console.print(f"As a page: {HOME / 'report.html'}")


def _tries(place) -> list[dict]:
    """Return what dbt has written of each try, the newest first, with what Airflow calls it."""
    found = []
    for file in place.glob("*/*/*@*/run_results.json"):
        _, _, attempt = file.parent.name.split("@")
        dag_id, target = file.parent.parent.name, file.parent.parent.parent.name
        written = json.loads(file.read_text())
        time = written["metadata"]["generated_at"][:16].replace("T", " ")
        found.append({**written, "time": time, "target": target, "dag": dag_id, "try": attempt})
    return sorted(found, key=lambda one: one["metadata"]["generated_at"], reverse=True)


def _newest(tries: list[dict]) -> Table:
    names = ("time", "target", "dag", "try")
    table = _table("Newest tries", *names, "seconds", "good", "warn", "failed", "not run")
    for one in tries[:ROWS]:
        states = [result["status"] for result in one["results"]]
        counts = [sum(state in group for state in states) for group in (GOOD, WARN, NOT_RUN)]
        failed = len(states) - sum(counts)
        figures = (f"{one['elapsed_time']:.1f}", *counts[:2], failed, counts[2])
        table.add_row(*(one[name] for name in names), *map(str, figures))
    return table


def _slowest(tries: list[dict]) -> Table:
    table = _table(
        "Slowest nodes", "node", "tries", "median seconds", "newest", "rows of the newest"
    )
    seconds, rows = defaultdict(list), {}
    for result in (result for one in tries for result in one["results"]):
        if result["status"] not in NOT_RUN:
            seconds[result["unique_id"]].append(result["execution_time"])
            rows.setdefault(result["unique_id"], result["adapter_response"].get("rows_affected"))
    for node, times in sorted(seconds.items(), key=lambda item: -median(item[1]))[:ROWS]:
        told = rows[node] if rows[node] is not None and rows[node] >= 0 else ""
        table.add_row(
            _name(node), *map(str, (len(times), f"{median(times):.2f}", f"{times[0]:.2f}", told))
        )
    return table


def _worst(tries: list[dict]) -> Table:
    table = _table(
        "What fails or warns most", "node", "failed", "warned", "of tries", "newest message"
    )
    counts, messages = defaultdict(lambda: [0, 0, 0]), {}
    for result in (result for one in tries for result in one["results"]):
        if (status := result["status"]) not in NOT_RUN:
            count = counts[result["unique_id"]]
            bad = status not in GOOD | WARN
            count[0] += bad
            count[1] += status in WARN
            count[2] += 1
            if bad or status in WARN:
                messages.setdefault(result["unique_id"], result["message"])
    for node in sorted(messages, key=lambda node: counts[node], reverse=True)[:ROWS]:
        table.add_row(_name(node), *map(str, counts[node]), messages[node].splitlines()[0])
    return table


def _name(unique_id: str) -> str:
    """Return a node's kind and name. The id of a test ends with a hash."""
    kind, _, *names = unique_id.split(".")
    return f"{kind} {names[0] if kind == 'test' else '.'.join(names)}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
