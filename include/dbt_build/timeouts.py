"""Ends dbt as Ctrl-C does, on Airflow's timeout, on its SIGTERM, and when the lock is lost.

dbt then cancels its statements. With Airflow's own exception dbt would wait for its threads, and so
for a statement that hangs. If the process were killed, the database would continue the statement.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REASONS = {
    signal.SIGALRM: "the execution_timeout of the task has passed",
    signal.SIGTERM: "Airflow ended the task, because its run was ended, the task was cleared, or "
    "its worker was stopped",
    signal.SIGUSR1: "another task took the lock of the schema while the connection was lost",
}


def interrupt_dbt() -> None:
    """Interrupt dbt from another thread, because the lock of the schema is lost.

    Nothing happens while dbt does not run, because the signal would then end the process.
    """
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGUSR1)


class DbtInterruptedError(Exception):
    """A signal interrupted dbt."""


@contextmanager
def interruptible(on_interrupt: Callable[[], None]) -> Iterator[None]:
    """Let the signals in REASONS interrupt dbt until the block ends.

    Args:
        on_interrupt: called before dbt begins to cancel its statements.

    Raises:
        DbtInterruptedError: one of the signals was received.
    """
    received = []

    def interrupt(number, _):
        # A second signal must not disturb dbt while it cancels its statements.
        if not received:
            received.append(number)
            on_interrupt()
            # dbt would log a traceback. With an external dbt this module is not imported.
            if events := sys.modules.get("dbt_common.events.event_manager_client"):
                events.get_event_manager().loggers.clear()
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in REASONS}
    try:
        yield
    except BaseException as error:
        if not received:
            raise
        # The frames of dbt have semaphores, which Python would log as leaked.
        while error:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        raise DbtInterruptedError(f"dbt was interrupted: {REASONS[received[0]]}.") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
