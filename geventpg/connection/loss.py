"""Whether a connection is lost, and whether its transaction went with it or may be committed.

When the server ends a session it says so, in an error that is about no statement. The session may
go on for a while, on its way out, and answers nothing any more. So these last words are its end,
and not the end of the socket that follows.

The server rolls back what a session leaves open. So work whose connection was lost can be
repeated if it was in a transaction whose COMMIT was not yet sent. That is known where the
connection is lost, and later only by the error: it tells.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import psycopg
from psycopg import pq

from geventpg.errors import CommitUnknown

from .abc import PlainLink
from .psycopg_internals import autocommit_of, blocks_of, is_outermost, pipeline_of, two_phase_of

ACTIVE = pq.TransactionStatus.ACTIVE  # in a pipeline
INTRANS = pq.TransactionStatus.INTRANS
BAD = pq.ConnStatus.BAD
SEVERITY_NONLOCALIZED = pq.DiagnosticField.SEVERITY_NONLOCALIZED
SEVERITY = pq.DiagnosticField.SEVERITY

_FATAL = {b"FATAL", b"PANIC"}

_ATTRIBUTE = "_geventpg_rolled_back"


def is_rolled_back(error: BaseException) -> bool | None:
    """Tell whether the loss that *error* reports rolled the work back for certain.

    ``None`` if it does not report a lost connection, as far as it is known.
    """
    certain: bool | None = getattr(error, _ATTRIBUTE, None)
    return certain


def note_outcome(error: BaseException, *, rolled_back: bool) -> None:
    """Have *error* tell what `is_rolled_back` returns."""
    setattr(error, _ATTRIBUTE, rolled_back)


def ends_session(result: pq.abc.PGresult) -> bool:
    """Tell whether an error that the server reports is the end of its session."""
    severity = result.error_field(SEVERITY_NONLOCALIZED) or result.error_field(SEVERITY)
    return severity in _FATAL


def is_alive(pgconn: pq.abc.PGconn) -> bool:
    """Read what arrived on an idle connection; tell whether its session is not over.

    Notifications stay with libpq. Does not block or switch; costs no round trip.
    """
    over = False
    pass_on = pgconn.notice_handler

    def listen(result: pq.abc.PGresult) -> None:
        # No question is open: libpq makes a notice of every error.
        nonlocal over
        over = over or ends_session(result)
        if pass_on is not None:
            pass_on(result)

    pgconn.notice_handler = listen
    try:
        # The first read takes the last message, the second sees the end of the socket.
        for _ in range(2):
            pgconn.consume_input()
            pgconn.is_busy()  # makes libpq parse it
    except psycopg.OperationalError:
        pass
    finally:
        pgconn.notice_handler = pass_on
    return not over and pgconn.status != BAD


def is_lost(conn: Any, error: psycopg.Error) -> bool:
    """Tell whether *conn* was lost with *error*, be it only by the server's last words so far."""
    words = error.pgresult
    return conn.pgconn.status == BAD or (words is not None and ends_session(words))


def note_loss(conn: PlainLink, error: psycopg.Error) -> None:
    """Have *error* tell about the transaction if *conn* was lost with it, or found lost."""
    if not is_lost(conn, error):
        return
    # In autocommit mode, and in a pipeline, a statement may have been committed as it arrived.
    in_transaction = blocks_of(conn) > 0 or not (
        autocommit_of(conn) or two_phase_of(conn) or pipeline_of(conn) is not None
    )
    note_outcome(error, rolled_back=in_transaction and not conn.commit_in_doubt)


def is_in_doubt(conn: psycopg.Connection[Any], error: psycopg.Error, before: int) -> bool:
    """Tell whether a COMMIT that failed with *error* was under way when *conn* was lost.

    *before* is the transaction's status when COMMIT was to be sent: one that had failed, or
    whose connection was lost already, was not committed.
    """
    return before in (ACTIVE, INTRANS) and is_lost(conn, error)


def commit_unknown(conn: PlainLink, error: psycopg.Error) -> CommitUnknown:
    """Return what to raise from *error* when *conn* was lost during COMMIT."""
    conn.commit_in_doubt = True
    note_outcome(error, rolled_back=False)
    return CommitUnknown(
        "the connection was lost while COMMIT was under way; the transaction is committed or not:"
        f" {error}"
    )


class Transaction(psycopg.Transaction):
    """psycopg's block, which does not end as if it were committed when that is not so."""

    __module__ = "psycopg"

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        conn: Any = self.connection
        before = self.pgconn.transaction_status
        if exc_val is None and self.pgconn.status == BAD:
            self.status = self.Status.FAILED
            lost = psycopg.OperationalError("the connection was lost before COMMIT")
            note_loss(conn, lost)
            raise lost
        try:
            return super().__exit__(exc_type, exc_val, exc_tb)
        except psycopg.Error as error:
            # An inner block has its savepoint released, which commits nothing.
            if exc_val is None and is_outermost(self) and is_in_doubt(conn, error, before):
                raise commit_unknown(conn, error) from error
            raise
