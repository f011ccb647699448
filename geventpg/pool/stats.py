"""What a pool tells about itself: frozen values, and the table of its statistics."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from geventpg.statements.stats import Kind, StatementStats, statistic, statistics_of

from .causes import EVICTIONS, RETIREMENTS, Cause

BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Upper bounds (s, inclusive) of all histograms' buckets; one more bucket has no bound."""


@dataclass(frozen=True)
class Histogram:
    """How often something took how long. Times are seconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    """The number in each bucket: one bucket for each of `bounds`, and one for all above."""
    sum: float = 0.0
    """The sum of all times."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of the buckets but the last."""
        return BOUNDS

    @property
    def count(self) -> int:
        """The number of times that were recorded."""
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """The average, ``None`` if nothing was recorded."""
        return self.sum / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Return a bound that *share* (0 to 1) of the times did not exceed.

        It is the upper bound of a bucket, so the true value is at most that; the bucket after 60 s
        has no bound, which is infinity here. ``None`` if nothing was recorded.
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


_gauge = partial(statistic, Kind.GAUGE)
_age = partial(statistic, Kind.AGE, default=0.0)
_counter = partial(statistic, Kind.COUNTER)
_histogram = partial(statistic, Kind.HISTOGRAM, default=Histogram())
_connections = partial(_gauge, metric="connections", label="state")
_failed = partial(_counter, metric="requests_failed", label="reason")


def _left(text: str, causes: tuple[Cause, ...]) -> Any:
    kind = "evicted" if causes is EVICTIONS else "retired"
    nothing = MappingProxyType({cause.value: 0 for cause in causes})
    return _counter(text, default=nothing, metric=f"connections_{kind}", label="cause")


PARTED = {
    "connections": "Connections now, by state.",
    "requests_failed": "Checkouts that failed, by reason.",
}
"""The meaning of each metric that has a label and is made of several statistics."""


@dataclass(frozen=True)
class PoolStats:
    """One pool at one instant. Counters run from its start, whatever `pop_stats` does."""

    name: str

    min_size: int = _gauge(
        "The pool's `min_size`.", key="pool_min", metric="connections_min", otel=("idle.min",)
    )
    max_size: int = _gauge(
        "The pool's `max_size`.", key="pool_max", metric="connections_max", otel=("idle.max", "max")
    )
    size: int = _gauge("All connections: the sum of the next four.", key="pool_size")
    idle: int = _connections(
        "Connections that are free.", key="pool_available", otel=("count",), state="idle"
    )
    in_use: int = _connections("Connections that are checked out.", otel=("count",), state="used")
    returning: int = _connections(
        "Connections that are being cleaned, checked or probed, and are free soon.",
        otel=("count",),
        state="used",
    )
    connecting: int = _connections("Connections that are being opened.")
    waiting: int = _gauge(
        "Greenlets that wait for a connection.",
        key="requests_waiting",
        metric="waiting",
        otel=("pending_requests",),
    )
    longest_hold: float = _age(
        "Seconds since the oldest checkout that goes on; 0 if there is none.",
        metric="longest_hold_seconds",
    )
    longest_wait: float = _age(
        "Seconds that the first waiter in line has waited; 0 if there is none.",
        metric="longest_wait_seconds",
    )

    requests: int = _counter(
        "Checkouts that were asked for.", key="requests_num", metric="requests"
    )
    queued: int = _counter(
        "Checkouts that had to wait.", key="requests_queued", metric="requests_queued"
    )
    timed_out: int = _failed(
        "Checkouts that ended with `PoolTimeout`: the pool is too small, or connections are held"
        " too long.",
        otel=("timeouts",),
    )
    shed: int = _failed("Checkouts that ended with `TooManyRequests`: `max_waiting` was reached.")
    rejected: int = _failed(
        "Checkouts that ended with `ConnectRejected`: the server refuses the credentials."
    )
    interrupted: int = _failed(
        "Checkouts whose greenlet was killed, or ended by a time-out of its own, while it waited."
    )

    created: int = _counter("Connections that were opened.", metric="connections_created")
    connect_errors: int = _counter(
        "Attempts to open a connection that failed.",
        key="connections_errors",
        metric="connect_errors",
    )
    evicted: Mapping[str, int] = _left("Connections of no more use, by cause.", EVICTIONS)
    retired: Mapping[str, int] = _left("Connections whose end was planned, by cause.", RETIREMENTS)

    healed: int = _counter(
        "Prepared statements that were gone and were executed all the same.",
        key="statements_healed",
        metric="statements_healed",
    )
    lost: int = _counter(
        "Prepared statements that were gone, and their transactions with them.",
        key="statements_lost",
        metric="statements_lost",
    )
    cancelled: int = _counter(
        "Statements that were cancelled on the server: their greenlet was interrupted, or the pool"
        " was told to.",
        metric="statements_cancelled",
    )
    leaked: int = _counter("Checkouts that were held longer than `leak_threshold`.", metric="leaks")

    statements: StatementStats = StatementStats()
    """The single statements of `Pool.execute` and the like, over shared connections."""

    wait: Histogram = _histogram(
        "From asking for a connection to having it, or to an error. A checkout that need not wait"
        " counts as 0.",
        metric="wait_seconds",
    )
    connect: Histogram = _histogram("Opening a connection.", metric="connect_seconds")
    validate: Histogram = _histogram(
        "The user's `check` on checkout, and the pool's own probes.", metric="validate_seconds"
    )
    hold: Histogram | None = _histogram(
        "From checkout to return; with `timings=True` only.",
        default=None,
        metric="hold_seconds",
    )
    statement: Histogram | None = _histogram(
        "One `execute`, or one batch, as its greenlet sees it; with `timings=True` only.",
        default=None,
        metric="statement_seconds",
    )

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain dicts, lists, numbers and strings, for JSON."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


STATISTICS = (*statistics_of(PoolStats), *statistics_of(StatementStats, within="statements."))
"""The table of all statistics of a pool."""


def _plain(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"bounds": list(BOUNDS), "counts": list(value.counts), "sum": value.sum}
    if isinstance(value, StatementStats):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


@dataclass(frozen=True)
class Holder:
    """A greenlet that has one of a pool's connections, and what it does with it."""

    pid: int
    """The server process of the connection, as in ``pg_stat_activity``; behind a pooler a number
    that the pooler made up."""
    since: float
    """When the connection was checked out (``time.time``)."""
    seconds: float
    """The time since then."""
    greenlet: str
    """The name of the greenlet that checked it out (of the thread, without gevent)."""
    task: str | None
    """The name of the Celery task, or of what `geventpg.pool.work.doing` was given."""
    task_id: str | None
    statement: str | None
    """The text of the statement that runs now, without parameters; ``None`` if none runs, or if
    the pool cannot tell which."""
    transaction: str
    """``IDLE``, ``ACTIVE`` (a statement runs), ``INTRANS``, ``INERROR``, or ``UNKNOWN`` (the
    connection is closed)."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dict, for JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Waiter:
    """A greenlet that waits for one of a pool's connections."""

    since: float
    """When it began to wait (``time.time``)."""
    seconds: float
    """The time since then."""
    remaining: float
    """Seconds until it gets `PoolTimeout`."""
    greenlet: str
    task: str | None
    task_id: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as a plain dict, for JSON."""
        return dataclasses.asdict(self)
