"""What ``with get_conn() as conn:`` means: the connection's side of it.

psycopg's ``with conn:`` commits or rolls back, and closes unless the connection belongs to a
pool. A connection that `get_conn` bound to a greenlet is also given back, at the end of the
outermost block only; inner blocks join it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from psycopg.abc import ConnParam, PQGen
from psycopg.rows import Row

from geventpg.connection.batch.batch import Batch, Queued, StatementResult
from geventpg.connection.batch.sending import send_here
from geventpg.conninfo.checks import check_parameters

from .abc import UNOBSERVED, Observer
from .interruption import heal_blocking
from .loss import Transaction, commit_unknown, is_in_doubt, note_loss

if TYPE_CHECKING:
    from typing_extensions import Self


RV = TypeVar("RV")


class Owner(Protocol):
    """Who checked a greenlet's connection out, if not `get_conn`: a framework that uses it too.

    Django's ORM does. Transactions on the connection are the owner's, so that it knows of them.
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
    """Who a bound connection belongs to."""

    owner: Owner | None

    def enter(self) -> None:
        """A ``with`` block begins."""

    def leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """A ``with`` block ends; tell whether the connection has nothing to do for that."""

    def give_back(self) -> None:
        """End the binding and return the connection to its pool. Does not switch."""

    def release(self, act: str) -> None:
        """Do what `geventpg.release_conn` does, for a user's *act*, which an error names."""


class BindableConnection(psycopg.Connection[Row]):
    """A psycopg connection that can be bound to a greenlet or thread by `get_conn`."""

    _pool: Any
    binding: Binding | None = None
    _close_is_final = False
    commit_in_doubt = False
    """Whether the connection was lost while COMMIT was under way."""
    observer: Observer = UNOBSERVED
    """Its pool, which is told what happens to it."""

    def send_batch(self, batch: Batch, *, atomic: bool = True) -> list[StatementResult]:
        """Send the statements of *batch* together; return a result for each, in order.

        They belong to the connection's transaction, as with ``execute``: one that is open, or
        one that is begun and, with ``autocommit``, committed at the end. An error undoes all
        of them with that transaction; its ``index`` says which statement it was. In a
        transaction of somebody else use ``with conn.transaction():`` to undo just the batch.
        When the connection is lost while COMMIT is under way, `CommitUnknown` is raised:
        `Pool.send_batch` would look the outcome up.

        With *atomic* false each statement is a transaction of its own; see `Pool.send_batch`.
        That needs ``autocommit`` and no open transaction.

        Blocks. Nothing is left running or uncommitted after a kill, as with ``execute``.
        """
        return send_here(self, batch, atomic=atomic)

    def _look_for_pooler(self) -> None:
        """Find out whether to prepare statements; psycopg's own connections do as told."""

    def _measuring_batch(
        self,
        statements: Sequence[Queued],  # noqa: ARG002  # for those that measure
    ) -> AbstractContextManager[list[StatementResult]]:
        """Return a block that sends *statements*, to be measured if somebody wants to know.

        It puts their results into the list, if they are each for themselves.
        """
        return nullcontext([])

    @classmethod
    def _get_connection_params(cls, conninfo: str, **kwargs: Any) -> dict[str, ConnParam]:
        # Here and not where pools are configured: callables return such values too.
        check_parameters({"conninfo": conninfo, **kwargs})
        return super()._get_connection_params(conninfo, **kwargs)

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
            heal_blocking(self)
            raise

    def commit(self) -> None:
        """Commit the open transaction, if there is one.

        Raise `CommitUnknown` if the connection is lost meanwhile, another
        ``psycopg.OperationalError`` if it was lost before.
        """
        before = self.pgconn.transaction_status
        try:
            with self.lock:
                self.wait(self._commit_gen())
        except psycopg.Error as error:
            if is_in_doubt(self, error, before):
                raise commit_unknown(self, error) from error
            raise

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """Run a block in a transaction, or in a savepoint inside one, as psycopg does.

        A connection that is lost before its end is an ``OperationalError`` at the end, and
        one that is lost during COMMIT `CommitUnknown`.
        """
        block = Transaction(self, savepoint_name, force_rollback)
        if self._pipeline:
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
            pool, self._pool = self._pool, None  # where psycopg looks
            try:
                super().close()
            finally:
                self._pool = pool
        elif self._close_returns and self.binding is not None and not self.closed:
            self.binding.release("close()")
        else:
            super().close()

    @property
    def _close_returns(self) -> bool:
        pool = getattr(self, "_pool", None)
        return not self._close_is_final and getattr(pool, "close_returns", False)

    @contextmanager
    def close_is_final(self) -> Iterator[None]:
        """Make `close` close for a block, whatever its pool's ``close_returns``.

        For those who have it and are no users of the pool, such as its callbacks.
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
            if exc_type is None and self.broken and not self._autocommit:
                self.commit()  # raises: what the block did is lost
            super().__exit__(exc_type, exc_val, exc_tb)
        finally:
            binding.give_back()


def bindable(conn: Any) -> BindableConnection[Any]:
    """Return *conn*, which the registry's pools open with a `BindableConnection` class."""
    assert isinstance(conn, BindableConnection)
    return conn
