"""The ways to run a dbt project that are compared: how each starts, runs a case and stops."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from bench import projects
from bench.celery import celery
from bench.plan import Case, Row
from bench.projects import SETTINGS, Project
from local import airflow, pipeline
from local.postgres import kill
from local.settings import BIN, ROOT, Failure, shared_env

DAGS = Path(__file__).parent / "dags"
WARM_UP = "warm_up"
# The Dockerfile runs it too.
IMAGE_BUILD = [sys.executable, "-m", "include.dbt_build"]
ENGINE, OTHERS = "shipped.py", "others.py"
PODS = "bench.executor.NewProcessExecutor"


def stock() -> dict[str, str]:
    """Return the environment of an Airflow with its own defaults and Cosmos's."""
    names = ("CORE__PARALLELISM", "CORE__PLUGINS_FOLDER", "COSMOS__DBT_DOCS_PROJECTS")
    own = {*shared_env(), *(f"AIRFLOW__{name}" for name in names)}
    # No examples, no statistics sent to Cosmos, and time enough to import a file on a busy machine.
    kept = re.compile("DBT_TARGET|.*(LOAD_EXAMPLES|ENABLE_TELEMETRY|TIMEOUT)")
    env = SETTINGS.airflow_env()
    return {name: env[name] for name in env if name not in own or kept.fullmatch(name)}


@dataclass(frozen=True)
class Way:
    label: str
    # None: dbt runs alone.
    dag_file: str | None = None
    is_stock: bool = False
    executor: str = "LocalExecutor"
    deployment: str | None = None


WAYS = {
    "dbt": Way("dbt build in a new process"),
    "shipped": Way("this project", ENGINE),
    "celery": Way("this project, two Celery workers", ENGINE, deployment="deploy/prod.yaml"),
    "pods": Way("this project, a new process per task", ENGINE, executor=PODS),
    "bash": Way("BashOperator, dbt build", OTHERS, True),
    "watcher": Way("Cosmos WATCHER", OTHERS, True),
    "cosmos_in_process": Way("Cosmos LOCAL in process, manifest", OTHERS),
    "cosmos_subprocess": Way("Cosmos LOCAL in subprocesses, dbt ls", OTHERS, True),
}


class Dbt:
    """`dbt build` by itself, each time in a new process."""

    def __init__(self, case: Case, folder: Path):
        self._case, self._folder = case, folder

    def run(self, limit: float, clear: bool = False) -> float:
        """Build the project, or only what is cleared of it; return the seconds that it took."""
        started = time.monotonic()
        cleared = " ".join(f"{name}+" for name in projects.CLEARED)
        selections = [cleared] if clear else self._case.selections
        selects = [["--select", *names.split()] if names else [] for names in selections]
        codes = self._codes(limit, [["build", *select] for select in selects])
        if self._case.retries and codes == [1]:
            codes = self._codes(limit, [["retry"]])
        if any(codes):
            raise Failure(f"dbt ended with code {max(codes)}")
        return time.monotonic() - started

    def _codes(self, limit: float, commands: list[list[str]]) -> list[int]:
        """Run commands of dbt at the same time and return their exit codes."""
        where = {"cwd": self._folder, "env": os.environ | projects.env()}
        where["stdout"] = subprocess.DEVNULL
        dbt = [BIN / "dbt", "--quiet"]
        running = [psutil.Popen([*dbt, *words], **where) for words in commands]
        try:
            return [process.wait(limit) for process in running]
        except psutil.TimeoutExpired:
            raise Failure(f"not done after {limit:.0f} s") from None
        finally:
            kill(running)

    def figures(self) -> dict:
        """Return no figures: only Airflow has more than the seconds of a run."""
        return {}


