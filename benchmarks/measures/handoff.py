"""A checkout that has to queue: how much it costs with a number of others waiting.

The pool has one connection, and one greenlet more than ``count`` wants it. Each checks out,
returns, lets the others run and queues again, so that ``count`` wait at any time until the end.
The figure contains that one ``gevent.sleep(0)``, alike for all peers: without it, a pool that lets
the greenlet which returns a connection jump the line would never hand anything on.
"""

from __future__ import annotations

from time import perf_counter

import gevent

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import park, release
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import PoolDriver

HANDOFFS = 40_000
FEWEST_ROUNDS = 8


def measure(driver: PoolDriver, job: Job) -> Sample:
    driver.open(job.conninfo, 1, job.cell.autocommit)
    warm(driver, 1)
    getconn, putconn = driver.getconn, driver.putconn
    users_in_all = job.cell.count + 1
    rounds = max(FEWEST_ROUNDS, HANDOFFS // users_in_all)

    def user() -> None:
        for _ in range(rounds):
            putconn(getconn())
            gevent.sleep(0)

    held = getconn()
    users = park(users_in_all, user)
    start = perf_counter()
    putconn(held)
    release(users)
    elapsed = perf_counter() - start
    return {"handoff_ns": elapsed / (users_in_all * rounds) * 1e9}
