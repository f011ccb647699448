"""A server that takes no more writes: which of a pool's connections are of no more use.

After a fail-over the old primary may live on, demoted or fenced by
``default_transaction_read_only``. Its connections pass every probe and fail every write with
SQLSTATE 25006. The server says itself what it is: since PostgreSQL 14 it reports
``in_hot_standby`` and ``default_transaction_read_only``, and every change of them
(https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-ASYNC) with its next
answer; an idle connection hears of it when it is probed.

Servers that are gone need nothing of this: their connections end (57P01, 57P02), or new ones
are refused (57P03), and the pool replaces them or waits.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from psycopg import pq

from .causes import Cause
from .core import Core

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

logger = logging.getLogger("psycopg.pool")

PAUSE = 2.0
"""Shortest time (s) between two retirements after refused writes. Where the new connections
are read-only as well, replacing them for every refused write would be of no use."""


class Failover:
    """Retires a pool's connections to a server that takes no more writes."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._retired_at = self._warned_at = -PAUSE

    def watch(self, conn: Connection[Any]) -> None:
        """Look after a connection that was just opened. Does not block."""
        conn.wants_writes = _wants_writes(conn)

    def is_misplaced(self, conn: Connection[Any]) -> bool:
        """Tell whether the server took writes once, or was asked to, and does no more."""
        return conn.wants_writes is True and _is_read_only(conn) is True

    def retire(self, conn: Connection[Any]) -> None:
        """Retire all connections to the server of *conn*, which takes no more writes.

        Idle ones are closed now, those in use when they are returned. Does not switch.
        """
        core = self._core
        if core.closed:
            return
        place, now = _place(conn), monotonic()
        for slot in list(core.bag.out.values()):
            if _place(slot.conn) == place:
                # Not kept like an old one while no other can be opened.
                slot.drain(Cause.READ_ONLY_SERVER)
        stale = [
            slot
            for slot in list(core.bag.idle)
            # One that was opened since may have reached the new server at the same address.
            if _place(slot.conn) == place and _is_read_only(slot.conn) is not False
        ]
        for slot in stale:
            core.evict(slot, Cause.READ_ONLY_SERVER)
        if now - self._warned_at >= PAUSE:  # the others hear of it a moment later
            self._warned_at = now
            logger.warning(
                "pool %r: the server at %s takes no more writes: retiring the connections to it",
                core.settings.name,
                ":".join(place),
            )

    def refused(self, conn: Connection[Any]) -> None:
        """React to the server's refusal (25006) to execute a statement of *conn*."""
        if conn.wants_writes is False:
            return  # a server for reading is what the user asked for
        read_only = _is_read_only(conn)
        if read_only is None:
            read_only = not conn.read_only  # an old server does not say: unless asked for
        now, core = monotonic(), self._core
        if not read_only:
            return
        if now - self._retired_at >= PAUSE:
            self._retired_at = now
            self.retire(conn)
            core.suspect()  # the idle ones have not heard of it yet
        elif conn.begun_at < self._retired_at and (slot := core.bag.out.get(conn)) is not None:
            # It was idle or being opened then, and was given to a user before it was probed.
            slot.drain(Cause.READ_ONLY_SERVER)


def _is_read_only(conn: Connection[Any]) -> bool | None:
    """Tell what the server last reported about itself; ``None`` before PostgreSQL 14."""
    status = conn.pgconn.parameter_status
    reports = status(b"in_hot_standby"), status(b"default_transaction_read_only")
    return None if None in reports else b"on" in reports


def _place(conn: Connection[Any]) -> tuple[str, str]:
    pgconn = conn.pgconn
    if pgconn.status == pq.ConnStatus.BAD:
        return "", ""
    return (pgconn.hostaddr or pgconn.host).decode(errors="replace"), pgconn.port.decode()


def _wants_writes(conn: Connection[Any]) -> bool | None:
    """Tell from a new connection whether it is for writing; ``None`` if that is unknown."""
    for option in conn.pgconn.info:
        if option.keyword == b"target_session_attrs" and option.val:
            attributes = option.val.decode(errors="replace")
            if attributes != "any":
                return attributes in {"read-write", "primary"}
    # It may be a standby on purpose, or by the mistake of an address that lags behind.
    return True if _is_read_only(conn) is False else None
