"""The dbt projects that are run: the sample, and generated ones of any size."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import yaml

from local.settings import BIN, ROOT, Failure, Settings

SETTINGS = Settings.from_environment(os.environ)
SAMPLE = ROOT / "dbt" / "nyc_flights"
# The day that the sample is run for.
START = date(2013, 3, 14)
END = START + timedelta(days=1)
LAYERS = 5
# Models of the layer before the last that are cleared.
CLEARED = [f"layer_4_model_{number}" for number in range(1, 21)]
PROJECT = {"flags": {"send_anonymous_usage_stats": False}, "models": {"+materialized": "table"}}
# The second time nextval() returns more than 1, although the first transaction is rolled back.
FAILS_ONCE = "select 1 / (nextval('bench.builds') - 1) as id from {{ ref('layer_1_model_1') }}\n"


@dataclass(frozen=True)
class Project:
    # The project has no target/, like one in a repository.
    folder: Path
    # The file that dbt writes when it parses the project.
    manifest: Path
    # The tables and views that a whole run builds, as schema.name.
    relations: frozenset[str]


def prepare(folder: Path) -> Project:
    """Write the project that the folder is named after, and return what is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, folder.name)
    # dbt writes to another folder, so that the project gets no target/ and no logs/.
    target = folder.with_name(f"{folder.name}.target")
    paths = {"DBT_TARGET_PATH": str(target), "DBT_LOG_PATH": str(target)}
    words = [BIN / "dbt", "--quiet", "parse", "--no-partial-parse"]
    if subprocess.run(words, cwd=folder, env=os.environ | env() | paths).returncode:
        raise Failure(f"dbt can't parse {folder}")
    manifest = target / "manifest.json"
    nodes = json.loads(manifest.read_text())["nodes"].values()
    built = [node for node in nodes if node["resource_type"] in ("model", "seed", "snapshot")]
    return Project(folder, manifest, frozenset(f"{n['schema']}.{n['alias']}" for n in built))


def write(folder: Path, name: str) -> None:
    kind, _, count = name.partition("_")
    if name == SAMPLE.name:
        shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("target", "logs"))
    else:
        parts = ["half_1_", "half_2_"] if kind == "halves" else [""]
        for part in parts:
            models = folder / "models" / part.removesuffix("_")
            _write_models(models, part, int(count) // len(parts))
        if kind == "flaky":
            (folder / "models" / "fails_once.sql").write_text(FAILS_ONCE)
            (folder / "models" / "child.sql").write_text("select id from {{ ref('fails_once') }}\n")
        content = json.dumps(PROJECT | {"name": name, "profile": name})
        (folder / "dbt_project.yml").write_text(content)
        # The macros that dbt needs on this warehouse.
        shutil.copytree(SAMPLE / "macros", folder / "macros")
    profile = yaml.safe_load((ROOT / "local" / "profiles.yml").read_text())["local"]
    outputs = {"prod": {**profile["outputs"]["prod"], "schema": name}}
    content = json.dumps({name: {"target": "prod", "outputs": outputs}})
    (folder / "profiles.yml").write_text(content)


def _write_models(folder: Path, prefix: str, count: int) -> None:
    """Write models in layers, each of ten rows and with one test.

    A model reads two of the layer before. The warehouse does next to nothing for it, so that the
    cost of running it is visible.
    """
    above: list[str] = []
    for layer in range(1, LAYERS + 1):
        width = count // LAYERS + (layer <= count % LAYERS)
        models = [f"{prefix}layer_{layer}_model_{number}" for number in range(1, width + 1)]
        files = folder / f"layer_{layer}"
        files.mkdir(parents=True)
        for number, model in enumerate(models):
            parents = [above[n % len(above)] for n in (number, number + 1)] if above else []
            reads = [f"select id from {{{{ ref('{name}') }}}}\n" for name in parents]  # noqa: S608
            sql = "union\n".join(reads) or "select generate_series(1, 10) as id\n"
            (files / f"{model}.sql").write_text(sql)
        columns = [{"name": "id", "data_tests": ["unique"]}]
        properties = [{"name": model, "columns": columns} for model in models]
        (files / "models.yml").write_text(json.dumps({"models": properties}, indent=1))
        above = models


def env() -> dict[str, str]:
    """Return the variables that dbt reads, in whichever process it runs."""
    event_time = {"DBT_EVENT_TIME_START": str(START), "DBT_EVENT_TIME_END": str(END)}
    return SETTINGS.dbt_env() | event_time


def drop_built(connection, _: Project | None = None) -> None:
    """Drop everything but what was loaded. The model that fails once will fail again."""
    owned = "select nspname from pg_namespace where nspowner = current_user::regrole"
    for (schema,) in connection.execute(f"{owned} and nspname <> 'raw'").fetchall():
        connection.execute(f"drop schema {schema} cascade")
    connection.execute("create schema bench create sequence builds")


def drop_cleared(connection, project: Project) -> None:
    """Drop the tables of the models that are cleared: a run has to build them again."""
    for name in CLEARED:
        connection.execute(f"drop table {project.folder.name}.{name}")


def missing(connection, project: Project) -> list[str]:
    """Return which relations of a project the warehouse lacks."""
    query = "select table_schema || '.' || table_name from information_schema.tables"
    return sorted(project.relations - {name for (name,) in connection.execute(query)})
