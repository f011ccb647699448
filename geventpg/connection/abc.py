"""What the parts of this room may know of a connection, and what a connection reports to its pool.

The parts (interruption, loss, BEGIN, batches, ...) take a connection as one of the Protocols here.
So none of them imports the class `Connection`, which is made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .meter import Meter


class Observer(Protocol):
    """The pool of a connection, as the connection knows it. No method blocks or switches."""

    meter: Meter | None
    """Measures the statements; ``None`` if they are not to be measured."""

    def readable(self, conn: Any) -> None:
        """Data came for *conn* while no greenlet was waiting for any. Called in the hub."""

    def write_refused(self, conn: Any) -> None:
        """The server refused to write because it is read-only (SQLSTATE 25006)."""

    def statement_is_stale(self, query: bytes) -> None:
        """The prepared form of *query* is of no use any more: a table changed."""

    def statement_was_gone(self, conn: Any, *, healed: bool) -> None:
        """A prepared statement was gone; *healed*: it is executed again."""

    def cancelling(self, conn: Any) -> None:
        """The connection is about to cancel its interrupted statement on the server."""


class _Unobserved:
    """The observer of a connection without a pool."""

    meter: Meter | None = None

    def readable(self, conn: Any) -> None:
        # The next wait will read it. Until then the loop would call this again and again.
        conn.watch.pause()

    def write_refused(self, conn: Any) -> None: ...

    def statement_is_stale(self, query: bytes) -> None: ...

    def statement_was_gone(self, conn: Any, *, healed: bool) -> None: ...

    def cancelling(self, conn: Any) -> None: ...


UNOBSERVED: Observer = _Unobserved()
"""The observer of every connection that no pool observes."""
