"""The pages of Airflow in a headless Chromium, for test_browser.py and `make screenshots`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The image has no Playwright.
    from playwright.sync_api import Browser, Locator, Page

# The browser of the system, because no file here can pin one that Playwright downloads.
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NO_CHROMIUM = "there is no chromium, chromium-browser or google-chrome: install one of them"

FLAGS = [
    # The sandbox of Chromium refuses root, the user in a container. Only Airflow is opened.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MILLISECONDS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def new_page(browser: Browser, url: str, height: int = 900) -> Page:
    """Return a page in a new profile. Airflow asks for no login and sets a cookie."""
    page = browser.new_page(base_url=url, viewport={"width": 1400, "height": height})
    page.set_default_timeout(MILLISECONDS)
    return page


def first_run(api, dag_id: str, **params) -> str:
    """Return the ID of a DAG's first run by `order_by`, among the runs that match `params`.

    Raises:
        IndexError: no run matches.
    """
    params = {"order_by": "run_after", "limit": 1, **params}
    return api("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"][0]["dag_run_id"]


def open_graph(page: Page, dag_id: str, run_id: str) -> Locator:
    """Show the graph of a run, with the task group `dbt` open if the DAG has one."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    page.get_by_role("button", name="Show Graph").click()
    page.get_by_role("button", name="Collapse Details Panel").click()
    graph = page.get_by_test_id("rf__wrapper")
    group = page.get_by_test_id("rf__node-dbt")
    build = graph.get_by_text("dbt_build", exact=True)
    group.or_(build).first.wait_for()
    if group.is_visible():
        group.get_by_role("button").click()
        build.wait_for()
    page.get_by_role("button", name="Fit View").click()
    page.wait_for_function(
        """() => {
            const before = window.lastTransform;
            window.lastTransform = document.querySelector(".react-flow__viewport").style.transform;
            return window.lastTransform === before;
        }""",
        polling=500,
    )
    return graph


def open_grid(page: Page, dag_id: str, run_id: str) -> Locator:
    """Show the grid with all tasks, and return the cells of one run."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    page.get_by_role("button", name="Expand all task groups").click()
    return page.locator(f"[data-testid^='grid-{run_id}-']")


def open_gantt(page: Page, dag_id: str, run_id: str, *task_ids: str) -> list[Locator]:
    """Show the Gantt chart of a run with all tasks, and return the bars of some tasks."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    page.get_by_role("button", name="Show Gantt").click()
    page.get_by_role("button", name="Expand all task groups").click()
    bars = [page.locator(f"a[style*='block'][href*='/tasks/{task_id}?']") for task_id in task_ids]
    # A task that was queued for some time has two bars.
    return [bar.last for bar in bars]


def open_log(page: Page, dag_id: str, run_id: str, task_id: str) -> Locator:
    """Show the log of a task in the whole window."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}/tasks/{task_id}")
    # The page can lose a click that comes before the lines are loaded.
    page.get_by_test_id("virtual-scroll-container").wait_for()
    page.get_by_role("button", name="Press f for fullscreen").click()
    return page.get_by_role("dialog").get_by_test_id("virtual-scroll-container")
