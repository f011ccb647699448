"""Prepared statements of one connection: what if they are gone.

psycopg prepares what it executes often. Such a statement can be lost (``DEALLOCATE ALL``,
``DISCARD ALL``), be there already, or go stale when a table changes; then it is executed again
without. Behind a pooler nothing is prepared in the first place: see `pooler`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from geventpg.errors import StaleStatement

if TYPE_CHECKING:
    from psycopg._preparing import Key, PrepareManager

    from .base import BindableConnection

# Raises the only 0A000 that is about a prepared statement ("cached plan must not change result
# type", in the language of the server): src/backend/utils/cache/plancache.c
_STALE_PLAN = "RevalidateCachedQuery"


def is_unusable(error: BaseException) -> bool:
    """Tell whether *error* is about a prepared statement: lost, there already, or stale."""
    if isinstance(error, (errors.InvalidSqlStatementName, errors.DuplicatePreparedStatement)):
        return True
    return (
        isinstance(error, errors.FeatureNotSupported) and error.diag.source_function == _STALE_PLAN
    )


def forget(conn: BindableConnection[Any], error: BaseException, query: bytes | None) -> None:
    """Do not use *query* prepared again, which met *error*; it is prepared anew when it is due.

    ``None``: in a pipeline it may not be known which one it was. Then it is all of them.
    """
    prepared = conn._prepared
    if isinstance(error, errors.FeatureNotSupported):
        forget_stale(conn, query)
        if query is not None:
            conn.observer.statement_is_stale(query)
    elif isinstance(error, errors.InvalidSqlStatementName):
        prepared._names.clear()  # one is lost: so are the others, most likely
        prepared._to_flush.clear()
    else:
        # In a pipeline it counts as prepared already. The one of that name is not ours.
        for key in _keys(prepared, query):
            del prepared._names[key]


def doubt(conn: psycopg.Connection[Any], query: bytes | None) -> list[Key]:
    """Take *query* for not prepared: the pipeline that was to do it failed, before or after.

    ``None``: all of them. Each is closed by its name, not all at once: psycopg does that *after*
    its next statement, which may just have been prepared. Return their keys.
    """
    prepared = conn._prepared
    keys = _keys(prepared, query)
    prepared._to_flush.extend(prepared._names.pop(key) for key in keys)
    return keys


def heal_or_raise(conn: BindableConnection[Any], error: psycopg.Error, *, possible: bool) -> None:
    """Tell the pool of a prepared statement that was gone; raise if more is lost with it."""
    conn.observer.statement_was_gone(conn, healed=possible)
    if not possible:
        # What the transaction did so far is lost: it can be run again as a whole.
        raise StaleStatement(f"{error}; the transaction can be run again") from error


def forget_all(conn: psycopg.Connection[Any]) -> None:
    """Trust no statement to be prepared; what is due is prepared anew."""
    doubt(conn, None)
    conn._prepared._counts.clear()


def forget_stale(conn: psycopg.Connection[Any], query: bytes | None) -> None:
    """Have *query* prepared anew, and its statement deallocated, when it is executed next."""
    prepared = conn._prepared
    for key in doubt(conn, query):
        prepared._counts[key] = prepared.prepare_threshold or 0


def _keys(prepared: PrepareManager, query: bytes | None) -> list[Key]:
    return [key for key in prepared._names if query is None or key[0] == query]
