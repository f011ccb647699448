"""What connections report to their pool.

The pool is held weakly: one that its user did not close can be collected while a connection of it
is still in use.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from geventpg.connection.meter import Meter
from geventpg.connection.prepared import prepare_anew

from .core import Core
from .failover import Failover

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection


class PoolObserver:
    """Passes on to one pool what its connections report; see `Observer`."""

    __slots__ = ("_core", "_failover", "meter")

    def __init__(self, core: Core, failover: Failover) -> None:
        self._core = weakref.ref(core)
        self._failover = weakref.ref(failover)
        self.meter: Meter | None = None

    def measure(self, core: Core, *, timings: bool) -> None:
        """Measure statements from now on if *timings*, or if a listener asks for them."""
        if timings:
            core.counters.start_timing()
        recorder = core.counters.statement if timings else None
        wanted = timings or not core.listeners.kinds.isdisjoint(("statement", "batch"))
        self.meter = Meter(recorder, core.listeners) if wanted else None

    def readable(self, conn: Connection[Any]) -> None:
        """Look at an idle connection for which data came."""
        core = self._core()
        for slot in () if core is None else core.bag.idle:
            if slot.conn is conn:
                assert core is not None
                core.is_alive(slot)
                return
        # In use, and its user is busy elsewhere: the pool looks at it when it is returned.
        conn.watch.pause()

    def write_refused(self, conn: Connection[Any]) -> None:
        """See whether the connections to this server are to be retired."""
        failover = self._failover()
        if failover is not None:
            failover.refused(conn)

    def statement_is_stale(self, query: bytes) -> None:
        """Have the other connections prepare it anew, before they meet the error too."""
        core = self._core()
        if core is not None:
            for slot in core.bag:
                prepare_anew(slot.conn, query)

    def statement_was_gone(self, conn: Connection[Any], *, healed: bool) -> None:
        """Count it and tell the listeners."""
        core = self._core()
        if core is None:
            return
        if healed:
            core.counters.healed += 1
        else:
            core.counters.lost += 1
        core.listeners.tell("healed" if healed else "lost", conn)

    def cancelling(self, conn: Connection[Any]) -> None:
        """Count it and tell the listeners."""
        core = self._core()
        if core is not None:
            core.counters.cancelled += 1
            core.listeners.tell("cancelled", conn)
