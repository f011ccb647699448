"""What ``with get_conn() as conn:`` means: the connection's side of it.

psycopg's ``with conn:`` commits or rolls back, and closes unless the connection belongs to a
pool. A connection that `get_conn` bound to a greenlet is also given back, at the end of the
outermost block only; inner blocks join it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.rows import Row, RowFactory, tuple_row

from geventpg.connection.batch.batch import Batch, Queued, StatementResult
from geventpg.connection.batch.sending import send_here
from geventpg.conninfo.checks import check_parameters

from .abc import UNOBSERVED, Observer
from .adapters import ConnectionAdapters
from .interruption import end_statement_blocking
from .loss import Transaction, commit_unknown, is_in_doubt, note_loss
from .psycopg_internals import OpenConnection, autocommit_of, pipeline_of, prepared_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from .psycopg_internals import Prepared


RV = TypeVar("RV")


class Owner(Protocol):
    """A framework, if it and not `get_conn` has checked out a greenlet's connection.

    Django's ORM is one. Transactions on the connection are the owner's, so that it knows of them.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether the owner has begun a transaction, perhaps without a word to the server."""

    def join(self) -> AbstractContextManager[None]:
        """Return a block of the owner that is a transaction, or a savepoint inside one."""

    def database_error(self, error: Exception) -> Exception:
        """Return psycopg's error if *error* is the owner's own form of it, else *error*."""

    def released(self) -> None:
        """Forget the connection, which goes back to its pool. Does not switch or raise."""


class Binding(Protocol):
    """The greenlet, or thread, that a connection is bound to."""

    owner: Owner | None

    def enter(self) -> None:
        """Note that a ``with`` block begins."""

    def leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Note that a ``with`` block ends; tell whether the connection need not do anything."""

    def give_back(self) -> None:
        """End the binding and return the connection to its pool. Does not switch."""

    def release(self, act: str) -> None:
        """Do what `geventpg.release_conn` does, for a user's *act*, which an error names."""


