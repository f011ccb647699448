"""Which statements may share a connection with others. Values only: no I/O.

What is read is the text. Only what certainly works in libpq's pipeline mode, and leaves nothing
behind in its session, goes that way; the rest takes a connection of its own for its execution.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import sql
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH
from psycopg.abc import Query

from .session_effects import left_behind
from .statement import Statement
from .text import first_word

_SHARED = re.compile(rb"(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES|TABLE)\b", re.IGNORECASE)
_CONTROL = re.compile(
    rb"(?:BEGIN|START|END|ABORT|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PREPARE\s+TRANSACTION)\b"
    rb"(?!\s+PREPARED\b)",
    re.IGNORECASE,
)
_COPY = re.compile(rb"COPY\b.*\b(?:STDIN|STDOUT)\b", re.IGNORECASE | re.DOTALL)
_SESSION = re.compile(
    rb"(SET|RESET|LISTEN|UNLISTEN|DISCARD|DEALLOCATE|PREPARE|DECLARE)\b", re.IGNORECASE
)


def text_of(query: Query, conn: psycopg.Connection[Any]) -> str | None:
    """Return the text of a statement that has no values in it, else ``None``."""
    if isinstance(query, Statement):
        query = query.query
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(conn.pgconn._encoding)
    return query.as_string(conn) if isinstance(query, sql.Composable) else None


def may_share(query: bytes, *, has_params: bool) -> bool:
    """Tell whether a statement may be sent over a connection that others use at the same time.

    Raise ``psycopg.ProgrammingError`` if it makes no sense without a connection of its own.
    """
    if len(query) > MAX_CACHED_STATEMENT_LENGTH:
        return _may_share(query, has_params)
    return _remembered(query, has_params)


def _may_share(query: bytes, has_params: bool) -> bool:
    start = first_word(query)
    if not _SHARED.match(query, start):
        _refuse(query, start)
        return False
    if left_behind(query) is not None:
        return False
    # With parameters psycopg uses the extended protocol anyway, which takes one statement and
    # gives "$1" a meaning; without, it must not make a difference.
    return has_params or not (b";" in query.rstrip(b"; \t\r\n") or b"$" in query)


_remembered = lru_cache(maxsize=512)(_may_share)


def _refuse(query: bytes, start: int) -> None:
    if _CONTROL.match(query, start):
        raise psycopg.ProgrammingError(
            "a statement of a pool is a transaction of its own and cannot begin or end one:"
            " use geventpg.transaction() or pool.connection()"
        )
    if _COPY.match(query, start):
        raise psycopg.ProgrammingError(
            "COPY from or to the client needs a connection of its own: use cursor.copy() on one of"
            " pool.connection()"
        )
    if word := _SESSION.match(query, start):
        raise psycopg.ProgrammingError(
            f"{word[1].decode().upper()} is about a session, and which connection executes a"
            " statement of a pool is not known: use pool.connection()"
        )
