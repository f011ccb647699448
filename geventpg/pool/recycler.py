"""The way back: what a returned connection needs before the next user can have it.

Returning never waits: a clean connection is handed on at once. One that needs a round trip
(rollback, a ``reset`` callback, cancelling a statement) is taken over by a greenlet of the
pool, so that the greenlet that returns it can be killed, or be the hub itself, without losing it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.interruption import cancel_in_background, end_statement

from .causes import Cause
from .core import Core
from .slots import Slot, SlotState

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

logger = logging.getLogger("psycopg.pool")

IDLE = TransactionStatus.IDLE
UNKNOWN = TransactionStatus.UNKNOWN
ACTIVE = TransactionStatus.ACTIVE


class Recycler:
    """Cleans a pool's returned connections, and offers the clean ones to the waiters."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._greenlets: set[Any] = set()

    def recycle(self, slot: Slot, *, cold: bool = False) -> None:
        """Return a connection that may need more than being handed on. Does not switch.

        *cold*: if it ends up idle, it is the last to be given.
        """
        slot.taker = None
        conn = slot.conn
        status = conn.pgconn.transaction_status
        needs_no_talk = status == UNKNOWN or self._core.closed
        is_clean = status == IDLE and not self._core.settings.reset and not conn.open_pipeline
        if needs_no_talk or is_clean:
            self.returned(slot, cold=cold)
        else:
            self._take(slot)

    def returned(self, slot: Slot, *, idle_since: float | None = None, cold: bool = False) -> None:
        """Decide what becomes of a connection that needs no more cleaning. Does not switch.

        *idle_since* is given for one that was idle before, too: being probed is not being
        used.
        """
        core, conn = self._core, slot.conn
        status = conn.pgconn.transaction_status
        if core.closed:
            core.evict(slot, Cause.POOL_CLOSED)
        elif status == UNKNOWN:
            core.counters.returns_bad += 1
            logger.warning("discarding closed connection: %s", conn)
            broken = conn.broken
            if broken:
                core.suspect()
            core.evict(slot, Cause.BROKEN if broken else Cause.CLOSED_BY_USER)
        elif status != IDLE or conn.open_pipeline is not None:
            # Its waiter was killed, or its cleaning was: not to be trusted.
            core.evict(slot, Cause.UNCLEAN)
        elif (is_old := core.is_old(slot)) or core.bag.size > core.settings.max_size:
            logger.info("discarding expired connection")
            core.evict(slot, slot.fate if is_old else Cause.SHRUNK)
        elif (conn.watch.paused or slot.state is not SlotState.IN_USE) and not conn.check_idle():
            # The server closed the session right after its last answer.
            core.evict_lost(slot, Cause.CLOSED_BY_SERVER)
            logger.info("not serving connection found broken")
        else:
            slot.idle_since = monotonic() if idle_since is None else idle_since
            self._offer(slot, cold=cold)

    def stop(self) -> list[Any]:
        """Return the greenlets still at work. Does not wait for them."""
        return list(self._greenlets)

    def _offer(self, slot: Slot, *, cold: bool) -> None:
        """Hand a good connection to the first in line, or put it among the idle ones."""
        core = self._core
        if core.waiting:
            # In use from this moment, even before the waiter runs.
            slot.conn.pool = core.owner
            core.bag.hand_on(slot)
            slot.since = monotonic()
            if core.waiting.hand(slot):
                return
        slot.conn.pool = None
        core.bag.rest(slot, cold=cold)
        core.filled()

    # -- cleaning ---------------------------------------------------------------------------

    def _take(self, slot: Slot) -> None:
        """Clean *slot*'s connection, then make it available or evict it. Does not switch."""
        self._core.bag.clean(slot)
        greenlet = slot.keeper = hub.spawn(self._clean, slot)
        self._greenlets.add(greenlet)
        greenlet.rawlink(lambda ended: self._ended(ended, slot))

    def _ended(self, greenlet: Any, slot: Slot) -> None:
        self._greenlets.discard(greenlet)
        if slot.state is SlotState.RETURNING and slot.keeper is greenlet:
            # Killed, perhaps before it ran: the state of the connection is unknown.
            # (By the time this is called it may be returned once more, to another greenlet.)
            self._core.evict(slot, Cause.UNCLEAN)

    def _clean(self, slot: Slot) -> None:
        conn = slot.conn
        try:
            self._roll_back(conn)
            if conn.pgconn.transaction_status == IDLE and self._core.settings.reset is not None:
                self._reset(conn)
        finally:
            # Whatever was thrown at us, the slot must not stay out for ever.
            if slot.state is SlotState.RETURNING:
                self.returned(slot)

    def _roll_back(self, conn: Connection[Any]) -> None:
        status = conn.pgconn.transaction_status
        if status == ACTIVE or conn.open_pipeline is not None:
            logger.warning("closing returned connection: %s", conn)
            if conn.watch.waiting:
                conn.observer.cancelling(conn)
                cancel_in_background(conn)  # another greenlet still uses it and will get an error
            else:
                end_statement(conn)
            self._core.close_connection(conn)
        elif status not in (IDLE, UNKNOWN):
            logger.warning("rolling back returned connection: %s", conn)
            try:
                with gevent.Timeout(self._core.settings.cancel_timeout):
                    conn.rollback()
            except (Exception, gevent.Timeout) as error:
                logger.warning(
                    "rollback failed: %s: %s. Discarding connection %s",
                    type(error).__name__,
                    error,
                    conn,
                )
                self._core.close_connection(conn)

    def _reset(self, conn: Connection[Any]) -> None:
        reset = self._core.settings.reset
        assert reset is not None
        try:
            with conn.close_is_final():
                reset(conn)
            status = conn.pgconn.transaction_status
            if status != IDLE:
                raise psycopg.ProgrammingError(
                    f"connection left in status {TransactionStatus(status).name}"
                    f" by reset function {reset}: discarded"
                )
        except Exception as error:
            logger.warning("error resetting connection: %s", error)
            self._core.close_connection(conn)
