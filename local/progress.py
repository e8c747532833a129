"""What the commands say while they work.

The lines that stay are the same everywhere. In a terminal the last one is live: it tells what goes
on right now, and for how long.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

console = Console(highlight=False)


@contextmanager
def live(text: str = "") -> Iterator[Callable[[str], None]]:
    """Show a live line until the block ends; yield a function that changes its text."""
    # The text is cut where the terminal ends, not the time beside it.
    columns = (
        SpinnerColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True)),
    )
    settings = {"expand": True, "transient": True, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **settings) as progress:
        line = progress.add_task(text, total=None)
        yield lambda text: progress.update(line, description=text)
