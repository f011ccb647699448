"""One greenlet checks out and returns: what the pool itself costs without competition."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

from benchmarks.job import Job, Sample
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import PoolDriver

BLOCK = 1_000


def measure(driver: PoolDriver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    getconn, putconn, connection = driver.getconn, driver.putconn, driver.connection

    def bare() -> None:
        for _ in range(BLOCK):
            putconn(getconn())

    def block() -> None:
        for _ in range(BLOCK):
            with connection():
                pass

    return {
        "getconn_ns": nanoseconds_per_cycle(bare, job.seconds / 2),
        "with_ns": nanoseconds_per_cycle(block, job.seconds / 2),
    }


def nanoseconds_per_cycle(cycles: Callable[[], None], seconds: float) -> float:
    """The median over many short blocks: other users of the machine disturb few of them."""
    cycles()
    blocks = []
    end = perf_counter() + seconds
    while (start := perf_counter()) < end:
        cycles()
        blocks.append(perf_counter() - start)
    return median(blocks) / BLOCK * 1e9
