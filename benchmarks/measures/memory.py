"""Bytes of client memory per idle connection, the driver's buffers and caches included."""

from __future__ import annotations

from benchmarks.job import Job, Sample
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import PoolDriver
from benchmarks.usage import resident_bytes


def measure(driver: PoolDriver, job: Job) -> Sample:
    def grown_to(connections: int) -> int:
        driver.open(job.conninfo, connections, job.cell.autocommit)
        warm(driver, connections)
        return resident_bytes()

    with_one = grown_to(1)  # all that exists once per process exists now
    driver.close()
    with_many = grown_to(job.cell.count)
    return {"connection_bytes": (with_many - with_one) / (job.cell.count - 1)}
