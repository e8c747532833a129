"""The results of nodes, from dbt's events and artifacts."""

import json

import pytest
from airflow.sdk.log import mask_secret
from dbt.events.types import LogBatchResult, LogTestResult, NodeFinished, NodeStart
from dbt_common.events.base_types import EventLevel, msg_from_base_event

from include.dbt_build.results import BuildResults, clean_message, kind_and_name
from tests.include.dbt_build.conftest import write

NODE = "model.p.a"
TEST = "test.p.a_is_right"


def start(node: str = NODE):
    return msg_from_base_event(NodeStart(node_info={"unique_id": node}), level=EventLevel.DEBUG)


def finish(status: str, message: str = "", node: str = NODE, **info):
    info = {
        "unique_id": node,
        "node_started_at": "2026-01-01T00:00:00",
        "node_finished_at": "2026-01-01T00:00:01",
        **info,
    }
    event = NodeFinished(node_info=info, run_result={"status": status, "message": message})
    return msg_from_base_event(event, level=EventLevel.DEBUG)


def line(node: str = NODE):
    values = {"name": "a", "index": 1, "num_models": 1, "num_failures": 2, "status": "fail"}
    event = LogTestResult(node_info={"unique_id": node}, **values)
    return msg_from_base_event(event, level=EventLevel.INFO)


def batch(status: str, number: int, total: int):
    values = {"batch_index": number, "total_batches": total, "status": status}
    event = LogBatchResult(node_info={"unique_id": NODE}, **values)
    return msg_from_base_event(event, level=EventLevel.INFO)


def received(*events) -> BuildResults:
    results = BuildResults()
    for event in events:
        results.receive(event)
    assert results.error is None
    return results


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("success", "success"),
        ("pass", "success"),
        ("warn", "success"),
        ("no-op", "success"),
        ("reused", "success"),
        ("fail", "fail"),
        ("error", "error"),
        ("runtime error", "error"),
        ("partial success", "error"),
        ("skipped", "not_run"),
    ],
)
def test_each_status_of_dbt_has_its_outcome(status, outcome):
    results = received(start(), finish(status))
    assert results.outcome([NODE]) == outcome
    assert results.failed() == ({NODE} if outcome in ("fail", "error") else set())
    assert results.succeeded() == ({NODE} if outcome == "success" else set())
    # Together with a node without a result.
    assert results.outcome([NODE, "model.p.b"]) is None


@pytest.mark.parametrize(
    ("statuses", "outcome"),
    [
        (("success", "pass"), "success"),
        (("success", "fail"), "fail"),
        (("fail", "error"), "error"),
        (("skipped", "success"), "not_run"),
        (("skipped", "fail"), "fail"),
        ((), "success"),
    ],
)
def test_several_nodes_have_a_common_outcome(statuses, outcome):
    nodes = [f"model.p.m{number}" for number in range(len(statuses))]
    results = BuildResults()
    for node, status in zip(nodes, statuses, strict=True):
        results.receive(start(node))
        results.receive(finish(status, node=node))
    assert results.outcome(nodes) == outcome


def test_an_ephemeral_model_has_failed_only_if_dbt_skips_a_node_that_reads_it():
    failed = [start(), finish("error", "division by zero", materialized="ephemeral")]
    reader = "model.p.b"
    skipped = [start(reader), finish("skipped", node=reader)]
    assert received(*failed).outcome([NODE]) == "error"
    assert received(*failed).failed() == set()
    assert received(*failed, *skipped).failed() == {NODE}


def test_a_node_that_the_variables_of_the_run_disable_is_left_out():
    results = received(start(), finish("success"))
    results.parsed = {NODE}
    assert results.outcome(["model.p.b"]) == "left_out"
    assert results.outcome([NODE, "unit_test.p.b"]) == "success"
    # A function that is built for another model does not stand for this one.
    results.parsed = {NODE, "function.p.twice"}
    assert results.outcome(["function.p.twice", "model.p.b"]) == "left_out"


@pytest.mark.parametrize(
    ("status", "is_problem"),
    [("warn", True), ("fail", True), ("runtime error", True), ("pass", False), ("skipped", False)],
)
def test_a_node_that_failed_or_warned_is_a_problem(status, is_problem):
    results = received(start(), finish(status, "message"))
    problem = {"node": NODE, "status": status, "message": "message", "failures": 0}
    assert results.problems() == ([problem] if is_problem else [])
    results.dbt_error = "no such host"
    assert results.problems()[-1] == {
        "node": None,
        "status": "error",
        "message": "no such host",
        "failures": None,
    }