class BindableConnection(OpenConnection[Row]):
    """A psycopg connection that can be bound to a greenlet or thread by `get_conn`."""

    binding: Binding | None = None
    _close_is_final = False
    commit_in_doubt = False
    """Whether the connection was lost while COMMIT was under way."""
    observer: Observer = UNOBSERVED
    """Its pool, which is told what happens to it."""
    prepared: Prepared
    """psycopg's record of what the connection has prepared."""

    own_adapters: ConnectionAdapters | None = None
    """Those that `adapters` returns, made when they are asked for."""

    def __init__(
        self, pgconn: pq.abc.PGconn, row_factory: RowFactory[Row] = cast(Any, tuple_row)
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.prepared = prepared_of(self)

    def send_batch(self, batch: Batch, *, atomic: bool = True) -> list[StatementResult]:
        """Send the statements of *batch* together; return a result for each, in order.

        They belong to the connection's transaction, as with ``execute``: one that is open, or
        one that is begun and, with ``autocommit``, committed at the end. An error undoes all
        of them with that transaction; its ``index`` says which statement it was. In a
        transaction of other code use ``with conn.transaction():`` to undo just the batch.
        When the connection is lost while COMMIT is under way, `CommitUnknown` is raised:
        `Pool.send_batch` would look the outcome up.

        With *atomic* false each statement is a transaction of its own; see `Pool.send_batch`.
        That needs ``autocommit`` and no open transaction.

        Blocks. Nothing is left running or uncommitted after a kill, as with ``execute``.
        """
        return send_here(self, batch, atomic=atomic)

    @property
    def adapters(self) -> AdaptersMap:
        """The adapters of this connection; cursors made later use them too."""
        if self.own_adapters is None:
            self.own_adapters = ConnectionAdapters(super().adapters)
        return self.own_adapters

    def use_adapters(self, adapters: AdaptersMap) -> None:
        """Start with a copy of *adapters*."""
        self.own_adapters = ConnectionAdapters(adapters)

    def look_for_pooler(self) -> None:
        """Find out whether to prepare statements; psycopg's own connections do as told."""

    def measuring_batch(
        self,
        statements: Sequence[Queued],  # noqa: ARG002  # for those that measure
    ) -> AbstractContextManager[list[StatementResult]]:
        """Return a block that sends *statements*, which is measured if the user wants that.

        It puts their results into the list, if they are each for themselves.
        """
        return nullcontext([])

    @classmethod
    def connect(cls, conninfo: str = "", **kwargs: Any) -> Self:
        """Connect to the server, as psycopg does."""
        # Here and not where pools are configured: callables return such values too.
        check_parameters({"conninfo": conninfo, **kwargs})
        connect: Any = super().connect
        return cast("Self", connect(conninfo, **kwargs))

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait as psycopg does, without gevent; no interruption leaves a statement running.

        psycopg cancels for Ctrl-C only. Here it is any exception that comes from elsewhere
        while a statement runs, such as the one of Celery's soft time limit.
        """
        try:
            return super().wait(gen, *args, **kwargs)
        except psycopg.Error as error:
            note_loss(self, error)
            raise
        except BaseException:
            end_statement_blocking(self)
            raise

    def commit(self) -> None:
        """Commit the open transaction, if there is one.

        Raise `CommitUnknown` if the connection is lost meanwhile, another
        ``psycopg.OperationalError`` if it was lost before.
        """
        before = self.pgconn.transaction_status
        try:
            self.send_commit()
        except psycopg.Error as error:
            if is_in_doubt(self, error, before):
                raise commit_unknown(self, error) from error
            raise

    def send_commit(self) -> None:
        """Do what psycopg's ``commit()`` does."""
        super().commit()

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Switch the connection to pipeline mode for a block, as psycopg does."""
        outer = self.open_pipeline
        try:
            with super().pipeline() as pipeline:
                self.open_pipeline = pipeline
                yield pipeline
        finally:
            self.open_pipeline = outer

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Run a block in a transaction, or in a savepoint inside one, as psycopg does.

        A connection that is lost before its end is an ``OperationalError`` at the end, and
        one that is lost during COMMIT `CommitUnknown`.
        """
        block = Transaction(self, savepoint_name, force_rollback)
        if pipeline_of(self):
            with self.pipeline(), block, self.pipeline():
                yield block
        else:
            with block:
                yield block

    def close(self) -> None:
        """Close the connection, or return it to a pool that has ``close_returns``.

        The greenlet's connection is released then, as by `geventpg.release_conn`.
        """
        if self._close_is_final:
            pool, self.pool = self.pool, None  # where psycopg looks
            try:
                super().close()
            finally:
                self.pool = pool
        elif self._close_returns and self.binding is not None and not self.closed:
            self.binding.release("close()")
        else:
            super().close()

    @property
    def _close_returns(self) -> bool:
        pool = getattr(self, "pool", None)
        return not self._close_is_final and getattr(pool, "close_returns", False)

    @contextmanager
    def close_is_final(self) -> Iterator[None]:
        """Make `close` close for a block, whatever its pool's ``close_returns``.

        For code that has the connection without being a user of the pool, such as its callbacks.
        """
        self._close_is_final = True
        try:
            yield
        finally:
            self._close_is_final = False

    def discard(self) -> None:
        """Close at once, as if it was lost: whatever a pool thinks of `close`. Does not block."""
        self.pgconn.finish()

    def __enter__(self) -> Self:
        if self.binding is not None:
            self.binding.enter()
        return super().__enter__()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        binding = self.binding
        if binding is None:
            super().__exit__(exc_type, exc_val, exc_tb)
            return
        if binding.leave(exc_type, exc_val, exc_tb):
            return
        try:
            if exc_type is None and self.broken and not autocommit_of(self):
                self.commit()  # raises: what the block did is lost
            super().__exit__(exc_type, exc_val, exc_tb)
        finally:
            binding.give_back()


def bindable(conn: Any) -> BindableConnection[Any]:
    """Return *conn*, which the registry's pools open with a `BindableConnection` class."""
    assert isinstance(conn, BindableConnection)
    return conn
