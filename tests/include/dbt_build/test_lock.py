"""The lock of a schema, on a Postgres with PgBouncer or an impatient network before it."""

import json
import logging
import select
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from threading import Event, Thread
from types import SimpleNamespace

import psycopg
import pytest

from include.dbt_build import lock
from include.dbt_build.lock import build_lock
from include.dbt_build.timeouts import DbtInterruptedError, interruptible
from tests.conftest import SETTINGS, free_port
from tests.fixtures import connect, wait_until
from tests.include.dbt_build.conftest import profile

pytestmark = pytest.mark.slow

IDLE_SECONDS = 2


def ti(run_id: str) -> SimpleNamespace:
    return SimpleNamespace(dag_id="daily", run_id=run_id)


@pytest.fixture
def pooled(postgres, tmp_path) -> Iterator[str]:
    """The port of a PgBouncer in transaction mode with one connection for each transaction."""
    if not shutil.which("pgbouncer"):
        pytest.skip("there is no pgbouncer: install it")
    connection, port = postgres, free_port()
    target = (
        f"host=127.0.0.1 port={connection['WAREHOUSE_PORT']} user={connection['WAREHOUSE_USER']}"
        f" password={connection['WAREHOUSE_PASSWORD']}"
    )
    (tmp_path / "pgbouncer.ini").write_text(
        f"[databases]\n{connection['WAREHOUSE_DB']} = {target}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 5\nuser = nobody\n"
        "ignore_startup_parameters = extra_float_digits\n"
    )
    process = subprocess.Popen(["pgbouncer", "--quiet", tmp_path / "pgbouncer.ini"])
    try:
        wait_until(lambda: can_connect(port), seconds=30)
        yield port
    finally:
        process.terminate()
        process.wait()


def can_connect(port: str) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=1):
        return True
    return False


class Proxy:
    """A proxy before a server, which can cut a connection on which nothing was sent for a time."""

    def __init__(self, server_port: int, idle_seconds: float | None = None):
        self.server_port, self.idle_seconds = server_port, idle_seconds
        self.pairs: list[tuple[socket.socket, socket.socket]] = []

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.listener.getsockname()[1])
        Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        for one in (self.listener, *chain.from_iterable(self.pairs)):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                pair = client, socket.create_connection(("127.0.0.1", self.server_port))
                self.pairs.append(pair)
                Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while ready := select.select([client, server], [], [], self.idle_seconds)[0]:
                for source in ready:
                    if not (data := source.recv(65536)):
                        # The other side notices it only when it sends something.
                        return
                    (server if source is client else client).sendall(data)
            client.close()
            server.close()


@pytest.fixture
def impatient(postgres) -> Iterator[str]:
    """The port of a proxy that cuts a connection on which nothing was sent for two seconds."""
    with Proxy(int(postgres["WAREHOUSE_PORT"]), IDLE_SECONDS) as proxy:
        yield proxy.port


@pytest.fixture
def conn_id(monkeypatch, postgres):
    """A function that makes an Airflow connection to a port and returns its ID."""

    def make(port: str) -> str:
        value = {"conn_type": "postgres", "host": "127.0.0.1", "port": int(port)}
        names = zip(("login", "password", "schema"), ("USER", "PASSWORD", "DB"), strict=True)
        value |= {name: postgres[f"WAREHOUSE_{key}"] for name, key in names}
        monkeypatch.setenv("AIRFLOW_CONN_BEHIND", json.dumps(value))
        return "behind"

    return make


def test_two_builds_behind_pgbouncer_do_not_overlap(pooled, conn_id, caplog):
    caplog.set_level(logging.INFO)
    mapped = profile("pooled", conn_id=conn_id(pooled))
    is_built = Event()
    second_was_late = []

    def second() -> None:
        with build_lock(mapped, ti("second")):
            second_was_late.append(is_built.is_set())

    with build_lock(mapped, ti("first")):
        thread = Thread(target=second)
        thread.start()
        wait_until(lambda: "Waiting for daily first" in caplog.text, seconds=30)
        is_built.set()
    thread.join(timeout=30)
    assert second_was_late == [True]


