"""What a run of a DAG by include/dbt_build comes to: its state is that of `dbt build`, always."""

import json
import os
from datetime import date

import httpx
import psutil
import pytest

from tests.conftest import HAS_POSTGRES, wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(300), pytest.mark.engine]

BUILD, ENDED = "dbt_build", "dbt.dbt_build_ended"
BEHIND_D = {"dbt.d.test": "upstream_failed", "dbt.e_run": "upstream_failed"}
BEHIND_B = {"dbt.b.test": "upstream_failed", "dbt.d.run": "upstream_failed", **BEHIND_D}
AFTER = {"after": "upstream_failed"}
MODELS = {"a", "b", "c", "d", "e", "f", "g", "by_day"}


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture(autouse=True)
def _mended(states):
    states.broken()
    yield
    states.broken()


def seconds_of(task: dict) -> tuple[str, str]:
    return task["start_date"], task["end_date"]


def test_a_good_run_has_one_dbt_and_dbts_own_times(states):
    assert states.run() == "success"
    assert states.not_green() == {}
    assert states.built() == dict.fromkeys(MODELS, 1)
    tasks = states.tasks()
    build = tasks[BUILD]
    nodes = [t for name, t in tasks.items() if name.startswith("dbt.") and name != ENDED]
    # No process of their own.
    assert {task["pid"] for task in nodes} == {None}
    assert {task["try_number"] for task in nodes} == {1}
    for task in nodes:
        assert build["start_date"] < task["start_date"] <= task["end_date"] < build["end_date"]
    assert tasks["dbt.a.run"]["end_date"] <= tasks["dbt.b.run"]["start_date"]
    assert "OK created sql table model states.a" in states.log("dbt.a.run")
    assert "PASS unique_a_id" in states.log("dbt.a.test")


@pytest.mark.slow
def test_a_model_of_90_seconds_is_waited_for(states):
    states.broken("g", fails=False, seconds=90)
    assert states.run() == "success"
    assert states.not_green() == {}
    assert states.tasks()["dbt.g_run"]["duration"] > 90


