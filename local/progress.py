"""The lines that a command prints while it works.

In a terminal the last line is live: it shows the current step and its seconds. In a pipe a long
step prints a line each half minute.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from time import monotonic

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

console = Console(highlight=False)
SECONDS_BETWEEN_LINES = 30


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Print what begins, and show its progress until the block ends."""
    console.print(title, markup=False, soft_wrap=True)
    with live(title) as show:
        yield show


@contextmanager
def live(text: str) -> Iterator[Callable[[str], None]]:
    """Show the progress of a step until the block ends; yield a function that changes its text."""
    with _live_line(text) if console.is_terminal else _plain_lines(text) as show:
        yield show


@contextmanager
def _live_line(text: str) -> Iterator[Callable[[str], None]]:
    # The text is cut at the end of the line, the time beside it is not.
    text_column = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True))
    columns = (SpinnerColumn(), TimeElapsedColumn(), text_column)
    with Progress(*columns, console=console, expand=True, transient=True) as progress:
        line = progress.add_task(text, total=None)
        yield lambda text: progress.update(line, description=text)


@contextmanager
def _plain_lines(text: str) -> Iterator[Callable[[str], None]]:
    texts, ended, started_at = [text], Event(), monotonic()

    def print_lines() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            seconds = round(monotonic() - started_at)
            console.print(f"... {texts[-1]}, {seconds} s so far", markup=False, soft_wrap=True)

    thread = Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield texts.append
    finally:
        ended.set()
        thread.join()
