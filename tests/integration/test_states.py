"""The states of runs and tasks: what `dbt build` reports is what Airflow shows."""

from collections import Counter
from datetime import date
from types import SimpleNamespace

import httpx
import psutil
import pytest

from include.dbt_build.protocol import BUILD_STATE, Report, Times, sign, signing_key
from tests.conftest import HAS_POSTGRES, SETTINGS
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import MODELS, States

pytestmark = pytest.mark.timeout(600)

BUILD, DONE = "dbt.dbt_build", "dbt.dbt_build_done"
BELOW_D = {"dbt.d.test": "upstream_failed", "dbt.e_run": "upstream_failed"}
BELOW_B = {"dbt.b.test": "upstream_failed", "dbt.d.run": "upstream_failed", **BELOW_D}
AFTER = {"after": "upstream_failed"}
# The states of other tasks after a node failed.
FAILED = {DONE: "failed", **AFTER}
# The states of other tasks after the build task failed.
NOT_BUILT = {BUILD: "failed", DONE: "upstream_failed", **AFTER}


@pytest.fixture(scope="module")
def states(api, warehouse):
    return States(api, warehouse)


@pytest.fixture(autouse=True)
def _nothing_broken(states):
    states.broken()
    yield
    states.broken()


def node_tasks(states) -> dict[str, dict]:
    return {
        name: task for name, task in states.tasks().items() if task["operator"] == "DbtNodeOperator"
    }


def test_a_successful_run_has_one_dbt_process_and_dbts_own_times(states):
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert states.built() == dict.fromkeys(MODELS, 1)
    build, nodes = states.tasks()[BUILD], node_tasks(states)
    # The node tasks have no process of their own, and neither has the teardown.
    assert {task["pid"] for task in (*nodes.values(), states.tasks()[DONE])} == {None}
    assert {task["try_number"] for task in nodes.values()} == {1}
    for task in nodes.values():
        assert build["start_date"] < task["start_date"] <= task["end_date"] < build["end_date"]
    assert nodes["dbt.a.run"]["end_date"] <= nodes["dbt.b.run"]["start_date"]
    assert "OK created sql table model states.a" in states.log("dbt.a.run")
    assert "PASS unique_a_id" in states.log("dbt.a.test")


def test_a_run_does_not_parse_the_project(states):
    assert states.run() == "success"
    log = states.log(BUILD)
    assert "Running with dbt" in log
    assert "Unable to do partial parsing" not in log
    assert "full parse" not in log


@pytest.mark.slow
def test_the_build_task_waits_for_a_model_of_90_seconds(states):
    states.broken("g", fails=False, seconds=90)
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert states.tasks()["dbt.g_run"]["duration"] > 90


