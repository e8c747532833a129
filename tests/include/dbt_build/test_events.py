"""What is known of a node after dbt's events, and that no mistake in hearing reaches dbt."""

import pytest
from dbt.events.types import LogTestResult, NodeFinished, NodeStart
from dbt_common.events.base_types import EventLevel, msg_from_base_event
from include.dbt_build.events import Events

NODE = "model.p.a"


def start():
    return msg_from_base_event(NodeStart(node_info={"unique_id": NODE}), level=EventLevel.DEBUG)


def finish(status: str, message: str = ""):
    info = {
        "unique_id": NODE,
        "node_started_at": "2026-01-01T00:00:00",
        "node_finished_at": "2026-01-01T00:00:01",
    }
    event = NodeFinished(node_info=info, run_result={"status": status, "message": message})
    return msg_from_base_event(event, level=EventLevel.DEBUG)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("success", "success"),
        ("pass", "success"),
        ("warn", "success"),
        ("fail", "fail"),
        ("error", "error"),
        ("runtime error", "error"),
        ("partial success", "error"),
        ("skipped", None),
        ("no-op", None),
    ],
)
def test_each_status_has_its_outcome(status, outcome):
    events = Events()
    for event in (start(), finish(status)):
        events.hear(event)
    assert events.outcome([NODE]) == outcome
    assert events.bad() == ({NODE} if outcome in ("fail", "error") else set())
    # Together with a node that dbt has not ended.
    assert events.outcome([NODE, "model.p.b"]) == (None if outcome == "success" else outcome)


@pytest.mark.parametrize(
    ("status", "named"),
    [("warn", True), ("fail", True), ("runtime error", True), ("pass", False), ("skipped", False)],
)
def test_what_failed_or_warned_is_a_problem(status, named):
    events = Events()
    for event in (start(), finish(status, "said")):
        events.hear(event)
    problem = {"node": NODE, "status": status, "message": "said", "failures": 0}
    assert events.problems() == ([problem] if named else [])
    events.stopped = "no such host"
    assert events.problems()[-1]["message"] == "no such host"


def test_a_batch_does_not_end_its_model():
    events = Events()
    for event in (start(), start(), finish("success"), start(), finish("error", "batch 2")):
        events.hear(event)
        assert events.outcome([NODE]) is None
    events.hear(finish("partial success", "PARTIAL SUCCESS (1/2)"))
    assert events.outcome([NODE]) == "error"
    assert events.said([NODE]) == ["PARTIAL SUCCESS (1/2)"]


def test_what_dbt_prints_about_a_node_is_kept_until_its_end():
    events = Events()
    line = {"name": "a", "index": 1, "num_models": 1, "num_failures": 2, "status": "fail"}
    said = msg_from_base_event(
        LogTestResult(node_info={"unique_id": NODE}, **line), level=EventLevel.INFO
    )
    for event in (start(), said, finish("fail", "Got 2 results"), said):
        events.hear(event)
    first, last = events.said([NODE])
    assert "FAIL 2 a" in first
    assert last == "Got 2 results"


def test_a_mistake_in_hearing_is_kept_from_dbt():
    events = Events()
    events.hear(None)
    assert isinstance(events.trouble, AttributeError)


def test_no_nodes_are_a_success():
    assert Events().outcome([]) == "success"
