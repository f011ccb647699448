"""Prepared statements of one connection: how they are sent, and what is done if one is gone.

psycopg prepares what it executes often. Such a statement can be lost (``DEALLOCATE ALL``,
``DISCARD ALL``), be there already, or go stale when a table changes; then it is executed again
without. Behind a pooler nothing is prepared in the first place: see `pooler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg import errors, pq

from geventpg.errors import StaleStatement

from .abc import PlainLink
from .psycopg_internals import NO, SHOULD, YES, Key, Prepared

# -- sending -----------------------------------------------------------------------------------


class Sendable(Protocol):
    """A statement and its parameters as libpq gets them. psycopg's ``PostgresQuery`` is one."""

    @property
    def query(self) -> bytes:
        """The text."""

    @property
    def params(self) -> Any:
        """The parameters."""

    @property
    def types(self) -> tuple[int, ...]:
        """The types of the parameters."""

    @property
    def formats(self) -> Any:
        """The formats of the parameters."""


class Sent(NamedTuple):
    """How a statement was sent, which its answer is to be compared with."""

    key: Key | None
    """Set if psycopg's record wants to know of the answer."""
    prep: Any
    name: bytes
    """The name of the prepared statement, empty if none was used."""

    @property
    def uses_prepared(self) -> bool:
        """Whether a prepared statement was used, or prepared for it."""
        return self.prep is not NO

    @property
    def prepares(self) -> bool:
        """Whether it was prepared with it: that is an answer more, before the statement's own."""
        return self.prep is SHOULD


PREPARED_BEFORE = Sent(None, YES, b"")
"""How a statement was sent that was prepared before, if the record need not hear of the answer."""


def send(
    pgconn: pq.abc.PGconn,
    prepared: Prepared,
    statement: Sendable,
    prepare: bool | None,
    result_format: pq.Format = pq.Format.TEXT,
) -> Sent:
    """Hand a statement to libpq by the extended protocol, prepared if it is or is due.

    In pipeline mode, where the answer to the preparing comes first. *prepare* is that of
    ``execute``. Does not wait. Raise what libpq does, for too many parameters for example.
    """
    record: Any = statement  # it has what the record looks at
    prep, name = prepared.get(record, prepare)
    if prep is SHOULD:
        pgconn.send_prepare(name, statement.query, param_types=statement.types)
    return send_as(pgconn, prepared, statement, prep, name, result_format)


def send_as(  # noqa: PLR0917  # by name it would be slower
    pgconn: pq.abc.PGconn,
    prepared: Prepared,
    statement: Sendable,
    prep: Any,
    name: bytes,
    result_format: pq.Format,
) -> Sent:
    """Do what `send` does for a statement that is prepared as *name*, or not at all."""
    if prep is NO:
        pgconn.send_query_params(
            statement.query,
            statement.params,
            param_types=statement.types,
            param_formats=statement.formats,
            result_format=result_format,
        )
    else:
        pgconn.send_query_prepared(
            name,
            statement.params,
            param_formats=statement.formats,
            result_format=result_format,
        )
    record: Any = statement
    return Sent(prepared.maybe_add_to_cache(record, prep, name), prep, name)


def answered(prepared: Prepared, sent: Sent, results: Sequence[pq.abc.PGresult]) -> None:
    """Have the record know the answer to a statement that `send` sent."""
    if sent.key is not None:
        prepared.validate(sent.key, sent.prep, sent.name, results)


def was_not_prepared(prepared: Prepared, key: Key, name: bytes) -> None:
    """Have the record know that preparing a statement as *name* failed."""
    if prepared.names.get(key) == name:
        del prepared.names[key]


# -- when one is gone --------------------------------------------------------------------------

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


def note_unusable(conn: PlainLink, error: BaseException, query: bytes | None) -> None:
    """Do not use *query* prepared again, which met *error*; it is prepared anew when it is due.

    ``None``: in a pipeline it may not be known which one it was. Then it is all of them.
    """
    prepared = conn.prepared
    if isinstance(error, errors.FeatureNotSupported):
        prepare_anew(conn, query)
        if query is not None:
            conn.observer.statement_is_stale(query)
    elif isinstance(error, errors.InvalidSqlStatementName):
        prepared.names.clear()  # one is lost: so are the others, most likely
        prepared.to_flush.clear()
    else:
        # In a pipeline it counts as prepared already. The one of that name is not ours.
        for key in _keys(prepared, query):
            del prepared.names[key]


def distrust(conn: PlainLink, query: bytes | None) -> list[Key]:
    """Take *query* for not prepared: the pipeline that was to do it failed, before or after.

    ``None``: all of them. Each is closed by its name, not all at once: psycopg does that *after*
    its next statement, which may just have been prepared. Return their keys.
    """
    prepared = conn.prepared
    keys = _keys(prepared, query)
    prepared.to_flush.extend(prepared.names.pop(key) for key in keys)
    return keys


def distrust_all(conn: PlainLink) -> None:
    """Take every statement for not prepared; what is due is prepared anew."""
    distrust(conn, None)
    conn.prepared.counts.clear()
    if not conn.prepared.is_readable:
        conn.prepare_threshold = None  # psycopg does not use its record then


def heal_or_raise(conn: PlainLink, error: psycopg.Error, *, possible: bool) -> None:
    """Tell the pool of a prepared statement that was gone; raise if more is lost with it."""
    conn.observer.statement_was_gone(conn, healed=possible)
    if not possible:
        # What the transaction did so far is lost: it can be run again as a whole.
        raise StaleStatement(f"{error}; the transaction can be run again") from error


def prepare_anew(conn: PlainLink, query: bytes | None) -> None:
    """Have *query* prepared anew, and its statement deallocated, when it is executed next."""
    prepared = conn.prepared
    for key in distrust(conn, query):
        prepared.counts[key] = prepared.prepare_threshold or 0


def make_due(prepared: Prepared, statement: Sendable) -> None:
    """Have a statement prepared when it is executed next, if any is."""
    record: Any = statement
    key = prepared.key(record)
    if prepared.prepare_threshold is not None and key not in prepared.names:
        prepared.counts[key] = max(prepared.prepare_threshold, prepared.counts.get(key, 0))


def is_due(conn: PlainLink) -> bool:
    """Tell whether a statement was executed so often that psycopg prepares it the next time."""
    threshold = conn.prepare_threshold
    return threshold is not None and any(n >= threshold for n in conn.prepared.counts.values())


def _keys(prepared: Prepared, query: bytes | None) -> list[Key]:
    return [key for key in prepared.names if query is None or key[0] == query]
