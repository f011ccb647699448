"""Transactions that tell the truth about their COMMIT, and whole transactions tried again.

A transaction that failed for a passing reason (see `transient`) can be run again as a whole, on a
fresh connection. One whose connection was lost while COMMIT was under way cannot, unless it
is known not to have happened: see `commit`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import gevent
import psycopg
from psycopg import IsolationLevel, errors, pq
from psycopg_pool import ConnectionPool

from . import hub, registry
from .bound import Owner
from .commit import Mark, Outcome, Place, find_place, identify, look_up
from .connection import Connection
from .errors import CommitUnknown
from .transient import Attempts, is_transient

T = TypeVar("T")
P = ParamSpec("P")

IDLE = pq.TransactionStatus.IDLE
INERROR = pq.TransactionStatus.INERROR
OK = pq.ConnStatus.OK


@contextmanager
def transaction(
    name: str = "default",
    *,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: float | None = None,
) -> Iterator[Connection[Any]]:
    """Run a block in a transaction on the greenlet's connection of pool *name*.

    Committed when the block ends, rolled back on any exception. ``get_conn()`` inside
    returns the same connection; its ``commit()`` is refused. Inside another transaction of
    this greenlet the block is a savepoint, and the options of a transaction are refused.
    *statement_timeout* (s) bounds every statement, on the server.

    When the connection is lost during COMMIT, the outcome is looked up on another one, for
    10 seconds at most. The block ends normally if it was committed, with the error that
    ended the connection if it was not, with `CommitUnknown` if nobody can tell. For this a
    transaction is asked for its number before COMMIT, which is a round trip (not when it is
    *read_only*). Blocks, and raises on checkout, as `get_conn` does. A kill rolls back; one
    that comes during COMMIT leaves it open which of both happened.
    """
    options = _Options(isolation_level, read_only, deferrable, statement_timeout)
    block: _Block | None = None
    try:
        with _checked_out(name, None) as conn:
            if _in_transaction(conn):
                options.refuse()
                with conn.transaction():
                    yield conn
            else:
                block = _Block(conn, options)
                with block:
                    yield conn
    except psycopg.Error as error:
        if block is None or block.doubtful is None:
            raise
        # The lost connection is back in the pool: the look-up takes no more than one.
        if _settle(block.doubtful, error, registry.get_pool(name)) is not Outcome.COMMITTED:
            raise


def run_in_transaction(
    fn: Callable[..., T],
    *args: Any,
    pool: ConnectionPool[Any] | str | None = None,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: float | None = None,
    max_attempts: int = 5,
    timeout: float | None = None,
    idempotent: bool = False,
    **kwargs: Any,
) -> T:
    """Call ``fn(conn, *args, **kwargs)`` in a transaction; return its result once committed.

    After a failure that may pass the whole transaction is run again, on a fresh connection:
    serialization failures, deadlocks, a lost connection, a server that shuts down or takes
    no more writes, a prepared statement that was lost or went stale. So *fn* must do nothing
    that a rollback does not undo. Anything else it raises is raised at once.

    At most *max_attempts*, with growing, random pauses of 2 seconds at most; none begins
    *timeout* seconds after the first, and a checkout waits no longer than that either. The
    last error is raised; its ``attempts`` are the errors of all attempts, in order.

    A connection lost during COMMIT is treated as in `transaction`: what was committed is
    not repeated, what was not is; when nobody can tell, `CommitUnknown` is raised, unless
    *idempotent* says that doing it twice is harmless. A notification is the exception: a
    transaction that did nothing else may send it twice.

    *pool* is a pool or the name of one (default ``"default"``); with a name ``get_conn()``
    inside returns the same connection. Inside another transaction of this greenlet it is a
    savepoint and one attempt: only who began the outer one can repeat it. Options are those
    of `transaction`. To pass *fn* an argument of the same name, use ``functools.partial``.
    """
    options = _Options(isolation_level, read_only, deferrable, statement_timeout)
    source = "default" if pool is None else pool
    attempts = Attempts(max_attempts, timeout)
    while True:
        conn: Connection[Any] | None = None
        block: _Block | None = None
        owner: Owner | None = None
        try:
            with _checked_out(source, attempts.remaining) as conn:
                owner = conn._binding.owner if conn._binding is not None else None
                if _in_transaction(conn):
                    options.refuse()
                    with conn.transaction():
                        return fn(conn, *args, **kwargs)
                block = _Block(conn, options)
                with block:
                    result = fn(conn, *args, **kwargs)
            return result
        except Exception as error:
            cause = error if owner is None else owner.database_error(error)
            if block is None or not isinstance(cause, psycopg.Error):
                raise  # on checkout, which has its own patience; or in somebody's transaction
            again = is_transient(cause, conn)
            failure: Exception = error
        if block.doubtful is not None:
            the_pool = source if isinstance(source, ConnectionPool) else registry.get_pool(source)
            try:
                if _settle(block.doubtful, failure, the_pool) is Outcome.COMMITTED:
                    return result
            except CommitUnknown as unknown:
                failure, again = unknown, idempotent
        pause = attempts.failed(failure)
        if not again or pause is None:
            attempts.attach(failure)
            raise failure
        _sleep(pause)


@overload
def retry(fn: Callable[Concatenate[Connection[Any], P], T], /) -> Callable[P, T]: ...


@overload
def retry(
    *,
    pool: ConnectionPool[Any] | str | None = None,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: float | None = None,
    max_attempts: int = 5,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Callable[[Callable[Concatenate[Connection[Any], P], T]], Callable[P, T]]: ...


def retry(fn: Any = None, /, **options: Any) -> Any:
    """Decorate a function whose first argument is a connection: run it in a transaction.

    Calling the result without that argument is `run_in_transaction` with *options*, which
    are the same. Use it with or without parentheses.
    """

    def decorate(function: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> T:
            def call(conn: Connection[Any]) -> T:
                return function(conn, *args, **kwargs)

            return run_in_transaction(call, **options)

        return run

    return decorate if fn is None else decorate(fn)


@dataclass(frozen=True)
class _Options:
    """What BEGIN is to say, and the bound of the statements."""

    isolation_level: IsolationLevel | None
    read_only: bool | None
    deferrable: bool | None
    statement_timeout: float | None

    def refuse(self) -> None:
        """Raise if an option is given, which an inner transaction cannot have."""
        if self != _Options(None, None, None, None):
            raise psycopg.ProgrammingError(
                "options of a transaction inside another transaction of the same greenlet:"
                " give them to the outer one"
            )


class _Block:
    """One transaction on one connection, begun and ended by a ``with`` block."""

    def __init__(self, conn: Connection[Any], options: _Options) -> None:
        self._conn = conn
        self._options = options
        self._transaction = psycopg.Transaction(conn)
        self._before = conn.isolation_level, conn.read_only, conn.deferrable
        self._place: Place | None = None
        self.doubtful: Mark | None = None
        """Set if the connection was lost while COMMIT was under way."""

    def __enter__(self) -> None:
        conn, options = self._conn, self._options
        level, read_only, deferrable = self._before
        if not (read_only if options.read_only is None else options.read_only):
            self._place = _place_of(conn)
        if options.isolation_level is not None and options.isolation_level != level:
            conn.isolation_level = options.isolation_level
        if options.read_only is not None and options.read_only != read_only:
            conn.read_only = options.read_only
        if options.deferrable is not None and options.deferrable != deferrable:
            conn.deferrable = options.deferrable
        try:
            self._transaction.__enter__()
            if options.statement_timeout is not None:
                milliseconds = max(round(options.statement_timeout * 1000), 1)
                conn.execute(f"SET LOCAL statement_timeout = {milliseconds}", prepare=False)
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            if exc is not None:
                return self._transaction.__exit__(exc_type, exc, traceback)
            self._commit()
            return False
        finally:
            self._restore()

    def _commit(self) -> None:
        conn, pgconn = self._conn, self._conn.pgconn
        if pgconn.transaction_status == INERROR:
            # The server would answer COMMIT with ROLLBACK, and psycopg would not say so.
            failed = errors.InFailedSqlTransaction(
                "the transaction cannot be committed, because a statement in it failed and the"
                " error was handled; put such a statement in 'with conn.transaction():'"
            )
            self._transaction.__exit__(type(failed), failed, None)
            raise failed
        mark = Mark(None, None)
        if not conn.read_only:
            try:
                mark = identify(conn, self._place)
            except BaseException as error:
                self._transaction.__exit__(type(error), error, error.__traceback__)
                raise
        if pgconn.status != OK:  # psycopg's block would end as if it were committed
            raise errors.OperationalError("the connection was lost before COMMIT")
        try:
            self._transaction.__exit__(None, None, None)
        except psycopg.Error:
            if pgconn.status != OK:
                self.doubtful = mark
            raise

    def _restore(self) -> None:
        conn = self._conn
        if conn.closed or conn.pgconn.transaction_status != IDLE:
            return
        now = conn.isolation_level, conn.read_only, conn.deferrable
        if now != self._before:
            conn.isolation_level, conn.read_only, conn.deferrable = self._before


@contextmanager
def _checked_out(
    source: ConnectionPool[Any] | str, timeout: float | None
) -> Iterator[Connection[Any]]:
    """Hold a connection of a pool, or the greenlet's own of a named one."""
    if isinstance(source, ConnectionPool):
        with source.connection(timeout=timeout) as conn:
            yield conn
        return
    held = registry.hold(source, timeout=timeout)
    with held:
        yield held.conn  # type: ignore[misc]  # without gevent it is psycopg's


def _in_transaction(conn: psycopg.Connection[Any]) -> bool:
    return conn.pgconn.transaction_status != IDLE or conn._num_transactions > 0


def _place_of(conn: Any) -> Place | None:
    """Return `find_place`, asked once for each connection."""
    try:
        place: Place | None = conn._server_place
    except AttributeError:
        place = conn._server_place = find_place(conn)
    return place


def _settle(mark: Mark, error: Exception, pool: ConnectionPool[Any]) -> Outcome:
    """Return whether a COMMIT happened whose answer was lost; raise if nobody can tell."""
    outcome = look_up(mark, pool.connection, _sleep)
    if outcome is Outcome.UNKNOWN:
        raise CommitUnknown(
            "the connection was lost while COMMIT was under way; the transaction is committed"
            f" or not, and it could not be found out: {error}"
        ) from error
    return outcome


def _sleep(seconds: float) -> None:
    if hub.in_use():
        gevent.sleep(seconds)
    else:
        time.sleep(seconds)