@pytest.mark.parametrize(
    ("port_of_connection", "argument"),
    [
        # Nothing listens at this port.
        ("1", {"port": "WAREHOUSE_PORT"}),
        ("WAREHOUSE_PORT", {"dbname": "{{ env_var('DATABASE') }}"}),
    ],
)
def test_the_lock_is_in_the_database_that_the_profile_names(
    postgres, conn_id, port_of_connection, argument
):
    mapped = profile("any", conn_id=conn_id(postgres.get(port_of_connection, "1")))
    given = {name: postgres.get(value, value) for name, value in argument.items()}
    mapped.profile_mapping.profile_args.update(given)
    with build_lock(mapped, ti("first")):
        pass


def test_the_lock_holds_over_a_connection_that_is_cut_when_idle(
    impatient, postgres, conn_id, monkeypatch
):
    monkeypatch.setattr(lock, "PING_SECONDS", IDLE_SECONDS / 4)
    mapped = profile("idle", conn_id=conn_id(impatient))
    free = f"select pg_try_advisory_xact_lock({lock.KEY})"
    with connect({**SETTINGS.dbt_env(), **postgres}) as other:
        with build_lock(mapped, ti("first")):
            # Longer than the proxy waits.
            assert not Event().wait(2 * IDLE_SECONDS)
            assert other.execute(free, ["idle"]).fetchone() == (False,)
        wait_until(lambda: other.execute(free, ["idle"]).fetchone()[0], seconds=30)


def test_the_proxy_cuts_an_idle_connection(impatient, postgres):
    with connect({**postgres, "WAREHOUSE_PORT": impatient}) as idle:
        assert not Event().wait(2 * IDLE_SECONDS)
        with pytest.raises(psycopg.OperationalError):
            idle.execute("select 1")


END_FIRST = """
    select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'daily first'
"""


def test_a_lost_lock_is_taken_again(postgres, conn_id, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lock, "PING_SECONDS", 0.1)
    mapped = profile("lost", conn_id=conn_id(postgres["WAREHOUSE_PORT"]))
    free = f"select pg_try_advisory_xact_lock({lock.KEY})"
    with connect({**SETTINGS.dbt_env(), **postgres}) as other:
        with build_lock(mapped, ti("first")):
            assert other.execute(END_FIRST).fetchall() == [(True,)]
            wait_until(lambda: "is held again" in caplog.text, seconds=30)
            assert "is lost" in caplog.text
            assert other.execute(free, ["lost"]).fetchone() == (False,)
        wait_until(lambda: other.execute(free, ["lost"]).fetchone()[0], seconds=30)


def test_dbt_is_interrupted_if_another_build_takes_a_lost_lock(postgres, conn_id, monkeypatch):
    monkeypatch.setattr(lock, "PING_SECONDS", 5)
    mapped = profile("taken", conn_id=conn_id(postgres["WAREHOUSE_PORT"]))

    def build(other) -> None:
        with build_lock(mapped, ti("first")), interruptible(lambda: None):
            assert other.execute(END_FIRST).fetchall() == [(True,)]
            other.execute(f"select pg_advisory_lock({lock.KEY})", ["taken"])
            assert not Event().wait(60)
            pytest.fail("nothing interrupted dbt")

    with (
        connect({**SETTINGS.dbt_env(), **postgres}) as other,
        pytest.raises(DbtInterruptedError, match="another task took the lock"),
    ):
        build(other)


def test_dbt_continues_while_postgres_has_not_noticed_the_lost_connection(
    postgres, conn_id, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lock, "PING_SECONDS", 0.2)
    with Proxy(int(postgres["WAREHOUSE_PORT"])) as proxy:
        mapped = profile("unseen", conn_id=conn_id(proxy.port))
        with build_lock(mapped, ti("first")), interruptible(lambda: None):
            client, server = proxy.pairs[0]
            client.shutdown(socket.SHUT_RDWR)
            # The task has tried twice to take the lock, and Postgres has not given it.
            wait_until(lambda: len(proxy.pairs) >= 3, seconds=30)
            assert "is held again" not in caplog.text
            server.shutdown(socket.SHUT_RDWR)
            wait_until(lambda: "is held again" in caplog.text, seconds=30)
