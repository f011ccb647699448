"""What the server says when it ends a session: an error of the connection, and of no statement.

The session may go on for a while after it, on its way out, and answers nothing any more. So
these words are its end, and not the end of the socket that follows.
"""

from __future__ import annotations

import psycopg
from psycopg import pq

BAD = pq.ConnStatus.BAD
SEVERITY_NONLOCALIZED = pq.DiagnosticField.SEVERITY_NONLOCALIZED
SEVERITY = pq.DiagnosticField.SEVERITY

_FATAL = {b"FATAL", b"PANIC"}


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
        # Nobody asked anything: libpq makes a notice of every error.
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
