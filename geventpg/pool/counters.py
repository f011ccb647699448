"""What a pool counts and measures from its start on. Nothing here is ever set back."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from geventpg.errors import ConnectRejected, PoolClosed, PoolTimeout

from .causes import Cause
from .stats import BOUNDS, Histogram


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

    def by_name(self) -> dict[str, int]:
        """Return what ``get_stats()`` has of them, by the names it uses."""
        return {
            "requests_num": self.requests,
            "requests_queued": self.queued,
            "requests_wait_ms": int(1000 * self.wait.sum),
            "requests_errors": self.request_errors,
            "usage_ms": int(1000 * self.usage_seconds),
            "returns_bad": self.returns_bad,
            "connections_num": self.connect_attempts,
            "connections_ms": int(1000 * self.connect.sum),
            "connections_errors": self.connect_errors,
            "connections_lost": self.connections_lost,
            "statements_healed": self.healed,
            "statements_lost": self.lost,
        }
