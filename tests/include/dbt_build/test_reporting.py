"""What the build task stores and sends, with an Airflow that is not always there."""

from types import SimpleNamespace

import pytest

from include.dbt_build import reporting
from include.dbt_build.protocol import BUILD_STATE, NODE_RESULTS, Answer, BuildState, Report
from include.dbt_build.reporting import ResultReporter
from include.dbt_build.results import BuildResults, NodeResult

STATE = BuildState(
    first_try=1,
    clear_number=0,
    run_start_of_unended_try=None,
    has_ended_well=False,
    selected=None,
    built=[],
    succeeded=[],
    incomplete=[],
    done_before=[],
    without_event=[],
)


class Airflow:
    """A task instance whose XComs cannot be set while the API server is replaced."""

    def __init__(self):
        self.is_up, self.xcoms = True, {}

    def xcom_push(self, key: str, value) -> None:
        if not self.is_up:
            raise ConnectionError
        self.xcoms[key] = value


def task(name: str) -> SimpleNamespace:
    nodes = (f"model.p.{name}",)
    return SimpleNamespace(
        task_id=name, nodes_in=lambda _: nodes, is_leaf=False, needs_process=False
    )


@pytest.fixture
def ti(monkeypatch) -> Airflow:
    monkeypatch.setattr(reporting, "PluginClient", lambda ti: None)
    monkeypatch.setattr(reporting, "TaskLogs", lambda ti: None)
    monkeypatch.setattr(
        reporting,
        "set_xcom",
        lambda ti, task_id, key, value: ti.xcom_push(f"{key} of {task_id}", value),
    )
    return Airflow()


def test_what_could_not_be_stored_is_stored_later(ti):
    results = BuildResults()
    reporter = ResultReporter(ti, [task("a"), task("b")], results, "done", STATE)
    results.nodes["model.p.a"] = NodeResult("success")
    results.nodes["model.p.b"] = NodeResult("error", message="division by zero")
    ti.is_up = False
    for store in (reporter._collect, reporter._store_state):
        with pytest.raises(ConnectionError):
            store()
    # The task of b would not find its result.
    assert reporter.unsent == {"a": "success"}
    ti.is_up = True
    reporter._collect()
    reporter._store_state()
    assert reporter.unsent == {"a": "success", "b": "error"}
    assert ti.xcoms[NODE_RESULTS]["b"]["message"] == "division by zero"
    assert ti.xcoms[BUILD_STATE]["built"] == ["model.p.a"]
    assert ti.xcoms[f"{BUILD_STATE} of done"] == ti.xcoms[BUILD_STATE]


def test_a_model_whose_batches_are_complete_is_no_longer_incomplete(ti):
    results = BuildResults({"model.p.a": 1})
    reporter = ResultReporter(ti, [task("a")], results, "done", STATE)
    node = results.nodes["model.p.a"] = NodeResult(batches=3, built_batches={1})
    reporter._store_state()
    assert ti.xcoms[BUILD_STATE]["incomplete"] == ["model.p.a"]
    node.status, node.built_batches = "success", {1, 2, 3}
    reporter._store_state()
    assert ti.xcoms[BUILD_STATE]["incomplete"] == []
    assert ti.xcoms[BUILD_STATE]["built"] == ["model.p.a"]


def test_what_dbt_has_ended_before_an_interruption_is_reported(ti, monkeypatch):
    reports = []

    def send(report: Report) -> Answer:
        reports.append(report)
        return Answer(applied=dict.fromkeys(report.succeeded, 1), failed={})

    # The reporter is stopped before it sends its first report.
    monkeypatch.setattr(reporting, "POLL_SECONDS", 60)
    results = BuildResults()
    reporter = ResultReporter(ti, [task("a"), task("b")], results, "done", STATE)
    reporter._client = SimpleNamespace(send=send)
    reporter._logs = SimpleNamespace(write=lambda *_: None, close=lambda: None)
    with reporter:
        results.nodes["model.p.a"] = NodeResult("success")
        results.interrupt()
    assert [{*report.succeeded} for report in reports] == [{"a"}]
    assert reports[0].others == {}
    # Stored before the report, so that the next try does not build it again.
    assert ti.xcoms[BUILD_STATE]["built"] == ["model.p.a"]
