"""What remains of a process that was killed, and how the next command handles it."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, ROOT, local
from tests.fixtures import connect, is_alive, wait_until

pytestmark = [
    pytest.mark.skipif(not HAS_POSTGRES, reason="the image lacks local/"),
    pytest.mark.slow,
]

BUSY = "do $$ begin loop end loop; end $$"


@pytest.fixture
def launch(tmp_path):
    """A function that starts a shell as one of Airflow's components; returns its pid."""
    code = """
import os, sys
from local import airflow
from local.settings import Settings
settings = Settings.from_environment(os.environ)
settings.logs.mkdir(exist_ok=True)
print(airflow.launch(settings, "scheduler", ["bash", "-c", sys.argv[1]], os.environ))
"""

    def launch(script: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", code, script],
            cwd=ROOT,
            env={**os.environ, "LOCAL_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            check=True,
        )
        return int(done.stdout)

    yield launch
    local("stop", env={"LOCAL_HOME": str(tmp_path)})


def test_stop_ends_what_outlived_the_component_that_started_it(launch, tmp_path):
    # In a session of its own, with a title of its own, as a task's `dbt build` can be.
    titled = "import setproctitle, time; setproctitle.setproctitle('task' * 99); time.sleep(300)"
    pid = launch(f'setsid {sys.executable} -c "{titled}" & setsid sleep 300 & wait')
    component = psutil.Process(pid)
    wait_until(lambda: len(component.children()) == 2, seconds=10)
    started = component.children()
    wait_until(lambda: "task" in " ".join(started[0].cmdline()), seconds=10)
    component.kill()
    assert local("stop", env={"LOCAL_HOME": str(tmp_path)}).returncode == 0
    assert [process for process in started if is_alive(process)] == []


def test_a_log_that_is_still_written_to_loses_nothing(launch, tmp_path):
    log = tmp_path / "logs" / "scheduler.log"
    launch("for n in 1 2 3 4; do echo line $n; sleep 0.5; done")
    wait_until(lambda: log.exists() and "line 1" in log.read_text(), seconds=10)
    launch("echo another")
    first = log.with_name("scheduler.log.1")
    wait_until(lambda: "line 4" in first.read_text(), seconds=10)
    assert first.read_text() == "line 1\nline 2\nline 3\nline 4\n"
    assert log.read_text() == "another\n"


def test_stop_ignores_a_state_file_that_was_written_in_part(launch, tmp_path):
    component = psutil.Process(launch("sleep 300"))
    (tmp_path / "airflow.json").write_text('{"port": "80')
    assert local("stop", env={"LOCAL_HOME": str(tmp_path)}).returncode == 0
    assert not is_alive(component)


@pytest.fixture
def client(postgres):
    """A process that has begun a statement without an end."""
    from psycopg import conninfo

    with connect(postgres) as connection:
        dsn = conninfo.make_conninfo(connection.info.dsn, password=connection.info.password)
    code = "import psycopg, sys; psycopg.connect(sys.argv[1]).execute(sys.argv[2])"
    client = psutil.Popen([sys.executable, "-c", code, dsn, BUSY], stderr=subprocess.DEVNULL)
    with connect(postgres) as connection:
        wait_until(lambda: busy(connection) == 1, seconds=30)
    yield client
    client.kill()
    client.wait()


def busy(connection) -> int:
    running = "select count(*) from pg_stat_activity where query = %s and state = 'active'"
    return connection.execute(running, [BUSY]).fetchone()[0]


def postmaster_pid(postgres) -> Path:
    return Path(postgres["LOCAL_HOME"], "postgres", "postmaster.pid")


def test_the_statement_of_a_client_that_was_killed_ends(postgres, client):
    client.kill()
    with connect(postgres) as connection:
        wait_until(lambda: busy(connection) == 0, seconds=10)


def test_postgres_starts_after_it_was_killed_while_a_statement_ran(postgres, client):
    server = psutil.Process(int(postmaster_pid(postgres).read_text().split()[0]))
    everything = [server, *server.children()]
    server.kill()
    started = local("warehouse", env=postgres)
    assert started.returncode == 0, started.stderr
    assert [process for process in everything if is_alive(process)] == []
    with connect(postgres) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_postgres_starts_although_its_old_pid_is_that_of_another_process(postgres):
    from local.postgres import USER

    old = postmaster_pid(postgres).read_text()
    assert local("stop", env=postgres).returncode == 0
    other = psutil.Popen(["sleep", "300"], user=USER)
    try:
        pid = postmaster_pid(postgres)
        pid.write_text(old.replace(old.split()[0], str(other.pid), 1))
        pid.chmod(0o644)
        started = local("warehouse", env=postgres)
        assert started.returncode == 0, started.stderr
        with connect(postgres) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert other.is_running()
    finally:
        other.kill()
        other.wait()
