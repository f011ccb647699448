"""What the parts of a pool stand on: its settings, connections, waiters, numbers and outage.

Each part gets the `Core` and the parts that it gives work to. No part knows the `Pool`, which is
made of them. Nothing here blocks or switches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from geventpg import hub
from geventpg.connection.pooler import Warnings
from geventpg.errors import PoolClosed, PoolTimeout

from .causes import Cause
from .counters import Counters
from .events import Listeners
from .outage import Outage
from .settings import Settings
from .slots import Bag, Slot
from .waiters import WaitQueue

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

logger = logging.getLogger("psycopg.pool")


class Core:
    """The state that the parts of one pool share, and what any of them may do to it.

    A forked child gets a new one: of the old one only the settings and the listeners stay.

    :param owner: what psycopg asks about ``close_returns``: the pool, as an opaque object.
    """

    def __init__(self, settings: Settings, listeners: Listeners, owner: Any) -> None:
        self.settings = settings
        self.listeners = listeners
        self.owner = owner
        self.hub, self.thread = hub.current_hub(), hub.get_ident()
        self.bag = Bag()
        self.bag.least_idle = settings.min_size
        self.waiting = WaitQueue()
        """The greenlets that wait for a connection."""
        self.filling = WaitQueue()
        """Those that wait until ``min_size`` connections are idle."""
        self.counters = Counters()
        self.pooler_warnings = Warnings(f"pool {settings.name!r}")

        self.closed = True
        self.was_opened = False
        self.at_work = False
        """Whether the background work goes on. It does not in a forked child until first use."""
        self.warns_of_open = False
        """Whether the first checkout is to warn that ``open`` was not given."""
        self.plain_checkout = self.plain_return = False
        """Whether checkouts and returns need none of the questions of the slow path."""

        self.outage: Outage | None = None
        """Why no connection can be opened at present, or ``None``."""
        self.last_error: BaseException | None = None
        """What the last attempt to connect failed with, until one succeeds."""
        self.alarm = hub.Alarm()
        """Wakes the background work: something changed, look again at what is due."""
        self.suspicious = False
        """A connection was found lost: the other idle ones are to be verified."""
        self.plan: Callable[[], None] = _nothing
        """Hook: there may be room for a connection, or a need. The connector looks."""
        self.reclaim: Callable[[], bool] | None = None
        """Hook: take back what ended raw greenlets still hold; tell whether some live on.

        gevent does not tell of the end of a greenlet that is not a `gevent.Greenlet`.
        """

    # -- what changes which paths are taken --------------------------------------------------

    def refresh(self) -> None:
        """Decide anew which checkouts and returns are plain. Call it after every change."""
        settings, kinds = self.settings, self.listeners.kinds
        self.plain_checkout = (
            not self.closed
            and self.at_work
            and not self.warns_of_open
            and settings.check is None
            and settings.use_lifo
            and not settings.leak_threshold
            and "checked_out" not in kinds
        )
        self.plain_return = (
            not self.closed
            and settings.reset is None
            and not settings.leak_threshold
            and "returned" not in kinds
            and not self.filling
            and self.bag.size <= settings.max_size
        )

    def suspect(self) -> None:
        """Have the other idle connections verified: one was found dead."""
        self.suspicious = True
        self.alarm.ring()

    def filled(self) -> None:
        """Serve those that wait for ``min_size`` idle connections, if there are as many."""
        if self.filling and len(self.bag.idle) >= self.settings.min_size:
            while self.filling.hand(True):
                pass
            self.refresh()

    # -- the end of a connection -------------------------------------------------------------

    def close_connection(self, conn: Connection[Any]) -> None:
        """Close a connection for good, whatever the pool's ``close_returns``."""
        conn.pool = None
        conn.planner = None  # which refers to the connection
        conn.close()

    def drop(self, slot: Slot, cause: Cause) -> None:
        """Take a connection out of the pool and close it."""
        self.bag.remove(slot)
        self.close_connection(slot.conn)
        self.left(slot, cause)

    def left(self, slot: Slot, cause: Cause) -> None:
        """Count a connection that left the pool, and tell the listeners."""
        self.counters.left[cause] += 1
        kind = "retired" if cause.is_planned else "evicted"
        self.listeners.tell(kind, slot.conn, cause=cause.value)

    def evict(self, slot: Slot, cause: Cause) -> None:
        """Drop a connection, and see whether another one is wanted."""
        self.drop(slot, cause)
        self.plan()
        logger.debug("pool %r dropped %s: %s", self.settings.name, slot.conn, cause.text)

    def evict_lost(self, slot: Slot, cause: Cause) -> None:
        """Evict a connection that was found lost, and have the others verified."""
        # Before anything is logged: a handler may raise, or switch.
        self.counters.connections_lost += 1
        self.evict(slot, cause)
        self.suspect()

    def evict_dead(self, slot: Slot, cause: Cause) -> None:
        """Do `evict_lost` for an idle connection, and log it."""
        self.evict_lost(slot, cause)
        logger.info(
            "pool %r: evicted idle connection %s: %s", self.settings.name, slot.conn, cause.text
        )

    def is_alive(self, slot: Slot) -> bool:
        """Read what arrived on an idle connection; evict it if that is its end."""
        if slot.conn.check_idle():
            return True
        if slot.conn.closed and not slot.conn.broken:
            self.evict(slot, Cause.CLOSED_BY_USER)
            logger.warning("discarding closed connection: %s", slot.conn)
        else:
            self.evict_dead(slot, Cause.CLOSED_BY_SERVER)
        return False

    # -- what may be asked of it, and how it says no -----------------------------------------

    def check_hub(self) -> None:
        """Raise `WrongHub` unless the current greenlet can wait here."""
        hub.check_can_wait(self.hub, f"the pool {self.settings.name!r}")

    def check_open(self) -> None:
        """Raise `PoolClosed` unless the pool is open."""
        if self.closed:
            state = "already closed" if self.was_opened else "not open yet"
            raise PoolClosed(f"the pool {self.settings.name!r} is {state}")

    def counts(self) -> str:
        """Say for an error or a repr how many connections there are, and how many waiters."""
        bag = self.bag
        return (
            f"size={bag.size} idle={len(bag.idle)} in_use={bag.in_use} waiting={len(self.waiting)}"
        )

    def why(self) -> str:
        """Say for an error why no connection can be opened, if that is so."""
        return "" if self.outage is None else f"; last connection failure: {self.last_error}"

    def timed_out(self, timeout: float) -> PoolTimeout:
        """Return what to raise when no connection came within *timeout* seconds."""
        return PoolTimeout(
            f"couldn't get a connection after {timeout:.2f} sec: pool {self.settings.name!r} has"
            f" {self.counts()} max_size={self.settings.max_size}{self.why()}"
        )

    def hurry(self) -> None:
        """Bring the next attempt to connect forward: a greenlet began to wait."""
        if self.outage is not None:
            self.outage.hurry()
            self.alarm.ring()

    def is_old(self, slot: Slot) -> bool:
        """Tell whether a connection is to be replaced now.

        While no other can be opened, an old connection is better than none. A drained one is to
        go in any case.
        """
        return slot.expires_at <= monotonic() and (slot.drained or self.outage is None)


def _nothing() -> None:
    """Stand in for a hook that is not connected yet."""
