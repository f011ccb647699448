"""What a pool counts and measures, besides what psycopg_pool's statistics have."""

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
        self.counts = _no_counts()
        self.sum = 0.0

    def record(self, seconds: float) -> None:
        """Add one that took *seconds*."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    def snapshot(self) -> Histogram:
        """Return it as it is."""
        return Histogram(tuple(self.counts), self.sum)


def _no_counts() -> list[int]:
    return [0] * (len(BOUNDS) + 1)


class Tally:
    """The counters of one pool; nothing here is ever set back."""

    __slots__ = (
        "at_once_errors",
        "cancelled",
        "connect",
        "holds",
        "interrupted",
        "leaked",
        "left",
        "rejected",
        "shed",
        "statement",
        "timed_out",
        "validate",
        "waits",
    )

    def __init__(self) -> None:
        self.at_once_errors = 0
        """Checkouts that failed without having waited."""
        self.cancelled = self.interrupted = self.leaked = self.rejected = 0
        self.shed = self.timed_out = 0
        self.left: Counter[Cause] = Counter()
        """Connections that left the pool."""
        # Of the next two the pool has the sums, and fills them without a call.
        self.waits = _no_counts()
        self.holds: list[int] | None = None
        self.connect, self.validate = Recorder(), Recorder()
        self.statement: Recorder | None = None

    def start_timing(self) -> None:
        """Have something to record holding and statements in, if it is not there already."""
        if self.holds is None:
            self.holds, self.statement = _no_counts(), Recorder()

    def wait_failed(self, error: BaseException) -> None:
        """Count a checkout that ended with *error* while it waited."""
        if isinstance(error, ConnectRejected):
            self.rejected += 1
        elif isinstance(error, PoolTimeout):
            self.timed_out += 1
        elif not isinstance(error, PoolClosed):
            self.interrupted += 1
