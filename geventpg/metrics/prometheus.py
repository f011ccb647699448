"""A Prometheus collector of this process's pools, and a way to serve it (extra ``prometheus``).

Labels are the pool's name and a word of a closed list: a state, a cause, a reason. Nothing that
comes from a connection string, a statement or an error is ever in a metric.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from geventpg.pool.stats import PARTED, STATISTICS, Histogram, PoolStats
from geventpg.statements.stats import Kind, Statistic

from .view import all_pools, stats

logger = logging.getLogger("geventpg")

PREFIX = "geventpg_"

_CLASSES: dict[Kind, type[Any]] = {
    Kind.GAUGE: GaugeMetricFamily,
    Kind.AGE: GaugeMetricFamily,
    Kind.COUNTER: CounterMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
}


def families() -> dict[str, list[Statistic]]:
    """Return the statistics of each metric, by its name without `PREFIX`."""
    found: dict[str, list[Statistic]] = {}
    for one in STATISTICS:
        if one.metric is not None:
            found.setdefault(one.metric, []).append(one)
    return found


def describe(metric: str, parts: Sequence[Statistic]) -> str:
    """Return the meaning of a metric that is made of *parts*."""
    return PARTED.get(metric) or parts[0].text


class PoolCollector(Collector):
    """Collects the statistics of pools at each scrape; between scrapes it costs nothing.

    Use it with ``REGISTRY.register(PoolCollector())``, or call `serve`, which does that. It shows
    *pools*; without them, all pools that are open in this process at the time. Several pools of one
    name are added up. The histograms of holding and of statements are there for pools with
    ``timings=True``.
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
        for metric, parts in families().items():
            labels = ["pool", *filter(None, [parts[0].label])]
            cls, text = _CLASSES[parts[0].kind], describe(metric, parts).replace("`", "")
            family = cls(PREFIX + metric, text, labels=labels)
            for name, same in by_name.items():
                for part in parts:
                    _add(family, name, part, [part.of(one) for one in same])
            yield family


def _add(family: Any, pool: str, part: Statistic, values: list[Any]) -> None:
    """Add *values*, those of the pools of one name, as one sample."""
    if part.kind is Kind.HISTOGRAM:
        measured = [value for value in values if value is not None]
        if measured:
            total: Histogram = sum(measured[1:], measured[0])
            family.add_metric([pool], _buckets(total), total.sum)
    elif part.kind is Kind.AGE:
        family.add_metric([pool], max(values))
    elif isinstance(values[0], Mapping):
        for word in values[0]:
            family.add_metric([pool, word], sum(value[word] for value in values))
    else:
        family.add_metric([pool, part.name] if part.label else [pool], sum(values))


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
    """A server that answers ``GET /metrics``; `serve` makes it."""

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

    Does not block: under gevent a greenlet answers, elsewhere a thread. With *port* 0 the system
    chooses a port. Of several ports the server takes the first that is free, so that each process
    of a host has its own. Call this in the process whose pools you want to see, after forks. Raise
    ``OSError`` if no port is free.
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
        # gevent's own server never blocks the hub, whatever is patched.
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
    # gevent's server would leave its socket open if the port is taken.
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
