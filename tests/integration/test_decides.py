"""dbt decides which nodes are built, skipped or failed, and Airflow shows the same."""

import psutil
import pytest

from include.dbt_build.protocol import BUILD_STATE
from tests.conftest import HAS_POSTGRES
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture
def run_of(api, warehouse):
    """Return a function for the runs of a DAG of the project `decides`."""

    def states(dag_id: str) -> "States":
        states = States(api, warehouse, dag_id)
        states.broken()
        return states

    return states


@pytest.mark.parametrize("broken", ["chain_a", "check_chain_a"])
def test_a_failed_node_stops_nodes_downstream_of_a_node_that_is_not_selected(run_of, broken):
    states = run_of("decides_chain")
    states.broken(broken)
    assert states.run() == "failed"
    assert states.states() == {
        "dbt_build": "success",
        "chain_a.run": "failed" if broken == "chain_a" else "success",
        "chain_a.test": "upstream_failed" if broken == "chain_a" else "failed",
        "chain_c_run": "upstream_failed",
        "dbt_build_done": "failed",
    }
    assert states.built()["chain_c"] == 0


def test_a_node_that_dbt_builds_downstream_of_a_failed_one_is_successful(run_of):
    states = run_of("decides_continue")
    # A run before the failure has built both models.
    assert states.run() == "success"
    states.broken("continues")
    # Long enough for the scheduler to set the task to upstream_failed while dbt builds the node.
    slow = "insert into raw_states.broken values ('after_continues', false, 30)"
    states.warehouse.execute(slow)
    states.trigger()
    states.wait_for_state("after_continues_run", "upstream_failed")
    assert states.end() == "failed"
    found = states.states()
    assert (found["continues_run"], found["after_continues_run"]) == ("failed", "success")
    assert states.built() == {"after_continues": 1}


def test_a_node_that_fails_downstream_of_a_failed_one_is_failed_with_dbts_message(run_of):
    states = run_of("decides_continue")
    states.broken("continues", "after_continues")
    states.warehouse.execute(
        "update raw_states.broken set seconds = 30 where node = 'after_continues'"
    )
    states.trigger()
    states.wait_for_state("after_continues_run", "upstream_failed")
    assert states.end() == "failed"
    for name in ("continues_run", "after_continues_run"):
        assert states.states()[name] == "failed"
        assert "division by zero" in states.log(name)
    # If the tasks are cleared without the build task, each one runs dbt.
    states.broken()
    states.clear("continues_run", "after_continues_run", only_failed=True)
    assert states.end() == "success"
    assert states.built() == {"continues": 1, "after_continues": 1}


def test_no_retry_hides_that_dbt_has_built_a_node_from_old_rows(run_of):
    states = run_of("decides_continue_retried")
    assert states.run() == "success"
    states.broken("continues")
    assert states.run() == "failed"
    found = states.states()
    assert (found["continues_run"], found["after_continues_run"]) == ("failed", "success")
    assert "clear this task with its downstream tasks" in states.log("continues_run")
    states.broken()
    states.clear("continues_run")
    assert states.end() == "success"
    assert states.built() == {"continues": 1, "after_continues": 1}


@pytest.fixture
def deploy(api, projects):
    """A function that deploys a model and the first test of another one. They are removed later."""
    folder = projects / "fails_fast"
    files = {
        folder / "models" / "added.sql": "select 1 as id",
        folder / "tests" / "first.sql": "select 1 from {{ ref('independent_1') }} where false",
    }

    def has_task(dag_id: str) -> bool:
        tasks = api("GET", f"/dags/{dag_id}/tasks")["tasks"]
        return any(task["task_id"].endswith("independent_1.test") for task in tasks)

    def deploy() -> None:
        (folder / "tests").mkdir(exist_ok=True)
        for file, sql in files.items():
            file.write_text(sql)
        wait_until(lambda: has_task("decides_deployed"))

    yield deploy
    for file in files:
        file.unlink(missing_ok=True)
    for dag_id in ("decides_deployed", "decides_fail_fast_flag"):
        wait_until(lambda dag_id=dag_id: not has_task(dag_id))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_running", [False, True], ids=["ended", "running"])
