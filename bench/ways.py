"""The ways to run a dbt project that are compared."""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

import psutil
import psycopg

from bench import projects
from local import airflow, pipeline
from local.settings import HOME, LOGS, PORT, ROOT, Failure, airflow_env, shared_settings

HERE = Path(__file__).parent
# dbt in an environment of its own, without Airflow.
DBT_BIN = HOME / "dbt" / "bin"
WARM_UP = "warm_up"


class TooSlow(Failure):
    def __init__(self, limit: float):
        super().__init__(f"not done after {limit:.0f} s")


class Dbt:
    """`dbt build` by itself, each time in a new process."""

    def __init__(self, project: Path, programs: Path = DBT_BIN):
        self.project = project
        self.programs = programs

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, limit: float) -> float:
        """Run once and return the seconds that it took.

        Raises:
            TooSlow: it was stopped after `limit` seconds.
            Failure: it failed.
        """
        started = time.monotonic()
        try:
            done = subprocess.run(
                [self.programs / "dbt", "--quiet", "build", *projects.words(self.project)],
                cwd=self.project,
                env={**os.environ, **projects.env()},
                stdout=subprocess.DEVNULL,
                timeout=limit,
            )
        except subprocess.TimeoutExpired:
            raise TooSlow(limit) from None
        if done.returncode != projects.expected_code(self.project):
            raise Failure(f"dbt ended with code {done.returncode}")
        return time.monotonic() - started

    def figures(self) -> dict:
        """Return what else is known after the runs."""
        return {}


