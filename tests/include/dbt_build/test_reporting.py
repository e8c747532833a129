"""What the build task stores and sends, with an Airflow that is not always there."""

from types import SimpleNamespace

import pytest

from include.dbt_build import reporting
from include.dbt_build.protocol import BUILT_NODES, NODE_RESULTS
from include.dbt_build.reporting import ResultReporter
from include.dbt_build.results import BuildResults, NodeResult


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
        "set_nodes",
        lambda context, teardown_id, key, nodes: context["ti"].xcom_push(
            f"{key} of {teardown_id}", {*nodes}
        ),
    )
    return Airflow()


def test_what_could_not_be_stored_is_stored_later(ti):
    results = BuildResults()
    reporter = ResultReporter({"ti": ti}, [task("a"), task("b")], results, "done", None)
    results.nodes["model.p.a"] = NodeResult("success")
    results.nodes["model.p.b"] = NodeResult("error", message="division by zero")
    ti.is_up = False
    for store in (reporter._collect, reporter._store_built):
        with pytest.raises(ConnectionError):
            store()
    # The task of b would not find its result.
    assert reporter.unsent == {"a": "success"}
    ti.is_up = True
    reporter._collect()
    reporter._store_built()
    assert reporter.unsent == {"a": "success", "b": "error"}
    assert ti.xcoms[NODE_RESULTS]["b"]["message"] == "division by zero"
    assert ti.xcoms[BUILT_NODES] == ["model.p.a"]
    assert ti.xcoms[f"{BUILT_NODES} of done"] == {"model.p.a"}
