"""The endpoint without Airflow's database, and what it uses of Airflow, named after an upgrade.

tests/integration/test_states.py tests what a report does on a running Airflow.
"""

import inspect
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from airflow.models.dag_version import DagVersion
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.plugins_manager import get_fastapi_plugins
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.state import TaskInstanceState
from dbt.plugins.manager import PluginManager
from fastapi.testclient import TestClient
from sqlalchemy import inspect as columns_of

from include.dbt_build import DbtTaskGroup
from include.dbt_build.protocol import Answer, Report, Times, sign, signing_key
from plugins import build_api
from tests.conftest import ROOT
from tests.include.dbt_build.conftest import FILES, arguments, node_tasks, write

KEY = b"the key of this test"
BUILD_ID = str(uuid4())


def test_dbt_imports_no_plugin_of_airflow():
    assert not [*(ROOT / "plugins").glob(f"{PluginManager.PLUGIN_MODULE_PREFIX}*")]


@pytest.fixture
def applied(monkeypatch) -> list[Report]:
    """The reports that the endpoint accepted. Nothing reads or writes a database."""
    reports = []

    def apply(build_id, report: Report) -> Answer:
        assert str(build_id) == BUILD_ID
        reports.append(report)
        return Answer(applied={})

    def no_session():
        raise AssertionError("a session was opened")

    monkeypatch.setattr(build_api, "key", KEY)
    monkeypatch.setattr(build_api, "_apply_report", apply)
    monkeypatch.setattr(build_api, "create_session", no_session)
    return reports


@pytest.fixture
def client(applied) -> TestClient:
    return TestClient(build_api.app, raise_server_exceptions=False)


def post(client: TestClient, body: bytes, *, build_id: str = BUILD_ID, key: bytes = KEY, **headers):
    signature = sign(key, build_id, body)
    return client.post(
        f"/{build_id}", content=body, headers={"x-dbt-build-signature": signature, **headers}
    )


def body(**changes) -> bytes:
    report = Report(others={"a": "skipped"})
    return json.dumps({**json.loads(report.model_dump_json()), **changes}).encode()


def test_a_signed_report_is_applied(client, applied):
    answer = post(client, body())
    assert (answer.status_code, answer.json()) == (200, {"applied": {}, "failed": {}})
    assert [report.others for report in applied] == [{"a": "skipped"}]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-dbt-build-signature": ""},
        {"x-dbt-build-signature": sign(b"another key", BUILD_ID, body())},
        {"x-dbt-build-signature": sign(KEY, BUILD_ID, b"another body")},
        {"x-dbt-build-signature": sign(KEY, str(uuid4()), body())},
        {"x-dbt-build-signature": "größe".encode("latin-1")},
    ],
    ids=["missing", "empty", "key", "body", "build", "characters"],
)
def test_a_report_without_the_right_signature_is_forbidden(client, applied, headers):
    answer = client.post(f"/{BUILD_ID}", content=body(), headers=headers)
    assert answer.status_code == 403
    assert applied == []


@pytest.mark.parametrize("seconds", [-3600, 3600])
def test_a_report_of_another_time_is_forbidden(client, applied, seconds):
    sent_at = datetime.now(UTC) + timedelta(seconds=seconds)
    assert post(client, body(sent_at=sent_at.isoformat())).status_code == 403
    assert applied == []


