"""Which single statements may share a connection with others, and which make no sense in a pool."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.abc import Query

from geventpg.connection.psycopg_internals import encoding_of
from geventpg.sql.kinds import Kind
from geventpg.sql.reading import read
from geventpg.sql.statement import Statement


def text_to_send(query: Query, conn: psycopg.Connection[Any]) -> str | None:
    """Return the text of a statement that has no values in it, else ``None``."""
    if isinstance(query, Statement):
        query = query.query
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(encoding_of(conn.pgconn))
    return query.as_string(conn) if isinstance(query, sql.Composable) else None


def may_share(query: bytes, *, has_params: bool) -> bool:
    """Tell whether a statement may be sent over a connection that others use at the same time.

    Raise ``psycopg.ProgrammingError`` if it makes no sense without a connection of its own.
    """
    reading = read(query)
    for kind, word in reading.statements:
        if kind is not Kind.QUERY:
            _refuse(kind, word)
    return reading.may_share(has_params=has_params)


def _refuse(kind: Kind, word: str) -> None:
    if kind in (Kind.TRANSACTION, Kind.SAVEPOINT):
        raise psycopg.ProgrammingError(
            "a statement of a pool is a transaction of its own and cannot begin or end one:"
            " use geventpg.transaction() or pool.connection()"
        )
    if kind is Kind.COPY:
        raise psycopg.ProgrammingError(
            "COPY from or to the client needs a connection of its own: use cursor.copy() on one of"
            " pool.connection()"
        )
    if kind is Kind.SESSION:
        raise psycopg.ProgrammingError(
            f"{word} is about a session, and which connection executes a statement of a pool is"
            " not known: use pool.connection()"
        )
