"""`executemany` whose prepared statement was of no use: once more, where nothing is lost by that.

psycopg runs it as a pipeline with one prepared statement. If that is lost or stale, everything
the pipeline did is undone with it: on its own all of it can be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from psycopg import pq
from psycopg.abc import Params

from .errors import StaleStatement
from .prepared import forget, is_unusable

IDLE = pq.TransactionStatus.IDLE
OK = pq.ConnStatus.OK


def run_many(
    cur: psycopg.Cursor[Any],
    params_seq: Iterable[Params],
    run: Callable[[Iterable[Params]], None],
) -> None:
    """Call *run* with *params_seq*, and once more if a statement was of no use.

    Not if it is part of a transaction or pipeline, which failed with it, nor if the parameters
    can be read only once.
    """
    conn: Any = cur.connection
    if conn._pipeline is not None:
        run(params_seq)
        return
    idle = conn.pgconn.transaction_status == IDLE
    try:
        run(params_seq)
        return
    except psycopg.Error as error:
        pgq = cur._query
        if conn.pgconn.status != OK or pgq is None:
            raise
        # It may or may not have been prepared before it failed.
        name = conn._prepared._names.pop((pgq.query, pgq.types), None)
        if name is not None:
            conn._prepared._to_flush.append(name)
        if not is_unusable(error):
            raise
        forget(conn, error, pgq)
        if not idle:
            raise StaleStatement(f"{error}; the transaction can be run again") from error
        if not isinstance(params_seq, Sequence):
            raise
    if conn.pgconn.transaction_status != IDLE:
        with conn.lock:
            conn.wait(conn._exec_command(b"ROLLBACK"))
    run(params_seq)
