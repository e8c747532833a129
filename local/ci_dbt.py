"""Slim CI: `make ci-dbt` builds what a pull request changes, `make ci-dbt-drop` drops it.

Nodes that differ from the artifacts of prod are built with everything downstream, into schemas of
the pull request. All other relations are read from prod, where nothing is written.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from psycopg.sql import SQL, Identifier

from local import postgres
from local.dbt import chosen_project, command_env, install_packages
from local.progress import console
from local.settings import Failure, Settings

TITLE = "### What this pull request changes in dbt"
# GitHub refuses comments of more than 65,536 characters.
MAX_ROWS, MAX_MESSAGE = 150, 200
CHANGED = ("--select", "state:modified+")
# An incremental model and a snapshot are built on a clone of prod's table, as the next run of prod
# will build them. If contract, configuration or name differ, that table cannot be used.
CLONED_KINDS = ("incremental", "snapshot")
CLONED = (
    *("--select", *(f"state:modified+,config.materialized:{k},state:old" for k in CLONED_KINDS)),
    *("--exclude", "state:modified.contract", "state:modified.configs", "state:modified.relation"),
)


def ci_dbt(settings: Settings, project: str, pr: str, state: str, full_refresh: bool) -> None:
    prefix = schema_prefix(pr)
    folder = chosen_project(settings, project)
    home = settings.home / "ci-dbt" / folder.name
    (home / "state").mkdir(parents=True, exist_ok=True)
    comment = home / "comment.md"
    comment.write_text(f"{TITLE}\n\nFailed before `dbt build`: see the log of the job.\n")
    prod = copy_manifest(state, home / "state")
    # dbt runs in this process, and reads the environment of the process.
    os.environ.update(command_env(settings, folder), PR=pr)
    install_packages(folder, {**os.environ})
    options = ("--target", "ci", "--target-path", str(home / "target"))
    options += ("--state", str(home / "state"))

    listed = dbt(folder, "ls", *options, *CHANGED, "--output", "json", log_level="none")
    changed = {json.loads(line)["unique_id"] for line in listed.result}
    manifest = json.loads((home / "target" / "manifest.json").read_text())
    if (name := prod["metadata"]["project_name"]) != manifest["metadata"]["project_name"]:
        raise Failure(f"STATE={state} has the artifacts of another dbt project, {name}.")
    # A manifest does not list functions among its nodes.
    for artifact in (prod, manifest):
        artifact["nodes"] |= artifact.get("functions", {})
    # `dbt ls` lists no analyses and operations, which `dbt build` does not build.
    nodes = {k: node for k, node in manifest["nodes"].items() if k in changed}
    for node in nodes.values():
        if not node["schema"].startswith(prefix):
            raise Failure(
                f"{node['name']} would be built into the schema {node['schema']}. With the target "
                f"ci, a schema must begin with {prefix}: see the macro generate_schema_name."
            )
    # Relations that only an earlier push has built must not stay.
    drop(settings, prefix, among={node["schema"] for node in manifest["nodes"].values()})
    deleted = {k for k, node in prod["nodes"].items() if is_relation(node)} - {*manifest["nodes"]}
    rows = [(relation(prod["nodes"][k]), "deleted; prod has it until you drop it") for k in deleted]
    if not nodes and not changed & {*manifest["unit_tests"]}:
        publish(comment, prod, "Nothing to build: no node differs from prod's.", sorted(rows))
        return

    cloned = set()
    kinds = {node["config"]["materialized"] for node in nodes.values()}
    # dbt needs this macro to clone a table; without it, it would create a view.
    can_clone = any(name.endswith(".postgres__can_clone_table") for name in manifest["macros"])
    if can_clone and not full_refresh and kinds & {*CLONED_KINDS}:
        done = dbt(folder, "clone", *options, *CLONED, log_level="error")
        # The clone of a model that prod has not built yet fails. That model is built in full.
        cloned = {r.node.unique_id for r in done.result if r.status == "success"}
    options += ("--full-refresh",) if full_refresh else ()
    done = dbt(folder, "build", *options, *CHANGED, "--defer", "--favor-state")
    rows += [(relation(prod["nodes"][k]), "read from prod") for k in deferred(manifest, nodes)]
    failed, built, passed = sort_results(done.result, cloned)
    # Failed nodes come first.
    publish(comment, prod, f"Tests that passed: {passed}.", sorted(failed) + sorted(built + rows))
    if not done.success:
        raise Failure("dbt build failed: see above.")


def ci_dbt_drop(settings: Settings, pr: str) -> None:
    prefix = schema_prefix(pr)
    dropped = drop(settings, prefix)
    console.print(f"Dropped: {', '.join(dropped) or f'nothing, there is no schema {prefix}*'}")


def schema_prefix(pr: str) -> str:
    """Return the prefix of all schemas of a pull request, which no other schema has."""
    if not (pr.isascii() and pr.isdecimal()):
        raise Failure(f"PR={pr} is not a number: write PR=123, the number of the pull request.")
    return f"ci_{pr}_"


def copy_manifest(source: str, folder: Path) -> dict:
    """Copy prod's manifest from the folder or address that STATE= names, and return it."""
    from airflow.sdk import ObjectStoragePath

    if not source:
        raise Failure("STATE= is missing: make ci-dbt STATE=<folder of prod's artifacts> PR=123")
    try:
        text = (ObjectStoragePath(source) / "manifest.json").read_text()
        manifest = json.loads(text)
    except Exception as error:
        raise Failure(f"STATE={source}: its manifest.json cannot be read: {error}") from None
    (folder / "manifest.json").write_text(text)
    return manifest


