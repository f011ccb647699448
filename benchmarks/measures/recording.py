"""What it costs to measure everything: one pool with and without, in turns, in one process.

The difference is smaller than that between any two processes, or two pools of one process.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.job import Job, Sample
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.turns import turn
from benchmarks.measures.warmup import warm

TURN = 0.1
"""Seconds. Long enough for a thousand queries, and short against what neighbours do."""


def measure(driver: Any, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    turn(driver.query, job.cell.count, RAMP_UP)
    rates, cpu = [], []
    for number in range(4 * max(int(job.seconds / TURN), 4)):
        turns = {}
        for timings in (True, False) if number % 2 else (False, True):
            driver.pool.timings = timings
            turns[timings] = turn(driver.query, job.cell.count, TURN)
        rates.append(turns[True].rate / turns[False].rate)
        cpu.append(turns[True].cpu / turns[False].cpu)
    return {"times_without": median(rates), "cpu_times_without": median(cpu)}
