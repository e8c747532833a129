"""What a dbt project needs before its DAG can succeed here: `make check-project`.

dbt parses the project as the DAG does, and builds it on an empty Postgres that is then deleted.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from local import postgres
from local.dbt import chosen_project, command_env
from local.progress import console, step
from local.settings import BIN, ROOT, Failure, Settings, shared_env

# A build of more models takes minutes, so it is not a part of `make adopt`.
MANY_MODELS = 1000
BUILT = ("model", "seed", "snapshot")
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema")
COLUMNS = """
    select string_agg(format('%%I %%s', attname, format_type(atttypid, atttypmod)), ', ')
    from pg_attribute
    where attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))
    and attnum > 0 and not attisdropped
"""
# dbt's message about an environment variable that has no default.
MISSING_VARIABLE = re.compile(r"Env var required but not provided: '(\w+)'")
COMMENTS = re.compile(r"--[^\n]*|/\*.*?\*/", flags=re.DOTALL)


@dataclass
class Findings:
    """The findings about a project, by kind."""

    # The work tree that the DAG file is in.
    tree: Path
    dag_file: Path
    parse_error: str = ""
    variables: list[str] = field(default_factory=list)
    # Tables that the project reads and the warehouse lacks, by schema.
    missing: dict[str, list[str]] = field(default_factory=dict)
    # Tables that the project reads and the warehouse has, with the SQL of their columns.
    existing: dict[tuple[str, str], str] = field(default_factory=dict)
    # Seeds that have the schema and the name of a source.
    seeds_as_sources: list[str] = field(default_factory=list)
    postgres_errors: list[str] = field(default_factory=list)
    # dbt's message, if dbt could not build any node.
    build_error: str = ""
    only_parsed: str = ""

    def print(self) -> None:
        """Print the findings of each kind as lines below a heading."""
        groups = {
            "Environment variables without a default. Set them in your shell for `make start`, in "
            ".env for the Astro CLI, and in the deployment; or only for this project in "
            f"{self.dag_file.relative_to(self.tree)}, as env_vars of its ProjectConfig:": (
                self.variables
            ),
            "dbt cannot parse the project:": self.parse_error.splitlines(),
            "Tables that must be loaded before dbt runs, by schema:": [
                f"{schema}: {', '.join(names)}" for schema, names in self.missing.items()
            ],
            "Sources that are seeds of the project. Write a DAG file with the seeds in a group of "
            "their own, before the other nodes, as in local/adopted/dag_with_seeds.py.txt:": (
                self.seeds_as_sources
            ),
            "Cannot run on Postgres:": self.postgres_errors,
            "dbt could not build the project on an empty Postgres, without the env_vars and "
            "dbt_vars of its DAG file:": self.build_error.splitlines(),
        }
        for heading, lines in groups.items():
            if lines:
                console.print(f"\n{heading}", *lines, sep="\n  ")
        if self.only_parsed:
            console.print(f"\nOnly parsed: {self.only_parsed}")
        if not any(groups.values()):
            console.print("Nothing is missing. Next, run make start, make test and make lint.")


def check_project(settings: Settings, name: str, parse_only: bool) -> None:
    project = chosen_project(settings, name)
    texts = {file: file.read_text() for file in sorted((ROOT / "dags").rglob("*.py"))}
    named = re.compile(rf"""["'/]{re.escape(project.name)}["']""")
    found = [file for file, text in texts.items() if named.search(text)]
    if not found:
        raise Failure(f"No file in dags/ names {project.name}: write a DAG for it first.")
    # A file that does not use the engine may only mention the project, as in a tag.
    dag_file = max(found, key=lambda file: "include.dbt_build" in texts[file])
    findings = check(settings, project.resolve(), dag_file, builds=not parse_only)
    if "resource_type:seed" in texts[dag_file]:
        # The DAG builds the seeds first.
        findings.seeds_as_sources = []
    findings.print()


def check(settings: Settings, project: Path, dag_file: Path, builds: bool | None) -> Findings:
    """Return what a project needs before its DAG can succeed.

    The DAG file can be in a copy of the work tree. If `builds` is None, dbt builds the project
    unless it has many models.
    """
    tree = next(folder.parent for folder in dag_file.parents if folder.name == "dags")
    findings = Findings(tree, dag_file)
    with step(f"Looking for what {project.name} needs") as show, TemporaryDirectory() as folder:
        workdir = _parse(settings, project, Path(folder), findings)
        if workdir is None:
            return findings
        manifest = json.loads((workdir / "target" / "manifest.json").read_text())
        missing = _find_sources(settings, manifest, findings)
        models = sum(node["resource_type"] == "model" for node in manifest["nodes"].values())
        if builds is False or (builds is None and models > MANY_MODELS):
            findings.only_parsed = (
                f"all {models} models. `make check-project NAME={project.name}` builds them too."
            )
            return findings
        show(f"building {project.name} on an empty Postgres")
        _build(settings, workdir, manifest, missing, findings)
    return findings


def _parse(settings: Settings, project: Path, folder: Path, findings: Findings) -> Path | None:
    """Parse the project as its DAG file does; return the working directory, with the manifest."""
    tree = findings.tree
    env = settings.environment | shared_env() | settings.machine_env() | settings.dbt_env()
    env |= {
        "DBT_PROJECTS_DIR": str(project.parent),
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(findings.dag_file),
        "AIRFLOW__COSMOS__CACHE_DIR": str(folder),
        # There is no database for it.
        "AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False",
    }

    def parse(env: dict[str, str]) -> str:
        command = [sys.executable, "-m", "include.dbt_build"]
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    error = parse(env)
    # dbt names one variable in each parse.
    while (found := MISSING_VARIABLE.search(error)) and found[1] not in findings.variables:
        findings.variables = sorted([*findings.variables, found[1]])
        error = parse(env | {name: name.lower() for name in findings.variables})
    if files := [*folder.glob(f"dbt_projects/**/{project.name}/target/manifest.json")]:
        return files[0].parents[1]
    _, _, message = error.partition("cannot be imported:\n")
    findings.parse_error = (message or error).strip().replace(f"{tree}/", "") or (
        f"{findings.dag_file.name} has no DbtDag or DbtTaskGroup of include.dbt_build for it."
    )
    return None


def _find_sources(settings: Settings, manifest: dict, findings: Findings) -> set:
    """Add the sources that nodes read to the findings; return the missing relations."""
    seeds = {
        (node["schema"], node["alias"])
        for node in manifest["nodes"].values()
        if node["resource_type"] == "seed"
    }
    read = {
        (source["schema"], source["identifier"])
        for unique_id, source in manifest["sources"].items()
        if source["schema"] not in SYSTEM_SCHEMAS
        for child in manifest["child_map"][unique_id]
        if child in manifest["nodes"] and is_read(source, manifest["nodes"][child])
    }
    findings.seeds_as_sources = sorted(name for _, name in read & seeds)
    findings.existing = _existing_tables(settings, read - seeds)
    missing = read - seeds - findings.existing.keys()
    for schema, name in sorted(missing):
        findings.missing.setdefault(schema, []).append(name)
    return missing


def is_read(source: dict, node: dict) -> bool:
    """Return whether a node reads a source outside of SQL comments, which dbt renders too."""
    first, second = re.escape(source["source_name"]), re.escape(source["name"])
    names = rf"['\"]{first}['\"]\s*,\s*['\"]{second}['\"]"
    call, code = re.compile(rf"source\(\s*{names}\s*\)"), node.get("raw_code") or ""
    # If there is no literal call, a macro calls source().
    return not call.search(code) or bool(call.search(COMMENTS.sub("", code)))


def _existing_tables(settings: Settings, relations: set) -> dict:
    """Return the relations that exist in the warehouse, each with the SQL of its columns."""
    if not (settings.environment.get("WAREHOUSE_URL") or postgres.data_folder(settings).exists()):
        return {}
    with postgres.running(settings), postgres.connect(settings) as connection:
        return {
            relation: columns
            for relation in relations
            if (columns := connection.execute(COLUMNS, relation).fetchone()[0])
        }


def _build(
    settings: Settings, workdir: Path, manifest: dict, missing: set, findings: Findings
) -> None:
    """Build the project on an empty Postgres, without the nodes that depend on a missing source."""
    folder = workdir.parent / "build"
    port = str(postgres.pgserver.find_suitable_port())
    environment = settings.environment | {"WAREHOUSE_URL": "", "DBT_PROFILES_DIR": ""}
    server = replace(settings, home=folder, warehouse_port=port, environment=environment)
    env = command_env(server, workdir) | shared_env()
    env |= {name: name.lower() for name in findings.variables}
    # dbt builds one day of each microbatch model.
    env |= {"DBT_EVENT_TIME_START": "2026-01-01", "DBT_EVENT_TIME_END": "2026-01-02"}
    env |= {"DBT_TARGET_PATH": str(folder), "DBT_PROJECT_DIR": str(workdir)}
    # The schema of the parse, so that the project finds the copies of existing tables.
    env |= {"WAREHOUSE_PROD_SCHEMA": workdir.name.replace("-", "_")}

    def dbt(*words: str) -> str:
        command = [BIN / "dbt", "--quiet", *words]
        return subprocess.run(command, cwd=workdir, env=env, capture_output=True, text=True).stdout

    with postgres.running(server):
        unreadable = missing | _create_tables(server, findings.existing)
        excluded = [
            f"source:{source['package_name']}.{source['source_name']}.{source['name']}+"
            for source in manifest["sources"].values()
            if (source["schema"], source["identifier"]) in unreadable
        ]
        if findings.seeds_as_sources:
            # The file with the results must be that of the build.
            dbt("--no-write-json", "seed")
        # --empty would add an alias to each ref(), and a model may already give one. The tables of
        # the sources are empty anyway.
        exclude = ["--exclude-resource-type", "test", "--exclude-resource-type", "unit_test"]
        exclude += ["--exclude", *excluded] if excluded else []
        printed = dbt("build", *exclude)
    file = folder / "run_results.json"
    if not file.exists():
        findings.build_error = printed.strip() or "dbt has printed no message."
        return
    results = json.loads(file.read_text())["results"]
    for result in results:
        if result["status"] == "error":
            name = result["unique_id"].split(".", 2)[2]
            # The compiled code is deleted with the check.
            message, _, _ = result["message"].partition("compiled code at")
            findings.postgres_errors.append(f"{name}: {' '.join(message.split())}")
    built = {r["unique_id"] for r in results if r["status"] in ("success", "error")}
    to_build = {
        unique_id
        for unique_id, node in manifest["nodes"].items()
        if node["resource_type"] in BUILT and node["config"]["materialized"] != "ephemeral"
    }
    if count := len(to_build - built):
        findings.only_parsed = (
            f"{count} of {len(to_build)} nodes, because they read a table that must be loaded or a "
            "node that failed."
        )


def _create_tables(server: Settings, tables: dict) -> set:
    """Create empty copies of the tables that the project reads; return those without a copy."""
    failed = set()
    with postgres.connect(server) as connection:
        for (schema, name), columns in tables.items():
            try:
                connection.execute(f'create schema if not exists "{schema}"')
                connection.execute(f'create table "{schema}"."{name}" ({columns})')
            except connection.ProgrammingError:
                # A column can have a type of an extension that this Postgres lacks.
                failed.add((schema, name))
    return failed
