"""Prepared statements of one connection: whether to make them, and what if they are gone.

psycopg prepares what it executes often. Behind a pooler that hands every transaction to
another server connection such statements are not there next time, so nothing is prepared
there. Elsewhere one can still be lost (``DEALLOCATE ALL``, ``DISCARD ALL``), be there already,
or go stale when a table changes; then it is executed again without.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery

    from .connection import Connection

logger = logging.getLogger("geventpg")

# The only 0A000 that is about a prepared statement:
# https://www.postgresql.org/docs/current/sql-prepare.html#SQL-PREPARE-NOTES
_STALE_PLAN = "cached plan must not change result type"


def is_unusable(error: BaseException) -> bool:
    """Tell whether *error* is about a prepared statement: lost, there already, or stale."""
    if isinstance(error, (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)):
        return True
    return isinstance(error, errors.FeatureNotSupported) and _STALE_PLAN in str(error)


def find_pooler_gen(conn: Connection[Any]) -> PQGen[None]:
    """Find out whether a pooler is in between, and prepare nothing behind one. One round trip.

    A pooler makes up the process id that it tells with the cancel key.
    """
    conn.pgconn.send_query(b"SELECT pg_catalog.pg_backend_pid()")
    (result,) = yield from generators.execute(conn.pgconn)
    if result.status != pq.ExecStatus.TUPLES_OK:
        raise errors.error_from_result(result, encoding=conn.pgconn._encoding)
    conn._pooled = int(result.get_value(0, 0) or 0) != conn.pgconn.backend_pid
    if conn._pooled:
        conn.prepare_threshold = None
        logger.debug("%s: a pooler is in between, so nothing is prepared", conn)


def forget(conn: Connection[Any], error: BaseException, pgq: PostgresQuery) -> None:
    """Do not use the statement again that met *error*; it is prepared anew when it is due."""
    prepared = conn._prepared
    if isinstance(error, errors.FeatureNotSupported):
        forget_stale(conn, pgq.query)
        if conn._on_stale is not None:
            conn._on_stale(pgq.query)
    elif isinstance(error, errors.InvalidSqlStatementName):
        prepared._names.clear()  # one is lost: so are the others, most likely
        prepared._to_flush.clear()


def forget_stale(conn: psycopg.Connection[Any], query: bytes) -> None:
    """Have *query* prepared anew, and its statement deallocated, when it is executed next."""
    prepared = conn._prepared
    for key in [key for key in prepared._names if key[0] == query]:
        prepared._to_flush.append(prepared._names.pop(key))
        prepared._counts[key] = prepared.prepare_threshold or 0


def is_pooled(conn: psycopg.Connection[Any]) -> bool:
    """Tell whether a pooler is in between; a round trip if nobody asked before.

    Also for a connection that is not ours. A transaction that was open is still open.
    """
    if getattr(conn, "_pooled", None) is None:
        with conn.lock:
            conn.wait(find_pooler_gen(cast("Connection[Any]", conn)))
    return bool(cast("Connection[Any]", conn)._pooled)
