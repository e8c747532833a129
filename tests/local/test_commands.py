"""What the commands print, their errors, and who can connect to their Postgres."""

import contextlib
import fcntl
import json
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import yaml

from tests.conftest import HAS_POSTGRES, HOME, ROOT, free_port, local, running_in
from tests.fixtures import connect, is_alive, listening, wait_until, write

pytestmark = pytest.mark.skipif(
    not HAS_POSTGRES, reason="the image has neither the Makefile nor the embedded Postgres"
)


# Variables of `make test ARGS=...` that a make that a test starts must not inherit.
OF_MAKE = {"ARGS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def run(*command, folder: Path = ROOT, **env) -> tuple[int, list[str]]:
    """Return a command's exit code and its lines on stderr without make's own."""
    inherited = {k: v for k, v in os.environ.items() if k not in OF_MAKE}
    done = subprocess.run(
        command, cwd=folder, env={**inherited, **env}, capture_output=True, text=True
    )
    return done.returncode, [x for x in done.stderr.splitlines() if not x.startswith("make: ***")]


@pytest.fixture
def make(tmp_path):
    """A function that runs make on this environment and on an empty folder of its own."""

    def make(*words: str, **env) -> tuple[int, list[str]]:
        venv = [f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed"]
        return run("make", *venv, *words, LOCAL_HOME=str(tmp_path), **env)

    return make


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield str(server.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("start PORT=http", "PORT=http is not a port"),
        ("start PORT=1023", "PORT=1023 is not a port"),
        ("psql WAREHOUSE_PORT=70000", "WAREHOUSE_PORT=70000 is not a port"),
        ("dbt", "ARGS= is missing"),
        ("dbt PROJECT=none ARGS=--version", "There is no dbt project none"),
        ("run", "Airflow is not running"),
    ],
)
def test_an_invalid_option_is_a_one_line_error(make, words, message):
    code, lines = make(*words.split())
    assert code != 0
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"error: {message}")


def test_a_mistake_in_a_yaml_file_is_reported_with_its_line(make, tmp_path):
    write(tmp_path / "dbt" / "shop", {"dbt_project.yml": "name: shop\n  profile: shop"})
    words = ("dbt", "PROJECT=shop", "ARGS=ls")
    code, lines = make(*words, DBT_PROJECTS_DIR=str(tmp_path / "dbt"))
    assert code != 0
    assert lines[0].startswith("error: ")
    assert lines[1].startswith(f'  in "{tmp_path}/dbt/shop/dbt_project.yml", line 2')


@pytest.mark.parametrize(
    ("target", "variable"), [("start", "PORT"), ("warehouse", "WAREHOUSE_PORT")]
)
def test_a_taken_port_is_named_before_anything_starts(make, tmp_path, taken_port, target, variable):
    code, lines = make(target, f"{variable}={taken_port}")
    assert code != 0
    assert len(lines) == 1, lines
    assert f"Port {taken_port}" in lines[0]
    assert f"{variable}=" in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_containers_have_the_same_connection():
    from local.settings import LOCAL_LOGIN

    override = yaml.safe_load((ROOT / "docker-compose.override.yml").read_text())
    given = json.loads(override["x-dbt"]["environment"]["AIRFLOW_CONN_WAREHOUSE"])
    settings = yaml.safe_load((ROOT / "airflow_settings.yaml").read_text())
    [conn] = settings["airflow"]["connections"]
    assert conn.pop("conn_id") == "warehouse"
    # The names differ by the prefix conn_, except that of the type.
    assert given.pop("conn_type") == conn.pop("conn_type")
    assert given == {name.removeprefix("conn_"): value for name, value in conn.items()}
    assert [given[name] for name in ("login", "password", "schema")] == [*LOCAL_LOGIN.values()]


