"""SQLAlchemy's own pool, for processes that do not run gevent.

It differs from `QueuePool` in two things. A checkout replaces an idle connection whose session the
server has ended, and a forked child leaves its parent's connections alone.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from geventpg.connection.connection import abandon_socket
from geventpg.connection.loss import is_alive


class PlainPool(QueuePool):
    """`QueuePool` that looks at a connection's socket before it hands it out: no round trip."""

    def _do_get(self) -> ConnectionPoolEntry:
        record = super()._do_get()
        conn: Any = record.dbapi_connection
        if isinstance(conn, psycopg.Connection) and not is_alive(conn.pgconn):
            record.invalidate()  # SQLAlchemy connects again
        return record

    def start_anew_in_child(self) -> None:
        """Start anew in a forked child, without a byte on the parent's sockets."""
        old, size = self._pool, self.size()
        # It needs a new lock, too: a thread that the child does not have may hold the old one.
        self._pool = self._queue_class(size, use_lifo=old.use_lifo)
        self._overflow = 0 - size
        self._overflow_lock = threading.Lock()
        for record in list(getattr(old, "queue", ())):
            conn: Any = record.dbapi_connection
            if isinstance(conn, psycopg.Connection):
                abandon_socket(conn)
