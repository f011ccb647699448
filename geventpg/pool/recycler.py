"""The way back: what a returned connection needs before somebody else can have it.

Returning never waits: a clean connection is handed on at once, one that needs a round trip
(rollback, a ``reset`` callback, cancelling a statement) is taken over by a greenlet of the
pool, so that whoever returns it can be killed, or be the hub itself, without losing it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.interruption import cancel_in_background, heal

from .causes import Cause
from .slots import Slot, SlotState

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pool import Pool

logger = logging.getLogger("psycopg.pool")

IDLE = TransactionStatus.IDLE
UNKNOWN = TransactionStatus.UNKNOWN
ACTIVE = TransactionStatus.ACTIVE


class Recycler:
    """Cleans a pool's returned connections in the background."""

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._greenlets: set[Any] = set()

    def take(self, slot: Slot) -> None:
        """Clean *slot*'s connection, then make it available or evict it. Does not switch."""
        slot.move(SlotState.RETURNING)
        greenlet = slot.keeper = hub.spawn(self._clean, slot)
        self._greenlets.add(greenlet)
        greenlet.rawlink(lambda ended: self._ended(ended, slot))

    def recycle(self, slot: Slot, *, cold: bool = False) -> None:
        """Return a connection that may need more than being handed on. Does not switch.

        *cold*: if it ends up idle, be the last to be given.
        """
        slot.taker = None
        conn = slot.conn
        status = conn.pgconn.transaction_status
        needs_no_talk = status == UNKNOWN or self._pool.closed
        if needs_no_talk or (status == IDLE and not self._pool._reset and not conn._pipeline):
            self.returned(slot, cold=cold)
        else:
            self.take(slot)

    def returned(self, slot: Slot, *, idle_since: float | None = None, cold: bool = False) -> None:
        """Decide what becomes of a connection that needs no more cleaning. Does not switch.

        *idle_since* is given for one that was idle before, too: being probed is not being
        used.
        """
        pool, conn = self._pool, slot.conn
        status = conn.pgconn.transaction_status
        now = monotonic()
        if pool.closed:
            pool._evict(slot, Cause.POOL_CLOSED)
        elif status == UNKNOWN:
            pool._stats[pool._RETURNS_BAD] += 1
            logger.warning("discarding closed connection: %s", conn)
            broken = conn.broken
            if broken:
                pool._watchdog.suspect()
            pool._evict(slot, Cause.BROKEN if broken else Cause.CLOSED_BY_USER)
        elif status != IDLE or conn._pipeline is not None:
            # Its waiter was killed, or its cleaning was: not to be trusted.
            pool._evict(slot, Cause.UNCLEAN)
        elif (spent := self._is_spent(slot, now)) or pool._bag.size > pool.max_size:
            logger.info("discarding expired connection")
            pool._evict(slot, slot.fate if spent else Cause.SHRUNK)
        elif (conn.watch.paused or slot.state is not SlotState.IN_USE) and not conn.check_idle():
            # The pool had just talked to it: the end came right behind the answer.
            pool._watchdog.lost(pool, slot, Cause.CLOSED_BY_SERVER)
            logger.info("not serving connection found broken")
        else:
            slot.idle_since = now if idle_since is None else idle_since
            self._offer(slot, cold=cold)

    def _is_spent(self, slot: Slot, now: float) -> bool:
        # While no other can be opened, an old connection is better than none. One that was
        # drained is to go in any case.
        return slot.expires_at <= now and (slot.drained or self._pool._connector.outage is None)

    def _offer(self, slot: Slot, *, cold: bool) -> None:
        """Hand a good connection to the first in line, or put it among the idle ones."""
        pool = self._pool
        if pool._waiting:
            # In use from this moment, even before the waiter runs.
            slot.conn._pool = pool
            slot.state = SlotState.IN_USE
            slot.since = monotonic()
            if pool._waiting.hand(slot):
                return
        slot.conn._pool = None
        pool._bag.rest(slot, cold=cold)
        pool._filled()

    def stop(self) -> list[Any]:
        """Return the greenlets still at work. Does not wait for them."""
        return list(self._greenlets)

    def _ended(self, greenlet: Any, slot: Slot) -> None:
        self._greenlets.discard(greenlet)
        if slot.state is SlotState.RETURNING and slot.keeper is greenlet:
            # Killed, perhaps before it ran: nobody knows what state the connection is in.
            # (By the time this is called it may be returned once more, to another one.)
            self._pool._evict(slot, Cause.UNCLEAN)

    def _clean(self, slot: Slot) -> None:
        conn = slot.conn
        try:
            self._rollback(conn)
            if conn.pgconn.transaction_status == IDLE and self._pool._reset is not None:
                self._reset(conn)
        finally:
            # Whatever was thrown at us, the slot must not stay out for ever.
            if slot.state is SlotState.RETURNING:
                self.returned(slot)

    def _rollback(self, conn: Connection[Any]) -> None:
        status = conn.pgconn.transaction_status
        if status == ACTIVE or conn._pipeline is not None:
            logger.warning("closing returned connection: %s", conn)
            if conn.watch.waiting:
                conn.observer.cancelling(conn)
                cancel_in_background(conn)  # somebody else still uses it: he gets an error
            else:
                heal(conn)
            self._pool._close_connection(conn)
        elif status not in (IDLE, UNKNOWN):
            logger.warning("rolling back returned connection: %s", conn)
            try:
                with gevent.Timeout(self._pool.cancel_timeout):
                    conn.rollback()
            except (Exception, gevent.Timeout) as error:
                logger.warning(
                    "rollback failed: %s: %s. Discarding connection %s",
                    type(error).__name__,
                    error,
                    conn,
                )
                self._pool._close_connection(conn)

    def _reset(self, conn: Connection[Any]) -> None:
        reset = self._pool._reset
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
            self._pool._close_connection(conn)
