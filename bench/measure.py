"""What a run costs: CPU seconds and memory of all processes that work for it."""

import os
from contextlib import suppress
from threading import Event, Thread

import psutil


class Meter:
    """Measures, while it is entered, all processes below this one and those of Postgres.

    Memory is the highest sum of the processes' proportional set sizes: a page that processes share
    counts once. It is read rarely, because 30 processes take 0.1 s of CPU time. Neither figure
    contains this process itself.
    """

    def __init__(self, postgres: psutil.Process):
        self.peak_mb = 0.0
        self._postgres = postgres
        self._ended = Event()
        self._sampler = Thread(target=self._sample, daemon=True)

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
        # The times of a process that has ended are added to those of its parent.
        own = os.times()
        total = own.children_user + own.children_system
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:4])
        return total

    def _sample(self) -> None:
        # The first sample is early, so that it is taken while a short run works.
        seconds = 2
        while not self._ended.wait(seconds):
            seconds = 10
            total = 0
            for process in self._processes():
                # The memory of a process that has ended can't be read.
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_full_info().pss
            self.peak_mb = max(self.peak_mb, total / 2**20)