def test_a_task_that_a_deploy_adds_to_a_run_builds_its_node_once(run_of, deploy, is_running):
    states = run_of("decides_deployed")
    if is_running:
        # dbt waits for this lock while it builds the model.
        with states.warehouse.transaction():
            states.warehouse.execute("lock table raw_states.broken")
            states.trigger()
            wait_until(lambda: "START sql table model" in states.log("dbt.dbt_build"))
            deploy()
    else:
        assert states.run() == "success"
        deploy()
        # Airflow adds the new tasks to this run.
        states.clear("after_deploy")
    assert states.end() == "success"
    # Airflow keeps the old task of the renamed node.
    assert states.not_successful() == {"dbt.independent_1_run": "removed"}
    assert states.built() == {"independent_1": 1, "added": 1}
    assert "so it runs dbt itself" in states.log("dbt.added_run")
    assert "dbt built" in states.log("dbt.independent_1.run")


def test_a_run_can_select_nodes_of_the_second_group_only(run_of):
    states = run_of("decides_groups")
    assert states.run() == "success"
    assert states.built() == {"independent_1": 1, "independent_2": 1}
    states.broken()
    assert states.run(dbt_select="independent_2") == "success"
    assert states.states()["group_1.independent_1_run"] == "skipped"
    assert states.built() == {"independent_2": 1}
    # A task of the user that is skipped skips both groups.
    states.broken()
    assert states.run(skip=True) == "success"
    assert {*states.states().values()} == {"skipped"}


def test_a_task_downstream_of_the_group_does_not_run_if_a_test_failed_that_stopped_no_node(run_of):
    states = run_of("decides_after")
    states.broken("compare")
    assert states.run() == "failed"
    found = states.states()
    assert (found["dbt.compared.test"], found["dbt.after_compared_run"]) == ("failed", "success")
    assert found["after"] == "upstream_failed"


def test_no_retry_leaves_out_the_missing_batches_of_a_model(run_of):
    states = run_of("decides_batches")
    states.warehouse.execute("drop table if exists decides.batches")
    states.broken("2024")
    assert states.run() == "failed"
    assert "There is no retry" in states.log("batches_run")
    assert states.tasks()["batches_run"]["try_number"] == 1
    years = {day.year for (day,) in states.warehouse.execute("select day from decides.batches")}
    assert 2024 not in years
    assert {2022, 2023, 2025} <= years


def test_no_retry_of_a_killed_build_leaves_out_the_missing_batches_of_a_model(run_of):
    states = run_of("decides_batches")
    states.warehouse.execute("drop table if exists decides.batches")
    states.broken("2024", fails=False, seconds=30)
    states.trigger()
    wait_until(lambda: (states.xcom("dbt_build", BUILD_STATE) or {}).get("incomplete"))
    psutil.Process(states.tasks()["dbt_build"]["pid"]).kill()
    assert states.end() == "failed"
    assert "An earlier try built some batches" in states.log("dbt_build", 2)
    # With the table dbt would build the batches of the lookback only, in any later run.
    states.broken()
    states.clear("dbt_build")
    assert states.end() == "success"


def test_no_retry_of_a_killed_node_task_leaves_out_the_missing_batches_of_a_model(run_of):
    states = run_of("decides_batches")
    states.warehouse.execute("drop table if exists decides.batches")
    # The first batch creates the table.
    states.broken("2022")
    assert states.run() == "failed"
    states.broken("2024", fails=False, seconds=60)
    # If the task is cleared without the build task, it runs dbt itself.
    states.clear("batches_run", only_failed=True)

    def has_two_batches() -> bool:
        exists = states.warehouse.execute("select to_regclass('decides.batches')").fetchone()[0]
        count = "select count(*) from decides.batches"
        return exists is not None and states.warehouse.execute(count).fetchone()[0] > 1

    wait_until(has_two_batches)
    pid = states.tasks()["batches_run"]["pid"]
    assert pid
    psutil.Process(pid).kill()
    states.stop_sleeping()
    assert states.end() == "failed"
    tasks = states.tasks()
    assert tasks["batches_run"]["state"] == "failed"
    assert "There is no retry" in states.log("batches_run", tasks["batches_run"]["try_number"])


