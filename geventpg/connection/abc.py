"""What the parts of this room may know of a connection, and what a connection reports to its pool.

The parts (interruption, loss, BEGIN, pooler, ...) take a connection as a `Link`. So none of them
imports the class `Connection`, which is made of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import PQGen

from geventpg import hub

from .psycopg_internals import Prepared

RV = TypeVar("RV")


class Observer(Protocol):
    """The pool of a connection, as the connection knows it. No method blocks or switches."""

    meter: Any
    """The `Meter` that measures the statements; ``None`` if they are not to be measured."""

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

    meter: Any = None

    def readable(self, conn: Any) -> None:
        # The next wait will read it. Until then the loop would call this again and again.
        conn.watch.pause()

    def write_refused(self, conn: Any) -> None: ...

    def statement_is_stale(self, query: bytes) -> None: ...

    def statement_was_gone(self, conn: Any, *, healed: bool) -> None: ...

    def cancelling(self, conn: Any) -> None: ...


UNOBSERVED: Observer = _Unobserved()
"""The observer of every connection that no pool observes."""


class PlainLink(Protocol):
    """What the parts may use of any connection that geventpg opened, on the hub or not."""

    pgconn: pq.abc.PGconn
    observer: Observer
    prepared: Prepared
    """psycopg's record of what the connection has prepared."""
    prepare_threshold: int | None
    """psycopg's: after how many executions a statement is prepared; ``None``: never."""
    open_pipeline: psycopg.Pipeline | None
    """psycopg's pipeline that is open."""
    commit_in_doubt: bool
    """Whether the connection was lost while COMMIT was under way."""

    def wait(self, gen: PQGen[RV], /) -> RV:
        """Run a generator of psycopg's, or one like it, to its end."""

    def discard(self) -> None:
        """Close at once without talking to the server."""


class BatchLink(PlainLink, Protocol):
    """What a batch may use of its connection, besides that."""

    lock: Any
    """Held while a batch is sent."""
    row_factory: Any
    """psycopg's: makes the rows where the batch does not say what does."""

    @property
    def autocommit(self) -> bool:
        """psycopg's: whether each statement is a transaction of its own."""

    @property
    def read_only(self) -> bool | None:
        """psycopg's: whether transactions cannot write."""

    def cursor(self, *, row_factory: Any, binary: bool) -> psycopg.Cursor[Any]:
        """Return a new cursor."""

    def transaction(self) -> AbstractContextManager[Any]:
        """Return a block that is a transaction, or a savepoint inside one."""

    def look_for_pooler(self) -> None:
        """Find out whether to prepare statements. The lock is held."""

    def measuring_batch(self, statements: Any) -> AbstractContextManager[list[Any]]:
        """Return a block that sends *statements*, which is measured if the user wants that."""


class Link(PlainLink, Protocol):
    """What the parts may use of a connection that waits on the hub."""

    watch: hub.Watch
    cancel_timeout: float
    """Seconds for cancelling an interrupted statement and reading its remains."""
    pooled: bool | None
    """Whether a pooler is in between, ``None`` as long as that is not known."""
    prepares_always: bool
    """Whether to prepare behind a pooler too."""
    pooler_warnings: Any
    """Where the `Warnings` about poolers go."""

    def send_cancel(self, deadline: float) -> None:
        """Ask the server to cancel, and wait until it was asked or *deadline*."""
