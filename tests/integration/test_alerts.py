"""What is sent to the connection `alerts` when a run has ended, seen by who receives it."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import quote

import psutil
import pytest

from tests.conftest import HAS_POSTGRES, HOME, free_port, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States, connection

pytestmark = [pytest.mark.timeout(300), pytest.mark.engine]

# Neither may be seen in a message or a log: of the receiver, and of the warehouse.
KEPT = "only-for-the-receiver"
KEPT_TOO = "of-the-warehouse"


class Receiver(ThreadingHTTPServer):
    """A web server that takes JSON."""

    def __init__(self):
        self.taken, self.logins = [], set()
        super().__init__(("127.0.0.1", 0), Handler)
        Thread(target=self.serve_forever).start()

    @property
    def url(self) -> str:
        return f"json://someone:{KEPT}@127.0.0.1:{self.server_port}"

    def about(self, run_id: str) -> list[dict]:
        """What it has taken of one run, as there can be more of an earlier one."""
        return [one for one in self.taken if one["message"].startswith(f"Run {run_id}\n")]

    def wait(self, run_id: str, messages: int = 1) -> list[dict]:
        wait_until(lambda: len(self.about(run_id)) >= messages, seconds=120)
        return self.about(run_id)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.logins.add(self.headers["Authorization"])
        self.server.taken.append(body)
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
    """An empty one, that the connection names."""
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


def test_a_failed_run_is_one_message_and_the_next_green_one_another(states, receiver):
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
    assert message["title"].endswith(f"is green again after {failed}")
    assert receiver.logins == {f"Basic {b64encode(f'someone:{KEPT}'.encode()).decode()}"}
    # By now a second one would be there.
    assert len(receiver.about(failed)) == 1


@pytest.mark.slow
def test_a_green_run_has_a_message_if_it_warned(states, receiver):
    # Only the first can be green again after an earlier test's.
    for _ in range(2):
        assert states.run() == "success"
    silent = states.run_id
    states.broken("warn_d")
    assert states.run() == "success"
    message = receiver.wait(states.run_id)[0]
    assert message["type"] == "warning"
    assert message["title"].endswith("is green, with warnings")
    assert "WARNED test breaks_with_d_id__warn_d, 1 failing rows, owner tests" in message["message"]
    assert "FAILED" not in message["message"]
    assert receiver.about(silent) == []


@pytest.mark.slow
def test_a_model_that_was_retried_and_is_green_is_not_named(states, receiver):
    states.broken("d")
    states.trigger()
    wait_until(lambda: states.tasks()["dbt.d.run"]["state"] == "up_for_retry")
    states.broken("warn_d")
    assert states.end() == "success"
    text = receiver.wait(states.run_id)[0]["message"]
    assert "WARNED test breaks_with_d_id__warn_d" in text
    assert "FAILED" not in text


@pytest.mark.slow
def test_a_run_that_was_cleared_is_green_again_after_itself(states, receiver):
    states.broken("test_a")
    assert states.run() == "failed"
    receiver.wait(states.run_id)
    states.broken()
    states.clear("dbt.a.test")
    assert states.end() == "success"
    message = receiver.wait(states.run_id, 2)[1]
    assert message["title"].endswith(f"is green again after {states.run_id}")
    assert "FAILED" not in message["message"]


@pytest.mark.slow
def test_a_build_that_is_killed_is_named_with_what_it_has_told(api, states, receiver):
    states.broken("g", fails=False, seconds=60)
    states.warehouse.execute("insert into raw_states.broken values ('test_a')")
    states.trigger()
    for attempt in (1, 2):
        wait_until(
            lambda attempt=attempt: (
                (build := states.tasks()["dbt_build"])["state"] == "running"
                and build["try_number"] == attempt
                # What the build has told of it is kept from now on.
                and api.exists(f"{states.path}/taskInstances/dbt_build/xcomEntries/problems")
                and states.warehouse.execute(
                    "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                ).fetchone()
            )
        )
        psutil.Process(states.tasks()["dbt_build"]["pid"]).kill()
    states.warehouse.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
    )
    assert states.end() == "failed"
    lines = receiver.wait(states.run_id)[0]["message"].splitlines()
    assert "FAILED test breaks_with_a_id__test_a, 1 failing rows, owner a@example.com" in lines
    assert lines[lines.index("FAILED task dbt_build, owner tests") + 1] == (
        f"  {link(states, 'dbt_build')}"
    )


@pytest.mark.slow
def test_no_value_of_a_row_is_sent(states, receiver):
    states.broken("2026-01-02")
    assert states.run() == "failed"
    assert "Failing row contains" in states.log("dbt.by_day_run")
    text = receiver.wait(states.run_id)[0]["message"]
    assert "FAILED model by_day" in text
    assert "Failing row" not in text


def test_a_warehouse_that_is_down_is_what_failed(api, warehouse, states, receiver):
    where = {"host": "127.0.0.1", "port": int(free_port()), "schema": "warehouse"}
    who = {"login": "dbt", "password": KEPT_TOO}
    with connection(api, "elsewhere", conn_type="postgres", **where, **who):
        down = States(api, warehouse, "elsewhere_once")
        assert down.run() == "failed"
    text = receiver.wait(down.run_id)[0]["message"]
    assert "FAILED task dbt_build, owner tests\n  connection failed" in text
    assert f"port {where['port']} failed: Connection refused" in text
    assert text.count("FAILED") == 1
    assert KEPT_TOO not in text


@pytest.mark.slow
def test_a_run_that_timed_out_says_so(api, warehouse, receiver):
    hangs = States(api, warehouse, "run_hangs")
    hangs.broken("a", fails=False, seconds=3600)
    assert hangs.run() == "failed"
    text = receiver.wait(hangs.run_id)[0]["message"]
    assert "Airflow's reason: timed_out" in text


@pytest.mark.slow
def test_a_run_is_late_and_a_task_without_dbt_fails(api, warehouse, states, receiver):
    late = States(api, warehouse, "late")
    assert late.run() == "failed"
    # Of two processes: either can be first.
    failed, passed = sorted(receiver.wait(late.run_id, 2), key=lambda message: message["type"])
    assert (failed["type"], passed["type"]) == ("failure", "warning")
    assert f"FAILED task fails, owner tests\n  {link(late, 'fails')}" in failed["message"]
    assert passed["title"].startswith("late (")
    assert passed["title"].endswith(" is late")
    assert f"Run {late.run_id}\n{link(late)}" in passed["message"]


@pytest.mark.slow
def test_a_message_that_is_not_taken_changes_nothing_and_is_in_the_log(api, states):
    before = callback_log()
    with connection(api, "alerts", **apprise(f"json://someone:{KEPT}@127.0.0.1:{free_port()}")):
        states.broken("reads_nothing")
        assert states.run() == "failed"
        wait_until(lambda: "Not sent" in callback_log().removeprefix(before), seconds=60)
    assert states.states()["dbt.reads_nothing_test"] == "failed"
    said = callback_log().removeprefix(before)
    assert "look at the connection alerts" in said
    assert KEPT not in said
    assert "Callback failed" not in said


@pytest.mark.slow
def test_without_the_connection_nothing_happens(states):
    before = callback_log()
    states.broken("reads_nothing")
    assert states.run() == "failed"
    states.broken()
    assert states.run() == "success"
    # It comes after the one of the failed run.
    wait_until(lambda: "on_success dag callback" in callback_log().removeprefix(before), seconds=60)
    said = callback_log().removeprefix(before)
    assert "on_failure dag callback" in said
    assert "Callback failed" not in said
    assert "Not sent" not in said
