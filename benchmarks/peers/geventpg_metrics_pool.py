"""geventpg with everything measured that Prometheus can be told, and a scrape each second."""

from __future__ import annotations

from functools import partial
from typing import Any

import gevent
from prometheus_client import CollectorRegistry, generate_latest

import geventpg
from benchmarks.peers.psycopg_pools import PsycopgPoolDriver
from geventpg.metrics.prometheus import register


def _scrape() -> None:
    registry = CollectorRegistry()
    register(registry)
    while True:
        gevent.sleep(1.0)
        generate_latest(registry)


class Driver(PsycopgPoolDriver):
    pool_class: Any = partial(geventpg.Pool, timings=True)

    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        super().open(conninfo, connections, autocommit)
        self._scraper = gevent.spawn(_scrape)

    def close(self) -> None:
        self._scraper.kill()
        super().close()
