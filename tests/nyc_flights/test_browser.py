"""The pages of Airflow with the asset and the dbt docs of the sample."""

import re

import pytest

expect = pytest.importorskip(
    "playwright.sync_api", reason="needs Playwright, which the image does not have: run `make test`"
).expect

pytestmark = pytest.mark.slow


def test_the_asset_links_the_dags(page):
    page.goto("/assets")
    page.get_by_role("link", name="nyc_flights", exact=True).click()
    graph = page.get_by_test_id("rf__wrapper")
    for name in ("flights_daily", "nyc_flights", "flights_reporting"):
        expect(graph.get_by_text(name, exact=True)).to_be_visible()
    for edge in (r"dag:flights_daily to asset:\d+", r"asset:\d+ to dag:flights_reporting"):
        # A straight line has no height, and Playwright takes it for invisible.
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
