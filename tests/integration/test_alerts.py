"""The messages that a receiver gets through the connection `alerts` when runs end."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, HOME, free_port
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import States, connection

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

BUILD = "dbt.dbt_build"

# Passwords, which must not be in a message or a log.
RECEIVER_PASSWORD = "only-for-the-receiver"  # noqa: S105  # pragma: allowlist secret
WAREHOUSE_PASSWORD = "of-the-warehouse"  # noqa: S105  # pragma: allowlist secret


class Receiver(ThreadingHTTPServer):
    """A web server that keeps the JSON that it receives."""

    def __init__(self):
        self.received, self.logins = [], set()
        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever).start()

    @property
    def url(self) -> str:
        return f"json://someone:{RECEIVER_PASSWORD}@127.0.0.1:{self.server_port}"

    def about(self, run_id: str) -> list[dict]:
        """Return the messages of one run, because those of an earlier run can come late."""
        return [body for body in self.received if body["message"].startswith(f"Run {run_id}\n")]

    def wait(self, run_id: str, messages: int = 1) -> list[dict]:
        wait_until(lambda: len(self.about(run_id)) >= messages, seconds=120)
        return self.about(run_id)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.logins.add(self.headers["Authorization"])
        self.server.received.append(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_): ...


def apprise(url: str) -> dict:
    return {"conn_type": "apprise", "extra": json.dumps({"config": {"path": url}})}


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture
def receiver(api, states) -> Iterator[Receiver]:
    """Return a receiver without messages, which the connection names."""
    states.broken()
    server = Receiver()
    with connection(api, "alerts", **apprise(server.url)):
        yield server
    server.shutdown()
    server.server_close()
    states.broken()


def link(states, task_id: str | None = None) -> str:
    run = f"{states.api.url}/dags/{states.dag_id}/runs/{quote(states.run_id)}"
    return f"{run}/tasks/{task_id}" if task_id else run


def callback_log(file: str = "states") -> str:
    found = (HOME / "airflow" / "logs" / "dag_processor").rglob(f"{file}.py.log")
    return "".join(log.read_text() for log in found if not log.is_symlink())


def test_a_failed_run_and_the_next_successful_one_send_a_message_each(states, receiver):
    states.broken("test_a", "f")
    assert states.run() == "failed"
    failed = states.run_id
    message = receiver.wait(failed)[0]
    assert message["type"] == "failure"
    assert re.fullmatch(r"states_between \(.* UTC\) failed", message["title"])
    text = message["message"]
    lines = text.splitlines()
    assert link(states) in lines
    test = lines.index("FAILED test breaks_with_a_id__test_a, 1 failing rows, owner a@example.com")
    assert lines[test + 1 : test + 3] == [
        "  Got 1 result, configured to fail if != 0",
        f"  {link(states, 'dbt.a.test')}",
    ]
    model = lines.index("FAILED model f, owner tests")
    assert lines[model + 1 : model + 4] == [
        "  Database Error in model f (models/f.sql)",
        "  division by zero",
        f"  {link(states, 'dbt.f_run')}",
    ]
    assert text.count("FAILED") == 2
    assert "WARNED" not in text

    states.broken()
    assert states.run() == "success"
    message = receiver.wait(states.run_id)[0]
    assert message["type"] == "success"
    assert message["title"].endswith(f"succeeded again after {failed}")
    assert receiver.logins == {
        f"Basic {b64encode(f'someone:{RECEIVER_PASSWORD}'.encode()).decode()}"
    }
    # A second message would have been received by now.
    assert len(receiver.about(failed)) == 1


def test_a_successful_run_sends_a_message_if_it_warned(states, receiver):
    # The first run can be the one that succeeds again after the failed run of an earlier test.
    for _ in range(2):
        assert states.run() == "success"
    silent = states.run_id
    states.broken("warn_d")
    assert states.run() == "success"
    message = receiver.wait(states.run_id)[0]
    assert message["type"] == "warning"
    assert message["title"].endswith("succeeded, with warnings")
    assert "WARNED test breaks_with_d_id__warn_d, 1 failing rows, owner tests" in message["message"]
    assert "FAILED" not in message["message"]
    assert receiver.about(silent) == []


def test_a_model_that_succeeded_in_a_retry_is_not_named(states, receiver):
    states.broken("d", once=True)
    states.warehouse.execute("insert into raw_states.broken values ('warn_d')")
    assert states.run() == "success"
    assert states.tasks()["dbt.d.run"]["try_number"] == 2
    text = receiver.wait(states.run_id)[0]["message"]
    assert "WARNED test breaks_with_d_id__warn_d" in text
    assert "FAILED" not in text


def test_a_run_that_succeeds_after_a_clear_sends_a_message(states, receiver):
    states.broken("test_a")
    assert states.run() == "failed"
    receiver.wait(states.run_id)
    states.broken()
    states.clear("dbt.a.test")
    assert states.end() == "success"
    message = receiver.wait(states.run_id, 2)[1]
    assert message["title"].endswith(f"succeeded again after {states.run_id}")
    assert "FAILED" not in message["message"]


def test_a_killed_build_is_named_with_the_failed_nodes_that_it_reported(api, states, receiver):
    states.broken("g", fails=False, seconds=60)
    states.warehouse.execute("insert into raw_states.broken values ('test_a')")
    states.trigger()
    for attempt in (1, 2):
        wait_until(
            lambda attempt=attempt: (
                (build := states.tasks()[BUILD])["state"] == "running"
                and build["try_number"] == attempt
                and states.xcom(BUILD, "dbt_problems")
                and states.warehouse.execute(
                    "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                ).fetchone()
            )
        )
        psutil.Process(states.tasks()[BUILD]["pid"]).kill()
    states.warehouse.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    )
    assert states.end() == "failed"
    lines = receiver.wait(states.run_id)[0]["message"].splitlines()
    assert "FAILED test breaks_with_a_id__test_a, 1 failing rows, owner a@example.com" in lines
    assert lines[lines.index(f"FAILED task {BUILD}, owner tests") + 1] == (
        f"  {link(states, BUILD)}"
    )


def test_no_value_of_a_row_is_sent(states, receiver):
    states.broken("2026-01-02")
    assert states.run() == "failed"
    assert "Failing row contains" in states.log("dbt.by_day_run")
    text = receiver.wait(states.run_id)[0]["message"]
    assert "FAILED model by_day" in text
    assert "Failing row" not in text


def test_a_warehouse_that_is_down_is_named(api, warehouse, states, receiver):
    address = {"host": "127.0.0.1", "port": int(free_port()), "schema": "warehouse"}
    login = {"login": "dbt", "password": WAREHOUSE_PASSWORD}
    with connection(api, "elsewhere", conn_type="postgres", **address, **login):
        down = States(api, warehouse, "elsewhere_once")
        assert down.run() == "failed"
    text = receiver.wait(down.run_id)[0]["message"]
    assert "FAILED task dbt_build, owner tests\n  connection failed" in text
    assert f"port {address['port']} failed: Connection refused" in text
    assert text.count("FAILED") == 1
    assert WAREHOUSE_PASSWORD not in text


def test_the_message_of_a_run_that_timed_out_has_the_reason(api, warehouse, receiver):
    hangs = States(api, warehouse, "run_hangs")
    hangs.broken("a", fails=False, seconds=3600)
    assert hangs.run() == "failed"
    text = receiver.wait(hangs.run_id)[0]["message"]
    assert "Airflow's reason: timed_out" in text


def test_a_late_run_and_a_failed_task_without_dbt_send_a_message_each(
    api, warehouse, states, receiver
):
    late = States(api, warehouse, "late")
    assert late.run() == "failed"
    # Two processes send the messages, so either message can be first.
    failed, passed = sorted(receiver.wait(late.run_id, 2), key=lambda message: message["type"])
    assert (failed["type"], passed["type"]) == ("failure", "warning")
    assert f"FAILED task fails, owner tests\n  {link(late, 'fails')}" in failed["message"]
    assert passed["title"].startswith("late (")
    assert passed["title"].endswith(" is late")
    assert passed["message"].startswith(f"Run {late.run_id}\n{link(late)}\n")
    by = r"It has not succeeded by \d{4}-\d\d-\d\d \d\d:\d\d UTC: its state is \w+\."
    assert re.fullmatch(by, passed["message"].splitlines()[-1])


def test_a_refused_message_is_logged_and_changes_no_state(api, states):
    before = callback_log()
    with connection(
        api, "alerts", **apprise(f"json://someone:{RECEIVER_PASSWORD}@127.0.0.1:{free_port()}")
    ):
        states.broken("reads_nothing")
        assert states.run() == "failed"
        wait_until(lambda: "was not sent" in callback_log().removeprefix(before), seconds=120)
    assert states.states()["dbt.reads_nothing_test"] == "failed"
    logged = callback_log().removeprefix(before)
    assert "check the connection alerts" in logged
    assert RECEIVER_PASSWORD not in logged
    assert "Callback failed" not in logged


def test_without_the_connection_nothing_is_sent(states):
    before = callback_log()
    states.broken("reads_nothing")
    assert states.run() == "failed"
    states.broken()
    assert states.run() == "success"
    # The callback of the failed run comes first.
    wait_until(
        lambda: "on_success dag callback" in callback_log().removeprefix(before), seconds=120
    )
    logged = callback_log().removeprefix(before)
    assert "on_failure dag callback" in logged
    assert "Callback failed" not in logged
    assert "was not sent" not in logged
