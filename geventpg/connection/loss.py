"""Whether a lost connection took its transaction with it, or may have left it committed.

The server rolls back what a session leaves open. So work whose connection was lost can be
repeated if it was in a transaction whose COMMIT was not yet sent. That is known where the
connection is lost, and later only by the error: it tells.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from geventpg.errors import CommitUnknown

from .session_end import ends_session

if TYPE_CHECKING:
    from .base import BindableConnection

ACTIVE = pq.TransactionStatus.ACTIVE  # in a pipeline
INTRANS = pq.TransactionStatus.INTRANS
BAD = pq.ConnStatus.BAD

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


def is_lost(conn: psycopg.Connection[Any], error: psycopg.Error) -> bool:
    """Tell whether *conn* was lost with *error*, if only by the server's last words as yet."""
    words = error.pgresult
    return conn.pgconn.status == BAD or (words is not None and ends_session(words))


def note_loss(conn: BindableConnection[Any], error: psycopg.Error) -> None:
    """Have *error* tell about the transaction if *conn* was lost with it, or found lost."""
    if not is_lost(conn, error):
        return
    # In autocommit mode, and in a pipeline, a statement may have been committed as it arrived.
    in_transaction = conn._num_transactions > 0 or not (
        conn._autocommit or conn._tpc or conn._pipeline is not None
    )
    note_outcome(error, rolled_back=in_transaction and not conn.commit_in_doubt)


def is_in_doubt(conn: psycopg.Connection[Any], error: psycopg.Error, before: int) -> bool:
    """Tell whether a COMMIT that failed with *error* was under way when *conn* was lost.

    *before* is the transaction's status when COMMIT was to be sent: one that had failed, or
    whose connection was lost already, was not committed.
    """
    return before in (ACTIVE, INTRANS) and is_lost(conn, error)


def commit_unknown(conn: BindableConnection[Any], error: psycopg.Error) -> CommitUnknown:
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
        conn: Any = self._conn
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
            if exc_val is None and self._outer_transaction and is_in_doubt(conn, error, before):
                raise commit_unknown(conn, error) from error
            raise
