"""A queue played through, use by use: what the formulas are held against."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Played:
    """What was seen."""

    waits: list[float]
    seconds: float

    @property
    def mean_wait(self) -> float:
        return sum(self.waits) / len(self.waits)

    @property
    def waiting_share(self) -> float:
        return sum(wait > 0 for wait in self.waits) / len(self.waits)

    @property
    def throughput(self) -> float:
        return len(self.waits) / self.seconds

    def percentile(self, share: float) -> float:
        return sorted(self.waits)[int(share * len(self.waits))]


def play_sources(
    rng: random.Random, *, sources: int, servers: int, service: float, think: float, uses: int
) -> Played:
    """Let *sources* greenlets use *servers* connections; leave out the first tenth."""
    arrivals = [rng.expovariate(1 / think) for _ in range(sources)]
    heapq.heapify(arrivals)
    free = [0.0] * servers  # when each connection is given back
    waits: list[float] = []
    skipped, begin, now = uses // 10, 0.0, 0.0
    for number in range(uses):
        # First come, first served: the next task gets the connection that is free first.
        now = heapq.heappop(arrivals)
        start = max(now, heapq.heappop(free))
        end = start + rng.expovariate(1 / service)
        heapq.heappush(free, end)
        heapq.heappush(arrivals, end + rng.expovariate(1 / think))
        if number == skipped:
            begin = now
        if number >= skipped:
            waits.append(start - now)
    return Played(waits, now - begin)


def play_arrivals(
    rng: random.Random, *, rate: float, servers: int, service: float, uses: int
) -> Played:
    """Let uses begin at *rate*, whatever happens; leave out the first tenth."""
    free = [0.0] * servers
    waits: list[float] = []
    skipped, begin, now = uses // 10, 0.0, 0.0
    for number in range(uses):
        now += rng.expovariate(rate)
        start = max(now, heapq.heappop(free))
        heapq.heappush(free, start + rng.expovariate(1 / service))
        if number == skipped:
            begin = now
        if number >= skipped:
            waits.append(start - now)
    return Played(waits, now - begin)
