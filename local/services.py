"""Postgres and Airflow as a whole: `make start`, `make stop`, and the commands around them."""

import fcntl
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import psycopg
from rich.table import Table

from local import airflow, pipeline, postgres
from local.progress import console, step
from local.settings import ROOT, Failure, Settings, shared_env


def start(settings: Settings) -> None:
    """Start everything that does not run yet, and run the DAG of local.toml."""
    require_target(settings)
    with one_start_at_a_time(settings):
        port, is_imported = start_airflow(settings)
    api = pipeline.Api(port)
    dag_id, then = settings.local_toml["dag"], settings.local_toml["then"]
    # If there is an import error, which is printed already, the DAGs may never appear.
    pipeline.wait_for_dags(api, dag_id, *then, seconds=120 if is_imported else 30)
    pipeline.run(api, dag_id, then=then)
    show(settings, airflow.target(settings))
    console.print(f"Airflow keeps running on {api.url}; `make stop` stops it.")


@contextmanager
def one_start_at_a_time(settings: Settings) -> Iterator[None]:
    """Raise a Failure if another command starts Airflow, because this one would stop it halfway."""
    settings.home.mkdir(parents=True, exist_ok=True)
    folder = os.open(settings.home, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("Another `make start` is at work here: wait until it ends.") from None
        yield
    finally:
        os.close(folder)


def start_airflow(settings: Settings) -> tuple[str, bool]:
    """Start Postgres and Airflow; return Airflow's port, and whether no DAG file has an error."""
    # Airflow's processes end soon after their database, so without Postgres Airflow is stopped.
    running = airflow.port_in_use(settings) if postgres.port_in_use(settings) else None
    if running:
        target = airflow.target(settings)
        if settings.environment.get("DBT_TARGET", target) != target:
            raise Failure(f"Airflow already runs with DBT_TARGET={target}: `make stop` stops it.")
    else:
        airflow.stop(settings)
        postgres.require_free(settings.port, "Airflow", "PORT")
    start_warehouse(settings)
    is_imported = prepare_projects(settings)
    if not running:
        try:
            airflow.start(settings, settings.airflow_env())
        except BaseException:
            airflow.stop(settings)
            raise
    return running or settings.port, is_imported


def require_target(settings: Settings) -> None:
    """Raise a Failure if the DAGs would write to prod's schemas of another server by mistake."""
    if settings.environment.get("WAREHOUSE_URL") and not settings.environment.get("DBT_TARGET"):
        raise Failure(
            "WAREHOUSE_URL is set, but DBT_TARGET is not: set DBT_TARGET=dev_<you> for schemas of "
            "your own, or DBT_TARGET=prod for those of prod."
        )


def stop(settings: Settings) -> None:
    airflow.stop(settings)
    postgres.stop(settings)
    console.print("Stopped. The data stays; `make clean` removes all of .local.")


def start_warehouse(settings: Settings) -> None:
    if (port := postgres.port_in_use(settings)) is None:
        with step(f"Starting Postgres on 127.0.0.1:{settings.warehouse_port}"):
            postgres.start(settings)
    elif port != settings.warehouse_port:
        raise Failure(f"Postgres already runs on port {port}: `make stop` stops it.")


def prepare_projects(settings: Settings) -> bool:
    """Parse the dbt projects, as the build of the image does, so that no DAG file waits for dbt.

    Print import errors; return whether there are none. Each one only stops the DAGs of its file.
    """
    # The Dockerfile sets this variable too: there is no database yet.
    env = {**settings.airflow_env(), "AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False"}
    with step("Parsing the dbt projects"):
        command = [sys.executable, "-m", "include.dbt_build"]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        console.print(done.stderr.strip(), style="red")
    return not done.returncode


def standalone(settings: Settings) -> None:
    """Prepare what `astro dev start --standalone` lacks, because it builds no image."""
    require_target(settings)
    start_warehouse(settings)
    prepare_projects(settings)
    variables = {
        **shared_env(),
        **settings.machine_env(),
        # `airflow standalone` starts two log servers, which would listen on every address. No
        # setting turns them off, but this port does. The API server reads the files itself.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "-1",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "-1",
    }
    if target := settings.environment.get("DBT_TARGET"):
        variables["DBT_TARGET"] = target
    lines = [f"{name}={value}" for name, value in variables.items()]
    # The CLI reads one file only, and of two lines with the same name it takes the last.
    own = ROOT / ".env"
    if own.exists():
        lines.append(own.read_text())
    file = settings.home / "standalone.env"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")
    console.print(f"Next, run: astro dev start --standalone --env {os.path.relpath(file)}")
    console.print("To stop it: astro dev stop --standalone, then make stop")


def show(settings: Settings, target: str) -> None:
    """Print the result of the query in local.toml."""
    # This import takes seconds, and other commands do not need it. Airflow logs to stdout while it
    # is imported.
    with redirect_stdout(io.StringIO()):
        from include.warehouse import target_schema

    with postgres.connect(settings) as connection:
        postgres.look_in(connection, target_schema(settings.local_toml["project"], target))
        try:
            cursor = connection.execute(settings.local_toml["show"])
        except psycopg.Error as error:
            raise Failure(f"The query `show` in local.toml failed: {error}") from None
        if cursor.description is None:
            raise Failure("`show` in local.toml is not a query that returns rows: write a select.")
        table = Table(*(column.name for column in cursor.description))
        for row in cursor:
            table.add_row(*map(str, row))
    console.print(table)
