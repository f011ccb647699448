"""The invariants that hold after every test (the design's section 3), and the pools to check.

To extend: ``check_invariants`` gets every pool that the test opened, ``check_server`` the server.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from geventpg.testing.postgres import Backend
from tests.support.pools import counts, give_back

_SETTLING_TIME = 2.0
_ACQUIRE_TIMEOUT = 5.0


def check_counts(pool: Any) -> list[str]:
    """Return which of the counts that *pool* shows at this instant cannot be."""
    now, stats = counts(pool), pool.get_stats()
    problems = []
    if now.size > now.max_size and not pool.closed:
        problems.append(f"size {now.size} is over max_size {now.max_size}")
    if now.idle + now.in_use + now.connecting > now.size:
        problems.append("idle + in use + connecting is more than size")
    if min(now) < 0:
        problems.append("a count is negative")
    shown = stats["pool_size"], stats["pool_available"], stats["requests_waiting"]
    if shown != (now.size, now.idle, now.waiting):
        problems.append(f"get_stats() has size, idle, waiting = {shown}")
    return [f"{problem}: {pool!r}" for problem in problems]


def check_invariants(pool: Any) -> list[str]:
    """Return what is wrong with *pool* now that its test is over; nothing if all is well.

    A test whose pool cannot serve at its end, because a callback always fails for instance,
    closes it.
    """
    problems = check_counts(pool)
    deadline = time.monotonic() + _SETTLING_TIME
    while counts(pool).waiting and time.monotonic() < deadline:
        time.sleep(0.005)
    if counts(pool).waiting:
        problems.append(f"a greenlet still waits: {pool!r}")
    elif not pool.closed and _server_answers(pool):
        problems += check_every_slot(pool)
    return problems


def check_every_slot(pool: Any) -> list[str]:
    """Check out ``max_size`` connections of *pool* at once, use and return them."""
    taken: list[Any] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # an implicit open
            while len(taken) < pool.max_size:
                taken.append(pool.getconn(timeout=_ACQUIRE_TIMEOUT))
                taken[-1].execute("SELECT 1")
                taken[-1].rollback()
        problems = check_counts(pool)
    except psycopg.InterfaceError:
        return []  # it belongs to another thread
    except Exception as error:
        return [f"{len(taken)} of {pool.max_size} slots are usable: {error}: {pool!r}"]
    finally:
        give_back(pool, taken)
    return problems


def _server_answers(pool: Any) -> bool:
    """Return whether *pool*'s own parameters would get a connection now."""
    try:
        conninfo = pool.conninfo() if callable(pool.conninfo) else pool.conninfo
        options = pool.kwargs() if callable(pool.kwargs) else pool.kwargs
        psycopg.connect(conninfo, **{**(options or {}), "connect_timeout": 2}).close()
    except Exception:
        return False
    return True


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
