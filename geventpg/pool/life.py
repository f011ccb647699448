"""The life of a pool: made, opened, filled, forked, closed."""

from __future__ import annotations

import logging
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import gevent
import psycopg
from psycopg_pool.abc import CT

from geventpg import hub
from geventpg.errors import PoolClosed, PoolTimeout

from .causes import Cause
from .lifecycle import on_open, open_pools
from .slots import Slot, SlotState
from .state import PoolState

if TYPE_CHECKING:
    from typing_extensions import Self

    from .pool import Pool

logger = logging.getLogger("psycopg.pool")

_IN_USE = SlotState.IN_USE
_IDLE = SlotState.IDLE


class PoolLife(PoolState[CT]):
    """Opening, closing and waiting for `Pool`."""

    __module__ = "geventpg"

    def __del__(self) -> None:
        if getattr(self, "_closed", True):
            return
        self._closed = True
        for slot in self._bag:
            if slot.state is _IDLE:
                self._close_connection(slot.conn)

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start the pool: connect ``min_size`` connections in the background.

        Does not block unless *wait*, which is `wait`. No-op if it is open; raise
        `PoolClosed` if it was closed before. Connections belong to the thread that opens.
        """
        self._open()
        if wait:
            self.wait(timeout=timeout)

    def _open(self) -> None:
        if not self._closed:
            return
        self._check_open()
        if hub.current_hub() is not self._hub:
            self._start_afresh()  # made in one thread, opened in another: it lives here
        self._closed = False
        self._opened = True
        open_pools.add(cast("Pool[Any]", self))
        for tell in on_open:
            tell(cast("Pool[Any]", self))
        self._start_maintenance()

    def _start_maintenance(self) -> None:
        self._update_fast_paths()
        self._watchdog.start()
        self._connector.plan()
        self._dormant = False

    def _after_fork(self) -> None:
        """Start anew in a forked child: empty, without a byte on the parent's sockets.

        The child's event loop is not ready yet, so connecting waits for the first use.
        """
        self._connector.forget()
        self._watchdog.forget()
        self._pipes.forget()
        for slot in self._bag:
            slot.forget()
            slot.conn._pool = None
            slot.conn.abandon()
        self._start_afresh()

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: idle connections now, those in use when they are returned.

        Those who wait get `PoolClosed`. Wait *timeout* seconds at most for connections that
        are being cleaned; close them anyway after that. Idempotent, and called at
        interpreter exit. Interrupted, the pool is closed all the same.
        """
        if self._closed:
            return
        # Decide and record; nothing switches before the pool is closed for everybody.
        self._closed = True
        open_pools.discard(cast("Pool[Any]", self))
        self._update_fast_paths()
        closed = f"the pool {self.name!r} is closed"
        self._waiting.fail_all(lambda: PoolClosed(closed))
        self._filling.fail_all(lambda: PoolClosed(closed))
        self._pipes.retire_all()
        for slot in self._bag:
            if slot.state is _IDLE:
                self._drop(slot, Cause.POOL_CLOSED)
        self._watchdog.stop()
        leaving = self._connector.stop() + self._recycler.stop()
        current = gevent.getcurrent()
        if timeout > 0 and hub.can_wait(self._hub):
            # Those who do not make it close what they hold when they are done.
            gevent.joinall([g for g in leaving if g is not current], timeout=timeout)
        for slot in self._bag:
            if slot.state is not _IN_USE:
                self._drop(slot, Cause.POOL_CLOSED)

    def __enter__(self) -> Self:
        self._open_implicit = False
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until ``min_size`` connections are idle.

        Raise `PoolTimeout` after *timeout* seconds, or `ConnectRejected` as soon as the
        server refuses the credentials; the pool is closed then, as in psycopg_pool.
        """
        self._check_open_getconn()
        self._check_hub()
        if len(self._bag.idle) >= self._min_size:
            return
        logger.info("waiting for pool %r initialization", self.name)
        now = monotonic()
        waiter = self._filling.join(now + timeout, now)
        self._update_fast_paths()
        self._connector.hurry()
        self._connector.plan()
        try:
            waiter.wait()
        except PoolTimeout as error:
            self.close(timeout=0)  # all the time there was is up
            if type(error) is PoolTimeout:
                raise PoolTimeout(
                    f"pool initialization incomplete after {timeout} sec{self._why()}"
                ) from self._connector.last_error
            raise
        except BaseException:
            self._filling.leave(waiter)
            raise
        logger.info("pool %r is ready to use", self.name)

    def _filled(self) -> None:
        """A connection became idle: perhaps that is what `wait` waits for."""
        if self._filling and len(self._idle) >= self._min_size:
            while self._filling.hand(True):
                pass
            self._update_fast_paths()

    def _drop(self, slot: Slot, cause: Cause) -> None:
        """Take a connection out of the pool and close it. Does not switch."""
        self._bag.remove(slot)
        self._close_connection(slot.conn)
        self._left(slot, cause)

    def _left(self, slot: Slot, cause: Cause) -> None:
        """Count a connection that left the pool, and tell of it."""
        self._tally.left[cause] += 1
        kind = "retired" if cause.is_planned else "evicted"
        self._listeners.tell(kind, slot.conn, cause=cause.value)

    def _close_connection(self, conn: psycopg.Connection[Any]) -> None:
        conn._pool = None
        cast("Any", conn).planner = None  # which refers to the connection
        conn.close()
