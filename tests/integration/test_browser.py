"""The pages of Airflow: the graph, the grid, the Gantt chart and the logs of a run."""

import re

import pytest

from tests.conftest import HAS_POSTGRES, SETTINGS
from tests.integration import pages

expect = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, which the image does not have: run `make test`"
).expect

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = pytest.mark.slow

DAG_ID = "states_between"


@pytest.fixture(scope="module")
def successful(api, warehouse) -> States:
    """Return a successful run."""
    successful = States(api, warehouse, DAG_ID)
    assert successful.run() == "success"
    return successful


def test_the_list_shows_the_dags_of_make_start_and_no_import_error(page):
    with page.expect_response("**/api/v2/importErrors*") as errors:
        page.goto("/dags")
    # The DAGs of tests/integration/dags are there too.
    expect(page.get_by_role("heading", name=re.compile(r"^\d+ Dags$"))).to_be_visible()
    for dag_id in (SETTINGS.local_toml["dag"], *SETTINGS.local_toml["then"]):
        # A tag may have the same name.
        expect(page.get_by_role("link", name=dag_id, exact=True).first).to_be_visible()
    assert errors.value.finished() is None
    expect(page.get_by_role("button", name="Dag Import Error")).to_have_count(0)


def test_the_graph_shows_the_models(page, successful):
    graph = pages.open_graph(page, DAG_ID, successful.run_id)
    for model in ("a", "b", "c", "d", "e", "f", "g", "by_day"):
        expect(graph.get_by_text(re.compile(f"^{model}(_run)?$"))).to_be_visible()


def test_the_grid_of_a_run_is_green(page, successful):
    pages.open_grid(page, DAG_ID, successful.run_id)
    success = page.get_by_test_id("header-card").get_by_text("Success")
    expect(success).to_be_visible()
    colour = success.evaluate("badge => getComputedStyle(badge).backgroundColor")
    for task_id in successful.tasks():
        cell = page.get_by_test_id(f"grid-{successful.run_id}-{task_id}")
        expect(cell.get_by_test_id("task-state-badge")).to_have_css("background-color", colour)


@pytest.mark.parametrize(
    ("task_id", "line"),
    [
        ("dbt.by_day_run", "OK created sql microbatch model states.by_day"),
        ("dbt.a.test", "PASS unique_a_id"),
    ],
    ids=["model", "test"],
)
def test_the_log_of_a_task_has_the_lines_of_dbt(page, successful, task_id, line):
    log = pages.open_log(page, DAG_ID, successful.run_id, task_id)
    expect(log.get_by_text(line)).to_be_visible()


def test_a_successful_task_shows_the_duration_that_dbt_measured(page, successful):
    page.goto(f"/dags/{DAG_ID}/runs/{successful.run_id}/tasks/dbt.a.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Success", exact=True)).to_be_visible()
    seconds = successful.tasks()["dbt.a.run"]["duration"]
    expect(card.get_by_text(f"00:00:0{seconds:.3f}")).to_be_visible()


def test_the_gantt_chart_has_the_times_of_dbt(page, successful):
    tasks = ("dbt.dbt_build", "dbt.a.run", "dbt.e_run")
    bars = pages.open_gantt(page, DAG_ID, successful.run_id, *tasks)
    build, first, last = (bar.bounding_box() for bar in bars)
    # The build task is the longest bar, and the nodes lie within it, one after the other.
    assert build["width"] > first["width"] > 0
    assert build["x"] <= first["x"] < last["x"] < build["x"] + build["width"]


@pytest.mark.slow
def test_a_failed_task_shows_the_message_of_dbt(page, api, warehouse):
    failed = States(api, warehouse, DAG_ID)
    failed.broken("d")
    assert failed.run() == "failed"
    failed.broken()
    page.goto(f"/dags/{DAG_ID}/runs/{failed.run_id}/tasks/dbt.d.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Failed", exact=True)).to_be_visible()
    log = pages.open_log(page, DAG_ID, failed.run_id, "dbt.d.run")
    expect(log.get_by_text("division by zero").first).to_be_visible()
