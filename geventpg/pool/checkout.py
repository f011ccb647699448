"""The context manager of one checkout."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic

from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT

if TYPE_CHECKING:
    from .pool import Pool

IDLE = int(TransactionStatus.IDLE)


class Checkout(Generic[CT]):
    """Hold a connection from ``__enter__`` to ``__exit__``; returning it twice is harmless."""

    __slots__ = ("_conn", "_pool", "_timeout")

    def __init__(self, pool: Pool[CT], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: Any = None

    def __enter__(self) -> CT:
        conn: Any = self._pool.getconn(self._timeout)
        self._conn = conn
        conn.checkout = self
        return conn  # type: ignore[no-any-return]  # a cast is a call

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, pool = self._conn, self._pool
        if conn is None or conn.checkout is not self:
            return  # returned inside the block, and perhaps somebody else's by now
        self._conn = None
        try:
            # Commit or roll back; not worth a call when there is no transaction.
            if conn.pgconn.transaction_status != IDLE or conn._tpc or conn._num_transactions:
                conn.__exit__(exc_type, exc, traceback)
        finally:
            pool.putconn(conn)