class Airflow:
    """DAGs of a running Airflow."""

    def __init__(self, api: pipeline.Api, metadata: psycopg.Connection, logs: Path, *dag_ids: str):
        self._api, self._metadata, self._logs, self._dag_ids = api, metadata, logs, [*dag_ids]

    def run(self, limit: float, clear: bool = False) -> float:
        """Run the DAGs, or clear a part of their last run; return the seconds that it took."""
        started = datetime.now(UTC)
        if clear:
            self._clear()
        else:
            self._run_ids = [self._trigger(dag_id) for dag_id in self._dag_ids]
        self._wait(limit)
        return (max(end for *_, end in self._tasks if end) - started).total_seconds()

    def _trigger(self, dag_id: str) -> str:
        body = {"logical_date": None}
        return self._api("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"]

    def _clear(self) -> None:
        pattern = rf"(^|\.)({'|'.join(projects.CLEARED)})[._]run$"
        body = {
            "dry_run": False,
            "dag_run_id": self._run_ids[0],
            "task_ids": [task_id for task_id, *_ in self._tasks if re.search(pattern, task_id)],
            "include_downstream": True,
            "only_failed": False,
        }
        self._api("POST", f"/dags/{self._dag_ids[0]}/clearTaskInstances", json=body)

    def _wait(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        states = {"running"}
        # The API would read every task of a run to answer.
        while states - {"success", "failed"}:
            if time.monotonic() > deadline:
                raise Failure(f"not done after {limit:.0f} s")
            time.sleep(0.5)
            states = {state for (state,) in self._of_runs("select state from dag_run")}
        self._tasks = self._of_runs("select task_id, state, end_date from task_instance")
        if "failed" in states:
            failed = [task_id for task_id, state, _ in self._tasks if state == "failed"]
            raise Failure(f"failed in {', '.join(failed[:3]) or 'no task'}")

    def _of_runs(self, query: str) -> list[tuple]:
        return self._metadata.execute(f"{query} where run_id = any(%s)", [self._run_ids]).fetchall()

    def figures(self) -> dict:
        """Return what Airflow's database and logs contain about the last run."""
        parsed = "select last_parse_duration from dag where dag_id = any(%s)"
        logs = [log for run in self._run_ids for log in self._logs.glob(f"*/run_id={run}/*/*.log")]
        scheduler_log = (SETTINGS.logs / "scheduler.log").read_text()
        loops = re.findall(r"Ran scheduling loop in ([\d.]+)", scheduler_log)
        return {
            "tasks": len(self._tasks),
            "dbt_processes": sum(log.read_text().count("Running with dbt=") for log in logs),
            "parse_seconds": max(s for (s,) in self._metadata.execute(parsed, [self._dag_ids])),
            "scheduler_loop_seconds": max(map(float, loops)) / 1000,
        }


@contextmanager
def start(row: Row, project: Project) -> Iterator[Dbt | Airflow]:
    """Deploy a project and yield what runs it, which is stopped at the end."""
    way, home = WAYS[row.way], SETTINGS.home / "deployed" / row.name
    shutil.rmtree(home, ignore_errors=True)
    folder = shutil.copytree(project.folder, home / "dbt" / project.folder.name)
    if not way.dag_file:
        yield Dbt(row.case, folder)
        return
    (home / "dags").mkdir()
    for name in (way.dag_file, f"{WARM_UP}.py"):
        if not (DAGS / name).exists():
            raise Failure(f"there is no bench/dags/{name}")
        shutil.copy(DAGS / name, home / "dags")
    # The selection of each DAG, by DAG ID.
    dags = dict(zip([row.way, f"{row.way}_2"], row.case.selections, strict=False))
    env = {
        **(stock() if way.is_stock else SETTINGS.airflow_env()),
        **projects.env(),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__EXECUTOR": way.executor,
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__COSMOS__CACHE_DIR": str(home / "cosmos"),
        # The scheduler logs how long each of its loops takes.
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=DEBUG",
        "DBT_PROJECTS_DIR": str(folder.parent),
        "BENCH_PROJECT": folder.name,
        "BENCH_DAGS": json.dumps(dags),
    }
    if way.dag_file == ENGINE:
        build_image(env)
    else:
        (folder / "target").mkdir()
        shutil.copy(project.manifest, folder / "target")
    more, others = celery(SETTINGS, way.deployment) if way.deployment else ({}, {})
    url = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
    with psycopg.connect(url, autocommit=True) as metadata:
        metadata.execute("drop schema public cascade; create schema public")
        try:
            airflow.start(SETTINGS, env | more, others)
            api = pipeline.Api(SETTINGS.port)
            pipeline.wait_for_dags(api, *dags, WARM_UP)
            Airflow(api, metadata, home / "logs", WARM_UP).run(limit=600)
            yield Airflow(api, metadata, home / "logs", *dags)
        finally:
            # Killed first, because a run can hang, and no process is needed any more.
            kill(psutil.Process().children(recursive=True))
            airflow.stop(SETTINGS)


def build_image(env: dict[str, str]) -> None:
    """Let the engine parse the project as the build of the image does."""
    # The build has neither a warehouse nor Airflow's database.
    env = env | {"AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False"}
    del env["AIRFLOW_CONN_WAREHOUSE"]
    with (SETTINGS.logs / "image.log").open("w") as log:
        if subprocess.run(IMAGE_BUILD, cwd=ROOT, env=env, stdout=log, stderr=log).returncode:
            raise Failure(f"the DAG file can't be imported: see {log.name}")
