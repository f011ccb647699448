"""How long the hub stood still, and how much of that the machine is to blame for."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import time
from typing import NamedTuple

import gevent
from greenlet import GreenletExit

_INTERVAL = 0.001
_WORTH_KEEPING = 0.002


class Stall(NamedTuple):
    """The hub did not run this greenlet from *since* to *until*, though it was due.

    *machine* of these seconds the process was ready to run and the machine ran something else.
    """

    since: float
    until: float
    machine: float

    @property
    def ours(self) -> float:
        return self.until - self.since - self.machine


class HubTicker:
    """A greenlet that wants to run every millisecond and notes when it could not.

    Linux counts for each thread how long it waited for a processor (the second number of
    ``schedstat``): that part of a stall is the machine's, the rest is of code that held the hub.
    What a hypervisor takes is not in that number. It shows when no thread slept (each sleep is a
    voluntary context switch) except the hub in its poll: then the code that held the hub was
    computing, and what is longer than our thread's own time on a processor is the machine's too.
    Where there is no such file everything counts as ours. What exists already is put out of the
    garbage collector's sight meanwhile: a full collection of all that a test runner has loaded
    takes 50 ms and more, and says nothing about the pool.
    """

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self._source: int | None = None
        self._sleeps_in_poll = 0
        self._sleeps_before_poll: int | None = None
        loop = gevent.get_hub().loop
        # The last thing before the poll and the first one after it.
        self._watchers = (
            (loop.prepare(priority=loop.MINPRI), self._before_poll),
            (loop.check(priority=loop.MAXPRI), self._after_poll),
        )

    def __enter__(self) -> HubTicker:
        with contextlib.suppress(OSError):
            self._source = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        gc.collect()
        gc.freeze()
        for watcher, callback in self._watchers:
            watcher.start(callback)
        self._greenlet = gevent.spawn(self._run)
        gevent.sleep(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gevent.sleep(2 * _INTERVAL)  # a stall that lasts until now counts
        self._greenlet.kill()
        for watcher, _ in self._watchers:
            watcher.close()
        if self._source is not None:
            os.close(self._source)
        gc.unfreeze()

    def forget(self) -> None:
        """Drop the stalls until now, the one that is under way included."""
        gevent.sleep(2 * _INTERVAL)
        self.stalls.clear()

    @property
    def longest(self) -> float:
        """The longest time (s) that code of this process held the hub."""
        return max((stall.ours for stall in self.stalls), default=0.0)

    def machine_between(self, since: float, until: float) -> float:
        """Return how long (s) the machine kept the hub from running in that time."""
        return sum(
            stall.machine for stall in self.stalls if stall.since < until and stall.until > since
        )

    def any_between(self, since: float, until: float) -> float:
        """Return how long (s) the hub did not run in that time, for whatever reason."""
        return sum(
            min(stall.until, until) - max(stall.since, since)
            for stall in self.stalls
            if stall.since < until and stall.until > since
        )

    def _run(self) -> None:
        with contextlib.suppress(GreenletExit):
            waited, computed, slept = self._counters()
            while True:
                due = time.monotonic() + _INTERVAL
                gevent.sleep(_INTERVAL)
                now, before = time.monotonic(), (waited, computed, slept)
                waited, computed, slept = self._counters()
                if now - due > _WORTH_KEEPING:
                    machine = waited - before[0]
                    if self._source is not None and slept == before[2]:
                        machine = max(machine, now - due - (computed - before[1]))
                    self.stalls.append(Stall(due, now, min(machine, now - due)))

    def _counters(self) -> tuple[float, float, int]:
        """How long (s) this thread has waited for a processor and had one; its other sleeps."""
        waited = 0.0
        if self._source is not None:
            waited = int(os.pread(self._source, 100, 0).split()[1]) / 1e9
        return waited, time.thread_time(), _sleeps() - self._sleeps_in_poll

    def _before_poll(self) -> None:
        self._sleeps_before_poll = _sleeps()

    def _after_poll(self) -> None:
        if self._sleeps_before_poll is not None:  # else it began in the middle of a round
            self._sleeps_in_poll += _sleeps() - self._sleeps_before_poll


def _sleeps() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
