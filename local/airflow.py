"""Airflow's processes: started, watched and stopped together."""

import json
import socket
import subprocess
import time
from contextlib import suppress
from logging.handlers import RotatingFileHandler

import httpx
import psutil

from local.deployment import celery
from local.progress import console, live
from local.settings import BIN, HOME, LOGS, ROOT, Failure

STATE = HOME / "airflow.json"
# In the environment of all that the runner starts, and so of all that these start.
MARK = {
    "LOCAL_RUNNER": str(HOME),
    # A process that gives itself a title writes it over its environment otherwise.
    "SPT_NOENV": "1",
}

# Their log servers would listen on every address, and the API server reads the files itself.
COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
START_SECONDS = 120


def port_in_use() -> str | None:
    """Return the port of the running Airflow, or None unless every component runs."""
    state = _state()
    running = state and COMPONENTS.keys() <= _processes(state).keys() == state["processes"].keys()
    return state["port"] if running else None


def require_running() -> str:
    """Return the port of the running Airflow."""
    if (port := port_in_use()) is None:
        raise Failure("Airflow is not running: `make start` starts it.")
    return port


def target() -> str:
    """Return the target that the running Airflow writes to."""
    return _state()["target"]


def runs_celery() -> bool:
    return "redis" in _state()["processes"]


def require_free(port: str, purpose: str, variable: str) -> None:
    with socket.socket() as probe:
        # A port that was closed a moment ago counts as free, as it does for the servers.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError:
            raise Failure(
                f"Port {port} for {purpose} is taken or reserved: choose another with {variable}=."
            ) from None


def start(port: str, env: dict[str, str], deployment: str | None = None) -> None:
    """Migrate the metadata database, start every component and wait until all are healthy."""
    commands = {name: [BIN / "airflow", *words] for name, words in COMPONENTS.items()}
    if deployment:
        celery_env, celery_commands = celery(deployment)
        env = env | celery_env
        # First, so that a start that was cut off lacks a component: see port_in_use.
        commands = celery_commands | commands
    LOGS.mkdir(parents=True, exist_ok=True)
    migration = LOGS / "db-migrate.log"
    console.print("Preparing Airflow's own database")
    with live(), migration.open("w") as log:
        migrated = subprocess.run(
            [BIN / "airflow", "db", "migrate"], env=env, cwd=ROOT, stdout=log, stderr=log
        )
    if migrated.returncode:
        raise Failure(f"The metadata database could not be migrated: see {migration}.")

    console.print("Starting Airflow")
    state = {"port": port, "target": env["DBT_TARGET"], "processes": {}}
    for name, command in commands.items():
        state["processes"][name] = launch(name, command, env)
        STATE.write_text(json.dumps(state))
    _wait_until_healthy(state)


def launch(name: str, command: list, env: dict[str, str]) -> tuple[int, float]:
    """Start a component; return its pid and when that was given to it."""
    path = LOGS / f"{name}.log"
    # To another name, under which a process that still writes to it goes on.
    RotatingFileHandler(path, backupCount=3, delay=True).doRollover()
    with path.open("a") as log:
        process = subprocess.Popen(
            command,
            env=env | MARK,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return process.pid, psutil.Process(process.pid).create_time()


def stop() -> None:
    """End every component and all that it started, also what outlived a component."""
    components = _processes(_state() or {"processes": {}})
    # After the others: a Celery worker without its Redis would not end.
    redis = [components.pop("redis")] if "redis" in components else []
    if _marked():
        console.print("Stopping Airflow")
    with live():
        end([*components.values()])
        end(redis)
        # The workers of a scheduler that was killed hold its session of the database, and so the
        # locks of that. The `dbt build` of one must not go on beside its repetition.
        while left := _marked():
            _kill(left)
    STATE.unlink(missing_ok=True)


def end(components: list[psutil.Process]) -> None:
    """End processes and all that they started."""
    everything = [p for c in components for p in [*c.children(recursive=True), c]]
    for process in components:
        process.terminate()
    _, alive = psutil.wait_procs(everything, timeout=15)
    _kill(alive)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def _marked() -> list[psutil.Process]:
    """Return all processes that the runner has started here, and all that these started."""
    return [
        process
        for process in psutil.process_iter(["environ", "cwd"])
        if MARK.items() <= (process.info["environ"] or {}).items()
        # Redis writes its title over its environment.
        or process.info["cwd"] == str(HOME / "redis")
    ]


def _wait_until_healthy(state: dict) -> None:
    deadline = time.monotonic() + START_SECONDS
    waiting_for = list(COMPONENTS)
    with live() as show:
        while time.monotonic() < deadline:
            dead = state["processes"].keys() - _processes(state).keys()
            if dead:
                name = sorted(dead)[0]
                raise Failure(f"Airflow's {name} ended: see {LOGS / name}.log.")
            try:
                health = httpx.get(f"http://127.0.0.1:{state['port']}/api/v2/monitor/health").json()
            except (httpx.TransportError, ValueError):
                health = {}
            for name in [*waiting_for]:
                if (health.get(_key(name)) or {}).get("status") == "healthy":
                    waiting_for.remove(name)
                    console.print(f"{name} is healthy")
            if not waiting_for:
                return
            show(f"waiting for {', '.join(waiting_for)}")
            time.sleep(0.5)
    raise Failure(
        f"Airflow was not healthy after {START_SECONDS} seconds, it lacks: "
        f"{', '.join(waiting_for)}. See {LOGS}."
    )


def _key(component: str) -> str:
    """Return the name under which the API server's health report lists a component."""
    return "metadatabase" if component == "api-server" else component.replace("-", "_")


def _state() -> dict | None:
    try:
        return json.loads(STATE.read_text())
    # There is none, or the disk was full when it was written.
    except (FileNotFoundError, ValueError):
        return None


def _processes(state: dict) -> dict[str, psutil.Process]:
    """Return the components that still run; a pid that went to another process is not one."""
    found = {}
    for name, (pid, created) in state["processes"].items():
        try:
            process = psutil.Process(pid)
            if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
                found[name] = process
        except psutil.NoSuchProcess:
            pass
    return found
