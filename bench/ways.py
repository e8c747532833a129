"""The ways to run a dbt project that are compared: how each starts, runs a case and stops."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg

from bench import projects
from bench.celery import celery
from bench.plan import Case
from bench.projects import SETTINGS, Project
from local import airflow, pipeline
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
    name: str
    label: str
    # None: dbt runs alone.
    dag_file: str | None = None
    is_stock: bool = False
    executor: str = "LocalExecutor"
    deployment: str | None = None


WAYS = {
    way.name: way
    for way in (
        Way("dbt", "dbt build in a new process"),
        Way("shipped", "this project", ENGINE),
        Way("celery", "this project, two Celery workers", ENGINE, deployment="deploy/prod.yaml"),
        Way("pods", "this project, a new process per task", ENGINE, executor=PODS),
        Way("bash", "BashOperator, dbt build", OTHERS, True),
        Way("watcher", "Cosmos WATCHER", OTHERS, True),
        Way("cosmos_in_process", "Cosmos LOCAL in process, manifest", OTHERS),
        Way("cosmos_subprocess", "Cosmos LOCAL in subprocesses, dbt ls", OTHERS, True),
    )
}


def deploy(project: Project, folder: Path) -> Path:
    """Put a copy of a project into a folder that is emptied first; return where the copy is."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(project.folder, folder / project.folder.name))


class Dbt:
    """`dbt build` by itself, each time in a new process."""

    figures = dict

    def __init__(self, way: Way, case: Case, project: Project):
        self.case, self.project = case, project

    def __enter__(self):
        self._folder = deploy(self.project, SETTINGS.home / "deployed")
        return self

    def __exit__(self, *_):
        """Nothing outlives a run."""

    def run(self, limit: float, clear: bool = False) -> float:
        """Build the project, or only what is cleared of it; return the seconds that it took."""
        started = time.monotonic()
        cleared = " ".join(f"{name}+" for name in projects.CLEARED)
        selections = [cleared] if clear else self.case.selections
        selects = [["--select", *names.split()] if names else [] for names in selections]
        codes = self._codes(limit, [["build", *select] for select in selects])
        if self.case.retries and codes == [1]:
            codes = self._codes(limit, [["retry"]])
        if any(codes):
            raise Failure(f"dbt ended with code {max(codes)}")
        return time.monotonic() - started

    def _codes(self, limit: float, commands: list[list[str]]) -> list[int]:
        """Run commands of dbt at the same time and return their exit codes."""
        dbt, flags = [BIN / "dbt", "--quiet"], projects.flags(self._folder)
        where = {"cwd": self._folder, "env": os.environ | projects.env()}
        where["stdout"] = subprocess.DEVNULL
        running = [subprocess.Popen([*dbt, *words, *flags], **where) for words in commands]
        try:
            return [process.wait(limit) for process in running]
        except subprocess.TimeoutExpired:
            raise Failure(f"not done after {limit:.0f} s") from None
        finally:
            for process in running:
                process.kill()
                process.wait()


