"""Cutting off those who use a pool: for a shutdown that does not wait for running work."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.interruption import cancel_quietly

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pool import Pool


def cancel_statements(pool: Pool[Any], timeout: float) -> int:
    """Cancel what runs on checked-out connections; see `Pool.cancel_statements`."""
    active = _active(pool)
    _cancel(active, timeout)
    return len(active)


def abort(pool: Pool[Any], timeout: float, *, wake: bool) -> None:
    """Close *pool* and every connection that is still used; see `Pool.abort`."""
    deadline = monotonic() + timeout
    pool.close(timeout=timeout / 2)
    active = _active(pool)
    try:
        for conn in active:
            conn.watch.stop()  # the greenlet is to see the end, not the cancelling
        _cancel(active, max(deadline - monotonic(), 0.0))
    finally:
        for slot in pool._bag:
            slot.conn.discard(wake=wake)


def _active(pool: Pool[Any]) -> list[Connection[Any]]:
    conns = [slot.conn for slot in pool._out.values()]
    return [c for c in conns if c.pgconn.transaction_status == TransactionStatus.ACTIVE]


def _cancel(conns: list[Connection[Any]], timeout: float) -> None:
    for conn in conns:
        conn.observer.cancelling(conn)
    gevent.joinall([hub.spawn(cancel_quietly, c, timeout) for c in conns], timeout=timeout)
