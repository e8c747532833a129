"""Runs of a project with one resource of each type that dbt has."""

import pytest

from tests.conftest import HAS_POSTGRES, HOME
from tests.fixtures import wait_until

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

RELATIONS = {
    "all_of_dbt": {
        *("customer_orders", "customers_v1", "customers_v2", "days", "orders", "orders_by_day"),
        *("packed", "revenue", "raw_orders", "customers_snapshot", "stg_orders"),
    },
    # A custom schema and an alias.
    "all_of_dbt_marketing": {"names"},
    "all_of_dbt_raw": {"raw_customers"},
    "all_of_dbt_dbt_test__audit": {"unique_orders_order_id"},
}


def task_ids(api, dag_id: str) -> set[str]:
    return {task["task_id"] for task in api("GET", f"/dags/{dag_id}/tasks")["tasks"]}


def relations(warehouse, schemas) -> dict[str, set[str]]:
    query = "select table_name from information_schema.tables where table_schema = %s"
    return {name: {n for (n,) in warehouse.execute(query, [name])} for name in schemas}


@pytest.fixture(scope="module")
def whole(api, warehouse) -> "States":
    whole = States(api, warehouse, "all_of_dbt")
    assert whole.run() == "success"
    return whole


def test_everything_is_built_and_has_a_task(whole, warehouse):
    assert whole.not_successful() == {}
    assert relations(warehouse, RELATIONS) == RELATIONS
    tasks = whole.tasks()
    # dbt does not build an ephemeral model, and a disabled one has no task.
    assert "stg_customers_run" in tasks
    assert not [name for name in tasks if "payments" in name]
    assert {"postgres_pg_settings_test", "postgres_is_recent_test"} <= tasks.keys()
    assert tasks["customer_orders_run"]["state"] == "success"


def test_dbt_gets_the_variables_and_runs_the_hook(whole, warehouse):
    # Two of the five orders in the seed are of ten dollars or more.
    assert warehouse.execute("select count(*) from all_of_dbt.orders").fetchone() == (2,)
    assert "1 of 1 OK hook" in whole.log("dbt_build")


def test_the_log_of_a_successful_build_has_no_error_of_python(whole):
    assert "leaked semaphore" not in whole.log("dbt_build")


def test_a_test_that_warns_is_successful_and_has_the_warning_in_its_log(whole):
    assert "WARN 1 not_null_customers_v2_email" in whole.log("customers_v2.test")


def test_a_dag_with_a_selector_another_target_and_another_schema(api, warehouse, whole):
    part = States(api, warehouse, "part_of_dbt")
    assert part.run() == "success"
    assert part.not_successful() == {}
    assert "orders_by_day_run" not in part.tasks()
    built = relations(warehouse, ["staging_of_dbt"])["staging_of_dbt"]
    assert {"revenue", "customer_orders"} <= built
    assert "orders_by_day" not in built


def test_the_log_of_a_failed_test_names_the_table_with_its_rows_and_shows_none(whole, projects):
    seed = projects / "all-of-dbt" / "seeds" / "raw_orders.csv"
    original = seed.read_text()
    (order,) = [line for line in original.splitlines() if line.startswith("3,")]
    seed.write_text(f"{original}{order}\n")
    try:
        assert whole.run() == "failed"
    finally:
        seed.write_text(original)
    failed = {name for name, state in whole.not_successful().items() if state == "failed"}
    assert failed == {"orders.test", "dbt_build_done"}
    table = '"warehouse"."all_of_dbt_dbt_test__audit"."unique_orders_order_id"'
    assert f"The failing rows are in {table}" in whole.log("orders.test")


def test_a_new_model_is_a_task_without_a_restart(api, whole, projects):
    model = projects / "all-of-dbt" / "models" / "marts" / "written_later.sql"
    model.write_text("select 1 as id\n")
    try:
        wait_until(lambda: "written_later_run" in task_ids(api, "all_of_dbt"))
    finally:
        model.unlink()


def test_nodes_with_difficult_names_are_built_retried_cleared_and_checked(api, warehouse):
    states = States(api, warehouse, "names")
    copy = 'create table raw_states."all events" as select * from raw_states.events'
    warehouse.execute("drop schema if exists names cascade")
    warehouse.execute(copy)
    signs = "[d] (e) = #1 50%"
    every = {"a, b & c": 1, signs: 1, "reads it": 1, "appends": 1, "loaded": 1}
    # A retry of a node task runs dbt for this node alone.
    states.broken("a, b & c", signs, once=True)
    assert states.run() == "success"
    tasks = ("a__b___c_run", "_d___e_____1_50__run")
    assert {states.tasks()[name]["try_number"] for name in tasks} == {2}
    assert states.built() == every
    assert "PASS raw_states.all events is" in states.log("raw_states_all_events_freshness")
    log = states.log("dbt_build")
    assert "Running with dbt" in log
    assert "full parse" not in log
    tries = HOME / "artifacts" / "names" / "prod" / "names"
    (kept,) = tries.glob(f"*@{states.run_id}@dbt_build.1")
    files = {file.name for file in kept.iterdir()}
    assert files == {"manifest.json", "run_results.json", "sources.json"}
    # After a clear, the build task builds these nodes alone.
    states.clear(*tasks, downstream=False)
    assert states.end() == "success"
    assert states.built() == {**every, "a, b & c": 2, signs: 2}
