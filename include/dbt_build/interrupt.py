"""Airflow's timeout and its SIGTERM end dbt as Ctrl-C does: dbt then cancels its statements.

Airflow's own exception would let dbt wait for its threads, and so for the statement that hangs. A
process that is killed leaves its statement to the database, which may run it to its end.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException

REASONS = {
    signal.SIGALRM: "its execution_timeout has passed",
    signal.SIGTERM: "Airflow ends it: its run is over, it was cleared, or its worker ends",
}


@contextmanager
def interruptible(end_subprocess: Callable[[], None]) -> Iterator[None]:
    """Let these signals interrupt dbt while it is entered.

    Raises:
        AirflowException: it was interrupted.
    """
    came = []

    def interrupt(number, _):
        # Once: dbt must come to the end of its cancelling.
        if not came:
            came.append(number)
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in REASONS}
    try:
        yield
    except BaseException:
        if not came:
            raise
        end_subprocess()
        raise AirflowException(f"dbt was interrupted: {REASONS[came[0]]}.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
