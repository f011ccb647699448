"""What it costs to measure everything: one pool with and without, in turns, in one process.

The difference is smaller than that between any two processes, or two pools of one process.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.job import Job, Sample
from benchmarks.measures.rates import RAMP_UP
from benchmarks.measures.turns import Turn, compare, turn
from benchmarks.measures.warmup import warm

TURN = 0.1
"""Seconds. Long enough for a thousand queries, and short against what neighbours do."""


def measure(driver: Any, job: Job) -> Sample:
    driver.open(job.conninfo, job.connections, job.cell.autocommit)
    warm(driver, job.connections)
    turn(driver.query, job.cell.count, RAMP_UP)

    def with_timings(timings: bool) -> Turn:
        driver.pool.timings = timings
        return turn(driver.query, job.cell.count, TURN)

    number = 4 * max(int(job.seconds / TURN), 4)
    rate, cpu = compare(partial(with_timings, True), partial(with_timings, False), number)
    return {"times_without": rate, "cpu_times_without": cpu}
