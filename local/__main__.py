"""The commands behind the Makefile."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from datetime import date, datetime
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from zoneinfo import ZoneInfo

from rich.table import Table

from include.warehouse import target_schema
from local import adopt, airflow, ci_dbt, deployment, docs, pipeline, postgres, report
from local.dbt import chosen_project, lacks_packages, last_month
from local.deployment import DEPLOYMENT, REDIS_PORT
from local.progress import console, live
from local.settings import (
    BIN,
    HOME,
    LOGS,
    OWN,
    PATH,
    PORT,
    PROJECTS,
    ROOT,
    WAREHOUSE_PORT,
    Failure,
    airflow_env,
    dbt_env,
    kept_secrets,
    machine_settings,
    shared_settings,
)


def start(args) -> None:
    # Without its database none of Airflow's processes goes on for long.
    running = airflow.port_in_use() if postgres.is_running() else None
    port = running or PORT
    if DEPLOYMENT:
        deployment.require_usable()
        if running and not airflow.runs_celery():
            raise Failure("Airflow already runs, without DEPLOYMENT=: `make stop` ends it.")
    if running and os.environ.get("DBT_TARGET", airflow.target()) != airflow.target():
        raise Failure(f"Airflow already runs as {airflow.target()}: `make stop` ends it.")
    if not running:
        airflow.stop()
        airflow.require_free(port, "Airflow", "PORT")
        if DEPLOYMENT:
            airflow.require_free(REDIS_PORT, "Redis", "REDIS_PORT")
    start_warehouse(args)
    if not running:
        prepare_projects()
        try:
            airflow.start(port, airflow_env(port), DEPLOYMENT)
        except BaseException:
            airflow.stop()
            raise
    api = pipeline.Api(port)
    console.print(f"Airflow is on {api.url} and reads the DAGs\n")
    pipeline.run(api, OWN["dag"], OWN["then"])
    show(OWN["show"], target_schema(OWN["project"], airflow.target()))
    console.print(f"\nAirflow goes on running on {api.url}; `make stop` ends it.")


def stop(args) -> None:
    airflow.stop()
    postgres.stop()
    console.print("Stopped. The data stays; `make clean` removes it.")


def start_warehouse(args) -> None:
    if postgres.is_running():
        if (port := postgres.port_in_use()) != WAREHOUSE_PORT:
            raise Failure(f"Postgres already runs, on port {port}: `make stop` ends it.")
        return
    airflow.require_free(WAREHOUSE_PORT, "Postgres", "WAREHOUSE_PORT")
    kept_secrets()
    console.print(f"Starting Postgres on 127.0.0.1:{WAREHOUSE_PORT}")
    with live():
        postgres.start()


def standalone(args) -> None:
    """Prepare what `astro dev start --standalone` lacks, since it builds no image."""
    start_warehouse(args)
    prepare_projects()
    settings = {
        **shared_settings(),
        **machine_settings(),
        # `airflow standalone` starts two servers for logs, which would listen on every address; no
        # setting leaves them out, but no port keeps them from it. The files are read without them.
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "-1",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "-1",
    }
    lines = [f"{name}={value}" for name, value in settings.items()]
    # The CLI reads one file only, and of two lines with the same name the last.
    own = ROOT / ".env"
    if own.exists():
        lines.append(own.read_text())
    file = HOME / "standalone.env"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")
    console.print(f"Now: astro dev start --standalone --env {os.path.relpath(file)}")
    console.print("To end it: astro dev stop --standalone, then make stop")


def backfill(args) -> None:
    first, last = day("FROM", args.first), day("TO", args.last)
    if first > last:
        raise Failure(f"FROM={first} is after TO={last}.")
    zone = ZoneInfo(OWN["timezone"])
    if last > datetime.now(zone).date():
        raise Failure(f"TO={last} is in the future.")
    api = pipeline.Api(airflow.require_running())
    # The scheduler only works off the runs of a DAG that is not paused.
    pipeline.unpause(api, OWN["dag"])
    pipeline.backfill(api, OWN["dag"], first, last, zone)


def prepare_projects() -> None:
    """Parse the dbt projects, as the image's build does, so that no DAG file waits for dbt.

    One that can't be parsed takes down nothing but its own DAGs.
    """
    console.print("Parsing the dbt projects")
    settings = {
        "PATH": PATH,
        "AIRFLOW_HOME": str(HOME / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        # As in the Dockerfile: there is no database yet.
        "AIRFLOW__COSMOS__ENABLE_CACHE_DBT_LS": "False",
    }
    with live():
        done = subprocess.run(
            [sys.executable, "-m", "include.dbt_build"],
            cwd=ROOT,
            env={**shared_settings(), **os.environ, **machine_settings(), **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    if done.returncode:
        console.print(done.stderr.strip(), style="red", markup=False)


def dbt(args) -> None:
    if not args.words:
        raise Failure('Say what dbt shall do, for example: make dbt ARGS="build --select my_model"')
    project = chosen_project()
    env = {**last_month(), **os.environ, **dbt_env()}
    commands = [args.words]
    if lacks_packages(project):
        commands.insert(0, ["deps"])
    # In the project's folder dbt finds both its dbt_project.yml and its profiles.yml.
    for words in commands:
        if subprocess.run([BIN / "dbt", *words], env=env, cwd=project).returncode:
            raise Failure(f"dbt {words[0]} failed in {project}: see above.")


def psql(args) -> None:
    if code := postgres.psql(*args.words):
        sys.exit(code)


def logs(args) -> None:
    files = sorted(str(path) for path in LOGS.glob("*.log"))
    if not files:
        raise Failure("There are no logs yet: `make start` makes them.")
    subprocess.run(["tail", "-n", "20", "-F", *files])


def clean(args) -> None:
    stop(args)
    if HOME.exists():
        shutil.rmtree(HOME)
    for made in ("target", "logs", "dbt_packages"):
        for generated in PROJECTS.glob(f"*/{made}"):
            shutil.rmtree(generated)


def show(query: str, schema: str) -> None:
    """Print what a query gives, whose tables are those of the schemas that begin with `schema`."""
    with postgres.connect() as connection:
        postgres.look_in(connection, schema)
        cursor = connection.execute(query)
        table = Table()
        for column in cursor.description:
            table.add_column(column.name)
        for row in cursor:
            table.add_row(*map(str, row))
    console.print(table)


def day(variable: str, text: str) -> date:
    try:
        # Not by fromisoformat, which takes 20260301 and 2026-W10-1 as well.
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise Failure(f"{variable}={text} is no date: write {variable}=YYYY-MM-DD.") from None


def check_ports() -> None:
    ports = {"PORT": PORT, "WAREHOUSE_PORT": WAREHOUSE_PORT, "REDIS_PORT": REDIS_PORT}
    for variable, port in ports.items():
        if not (port.isdecimal() and 1024 <= int(port) < 65536):
            raise Failure(f"{variable}={port} is no port: choose a number from 1024 to 65535.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name, function, **settings):
        command = commands.add_parser(name, **settings)
        command.set_defaults(function=function)
        return command

    add("adopt", adopt.adopt)
    add("add-project", adopt.add_project)
    add("update", adopt.update)
    add("start", start)
    add("stop", stop)
    add("clean", clean)
    add("warehouse", start_warehouse)
    add("standalone", standalone)
    add("logs", logs)
    # Its words begin with an option of psql's, which argparse would take for one of its own.
    psql_command = add("psql", psql, prefix_chars="\0", add_help=False)
    psql_command.add_argument("words", nargs=argparse.REMAINDER)
    dbt_command = add("dbt", dbt)
    dbt_command.add_argument("words", nargs=argparse.REMAINDER)
    add("ci-dbt", ci_dbt.ci_dbt)
    add("ci-dbt-drop", ci_dbt.ci_dbt_drop)
    add("docs", docs.docs)
    add("report", report.report)
    backfill_command = add("backfill", backfill)
    backfill_command.add_argument("first")
    backfill_command.add_argument("last")

    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check_ports()
        args.function(args)
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except OSError as error:
        # Of this machine and not of this code: a full disk, a folder of another user.
        if error.errno not in (ENOSPC, EDQUOT, EROFS, EACCES, EPERM):
            raise
        sys.exit(f"error: {error.strerror}: {error.filename or HOME}")
    except KeyboardInterrupt:
        sys.exit(f"Interrupted. {what_runs()}")


def what_runs() -> str:
    running = {"Airflow": airflow.port_in_use(), "Postgres": postgres.is_running()}
    if names := " and ".join(name for name, runs in running.items() if runs):
        return f"Still running: {names}; `make stop` ends it."
    return "Nothing runs."


if __name__ == "__main__":
    main()
