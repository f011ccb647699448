"""How long one waits for a connection: the two classical formulas. Pure computation.

`ErlangC` is the queue M/M/c: tasks come at random from a population without end. `FiniteSource`
is M/M/c//N, the machine repairman model: N greenlets each use a connection, do something else,
and come back. The second is a worker with a fixed concurrency: a greenlet that waits asks for
nothing else meanwhile, so the queue is bounded, where Erlang's grows without end. Both assume
exponentially distributed times, first come, first served, which is what the pool does.

Sources: L. Kleinrock, Queueing Systems I (1975), sections 3.5 and 3.8; for what an arriving
greenlet finds, the arrival theorem of Sevcik and Mitrani (1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

_NEGLIGIBLE = -45.0
"""A probability below e to this power changes no digit that is shown."""


class Queue(Protocol):
    """What both models tell. Times in seconds."""

    @property
    def servers(self) -> int:
        """How many connections there are."""

    @property
    def throughput(self) -> float:
        """How many uses begin, and end, each second."""

    @property
    def waiting_share(self) -> float:
        """Which share of the uses has to wait at all."""

    @property
    def mean_wait(self) -> float:
        """The mean over all uses, those that do not wait included; infinite if it never ends."""

    @property
    def busy(self) -> float:
        """How many connections are in use, on average."""

    def waits_longer(self, seconds: float) -> float:
        """Return the share of uses that wait longer than *seconds*."""


@dataclass(frozen=True)
class ErlangC:
    """M/M/c: *rate* uses begin each second, whatever happens; each takes *service* seconds."""

    servers: int
    rate: float
    service: float

    @property
    def offered(self) -> float:
        """The load in Erlang: how many connections the uses would keep busy."""
        return self.rate * self.service

    @property
    def throughput(self) -> float:
        """See `Queue`; with too few connections, what they can do."""
        return min(self.rate, self.servers / self.service)

    @property
    def busy(self) -> float:
        """See `Queue`."""
        return min(self.offered, float(self.servers))

    @cached_property
    def waiting_share(self) -> float:
        """See `Queue`: Erlang's C formula, by way of the recursion for the B formula."""
        load = self.offered
        if load >= self.servers:
            return 1.0
        blocked = 1.0
        for servers in range(1, self.servers + 1):
            blocked = load * blocked / (servers + load * blocked)
        return blocked / (1 - load / self.servers * (1 - blocked))

    @property
    def mean_wait(self) -> float:
        """See `Queue`."""
        if self.offered >= self.servers:
            return math.inf
        return self.waiting_share * self.service / (self.servers - self.offered)

    def waits_longer(self, seconds: float) -> float:
        """See `Queue`."""
        if self.offered >= self.servers:
            return 1.0
        return self.waiting_share * math.exp(
            -(self.servers - self.offered) * seconds / self.service
        )


@dataclass(frozen=True)
class FiniteSource:
    """M/M/c//N: each of *sources* greenlets uses a connection for *service* seconds.

    In between it does something else for *think* seconds. Both are means.
    """

    servers: int
    sources: int
    service: float
    think: float

    @cached_property
    def _found(self) -> dict[int, float]:
        # What an arrival finds is what one source less would leave behind.
        return _states(self.sources - 1, self.servers, self.service, self.think)

    @cached_property
    def _mean_present(self) -> float:
        states = _states(self.sources, self.servers, self.service, self.think)
        return sum(present * share for present, share in states.items())

    @cached_property
    def throughput(self) -> float:
        """See `Queue`."""
        if self.sources <= self.servers:
            return self.sources / (self.service + self.think)
        states = _states(self.sources, self.servers, self.service, self.think)
        busy = sum(min(present, self.servers) * share for present, share in states.items())
        return busy / self.service

    @property
    def busy(self) -> float:
        """See `Queue`."""
        return self.throughput * self.service

    @property
    def waiting_share(self) -> float:
        """See `Queue`."""
        return sum(share for present, share in self._found.items() if present >= self.servers)

    @property
    def mean_wait(self) -> float:
        """See `Queue`: by Little's law."""
        if self.sources <= self.servers:
            return 0.0
        return max(self._mean_present / self.throughput - self.service, 0.0)

    def waits_longer(self, seconds: float) -> float:
        """See `Queue`: a task that finds n present waits until n - c + 1 of them are gone."""
        ends = self.servers * seconds / self.service
        waiting = {n: share for n, share in self._found.items() if n >= self.servers}
        first = min(waiting, default=0) - self.servers
        at_most = poisson_at_most(first - 1, ends) if first > 0 else 0.0
        total = 0.0
        for present, share in waiting.items():  # in ascending order, without gaps
            at_most += poisson(present - self.servers, ends)
            total += share * at_most
        return min(total, 1.0)


def percentile(queue: Queue, share: float) -> float:
    """Return the seconds within which *share* of the uses have their connection."""
    if queue.waits_longer(0.0) <= 1 - share:
        return 0.0
    if math.isinf(queue.mean_wait):
        return math.inf
    low, high = 0.0, max(queue.mean_wait, 1e-9)
    while queue.waits_longer(high) > 1 - share:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        if queue.waits_longer(middle) > 1 - share:
            low = middle
        else:
            high = middle
    return high


def poisson(count: int, mean: float) -> float:
    """Return the probability of exactly *count* events where *mean* are expected."""
    if mean == 0:
        return 1.0 if count == 0 else 0.0
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def poisson_at_most(count: int, mean: float) -> float:
    """Return the probability of at most *count* events where *mean* are expected."""
    if mean == 0:
        return 1.0
    # Around the mean only: what is further away is negligible and would underflow.
    first = max(0, int(mean - 14 * math.sqrt(mean) - 50))
    if first > count:
        return 0.0
    if count > mean + 14 * math.sqrt(mean) + 50:
        return 1.0
    term = poisson(first, mean)
    total = term
    for number in range(first + 1, count + 1):
        term *= mean / number
        total += term
    return min(total, 1.0)


def _states(sources: int, servers: int, service: float, think: float) -> dict[int, float]:
    """Return how probable each number of greenlets with or waiting for a connection is."""
    if think == 0:
        return {sources: 1.0}  # no task ever does anything else
    ratio = math.log(service / think)
    weight, best, weights = 0.0, 0.0, [0.0]
    for present in range(1, sources + 1):
        # From present - 1: one of the others comes, against one of those that are served leaves.
        weight += ratio + math.log((sources - present + 1) / min(present, servers))
        weights.append(weight)
        best = max(best, weight)
    kept = {n: math.exp(w - best) for n, w in enumerate(weights) if w - best > _NEGLIGIBLE}
    total = math.fsum(kept.values())
    return {present: share / total for present, share in kept.items()}