class Warm(Dbt):
    """`dbt build` again, in a process that keeps what it has parsed."""

    def __enter__(self):
        with (LOGS / "warm.log").open("w") as log:
            self._process = subprocess.Popen(
                [self.programs / "python", HERE / "warm.py", *projects.words(self.project)],
                cwd=self.project,
                env={**os.environ, **projects.env()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._process.stdout.readline()
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.communicate()

    def run(self, limit: float) -> float:
        late = threading.Timer(limit, self._process.kill)
        late.start()
        started = time.monotonic()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        seconds = time.monotonic() - started
        late.cancel()
        if seconds >= limit:
            raise TooSlow(limit)
        if answer != ("failed" if projects.expected_code(self.project) else "success"):
            raise Failure(f"dbt {answer or 'ended'}: see {LOGS / 'warm.log'}")
        return seconds


class Airflow:
    """A DAG of dags/ on an Airflow that is started for it."""

    def __init__(
        self,
        project: Path,
        dag_id: str,
        settings: Callable[[str], dict[str, str]],
        deployment: str | None = None,
    ):
        self.project = project
        self.dag_id = dag_id
        self.settings = settings
        self.deployment = deployment

    def __enter__(self):
        # Each its own, so that its logs can be read afterwards.
        name = "celery" if self.deployment else self.dag_id
        self._home = HOME / "airflow" / self.project.name / name
        shutil.rmtree(self._home, ignore_errors=True)
        dags = self._home / "dags"
        dags.mkdir(parents=True)
        for dag_id in (self.dag_id, WARM_UP):
            file = HERE / "dags" / f"{dag_id}.py"
            if not file.exists():
                raise Failure(f"there is no {file.relative_to(ROOT)}")
            shutil.copy(file, dags)
        env = {
            **self.settings(PORT),
            **projects.env(),
            "AIRFLOW_HOME": str(self._home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__COSMOS__CACHE_DIR": str(self._home / "cosmos"),
            "DBT_PROJECTS_DIR": str(self.project.parent),
            "BENCH_PROJECT": self.project.name,
            "BENCH_FLAGS": " ".join(projects.threads(self.project.name)),
            "BENCH_DBT": str(DBT_BIN / "dbt"),
        }
        self._metadata = psycopg.connect(
            env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("+psycopg2", ""), autocommit=True
        )
        self._metadata.execute("drop schema public cascade; create schema public")
        try:
            airflow.start(PORT, env, self.deployment)
            self._api = pipeline.Api(PORT)
            pipeline.wait_for_dags(self._api, self.dag_id, WARM_UP)
            pipeline.unpause(self._api, self.dag_id)
            pipeline.unpause(self._api, WARM_UP)
            self._run(WARM_UP, limit=60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # At once: nothing of it is needed any more, and it may be stuck in a run.
        processes = psutil.Process().children(recursive=True)
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)
        airflow.stop()
        self._metadata.close()

    def run(self, limit: float) -> float:
        """Run the DAG and return the seconds from the trigger to the end of the last task."""
        return self._run(self.dag_id, limit)

    def _run(self, dag_id: str, limit: float) -> float:
        runs = f"/dags/{dag_id}/dagRuns"
        run = self._api("POST", runs, json={"logical_date": None})
        path = f"{runs}/{run['dag_run_id']}"
        deadline = time.monotonic() + limit
        # Not from the API: to answer, it reads every task of the run.
        query = "select state from dag_run where (dag_id, run_id) = (%s, %s)"
        state = None
        while state not in ("success", "failed"):
            if time.monotonic() > deadline:
                raise TooSlow(limit)
            time.sleep(1)
            (state,) = self._metadata.execute(query, [dag_id, run["dag_run_id"]]).fetchone()
        if (state == "failed") != bool(dag_id != WARM_UP and projects.expected_code(self.project)):
            failed = self._tasks(path, state="failed", limit=3)
            raise Failure(f"failed in {', '.join(task['task_id'] for task in failed)}")
        last = self._tasks(path, order_by="-end_date", limit=1)[0]
        return seconds_between(run["queued_at"], last["end_date"])

    def _tasks(self, path: str, **params) -> list[dict]:
        return self._api("GET", f"{path}/taskInstances", params=params)["task_instances"]

    def figures(self) -> dict:
        """Return what the dag-processor and the workers say about the DAG."""
        parse_seconds, dag_kb = self._metadata.execute(
            """
            select dag.last_parse_duration, length(serialized_dag.data::text) / 1024.0
            from dag
            join serialized_dag using (dag_id)
            where dag_id = %s
            """,
            [self.dag_id],
        ).fetchone()
        logs = self._home.glob(f"logs/dag_id={self.dag_id}/run_id=*/task_id=*/attempt=1.log")
        waits = [seconds for log in logs if (seconds := first_line_seconds(log)) is not None]
        return {
            "parse_seconds": round(parse_seconds, 2),
            "first_line_seconds": round(median(waits), 2) if waits else None,
            "dag_kb": round(dag_kb),
        }


def first_line_seconds(log: Path) -> float | None:
    """Return the seconds from a task's start in a worker to the first line of its operator."""
    with log.open() as lines:
        first = json.loads(next(lines))
        for line in lines:
            # What goes before is Airflow's own, the reading of the DAG file among it.
            if json.loads(line)["event"] == "::endgroup::":
                break
        line = next(lines, None)
        return seconds_between(first["timestamp"], json.loads(line)["timestamp"]) if line else None


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def stock(port: str) -> dict[str, str]:
    """Return the environment of an Airflow with its defaults, and Cosmos's."""
    own = {
        *shared_settings(),
        "AIRFLOW__CORE__PARALLELISM",
        "AIRFLOW__CORE__PLUGINS_FOLDER",
        "AIRFLOW__COSMOS__DBT_DOCS_PROJECTS",
    }
    kept = {
        # Astro sets it too.
        "AIRFLOW__CORE__LOAD_EXAMPLES",
        # A closed network would delay the statistics that Cosmos sends.
        "AIRFLOW__COSMOS__ENABLE_TELEMETRY",
        # Not a setting of Airflow: local/airflow.py needs to know which target it starts.
        "DBT_TARGET",
    }
    return {name: value for name, value in airflow_env(port).items() if name not in own - kept}


def tuned(port: str) -> dict[str, str]:
    """Return the environment of an Airflow with what helps the watcher, in public settings."""
    return {
        **stock(port),
        "AIRFLOW__COSMOS__ENABLE_WATCHER_RELIABLE_RETRY": "False",
        "AIRFLOW__COSMOS__UPLOAD_SQL_TO_XCOM": "False",
        # Its imports before the fork: plugins/preload_dbt.py.
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }


@dataclass(frozen=True)
class Way:
    name: str
    label: str
    on: Callable[[Path], AbstractContextManager]


YARDSTICK = "dbt"
WAYS = [
    Way(YARDSTICK, "dbt build, a new process", Dbt),
    Way("warm", "dbt build again in one process", Warm),
    Way("bash", "BashOperator, dbt build", partial(Airflow, dag_id="bash", settings=stock)),
    Way(
        "local", "Cosmos LOCAL, dbt apart, dbt ls", partial(Airflow, dag_id="local", settings=stock)
    ),
    Way("watcher", "Cosmos WATCHER, defaults", partial(Airflow, dag_id="watcher", settings=stock)),
    Way(
        "watcher_tuned",
        "Cosmos WATCHER, tuned",
        partial(Airflow, dag_id="watcher_tuned", settings=tuned),
    ),
    Way("shipped", "this project", partial(Airflow, dag_id="shipped", settings=airflow_env)),
    Way(
        "celery",
        "this project, two Celery workers",
        partial(
            Airflow,
            dag_id="shipped",
            settings=airflow_env,
            deployment="deploy/prod.yaml",
        ),
    ),
]
