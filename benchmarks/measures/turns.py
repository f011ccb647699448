"""Two ways in one process, in turns: what differs by less than any two processes do."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import gevent

from benchmarks.measures.parking import release
from benchmarks.usage import cpu_seconds
from benchmarks.workload import random_key, require


class Turn(NamedTuple):
    """What users got done in a while."""

    rate: float
    """Queries per second."""
    cpu: float
    """CPU seconds per query."""


SETTLED = 0.03
"""Seconds after which all users are at work."""


def turn(query: Callable[[int], Any], number: int, seconds: float) -> Turn:
    """Let *number* users query for some time, with neither their coming nor their going."""
    done = 0
    running = True

    def user() -> None:
        nonlocal done
        while running:
            key = random_key()
            require(query(key), key)
            done += 1

    users = [gevent.spawn(user) for _ in range(number)]
    gevent.sleep(SETTLED)
    result = watch(lambda: done, seconds)
    running = False
    release(users)
    return result


def watch(done: Callable[[], int], seconds: float) -> Turn:
    """Sleep, and return what users got done meanwhile, by the number of their queries."""
    before, clock, cpu = done(), perf_counter(), cpu_seconds()
    gevent.sleep(seconds)
    queries = done() - before
    return Turn(queries / (perf_counter() - clock), (cpu_seconds() - cpu) / queries)


def compare(one: Callable[[], Turn], other: Callable[[], Turn], number: int) -> tuple[float, float]:
    """Return one's rate and CPU divided by the other's: medians of *number* pairs of turns."""
    rates, cpu = [], []
    for turn_number in range(number):
        if turn_number % 2:
            mine, its = one(), other()
        else:
            its, mine = other(), one()
        rates.append(mine.rate / its.rate)
        cpu.append(mine.cpu / its.cpu)
    return median(rates), median(cpu)