def test_containers_are_reached_from_this_machine_only():
    override = yaml.safe_load((ROOT / "docker-compose.override.yml").read_text())
    published = [p for s in override["services"].values() for p in s.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []
    assert [s for s in override["services"].values() if "network_mode" in s] == []
    # The CLI publishes its own ports on this machine only, unless this is set.
    settings = yaml.safe_load((ROOT / ".astro" / "config.yaml").read_text())
    assert "expose_port" not in settings.get("airflow", {})


def test_the_container_creates_the_same_role_and_no_superuser_who_can_log_in():
    from local.settings import LOCAL_LOGIN

    override = yaml.safe_load((ROOT / "docker-compose.override.yml").read_text())
    assert "POSTGRES_USER" not in override["services"]["warehouse"]["environment"]
    sql = (ROOT / "local" / "warehouse.sql").read_text()
    user, password, database = LOCAL_LOGIN.values()
    assert f"create role {user} login password '{password}';" in sql
    assert f"create database {database};" in sql


def test_a_missing_python_version_is_reported_and_leaves_no_environment(tmp_path):
    for name in ("Makefile", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    code, lines = run(shutil.which("make"), "start", folder=tmp_path, PATH=str(tmp_path))
    assert code != 0
    assert lines == ["error: no Python 3.11, 3.12 or 3.13 found: install one of them."]
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize("is_renamed", [False, True])
def test_the_environment_is_made_anew_after_its_folder_was_renamed(tmp_path, is_renamed):
    venv = ".local/venv"
    activate = f"VIRTUAL_ENV={'/old' if is_renamed else tmp_path}/{venv}"
    files = {"requirements-dev.txt": "", f"{venv}/bin/activate": activate, f"{venv}/installed": ""}
    write(tmp_path, files)
    for name in ("python", "uv"):
        (tmp_path / venv / "bin" / name).symlink_to(sys.executable)
    command = ["make", "--dry-run", "--file", ROOT / "Makefile", "warehouse"]
    env = {k: v for k, v in os.environ.items() if k not in OF_MAKE}
    printed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert ("-m venv" in printed) == is_renamed


def test_a_folder_that_cannot_be_written_to_is_named():
    own = {"LOCAL_HOME": "/sys/local", "WAREHOUSE_PORT": free_port()}
    code, lines = run(sys.executable, "-m", "local", "warehouse", **own)
    assert code == 1
    # The first is the error of root, the second that of any other user.
    reasons = ("Operation not permitted", "Permission denied")
    assert lines in [[f"error: {reason}: /sys/local"] for reason in reasons]


@pytest.mark.slow
def test_a_full_disk_is_named(postgres):
    file = Path(postgres["LOCAL_HOME"], "standalone.env")
    file.symlink_to("/dev/full")
    code, lines = run(sys.executable, "-m", "local", "standalone", **postgres)
    file.unlink()
    assert code == 1
    assert lines == [f"error: No space left on device: {postgres['LOCAL_HOME']}"]


def test_a_second_start_does_not_stop_the_first_one(make, tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    code, lines = make("start")
    os.close(folder)
    assert code != 0
    assert lines == ["error: Another `make start` is at work here: wait until it ends."]


@pytest.mark.slow
def test_an_interrupted_start_ends_airflow_and_names_make_stop():
    home = HOME / "interrupted"
    own = {"LOCAL_HOME": str(home), "PORT": free_port(), "WAREHOUSE_PORT": free_port()}
    begun = subprocess.Popen(
        [sys.executable, "-m", "local", "start"],
        cwd=ROOT,
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while "Starting Airflow" not in (line := begun.stdout.readline()):
            assert line
        begun.send_signal(signal.SIGTERM)
        printed = begun.communicate(timeout=60)[1]
        assert printed == "Interrupted: `make stop` ends what still runs.\n"
        assert begun.returncode == 1
        assert running_in(home) != []
    finally:
        local("stop", env=own)
    assert running_in(home) == []


def test_stop_succeeds_when_nothing_runs(make):
    assert make("stop") == (0, [])


def server(postgres) -> psutil.Process:
    pid = Path(postgres["LOCAL_HOME"], "postgres", "postmaster.pid").read_text().split()[0]
    return psutil.Process(int(pid))


def test_postgres_listens_on_this_machine_only(postgres):
    found = listening(running_in(Path(postgres["LOCAL_HOME"])))
    assert found == {("127.0.0.1", int(postgres["WAREHOUSE_PORT"]))}
    # It has no Unix socket either, which any user of the machine could open.
    assert server(postgres).net_connections("unix") == []


@pytest.mark.parametrize("user", ["postgres", "airflow", "dbt"])
def test_postgres_refuses_a_wrong_password(postgres, user):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(postgres, user=user, password=f"not {postgres['WAREHOUSE_PASSWORD']}")


def test_postgres_is_started_once_stopped_whole_and_keeps_its_data(postgres, warehouse):
    warehouse.execute("create schema kept")
    first = server(postgres)
    assert local("warehouse", env=postgres).returncode == 0
    elsewhere = local("warehouse", env={**postgres, "WAREHOUSE_PORT": free_port()})
    assert elsewhere.returncode != 0
    assert f"already runs on port {postgres['WAREHOUSE_PORT']}" in elsewhere.stderr
    assert server(postgres) == first

    processes = [first, *first.children(recursive=True)]
    assert len(processes) > 1
    for _ in range(2):
        stopped = local("stop", env=postgres)
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert [process for process in processes if is_alive(process)] == []

    assert local("warehouse", env=postgres).returncode == 0
    with connect(postgres) as connection:
        connection.execute("drop schema kept")


def test_ctrl_c_reaches_psql_only_because_no_other_process_waits_for_it(postgres):
    command = [sys.executable, "-m", "local", "psql", "-c", r"\! echo $PPID"]
    # A machine need not have a psql on its PATH.
    env = {**os.environ, **postgres, "PATH": "/nowhere"}
    psql = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    assert int(psql.communicate()[0]) == psql.pid


def test_ctrl_c_reaches_dbt_only_because_no_other_process_waits_for_it(postgres, projects):
    from local.settings import BIN

    command = [sys.executable, "-m", "local", "dbt", "", "parse"]
    env = {**os.environ, **postgres, "DBT_PROJECTS_DIR": str(projects)}
    dbt = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: f"{BIN}/dbt" in psutil.Process(dbt.pid).cmdline())
    assert "Running with dbt" in dbt.communicate()[0]
    assert dbt.returncode == 0


def test_a_command_uses_the_postgres_that_runs_whatever_its_port(postgres):
    done = local("psql", "-c", "select inet_server_port()", env={**postgres, "WAREHOUSE_PORT": ""})
    assert postgres["WAREHOUSE_PORT"] in done.stdout


def test_clean_removes_no_other_file_of_the_folder_that_local_home_names(tmp_path):
    words = ["make", "--dry-run", f"VENV={sys.prefix}", "clean", f"LOCAL_HOME={tmp_path}"]
    env = {k: v for k, v in os.environ.items() if k not in OF_MAKE}
    printed = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True).stdout
    (line,) = [line for line in printed.splitlines() if line.startswith("rm -rf ")]
    removed = shlex.split(line)
    assert f"{tmp_path}/postgres" in removed
    assert str(tmp_path) not in removed
    assert ".local" not in removed


def test_a_terminal_has_a_live_line_and_a_pipe_plain_ones(tmp_path):
    own = {"LOCAL_HOME": str(tmp_path), "WAREHOUSE_PORT": free_port(), "TERM": "xterm"}
    printed = f"Starting Postgres on 127.0.0.1:{own['WAREHOUSE_PORT']}"
    screen, terminal = pty.openpty()
    try:
        started = subprocess.Popen(
            [sys.executable, "-m", "local", "warehouse"],
            cwd=ROOT,
            env={**os.environ, **own},
            stdout=terminal,
        )
        os.close(terminal)
        shown = b""
        # On Linux, reading a terminal that no process can write to any more is an error.
        with contextlib.suppress(OSError):
            while read := os.read(screen, 1024):
                shown += read
        assert started.wait() == 0
        assert printed.encode() in shown
        # This sequence erases a line, which is then written again.
        assert b"\x1b[2K" in shown

        assert local("stop", env=own).returncode == 0
        assert local("warehouse", env=own).stdout.splitlines() == [printed]
    finally:
        os.close(screen)
        local("stop", env=own)


def test_test_all_reports_first_what_is_missing_and_how_to_install_it(tmp_path):
    code, lines = run(sys.executable, "-m", "tests.requirements", PATH=str(tmp_path))
    assert code == 1
    (line,) = lines
    assert line.startswith("error: the tests in a browser, with Celery and with PgBouncer need ")
    assert "apt-get install chromium fonts-liberation redis-server pgbouncer" in line
