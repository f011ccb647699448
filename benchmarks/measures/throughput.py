"""Queries per second and client CPU per query: N greenlets share the pool's connections."""

from __future__ import annotations

from time import perf_counter

import gevent

from benchmarks.job import Job, Sample
from benchmarks.measures.parking import release
from benchmarks.measures.rates import RAMP_UP, Reading, rates
from benchmarks.measures.warmup import warm
from benchmarks.peers.base import GeventDriver
from benchmarks.usage import cpu_seconds
from benchmarks.workload import random_key, require


def measure(driver: GeventDriver, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    counts = [0] * job.cell.count
    running = True

    def user(number: int) -> None:
        query = driver.query
        while running:
            key = random_key()
            require(query(key), key)
            counts[number] += 1

    def read() -> Reading:
        return Reading(perf_counter(), cpu_seconds(), tuple(counts))

    users = [gevent.spawn(user, number) for number in range(job.cell.count)]
    gevent.sleep(RAMP_UP)
    before = read()
    gevent.sleep(job.seconds)
    after = read()
    running = False
    release(users)
    return rates(before, after)
