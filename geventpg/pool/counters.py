"""What a pool counts and measures from its start on. Nothing here is ever set back."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from geventpg.errors import ConnectRejected, PoolClosed, PoolTimeout
from geventpg.statements.stats import Kind, statistics_of

from .causes import EVICTIONS, RETIREMENTS, Cause
from .stats import BOUNDS, Histogram, PoolStats


class Recorder:
    """A histogram that is being filled. Recording takes a few hundred nanoseconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """The number of times in each bucket."""
        self.sum = 0.0

    def record(self, seconds: float) -> None:
        """Add one that took *seconds*."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def snapshot(self) -> Histogram:
        """Return it as it is."""
        return Histogram(tuple(self.counts), self.sum)


class Counters:
    """The counters of one pool, and the histograms that it fills."""

    __slots__ = (
        "at_once_errors",
        "cancelled",
        "connect",
        "connect_attempts",
        "connect_errors",
        "connections_lost",
        "healed",
        "hold",
        "interrupted",
        "leaked",
        "left",
        "lost",
        "queued",
        "rejected",
        "request_errors",
        "requests",
        "returns_bad",
        "shed",
        "statement",
        "timed_out",
        "usage_seconds",
        "validate",
        "wait",
    )

    def __init__(self) -> None:
        self.requests = self.queued = 0
        """Checkouts that were asked for, and those of them that had to wait."""
        self.request_errors = 0
        """Checkouts that failed, and single statements that got no connection."""
        self.at_once_errors = 0
        """Checkouts that failed without having waited."""
        self.timed_out = self.shed = self.rejected = self.interrupted = 0
        self.connect_attempts = self.connect_errors = 0
        self.connections_lost = self.returns_bad = 0
        """Idle connections found lost, and connections that were returned closed."""
        self.left: Counter[Cause] = Counter()
        """Connections that left the pool."""
        self.healed = self.lost = self.cancelled = self.leaked = 0
        self.usage_seconds = 0.0
        """The time from checkout to return of all checkouts together."""
        self.wait = Recorder()
        """Those that waited only."""
        self.connect, self.validate = Recorder(), Recorder()
        self.hold: list[int] | None = None
        """The histogram of the times from checkout to return; its sum is `usage_seconds`."""
        self.statement: Recorder | None = None

    def start_timing(self) -> None:
        """Have something to record holding and statements in, if it is not there already."""
        if self.hold is None:
            self.hold, self.statement = Recorder().counts, Recorder()

    def failed_at_once(self) -> None:
        """Count a checkout that failed without having waited."""
        self.request_errors += 1
        self.at_once_errors += 1

    def failed_waiting(self, error: BaseException) -> None:
        """Count a checkout that ended with *error* while it waited."""
        self.request_errors += 1
        if isinstance(error, ConnectRejected):
            self.rejected += 1
        elif isinstance(error, PoolTimeout):
            self.timed_out += 1
        elif not isinstance(error, PoolClosed):
            self.interrupted += 1

    @property
    def created(self) -> int:
        """Connections that were opened."""
        return sum(self.connect.counts)

    @property
    def evicted(self) -> Mapping[str, int]:
        """Connections of no more use, by cause."""
        return MappingProxyType({cause.value: self.left[cause] for cause in EVICTIONS})

    @property
    def retired(self) -> Mapping[str, int]:
        """Connections whose end was planned, by cause."""
        return MappingProxyType({cause.value: self.left[cause] for cause in RETIREMENTS})

    def counted(self) -> dict[str, Any]:
        """Return the counters of `PoolStats`, by the names that they have there."""
        return {name: getattr(self, name) for name in _COUNTED}

    def of_psycopg_pool(self) -> dict[str, int]:
        """Return the counters that psycopg_pool's ``get_stats()`` has and `PoolStats` has not."""
        return {
            "requests_wait_ms": int(1000 * self.wait.sum),
            "requests_errors": self.request_errors,
            "usage_ms": int(1000 * self.usage_seconds),
            "returns_bad": self.returns_bad,
            "connections_num": self.connect_attempts,
            "connections_ms": int(1000 * self.connect.sum),
            "connections_lost": self.connections_lost,
        }


_COUNTED = tuple(one.name for one in statistics_of(PoolStats) if one.kind is Kind.COUNTER)
