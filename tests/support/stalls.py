"""How long the hub stood still, and how much of that the machine is to blame for."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from typing import NamedTuple

import gevent
from greenlet import GreenletExit

_INTERVAL = 0.001
_WORTH_KEEPING = 0.002


class Stall(NamedTuple):
    """The hub did not run this greenlet from *since* to *until*, though it was due.

    *machine* of these seconds the process was ready to run and the kernel ran something else.
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
    ``schedstat``): that part of a stall is the machine's, the rest is somebody's who held the hub.
    Where there is no such file everything counts as ours. What exists already is put out of the
    garbage collector's sight meanwhile: a full collection of all that a test runner has loaded
    takes 50 ms and more, and says nothing about the pool.
    """

    def __init__(self) -> None:
        self.stalls: list[Stall] = []
        self._source: int | None = None

    def __enter__(self) -> HubTicker:
        with contextlib.suppress(OSError):
            self._source = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        gc.collect()
        gc.freeze()
        self._greenlet = gevent.spawn(self._run)
        gevent.sleep(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gevent.sleep(2 * _INTERVAL)  # a stall that lasts until now counts
        self._greenlet.kill()
        if self._source is not None:
            os.close(self._source)
        gc.unfreeze()

    @property
    def longest(self) -> float:
        """The longest time (s) that somebody of this process held the hub."""
        return max((stall.ours for stall in self.stalls), default=0.0)

    def machine_between(self, since: float, until: float) -> float:
        """Return how long (s) the machine kept the hub from running in that time."""
        return sum(
            stall.machine for stall in self.stalls if stall.since < until and stall.until > since
        )

    def any_between(self, since: float, until: float) -> float:
        """Return how long (s) the hub did not run in that time, whoever is to blame."""
        return sum(
            min(stall.until, until) - max(stall.since, since)
            for stall in self.stalls
            if stall.since < until and stall.until > since
        )

    def _run(self) -> None:
        with contextlib.suppress(GreenletExit):
            waited = self._waited()
            while True:
                due = time.monotonic() + _INTERVAL
                gevent.sleep(_INTERVAL)
                now, waited_before, waited = time.monotonic(), waited, self._waited()
                if now - due > _WORTH_KEEPING:
                    machine = min(waited - waited_before, now - due)
                    self.stalls.append(Stall(due, now, machine))

    def _waited(self) -> float:
        if self._source is None:
            return 0.0
        return int(os.pread(self._source, 100, 0).split()[1]) / 1e9
