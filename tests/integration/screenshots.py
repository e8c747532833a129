"""`make screenshots`: pictures of the last good run of flights_daily, for the documentation."""

import sys

from local import airflow
from local.pipeline import Api
from local.settings import ROOT
from tests.integration import pages

IMAGES = ROOT / "docs" / "images"
# What lies over the graph: its controls, its map and the handle of the panel next to it.
HIDDEN = ".react-flow__panel, [aria-label$='Details Panel'] {display: none !important}"


def main() -> None:
    port = airflow.port_in_use()
    if port is None:
        sys.exit("error: Airflow is not running: `make start` starts it.")
    if pages.CHROMIUM is None:
        sys.exit(f"error: {pages.NO_CHROMIUM}.")
    api = Api(port)
    dag_id = "flights_daily"
    run_id = pages.first_run(api, dag_id, state="success", order_by="-run_after")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with pages.chromium() as browser:
        page = pages.new_page(browser, api.url)
        graph = pages.open_graph(page, dag_id, run_id)
        graph.screenshot(path=IMAGES / "graph.png", style=HIDDEN)

        # As high as the grid.
        page = pages.new_page(browser, api.url, height=1040)
        pages.open_grid(page, dag_id, run_id)
        page.get_by_role("link", name="publish_figures").first.wait_for()
        page.screenshot(path=IMAGES / "grid.png", animations="disabled")

        page = pages.new_page(browser, api.url, height=520)
        log = pages.open_log(page, dag_id, run_id, "dbt.fct_flights.test")
        log.get_by_text("PASS").first.wait_for()
        page.screenshot(path=IMAGES / "log.png")
    for image in sorted(IMAGES.glob("*.png")):
        print(image.relative_to(ROOT))


if __name__ == "__main__":
    main()
