"""A warehouse that is down for a while, or that refuses dbt."""

import json
import subprocess

import pytest
from airflow.sdk import Connection

from tests.conftest import HAS_POSTGRES, HOME, SETTINGS, free_port, local
from tests.fixtures import connect, wait_until

if HAS_POSTGRES:
    from local.postgres import BIN, USER
    from tests.integration.states import States, connection

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]


class Server:
    """A Postgres that tests stop. It is not the one that holds Airflow's own database."""

    def __init__(self):
        self.env = {"LOCAL_HOME": str(HOME / "elsewhere"), "WAREHOUSE_PORT": free_port()}

    def start(self) -> None:
        started = local("warehouse", env=self.env)
        assert started.returncode == 0, started.stderr

    def stop(self) -> None:
        stopped = local("stop", env=self.env)
        assert stopped.returncode == 0, stopped.stderr

    def change(self, statement: str) -> None:
        """Run a statement as the superuser, who can connect only to a stopped server."""
        self.stop()
        single = [BIN / "postgres", "--single", "-D", f"{self.env['LOCAL_HOME']}/postgres"]
        subprocess.run(
            [*single, "postgres"], input=statement, user=USER, cwd="/", check=True, text=True
        )
        self.start()

    def connect(self):
        return connect({**SETTINGS.dbt_env(), **self.env})

    def values(self) -> dict:
        """Return the connection to this server, with the names of the REST API."""
        uri = SETTINGS.machine_env()["AIRFLOW_CONN_WAREHOUSE"]
        given = json.loads(Connection.from_uri(uri, conn_id="warehouse").as_json())
        return {**given, "port": int(self.env["WAREHOUSE_PORT"])}


@pytest.fixture(scope="module")
def server():
    server = Server()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connected(api, server):
    with connection(api, "elsewhere", **server.values()):
        yield


def wait_for_a_failed_try(states: "States") -> None:
    wait_until(lambda: "up_for_retry" in states.states().values(), seconds=120)


def test_a_warehouse_that_is_down_before_a_run(api, server, connected):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere")
    server.stop()
    states.trigger()
    wait_for_a_failed_try(states)
    assert "Connection refused" in states.log("dbt_build")
    server.start()
    assert states.end() == "success"


def test_a_cleared_run_is_built_whole_if_its_first_try_cannot_connect(api, server, connected):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere")
        assert states.run() == "success"
        states.broken()
    server.stop()
    states.clear()
    wait_for_a_failed_try(states)
    server.start()
    assert states.end() == "success"
    with server.connect() as states.warehouse:
        assert states.built() == {"a": 1, "b": 1}


def test_a_warehouse_that_goes_down_during_a_run(api, server, connected):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere")
        # Longer than the server takes to stop.
        states.broken("b", fails=False, seconds=60)
        states.trigger()
        states.wait_for_state("a.run", "success")
    server.stop()
    wait_for_a_failed_try(states)
    server.start()
    with server.connect() as states.warehouse:
        states.warehouse.execute("truncate raw_states.broken")
        assert states.end() == "success"
        rows = states.warehouse.execute("select a.id, b.id from states.a, states.b").fetchall()
        assert rows == [(1, 1)]


def test_a_wrong_password(api, server):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere_once")
    with connection(api, "elsewhere", **{**server.values(), "password": str(HOME)}):
        assert states.run() == "failed"
    found = states.states()
    assert found.pop("dbt_build") == "failed"
    assert set(found.values()) == {"upstream_failed"}
    assert "password authentication failed for user" in states.log("dbt_build")


def test_a_role_that_may_not_create_a_schema(api, server, connected):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere_once")
    database, role = f"on database {server.values()['schema']}", server.values()["login"]
    server.change(f"revoke create {database} from {role}")
    try:
        assert states.run() == "failed"
    finally:
        server.change(f"grant create {database} to {role}")
    assert set(states.states().values()) == {"failed", "upstream_failed"}
    assert "permission denied for database" in states.log("dbt_build")


def test_a_connection_that_is_missing(api, server):
    with server.connect() as warehouse:
        states = States(api, warehouse, "elsewhere_once")
    assert states.run() == "failed"
    assert "The conn_id `elsewhere` isn't defined" in states.log("dbt_build")
