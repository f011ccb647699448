"""The way back: what a returned connection needs before somebody else can have it.

Returning never waits: a clean connection is handed on at once, one that needs a round trip
(rollback, a ``reset`` callback, cancelling a statement) is taken over by a greenlet of the
pool, so that whoever returns it can be killed, or be the hub itself, without losing it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Generic

import gevent
import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT

from . import hub
from .slots import Slot, SlotState

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("psycopg.pool")

IDLE = TransactionStatus.IDLE
UNKNOWN = TransactionStatus.UNKNOWN
ACTIVE = TransactionStatus.ACTIVE


class Recycler(Generic[CT]):
    """Cleans a pool's returned connections in the background."""

    def __init__(self, pool: Pool[CT]) -> None:
        self._pool = pool
        self._greenlets: set[Any] = set()

    def take(self, slot: Slot[CT]) -> None:
        """Clean *slot*'s connection, then make it available or evict it. Does not switch."""
        slot.move(SlotState.RETURNING)
        greenlet = hub.spawn(self._clean, slot)
        self._greenlets.add(greenlet)
        greenlet.rawlink(lambda ended: self._ended(ended, slot))

    def stop(self) -> list[Any]:
        """Return the greenlets still at work. Does not wait for them."""
        return list(self._greenlets)

    def _ended(self, greenlet: Any, slot: Slot[CT]) -> None:
        self._greenlets.discard(greenlet)
        if slot.state is SlotState.RETURNING:
            # Killed, perhaps before it ran: nobody knows what state the connection is in.
            self._pool._evict(slot, "its cleaning was interrupted")

    def _clean(self, slot: Slot[CT]) -> None:
        conn = slot.conn
        try:
            self._rollback(conn)
            if conn.pgconn.transaction_status == IDLE and self._pool._reset is not None:
                self._reset(conn)
        finally:
            # Whatever was thrown at us, the slot must not stay out for ever.
            if slot.state is SlotState.RETURNING:
                self._pool._returned(slot)

    def _rollback(self, conn: CT) -> None:
        status = conn.pgconn.transaction_status
        if status == ACTIVE or conn._pipeline is not None:
            logger.warning("closing returned connection: %s", conn)
            try:
                conn.cancel_safe(timeout=self._pool.cancel_timeout)
            except psycopg.Error as error:
                logger.warning("cancelling its statement failed: %s", error)
            self._pool._close_connection(conn)
        elif status != IDLE and status != UNKNOWN:
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

    def _reset(self, conn: CT) -> None:
        reset = self._pool._reset
        assert reset is not None
        try:
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