@pytest.mark.parametrize("built", ["nothing", "independent_2"])
def test_the_retry_of_a_killed_build_builds_the_nodes_that_the_run_enables(run_of, built):
    states = run_of("decides_enabled")
    states.broken("independent_1", fails=False, seconds=60)
    if built == "nothing":
        slow = "insert into raw_states.broken values ('independent_2', false, 60)"
        states.warehouse.execute(slow)
    states.trigger(dbt_vars={"more": True})
    if built == "nothing":
        wait_until(lambda: "START sql table model decides.independent_1" in states.log("dbt_build"))
    else:
        wait_until(lambda: (states.xcom("dbt_build", BUILD_STATE) or {}).get("built"))
    psutil.Process(states.tasks()["dbt_build"]["pid"]).kill()
    states.stop_sleeping()
    assert states.end() == "success"
    assert states.built() == {"independent_1": 1, "independent_2": 1, "enabled": 1}
    assert "PASS not_null_enabled_id" in states.log("dbt_build", 2)


def test_a_node_that_the_environment_of_the_run_enables_is_built(run_of):
    states = run_of("decides_environment")
    assert states.run(more="yes") == "success"
    assert states.built() == {"independent_1": 1, "chain_a": 1, "enabled_by_environment": 1}
    assert "enabled_by_environment_run" not in states.states()


def test_a_node_that_the_run_enables_and_dbt_skips_fails_the_build_task(run_of):
    states = run_of("decides_enabled")
    states.broken("independent_1")
    assert states.run(dbt_vars={"more": True}) == "failed"
    assert "no task: model.decides.enabled" in states.log("dbt_build")
    # No retry builds the successful nodes again.
    assert states.tasks()["dbt_build"]["try_number"] == 1


# The disabled node reads the first of these nodes.
@pytest.mark.parametrize("node", ["independent_1", "independent_2"])
def test_nodes_that_the_run_disables_are_skipped_although_another_node_fails_once(run_of, node):
    states = run_of("decides_disabled")
    states.broken(node, once=True)
    assert states.run(dbt_vars={"more": False}) == "success"
    assert states.tasks()[f"{node}_run"]["try_number"] == 2
    disabled = ("enabled.run", "enabled.test", "warns.run", "warns.test")
    skipped = dict.fromkeys((*disabled, "settings_pg_settings_freshness"), "skipped")
    assert states.not_successful() == skipped
    assert states.built()[node] == 1


def test_no_task_builds_a_node_that_the_selection_leaves_out_with_the_variables_of_the_run(run_of):
    states = run_of("decides_tagged")
    assert states.run() == "success"
    assert states.built() == {"independent_1": 1, "tagged": 1}
    states.broken("independent_1", once=True)
    assert states.run(dbt_vars={"is_chosen": False}) == "success"
    assert states.tasks()["independent_1_run"]["try_number"] == 2
    assert states.not_successful() == {"tagged_run": "skipped"}
    assert states.built() == {"independent_1": 1}
    # dbt runs the function without the model that uses it.
    states.broken("twice")
    assert states.run(dbt_vars={"is_chosen": False}) == "failed"
    assert "no task: function.decides.twice" in states.log("dbt_build")


def test_a_node_is_built_downstream_of_one_that_the_variables_of_the_run_leave_out(run_of):
    states = run_of("decides_templated")
    assert states.run() == "success"
    states.broken("independent_1", once=True)
    assert states.run(leave_out=True) == "success"
    assert states.tasks()["independent_1_run"]["try_number"] == 2
    assert states.not_successful() == {"tagged_run": "skipped"}
    assert states.built() == {"independent_1": 1, "after_tagged": 1}


