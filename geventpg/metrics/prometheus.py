"""A Prometheus collector of this process's pools, and a way to serve it (extra ``prometheus``).

Labels are the pool's name and a word of a closed list: a state, a cause, a reason. Nothing that
comes from a connection string, a statement or an error is ever in a metric.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

from gevent import socket
from gevent.pywsgi import WSGIServer
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    make_wsgi_app,
    start_http_server,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from psycopg_pool import ConnectionPool

from geventpg import hub
from geventpg.pool.stats import Histogram, PoolStats

from .view import all_pools, stats

logger = logging.getLogger("geventpg")

Read = Callable[[PoolStats], Any]


@dataclass(frozen=True)
class _Family:
    """One metric: its name, what it says, where its numbers are."""

    name: str
    text: str
    read: Read
    label: str | None = None
    """The label besides the pool, of which *read* returns a mapping."""


def _states(s: PoolStats) -> dict[str, int]:
    return {
        "idle": s.idle,
        "in_use": s.in_use,
        "returning": s.returning,
        "connecting": s.connecting,
    }


def _failures(s: PoolStats) -> dict[str, int]:
    return {
        "timed_out": s.timed_out,
        "shed": s.shed,
        "rejected": s.rejected,
        "interrupted": s.interrupted,
    }


_GAUGES = (
    _Family("geventpg_connections", "Connections now, by state.", _states, "state"),
    _Family("geventpg_connections_min", "The pool's min_size.", lambda s: s.min_size),
    _Family("geventpg_connections_max", "The pool's max_size.", lambda s: s.max_size),
    _Family("geventpg_waiting", "Who waits for a connection now.", lambda s: s.waiting),
    _Family(
        "geventpg_longest_hold_seconds",
        "Age of the longest checkout that goes on.",
        lambda s: s.longest_hold,
    ),
    _Family(
        "geventpg_longest_wait_seconds",
        "For how long the first in line has been waiting.",
        lambda s: s.longest_wait,
    ),
    _Family(
        "geventpg_statements_outstanding",
        "Single statements sent and not answered, now.",
        lambda s: s.statements.outstanding,
    ),
    _Family(
        "geventpg_statements_waiting",
        "Single statements not sent yet, now.",
        lambda s: s.statements.waiting,
    ),
)

_COUNTERS = (
    _Family("geventpg_requests", "Checkouts that were asked for.", lambda s: s.requests),
    _Family("geventpg_requests_queued", "Checkouts that had to wait.", lambda s: s.queued),
    _Family("geventpg_requests_failed", "Checkouts that failed, by reason.", _failures, "reason"),
    _Family("geventpg_connections_created", "Connections opened.", lambda s: s.created),
    _Family(
        "geventpg_connect_errors",
        "Attempts to open a connection that failed.",
        lambda s: s.connect_errors,
    ),
    _Family(
        "geventpg_connections_evicted",
        "Connections of no more use, by cause.",
        lambda s: s.evicted,
        "cause",
    ),
    _Family(
        "geventpg_connections_retired",
        "Connections whose end was planned, by cause.",
        lambda s: s.retired,
        "cause",
    ),
    _Family(
        "geventpg_statements_healed",
        "Prepared statements that were gone and were executed all the same.",
        lambda s: s.healed,
    ),
    _Family(
        "geventpg_statements_lost",
        "Prepared statements that were gone, and their transactions with them.",
        lambda s: s.lost,
    ),
    _Family(
        "geventpg_statements_cancelled",
        "Statements cancelled on the server.",
        lambda s: s.cancelled,
    ),
    _Family(
        "geventpg_statements_sent",
        "Single statements sent over shared connections.",
        lambda s: s.statements.sent,
    ),
    _Family(
        "geventpg_statements_batches",
        "Portions in which they were sent, each one write to the network.",
        lambda s: s.statements.batches,
    ),
    _Family(
        "geventpg_statements_spilled",
        "Single statements that were given a connection of their own instead.",
        lambda s: s.statements.spilled,
    ),
    _Family("geventpg_leaks", "Checkouts held longer than leak_threshold.", lambda s: s.leaked),
)

_HISTOGRAMS = (
    _Family("geventpg_wait_seconds", "Waiting for a connection.", lambda s: s.wait),
    _Family("geventpg_connect_seconds", "Opening a connection.", lambda s: s.connect),
    _Family("geventpg_validate_seconds", "Checks and probes.", lambda s: s.validate),
    _Family("geventpg_hold_seconds", "From checkout to return (timings).", lambda s: s.hold),
    _Family("geventpg_statement_seconds", "Statements (timings).", lambda s: s.statement),
)


class PoolCollector(Collector):
    """Collects what pools tell, when somebody scrapes: between scrapes it costs nothing.

    ``REGISTRY.register(PoolCollector())``, or `serve`, which does it. *pools*: those to tell of;
    without it all that are open in this process at the time. Several pools of one name are added
    up. The histograms of holding and of statements are there for pools with ``timings=True``.
    """

    __module__ = "geventpg.metrics"

    def __init__(self, pools: Iterable[ConnectionPool[Any]] | None = None) -> None:
        self._pools = None if pools is None else WeakSet(pools)

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without any values: their names."""
        return self._families(())

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. Does not block or talk to a server."""
        pools = all_pools() if self._pools is None else list(self._pools)
        return self._families([stats(pool) for pool in pools])

    def _families(self, shown: Sequence[PoolStats]) -> Iterator[Metric]:
        by_name: dict[str, list[PoolStats]] = {}
        for one in shown:
            by_name.setdefault(one.name, []).append(one)
        for family in _GAUGES:
            yield _filled(GaugeMetricFamily, family, by_name)
        for family in _COUNTERS:
            yield _filled(CounterMetricFamily, family, by_name)
        for family in _HISTOGRAMS:
            yield _histogram(family, by_name)


def _filled(cls: type[Any], family: _Family, pools: dict[str, list[PoolStats]]) -> Metric:
    labels = ["pool"] if family.label is None else ["pool", family.label]
    metric: Any = cls(family.name, family.text, labels=labels)
    of_ages = family.name.startswith("geventpg_longest")
    for name, same in pools.items():
        values = [family.read(one) for one in same]
        if family.label is None:
            metric.add_metric([name], max(values) if of_ages else sum(values))
        else:
            for word in values[0]:
                metric.add_metric([name, word], sum(value[word] for value in values))
    return metric  # type: ignore[no-any-return]


def _histogram(family: _Family, pools: dict[str, list[PoolStats]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.text, labels=["pool"])
    for name, same in pools.items():
        measured = [value for one in same if (value := family.read(one)) is not None]
        if measured:
            total: Histogram = sum(measured[1:], measured[0])
            metric.add_metric([name], _buckets(total), total.sum)
    return metric


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    seen, buckets = 0, []
    for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
        seen += count
        buckets.append((bound, float(seen)))
    return buckets


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Add a `PoolCollector` of all pools to *registry*, once. Does not block."""
    if registry not in _registered:
        registry.register(PoolCollector())
        _registered.add(registry)


