"""`make screenshots`: pictures of the last good run of flights_daily, for the documentation."""

import sys

from local import airflow
from local.pipeline import Api
from local.progress import live
from local.settings import ROOT, Failure
from tests.integration import pages

IMAGES = ROOT / "docs" / "images"
# What lies over the graph: its controls, its map and the handle of the panel next to it.
HIDDEN = ".react-flow__panel, [aria-label$='Details Panel'] {display: none !important}"


def main() -> None:
    if pages.CHROMIUM is None:
        sys.exit(f"error: {pages.NO_CHROMIUM}.")
    dag_id = "flights_daily"
    try:
        api = Api(airflow.require_running())
        run_id = pages.first_run(api, dag_id, state="success", order_by="-run_after")
    except Failure as failure:
        sys.exit(f"error: {failure}")
    except IndexError:
        sys.exit(f"error: no run of {dag_id} has succeeded yet: `make start` makes one.")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with live("taking pictures"), pages.chromium() as browser:
        page = pages.new_page(browser, api.url)
        graph = pages.open_graph(page, dag_id, run_id)
        keep(graph, "graph.png", style=HIDDEN)

        # As high as the grid.
        page = pages.new_page(browser, api.url, height=1040)
        pages.open_grid(page, dag_id, run_id)
        page.get_by_role("link", name="publish_figures").first.wait_for()
        keep(page, "grid.png", animations="disabled")

        page = pages.new_page(browser, api.url, height=520)
        log = pages.open_log(page, dag_id, run_id, "dbt.fct_flights.test")
        log.get_by_text("PASS").first.wait_for()
        keep(page, "log.png")


def keep(shown, name: str, **options) -> None:
    shown.screenshot(path=IMAGES / name, **options)
    print((IMAGES / name).relative_to(ROOT))


if __name__ == "__main__":
    main()
