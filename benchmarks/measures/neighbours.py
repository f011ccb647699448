"""What slow statements of some greenlets do to the fast ones of the others."""

from __future__ import annotations

from time import perf_counter

import gevent

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import release
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import GeventDriver
from benchmarks.workload import random_key, require

SLOW = "SELECT pg_sleep(%s)::text"
SECONDS = 0.2
ONE_IN = 50


def measure(driver: GeventDriver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    slow = job.cell.count // ONE_IN
    fast = job.cell.count - slow
    undisturbed = _p99(driver, fast, 0, job.seconds)
    disturbed = _p99(driver, fast, slow, job.seconds)
    return {"p99_ms": 1000 * disturbed, "undisturbed_p99_ms": 1000 * undisturbed}


def _p99(driver: GeventDriver, fast: int, slow: int, seconds: float) -> float:
    latencies: list[float] = []
    running, counting = True, False

    def quick_user() -> None:
        while running:
            key = random_key()
            began = perf_counter()
            require(driver.query(key), key)
            if counting:
                latencies.append(perf_counter() - began)

    def slow_user() -> None:
        while running:
            driver.sleep(SLOW, SECONDS)

    users = [gevent.spawn(slow_user) for _ in range(slow)]
    users += [gevent.spawn(quick_user) for _ in range(fast)]
    gevent.sleep(RAMP_UP)
    counting = True
    gevent.sleep(seconds)
    counting = running = False
    release(users)
    latencies.sort()
    return latencies[len(latencies) * 99 // 100]