class Airflow:
    """DAGs of dags/ on an Airflow that is started for them."""

    def __init__(self, way: Way, case: Case, project: Project):
        self.way, self.project = way, project
        # The selection of each DAG, by DAG ID.
        self.dags = dict(zip([way.name, f"{way.name}_2"], case.selections, strict=False))
        self.home = SETTINGS.home / "airflow" / case.name / way.name

    def __enter__(self):
        shutil.rmtree(self.home, ignore_errors=True)
        folder = deploy(self.project, self.home / "dbt")
        (self.home / "dags").mkdir()
        try:
            for name in (self.way.dag_file, f"{WARM_UP}.py"):
                shutil.copy(DAGS / name, self.home / "dags")
        except FileNotFoundError:
            raise Failure(f"there is no bench/dags/{name}") from None
        env = {
            **(stock() if self.way.is_stock else SETTINGS.airflow_env()),
            **projects.env(),
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__EXECUTOR": self.way.executor,
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__COSMOS__CACHE_DIR": str(self.home / "cosmos"),
            # The scheduler logs how long each of its loops takes.
            "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "airflow.jobs.scheduler_job_runner=DEBUG",
            "DBT_PROJECTS_DIR": str(folder.parent),
            "BENCH_PROJECT": folder.name,
            "BENCH_DAGS": json.dumps(self.dags),
        }
        self._build_image(folder, env)
        url = env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", "")
        self._metadata = psycopg.connect(url, autocommit=True)
        self._metadata.execute("drop schema public cascade; create schema public")
        try:
            more, others = celery(SETTINGS, self.way.deployment)
            airflow.start(SETTINGS, env | more, others)
            self._api = pipeline.Api(SETTINGS.port)
            pipeline.wait_for_dags(self._api, *self.dags, WARM_UP)
            for dag_id in (*self.dags, WARM_UP):
                pipeline.unpause(self._api, dag_id)
            self._trigger(WARM_UP)
            self._wait(limit=600)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # Killed first, because a run can hang, and no process is needed any more.
        for process in (processes := psutil.Process().children(recursive=True)):
            process.kill()
        psutil.wait_procs(processes)
        airflow.stop(SETTINGS)
        self._metadata.close()

    def _build_image(self, folder: Path, env: dict[str, str]) -> None:
        """Let the engine parse the project as the image's build does, or give Cosmos a manifest."""
        if self.way.dag_file == OTHERS:
            (folder / "target").mkdir()
            shutil.copy(self.project.manifest, folder / "target")
            return
        # The build of the image has neither a warehouse nor Airflow's database.
        env = env | {"AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False"}
        del env["AIRFLOW_CONN_WAREHOUSE"]
        with (SETTINGS.logs / "image.log").open("w") as log:
            if subprocess.run(IMAGE_BUILD, cwd=ROOT, env=env, stdout=log, stderr=log).returncode:
                raise Failure(f"the DAG file can't be imported: see {log.name}")

    def run(self, limit: float, clear: bool = False) -> float:
        """Run the DAGs, or clear a part of their last run; return the seconds that it took."""
        started = datetime.now(UTC)
        self._clear() if clear else self._trigger(*self.dags)
        self._wait(limit)
        return (max(end for *_, end in self._tasks if end) - started).total_seconds()

    def _trigger(self, *dag_ids: str) -> None:
        body = {"logical_date": None}
        runs = [self._api("POST", f"/dags/{dag_id}/dagRuns", json=body) for dag_id in dag_ids]
        self._runs = [run["dag_run_id"] for run in runs]

    def _clear(self) -> None:
        pattern = rf"(^|\.)({'|'.join(projects.CLEARED)})[._]run$"
        body = {
            "dry_run": False,
            "dag_run_id": self._runs[0],
            "task_ids": [task_id for task_id, *_ in self._tasks if re.search(pattern, task_id)],
            "include_downstream": True,
            "only_failed": False,
        }
        self._api("POST", f"/dags/{self.way.name}/clearTaskInstances", json=body)

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
        return self._metadata.execute(f"{query} where run_id = any(%s)", [self._runs]).fetchall()

    def figures(self) -> dict:
        """Return what Airflow's database and logs contain about the last run."""
        parsed = "select last_parse_duration from dag where dag_id = any(%s)"
        logs = [log for run in self._runs for log in self.home.glob(f"logs/*/run_id={run}/*/*.log")]
        scheduler_log = (SETTINGS.logs / "scheduler.log").read_text()
        loops = re.findall(r"Ran scheduling loop in ([\d.]+)", scheduler_log)
        return {
            "tasks": len(self._tasks),
            "dbt_processes": sum(log.read_text().count("Running with dbt=") for log in logs),
            "parse_seconds": max(s for (s,) in self._metadata.execute(parsed, [[*self.dags]])),
            "scheduler_loop_seconds": max(map(float, loops)) / 1000,
        }
