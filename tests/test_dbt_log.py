"""Of all that dbt tells about a node, Cosmos gets one event, with what dbt printed in it."""

import pytest
from dbt.events.types import JinjaLogInfo, LogTestResult, NodeFinished, NodeStart
from dbt_common.events.base_types import EventLevel, msg_from_base_event

from include.dbt_log import one_xcom_per_task


@pytest.mark.parametrize(
    ("status", "last"),
    [("pass", "1 of 1 PASS test_a"), ("fail", "Got 2 results, configured to fail if != 0")],
)
def test_the_last_event_tells_all(status, last):
    node = {"unique_id": "test.project.test_a", "node_status": status}
    result = {"status": status, "message": "Got 2 results, configured to fail if != 0"}
    outcome = {"name": "test_a", "index": 1, "num_models": 1, "num_failures": 2}
    events = [
        msg_from_base_event(event, level=level)
        for event, level in (
            (NodeStart(node_info=node), EventLevel.DEBUG),
            (JinjaLogInfo(node_info=node, msg="Failing rows"), EventLevel.INFO),
            (LogTestResult(node_info=node, status=status, **outcome), EventLevel.INFO),
            (NodeFinished(node_info=node, run_result=result), EventLevel.DEBUG),
        )
    ]
    gather = one_xcom_per_task()
    for event in events:
        gather(event)

    assert [event.data.node_info.unique_id for event in events] == ["", "", "", node["unique_id"]]
    lines = events[-1].data.run_result.message.splitlines()
    assert lines[0] == "Failing rows"
    assert f"1 of 1 {status.upper()}" in lines[1]
    assert last in lines[-1]
