"""What the answer to a single statement means: rows, an error, or that it is not over yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import errors, pq
from psycopg.rows import RowFactory, tuple_row

from geventpg.connection.prepared import heal_or_raise, is_unusable, note_unusable

from .alone import Take, all_rows, everything, one_row, one_value
from .plan import TUPLES_OK, UNPREPARED, Call, Moved, cursor_with, error_of, no_rows
from .result import Result

if TYPE_CHECKING:
    from .pipe import Pipe
    from .plan import Plan

PGresult = pq.PGresult
SUCCESSES = (TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
READ_ONLY = errors.ReadOnlySqlTransaction.sqlstate


def conclude(pipe: Pipe | None, call: Call, row_factory: RowFactory[Any] | None, take: Take) -> Any:
    """Return what the user asked for, or raise what went wrong.

    Return an instance of `Moved` if the statement is to be executed again.
    """
    answer = call.answer
    if answer.__class__ is Moved:
        return answer
    if answer.__class__ is not PGresult:
        raise answer
    assert pipe is not None
    if answer.status == TUPLES_OK:
        assert call.plan is not None
        return rows_of(pipe, call.plan, answer, row_factory, take)
    if answer.status in SUCCESSES:
        if take is everything:
            rowcount = answer.command_tuples
            status = answer.command_status
            words = None if status is None else status.decode()
            return Result(-1 if rowcount is None else rowcount, words)
        raise no_rows(answer)
    conn = pipe.conn
    error = error_of(answer, conn.pgconn)
    if not was_useless(call, error):
        if error.sqlstate == READ_ONLY:
            conn.observer.write_refused(conn)
        raise error
    note_unusable(conn, error, call.query)
    heal_or_raise(conn, error, possible=True)
    return UNPREPARED


def was_useless(call: Call, error: errors.Error) -> bool:
    """Tell whether only its prepared form was of no use, so that nothing was done."""
    return call.how.uses_prepared and is_unusable(error)


def rows_of(
    pipe: Pipe,
    plan: Plan,
    result: pq.abc.PGresult,
    row_factory: RowFactory[Any] | None,
    take: Take,
) -> Any:
    """Make of a result what the user asked for. A loader of the user's may switch."""
    tx = plan.spare
    if tx is None:
        tx = plan.transformer()
    else:
        plan.spare = None
    tx.set_pgresult(result)
    try:
        if not result.ntuples and take is not everything:
            return [] if take is all_rows else None
        if take is one_value:
            row = tx.load_row(0, tuple)
            return row[0] if row else None
        factory = row_factory or pipe.row_factory
        make_row: Any = tuple
        if factory is not tuple_row:
            make_row = factory(cursor_with(pipe.conn, factory, tx, result))
        if take is one_row:
            return tx.load_row(0, make_row)
        rows = tx.load_rows(0, result.ntuples, make_row)
        if take is everything:
            cur = cursor_with(pipe.conn, factory, tx, result)
            return Result(cur.rowcount, cur.statusmessage, cur.description, rows)
        return rows
    finally:
        tx.set_pgresult(None)
        plan.spare = tx
