"""What a person sees in Airflow's pages after `make start`."""

import json
import re

import pytest

from include.dbt_build.project import cache_path
from tests.conftest import HAS_POSTGRES, ROOT
from tests.integration import pages

expect = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, which the image does not have: run `make test`"
).expect

if HAS_POSTGRES:
    from tests.integration.states import States

# Pictures of what each test saw last, also of a failed one.
PICTURES = ROOT / ".local" / "screenshots"


@pytest.fixture(scope="module")
def browser():
    if pages.CHROMIUM is None:
        pytest.skip(pages.NO_CHROMIUM)
    with pages.chromium() as browser:
        yield browser


@pytest.fixture
def page(request, browser, api):
    page = pages.new_page(browser, api.url)
    yield page
    page.screenshot(path=PICTURES / f"{request.node.name}.png")
    page.close()


@pytest.fixture
def models(project) -> dict[str, set[str]]:
    """The models' names by the DAG that builds them, as dbt knows them."""
    made = cache_path(project.name) / "target" / "manifest.json"
    nodes = json.loads(made.read_text())["nodes"].values()
    found = {"flights_daily": set(), "flights_reporting": set()}
    for node in nodes:
        if node["resource_type"] == "model":
            reporting = "reporting" in node["tags"]
            found["flights_reporting" if reporting else "flights_daily"].add(node["name"])
    return found


def test_the_list_shows_both_dags_and_no_import_error(page):
    with page.expect_response("**/api/v2/importErrors*") as errors:
        page.goto("/dags")
    # Those of tests/integration/dags are there as well.
    expect(page.get_by_role("heading", name=re.compile(r"^\d+ Dags$"))).to_be_visible()
    for dag_id in ("flights_daily", "flights_reporting"):
        expect(page.get_by_role("link", name=dag_id, exact=True)).to_be_visible()
    assert errors.value.finished() is None
    expect(page.get_by_role("button", name="Dag Import Error")).to_have_count(0)


@pytest.mark.parametrize("dag_id", ["flights_daily", "flights_reporting"])
def test_the_graph_shows_the_models(page, api, models, dag_id):
    graph = pages.open_graph(page, dag_id, pages.first_run(api, dag_id))
    assert models[dag_id]
    for model in models[dag_id]:
        expect(graph.get_by_text(re.compile(f"^{model}(_run)?$"))).to_be_visible()


def test_the_grid_of_a_run_is_green(page, api):
    run_id = pages.first_run(api, "flights_daily")
    pages.open_grid(page, "flights_daily", run_id)
    success = page.get_by_test_id("header-card").get_by_text("Success")
    expect(success).to_be_visible()
    green = success.evaluate("badge => getComputedStyle(badge).backgroundColor")
    tasks = api("GET", "/dags/flights_daily/tasks")["tasks"]
    for task in tasks:
        cell = page.get_by_test_id(f"grid-{run_id}-{task['task_id']}")
        expect(cell.get_by_test_id("task-state-badge")).to_have_css("background-color", green)


@pytest.mark.parametrize(
    ("task_id", "line"),
    [
        ("dbt.fct_flights.run", "OK created sql microbatch model marts.fct_flights"),
        ("dbt.fct_flights.test", "PASS fct_flights_matches_source"),
    ],
    ids=["model", "test"],
)
def test_the_log_of_a_task_says_what_dbt_said(page, api, task_id, line):
    run_id = pages.first_run(api, "flights_daily")
    log = pages.open_log(page, "flights_daily", run_id, task_id)
    expect(log.get_by_text(line)).to_be_visible()


def test_a_green_task_shows_its_state_and_dbts_seconds(page, api):
    run_id = pages.first_run(api, "flights_daily")
    task = api("GET", f"/dags/flights_daily/dagRuns/{run_id}/taskInstances/dbt.fct_flights.run")
    page.goto(f"/dags/flights_daily/runs/{run_id}/tasks/dbt.fct_flights.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Success", exact=True)).to_be_visible()
    expect(card.get_by_text(f"00:00:0{task['duration']:.3f}")).to_be_visible()


def test_a_red_task_shows_what_dbt_said(page, api, warehouse):
    states = States(api, warehouse)
    states.broken("d")
    assert states.run() == "failed"
    states.broken()
    page.goto(f"/dags/states_between/runs/{states.run_id}/tasks/dbt.d.run")
    card = page.get_by_test_id("header-card")
    expect(card.get_by_text("Failed", exact=True)).to_be_visible()
    log = pages.open_log(page, "states_between", states.run_id, "dbt.d.run")
    expect(log.get_by_text("division by zero").first).to_be_visible()


def test_the_gantt_chart_has_dbts_times(page, api):
    run_id = pages.first_run(api, "flights_daily")
    tasks = ("dbt_build", "dbt.stg_flights.run", "dbt.fct_flights.run")
    bars = pages.open_gantt(page, "flights_daily", run_id, *tasks)
    build, first, last = (bar.bounding_box() for bar in bars)
    # The build is the longest, and what it built lies within it, one after the other.
    assert build["width"] > first["width"] > 0
    assert build["x"] <= first["x"] < last["x"] < build["x"] + build["width"]


def test_the_asset_links_the_dags(page):
    page.goto("/assets")
    page.get_by_role("link", name="nyc_flights_marts", exact=True).click()
    graph = page.get_by_test_id("rf__wrapper")
    for name in ("flights_daily", "nyc_flights_marts", "flights_reporting"):
        expect(graph.get_by_text(name, exact=True)).to_be_visible()
    for edge in (r"dag:flights_daily to asset:\d+", r"asset:\d+ to dag:flights_reporting"):
        # A straight line has no height, which Playwright takes for invisible.
        expect(graph.get_by_role("group", name=re.compile(f"^Edge from {edge}$"))).to_be_attached()


def test_browse_leads_to_the_docs_of_the_models(page):
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    with page.expect_popup() as opened:
        page.get_by_role("menuitem", name="dbt docs: nyc_flights").click()
    docs = opened.value
    docs.goto(f"{docs.url.split('#')[0]}#!/model/model.nyc_flights.fct_flights")
    expect(docs.get_by_role("heading", name="fct_flights")).to_be_visible()
    description = docs.get_by_role("paragraph").filter(has_text="One row per scheduled departure")
    expect(description.filter(visible=True)).to_have_count(1)
