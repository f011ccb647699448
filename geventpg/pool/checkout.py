"""The context manager of one checkout."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, Protocol

from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT

from geventpg.connection.psycopg_internals import blocks_of, two_phase_of

IDLE = int(TransactionStatus.IDLE)


class Lender(Protocol[CT]):
    """What a checkout needs of a pool."""

    def getconn(self, timeout: float | None = None) -> CT:
        """Check a connection out."""

    def putconn(self, conn: CT) -> None:
        """Return it."""


class Checkout(Generic[CT]):
    """Hold a connection from ``__enter__`` to ``__exit__``; returning it twice is harmless."""

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: Lender[CT], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: Any = None

    def __enter__(self) -> CT:
        conn: Any = self._pool.getconn(self._timeout)
        self._conn = conn
        conn.checkout = self
        return conn  # type: ignore[no-any-return]  # cast() would be a call on the hot path

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, pool = self._conn, self._pool
        if conn is None or conn.checkout is not self:
            return  # returned inside the block, and another user may have it by now
        self._conn = None
        try:
            # Commit or roll back. The call is saved when there is no transaction.
            if conn.pgconn.transaction_status != IDLE or two_phase_of(conn) or blocks_of(conn):
                conn.__exit__(exc_type, exc, traceback)
        finally:
            pool.putconn(conn)
