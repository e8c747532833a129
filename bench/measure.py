"""What a run costs: CPU seconds and memory of all processes that work for it."""

import os
import threading
from contextlib import suppress

import psutil

SAMPLE_SECONDS = 1


class Meter:
    """Measures, while it is entered, all processes below this one and those of Postgres.

    Memory is the highest sum of the processes' proportional set sizes that a sample saw: a page
    that forks share counts once. Neither figure contains this process itself.
    """

    cpu_seconds: float
    peak_mb: float = 0

    def __init__(self, postgres: psutil.Process):
        self._postgres = postgres
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self):
        self._before = self._cpu()
        self._sampler.start()
        return self

    def __exit__(self, *_):
        self.cpu_seconds = self._cpu() - self._before
        self._ended.set()
        self._sampler.join()

    def _processes(self) -> list[psutil.Process]:
        servers = [self._postgres, *self._postgres.children()]
        return [*psutil.Process().children(recursive=True), *servers]

    def _cpu(self) -> float:
        # The times of a process that has ended are with the one that waited for it.
        own = os.times()
        total = own.children_user + own.children_system
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def _sample(self) -> None:
        while True:
            total = 0
            for process in self._processes():
                # Of a process that has ended but was not yet waited for, it may not be read.
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_full_info().pss
            self.peak_mb = max(self.peak_mb, total / 2**20)
            if self._ended.wait(SAMPLE_SECONDS):
                return
