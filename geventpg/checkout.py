"""The context manager of one checkout."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Generic

from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT

if TYPE_CHECKING:
    from .pool import Pool

IDLE = int(TransactionStatus.IDLE)


class Checkout(Generic[CT]):
    """Hold a connection from ``__enter__`` to ``__exit__``; returning it twice is harmless."""

    __slots__ = ("_conn", "_pool", "_since", "_timeout")

    def __init__(self, pool: Pool[CT], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: CT | None = None
        self._since = 0.0

    def __enter__(self) -> CT:
        conn = self._conn = self._pool.getconn(self._timeout)
        self._since = monotonic()
        return conn

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        conn, pool = self._conn, self._pool
        if conn is None or conn._pool is not pool:
            return  # returned inside the block
        self._conn = None
        try:
            # Commit or roll back; not worth a call when there is no transaction.
            if conn.pgconn.transaction_status != IDLE or conn._tpc or conn._num_transactions:
                conn.__exit__(exc_type, exc, traceback)
        finally:
            pool._usage_seconds += pool._give_back(conn) - self._since
