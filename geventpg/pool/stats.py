"""What a pool tells about itself: frozen values, no behaviour."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geventpg.statements.stats import StatementStats

BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds (s, inclusive) of all histograms' buckets; one more bucket has no bound."""


@dataclass(frozen=True)
class Histogram:
    """How long something took, how often. Times are seconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """How many fell into each bucket: one for each of `bounds`, and one for all above."""
    sum: float = 0.0
    """All of them together."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of the buckets but the last."""
        return BOUNDS

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The average, ``None`` if there was nothing."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return a bound that *share* (0 to 1) of them did not exceed, ``None`` if none came.

        It is the upper bound of a bucket, so the truth is at most that: 60 s is followed by
        infinity.
        """
        total = self.count
        if not total:
            return None
        seen = 0
        for bound, count in zip((*BOUNDS, math.inf), self.counts, strict=True):
            seen += count
            if count and seen >= share * total:
                return bound
        return math.inf

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Histogram(counts, self.sum + other.sum)


@dataclass(frozen=True)
class PoolStats:
    """One pool at one instant. Counters run from its start, whatever `pop_stats` does."""

    name: str
    min_size: int
    max_size: int

    size: int
    """Connections there are, or are being opened: the sum of the next four."""
    idle: int
    in_use: int
    returning: int
    """Being cleaned, checked or probed: they will be available soon."""
    connecting: int
    waiting: int
    """Who waits for a connection now."""

    longest_hold: float
    """Age (s) of the longest checkout that goes on, 0 if there is none."""
    longest_wait: float
    """For how long (s) the first in line has been waiting, 0 if nobody does."""

    requests: int
    """Checkouts that were asked for."""
    queued: int
    """Those of them that had to wait."""
    timed_out: int
    """Those that failed with `PoolTimeout`."""
    shed: int
    """Those that failed with `TooManyRequests`."""
    rejected: int
    """Those that failed with `ConnectRejected`."""
    interrupted: int
    """Those whose greenlet was killed, or timed out by somebody else, while it waited."""

    created: int
    """Connections that were opened."""
    connect_errors: int
    """Attempts to open one that failed."""
    evicted: Mapping[str, int]
    """Connections of no more use, by cause; every cause is a key."""
    retired: Mapping[str, int]
    """Connections whose end was planned, by cause; every cause is a key."""

    healed: int
    """Prepared statements that were gone and were executed all the same."""
    lost: int
    """Prepared statements that were gone and took their transaction along."""
    cancelled: int
    """Statements that were cancelled on the server, because their greenlet was interrupted or
    the pool was told to."""
    leaked: int
    """Checkouts that were held longer than ``leak_threshold``."""

    statements: StatementStats
    """The single statements of `Pool.execute` and the like, over shared connections."""

    wait: Histogram
    """From asking for a connection to having it, or to an error. Those that had not to wait
    are in the first bucket."""
    connect: Histogram
    """Opening a connection."""
    validate: Histogram
    """The user's ``check`` on checkout, and the pool's own probes."""
    hold: Histogram | None
    """From checkout to return; ``None`` if ``timings`` was never on."""
    statement: Histogram | None
    """Statements, as their greenlet saw them; ``None`` if ``timings`` was never on."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dicts, lists, numbers and strings, for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"bounds": list(BOUNDS), "counts": list(value.counts), "sum": value.sum}
    if isinstance(value, StatementStats):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Holder:
    """Who has one of a pool's connections."""

    pid: int
    """The server process behind the connection, as in ``pg_stat_activity``; behind a pooler a
    number of the pooler's."""
    since: float
    """When it was checked out (``time.time``)."""
    seconds: float
    """For how long it has been held."""
    greenlet: str
    """The name of the greenlet that took it (of the thread, without gevent)."""
    task: str | None
    """The name of the Celery task, or of what `geventpg.pool.work.doing` was given."""
    task_id: str | None
    statement: str | None
    """The text of the statement that runs now, without parameters; ``None`` if none does, or
    if it cannot be told."""
    transaction: str
    """``IDLE``, ``ACTIVE`` (a statement runs), ``INTRANS``, ``INERROR``, or ``UNKNOWN``: it is
    closed."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dict, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Waiter:
    """Who waits for one of a pool's connections."""

    since: float
    """When it began to wait (``time.time``)."""
    seconds: float
    """For how long it has been waiting."""
    remaining: float
    """Seconds until it gets `PoolTimeout`."""
    greenlet: str
    task: str | None
    task_id: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dict, for JSON."""
        return dataclasses.asdict(self)
