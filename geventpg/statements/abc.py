"""What the parts of single statements know of the pool, of each other and of their callers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from psycopg_pool import PoolTimeout

    from geventpg.connection.abc import Observer
    from geventpg.connection.connection import Connection

    from .costs import Costs
    from .plan import Call


class StatementOptions(TypedDict, total=False):
    """The keyword options of `Pool.execute` and its like; see there."""

    prepare: bool | None
    binary: bool
    timeout: float | None
    idempotent: bool


class Shared(Protocol):
    """A connection that is checked out for the statements of many greenlets."""

    @property
    def conn(self) -> Connection[Any]:
        """The connection."""

    @property
    def expires_at(self) -> float:
        """When (``time.monotonic``) it is to be back in the pool, which may change its mind."""


class Lender(Protocol):
    """A pool, as single statements know it. Only `getconn` blocks or switches."""

    hub: Any
    """The gevent hub on which the pool's greenlets wait."""

    @property
    def observer(self) -> Observer:
        """Has the meter of statements, if they are measured."""

    @property
    def name(self) -> str:
        """What errors and log lines call the pool."""

    @property
    def timeout(self) -> float:
        """Seconds that a statement waits for a connection at most, unless it says otherwise."""

    @property
    def max_waiting(self) -> int:
        """How many statements may wait for a connection; ``0``: any number."""

    @property
    def statement_connections(self) -> int:
        """How many connections may be shared at the same time."""

    @property
    def has_idle(self) -> bool:
        """Whether any connection is idle."""

    def check_hub(self) -> None:
        """Raise `WrongHub` unless the current greenlet can wait on the pool's hub."""

    def check_open(self) -> None:
        """Raise `PoolClosed` unless the pool is open."""

    def getconn(self, timeout: float | None = None) -> Any:
        """Check a connection out, as `Pool.getconn` does."""

    def putconn(self, conn: Any) -> None:
        """Return a connection, as `Pool.putconn` does."""

    def next_idle(self) -> Connection[Any] | None:
        """Return the connection that `getconn` would give now; ``None`` if it may have to wait."""

    def share(self, conn: Connection[Any]) -> Shared:
        """Let many greenlets use a connection that is checked out, until `unshare`."""

    def unshare(self, shared: Shared) -> None:
        """Return a connection that was shared; do nothing if the pool has it no more."""

    def is_wanted_back(self) -> bool:
        """Tell whether the pool shrinks, or a waiter can be served by a return only."""

    def unserved(self, timeout: float) -> PoolTimeout:
        """Count a statement that got no connection within *timeout* s; return its error."""

    def turned_away(self, waiting: int) -> Exception:
        """Count a statement that is refused because *waiting* others wait; return its error."""


class Dispatcher(Protocol):
    """The choice of connections for statements, as each shared connection knows it."""

    lender: Lender
    costs: Costs
    homeless: deque[Call]
    """The statements that wait for a shared connection."""
    moved: int
    sent: int
    batches: int
    batch_max: int
    """Counters; see `StatementStats`."""

    def look_at(self, due: float) -> None:
        """See at *due* (``time.monotonic``) what slow statements make necessary."""

    def welcome(self) -> None:
        """Have the statements that wait for a connection choose again. Only in the hub."""

    def left(self, pipe: Any) -> None:
        """Take the connection of a pipe that ended back into the pool. Does not switch."""
