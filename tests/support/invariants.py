"""The invariants that hold after every test (the design's section 3), and the pools to check.

To extend: ``check_invariants`` gets every pool that the test opened, ``check_server`` the server.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from geventpg.testing.postgres import Backend

_SETTLING_TIME = 2.0


def check_invariants(pool: Any) -> list[str]:
    """Return what is wrong with *pool* now that its test is over; nothing if all is well."""
    stats = pool.get_stats()
    problems = []
    if stats["pool_size"] > pool.max_size:
        problems.append(f"pool_size {stats['pool_size']} is over max_size {pool.max_size}")
    if stats.get("requests_waiting", 0) != 0:
        problems.append(f"{stats['requests_waiting']} requests still wait")
    if stats.get("pool_available", 0) > stats["pool_size"]:
        problems.append(f"{stats['pool_available']} available of {stats['pool_size']}")
    return [f"{problem}: {pool!r}" for problem in problems]


def check_server(backends: Callable[[], list[Backend]]) -> list[str]:
    """Return which of the test's backends are still at work, after some time to settle."""
    deadline = time.monotonic() + _SETTLING_TIME
    while True:
        busy = [backend for backend in backends() if backend.state == "active"]
        if not busy or time.monotonic() >= deadline:
            return [f"backend {b.pid} is still active with {b.query!r}" for b in busy]
        time.sleep(0.02)


class PoolTracker:
    """Remembers every ``geventpg.Pool`` made while it is active, without keeping it alive."""

    def __init__(self) -> None:
        self._pools: list[weakref.ref[Any]] = []

    @property
    def pools(self) -> list[Any]:
        """Return those that still exist."""
        return [pool for ref in self._pools if (pool := ref()) is not None]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        # Not imported here: a test that does not use the engine does not load it either.
        pool_class = getattr(sys.modules.get("geventpg"), "Pool", None)
        if pool_class is None:
            yield
            return
        original = pool_class.__init__

        @functools.wraps(original)
        def tracking_init(pool: Any, *args: Any, **kwargs: Any) -> None:
            # First, because a pool that fails to start has invariants too.
            self._pools.append(weakref.ref(pool))
            original(pool, *args, **kwargs)

        pool_class.__init__ = tracking_init
        try:
            yield
        finally:
            pool_class.__init__ = original

    def check(self) -> list[str]:
        """Check every pool, then close those that the test has left open."""
        problems = []
        for pool in self.pools:
            try:
                problems += check_invariants(pool)
                if not pool.closed:
                    pool.close(timeout=_SETTLING_TIME)
            except AttributeError:
                continue  # its constructor raised, it never was a pool
        return problems
