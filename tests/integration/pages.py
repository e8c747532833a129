"""Airflow's pages in a headless Chromium, for test_browser.py and for `make screenshots`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The image has no Playwright.
    from playwright.sync_api import Browser, Locator, Page

# The system's own: a browser that Playwright downloads is one that nothing here could pin.
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
NO_CHROMIUM = "there is no chromium, chromium-browser or google-chrome: install one of them"

FLAGS = [
    # Chromium's sandbox refuses root, which one is in a container. It only opens Airflow.
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
    """Return a page in a profile of its own. Airflow asks nobody to log in, it makes a cookie."""
    page = browser.new_page(base_url=url, viewport={"width": 1400, "height": height})
    page.set_default_timeout(MILLISECONDS)
    return page


def first_run(api, dag_id: str, **params) -> str:
    """Return the id of a DAG's first run by `order_by`, among those that `params` describe.

    Raises:
        IndexError: there is none.
    """
    params = {"order_by": "run_after", "limit": 1, **params}
    return api("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"][0]["dag_run_id"]


def open_graph(page: Page, dag_id: str, run_id: str) -> Locator:
    """Show a run's graph, in it the models of the task group `dbt` if the DAG has one."""
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
            const before = window.placed;
            window.placed = document.querySelector(".react-flow__viewport").style.transform;
            return window.placed === before;
        }""",
        polling=500,
    )
    return graph


def open_grid(page: Page, dag_id: str, run_id: str) -> Locator:
    """Show the grid with every task, and return the cells of one run."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    page.get_by_role("button", name="Expand all task groups").click()
    return page.locator(f"[data-testid^='grid-{run_id}-']")


def open_gantt(page: Page, dag_id: str, run_id: str, *task_ids: str) -> list[Locator]:
    """Show the Gantt chart of a run, with every task, and return the bars of some."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}")
    page.get_by_role("button", name="Show Gantt").click()
    page.get_by_role("button", name="Expand all task groups").click()
    return [page.locator(f"a[style*='block'][href*='/tasks/{task_id}?']") for task_id in task_ids]


def open_log(page: Page, dag_id: str, run_id: str, task_id: str) -> Locator:
    """Show a task's log in the whole window."""
    page.goto(f"/dags/{dag_id}/runs/{run_id}/tasks/{task_id}")
    # Before it has the lines the page may drop the click.
    page.get_by_test_id("virtual-scroll-container").wait_for()
    page.get_by_role("button", name="Press f for fullscreen").click()
    return page.get_by_role("dialog").get_by_test_id("virtual-scroll-container")
