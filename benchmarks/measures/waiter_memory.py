"""Bytes that a waiter adds to its greenlet.

So many greenlets are parked on a plain gevent event first, then as many in the pool's line, all
in the same process and none freed in between: the difference is what waiting in the pool costs.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import park, release
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import PoolDriver
from benchmarks.usage import resident_bytes

FIRST_FEW = 100


def measure(driver: PoolDriver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    getconn, putconn = driver.getconn, driver.putconn
    over = Event()
    parked: list[gevent.Greenlet] = []

    def wait_for_event() -> None:
        over.wait()

    def wait_for_connection() -> None:
        putconn(getconn())

    def bytes_each(count: int, wait: Callable[[], None]) -> float:
        before = resident_bytes()
        parked.extend(park(count, wait))
        return (resident_bytes() - before) / count

    held = [getconn() for _ in range(job.connections)]
    bytes_each(FIRST_FEW, wait_for_event)  # what exists once per process must not count
    bytes_each(FIRST_FEW, wait_for_connection)
    on_event = bytes_each(job.cell.count, wait_for_event)
    on_pool = bytes_each(job.cell.count, wait_for_connection)

    over.set()
    for conn in held:
        putconn(conn)
    release(parked)
    return {"greenlet_bytes": on_event, "waiter_bytes": on_pool - on_event}