def dbt(project: Path, command: str, *words: str, log_level: str = "info"):
    """Run dbt in this process, which imports it once; return its result."""
    from dbt.cli.main import dbtRunner

    start = ("--log-level", log_level, command, "--project-dir", str(project))
    done = dbtRunner().invoke([*start, *words])
    if done.exception:
        message = " ".join(str(done.exception).split())
        raise Failure(f"dbt {command} failed in {project}: {message}")
    return done


def is_relation(node: dict) -> bool:
    """Return whether a node is a table or view that other nodes can read."""
    if node["resource_type"] in ("analysis", "operation", "test"):
        return False
    return node["config"]["materialized"] != "ephemeral"


def deferred(manifest: dict, nodes: dict) -> set[str]:
    """Return the other relations that `nodes` read, directly or through ephemeral models."""
    found, pending = set(), {*nodes}
    while pending:
        parents = {p for k in pending for p in manifest["parent_map"][k] if p in manifest["nodes"]}
        pending = {p for p in parents if not is_relation(manifest["nodes"][p])} - {*nodes}
        found |= parents - pending
    return found - {*nodes}


def relation(node: dict) -> str:
    return f"{node['schema']}.{node['alias']}"


def sort_results(results: Iterable, cloned: set[str]) -> tuple[list, list, int]:
    """Return the rows of what failed and of what was built, and the number of passed tests."""
    failed, built, passed = [], [], 0
    for result in results:
        node = result.node
        if node.resource_type in ("exposure", "saved_query"):
            continue
        is_test = node.resource_type in ("test", "unit_test")
        name = node.name if is_test else f"{node.schema}.{node.alias}"
        if result.status not in ("success", "pass"):
            message = " ".join((result.message or "").split()).replace("|", "\\|")[:MAX_MESSAGE]
            failed.append((name, f"**{result.status}** {message}".rstrip()))
        elif is_test:
            passed += 1
        elif node.unique_id in cloned:
            built.append((name, "cloned from prod, then built incrementally"))
        elif is_relation(node.to_dict()):
            built.append((name, "built"))
    return failed, built, passed


def publish(comment: Path, prod: dict, summary: str, rows: list[tuple[str, str]]) -> None:
    """Write the comment for the pull request, and print it."""
    compared = f"Compared with prod's manifest of {prod['metadata']['generated_at'][:16]} UTC."
    lines = [TITLE, "", f"{compared} {summary}"]
    if rows:
        lines += ["", "| node | result |", "| --- | --- |"]
    table = [f"| `{name}` | {what} |" for name, what in rows]
    console.print("\n".join(lines + table))
    if len(table) > MAX_ROWS:
        table[MAX_ROWS:] = [f"| ... | {len(rows) - MAX_ROWS} more: see the log of the job |"]
    comment.write_text("\n".join(lines + table) + "\n")


def drop(settings: Settings, prefix: str, among: set[str] | None = None) -> list[str]:
    """Drop the schemas with a prefix, or only those in `among`; return their names."""
    with postgres.connect(settings) as connection:
        schemas = postgres.schemas(connection, prefix)
        found = [name for name in schemas if among is None or name in among]
        for name in found:
            connection.execute(SQL("drop schema {} cascade").format(Identifier(name)))
    return found
