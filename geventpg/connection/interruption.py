"""After an interruption: no statement left running, and the connection at rest or closed.

An exception thrown into a waiting greenlet stops psycopg in the middle of an exchange. What
it was about to do next is dropped: continuing it could send further statements. Instead the
server is asked to cancel, and everything it still sends is read and thrown away, whatever the
exchange was: a query, COPY in either direction, a pipeline. The request is repeated, because
it may overtake a statement that was still on its way. All that within a deadline, or the
connection is closed, and the cancelling goes on without it.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import Any

from psycopg import capabilities, errors, generators, pq, waiting
from psycopg.abc import PQGen, PQGenConn
from psycopg.waiting import Ready, Wait

from geventpg import hub

from .abc import Link
from .prepared import distrust_all
from .psycopg_internals import pipeline_of

logger = logging.getLogger("geventpg")

ACTIVE = pq.TransactionStatus.ACTIVE
BAD = pq.ConnStatus.BAD
COPY_IN = pq.ExecStatus.COPY_IN
COPY_OUT = pq.ExecStatus.COPY_OUT

# How soon (s) a cancel request is repeated; doubled each time.
_REPEAT = 0.05


def end_statement(conn: Link) -> None:
    """Bring *conn* to rest, or close it, within its ``cancel_timeout``.

    Block this greenlet only. Raise nothing but what is thrown into it meanwhile; then the
    connection is closed and its statement cancelled in the background.
    """
    pgconn = conn.pgconn
    if pgconn.status == BAD:
        conn.watch.stop()
        return
    if pgconn.transaction_status != ACTIVE:
        return  # it only waited, for notifications for example
    conn.observer.cancelling(conn)
    at_rest = False
    try:
        at_rest = _cancel_and_drain(conn, monotonic() + conn.cancel_timeout)
    except errors.Error as error:
        logger.warning("closing %s: cancelling its statement failed: %s", conn, error)
    except hub.DeadlineReached:
        logger.warning(
            "closing %s: the server did not end the interrupted statement within %g s",
            conn,
            conn.cancel_timeout,
        )
    finally:
        # Also when we are interrupted once more, here or below.
        if not at_rest:
            cancel_in_background(conn)
            conn.discard()


def end_statement_blocking(conn: Any, timeout: float = 5.0) -> None:
    """Do `end_statement` for a connection that does not wait on the hub. Block the thread."""
    pgconn = conn.pgconn
    if pgconn.transaction_status != ACTIVE:
        return
    try:
        conn.cancel_safe(timeout=timeout)
        waiting.wait(_drain_gen(pgconn), pgconn.socket, interval=0.1, timeout=timeout)
        _clear_pipeline(conn)
    except errors.Error as error:
        logger.warning("closing %s: cancelling its statement failed: %s", conn, error)
    finally:
        if pgconn.transaction_status == ACTIVE:
            pgconn.finish()


def cancel_quietly(conn: Link, timeout: float) -> None:
    """Cancel what runs on *conn*, within *timeout* seconds; log a failure."""
    try:
        conn.send_cancel(monotonic() + timeout)
    except errors.Error as error:
        logger.warning("cancelling the statement on %s failed: %s", conn, error)


def cancel_in_background(conn: Link) -> None:
    """Send a cancel request that outlives *conn*. Does not block or raise."""
    if not capabilities.has_cancel_safe() or conn.pgconn.status == BAD:
        return
    try:
        # It has its own copy of the address and key: the connection can go meanwhile.
        cancel_conn = conn.pgconn.cancel_conn()
        cancel_conn.start()
    except errors.Error as error:
        logger.warning("cancelling an interrupted statement failed: %s", error)
    else:
        gen = generators.cancel(cancel_conn)
        hub.spawn(_finish_cancel, gen, monotonic() + conn.cancel_timeout)


def _finish_cancel(gen: PQGenConn[None], deadline: float) -> None:
    try:
        hub.drive_connecting(gen, deadline)
    except (errors.Error, hub.DeadlineReached) as error:
        logger.warning("cancelling an interrupted statement failed: %s", error)


def _cancel_and_drain(conn: Link, deadline: float) -> bool:
    pause = _REPEAT
    drain = _drain_gen(conn.pgconn)
    while True:
        now = monotonic()
        conn.send_cancel(deadline)
        try:
            conn.watch.drive_until(drain, min(deadline, now + pause))
            break
        except hub.DeadlineReached:
            if monotonic() >= deadline:
                raise
            pause *= 2
    pgconn = conn.pgconn
    _clear_pipeline(conn)
    return pgconn.status != BAD and pgconn.transaction_status != ACTIVE


def _clear_pipeline(conn: Any) -> None:
    """Expect no answers that were thrown away; leave pipeline mode unless it is the user's."""
    if not conn.pgconn.pipeline_status:
        return
    pipeline = pipeline_of(conn)
    if pipeline is None:
        conn.pgconn.exit_pipeline_mode()
    else:
        pipeline.command_queue.clear()
        pipeline.result_queue.clear()
    distrust_all(conn)  # it is not known which statements were prepared before the cut


def _drain_gen(pgconn: pq.abc.PGconn) -> PQGen[None]:
    """Finish sending, then read to the end of whatever is going on."""
    if pgconn.pipeline_status:
        pgconn.pipeline_sync()  # a certain end, after which the server listens again
    ends = 0
    while pgconn.transaction_status == ACTIVE:
        while pgconn.flush() != 0:
            ready = yield Wait.RW
            if ready and ready & Ready.R:
                pgconn.consume_input()
        if pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
            continue
        result = pgconn.get_result()
        if result is None:
            # The end of one command, with another behind it in a pipeline. Two in a row
            # should not be, but must not make this a busy loop.
            ends += 1
            if ends > 1:
                yield Wait.R
                pgconn.consume_input()
            continue
        ends = 0
        if result.status == COPY_IN:
            pgconn.put_copy_end(b"interrupted")
        elif result.status == COPY_OUT:
            yield from _drain_copy_gen(pgconn)


def _drain_copy_gen(pgconn: pq.abc.PGconn) -> PQGen[None]:
    while (nbytes := pgconn.get_copy_data(1)[0]) >= 0:
        if nbytes == 0:
            yield Wait.R
            pgconn.consume_input()
