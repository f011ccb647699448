"""One transaction on one connection: its options, its BEGIN and its COMMIT."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import psycopg
from psycopg import IsolationLevel, errors, pq

from geventpg.connection.commit import Mark, Place, identify, place_of
from geventpg.connection.connection import Connection
from geventpg.connection.loss import note_outcome
from geventpg.connection.psycopg_internals import OpenTransaction
from geventpg.registry.held import cannot_commit
from geventpg.registry.scope import remaining_time

IDLE = pq.TransactionStatus.IDLE
INERROR = pq.TransactionStatus.INERROR
OK = pq.ConnStatus.OK

REMAINING = "remaining"
LONGEST_TIMEOUT = (2**31 - 1) / 1000  # the server's

StatementBound = float | Literal["remaining"] | None
"""The seconds that a statement may take; ``"remaining"``: what the unit of work has left."""


@dataclass(frozen=True)
class Options:
    """The options of a transaction: those of BEGIN, and the bound of its statements."""

    isolation_level: IsolationLevel | None
    read_only: bool | None
    deferrable: bool | None
    statement_timeout: StatementBound

    def __post_init__(self) -> None:
        bound = self.statement_timeout
        if isinstance(bound, str) and bound != REMAINING:
            raise ValueError(f"statement_timeout must be seconds or {REMAINING!r}, not {bound!r}")
        if not isinstance(bound, str) and bound is not None and not 0 < bound <= LONGEST_TIMEOUT:
            raise ValueError(
                f"statement_timeout must be more than 0 and at most {LONGEST_TIMEOUT:g} s,"
                f" not {bound:g}"
            )

    def time_for_statements(self, remaining: float | None) -> float | None:
        """Return the bound (s) of the statements of a transaction that begins now, if it has one.

        *remaining* is the time that the caller has left.
        """
        if not isinstance(self.statement_timeout, str):
            return self.statement_timeout
        times = [time for time in (remaining, remaining_time()) if time is not None]
        return min(times, default=None)

    def refuse(self) -> None:
        """Raise if an option is given: a transaction inside another one cannot have options."""
        if self != Options(None, None, None, None):
            raise psycopg.ProgrammingError(
                "options of a transaction inside another transaction of the same greenlet:"
                " give them to the outer one"
            )


def _transaction(conn: Connection[Any], statement_timeout: float | None) -> OpenTransaction:
    """Return psycopg's block, with a bound for its statements that is sent together with BEGIN."""
    block = OpenTransaction(conn)
    if statement_timeout is not None:
        milliseconds = max(int(min(statement_timeout, LONGEST_TIMEOUT) * 1000), 1)
        block.with_begin = f"SET LOCAL statement_timeout = {milliseconds}".encode()
    return block


class Block:
    """One transaction on one connection, as a ``with`` block."""

    def __init__(
        self, conn: Connection[Any], options: Options, statement_timeout: float | None
    ) -> None:
        self._conn = conn
        self._options = options
        self._transaction = _transaction(conn, statement_timeout)
        self._before = conn.isolation_level, conn.read_only, conn.deferrable
        self._place: Place | None = None
        self.doubtful: Mark | None = None
        """The transaction's mark, if the connection was lost while COMMIT was under way."""

    def __enter__(self) -> None:
        conn, options = self._conn, self._options
        level, read_only, deferrable = self._before
        if not (read_only if options.read_only is None else options.read_only):
            self._place = place_of(conn)
        if options.isolation_level is not None and options.isolation_level != level:
            conn.isolation_level = options.isolation_level
        if options.read_only is not None and options.read_only != read_only:
            conn.read_only = options.read_only
        if options.deferrable is not None and options.deferrable != deferrable:
            conn.deferrable = options.deferrable
        try:
            self._transaction.__enter__()  # if it is interrupted, it undoes itself
        except BaseException:
            self._restore()
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
            failed = cannot_commit("with conn.transaction():")
            self._transaction.__exit__(type(failed), failed, None)
            raise failed
        mark = Mark(None, None)
        if not conn.read_only:
            try:
                mark = identify(conn, self._place)
            except BaseException as error:
                self._transaction.__exit__(type(error), error, error.__traceback__)
                raise
        if pgconn.status != OK:  # psycopg's block would end as if the transaction were committed
            lost = errors.OperationalError("the connection was lost before COMMIT")
            note_outcome(lost, rolled_back=True)
            raise lost
        try:
            self._transaction.__exit__(None, None, None)
        except psycopg.Error as error:
            if pgconn.status != OK:
                note_outcome(error, rolled_back=False)  # until the outcome is known
                self.doubtful = mark
            raise

    def _restore(self) -> None:
        conn = self._conn
        if conn.closed or conn.pgconn.transaction_status != IDLE:
            return
        now = conn.isolation_level, conn.read_only, conn.deferrable
        if now != self._before:
            conn.isolation_level, conn.read_only, conn.deferrable = self._before
