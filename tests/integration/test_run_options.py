"""Runs that build a part of their DAG's nodes, by the fields of the trigger form."""

import re

import pytest

from include.dbt_build.protocol import BUILD_STATE
from tests.conftest import HAS_POSTGRES, HOME

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

BUILD, DONE = "dbt.dbt_build", "dbt.dbt_build_done"


@pytest.fixture
def states(api, warehouse):
    states = States(api, warehouse, "states_chosen")
    states.broken()
    return states


def successful(states) -> set[str]:
    return {task for task, state in states.states().items() if state == "success"}


def test_a_run_without_options_builds_everything(states):
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert {"a", "b", "c", "d", "e", "f", "g", "by_day"} == states.built().keys()


def test_a_run_builds_the_nodes_that_it_selects_and_skips_the_others(states):
    assert states.run() == "success"
    states.broken()
    assert states.run(dbt_select="a d+", dbt_exclude="e") == "success"
    chosen = {f"dbt.{model}.{kind}" for model in "ad" for kind in ("run", "test")}
    assert successful(states) >= {*chosen, BUILD, DONE, "after_any"}
    assert states.not_successful().keys() >= {"dbt.b.run", "dbt.c_run", "dbt.e_run", "after_all"}
    assert {*states.not_successful().values()} == {"skipped"}
    assert states.built() == {"a": 1, "d": 1}
    log = states.log(BUILD)
    assert re.search(r"The run builds \d+ nodes: model\.states\.a, model\.states\.d, test", log)
    # A clear of a node builds it again, and still nothing else.
    states.clear("dbt.b.run", "dbt.d.run", downstream=False)
    assert states.end() == "success"
    assert states.states()["dbt.b.run"] == "skipped"
    assert states.built() == {"a": 1, "d": 2}


def test_a_selected_node_waits_for_a_failed_one_although_nodes_between_are_skipped(
    states,
):
    assert states.run() == "success"
    states.broken("a")
    assert states.run(dbt_select="a d") == "failed"
    found = states.states()
    assert found["dbt.a.run"] == "failed"
    assert {found[f"dbt.{m}.run"] for m in ("b", "d")} == {"upstream_failed"}
    assert states.built() == {}
    states.broken()
    states.clear("dbt.a.run")
    assert states.end() == "success"
    assert states.states()["dbt.b.run"] == "skipped"
    assert states.built() == {"a": 1, "d": 1}


def test_a_clear_of_the_failed_build_task_alone_stays_within_the_selection(states):
    states.broken("start_hook")
    assert states.run(dbt_select="a") == "failed"
    assert states.states()["dbt.b.run"] == "upstream_failed"
    states.broken()
    states.clear(BUILD, downstream=False)
    # The tasks downstream of the group are not cleared.
    assert states.end() == "failed"
    assert states.states()["dbt.b.run"] == "skipped"
    assert states.states()[DONE] == "success"
    assert states.built() == {"a": 1}
    states.clear("after_all", "after_any")
    assert states.end() == "success"


def test_a_failed_node_succeeds_in_its_retry_and_downstream_nodes_follow(states):
    assert states.run() == "success"
    states.broken("a", once=True)
    assert states.run(dbt_select="a d") == "success"
    assert states.tasks()["dbt.a.run"]["try_number"] == 2
    assert states.built() == {"a": 1, "d": 1}
    assert states.states()["dbt.b.run"] == "skipped"


def test_a_clear_of_failed_tasks_only_stays_within_the_selection(states):
    states.broken("a")
    assert states.run(dbt_select="a", dbt_exclude="test_name:unique") == "failed"
    # `state:` can select other nodes after a clear, and these are built nevertheless.
    assert "model.states.a" in states.xcom(DONE, BUILD_STATE)["selected"]
    states.broken()
    states.clear("dbt.a.run", only_failed=True)
    assert states.end() == "success"
    log = "".join(states.log("dbt.a.test", attempt) for attempt in (1, 2))
    assert "breaks_with_a" in log
    assert "unique_a_id" not in log


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dbt_select": "wrong:a"}, "'wrong' is not a valid method name"),
        ({"dbt_select": "nothing_like_it"}, "selects no node of this DAG"),
    ],
)
def test_a_selection_that_dbt_refuses_fails_the_build_task(states, options, message):
    assert states.run(**options) == "failed"
    assert states.tasks()[BUILD]["state"] == "failed"
    assert states.tasks()[BUILD]["try_number"] == 1
    assert message in states.log(BUILD)
    assert states.built() == {}


def test_options_of_dbt_hold_for_the_run_only(states):
    assert states.run() == "success"
    parses = sorted(HOME.glob("cosmos/dbt_projects/*/**/states/target/partial_parse.msgpack"))
    before = [file.read_bytes() for file in parses]
    assert before
    states.warehouse.execute("update states.by_day set n = -1")
    days = {"dbt_event_time_start": "2026-01-02", "dbt_event_time_end": "2026-01-03"}
    # The age of the source of `c` is checked, by a command without an event time range.
    assert states.run(dbt_select="by_day c", **days, dbt_vars={"any": 1}) == "success"
    changed = "select distinct day::text from states.by_day where n > 0"
    assert states.warehouse.execute(changed).fetchall() == [("2026-01-02",)]
    # dbt parsed with other variables, and the parse of the working directory is the same.
    assert [file.read_bytes() for file in parses] == before
    assert states.run(dbt_select="by_day", dbt_full_refresh=True) == "success"
    days = states.warehouse.execute("select count(*) from states.by_day where n < 0").fetchall()
    assert days == [(0,)]