@pytest.mark.parametrize(
    ("broken", "red", "behind", "said"),
    [
        pytest.param("d", "dbt.d.run", BEHIND_D, "division by zero", marks=pytest.mark.slow),
        ("test_a", "dbt.a.test", {"dbt.b.run": "upstream_failed", **BEHIND_B}, "FAIL 1"),
        pytest.param("unit_e", "dbt.e_run", {}, "e_adds_nothing", marks=pytest.mark.slow),
        pytest.param(
            "source_test",
            "dbt.raw_states_events_test",
            {"dbt.c_run": "upstream_failed", "dbt.d.run": "upstream_failed", **BEHIND_D},
            "FAIL 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "reads_nothing",
            "dbt.reads_nothing_test",
            {},
            "FAIL 1 reads_nothing",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_breaks_is_red_in_its_own_task(states, broken, red, behind, said):
    states.broken(broken)
    assert states.run() == "failed"
    assert states.not_green() == {red: "failed", **behind, **AFTER}
    assert said in states.log(red)
    # A failing test is an answer, a failing model may be a glitch: only that is tried again.
    assert states.tasks()[red]["try_number"] == (2 if broken == "d" else 1)
    assert max(states.built().values()) == 1

    states.broken()
    states.clear(red)
    assert states.end() == "success"
    assert states.not_green() == {}
    # What was fine is not built again, and what is built comes after what was mended.
    wanted = {name.split(".")[1].removesuffix("_run") for name in (red, *behind) if "run" in name}
    assert set(states.built()) == wanted


@pytest.mark.slow
def test_the_log_of_a_failing_unit_test_has_its_diff(states):
    states.broken("unit_e")
    states.run()
    assert "+++,6" in states.log("dbt.e_run")
    assert "---,5" in states.log("dbt.e_run")


@pytest.mark.slow
def test_a_glitch_is_retried_and_what_is_behind_it_follows(states):
    states.broken("d", "test_b", fails=False)
    states.broken("d")
    states.trigger()
    wait_until(lambda: states.tasks()["dbt.d.run"]["state"] == "up_for_retry")
    states.broken()
    assert states.end() == "success"
    assert states.not_green() == {}
    assert states.built() == {"d": 1, "e": 1}


@pytest.mark.slow
def test_a_failed_node_is_red_while_dbt_builds_on(states):
    states.broken("test_a")
    states.warehouse.execute("insert into raw_states.broken values ('g', false, 15)")
    states.trigger()
    wait_until(lambda: states.tasks()["dbt.a.test"]["state"] == "failed")
    assert states.tasks()[BUILD]["state"] == "running"
    assert states.tasks()["dbt.b.run"]["state"] in (None, "upstream_failed")
    assert states.end() == "failed"


@pytest.mark.slow
def test_a_warning_is_green_and_in_the_log(states):
    states.broken("warn_d")
    assert states.run() == "success"
    assert "WARN 1" in states.log("dbt.d.test")


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["start_hook", "end_hook"])
def test_a_failing_hook_fails_the_build_and_the_run(states, hook):
    states.broken(hook)
    assert states.run() == "failed"
    tasks = states.tasks()
    assert (tasks[BUILD]["state"], tasks[BUILD]["try_number"]) == ("failed", 2)
    assert tasks[ENDED]["state"] == "upstream_failed"
    if hook == "end_hook":
        # What was built and passed stays green.
        assert states.not_green().keys() == {BUILD, ENDED, "after"}
    assert "division by zero" in states.log(BUILD, 2)

    states.broken()
    states.clear(BUILD)
    assert states.end() == "success"
    assert states.not_green() == {}


@pytest.mark.slow
def test_dbt_that_fails_apart_from_its_nodes_is_red_and_nothing_is_green(states):
    assert states.run(parse="bad") == "failed"
    found = states.states()
    assert found.pop("before") == "success"
    assert found.pop(BUILD) == "failed"
    assert set(found.values()) == {"upstream_failed"}
    assert "f is not good" in states.log(BUILD, 2)


def day_rows(states) -> dict[date, int]:
    query = "select day, count(*) from states.by_day group by day"
    return dict(states.warehouse.execute(query).fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("day", [1, 2, 3])
def test_a_failing_batch_is_red_named_and_keeps_the_days_rows(states, day):
    assert states.run() == "success"
    before = day_rows(states)
    assert before == {date(2026, 1, n): 3 for n in (1, 2, 3)}
    states.warehouse.execute("delete from raw_states.days where n = 3")
    states.broken(f"2026-01-0{day}")
    try:
        assert states.run() == "failed"
        assert states.not_green() == {"dbt.by_day_run": "failed", **AFTER}
        assert f"ERROR creating batch 2026-01-0{day}" in states.log("dbt.by_day_run")
        # When the first batch fails, dbt skips the others.
        others = {date(2026, 1, n): 3 if day == 1 else 2 for n in (1, 2, 3) if n != day}
        assert day_rows(states) == {date(2026, 1, day): 3, **others}

        states.broken()
        states.clear("dbt.by_day_run")
        assert states.end() == "success"
        assert day_rows(states) == {date(2026, 1, n): 2 for n in (1, 2, 3)}
    finally:
        again = "insert into raw_states.days select distinct day, 3 from raw_states.days"
        states.warehouse.execute(again)


@pytest.mark.slow
def test_a_batch_that_fails_late_is_red_too(states):
    states.broken("by_day", seconds=10)
    assert states.run() == "failed"
    assert states.not_green() == {"dbt.by_day_run": "failed", **AFTER}


@pytest.mark.slow
def test_the_whole_run_cleared_builds_everything_again(states):
    assert states.run() == "success"
    states.broken("b")
    states.clear()
    assert states.end() == "failed"
    assert states.not_green() == {"dbt.b.run": "failed", **BEHIND_B, **AFTER}
    states.broken()
    states.clear(*[name for name in states.states() if name.startswith("dbt")])
    assert states.end() == "success"
    assert states.built() == dict.fromkeys(MODELS, 1)


@pytest.mark.slow
def test_the_group_cleared_without_its_build_builds_each_node_again(states):
    assert states.run() == "success"
    group = [name for name in states.states() if name.startswith("dbt.")]
    states.broken("b")
    states.clear(*group)
    assert states.end() == "failed"
    assert states.not_green() == {"dbt.b.run": "failed", **BEHIND_B, **AFTER}
    assert states.tasks()[BUILD]["try_number"] == 1
    states.broken()
    states.clear(*group)
    assert states.end() == "success"
    assert states.built() == dict.fromkeys(MODELS, 1)


@pytest.mark.slow
def test_a_green_model_that_is_cleared_is_built_again(states):
    assert states.run() == "success"
    states.broken()
    states.clear("dbt.b.run")
    assert states.end() == "success"
    assert states.built() == {"b": 1, "d": 1, "e": 1}


@pytest.mark.parametrize(
    ("task_id", "broken", "behind"),
    [
        ("dbt.b.run", "b", {**BEHIND_B, **AFTER}),
        pytest.param(
            BUILD, "end_hook", {ENDED: "upstream_failed", **AFTER}, marks=pytest.mark.slow
        ),
    ],
)
def test_what_is_cleared_alone_and_fails_leaves_nothing_green_behind_it(
    states, task_id, broken, behind
):
    assert states.run() == "success"
    states.broken(broken)
    states.clear(task_id, downstream=False)
    assert states.end() == "failed"
    assert states.not_green() == {task_id: "failed", **behind}

    states.broken()
    states.clear(task_id)
    assert states.end() == "success"
    assert states.not_green() == {}


@pytest.mark.slow
def test_a_task_marked_by_hand_counts_and_what_is_behind_it_is_built(states):
    states.broken("b")
    assert states.run() == "failed"
    states.mark("dbt.b.run", "success")
    states.clear("dbt.b.test")
    assert states.end() == "success"
    assert states.built()["b"] == 0
    assert states.built()["d"] == 1


def test_a_killed_build_builds_the_rest_in_its_retry(states):
    states.broken("g", fails=False, seconds=3)
    states.trigger()
    green = ("dbt.f_run", "dbt.e_run")
    wait_until(lambda: all(states.states()[name] == "success" for name in green))
    psutil.Process(states.tasks()[BUILD]["pid"]).kill()
    assert states.end() == "success"
    assert states.not_green() == {}
    assert states.tasks()[BUILD]["try_number"] == 2
    # Nothing that was green; of two dbt only the second came to the end of g.
    assert states.built() == dict.fromkeys(MODELS, 1)
    assert "tasks are green and stay so" in states.log(BUILD, 2)


@pytest.mark.slow
def test_a_dbt_dag_without_a_group_is_as_right(api, warehouse, states):
    alone = States(api, warehouse, "states_alone")
    alone.broken("test_b")
    assert alone.run() == "failed"
    assert alone.not_green()["b.test"] == "failed"
    alone.broken()
    alone.clear("b.test")
    assert alone.end() == "success"
    assert alone.not_green() == {}


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", ["plain_local", "plain_watcher"])
def test_plain_cosmos_runs_beside(api, warehouse, states, dag_id):
    plain = States(api, warehouse, dag_id)
    assert plain.run() == "success"
    # The watcher's producer.
    assert plain.not_green() == {}
    assert plain.built() == {"a": 1, "b": 1}


@pytest.mark.slow
def test_the_endpoint_does_nothing_for_anybody_else(states):
    assert states.run() == "success"
    before = states.tasks()
    url = f"http://127.0.0.1:{os.environ['PORT']}/dbt_build"
    for name in (BUILD, "dbt.a.run", "before"):
        answer = httpx.post(f"{url}/{before[name]['id']}", json={"green": {"dbt.a.run": {}}})
        assert answer.status_code == 409
    assert httpx.post(f"{url}/{json.dumps(1)}").status_code == 422
    assert httpx.post(f"{url}/00000000-0000-0000-0000-000000000000").status_code == 409
    assert states.tasks() == before
