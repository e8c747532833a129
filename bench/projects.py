"""The dbt projects that are run: the sample, and generated ones of any size."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from include.nyc_flights import warehouse
from local.findings import PROFILES_YML
from local.settings import ROOT, Failure, dbt_env

SAMPLE = ROOT / "dbt" / "nyc_flights"
NAMES = [SAMPLE.name, "models_50", "models_200", "slow_200", "failing_200", "models_1000"]
THREADS = {"slow_200": 8}
# What a model of slow_200 waits for in the warehouse, and how many are behind the one that fails.
SLEEP_SECONDS = 0.5
BEHIND = 20

# The day of the archive that the sample is run for.
START = date(2013, 3, 14)
END = START + timedelta(days=1)

LAYERS = 5
PROJECT_YML = """\
name: {name}
version: "1.0.0"
config-version: 2
profile: {name}
flags:
  send_anonymous_usage_stats: false
models:
  {name}:
    +materialized: table
"""


@dataclass(frozen=True)
class Project:
    folder: Path
    models: int
    tests: int
    # What a whole run leaves in the warehouse, as schema.name.
    relations: frozenset[str]


def write(folder: Path, name: str) -> None:
    """Write a project to a folder that is not there yet."""
    if name == SAMPLE.name:
        ignored = shutil.ignore_patterns("target", "logs", "dbt_packages")
        shutil.copytree(SAMPLE, folder, ignore=ignored)
    else:
        # Without the lock in create_schema, dbt processes that start at the same time can fail.
        shutil.copytree(SAMPLE / "macros" / "postgres", folder / "macros" / "postgres")
        (folder / "dbt_project.yml").write_text(PROJECT_YML.format(name=name))
    (folder / "profiles.yml").write_text(PROFILES_YML.format(name=name, schema=name))
    if name == SAMPLE.name:
        return
    kind, count = name.split("_")
    _write_models(folder / "models", int(count), sleep=kind == "slow")
    if kind == "failing":
        _write_failing(folder / "models" / "failing")


def _write_failing(folder: Path) -> None:
    """Write a model that fails, and models that read it."""
    folder.mkdir()
    (folder / "failing.sql").write_text("select 1 / 0 as id from {{ ref('layer_1_model_1') }}\n")
    for number in range(1, BEHIND + 1):
        (folder / f"behind_{number}.sql").write_text("select id from {{ ref('failing') }}\n")


def _write_models(folder: Path, count: int, sleep: bool) -> None:
    """Write models in layers, each of ten rows and with one test.

    A model reads two of the layer before. What the warehouse does for it costs next to nothing, so
    that what a way of running it adds can be seen.
    """
    above: list[str] = []
    for layer in range(1, LAYERS + 1):
        # What is left over after the division goes to the first layers.
        width = count // LAYERS + (layer <= count % LAYERS)
        models = [f"layer_{layer}_model_{number}" for number in range(1, width + 1)]
        place = folder / f"layer_{layer}"
        place.mkdir(parents=True)
        for number, model in enumerate(models):
            parents = [above[n % len(above)] for n in (number, number + 1)] if above else []
            reads = [f"select id from {{{{ ref('{name}') }}}}\n" for name in parents]  # noqa: S608
            sql = "union\n".join(reads) or "select generate_series(1, 10) as id\n"
            if sleep:
                sql = f"select id from ({sql}) as rows, pg_sleep({SLEEP_SECONDS})\n"  # noqa: S608
            (place / f"{model}.sql").write_text(sql)
        columns = [{"name": "id", "data_tests": ["unique"]}]
        properties = [{"name": model, "columns": columns} for model in models]
        # JSON is YAML too.
        (place / "models.yml").write_text(json.dumps({"models": properties}, indent=1))
        above = models


def parse(folder: Path, dbt: Path) -> Project:
    """Parse a project and return what is in it. Every run finds what this leaves in target/."""
    done = subprocess.run(
        [dbt, "--quiet", "parse", *words(folder)],
        cwd=folder,
        env={**os.environ, **env()},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise Failure(f"dbt can't parse {folder}: {done.stdout}")
    nodes = json.loads((folder / "target" / "manifest.json").read_text())["nodes"].values()
    types = [node["resource_type"] for node in nodes]
    return Project(
        folder,
        models=types.count("model"),
        tests=types.count("test"),
        relations=frozenset(
            f"{node['schema']}.{node['alias']}"
            for node in nodes
            if node["resource_type"] in ("model", "seed", "snapshot")
            and "failing" not in node["fqn"]
        ),
    )


def words(folder: Path) -> list[str]:
    """Return what every call of dbt names, as Cosmos does: others make dbt parse all again."""
    return ["--profile", folder.name, "--target", "prod", *threads(folder.name)]


def expected_code(folder: Path) -> int:
    """Return what `dbt build` of a project ends with: 1 where a model is made to fail."""
    return int(folder.name.startswith("failing_"))


def threads(name: str) -> list[str]:
    """Return dbt's option for a project's threads, if they are not the profile's."""
    return ["--threads", str(THREADS[name])] if name in THREADS else []


def env() -> dict[str, str]:
    """Return the variables that dbt reads, in whichever process it runs."""
    return {
        **dbt_env(),
        "DBT_EVENT_TIME_START": START.isoformat(),
        "DBT_EVENT_TIME_END": END.isoformat(),
    }


def load_raw(connection) -> None:
    """Load what the sample reads."""
    warehouse.load(connection, START, END)


def drop_built(connection) -> None:
    """Leave nothing in the warehouse but what was loaded."""
    built = """
        select nspname from pg_namespace
        where nspowner = current_user::regrole and nspname <> 'raw'
    """
    for (schema,) in connection.execute(built).fetchall():
        connection.execute(f"drop schema {schema} cascade")


def missing(connection, project: Project) -> list[str]:
    """Return which relations of a project the warehouse lacks."""
    there = connection.execute(
        "select table_schema || '.' || table_name from information_schema.tables"
    )
    return sorted(project.relations - {name for (name,) in there})
