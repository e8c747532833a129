"""Airflow's processes: started, watched and stopped together."""

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

import httpx
import psutil

from local.postgres import kill
from local.progress import step
from local.settings import BIN, ROOT, Failure, Settings

# --skip-serve-logs: the log servers would listen on every address, and the API server reads the
# files itself.
COMPONENTS = {
    "api-server": [BIN / "airflow", "api-server"],
    "scheduler": [BIN / "airflow", "scheduler", "--skip-serve-logs"],
    "dag-processor": [BIN / "airflow", "dag-processor"],
    "triggerer": [BIN / "airflow", "triggerer", "--skip-serve-logs"],
}
START_SECONDS = 300


def state_file(settings: Settings) -> Path:
    return settings.home / "airflow.json"


def own_variables(settings: Settings) -> dict[str, str]:
    """Return the variables by which the runner finds the processes that it has started."""
    # Without SPT_NOENV, a process that sets its title writes the title over its environment.
    return {"LOCAL_RUNNER": str(settings.home), "SPT_NOENV": "1"}


def port_in_use(settings: Settings) -> str | None:
    """Return the port of the running Airflow, or None unless every component runs."""
    state = _state(settings)
    is_running = COMPONENTS.keys() <= _processes(settings).keys() == state["pids"].keys()
    return state["port"] if is_running else None


def require_running(settings: Settings) -> str:
    """Return the port of the running Airflow."""
    if (port := port_in_use(settings)) is None:
        raise Failure("Airflow is not running: `make start` starts it.")
    return port


def target(settings: Settings) -> str:
    """Return the dbt target that the running Airflow writes to."""
    return _state(settings)["target"]


def start(settings: Settings, env: Mapping[str, str], others: Mapping | None = None) -> None:
    """Start all components, and `others` by name and command; wait until Airflow is healthy."""
    settings.logs.mkdir(parents=True, exist_ok=True)
    migration = settings.logs / "db-migrate.log"
    with step("Preparing Airflow's metadata database"), migration.open("w") as log:
        migrate = [BIN / "airflow", "db", "migrate"]
        migrated = subprocess.run(migrate, env=env, cwd=ROOT, stdout=log, stderr=log)
    if migrated.returncode:
        raise Failure(f"The metadata database could not be migrated: see {migration}.")

    with step(f"Starting Airflow on http://127.0.0.1:{settings.port}") as show:
        state = {"port": settings.port, "target": env["DBT_TARGET"], "pids": {}}
        for name, command in {**(others or {}), **COMPONENTS}.items():
            state["pids"][name] = launch(settings, name, command, env)
            state_file(settings).write_text(json.dumps(state))
        _wait_until_healthy(settings, state, show)


def launch(settings: Settings, name: str, command: list, env: Mapping[str, str]) -> int:
    """Start a component; return its process ID."""
    path = settings.logs / f"{name}.log"
    # A process that still writes to the file continues in the renamed file.
    RotatingFileHandler(path, backupCount=3, delay=True).doRollover()
    with path.open("a") as log:
        process = subprocess.Popen(
            command,
            env={**env, **own_variables(settings)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid


def stop(settings: Settings) -> None:
    """End every component, and every process that a component started."""
    components = [*_processes(settings).values()]
    if components or _own_processes(settings):
        with step("Stopping Airflow"):
            for process in components:
                with suppress(psutil.NoSuchProcess):
                    process.terminate()
            psutil.wait_procs(components, timeout=15)
            # The workers of a killed scheduler keep its database session and its locks. A
            # `dbt build` of such a worker must not continue beside its retry.
            while remaining := _own_processes(settings):
                kill(remaining)
    state_file(settings).unlink(missing_ok=True)


def _own_processes(settings: Settings) -> list[psutil.Process]:
    """Return all processes that the runner started, and all that these started."""
    wanted = own_variables(settings).items()
    processes = psutil.process_iter(["environ"])
    return [p for p in processes if wanted <= (p.info["environ"] or {}).items()]


def _wait_until_healthy(settings: Settings, state: dict, show) -> None:
    deadline = time.monotonic() + START_SECONDS
    url = f"http://127.0.0.1:{state['port']}/api/v2/monitor/health"
    waiting_for = ["api-server"]
    while waiting_for:
        names = ", ".join(waiting_for)
        if ended := state["pids"].keys() - _processes(settings).keys():
            raise Failure(f"Airflow's {min(ended)} ended: see {settings.logs / min(ended)}.log.")
        if time.monotonic() > deadline:
            raise Failure(
                f"Airflow is not healthy after {START_SECONDS} seconds: {names}. See "
                f"{settings.logs}."
            )
        show(f"waiting for {names}")
        time.sleep(0.5)
        with suppress(httpx.TransportError, ValueError):
            health = httpx.get(url, trust_env=False).json().items()
            # The report has null for a component that has not started yet.
            waiting_for = [k for k, part in health if (part or {}).get("status") != "healthy"]


def _state(settings: Settings) -> dict:
    state = {"port": None, "pids": {}}
    # There may be no file, or the disk was full when it was written.
    with suppress(FileNotFoundError, ValueError):
        state |= json.loads(state_file(settings).read_text())
    return state


def _processes(settings: Settings) -> dict[str, psutil.Process]:
    """Return the components that still run, without other processes that have their old IDs."""
    own = {process.pid: process for process in _own_processes(settings)}
    return {name: own[pid] for name, pid in _state(settings)["pids"].items() if pid in own}
