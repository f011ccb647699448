"""CPU of a process whose greenlets all wait: some for slow statements, the others in the line."""

from __future__ import annotations

from time import perf_counter

import gevent

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import release
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import PoolDriver
from benchmarks.usage import cpu_seconds

SLOW = "SELECT pg_sleep(1)"
SETTLE = 1.2
LEAST_SECONDS = 3.0


def measure(driver: PoolDriver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    running = True

    def user() -> None:
        while running:
            with driver.connection() as conn:
                if running:
                    driver.execute(conn, SLOW)

    users = [gevent.spawn(user) for _ in range(job.cell.count)]
    gevent.sleep(SETTLE)
    clock, cpu = perf_counter(), cpu_seconds()
    gevent.sleep(max(job.seconds, LEAST_SECONDS))
    percent = (cpu_seconds() - cpu) / (perf_counter() - clock) * 100
    running = False
    release(users)
    return {"cpu_percent": percent}
