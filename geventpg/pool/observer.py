"""What connections report to their pool: prepared statements that were gone, cancellations.

Both sides are held weakly: a pool that nobody closed can be collected, and a connection.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from geventpg.connection.prepared import forget_stale

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pool import Pool


def attach(pool: Pool[Any], conn: Connection[Any]) -> None:
    """Have *conn* report to *pool*, and measured if somebody wants that."""
    of_pool, of_conn = weakref.ref(pool), weakref.ref(conn)
    conn.on_stale = _spare_others(of_pool)
    conn.on_lost = _count_lost(of_pool, of_conn)
    conn.on_cancelled = _count_cancelled(of_pool, of_conn)
    conn.meter = pool._meter


def detach(conn: Connection[Any]) -> None:
    """Have *conn* report to nobody."""
    conn.on_stale = conn.on_lost = conn.on_cancelled = conn.meter = None


def _spare_others(reference: weakref.ref[Pool[Any]]) -> Callable[[bytes], None]:
    def on_stale(query: bytes) -> None:
        # A table changed. One has met it: the other connections need not.
        pool = reference()
        if pool is not None:
            for slot in pool._bag:
                forget_stale(slot.conn, query)

    return on_stale


def _count_lost(
    reference: weakref.ref[Pool[Any]], conn_reference: weakref.ref[Connection[Any]]
) -> Callable[[bool], None]:
    def on_lost(healed: bool) -> None:
        pool = reference()
        if pool is not None:
            pool._stats[pool._STATEMENTS_HEALED if healed else pool._STATEMENTS_LOST] += 1
            pool._listeners.tell("healed" if healed else "lost", conn_reference())

    return on_lost


def _count_cancelled(
    reference: weakref.ref[Pool[Any]], conn_reference: weakref.ref[Connection[Any]]
) -> Callable[[], None]:
    def on_cancelled() -> None:
        pool = reference()
        if pool is not None:
            pool._tally.cancelled += 1
            pool._listeners.tell("cancelled", conn_reference())

    return on_cancelled
