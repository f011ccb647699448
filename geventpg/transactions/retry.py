"""Transactions that tell the truth about their COMMIT, and transactions that are run again.

A transaction that failed for a passing reason (see `transient`) can be run again as a whole, on a
fresh connection. If the connection was lost during COMMIT, that is allowed only if the transaction
is known not to be committed: see `geventpg.connection.commit`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

import psycopg
from psycopg import IsolationLevel, pq
from psycopg_pool import ConnectionPool

from geventpg import hub
from geventpg.connection.base import Owner
from geventpg.connection.commit import settle
from geventpg.connection.connection import Connection
from geventpg.connection.psycopg_internals import blocks_of
from geventpg.errors import CommitUnknown
from geventpg.registry import pools as registry

from .transaction import Block, Options, StatementBound
from .transient import Attempts, is_transient

T = TypeVar("T")
P = ParamSpec("P")

IDLE = pq.TransactionStatus.IDLE


@contextmanager
def transaction(
    name: str = "default",
    *,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: StatementBound = None,
) -> Iterator[Connection[Any]]:
    """Run a block in a transaction on the greenlet's connection of pool *name*.

    Committed when the block ends, rolled back on any exception. ``get_conn()`` inside
    returns the same connection; its ``commit()`` is refused. Inside another transaction of
    this greenlet the block is a savepoint, and the options of a transaction are refused.
    *statement_timeout* (s) bounds every statement on the server; it is sent together with BEGIN.
    ``"remaining"`` is the time that the unit of work around the block has left, for example a
    Celery task with a time limit; without a limit there is no bound.

    When the connection is lost during COMMIT, the outcome is looked up on another one, for
    10 seconds at most. The block ends normally if the transaction was committed, with the error
    that ended the connection if it was not, and with `CommitUnknown` if that cannot be found out.
    For this the server is asked for the transaction's number before COMMIT, which is a round trip
    (not when it is *read_only*). Blocks, and raises on checkout, as `get_conn` does. A kill rolls
    back; after a kill during COMMIT either may have happened.
    """
    options = Options(isolation_level, read_only, deferrable, statement_timeout)
    block: Block | None = None
    try:
        with _checked_out(name, None) as conn:
            if _in_transaction(conn):
                options.refuse()
                with conn.transaction():
                    yield conn
            else:
                block = Block(conn, options, options.time_for_statements(None))
                with block:
                    yield conn
    except psycopg.Error as error:
        if block is None or block.doubtful is None:
            raise
        # The lost connection is back in the pool, so the look-up needs only one connection.
        if not settle(block.doubtful, error, registry.get_pool(name).connection):
            raise


def run_in_transaction(
    fn: Callable[..., T],
    *args: Any,
    pool: ConnectionPool[Any] | str | None = None,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: StatementBound = None,
    max_attempts: int = 5,
    timeout: float | None = None,
    idempotent: bool = False,
    **kwargs: Any,
) -> T:
    """Call ``fn(conn, *args, **kwargs)`` in a transaction; return its result once committed.

    After a failure that may pass, the whole transaction is run again on a fresh connection. Such
    failures are serialization failures, deadlocks, a lost connection, a server that shuts down or
    takes no more writes, and a prepared statement that was gone or went stale. So *fn* must do
    nothing that a rollback does not undo. Any other exception is raised at once.

    There are *max_attempts* attempts at most, with growing, random pauses of 2 seconds at most. No
    attempt begins, and no checkout waits, later than *timeout* seconds after the beginning. The
    last error is raised; its ``attempts`` are the errors of all attempts, in order.

    A connection lost during COMMIT is treated as in `transaction`: the transaction is repeated
    only if it was not committed. If that cannot be found out, `CommitUnknown` is raised, unless
    *idempotent* says that doing it twice is harmless. One exception: a transaction that did nothing
    but send a notification may send it twice.

    *pool* is a pool or the name of one (default ``"default"``); with a name ``get_conn()``
    inside returns the same connection. Inside another transaction of this greenlet this is a
    savepoint and one attempt, because only the code that began the outer transaction can repeat it.
    Options are those of `transaction`; ``statement_timeout="remaining"`` is the rest of *timeout*
    when an attempt begins, or of the unit of work's time if that is less. To pass *fn* an argument
    with the name of an option, use ``functools.partial``.
    """
    options = Options(isolation_level, read_only, deferrable, statement_timeout)
    source = "default" if pool is None else pool
    attempts = Attempts(max_attempts, timeout)
    while True:
        conn: Connection[Any] | None = None
        block: Block | None = None
        owner: Owner | None = None
        try:
            with _checked_out(source, attempts.remaining) as conn:
                owner = conn.binding.owner if conn.binding is not None else None
                if _in_transaction(conn):
                    options.refuse()
                    with conn.transaction():
                        return fn(conn, *args, **kwargs)
                block = Block(conn, options, options.time_for_statements(attempts.remaining))
                with block:
                    result = fn(conn, *args, **kwargs)
            return result
        except Exception as error:
            cause = error if owner is None else owner.database_error(error)
            if block is None or not isinstance(cause, psycopg.Error):
                # The checkout failed, which waits long enough by itself; or the failure is inside
                # another transaction, which only its own code can repeat.
                raise
            failure: Exception = error  # to be raised; the cause decides whether it may pass
        if block.doubtful is not None:
            the_pool = source if isinstance(source, ConnectionPool) else registry.get_pool(source)
            try:
                if settle(block.doubtful, cause, the_pool.connection):
                    return result
            except CommitUnknown as unknown:
                failure = cause = unknown
        unknown_but_harmless = idempotent and isinstance(cause, CommitUnknown)
        pause = attempts.failed(failure)
        if pause is None or not (unknown_but_harmless or is_transient(cause, conn)):
            attempts.attach(failure)
            raise failure
        hub.pause(pause)


@overload
def retry(fn: Callable[Concatenate[Connection[Any], P], T], /) -> Callable[P, T]: ...


@overload
def retry(
    *,
    pool: ConnectionPool[Any] | str | None = None,
    isolation_level: IsolationLevel | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
    statement_timeout: StatementBound = None,
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


@contextmanager
def _checked_out(
    source: ConnectionPool[Any] | str, timeout: float | None
) -> Iterator[Connection[Any]]:
    """Hold a connection of a pool, or the greenlet's own of a named one."""
    if isinstance(source, ConnectionPool):
        with source.connection(timeout=timeout) as conn:
            yield conn
        return
    with registry.holding(source, timeout) as conn:
        yield conn  # type: ignore[misc]  # without gevent it is psycopg's


def _in_transaction(conn: psycopg.Connection[Any]) -> bool:
    return conn.pgconn.transaction_status != IDLE or blocks_of(conn) > 0