_registered: WeakSet[CollectorRegistry] = WeakSet()


class MetricsServer:
    """Answers ``GET /metrics``; made by `serve`."""

    def __init__(self, host: str, port: int, stop: Callable[[], None]) -> None:
        self.host = host
        self.port = port
        self._stop = stop

    def close(self) -> None:
        """Stop answering and free the port. Idempotent."""
        self._stop()

    def __repr__(self) -> str:
        return f"<MetricsServer http://{self.host}:{self.port}/metrics>"


def serve(
    port: int | Iterable[int],
    host: str = "127.0.0.1",
    *,
    registry: CollectorRegistry = REGISTRY,
) -> MetricsServer:
    """Serve *registry*, with the pools of this process, at ``http://host:port/metrics``.

    Does not block: under gevent a greenlet answers, elsewhere a thread. *port* 0 takes a free
    one; of several the first that is free, so that each process of a host has its own. Call it in
    the process whose pools are to be seen, after forks. Raise ``OSError`` if the port, or all of
    them, are taken.
    """
    register(registry)
    failure: OSError = OSError("no port was given")
    for candidate in [port] if isinstance(port, int) else port:
        try:
            return _serve(candidate, host, registry)
        except OSError as error:
            failure = error
    raise failure


def _serve(port: int, host: str, registry: CollectorRegistry) -> MetricsServer:
    if hub.in_use():
        # gevent's own server: nothing of it can block the hub, whatever is patched.
        application = make_wsgi_app(registry)
        server = WSGIServer(_listen(host, port), application, log=None, error_log=logger)
        server.start()
        return MetricsServer(host, server.server_port, lambda: server.stop(timeout=0))
    httpd, thread = start_http_server(port, host, registry)

    def stop() -> None:
        httpd.shutdown()
        httpd.server_close()
        thread.join()

    return MetricsServer(host, httpd.server_port, stop)


def _listen(host: str, port: int) -> Any:
    # By gevent's server it would be left open if the port is taken.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    return listener
