"""Cancelling a statement whose caller is gone, or that blocks the statements queued behind it."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg

from geventpg.connection.interruption import cancel_in_background

from .sending import GRACE

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pipe import Pipe

logger = logging.getLogger("geventpg")


def cancel_head(pipe: Pipe) -> None:
    """Cancel the running statement of a pipe that takes no statements any more.

    Its caller is gone, or it delays others and will be executed again on a connection of its own.
    The request is repeated until the statement is over, because it may overtake it. If the request
    hits another statement whose caller waits, that one is executed again as well: see `Pipe`.
    """
    conn = pipe.conn
    head = pipe.sent[0] if pipe.sent else None
    deadline, pause = monotonic() + conn.cancel_timeout, GRACE
    try:
        while not pipe.dead and pipe.sent:
            if pipe.sent[0] is not head:
                if pipe.sent[0].wake is not None:
                    return
                # The caller of the next one is gone, too.
                head, pause = pipe.sent[0], GRACE
                deadline = monotonic() + conn.cancel_timeout
            elif monotonic() >= deadline:
                if head.wake is None:
                    logger.warning(
                        "closing %s: the server did not end an abandoned statement within %g s",
                        conn,
                        conn.cancel_timeout,
                    )
                    _give_up(conn)
                return
            conn.send_cancel(deadline)
            pipe.progress.clear()
            if any(call is head for call in pipe.sent):
                pipe.progress.sleep(pause)
                pause *= 2
    except psycopg.Error as error:
        logger.warning("closing %s: cancelling its statement failed: %s", conn, error)
        _give_up(conn)


def _give_up(conn: Connection[Any]) -> None:
    cancel_in_background(conn)
    conn.discard()
