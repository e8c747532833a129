"""Slim CI: `make ci-dbt` builds what a pull request changes, `make ci-dbt-drop` drops it.

What differs from prod's artifacts is built with all that depends on it, into schemas of the pull
request's own. All else is read from prod, where nothing is written.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from local import postgres
from local.dbt import chosen_project, lacks_packages, last_month, warehouse
from local.progress import console
from local.settings import HOME, Failure

CHANGED = ("--select", "state:modified+")
# An incremental model that prod has is built as prod's next run will build it: on prod's table. If
# its columns, its configuration or its name are others, that table is of no use.
CLONED = (
    *("--select", "state:modified+,config.materialized:incremental,state:old"),
    *("--exclude", "state:modified.contract", "state:modified.configs", "state:modified.relation"),
)


def ci_dbt(args) -> None:
    prefix = schema_prefix()
    project = chosen_project()
    place = HOME / "ci-dbt" / project.name
    state = prods_state(place / "state")
    prod = manifest(state)
    os.environ.update({**last_month(), **os.environ, **warehouse()})
    if lacks_packages(project):
        dbt(project, "deps")
    # Not the project's own target/, which STATE can be.
    told = ("--target", "ci", "--target-path", str(place / "target"), "--state", str(state))

    listed = dbt(project, "ls", *told, *CHANGED, "--output", "json", log_level="none")
    changed = {json.loads(line)["unique_id"] for line in listed.result}
    known = manifest(place / "target")
    if (name := prod["metadata"]["project_name"]) != known["metadata"]["project_name"]:
        raise Failure(f"STATE= is of another dbt project, {name}.")
    console.print(f"Compared with prod's manifest of {prod['metadata']['generated_at'][:16]} UTC")
    gone = {k for k, node in prod["nodes"].items() if is_table(node)} - {*known["nodes"]}
    say("Gone from the project; prod's table stays until you drop it", prod, gone)
    nodes = {k: n for k, n in known["nodes"].items() if k in changed and is_built(n)}
    for node in nodes.values():
        if not node["schema"].startswith(prefix):
            raise Failure(
                f"{node['name']} would be built into the schema {node['schema']}. With the target "
                f"ci, a schema must begin with {prefix}: see profiles.yml and generate_schema_name."
            )
    # What an earlier push has left there could be taken for a part of this one.
    drop(prefix, among={node["schema"] for node in known["nodes"].values()})
    if not nodes and not changed & {*known["unit_tests"]}:
        console.print("Nothing to build: no node differs from prod's.")
        return

    cloned = set()
    if any(node["config"]["materialized"] == "incremental" for node in nodes.values()):
        done = dbt(project, "clone", *told, *CLONED, log_level="error")
        # Without a macro that clones a table dbt makes a view of it, which is then built anew, as
        # is a model whose clone has failed: prod has not built it yet.
        cloned = {
            r.node.unique_id
            for r in done.result
            if r.status == "success" and r.message != "CREATE VIEW"
        }
    done = dbt(project, "build", *told, *CHANGED, "--defer", "--favor-state")
    built = {r.node.unique_id for r in done.result if r.status in ("success", "partial success")}
    built = {unique_id for unique_id in built & {*nodes} if is_table(nodes[unique_id])}
    console.print()
    say("Built", known, built - cloned)
    say("Cloned from prod, then built incrementally", known, built & cloned)
    say("Read from prod", prod, deferred(known, nodes))
    if not done.success:
        raise Failure("dbt build failed: see above.")


def ci_dbt_drop(args) -> None:
    prefix = schema_prefix()
    dropped = drop(prefix)
    console.print(f"Dropped: {', '.join(dropped) or f'nothing, there is no schema {prefix}*'}")


def schema_prefix() -> str:
    """Return what all schemas of the pull request, and no others, begin with."""
    number = os.environ.get("PR") or ""
    if not (number.isascii() and number.isdecimal()):
        raise Failure(f"PR={number} is no number: write PR=123, the pull request's.")
    return f"ci_{number}_"


def prods_state(scratch: Path) -> Path:
    """Return the folder with prod's manifest that STATE= names, or a copy if that is an address."""
    source = os.environ.get("STATE") or ""
    if not source:
        raise Failure("Say where prod's artifacts are: make ci-dbt STATE=<a folder> PR=<a number>")
    folder = Path(source).expanduser().resolve()
    if "://" in source:
        os.environ.setdefault("AIRFLOW_HOME", str(HOME / "airflow"))
        from airflow.sdk import ObjectStoragePath

        folder = scratch
        folder.mkdir(parents=True, exist_ok=True)
        try:
            text = (ObjectStoragePath(source) / "manifest.json").read_text()
        except Exception as error:
            raise Failure(f"STATE={source}: its manifest.json can't be read: {error}") from None
        (folder / "manifest.json").write_text(text)
    if not (folder / "manifest.json").is_file():
        raise Failure(f"STATE={source} holds no manifest.json: name the folder of a run of prod.")
    return folder


def manifest(folder: Path) -> dict:
    file = folder / "manifest.json"
    try:
        known = json.loads(file.read_text())
        _ = known["metadata"]["project_name"], known["metadata"]["generated_at"], known["nodes"]
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{file} is no manifest of dbt's.") from None
    return known


def dbt(project: Path, command: str, *words: str, log_level: str = "info"):
    """Run dbt in this process, which imports it once; return its result."""
    from dbt.cli.main import dbtRunner

    where = ("--project-dir", str(project), "--profiles-dir", str(project))
    done = dbtRunner().invoke(["--log-level", log_level, command, *where, *words])
    if done.exception:
        said = " ".join(str(done.exception).split())
        raise Failure(f"dbt {command} failed in {project}: {said}")
    return done


def is_built(node: dict) -> bool:
    return node["resource_type"] not in ("analysis", "operation")


def is_table(node: dict) -> bool:
    """Return whether a node is a table or view that others can read."""
    others = is_built(node) and node["resource_type"] != "test"
    return others and node["config"]["materialized"] != "ephemeral"


def deferred(known: dict, nodes: dict) -> set[str]:
    """Return what `nodes` read of what is not among them, through ephemeral models too."""
    found, waiting = set(), [*nodes]
    while waiting:
        for parent in known["nodes"][waiting.pop()]["depends_on"].get("nodes", []):
            node = known["nodes"].get(parent)
            if not node or parent in nodes or parent in found:
                continue
            if is_table(node):
                found.add(parent)
            else:
                waiting.append(parent)
    return found


def say(what: str, known: dict, unique_ids: Iterable[str]) -> None:
    nodes = [known["nodes"][unique_id] for unique_id in unique_ids]
    names = sorted(f"{node['schema']}.{node['alias']}" for node in nodes)
    if names:
        console.print(f"{what}:\n  " + "\n  ".join(names), markup=False, soft_wrap=True)


def drop(prefix: str, among: set[str] | None = None) -> list[str]:
    """Drop the schemas, or those among some, that begin with the prefix; return their names."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    try:
        connection = postgres.connect(warehouse())
    except psycopg.OperationalError as error:
        said = " ".join(str(error).split())
        raise Failure(f"No warehouse: {said}. WAREHOUSE_HOST= names another.") from None
    with connection:
        found = [
            name for name in postgres.schemas(connection, prefix) if among is None or name in among
        ]
        for name in found:
            connection.execute(SQL("drop schema {} cascade").format(Identifier(name)))
    return found
