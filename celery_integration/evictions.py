"""A Celery event when connections of a worker's pool are lost, one for each burst.

A server that restarts ends all connections at once, and twenty events would say no more than one.
The event is one of the worker's own, like its heartbeats: it is sent with ``-E``, and also unless
gossip and heartbeats are off. Only geventpg's own pools tell of evictions, so there are no such
events under prefork, threads and solo.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import gevent

from geventpg import Pool
from geventpg.pool.events import Event

logger = logging.getLogger("celery.worker.geventpg")

TYPE = "worker-geventpg-evicted"
"""The event's type. Fields: ``pool``, ``count``, ``causes`` (a dict of numbers), ``seconds``."""

BURST = 1.0
"""Seconds from the first lost connection to the event, which counts all until then."""


class EvictionEvents:
    """Counts the lost connections of one worker's pools, and sends the events."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._bursts: dict[str, Counter[str]] = {}

    def watch(self, pool: Any) -> None:
        """Watch *pool* too, if it is one of geventpg's. Does not block."""
        if isinstance(pool, Pool):
            pool.add_listener(self._note, "evicted")

    def _note(self, event: Event) -> None:
        # This may be in the hub, so another greenlet talks to the broker.
        burst = self._bursts.get(event.pool)
        if burst is None:
            burst = self._bursts[event.pool] = Counter()
            gevent.spawn_later(BURST, self._send, event.pool)
        burst[event.cause or "unknown"] += 1

    def _send(self, pool: str) -> None:
        causes = self._bursts.pop(pool)
        dispatcher = getattr(self._worker.consumer, "event_dispatcher", None)
        if dispatcher is None or not dispatcher.enabled:
            return
        try:
            dispatcher.send(
                TYPE, pool=pool, count=causes.total(), causes=dict(causes), seconds=BURST
            )
        except Exception as error:
            # The broker may be unreachable for the same reason as the server.
            logger.warning("geventpg: no event of %s lost connections: %s", causes.total(), error)
