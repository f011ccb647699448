"""The statistics, holders and waiters of any pool: ours, or psycopg_pool's without gevent.

Our pools have methods for them (`Pool.stats`, `Pool.holders`, `Pool.waiters`). psycopg_pool's have
counters only; which of their connections `get_conn` gave out is known from the registry.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from psycopg import pq
from psycopg_pool import ConnectionPool

from geventpg.pool import lifecycle
from geventpg.pool.causes import Cause
from geventpg.pool.introspection import running_statement
from geventpg.pool.pool import Pool
from geventpg.pool.stats import STATISTICS, Holder, PoolStats, Waiter
from geventpg.pool.work import work_of_thread
from geventpg.registry import pools as registry
from geventpg.registry.held import held_of


def all_pools() -> list[ConnectionPool[Any]]:
    """Return every open pool of this process; of psycopg_pool's own pools the named ones."""
    named = [pool for pool in registry.open_pools().values() if not isinstance(pool, Pool)]
    return [*list(lifecycle.open_pools), *named]


def stats(pool: ConnectionPool[Any]) -> PoolStats:
    """Do `Pool.stats` for any pool. Does not block.

    Of psycopg_pool's own pools only the sizes and counters are known; ``timed_out`` has all failed
    requests, and ``evicted`` has one cause.
    """
    if isinstance(pool, Pool):
        return pool.stats()
    shown: Mapping[str, int] = pool.get_stats()

    def number(*keys: str) -> int:
        return sum(shown.get(key, 0) for key in keys)

    counted: dict[str, Any] = {
        one.name: shown[one.key] for one in STATISTICS if one.key is not None and one.key in shown
    }
    stats = PoolStats(pool.name, **counted)
    ages = (time.monotonic() - held.since for held in held_of(pool))
    lost = {Cause.BROKEN.value: number("connections_lost", "returns_bad")}
    return replace(
        stats,
        in_use=max(stats.size - stats.idle, 0),
        longest_hold=max(ages, default=0.0),
        timed_out=number("requests_errors"),
        created=number("connections_num") - stats.connect_errors,
        evicted=MappingProxyType({**stats.evicted, **lost}),
    )


def holders(pool: ConnectionPool[Any]) -> tuple[Holder, ...]:
    """Do `Pool.holders` for any pool; of psycopg_pool's own, what `get_conn` gave out."""
    if isinstance(pool, Pool):
        return pool.holders()
    now, clock = time.monotonic(), time.time()
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for held in sorted(held_of(pool), key=lambda h: h.since):
        pgconn = held.conn.pgconn
        if pgconn.status != pq.ConnStatus.OK:
            continue
        status = pq.TransactionStatus(pgconn.transaction_status)
        active = status == pq.TransactionStatus.ACTIVE
        task, task_id = work_of_thread(held.thread)
        found.append(
            Holder(
                pid=pgconn.backend_pid,
                since=clock - (now - held.since),
                seconds=now - held.since,
                greenlet=names.get(held.thread, "ended"),
                task=task,
                task_id=task_id,
                statement=running_statement(frames.get(held.thread)) if active else None,
                transaction=status.name,
            )
        )
    return tuple(found)


def waiters(pool: ConnectionPool[Any]) -> tuple[Waiter, ...]:
    """Do `Pool.waiters` for any pool; of psycopg_pool's own only the number is known."""
    return pool.waiters() if isinstance(pool, Pool) else ()
