"""The lines that a command prints while it works.

In a terminal the last line is live and shows the current step. In a pipe a long step prints a line
each half minute.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Event, Thread
from time import monotonic

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)
SECONDS_BETWEEN_LINES = 30


def step(title: str) -> AbstractContextManager[Callable[[str], None]]:
    """Print what begins, and show its progress until the block ends."""
    console.print(title)
    return live(title)


@contextmanager
def live(text: str) -> Iterator[Callable[[str], None]]:
    """Show the progress of a step until the block ends; yield a function that changes its text."""
    if console.is_terminal:
        with console.status(text) as status:
            yield status.update
        return
    texts, ended, started_at = [text], Event(), monotonic()

    def print_lines() -> None:
        while not ended.wait(SECONDS_BETWEEN_LINES):
            console.print(f"... {texts[-1]}, {monotonic() - started_at:.0f} s so far")

    thread = Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield texts.append
    finally:
        ended.set()
        thread.join()