@pytest.mark.parametrize("dag_id", ["decides_fail_fast", "decides_fail_fast_flag"])
def test_with_fail_fast_no_task_builds_what_dbt_did_not_build(run_of, dag_id):
    states = run_of(dag_id)
    states.broken("independent_1")
    # These models take longer than the failing one, so that dbt stops before they are built.
    for node in ("independent_2", "independent_3"):
        states.warehouse.execute("insert into raw_states.broken values (%s, false, 5)", [node])
    assert states.run() == "failed"
    found = states.states()
    assert found["independent_1_run"] == "failed"
    for node in ("independent_2", "independent_3"):
        # The statement may have ended before dbt cancelled it.
        assert found[f"{node}_run"] != "success" or states.built()[node] == 1
        assert states.tasks()[f"{node}_run"]["pid"] is None

    # If the tasks are cleared without the build task, each one runs dbt for its own node.
    states.broken()
    states.clear(*found.keys() - {"dbt_build", "dbt_build_done"}, only_failed=True)
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert "stored no result" not in states.log("independent_3_run")


def test_two_nodes_that_fail_once_are_built_by_their_retries(run_of):
    states = run_of("decides_twice")
    states.broken("independent_1", "independent_2", once=True)
    assert states.run() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"independent_1": 1, "independent_2": 1}
    for node in ("independent_1_run", "independent_2_run"):
        assert states.tasks()[node]["try_number"] == 2


@pytest.mark.parametrize("dag_id", ["decides_once", "decides_once_by_variable"])
def test_a_model_whose_unit_test_is_left_out_is_built_once(run_of, dag_id):
    states = run_of(dag_id)
    assert states.run() == "success"
    assert states.states().keys() == {"dbt_build", "once_run", "dbt_build_done"}
    assert states.built() == {"once": 1}


def test_a_failed_function_is_built_again_before_the_model_that_uses_it(run_of):
    states = run_of("decides_function")
    assert states.run() == "success"
    states.broken("twice", once=True)
    assert states.run() == "success"
    assert "twice is broken" in states.log("uses_twice_run")
    assert states.tasks()["uses_twice_run"]["try_number"] == 2
    assert states.built() == {"chain_a": 1, "uses_twice": 1}
    assert "OK created function decides.twice" in states.log("uses_twice_run", 2)


def test_a_run_that_selects_a_function_alone_skips_the_model_that_uses_it(run_of):
    states = run_of("decides_function")
    states.broken("twice")
    assert states.run(dbt_select="twice") == "failed"
    assert "no task: function.decides.twice" in states.log("dbt_build")
    states.broken()
    states.clear(only_failed=True)
    assert states.end() == "success"
    skipped = {"chain_a.run", "chain_a.test", "uses_twice_run"}
    assert states.not_successful() == dict.fromkeys(skipped, "skipped")
    assert "OK created function decides.twice" in states.log("dbt_build", 3)


def test_a_function_that_no_model_uses_is_not_missing_in_a_successful_run(run_of):
    states = run_of("decides_unused")
    states.broken("chain_a")
    assert states.run() == "failed"
    assert "no task: function.decides.largest" in states.log("dbt_build")
    states.broken()
    states.clear(only_failed=True)
    assert states.end() == "success"
    assert "OK created function decides.largest" in states.log("dbt_build", 2)


@pytest.mark.parametrize("is_cleared", [False, True])
def test_a_failed_hook_is_not_retried_because_models_would_be_built_twice(run_of, is_cleared):
    states = run_of("decides_hook")
    if is_cleared:
        states.run()
    states.broken("end_hook")
    states.clear() if is_cleared else states.trigger()
    assert states.end() == "failed"
    assert states.states() == {
        "dbt_build": "failed",
        "appends_run": "upstream_failed",
        "dbt_build_done": "upstream_failed",
    }
    assert states.tasks()["dbt_build"]["try_number"] == 1 + is_cleared
    assert states.built() == {"appends": 1}
    # Somebody decides that the hook does not matter.
    states.mark("dbt_build", "success")
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"appends": 1}
    # A clear is an order to build again, and runs the hooks.
    states.broken()
    states.clear("dbt_build")
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"appends": 1}
    assert "OK hook: decides.on-run-end" in states.log("dbt_build", 2 + is_cleared)


