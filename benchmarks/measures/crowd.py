"""Single statements of many greenlets against those of a few of them, in turns, in one process.

The server is at work all the time either way, so the rates are nearly the same, and what the
machine does for a second makes a greater difference. So the turns are short, and the greenlets
stay the same: in a turn of the few the others wait.
"""

from __future__ import annotations

from functools import partial

import gevent
from gevent.event import Event

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import release
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.turns import Turn, compare, watch
from benchmarks.measures.warmup import warm
from benchmarks.peers.geventpg_statements import Driver
from benchmarks.workload import random_key, require

FEW = 100

SETTLED = 0.02
"""Seconds after which the users are at work, or waiting, as they are to be."""

TURN = 0.05


class Crowd:
    """Users: all of them are at work, or only the first."""

    def __init__(self, driver: Driver, number: int) -> None:
        self._query = driver.query
        self._all_at_work = False  # as the gate is: asking it takes long beside a statement
        self._gate = Event()
        self._done = 0
        self._running = True
        self._users = [gevent.spawn(self._user, is_one_of_few=n < FEW) for n in range(number)]

    def _user(self, *, is_one_of_few: bool) -> None:
        while self._running:
            if not (is_one_of_few or self._all_at_work):
                self._gate.wait()
            key = random_key()
            require(self._query(key), key)
            self._done += 1

    def turn(self, *, everybody: bool) -> Turn:
        self._all_at_work = everybody
        if everybody:
            self._gate.set()
        else:
            self._gate.clear()
        gevent.sleep(SETTLED)
        return watch(lambda: self._done, TURN)

    def go(self) -> None:
        self._running = False
        self._gate.set()
        release(self._users)


def measure(driver: Driver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    crowd = Crowd(driver, job.cell.count)
    gevent.sleep(RAMP_UP)
    many, few = (partial(crowd.turn, everybody=everybody) for everybody in (True, False))
    rate, cpu = compare(many, few, 4 * max(round(job.seconds / TURN), 4))
    crowd.go()
    return {"times_few": rate, "cpu_times_few": cpu}
