"""The commands of remote control, as one process executes them on its pools.

Their answers are plain values, as they travel through the broker. With gevent the commands are
called in the pools' own thread; without gevent any thread may call them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from psycopg_pool import ConnectionPool

from geventpg import Pool
from geventpg.metrics import view as registry_view
from geventpg.pool.options import check_sizes
from geventpg.pool.stats import PoolStats
from geventpg.registry import pools as registry
from geventpg.sql.text import shortened
from geventpg.statements.stats import statistics_of

MOST = 50
"""Maximum of holders, and of waiters, in the answer for each pool: the longest ones. The counts
are complete."""

LENGTH = 300
"""Maximum of characters of a statement in the answer."""


def describe() -> dict[str, Any]:
    """Return this process's pools with their statistics, holders and waiters. Does not block."""
    pools = sorted(registry.open_pools().items())
    return {"pid": os.getpid(), "pools": [_describe(name, pool) for name, pool in pools]}


def resize(min_size: int, max_size: int | None = None, pool: str = "default") -> dict[str, Any]:
    """Do `Pool.resize` for the open pool *pool*; return the sizes. Raise `OptionError`."""
    max_size = min_size if max_size is None else max_size
    check_sizes(min_size, max_size)
    _change(pool, lambda opened: opened.resize(min_size, max_size))
    return {"pid": os.getpid(), "min_size": min_size, "max_size": max_size}


def drain(pool: str = "default") -> dict[str, Any]:
    """Do `Pool.drain` for the open pool *pool*; return the number of connections it replaces."""
    sizes = _change(pool, lambda opened: opened.drain())
    return {"pid": os.getpid(), "connections": sizes}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "describe": describe,
    "resize": resize,
    "drain": drain,
}


def _change(name: str, change: Callable[[ConnectionPool[Any]], object]) -> int:
    pool = registry.open_pools().get(name)
    if pool is None:
        known = ", ".join(sorted(registry.open_pools())) or "none"
        raise LookupError(f"no pool {name!r} is open in process {os.getpid()} (open: {known})")
    if isinstance(pool, Pool):
        pool.check_hub()
    size = int(pool.get_stats()["pool_size"])
    change(pool)
    return size


def _describe(name: str, pool: ConnectionPool[Any]) -> dict[str, Any]:
    stats = registry_view.stats(pool)
    counters = pool.get_stats()
    return {
        "pool": name,
        "engine": "geventpg" if isinstance(pool, Pool) else "psycopg_pool",
        **{
            one.name: value
            for one in statistics_of(PoolStats)
            if isinstance(value := one.of(stats), int | float)
        },
        "evicted": sum(stats.evicted.values()),
        "wait_ms": counters.get("requests_wait_ms", 0),
        "held_ms": counters.get("usage_ms", 0),
        "holders": _first(holder.as_dict() for holder in registry_view.holders(pool)),
        "waiters": _first(waiter.as_dict() for waiter in registry_view.waiters(pool)),
    }


def _first(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = []
    for entry in list(entries)[:MOST]:
        statement = entry.get("statement")
        if statement is not None:
            entry["statement"] = shortened(statement, LENGTH)
        shown.append(entry)
    return shown