def test_a_hook_that_fails_after_the_nodes_is_not_retried_without_them(run_of):
    states = run_of("decides_unused")
    states.broken("end_hook_of_models")
    assert states.run() == "failed"
    assert states.tasks()["dbt_build"]["try_number"] == 1
    assert "a model is not right" in states.log("dbt_build")
    assert states.built() == {"chain_a": 1, "appends": 1}
    states.broken()
    states.clear("dbt_build")
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"chain_a": 1, "appends": 1}


def test_no_retry_leaves_the_nodes_of_a_killed_build_out_of_its_hooks(run_of):
    states = run_of("decides_unused")
    states.broken("end_hook", fails=False, seconds=60)
    states.trigger()
    leaves = {"model.decides.appends", "test.decides.checks_chain_a"}

    def have_ended() -> bool:
        stored = states.xcom("dbt_build_done", BUILD_STATE)
        return bool(stored) and leaves <= {*stored["built"]}

    wait_until(have_ended)
    psutil.Process(states.tasks()["dbt_build"]["pid"]).kill()
    states.warehouse.execute("truncate raw_states.broken")
    assert states.end() == "failed"
    assert states.tasks()["dbt_build"]["try_number"] == 2
    assert "its on-run-end hooks may not have ended" in states.log("dbt_build", 2)
    states.clear("dbt_build")
    assert states.end() == "success"
    assert states.not_successful() == {}


@pytest.mark.parametrize("broken", ["check", "end_hook"])
def test_no_retry_builds_a_model_again_because_its_test_or_a_hook_had_an_error(run_of, broken):
    states = run_of("decides_checked")
    if broken == "end_hook":
        # The task of the model runs the hook, because it runs dbt.
        states.broken("checked")
        assert states.run() == "failed"
        states.broken("end_hook")
        states.clear("checked_model_build", only_failed=True)
    else:
        states.broken("check")
        states.trigger()
    assert states.end() == "failed"
    assert states.states()["checked_model_build"] == "failed"
    assert states.built()["checked"] == 1


def test_no_retry_builds_a_model_again_because_dbt_skipped_its_test(run_of):
    states = run_of("decides_compared")
    states.broken("against")
    assert states.run() == "failed"
    assert states.built() == {"compared": 1}
    # The task of the model runs the test, and so does its retry.
    states.broken("compare")
    states.clear("against_model_build", only_failed=True)
    assert states.end() == "failed"
    assert states.tasks()["compared_model_build"]["state"] == "failed"
    assert "division by zero" in states.log("compared_model_build", 2)
    assert states.built() == {"against": 1}


def test_the_retry_of_a_killed_build_runs_a_test_that_had_an_error_and_not_its_model(run_of):
    states = run_of("decides_checked")
    states.broken("check")
    slow = "insert into raw_states.broken values ('independent_1', false, 30)"
    states.warehouse.execute(slow)
    states.trigger()
    states.wait_for_state("checked_model_build", "failed")
    states.warehouse.execute("delete from raw_states.broken where node = 'check'")
    psutil.Process(states.tasks()["dbt_build"]["pid"]).kill()
    assert states.end() == "success"
    assert states.not_successful() == {}
    assert states.built() == {"checked": 1, "independent_1": 1}


@pytest.mark.parametrize("broken", ["independent_1", "end_hook"])
def test_a_task_with_all_done_downstream_of_the_group_runs_and_the_run_fails(run_of, broken):
    states = run_of("decides_always")
    states.broken(broken)
    assert states.run() == "failed"
    assert states.states()["always"] == "success"
    # Cleared alone it runs no dbt.
    states.broken()
    states.clear("always")
    assert states.end() == "failed"
    assert states.built() == {}


def test_the_callback_of_warnings_is_called_once_if_all_tests_run_last(run_of):
    states = run_of("decides_last")
    # dbt runs the hooks of the project before it checks a source, and makes no schema then.
    states.warehouse.execute("create schema if not exists decides")
    assert states.run() == "success"
    # dbt checks the source, builds the model and then runs its test.
    (called,) = [line for line in states.log("dbt_build").splitlines() if "Warned:" in line]
    assert "settings" in called
    assert "not_null_warns_id" in called
    assert "WARN 1 not_null_warns_id" in states.log("decides_test")
