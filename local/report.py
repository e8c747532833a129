"""Statistics of the dbt artifacts that the runs of the DAGs have kept: `make report`."""

import io
import json
from collections import Counter, defaultdict
from statistics import median

from rich.console import Console
from rich.table import Table

from local.dbt import chosen_project
from local.progress import console
from local.settings import Failure, Settings

ROWS_PER_TABLE = 15
GOOD, WARN, NOT_RUN = {"success", "pass"}, {"warn"}, {"skipped", "no-op"}


def report(settings: Settings, project: str | None) -> None:
    """Print the newest tries of dbt, its slowest nodes, and the nodes that fail or warn most.

    The same tables are written to report.html.

    Raises:
        Failure: there are no artifacts of the project.
    """
    # Imported here, because it takes seconds and other commands do not need it.
    from airflow.sdk import ObjectStoragePath

    name = chosen_project(settings, project).name
    root = settings.environment.get("DBT_ARTIFACTS") or settings.machine_env()["DBT_ARTIFACTS"]
    tries = _tries(ObjectStoragePath(root) / name)
    if not tries:
        raise Failure(f"There are no artifacts of {name} in {root}: run a DAG that builds it.")
    page = Console(record=True, width=160, file=io.StringIO())
    for table in (_newest(tries), _slowest(tries), _worst(tries)):
        console.print(table)
        page.print(table)
    page.save_html(str(settings.home / "report.html"))
    console.print(f"As a page: {settings.home / 'report.html'}")


def _tries(folder) -> list[dict]:
    """Return the run results of each try of a build task, the newest first."""
    found = []
    for file in folder.glob("*/*/*@*/run_results.json"):
        _, _, try_number = file.parent.name.split("@")
        dag_id, target = file.parent.parent.name, file.parent.parent.parent.name
        content = json.loads(file.read_text())
        time = content["metadata"]["generated_at"][:16].replace("T", " ")
        found.append({**content, "time": time, "target": target, "dag": dag_id, "try": try_number})
    return sorted(found, key=lambda one: one["metadata"]["generated_at"], reverse=True)


def _results(tries: list[dict]) -> list[dict]:
    every = (result for one in tries for result in one["results"])
    return [result for result in every if result["status"] not in NOT_RUN]


def _newest(tries: list[dict]) -> Table:
    names = ("time", "target", "dag", "try")
    table = _table("Newest tries", *names, "seconds", "good", "warn", "failed", "not run")
    for one in tries[:ROWS_PER_TABLE]:
        statuses = [result["status"] for result in one["results"]]
        good, warn, not_run = (sum(s in group for s in statuses) for group in (GOOD, WARN, NOT_RUN))
        failed = len(statuses) - good - warn - not_run
        counts = (f"{one['elapsed_time']:.1f}", good, warn, failed, not_run)
        table.add_row(*(one[name] for name in names), *map(str, counts))
    return table


def _slowest(tries: list[dict]) -> Table:
    columns = ("node", "tries", "median seconds", "newest", "rows of the newest")
    table = _table("Slowest nodes", *columns)
    seconds, rows = defaultdict(list), {}
    for result in _results(tries):
        seconds[result["unique_id"]].append(result["execution_time"])
        rows.setdefault(result["unique_id"], result["adapter_response"].get("rows_affected"))
    by_median = sorted(seconds.items(), key=lambda item: -median(item[1]))
    for node, times in by_median[:ROWS_PER_TABLE]:
        affected = "" if rows[node] is None or rows[node] < 0 else str(rows[node])
        table.add_row(
            _name(node), str(len(times)), f"{median(times):.2f}", f"{times[0]:.2f}", affected
        )
    return table


def _worst(tries: list[dict]) -> Table:
    columns = ("node", "failed", "warned", "of tries", "newest message")
    table = _table("What fails or warns most", *columns)
    failed, warned, total, messages = Counter(), Counter(), Counter(), {}
    for result in _results(tries):
        node, status = result["unique_id"], result["status"]
        total[node] += 1
        warned[node] += status in WARN
        failed[node] += status not in GOOD | WARN
        if status not in GOOD:
            messages.setdefault(node, result["message"])
    worst = sorted(messages, key=lambda node: (-failed[node], -warned[node], -total[node]))
    for node in worst[:ROWS_PER_TABLE]:
        counts = map(str, (failed[node], warned[node], total[node]))
        table.add_row(_name(node), *counts, messages[node].splitlines()[0])
    return table


def _name(unique_id: str) -> str:
    """Return a node's resource type and name. The unique ID of a test ends with a hash."""
    resource_type, _, *names = unique_id.split(".")
    return f"{resource_type} {names[0] if resource_type == 'test' else '.'.join(names)}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