def test_the_end_of_a_batch_is_not_the_end_of_its_model():
    results = BuildResults()
    for event in (start(), start(), finish("success"), start(), finish("error", "batch 2")):
        results.receive(event)
        assert results.outcome([NODE]) is None
    results.receive(finish("partial success", "PARTIAL SUCCESS (1/2)"))
    assert results.outcome([NODE]) == "error"
    assert results.message([NODE]) == "PARTIAL SUCCESS (1/2)"


@pytest.mark.parametrize(
    ("batches", "repeated", "status", "is_incomplete"),
    [
        (("SELECT 1", "error", "SELECT 1"), {NODE: 1}, "partial success", True),
        # dbt was interrupted after the first batch.
        (("SELECT 1",), {NODE: 1}, None, True),
        (("SELECT 1", "SELECT 1", "SELECT 1"), {NODE: 2}, "success", False),
        # No table exists, so that dbt builds all batches again.
        (("error", "skipped", "skipped"), {NODE: 2}, "error", False),
        # dbt would build the missing batches again.
        (("SELECT 1", "error", "SELECT 1"), {NODE: 2}, "partial success", False),
        (("SELECT 1", "error", "SELECT 1"), {NODE: 3}, "partial success", False),
        # The command has an event time range, or the model always has a full refresh.
        (("SELECT 1", "error", "SELECT 1"), {}, "partial success", False),
    ],
)
def test_a_model_is_incomplete_if_dbt_would_not_build_its_missing_batches(
    batches, repeated, status, is_incomplete
):
    results = BuildResults(repeated)
    for event in (
        start(),
        *(batch(status, n, 3) for n, status in enumerate(batches, start=1)),
        *([finish(status)] if status else []),
    ):
        results.receive(event)
    assert results.error is None
    assert results.incomplete() == ({NODE} if is_incomplete else set())
    assert ("There is no retry" in results.message([NODE])) == (
        is_incomplete and status is not None
    )


def test_the_message_of_a_failed_node_comes_before_what_dbt_logged_about_it():
    # dbt repeats the messages of failed nodes when all nodes have ended.
    events = (start(TEST), line(TEST), finish("fail", "Got 2 results", TEST), line(TEST))
    first, second = received(*events).message([TEST]).splitlines()
    assert first == "a_is_right: Got 2 results"
    assert "FAIL 2 a" in second


def test_the_name_of_a_unit_test_is_once_in_its_message():
    node = "unit_test.p.a.adds_up"
    named = received(start(node), finish("error", "Runtime Error in unit_test adds_up", node))
    assert named.message([node]) == "Runtime Error in unit_test adds_up"
    unnamed = received(start(node), finish("fail", "actual differs from expected", node))
    assert unnamed.message([node]) == "a.adds_up: actual differs from expected"


def test_a_test_that_a_stale_source_leaves_out_does_not_hide_a_failed_one():
    results = received(start(TEST), finish("fail", node=TEST))
    results.add_skipped(["test.p.left_out"])
    assert results.outcome([TEST, "test.p.left_out"]) == "fail"
    assert results.skipped() == {"test.p.left_out"}


def test_the_message_of_a_failed_task_leaves_out_the_tests_that_passed():
    passed, warned = "test.p.a_is_there", "test.p.a_is_new"
    results = received(
        *(start(passed), line(passed), finish("pass", node=passed)),
        *(start(warned), line(warned), finish("warn", node=warned)),
        *(start(TEST), finish("fail", "Got 2 results", TEST)),
    )
    shown = results.message([passed, warned, TEST]).splitlines()
    assert shown == ["a_is_right: Got 2 results", *results.message([warned]).splitlines()]
    assert results.message([passed])


def test_a_failed_test_names_the_table_of_its_rows():
    relation = {"relation_name": '"w"."audit"."a"'}
    results = received(start(TEST), finish("fail", "Got 2 results", TEST, node_relation=relation))
    assert results.message([TEST]).endswith('The failing rows are in "w"."audit"."a".')


def test_the_sql_of_a_failed_node_is_the_statement_that_ran(tmp_path):
    write(
        tmp_path,
        {
            "run/p/models/a.sql": "create table a as select 1/0",
            "compiled/p/models/a.sql": "select 1/0",
            "compiled/p/models/a.yml/a_is_right.sql": "select 1",
        },
    )
    results = BuildResults()
    results.target = tmp_path
    for event in (
        *(start(), finish("error", "division by zero", node_path="a.sql")),
        *(start(TEST), finish("fail", "Got 1 result", TEST, node_path="a_is_right.sql")),
        *(start("model.p.b"), finish("success", "", "model.p.b", node_path="b.sql")),
    ):
        results.receive(event)
    assert results.sql([NODE]) == "create table a as select 1/0"
    assert results.sql([TEST]) == "select 1"
    assert results.sql(["model.p.b"]) == ""


