"""A statement on a connection of its own: for those that cannot, or had better not, share one.

It is also how statements are executed in processes without gevent.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, thread_time
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.abc import Params, Query
from psycopg.rows import RowFactory, tuple_row

from geventpg.connection.loss import is_lost
from geventpg.connection.psycopg_internals import (
    autocommit_of,
    begin_command_of,
    encoding_of,
    set_autocommit,
)
from geventpg.errors import CommitUnknown, StatementTimeout

from .result import Result
from .sharing import may_share, text_to_send

INERROR = pq.TransactionStatus.INERROR

MOST_ATTEMPTS = 5
"""Maximum of attempts for an idempotent statement: it is sent again when its connection is lost."""


class Asked(NamedTuple):
    """A statement as the user gave it."""

    query: Query
    params: Params | None
    row_factory: RowFactory[Any] | None
    prepare: bool | None
    binary: bool
    idempotent: bool


Take = Callable[[psycopg.Cursor[Any]], Any]


def everything(cur: psycopg.Cursor[Any]) -> Result[Any]:
    """Return what `execute` returns."""
    if cur.description is None:
        return Result(cur.rowcount, cur.statusmessage)
    description = cur.description
    return Result(cur.rowcount, cur.statusmessage, description, cur.fetchall())


def all_rows(cur: psycopg.Cursor[Any]) -> list[Any]:
    """Return what `fetch_all` returns."""
    return cur.fetchall()


def one_row(cur: psycopg.Cursor[Any]) -> Any:
    """Return what `fetch_one` returns."""
    return cur.fetchone()


def one_value(cur: psycopg.Cursor[Any]) -> Any:
    """Return what `fetch_val` returns."""
    row = cur.fetchone()
    return row[0] if row else None


def too_late(timeout: float) -> StatementTimeout:
    """Return what to raise for a statement that was sent and not answered within *timeout* s."""
    return StatementTimeout(
        f"no answer to the statement within {timeout:g} s; it was executed and committed, or will"
        " be, or not"
    )


class Alone:
    """Statements on connections of their own, one for each execution.

    :param checkout: gives an idle connection of a pool.
    :param give_back: takes it back.
    :param bounded: makes a block that ends what takes too long.
    :param note: is told how many seconds the server took.
    """

    def __init__(
        self,
        checkout: Callable[[], psycopg.Connection[Any]],
        give_back: Callable[[Any], object],
        bounded: Callable[[psycopg.Connection[Any]], AbstractContextManager[object]],
        note: Callable[[float], object] | None = None,
    ) -> None:
        self._checkout = checkout
        self._give_back = give_back
        self._bounded = bounded
        self._note = note

    def run(self, asked: Asked, take: Take) -> Any:
        """Execute a statement and return what *take* makes of it.

        Raise `CommitUnknown` if the connection is lost, unless it may be repeated.
        """
        if take is one_value:
            asked = asked._replace(row_factory=tuple_row)
        attempts = MOST_ATTEMPTS if asked.idempotent else 1
        while True:
            attempts -= 1
            conn = self._checkout()
            started, busy = monotonic(), thread_time()
            try:
                return self._execute(conn, asked, take)
            except CommitUnknown as error:
                if not attempts or isinstance(error, psycopg.errors.QueryCanceled):
                    raise
            finally:
                if self._note is not None:
                    self._note(monotonic() - started - (thread_time() - busy))
                self._give_back(conn)

    def _execute(self, conn: psycopg.Connection[Any], asked: Asked, take: Take) -> Any:
        # Without BEGIN, which some statements refuse, unless BEGIN sets the isolation or the like.
        switch = not autocommit_of(conn) and begin_command_of(conn) == b"BEGIN"
        executed = False
        try:
            if switch:
                set_autocommit(conn, True)
            query: Any = asked.query
            text = text_to_send(query, conn)
            if text is not None:
                may_share(text.encode(encoding_of(conn.pgconn)), has_params=False)
            with self._bounded(conn):
                cur = conn.cursor(row_factory=asked.row_factory or conn.row_factory)
                cur.execute(query, asked.params, prepare=asked.prepare, binary=asked.binary)
            executed = autocommit_of(conn)
            if executed:
                return take(cur)
            try:
                return take(cur)
            finally:
                # What was executed is committed, whatever *take* says of its rows.
                with self._bounded(conn):
                    conn.commit()
        except CommitUnknown:
            raise
        except psycopg.Error as error:
            if conn.pgconn.transaction_status == INERROR:
                conn.rollback()
            if executed or not autocommit_of(conn) or not is_lost(conn, error):
                raise
            raise CommitUnknown(
                "the connection was lost before the answer to the statement; it was executed and"
                f" committed, or not: {error}"
            ) from error
        finally:
            if switch:
                set_autocommit(conn, False)
