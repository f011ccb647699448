"""What connections report to their pool.

The pool is held weakly: one that its user did not close can be collected while a connection of it
is still in use.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from geventpg.connection.prepared import forget_stale

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection
    from geventpg.connection.meter import Meter

    from .pool import Pool


class PoolObserver:
    """Passes on to one pool what its connections report; see `Observer`."""

    __slots__ = ("_pool", "meter")

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = weakref.ref(pool)
        self.meter: Meter | None = None

    def readable(self, conn: Connection[Any]) -> None:
        """Look at an idle connection for which data came."""
        pool = self._pool()
        for slot in () if pool is None else pool._bag.idle:
            if slot.conn is conn:
                assert pool is not None
                pool._watchdog.is_alive(pool, slot)
                return
        # In use, and its user is busy elsewhere: the pool looks at it when it is returned.
        conn.watch.pause()

    def write_refused(self, conn: Connection[Any]) -> None:
        """See whether the connections to this server are to be retired."""
        pool = self._pool()
        if pool is not None:
            pool._failover.refused(conn)

    def statement_is_stale(self, query: bytes) -> None:
        """Have the other connections prepare it anew, before they meet the error too."""
        pool = self._pool()
        if pool is not None:
            for slot in pool._bag:
                forget_stale(slot.conn, query)

    def statement_was_gone(self, conn: Connection[Any], *, healed: bool) -> None:
        """Count it and tell the listeners."""
        pool = self._pool()
        if pool is not None:
            pool._stats[pool._STATEMENTS_HEALED if healed else pool._STATEMENTS_LOST] += 1
            pool._listeners.tell("healed" if healed else "lost", conn)

    def cancelling(self, conn: Connection[Any]) -> None:
        """Count it and tell the listeners."""
        pool = self._pool()
        if pool is not None:
            pool._tally.cancelled += 1
            pool._listeners.tell("cancelled", conn)