def test_the_sql_of_a_failed_batch_is_that_of_the_batch(tmp_path):
    results = BuildResults()
    results.target = tmp_path
    for day, status in enumerate(("success", "error", "success"), start=1):
        write(tmp_path, {f"run/p/models/[a]/[a]_2026-01-0{day}.sql": f"insert day {day}"})
        results.receive(start())
        results.receive(start())
        results.receive(finish(status, node_path="[a].sql"))
    assert results.sql([NODE]) == "insert day 2"


def test_a_node_whose_statement_is_cancelled_has_not_failed():
    results = received(start(), start("model.p.b"))
    results.interrupt()
    results.receive(finish("error", "canceling statement due to user request"))
    results.receive(finish("success", node="model.p.b"))
    assert results.outcome([NODE]) is None
    assert results.outcome(["model.p.b"]) == "success"


def test_an_error_of_the_results_does_not_become_one_of_the_node():
    results = BuildResults()
    results.receive(None)
    assert isinstance(results.error, AttributeError)


def test_results_of_a_subprocess_come_from_its_artifact(tmp_path):
    timing = [
        {"name": "compile", "started_at": "2026-01-01T00:00:00Z", "completed_at": "x"},
        {"name": "execute", "started_at": "x", "completed_at": "2026-01-01T00:00:02Z"},
    ]
    common = {"failures": None, "compiled_code": "select 1/0"}
    entries = [
        {"unique_id": NODE, "status": "error", "message": "no", "timing": timing, **common},
        {"unique_id": TEST, "status": "skipped", "message": None, "timing": [], **common},
    ]
    write(tmp_path, {"target/run_results.json": json.dumps({"results": entries})})
    results = BuildResults()
    results.read_run_results(tmp_path)
    assert results.outcome([NODE]) == "error"
    assert results.outcome([TEST]) == "not_run"
    assert results.message([NODE]) == "no"
    assert results.sql([NODE, TEST]) == "select 1/0"
    assert results.nodes[NODE].ended_at == "2026-01-01T00:00:02Z"


def test_a_source_without_an_age_is_an_error(tmp_path):
    old, unknown, unasked = (f"source.p.raw.{name}" for name in ("old", "unknown", "unasked"))
    age = {
        "max_loaded_at": "2026-01-01T00:00:00Z",
        "max_loaded_at_time_ago_in_s": 90_000.5,
        "criteria": {"error_after": {"count": 1, "period": "day"}, "warn_after": None},
        "timing": [{"started_at": "x", "completed_at": "x"}],
    }
    entries = [
        {"unique_id": old, "status": "error", **age},
        {"unique_id": unknown, "status": "runtime error", "error": "no such table"},
    ]
    write(tmp_path, {"target/sources.json": json.dumps({"results": entries})})
    results = BuildResults()
    results.read_sources(tmp_path)
    results.add_unread([old, unknown, unasked])
    # Another try would find the same rows, as with a failed test.
    assert results.outcome([old]) == "fail"
    assert results.message([old]) == (
        "FAIL raw.old is 1 day, 1:00:00 old, its newest row is of 2026-01-01T00:00:00Z"
        " (error_after 1 days)"
    )
    for source in (unknown, unasked):
        assert results.outcome([source]) == "error"
        assert "could not read the age" in results.message([source])


@pytest.mark.parametrize(
    ("unique_id", "name"),
    [
        ("model.p.orders", ("model", "orders")),
        ("model.p.orders.v2", ("model", "orders.v2")),
        ("test.p.unique_orders_id.0123456789", ("test", "unique_orders_id")),
        ("test.p.orders_add_up", ("test", "orders_add_up")),
        ("source.p.raw.orders", ("source", "raw.orders")),
        ("unit_test.p.orders.adds_up", ("unit_test", "orders.adds_up")),
    ],
)
def test_a_node_has_the_name_that_dbt_gives_it(unique_id, name):
    assert kind_and_name(unique_id) == name


def test_a_message_does_not_name_a_folder_that_is_removed():
    message = "Database Error in model a\n  no\n  compiled code at target/run/p/models/a.sql"
    assert clean_message(message) == "Database Error in model a\n  no"
    assert clean_message(None) is None


def test_a_secret_that_airflow_masks_is_in_no_message_and_no_sql():
    mask_secret("a-secret-of-a-connection")
    results = received(start(), finish("error", "no a-secret-of-a-connection"))
    results.nodes[NODE].sql = "select 'a-secret-of-a-connection'"
    assert results.message([NODE]) == "no ***"
    assert results.sql([NODE]) == "select '***'"
    assert results.problems()[0]["message"] == "no ***"
