"""Every way on every project: the order of the runs, and what is kept of them."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import httpx
import psutil

from bench import projects
from bench.measure import Meter
from bench.projects import Project
from bench.settings import SETTINGS
from bench.ways import DBT_BIN, WAYS, YARDSTICK, TooSlow, Way
from local import airflow, postgres
from local.pipeline import console
from local.settings import BIN, ROOT, Failure

# What the figures of a row mean.
FIGURES = {
    "wall_seconds": "each run, from the trigger to the end of the last task; of dbt alone from the "
    "start of its process to its end; null for a run that failed",
    "median_seconds": "the median of the runs that succeeded",
    "over_dbt_build": "median_seconds as a multiple of dbt's in a new process",
    "cpu_seconds": "median, of all processes of Airflow, dbt and Postgres during a run",
    "peak_mb": "the most that they held at once, as proportional set size, looked at each second",
    "parse_seconds": "the dag-processor's last reading of the DAG file",
    "first_line_seconds": "from a task's start in a worker to its operator's first line, median",
    "dag_kb": "the serialized DAG in Airflow's database",
    "ok": "every run succeeded and left every table and view of the project in the warehouse",
}


def compare(file: Path, names: list[str], ways: list[Way], runs: int, limit: float) -> dict:
    """Run each way on each project; return what the file then holds.

    It is written after every way. Rows of an earlier comparison stay until they are run again.
    """
    made = {"commit": commit(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    too_slow: dict[str, str] = {}
    with services() as (warehouse, server):
        for name in names:
            project = prepare(name)
            for way in ways:
                console.print(f"[bold]{name}[/bold]: {way.label}")
                if way.name in too_slow:
                    row = row_of([], [], {}, too_slow[way.name])
                else:
                    row, slow = cell(project, way, runs, limit, warehouse, server)
                    if slow:
                        too_slow[way.name] = f"not tried, as {name} was {row['reason']}"
                if not row["wall_seconds"]:
                    say(row["reason"])
                what = {"project": name, "models": project.models, "tests": project.tests}
                results = keep(file, {**what, "way": way.name, **row, **made})
    return results


def cell(
    project: Project, way: Way, runs: int, limit: float, warehouse, server: psutil.Process
) -> tuple[dict, bool]:
    """Run one way on one project; return its figures, and whether a run took too long."""
    wall, meters, figures, reason, slow = [], [], {}, None, False
    try:
        with way.on(project.folder) as running:
            while len(wall) < runs and not slow:
                projects.drop_built(warehouse)
                try:
                    with Meter(server) as meter:
                        seconds = running.run(limit)
                    if lacking := projects.missing(warehouse, project):
                        raise Failure(f"succeeded without {lacking[0]}")
                except (Failure, httpx.HTTPError) as failure:
                    wall.append(None)
                    reason, slow = f"run {len(wall)} {failure}", isinstance(failure, TooSlow)
                    say(reason)
                else:
                    wall.append(round(seconds, 1))
                    meters.append(meter)
                    say(f"{seconds:.1f} s, CPU {meter.cpu_seconds:.1f} s, {meter.peak_mb:.0f} MB")
            figures = running.figures()
    except (Failure, httpx.HTTPError) as failure:
        reason = str(failure)
    return row_of(wall, meters, figures, reason), slow


def say(text: str) -> None:
    # A failure's words can hold what rich takes for markup.
    console.print(f"  {text}", markup=False)


def row_of(wall: list, meters: list[Meter], figures: dict, reason: str | None) -> dict:
    return {
        "wall_seconds": wall,
        "median_seconds": round(median(s for s in wall if s is not None), 1) if meters else None,
        "cpu_seconds": round(median(m.cpu_seconds for m in meters), 1) if meters else None,
        "peak_mb": round(max(m.peak_mb for m in meters)) if meters else None,
        **figures,
        "ok": reason is None,
        "reason": reason,
    }


def keep(file: Path, row: dict) -> dict:
    """Put a row into the file in place of its predecessor; return what the file then holds."""
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = [r for r in rows if (r["project"], r["way"]) != (row["project"], row["way"])] + [row]
    order = [way.name for way in WAYS]
    rows.sort(key=lambda r: (projects.NAMES.index(r["project"]), order.index(r["way"])))
    alone = {r["project"]: r["median_seconds"] for r in rows if r["way"] == YARDSTICK}
    for r in rows:
        base = alone.get(r["project"])
        known = base and r["median_seconds"]
        r["over_dbt_build"] = round(r["median_seconds"] / base, 2) if known else None
    results = {
        "machine": machine(),
        "figures": FIGURES,
        "ways": {way.name: way.label for way in WAYS},
        "rows": rows,
    }
    file.write_text(json.dumps(results, indent=1))
    return results


@contextmanager
def services() -> Iterator:
    """Start an empty Postgres, load what the sample reads, and stop it at the end.

    Yields a connection to the warehouse, and the server's process.
    """
    SETTINGS.logs.mkdir(parents=True, exist_ok=True)
    # What an interrupted comparison may have left.
    airflow.stop(SETTINGS)
    postgres.stop(SETTINGS)
    data = postgres.data_folder(SETTINGS)
    shutil.rmtree(data, ignore_errors=True)
    postgres.require_free(SETTINGS.port, "Airflow", "PORT")
    postgres.require_free(SETTINGS.warehouse_port, "Postgres", "WAREHOUSE_PORT")
    console.print(f"Starting Postgres, and installing dbt into {DBT_BIN.parent}")
    install_dbt()
    postgres.start(SETTINGS)
    try:
        with postgres.connect(SETTINGS.dbt_env()) as warehouse:
            projects.load_raw(warehouse)
            pid = (data / "postmaster.pid").read_text().split()[0]
            yield warehouse, psutil.Process(int(pid))
    finally:
        postgres.stop(SETTINGS)


def install_dbt() -> None:
    """Install dbt without Airflow, in the versions of this project's lock."""
    uv = [BIN / "uv", "--quiet"]
    lock = ["--constraint", ROOT / "requirements-dev.txt", "--compile-bytecode"]
    python = DBT_BIN / "python"
    for command in (
        [*uv, "venv", "--clear", "--python", sys.executable, DBT_BIN.parent],
        [*uv, "pip", "install", "--python", python, *lock, "dbt-core", "dbt-postgres"],
    ):
        if subprocess.run(command).returncode:
            raise Failure("dbt could not be installed: see above.")


def prepare(name: str) -> Project:
    folder = SETTINGS.home / "projects" / name
    shutil.rmtree(folder, ignore_errors=True)
    projects.write(folder, name)
    return projects.parse(folder, DBT_BIN / "dbt")


def commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout

    changed = " with changes" if git("status", "--porcelain") else ""
    return f"{git('rev-parse', '--short', 'HEAD').strip()}{changed}"


def machine() -> dict:
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        **{
            name: version(name)
            for name in ("apache-airflow", "astronomer-cosmos", "dbt-core", "dbt-postgres")
        },
    }
