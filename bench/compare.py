"""Measures rows, and keeps them in a file that names the version and the engine they are of."""

import json
import os
import platform
import re
import shutil
import tomllib
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from statistics import median

import httpx
import psutil
import psycopg

from bench import projects, ways
from bench.measure import Meter
from bench.plan import Row
from bench.projects import SETTINGS
from include.nyc_flights.warehouse import load
from local import airflow, postgres
from local.settings import ROOT, Failure


def measured() -> dict:
    """Return what is measured: the version of this project, its engine, and the machine."""
    folders = (ROOT / "include" / "dbt_build", ROOT / "plugins")
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    content = b"".join(bytes(path.relative_to(ROOT)) + path.read_bytes() for path in files)
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gb = round(psutil.virtual_memory().total / 2**30)
    packages = ("apache-airflow", "astronomer-cosmos", "dbt-core")
    return {
        "version": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
        "engine": sha256(content).hexdigest()[:12],
        "machine": f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {gb} GB",
        "packages": {"Python": platform.python_version(), **{n: version(n) for n in packages}},
    }


def fits(file: Path) -> bool:
    """Return whether a result file is of this version, engine and machine."""
    return file.exists() and json.loads(file.read_text()).items() >= measured().items()


def compare(rows: list[Row], file: Path, limit: float) -> None:
    """Measure rows on a new Postgres with the sample's raw data, and keep each in the file."""
    results = json.loads(file.read_text()) if fits(file) else {**measured(), "rows": {}}
    SETTINGS.logs.mkdir(parents=True, exist_ok=True)
    airflow.stop(SETTINGS)
    postgres.stop(SETTINGS)
    shutil.rmtree(postgres.data_folder(SETTINGS), ignore_errors=True)
    postgres.require_free(SETTINGS.port, "Airflow", "PORT")
    with postgres.running(SETTINGS), postgres.connect(SETTINGS) as warehouse:
        load(warehouse, projects.START, projects.END)
        for row in rows:
            print(f"{row.name}: {ways.WAYS[row.way].label}", flush=True)
            results["rows"][row.name] = measure(row, limit, warehouse)
            file.write_text(json.dumps(results, indent=1) + "\n")


def measure(row: Row, limit: float, warehouse: psycopg.Connection) -> dict:
    """Run one way on one case as often as the row says; return its figures."""
    runs, figures, failure = {"first": [], "later": []}, {}, None
    project = projects.prepare(SETTINGS.home / "projects" / row.case.project)
    server = psutil.Process(warehouse.info.backend_pid).parent()
    clear = row.case.clears
    drop = projects.drop_cleared if clear else projects.drop_built
    try:
        for _ in range(row.deploys):
            with ways.start(row, project) as running:
                if clear:
                    projects.drop_built(warehouse)
                    running.run(limit)
                for number in range(1 + row.later):
                    drop(warehouse, project)
                    with Meter(server) as meter:
                        seconds = running.run(limit, clear)
                    print(f"  {seconds:.1f} s, CPU {meter.cpu_seconds:.1f} s", flush=True)
                    if missing := projects.missing(warehouse, project):
                        raise Failure(f"{missing[0]} is missing after a run that succeeded")
                    # Before a clear the project was built, so none is the first run of a deploy.
                    kind = "later" if number or clear else "first"
                    runs[kind].append((round(seconds, 1), meter))
                figures = running.figures()
    except (Failure, httpx.HTTPError) as error:
        failure = str(error)
        print(f"  {failure}", flush=True)
    meters = [meter for _, meter in runs["later"] or runs["first"]]
    return {
        **{f"{kind}_seconds": [seconds for seconds, _ in runs[kind]] for kind in runs},
        "cpu_seconds": round(median(m.cpu_seconds for m in meters), 1) if meters else None,
        "peak_mb": round(max(m.peak_mb for m in meters)) if meters else None,
        **figures,
        "failure": failure,
    }