@pytest.mark.parametrize(
    ("broken", "failed", "below", "message"),
    [
        pytest.param("d", "dbt.d.run", BELOW_D, "division by zero", marks=pytest.mark.slow),
        ("test_a", "dbt.a.test", {"dbt.b.run": "upstream_failed", **BELOW_B}, "FAIL 1"),
        pytest.param("unit_e", "dbt.e_run", {}, "e_adds_nothing", marks=pytest.mark.slow),
        pytest.param(
            "source_test",
            "dbt.raw_states_events_test",
            {"dbt.c_run": "upstream_failed", "dbt.d.run": "upstream_failed", **BELOW_D},
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
def test_a_failed_node_fails_its_own_task(states, broken, failed, below, message):
    states.broken(broken)
    assert states.run() == "failed"
    assert states.not_successful() == {failed: "failed", **below, **FAILED}
    assert message in states.log(failed)
    # A failed test is not retried, because another try would find the same rows.
    assert states.tasks()[failed]["try_number"] == (2 if broken == "d" else 1)
    assert max(states.built().values()) == 1

    states.broken()
    states.clear(failed)
    assert states.end() == "success"
    assert states.not_successful() == {}
    # One dbt process has built the failed node and the nodes downstream of it, and no other node.
    wanted = {name.split(".")[1].removesuffix("_run") for name in (failed, *below) if "run" in name}
    assert set(states.built()) == wanted
    assert {task["pid"] for name, task in node_tasks(states).items() if name != failed} <= {None}
    assert "Running with dbt" in states.log(BUILD, 2)


@pytest.mark.slow
def test_the_log_of_a_failed_model_begins_with_dbts_message_and_has_the_sql(states):
    states.broken("d", "g")
    assert states.run() == "failed"
    # No warning or error comes before dbt's message. Nothing is downstream of `g`, whose last try
    # has failed.
    for task_id, attempt in (("dbt.d.run", 1), ("dbt.g_run", 2)):
        lines = states.log_lines(task_id, attempt)
        first = next(line for line in lines if line["level"] not in ("debug", "info"))
        assert first["event"].startswith("Database Error in model")
        assert "The SQL that ran" in states.log(task_id, attempt)
    log = states.log("dbt.d.run", 1)
    lines = log[log.index("Database Error") :].splitlines()
    assert lines[1].strip() == "division by zero"
    assert "compiled code at" not in log
    sql = log[log.index("The SQL that ran") :]
    assert "create  table" in sql
    assert "raw_states.broken where node = 'd'" in sql


@pytest.mark.slow
def test_the_log_of_a_failed_unit_test_has_its_diff(states):
    states.broken("unit_e")
    states.run()
    assert "+++,6" in states.log("dbt.e_run")
    assert "---,5" in states.log("dbt.e_run")


@pytest.mark.slow
def test_a_node_that_succeeds_in_a_retry_is_followed_by_downstream_nodes(states):
    states.broken("d", once=True)
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert states.tasks()["dbt.d.run"]["try_number"] == 2
    assert states.built() == dict.fromkeys(MODELS, 1)


@pytest.mark.slow
def test_a_failed_node_is_shown_while_dbt_works(states):
    states.broken("test_a")
    states.warehouse.execute("insert into raw_states.broken values ('g', false, 30)")
    states.trigger()
    states.wait_for_state("dbt.a.test", "failed")
    assert states.tasks()[BUILD]["state"] == "running"
    assert states.tasks()["dbt.b.run"]["state"] in (None, "upstream_failed")
    assert states.end() == "failed"


@pytest.mark.slow
def test_a_warning_is_in_the_log_of_a_successful_task(states):
    states.broken("warn_d")
    assert states.run() == "success"
    assert "WARN 1" in states.log("dbt.d.test")


@pytest.mark.slow
@pytest.mark.parametrize(("hook", "tries"), [("start_hook", 2), ("end_hook", 1)])
def test_a_failed_hook_fails_the_build_task_and_the_run(states, hook, tries):
    states.broken(hook)
    assert states.run() == "failed"
    build = states.tasks()[BUILD]
    # A retry would build the nodes again.
    assert (build["state"], build["try_number"]) == ("failed", tries)
    assert states.not_successful().items() >= NOT_BUILT.items()
    # Tasks downstream of the group must not start after a failed hook, so its leaves wait for it.
    assert states.states()["dbt.e_run"] == "upstream_failed"
    assert "division by zero" in states.log(BUILD, tries)

    states.broken()
    states.clear(BUILD)
    assert states.end() == "success"
    assert states.not_successful() == {}


@pytest.mark.slow
def test_an_error_outside_of_the_nodes_fails_the_build_task(api, warehouse, states):
    parse_fails = States(api, warehouse, "parse_fails")
    assert parse_fails.run(parse="fails") == "failed"
    found = parse_fails.states()
    assert found.pop("dbt_build") == "failed"
    assert set(found.values()) == {"upstream_failed"}
    assert "f cannot be parsed" in parse_fails.log("dbt_build")


def day_rows(states) -> dict[date, int]:
    query = "select day, count(*) from states.by_day group by day"
    return dict(states.warehouse.execute(query).fetchall())


@pytest.mark.slow
@pytest.mark.parametrize("day", [1, 2, 3])
def test_a_failed_batch_is_named_and_keeps_the_rows_of_its_day(states, day):
    assert states.run() == "success"
    assert day_rows(states) == {date(2026, 1, n): 3 for n in (1, 2, 3)}
    states.warehouse.execute("delete from raw_states.days where n = 3")
    states.broken(f"2026-01-0{day}")
    try:
        assert states.run() == "failed"
        assert states.not_successful() == {"dbt.by_day_run": "failed", **FAILED}
        log = states.log("dbt.by_day_run")
        assert f"ERROR creating batch 2026-01-0{day}" in log
        assert f"day >= '2026-01-0{day} 00:00:00+00:00'" in log
        # When the first batch fails, dbt skips the others.
        others = {date(2026, 1, n): 3 if day == 1 else 2 for n in (1, 2, 3) if n != day}
        assert day_rows(states) == {date(2026, 1, day): 3, **others}

        states.broken()
        states.clear("dbt.by_day_run")
        assert states.end() == "success"
        assert day_rows(states) == {date(2026, 1, n): 2 for n in (1, 2, 3)}
    finally:
        states.warehouse.execute(
            "insert into raw_states.days select distinct day, 3 from raw_states.days"
        )


@pytest.mark.slow
def test_a_batch_that_fails_late_fails_its_task(states):
    states.broken("by_day", seconds=10)
    assert states.run() == "failed"
    assert states.not_successful() == {"dbt.by_day_run": "failed", **FAILED}


@pytest.mark.slow
def test_a_cleared_run_is_built_again(states):
    assert states.run() == "success"
    states.broken("b")
    states.clear()
    assert states.end() == "failed"
    assert states.not_successful() == {"dbt.b.run": "failed", **BELOW_B, **FAILED}
    states.broken()
    states.clear(*[name for name in states.states() if name.startswith("dbt")])
    assert states.end() == "success"
    assert states.built() == dict.fromkeys(MODELS, 1)


@pytest.mark.slow
def test_a_cleared_successful_model_is_built_again_with_downstream_nodes(states):
    assert states.run() == "success"
    states.broken()
    states.clear("dbt.b.run")
    assert states.end() == "success"
    assert states.built() == {"b": 1, "d": 1, "e": 1}


@pytest.mark.slow
def test_cleared_nodes_are_built_by_one_dbt_process(states):
    assert states.run() == "success"
    models = [name for name in node_tasks(states) if name.endswith("run")]
    assert len(models) == 8
    for attempt, cleared in ((2, ["dbt.a.run", "dbt.c_run", "dbt.f_run"]), (3, models)):
        states.broken()
        states.clear(*cleared, downstream=False)
        assert states.end() == "success"
        assert states.built() == dict.fromkeys("acf" if attempt == 2 else MODELS, 1)
        assert {task["pid"] for task in node_tasks(states).values()} == {None}
        # One dbt command runs the hooks of the project.
        assert states.log(BUILD, attempt).count("OK hook: states.on-run-start") == 1


@pytest.mark.slow
def test_a_cleared_task_downstream_of_the_group_runs_no_dbt(states):
    assert states.run() == "success"
    states.broken()
    states.clear("after")
    assert states.end() == "success"
    assert states.tasks()[BUILD]["try_number"] == 1
    assert states.built() == {}


@pytest.mark.slow
def test_a_node_that_is_cleared_alone_and_fails_fails_the_run(states):
    assert states.run() == "success"
    states.broken("b")
    states.clear("dbt.b.run", downstream=False)
    assert states.end() == "failed"
    # The nodes downstream stay as the run has built them.
    assert states.not_successful() == {"dbt.b.run": "failed", DONE: "failed"}

    # The teardown waits for the retry, although all leaves are successful.
    states.broken("b", once=True)
    states.clear("dbt.b.run", downstream=False)
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.tasks()["dbt.b.run"]["try_number"] == 5


@pytest.mark.slow
def test_clear_only_failed_builds_the_failed_nodes_and_downstream_nodes(states):
    states.broken("b")
    assert states.run() == "failed"
    states.broken()
    states.clear(*states.states(), only_failed=True)
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"b": 1, "d": 1, "e": 1}
    # The log of the try that failed stays in the UI.
    path = f"{states.path}/taskInstances/dbt.b.run/logs/2"
    assert "division by zero" in str(states.api("GET", path))


@pytest.mark.slow
def test_a_task_marked_as_successful_is_not_built_and_downstream_nodes_are(states):
    states.broken("b")
    assert states.run() == "failed"
    states.mark("dbt.b.run", "success")
    states.clear("dbt.b.test")
    assert states.end() == "success"
    assert states.built()["b"] == 0
    assert states.built()["d"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_cleared", [False, True])
def test_no_task_builds_its_node_if_a_build_task_that_built_nothing_is_marked_as_successful(
    states, is_cleared
):
    if is_cleared:
        states.run()
    states.broken("start_hook")
    states.clear() if is_cleared else states.trigger()
    assert states.end() == "failed"
    states.broken()
    states.mark(BUILD, "success")
    assert states.end() == "failed"
    assert states.built() == {}
    newest_try = states.tasks()["dbt.a.run"]["try_number"]
    assert "stored no result for model.states.a" in states.log("dbt.a.run", newest_try)


@pytest.mark.slow
@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_task_marked_as_failed_while_dbt_works_stays_failed(states, is_cleared):
    if is_cleared:
        states.run()
    states.broken("g", fails=False, seconds=20)
    states.clear() if is_cleared else states.trigger()
    states.wait_for_state("dbt.a.run", "success")
    states.mark("dbt.e_run", "failed")
    assert states.end() == "failed"
    assert states.not_successful() == {"dbt.e_run": "failed", **FAILED}


def mark_a_run_as_failed(states) -> None:
    """Start a run, and mark it as failed while dbt builds the model `g`."""
    states.broken("g", fails=False, seconds=30)
    states.trigger()
    states.wait_for_state("dbt.a.run", "success")
    states.api("PATCH", states.path, json={"state": "failed"})


@pytest.mark.slow
def test_a_run_that_is_marked_as_failed_ends_dbt_with_one_line(states):
    mark_a_run_as_failed(states)
    wait_until(lambda: "Task killed!" in states.log(BUILD))
    log = states.log(BUILD)
    assert log.count("dbt was interrupted: Airflow ended the task") == 1
    for other in ("KeyboardInterrupt", "Traceback", "results later", "leaked semaphore"):
        assert other not in log


@pytest.mark.slow
def test_a_run_that_was_stopped_is_completed_by_a_clear_of_its_build_task(states):
    mark_a_run_as_failed(states)
    states.wait_for_state(BUILD, "failed")
    # Airflow skips the tasks that it stops. They must not count as built.
    wait_until(lambda: states.states()["dbt.g_run"] == "skipped")
    states.broken()
    states.clear(BUILD, downstream=False)
    states.end()
    assert {states.states()[name] for name in [*node_tasks(states), DONE]} == {"success"}
    assert states.built()["g"] == 1


@pytest.mark.slow
def test_tasks_with_a_callback_start_in_a_run_that_was_stopped(api, warehouse, states):
    called = States(api, warehouse, "states_called")
    called.broken("b", fails=False, seconds=30)
    called.trigger()
    wait_until(lambda: called.built()["a"] == 1)
    called.api("PATCH", called.path, json={"state": "failed"})
    called.wait_for_state("dbt_build", "failed")
    wait_until(lambda: called.states()["b.run"] == "skipped")
    called.broken()
    called.clear("dbt_build", downstream=False)
    assert called.end() == "success"
    assert called.not_successful() == {}
    assert all(task["pid"] for task in node_tasks(called).values())


@pytest.mark.slow
def test_a_clear_of_the_build_task_alone_shows_what_it_builds(states):
    states.broken("b")
    assert states.run() == "failed"
    states.broken()
    states.clear(BUILD, downstream=False)
    states.end()
    assert {states.states()[name] for name in [*node_tasks(states), DONE]} == {"success"}
    assert states.built() == {"b": 1, "d": 1, "e": 1}


@pytest.mark.slow
def test_a_node_that_fails_again_after_a_clear_of_the_build_task_alone_has_its_retries(states):
    states.broken("b")
    assert states.run() == "failed"
    states.clear(BUILD, downstream=False)
    assert states.end() == "failed"
    # Two tries before the clear, and two after it, each with a log of its own.
    assert states.tasks()["dbt.b.run"]["try_number"] == 4
    for number in range(1, 5):
        log = states.log("dbt.b.run", number)
        assert "division by zero" in log
        assert log.count("Task failed with exception") == 1


@pytest.mark.slow
def test_the_retry_of_a_killed_build_builds_only_what_is_missing(states):
    states.broken("g", fails=False, seconds=60)
    states.trigger()

    def shown_or_stored() -> set[str]:
        # Airflow does not show the leaves before dbt's end, so the engine stores them.
        state = states.xcom(DONE, BUILD_STATE) or {"built": []}
        # A unit test has the name of its model in its unique ID.
        models = [node for node in state["built"] if node.startswith("model.")]
        stored = {node.split(".")[2] for node in models}
        tasks = [name for name, state in states.states().items() if state == "success"]
        return stored | {name[4:-4] for name in tasks if name.endswith("run")}

    wait_until(lambda: shown_or_stored() >= MODELS - {"g"})
    psutil.Process(states.tasks()[BUILD]["pid"]).kill()
    states.stop_sleeping()
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.tasks()[BUILD]["try_number"] == 2
    assert states.built() == dict.fromkeys(MODELS, 1)
    assert "tasks are pending" in states.log(BUILD, 2)


@pytest.mark.slow
def test_each_build_of_a_model_has_one_asset_event_although_the_build_is_killed(states):
    def events() -> Counter:
        found = states.api.all("/assets/events", "asset_events", source_run_id=states.run_id)
        return Counter(event["uri"].rpartition("/")[2] for event in found)

    # Airflow emits no event for the first build, because its hook fails.
    states.broken("end_hook")
    states.run()
    assert not events()
    states.broken()
    states.clear(BUILD)
    states.end()
    first = events()
    # An ephemeral model has no relation, and so no event.
    assert "part" not in first
    assert first.keys() >= MODELS
    assert {*first.values()} == {1}
    states.broken("g", fails=False, seconds=60)
    states.clear("dbt.c_run", "dbt.g_run", downstream=False)
    wait_until(lambda: states.states()["dbt.c_run"] == "success")
    psutil.Process(states.tasks()[BUILD]["pid"]).kill()
    states.stop_sleeping()
    assert states.end() == "success"
    built = states.built()
    assert built == {"c": 1, "g": 1}
    assert events() - first == built


@pytest.mark.slow
def test_each_change_of_a_state_is_in_the_audit_log(states):
    assert states.run() == "success"
    params = {"dag_id": states.dag_id, "run_id": states.run_id, "limit": 100}
    found = states.api("GET", "/eventLogs", params=params)["event_logs"]
    by_task = {log["task_id"]: log for log in found if log["owner"] == "dbt_build"}
    assert by_task.keys() == {*node_tasks(states), DONE}
    assert {log["event"] for log in by_task.values()} == {"success"}


@pytest.mark.slow
def test_a_report_whose_answer_was_lost_is_answered_again(states):
    states.broken("g", fails=False, seconds=30)
    states.trigger()
    states.wait_for_state("dbt.a.run", "success")
    task, build_id = states.tasks()["dbt.a.run"], states.tasks()[BUILD]["id"]
    times = Times(start=task["start_date"], end=task["end_date"])
    # The plugin ignores a task outside of the group.
    report = Report(succeeded={"dbt.a.run": times}, others={"after": "skipped"})
    body = report.model_dump_json().encode()
    secrets = {("core", "fernet_key"): SETTINGS.airflow_env()["AIRFLOW__CORE__FERNET_KEY"]}
    key = signing_key(SimpleNamespace(get=lambda *name, fallback: secrets.get(name)))
    answer = httpx.post(
        f"http://127.0.0.1:{SETTINGS.port}/dbt_build/{build_id}",
        content=body,
        headers={"x-dbt-build-signature": sign(key, build_id, body)},
        timeout=60,
    )
    assert answer.json()["applied"] == {"dbt.a.run": 1}
    assert states.end() == "success"


@pytest.mark.slow
def test_a_dbt_dag_without_a_group_has_the_same_states(api, warehouse, states):
    alone = States(api, warehouse, "states_alone")
    alone.broken("test_b")
    assert alone.run() == "failed"
    assert alone.not_successful()["b.test"] == "failed"
    alone.broken()
    alone.clear("b.test")
    assert alone.end() == "success"
    assert alone.not_successful() == {}


@pytest.mark.slow
@pytest.mark.parametrize("dag_id", ["plain_local", "plain_watcher"])
def test_plain_cosmos_dag_succeeds_beside_the_engine(api, warehouse, states, dag_id):
    plain = States(api, warehouse, dag_id)
    assert plain.run() == "success"
    assert plain.not_successful() == {}
    assert plain.built() == {"a": 1, "b": 1}
