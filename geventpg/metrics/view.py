"""What named pools tell, whatever they are: ours, or psycopg_pool's where gevent does not run.

Ours is asked (`Pool.stats`, `Pool.holders`, `Pool.waiters`). psycopg_pool's has counters only, and
what `get_conn` gave out is known here.
"""

from __future__ import annotations

import sys
import threading
import time
from types import MappingProxyType
from typing import Any

from psycopg import pq
from psycopg_pool import ConnectionPool

from geventpg.pool import lifecycle
from geventpg.pool.causes import EVICTIONS, RETIREMENTS, Cause
from geventpg.pool.introspection import running_statement
from geventpg.pool.pool import Pool
from geventpg.pool.stats import Histogram, Holder, PoolStats, Waiter
from geventpg.pool.work import work_of_thread
from geventpg.registry import held as binding
from geventpg.registry import pools as registry
from geventpg.statements.stats import StatementStats


def all_pools() -> list[ConnectionPool[Any]]:
    """Return every open pool of this process, and psycopg_pool's own if they are named ones."""
    named = [pool for pool in registry.open_pools().values() if not isinstance(pool, Pool)]
    return [*list(lifecycle.open_pools), *named]


def stats(pool: ConnectionPool[Any]) -> PoolStats:
    """Do `Pool.stats` for any pool. Does not block.

    Of psycopg_pool's own only the sizes and counters are known; ``timed_out`` are all failed
    requests, and ``evicted`` has one cause.
    """
    if isinstance(pool, Pool):
        return pool.stats()
    shown = pool.get_stats()

    def number(*keys: str) -> int:
        return sum(shown.get(key, 0) for key in keys)

    size, idle = number("pool_size"), number("pool_available")
    lost = {Cause.BROKEN: number("connections_lost", "returns_bad")}
    return PoolStats(
        name=pool.name,
        min_size=pool.min_size,
        max_size=pool.max_size,
        size=size,
        idle=idle,
        in_use=max(size - idle, 0),
        returning=0,
        connecting=0,
        longest_hold=max((time.monotonic() - h.since for h in binding.held_of(pool)), default=0.0),
        longest_wait=0.0,
        waiting=number("requests_waiting"),
        requests=number("requests_num"),
        queued=number("requests_queued"),
        timed_out=number("requests_errors"),
        shed=0,
        rejected=0,
        interrupted=0,
        created=number("connections_num") - number("connections_errors"),
        connect_errors=number("connections_errors"),
        evicted=MappingProxyType({cause.value: lost.get(cause, 0) for cause in EVICTIONS}),
        retired=MappingProxyType({cause.value: 0 for cause in RETIREMENTS}),
        healed=0,
        lost=0,
        cancelled=0,
        leaked=0,
        statements=StatementStats(),
        wait=Histogram(),
        connect=Histogram(),
        validate=Histogram(),
        hold=None,
        statement=None,
    )


def holders(pool: ConnectionPool[Any]) -> tuple[Holder, ...]:
    """Do `Pool.holders` for any pool; of psycopg_pool's own, what `get_conn` gave out."""
    if isinstance(pool, Pool):
        return pool.holders()
    now, clock = time.monotonic(), time.time()
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    found = []
    for held in sorted(binding.held_of(pool), key=lambda h: h.since):
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
