"""`make screenshots`: pictures of the last successful run of the DAG in local.toml."""

import os
import sys

from local import airflow
from local.pipeline import Api
from local.progress import live
from local.settings import ROOT, Failure, Settings
from tests.integration import pages

IMAGES = ROOT / "docs" / "images"
# These cover the graph: its controls, its map and the handle of the panel next to it.
HIDDEN = ".react-flow__panel, [aria-label$='Details Panel'] {display: none !important}"


def main() -> None:
    if pages.CHROMIUM is None:
        sys.exit(f"error: {pages.NO_CHROMIUM}.")
    settings = Settings.from_environment(os.environ)
    dag_id = settings.local_toml["dag"]
    try:
        api = Api(airflow.require_running(settings))
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


def keep(shown, name: str, **options) -> None:
    shown.screenshot(path=IMAGES / name, **options)
    print((IMAGES / name).relative_to(ROOT))


if __name__ == "__main__":
    main()