TIME = "2026-01-01T00:00:00"
MALFORMED = {
    "more than JSON": b"{}x",
    "list": b"[]",
    "null": b"null",
    "no UTF-8": b"\xff",
    "deep": b"[" * 10_000,
    "unknown field": body(nonsense=1),
    "no dictionary": body(others="a"),
    "empty ID": body(others={"": "skipped"}),
    "long ID": body(others={"x" * 251: "skipped"}),
    "unknown state": body(others={"a": "success"}),
    "no time zone": body(succeeded={"a": {"start": TIME, "end": f"{TIME}Z"}}),
    "no end": body(succeeded={"a": {"start": f"{TIME}Z"}}),
    "no time": body(sent_at="never"),
    "sent without time zone": body(sent_at=TIME),
    "infinite time": body(sent_at=1e400),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_report_is_unprocessable(client, applied, content):
    answer = post(client, content)
    assert answer.status_code == 422
    assert applied == []
    # The answer does not repeat what was sent.
    assert b'"input"' not in answer.content


def test_a_report_that_is_too_long_is_refused_before_it_is_read(client, applied, monkeypatch):
    monkeypatch.setattr(build_api, "MAX_BYTES", 100)
    assert post(client, body(others={"a" * 100: "skipped"})).status_code == 413
    # A body in chunks has no length, and an HTTP server refuses these lengths.
    assert client.post(f"/{BUILD_ID}", content=iter([b"a"])).status_code == 413
    for length in ("x", "-1", "1.5"):
        assert post(client, body(), **{"content-length": length}).status_code == 413
    assert post(client, b"").status_code == 413
    assert applied == []


def test_without_a_key_every_report_is_forbidden(client, applied, monkeypatch):
    monkeypatch.setattr(build_api, "key", None)
    assert post(client, body(), key=b"").status_code == 403
    assert applied == []


def test_no_other_request_has_an_answer(client):
    for path in ("/", "/docs", "/redoc", "/openapi.json", f"/{BUILD_ID}/x"):
        assert client.get(path).status_code in (404, 405)
    assert client.get(f"/{BUILD_ID}").status_code == 405
    assert client.post("/no-uuid", content=body()).status_code == 422


def test_a_report_needs_as_many_bytes_as_are_allowed():
    now = Times(start=datetime.now(UTC), end=datetime.now(UTC))
    names = [f"{'x' * 120}{number}" for number in range(50_000)]
    report = Report(succeeded=dict.fromkeys(names, now))
    assert len(report.model_dump_json()) < build_api.MAX_BYTES


def test_a_key_comes_from_the_setting_or_from_the_fernet_key():
    def key(**settings):
        conf = SimpleNamespace(get=lambda section, name, fallback: settings.get(name))
        return signing_key(conf)

    assert key() is None
    assert key(fernet_key="") is None
    assert key(fernet_key="f") == key(signing_key="f")
    assert key(fernet_key="f", signing_key="s") == key(signing_key="s") != key(fernet_key="f")
    # The key of the signatures is not the key that encrypts Airflow's secrets.
    assert b"f" * 8 not in key(fernet_key="f" * 8)


@pytest.fixture
def serialized(tmp_path, monkeypatch):
    """A DAG with two groups, one downstream of the other, as the API server reads it."""
    monkeypatch.setattr("cosmos.settings.cache_dir", tmp_path / "cosmos")
    path = write(tmp_path / "second", FILES)
    with DAG("two_groups", start_date=datetime(2026, 1, 1)) as dag:
        first = DbtTaskGroup("first", **arguments(path, select=["base"]))
        first >> DbtTaskGroup("last", **arguments(path))
    return dag, DagSerialization.from_dict(DagSerialization.to_dict(dag))


@pytest.mark.parametrize("group", ["first", "last"])
def test_a_build_may_set_the_states_of_its_own_tasks_only(serialized, group):
    dag, read = serialized
    tasks = build_api.BuildTasks(read, f"{group}.dbt_build")
    assert tasks.nodes == {name for name in node_tasks(dag) if name.startswith(group)}
    assert tasks.teardown == f"{group}.dbt_build_done"
    assert f"{group}.dbt_build" in tasks.upstream[f"{group}.base.run"]


def test_times_outside_of_the_try_are_unprocessable():
    now = datetime.now(UTC)
    build = SimpleNamespace(start_date=now - timedelta(hours=1))

    def check(start: datetime, end: datetime) -> None:
        report = Report(succeeded={"a": Times(start=start, end=end)})
        build_api._check_times(report, build)

    check(now - timedelta(minutes=2), now)
    for start, end in (
        (now, now - timedelta(minutes=1)),
        (now - timedelta(hours=2), now),
        (now, now + timedelta(hours=1)),
    ):
        with pytest.raises(build_api.HTTPException) as error:
            check(start, end)
        assert error.value.status_code == 422


def test_a_try_has_the_next_number_in_each_version_of_airflow(monkeypatch):
    monkeypatch.setattr(build_api, "TaskInstance", SimpleNamespace())
    # Airflow 3.3 counts a try when it is scheduled.
    assert [build_api.next_try(SimpleNamespace(try_number=n)) for n in (0, 1)] == [1, 2]
    monkeypatch.setattr(build_api, "TaskInstance", SimpleNamespace(working_set=None))
    # Airflow 3.4 counts it when the last one has ended.
    assert [build_api.next_try(SimpleNamespace(try_number=n)) for n in (0, 1, 2)] == [1, 1, 2]


USED = {
    TaskInstance: {
        *("id", "dag_id", "run_id", "task_id", "operator", "state", "try_number", "hostname"),
        *("start_date", "end_date", "duration", "scheduled_dttm", "updated_at"),
        "dag_version_id",
    },
    Log: {"event", "owner", "owner_display_name", "extra"},
}


@pytest.mark.parametrize(
    ("model", "column"), [(model, name) for model, names in USED.items() for name in sorted(names)]
)
def test_airflow_has_the_column(model, column):
    assert column in columns_of(model).columns


def test_airflow_has_the_arguments_and_relations():
    assert {"event", "task_instance"} <= inspect.signature(Log.__init__).parameters.keys()
    assert "serialized_dag" in DagVersion.__mapper__.relationships
    assert "session" in inspect.signature(TaskInstance.prepare_db_for_next_try).parameters


@pytest.mark.parametrize(
    "state", ["RUNNING", "SUCCESS", "SCHEDULED", "FAILED", "UPSTREAM_FAILED", "SKIPPED"]
)
def test_airflow_has_the_state(state):
    assert TaskInstanceState[state] == state.lower()


def test_the_plugin_is_loaded_and_mounted():
    apps, _ = get_fastapi_plugins()
    (app,) = (app for app in apps if app["name"] == "dbt build")
    assert app["url_prefix"] == "/dbt_build"
    assert [route.path for route in app["app"].routes] == ["/{build_id}"]
