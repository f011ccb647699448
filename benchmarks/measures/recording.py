"""What it costs to measure everything: one pool with and without, in turns, in one process.

The difference is smaller than that between any two processes, or two pools of one process.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import gevent

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import release
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.warmup import warm
from benchmarks.usage import cpu_seconds
from benchmarks.workload import random_key, require

TURN = 0.1
"""Seconds. Long enough for a thousand queries, and short against what neighbours do."""


def measure(driver: Any, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    _turn(driver, job.cell.count, RAMP_UP)
    rates, cpu = [], []
    for number in range(4 * max(int(job.seconds / TURN), 4)):
        turns = {}
        for timings in (True, False) if number % 2 else (False, True):
            driver.pool.timings = timings
            turns[timings] = _turn(driver, job.cell.count, TURN)
        rates.append(turns[True][0] / turns[False][0])
        cpu.append(turns[True][1] / turns[False][1])
    return {"times_without": median(rates), "cpu_times_without": median(cpu)}


def _turn(driver: Any, number: int, seconds: float) -> tuple[float, float]:
    """Let users query for some time; return queries per second, and CPU seconds per query."""
    done = 0
    running = True

    def user() -> None:
        nonlocal done
        query = driver.query
        while running:
            key = random_key()
            require(query(key), key)
            done += 1

    began, cpu = perf_counter(), cpu_seconds()
    users = [gevent.spawn(user) for _ in range(number)]
    gevent.sleep(seconds)
    running = False
    release(users)
    return done / (perf_counter() - began), (cpu_seconds() - cpu) / done
