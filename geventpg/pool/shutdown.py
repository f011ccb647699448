"""Cutting off the users of a pool: for a shutdown that does not wait for running work."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.interruption import cancel_quietly

from .core import Core

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection


def cancel_statements(core: Core, timeout: float) -> int:
    """Cancel what runs on checked-out connections; see `Pool.cancel_statements`."""
    active = _active(core)
    _cancel(active, timeout)
    return len(active)


def cut_off(core: Core, deadline: float, *, wake: bool) -> None:
    """Close every connection that is still used, of a pool that is closed; see `Pool.abort`."""
    active = _active(core)
    try:
        for conn in active:
            conn.watch.stop()  # the greenlet is to see the end, not the cancelling
        _cancel(active, max(deadline - monotonic(), 0.0))
    finally:
        for slot in core.bag:
            slot.conn.discard(wake=wake)


def _active(core: Core) -> list[Connection[Any]]:
    conns = [slot.conn for slot in core.bag.out.values()]
    return [c for c in conns if c.pgconn.transaction_status == TransactionStatus.ACTIVE]


def _cancel(conns: list[Connection[Any]], timeout: float) -> None:
    for conn in conns:
        conn.observer.cancelling(conn)
    gevent.joinall([hub.spawn(cancel_quietly, c, timeout) for c in conns], timeout=timeout)
