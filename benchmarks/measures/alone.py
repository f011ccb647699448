"""One greenlet: single statements against checkouts with the same query, in turns, in one process.

It waits for the network, the server and two wake-ups nearly all the time, in both ways. What the
ways differ by is less than what two processes differ by, or the same process within a second.
"""

from __future__ import annotations

from functools import partial

from benchmarks.job import Job, Sample
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.turns import compare, turn
from benchmarks.measures.warmup import warm
from benchmarks.peers.geventpg_statements import Driver

TURN = 1.0
"""Seconds."""


def measure(driver: Driver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    ways = driver.query, driver.query_on_checkout
    for way in ways:
        turn(way, job.cell.count, RAMP_UP)
    statement, checkout = (partial(turn, way, job.cell.count, TURN) for way in ways)
    rate, cpu = compare(statement, checkout, max(round(10 * job.seconds), 4))
    return {"times_checkout": rate, "cpu_times_checkout": cpu}
