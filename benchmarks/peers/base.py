"""What a gevent peer must be able to do; asyncio and pgbench peers have a loop of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

Row = Any  # a sequence, or None for no row; the drivers have no type in common


class GeventDriver(ABC):
    """A pool of connections, used the way its users would write it.

    The callables are methods, or what ``open()`` sets: the pool's own bound methods where it
    has them, so that no wrapper adds to what is measured.
    """

    query: Callable[[int], Row]
    """Check out, select the row with this key, return. The measured loop calls this."""

    connection: Callable[[], AbstractContextManager[Any]]
    """A checkout as a ``with`` block."""

    @abstractmethod
    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        """Build the pool with exactly ``connections`` connections."""

    @abstractmethod
    def execute(self, conn: Any, sql: str, params: Sequence[Any] = ()) -> Row:
        """The first row of a statement on a connection that is checked out."""

    def sleep(self, sql: str, seconds: float) -> None:
        """Run a statement that takes that long, as the others are run."""
        with self.connection() as conn:
            self.execute(conn, sql, (seconds,))

    @abstractmethod
    def close(self) -> None:
        """Close the pool; closing one that is not open does nothing."""


class PoolDriver(GeventDriver):
    """A peer whose pool also hands out bare connections."""

    getconn: Callable[[], Any]
    putconn: Callable[[Any], None]
