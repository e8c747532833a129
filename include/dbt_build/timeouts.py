"""Airflow's timeout, its SIGTERM and a lost lock end dbt as Ctrl-C does.

dbt then cancels its statements.

Airflow's own exception would let dbt wait for its threads, and so for the statement that hangs.
The statement of a process that is killed runs on in the database.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowException

REASONS = {
    signal.SIGALRM: "its execution_timeout has passed",
    signal.SIGTERM: "Airflow ended it, because its run was ended or it was cleared",
    signal.SIGUSR1: "another build took the lock of the schema while the connection was lost",
}


def interrupt_dbt() -> None:
    """Interrupt dbt from another thread, because the lock of the schema is lost.

    Nothing happens while dbt does not run: the signal would end the process.
    """
    if signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
        os.kill(os.getpid(), signal.SIGUSR1)


class DbtInterruptedError(AirflowException):
    """Airflow ended dbt."""


class _Output:
    """An output stream that can be muted."""

    def __init__(self, stream):
        self.stream, self.is_muted = stream, False

    def write(self, text: str) -> int:
        return len(text) if self.is_muted else self.stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self.stream, name)


@contextmanager
def interruptible(end_subprocess: Callable[[], None]) -> Iterator[None]:
    """Let these signals interrupt dbt until the block ends.

    Raises:
        DbtInterruptedError: one of the signals came.
    """
    received = []
    output = _Output(sys.stdout)

    def interrupt(number, _):
        # A second signal must not disturb dbt while it cancels its statements.
        if not received:
            received.append(number)
            # dbt would log the traceback of the KeyboardInterrupt.
            output.is_muted = True
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in REASONS}
    sys.stdout = output
    try:
        yield
    except BaseException:
        if not received:
            raise
        end_subprocess()
        raise DbtInterruptedError(f"dbt was interrupted: {REASONS[received[0]]}.") from None
    finally:
        sys.stdout = output.stream
        for number, handler in before.items():
            signal.signal(number, handler)
