"""Whether a COMMIT happened whose answer never came.

Before COMMIT a transaction is asked for its number. If the connection is lost while COMMIT is
under way, a fresh connection is asked how that number ended:
https://www.postgresql.org/docs/current/functions-info.html#FUNCTIONS-INFO-SNAPSHOT.
A number means something to the server that gave it only: after a fail-over the same number
can belong to another transaction. So cluster and timeline must be the same.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

import psycopg
from psycopg import pq

from geventpg import hub
from geventpg.errors import CommitUnknown

from .loss import note_outcome
from .wire import ask_gen

PATIENCE = 10.0
"""Seconds to look for the outcome: the server may be restarting."""

_PAUSE = 0.05

# Fails on some managed servers, and has no timeline on a standby.
_PLACE = (
    b"SELECT system_identifier, CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN"
    b" pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END"
    b" FROM pg_catalog.pg_control_system()"
)
# The names of before PostgreSQL 13, which all servers still know.
NUMBER = b"SELECT pg_catalog.txid_current_if_assigned()"
_STATUS = b"SELECT pg_catalog.txid_status(%d)"

Place = tuple[bytes, bytes]
"""Which cluster, and which of its timelines."""


class Outcome(enum.Enum):
    """How a transaction ended."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


class Mark(NamedTuple):
    """A transaction: its number, ``None`` if it has written nothing; and where that counts."""

    number: int | None
    place: Place | None


def find_place(conn: psycopg.Connection[Any]) -> Place | None:
    """Return what server this is, ``None`` if it cannot be told.

    One round trip, also in a transaction, which goes on. Raise ``psycopg.OperationalError`` if
    the connection is lost.
    """
    query, undo = _PLACE, b""
    if conn.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        query = b"SAVEPOINT _geventpg; %s; RELEASE _geventpg" % _PLACE
        undo = b"ROLLBACK TO _geventpg; RELEASE _geventpg"
    try:
        cluster, timeline = _ask(conn, query)
    except psycopg.OperationalError:
        raise
    except psycopg.Error:
        if undo:
            _ask(conn, undo)
        return None
    return (cluster, timeline) if cluster and timeline else None


def identify(conn: psycopg.Connection[Any], place: Place | None) -> Mark:
    """Return the mark of the open transaction on a server at *place*. One round trip.

    Raise ``psycopg.OperationalError`` if the connection is lost.
    """
    (number,) = _ask(conn, NUMBER)
    return Mark(int(number) if number else None, place)


def place_of(conn: Any) -> Place | None:
    """Return `find_place`, asked once for each connection."""
    try:
        place: Place | None = conn.server_place
    except AttributeError:
        place = conn.server_place = find_place(conn)
    return place


def settle(mark: Mark, error: psycopg.Error, connection: Callable[[float], Any]) -> bool:
    """Tell whether a COMMIT happened whose answer was lost; raise `CommitUnknown` if not known.

    *error* told of the loss, and tells from now on what is true. See `look_up`.
    """
    outcome = look_up(mark, connection)
    if outcome is Outcome.UNKNOWN:
        raise CommitUnknown(
            "the connection was lost while COMMIT was under way; the transaction is committed"
            f" or not, and it could not be found out: {error}"
        ) from error
    note_outcome(error, rolled_back=outcome is Outcome.ABORTED)
    return outcome is Outcome.COMMITTED


def look_up(
    mark: Mark,
    connection: Callable[[float], Any],
    patience: float = PATIENCE,
) -> Outcome:
    """Find out how the marked transaction ended; block for *patience* seconds at most.

    *connection* takes a time-out and returns a context manager with a connection, as
    `Pool.connection` does. A server that cannot be reached is asked again until the end.
    """
    if mark.number is None:
        return Outcome.ABORTED  # there was nothing to commit
    if mark.place is None:
        return Outcome.UNKNOWN
    deadline = monotonic() + patience
    while (remaining := deadline - monotonic()) > 0:
        try:
            with connection(remaining) as conn:
                if find_place(conn) != mark.place:
                    return Outcome.UNKNOWN
                (status,) = _ask(conn, _STATUS % mark.number)
            if status is None:
                return Outcome.UNKNOWN  # too long ago
            if status != b"in progress":
                return Outcome(status.decode())
        except psycopg.OperationalError:
            pass
        except psycopg.Error:
            return Outcome.UNKNOWN  # a number from the future
        hub.pause(min(_PAUSE, remaining))  # its backend has not noticed yet, or is still at it
    return Outcome.UNKNOWN


def _ask(conn: psycopg.Connection[Any], query: bytes) -> list[bytes | None]:
    """Return the one row that the statements in *query* give. Raise what the server says."""
    with conn.lock:
        results = conn.wait(ask_gen(conn.pgconn, query))
    return [result.get_value(0, column) for result in results for column in range(result.nfields)]
