"""What a person sees in Airflow's pages."""

import re

import pytest

from tests.conftest import HAS_POSTGRES
from tests.integration import pages

expect = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, which the image does not have: run `make test`"
).expect

if HAS_POSTGRES:
    from tests.integration.states import States

pytestmark = pytest.mark.slow

DAG_ID = "states_between"


@pytest.fixture(scope="module")
def green(api, warehouse) -> States:
    """A run in which all went well."""
    green = States(api, warehouse, DAG_ID)
    assert green.run() == "success"
    return green


def test_the_list_shows_the_dags_of_make_start_and_no_import_error(page):
    from local.settings import OWN

    with page.expect_response("**/api/v2/importErrors*") as errors:
        page.goto("/dags")
    # Those of tests/integration/dags are there as well.
    expect(page.get_by_role("heading", name=re.compile(r"^\d+ Dags$"))).to_be_visible()
    for dag_id in (OWN["dag"], *OWN["then"]):
        # A tag may have the same name.
        expect(page.get_by_role("link", name=dag_id, exact=True).first).to_be_visible()
    assert errors.value.finished() is None
    expect(page.get_by_role("button", name="Dag Import Error")).to_have_count(0)


def test_the_graph_shows_the_models(page, green):
    graph = pages.open_graph(page, DAG_ID, green.run_id)
    for model in ("a", "b", "c", "d", "e", "f", "g", "by_day"):
        expect(graph.get_by_text(re.compile(f"^{model}(_run)?$"))).to_be_visible()


def test_the_grid_of_a_run_is_green(page, green):
    pages.open_grid(page, DAG_ID, green.run_id)
    success = page.get_by_test_id("header-card").get_by_text("Success")
    expect(success).to_be_visible()
    colour = success.evaluate("badge => getComputedStyle(badge).backgroundColor")
    for task_id in green.tasks():
        cell = page.get_by_test_id(f"grid-{green.run_id}-{task_id}")
        expect(cell.get_by_test_id("task-state-badge")).to_have_css("background-color", colour)


@pytest.mark.parametrize(
    ("task_id", "line"),
    [
        ("dbt.by_day_run", "OK created sql microbatch model states.by_day"),
        ("dbt.a.test", "PASS unique_a_id"),
    ],
    ids=["model", "test"],
)
def test_the_log_of_a_task_says_what_dbt_said(page, green, task_id, line):
    log = pages.open_log(page, DAG_ID, green.run_id, task_id)
    expect(log.get_by_text(line)).to_be_visible()


def test_a_green_task_shows_its_state_and_dbts_seconds(page, green):
    page.goto(f"/dags/{DAG_ID}/runs/{green.run_id}/tasks/dbt.a.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Success", exact=True)).to_be_visible()
    seconds = green.tasks()["dbt.a.run"]["duration"]
    expect(card.get_by_text(f"00:00:0{seconds:.3f}")).to_be_visible()


def test_the_gantt_chart_has_dbts_times(page, green):
    tasks = ("dbt_build", "dbt.a.run", "dbt.e_run")
    bars = pages.open_gantt(page, DAG_ID, green.run_id, *tasks)
    build, first, last = (bar.bounding_box() for bar in bars)
    # The build is the longest, and what it built lies within it, one after the other.
    assert build["width"] > first["width"] > 0
    assert build["x"] <= first["x"] < last["x"] < build["x"] + build["width"]


@pytest.mark.slow
def test_a_red_task_shows_what_dbt_said(page, api, warehouse):
    red = States(api, warehouse, DAG_ID)
    red.broken("d")
    assert red.run() == "failed"
    red.broken()
    page.goto(f"/dags/{DAG_ID}/runs/{red.run_id}/tasks/dbt.d.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Failed", exact=True)).to_be_visible()
    log = pages.open_log(page, DAG_ID, red.run_id, "dbt.d.run")
    expect(log.get_by_text("division by zero").first).to_be_visible()
